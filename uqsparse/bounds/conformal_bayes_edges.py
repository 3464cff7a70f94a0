"""Where a set of real candidates begins and ends: a grid where the mass is, widened, and bisected at the edges."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Standard deviations of the predictive distribution that the first grid reaches from its mean.
_REACH = 3.5
# A set that goes on beyond the first grid is followed out to 2**15 times its width.
_DOUBLINGS = 16
_LOCATING_POINTS = 32
_MOST_ZOOMS = 40
# Edges are found to this share of the grid's spacing.
_PRECISION = 2.0**-7
_MOST_BISECTIONS = 40

LogDensity = Callable[[Int[np.ndarray, " r"], Float[np.ndarray, "r k"]], Float[np.ndarray, "r k"]]
Ranks = Callable[
    [Int[np.ndarray, " r"], Float[np.ndarray, "r k"]], tuple[Int[np.ndarray, "r k"], Float[np.ndarray, "r k"]]
]


class Unions(NamedTuple):
    """Unions of intervals of n test points at several levels.

    Args:
        lower: lower ends, shape (levels, n, m), NaN where there are fewer than m.
        upper: upper ends.
        ess: the least effective sample size over kept candidates, shape (levels, n); NaN for empty sets.
    """

    lower: Float[np.ndarray, "a n m"]
    upper: Float[np.ndarray, "a n m"]
    ess: Float[np.ndarray, "a n"]


def locate(log_density: LogDensity, n: int, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Ranges that hold the mass of each test point's predictive density, found by zooming in and out.

    Args:
        log_density: maps indices of test points and candidates (r, k) to log densities up to a constant.
        n: the number of test points.
        low: where to look first, such as the least value observed.
        high: the upper end of that range, above `low`.

    Returns:
        Lower and upper ends, shape (n,): three and a half standard deviations to both sides of the mean.
    """
    lows, highs = np.full(n, float(low)), np.full(n, float(high))
    steps = np.linspace(0, 1, _LOCATING_POINTS)
    active = np.arange(n)
    for _ in range(_MOST_ZOOMS):
        start, width = lows[active], highs[active] - lows[active]
        y = start[:, None] + width[:, None] * steps
        log_p = log_density(active, y)
        top = log_p.max(axis=1, keepdims=True)
        mass = np.where(np.isfinite(top), np.exp(log_p - np.where(np.isfinite(top), top, 0.0)), 1.0)
        mass /= mass.sum(axis=1, keepdims=True)
        mean = (mass * y).sum(axis=1)
        sd = np.sqrt((mass * (y - mean[:, None]) ** 2).sum(axis=1))
        spacing, best = width * steps[1], y[np.arange(len(y)), mass.argmax(axis=1)]
        # Where an end still has mass, or none is in sight, look further out; where one point has all of it, closer.
        resolved = sd >= 1.5 * spacing
        spilled = mass[:, [0, -1]] > 0.02 * mass.max(axis=1, keepdims=True)
        done = resolved & ~spilled.any(axis=1)
        near = np.select([done, resolved], [mean - _REACH * sd, start], best - 2 * spacing)
        far = np.select([done, resolved], [mean + _REACH * sd, start + width], best + 2 * spacing)
        new_low, new_high = (
            np.where(spilled[:, 0], start - 2 * width, near),
            np.where(spilled[:, 1], start + 3 * width, far),
        )
        lows[active], highs[active] = new_low, new_high
        active = active[~done]
        if not len(active):
            break
    return lows, highs


def unions(
    ranks: Ranks,
    needed: Int[np.ndarray, "a n"],
    low: Float[np.ndarray, " n"],
    high: Float[np.ndarray, " n"],
    n_grid: int,
) -> Unions:
    """The candidates of enough rank, on a grid over each range that is widened until its ends are left out.

    Args:
        ranks: maps indices of test points and candidates (r, k) to (counts, effective sample sizes).
        needed: the least count of candidates that belong to the set, by level and test point.
        low: where each grid starts.
        high: where it ends.
        n_grid: points of the grid, at least 3.

    Returns:
        The sets; ends are infinite where the set goes on as far as was looked. Edges lie just outside the set.
    """
    everyone = np.arange(len(low))
    y = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, n_grid)
    counts, ess = ranks(everyone, y)
    kept = counts >= needed[..., None]
    open_ends = np.flatnonzero(kept[..., [0, -1]].any(axis=(0, 2)))
    if len(open_ends):
        reach = (high - low)[:, None] * 2.0 ** np.arange(_DOUBLINGS)
        outside = np.concatenate([low[:, None] - reach[:, ::-1], high[:, None] + reach], axis=1)
        y = np.concatenate([outside[:, :_DOUBLINGS], y, outside[:, _DOUBLINGS:]], axis=1)
        wide_counts, wide_ess = np.full(outside.shape, -1), np.full(outside.shape, np.inf)
        wide_counts[open_ends], wide_ess[open_ends] = ranks(open_ends, outside[open_ends])
        counts, ess = _around(counts, wide_counts), _around(ess, wide_ess)
    return unions_on(ranks, needed, y, counts, ess)


