"""The normal-inverse-Wishart distribution of a mean and a covariance, as a NumPyro distribution.

A value of it is one array of shape (..., d, 1 + d): the mean is the first column and the covariance the others.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import digamma, multigammaln
from jaxtyping import Array, ArrayLike, Float
from numpyro.distributions import constraints, transforms
from numpyro.distributions.kl import kl_divergence

from uqsparse.kernels.namespaces import is_traced


class MeanCovariance(NamedTuple):
    """The two parts of a value.

    Args:
        mean: shape (..., d).
        covariance: symmetric and positive definite, shape (..., d, d).
    """

    mean: Float[Array, "*batch d"]
    covariance: Float[Array, "*batch d d"]


def join_mean_covariance(
    mean: Float[ArrayLike, "*batch d"], covariance: Float[ArrayLike, "*batch d d"]
) -> Float[Array, "*batch d d_plus_1"]:
    """Put a mean and a covariance into one array, a value of `NormalInverseWishart`.

    >>> join_mean_covariance(jnp.zeros(2), jnp.eye(2)).shape
    (2, 3)
    """
    return jnp.concatenate([jnp.asarray(mean)[..., None], jnp.asarray(covariance)], axis=-1)


def split_mean_covariance(value: Float[ArrayLike, "*batch d d_plus_1"]) -> MeanCovariance:
    """Take a value of `NormalInverseWishart` apart.

    >>> split_mean_covariance(jnp.ones((2, 3))).covariance.shape
    (2, 2)
    """
    value = jnp.asarray(value)
    return MeanCovariance(value[..., 0], value[..., 1:])


class _MeanCovarianceConstraint(constraints.ParameterFreeConstraint):
    """Arrays whose columns but the first are a covariance."""

    event_dim = 2

    def __call__(self, x: Any) -> Any:
        mean, covariance = split_mean_covariance(x)
        return jnp.logical_and(constraints.real_vector(mean), constraints.positive_definite(covariance))

    def feasible_like(self, prototype: Any) -> Any:
        d = jnp.shape(prototype)[-2]
        value = join_mean_covariance(jnp.zeros(d), jnp.eye(d))
        return jnp.broadcast_to(value, jnp.shape(prototype)).astype(jnp.result_type(prototype, float))


mean_covariance = _MeanCovarianceConstraint()


class _MeanCovarianceTransform(transforms.ParameterFreeTransform):
    """From d + d (d + 1) / 2 free numbers: the mean, then the Cholesky factor with the logarithm of its diagonal."""

    domain = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    codomain = mean_covariance  # pyright: ignore[reportAssignmentType]

    def __call__(self, x: Any) -> Any:
        d = _dimension(x.shape[-1])
        return join_mean_covariance(x[..., :d], _to_covariance(x[..., d:]))

    def _inverse(self, y: Any) -> Any:
        mean, covariance = split_mean_covariance(y)
        return jnp.concatenate([mean, _to_covariance.inv(covariance)], axis=-1)

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Any:
        d = _dimension(x.shape[-1])
        _, parts = _to_covariance.call_with_intermediates(x[..., d:])
        return _to_covariance.log_abs_det_jacobian(x[..., d:], split_mean_covariance(y).covariance, parts)

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        d = _dimension(shape[-1])
        return (*shape[:-1], d, d + 1)

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        d = shape[-2]
        return (*shape[:-2], d + d * (d + 1) // 2)


_to_covariance: Any = transforms.ComposeTransform(
    [transforms.LowerCholeskyTransform(), transforms.CholeskyTransform().inv]
)


def _dimension(size: int) -> int:
    """d, where d + d (d + 1) / 2 is the size."""
    d = round((math.sqrt(9 + 8 * size) - 3) / 2)
    if d * (d + 3) // 2 != size:
        raise ValueError(f"no mean and covariance have {size} free numbers")
    return d


@transforms.biject_to.register(_MeanCovarianceConstraint)
def _free(constraint: Any) -> Any:
    return _MeanCovarianceTransform()


class NormalInverseWishart(dist.Distribution):
    """A covariance `Sigma ~ InverseWishart(V, n)` and a mean `mu | Sigma ~ Normal(m, Sigma / l)`.

    The inverse Wishart's density is proportional to `|Sigma|^(-(n + d + 1) / 2) exp(-tr(V Sigma^-1) / 2)`, so that
    `E[Sigma^-1] = n V^-1`. A value is one array of shape (d, 1 + d): see `join_mean_covariance` and
    `split_mean_covariance`. Densities are with respect to the mean and the lower triangle of the covariance. It may
    stand in any NumPyro model, and NUTS samples it. `kl_divergence` between two of them is in closed form.

    Args:
        mean: m, shape (..., d).
        mean_strength: l, the observations that the mean counts for, positive; infinite where the mean is m exactly.
        scale: V, symmetric and positive definite, shape (..., d, d).
        degrees_of_freedom: n, larger than d - 1.

    Raises:
        ValueError: shapes do not fit; an argument that is not traced is out of range or not finite, or `scale` is not
            positive definite.

    Source: Gelman, Carlin, Stern, Dunson, Vehtari & Rubin (2013), Bayesian data analysis, section 3.6; as the belief
    about networks' weights: Kim & Hospedales (2023), A hierarchical Bayesian model for deep few-shot meta learning.

    >>> belief = NormalInverseWishart(jnp.zeros(2), 1.0, jnp.eye(2), 5.0)
    >>> belief.event_shape, round(float(belief.mode.covariance[0, 0]), 4)
    ((2, 3), 0.1111)
    """

    arg_constraints = {  # noqa: RUF012 - as NumPyro reads it
        "loc": constraints.real_vector,
        "mean_strength": constraints.positive,
        "scale_tril": constraints.lower_cholesky,
        "degrees_of_freedom": constraints.positive,
    }
    support = mean_covariance  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("loc", "mean_strength", "scale_tril", "degrees_of_freedom")

    def __init__(
        self,
        mean: Float[ArrayLike, "*batch d"],
        mean_strength: Float[ArrayLike, "*batch"],
        scale: Float[ArrayLike, "*batch d d"],
        degrees_of_freedom: Float[ArrayLike, "*batch"],
        *,
        validate_args: bool | None = None,
    ):
        _require_in_range(mean, mean_strength, scale, degrees_of_freedom)
        mean, scale = jnp.asarray(mean, float), jnp.asarray(scale, float)
        d = mean.shape[-1]
        batch = jnp.broadcast_shapes(
            mean.shape[:-1], jnp.shape(mean_strength), scale.shape[:-2], jnp.shape(degrees_of_freedom)
        )
        self.loc = jnp.broadcast_to(mean, (*batch, d))
        self.mean_strength = jnp.broadcast_to(jnp.asarray(mean_strength, float), batch)
        self.scale_tril = jnp.broadcast_to(jnp.linalg.cholesky(scale), (*batch, d, d))
        self.degrees_of_freedom = jnp.broadcast_to(jnp.asarray(degrees_of_freedom, float), batch)
        super().__init__(batch_shape=batch, event_shape=(d, d + 1), validate_args=validate_args)

    @property
    def scale(self) -> Float[Array, "*batch d d"]:
        """V."""
        return self.scale_tril @ self.scale_tril.mT

    @property
    def mode(self) -> MeanCovariance:
        """The value of largest density: m and `V / (n + d + 2)`; `V / (n + d + 1)` where l is infinite."""
        d = self.event_shape[0]
        freedom = self.degrees_of_freedom + d + jnp.where(jnp.isinf(self.mean_strength), 1.0, 2.0)
        return MeanCovariance(self.loc, self.scale / freedom[..., None, None])

    @property
    def expected_precision(self) -> Float[Array, "*batch d d"]:
        """`E[Sigma^-1] = n V^-1`."""
        half = _solve(self.scale_tril, jnp.eye(self.event_shape[0]))
        return self.degrees_of_freedom[..., None, None] * (half.mT @ half)

    @property
    def predictive(self) -> Any:
        """The distribution of a new draw from `Normal(mu, Sigma)`: a multivariate Student distribution.

        It has n - d + 1 degrees of freedom and the scale matrix `V (1 + 1 / l) / (n - d + 1)`.
        """
        freedom = self.degrees_of_freedom - self.event_shape[0] + 1
        spread = jnp.sqrt((1 + 1 / self.mean_strength) / freedom)
        return dist.MultivariateStudentT(freedom, self.loc, spread[..., None, None] * self.scale_tril)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Float[Array, "... d d_plus_1"]:
        """Draw values, by Bartlett's decomposition of the precision."""
        d = self.event_shape[0]
        shape = (*sample_shape, *self.batch_shape)
        key_diagonal, key_lower, key_mean = jax.random.split(key, 3)
        freedom = self.degrees_of_freedom[..., None] - jnp.arange(d)
        diagonal = jnp.sqrt(2 * jax.random.gamma(key_diagonal, jnp.broadcast_to(freedom / 2, (*shape, d))))
        lower = jnp.tril(jax.random.normal(key_lower, (*shape, d, d)), -1)
        bartlett = lower + diagonal[..., None] * jnp.eye(d)
        # With V = L L' and a Wishart draw B B' of identity scale, L (B B')^-1 L' is the covariance.
        factor = self.scale_tril @ _solve(bartlett, jnp.eye(d)).mT
        noise = jax.random.normal(key_mean, (*shape, d))
        step = (factor @ noise[..., None])[..., 0] / jnp.sqrt(self.mean_strength)[..., None]
        return join_mean_covariance(self.loc + step, factor @ factor.mT)

    def log_prob(self, value: Float[ArrayLike, "*batch d d_plus_1"]) -> Float[Array, "*batch"]:
        """Log density with respect to the mean and the lower triangle of the covariance; minus infinity outside.

        It is not defined where l is infinite: the mean then has no density.
        """
        d = self.event_shape[0]
        mean, covariance = split_mean_covariance(value)
        factor = jnp.linalg.cholesky(covariance)
        log_det = 2 * jnp.log(_diagonal(factor)).sum(-1)
        log_det_scale = 2 * jnp.log(_diagonal(self.scale_tril)).sum(-1)
        n, strength = self.degrees_of_freedom, self.mean_strength
        away = _solve(factor, (mean - self.loc)[..., None])[..., 0]
        trace = (_solve(factor, jnp.broadcast_to(self.scale_tril, (*log_det.shape, d, d))) ** 2).sum((-1, -2))
        wishart = (n * (log_det_scale - d * math.log(2)) - (n + d + 1) * log_det - trace) / 2
        normal = (d * (jnp.log(strength) - math.log(2 * math.pi)) - log_det - strength * (away**2).sum(-1)) / 2
        found = wishart - multigammaln(n / 2, d) + normal
        return jnp.where(jnp.isnan(log_det), -jnp.inf, found)

    def expected_kl_to_normal(
        self, mean: Float[ArrayLike, "*batch d"], covariance: Float[ArrayLike, "*batch d d"]
    ) -> Float[Array, "*batch"]:
        """`E KL(Normal(mean, covariance) || Normal(mu, Sigma))` over this distribution of mu and Sigma.

        It is the divergence from `Normal(m, V / n)` plus `excess_divergence`, which depends on neither argument.

        Args:
            mean: shape (..., d).
            covariance: positive definite, shape (..., d, d).

        Source: Kim & Hospedales (2023), section 3.2.
        """
        d = self.event_shape[0]
        root = jnp.sqrt(self.degrees_of_freedom)[..., None, None]
        factor = jnp.linalg.cholesky(jnp.asarray(covariance, float))
        prior = self.scale_tril / root
        away = _solve(prior, (jnp.asarray(mean, float) - self.loc)[..., None])[..., 0]
        batch = jnp.broadcast_shapes(prior.shape[:-2], factor.shape[:-2])
        ratio = _solve(prior, jnp.broadcast_to(factor, (*batch, d, d)))
        logs = jnp.log(_diagonal(prior)).sum(-1) - jnp.log(_diagonal(factor)).sum(-1)
        divergence = ((ratio**2).sum((-1, -2)) + (away**2).sum(-1) - d) / 2 + logs
        return divergence + excess_divergence(d, self.degrees_of_freedom, self.mean_strength)


