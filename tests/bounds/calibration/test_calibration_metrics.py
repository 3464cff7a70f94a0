"""Metrics of predicted probabilities against closed forms by hand, scikit-learn and exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as log_loss_of_sklearn

from uqsparse.bounds.calibration.binning import bin_of
from uqsparse.bounds.calibration.class_scores import brier_of_classes, nll_of_classes, top_label
from uqsparse.bounds.calibration.decompositions import brier_decomposition, isotonic_decomposition
from uqsparse.bounds.calibration.metrics import (
    auc,
    brier,
    calibration_metrics,
    expected_calibration_error,
    kl_to_truth,
    ks_error,
    log_loss,
    maximum_calibration_error,
    mse_to_truth,
)

seeds = st.integers(0, 10_000)

# Twelve points for which everything can be worked out by hand.
Q = np.array([0.05, 0.10, 0.15, 0.30, 0.35, 0.40, 0.55, 0.60, 0.65, 0.80, 0.85, 0.90])
Y = np.array([0, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0])


def case(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, outcomes of both classes, and true probabilities."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1.5, 2, n)
    y = rng.random(n) < p
    y[:2] = True, False
    return expit(logit(p) + rng.normal(size=n)), y, p


def test_twelve_points_by_hand_in_bins_of_equal_mass():
    # Four bins of three: mean predictions 0.1, 0.35, 0.6, 0.85, and 1, 1, 2, 2 of 3 events.
    found = expected_calibration_error(Q, Y, n_bins=4)
    np.testing.assert_allclose(found.gap, [-7 / 30, 1 / 60, -1 / 15, 11 / 60], atol=1e-15)
    assert found.value == pytest.approx(1 / 8, abs=1e-15)
    assert (found.binning, found.n_bins, found.count.tolist()) == ("mass", 4, [3, 3, 3, 3])
    worst = maximum_calibration_error(Q, Y, n_bins=4)
    assert float(worst) == worst.value == pytest.approx(7 / 30, abs=1e-15)


def test_twelve_points_by_hand_in_bins_of_equal_width():
    # Bins (0, 0.2], ..., (0.8, 1] of 3, 3, 2, 2, 2: a prediction on an edge belongs to the bin below.
    found = expected_calibration_error(Q, Y, n_bins=5, binning="width")
    np.testing.assert_allclose(found.gap, [-7 / 30, 1 / 60, 0.075, -0.275, 0.375], atol=1e-15)
    assert found.value == pytest.approx(11 / 60, abs=1e-15)
    assert (found.binning, found.count.tolist()) == ("width", [3, 3, 2, 2, 2])
    assert maximum_calibration_error(Q, Y, 5, "width").value == pytest.approx(0.375, abs=1e-15)


def test_twelve_points_by_hand_without_bins():
    # The cumulative gap is largest after eleven points: -1.2.
    assert ks_error(Q, Y) == pytest.approx(0.1, abs=1e-15)
    assert auc(Q, Y) == pytest.approx(2 / 3, abs=1e-15)
    exact = sum((Fraction(round(100 * q), 100) - int(y)) ** 2 for q, y in zip(Q, Y, strict=True)) / 12
    assert brier(Q, Y) == pytest.approx(float(exact), abs=1e-15)
    likelihood = math.prod(
        Fraction(round(100 * q), 100) if y else 1 - Fraction(round(100 * q), 100) for q, y in zip(Q, Y, strict=True)
    )
    assert log_loss(Q, Y).value == pytest.approx(-math.log(likelihood) / 12, rel=1e-14)


@given(seeds, st.integers(1, 12))
def test_bins_are_those_of_scikit_learn(seed, n_bins):
    q, y, _ = case(seed)
    for binning, strategy, n in (("width", "uniform", 60), ("mass", "quantile", 60 // n_bins * n_bins)):
        share, mean = calibration_curve(y[:n], q[:n], n_bins=n_bins, strategy=strategy)
        if len(set(y[:n])) < 2:
            return
        found = expected_calibration_error(q[:n], y[:n], n_bins, binning)
        np.testing.assert_allclose(found.gap, mean - share, atol=1e-12)
        weights = found.count if binning == "width" else None
        assert found.value == pytest.approx(np.average(abs(mean - share), weights=weights), abs=1e-12)


def test_counts_of_bins_of_equal_mass_differ_by_one_at_most():
    place = bin_of(np.random.default_rng(0).random(100), 15)
    assert sorted(np.bincount(place)) == [6] * 5 + [7] * 10


@given(seeds)
def test_scores_are_those_of_scikit_learn(seed):
    q, y, _ = case(seed)
    assert brier(q, y) == pytest.approx(brier_score_loss(y, q), rel=1e-12)
    assert log_loss(q, y).value == pytest.approx(log_loss_of_sklearn(y, q), rel=1e-12)
    both = np.stack([1 - q, q], axis=1)
    assert brier_of_classes(both, y.astype(int)).mean() == pytest.approx(2 * brier(q, y), rel=1e-12)
    assert nll_of_classes(both, y.astype(int)).mean() == pytest.approx(log_loss(q, y).value, rel=1e-12)


def test_only_logarithms_are_clipped_and_they_say_so():
    q, y = np.array([0.0, 1.0, 0.5, 1.0]), np.array([0, 0, 1, 1])
    found = log_loss(q, y, clip=1e-6)
    assert (found.n_clipped, found.clip) == (3, 1e-6)
    assert found.value == pytest.approx((-math.log(1e-6) + math.log(2) + 2e-6) / 4, rel=1e-6)
    assert brier(q, y) == pytest.approx(1.25 / 4)
    assert log_loss(Q, Y).n_clipped == 0
    # The truth may be sure; it is not clipped.
    divergence = kl_to_truth(np.array([0.5, 1.0]), np.array([1.0, 0.5]), clip=1e-3)
    expected = (math.log(2) + math.log(0.5) - 0.5 * math.log(0.999) - 0.5 * math.log(0.001)) / 2
    assert divergence.value == pytest.approx(expected, rel=1e-9)
    assert divergence.n_clipped == 1
    assert kl_to_truth(np.array([0.0, 1.0]), np.array([0.0, 1.0])).value == pytest.approx(0, abs=1e-11)


@given(seeds)
def test_the_order_of_rows_is_of_no_account(seed):
    rng = np.random.default_rng(seed)
    q, y, _ = case(seed)
    coarse = q.round(1).clip(0, 1)
    shuffled = rng.permutation(len(q))
    assert ks_error(coarse, y) == pytest.approx(ks_error(coarse[shuffled], y[shuffled]), abs=1e-14)
    assert ks_error(coarse, y) == pytest.approx(
        max(abs((coarse - y)[coarse <= t].sum()) for t in coarse) / len(q), abs=1e-14
    )
    # Bins of equal mass may part ties by the order of rows; predictions without ties they cannot.
    one, other = (expected_calibration_error(*pair).value for pair in ((q, y), (q[shuffled], y[shuffled])))
    assert one == pytest.approx(other, abs=1e-14)


@given(seeds, st.integers(1, 20), st.sampled_from(["mass", "width"]))
def test_the_decomposition_of_murphy_is_exact(seed, n_bins, binning):
    q, y, _ = case(seed)
    found = brier_decomposition(q, y, n_bins, binning)
    assert found.total() == pytest.approx(found.brier, abs=1e-14)
    assert found.brier == pytest.approx(brier(q, y), abs=1e-15)
    assert (found.binning, found.n_bins) == (binning, n_bins)
    # With one value a bin nothing happens within: the terms of Murphy alone.
    coarse = (np.ceil(q * n_bins) - 0.5) / n_bins
    alone = brier_decomposition(coarse, y, n_bins, "width")
    assert abs(alone.within_bin_variance) + abs(alone.within_bin_covariance) < 1e-14
    bins = [coarse == one for one in np.unique(coarse)]
    assert alone.reliability == pytest.approx(sum(((coarse - y)[b].sum()) ** 2 / b.sum() for b in bins) / len(q))
    assert alone.resolution == pytest.approx(sum(b.sum() * (y[b].mean() - y.mean()) ** 2 for b in bins) / len(q))


@given(seeds)
def test_the_isotonic_decomposition(seed):
    q, y, _ = case(seed)
    found = isotonic_decomposition(q.round(1).clip(0, 1), y)
    assert found.miscalibration - found.discrimination + found.uncertainty == pytest.approx(found.brier, abs=1e-14)
    assert min(found.miscalibration, found.discrimination) >= -1e-15
    assert (np.diff(found.recalibrated) >= 0).all()
    assert found.count.sum() == len(q)
    # What is isotonic already has nothing left to gain.
    again = isotonic_decomposition(np.repeat(found.recalibrated, found.count), np.sort(y))
    assert again.predicted.tolist() == np.unique(found.recalibrated).tolist()


def test_brier_is_the_distance_to_the_truth_and_noise():
    """Within 4 standard errors of 100 000 points, known exactly given q and p: false alarms 6e-5."""
    rng = np.random.default_rng(8)
    p = rng.beta(1.5, 1.5, 100_000)
    q = np.clip(0.8 * p + 0.15, 0, 1)
    y = rng.random(len(p)) < p
    error = np.sqrt(np.sum(p * (1 - p) * (1 - 2 * q) ** 2)) / len(p)
    assert abs(brier(q, y) - mse_to_truth(q, p) - np.mean(p * (1 - p))) < 4 * error
    assert kl_to_truth(q, p).value >= 2 * mse_to_truth(q, p)  # Pinsker


def test_the_table_states_its_bins_and_clips():
    q, y, p = case(3)
    q[0], y[0] = 1.0, True
    row = calibration_metrics(q, y, p, n_bins=7, binning="width").as_row()
    assert "ECE (7 bins of equal width)" in row
    assert "MCE (7 bins of equal width)" in row
    assert "NLL (1 clipped at 1e-12)" in row
    assert row["MSE to the truth"] == mse_to_truth(q, p)
    assert len(calibration_metrics(q, y).as_row()) == 6


def test_the_top_label_is_an_event():
    rng = np.random.default_rng(5)
    p, y = rng.dirichlet(np.ones(3), 40), rng.integers(3, size=40)
    confidence, right = top_label(p, y)
    np.testing.assert_allclose(confidence, [max(row) for row in p], rtol=1e-14)
    assert right.tolist() == [row.argmax() == one for row, one in zip(p, y, strict=True)]


@pytest.mark.parametrize(
    "metric", [brier, log_loss, expected_calibration_error, maximum_calibration_error, ks_error, auc]
)
@pytest.mark.parametrize(
    ("q", "y", "message"),
    [
        ([0.5, np.nan], [0, 1], "q has 1 values that are NaN"),
        ([0.5, 1.5], [0, 1], "between 0.5 and 1.5; expected probabilities"),
        ([-2.0, 3.0], [0, 1], "not logits"),
        ([[0.5, 0.5]], [0, 1], r"q has shape \(1, 2\)"),
        ([], [], r"q has shape \(0,\)"),
        ([0.5, 0.5], [0, 1, 1], r"y has shape \(3,\)"),
        ([0.5, 0.5], [0, 2], "0 and 1 only"),
        ([0.5, 0.5], [0, np.nan], "0 and 1 only"),
        ([0.5, 0.5], ["a", "b"], "0 and 1 only"),
    ],
)
def test_bad_input_is_refused(metric, q, y, message):
    with pytest.raises(ValueError, match=message):
        metric(np.array(q), np.array(y))


def test_other_refusals():
    one_class = (np.full(20, 0.5), np.ones(20))
    for metric in (expected_calibration_error, maximum_calibration_error, auc, calibration_metrics):
        with pytest.raises(ValueError, match="the class 1 only"):
            metric(*one_class)
    with pytest.raises(ValueError, match="12 predictions for n_bins=13 bins"):
        expected_calibration_error(Q, Y, n_bins=13)
    with pytest.raises(ValueError, match="n_bins must be an integer"):
        expected_calibration_error(Q, Y, n_bins=0)
    with pytest.raises(ValueError, match="binning must be"):
        expected_calibration_error(Q, Y, binning="count")
    for clip in (0, 0.5, np.nan):
        with pytest.raises(ValueError, match="clip must lie"):
            log_loss(Q, Y, clip)
    with pytest.raises(ValueError, match="p has length 3"):
        mse_to_truth(Q, Q[:3])
    with pytest.raises(ValueError, match="p has 1 values"):
        kl_to_truth(Q[:1], np.array([np.nan]))
    with pytest.raises(TypeError, match="expected real numbers"):
        brier(np.array(["a"]), Y[:1])
