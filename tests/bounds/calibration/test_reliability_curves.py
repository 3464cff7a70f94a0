"""Confidence bands of reliability curves against SciPy, exact enumeration, brute force and repetition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from uqsparse.bounds.binomial_limits import clopper_pearson
from uqsparse.bounds.calibration.calibration_plots import reliability_diagram
from uqsparse.bounds.calibration.reliability import (
    bin_bands,
    isotonic_band,
    reliability_curve,
)

seeds = st.integers(0, 10_000)


def case(seed: int, n: int = 120, digits: int = 15) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    q = rng.beta(1.2, 1.5, n).round(digits)
    return q, rng.random(n) < q**1.5


def test_limits_are_those_of_scipy():
    for n in (1, 7, 40):
        hits = np.arange(n + 1)
        low, high = clopper_pearson(hits, np.full(n + 1, n), 0.025)
        expected = [binomtest(int(k), n).proportion_ci(0.95, "exact") for k in hits]
        np.testing.assert_allclose(low, [one.low for one in expected], rtol=1e-9)
        np.testing.assert_allclose(high, [one.high for one in expected], rtol=1e-9)


def count_law(p: np.ndarray) -> np.ndarray:
    """The law of the number of hits of independent trials, by convolution."""
    law = np.ones(1)
    for one in p:
        law = np.convolve(law, [1 - one, one])
    return law


@given(seeds, st.integers(1, 12), st.sampled_from([0.005, 0.025, 0.1]))
def test_limits_hold_for_the_mean_of_different_probabilities(seed, n, tail):
    """Exactly, by enumeration: a mean of probabilities is covered at least as often as one probability."""
    rng = np.random.default_rng(seed)
    low, high = clopper_pearson(np.arange(n + 1), np.full(n + 1, n), tail)
    for a, b in ((1, 1), (0.2, 0.2), (5, 0.3), (0.1, 2)):
        p = rng.beta(a, b, n)
        # Next to 1 and 0 the law of different probabilities has the heavier tail.
        for one in (p, np.r_[np.ones(n - 1), 1 - rng.uniform(0, 3 * tail)], np.r_[np.zeros(n - 1), 2 * tail * p[0]]):
            covered = (low <= one.mean() + 1e-12) & (one.mean() - 1e-12 <= high)
            assert count_law(one) @ covered >= 1 - 2 * tail - 1e-12


@given(seeds, st.integers(1, 12), st.sampled_from(["mass", "width"]))
@settings(max_examples=12)
def test_the_curve_is_that_of_scikit_learn(seed, n_bins, binning):
    q, y = case(seed)
    n = len(q) // n_bins * n_bins
    q, y = q[:n], y[:n]
    curve = reliability_curve(q, y, n_bins, binning)
    share, mean = calibration_curve(y, q, n_bins=n_bins, strategy={"mass": "quantile", "width": "uniform"}[binning])
    np.testing.assert_allclose(curve.predicted, mean, atol=1e-12)
    np.testing.assert_allclose(curve.observed, share, atol=1e-12)
    assert curve.count.sum() == n
    hits = np.rint(curve.observed * curve.count)
    k = len(hits)
    for band, tail in ((curve.pointwise, 0.025), (curve.simultaneous, 0.025 / k)):
        for b in range(k):
            expected = binomtest(int(hits[b]), int(curve.count[b])).proportion_ci(1 - 2 * tail, "exact")
            assert band.low[b] == pytest.approx(expected.low, rel=1e-7)
            assert band.high[b] == pytest.approx(expected.high, rel=1e-7)


@given(seeds)
def test_equal_predictions_share_a_bin_whatever_the_order(seed):
    q, y = case(seed, digits=1)
    order = np.lexsort((y, q))  # the worst order: outcomes sorted among equal predictions
    one, other = reliability_curve(q, y, 8), reliability_curve(q[order], y[order], 8)
    np.testing.assert_allclose(one.observed, other.observed, atol=1e-14)
    assert one.count.tolist() == other.count.tolist()
    assert isotonic_band(q, y).low.tolist() == isotonic_band(q[order], y[order]).low.tolist()


def band_by_definition(q, y, level, at):
    """Every run of distinct predictions bounds what lies left of it from above, and right of it from below."""
    values = np.unique(q)
    m = len(values)
    low, high = np.zeros(len(at)), np.ones(len(at))
    for i in range(m):
        for j in range(i, m):
            inside = (q >= values[i]) & (q <= values[j])
            limits = binomtest(int(y[inside].sum()), int(inside.sum())).proportion_ci(
                1 - 2 * (1 - level) / (m * (m + 1)), "exact"
            )
            low = np.where(at >= values[j], np.maximum(low, limits.low), low)
            high = np.where(at <= values[i], np.minimum(high, limits.high), high)
    return low, high


@pytest.mark.parametrize("seed", [0, 1])
def test_the_band_without_bins_by_brute_force(seed):
    q, y = case(seed, n=60)
    q = (q * 7).round() / 7
    band = isotonic_band(q, y, 0.9, n_blocks=60)
    at = np.r_[0.0, np.unique(q), np.unique(q)[:-1] + 0.03, 1.0]
    low, high = band.at(at)
    expected_low, expected_high = band_by_definition(q, y, 0.9, at)
    np.testing.assert_allclose(low, expected_low, atol=1e-9)
    np.testing.assert_allclose(high, expected_high, atol=1e-9)


@given(seeds, st.integers(1, 70))
def test_the_band_without_bins_never_falls(seed, n_blocks):
    q, y = case(seed)
    band = isotonic_band(q, y, n_blocks=n_blocks)
    low, high = band.at(np.linspace(0, 1, 101))
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) >= 0).all()
    assert band.n_blocks <= n_blocks
    wider = isotonic_band(q, y, level=0.999, n_blocks=n_blocks)
    assert (wider.at(q)[0] <= band.at(q)[0]).all()
    assert (wider.at(q)[1] >= band.at(q)[1]).all()


def test_bands_cover_and_calibration_is_rejected_when_it_should_be():
    """200 repetitions. Each band misses at most 5% of the time; more than 25 misses have probability 1.3e-5."""
    rng = np.random.default_rng(11)
    misses = dict.fromkeys(("pointwise", "simultaneous", "isotonic", "true, curve", "true, band"), 0)
    found = 0
    for _ in range(200):
        q = rng.beta(1.5, 1.5, 300)
        p = 0.5 * q**2 + 0.1
        y = rng.random(300) < p
        curve, band = reliability_curve(q, y, 8), isotonic_band(q, y, n_blocks=20)
        places = np.array_split(np.argsort(q), 8)
        means = np.array([p[place].mean() for place in places])
        outside = [(means < one.low) | (means > one.high) for one in (curve.pointwise, curve.simultaneous)]
        misses["pointwise"] += outside[0][3]
        misses["simultaneous"] += outside[1].any()
        low, high = band.at(q)
        misses["isotonic"] += ((p < low) | (p > high)).any()
        found += curve.rejects_calibration and band.rejects_calibration
        y = rng.random(300) < q
        misses["true, curve"] += reliability_curve(q, y, 8).rejects_calibration
        misses["true, band"] += isotonic_band(q, y, n_blocks=20).rejects_calibration
    assert max(misses.values()) <= 25
    assert misses["pointwise"] > 0  # exact limits, not infinite ones
    assert found > 190  # such predictions are found out


def test_no_event_at_all_still_bounds_the_probability():
    curve = reliability_curve(np.linspace(0.1, 0.2, 500), np.zeros(500), 1)
    assert curve.pointwise.low[0] == 0
    assert curve.pointwise.high[0] == pytest.approx(1 - 0.025 ** (1 / 500), rel=1e-9)
    assert isotonic_band(np.full(500, 0.3), np.zeros(500)).rejects_calibration


def test_bad_input_is_refused():
    q, y = case(0)
    for function in (reliability_curve, isotonic_band):
        with pytest.raises(ValueError, match="NaN"):
            function(np.where(q > 0.5, np.nan, q), y)
        with pytest.raises(ValueError, match="level must lie strictly"):
            function(q, y, level=1.0)
        with pytest.raises(ValueError, match="0 and 1 only"):
            function(q, 2 * y)
    with pytest.raises(ValueError, match="120 predictions for n_bins=121"):
        reliability_curve(q, y, 121)
    with pytest.raises(ValueError, match="n_blocks must be"):
        isotonic_band(q, y, n_blocks=0)
    with pytest.raises(ValueError, match="level must lie"):
        bin_bands(np.ones(2), np.full(2, 3), 0)
    with pytest.raises(ValueError, match="lies between"):
        isotonic_band(q, y).at(np.array([1.5]))


def test_diagrams(tmp_path):
    q, y = case(0)
    figure = reliability_diagram({"raw": q, "$x_": q / 2}, y, n_bins=5)
    assert len(figure.axes) == 4  # two panels, each with its histogram
    assert figure.axes[0].get_title().startswith("raw\nBrier 0.")
    figure.savefig(tmp_path / "diagram.png", dpi=30)
    with pytest.raises(ValueError, match="empty mapping"):
        reliability_diagram({}, y)
