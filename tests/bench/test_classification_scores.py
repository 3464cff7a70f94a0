"""Scores of class probabilities against scikit-learn and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from uqsparse.bench.classification_scores import (
    as_labels,
    as_probabilities,
    brier,
    highest_probability_sets,
    nll_class,
    reliability,
)
from uqsparse.bench.scores import COLUMNS, best_rows, classification_scores

seeds = st.integers(0, 10_000)
classes = st.integers(2, 5)


def cases(seed: int, c: int, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(c, 0.7), n), rng.integers(c, size=n)


@given(seeds, classes)
def test_brier_and_log_loss_are_those_of_scikit_learn(seed, c):
    p, y = cases(seed, c)
    labels = list(range(c))
    assert nll_class(p, y).mean() == pytest.approx(log_loss(y, p, labels=labels), rel=1e-9)
    expected = brier_score_loss(y, p, labels=labels, scale_by_half=False)
    assert brier(p, y).mean() == pytest.approx(expected, rel=1e-9)


@given(seeds, classes, st.integers(1, 20))
def test_calibration_error_by_brute_force(seed, c, n_bins):
    p, y = cases(seed, c)
    total = 0.0
    for b in range(n_bins):
        low, high = b / n_bins, (b + 1) / n_bins
        inside = [i for i in range(len(y)) if low < p[i].max() <= high]
        if inside:
            accuracy = np.mean([p[i].argmax() == y[i] for i in inside])
            total += len(inside) / len(y) * abs(accuracy - np.mean([p[i].max() for i in inside]))
    assert reliability(p, y, n_bins).expected_calibration_error == pytest.approx(total, abs=1e-12)


def test_a_confident_and_right_method_is_calibrated():
    bins = reliability(np.eye(3), np.arange(3))
    assert bins.expected_calibration_error == 0
    assert bins.count[-1] == 3
    assert np.isnan(bins.accuracy[0])


@given(seeds, classes, st.integers(1, 20))
def test_limits_of_the_accuracy_of_a_bin_are_those_of_scipy(seed, c, n_bins):
    bins = reliability(*cases(seed, c), n_bins)
    for b in range(n_bins):
        limits = (0.0, 1.0)
        if bins.count[b]:
            hits = round(bins.accuracy[b] * bins.count[b])
            limits = binomtest(hits, int(bins.count[b])).proportion_ci(0.95, "exact")
        assert (bins.low[b], bins.high[b]) == pytest.approx(tuple(limits), abs=1e-9)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    p = np.array([[0.75, 0.25], [0.6, 0.4], [1.0, 0.0]])
    assert reliability(p, np.zeros(3, dtype=int), 4).count.tolist() == [0, 0, 2, 1]


@given(seeds, classes, st.floats(0.05, 0.95))
def test_sets_are_the_smallest_that_reach_the_level(seed, c, level):
    p, _ = cases(seed, c, n=5)
    for probabilities, member in zip(p, highest_probability_sets(p, level), strict=True):
        reaching = [
            subset
            for size in range(1, c + 1)
            for subset in itertools.combinations(range(c), size)
            if probabilities[list(subset)].sum() >= level - 1e-12
        ]
        smallest = min(len(subset) for subset in reaching)
        most = max(probabilities[list(subset)].sum() for subset in reaching if len(subset) == smallest)
        assert member.sum() == smallest
        assert probabilities[member].sum() == pytest.approx(most)


def test_a_row_of_scores():
    p, y = cases(1, 3)
    row = classification_scores(p, y, 3)
    assert row["scores"]["accuracy"] == pytest.approx(accuracy_score(y, p.argmax(axis=1)))
    sets = highest_probability_sets(p, 0.9)
    assert row["scores"]["coverage"] == pytest.approx(np.mean([sets[i, y[i]] for i in range(len(y))]))
    assert row["scores"]["size"] == pytest.approx(sets.sum() / len(y))
    assert sum(row["bins"]["count"]) == len(y)
    assert all(
        low < share < high or share in (low, high)
        for share, low, high in zip(row["bins"]["accuracy"], row["bins"]["low"], row["bins"]["high"], strict=True)
    )


def test_an_impossible_outcome_costs_an_infinite_log_loss_without_a_warning():
    row = classification_scores(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), 2)
    assert row["scores"]["nll"] == np.inf
    assert row["errors"]["nll"] is None


def test_single_precision_sums_are_repaired_and_wrong_ones_refused():
    single = np.full((1, 10), 0.1, dtype=np.float32) * np.float32(1.00002)
    np.testing.assert_allclose(as_probabilities(single, 1, 10).sum(), 1, rtol=1e-15)
    for p, message in [
        (np.full((2, 2), 0.4), "row 0 sum to 0.8"),
        (np.array([[1.5, -0.5]] * 2), "negative"),
        (np.full((2, 2), np.nan), "NaN"),
        (np.full((2, 3), 1 / 3), r"shape \(2, 3\); expected .* = \(2, 2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            as_probabilities(p, 2, 2)
    with pytest.raises(ValueError, match="whole numbers"):
        as_labels(np.array([0.5]))
    with pytest.raises(ValueError, match="whole numbers"):
        as_labels(np.array([-1]))
    with pytest.raises(ValueError, match="label 2; the probabilities are for 2 classes"):
        brier(np.full((1, 2), 0.5), np.array([2]))


def test_the_best_value_of_a_column():
    crps, coverage = COLUMNS["regression"]["crps"], COLUMNS["regression"]["coverage"]
    assert best_rows(crps, [2.0, 1.0, 1.0]) == {1, 2}
    assert best_rows(coverage, [0.99, 0.88, 0.5]) == {1}
    assert best_rows(COLUMNS["classification"]["accuracy"], [0.1, 0.2, None]) == {1}
    assert best_rows(COLUMNS["regression"]["width"], [1.0, 2.0]) == set()
    assert best_rows(crps, [1.0]) == set()  # being first of one is no merit
