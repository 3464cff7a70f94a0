"""Smoothing: the states of a series given all of it, from the populations that a particle filter kept.

backward    draws paths from the end to the start: the state at t is one of the filter's particles, with probability
            proportional to its weight times its transition density to the state already drawn at t + 1
fixed_lag   takes the particles of t + lag for the last that know anything of t, and follows their lines back
genealogy   follows the lines of the last population back to the start, where few of them are left

Sources: Godsill, Doucet & West (2004), Monte Carlo smoothing for nonlinear time series (backward); Kitagawa (1996) and
Olsson, Cappé, Douc & Moulines (2008), Sequential Monte Carlo smoothing with application to parameter estimation in
nonlinear state space models (fixed lag).
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Int, PyTree

from uqsparse.inference.filter_settings import check_quantiles
from uqsparse.inference.particle_filter import FilterHistory, FilterResult, population_quantiles
from uqsparse.inference.populations import log_prob
from uqsparse.inference.precision import retry_after_precision_clash
from uqsparse.inference.smc_settings import typed
from uqsparse.inference.state_space import StateSpaceModel, prepare_inputs, row
from uqsparse.kernels import multinomial, uniform
from uqsparse.kernels.arguments import require_count

# Transition densities of one step that exist at once, particles times paths.
_TABLE = 2**20


class SmoothingResult(NamedTuple):
    """States given the whole series, or given it up to a lag.

    Args:
        means: means of the statistics, a pytree with leading axis T.
        sds: their standard deviations, the same structure.
        quantiles: a pytree with leading axes (T, k), or None.
        paths: with "backward", independent draws of the whole path given the filter's populations, a pytree with
            leading axes (n_paths, T); else None.
        n_distinct: number of distinct particles that stand behind the estimates of each time, shape (T,). Few of them
            mean that the estimates are poor, whatever else is said.
        mcse: with "backward", the standard error of the means that comes from the finite number of paths, a pytree with
            leading axis T; the error of the filter itself comes on top. Else None.
        failed_at: last time at which no particle could have led to the state that was drawn after it, -1 if none.
    """

    means: PyTree
    sds: PyTree
    quantiles: PyTree
    paths: PyTree
    n_distinct: Int[Array, " T"]
    mcse: PyTree
    failed_at: Int[Array, ""]


def smooth(
    key: Array,
    model: StateSpaceModel,
    result: FilterResult,
    parameters: PyTree = None,
    inputs: PyTree = None,
    *,
    method: Literal["backward", "fixed_lag", "genealogy"] = "backward",
    n_paths: int = 200,
    lag: int = 20,
    statistics: Callable[[PyTree], PyTree] | None = None,
    quantiles: Sequence[float] = (),
) -> SmoothingResult:
    """Estimate the states given the whole series from a filter run with `keep_history=True`.

    Traceable, like `particle_filter`.

    Args:
        key: random key, typed or legacy; used by "backward".
        model: the model that was filtered; "backward" needs the log density of its transition.
        result: what `particle_filter(..., keep_history=True)` returned.
        parameters: those of the filter run.
        inputs: those of the filter run.
        method: "backward" costs n_particles * n_paths transition densities a step and degrades least. "fixed_lag" needs
            no densities; it ignores what lies more than `lag` steps ahead, a bias that fades as the process forgets;
            its variance grows with the lag. "genealogy" has no such bias and fails over long series.
        n_paths: paths drawn by "backward", at least 2.
        lag: steps that "fixed_lag" looks ahead, at least 0.
        statistics: `statistics(state)`, a pytree of numbers whose means, deviations and quantiles are wanted; the state
            itself by default.
        quantiles: probabilities in (0, 1).

    Returns:
        A `SmoothingResult`.

    Raises:
        ValueError: the result has no history; an option is out of range; the transition has no log density, or gives
            zero to a state that a proposal drew.

    Source: Godsill, Doucet & West (2004), algorithm 1.
    """
    if not isinstance(result, FilterResult):
        raise TypeError(f"result must be a FilterResult, got a {type(result).__name__}")
    if result.history is None:
        raise ValueError("result has no history: call particle_filter with keep_history=True")
    if method not in ("backward", "fixed_lag", "genealogy"):
        raise ValueError(f"method must be 'backward', 'fixed_lag' or 'genealogy', got {method!r}")
    require_count("n_paths", n_paths, 2)
    require_count("lag", lag, 0)
    probabilities = check_quantiles(quantiles)
    history = result.history
    n_steps = history.log_weights.shape[0]
    inputs = prepare_inputs(inputs, n_steps)
    if method == "backward":
        parameters = jax.tree.map(jnp.asarray, parameters)
        arguments = (typed(key), model, parameters, inputs, history, n_paths, statistics, probabilities)
        smoothed = retry_after_precision_clash(lambda: _backward(*arguments))
    else:
        steps = min(lag, n_steps - 1) if method == "fixed_lag" else n_steps - 1
        smoothed = _trace_back(history, steps, statistics, probabilities)
    if not isinstance(smoothed.failed_at, Tracer) and int(smoothed.failed_at) >= 0:
        raise ValueError(
            f"no particle at t = {int(smoothed.failed_at)} could have led to the state drawn at the next time: the "
            "transition density is zero there, though the filter's proposal reached it"
        )
    return smoothed


@eqx.filter_jit
def _backward(key, model, parameters, inputs, history: FilterHistory, n_paths, statistics, probabilities):
    n_steps, n = history.log_weights.shape

    def choose(log_weights, u):
        """One index with probability proportional to the weight, and whether there was any weight."""
        peak = jnp.max(log_weights)
        is_possible = jnp.isfinite(peak)
        weights = jnp.where(is_possible, jnp.exp(log_weights - jnp.where(is_possible, peak, 0)), 1.0)
        return multinomial(weights, u[None], 1)[0], is_possible

    def one_path(key):
        uniforms = uniform(key, (n_steps,))
        last, _ = choose(history.log_weights[-1], uniforms[-1])

        def back(later, x):
            population, log_weights, now, u = x

            def reach(state):
                return log_prob(model.transition(parameters, state, now), later)

            index, is_possible = choose(log_weights + jax.vmap(reach)(population), u)
            return row(population, index), (index, is_possible)

        before = (row(history.states, slice(-1)), history.log_weights[:-1], row(inputs, slice(1, None)), uniforms[:-1])
        _, (indices, is_possible) = jax.lax.scan(back, row(row(history.states, -1), last), before, reverse=True)
        failed_at = jnp.max(jnp.where(is_possible, -1, jnp.arange(n_steps - 1)), initial=-1)
        return jnp.append(indices, last), failed_at

    keys = jax.random.split(key, n_paths)
    indices, failed_at = jax.lax.map(one_path, keys, batch_size=max(1, min(n_paths, _TABLE // n)))

    paths = jax.tree.map(lambda x: jax.vmap(lambda i: x[jnp.arange(n_steps), i])(indices), history.states)
    values = _apply(statistics, paths)
    means = jax.tree.map(lambda x: jnp.mean(x, axis=0), values)
    sds = jax.tree.map(lambda x: jnp.std(x, axis=0, ddof=1), values)
    equal = jnp.full(n_paths, 1 / n_paths)
    by_time = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), values)
    return SmoothingResult(
        means=means,
        sds=sds,
        quantiles=jax.vmap(lambda x: population_quantiles(x, equal, probabilities))(by_time) if probabilities else None,
        paths=paths,
        n_distinct=jax.vmap(lambda i: _count_distinct(i, n), 1)(indices),
        mcse=jax.tree.map(lambda x: x / jnp.sqrt(n_paths), sds),
        failed_at=jnp.max(failed_at),
    )


@eqx.filter_jit
def _trace_back(history: FilterHistory, lag: int, statistics, probabilities) -> SmoothingResult:
    n_steps, n = history.log_weights.shape
    ends = jnp.minimum(jnp.arange(n_steps) + lag, n_steps - 1)

    if lag == n_steps - 1:

        def back(index, parents):
            return parents[index], index

        first, later = jax.lax.scan(back, jnp.arange(n, dtype=jnp.int32), history.ancestors[1:], reverse=True)
        lines = jnp.concatenate([first[None], later])
    else:

        def line(t):
            def back(k, index):
                s = t + lag - k
                return jnp.where(s < n_steps, history.ancestors[jnp.minimum(s, n_steps - 1)][index], index)

            return jax.lax.fori_loop(0, lag, back, jnp.arange(n, dtype=history.ancestors.dtype))

        lines = jax.lax.map(line, jnp.arange(n_steps))

    def summarise(x):
        population, lines, log_weights = x
        weights = jnp.exp(log_weights)
        values = _apply(statistics, jax.tree.map(lambda one: one[lines][:, None], population))
        values = jax.tree.map(lambda one: one[:, 0], values)
        means = jax.tree.map(lambda one: jnp.tensordot(weights, one, 1), values)
        sds = jax.tree.map(lambda one, mean: jnp.sqrt(jnp.tensordot(weights, (one - mean) ** 2, 1)), values, means)
        bands = population_quantiles(values, weights, probabilities) if probabilities else None
        return means, sds, bands, _count_distinct(jnp.where(weights > 0, lines, -1), n)

    means, sds, bands, n_distinct = jax.lax.map(summarise, (history.states, lines, history.log_weights[ends]))
    return SmoothingResult(means, sds, bands, None, n_distinct, None, jnp.asarray(-1))


def _apply(statistics, paths):
    """Statistics of states with two leading axes, as floats."""
    values = paths if statistics is None else jax.vmap(jax.vmap(statistics))(paths)
    return jax.tree.map(lambda x: x.astype(float), values)


def _count_distinct(indices: Int[Array, " m"], n: int) -> Int[Array, ""]:
    """Number of distinct indices in 0, ..., n - 1; negative ones are left out."""
    return jnp.sum(jnp.zeros(n + 1, jnp.int32).at[jnp.where(indices < 0, n, indices)].set(1)[:n])
