"""Reliability curves with confidence bands: how often events happen, by predicted probability.

The bands hold conditionally on the predictions: outcomes are independent, with any probabilities of their own. Nothing
else is assumed of binned bands; the band without bins assumes that the probability of the event never falls with the
prediction.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from uqsparse.bounds.binomial_limits import clopper_pearson
from uqsparse.bounds.calibration.binary_outcomes import (
    as_event_probabilities,
    predictions_and_outcomes,
)
from uqsparse.bounds.calibration.binning import Binning, bin_means, bin_of
from uqsparse.kernels.arguments import require_count, require_fraction
from uqsparse.kernels.namespaces import AnyArray

POINTWISE = "in each bin by itself, the mean probability of the event lies in the band with at least this probability"
SIMULTANEOUS = "in all bins at once, the mean probability of the event lies in the band with at least this probability"
ISOTONIC = (
    "if the probability of the event never falls with the prediction, it lies in the band at all predictions at once "
    "with at least this probability"
)


class Band(NamedTuple):
    """A confidence band of bins.

    Args:
        low: lower end of each bin.
        high: upper end.
        level: the confidence, such as 0.95.
        guarantee: what is in the band at that level, given the predictions, of independent outcomes.
    """

    low: Float[np.ndarray, " b"]
    high: Float[np.ndarray, " b"]
    level: float
    guarantee: str


class ReliabilityCurve(NamedTuple):
    """Shares of events in bins of predictions, with bands.

    Args:
        predicted: mean prediction of each bin that holds one.
        observed: share of events there.
        count: rows there.
        pointwise: the band of each bin by itself.
        simultaneous: the band of all bins at once.
        binning: "mass" for bins of equal counts, "width" for bins of equal width.
        n_bins: how many bins were asked for.
    """

    predicted: Float[np.ndarray, " b"]
    observed: Float[np.ndarray, " b"]
    count: Int[np.ndarray, " b"]
    pointwise: Band
    simultaneous: Band
    binning: Binning
    n_bins: int

    @property
    def rejects_calibration(self) -> bool:
        """Whether a mean prediction lies outside the simultaneous band.

        Calibrated predictions do so with probability at most 1 - level.
        """
        low, high = self.simultaneous.low, self.simultaneous.high
        return bool(((self.predicted < low) | (self.predicted > high)).any())


class IsotonicBand(NamedTuple):
    """A confidence band at every prediction at once, without bins: two step functions that never fall.

    Args:
        rises: predictions in ascending order at which the lower end steps up, to `low`.
        low: the lower end from each of them on; 0 before the first.
        falls: predictions in ascending order up to and including which the upper end is at most `high`.
        high: the upper end up to each of them; 1 beyond the last.
        level: the confidence, such as 0.95.
        n_blocks: how many blocks of predictions it looks at.
        guarantee: what it promises at that level, given the predictions, of independent outcomes.
    """

    rises: Float[np.ndarray, " m"]
    low: Float[np.ndarray, " m"]
    falls: Float[np.ndarray, " m"]
    high: Float[np.ndarray, " m"]
    level: float
    n_blocks: int
    guarantee: str

    def at(self, q: Float[AnyArray, " k"]) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Lower and upper ends at predictions.

        Where the lower end exceeds the upper one, the data refute at this level that the probability never falls.

        Args:
            q: predictions in [0, 1], shape (k,).

        Raises:
            ValueError: a value is NaN or outside [0, 1].
        """
        q = as_event_probabilities("q", q)
        low = np.append(0.0, self.low)[np.searchsorted(self.rises, q, side="right")]
        high = np.append(self.high, 1.0)[np.searchsorted(self.falls, q, side="left")]
        return low, high

    @property
    def rejects_calibration(self) -> bool:
        """Whether the diagonal leaves the band anywhere in [0, 1].

        Calibrated predictions do so with probability at most 1 - level.
        """
        return bool((self.low > self.rises).any() or (self.high < self.falls).any())


def bin_bands(hits: Num[AnyArray, " b"], count: Num[AnyArray, " b"], level: float = 0.95) -> tuple[Band, Band]:
    """Pointwise and simultaneous confidence bands of bins, from how many of their rows were events.

    The second one is Bonferroni's: it divides the chance of a miss by the number of bins.

    Args:
        hits: events in each bin, shape (b,).
        count: rows in each, at least 1.
        level: confidence in (0, 1).

    Raises:
        ValueError: the level is out of range.
    """
    require_fraction("level", level)
    each = (1 - level) / 2
    pointwise = Band(*clopper_pearson(hits, count, each), level, POINTWISE)
    simultaneous = Band(*clopper_pearson(hits, count, each / max(len(count), 1)), level, SIMULTANEOUS)
    return pointwise, simultaneous


