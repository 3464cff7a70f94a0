"""Scores of class probabilities, one value an observation, and the top label that calibration looks at."""

import numpy as np
from jaxtyping import Bool, Float, Int

ClassProbabilities = Float[np.ndarray, "n c"]
Labels = Int[np.ndarray, " n"]


def as_probabilities(probabilities: np.ndarray, n: int, n_classes: int) -> ClassProbabilities:
    """Check class probabilities and remove the rounding of single precision from their sums.

    Args:
        probabilities: (n, n_classes), non-negative, rows summing to one within 1e-4.
        n: the number of observations.
        n_classes: the number of classes.

    Returns:
        The array as float64 with rows that sum to one.

    Raises:
        ValueError: the shape is wrong, a value is NaN or negative, or a row does not sum to one.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.shape != (n, n_classes):
        raise ValueError(f"probabilities have shape {p.shape}; expected (n, n_classes) = ({n}, {n_classes})")
    if not np.isfinite(p).all() or p.min(initial=0) < 0:
        raise ValueError("probabilities have NaN, infinite or negative values")
    if not len(p):
        return p
    total = p.sum(axis=1, keepdims=True)
    worst = int(np.argmax(np.abs(total - 1)))
    if abs(total[worst, 0] - 1) > 1e-4:
        raise ValueError(f"probabilities of row {worst} sum to {total[worst, 0]:.6g}; expected 1")
    return p / total


def as_labels(y: np.ndarray) -> Labels:
    """Check class labels.

    Args:
        y: (n,) whole numbers 0, 1, ..., K - 1.

    Returns:
        The labels as int64.

    Raises:
        ValueError: a label is negative or not a whole number.
    """
    labels = np.asarray(y)
    whole = labels.dtype.kind in "fiub" and np.isfinite(labels).all()
    if labels.ndim != 1 or not whole or (labels != np.floor(labels)).any() or labels.min(initial=0) < 0:
        raise ValueError("class labels must be whole numbers 0, 1, ..., K - 1 in one dimension")
    return labels.astype(np.int64)


def probabilities_and_labels(probabilities: np.ndarray, y: np.ndarray) -> tuple[ClassProbabilities, Labels]:
    """Both arguments of a score, checked against each other.

    Raises:
        ValueError: shapes, labels or probabilities are not as stated, or a label has no probability.
    """
    labels = as_labels(y)
    n_classes = np.asarray(probabilities).shape[-1] if np.ndim(probabilities) else 0
    p = as_probabilities(probabilities, len(labels), n_classes)
    if len(labels) and labels.max() >= n_classes:
        raise ValueError(f"y has the label {labels.max()}; the probabilities are for {n_classes} classes")
    return p, labels


def brier_of_classes(probabilities: ClassProbabilities, y: Labels) -> Float[np.ndarray, " n"]:
    """Multi-class Brier score: the squared distance between the probabilities and the one-hot outcome.

    For two classes it is twice `metrics.brier` of the second one.

    Args:
        probabilities: (n, c), rows summing to one.
        y: (n,) labels in 0, ..., c - 1.

    Returns:
        (n,) scores in [0, 2]; smaller is better.

    Raises:
        ValueError: shapes, labels or probabilities are not as stated.

    Source: Brier (1950), Verification of forecasts expressed in terms of probability, Eq. 2.

    >>> brier_of_classes(np.array([[0.75, 0.25]]), np.array([0]))
    array([0.125])
    """
    p, labels = probabilities_and_labels(probabilities, y)
    return ((p - np.eye(p.shape[1])[labels]) ** 2).sum(axis=1)


def nll_of_classes(probabilities: ClassProbabilities, y: Labels) -> Float[np.ndarray, " n"]:
    """Negative log probability of the outcome, in nats; infinite where an outcome was called impossible.

    Args:
        probabilities: (n, c), rows summing to one.
        y: (n,) labels in 0, ..., c - 1.

    Returns:
        (n,) scores; smaller is better.

    Raises:
        ValueError: shapes, labels or probabilities are not as stated.
    """
    p, labels = probabilities_and_labels(probabilities, y)
    with np.errstate(divide="ignore"):
        return -np.log(p[np.arange(len(labels)), labels])


def top_label(probabilities: ClassProbabilities, y: Labels) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """The probability of the most probable class, and whether it is right: an event with its prediction.

    Every metric and curve for events measures top-label calibration on them.

    Args:
        probabilities: (n, c), rows summing to one.
        y: (n,) labels in 0, ..., c - 1.

    Returns:
        Confidence and correctness, (n,) each.

    Raises:
        ValueError: shapes, labels or probabilities are not as stated.

    Source: Guo, Pleiss, Sun & Weinberger (2017), On calibration of modern neural networks, section 2.

    >>> top_label(np.array([[0.75, 0.25]]), np.array([1]))
    (array([0.75]), array([False]))
    """
    p, labels = probabilities_and_labels(probabilities, y)
    return p.max(axis=1), p.argmax(axis=1) == labels
