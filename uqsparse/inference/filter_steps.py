"""One step of a particle filter, as deterministic functions of explicit randomness.

For a population with normalised weights W:

    resample   if the effective sample size of W (times the lookahead of an auxiliary filter) is low
    propagate  x_t ~ q(. | x_{t-1}, y_t); the bootstrap filter takes the transition f for q
    weigh      w = f(x_t | x_{t-1}) g(y_t | x_t) / q(x_t | x_{t-1}, y_t); the evidence gains sum W w
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from uqsparse.inference.filter_settings import FilterSettings
from uqsparse.inference.populations import Source, draw, log_prob, plan_draws
from uqsparse.inference.state_space import StateSpaceModel, as_carry, row
from uqsparse.kernels import effective_sample_size


class Population(NamedTuple):
    """Weighted particles; `log_weights` are normalised and `weights` their exponentials."""

    states: PyTree
    log_weights: Float[Array, " n"]
    weights: Float[Array, " n"]


class Move(NamedTuple):
    """What a step did to its population."""

    ancestors: Int[Array, " n"]
    resampled: Bool[Array, ""]
    increment: Float[Array, ""]
    ess: Float[Array, ""]
    is_valid: Bool[Array, ""]


class Row(NamedTuple):
    """What is known at one time: observation, flags of its missing leaves or None, inputs or None."""

    observation: PyTree
    missing: list[Bool[Array, ""]] | None
    inputs: PyTree


def plan_start(model, parameters, now: Row, settings: FilterSettings) -> tuple[Source, ...]:
    """What drawing the first population consumes."""
    return plan_draws(lambda: _first_distribution(model, parameters, now, settings))


def plan_step(model, parameters, state, now: Row, settings: FilterSettings) -> tuple[Source, ...]:
    """What moving a particle consumes: for a guided filter with missing observations, either way of moving."""
    plan = plan_draws(lambda x: model.transition(parameters, x, now.inputs), state)
    proposal = settings.proposal
    if proposal is None:
        return plan
    guided = plan_draws(lambda x: proposal.transition(parameters, x, now.inputs, now.observation), state)
    return guided if now.missing is None else (*guided, *plan)


def start_population(
    model: StateSpaceModel,
    parameters: PyTree,
    now: Row,
    settings: FilterSettings,
    sources: list[Array],
    pinned: PyTree = None,
) -> tuple[Population, Move]:
    """Draw and weigh the first population; a `pinned` state takes the place of the first particle."""
    n = settings.n_particles
    drawn_from = _first_distribution(model, parameters, now, settings)
    states = jax.tree.map(jnp.asarray, jax.vmap(lambda source: draw(drawn_from, source))(sources))
    if pinned is not None:
        states = pin(states, pinned)

    def log_ratio(state):
        ratio = _log_likelihood(model, parameters, state, now)
        if settings.proposal is not None:
            ratio += log_prob(model.initial(parameters, now.inputs), state) - log_prob(drawn_from, state)
        return ratio

    equal = jnp.full(n, -jnp.log(float(n)))
    population, increment, ess, is_valid = reweigh(states, equal, jax.vmap(log_ratio)(states))
    return population, Move(jnp.arange(n, dtype=jnp.int32), jnp.zeros((), bool), increment, ess, is_valid)


def pin(states: PyTree, pinned: PyTree) -> PyTree:
    """Put a given state in the place of the first particle."""
    return jax.tree.map(lambda x, new: x.at[0].set(new.astype(x.dtype)), states, pinned)


def filter_step(
    model: StateSpaceModel,
    parameters: PyTree,
    population: Population,
    now: Row,
    settings: FilterSettings,
    uniforms: Float[Array, " n"] | Float[Array, ""],
    sources: list[Array],
) -> tuple[Population, Move]:
    """Resample, propagate and weigh: a deterministic function of the uniforms and the sources."""
    n = settings.n_particles
    log_guess = None
    first_stage = population.weights
    if settings.lookahead is not None:
        log_guess = _log_guess(settings.lookahead, parameters, population, now)
        raised = population.log_weights + log_guess
        first_stage = jnp.exp(raised - jnp.max(raised))

    def resample(_):
        ancestors = settings.scheme.resample(first_stage, uniforms, n).astype(jnp.int32)
        log_weights = jnp.full(n, -jnp.log(float(n)))
        if log_guess is not None:
            # What the first stage added is taken off again, so that the weighted population stays the same one.
            log_weights += jax.nn.logsumexp(population.log_weights + log_guess) - log_guess[ancestors]
        return jax.tree.map(lambda x: x[ancestors], population.states), log_weights, ancestors

    def keep(_):
        return population.states, population.log_weights, jnp.arange(n, dtype=jnp.int32)

    # The effective sample size is at most n. A condition even where it is always met: what is in a branch is not fused
    # with the noise outside, whose loop would no longer be vectorised.
    threshold = 2 * n if settings.ess_fraction == 1 else settings.ess_fraction * n
    is_low = effective_sample_size(first_stage) < threshold
    parents, log_weights, ancestors = jax.lax.cond(is_low, resample, keep, None)

    states = propose(model, parameters, parents, now, settings, sources)
    population, increment, ess, is_valid = reweigh(
        states, log_weights, log_ratios(model, parameters, parents, states, now, settings)
    )
    return population, Move(ancestors, is_low, increment, ess, is_valid)


def reweigh(states, log_weights, log_ratio) -> tuple[Population, Array, Array, Array]:
    """Multiply weights by a ratio and normalise; also the log of the sum, the ESS, and whether all was a number."""
    bad = jnp.isnan(log_ratio) | (log_ratio == jnp.inf)
    raised = log_weights + jnp.where(bad, -jnp.inf, log_ratio)
    peak = jnp.max(raised)
    is_alive = peak > -jnp.inf
    scaled = jnp.where(is_alive, jnp.exp(raised - jnp.where(is_alive, peak, 0)), 1.0)
    total = jnp.sum(scaled)
    increment = jnp.where(is_alive, peak + jnp.log(total), -jnp.inf)
    log_weights = jnp.where(is_alive, raised - increment, -jnp.log(float(log_weights.shape[0])))
    ess = total**2 / jnp.sum(scaled**2)
    return Population(states, log_weights, scaled / total), increment, ess, ~jnp.any(bad)


def propose(
    model: StateSpaceModel,
    parameters: PyTree,
    parents: PyTree,
    now: Row,
    settings: FilterSettings,
    sources: list[Array],
) -> PyTree:
    """Draw the next state of every particle: a deterministic function of the sources."""
    proposal = settings.proposal

    def by_transition(sources):
        def move(parent, source):
            return as_carry(draw(model.transition(parameters, parent, now.inputs), source), parent)

        return jax.vmap(move)(parents, sources)

    if proposal is None:
        return by_transition(sources)

    def by_proposal(sources):
        def move(parent, source):
            drawn_from = proposal.transition(parameters, parent, now.inputs, now.observation)
            return as_carry(draw(drawn_from, source), parent)

        return jax.vmap(move)(parents, sources)

    if now.missing is None:
        return by_proposal(sources)
    # Where nothing was seen there is nothing to be guided by.
    n_plain = len(plan_draws(lambda x: model.transition(parameters, x, now.inputs), row(parents, 0)))
    split = len(sources) - n_plain
    return jax.lax.cond(_unseen(now), lambda: by_transition(sources[split:]), lambda: by_proposal(sources[:split]))


def log_ratios(
    model: StateSpaceModel, parameters: PyTree, parents: PyTree, states: PyTree, now: Row, settings: FilterSettings
) -> Float[Array, " n"]:
    """Log incremental weight of every particle."""
    proposal = settings.proposal

    def weigh(parent, state):
        ratio = _log_likelihood(model, parameters, state, now)
        if proposal is None:
            return ratio
        drawn_from = proposal.transition(parameters, parent, now.inputs, now.observation)
        correction = log_prob(model.transition(parameters, parent, now.inputs), state) - log_prob(drawn_from, state)
        return ratio + (correction if now.missing is None else jnp.where(_unseen(now), 0.0, correction))

    return jax.vmap(weigh)(parents, states)


def _first_distribution(model, parameters, now: Row, settings: FilterSettings):
    if settings.proposal is None:
        return model.initial(parameters, now.inputs)
    return settings.proposal.initial(parameters, now.inputs, now.observation)


def _log_likelihood(model, parameters, state, now: Row):
    return log_prob(model.observation(parameters, state, now.inputs), now.observation, now.missing)


def _log_guess(lookahead: Callable, parameters, population: Population, now: Row):
    def guess(state):
        return lookahead(parameters, state, now.inputs, now.observation)

    guesses = jax.vmap(guess)(population.states)
    # A guess that is no number would end the run; a very low one does what was meant.
    guesses = jnp.where(jnp.isfinite(guesses), guesses, -1e300 if guesses.dtype == jnp.float64 else -1e30)
    return guesses if now.missing is None else jnp.where(_unseen(now), 0.0, guesses)


def _unseen(now: Row):
    return jnp.all(jnp.stack(now.missing or [jnp.zeros((), bool)]))
