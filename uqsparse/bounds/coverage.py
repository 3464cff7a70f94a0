"""How prediction sets do on new observations: coverage with its error, by groups, and size."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Num, Shaped
from scipy.stats import beta, betabinom

from uqsparse.bounds.binomial_limits import clopper_pearson
from uqsparse.bounds.guarantee import EXCHANGEABLE
from uqsparse.bounds.regions import Boxes, Intervals, IntervalUnions, Region
from uqsparse.bounds.scores.score import as_array, require_same_length
from uqsparse.kernels import conformal_rank
from uqsparse.kernels.arguments import require_count, require_fraction
from uqsparse.kernels.namespaces import AnyArray


class ExpectedCoverage(NamedTuple):
    """The coverage that split conformal sets have, calibration data being a draw too: Beta(k, n + 1 - k).

    Args:
        mean: k / (n + 1), over calibration sets.
        low: lower end of the band.
        high: upper end of the band.
        band: how often coverage lies in the band, such as 0.95.
    """

    mean: float
    low: float
    high: float
    band: float


class Coverage(NamedTuple):
    """The share of observations that lie in their sets.

    Args:
        value: the share.
        n: the number of observations.
        low: lower end of the Clopper-Pearson interval of the true coverage of these sets.
        high: upper end.
        band: the confidence of that interval, such as 0.95.
        expected: where coverage on n observations lies if the calibration data were exchangeable with them; None for
            sets that are not cut at one threshold of split conformal prediction.
    """

    value: float
    n: int
    low: float
    high: float
    band: float
    expected: ExpectedCoverage | None = None


class SetSizes(NamedTuple):
    """How large sets are: lengths, volumes or numbers of labels.

    Args:
        mean: the mean, infinite if any set is.
        median: the median.
        n: the number of sets.
        n_empty: how many hold nothing: intervals whose ends have crossed, or no label.
        n_infinite: how many are unbounded.
    """

    mean: float
    median: float
    n: int
    n_empty: int
    n_infinite: int


def expected_coverage(n: int, alpha: float, n_test: int | None = None, band: float = 0.95) -> ExpectedCoverage:
    """The law of the coverage of split conformal sets that were calibrated on n observations.

    Given the calibration data, the chance that a set covers is a draw from Beta(k, n + 1 - k), k being the rank of the
    threshold, if scores have no ties.

    Args:
        n: calibration observations, at least 1.
        alpha: miscoverage allowed, in (0, 1).
        n_test: of so many new observations the share that is covered, which is beta-binomial; None for the chance
            itself.
        band: probability of the band, equal tails.

    Returns:
        Mean and band; both are 1 where the threshold is infinite.

    Raises:
        ValueError: an argument lies outside its range.

    Source: Vovk (2012), Conditional validity of inductive conformal predictors, proposition 2a; Angelopoulos & Bates
    (2023), Conformal prediction: a gentle introduction, section 3.2.

    >>> found = expected_coverage(99, 0.1)
    >>> found.mean, round(found.low, 3), round(found.high, 3)
    (0.9, 0.834, 0.95)
    """
    require_count("n", n, 1)
    require_fraction("alpha", alpha)
    require_fraction("band", band)
    rank = conformal_rank(n, alpha)
    if rank > n:
        return ExpectedCoverage(1.0, 1.0, 1.0, band)
    tail = np.array([(1 - band) / 2, (1 + band) / 2])
    if n_test is None:
        low, high = beta.ppf(tail, rank, n + 1 - rank)
    else:
        require_count("n_test", n_test, 1)
        low, high = betabinom.ppf(tail, n_test, rank, n + 1 - rank) / n_test
    return ExpectedCoverage(rank / (n + 1), float(low), float(high), band)


def coverage(region: Region, y: Num[AnyArray, "n ..."], band: float = 0.95) -> Coverage:
    """The share of observations that lie in their sets, with its error.

    Args:
        region: sets at one level.
        y: observed values.
        band: confidence of the interval, and probability of the expected band.

    Raises:
        ValueError: sets are at several levels, or y has another length.

    Source: Clopper & Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the binomial.

    >>> from uqsparse.bounds.regions import Intervals
    >>> found = coverage(Intervals(np.zeros(20), np.ones(20)), np.r_[np.full(18, 0.5), 2.0, 3.0])
    >>> found.value, round(found.low, 3), round(found.high, 3)
    (0.9, 0.683, 0.988)
    """
    covered = covered_by(region, y)
    found = coverage_of(covered, band)
    guarantee = region.guarantee
    # Only where one threshold was found from exchangeable scores the law of coverage is known.
    if guarantee is None or guarantee.kind != "marginal" or EXCHANGEABLE not in guarantee.assumptions:
        return found
    if region.threshold is None or np.ndim(region.threshold) or guarantee.alpha is not None:
        return found
    alpha = round(1 - float(np.asarray(guarantee.level)), 12)
    expected = expected_coverage(guarantee.n, alpha, found.n, band)
    return found._replace(expected=expected)


def coverage_of(covered: Bool[AnyArray, " n"], band: float = 0.95) -> Coverage:
    """The share of hits with its Clopper-Pearson interval.

    Args:
        covered: whether each observation lay in its set, shape (n,), n >= 1.
        band: confidence of the interval, in (0, 1).

    Raises:
        ValueError: there is no observation, they are no booleans, or the band is out of range.

    Source: Clopper & Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the binomial.

    >>> round(coverage_of(np.array([True, True])).low, 3)
    0.158
    """
    require_fraction("band", band)
    covered = np.asarray(covered)
    if covered.ndim != 1 or not len(covered) or covered.dtype != bool:
        raise ValueError(f"covered is {covered.dtype} of shape {covered.shape}; expected at least one boolean")
    n, hits = len(covered), int(covered.sum())
    low, high = clopper_pearson(np.array(hits), np.array(n), (1 - band) / 2)
    return Coverage(hits / n, n, float(low), float(high), band)


def covered_by(region: Region, y: Any) -> np.ndarray:
    """Whether each set holds its observation, for sets at one level; shapes that do not fit are refused."""
    y = as_array("y", y)
    size = region.size()
    if size.ndim != 1:
        raise ValueError(f"sets are at several levels, shape {size.shape}; expected one level")
    require_same_length("y", y, size.shape[0], "region")
    return np.asarray(region.contains(y))


def coverage_by_group(
    region: Region, y: Num[AnyArray, "n ..."], groups: Shaped[AnyArray, " n"], band: float = 0.95
) -> dict[Any, Coverage]:
    """Coverage within each group.

    Args:
        region: sets at one level.
        y: observed values.
        groups: the group of each observation, shape (n,), of any type that sorts.
        band: confidence of each interval, by itself.

    Returns:
        Group to coverage, in ascending order of groups.

    Raises:
        ValueError: shapes do not fit, or the sets are at several levels.
    """
    covered, groups = covered_by(region, y), np.asarray(groups)
    require_same_length("groups", groups, len(covered), "y")
    return {name: coverage_of(covered[groups == name], band) for name in np.unique(groups).tolist()}


def set_sizes(region: Region) -> SetSizes:
    """How large sets at one level are.

    Args:
        region: n sets, n >= 1.

    Raises:
        ValueError: there is none, or they are at several levels.

    >>> from uqsparse.bounds.regions import Intervals
    >>> set_sizes(Intervals(np.zeros(3), np.array([1.0, 2.0, -1.0])))
    SetSizes(mean=1.0, median=1.0, n=3, n_empty=1, n_infinite=0)
    """
    size = np.asarray(region.size())
    if size.ndim != 1 or not len(size):
        raise ValueError(f"sets have shape {size.shape}; expected one level and at least one set")
    infinite = int(np.isposinf(size).sum())
    return SetSizes(float(size.mean()), float(np.median(size)), len(size), int(_is_empty(region).sum()), infinite)


def _is_empty(region: Region) -> Any:
    """Which sets hold nothing; a single point has length 0 and is no empty set."""
    if isinstance(region, Intervals):
        return np.asarray(region.lower > region.upper)
    if isinstance(region, IntervalUnions):
        return ~np.asarray(region.lower <= region.upper).any(-1)
    if isinstance(region, Boxes):
        return ~np.asarray(region.lower <= region.upper).all(-1)
    return np.asarray(region.size()) == 0
