"""Quantile regression calibrated by tail: exact order statistics, MAPIE, coverage of each tail, refusals."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uqsparse.bounds import PredictiveDraws, SplitConformal
from uqsparse.bounds.asymmetric import AsymmetricQuantile
from uqsparse.bounds.scores import QuantileResidual

rng = np.random.default_rng(0)


def simulated(n):
    """Skewed targets, and quantiles that are right below and too low above."""
    x = rng.uniform(0, 1, size=n)
    y = x + rng.exponential(size=n)
    return (x + 0.05, x + 1.5), y


@pytest.mark.parametrize(("n", "alpha"), [(39, 0.1), (80, 0.1), (100, 0.3), (19, 0.2), (199, 0.01)])
def test_ends_are_moved_by_order_statistics_of_each_tail(n, alpha):
    (low, high), y = simulated(n)
    rank = math.ceil((n + 1) * (1 - Fraction(str(alpha)) / 2))
    assert rank <= n
    calibrated = AsymmetricQuantile(alpha).calibrate((low, high), y)
    assert calibrated.lower_threshold == sorted(low - y)[rank - 1]
    assert calibrated.upper_threshold == sorted(y - high)[rank - 1]
    sets = calibrated.predict((low, high))
    assert (sets.lower == low - calibrated.lower_threshold).all()
    assert (sets.upper == high + calibrated.upper_threshold).all()
    assert sets.guarantee is not None
    assert (sets.guarantee.kind, sets.guarantee.level, sets.guarantee.n) == ("marginal", round(1 - alpha, 12), n)


class Constant:
    """A quantile that is a column of its input, in the form MAPIE takes."""

    def __init__(self, column):
        self.column = column
        self.n_features_in_ = 2
        self.is_fitted_ = True

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X, y):
        return self

    def predict(self, X):
        return X[:, self.column] if self.column < 2 else X.mean(1)


@pytest.mark.parametrize(("n", "alpha"), [(50, 0.1), (120, 0.3)])
def test_intervals_equal_mapies(n, alpha):
    mapie = pytest.importorskip("mapie.regression")
    (low, high), y = simulated(n + 20)
    X = np.stack([low, high], axis=1)
    peer = mapie.ConformalizedQuantileRegressor(
        [Constant(0), Constant(1), Constant(2)], confidence_level=1 - alpha, prefit=True
    )
    _, intervals = peer.conformalize(X[:n], y[:n]).predict_interval(X[n:], symmetric_correction=False)
    ours = AsymmetricQuantile(alpha).calibrate((low[:n], high[:n]), y[:n]).predict((low[n:], high[n:]))
    np.testing.assert_allclose(intervals[:, 0, 0], ours.lower, rtol=1e-12)
    np.testing.assert_allclose(intervals[:, 1, 0], ours.upper, rtol=1e-12)


def test_each_tail_is_covered_where_one_threshold_lets_one_tail_miss_all():
    """Misses of each tail over 400 calibrations of 59 are 3/60, within 4 se: false-alarm rate 1e-4."""
    misses, symmetric = np.empty((400, 2)), np.empty((400, 2))
    for i in range(400):
        predictions, y = simulated(159)
        old, new = (tuple(part[half] for part in predictions) for half in (slice(59), slice(59, None)))
        for found, method in [
            (misses, AsymmetricQuantile(0.1)),
            (symmetric, SplitConformal(QuantileResidual(), 0.1)),
        ]:
            sets = method.calibrate(old, y[:59]).predict(new)
            found[i] = (y[59:] < sets.lower).mean(), (y[59:] > sets.upper).mean()
    assert (abs(misses.mean(0) - 3 / 60) < 4 * misses.std(0) / 20).all()
    assert symmetric[:, 1].mean() > 0.09


def test_pvalues_exceed_alpha_exactly_inside():
    predictions, y = simulated(83)
    new, values = simulated(500)
    for alpha in (0.05, 0.2, 0.5):
        calibrated = AsymmetricQuantile(alpha).calibrate(predictions, y)
        assert (calibrated.predict(new).contains(values) == (calibrated.pvalue(new, values) > alpha + 1e-12)).all()


def test_several_levels_draws_jit_and_arviz():
    predictions, y = simulated(99)
    calibrated = AsymmetricQuantile([0.1, 0.5]).calibrate(predictions, y)
    sets = calibrated.predict(predictions)
    assert sets.lower.shape == (2, 99)
    assert (sets.size()[0] > sets.size()[1]).all()
    assert sets.to_arviz() is not None
    found = jax.jit(lambda c, p: c.predict(p).upper)(calibrated, tuple(map(jnp.asarray, predictions)))
    np.testing.assert_allclose(found, sets.upper, rtol=1e-6)
    draws = PredictiveDraws.of(rng.normal(size=(400, 99)))
    pair = (draws.quantile(0.05), draws.quantile(0.95))
    by_draws, by_pair = (AsymmetricQuantile(0.1).calibrate(one, y).lower_threshold for one in (draws, pair))
    assert by_draws == by_pair


def test_too_few_and_bad_input():
    predictions, y = simulated(30)
    with pytest.warns(UserWarning, match="alpha = 0.05 needs 19"):
        sets = AsymmetricQuantile(0.1).calibrate(tuple(p[:18] for p in predictions), y[:18]).predict(predictions)
    assert np.isneginf(sets.lower).all()
    assert np.isposinf(sets.upper).all()
    with pytest.raises(ValueError, match="alpha"):
        AsymmetricQuantile(1.0)
    with pytest.raises(ValueError, match=r"predictions has shape \(30,\); y has 29 entries"):
        AsymmetricQuantile(0.1).calibrate(predictions, y[:29])
    with pytest.raises(ValueError, match="NaN in 1 of 30 rows: 4"):
        AsymmetricQuantile(0.1).calibrate(predictions, np.where(np.arange(30) == 4, np.nan, y))
