"""The measures and references of PRESTO's claims."""

import numpy as np
import pytest

from uqsparse.bench.entries.presto_peers import (
    ConvexProgram,
    area_under_curve,
    binned_calibration_error,
    largest_penalty,
    log_loss,
)
from uqsparse.data.ordinal_draws import sparse_differences


def test_calibration_error_pairs_predictions_with_their_own_outcomes():
    # Ten bins of two rows; in each, one of the two is rare, and the predictions are spread evenly.
    q = np.repeat(np.linspace(0.05, 0.95, 10), 2)
    rare = np.tile([True, False], 10)
    expected = np.mean((np.linspace(0.05, 0.95, 10) - 0.5) ** 2)
    assert binned_calibration_error(q, rare) == pytest.approx(expected)
    order = np.random.default_rng(0).permutation(20)
    assert binned_calibration_error(q[order], rare[order]) == pytest.approx(expected)


def test_bins_grow_with_the_rows_and_hold_the_same_number():
    rng = np.random.default_rng(1)
    q = rng.uniform(size=3000)
    rare = rng.uniform(size=3000) < q
    order = np.argsort(q)
    bins = [(q[b].mean() - rare[b].mean()) ** 2 for b in np.split(order, 30)]
    assert binned_calibration_error(q, rare) == pytest.approx(np.mean(bins))


def test_largest_penalty_is_where_cvxpy_lets_a_feature_in():
    pytest.importorskip("cvxpy")
    draw = sparse_differences(2, n=80, p=2, intercepts=(0.0, 1.5), share=1.0)
    X = (draw.X - draw.X.mean(axis=0)) / draw.X.std(axis=0)
    largest, program = largest_penalty(X, draw.y, 3), ConvexProgram(X, draw.y, 3, np.ones(2))
    assert abs(program.solve(1.02 * largest).psi).max() < 1e-6
    assert abs(program.solve(0.9 * largest).psi).max() > 1e-3


def test_scores_of_certain_predictions_stay_finite():
    rare = np.array([True, False])
    assert log_loss(np.array([1.0, 0.0]), rare) < 1e-11
    assert log_loss(np.array([0.0, 0.0]), rare) == pytest.approx(-np.log(1e-12) / 2)
    assert area_under_curve(np.array([0.9, 0.1]), rare) == 1
