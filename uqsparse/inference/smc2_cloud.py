"""The cloud of SMC^2: weighted parameters, each with a particle filter of its own, that absorb observations.

Every filter takes in the next observation, and its increment of the evidence weighs its parameters.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from uqsparse.inference.filter_settings import FilterSettings
from uqsparse.inference.filter_steps import Move, Population, Row, filter_step, plan_start, plan_step, start_population
from uqsparse.inference.populations import draw_sources
from uqsparse.inference.state_space import Series, StateSpaceModel, require_fitting_rows, row
from uqsparse.inference.targets import TemperedTarget
from uqsparse.kernels import effective_sample_size, uniform

# Observations that one compiled call absorbs at most.
STRETCH = 25


class Problem(eqx.Module):
    """The model with its data; the settings of the filters are static."""

    model: StateSpaceModel
    target: TemperedTarget
    series: Series
    settings: FilterSettings = eqx.field(static=True)


class Cloud(NamedTuple):
    """Weighted parameters with their filters, m of each; a filter has n particles.

    `log_evidence` is the estimate of each filter so far, `log_weights` are normalised, and `roots` tell from which of
    the first parameters each descends. `rounding` is the part of the spread of their offspring that is due to
    systematic resampling alone.
    """

    position: Float[Array, "m d"]
    log_prior: Float[Array, " m"]
    log_evidence: Float[Array, " m"]
    population: Population
    log_weights: Float[Array, " m"]
    roots: Int[Array, " m"]
    rounding: Float[Array, ""]


class Reading(NamedTuple):
    """What is known after an observation; in a record each field has a leading axis of times."""

    increment: Float[Array, ""]
    ess: Float[Array, ""]
    parameter_means: dict[str, Array]
    parameter_sds: dict[str, Array]
    state_means: PyTree
    state_sds: PyTree
    has_nan: Bool[Array, ""]
    nan_at: Float[Array, " d"]


@eqx.filter_jit
def start(key: Array, problem: Problem, n_parameters: int) -> tuple[Cloud, Reading]:
    """Draw parameters from the prior, start their filters, and weigh both by the first observation."""
    key_prior, key_filter = jax.random.split(key)
    position = problem.target.sample_prior(key_prior, n_parameters)
    log_prior = jax.vmap(problem.target.log_density)(position)
    # Factors of the prior, if it has any.
    log_factor = jax.vmap(problem.target.log_likelihood)(position)
    parameters = jax.vmap(problem.target.constrain)(position)
    population, moves = jax.vmap(lambda k, p: first_population(problem, k, p))(
        jax.random.split(key_filter, n_parameters), parameters
    )
    cloud = Cloud(
        position=position,
        log_prior=log_prior,
        log_evidence=jnp.zeros(n_parameters),
        population=population,
        log_weights=jax.nn.log_softmax(log_factor),
        roots=jnp.arange(n_parameters),
        rounding=jnp.zeros(()),
    )
    return _weigh(cloud, population, moves.increment, moves.is_valid, parameters)


@eqx.filter_jit
def absorb(
    key: Array, problem: Problem, cloud: Cloud, begin: Int[Array, ""], least_ess: Float[Array, ""]
) -> tuple[Cloud, Reading, Int[Array, ""]]:
    """Take in observations from `begin` on, until the effective sample size of the parameters is below the least.

    Returns:
        The cloud, the record of at most STRETCH times, and how many of them were used.
    """
    n_parameters = cloud.position.shape[0]
    parameters = jax.vmap(problem.target.constrain)(cloud.position)

    def step(i, cloud):
        keys = jax.random.split(jax.random.fold_in(key, i), n_parameters)
        population, moves = jax.vmap(lambda k, p, x: next_population(problem, k, p, x, begin + i))(
            keys, parameters, cloud.population
        )
        return _weigh(cloud, population, moves.increment, moves.is_valid, parameters)

    nothing = jnp.zeros(n_parameters)
    shapes = jax.eval_shape(lambda: _weigh(cloud, cloud.population, nothing, nothing == 0, parameters)[1])
    record = jax.tree.map(lambda x: jnp.zeros((STRETCH, *x.shape), x.dtype), shapes)
    n_steps = jnp.minimum(STRETCH, problem.series.n_steps - begin)

    def goes_on(carry):
        i, _, record = carry
        last = row(record, i - 1)
        fine = (last.ess >= least_ess) & (last.increment > -jnp.inf) & ~last.has_nan
        return (i < n_steps) & ((i == 0) | fine)

    def body(carry):
        i, cloud, record = carry
        cloud, reading = step(i, cloud)
        return i + 1, cloud, jax.tree.map(lambda rows, x: rows.at[i].set(x), record, reading)

    n_done, cloud, record = jax.lax.while_loop(goes_on, body, (jnp.zeros((), int), cloud, record))
    return cloud, record, n_done


@eqx.filter_jit
def constrained(problem: Problem, cloud: Cloud) -> dict[str, Array]:
    """The parameters by site name, deterministic sites included."""
    return jax.vmap(problem.target.constrain)(cloud.position)


def _weigh(
    cloud: Cloud,
    population: Population,
    increments: Float[Array, " m"],
    is_valid: Bool[Array, " m"],
    parameters: dict[str, Array],
) -> tuple[Cloud, Reading]:
    """Multiply the weights that the parameters came with by what their filters say of the observation."""
    is_alive = cloud.log_weights > -jnp.inf
    raised = jnp.where(is_alive, cloud.log_weights + increments, -jnp.inf)
    increment = jax.nn.logsumexp(raised)
    log_weights = jnp.where(increment > -jnp.inf, raised - increment, cloud.log_weights)
    weights = jnp.exp(log_weights)
    is_bad = is_alive & ~is_valid
    worst = jnp.argmax(is_bad)
    parameter_means, parameter_sds = _moments(parameters, weights)
    each = weights[:, None] * population.weights
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), population.states)
    state_means, state_sds = _moments(flat, each.reshape(-1))
    cloud = cloud._replace(log_evidence=cloud.log_evidence + increments, population=population, log_weights=log_weights)
    return cloud, Reading(
        increment=increment,
        ess=effective_sample_size(weights),
        parameter_means=parameter_means,
        parameter_sds=parameter_sds,
        state_means=state_means,
        state_sds=state_sds,
        has_nan=is_bad[worst],
        nan_at=cloud.position[worst],
    )


def _moments(tree: PyTree, weights: Float[Array, " n"]) -> tuple[PyTree, PyTree]:
    means = jax.tree.map(lambda x: jnp.tensordot(weights, x.astype(float), 1), tree)
    sds = jax.tree.map(lambda x, mean: jnp.sqrt(jnp.tensordot(weights, (x - mean) ** 2, 1)), tree, means)
    return means, sds


def first_population(problem: Problem, key: Array, parameters: PyTree) -> tuple[Population, Move]:
    """Start one filter."""
    model, settings, now = problem.model, problem.settings, _row(problem, 0)
    sources = draw_sources(key, plan_start(model, parameters, now, settings), settings.n_particles)
    population, move = start_population(model, parameters, now, settings, sources)
    require_fitting_rows(model, parameters, row(population.states, 0), problem.series)
    return population, move


def next_population(
    problem: Problem, key: Array, parameters: PyTree, population: Population, t: Int[Array, ""]
) -> tuple[Population, Move]:
    """Let one filter take in the observation at t."""
    model, settings, now = problem.model, problem.settings, _row(problem, t)
    key_resample, key_move = jax.random.split(key)
    plan = plan_step(model, parameters, row(population.states, 0), now, settings)
    return filter_step(
        model,
        parameters,
        population,
        now,
        settings,
        uniform(key_resample, settings.scheme.uniforms(settings.n_particles)),
        draw_sources(key_move, plan, settings.n_particles),
    )


def _row(problem: Problem, t) -> Row:
    return row(Row(problem.series.observations, problem.series.missing, problem.series.inputs), t)
