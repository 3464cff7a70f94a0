"""Highest density and probability integral scores: closed forms, SciPy, numerical integration, refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import logsumexp

from uqsparse.bounds import PredictiveDraws, SplitConformal
from uqsparse.bounds.predictive_densities import GaussianMixture, GridDensity
from uqsparse.bounds.scores.densities import HighestDensity, ProbabilityIntegral

rng = np.random.default_rng(0)


def _law(family, *args) -> Any:
    """A frozen distribution, of a type that says what it can do."""
    return family(*args)


MIXTURES = GaussianMixture.of(rng.normal(scale=3.0, size=(6, 8)), rng.uniform(0.2, 1.5, size=(6, 8)))


def test_a_mixture_has_scipys_density_and_distribution_function():
    y = rng.normal(scale=4.0, size=(5, 8))
    parts = _law(stats.norm, MIXTURES.means, MIXTURES.sds)
    np.testing.assert_allclose(MIXTURES.log_density(y[0]), logsumexp(parts.logpdf(y[0]), axis=0) - np.log(6))
    np.testing.assert_allclose(MIXTURES.log_density(y)[3], MIXTURES.log_density(y[3]), rtol=1e-15)
    np.testing.assert_allclose(MIXTURES.cdf(y)[2], parts.cdf(y[2]).mean(0))
    for probability in (1e-4, 0.5, rng.uniform(size=8)):
        quantile = MIXTURES.quantile(probability)
        np.testing.assert_allclose(MIXTURES.cdf(quantile), np.broadcast_to(probability, 8), rtol=1e-12)
    far = MIXTURES.log_density(np.full(8, 1e200))
    assert np.isneginf(far).all()
    for i in range(8):
        column = _law(stats.norm, MIXTURES.means[:, i], MIXTURES.sds[:, i])
        for power, found in [(1, MIXTURES.mean()[i]), (2, MIXTURES.mean()[i] ** 2 + MIXTURES.sd()[i] ** 2)]:
            moment = integrate.quad(lambda t, k=power, c=column: t**k * c.pdf(t).mean(), -30, 30, limit=400)[0]
            np.testing.assert_allclose(found, moment, atol=1e-7)


@given(mean=st.floats(-1e3, 1e3), log_sd=st.floats(-6, 6), reach=st.floats(0.01, 30))
@settings(max_examples=50)
def test_the_set_of_one_gaussian_is_the_symmetric_interval(mean, log_sd, reach):
    sd = np.exp(log_sd)
    threshold = 0.5 * reach**2 + np.log(sd) + 0.5 * np.log(2 * np.pi)
    sets = HighestDensity().region(GaussianMixture.of(np.full((1, 1), mean), np.full(1, sd)), threshold)
    slack = 1e-12 * abs(mean) + 1e-9 * sd / reach
    assert abs(sets.lower[0, 0] - (mean - reach * sd)) < slack
    assert abs(sets.upper[0, 0] - (mean + reach * sd)) < slack
    assert np.isnan(sets.lower[0, 1:]).all()
    assert np.isnan(sets.upper[0, 1:]).all()


@given(threshold=st.floats(0.0, 40.0))
@example(threshold=2.3359375)  # a gap narrower than the grid's spacing, which is filled
@settings(max_examples=25)
def test_sets_hold_the_values_whose_density_is_high_enough_but_for_gaps_between_grid_points(threshold):
    score = HighestDensity()
    sets = score.region(MIXTURES, threshold)
    y = np.linspace(-60, 60, 2001)
    spacing = np.diff(MIXTURES.grid(score.n_grid), axis=0).max(0)
    for i in range(8):
        alone = GaussianMixture(MIXTURES.means[:, [i] * 2001], MIXTURES.sds[:, [i] * 2001])
        expected = score(alone, y) <= threshold
        held = ((sets.lower[i, :, None] <= y) & (y <= sets.upper[i, :, None])).any(0)
        runs = np.flatnonzero(np.diff(np.concatenate([[False], held != expected, [False]]).astype(int)))
        widths = y[runs[1::2] - 1] - y[runs[::2]]
        assert (widths < spacing[i]).all()
        assert len(widths) <= 1


def test_a_value_at_the_threshold_belongs_to_its_set():
    """The calibration point that sets the threshold is in the set of its own prediction: edges are refined."""
    score, y = HighestDensity(), MIXTURES.mean() + 3 * MIXTURES.sd()
    sets = score.region(MIXTURES, score(MIXTURES, y))
    distance = np.nanmin(np.minimum(abs(sets.lower - y[:, None]), abs(sets.upper - y[:, None])), axis=1)
    assert (distance < 1e-13 * np.maximum(1, abs(y))).all()


def test_sets_have_the_probability_that_integration_finds():
    threshold = 2.5
    sets = HighestDensity().region(MIXTURES, threshold)
    for i in range(8):
        column = _law(stats.norm, MIXTURES.means[:, i], MIXTURES.sds[:, i])
        t = np.linspace(-30, 30, 600_001)
        density = np.zeros_like(t)
        for mean, sd in zip(MIXTURES.means[:, i], MIXTURES.sds[:, i], strict=True):
            density += _law(stats.norm, mean, sd).pdf(t) / 6
        mass = density[density >= np.exp(-threshold)].sum() * (t[1] - t[0])
        parts = ~np.isnan(sets.lower[i])
        found = sum(
            column.cdf(b).mean() - column.cdf(a).mean()
            for a, b in zip(sets.lower[i, parts], sets.upper[i, parts], strict=True)
        )
        assert abs(found - mass) < 1e-3


def test_sets_may_be_empty_unions_or_the_whole_line():
    two = GaussianMixture.of(np.array([[-5.0], [5.0]]), np.ones(2))
    score = HighestDensity()
    assert score.region(two, 0.0).size().tolist() == [0.0]
    assert not score.region(two, 0.0).contains(np.array([5.0])).any()
    union = score.region(two, 2.5)
    assert np.isfinite(union.lower).sum() == 2
    np.testing.assert_allclose(union.lower[0, :2], -union.upper[0, 1::-1], rtol=1e-13)
    assert [bool(union.contains(np.array([y]))[0]) for y in (-5.0, 0.0, 5.0)] == [True, False, True]
    joined = HighestDensity(max_parts=1).region(two, 2.5)
    assert (joined.lower[0, 0], joined.upper[0, 0]) == (union.lower[0, 0], union.upper[0, 1])
    whole = score.region(two, np.inf)
    assert (whole.lower[0, 0], whole.upper[0, 0]) == (-np.inf, np.inf)
    assert score.region(two, -np.inf).size().tolist() == [0.0]


def test_narrow_components_between_even_grid_points_are_found():
    needle = GaussianMixture.of(np.array([[0.0], [17.3]]), np.array([[10.0], [1e-4]]))
    sets = HighestDensity(n_grid=20).region(needle, 0.0)
    assert np.isfinite(sets.lower).sum() == 1
    assert sets.lower[0, 0] < 17.3 < sets.upper[0, 0]


def test_each_test_point_may_have_its_own_threshold():
    thresholds = np.linspace(0.5, 6.0, 8)
    together = HighestDensity().region(MIXTURES, thresholds)
    for i, threshold in enumerate(thresholds):
        alone = HighestDensity().region(GaussianMixture(MIXTURES.means[:, [i]], MIXTURES.sds[:, [i]]), threshold)
        np.testing.assert_allclose(alone.lower[0], together.lower[i], rtol=1e-14)


def test_any_log_density_on_a_grid():
    """A gamma density, whose support ends at 0, and a Cauchy density, whose sets outgrow the grid, in closed form."""
    gamma = GridDensity.of(lambda y: _law(stats.gamma, 3.0).logpdf(y), np.linspace(0.01, 5, 50), n=2)
    sets = HighestDensity().region(gamma, np.array([2.0, 20.0]))
    for i, threshold in enumerate([2.0, 20.0]):
        ends = np.array([sets.lower[i, 0], sets.upper[i, 0]])
        np.testing.assert_allclose(_law(stats.gamma, 3.0).logpdf(ends), -threshold, rtol=1e-9)
    cauchy = GridDensity.of(lambda y: -np.log(np.pi) - np.log1p(y**2), np.linspace(-1, 1, 11), n=1)
    for threshold in (1.2, 9.0, 25.0):
        end = np.sqrt(np.exp(threshold) / np.pi - 1)
        sets = HighestDensity().region(cauchy, threshold)
        np.testing.assert_allclose([sets.lower[0, 0], sets.upper[0, 0]], [-end, end], rtol=1e-9)


def test_a_set_that_does_not_end_is_infinite():
    flat = GridDensity.of(lambda y: 0.0 * y, np.linspace(-1, 1, 11), n=1)
    sets = HighestDensity().region(flat, 1.0)
    assert (sets.lower[0, 0], sets.upper[0, 0]) == (-np.inf, np.inf)
    half = GridDensity.of(lambda y: np.where(y > 0.3, 0.0, -np.inf), np.linspace(-1, 1, 11), n=1)
    sets = HighestDensity().region(half, 1.0)
    np.testing.assert_allclose(sets.lower[0, 0], 0.3, rtol=1e-14)
    assert sets.upper[0, 0] == np.inf


def test_several_levels_at_once_and_to_arviz():
    y = MIXTURES.means[0] + 0.1
    with pytest.warns(UserWarning, match="infinite"):
        calibrated = SplitConformal(HighestDensity(), [0.2, 0.5, 0.1]).calibrate(MIXTURES, y)
    sets: Any = calibrated.predict(MIXTURES)
    assert sets.lower.shape == (3, 8, 8)
    assert np.isinf(sets.size()).tolist() == [[False] * 8] * 2 + [[True] * 8]
    assert sets.to_arviz() is not None


def test_jax_gives_the_same_sets():
    with jax.enable_x64(True):
        other = GaussianMixture.of(jnp.asarray(MIXTURES.means), jnp.asarray(MIXTURES.sds))
        region = jax.jit(lambda score, mixture, t: score.region(mixture, t))
        for threshold in (1.0, 2.5, 10.0):
            expected = HighestDensity().region(MIXTURES, threshold)
            found = region(HighestDensity(), other, threshold)
            np.testing.assert_allclose(found.lower, expected.lower, rtol=1e-12)
            np.testing.assert_allclose(found.upper, expected.upper, rtol=1e-12)
        expected = ProbabilityIntegral().region(MIXTURES, 0.4)
        found = region(ProbabilityIntegral(), other, 0.4)
        np.testing.assert_allclose(found.lower, expected.lower, rtol=1e-12)


def simulated(rng, n, m=100):
    """Bimodal targets, and predictive draws and densities that are too narrow."""
    sign = rng.choice([-1.0, 1.0], size=n)
    x = rng.normal(size=n)
    y = x + 2 * sign + 0.8 * rng.normal(size=n)
    mixture = GaussianMixture.of(np.stack([x - 2, x + 2]), np.full(2, 0.5))
    draws = PredictiveDraws.of(x + 2 * rng.choice([-1.0, 1.0], size=(m, n)) + 0.5 * rng.normal(size=(m, n)))
    return y, mixture, draws


def test_coverage_and_sizes_on_bimodal_targets():
    """Coverage over 80 calibrations of 39 is 36/40, within 4 se: false-alarm rate 1e-4. Density sets are smaller.

    Scores of draws have ties, which can only raise coverage.
    """
    rng = np.random.default_rng(1)  # its own, so that the outcome does not depend on which tests ran before
    covered, sizes = np.empty((80, 3)), np.empty((80, 3))
    for i in range(80):
        (y, mixture, draws), (y_new, mixture_new, draws_new) = simulated(rng, 39), simulated(rng, 40)
        for j, (score, old, new) in enumerate(
            [
                (HighestDensity(n_grid=40), mixture, mixture_new),
                (ProbabilityIntegral(), mixture, mixture_new),
                (ProbabilityIntegral(), draws, draws_new),
            ]
        ):
            sets = SplitConformal(score, 0.1).calibrate(old, y).predict(new)
            covered[i, j], sizes[i, j] = sets.contains(y_new).mean(), sets.size().mean()
    away = (covered.mean(0) - 0.9) / (covered.std(0) / np.sqrt(80))
    assert (away > -4).all()
    assert (away[:2] < 4).all()
    assert sizes[:, 0].mean() < 0.95 * sizes[:, 1].mean()


# Draws on a coarse lattice: ties, among themselves and with y.
lattice = st.lists(st.integers(-3, 3), min_size=3, max_size=6)


@given(values=lattice, threshold=st.integers(0, 12).map(lambda k: k / 24))
def test_the_interval_of_draws_is_the_closure_of_the_values_within_the_threshold(values, threshold):
    draws = PredictiveDraws.of(np.array(values, float)[:, None])
    interval = ProbabilityIntegral().region(draws, threshold)
    y = np.arange(-4, 4.01, 0.125)
    scores = np.array([ProbabilityIntegral()(draws, np.array([one]))[0] for one in y])
    inside = y[scores <= threshold + 1e-9]
    held = y[(interval.lower[0] <= y) & (y <= interval.upper[0])]
    assert set(inside) <= set(held)
    # Values held beyond those of the score are ends of the interval, which closure adds.
    assert set(held) - set(inside) <= {interval.lower[0], interval.upper[0]}
    if threshold >= 0.5:
        assert (interval.lower[0], interval.upper[0]) == (-np.inf, np.inf)


def test_probability_integral_of_a_gaussian_is_in_closed_form():
    one = GaussianMixture.of(np.array([[1.0, -2.0]]), np.array([[2.0, 0.5]]))
    y = np.array([3.0, -2.5])
    np.testing.assert_allclose(ProbabilityIntegral()(one, y), stats.norm.cdf(1) - 0.5, rtol=1e-12)
    interval = ProbabilityIntegral().region(one, np.array([0.45, 0.25]))
    z = stats.norm.ppf([0.95, 0.75])
    np.testing.assert_allclose(interval.lower, [1 - 2 * z[0], -2 - 0.5 * z[1]], rtol=1e-12)
    np.testing.assert_allclose(interval.upper, [1 + 2 * z[0], -2 + 0.5 * z[1]], rtol=1e-12)
    edges = ProbabilityIntegral().region(one, np.array([0.5, -0.1]))
    assert (edges.lower[0], edges.upper[0]) == (-np.inf, np.inf)
    assert edges.size()[1] == 0


def test_frozen_scipy_distributions_serve_too():
    frozen = stats.t(df=3, loc=np.arange(4.0))
    interval = ProbabilityIntegral().region(frozen, 0.4)
    np.testing.assert_allclose(interval.lower, frozen.ppf(0.1))
    np.testing.assert_allclose(ProbabilityIntegral()(frozen, interval.upper), 0.4)


def test_bad_input_is_refused():
    ones = np.ones((3, 2))
    for means, sds, match in [
        (ones[0], ones[0], "means have shape"),
        (ones, ones[:, :1], "sds have shape"),
        (ones, np.ones(2), "sds have shape"),
        (np.where(ones > 0, np.nan, 0), ones, "6 NaN or infinite"),
        (ones, 0 * ones, "6 values that are not positive"),
    ]:
        with pytest.raises(ValueError, match=match):
            GaussianMixture.of(means, sds)
    for points, match in [
        (np.zeros(3), "shape"),
        (np.zeros((1, 2)), "g >= 2"),
        (np.zeros((3, 2)), "ascend"),
        (np.array([[0.0], [np.inf]]), "finite"),
    ]:
        with pytest.raises(ValueError, match=match):
            GridDensity.of(np.abs, points)
    with pytest.raises(TypeError, match="callable"):
        GridDensity.of(3, ones)  # pyright: ignore[reportArgumentType]
    bad = GridDensity.of(lambda y: np.where(y > 0.5, np.nan, 0.0), np.linspace(0, 1, 5), n=3)
    with pytest.raises(ValueError, match="NaN on the grid of 3 observations, such as 0"):
        HighestDensity().region(bad, 1.0)
    draws = PredictiveDraws.of(rng.normal(size=(5, 8)))
    with pytest.raises(TypeError, match="needs predictions with `log_density`, such as a GaussianMixture; got Predict"):
        HighestDensity()(draws, np.zeros(8))
    with pytest.raises(TypeError, match="needs predictions with `cdf`"):
        ProbabilityIntegral().region(np.zeros(3), 0.3)
    for score, predictions in [(HighestDensity(), MIXTURES), (ProbabilityIntegral(), draws)]:
        with pytest.raises(ValueError, match=r"y has shape \(1,\); predictions has 8 entries"):
            score(predictions, np.zeros(1))
    for options in ({"n_grid": 1}, {"max_parts": 0}):
        with pytest.raises(ValueError, match="n_grid and max_parts"):
            HighestDensity(**options)
