"""What a change of the mask does to weights, moments and counts."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from uqsparse.pruning.allocation import Allocation
from uqsparse.pruning.masks import Mask, Pruned, is_unit, masked_map
from uqsparse.pruning.schedules import CosineChurn, Schedule
from uqsparse.pruning.structures import Structure

# Values of weights that come in: zero, what they were when they left, or random ones of a standard deviation.
Growth = Literal["zero", "held"] | float


class SwapGuard(NamedTuple):
    """Accept a trade only where what comes in promises more than what leaves is worth.

    Args:
        gain: `(leaf, gradient, mask) -> array`, expected fall of the loss where a weight that is off comes in.
        cost: `(leaf, mask) -> array`, expected rise of the loss where a weight leaves, in the same unit.
    """

    gain: Callable[[Any, Any, Array], Float[Array, "..."]]
    cost: Callable[[Any, Array], Float[Array, "..."]]


class Plan(NamedTuple):
    """What is known before training, for the start (index 0) and each change.

    Args:
        totals: weights kept, shape (changes + 1,).
        counts: of each leaf, shape (changes + 1, leaves); None where scores decide.
        churn: share that is exchanged, shape (changes + 1,).
    """

    totals: Int[np.ndarray, " changes"]
    counts: Int[np.ndarray, "changes leaves"] | None
    churn: Float[np.ndarray, " changes"]


def planner(
    schedule: Schedule,
    churn: CosineChurn | None,
    steps: tuple[int, ...],
    allocation: Allocation,
    structure: Structure,
) -> Callable[[Pruned], Plan]:
    """The function that plans all changes from the shapes of the weights, on the host."""

    @lru_cache(maxsize=8)
    def plan(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Plan:
        sizes = [math.prod(shape) for _, shape in shapes]
        densities = [schedule.density(step) for step in steps]

        def counts_of(density: float) -> list[int]:
            counts = allocation.counts(dict(shapes), density)
            for path, shape in shapes:
                n_units = jax.eval_shape(structure.rows, jax.ShapeDtypeStruct(shape, jnp.float32)).shape[1]
                if structure.units(counts[path], shape, n_units) == 0 and not allocation.allow_empty:
                    raise ValueError(f"{path!r} of shape {shape} would keep nothing at density {density:g}")
            return [counts[path] for path, _ in shapes]

        return Plan(
            np.array([round(density * sum(sizes)) for density in densities]),
            None if allocation.by_score else np.array([counts_of(density) for density in densities]),
            np.array([0.0 if churn is None else churn.rate(step) for step in steps], np.float32),
        )

    def plan_of(pruned: Pruned) -> Plan:
        return plan(tuple((path, tuple(leaf.shape)) for path, leaf in zip(pruned.paths, pruned.leaves, strict=True)))

    return plan_of


def first_nan(*trees: list[Any]) -> Int[Array, ""]:
    """The number of the first leaf with a NaN in one of the lists, -1 where there is none."""
    bad = [jnp.stack([jnp.isnan(a).any() for a in jax.tree.leaves(nodes)]).any() for nodes in zip(*trees, strict=True)]
    return jnp.where(jnp.stack(bad).any(), jnp.argmax(jnp.stack(bad)), -1)


def worthwhile(
    guard: SwapGuard, structure: Structure, leaf: Any, slope: Any, mask: Bool[Array, "..."], kept: Bool[Array, "r u"]
) -> Int[Array, " r"]:
    """How many trades of each row gain more than they cost, the best gains against the least costs."""
    gain, cost = structure.rows(guard.gain(leaf, slope, mask)), structure.rows(guard.cost(leaf, mask))
    gains = -jnp.sort(jnp.where(kept, jnp.inf, -gain), axis=-1)
    costs = jnp.sort(jnp.where(kept, cost, jnp.inf), axis=-1)
    return (gains > costs).sum(axis=-1)


def hold(params: PyTree, mask: Mask, held: PyTree) -> PyTree:
    """The weights that are on, and the last values of the others."""

    def of_leaf(leaf: Any, kept: Array | None, old: Any) -> Any:
        return leaf if kept is None else jax.tree.map(lambda a, b: jnp.where(kept, a, b), leaf, old)

    return masked_map(of_leaf, params, mask, held)


def settle(params: PyTree, old: Mask, new: Mask, growth: Growth, held: PyTree | None, key: Key[Array, ""]) -> PyTree:
    """The parameters under the new mask: what leaves is zero, what comes in has its starting value."""
    leaves = jax.tree.leaves(params, is_leaf=is_unit)
    keys = iter(jax.random.split(key, len(leaves)))

    def of_leaf(leaf: Any, before: Array | None, after: Array | None, last: Any) -> Any:
        one = next(keys)
        if before is None or after is None:
            return leaf
        if is_unit(leaf):
            return leaf.grown(after & ~before, after & before).masked(after)
        if growth == "held":
            start = last
        else:
            start = 0.0 if growth == "zero" else growth * jax.random.normal(one, leaf.shape, leaf.dtype)
        return jnp.where(after & before, leaf, jnp.where(after, start, 0)).astype(leaf.dtype)

    return masked_map(of_leaf, params, old, new, params if held is None else held)


def clear_moments(inner: optax.GradientTransformation, state: PyTree, params: PyTree, old: Mask, new: Mask) -> PyTree:
    """The inner state with zeros at weights that come in or leave.

    Everything in the state that has a weight's shape is taken for a moment of it, whatever the optimiser.
    """

    def stays(leaf: Any, before: Array | None, after: Array | None) -> Any:
        kept = jnp.ones((), bool) if before is None or after is None else before & after
        return jax.tree.map(lambda _: kept, leaf)

    def clear(moment: Any, kept: Array) -> Any:
        if kept.ndim == 0 or getattr(moment, "shape", None) != kept.shape:
            return moment
        return jnp.where(kept, moment, 0).astype(moment.dtype)

    return optax.tree_utils.tree_map_params(inner, clear, state, masked_map(stays, params, old, new))


def only_kept(tree: PyTree, params: PyTree, mask: Mask) -> PyTree:
    """A tree like the parameters (gradients, updates) with zeros off the mask; of units, in every array."""

    def of_leaf(_: Any, kept: Array | None, node: Any) -> Any:
        return node if kept is None else jax.tree.map(lambda a: jnp.where(kept, a, 0), node)

    return masked_map(of_leaf, params, mask, tree)
