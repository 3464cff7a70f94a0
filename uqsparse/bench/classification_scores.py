"""Scores of class probabilities for the leaderboards.

The scores are those of `uqsparse.bounds.calibration`. Each function imports them when it is called: they bring the
libraries of the models with them, and whoever just starts a run or reads a report needs none of them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Probabilities = Float[np.ndarray, "n c"]
Labels = Int[np.ndarray, " n"]
# Confidence of the intervals of reliability diagrams.
BAND = 0.95


class Reliability(NamedTuple):
    """How often the predicted class is right, by stated confidence.

    `confidence` and `accuracy` are means over the test points of a bin (NaN where it is empty); `count` is
    their number; `low` and `high` are the exact 95% confidence limits of the accuracy of the bin by itself, 0 and 1
    where it is empty.
    """

    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]

    @property
    def expected_calibration_error(self) -> float:
        """Mean over test points of |accuracy - confidence| of their bin, in [0, 1]."""
        from uqsparse.bounds.calibration.binning import BinMeans

        return BinMeans(self.confidence, self.accuracy, self.count).mean_distance("width")


def as_probabilities(probabilities: np.ndarray, n: int, n_classes: int) -> Probabilities:
    """Class probabilities as float64 with rows that sum to one; see `bounds.calibration.class_scores`.

    Raises:
        ValueError: the shape is wrong, a value is NaN or negative, or a row does not sum to one.
    """
    from uqsparse.bounds.calibration import class_scores

    return class_scores.as_probabilities(probabilities, n, n_classes)


def as_labels(y: np.ndarray) -> Labels:
    """Class labels 0, 1, ..., K - 1 as int64; see `bounds.calibration.class_scores`.

    Raises:
        ValueError: a label is negative or not a whole number.
    """
    from uqsparse.bounds.calibration import class_scores

    return class_scores.as_labels(y)


def brier(probabilities: Probabilities, y: Labels) -> Float[np.ndarray, " n"]:
    """Multi-class Brier score of each test point, in [0, 2]; see `bounds.calibration.class_scores`.

    Raises:
        ValueError: shapes, labels or probabilities are not as stated.

    >>> brier(np.array([[0.75, 0.25]]), np.array([0]))
    array([0.125])
    """
    from uqsparse.bounds.calibration.class_scores import brier_of_classes

    return brier_of_classes(probabilities, y)


def nll_class(probabilities: Probabilities, y: Labels) -> Float[np.ndarray, " n"]:
    """Negative log probability of each outcome, in nats; see `bounds.calibration.class_scores`.

    Infinite where an outcome was called impossible.

    Raises:
        ValueError: shapes, labels or probabilities are not as stated.
    """
    from uqsparse.bounds.calibration.class_scores import nll_of_classes

    return nll_of_classes(probabilities, y)


def reliability(probabilities: Probabilities, y: Labels, n_bins: int = 15) -> Reliability:
    """Confidence and accuracy of the predicted class in bins of equal width, with exact limits of the accuracy.

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
    from uqsparse.bounds.calibration.binning import bin_means, bin_of
    from uqsparse.bounds.calibration.class_scores import top_label
    from uqsparse.bounds.calibration.reliability import bin_bands

    confidence, right = top_label(probabilities, y)
    means = bin_means(bin_of(confidence, n_bins, "width"), n_bins, confidence, right)
    full = means.count > 0
    hits = np.rint(means.observed[full] * means.count[full])
    low, high = np.zeros(n_bins), np.ones(n_bins)
    low[full], high[full] = bin_bands(hits, means.count[full], BAND)[0][:2]
    return Reliability(means.predicted, means.observed, means.count, low, high)


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
