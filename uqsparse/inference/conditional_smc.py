"""Conditional SMC: a Markov step from one path of states to another that leaves the smoothing distribution invariant.

A particle filter in which one particle is pinned to the present path; a new path is then drawn from the genealogy. With
ancestor sampling the pinned path is broken up on the way, so that the new one differs from it at early times too.

Sources: Andrieu, Doucet & Holenstein (2010), Particle Markov chain Monte Carlo methods, section 4.3; Lindsten, Jordan &
Schön (2014), Particle Gibbs with ancestor sampling, algorithm 2.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree

from uqsparse.inference.filter_settings import FilterSettings, Proposal, check_filter
from uqsparse.inference.filter_steps import (
    Move,
    Population,
    Row,
    log_ratios,
    pin,
    plan_start,
    plan_step,
    propose,
    reweigh,
    start_population,
)
from uqsparse.inference.particle_filter import failure
from uqsparse.inference.populations import draw_sources, log_prob
from uqsparse.inference.precision import retry_after_precision_clash
from uqsparse.inference.smc_settings import typed
from uqsparse.inference.state_space import (
    Missing,
    Series,
    StateSpaceModel,
    prepare_series,
    require_fitting_rows,
    row,
)
from uqsparse.kernels import multinomial, uniform


class ConditionalResult(NamedTuple):
    """A new path of states.

    Args:
        path: states with leading axis T.
        renewed: whether the path was cut loose from the reference at each time, shape (T,). Times that are rarely
            renewed mix slowly: raise n_particles.
        ess: effective sample size at each time, between 1 and n, shape (T,).
        collapsed_at: first time at which all weights were zero, the reference's too; -1 if none. The path is then the
            reference.
        invalid_at: first time at which a log density was NaN or +inf, -1 if none.
    """

    path: PyTree
    renewed: Bool[Array, " T"]
    ess: Float[Array, " T"]
    collapsed_at: Int[Array, ""]
    invalid_at: Int[Array, ""]


def conditional_smc(
    key: Array,
    model: StateSpaceModel,
    reference: PyTree,
    observations: PyTree,
    parameters: PyTree = None,
    inputs: PyTree = None,
    *,
    n_particles: int = 100,
    ancestor_sampling: bool = True,
    proposal: Proposal | None = None,
    missing: Missing = "error",
) -> ConditionalResult:
    """Draw a path of states given the observations, from a Markov kernel that starts at a reference path.

    If the reference is distributed as the states given the observations, so is the new path, at any n_particles >= 2.
    Resamples (multinomially) at every step. Traceable, like `particle_filter`.

    Args:
        key: random key, typed or legacy.
        model: the state-space model.
        reference: present path, states with leading axis T.
        observations: array or pytree of arrays with leading axis T.
        parameters: passed to the model's functions.
        inputs: exogenous inputs with leading axis T, or None.
        n_particles: population size n, the pinned particle included, at least 2.
        ancestor_sampling: draw the pinned particle's parent anew at each step, by the transition density. Mixes much
            better at little cost; needs `log_prob` of the transition.
        proposal: where to draw states from instead of the transition.
        missing: "error" refuses NaN; "skip" takes rows that are NaN throughout as not observed.

    Returns:
        A `ConditionalResult`.

    Raises:
        ValueError: an argument is out of range, shapes do not fit, all weights are zero at some time, or a log density
            is NaN or +inf.

    Source: Lindsten, Jordan & Schön (2014), algorithm 2.
    """
    settings = check_filter(n_particles, "multinomial", 1, proposal)
    series = prepare_series(observations, inputs, missing)
    for leaf in jax.tree.leaves(reference):
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != series.n_steps:
            raise ValueError(f"reference has a leaf of shape {jnp.shape(leaf)}; expected {series.n_steps} states")
    reference, parameters = jax.tree.map(jnp.asarray, (reference, parameters))
    arguments = (typed(key), model, parameters, reference, series, settings, ancestor_sampling)
    result = retry_after_precision_clash(lambda: _run(*arguments))
    if not isinstance(result.collapsed_at, Tracer):
        error = failure(int(result.invalid_at), int(result.collapsed_at), observations)
        if error is not None:
            raise error
    return result


@eqx.filter_jit
def _run(key, model, parameters, reference, series, settings, ancestor_sampling) -> ConditionalResult:
    return run_conditional(key, model, parameters, reference, series, settings, ancestor_sampling)


def run_conditional(
    key: Array,
    model: StateSpaceModel,
    parameters: PyTree,
    reference: PyTree,
    series: Series,
    settings: FilterSettings,
    ancestor_sampling: bool = True,
) -> ConditionalResult:
    """The step as a traceable function, for use inside other programs; arguments are not checked."""
    n = settings.n_particles
    rows = Row(series.observations, series.missing, series.inputs)
    key_first, key_rest, key_choice = jax.random.split(key, 3)

    first = row(rows, 0)
    sources = draw_sources(key_first, plan_start(model, parameters, first, settings), n)
    start, move = start_population(model, parameters, first, settings, sources, row(reference, 0))
    require_fitting_rows(model, parameters, row(start.states, 0), series)
    plan = plan_step(model, parameters, row(start.states, 0), first, settings)

    def body(population, x):
        key, now, pinned = x
        key_resample, key_move = jax.random.split(key)
        population, move = conditional_step(
            model,
            parameters,
            population,
            pinned,
            now,
            settings,
            ancestor_sampling,
            uniform(key_resample, (n,)),
            draw_sources(key_move, plan, n),
        )
        return population, (population.states, move)

    later, pinned = jax.tree.map(lambda x: x[1:], (rows, reference))
    last, history = jax.lax.scan(body, start, (jax.random.split(key_rest, series.n_steps - 1), later, pinned))
    states, moves = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), (start.states, move), history)
    path, lineage = choose_path(last.weights, states, moves.ancestors, uniform(key_choice, (1,)))

    is_dead, is_invalid = moves.increment == -jnp.inf, ~moves.is_valid
    failed = jnp.any(is_dead | is_invalid)
    return ConditionalResult(
        path=jax.tree.map(lambda new, old: jnp.where(failed, old.astype(new.dtype), new), path, reference),
        renewed=(lineage != 0) & ~failed,
        ess=moves.ess,
        collapsed_at=jnp.where(jnp.any(is_dead), jnp.argmax(is_dead), -1),
        invalid_at=jnp.where(jnp.any(is_invalid), jnp.argmax(is_invalid), -1),
    )


def conditional_step(
    model: StateSpaceModel,
    parameters: PyTree,
    population: Population,
    pinned: PyTree,
    now: Row,
    settings: FilterSettings,
    ancestor_sampling: bool,
    uniforms: Float[Array, " n"],
    sources: list[Array],
) -> tuple[Population, Move]:
    """Resample, propagate and weigh with the first particle pinned: a deterministic function of the randomness."""
    n = settings.n_particles
    free = multinomial(population.weights, uniforms[1:], n - 1)
    parent = jnp.zeros(1, free.dtype)
    if ancestor_sampling:

        def reach(state):
            return log_prob(model.transition(parameters, state, now.inputs), pinned)

        raised = population.log_weights + jax.vmap(reach)(population.states)
        peak = jnp.max(raised)
        drawn = multinomial(jnp.exp(raised - jnp.where(jnp.isfinite(peak), peak, 0)), uniforms[:1], 1)
        # A reference that nothing leads to keeps its own parent.
        parent = jnp.where(jnp.isfinite(peak), drawn, parent)
    ancestors = jnp.concatenate([parent, free]).astype(jnp.int32)
    parents = jax.tree.map(lambda x: x[ancestors], population.states)
    states = pin(propose(model, parameters, parents, now, settings, sources), pinned)
    equal = jnp.full(n, -jnp.log(float(n)))
    population, increment, ess, is_valid = reweigh(
        states, equal, log_ratios(model, parameters, parents, states, now, settings)
    )
    return population, Move(ancestors, jnp.ones((), bool), increment, ess, is_valid)


def choose_path(
    weights: Float[Array, " n"], states: PyTree, ancestors: Int[Array, "T n"], uniforms: Float[Array, "1"]
) -> tuple[PyTree, Int[Array, " T"]]:
    """Draw a particle of the last population by its weight and follow its line back to the start."""
    end = multinomial(weights, uniforms, 1)[0].astype(ancestors.dtype)

    def back(index, parents):
        return parents[index], index

    first, later = jax.lax.scan(back, end, ancestors[1:], reverse=True)
    lineage = jnp.concatenate([first[None], later])
    return jax.tree.map(lambda x: jax.vmap(lambda population, i: population[i])(x, lineage), states), lineage
