"""Scores of real targets against numerical integration, SciPy and brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from uqsparse.bench import GaussianMixture
from uqsparse.bench.regression_scores import (
    _half_spread_by_grid,
    _half_spread_by_pairs,
    central_interval,
    crps_draws,
    crps_mixture,
    mixture_quantile,
    nll_mixture,
)
from uqsparse.bench.scores import regression_scores


def mixtures(seed: int, k: int, n: int) -> tuple[GaussianMixture, np.ndarray]:
    rng = np.random.default_rng(seed)
    mixture = GaussianMixture(rng.normal(0, 3, (k, n)), rng.uniform(0.3, 2, (k, n)))
    return mixture, rng.normal(0, 4, n)


def cdf(mixture: GaussianMixture, i: int, x: float) -> float:
    return float(norm.cdf(x, mixture.mean[:, i], mixture.sd[:, i]).mean())


@pytest.mark.parametrize("k", [1, 2, 7])
def test_crps_is_the_integral_of_the_squared_distance_of_the_distribution_functions(k):
    mixture, y = mixtures(k, k, 3)
    for i, score in enumerate(crps_mixture(mixture, y)):
        left = quad(lambda x, i=i: cdf(mixture, i, x) ** 2, -60, y[i], limit=400, epsabs=1e-10)[0]
        right = quad(lambda x, i=i: (1 - cdf(mixture, i, x)) ** 2, y[i], 60, limit=400, epsabs=1e-10)[0]
        assert score == pytest.approx(left + right, rel=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 40), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_the_trapezoid_rule_agrees_with_the_closed_form_to_rounding(seed, k, scale, shift):
    rng = np.random.default_rng(seed)
    mean, sd = shift + scale * rng.normal(0, 5, k), scale * rng.uniform(0.5, 2, k)
    assert _half_spread_by_grid(mean, sd) == pytest.approx(_half_spread_by_pairs(mean, sd), rel=1e-11)


def test_a_mixture_of_many_components_is_the_same_integral():
    mixture, y = mixtures(0, 1500, 1)
    left = quad(lambda x: cdf(mixture, 0, x) ** 2, -30, y[0], limit=400)[0]
    right = quad(lambda x: (1 - cdf(mixture, 0, x)) ** 2, y[0], 30, limit=400)[0]
    assert crps_mixture(mixture, y)[0] == pytest.approx(left + right, rel=1e-6)


@given(st.integers(0, 10_000), st.integers(2, 30), st.booleans())
def test_crps_of_draws_is_the_double_sum(seed, m, fair):
    rng = np.random.default_rng(seed)
    draws, y = rng.normal(size=(m, 3)).round(1), rng.normal(size=3)
    pairs = np.abs(draws[:, None] - draws[None, :]).sum(axis=(0, 1))
    expected = np.abs(draws - y).mean(axis=0) - pairs / (2 * m * (m - 1 if fair else m))
    np.testing.assert_allclose(crps_draws(draws, y, fair=fair), expected, atol=1e-12)


def test_the_fair_score_of_few_draws_is_unbiased_and_the_plain_one_is_not():
    """A z-test of the mean over 20,000 ensembles of 4 draws; at |z| < 5 the false-alarm rate is 6e-7."""
    rng = np.random.default_rng(0)
    draws, y = rng.normal(size=(4, 20_000)), np.full(20_000, 0.5)
    truth = crps_mixture(GaussianMixture([0.0], [1.0]), np.array([0.5]))[0]

    def z(scores: np.ndarray) -> float:
        return (scores.mean() - truth) / (scores.std() / np.sqrt(len(scores)))

    assert abs(z(crps_draws(draws, y))) < 5
    assert z(crps_draws(draws, y, fair=False)) > 20


@given(st.integers(0, 10_000), st.floats(0.1, 10), st.floats(-100, 100))
def test_crps_follows_the_unit_and_the_origin(seed, scale, shift):
    mixture, y = mixtures(seed, 3, 4)
    moved = GaussianMixture(shift + scale * mixture.mean, scale * mixture.sd)
    np.testing.assert_allclose(
        crps_mixture(moved, shift + scale * y), scale * crps_mixture(mixture, y), rtol=1e-7, atol=1e-9
    )


def test_nll_is_the_log_of_the_mean_density_even_far_out():
    mixture, y = mixtures(3, 5, 6)
    expected = -np.log(norm.pdf(y, mixture.mean, mixture.sd).mean(axis=0))
    np.testing.assert_allclose(nll_mixture(mixture, y), expected, rtol=1e-12)
    far = nll_mixture(GaussianMixture(np.zeros((4, 1)), 1.0), np.array([100.0]))
    np.testing.assert_allclose(far, -norm.logpdf(100.0), rtol=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0.001, 0.999))
def test_quantiles_invert_the_distribution_function(seed, k, probability):
    mixture, _ = mixtures(seed, k, 2)
    for i, quantile in enumerate(mixture_quantile(mixture, probability)):
        root = brentq(lambda x, i=i: cdf(mixture, i, x) - probability, -100, 100, xtol=1e-12)
        # Between components far apart the distribution function is flat, and the root known no better than this.
        density = norm.pdf(root, mixture.mean[:, i], mixture.sd[:, i]).mean()
        assert quantile == pytest.approx(root, abs=1e-9 + 1e-15 / density)


def test_the_central_interval_of_a_gaussian_and_of_draws():
    low, high = central_interval(GaussianMixture([[1.0, 5.0]], [[2.0, 0.5]]), 0.9)
    np.testing.assert_allclose(low, norm.ppf(0.05, [1, 5], [2, 0.5]), rtol=1e-12)
    np.testing.assert_allclose(high, norm.ppf(0.95, [1, 5], [2, 0.5]), rtol=1e-12)
    low, high = central_interval(np.arange(101.0)[:, None], 0.8)
    np.testing.assert_allclose([low[0], high[0]], [10, 90])


def test_a_row_of_scores():
    prediction = GaussianMixture([[0.0, 0.0], [2.0, 0.0]], 1.0)
    y = np.array([1.0, 30.0])
    row = regression_scores(prediction, y)
    assert row["scores"]["rmse"] == pytest.approx(np.sqrt((0**2 + 30**2) / 2))
    assert row["scores"]["coverage"] == 0.5
    assert row["errors"]["coverage"] == pytest.approx(0.5)  # sd of {1, 0} is 1/sqrt(2), over sqrt(2)
    assert row["scores"]["crps"] == pytest.approx(crps_mixture(prediction, y).mean())
    draws = regression_scores(np.array([[0.0, 1.0], [2.0, 3.0], [1.0, 2.0]]), y)
    assert draws["scores"]["nll"] is None


def test_wrong_predictions_are_refused():
    mixture, y = mixtures(0, 2, 3)
    for call, message in [
        (lambda: crps_mixture(mixture, y[:2]), r"y has shape \(2,\)"),
        (lambda: nll_mixture(mixture, np.array([0, np.nan, 0])), "y has NaN"),
        (lambda: crps_draws(np.zeros((1, 3)), y), "at least 2 draws"),
        (lambda: crps_draws(np.zeros((3, 5)), y), r"expected \(n_draws, 3\)"),
        (lambda: crps_draws(np.full((3, 3), np.inf), y), "9 NaN or infinite"),
        (lambda: mixture_quantile(mixture, 1.0), r"inside \(0, 1\)"),
        (lambda: central_interval(mixture, 0.0), r"inside \(0, 1\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
