"""Mutation score of the drift test: eighteen plausible bugs in kernels on continuous spaces, and correct kernels.

Every kernel is written once, with a number wherever a bug can sit: a coefficient that is one if the code is right, or a
choice that is correct at one value. A mutant changes one of these numbers, which are traced: all mutants of a kernel
share one compiled program.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from uqsparse import bench
from uqsparse.inference.checks.drift import drift_test
from uqsparse.inference.checks.verdict import Verdict

SYSTEM = "validated inference"
N_OBSERVATIONS = 4
BUDGET = 400_000
PRIOR_SD, NOISE = 0.5, 0.7  # of log tau in the first model; of the observations in the second


class Knobs(NamedTuple):
    """The places where a bug can sit, at their correct values."""

    prior_sd: float = PRIOR_SD  # of log tau, as the kernel sees it
    last_observation: float = 1.0  # whether it counts
    normaliser: float = 1.0  # of the likelihood: coefficient of -n log tau
    power: float = 1.0  # of the likelihood
    accept_sign: float = 1.0  # of the log acceptance ratio
    accept_all: float = 0.0  # 1 to skip the accept step
    jacobian: float = 1.0  # coefficient of a log Jacobian
    proposal: float = 1.0  # coefficient of a log ratio of proposal densities
    momentum_sd: float = 1.0
    last_kick: float = 0.5  # share of the last gradient step of the leapfrog
    kinetic: float = 1.0  # coefficient of the kinetic energy in the acceptance ratio
    move_probability: float = 1.0  # coefficient of the log ratio of the probabilities of trying each move


def simulate_location_scale(key: Array) -> tuple[Float[Array, "2"], Float[Array, "4"]]:
    """mu ~ N(0, 1), log tau ~ N(0, 0.5^2), four observations from N(mu, tau^2); theta = (mu, log tau)."""
    first, second = jax.random.split(key)
    theta = jax.random.normal(first, (2,)) * jnp.array([1.0, PRIOR_SD])
    return theta, theta[0] + jnp.exp(theta[1]) * jax.random.normal(second, (N_OBSERVATIONS,))


def log_likelihood(theta: Float[Array, "2"], y: Float[Array, "4"]) -> Float[Array, ""]:
    """Of the location and scale model."""
    return norm.logpdf(y, theta[0], jnp.exp(theta[1])).sum()


def _log_posterior(theta: Float[Array, "2"], y: Float[Array, "4"], knobs: Knobs) -> Float[Array, ""]:
    counted = jnp.ones(N_OBSERVATIONS).at[-1].set(knobs.last_observation)
    terms = -0.5 * ((y - theta[0]) / jnp.exp(theta[1])) ** 2 - knobs.normaliser * theta[1]
    prior = -0.5 * theta[0] ** 2 - 0.5 * (theta[1] / knobs.prior_sd) ** 2
    return prior + knobs.power * (counted * terms).sum()


def _accept(key: Array, log_ratio: Array, proposed: Any, present: Any, knobs: Knobs) -> Any:
    moves = jnp.log(jax.random.uniform(key)) < knobs.accept_sign * log_ratio
    moves |= knobs.accept_all > 0
    return jax.tree.map(lambda a, b: jnp.where(moves, a, b), proposed, present)


def random_walk(knobs: Knobs, key: Array, theta: Array, y: Array) -> Array:
    """Gaussian random walk in (mu, log tau)."""
    first, second = jax.random.split(key)
    new = theta + 0.6 * jax.random.normal(first, (2,))
    return _accept(second, _log_posterior(new, y, knobs) - _log_posterior(theta, y, knobs), new, theta, knobs)


def scale_walk(knobs: Knobs, key: Array, theta: Array, y: Array) -> Array:
    """Multiplies tau by a log-normal factor, with the density of tau: the Jacobian is the factor."""
    first, second = jax.random.split(key)
    new = theta.at[1].add(0.6 * jax.random.normal(first))
    # The density of tau is that of log tau over tau.
    density_ratio = _log_posterior(new, y, knobs) - new[1] - _log_posterior(theta, y, knobs) + theta[1]
    return _accept(second, density_ratio + knobs.jacobian * (new[1] - theta[1]), new, theta, knobs)


def langevin(knobs: Knobs, key: Array, theta: Array, y: Array) -> Array:
    """MALA with step size 0.5."""
    step = 0.5
    value = jax.value_and_grad(lambda point: _log_posterior(point, y, knobs))
    first, second = jax.random.split(key)
    present, slope = value(theta)
    new = theta + 0.5 * step**2 * slope + step * jax.random.normal(first, (2,))
    proposed, new_slope = value(new)
    forth = -0.5 * jnp.sum((new - theta - 0.5 * step**2 * slope) ** 2) / step**2
    back = -0.5 * jnp.sum((theta - new - 0.5 * step**2 * new_slope) ** 2) / step**2
    return _accept(second, proposed - present + knobs.proposal * (back - forth), new, theta, knobs)


def hamiltonian(knobs: Knobs, key: Array, theta: Array, y: Array) -> Array:
    """HMC with five leapfrog steps of 0.25."""
    step, n_steps = 0.25, 5
    value = jax.value_and_grad(lambda point: _log_posterior(point, y, knobs))
    first, second = jax.random.split(key)
    momentum = knobs.momentum_sd * jax.random.normal(first, (2,))
    present, slope = value(theta)

    def leap(i: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        position, speed, _, slope = state
        speed = speed + 0.5 * step * slope
        position = position + step * speed
        log_density, slope = value(position)
        share = jnp.where(i == n_steps - 1, knobs.last_kick, 0.5)
        return position, speed + share * step * slope, log_density, slope

    new, speed, proposed, _ = jax.lax.fori_loop(0, n_steps, leap, (theta, momentum, present, slope))
    energy = knobs.kinetic * 0.5 * (jnp.sum(speed**2) - jnp.sum(momentum**2))
    return _accept(second, proposed - present - energy, new, theta, knobs)


class Means(NamedTuple):
    """One mean for all four observations, or one for each half; `second` is zero if there is one."""

    two: Any
    first: Any
    second: Any


def simulate_means(key: Array) -> tuple[Means, Float[Array, "4"]]:
    """One mean or two with equal odds, each from N(0, 1); observations with noise 0.7."""
    which, values, noise = jax.random.split(key, 3)
    two = jax.random.bernoulli(which)
    first, second = jax.random.normal(values, (2,))
    means = Means(two, first, jnp.where(two, second, 0.0))
    return means, _centres(means) + NOISE * jax.random.normal(noise, (N_OBSERVATIONS,))


def _centres(means: Means) -> Float[Array, "4"]:
    later = jnp.where(means.two, means.second, means.first)
    return jnp.stack([means.first, means.first, later, later])


def means_log_likelihood(means: Means, y: Float[Array, "4"]) -> Float[Array, ""]:
    """Of the model with one mean or two."""
    return norm.logpdf(y, _centres(means), NOISE).sum()


def split_merge(knobs: Knobs, key: Array, means: Means, y: Array) -> Means:
    """Reversible jump: m splits into (m - u, m + u), u ~ N(0, 0.6^2), with |J| = 2; (a, b) merges into (a + b) / 2.

    A split is tried from one mean with probability 0.8, a merge from two with probability 0.5.
    """
    attempt, draw, decide = jax.random.split(key, 3)
    log_split, log_merge = math.log(0.8), math.log(0.5)
    u = jnp.where(means.two, (means.second - means.first) / 2, 0.6 * jax.random.normal(draw))
    middle = jnp.where(means.two, (means.first + means.second) / 2, means.first)
    apart = Means(jnp.asarray(True), middle - u, middle + u)
    merged = Means(jnp.asarray(False), middle, jnp.zeros_like(middle))

    def log_posterior(state: Means) -> Array:
        prior = norm.logpdf(state.first) + jnp.where(state.two, norm.logpdf(state.second), 0.0)
        return prior + means_log_likelihood(state, y)

    # The log ratio of a split; that of the merge which undoes it is its negative.
    ratio = log_posterior(apart) - log_posterior(merged) - knobs.proposal * norm.logpdf(u, 0.0, 0.6)
    ratio += knobs.jacobian * math.log(2.0) + knobs.move_probability * (log_merge - log_split)
    tried = jnp.log(jax.random.uniform(attempt)) < jnp.where(means.two, log_merge, log_split)
    proposed = jax.tree.map(lambda a, b: jnp.where(means.two, b, a), apart, merged)
    moved = _accept(decide, jnp.where(means.two, -ratio, ratio), proposed, means, knobs)
    return jax.tree.map(lambda a, b: jnp.where(tried, a, b), moved, means)


class Variant(eqx.Module):
    """A kernel with its knobs set."""

    function: Callable[..., Any]
    knobs: Knobs

    def __call__(self, key: Array, theta: Any, y: Any) -> Any:
        return self.function(self.knobs, key, theta, y)


class Mutant(NamedTuple):
    """One bug: the kernel it is in, the knobs it turns, and the pairs it took the prototype of the specification."""

    kernel: str
    knobs: Knobs
    pairs: int | None


KERNELS = {
    "random walk": random_walk,
    "scale walk": scale_walk,
    "MALA": langevin,
    "HMC": hamiltonian,
    "reversible jump": split_merge,
}

MUTANTS = {
    "prior variance for its sd": Mutant("random walk", Knobs(prior_sd=PRIOR_SD**2), 3402),
    "observation dropped": Mutant("random walk", Knobs(last_observation=0.0), 3817),
    "likelihood normaliser dropped": Mutant("random walk", Knobs(normaliser=0.0), 573),
    "likelihood raised to 0.95": Mutant("random walk", Knobs(power=0.95), None),
    "always accept": Mutant("random walk", Knobs(accept_all=1.0), 198),
    "acceptance reversed": Mutant("random walk", Knobs(accept_sign=-1.0), 197),
    "no Jacobian": Mutant("scale walk", Knobs(jacobian=0.0), 4055),
    "Jacobian sign": Mutant("scale walk", Knobs(jacobian=-1.0), 1865),
    "no proposal ratio": Mutant("MALA", Knobs(proposal=0.0), 2987),
    "proposal ratio sign": Mutant("MALA", Knobs(proposal=-1.0), 389),
    "no accept step": Mutant("MALA", Knobs(accept_all=1.0), 201),
    "momentum scale": Mutant("HMC", Knobs(momentum_sd=1.5), 1554),
    "full last half-step": Mutant("HMC", Knobs(last_kick=1.0), 7811),
    "kinetic energy left out": Mutant("HMC", Knobs(kinetic=0.0), 1891),
    "no |J|": Mutant("reversible jump", Knobs(jacobian=0.0), 615),
    "|J| inverted": Mutant("reversible jump", Knobs(jacobian=-1.0), 280),
    "q(u) dropped": Mutant("reversible jump", Knobs(proposal=0.0), 485),
    "move probabilities ignored": Mutant("reversible jump", Knobs(move_probability=0.0), 749),
}


CORRECT = Knobs()


@functools.cache
def check(kernel: str, knobs: Knobs = CORRECT, seed: int = 0, budget: int = BUDGET, n_steps: int = 1) -> Verdict:
    """The verdict of the drift test on a kernel, at level 1e-5."""
    jumps = kernel == "reversible jump"
    simulate, likelihood = (
        (simulate_means, means_log_likelihood) if jumps else (simulate_location_scale, log_likelihood)
    )
    variant = Variant(KERNELS[kernel], Knobs(*(np.float64(value) for value in knobs)))
    return drift_test(
        jax.random.key(seed),
        simulate,
        variant,
        log_likelihood=likelihood,
        n_steps=n_steps,
        budget=budget,
        subject=kernel,
    )


@bench.claim("bugs in a random-walk kernel that the drift test finds in 20 000 pairs, of 5", system=SYSTEM, quick=False)
def random_walk_bugs(context: bench.Context) -> bench.Measured:
    gross = [m for m in MUTANTS.values() if m.kernel == "random walk" and m.pairs is not None]
    verdicts = [check("random walk", m.knobs, context.seed, 20_000) for m in gross]
    needed = ", ".join(str(v.n) for v in verdicts)
    correct = check("random walk", CORRECT, context.seed, 20_000)
    found = sum(not v.ok for v in verdicts) if correct.ok else 0
    return bench.Measured(found, ">=", 5, "planted bugs", f"pairs needed: {needed}; the correct kernel passes")


@bench.claim("bugs in continuous kernels that the drift test finds in 400 000 pairs, of 18", system=SYSTEM, quick=False)
def mutation_score(context: bench.Context) -> bench.Measured:
    verdicts = {name: check(m.kernel, m.knobs, context.seed) for name, m in MUTANTS.items()}
    table = "; ".join(f"{name} {v.n if not v.ok else 'survives'}" for name, v in verdicts.items())
    found = sum(not v.ok for v in verdicts.values())
    return bench.Measured(found, ">=", 17, "planted bugs", f"level 1e-5, pairs needed: {table}")


@bench.claim("bugs in continuous kernels found with 10 steps a pair, of 18", system=SYSTEM, quick=False)
def mutation_score_of_ten_steps(context: bench.Context) -> bench.Measured:
    verdicts = {name: check(m.kernel, m.knobs, context.seed, n_steps=10) for name, m in MUTANTS.items()}
    table = "; ".join(f"{name} {v.n if not v.ok else 'survives'}" for name, v in verdicts.items())
    found = sum(not v.ok for v in verdicts.values())
    return bench.Measured(found, ">=", 18, "planted bugs", f"level 1e-5, up to 400 000 pairs, pairs needed: {table}")


@bench.claim("alarms of the drift test on five correct kernels, 400 000 pairs each", system=SYSTEM, quick=False)
def correct_kernels(context: bench.Context) -> bench.Measured:
    verdicts = {name: check(name, CORRECT, context.seed) for name in KERNELS}
    table = "; ".join(f"{name} {v.evidence:.2f}, {v.bias_bound:.4f}" for name, v in verdicts.items())
    alarms = sum(not v.ok for v in verdicts.values())
    detail = f"last log e-value (11.5 rejects) and drift not excluded, of statistics in [-1/2, 1/2]: {table}"
    return bench.Measured(alarms, "==", 0, "correct kernels", detail)


@bench.claim("alarms of the drift test in 200 runs on correct kernels", system=SYSTEM, quick=False)
def null_runs(context: bench.Context) -> bench.Measured:
    verdicts = [check(name, CORRECT, context.seed + 1 + run, 50_000) for name in KERNELS for run in range(40)]
    highest = max(v.evidence for v in verdicts)
    detail = f"5 kernels, 40 seeds each, level 1e-5, 50 000 pairs a run; largest last log e-value {highest:.2f}"
    return bench.Measured(sum(not v.ok for v in verdicts), "==", 0, "correct kernels", detail)
