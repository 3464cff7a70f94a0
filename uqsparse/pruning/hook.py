"""Sparse training as one Optax transformation around any other."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.namespaces import is_traced
from uqsparse.nn.tree_paths import path_name
from uqsparse.pruning.allocation import Allocation, erk, global_counts, uniform
from uqsparse.pruning.criteria import Criterion, magnitude
from uqsparse.pruning.mask_changes import (
    Growth,
    SwapGuard,
    clear_moments,
    first_nan,
    hold,
    only_kept,
    planner,
    settle,
    worthwhile,
)
from uqsparse.pruning.masks import (
    Mask,
    Prunable,
    apply_mask,
    at_pruned,
    full_mask,
    pruned_leaves,
    with_masks,
)
from uqsparse.pruning.random_masks import random_mask
from uqsparse.pruning.rules import Rule, Static
from uqsparse.pruning.schedules import CosineChurn, Schedule
from uqsparse.pruning.structures import Structure, Unstructured


class Best(NamedTuple):
    """The mask and the parameters at the end of the stretch between two changes whose mean loss was lowest.

    Args:
        loss: that mean.
        params: the parameters.
        mask: the mask.
        total: sum of the losses since the last change.
        n: how many these are.
    """

    loss: Float[Array, ""]
    params: PyTree
    mask: Mask
    total: Float[Array, ""]
    n: Int[Array, ""]


class SparseState(NamedTuple):
    """State of sparse training; all of it is arrays.

    Args:
        mask: which weights live.
        step: optimiser steps done.
        key: for whatever is random in changes of the mask.
        inner: state of the inner optimiser.
        held: weights with the values they had when they were last on, where a rule or growth looks at them.
        anchor: parameters that training goes back to after each change, where it does.
        best: the best mask seen, where it is kept.
        refused: number of the first leaf with NaN gradients or scores at a change, which was then not made; else -1.
    """

    mask: Mask
    step: Int[Array, ""]
    key: Key[Array, ""]
    inner: PyTree
    held: PyTree | None
    anchor: PyTree | None
    best: Best | None
    refused: Int[Array, ""]


@dataclass(frozen=True)
class _Update:
    """The update of a transformation, with what else belongs to it: a named tuple of two has no room for more."""

    step: Callable[..., tuple[PyTree, SparseState]]
    mask: Callable[..., tuple[PyTree, SparseState]]
    change_steps: tuple[int, ...]

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[PyTree, SparseState]:
        return self.step(*args, **kwargs)


class Sparsifier(optax.GradientTransformationExtraArgs):
    """An Optax transformation that keeps weights at zero, made by `sparsify`.

    `init(params)` gives a `SparseState`, and `update(grads, state, params, **extra)` the updates and the next state.
    """

    @property
    def update_mask(self) -> Callable[..., tuple[PyTree, SparseState]]:
        """`(state, params, grads, stats=None) -> (params, state)`: the change that is due at `state.step`, by itself.

        For loops that run several networks under `vmap`, where changes within the step would select at every step;
        build the transformation with `automatic=False` for them.
        """
        return cast(Any, self.update).mask

    @property
    def change_steps(self) -> tuple[int, ...]:
        """Steps before which the mask changes."""
        return cast(Any, self.update).change_steps


def sparsify(
    inner: optax.GradientTransformation,
    *,
    schedule: Schedule,
    rule: Rule,
    key: Key[Array, ""],
    drop: Criterion | None = None,
    grow: Criterion | None = None,
    churn: CosineChurn | None = None,
    allocation: Allocation | None = None,
    start_allocation: Allocation | None = None,
    structure: Structure | None = None,
    initial: Mask | None = None,
    growth: Growth = "zero",
    prunable: Prunable | None = None,
    guard: SwapGuard | None = None,
    keep_best: bool = False,
    rewind_to: int | None = None,
    skip_step: bool = False,
    automatic: bool = True,
) -> Sparsifier:
    """Train sparse with any Optax optimiser.

    After `optax.apply_updates` every weight off the mask is exactly zero, without any other call. For that this must be
    the outermost transformation: nothing may follow it in an `optax.chain`. Gradients must be dense: of the loss at the
    parameters, whose weights off the mask are zero. Moments of weights that come in or leave are set to zero.

    Args:
        inner: the optimiser.
        schedule: densities over time.
        rule: how the mask changes.
        key: for the initial mask, random criteria and random starting values.
        drop: what a weight is worth that is on; magnitude if not given.
        grow: what a weight is worth that is off; needed by rules that exchange weights.
        churn: the share that is exchanged; needed by them too.
        allocation: how many weights each leaf keeps; Erdős-Rényi with kernels (`erk`) if not given.
        start_allocation: of a sparse initial mask; as `allocation`, or `erk` where scores decide.
        structure: legal positions; any if not given.
        initial: the initial mask; if not given, random positions, or all if the schedule starts at density 1.
        growth: values of weights that come in: "zero", "held" for what they were when they left, or the standard
            deviation of random ones. Weight units have their own.
        prunable: see `full_mask`.
        guard: a test that each trade must pass.
        keep_best: keep the mask and parameters of the lowest loss between two changes, see `best_mask`; `update` then
            needs `value`, the loss.
        rewind_to: a step; at each change the weights go back to their values then, and the optimiser starts anew.
        skip_step: make no optimiser step where the mask changes, as in published code of RigL.
        automatic: make the changes within `update`; otherwise they are made by `update_mask` alone.

    Returns:
        The transformation. `update` takes `stats=` for criteria that need statistics, and hands other extra arguments
        on to the inner optimiser.

    Raises:
        ValueError: at once or in `init`: a setting is missing or out of range, a leaf cannot have the structure or
            would lose all its weights. In `update`: no parameters, another structure than the mask's, or NaN where the
            mask changes; within `jit` such a change is left out instead, and `check_changes` raises. Leaves are named.

    Source: Evci et al. (2020), Rigging the lottery; Lee et al. (2024), JaxPruner: a concise library for sparsity
    research, section 3.

    >>> from uqsparse.pruning.rules import Prune
    >>> from uqsparse.pruning.schedules import OneShot
    >>> hook = sparsify(optax.sgd(1.0), schedule=OneShot(1, 0.5), rule=Prune(), key=jax.random.key(0))
    >>> params = {"w": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    >>> state = hook.init(params)
    >>> for _ in range(2):
    ...     updates, state = hook.update({"w": jnp.ones((1, 4))}, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> params["w"].tolist()
    [[0.0, 0.0, 1.0, 2.0]]
    """
    drop, structure, allocation = drop or magnitude(), structure or Unstructured(), allocation or erk()
    final = schedule.density(schedule.end)
    if structure.density is not None:
        allocation = uniform()  # the structure leaves no choice
        if not math.isclose(final, structure.density):
            raise ValueError(f"density must be {structure.density:g} for {structure}, got {final:g}")
    if rule.exchanges and (grow is None or churn is None):
        raise ValueError(f"grow and churn must be given: {type(rule).__name__} exchanges weights")
    if isinstance(growth, str) and growth not in ("zero", "held"):
        raise ValueError(f'growth must be "zero", "held" or a standard deviation, got {growth!r}')
    every, ranking = schedule.every, allocation.criterion or drop
    end = max(schedule.end, churn.end if rule.exchanges and churn is not None else 0)
    n_changes = 0 if isinstance(rule, Static) else end // every
    if n_changes == 0 and not isinstance(rule, Static):
        raise ValueError(f"every must be at most {end}, the last step of a change, or there is none; got {every}")
    if rewind_to is not None:
        require_count("rewind_to", rewind_to, 0)
        if rewind_to >= every:
            raise ValueError(f"rewind_to must lie before the first change, at step {every}, got {rewind_to}")
    steps = tuple(every * i for i in range(n_changes + 1))
    plan_of = planner(schedule, churn, steps, allocation, structure)
    inner = optax.with_extra_args_support(inner)
    holds = rule.looks_off_mask or growth == "held"

    def init(params: PyTree) -> SparseState:
        mask = full_mask(params, prunable) if initial is None else initial
        pruned = pruned_leaves(params, mask)
        for path, leaf in zip(pruned.paths, pruned.leaves, strict=True):
            structure.check(path, tuple(leaf.shape))
        plan_of(pruned)  # what cannot be done is refused now
        if initial is None and (density := schedule.density(0)) < 1:
            at_start = start_allocation or (erk() if allocation.by_score else allocation)
            mask = random_mask(key, params, density, at_start, structure=structure, prunable=prunable)
        start = apply_mask(mask, params)
        return SparseState(
            mask=mask,
            step=jnp.zeros((), jnp.int32),
            key=key,
            inner=inner.init(start),
            held=params if holds else None,
            anchor=params if rewind_to is not None else None,
            best=Best(jnp.array(jnp.inf), start, mask, jnp.zeros(()), jnp.zeros((), jnp.int32)) if keep_best else None,
            refused=jnp.array(-1, jnp.int32),
        )

    def keys_of(state: SparseState) -> Key[Array, "3"]:
        return jax.random.split(jax.random.fold_in(state.key, state.step), 3)

    def choose(
        params: PyTree, grads: PyTree, state: SparseState, held: PyTree, stats: PyTree
    ) -> tuple[Mask, Int[Array, ""]]:
        """The mask that is due, and the number of the leaf whose NaN it was refused for, or -1."""
        paths, leaves, masks = pruned = pruned_leaves(params, state.mask)
        plan, index = plan_of(pruned), jnp.clip(state.step // every, 0, n_changes)
        key_drop, key_grow, _ = keys_of(state)
        seen = held if rule.looks_off_mask else params

        def scores_of(criterion: Criterion, key: Key[Array, ""]) -> list[Array]:
            scores = criterion(seen, grads=grads, stats=stats, mask=state.mask, key=key)
            return at_pruned(scores, params, state.mask)

        stay = scores_of(drop, key_drop)
        enter = stay if grow is None else scores_of(grow, key_grow)
        slopes = at_pruned(grads, params, state.mask)
        refused = first_nan(stay, enter, slopes)
        if not is_traced(refused) and refused >= 0:
            raise ValueError(
                f"gradients and scores must not be NaN where the mask changes; {paths[int(refused)]!r} has NaN"
            )
        if plan.counts is None:
            ranks = stay if ranking is drop else scores_of(ranking, key_drop)
            if not rule.looks_off_mask:
                ranks = [jnp.where(m, s, -jnp.inf) for m, s in zip(masks, ranks, strict=True)]
            dense = [path in allocation.dense for path in paths]
            counts = global_counts(ranks, jnp.asarray(plan.totals)[index], dense, allocation.allow_empty)
        else:
            counts = list(jnp.asarray(plan.counts)[index])
        churn_now = jnp.asarray(plan.churn)[index]

        def moved(leaf: Any, mask: Array, keep: Array, come: Array, slope: Any, count: Array) -> Array:
            rows, kept = structure.rows(keep), structure.rows(mask.astype(jnp.float32)) > 0
            n_units = structure.units(count, mask.shape, rows.shape[1])
            most = None if guard is None else worthwhile(guard, structure, leaf, slope, mask, kept)
            new = structure.spread(rule(kept, rows, structure.rows(come), n_units, churn_now, most), mask.shape)
            return jnp.where(refused >= 0, mask, new)

        new = with_masks(params, state.mask, list(map(moved, leaves, masks, stay, enter, slopes, counts)))
        return new, refused.astype(jnp.int32)

    def take(
        new: Mask, refused: Int[Array, ""], params: PyTree, state: SparseState, held: PyTree
    ) -> tuple[PyTree, SparseState]:
        """Go over to a mask; what leaves is zero, what comes in has its starting value, and both have no moments."""
        if state.anchor is None:
            settled = settle(params, state.mask, new, growth, held, keys_of(state)[2])
            moments = clear_moments(inner, state.inner, params, state.mask, new)
        else:
            settled = apply_mask(new, state.anchor)
            moments = inner.init(settled)
        return settled, state._replace(
            mask=new,
            inner=moments,
            held=held,
            best=None if state.best is None else _better(state.best, params, state.mask),
            refused=jnp.where(state.refused >= 0, state.refused, refused),
        )

    def change(params: PyTree, grads: PyTree, state: SparseState, stats: PyTree) -> tuple[PyTree, SparseState]:
        held = hold(params, state.mask, state.held) if holds else None
        return take(*choose(params, grads, state, held, stats), params, state, held)

    def update(
        grads: PyTree, state: SparseState, params: PyTree | None = None, *, stats: PyTree = None, **extra: Any
    ) -> tuple[PyTree, SparseState]:
        if params is None:
            raise ValueError("params must be given to update: what is off the mask is set to zero from them")
        pruned_leaves(params, state.mask)
        if state.best is not None:
            if "value" not in extra:
                raise ValueError("value, the loss, must be given to update: keep_best compares it")
            best = state.best
            state = state._replace(best=best._replace(total=best.total + extra["value"], n=best.n + 1))
        if rewind_to:
            anchor = jax.lax.cond(state.step == rewind_to, lambda: params, lambda: state.anchor)
            state = state._replace(anchor=anchor)

        def trained(settled: PyTree, state: SparseState, rests: bool = False) -> tuple[PyTree, SparseState]:
            moments, changes = state.inner, jax.tree.map(jnp.zeros_like, grads)
            if not rests:
                slopes = only_kept(grads, params, state.mask)
                changes, moments = inner.update(slopes, moments, settled, **extra)
            # Off the mask this is minus the weight, so that the sum is zero bit for bit.
            changes = only_kept(changes, params, state.mask)
            updates = jax.tree.map(lambda change, new, old: change + (new - old), changes, settled, params)
            return updates, state._replace(step=state.step + 1, inner=moments)

        def goes_on(state: SparseState) -> tuple[PyTree, SparseState]:
            return trained(apply_mask(state.mask, params), state)

        def changes_first(state: SparseState) -> tuple[PyTree, SparseState]:
            # Gradients at the trained weights say nothing about those that training goes back to.
            return trained(*change(params, grads, state, stats), rests=skip_step or rewind_to is not None)

        if not automatic or n_changes == 0:
            return goes_on(state)
        due = (state.step > 0) & (state.step % every == 0) & (state.step <= steps[-1])
        if not is_traced(due):
            return changes_first(state) if due else goes_on(state)
        if growth == "zero" and not (holds or skip_step or state.anchor is not None or state.best is not None):
            # Whatever leaves a conditional is copied, and nothing is fused with it: let it be the mask alone. Under a
            # mask that has not changed, `take` changes nothing.
            new, refused = jax.lax.cond(
                due, lambda: choose(params, grads, state, None, stats), lambda: (state.mask, jnp.array(-1, jnp.int32))
            )
            return trained(*take(new, refused, params, state, None))
        return jax.lax.cond(due, changes_first, goes_on, state)

    def update_mask(
        state: SparseState, params: PyTree, grads: PyTree, stats: PyTree = None
    ) -> tuple[PyTree, SparseState]:
        return change(params, grads, state, stats)

    return Sparsifier(cast(Any, init), cast(Any, _Update(update, update_mask, steps[1:])))


def check_changes(state: SparseState) -> None:
    """Raise ValueError, naming the leaf, if a change of the mask was left out within `jit` because of NaN."""
    if int(state.refused) >= 0:
        path = jax.tree_util.tree_flatten_with_path(state.mask)[0][int(state.refused)][0]
        raise ValueError(f"gradients and scores must not be NaN where the mask changes; {path_name(path)!r} had NaN")


def best_mask(state: SparseState, params: PyTree) -> tuple[PyTree, Mask]:
    """The parameters and the mask of the lowest mean loss between two changes, the time since the last one included.

    Raises:
        ValueError: the transformation was made without `keep_best`.
    """
    if state.best is None:
        raise ValueError("state holds no best mask: give keep_best=True to sparsify")
    best = _better(state.best, params, state.mask)
    return best.params, best.mask


def _better(best: Best, params: PyTree, mask: Mask) -> Best:
    mean = best.total / jnp.maximum(best.n, 1)
    better = (best.n > 0) & (mean < best.loss)
    loss, params, mask = jax.tree.map(
        lambda new, old: jnp.where(better, new, old), (mean, params, mask), (best.loss, best.params, best.mask)
    )
    return Best(loss, params, mask, jnp.zeros_like(best.total), jnp.zeros_like(best.n))