def excess_divergence(
    d: int, degrees_of_freedom: Float[ArrayLike, "*batch"], mean_strength: Float[ArrayLike, "*batch"]
) -> Float[Array, "*batch"]:
    """What `expected_kl_to_normal` exceeds the divergence from `Normal(m, V / n)` by: the price of not knowing it.

    It is `(d log(n / 2) - psi_d(n / 2) + d / l) / 2`, positive, with the multivariate digamma function psi_d, and falls
    to 0 as n and l grow. For a given `V / n` a bound on the evidence of many tasks depends on n only through it: such a
    bound alone does not say how large n is, and always asks for more.

    Args:
        d: dimension.
        degrees_of_freedom: n, larger than d - 1.
        mean_strength: l, positive.

    >>> [round(float(excess_divergence(3, n, jnp.inf)), 3) for n in (5.0, 50.0, 500.0)]
    [0.793, 0.061, 0.006]
    """
    half = jnp.asarray(degrees_of_freedom, float) / 2
    # The digamma functions are subtracted one by one: their sum is large, and so is d log(n / 2).
    parts = jnp.log(half)[..., None] - digamma(half[..., None] - jnp.arange(d) / 2)
    return (parts.sum(-1) + d / jnp.asarray(mean_strength, float)) / 2


@kl_divergence.register(NormalInverseWishart, NormalInverseWishart)
def _divergence(p: Any, q: Any) -> Any:
    """KL(p || q), in closed form: that of the means given the covariance, and that of the Wishart precisions."""
    d = p.event_shape[0]
    n_p, n_q, l_p, l_q = p.degrees_of_freedom, q.degrees_of_freedom, p.mean_strength, q.mean_strength
    away = _solve(p.scale_tril, (p.loc - q.loc)[..., None])[..., 0]
    ratio = l_q / l_p
    means = (d * (ratio - 1 - jnp.log(ratio)) + l_q * n_p * (away**2).sum(-1)) / 2
    batch = jnp.broadcast_shapes(p.batch_shape, q.batch_shape)
    trace = (_solve(p.scale_tril, jnp.broadcast_to(q.scale_tril, (*batch, d, d))) ** 2).sum((-1, -2))
    logs = 2 * (jnp.log(_diagonal(p.scale_tril)) - jnp.log(_diagonal(q.scale_tril))).sum(-1)
    psi = digamma(n_p[..., None] / 2 - jnp.arange(d) / 2).sum(-1)
    gammas = multigammaln(n_q / 2, d) - multigammaln(n_p / 2, d)
    return means + (n_q * logs + n_p * (trace - d) + (n_p - n_q) * psi) / 2 + gammas


