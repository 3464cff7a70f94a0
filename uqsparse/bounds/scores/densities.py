"""Scores of real targets from predictive densities and distribution functions."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Num

from uqsparse.bounds.predictive_densities import bisect
from uqsparse.bounds.predictive_draws import PredictiveDraws
from uqsparse.bounds.regions import Intervals, IntervalUnions
from uqsparse.bounds.scores.score import Score, as_array, require_same_length
from uqsparse.kernels import array_namespace, is_traced
from uqsparse.kernels.namespaces import AnyArray

_WIDENINGS = 16  # each four times as far out as the one before: to 10^9 times the span of the grid


class HighestDensity(Score):
    """The negative log predictive density: sets of highest density, the smallest there are if the density is right.

    Predictions are a `GaussianMixture`, a `GridDensity`, or anything with `n`, `log_density(y)` and `grid(n_points)` as
    they have. Sets are unions of intervals, and may be empty. Edges are found between neighbouring points of the grid
    and refined to rounding; parts of a set, and gaps, that lie between two neighbouring points are missed. The grid is
    widened until the set ends; a set that does not end is infinite.

    Args:
        n_grid: points of the grid that a `GaussianMixture` is searched on, at least 2.
        max_parts: intervals a set may have, at least 1. If it has more, the last ones are joined, which makes the set
            larger and not smaller.

    Raises:
        ValueError: there are too few points or parts.

    Source: Lei, Robins & Wasserman (2013), Distribution-free prediction sets (level sets of a density, calibrated).

    >>> from uqsparse.bounds.predictive_densities import GaussianMixture
    >>> two_modes = GaussianMixture.of(np.array([[-3.0], [3.0]]), np.ones(2))
    >>> HighestDensity().region(two_modes, 2.0).lower.round(3)[0, :3]
    array([-3.881,  2.119,    nan])
    """

    n_grid: int = eqx.field(static=True, default=128)
    max_parts: int = eqx.field(static=True, default=8)

    def __check_init__(self):
        if self.n_grid < 2 or self.max_parts < 1:
            raise ValueError(f"n_grid and max_parts must be at least 2 and 1, got {self.n_grid} and {self.max_parts}")

    def __call__(self, predictions: Any, y: Num[AnyArray, " n"]) -> Float[AnyArray, " n"]:
        y = as_array("y", y)
        _require(predictions, "log_density", "HighestDensity")
        require_same_length("y", y, predictions.n, "predictions")
        return -predictions.log_density(y)

    def region(self, predictions: Any, threshold: Float[AnyArray, "..."]) -> IntervalUnions:
        _require(predictions, "log_density", "HighestDensity")
        grid = _widened(predictions.grid(self.n_grid))
        log_density = predictions.log_density(grid)
        core = log_density[_WIDENINGS:-_WIDENINGS]
        if not is_traced(core) and (bad := np.flatnonzero(np.isnan(np.asarray(core)).any(axis=0))).size:
            raise ValueError(f"the log density is NaN on the grid of {bad.size} observations, such as {bad[0]}")
        xp = array_namespace(grid, log_density, threshold)
        inside = log_density >= -threshold
        run, first, last, parts = _runs(inside, self.max_parts, xp)

        def edge(at: Any, step: int) -> Any:
            inner = xp.take_along_axis(grid, at, axis=0)
            outer = xp.take_along_axis(grid, (at + step).clip(0, len(grid) - 1), axis=0)
            found = bisect(lambda y: predictions.log_density(y) >= -threshold, inner, outer)
            unbounded = (at + step < 0) | (at + step >= len(grid))
            found = xp.where(unbounded, step * xp.inf, found)
            found = xp.where(xp.arange(parts)[:, None] < run[-1], found, xp.nan)
            fill = xp.full((self.max_parts - parts, grid.shape[1]), xp.nan, dtype=found.dtype)
            return xp.concatenate([found, fill]).T

        return IntervalUnions(lower=edge(first, -1), upper=edge(last, 1), threshold=threshold)


def _require(predictions: Any, method: str, score: str) -> None:
    if not hasattr(predictions, method):
        raise TypeError(
            f"{score} needs predictions with `{method}`, such as a GaussianMixture; got {type(predictions).__name__}"
        )


def _widened(grid: Float[AnyArray, "g n"]) -> Float[AnyArray, "h n"]:
    """The grid with points ever further out on both sides."""
    xp = array_namespace(grid)
    steps = xp.asarray(4.0 ** np.arange(1, _WIDENINGS + 1), dtype=grid.dtype)[:, None] / 4 * (grid[-1] - grid[0])
    return xp.concatenate([grid[0] - steps[::-1], grid, grid[-1] + steps])


def _runs(inside: Any, max_parts: int, xp: Any) -> tuple[Any, Any, Any, int]:
    """Runs of points inside: the number of each point's run, where runs begin and end, and in how many rows that is.

    Runs beyond the last row are joined to it, gaps included.
    """
    before = xp.concatenate([xp.zeros_like(inside[:1]), inside[:-1]])
    run = xp.cumsum(inside & ~before, axis=0)
    parts = max_parts if is_traced(run) else max(1, min(max_parts, int(run[-1].max(initial=0))))
    first, last = [], []
    for part in range(1, parts + 1):
        mine = inside & ((run >= part) if part == max_parts else (run == part))
        first.append(mine.argmax(0))
        last.append(inside.shape[0] - 1 - mine[::-1].argmax(0))
    return run, xp.stack(first), xp.stack(last), parts


class ProbabilityIntegral(Score):
    """|F(y | x) - 1/2| of the predictive distribution function: intervals with even predictive tails.

    Predictions are `PredictiveDraws`, a `GaussianMixture`, or anything with `cdf(y)` and one of `quantile`, `ppf` and
    `icdf` of probabilities of shape (n,). A threshold of 1/2 or more gives the whole line: with m draws that happens
    where alpha of the calibration observations lie beyond all their draws, so m should exceed 2 / alpha by far.

    Source: Chernozhukov, Wüthrich & Zhu (2021), Distributional conformal prediction, algorithm 1 and section 3.

    >>> draws = PredictiveDraws.of(np.arange(10.0)[:, None])
    >>> ProbabilityIntegral()(draws, np.array([8.5])).tolist()
    [0.4]
    >>> sets = ProbabilityIntegral().region(draws, 0.25)
    >>> sets.lower.tolist(), sets.upper.tolist()
    ([2.0], [7.0])
    """

    def __call__(self, predictions: Any, y: Num[AnyArray, " n"]) -> Float[AnyArray, " n"]:
        y = as_array("y", y)
        _require(predictions, "cdf", "ProbabilityIntegral")
        if (n := getattr(predictions, "n", None)) is not None:
            require_same_length("y", y, n, "predictions")
        below = predictions.cdf(y)
        require_same_length("cdf(y)", below, y.shape[0], "y")
        return abs(below - 0.5)

    def region(self, predictions: Any, threshold: Float[AnyArray, "..."]) -> Intervals:
        _require(predictions, "cdf", "ProbabilityIntegral")
        if isinstance(predictions, PredictiveDraws):
            lower, upper = _between_draws(predictions.values, threshold)
            return Intervals(lower=lower, upper=upper, threshold=threshold)
        quantile = _quantile_of(predictions)
        n = getattr(predictions, "n", None)
        xp = array_namespace(predictions, threshold)
        wide = threshold if n is None else xp.broadcast_to(xp.asarray(threshold), (n,))
        unbounded, empty = wide >= 0.5, wide < 0
        safe = xp.where(unbounded | empty, 0.25, wide)
        lower = xp.where(unbounded, -xp.inf, quantile(0.5 - safe))
        upper = xp.where(unbounded, xp.inf, quantile(0.5 + safe))
        return Intervals(
            lower=xp.where(empty, xp.inf, lower), upper=xp.where(empty, -xp.inf, upper), threshold=threshold
        )


def _quantile_of(predictions: Any) -> Callable[[Any], Any]:
    for name in ("quantile", "ppf", "icdf"):
        if hasattr(predictions, name):
            return getattr(predictions, name)
    raise TypeError(f"ProbabilityIntegral needs predictions with `quantile`; got {type(predictions).__name__}")


def _between_draws(draws: Num[AnyArray, "m n"], threshold: Any) -> tuple[Any, Any]:
    """The values whose share of draws below them, ties counted half, is within the threshold of 1/2, ends included.

    Between the k-th and the next draw the share is k / m: the set begins at the draw of rank ceil(m (1/2 - t)) and ends
    at that of rank floor(m (1/2 + t)) + 1.
    """
    xp = array_namespace(draws, threshold)
    m, n = draws.shape
    # Shares are multiples of 1/2 in units of 1/m, so a hundredth is rounding.
    low = xp.broadcast_to(xp.ceil(m * (0.5 - threshold) - 0.01), (n,)).clip(0, m + 1).astype(int)
    high = xp.broadcast_to(xp.floor(m * (0.5 + threshold) + 0.01), (n,)).clip(-1, m).astype(int) + 1
    ends = xp.full((1, n), xp.inf, dtype=xp.result_type(draws, xp.float32))
    ordered = xp.concatenate([-ends, xp.sort(draws, axis=0), ends])
    lower, upper = (xp.take_along_axis(ordered, rank[None], axis=0)[0] for rank in (low, high))
    return lower, upper
