"""check_bijector: NumPyro's transforms that are right pass, planted bugs and NumPyro's own are named."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from numpyro.distributions import transforms as tr
from numpyro.distributions.transforms import biject_to
from scipy.linalg import helmert

from uqsparse.inference.checks.bijectors import check_bijector
from uqsparse.inference.checks.free_coordinates import chart_of

KEY = jax.random.key(0)


class _Shifted(tr.ParameterFreeTransform):
    """y = 2 x + 1 on vectors, written out so that each piece can be spoilt."""

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __call__(self, x):
        return 2 * x + 1

    def _inverse(self, y):
        return (y - 1) / 2

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return jnp.full(jnp.shape(x)[:-1], x.shape[-1] * np.log(2))


class _WrongSign(_Shifted):
    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return -super().log_abs_det_jacobian(x, y)


class _OneEntryOnly(_Shifted):
    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return jnp.full(jnp.shape(x)[:-1], np.log(2))


class _NotSummed(_Shifted):
    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return jnp.full(jnp.shape(x), np.log(2))


class _WrongInverse(_Shifted):
    def _inverse(self, y):
        return y / 2 - 1


class _WrongShape(_Shifted):
    def forward_shape(self, shape):
        return (*shape[:-1], shape[-1] + 1)


class _MixesTheBatch(_Shifted):
    def __call__(self, x):
        return 2 * x + 1 + (jnp.mean(x) if x.ndim > 1 else 0.0)


class _OutOfItsImage(_Shifted):
    codomain = constraints.simplex


class _WrongIntermediates(_Shifted):
    def call_with_intermediates(self, x):
        return self(x), 0.5

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        right = super().log_abs_det_jacobian(x, y)
        return right if intermediates is None else right * intermediates


class _Scalar(tr.ParameterFreeTransform):
    """y = exp(x), with pieces to spoil."""

    domain = constraints.real
    codomain = constraints.positive
    sign = 1

    def __call__(self, x):
        return jnp.exp(x)

    def _inverse(self, y):
        return jnp.log(y)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return x


class _Steep(_Scalar):
    """log1p(exp(x)) without care: its derivatives are NaN far out."""

    def __call__(self, x):
        return jnp.where(x > 20, x, jnp.log1p(jnp.exp(x * 30)) / 30)

    def _inverse(self, y):
        return jnp.log(jnp.expm1(30 * y)) / 30

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return -jnp.log1p(jnp.exp(-30 * x))


class _WrongBound(_Scalar):
    codomain = constraints.greater_than(-1.0)


class _DeclaredFalling(_Scalar):
    sign = -1


class _BlindGradient(_Scalar):
    """The right number, with a gradient in y that is cut off: only the transformed density sees it."""

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return jax.lax.stop_gradient(x)


RIGHT = {
    "shifted": _Shifted(),
    "sigmoid": tr.SigmoidTransform(),
    "softplus": tr.SoftplusTransform(),
    "falling": biject_to(constraints.less_than(3.0)),
    "affine, two parameters": tr.AffineTransform(np.array([1.0, 2.0], np.float32), np.array([-0.3, 0.5], np.float32)),
    "simplex": biject_to(constraints.simplex),
    "sum zero": tr.ZeroSumTransform(1),
    "inverse": tr.ExpTransform().inv,
    "ordered without anchor": tr.SimplexToOrderedTransform(0.0),
    "Fourier": tr.RealFastFourierTransform(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_transforms_pass(name):
    verdict = check_bijector(RIGHT[name], key=KEY, n=64)
    assert verdict.ok, str(verdict)
    assert verdict.evidence < 1e-9
    assert "free coordinates" in verdict.notes[0]


WRONG = {
    "sign": (_WrongSign(), "log_abs_det_jacobian at x"),
    "one entry only": (_OneEntryOnly(), "log_abs_det_jacobian at x"),
    "not summed": (_NotSummed(), "the shape of log_abs_det_jacobian"),
    "inverse": (_WrongInverse(), "T^-1(T(x))"),
    "forward_shape": (_WrongShape(), "forward_shape"),
    "batch": (_MixesTheBatch(), "T of a batch"),
    "image": (_OutOfItsImage(), "the number of free coordinates"),
    "intermediates": (_WrongIntermediates(), "log_abs_det_jacobian with intermediates"),
    "far out": (_Steep(), "log_abs_det_jacobian at x = -30"),
    "bound": (_WrongBound(), "as x tends to minus infinity"),
    "declared sign": (_DeclaredFalling(), "sign"),
    "gradient cut": (_BlindGradient(), "Stein"),
    "not bijective": (tr.AbsTransform(), "T for x of shape"),
    # NumPyro 0.22: the log determinant is taken at y, not at y minus the anchor.
    "anchor": (tr.SimplexToOrderedTransform(0.7), "log_abs_det_jacobian at x"),
    # NumPyro 0.22: a log determinant of complex type, of which no gradient can be taken.
    "complex": (tr.ComplexTransform(), "the type of log_abs_det_jacobian"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_transforms_are_named(name):
    transform, says = WRONG[name]
    verdict = check_bijector(transform, key=KEY, n=64)
    assert not verdict.ok
    assert says in verdict.counterexample.where, str(verdict)


def test_the_anchor_bug_of_numpyro_is_one():
    """By its own densities: moving the anchor by one moves the density by one, unchanged in height."""
    y = tr.SimplexToOrderedTransform(0.0)(jnp.array([0.3, 0.1, 0.4, 0.2]))
    law = [
        dist.TransformedDistribution(dist.Dirichlet(jnp.ones(4)), tr.SimplexToOrderedTransform(a)) for a in (0.0, 1.0)
    ]
    assert abs(float(law[1].log_prob(y + 1) - law[0].log_prob(y))) > 0.5


@pytest.mark.slow
def test_correlations_far_out():
    """NumPyro's log determinant of a Cholesky factor of correlations is minus infinity where a row has saturated."""
    verdict = check_bijector(biject_to(constraints.corr_cholesky), key=KEY, shape=(6,), n=64)
    assert "log_abs_det_jacobian at x = [30." in verdict.counterexample.where
    assert verdict.counterexample.obtained == "-inf"


