"""How SMC^2 renews its cloud: resampling and PMMH moves of the parameters, and larger filters.

    rejuvenate  parameters are resampled with their filters and moved by PMMH steps, each proposal with a new filter
    exchange    every filter is replaced by a larger one, and the ratio of the evidences corrects the weights

New filters are run up to a time that is an ordinary argument of one compiled program, whatever they are run for.

Source: Chopin, Jacob & Papaspiliopoulos (2013), SMC^2, sections 3.2 and 3.6.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from uqsparse.inference.filter_steps import Population
from uqsparse.inference.moves import MoveInfo, MoveParams, RandomWalk
from uqsparse.inference.smc2_cloud import Cloud, Problem, first_population, next_population
from uqsparse.kernels import systematic, uniform


class Run(NamedTuple):
    """A filter run from the start: its last population, its estimate, and whether all densities were numbers."""

    population: Population
    log_evidence: Float[Array, ""]
    is_valid: Bool[Array, ""]


@eqx.filter_jit
def run_to(key: Array, problem: Problem, position: Float[Array, "m d"], t: Int[Array, ""]) -> Run:
    """Run a filter through y_0, ..., y_t for each position."""

    def run(key, position):
        parameters = problem.target.constrain(position)
        key_first, key_rest = jax.random.split(key)
        population, move = first_population(problem, key_first, parameters)

        def body(s, run):
            population, move = next_population(problem, jax.random.fold_in(key_rest, s), parameters, run.population, s)
            return Run(population, run.log_evidence + move.increment, run.is_valid & move.is_valid)

        return jax.lax.fori_loop(1, t + 1, body, Run(population, move.increment, move.is_valid))

    return jax.vmap(run)(jax.random.split(key, position.shape[0]), position)


def rejuvenate(
    key: Array, problem: Problem, cloud: Cloud, t: Int[Array, ""], params: MoveParams, n_moves: int
) -> tuple[Cloud, MoveInfo]:
    """Resample parameters together with their filters, and move them under their posterior given y_0, ..., y_t."""
    key, key_resample = jax.random.split(key)
    cloud = _resample(key_resample, cloud)
    move, acceptance = RandomWalk(), jnp.zeros(())

    def log_density(key):
        def evaluate(position):
            run = run_to(key, problem, position, t)
            log_prior, total = _posterior(problem, position, run)
            return total, (log_prior, run)

        return evaluate

    run = Run(cloud.population, cloud.log_evidence, jnp.ones(cloud.log_evidence.shape, bool))
    state = move.start(cloud.position, log_density(key), (cloud.log_prior + cloud.log_evidence, (cloud.log_prior, run)))
    info = MoveInfo(acceptance, jnp.zeros((), bool), cloud.position[0])
    for _ in range(n_moves):
        key, key_move, key_filter = jax.random.split(key, 3)
        state, info = move.step(key_move, state, log_density(key_filter), params)
        acceptance += info.acceptance / n_moves
        if info.has_nan:
            break
    log_prior, run = state.extras
    moved = cloud._replace(
        position=state.position, log_prior=log_prior, log_evidence=run.log_evidence, population=run.population
    )
    return moved, info._replace(acceptance=acceptance)


def exchange(key: Array, problem: Problem, cloud: Cloud, t: Int[Array, ""]) -> tuple[Cloud, Bool[Array, ""]]:
    """Replace every filter by one with the problem's number of particles.

    Returns:
        The cloud, and whether it is still one: some weight is positive, and all densities were numbers.

    Source: Chopin, Jacob & Papaspiliopoulos (2013), section 3.6.1.
    """
    run = run_to(key, problem, cloud.position, t)
    # What the larger filters make likelier than the smaller ones did, weighs more.
    is_alive = cloud.log_weights > -jnp.inf
    raised = jnp.where(is_alive, cloud.log_weights + run.log_evidence - cloud.log_evidence, -jnp.inf)
    total = jax.nn.logsumexp(raised)
    cloud = cloud._replace(log_evidence=run.log_evidence, population=run.population, log_weights=raised - total)
    return cloud, (total > -jnp.inf) & jnp.all(run.is_valid)


def paired_runs(key: Array, problem: Problem, cloud: Cloud, t: Int[Array, ""]) -> Float[Array, "pair 2"]:
    """Log evidences of two filters at each of m / 2 parameters drawn by their weights."""
    key_choice, key_filter = jax.random.split(key)
    m = cloud.position.shape[0]
    chosen = systematic(jnp.exp(cloud.log_weights), uniform(key_choice, ()), (m + 1) // 2)
    run = run_to(key_filter, problem, cloud.position[jnp.repeat(chosen, 2)[:m]], t)
    return run.log_evidence[: m // 2 * 2].reshape(-1, 2)


def _resample(key: Array, cloud: Cloud) -> Cloud:
    """Parameters and filters belong together: all that has the axis of parameters follows the same ancestors."""
    m = cloud.position.shape[0]
    ancestors, rounding = _ancestors(key, cloud.log_weights)
    chosen = jax.tree.map(lambda x: x[ancestors], cloud._replace(rounding=None))
    equal = jnp.full(m, -math.log(m), cloud.log_weights.dtype)
    return chosen._replace(log_weights=equal, rounding=cloud.rounding + rounding)


@eqx.filter_jit
def _ancestors(key: Array, log_weights: Float[Array, " m"]) -> tuple[Int[Array, " m"], Float[Array, ""]]:
    """Ancestors, and the part of the spread of their numbers that is rounding alone."""
    m = log_weights.shape[0]
    weights = jnp.exp(log_weights)
    chance = m * weights - jnp.floor(m * weights)
    return systematic(weights, uniform(key, ()), m), jnp.sum(chance * (1 - chance)) / m**2


@eqx.filter_jit
def _posterior(problem: Problem, position, run: Run) -> tuple[Array, Array]:
    """Log prior, and log of the estimated posterior, NaN where a density was no number."""
    log_prior = jax.vmap(problem.target.log_density)(position)
    total = jnp.where(run.is_valid, log_prior + run.log_evidence, jnp.nan)
    # Where the prior is zero nothing else matters.
    return log_prior, jnp.where(log_prior == -jnp.inf, -jnp.inf, total)
