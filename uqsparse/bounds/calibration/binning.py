"""Bins of predicted probabilities: of equal mass, or of equal width."""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int

from uqsparse.kernels.arguments import require_count

Binning = Literal["mass", "width"]


class BinMeans(NamedTuple):
    """Mean prediction and share of events of every bin.

    Args:
        predicted: mean prediction, NaN where a bin is empty.
        observed: share of events, NaN where a bin is empty.
        count: predictions in the bin.
    """

    predicted: Float[np.ndarray, " bins"]
    observed: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]

    def full(self) -> "BinMeans":
        """The bins that hold a prediction."""
        keep = self.count > 0
        return BinMeans(self.predicted[keep], self.observed[keep], self.count[keep])

    def mean_distance(self, binning: Binning) -> float:
        """Mean of |observed - predicted|: full bins of equal mass weigh equally, those of equal width by counts."""
        full = self.full()
        distance = np.abs(full.observed - full.predicted)
        if binning == "mass":
            return float(distance.mean())
        return float(distance @ full.count / full.count.sum())


def require_binning(binning: Any) -> None:
    """Raise ValueError unless the name of a binning is known."""
    if binning not in get_args(Binning):
        raise ValueError(f"binning must be 'mass' (equal counts) or 'width' (equal widths), got {binning!r}")


def bin_of(
    q: Float[np.ndarray, " n"], n_bins: int, binning: Binning = "mass", *, split_ties: bool = True
) -> Int[np.ndarray, " n"]:
    """The bin of each prediction.

    Args:
        q: predictions in [0, 1].
        n_bins: the number of bins, at least 1; with equal mass at most n.
        binning: "mass" cuts the sorted predictions into runs whose lengths differ by at most one; "width" cuts [0, 1]
            into intervals (a, b] of one width, of which the first holds 0 too.
        split_ties: whether equal predictions may fall into two bins of equal mass, in the order of their rows. False
            moves them all to the bin of the first, so that some bins may stay empty and the order of rows is of no
            account.

    Returns:
        Whole numbers 0, ..., n_bins - 1.

    Raises:
        ValueError: there are fewer predictions than bins of equal mass, or an argument is out of range.

    >>> bin_of(np.array([0.9, 0.1, 0.2, 0.3]), 2).tolist()
    [1, 0, 0, 1]
    """
    require_count("n_bins", n_bins, 1)
    require_binning(binning)
    if binning == "width":
        # i / n rounds as a decimal literal does, so that a prediction on an edge belongs to the bin below.
        return np.searchsorted(np.arange(1, n_bins) / n_bins, q, side="left")
    n = len(q)
    if n < n_bins:
        raise ValueError(f"{n} predictions for n_bins={n_bins} bins of equal mass; expected at least one a bin")
    order = np.argsort(q, kind="stable")
    sizes = np.full(n_bins, n // n_bins)
    sizes[: n % n_bins] += 1
    place = np.repeat(np.arange(n_bins), sizes)
    if not split_ties:
        _, first, inverse = np.unique(q[order], return_index=True, return_inverse=True)
        place = place[first][inverse]
    found = np.empty(n, dtype=np.int64)
    found[order] = place
    return found


def bin_means(
    place: Int[np.ndarray, " n"], n_bins: int, q: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]
) -> BinMeans:
    """Means of predictions and outcomes by bin.

    Args:
        place: the bin of each, from `bin_of`.
        n_bins: the number of bins.
        q: predictions.
        y: outcomes, 0 and 1.
    """
    count = np.bincount(place, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        return BinMeans(
            predicted=np.bincount(place, weights=q, minlength=n_bins) / count,
            observed=np.bincount(place, weights=y, minlength=n_bins) / count,
            count=count,
        )
