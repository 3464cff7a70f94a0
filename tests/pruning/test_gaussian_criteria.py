"""Criteria of Gaussian weights against draws, quadrature-free formulas in double precision, and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf
from scipy.stats import norm

from uqsparse.nn.gaussian_layers import GaussianWeight
from uqsparse.pruning.gaussian_criteria import (
    mean_abs,
    mean_exp_abs,
    posterior_mean,
    snr,
    snr_exp_abs,
    snr_mean_abs,
)

ALL = [posterior_mean(), snr(), mean_abs(), snr_mean_abs(), mean_exp_abs(), snr_exp_abs()]
N = 64


@jax.jit
def scores(mu, sigma):
    unit = GaussianWeight.from_sigma(mu, sigma)
    return unit.sigma, [criterion.score(unit) for criterion in ALL]


def exact(mu, sigma, lam=1.0):
    """What the criteria say they return, in double precision; the last two from log E exp(lam |w|)."""
    mu, sigma = np.abs(np.float64(mu)), np.float64(sigma)
    t = mu / sigma

    def log_mgf(a):
        plus, minus = norm.logcdf(t + a * sigma), norm.logcdf(-t + a * sigma)
        return (a * sigma) ** 2 / 2 + np.logaddexp(a * mu + plus, -a * mu + minus)

    mean = sigma * np.sqrt(2 / np.pi) * np.exp(-(t**2) / 2) + mu * erf(t / np.sqrt(2))
    d = log_mgf(2 * lam) - 2 * log_mgf(lam)
    log_expm1 = np.where(d < 30, np.log(np.expm1(np.minimum(d, 30))), d)
    return [mu, np.log(t), mean, np.log(t), log_mgf(lam), -log_expm1 / 2]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_scores_are_their_formulas(seed):
    rng = np.random.default_rng(seed)
    mu = (rng.choice([-1, 1], N) * 10 ** rng.uniform(-6, 1.5, N)).astype(np.float32)
    sigma, found = scores(mu, (10 ** rng.uniform(-4, 1, N)).astype(np.float32))
    for criterion, one, expected in zip(ALL, found, exact(mu, sigma), strict=True):
        np.testing.assert_allclose(one, expected, rtol=2e-4, atol=3e-5, err_msg=criterion.name)


def test_scores_are_moments_of_draws():
    """400,000 draws a weight, six standard errors: false alarms below 1e-7."""
    rng = np.random.default_rng(0)
    mu, sigma = np.float32([0.0, 0.5, -1.0, 2.0]), np.float32([1.0, 0.3, 1.0, 0.4])
    draws = np.abs(mu + sigma * rng.normal(size=(400_000, 4)))
    _, (_, _, mean, _, log_exp, log_snr_exp) = scores(np.resize(mu, N), np.resize(sigma, N))
    errors = 6 * draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(mean[:4] - draws.mean(0)) < errors).all()
    exp = np.exp(draws)
    assert (np.abs(np.exp(log_exp[:4]) - exp.mean(0)) < 6 * exp.std(0) / np.sqrt(len(draws))).all()
    np.testing.assert_allclose(np.exp(log_snr_exp[:4]), exp.mean(0) / exp.std(0), rtol=0.05)


def test_mean_over_deviation_is_a_function_of_the_signal_to_noise_ratio():
    """Why `snr_mean_abs` may score by |mu| / sigma: values at 50 digits, increasing, whatever the scale."""

    def quotient(t):
        mean = np.sqrt(2 / np.pi) * np.exp(-(t**2) / 2) + t * erf(t / np.sqrt(2))
        return mean / np.sqrt(1 + t**2 - mean**2)

    np.testing.assert_allclose(
        [quotient(t) for t in (0.0, 0.5, 1.0, 2.0, 5.0)], [1.323608, 1.338178, 1.459461, 2.089507, 5.0000028], rtol=1e-6
    )
    assert (np.diff(quotient(np.linspace(0, 100, 1000))) > 0).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ranks_of_snr_and_its_long_form_agree_and_extremes_have_scores(seed):
    """Also where the quotient cancels in single precision: |mu| / sigma from 1e-30 to 1e30, and exact zeros."""
    rng = np.random.default_rng(seed)
    mu = (10 ** rng.uniform(-25, 20, N)).astype(np.float32)
    mu[rng.integers(0, N, 4)] = 0
    sigma, found = scores(mu, (10 ** rng.uniform(-5.5, 9, N)).astype(np.float32))
    assert all(np.isfinite(one).all() for one in found)
    np.testing.assert_array_equal(found[1], found[3])
    with np.errstate(divide="ignore"):
        t = np.float64(mu) / np.float64(sigma)
    order, distinct = np.argsort(t), np.diff(np.sort(t)) > 1e-4 * np.sort(t)[1:]
    assert (np.diff(found[1][order])[distinct] > 0).all()
    assert (np.diff(found[1][order]) >= -1e-5).all()


def test_off_is_never_kept_and_plain_weights_are_refused():
    unit = GaussianWeight.from_sigma(jnp.full((1, 3), 0.5), 0.1).masked(jnp.array([[True, False, True]]))
    for criterion in ALL:
        found = criterion({"w": unit})["w"]
        assert found[0, 1] == -jnp.inf
        assert jnp.isfinite(found[0, ::2]).all()
        with pytest.raises(TypeError, match=f"criterion {criterion.name} needs Gaussian weights, got "):
            criterion({"w": jnp.ones((2, 2))})
    for make in (mean_exp_abs, snr_exp_abs):
        with pytest.raises(ValueError, match=r"lam must be positive and finite, got 0"):
            make(0)


def test_small_exponents_ignore_magnitude():
    """With lam |w| small, the last criterion keeps low variance whatever the mean: why it does worst."""
    _, found = scores(np.resize(np.float32([0.1, 0.001]), N), np.resize(np.float32([1e-3, 5e-4]), N))
    assert found[5][0] < found[5][1]  # the weight of ratio 100 below that of ratio 2
    assert found[1][0] > found[1][1]