def _solve(lower: Any, right: Any) -> Any:
    batch = jnp.broadcast_shapes(lower.shape[:-2], right.shape[:-2])
    lower = jnp.broadcast_to(lower, (*batch, *lower.shape[-2:]))
    return solve_triangular(lower, jnp.broadcast_to(right, (*batch, *right.shape[-2:])), lower=True)


def _diagonal(matrix: Any) -> Any:
    return jnp.diagonal(matrix, axis1=-2, axis2=-1)


def _require_in_range(mean: Any, mean_strength: Any, scale: Any, degrees_of_freedom: Any) -> None:
    """In NumPy: inside `jit` what JAX computes from known numbers is traced too."""
    shape = np.shape(mean)
    if len(shape) < 1 or np.ndim(scale) < 2 or np.shape(scale)[-2:] != (shape[-1],) * 2:
        raise ValueError(f"mean must have shape (..., d) and scale (..., d, d), got {shape} and {np.shape(scale)}")
    d = shape[-1]
    if not is_traced(mean) and not np.isfinite(np.asarray(mean)).all():
        raise ValueError("mean must be finite, got NaN or infinite values")
    if not is_traced(mean_strength) and not (np.asarray(mean_strength) > 0).all():
        raise ValueError(f"mean_strength must be positive, got {mean_strength}")
    if not is_traced(degrees_of_freedom):
        freedom = np.asarray(degrees_of_freedom)
        if not (np.isfinite(freedom) & (freedom > d - 1)).all():
            raise ValueError(f"degrees_of_freedom must be finite and larger than d - 1 = {d - 1}, got {freedom}")
    if not is_traced(scale) and not _is_covariance(np.asarray(scale, np.float64)):
        raise ValueError("scale must be finite, symmetric and positive definite")


def _is_covariance(matrix: np.ndarray) -> bool:
    if not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.mT, rtol=1e-5, atol=1e-6 * abs(matrix).max()):
        return False
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True
