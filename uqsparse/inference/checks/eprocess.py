"""E-processes: the evidence against a hypothesis as the wealth of a gambler who bets on its being wrong.

If the hypothesis holds every bet is fair, wealth that starts at one has mean at most one at any stopping time, and by
Ville's inequality the probability that it ever reaches 1 / alpha is at most alpha. One may look after every draw, stop
as soon as it rejects, or go on for ever. A mean of e-processes is one again: many statistics and many sizes of bet are
averaged, which costs the log of their number and needs no correction for multiplicity.

Sources: Ville (1939), Étude critique de la notion de collectif; Shafer (2021), Testing by betting; Waudby-Smith &
Ramdas (2024), Estimating means of bounded random variables by betting.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int
from scipy.special import logsumexp

# Shares of the wealth that are staked, on either sign. Small ones find small drifts in many draws, large ones the
# opposite. The largest keeps 1 - bet well above 0, where one unlucky draw would ruin the gambler.
BETS = (0.01, 0.03, 0.1, 0.25, 0.45)

# The product of so many factors in [0.55, 1.45] stays within double precision, and is cheaper than their logs.
_BLOCK = 512

# Tilts that the confidence bound chooses from: a factor of 1.33 between neighbours loses at most 1 % of its width.
_TILTS = np.geomspace(1e-4, 0.95, 33)


class Wealth(NamedTuple):
    """Bets on the mean of each of s statistics not being zero, and what is needed to bound that mean.

    Args:
        log_wealth: log of what each bet has come to, in natural units, shape (s, 2 b): b sizes, either sign.
        n: number of draws.
        total: sum of the draws, shape (s,).
        squares: sum of their squares, shape (s,).
    """

    log_wealth: Float[Array | np.ndarray, "s b"]
    n: int | Int[Array | np.ndarray, ""]
    total: Float[Array | np.ndarray, " s"]
    squares: Float[Array | np.ndarray, " s"]


def no_bets(n_statistics: int) -> Wealth:
    """The state before the first draw."""
    zeros = np.zeros(n_statistics)
    return Wealth(np.zeros((n_statistics, 2 * len(BETS))), 0, zeros, zeros)


def bet(differences: Float[Array, "n s"], count: Int[ArrayLike, ""] | None = None) -> Wealth:
    """What a batch of draws adds; traceable. Add it to the state with `combine`.

    Args:
        differences: numbers in [-1, 1] whose means are zero if the hypothesis holds, the rows independent. The bounds
            must be known beforehand: they may not come from these draws.
        count: only the first `count` rows are used; None for all.

    Returns:
        The gain of each bet, and the sums.
    """
    n, s = differences.shape
    count = n if count is None else count
    used = jnp.where((jnp.arange(n) < count)[:, None], differences, 0.0)
    stakes = jnp.asarray([sign * share for share in BETS for sign in (1.0, -1.0)], used.dtype)
    blocks = jnp.pad(used, ((0, -n % _BLOCK), (0, 0))).reshape(-1, min(_BLOCK, n + -n % _BLOCK), s)
    gains = jnp.log(jnp.prod(1.0 + stakes * blocks[..., None], axis=1)).sum(axis=0)
    return Wealth(gains, jnp.asarray(count), used.sum(axis=0), (used**2).sum(axis=0))


def combine(state: Wealth, gain: Wealth) -> Wealth:
    """The state after another batch."""
    return jax.tree.map(lambda a, b: np.asarray(a) + np.asarray(b), state, gain)


def log_mean(log_e_values: Float[ArrayLike, "..."], axis: int | None = None) -> Float[np.ndarray, "..."]:
    """Log of the mean of e-values, which is one again, from their logs.

    >>> round(float(log_mean([0.0, -np.inf])), 4)
    -0.6931
    """
    values = np.asarray(log_e_values, np.float64)
    size = values.size if axis is None else values.shape[axis]
    return np.asarray(logsumexp(values, axis=axis)) - math.log(size)


def stop_at_crossing(state: Wealth, differences: Float[ArrayLike, "n s"], alpha: float) -> Wealth:
    """The state after the first draw of a batch at which the evidence reaches 1 / alpha, or after the last draw.

    Args:
        state: state before the batch.
        differences: the draws of the batch.
        alpha: level of the test.
    """
    stakes = np.array([sign * share for share in BETS for sign in (1.0, -1.0)])
    for rows in np.array_split(np.asarray(differences), max(len(np.asarray(differences)) // 128, 1)):
        path = state.log_wealth + np.cumsum(np.log1p(stakes * rows[..., None]), axis=0)
        evidence = log_mean(path.reshape(len(rows), -1), axis=1)
        reached = np.flatnonzero(evidence >= -math.log(alpha))
        used = rows[: reached[0] + 1] if reached.size else rows
        gain = Wealth(path[len(used) - 1] - state.log_wealth, len(used), used.sum(axis=0), (used**2).sum(axis=0))
        state = combine(state, gain)
        if reached.size:
            break
    return state


def mean_radius(squares: Float[ArrayLike, " s"], n: int, alpha: float) -> Float[np.ndarray, " s"]:
    """How far below the averages of n draws the means may lie; valid at any stopping time.

    With probability at least 1 - alpha a mean is never further below its average than this. For a bound on the other
    side turn the sign of the draws.

    Args:
        squares: sums of the squares of the draws, which are at least -1, shape (s,).
        n: number of draws, at least 1.
        alpha: probability of failure for each statistic and direction.

    Returns:
        The radius, in the unit of the draws.

    Source: Howard, Ramdas, McAuliffe & Sekhon (2021), Time-uniform, nonparametric, nonasymptotic confidence sequences,
    theorem 4. It rests on exp(t x - (-log(1 - t) - t) x^2) <= 1 + t x for x >= -1 and 0 <= t < 1, from Fan, Grama & Liu
    (2015), Exponential inequalities for martingales with applications, lemma 4.1.

    >>> mean_radius([100.0], 10_000, 0.05).round(4)
    array([0.0041])
    """
    curvature = -np.log1p(-_TILTS) - _TILTS
    cost = math.log(len(_TILTS) / alpha) + curvature * np.asarray(squares, np.float64)[..., None]
    return np.min(cost / (_TILTS * n), axis=-1)


def rank_eprocess(ranks: Int[ArrayLike, "n ..."], n_bins: int) -> Float[np.ndarray, "n ..."]:
    """Evidence against ranks being uniform, after each of them: bets on the frequencies seen so far.

    The bettor predicts with the Krichevsky-Trofimov estimator, (n_b + 1/2) / (i - 1 + L/2) for bin b of L, and is paid
    L times the share that was staked on the bin that comes.

    Args:
        ranks: independent ranks in 0, ..., n_bins - 1, with ties broken at random; several statistics may follow on
            later axes, each betted on alone.
        n_bins: number L of values, at least 2.

    Returns:
        Log e-value after each rank, of the shape of `ranks`. To combine statistics take `log_mean` over them.

    Raises:
        ValueError: the ranks are no integers from 0 to n_bins - 1.

    Source: Krichevsky & Trofimov (1981), The performance of universal encoding.

    >>> rank_eprocess([0, 0, 0], 2).round(4)  # 2^3 (1/2) (3/4) (5/6)
    array([0.    , 0.4055, 0.9163])
    """
    table = np.asarray(ranks)
    if n_bins < 2:
        raise ValueError(f"n_bins must be at least 2, got {n_bins!r}")
    if table.ndim < 1 or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(f"ranks must be an array of integers, got {table.dtype} of shape {table.shape}")
    if table.size and (table.min() < 0 or table.max() >= n_bins):
        raise ValueError(f"ranks must lie in 0, ..., {n_bins - 1}, got {table.min()} to {table.max()}")
    n = len(table)
    columns = table.reshape(n, math.prod(table.shape[1:]))
    earlier = np.stack([_earlier(column) for column in columns.T], axis=1) if columns.shape[1] else columns
    steps = np.log(n_bins * (earlier + 0.5)) - np.log(np.arange(n) + n_bins / 2)[:, None]
    return np.cumsum(steps, axis=0).reshape(table.shape)


def _earlier(values: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """How often each entry has occurred before."""
    order = np.argsort(values, kind="stable")
    ordered, places = values[order], np.arange(len(values))
    starts = np.r_[True, ordered[1:] != ordered[:-1]][: len(values)]
    counts = np.empty(len(values), np.int64)
    counts[order] = places - np.maximum.accumulate(np.where(starts, places, 0)) if len(values) else 0
    return counts
