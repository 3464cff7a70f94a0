"""Populations of weighted strings: one step of sequential Monte Carlo under a constraint, on explicit randomness.

Each function is given its randomness by a `Source`, so that a check can enumerate what production draws.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from uqsparse.inference.constrained.constraint_tests import ConstraintTests
from uqsparse.inference.constrained.local_samplers import LocalSettings, SampledPool, sample_locally
from uqsparse.inference.constrained.pools import Pool
from uqsparse.inference.constraints.constraint import Constraint, State
from uqsparse.inference.filter_settings import Scheme


class Source(Protocol):
    """Where a population gets its randomness from."""

    def pool(self, log_p: Float[np.ndarray, " v"]) -> Pool:
        """Candidates for the next token of one string."""
        ...

    def ancestors(self, weights: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """As many ancestors as there are weights; each is picked n w_i / sum(w) times on average."""
        ...


class RandomSource:
    """Randomness of a NumPy generator, and one resampling scheme."""

    def __init__(self, generator: np.random.Generator, scheme: Scheme):
        self._generator = generator
        self._scheme = scheme

    def pool(self, log_p: Float[np.ndarray, " v"]) -> Pool:
        """Draw candidates by inversion."""
        return SampledPool(log_p, self._generator)

    def ancestors(self, weights: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Resample in double precision."""
        n = len(weights)
        with jax.enable_x64(True):
            uniforms = jnp.asarray(self._generator.random(self._scheme.uniforms(n)))
            return np.asarray(_compiled(self._scheme.resample)(jnp.asarray(weights), uniforms, n=n))


@functools.cache
def _compiled(resample):
    return jax.jit(resample, static_argnames="n")


class Particle(NamedTuple):
    """A weighted prefix.

    Args:
        tokens: the prefix, without the end.
        state: of the constraint; None if the prefix cannot become a member.
        log_weight: -inf once dead.
        finished: has ended or died.
        root: place in the first population of the particle that this one descends from.
    """

    tokens: tuple[int, ...]
    state: State | None
    log_weight: float
    finished: bool
    root: int


def prefix_tests(constraint: Constraint, particle: Particle, steps_left: int) -> ConstraintTests:
    """The constraint tests of one prefix, with their answers and counts."""
    state = particle.state
    return ConstraintTests(
        lambda token: state is not None and constraint.accepts(state, token, steps_left), particle.tokens
    )


def extend(
    source: Source,
    particle: Particle,
    log_p: Float[np.ndarray, " v"],
    constraint: Constraint,
    steps_left: int,
    tests: ConstraintTests,
    settings: LocalSettings,
) -> Particle:
    """Append one token, or the end, to an unfinished string, and multiply its weight by that of the local sampler.

    Args:
        source: of randomness.
        particle: an unfinished one.
        log_p: normalised log probabilities of its next token.
        constraint: its own tests are asked through `tests`.
        steps_left: tokens that may still be appended, this one included.
        tests: constraint tests of this prefix.
        settings: of the local sampler.
    """
    allowed = None if particle.state is None else lambda: constraint.allowed(particle.state, steps_left)
    estimate = sample_locally(source.pool(log_p), tests, settings, allowed=allowed)
    log_weight = particle.log_weight + estimate.log_weight
    if settings.method == "none" and estimate.token == constraint.vocabulary.end and not tests(estimate.token):
        log_weight = -math.inf  # the one test of a string that was drawn without looking
    if estimate.token == constraint.vocabulary.end or log_weight == -math.inf:
        return particle._replace(log_weight=log_weight, finished=True)
    state = None if particle.state is None else constraint.step(particle.state, estimate.token)
    return particle._replace(tokens=(*particle.tokens, estimate.token), state=state, log_weight=log_weight)


def force_end(
    particle: Particle, log_p: Float[np.ndarray, " v"], tests: ConstraintTests, end: int, settings: LocalSettings
) -> Particle:
    """End a string of greatest length: its weight takes p(end), and is zero if it is no member.

    Without this the target would not be the posterior of strings up to that length. Masked decoding leaves p out, here
    as everywhere.
    """
    log_p_end = 0.0 if settings.method == "lcd" else float(log_p[end])
    return particle._replace(log_weight=particle.log_weight + log_p_end if tests(end) else -math.inf, finished=True)


def needs_resampling(particles: Sequence[Particle], ess_threshold: float) -> bool:
    """Whether the effective sample size, over all particles, finished ones included, is below its threshold."""
    ess = effective_sample_size(relative_weights(particles))
    return 0 < ess < ess_threshold * len(particles) * (1 - 1e-12)


def effective_sample_size(weights: Float[np.ndarray, " n"]) -> float:
    """`uqsparse.kernels.effective_sample_size` for a few numbers on the host, which compiles nothing."""
    total = weights.sum()
    return float(total**2 / np.sum(weights**2)) if total > 0 else 0.0


def resample(source: Source, particles: Sequence[Particle]) -> tuple[list[Particle], Int[np.ndarray, " n"]]:
    """Replace a population by offspring of equal weight, the mean of the old ones, which keeps the evidence."""
    ancestors = source.ancestors(relative_weights(particles))
    log_mean = log_mean_weight(particles)
    return [particles[i]._replace(log_weight=log_mean) for i in ancestors], ancestors


def relative_weights(particles: Sequence[Particle]) -> Float[np.ndarray, " n"]:
    """Weights divided by the largest one; zeros if all particles are dead."""
    log_weights = np.array([particle.log_weight for particle in particles])
    top = log_weights.max()
    return np.exp(log_weights - top) if top > -math.inf else np.zeros(len(log_weights))


def log_mean_weight(particles: Sequence[Particle]) -> float:
    """Log of the mean weight: the estimate of the log evidence; -inf if all particles are dead."""
    top = max(particle.log_weight for particle in particles)
    return top + math.log(relative_weights(particles).mean()) if top > -math.inf else -math.inf
