"""Forecasts of a series one step ahead, and the guard against a forecast that has seen what it forecasts.

A method learns from the training part alone. What it returns is run over the test part twice, once on a series that
goes another way half through: up to there the forecasts must be the same, bit for bit.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from uqsparse.bench.records import Context, GaussianMixture, Split
from uqsparse.bench.regression_scores import as_draws

Forecaster = Callable[[np.ndarray, np.ndarray], Any]


def one_step_forecasts(
    method: Callable[[Context, np.ndarray, np.ndarray], Forecaster], context: Context, split: Split
) -> tuple[GaussianMixture | Float[np.ndarray, "m n"], float]:
    """Learn, forecast the test part, and check that no forecast depends on its own target or on later ones.

    Args:
        method: a function as `bench.method` describes it for the kind "forecast".
        context: what it is told.
        split: the series.

    Returns:
        The predictive distributions of the test part, and the seconds that learning and forecasting took, without the
        check.

    Raises:
        TypeError: the method returns something that cannot be called.
        ValueError: times do not increase, a shape is wrong, or a forecast changes with what comes after it.
    """
    times = np.concatenate([split.X_train[:, 0], split.X_test[:, 0]])
    if np.any(np.diff(times) <= 0):
        raise ValueError("the first column of X is time in a forecast task; expected it to increase from row to row")
    start = time.perf_counter()
    # Copies, so that a method that writes into its input cannot disturb the scores.
    forecaster = method(context, split.X_train.copy(), split.y_train.copy())
    if not callable(forecaster):
        raise TypeError(
            f"a forecast method returns a function of (X_test, y_test); this one returned {type(forecaster).__name__}"
        )
    prediction = _run(forecaster, split, split.y_test)
    seconds = time.perf_counter() - start

    turn = len(split.y_test) // 2
    # It stands still from there on: values that the series has had, so nothing breaks for another reason.
    stopped = split.y_test.copy()
    stopped[turn:] = split.y_test[turn - 1] if turn else split.y_train[-1]
    for before, after in zip(_arrays(prediction), _arrays(_run(forecaster, split, stopped)), strict=True):
        if before.shape != after.shape:
            raise ValueError(f"two runs gave forecasts of shapes {before.shape} and {after.shape}; expected the same")
        changed = np.flatnonzero((before != after)[:, : turn + 1].any(axis=0))
        if len(changed):
            raise ValueError(
                f"forecast {changed[0]} changed when the targets from {turn} on were altered; a forecast must depend "
                "on earlier targets only, and its chance on context.seed only"
            )
    return prediction, seconds


def _run(forecaster: Forecaster, split: Split, y: np.ndarray) -> GaussianMixture | np.ndarray:
    prediction = forecaster(split.X_test.copy(), y.copy())
    if not isinstance(prediction, GaussianMixture):
        return as_draws(prediction, len(y))
    if prediction.mean.shape[1] != len(y):
        raise ValueError(f"GaussianMixture.mean has shape {prediction.mean.shape}; expected (k, {len(y)})")
    return prediction


def _arrays(prediction: GaussianMixture | np.ndarray) -> list[np.ndarray]:
    return [prediction.mean, prediction.sd] if isinstance(prediction, GaussianMixture) else [prediction]