@pytest.mark.parametrize(
    ("constraint", "shape", "n_free"),
    [
        (constraints.simplex, (4,), 3),
        (constraints.corr_cholesky, (3, 3), 3),
        (constraints.corr_matrix, (3, 3), 3),
        (constraints.lower_cholesky, (3, 3), 6),
        (constraints.positive_definite, (3, 3), 6),
        (constraints.zero_sum(2), (3, 4), 6),
        (constraints.complex, (2,), 4),
        (constraints.cat([constraints.positive, constraints.real], dim=-1, lengths=[1, 2]), (3,), 3),
        (constraints.independent(constraints.unit_interval, 1), (5,), 5),
    ],
    ids=lambda value: type(value).__name__.strip("_") if isinstance(value, constraints.Constraint) else None,
)
def test_charts_go_there_and_back(constraint, shape, n_free):
    with jax.enable_x64(True):
        to = biject_to(constraint)
        u = jax.random.normal(KEY, (3, *to.inverse_shape(shape)))
        values = np.asarray(jax.vmap(lambda u: to(u))(u))
        chart = chart_of(constraint, values)
        free = chart.to_free(jnp.asarray(values[1]))
        assert free.shape == (n_free,)
        np.testing.assert_allclose(chart.from_free(free), values[1], atol=1e-12)


def test_the_basis_of_zero_sums_is_orthonormal():
    values = np.random.default_rng(0).normal(size=(2, 5))
    values -= values.mean(axis=1, keepdims=True)
    free = np.asarray(chart_of(constraints.zero_sum(1), values).to_free(jnp.asarray(values[0])))
    np.testing.assert_allclose(np.abs(free), np.abs(helmert(5) @ values[0]), atol=1e-6)
    np.testing.assert_allclose((free**2).sum(), (values[0] ** 2).sum(), rtol=1e-5)


def test_free_coordinates_by_the_user():
    """Fourier coefficients in two dimensions: their symmetries are not worked out here."""
    transform = tr.RealFastFourierTransform(transform_ndims=2)

    def free(y):
        """Of 3 x 2 coefficients in columns 0 and 1 (of 3 x 3 real numbers) those that conjugation leaves free."""
        return jnp.concatenate([jnp.real(y[:2, 0]), jnp.imag(y[1:2, 0]), jnp.real(y[:, 1]), jnp.imag(y[:, 1])])

    options = {"key": KEY, "shape": (3, 3), "n": 16, "free_coordinates": free}
    assert chart_of(constraints.sphere, np.ones((2, 3))) is None
    verdict = check_bijector(tr.RealFastFourierTransform((3, 3), transform_ndims=2), **options)
    assert "those given" in verdict.notes[0]
    assert "the number of free" not in str(verdict)
    # Without the size in the transform, its inverse takes the last axis to be even.
    assert "T^-1(T(x))" in check_bijector(transform, **options).counterexample.where


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="transform must be a NumPyro transform"):
        check_bijector(jnp.exp, key=KEY)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="n must be an integer"):
        check_bijector(tr.ExpTransform(), key=KEY, n=5)
    with pytest.raises(ValueError, match="tolerance"):
        check_bijector(tr.ExpTransform(), key=KEY, tolerance=2.0)
    with pytest.raises(ValueError, match="shape must be given"):
        check_bijector(tr.LowerCholeskyAffine(jnp.zeros(12), jnp.eye(12)), key=KEY)