def _around(middle: np.ndarray, both: np.ndarray) -> np.ndarray:
    return np.concatenate([both[:, :_DOUBLINGS], middle, both[:, _DOUBLINGS:]], axis=1)


def unions_on(
    ranks: Ranks,
    needed: Int[np.ndarray, "a n"],
    y: Float[np.ndarray, "n k"],
    counts: Int[np.ndarray, "n k"],
    ess: Float[np.ndarray, "n k"],
) -> Unions:
    """The sets on given candidates, in ascending order, their edges refined; open ends are infinite."""
    n_levels, n = needed.shape
    kept = counts >= needed[..., None]
    closed = np.pad(kept, ((0, 0), (0, 0), (1, 1)))
    ends = np.pad(y, ((0, 0), (1, 1)), constant_values=((0, 0), (-np.inf, np.inf)))
    rise, fall = np.argwhere(~closed[..., :-1] & closed[..., 1:]), np.argwhere(closed[..., :-1] & ~closed[..., 1:])
    level, row = np.concatenate([rise, fall])[:, :2].T
    inside = np.concatenate([ends[rise[:, 1], rise[:, 2] + 1], ends[fall[:, 1], fall[:, 2]]])
    outside = np.concatenate([ends[rise[:, 1], rise[:, 2]], ends[fall[:, 1], fall[:, 2] + 1]])
    least = np.where(kept, ess, np.inf).min(axis=2)
    finite = np.flatnonzero(np.isfinite(outside))
    tolerance = np.diff(y, axis=1).min(axis=1) * _PRECISION
    outside[finite], edge_ess = _refined(
        ranks, row[finite], needed[level[finite], row[finite]], inside[finite], outside[finite], tolerance[row[finite]]
    )
    np.minimum.at(least, (level[finite], row[finite]), edge_ess)
    # Rises and falls are sorted by level and test point, and pair up within each.
    place = _places(rise[:, 0] * n + rise[:, 1])
    shape = (n_levels, n, int(place.max(initial=0)) + 1)
    lower, upper = np.full(shape, np.nan), np.full(shape, np.nan)
    where = (rise[:, 0], rise[:, 1], place)
    lower[where], upper[where] = outside[: len(rise)], outside[len(rise) :]
    return Unions(lower, upper, np.where(np.isinf(least), np.nan, least))


def _places(owners: Int[np.ndarray, " e"]) -> Int[np.ndarray, " e"]:
    """For sorted owners: the number of each entry among those of its owner."""
    _, first, counts = np.unique(owners, return_index=True, return_counts=True)
    return np.arange(len(owners)) - np.repeat(first, counts)


def _refined(
    ranks: Ranks,
    rows: Int[np.ndarray, " e"],
    needed: Int[np.ndarray, " e"],
    inside: Float[np.ndarray, " e"],
    outside: Float[np.ndarray, " e"],
    tolerance: Float[np.ndarray, " e"],
) -> tuple[np.ndarray, np.ndarray]:
    """Points just outside each edge, by bisection, and the least effective sample size inside."""
    outside, least = outside.copy(), np.full(len(rows), np.inf)
    inside, active = inside.copy(), np.arange(len(rows))
    for _ in range(_MOST_BISECTIONS):
        active = active[abs(outside[active] - inside[active]) > tolerance[active]]
        if not len(active):
            break
        middle = (inside[active] + outside[active]) / 2
        counts, ess = (part[:, 0] for part in ranks(rows[active], middle[:, None]))
        kept = counts >= needed[active]
        inside[active[kept]], outside[active[~kept]] = middle[kept], middle[~kept]
        least[active[kept]] = np.minimum(least[active[kept]], ess[kept])
    return outside, least
