"""Hit-and-run: draws from the uniform law on a set that is known only by a membership function.

A step picks a random direction and then a random point of the set on the line through the present state. The point is
found by shrinkage, as in slice sampling: a bracket of fixed length is placed at random around the state, and every
candidate outside the set shortens it. The step is reversible with respect to the uniform law, whatever the set's shape.
It stays in the part of the set that its lines reach: start chains in every part.

On a Lie group the "line" is the curve `a -> exp(a d) x`, and the uniform law is the invariant measure, restricted.

Sources: Smith (1984), Efficient Monte Carlo procedures for generating points uniformly distributed over bounded
regions; Neal (2003), Slice sampling, figure 5 (shrinkage).
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from uqsparse.inference.arviz_io import to_arviz
from uqsparse.inference.precision import copy_arrays, retry_after_precision_clash
from uqsparse.inference.smc_settings import typed
from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.namespaces import is_traced

# A bracket is this many standard deviations of the set along its direction; a uniform law on a ball in d dimensions has
# sqrt(d + 2) of them in its radius. A longer one costs a shrinkage more, a shorter one keeps steps short.
_WIDTH = 3.0
# Lengths of the warm-up's rounds: the directions' covariance is estimated anew after each.
_ROUNDS = (1 / 8, 1 / 8, 1 / 4, 1 / 2)


class HitAndRunResult(NamedTuple):
    """Draws from the uniform law on a set.

    Args:
        samples: states, each leaf of shape (chain, draw, ...).
        rejections: candidates rejected in the steps of each draw, shape (chain, draw).
        failures: steps of each chain, warm-up included, that met no point of the set within `max_shrinks` candidates
            and so left the state where it was, shape (chain,). Many of them, or `spread` 0, mean a stuck chain.
        spread: root mean square distance of each chain's draws from their mean, over the leaves' entries, (chain,).
        directions: the factor L of the directions' covariance `L L^T`, frozen after the warm-up, shape (d, d).
    """

    samples: PyTree
    rejections: Int[Array, "chain draw"]
    failures: Int[Array, " chain"]
    spread: Float[Array, " chain"]
    directions: Float[Array, "d d"]

    def to_arviz(self, names: Mapping[str, Any] | None = None) -> Any:
        """ArviZ data of the draws, for `convergence` and for ArviZ's own diagnostics.

        Args:
            names: scalars or arrays of shape (chain, draw, ...) by name, such as functions of the samples that mean
                something; the samples' leaves, numbered, if left out.
        """
        leaves = jax.tree.leaves(self.samples)
        posterior = names or {f"x{i}" if len(leaves) > 1 else "x": leaf for i, leaf in enumerate(leaves)}
        groups = {
            "posterior": {name: np.asarray(value) for name, value in posterior.items()},
            "sample_stats": {"rejections": np.asarray(self.rejections)},
        }
        return to_arviz(groups, {"algorithm": "hit-and-run"})


def add(state: Array, step: Float[Array, " d"]) -> Array:
    """Move an array along a step in its own coordinates."""
    return state + step.reshape(state.shape)


def subtract(state: Array, reference: Array) -> Float[Array, " d"]:
    """The step that takes a reference to a state."""
    return (state - reference).reshape(-1)


def hit_and_run(
    key: Array,
    inside: Callable[[PyTree], Bool[Array, ""]],
    start: PyTree,
    *,
    n_samples: int,
    n_warmup: int = 100,
    thinning: int = 1,
    retract: Callable[[PyTree, Float[Array, " d"]], PyTree] = add,
    difference: Callable[[PyTree, PyTree], Float[Array, " d"]] = subtract,
    scale: Float[ArrayLike, " d"] | float = 1.0,
    max_shrinks: int = 60,
) -> HitAndRunResult:
    """Sample the uniform law on `{x: inside(x)}` with several chains at once.

    The warm-up adapts the covariance of the directions to how far the chains move, and is dropped; the draws that are
    kept come from one fixed kernel. The precision is that of `start`. Traceable, if n is
    fixed. Programs are compiled once for each `inside`, `retract` and `difference`: hand over an `equinox.Module` with
    `__call__`, or a `jax.tree_util.Partial`, whose arrays may then change without compiling again.

    Args:
        key: random key, typed or legacy.
        inside: from one state to whether it is in the set.
        start: states inside the set, one a chain: every leaf has a leading axis of chains.
        n_samples: draws kept of each chain, at least 1.
        n_warmup: steps of the warm-up, at least 0; without it the directions stay as `scale` has them.
        thinning: steps from one draw to the next, at least 1.
        retract: from a state x and a step (d,) to a state, with `retract(x, 0) = x`, such that moves in one direction
            add up and keep volume; on a Lie group `exp(step) x`. By default x + step.
        difference: from a state x and another y to the step d with `retract(y, d)` near x, for the adaptation only. By
            default x - y.
        scale: first guess of the set's standard deviation in each coordinate of the steps, shape (d,) or one number.
            Rather too large than too small: a bracket halves with every rejection, but never grows in a step.
        max_shrinks: candidates of a step before it gives up and stays.

    Returns:
        A `HitAndRunResult`.

    Raises:
        ValueError: if an argument is out of range or a chain starts outside the set.

    Source: Smith (1984); Neal (2003), figures 3 and 5; Kaufman & Smith (1998), Direction choice for accelerated
    convergence in hit-and-run sampling.

    >>> disc = hit_and_run(jax.random.key(0), lambda x: x @ x <= 1, jnp.zeros((4, 2)), n_samples=50)
    >>> disc.samples.shape, bool((jnp.sum(disc.samples**2, -1) <= 1).all())
    ((4, 50, 2), True)
    """
    require_count("n_samples", n_samples, 1)
    require_count("n_warmup", n_warmup, 0)
    require_count("thinning", thinning, 1)
    require_count("max_shrinks", max_shrinks, 1)
    start = jax.tree.map(jnp.asarray, copy_arrays(start))
    leaves = jax.tree.leaves(start)
    if not leaves or any(leaf.ndim == 0 or leaf.shape[0] != leaves[0].shape[0] for leaf in leaves):
        raise ValueError(
            f"start must have a leading axis of chains on every leaf, got shapes {[leaf.shape for leaf in leaves]}"
        )
    if leaves[0].shape[0] == 0:
        raise ValueError("start must hold at least one chain, got none")
    d = jax.eval_shape(difference, *(jax.tree.map(lambda x: x[0], start),) * 2).shape[0]
    if not is_traced(scale):
        scale = np.asarray(scale, dtype=float)
        if scale.shape not in ((), (d,)) or not (np.isfinite(scale) & (scale > 0)).all():
            raise ValueError(f"scale must be positive, one number or of shape ({d},), got {scale}")
    dtype = jnp.result_type(*leaves, jnp.float32)
    factor = jnp.diag(jnp.broadcast_to(jnp.asarray(scale, dtype), (d,)))

    arguments = (typed(key), inside, retract, difference, start, factor, n_samples, n_warmup, thinning, max_shrinks)
    result, at_start = retry_after_precision_clash(lambda: _run(*arguments))
    if not is_traced(at_start) and not at_start.all():
        outside = np.flatnonzero(~np.asarray(at_start))
        raise ValueError(
            f"start must lie inside the set, got {len(outside)} of {len(at_start)} chains outside: "
            f"{', '.join(map(str, outside[:5]))}{', ...' if len(outside) > 5 else ''}"
        )
    return result


@eqx.filter_jit
def _run(key, inside, retract, difference, start, factor, n_samples, n_warmup, thinning, max_shrinks):
    d, n_chains = factor.shape[0], jax.tree.leaves(start)[0].shape[0]
    step = jax.vmap(partial(_step, inside, retract), in_axes=(None, 0, 0, 0))

    def stretch(carry, now):
        """Some steps of every chain, after which the directions adapt if it is a round of the warm-up."""
        n_steps, is_warmup = now
        anchors = carry[0]

        def moment(states):
            away = jax.vmap(difference)(states, anchors)
            return away.T @ away

        def move(_, carry):
            states, failures, factor, key, rejections, total = carry
            key, key_direction, key_place = jax.random.split(key, 3)
            normals = jax.random.normal(key_direction, (n_chains, d), factor.dtype)
            uniforms = jax.random.uniform(key_place, (n_chains, 1 + max_shrinks), factor.dtype)
            states, rejected, has_failed = step(factor, normals, uniforms, states)
            total += jax.lax.cond(is_warmup, moment, lambda _: jnp.zeros_like(total), states)
            return states, failures + has_failed, factor, key, rejections + rejected, total

        begin = (*carry, jnp.zeros(n_chains, jnp.int32), jnp.zeros((d, d), factor.dtype))
        states, failures, factor_now, key, rejections, total = jax.lax.fori_loop(0, n_steps, move, begin)
        is_enough = is_warmup & (n_steps * n_chains >= 2 * d)
        factor_now = jnp.where(is_enough, _adapted(total / (n_steps * n_chains), factor_now), factor_now)
        return (states, failures, factor_now, key), (states, rejections)

    # one program for the rounds of the warm-up, whose last states are dropped, and for the draws: half the compiling
    rounds = _rounds(n_warmup)
    n_steps = jnp.asarray([*rounds, *[thinning] * n_samples], jnp.int32)
    is_warmup = jnp.arange(len(rounds) + n_samples) < len(rounds)
    carry = (start, jnp.zeros(n_chains, jnp.int32), factor, key)
    (_, failures, factor, _), (samples, rejections) = jax.lax.scan(stretch, carry, (n_steps, is_warmup))
    samples, rejections = jax.tree.map(lambda x: jnp.swapaxes(x[len(rounds) :], 0, 1), (samples, rejections))
    flat = jnp.concatenate([x.reshape(n_chains, n_samples, -1) for x in jax.tree.leaves(samples)], -1)
    spread = jnp.sqrt(jnp.mean(jnp.sum((flat - jnp.mean(flat, 1, keepdims=True)) ** 2, -1), 1))
    return HitAndRunResult(samples, rejections, failures, spread, factor), jax.vmap(inside)(start)


def _step(inside, retract, factor, normals, uniforms, state):
    """One step: the new state, how many candidates were rejected, and whether all were."""
    d, max_shrinks = factor.shape[0], uniforms.shape[0] - 1
    direction = _WIDTH * math.sqrt(d + 2) * factor @ (normals / jnp.linalg.norm(normals))

    def is_searching(search):
        _, _, _, found, n = search
        return ~found & (n < max_shrinks)

    def shrink(search):
        low, high, _, _, n = search
        a = low + (high - low) * uniforms[1 + n]
        candidate = retract(state, a * direction)
        found = inside(candidate)
        return jnp.where(a < 0, a, low), jnp.where(a < 0, high, a), candidate, found, n + ~found

    # the bracket lies at random around the state: centred on it, the step would not be reversible
    first = (-uniforms[0], 1 - uniforms[0], state, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    _, _, candidate, found, n = jax.lax.while_loop(is_searching, shrink, first)
    return jax.tree.map(lambda new, old: jnp.where(found, new, old), candidate, state), n, ~found


def _rounds(n_warmup: int) -> list[int]:
    """Lengths of the warm-up's rounds, which add up to its own."""
    lengths = [int(n_warmup * share) for share in _ROUNDS[:-1]]
    return [n for n in (*lengths, n_warmup - sum(lengths)) if n]


def _adapted(moment: Float[Array, "d d"], factor: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Cholesky factor of the steps' second moment about the chains' states at the round's start.

    Of chains that have mixed it is twice their covariance, of others what they have covered; chains in different parts
    of the set do not inflate it. The old factor stays where none moved.
    """
    # each coordinate in its own unit; the ridge bounds the directions' condition number
    new = jnp.linalg.cholesky(moment + 1e-6 * jnp.diag(jnp.diagonal(moment)))
    return jnp.where(jnp.isfinite(new).all() & (jnp.diagonal(new) > 0).all(), new, factor)
