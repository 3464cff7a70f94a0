"""Batched ascent of linear functionals on the boundary of a convex sublevel set {w : L(w) <= c}.

One iteration, for each direction x of the batch at its point w:

1. Newton's step for the minimum of L on the hyperplane of points that score as w does, x^T w' = x^T w: with
   t = x^T H^-1 grad L / x^T H^-1 x it is -H^-1 g, g = grad L - t x. Halved until L falls enough.
2. The point is now inside the set. It goes out along H^-1 x, the tangent of the path of maxima over all levels, by a
   Newton step on sqrt(L - L_0) - sqrt(c - L_0), which is linear in the distance where L is quadratic. A point too far
   out comes back along the ray to the minimiser w_0.

The score rises in every iteration, t tends to the multiplier of the constraint, and convergence is quadratic. There is
no search over t, and near enough every iterate is feasible.

What this finds is not trusted: `uqsparse.solvers.sublevel_certificate` proves a bound for any w and t.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from uqsparse.kernels.glm_losses import LossKind
from uqsparse.solvers.sublevel_set import SublevelSet, hessians, loss_along, loss_state, predictors, room_to_edge

_ARMIJO = 1e-4
# Steps go this share of the way to the edge of the domain, if there is one.
_TO_EDGE = 0.9
_MOST_HALVINGS = 60
# Hessians serve twice where the squared step is this small a share of the room for it.
_REUSE = 1e-3


class Ascent(NamedTuple):
    """Where the ascent stopped, for each direction.

    Args:
        points: shape (b, d); on the boundary up to the accuracy reached, not certified to be feasible.
        multipliers: t, shape (b,).
        gap: upper bound minus feasible score, without allowance for rounding, shape (b,).
        n_iter: iterations until the gap was reached, shape (b,).
    """

    points: Float[Array, "b d"]
    multipliers: Float[Array, " b"]
    gap: Float[Array, " b"]
    n_iter: Int[Array, " b"]


def choose_multiplier(
    region: SublevelSet, x: Float[Array, "b d"], gradient: Float[Array, "b d"], fallback: Float[Array, " b"]
) -> Float[Array, " b"]:
    """The multiplier of the bound: the residual of the only free coordinate vanishes, if x has an entry there."""
    index = jnp.maximum(region.balanced, 0)
    entry = x[:, index]
    usable = (region.balanced >= 0) & (entry != 0)
    return jnp.where(usable, gradient[:, index] / jnp.where(usable, entry, 1.0), fallback)


def residual_cost(region: SublevelSet, w: Float[Array, "b d"], residual: Float[Array, "b d"]) -> Float[Array, " b"]:
    """Upper bound of `-residual^T (w' - w) - 1/2 sum_j mu_j (w' - w)_j^2` over all w' of the set, residual >= 0.

    Penalised coordinates cost `residual^2 / (2 mu)`, the others `residual` times the largest |w' - w|.
    """
    extent = jnp.maximum(region.upper - w, w - region.lower)
    linear = jnp.where(residual > 0, residual * extent, 0.0)
    quadratic = residual**2 / (2 * jnp.where(region.l2 > 0, region.l2, 1.0))
    return jnp.where(region.l2 > 0, jnp.minimum(quadratic, linear), linear).sum(axis=1)


def ascend(
    kind: LossKind,
    region: SublevelSet,
    x: Float[Array, "b d"],
    start: Float[Array, "b d"],
    tolerance: Float[Array, ""],
    max_iter: Int[Array, ""],
) -> Ascent:
    """Maximise x^T w over the set for every row of x, from `start`.

    Args:
        kind: kind of loss.
        region: the set.
        x: directions, none of them zero.
        start: the maxima if L were quadratic: w_0 plus multiples of H(w_0)^-1 x.
        tolerance: largest gap, as a share of the width x^T (w - w_0).
        max_iter: most iterations.
    """
    center, room = region.center, region.level - region.center_value
    center_score = x @ center
    evaluate = functools.partial(loss_state, kind, region)

    def outward(value, slope):
        """Factor by which the distance from w_0 grows to where L = c, from a point with this L and this derivative."""
        rise = jnp.maximum(value - region.center_value, 1e-300)
        root = 1 - (jnp.sqrt(rise) - jnp.sqrt(room)) * 2 * jnp.sqrt(rise) / jnp.maximum(slope, 1e-300)
        # L is convex along the ray, so that the chord and the tangent enclose the crossing.
        chord, tangent = room / rise, 1 + (region.level - value) / jnp.maximum(slope, 1e-300)
        return jnp.clip(root, jnp.minimum(1.0, chord), jnp.minimum(jnp.maximum(1.0, chord), jnp.maximum(1.0, tangent)))

    def come_back(w):
        """Points that are finite and not far outside, with their state: far ones return to near the boundary."""
        away = w - center

        def unfinished(carry):
            return carry[-2] & (carry[-1] < _MOST_HALVINGS)

        def narrow(carry):
            share, _, _, low, high, was_outside, _, count = carry
            here = jnp.where(share[:, None] == 1, w, center + share[:, None] * away)
            state = evaluate(here)
            rise = state.value - region.level
            was_outside = was_outside | (rise > 0.1 * room)
            astray = (rise > 0.1 * room) | (was_outside & (rise < -0.3 * room))
            low, high = jnp.where(rise > 0, low, share), jnp.where(rise > 0, share, high)
            slope = (state.gradient * away).sum(axis=1) * share
            guess = jnp.where(jnp.isfinite(state.value), share * outward(state.value, slope), jnp.nan)
            # NaN fails both comparisons.
            inside = (guess > low + 0.02 * (high - low)) & (guess < high - 0.02 * (high - low))
            share = jnp.where(astray, jnp.where(inside, guess, 0.5 * (low + high)), share)
            return share, here, state, low, high, was_outside, astray.any(), count + 1

        state = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), jax.eval_shape(evaluate, w))
        none, one = jnp.zeros(len(w), dtype=bool), jnp.ones(len(w))
        carry = (one, w, state, jnp.zeros(len(w)), one, none, jnp.asarray(True), 0)
        return jax.lax.while_loop(unfinished, narrow, carry)[1:3]

    def shorten_step(w, step, longest, start_value, decrement):
        """The share of the step to take, with L and its derivative along the ray at the end."""
        base, change = predictors(region, w - center), predictors(region, step)
        # Close by, the decrease drowns in rounding, and the full step is safe.
        sure = decrement < 1e-9 * room

        def unfinished(carry):
            return ~jnp.all(carry[3]) & (carry[4] < _MOST_HALVINGS)

        def halve(carry):
            size = jnp.where(carry[3], carry[0], carry[0] / 2)
            end = w + size[:, None] * step
            value, slope = loss_along(kind, region, base, change, size)
            value, slope = value + 0.5 * (end * end) @ region.l2, slope + (end * (end - center)) @ region.l2
            # NaN fails the comparisons.
            good = (value <= start_value - _ARMIJO * size * decrement) | (sure & jnp.isfinite(value)) | (size < 1e-9)
            return size, value, slope, good, carry[4] + 1

        nothing = jnp.zeros_like(decrement)
        carry = (2 * longest, nothing, nothing, jnp.zeros(len(w), dtype=bool), 0)
        size, value, slope, *_ = jax.lax.while_loop(unfinished, halve, carry)
        return jnp.where(size < 1e-9, 0.0, size), value, slope

    def assess(iteration, w, state, best, done):
        """The best certificate so far, and who is done."""
        width = (x * w).sum(axis=1) - center_score
        t = _multiplier(region, x, start, state)
        gap = _gap(region, x, w, state, t, width)
        better = (gap < best.gap) | (iteration == 0)
        best = Ascent(
            jnp.where(better[:, None], w, best.points),
            jnp.where(better, t, best.multipliers),
            jnp.where(better, gap, best.gap),
            jnp.where(done, best.n_iter, iteration),
        )
        return best, done | (gap <= tolerance * width)

    def move(w, state, done, factors, last_decrement, stale, iteration):
        """The next points: a step on the hyperplane and one outwards."""
        # Close by, the Hessians hardly change any more, and serve twice.
        stale = ~stale & (done | (last_decrement < _REUSE * room)).all()
        factors = jax.lax.cond(stale, lambda: factors, lambda: _factorise(hessians(region, state.curvatures)))
        y, v = _solve(factors, state.gradient, x)
        q = jnp.maximum((x * v).sum(axis=1), 1e-300)
        t = (x * y).sum(axis=1) / q
        width = (x * w).sum(axis=1) - center_score
        step = jnp.where(done[:, None], 0.0, t[:, None] * v - y)
        decrement = jnp.maximum(-(state.gradient * step).sum(axis=1), 0.0)
        longest = jnp.minimum(1.0, _TO_EDGE * room_to_edge(kind, region, w, step))
        # The quadratic model says as well as an evaluation how L is at the end of a short step.
        near = done | ((decrement < 0.01 * room) & (iteration < 8) & (longest == 1))
        model = jnp.ones_like(t), state.value - decrement / 2, t * width
        size, end_value, slope = jax.lax.cond(
            near.all(), lambda: model, lambda: shorten_step(w, step, longest, state.value, decrement)
        )
        factor = jnp.where(done | ~jnp.isfinite(end_value), 1.0, outward(end_value, slope))
        w = w + size[:, None] * step
        # Outwards along the path of maxima: the ray may run into an edge that is not the maximum's.
        out = jnp.where((factor > 1)[:, None], (width / q)[:, None] * v, w - center)
        # Close to the edge, but only from where Newton's steps converge: otherwise they only double the distance.
        nearer = jnp.where(decrement < region.rows.weights.max(), 0.5, 0.05)
        factor = jnp.minimum(factor, 1 + nearer * room_to_edge(kind, region, w, out))
        return w + (factor - 1)[:, None] * out, factors, decrement, stale

    def body(carry):
        iteration, w, best, done, factors, decrement, stale = carry
        w, state = come_back(w)
        best, done = assess(iteration, w, state, best, done)
        w, factors, decrement, stale = jax.lax.cond(
            done.all(),
            lambda: (w, factors, decrement, stale),
            lambda: move(w, state, done, factors, decrement, stale, iteration),
        )
        return iteration + 1, w, best, done, factors, decrement, stale

    def unfinished(carry):
        return (carry[0] <= max_iter) & ~jnp.all(carry[3])

    b, d = x.shape
    origin = jnp.broadcast_to(center, x.shape)
    inside = jnp.minimum(1.0, 0.5 * room_to_edge(kind, region, origin, start - center))
    nothing = Ascent(start, jnp.zeros(b), jnp.full(b, jnp.inf), jnp.zeros(b, dtype=jnp.int32))
    carry = (
        jnp.asarray(0, jnp.int32),
        center + inside[:, None] * (start - center),
        nothing,
        jnp.zeros(b, dtype=bool),
        (jnp.zeros((b, d, d)), jnp.ones((b, d))),
        jnp.full(b, jnp.inf),
        jnp.asarray(True),
    )
    return jax.lax.while_loop(unfinished, body, carry)[2]


def _multiplier(region, x, start, state):
    """A multiplier for the bound at a point near the maximum."""
    # Least squares in the norm of the minimum's Hessian, which the start encodes.
    away = start - region.center
    t = (away * state.gradient).sum(axis=1) / (away * x).sum(axis=1)
    # With a ridge on every coordinate the bound's minimum over t is known.
    penalties = 2 * jnp.where(region.l2 > 0, region.l2, 1.0)
    fixed = region.level - state.value + (state.gradient**2 / penalties).sum(axis=1)
    optimal = jnp.sqrt(jnp.maximum(fixed, 0.0) / (x**2 / penalties).sum(axis=1))
    t = jnp.where(jnp.all(region.l2 > 0), optimal, t)
    return choose_multiplier(region, x, state.gradient, t)


def _gap(region, x, w, state, t, width):
    """Upper bound minus the score that the chord to w_0 proves feasible, without rounding."""
    residual = abs(state.gradient - t[:, None] * x)
    # Exactly zero by the choice of t; what is left is rounding.
    balanced = (jnp.arange(x.shape[1]) == region.balanced) & (x != 0)
    above = (region.level - state.value + residual_cost(region, w, jnp.where(balanced, 0.0, residual))) / t
    room = region.level - region.center_value
    excess = jnp.maximum(state.value - region.level, 0.0)
    usable = (t > 0) & (width > 0) & jnp.isfinite(state.value)
    return jnp.where(usable, above + width * excess / (room + excess), jnp.inf)


def _factorise(curvature):
    """Cholesky factors of matrices scaled to a unit diagonal, and the scales."""
    scale = jax.lax.rsqrt(jnp.maximum(jnp.diagonal(curvature, axis1=1, axis2=2), 1e-290))
    scaled = curvature * scale[:, None, :] * scale[:, :, None]
    # Far below what a step needs, above what rounding takes from the smallest eigenvalue.
    return jnp.linalg.cholesky(scaled + 1e-13 * jnp.eye(scaled.shape[1])), scale


def _solve(factors, gradient, x):
    """H^-1 times the gradient and times x."""
    factor, scale = factors
    right = jnp.stack([gradient, x], axis=2) * scale[:, :, None]
    half = jax.lax.linalg.triangular_solve(factor, right, left_side=True, lower=True)
    found = jax.lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)
    found = jnp.where(jnp.isfinite(found), found, 0.0) * scale[:, :, None]
    return found[:, :, 0], found[:, :, 1]
