"""Probabilities of class labels as predictions: what they must be, and how labels rank by them."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from uqsparse.bounds.predictive_draws import PredictiveDraws
from uqsparse.bounds.scores.score import as_array
from uqsparse.kernels import array_namespace, is_traced
from uqsparse.kernels.namespaces import AnyArray

# How far a row of probabilities may be from summing to 1, by the bits of its dtype; 1e-6 for others.
_SUM_TOLERANCE = {32: 1e-4, 16: 1e-2}


def class_probabilities(predictions: Any) -> Any:
    """Probabilities of shape (n, K), checked; predictive draws of them are averaged.

    Args:
        predictions: shape (n, K), each row nonnegative and summing to 1 within 1e-6 (1e-4 in single, 1e-2 in half
            precision), or `PredictiveDraws` of shape (m, n, K).

    Raises:
        ValueError: another shape, or rows that are no probabilities, which are named.
    """
    if isinstance(predictions, PredictiveDraws):
        if predictions.values.ndim != 3:
            shape = predictions.values.shape
            raise ValueError(f"draws have shape {shape}; expected draws of probabilities (m, n, n_classes)")
        predictions = predictions.mean()
    probabilities = as_array("predictions", predictions)
    if probabilities.dtype.kind in "iub":
        probabilities = probabilities.astype(float)
    if probabilities.ndim != 2 or not probabilities.shape[1]:
        raise ValueError(f"predictions have shape {probabilities.shape}; expected probabilities (n, n_classes)")
    if not is_traced(probabilities):
        plain = np.asarray(probabilities, dtype=np.float64)
        tolerance = _SUM_TOLERANCE.get(8 * probabilities.dtype.itemsize, 1e-6)
        _refuse("are negative or NaN", (~(plain >= 0)).any(axis=1))
        _refuse("do not sum to 1", ~(np.abs(plain.sum(axis=1) - 1) <= tolerance))
    return probabilities


def _refuse(what: str, bad: Any) -> None:
    if (rows := np.flatnonzero(bad)).size:
        named = ", ".join(map(str, rows[:5])) + (", …" if rows.size > 5 else "")
        raise ValueError(f"predictions {what} in {rows.size} of {len(bad)} rows: {named}")


def checked_labels(y: Any, n: int, n_classes: int) -> Any:
    """Labels fit to index probabilities.

    Raises:
        ValueError: they are no integers, lie outside 0..n_classes - 1, or are not n.
    """
    y = as_array("y", y)
    if y.dtype.kind not in "iu":
        raise ValueError(f"y has dtype {y.dtype}; expected integer labels in 0..{n_classes - 1}")
    if y.shape != (n,):
        raise ValueError(f"y has shape {y.shape}; predictions are for {n} observations")
    if not is_traced(y) and (bad := np.flatnonzero((np.asarray(y) < 0) | (np.asarray(y) >= n_classes))).size:
        got = int(y[bad[0]])
        raise ValueError(f"y has {bad.size} labels outside 0..{n_classes - 1}, such as {got} in row {bad[0]}")
    return y


def label_ranks(probabilities: Float[AnyArray, "n k"]) -> Int[AnyArray, "n k"]:
    """The rank of each label, 1 for the most probable; of equal probabilities the smaller label comes first.

    >>> label_ranks(np.array([[0.2, 0.6, 0.2]])).tolist()
    [[2, 1, 3]]
    """
    return label_ranking(probabilities)[1]


def label_ranking(probabilities: Float[AnyArray, "n k"]) -> tuple[Any, Any]:
    """Labels in falling order of probability, and the rank of each label."""
    xp = array_namespace(probabilities)
    order = xp.argsort(-probabilities, axis=-1, stable=True)
    if xp is not np:
        return order, xp.argsort(order, axis=-1) + 1
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, order.shape[-1] + 1)[None, :], axis=-1)
    return order, ranks
