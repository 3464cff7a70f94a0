"""Conformal versions of the leaderboards' methods: fitted to a part of the training data, calibrated on the rest."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from uqsparse.bench.classification_scores import as_labels, as_probabilities
from uqsparse.bench.forecasts import one_step_forecasts
from uqsparse.bench.records import Context, GaussianMixture, NotMeasured, Split
from uqsparse.bench.regression_scores import as_draws, central_interval
from uqsparse.bench.scores import LEVEL
from uqsparse.bounds.conformal import SplitConformal
from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.online import AdaptiveConformal
from uqsparse.bounds.scores.labels import LAC
from uqsparse.bounds.scores.residuals import QuantileResidual
from uqsparse.kernels import conformal_rank

CALIBRATION_SHARE = 1 / 3
GAMMA = 0.01
ALPHA = round(1 - LEVEL, 12)

HOW = {
    "regression": "the ends of the method's own central {level:.0%} intervals are moved by one amount, with which they "
    "cover {level:.0%} of the calibration rows (conformalised quantile regression)",
    "classification": "a set holds the classes whose probability is at least as high as that of the true class in "
    "{level:.0%} of the calibration rows, and the most probable class in any case (least ambiguous sets)",
    "forecast": "the ends of the method's own central {level:.0%} intervals are moved by one amount, which follows its "
    "misses from row to row (adaptive conformal inference, gamma = {gamma:g})",
}

Prediction = GaussianMixture | Float[np.ndarray, "m n"]


class ConformalVersion(NamedTuple):
    """What a conformal version hands back.

    Args:
        prediction: the predictive distributions of the test part, fitted to fewer rows than the method itself.
        sets: the calibrated sets of the test part, with their guarantee.
        seconds: what fitting, predicting and calibrating took.
        n_fit: how many rows it was fitted to.
        n_calibration: how many it was calibrated on.
    """

    prediction: Any
    sets: Any
    seconds: float
    n_fit: int
    n_calibration: int

    def details(self, kind: str) -> dict[str, Any]:
        """What the report says about it."""
        guarantee: Guarantee = self.sets.guarantee
        rank = conformal_rank(self.n_calibration, ALPHA)
        # Sets of labels cover more: scores tie, and no set is empty.
        continuous = kind == "regression" and rank <= self.n_calibration
        spread = stats.beta.ppf((0.025, 0.975), rank, self.n_calibration + 1 - rank) if continuous else None
        return {
            "n_fit": self.n_fit,
            "n_calibration": self.n_calibration,
            "how": HOW[kind].format(level=LEVEL, gamma=GAMMA),
            "guarantee": str(guarantee),
            "coverage_range": None if spread is None else spread.tolist(),
        }


def conformal_regression(method: Callable[..., Any], context: Context, split: Split, seed: int) -> ConformalVersion:
    """A regression method with conformalised intervals.

    Args:
        method: a function as `bench.method` describes it.
        context: what it is told.
        split: the task's data.
        seed: decides which training rows calibrate.

    Raises:
        NotMeasured: there are too few training rows to share.
    """
    start = time.perf_counter()
    fit, held_out = _shares(len(split.y_train), seed)
    both = _predicted(method, context, split, fit, held_out)
    n = len(held_out)
    both = both if isinstance(both, GaussianMixture) else as_draws(both, n + len(split.y_test))
    low, high = central_interval(both, LEVEL)
    calibrated = SplitConformal(QuantileResidual(), ALPHA).calibrate((low[:n], high[:n]), split.y_train[held_out])
    sets = calibrated.predict((low[n:], high[n:]))
    return ConformalVersion(_columns(both, n), sets, time.perf_counter() - start, len(fit), n)


def conformal_classification(
    method: Callable[..., Any], context: Context, split: Split, n_classes: int, seed: int
) -> ConformalVersion:
    """A classification method with conformal label sets.

    Args:
        method: a function as `bench.method` describes it.
        context: what it is told.
        split: the task's data.
        n_classes: the number of classes.
        seed: decides which training rows calibrate.

    Raises:
        NotMeasured: there are too few training rows to share, or a class has none left to be learned from.
    """
    start = time.perf_counter()
    labels = as_labels(split.y_train)
    fit, held_out = _shares(len(labels), seed)
    if missing := sorted(set(range(n_classes)) - set(labels[fit].tolist())):
        raise NotMeasured(f"class {missing[0]} has no training rows beside those that calibrate")
    both = np.asarray(_predicted(method, context, split, fit, held_out))
    n = len(held_out)
    both = as_probabilities(both, n + len(split.y_test), n_classes)
    calibrated = SplitConformal(LAC(allow_empty=False), ALPHA).calibrate(both[:n], labels[held_out])
    sets = calibrated.predict(both[n:])
    return ConformalVersion(both[n:], sets, time.perf_counter() - start, len(fit), n)


def conformal_forecast(method: Callable[..., Any], context: Context, split: Split) -> ConformalVersion:
    """A forecast method with adaptive conformal intervals.

    It learns from the first part of the training rows, forecasts the rest and the test part one step ahead, and the
    rest calibrates.

    Args:
        method: a function as `bench.method` describes it for forecasts.
        context: what it is told.
        split: the series.

    Raises:
        NotMeasured: there are too few training rows to share.
        ValueError: a forecast depends on what comes after it.
    """
    n = _n_calibration(len(split.y_train))
    n_fit = len(split.y_train) - n
    rest = np.concatenate([split.X_train[n_fit:], split.X_test]), np.concatenate([split.y_train[n_fit:], split.y_test])
    both, seconds = one_step_forecasts(method, context, Split(split.X_train[:n_fit], split.y_train[:n_fit], *rest))
    start = time.perf_counter()
    low, high = central_interval(both, LEVEL)
    adaptive = AdaptiveConformal(QuantileResidual(), ALPHA, gamma=GAMMA)
    sets = adaptive.run((low[n:], high[n:]), split.y_test, ((low[:n], high[:n]), split.y_train[n_fit:])).sets
    return ConformalVersion(_columns(both, n), sets, seconds + time.perf_counter() - start, n_fit, n)


def _n_calibration(n_train: int) -> int:
    if n_train < 3:
        raise NotMeasured(f"{n_train} training rows are too few to fit to some and to calibrate on others")
    return round(n_train * CALIBRATION_SHARE)


def _shares(n_train: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit to and rows to calibrate on, at random."""
    order = np.random.default_rng(seed).permutation(n_train)
    n = _n_calibration(n_train)
    return np.sort(order[n:]), np.sort(order[:n])


def _predicted(
    method: Callable[..., Any], context: Context, split: Split, fit: np.ndarray, held_out: np.ndarray
) -> Any:
    """Predictions for the rows that calibrate and for the test part, made alike."""
    wanted = np.concatenate([split.X_train[held_out], split.X_test])
    return method(context, split.X_train[fit], split.y_train[fit], wanted)


def _columns(prediction: Prediction, start: int) -> Prediction:
    if isinstance(prediction, GaussianMixture):
        return GaussianMixture(prediction.mean[:, start:], prediction.sd[:, start:])
    return prediction[:, start:]
