"""Iterative thresholding of many rows as one compiled loop.

Rows wait in a queue. A fixed number of slots work on one row each, all in the same two matrix products; a row that has
converged leaves, and the next one takes its slot. So the work is the sum of what each row needs, not the number of rows
times what the slowest needs, and a row's answer does not depend on its neighbours beyond rounding.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from uqsparse.kernels.namespaces import AnyArray
from uqsparse.kernels.penalties import L1, Penalty

# Refill once one in so many slots is free, and move together once all but one in so many are.
_REFILL_SHARE = 8
# The stopping rule measures changes against this plus the size of the code.
_SIZE_FLOOR = 0.01


class LoopResult(NamedTuple):
    """Codes of all rows, with what certifies them.

    Args:
        codes: shape (n, M).
        objective: at the codes, for each row.
        trace: sum over rows of their objective at the start, then of its changes in their k-th iterations.
        residual: fixed-point residual |r - prox(r - step gradient)|, for each row.
        gap: duality gap of each row for `L1`, NaN for others.
        converged: whether the stopping rule was met, for each row.
        n_iter: iterations of each row.
    """

    codes: Float[AnyArray, "n M"]
    objective: Float[AnyArray, " n"]
    trace: Float[AnyArray, " k"]
    residual: Float[AnyArray, " n"]
    gap: Float[AnyArray, " n"]
    converged: Bool[AnyArray, " n"]
    n_iter: Int[AnyArray, " n"]


class _Slots(NamedTuple):
    """The rows in work: `row` is n for a slot without one."""

    row: Int[Array, " B"]
    x: Float[Array, "B D"]
    codes: Float[Array, "B M"]
    change: Float[Array, "B M"]  # of the codes, in the last step that was taken; 0 after one that was not
    image: Float[Array, "B D"]  # codes @ dictionary.T
    image_change: Float[Array, "B D"]
    square: Float[Array, " B"]  # |codes|^2
    change_square: Float[Array, " B"]
    momentum: Float[Array, " B"]  # t of Nesterov's sequence; 1 makes the next step a plain one
    objective: Float[Array, " B"]
    n_iter: Int[Array, " B"]
    converged: Bool[Array, " B"]
    done: Bool[Array, " B"]


class _Queue(NamedTuple):
    """Everything that changes: slots, results, the next row that waits."""

    slots: _Slots
    codes: Float[Array, "n M"]
    n_iter: Int[Array, " n"]
    converged: Bool[Array, " n"]
    trace: Float[Array, " k"]
    upcoming: Int[Array, ""]


@partial(jax.jit, static_argnames=("n_slots", "accelerate", "trace_length"))
def threshold_rows(
    X: Float[Array, "n D"],
    start: Float[Array, "n M"],
    count: Int[Array, ""],
    dictionary: Float[Array, "D M"],
    penalty: Penalty,
    step: Float[Array, ""],
    tolerance: Float[Array, ""],
    max_iter: Int[Array, ""],
    *,
    n_slots: int,
    accelerate: bool,
    trace_length: int,
) -> LoopResult:
    """Minimise `1/2 |x - dictionary r|^2 + sum value(r)` for each of the first `count` rows, from its start.

    With `accelerate` a step is extrapolated; it is taken only if it does not raise the row's objective, and momentum
    starts anew when it would, or when it points uphill. A plain step is always taken: below `1 / |dictionary|^2` it
    never raises the objective.

    Args:
        X: rows; those from `count` on are padding.
        start: codes to start from.
        count: how many rows to solve.
        dictionary: columns are the units.
        penalty: a record whose parameters broadcast to (M,).
        step: length of the proximal gradient steps.
        tolerance: stop a row when `|change| / (0.01 + |r|)` is below it.
        max_iter: most iterations of a row.
        n_slots: rows in work at a time.
        accelerate: whether to extrapolate.
        trace_length: more than `max_iter`.
    """
    n, M = start.shape
    product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    # As a contraction it is one pass over both, without an array of products.
    inner = partial(jnp.einsum, "bj,bj->b", precision=lax.Precision.HIGHEST)

    def objective(x: Array, image: Array, codes: Array) -> Array:
        return 0.5 * jnp.sum((x - image) ** 2, axis=1) + jnp.sum(penalty.value(codes), axis=1)

    def iterate(slots: _Slots, trace: Array) -> tuple[_Slots, Array]:
        live = ~slots.done
        if accelerate:
            longer = 0.5 * (1.0 + jnp.sqrt(1.0 + 4.0 * slots.momentum**2))
            beta = (slots.momentum - 1.0) / longer
            ahead = slots.codes + beta[:, None] * slots.change
            ahead_image = slots.image + beta[:, None] * slots.image_change
        else:
            longer, beta, ahead, ahead_image = slots.momentum, 0.0, slots.codes, slots.image
        moved = penalty.prox(ahead + step * product(slots.x - ahead_image, dictionary), step)
        image = product(moved, dictionary.T)
        value = objective(slots.x, image, moved)
        change = moved - slots.codes
        # How far the step went from the codes, and from the point ahead of them; both must be small in the end.
        change_square, along = inner(change, change), inner(change, slots.change)
        pull_square = change_square - 2.0 * beta * along + beta**2 * slots.change_square
        largest = jnp.sqrt(jnp.maximum(change_square, pull_square))
        taken = live & ((slots.momentum == 1.0) | (value <= slots.objective))
        uphill = change_square < beta * along
        converged = taken & (largest < tolerance * (_SIZE_FLOOR + jnp.sqrt(slots.square)))
        n_iter = slots.n_iter + live
        trace = trace.at[n_iter].add(jnp.where(taken, value - slots.objective, 0.0))
        keep = taken[:, None]
        return (
            slots._replace(
                codes=jnp.where(keep, moved, slots.codes),
                change=jnp.where(keep, change, 0.0),
                image=jnp.where(keep, image, slots.image),
                image_change=jnp.where(keep, image - slots.image, 0.0),
                square=jnp.where(taken, inner(moved, moved), slots.square),
                change_square=jnp.where(taken, change_square, 0.0),
                momentum=jnp.where(taken & ~uphill, longer, 1.0),
                objective=jnp.where(taken, value, slots.objective),
                n_iter=n_iter,
                converged=slots.converged | converged,
                done=slots.done | converged | (n_iter >= max_iter),
            ),
            trace,
        )

    def written(queue: _Queue) -> _Queue:
        """Results as they stand in the slots; a slot without a row writes nowhere."""
        slots = queue.slots
        return queue._replace(
            codes=queue.codes.at[slots.row].set(slots.codes, mode="drop"),
            n_iter=queue.n_iter.at[slots.row].set(slots.n_iter, mode="drop"),
            converged=queue.converged.at[slots.row].set(slots.converged, mode="drop"),
        )

    def refilled(queue: _Queue) -> _Queue:
        slots = queue.slots
        candidate = queue.upcoming + jnp.cumsum(slots.done) - 1
        fresh = slots.done & (candidate < count)
        row = jnp.where(fresh, candidate, jnp.where(slots.done, n, slots.row))
        new = fresh[:, None]
        x = jnp.where(new, X[row], slots.x)
        # The results hold the start of a row until it is done.
        codes = jnp.where(new, queue.codes[row], slots.codes)
        image = jnp.where(new, product(codes, dictionary.T), slots.image)
        value = jnp.where(fresh, objective(x, image, codes), slots.objective)
        return queue._replace(
            slots=_Slots(
                row=row,
                x=x,
                codes=codes,
                change=jnp.where(new, 0.0, slots.change),
                image=image,
                image_change=jnp.where(new, 0.0, slots.image_change),
                square=jnp.where(fresh, inner(codes, codes), slots.square),
                change_square=jnp.where(fresh, 0.0, slots.change_square),
                momentum=jnp.where(fresh, 1.0, slots.momentum),
                objective=value,
                n_iter=jnp.where(fresh, 0, slots.n_iter),
                converged=slots.converged & ~fresh,
                done=slots.done & ~fresh,
            ),
            trace=queue.trace.at[0].add(jnp.sum(jnp.where(fresh, value, 0.0))),
            upcoming=queue.upcoming + jnp.sum(fresh),
        )

    def run(queue: _Queue, enough: Array | int) -> _Queue:
        """Iterate until so many slots are free."""
        slots, trace = lax.while_loop(
            lambda state: jnp.sum(state[0].done) < enough,
            lambda state: iterate(*state),
            (queue.slots, queue.trace),
        )
        return written(queue._replace(slots=slots, trace=trace))

    few = n_slots // _REFILL_SHARE

    def work(queue: _Queue) -> _Queue:
        queue = refilled(queue)
        return run(queue, jnp.where(queue.upcoming < count, max(few, 1), n_slots - few))

    D, kind = X.shape[1], X.dtype
    units, features, numbers = (jnp.zeros(shape, kind) for shape in ((n_slots, M), (n_slots, D), n_slots))
    empty = _Slots(
        row=jnp.full(n_slots, n),
        x=features,
        codes=units,
        change=units,
        image=features,
        image_change=features,
        square=numbers,
        change_square=numbers,
        momentum=numbers + 1.0,
        objective=numbers,
        n_iter=jnp.zeros(n_slots, int),
        converged=jnp.zeros(n_slots, bool),
        done=jnp.ones(n_slots, bool),
    )
    queue = _Queue(
        empty, start, jnp.zeros(n, int), jnp.zeros(n, bool), jnp.zeros(trace_length, kind), jnp.asarray(0, int)
    )
    queue = lax.while_loop(lambda q: (q.upcoming < count) | (jnp.sum(~q.slots.done) > few), work, queue)
    if few:
        # The last rows move together, so that they do not pay for the empty slots.
        last = jnp.argsort(queue.slots.done, stable=True)[:few]
        queue = run(queue._replace(slots=jax.tree.map(lambda leaf: leaf[last], queue.slots)), few)
    codes = queue.codes
    left = X - product(codes, dictionary.T)
    correlation = product(left, dictionary)
    final = 0.5 * jnp.sum(left**2, axis=1) + jnp.sum(penalty.value(codes), axis=1)
    residual = jnp.sqrt(jnp.sum((penalty.prox(codes + step * correlation, step) - codes) ** 2, axis=1))
    if isinstance(penalty, L1):
        gap = final - _dual_objective(X, left, correlation, penalty)
    else:
        gap = jnp.full(n, jnp.nan, kind)
    return LoopResult(codes, final, queue.trace, residual, jnp.maximum(gap, 0.0), queue.converged, queue.n_iter)


def _dual_objective(X: Array, left: Array, correlation: Array, penalty: L1) -> Float[Array, " n"]:
    """The dual objective of the lasso, `x^T u - 1/2 |u|^2`, at the best u along what is left of x.

    Feasible are those with `|dictionary^T u| <= lambda`.
    """
    some = correlation != 0
    most = jnp.min(jnp.where(some, penalty.lambda_ / jnp.where(some, jnp.abs(correlation), 1.0), jnp.inf), axis=1)
    square, inner = jnp.sum(left**2, axis=1), jnp.sum(X * left, axis=1)
    scale = jnp.clip(inner / jnp.where(square > 0, square, 1.0), -most, most)
    return scale * inner - 0.5 * scale**2 * square
