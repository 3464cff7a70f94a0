"""Checks of predicted probabilities of an event and of its outcomes, at the door."""

from typing import Any

import numpy as np
from jaxtyping import Float

Probability = Float[np.ndarray, " n"]
Outcome = Float[np.ndarray, " n"]


def as_event_probabilities(name: str, values: Any) -> Probability:
    """Probabilities of an event as float64.

    Args:
        name: what the caller calls them, for the message.
        values: numbers in [0, 1], shape (n,), n >= 1.

    Raises:
        TypeError: they are no real numbers.
        ValueError: another shape, no value, NaN, or a value outside [0, 1].

    >>> as_event_probabilities("q", [0, 1])
    array([0., 1.])
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {array.dtype}; expected real numbers")
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} has shape {array.shape}; expected (n,) with n >= 1: one probability of y = 1 a row")
    array = array.astype(np.float64)
    if n_bad := int(np.count_nonzero(~np.isfinite(array))):
        raise ValueError(f"{name} has {n_bad} values that are NaN or infinite")
    if array.min() < 0 or array.max() > 1:
        raise ValueError(
            f"{name} lies between {array.min():.6g} and {array.max():.6g}; expected probabilities in [0, 1], not logits"
        )
    return array


def as_outcomes(y: Any, n: int, both: bool = False) -> Outcome:
    """Outcomes of an event as float64.

    Args:
        y: 0 or 1, numbers or booleans, shape (n,).
        n: how many there must be.
        both: whether each of 0 and 1 must occur.

    Raises:
        ValueError: another shape, NaN, a value besides 0 and 1, or one class only where both are needed.

    >>> as_outcomes([True, False], 2)
    array([1., 0.])
    """
    array = np.asarray(y)
    if array.shape != (n,):
        raise ValueError(f"y has shape {array.shape}; expected ({n},), one outcome a prediction")
    if array.dtype.kind not in "fiub" or not np.isin(array, (0, 1)).all():
        raise ValueError("y must hold outcomes 0 and 1 only, without NaN")
    array = array.astype(np.float64)
    if both and array.min() == array.max():
        raise ValueError(f"y holds the class {array[0]:.0f} only; expected outcomes of both classes")
    return array


def predictions_and_outcomes(q: Any, y: Any, both: bool = False) -> tuple[Probability, Outcome]:
    """Both arguments of a metric, checked."""
    q = as_event_probabilities("q", q)
    return q, as_outcomes(y, len(q), both)
