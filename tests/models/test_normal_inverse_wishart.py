"""The normal-inverse-Wishart distribution against SciPy, NumPyro's own parts and Monte Carlo."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpyro.distributions import biject_to
from numpyro.distributions.kl import kl_divergence
from scipy import stats

from uqsparse.models.normal_inverse_wishart import (
    NormalInverseWishart,
    excess_divergence,
    join_mean_covariance,
    split_mean_covariance,
)

D = 3


def covariance(seed: int, d: int = D) -> np.ndarray:
    A = np.random.default_rng(seed).normal(size=(d, d + 2))
    return A @ A.T / d + 0.1 * np.eye(d)


@pytest.fixture(scope="module")
def belief():
    with jax.enable_x64(True):
        return NormalInverseWishart(np.array([0.5, -1.0, 2.0]), 2.5, covariance(0), 7.5)


@pytest.fixture(scope="module")
def draws(belief):
    """40,000 values, once."""
    with jax.enable_x64(True):
        return split_mean_covariance(belief.sample(jax.random.key(1), (40_000,)))


@given(st.integers(0, 10_000))
def test_log_density_is_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    mean, V, Sigma, mu = rng.normal(size=D), covariance(seed), covariance(seed + 1), rng.normal(size=D)
    n, strength = D - 1 + rng.uniform(0.3, 9.0), rng.uniform(0.2, 5.0)
    wanted = stats.invwishart.logpdf(Sigma, n, V) + stats.multivariate_normal.logpdf(mu, mean, Sigma / strength)
    with jax.enable_x64(True):
        found = NormalInverseWishart(mean, strength, V, n).log_prob(join_mean_covariance(mu, Sigma))
    assert float(found) == pytest.approx(wanted, rel=1e-10, abs=1e-8)


def test_draws_have_the_moments_of_theory(belief, draws):
    # Each of 3 + 6 + 6 means within 5 standard errors: a false alarm once in 100,000 runs.
    V, n = covariance(0), 7.5
    lower = np.tril_indices(D)
    precisions = np.linalg.inv(np.asarray(draws.covariance))
    for values, wanted in (
        (np.asarray(draws.mean), [0.5, -1.0, 2.0]),
        (np.asarray(draws.covariance)[:, *lower], (V / (n - D - 1))[lower]),
        (precisions[:, *lower], (n * np.linalg.inv(V))[lower]),
    ):
        error = values.std(0) / np.sqrt(len(values))
        assert (np.abs(values.mean(0) - wanted) < 5 * error).all()


def test_the_mean_scatters_by_its_strength_given_the_covariance(draws):
    # Squared standardised distances are chi-squared of d degrees of freedom; Kolmogorov-Smirnov at 1e-5.
    away = np.asarray(draws.mean) - [0.5, -1.0, 2.0]
    squares = 2.5 * np.einsum("ti,tij,tj->t", away, np.linalg.inv(np.asarray(draws.covariance)), away)
    assert stats.kstest(squares, stats.chi2(D).cdf).pvalue > 1e-5


def test_expected_divergence_is_the_average_over_draws(belief, draws):
    # Within 5 standard errors of the Monte Carlo mean.
    m, S = np.array([0.1, 0.2, -0.3]), covariance(5)
    wanted = dist.MultivariateNormal(m, covariance_matrix=S)
    with jax.enable_x64(True):
        prior = dist.MultivariateNormal(draws.mean, covariance_matrix=draws.covariance)
        each = np.asarray(kl_divergence(wanted, prior))
        found = float(belief.expected_kl_to_normal(m, S))
    assert abs(each.mean() - found) < 5 * each.std() / np.sqrt(len(each))


def test_divergence_between_two_is_the_average_log_ratio(belief, draws):
    # Within 5 standard errors of the Monte Carlo mean.
    with jax.enable_x64(True):
        other = NormalInverseWishart(np.zeros(D), 1.2, covariance(3), 5.5)
        values = join_mean_covariance(*draws)
        each = np.asarray(belief.log_prob(values) - other.log_prob(values))
        found = float(kl_divergence(belief, other))
        assert float(kl_divergence(other, other)) == pytest.approx(0.0, abs=1e-12)
    assert abs(each.mean() - found) < 5 * each.std() / np.sqrt(len(each))


def test_predictive_is_the_student_distribution_of_new_weights(belief, draws):
    noise = np.random.default_rng(0).normal(size=(len(draws.mean), D))
    new = np.asarray(draws.mean) + np.einsum("tij,tj->ti", np.linalg.cholesky(np.asarray(draws.covariance)), noise)
    with jax.enable_x64(True):
        student = belief.predictive
        df, loc, scale = (np.asarray(x) for x in (student.df, student.loc, student.scale_tril))
    for j in range(D):  # Kolmogorov-Smirnov, three tests at 1e-5
        spread = np.sqrt((scale[j] ** 2).sum())
        assert stats.kstest(new[:, j], stats.t(float(df), loc[j], spread).cdf).pvalue > 1e-5


def test_mode_is_where_the_density_is_largest(belief):
    with jax.enable_x64(True):
        at = belief.mode
        transform = biject_to(belief.support)
        slope = jax.grad(lambda value: belief.log_prob(value))(join_mean_covariance(*at))
        lower = np.asarray(slope)[:, 1:]
        assert np.allclose(np.asarray(slope)[:, 0], 0, atol=1e-9)
        assert np.allclose(lower + lower.T, 0, atol=1e-9)
        there = transform(transform.inv(join_mean_covariance(*at)))
        assert np.allclose(there, join_mean_covariance(*at), atol=1e-12)


def test_jacobian_of_the_free_numbers_is_that_of_autodiff(belief):
    with jax.enable_x64(True):
        transform = biject_to(belief.support)
        x = jnp.asarray(np.random.default_rng(2).normal(size=D + D * (D + 1) // 2))
        y = transform(x)
        assert y.shape == transform.forward_shape(x.shape) == (D, D + 1)
        assert transform.inverse_shape(y.shape) == x.shape
        assert bool(belief.support(y))
        lower = np.tril_indices(D)

        def free_entries(x):
            mean, Sigma = split_mean_covariance(transform(x))
            return jnp.concatenate([mean, Sigma[lower]])

        wanted = np.linalg.slogdet(np.asarray(jax.jacobian(free_entries)(x)))[1]
        assert float(transform.log_abs_det_jacobian(x, y)) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("d", [1, 4])
def test_excess_falls_to_zero_with_the_degrees_of_freedom(d):
    values = [float(excess_divergence(d, n, jnp.inf)) for n in (d - 0.5, d + 2.0, 10.0 * d, 1e3, 1e5)]
    assert all(a > b > 0 for a, b in itertools.pairwise(values))
    assert values[-1] < 1e-3
    # ... and is what the definition says, by scipy.
    from scipy.special import psi

    wanted = (d * np.log(5.0 * d) - sum(psi(5.0 * d - j / 2) for j in range(d))) / 2 + d / 4
    assert float(excess_divergence(d, 10.0 * d, 2.0)) == pytest.approx(wanted, rel=1e-4)


def test_it_stands_in_a_model_of_numpyro(belief):
    def model():
        numpyro.sample("value", belief)

    with jax.enable_x64(True):
        start = numpyro.infer.util.initialize_model(jax.random.key(0), model)
        value = start.param_info.z["value"]
        transform = biject_to(belief.support)
        wanted = -belief.log_prob(transform(value)) - transform.log_abs_det_jacobian(value, transform(value))
        assert float(start.param_info.potential_energy) == pytest.approx(float(wanted), rel=1e-10)


def test_batches_and_jit():
    mean, n = np.zeros((4, D)), np.array([4.0, 5.0, 6.0, 7.0])
    belief = NormalInverseWishart(mean, 1.0, covariance(0), n)
    values = belief.sample(jax.random.key(0), (5,))
    assert values.shape == (5, 4, D, D + 1)
    assert belief.log_prob(values).shape == (5, 4)
    assert belief.mode.covariance.shape == belief.expected_precision.shape == (4, D, D)
    found = jax.jit(lambda V, n: NormalInverseWishart(mean[0], 1.0, V, n).log_prob(values[0, 0]))(covariance(0), 4.0)
    assert float(found) == pytest.approx(float(belief.log_prob(values)[0, 0]), rel=1e-4)


def test_outside_the_support_the_density_is_zero(belief):
    with jax.enable_x64(True):
        value = join_mean_covariance(np.zeros(D), np.diag([1.0, 1.0, -1.0]))
        assert belief.log_prob(value) == -np.inf
        assert not bool(belief.support(value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degrees_of_freedom": 2.0}, "degrees_of_freedom must be finite and larger than d - 1 = 2"),
        ({"degrees_of_freedom": np.nan}, "degrees_of_freedom"),
        ({"mean_strength": 0.0}, "mean_strength must be positive"),
        ({"mean_strength": np.nan}, "mean_strength must be positive"),
        ({"mean": np.array([0.0, np.nan, 0.0])}, "mean must be finite"),
        ({"mean": np.zeros(2)}, "scale"),
        ({"scale": np.diag([1.0, 0.0, 1.0])}, "positive definite"),
        ({"scale": np.triu(np.ones((3, 3))) + 3 * np.eye(3)}, "symmetric"),
        ({"scale": np.full((3, 3), np.nan)}, "positive definite"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, message):
    arguments = {"mean": np.zeros(D), "mean_strength": 1.0, "scale": np.eye(D), "degrees_of_freedom": 5.0} | change
    with pytest.raises(ValueError, match=message):
        NormalInverseWishart(**arguments)
