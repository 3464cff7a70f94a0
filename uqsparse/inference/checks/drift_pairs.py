"""Pairs (before, after) for the drift test, simulated in compiled batches that bet on their differences."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from uqsparse.inference.checks.drift_statistics import TestFunctions
from uqsparse.inference.checks.eprocess import Wealth, bet

Simulate = Callable[[Array], tuple[Any, Any]]
Kernel = Callable[[Array, Any, Any], Any]


class Sweep(eqx.Module):
    """What leads from before to after: some steps of a kernel, each followed by new data if `refresh` is given.

    Args:
        kernel: function of (key, theta, y) to a new theta.
        n_steps: how often.
        refresh: function of (key, theta) to new data, or None.
    """

    kernel: Kernel
    n_steps: int = eqx.field(static=True)
    refresh: Callable[[Array, Any], Any] | None = None


class State(NamedTuple):
    """Parameters and data."""

    theta: PyTree
    y: PyTree


class Fault(NamedTuple):
    """Where a kernel returned NaN first: whether it did, and the state before."""

    found: Bool[Array, ""]
    before: State


class Batch(NamedTuple):
    """What n pairs have shown, for k sweeps and s statistics.

    Args:
        wealth: what the bets have gained; statistics of the first sweep come first, k s in all.
        differences: statistic after minus before, shape (n, k s).
        moved: number of pairs in which each sweep has changed theta, shape (k,).
        start_fault: whether some theta was NaN at the start, and where.
        faults: for each sweep whether and where its kernel returned NaN.
        nan_statistic: number of a statistic that was NaN, -1 if none.
        nan_at: the start of that pair.
    """

    wealth: Wealth
    differences: Float[Array, "n s"]
    moved: Int[Array, " k"]
    start_fault: Fault
    faults: tuple[Fault, ...]
    nan_statistic: Int[Array, ""]
    nan_at: State


@eqx.filter_jit
def run_batch(
    key: Array,
    count: Int[Array | np.ndarray, ""],
    simulate: Simulate,
    sweeps: tuple[Sweep, ...],
    tests: TestFunctions,
    size: int,
) -> Batch:
    """Simulate `size` pairs and use the first `count` of them; arrays inside the functions are traced."""

    def one(keys: Array):
        start = State(*jax.tree.map(jnp.asarray, tuple(simulate(keys[0]))))
        ends = [_follow(k, sweep, start) for k, sweep in zip(keys[1:], sweeps, strict=True)]
        # All states in one call, so that the statistics are compiled once.
        values = jax.vmap(tests)(*jax.tree.map(lambda *leaves: jnp.stack(leaves), start, *(end for end, _ in ends)))
        moved = jnp.stack([_differ(end.theta, start.theta) for end, _ in ends])
        return (values[1:] - values[0]).ravel(), moved, start, [fault for _, fault in ends]

    differences, moved, starts, faults = jax.vmap(one)(jax.random.split(key, (size, 1 + len(sweeps))))
    used = jnp.arange(size) < count
    undefined = used & jnp.isnan(differences).any(axis=1)
    row = jnp.argmax(undefined)
    return Batch(
        wealth=bet(differences, count),
        differences=differences,
        moved=(moved & used[:, None]).sum(axis=0),
        start_fault=_first(used, Fault(jax.vmap(_has_nan)(starts.theta), starts)),
        faults=tuple(_first(used, fault) for fault in faults),
        nan_statistic=jnp.where(undefined.any(), jnp.argmax(jnp.isnan(differences[row])), -1),
        nan_at=jax.tree.map(lambda a: a[row], starts),
    )


def _follow(key: Array, sweep: Sweep, start: State) -> tuple[State, Fault]:
    def once(carry: tuple[State, Fault], key: Array) -> tuple[tuple[State, Fault], None]:
        (theta, y), fault = carry
        # Splitting a key costs compile time.
        first, second = (key, key) if sweep.refresh is None else jax.random.split(key)
        new = _like(sweep.kernel(first, theta, y), theta)
        here = ~fault.found & _has_nan(new)
        before = jax.tree.map(lambda a, b: jnp.where(here, a, b), State(theta, y), fault.before)
        if sweep.refresh is not None:
            y = _like(sweep.refresh(second, new), y)
        return (State(new, y), Fault(fault.found | here, before)), None

    begin = (start, Fault(jnp.asarray(False), start))
    if sweep.n_steps == 1:
        return once(begin, key)[0]
    return jax.lax.scan(once, begin, jax.random.split(key, sweep.n_steps))[0]


def _like(tree: PyTree, model: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), tree, model)


def _first(used: Bool[Array, " n"], fault: Fault) -> Fault:
    found = used & fault.found
    i = jnp.argmax(found)
    return Fault(found[i], jax.tree.map(lambda a: a[i], fault.before))


def _has_nan(tree: PyTree) -> Bool[Array, ""]:
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.asarray(False), *(jnp.isnan(leaf).any() for leaf in floats)]).any()


def _differ(a: PyTree, b: PyTree) -> Bool[Array, ""]:
    return jnp.stack([jnp.any(x != z) for x, z in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]).any()
