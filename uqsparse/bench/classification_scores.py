"""Scores of class probabilities, as plain NumPy functions.

Each score is one value per test point, so that a mean comes with its standard error.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Probabilities = Float[np.ndarray, "n c"]
Labels = Int[np.ndarray, " n"]


class Reliability(NamedTuple):
    """How often the predicted class is right, by stated confidence.

    `confidence` and `accuracy` are means over the test points of a bin (NaN where it is empty); `count` is
    their number.
    """

    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]

    @property
    def expected_calibration_error(self) -> float:
        """Mean over test points of |accuracy - confidence| of their bin, in [0, 1]."""
        full = self.count > 0
        gap = np.abs(self.accuracy[full] - self.confidence[full])
        return float(gap @ self.count[full] / self.count.sum())


def as_probabilities(probabilities: np.ndarray, n: int, n_classes: int) -> Probabilities:
    """Check class probabilities and remove the rounding of single precision from their sums.

    Args:
        probabilities: (n, n_classes), non-negative, rows summing to one within 1e-4.
        n: the number of test points.
        n_classes: the number of classes.

    Returns:
        The array as float64 with rows that sum to one.

    Raises:
        ValueError: the shape is wrong, a value is NaN or negative, or a row does not sum to one.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.shape != (n, n_classes):
        raise ValueError(f"probabilities have shape {p.shape}; expected (n_test, n_classes) = ({n}, {n_classes})")
    if not np.isfinite(p).all() or p.min() < 0:
        raise ValueError("probabilities have NaN, infinite or negative values")
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
    if labels.ndim != 1 or not np.array_equal(labels, labels.astype(np.int64)) or labels.min(initial=0) < 0:
        raise ValueError("class labels must be whole numbers 0, 1, ..., K - 1 in one dimension")
    return labels.astype(np.int64)


def _checked(probabilities: np.ndarray, y: np.ndarray) -> tuple[Probabilities, Labels]:
    labels = as_labels(y)
    n_classes = np.asarray(probabilities).shape[-1] if np.ndim(probabilities) else 0
    p = as_probabilities(probabilities, len(labels), n_classes)
    if len(labels) and labels.max() >= n_classes:
        raise ValueError(f"y has the label {labels.max()}; the probabilities are for {n_classes} classes")
    return p, labels


def brier(probabilities: Probabilities, y: Labels) -> Float[np.ndarray, " n"]:
    """Multi-class Brier score: the squared distance between the probabilities and the one-hot outcome.

    Args:
        probabilities: (n, c), rows summing to one.
        y: (n,) labels in 0, ..., c - 1.

    Returns:
        (n,) scores in [0, 2]; smaller is better.

    Raises:
        ValueError: shapes, labels or probabilities are not as stated.

    Source: Brier (1950), "Verification of forecasts expressed in terms of probability", Eq. 2.

    >>> brier(np.array([[0.75, 0.25]]), np.array([0]))
    array([0.125])
    """
    p, labels = _checked(probabilities, y)
    return ((p - np.eye(p.shape[1])[labels]) ** 2).sum(axis=1)


def nll_class(probabilities: Probabilities, y: Labels) -> Float[np.ndarray, " n"]:
    """Negative log probability of the outcome, in nats; infinite where an outcome was called impossible.

    Args:
        probabilities: (n, c), rows summing to one.
        y: (n,) labels in 0, ..., c - 1.

    Returns:
        (n,) scores; smaller is better.

    Raises:
        ValueError: shapes, labels or probabilities are not as stated.
    """
    p, labels = _checked(probabilities, y)
    with np.errstate(divide="ignore"):
        return -np.log(p[np.arange(len(labels)), labels])


def reliability(probabilities: Probabilities, y: Labels, n_bins: int = 15) -> Reliability:
    """Confidence and accuracy of the predicted class in bins of equal width.

    Its `expected_calibration_error` is the top-label variant with equal-width bins (a, b].

    Args:
        probabilities: (n, c), rows summing to one.
        y: (n,) labels in 0, ..., c - 1.
        n_bins: the number of bins on (0, 1], at least 1.

    Returns:
        The bins.

    Raises:
        ValueError: shapes, labels, probabilities or the number of bins are not as stated.

    Source: Guo, Pleiss, Sun, Weinberger (2017), "On calibration of modern neural networks", Eq. 3.
    """
    p, labels = _checked(probabilities, y)
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}; expected at least 1")
    confidence = p.max(axis=1)
    right = p.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    count = np.bincount(place, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            confidence=np.bincount(place, weights=confidence, minlength=n_bins) / count,
            accuracy=np.bincount(place, weights=right, minlength=n_bins) / count,
            count=count,
        )


def highest_probability_sets(probabilities: Probabilities, level: float = 0.9) -> Bool[np.ndarray, "n c"]:
    """Smallest set of classes whose probabilities sum to at least `level`, for each test point.

    Args:
        probabilities: (n, c), rows summing to one.
        level: nominal coverage in (0, 1).

    Returns:
        (n, c) membership.

    Raises:
        ValueError: the level is not inside (0, 1).

    >>> highest_probability_sets(np.array([[0.6, 0.35, 0.05]]))
    array([[ True,  True, False]])
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a number inside (0, 1)")
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    # A class belongs to the set if the more probable ones do not reach the level; 1e-12 forgives rounding.
    needed = np.cumsum(ranked, axis=1) - ranked < level - 1e-12
    member = np.zeros(probabilities.shape, dtype=bool)
    np.put_along_axis(member, order, needed, axis=1)
    return member
