"""Kronecker-structured sparse Bayesian learning: monotone, calibrated, and particular about its input."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from uqsparse.kernels.kronecker import KroneckerOperator
from uqsparse.models.kronecker_sbl import KroneckerSBL

# Each sampling test below has a false-alarm rate of at most this.
FALSE_ALARM = 1e-4


@pytest.fixture(scope="module")
def instance():
    """The specification's: 8 columns a mode, (4, 6, 8) rows, 2 nonzeros a mode, 20 dB."""
    rng = np.random.default_rng(6)
    factors = [rng.normal(size=(m, 8)) for m in (4, 6, 8)]
    support = [np.sort(rng.choice(8, 2, replace=False)) for _ in factors]
    x = np.zeros((8, 8, 8))
    x[np.ix_(*support)] = rng.normal(size=(2, 2, 2))
    clean = functools.reduce(np.kron, factors) @ x.ravel()
    noise = np.mean(clean**2) / 100
    return clean + np.sqrt(noise) * rng.normal(size=clean.size), factors, noise, x.ravel()


def quiet(model, *data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return model.fit(*data)


def largest_rise(result):
    return (np.diff(result.cost_trace) / np.maximum(abs(result.cost_trace[:-1]), 1)).max()


@pytest.mark.parametrize("update", ["am", "sweep", "mm"])
@pytest.mark.parametrize("learn", [False, True])
def test_the_evidence_never_falls_without_pruning(instance, update, learn):
    y, factors, noise, _ = instance
    model = KroneckerSBL(update=update, max_iter=200, tolerance=1e-15, inner_tolerance=1e-10)
    result = quiet(model, y, factors, None if learn else noise)
    assert result.n_iter == 200
    assert not result.converged
    assert len(result.cost_trace) == 201
    assert largest_rise(result) <= 1e-8
    assert result.is_monotone


def test_the_svd_update_does_raise_the_cost_of_this_instance(instance):
    y, factors, noise, _ = instance
    result = quiet(KroneckerSBL(update="svd", max_iter=200), y, factors, noise)
    assert np.diff(result.cost_trace).max() > 10
    assert not result.is_monotone
    assert result.largest_rise == pytest.approx(largest_rise(result))


def test_the_bound_reaches_an_evidence_that_em_is_still_on_its_way_to(instance):
    y, factors, noise, _ = instance
    bound = KroneckerSBL(update="mm").fit(y, factors, noise)
    assert bound.converged
    assert bound.log_evidence > quiet(KroneckerSBL(update="am", max_iter=200), y, factors, noise).log_evidence + 10


@pytest.mark.parametrize("update", ["am", "sweep", "svd", "mm"])
def test_the_nonzeros_are_recovered(instance, update):
    y, factors, noise, x = instance
    result = quiet(KroneckerSBL(update=update, prune=True), y, factors, noise)
    assert result.support(0.01).tolist() == np.flatnonzero(x).tolist()
    assert np.sum((result.mean - x) ** 2) < 1e-3 * np.sum(x**2)
    pruned = functools.reduce(np.kron, result.gammas) == 0
    assert pruned.any()
    assert not result.mean[pruned].any()
    assert not result.variance[pruned].any()


def test_a_coupling_of_strength_zero_is_alternating_minimisation(instance):
    y, factors, noise, _ = instance
    options = {"update": "am", "max_iter": 60, "max_cycles": 10, "floor": 0.0}
    plain = quiet(KroneckerSBL(**options), y, factors, noise)
    coupled = quiet(KroneckerSBL(**options, block={0: 0.0, 2: 0.0}), y, factors, noise)
    np.testing.assert_allclose(coupled.mean, plain.mean, atol=1e-6)
    np.testing.assert_allclose(coupled.cost_trace, plain.cost_trace, rtol=1e-6)


@pytest.mark.parametrize("update", ["am", "mm"])
def test_the_noise_is_learned(instance, update):
    y, factors, noise, _ = instance
    result = quiet(KroneckerSBL(update=update, prune=1e-4), y, factors)
    assert 0.8 < result.noise_variance / noise < 1.2


@pytest.mark.parametrize("complex_valued", [False, True])
def test_evidence_mean_and_variance_are_those_of_the_gaussian_model(complex_valued):
    rng = np.random.default_rng(1)
    factors = [rng.normal(size=shape) + complex_valued * 1j * rng.normal(size=shape) for shape in ((3, 4), (5, 4))]
    factors = [factor if complex_valued else factor.real for factor in factors]
    y = factors[0][:, 0].repeat(5) + 0.1 * rng.normal(size=15)
    result = quiet(KroneckerSBL(max_iter=5), y, factors, 0.02)
    H, gamma = np.kron(*factors), np.kron(*result.gammas)
    C = 0.02 * np.eye(15) + (H * gamma) @ H.conj().T
    if complex_valued:
        # the real and imaginary parts of a circular Gaussian are jointly Gaussian
        stacked = np.block([[C.real, -C.imag], [C.imag, C.real]]) / 2
        expected = scipy.stats.multivariate_normal.logpdf(np.concatenate([y.real, y.imag]), cov=stacked)
    else:
        expected = scipy.stats.multivariate_normal.logpdf(y, cov=C)
    assert result.log_evidence == pytest.approx(expected, rel=1e-9)
    gain = np.linalg.solve(C, H * gamma).conj().T
    np.testing.assert_allclose(result.mean, gain @ y, atol=1e-10)
    np.testing.assert_allclose(result.variance, (np.diag(gamma) - gain @ (H * gamma)).diagonal().real, atol=1e-10)


@pytest.mark.parametrize("complex_valued", [False, True])
def test_draws_come_from_the_posterior(complex_valued):
    rng = np.random.default_rng(2)
    factors = [rng.normal(size=(2, 3)), rng.normal(size=(3, 3)) + complex_valued * 1j * rng.normal(size=(3, 3))]
    factors = [factor if complex_valued else factor.real for factor in factors]
    result = quiet(KroneckerSBL(max_iter=2), rng.normal(size=6), factors, 0.1)
    n = 4000
    draws = result.sample(jax.random.key(0), n)
    assert draws.shape == (n, 9)
    np.testing.assert_array_equal(draws, result.sample(jax.random.key(0), n))
    H, gamma = np.kron(*factors), np.kron(*result.gammas)
    covariance = np.linalg.inv(H.conj().T @ H / 0.1 + np.diag(1 / gamma))
    if complex_valued:
        half = np.block([[covariance.real, -covariance.imag], [covariance.imag, covariance.real]]) / 2
        mean, flat = np.concatenate([result.mean.real, result.mean.imag]), np.concatenate([draws.real, draws.imag], 1)
    else:
        half, mean, flat = covariance, result.mean, draws
    white = np.linalg.solve(np.linalg.cholesky(half), (flat - mean).T)
    d = len(mean)
    # mean: n |average|^2 is chi-squared with d degrees of freedom; covariance: so are the sums of squares, and
    # n times a squared correlation nearly has one; a union bound over all of them
    checks = 1 + d + d * (d - 1) // 2
    tail = FALSE_ALARM / checks
    assert n * np.sum(white.mean(axis=1) ** 2) < scipy.stats.chi2.isf(tail, d)
    sums = np.sum(white**2, axis=1)
    assert (sums > scipy.stats.chi2.ppf(tail / 2, n)).all()
    assert (sums < scipy.stats.chi2.isf(tail / 2, n)).all()
    correlations = (white @ white.T / n)[np.triu_indices(d, 1)]
    assert (abs(correlations) < scipy.stats.norm.isf(tail / 4) / np.sqrt(n)).all()


def test_units_do_not_matter(instance):
    y, factors, noise, _ = instance
    for update, block in (("am", None), ("svd", None), ("mm", None), ("am", {0: 0.5})):
        model = KroneckerSBL(update=update, block=block, max_iter=10)
        once, scaled = quiet(model, y, factors, noise), quiet(model, 1000 * y, factors, 1e6 * noise)
        np.testing.assert_allclose(scaled.mean, 1000 * once.mean, rtol=1e-7, atol=1e-9)


def test_the_order_of_modes_does_not_matter(instance):
    y, factors, noise, _ = instance
    model = KroneckerSBL(max_iter=10, inner_tolerance=1e-12, max_cycles=500)
    once = quiet(model, y, factors, noise)
    turned = quiet(model, y.reshape(4, 6, 8).transpose(2, 0, 1).ravel(), [factors[i] for i in (2, 0, 1)], noise)
    np.testing.assert_allclose(
        turned.mean.reshape(turned.shape), once.mean.reshape(once.shape).transpose(2, 0, 1), atol=1e-8
    )


def test_complex_data_with_real_factors_and_real_data_as_complex(instance):
    y, factors, noise, _ = instance
    model = KroneckerSBL(max_iter=5)
    rotated = quiet(model, 1j * y, factors, noise)
    as_complex = quiet(KroneckerSBL(max_iter=5, field="complex"), y, factors, noise)
    np.testing.assert_allclose(rotated.mean, 1j * as_complex.mean, atol=1e-12)
    real = quiet(model, y, factors, noise)
    np.testing.assert_allclose(as_complex.mean.real, real.mean, atol=1e-12)


def test_jax_arrays_and_an_operator_do_too(instance):
    y, factors, noise, _ = instance
    model = KroneckerSBL(max_iter=3)
    once = quiet(model, y, factors, noise)
    with jax.enable_x64(True):
        arrays = jnp.asarray(y), KroneckerOperator(tuple(map(jnp.asarray, factors)))
    np.testing.assert_array_equal(quiet(model, *arrays, noise).mean, once.mean)
    assert isinstance(once.mean, np.ndarray)


def test_a_mode_is_never_emptied(instance):
    y, factors, noise, _ = instance
    result = quiet(KroneckerSBL(prune=0.999), y, factors, noise)
    assert all(np.count_nonzero(gamma) >= 1 for gamma in result.gammas)
    assert np.isfinite(result.log_evidence)


def test_data_without_noise_do_not_break_learning_it(instance):
    _, factors, _, x = instance
    result = quiet(KroneckerSBL(update="mm", max_iter=300), functools.reduce(np.kron, factors) @ x, factors)
    assert result.noise_variance > 0
    assert result.noise_is_at_floor
    assert np.isfinite(result.log_evidence)
    np.testing.assert_allclose(result.mean, x, atol=1e-3)


def test_running_out_of_iterations_is_said(instance):
    y, factors, noise, _ = instance
    with pytest.warns(RuntimeWarning, match="has not settled after 3 iterations"):
        KroneckerSBL(max_iter=3).fit(y, factors, noise)


def changed(array, value):
    array = np.array(array, dtype=np.result_type(array, type(value)))
    array.flat[-1] = value
    return array


ONES = [np.ones((2, 3)), np.ones((2, 2))]


@pytest.mark.parametrize(
    ("y", "factors", "noise", "message"),
    [
        (np.ones(3), ONES, 0.1, r"y must have 4 entries \(2 x 2 rows of the factors\), got 3"),
        (np.ones((4, 1)), ONES, 0.1, "y must have 1 axis, got shape"),
        (np.zeros(4), ONES, 0.1, "y must not be zero throughout"),
        (changed(np.ones(4), np.nan), ONES, 0.1, "y must be finite, got 1 values"),
        (np.array(["a"] * 4), ONES, 0.1, "y must hold numbers"),
        (np.ones(4), [ONES[0], changed(ONES[1], np.inf)], 0.1, r"factors\[1\] must be finite"),
        (np.ones(4), [ONES[0], np.eye(2)[:, [0, 0]] * [1, 0]], 0.1, r"factors\[1\] must have no zero column, got 1"),
        (np.ones(4), [np.ones(2), ONES[1]], 0.1, r"factors\[0\] must have 2 axes"),
        (np.ones(0), [np.ones((0, 3))], 0.1, r"factors\[0\] must have rows and columns"),
        (np.ones(4), np.ones((4, 3)), 0.1, "factors must be a sequence of matrices, got ndarray"),
        (np.ones(4), [], 0.1, "factors must be a sequence of matrices"),
        (
            np.ones(4),
            ONES,
            0.0,
            r"noise_variance must be positive.* got 0.0; .* without noise take 1e-8",
        ),
        (np.ones(4), ONES, -1.0, "noise_variance must be positive"),
        (np.ones(4), ONES, np.nan, "noise_variance must be positive"),
        (np.ones(4) * 1j, ONES, 0.1, "y must be real with field='real', got complex"),
        (np.ones(4), [ONES[0] * 1j, ONES[1]], 0.1, "factors must be real with field='real'"),
    ],
)
def test_bad_data_are_refused(y, factors, noise, message):
    with pytest.raises(ValueError, match=message):
        KroneckerSBL(field="real").fit(y, factors, noise)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update": "em"}, "update must be one of 'am'"),
        ({"field": "quaternion"}, "field must be one of"),
        ({"tolerance": 0.0}, "tolerance must be a positive number"),
        ({"inner_tolerance": np.nan}, "inner_tolerance must be a positive number"),
        ({"max_iter": 0}, "max_iter must be an integer of at least 1"),
        ({"max_cycles": 2.5}, "max_cycles must be an integer of at least 1"),
        ({"prune": 1.0}, "prune must be True, False or a number"),
        ({"prune": -0.1}, "prune must be True, False or a number"),
        ({"floor": 1.0}, r"floor must lie in \[0, 1\)"),
        ({"block": {0: 0.5}, "update": "svd"}, "block needs update='am' or 'sweep'"),
        ({"block": {0: -0.5}}, r"block\[0\] must lie in \[0, 1\]"),
        ({"block": {0: 0.5}, "floor": 0.0}, "floor must be positive where modes are coupled"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KroneckerSBL(**options)


def test_bad_requests_are_refused(instance):
    y, factors, noise, _ = instance
    with pytest.raises(ValueError, match=r"block must name modes in \[0, 3\), got 3"):
        KroneckerSBL(block={3: 0.5}).fit(y, factors, noise)
    result = quiet(KroneckerSBL(max_iter=1), y, factors, noise)
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        result.sample(jax.random.key(0), 0)
    with pytest.raises(ValueError, match=r"threshold must lie in \[0, 1\)"):
        result.support(1.0)