def reliability_curve(
    q: Float[AnyArray, " n"],
    y: Num[AnyArray, " n"],
    n_bins: int = 15,
    binning: Binning = "mass",
    level: float = 0.95,
) -> ReliabilityCurve:
    """Share of events by predicted probability, in bins, with exact confidence bands.

    Bins depend on predictions alone: equal predictions share a bin, so that the order of rows is of no account, and
    there may be fewer bins of equal mass than asked for.

    Args:
        q: probabilities of y = 1 in [0, 1], shape (n,).
        y: outcomes 0 or 1, shape (n,).
        n_bins: the number of bins, at least 1; with equal mass at most n.
        binning: "mass" or "width".
        level: confidence of the bands, in (0, 1).

    Returns:
        The curve. Bins without a row are left out.

    Raises:
        ValueError: shapes, predictions or outcomes are not as stated, or a setting is out of range.

    Source: Clopper & Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the binomial;
    Hoeffding (1956), On the distribution of the number of successes in independent trials.

    >>> curve = reliability_curve(np.repeat([0.2, 0.8], 50), np.tile([0, 0, 0, 0, 1], 20), n_bins=2)
    >>> curve.observed.tolist(), curve.rejects_calibration
    ([0.2, 0.2], True)
    """
    q, y = predictions_and_outcomes(q, y)
    require_fraction("level", level)
    means = bin_means(bin_of(q, n_bins, binning, split_ties=False), n_bins, q, y).full()
    hits = np.rint(means.observed * means.count)
    bands = bin_bands(hits, means.count, level)
    return ReliabilityCurve(*means, *bands, binning, n_bins)


def isotonic_band(
    q: Float[AnyArray, " n"], y: Num[AnyArray, " n"], level: float = 0.95, n_blocks: int = 30
) -> IsotonicBand:
    """A confidence band of the probability of the event at every prediction at once, without bins.

    Sorted predictions are cut into blocks. Over every run of blocks the exact limits of a probability bound it to the
    left from above and to the right from below, because it never falls; the band is the best of these bounds, all of
    which hold at once by Bonferroni's inequality.

    Args:
        q: probabilities of y = 1 in [0, 1], shape (n,).
        y: outcomes 0 or 1, shape (n,).
        level: confidence in (0, 1).
        n_blocks: blocks of equal mass, at least 1; no more than there are predictions are used. More follow a
            curve more closely, and make each bound a little wider.

    Returns:
        The band.

    Raises:
        ValueError: shapes, predictions or outcomes are not as stated, or a setting is out of range.

    Source: Dimitriadis, Dümbgen, Henzi, Puke & Ziegel (2023), Honest calibration assessment for binary outcome
    predictions, section 2, with runs of blocks in place of all runs of observations.

    >>> band = isotonic_band(np.linspace(0, 1, 400), np.linspace(0, 1, 400) > 0.5)
    >>> low, high = band.at(np.array([0.1, 0.9]))
    >>> bool(high[0] < 0.5 < low[1]), band.rejects_calibration
    (True, True)
    """
    q, y = predictions_and_outcomes(q, y)
    require_fraction("level", level)
    require_count("n_blocks", n_blocks, 1)
    n_blocks = min(n_blocks, len(q))
    place = bin_of(q, n_blocks, "mass", split_ties=False)
    # Equal predictions share a block, so blocks part the line.
    _, place = np.unique(place, return_inverse=True)
    m = int(place.max()) + 1
    count = np.bincount(place)
    lowest, highest = np.full(m, np.inf), np.full(m, -np.inf)
    np.minimum.at(lowest, place, q)
    np.maximum.at(highest, place, q)
    first, last = np.triu_indices(m)
    counts = np.append(0, np.cumsum(count))
    events = np.append(0, np.cumsum(np.bincount(place, weights=y, minlength=m)))
    below, above = clopper_pearson(
        events[last + 1] - events[first], counts[last + 1] - counts[first], (1 - level) / (2 * len(first))
    )
    low, high = np.zeros(m), np.ones(m)
    # A run bounds what lies right of its last block from below, and what lies left of its first block from above.
    np.maximum.at(low, last, below)
    np.minimum.at(high, first, above)
    return IsotonicBand(
        rises=highest,
        low=np.maximum.accumulate(low),
        falls=lowest,
        high=np.minimum.accumulate(high[::-1])[::-1],
        level=level,
        n_blocks=m,
        guarantee=ISOTONIC,
    )
