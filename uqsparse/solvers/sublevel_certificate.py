"""Proof of a bound on a linear functional over {w : L(w) <= c}, for any point and multiplier, rounding included.

The loss lies above its tangents in the predictors, and its ridge is exactly quadratic. So for every w' with
L(w') <= c, any point w, any t > 0, and g = grad L(w) - t x,

    c >= L(w') >= L(w) + (g + t x)^T (w' - w) + 1/2 sum_j mu_j (w' - w)_j^2,
    x^T w' <= x^T w + [c - L(w) + sum_j sup_(w') (-g_j (w' - w)_j - mu_j / 2 (w' - w)_j^2)] / t.

This is the dual bound with dual variables f'(y_i, x_i^T w): their conjugates are eliminated by Fenchel's equality. A
coordinate costs g_j^2 / (2 mu_j) where mu_j > 0. If one coordinate is free, t is chosen such that its g_j is zero. In
other free coordinates |g_j| is multiplied by bounds on w'_j over the set, which `coordinate_bounds` gets from the same
bound for the directions +-e_j; g there must be small, and after Newton's steps it is of the size of rounding.

Rounding. With u = 2^-53, sums of blocks of rows are off by at most gamma = (longest sum) u times the sum of absolute
values; predictors by gamma (|X| |w|)_i, of which the tangent at the rounded predictor needs only the slope; values and
slopes of a row by 2^-48 of their size, which the elementary functions of XLA are taken to meet. The errors are added up
and the bound is pushed outwards by them, the point inwards. The data, `l2` and `level` are taken as stored.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from uqsparse.kernels.glm_losses import LossKind, row_terms
from uqsparse.solvers.sublevel_ascent import Ascent, choose_multiplier, residual_cost
from uqsparse.solvers.sublevel_set import SublevelSet

_UNIT = 2.0**-53
_ROW_ERROR = 2.0**-48


class CertifiedScores(NamedTuple):
    """A feasible point for each direction, its score, and a proved upper bound on the score of all feasible points.

    Args:
        value: scores of the points, rounded down, shape (b,).
        upper: proved bounds, +inf if nothing follows, shape (b,).
        points: feasible points, shape (b, d).
        first: the part of `upper` that does not come from free coordinates, shape (b,).
        free_rates: |g_j| / t of the free coordinates that t does not balance, 0 elsewhere, shape (b, d).
        base: the point at which the tangent was taken, shape (b, d).
    """

    value: Float[Array, " b"]
    upper: Float[Array, " b"]
    points: Float[Array, "b d"]
    first: Float[Array, " b"]
    free_rates: Float[Array, "b d"]
    base: Float[Array, "b d"]


class LossEnclosure(NamedTuple):
    """L and its gradient with bounds on their rounding errors."""

    value: Float[Array, " b"]
    value_error: Float[Array, " b"]
    gradient: Float[Array, "b d"]
    gradient_error: Float[Array, "b d"]


def enclose_loss(kind: LossKind, region: SublevelSet, w: Float[Array, "b d"]) -> LossEnclosure:
    """L and its gradient at every point of a batch, each with a bound on its rounding error."""
    d = w.shape[1]
    n_predictors = region.rows.n_predictors

    def add(total, block):
        margins = w @ block.design.T
        terms = row_terms(kind, block.y, margins)
        weights = jnp.tile(block.weights, n_predictors)
        # A slope such as exp(u) - y is off by the size of its parts.
        slope_sizes = abs(terms.slopes) + (terms.curvatures if kind == "poisson" else 0.0)
        sizes = jnp.split(abs(terms.slopes) * (1 + abs(margins)) * weights, n_predictors, axis=1)
        new = (
            terms.value @ block.weights,
            (abs(terms.value) * block.weights + sum(sizes)).sum(axis=1),
            (terms.slopes * weights) @ block.design,
            (slope_sizes * weights) @ abs(block.design),
        )
        return jax.tree.map(jnp.add, total, new), None

    ridge = 0.5 * (w * w) @ region.l2
    start = (ridge, ridge, region.l2 * w, region.l2 * abs(w))
    (value, value_size, gradient, sizes), _ = jax.lax.scan(add, start, region.rows._replace(products=None))
    # Sums run over the rows of a block, and then over the blocks; sizes are rounded too, which 1.01 covers.
    longest = region.rows.design.shape[0] + region.rows.design.shape[1] + 8
    relative = 1.01 * (longest * _UNIT + _ROW_ERROR)
    predictor_error = 2.02 * (d + 4) * _UNIT * (sizes * abs(w)).sum(axis=1)
    return LossEnclosure(value, relative * value_size + predictor_error, gradient, relative * sizes)


def certify(kind: LossKind, region: SublevelSet, x: Float[Array, "b d"], found: Ascent) -> CertifiedScores:
    """Feasible points near those found, and proved upper bounds.

    Args:
        kind: kind of loss.
        region: the set.
        x: directions.
        found: points and multipliers, from anywhere.
    """
    d = x.shape[1]
    w = found.points
    here = enclose_loss(kind, region, w)
    middle = enclose_loss(kind, region, region.center[None])
    safe_level = region.level - here.value_error
    # Feasible: L is convex on the segment from w_0, so that it lies below its chord.
    room = safe_level - middle.value - middle.value_error
    excess = jnp.maximum(here.value - safe_level, 0.0)
    share = jnp.where(excess > 0, (1 - 8 * _UNIT) * room / (room + excess), 1.0)
    share = jnp.where((room > 0) & jnp.isfinite(here.value), share, 0.0)
    points = jnp.where(share[:, None] == 1, w, region.center + share[:, None] * (w - region.center))
    score_error = (d + 2) * _UNIT * (abs(x) * abs(points)).sum(axis=1)
    value = (x * points).sum(axis=1) - score_error

    t = choose_multiplier(region, x, here.gradient, found.multipliers)
    g = abs(here.gradient - t[:, None] * x)
    error = here.gradient_error + 4 * _UNIT * (abs(here.gradient) + abs(t[:, None] * x))
    # The t that balances exactly is within `spread` of the stored one.
    balanced = (jnp.arange(d) == region.balanced) & (x != 0)
    spread = jnp.where(balanced, (g + error) / jnp.where(balanced, abs(x), 1.0), 0.0).sum(axis=1)
    residual = jnp.where(balanced, 0.0, g + error + spread[:, None] * abs(x))
    least = t - spread
    proved = (least > 0) & jnp.isfinite(here.value)
    least = jnp.where(proved, least, 1.0)
    free = region.l2 == 0
    slack = region.level - here.value + here.value_error
    step = slack / jnp.where(slack > 0, least, t + spread)
    step = step + residual_cost(region, w, jnp.where(free, 0.0, residual)) / least
    free_rates = jnp.where(free, residual, 0.0) / least[:, None]
    score = (x * w).sum(axis=1)
    rounding = (d + 8) * _UNIT * ((abs(x) * abs(w)).sum(axis=1) + abs(step))
    first = jnp.where(proved, score + step + rounding, jnp.inf)
    extent = jnp.maximum(region.upper - w, w - region.lower)
    last = jnp.where(free_rates > 0, free_rates * extent, 0.0).sum(axis=1) * (1 + (d + 8) * _UNIT)
    upper = first + last
    return CertifiedScores(value, jnp.where(jnp.isnan(upper), jnp.inf, upper), points, first, free_rates, w)


def coordinate_bounds(
    scores: CertifiedScores, free: np.ndarray, center: np.ndarray
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]] | None:
    """Bounds on the free coordinates over a bounded set, from the certificates of the directions e_j and then -e_j.

    The largest deviations b_j from the center satisfy b <= a + E b, where E holds the residuals and is tiny. As b is
    finite, this bounds it whenever E shrinks some weighted largest norm.

    Args:
        scores: certificates of e_j for all free j, then of -e_j.
        free: the free coordinates, increasing.
        center: a point, shape (d,).

    Returns:
        Lower and upper bounds, infinite for penalised coordinates; None if the residuals are too large.
    """
    n, d = len(free), len(center)
    rates = np.asarray(scores.free_rates)[:, free]
    start = np.concatenate([np.ones(n), -np.ones(n)]) * np.tile(center[free], 2)
    # Deviation of the point of each certificate from the center: |w'_k - w_k| <= b_k + |w_k - center_k|.
    away = abs(np.asarray(scores.base)[:, free] - center[free])
    first = np.asarray(scores.first) - start + (rates * away).sum(axis=1)
    if not np.isfinite(first).all():
        return None
    sizes = np.maximum(first[:n], first[n:])
    if (sizes <= 0).any():
        return None
    shrink = ((rates @ sizes) / np.tile(sizes, 2)).max()
    if shrink >= 0.5:
        return None
    deviations = sizes / (1 - shrink) * (1 + 1e-12)
    reach = (first + rates @ deviations) * (1 + 1e-12)
    lower, upper = np.full(d, -np.inf), np.full(d, np.inf)
    slip = 4 * _UNIT * abs(center[free])
    upper[free] = center[free] + reach[:n] + slip
    lower[free] = center[free] - reach[n:] - slip
    return lower, upper
