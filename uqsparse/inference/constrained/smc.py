"""Sequential Monte Carlo for strings of a language model under a constraint, and the baselines it is measured against.

Particles grow by one token a step through a properly weighted local sampler, so that the weighted population estimates
p(x) 1[x in L] without bias at every number of particles, whatever the constraint tests cost.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from uqsparse.inference.constrained.language_model import FunctionModel, LanguageModel
from uqsparse.inference.constrained.local_samplers import LocalSettings, local_settings
from uqsparse.inference.constrained.pools import generator_of
from uqsparse.inference.constrained.populations import (
    Particle,
    RandomSource,
    Source,
    effective_sample_size,
    extend,
    force_end,
    log_mean_weight,
    needs_resampling,
    prefix_tests,
    relative_weights,
    resample,
)
from uqsparse.inference.constrained.weighted_strings import WeightedStrings, genealogical_error
from uqsparse.inference.constraints.constraint import Constraint
from uqsparse.inference.constraints.vocabulary import Vocabulary
from uqsparse.inference.filter_settings import scheme_named
from uqsparse.inference.progress import advance_bar, progress_bar
from uqsparse.kernels.arguments import require_count

# A row of single-precision logarithms of 1e5 probabilities sums to one within this.
_ROW_TOLERANCE = 1e-3


class Population(NamedTuple):
    """The strings after some steps, and what they have cost so far."""

    particles: tuple[Particle, ...]
    n_steps: int
    n_tests: int
    n_tests_requested: int
    n_resampled: int

    @property
    def is_finished(self) -> bool:
        """Whether every string has ended or died."""
        return all(particle.finished for particle in self.particles)


def constrained_smc(
    key: Array,
    model: LanguageModel | Callable[[tuple[int, ...]], Any],
    constraint: Constraint,
    *,
    max_length: int,
    n_particles: int = 16,
    ess_threshold: float = 0.5,
    local: str = "auto",
    max_rejects: int | None = None,
    max_accepts: int = 2,
    resampling: str = "systematic",
    progress: bool = False,
) -> WeightedStrings:
    """Sample strings of a language model, given that they satisfy a constraint.

    The target is the model conditioned on x in L and on at most `max_length` tokens. The mean weight is an unbiased
    estimate of the probability of that, and E[mean of w_i f(x_i)] = E_p[f(x) 1[x in L, short enough]] for every f, at
    any number of particles; normalised expectations converge as it grows.

    Args:
        key: typed random key.
        model: a `LanguageModel`, or a function from a tuple of tokens to the (v,) log probabilities of the next one.
        constraint: the set L; its vocabulary names the token that ends a string.
        max_length: most tokens of a string, the end not counted.
        n_particles: N >= 1.
        ess_threshold: resample when the effective sample size falls below this fraction of N; 0 never, 1 whenever
            weights differ.
        local: local sampler: "two-loop" (what "auto" takes), "recursive", "geometric", "mask" (tests every token) or
            "twist" (draws once); see `local_sample`. "lcd" and "none" are baselines: see `masked_decoding` and
            `sample_and_rerank`.
        max_rejects: most rejected candidates a step and string, at least 2; None without a limit.
        max_accepts: accepted candidates of the geometric sampler, at least 2.
        resampling: "systematic", "stratified", "multinomial" or "residual".
        progress: show a bar.

    Returns:
        Weighted strings. If no particle reached a member, the evidence is zero, and a warning says so; another one
        says if all strings descend from one particle.

    Raises:
        ValueError: an argument is out of range, no member is as short as `max_length`, the model returns no
            distribution (the prefix and token are named), or a test gives no Boolean (also named).

    Source: Lipkin, LeBrun, Vigly, Loula, MacIver, Du, Eisner, Cotterell, Mansinghka, O'Donnell, Lew & Vieira (2025),
        Fast Controlled Generation from Language Models with Adaptive Weighted Rejection Sampling.

    >>> import jax
    >>> from uqsparse.inference.constraints import RegexConstraint, Vocabulary
    >>> coin = RegexConstraint("a*b", Vocabulary.of(["a", "b"]))
    >>> model = lambda prefix: np.log([0.4, 0.4, 0.2])
    >>> result = constrained_smc(jax.random.key(0), model, coin, max_length=3, n_particles=200)
    >>> [string.text for string in result.posterior()], abs(math.exp(result.log_evidence) - 0.1248) < 0.04
    (['b', 'ab', 'aab'], True)
    """
    steps = constrained_smc_steps(
        key,
        model,
        constraint,
        max_length=max_length,
        n_particles=n_particles,
        ess_threshold=ess_threshold,
        local=local,
        max_rejects=max_rejects,
        max_accepts=max_accepts,
        resampling=resampling,
    )
    population = None
    with progress_bar(progress, "Constrained SMC", max_length):
        for population in steps:
            n_finished = sum(particle.finished for particle in population.particles)
            advance_bar(population.n_steps, f"{n_finished} of {n_particles} strings ended")
    assert population is not None
    is_evidence = local != "lcd"
    result = weighted_strings(population, constraint, is_evidence)
    if not result.probabilities.any():
        warnings.warn(
            f"none of {n_particles} particles reached a member of the constraint within {max_length} tokens: the "
            "estimated evidence is zero; take more particles, a longer max_length, or a tighter prefix test",
            stacklevel=2,
        )
    elif result.n_ancestors == 1 < n_particles and is_evidence:
        warnings.warn(
            f"all strings descend from one of {n_particles} particles, so that log_evidence_error cannot tell how far "
            "the evidence is off: take more particles, or compare runs with other keys",
            stacklevel=2,
        )
    return result


def constrained_smc_steps(
    key: Array,
    model: LanguageModel | Callable[[tuple[int, ...]], Any],
    constraint: Constraint,
    *,
    max_length: int,
    n_particles: int = 16,
    ess_threshold: float = 0.5,
    local: str = "auto",
    max_rejects: int | None = None,
    max_accepts: int = 2,
    resampling: str = "systematic",
) -> Iterator[Population]:
    """`constrained_smc`, step by step: yields the population after each token, to stream or to stop early.

    `weighted_strings` makes the result of the last one.

    Args:
        key: typed random key.
        model: see `constrained_smc`.
        constraint: see `constrained_smc`.
        max_length: see `constrained_smc`.
        n_particles: see `constrained_smc`.
        ess_threshold: see `constrained_smc`.
        local: see `constrained_smc`.
        max_rejects: see `constrained_smc`.
        max_accepts: see `constrained_smc`.
        resampling: see `constrained_smc`.

    Raises:
        ValueError: see `constrained_smc`; arguments are checked before the first step.
    """
    require_count("max_length", max_length, 1)
    require_count("n_particles", n_particles, 1)
    if not 0 <= ess_threshold <= 1:
        raise ValueError(f"ess_threshold must lie between 0 and 1, got {ess_threshold}")
    scheme = scheme_named(resampling)
    settings = local_settings(local, max_rejects, max_accepts)
    language_model = _as_model(model, constraint.vocabulary)
    shortest = constraint.steps_to_complete(constraint.start())
    if shortest > max_length:
        raise ValueError(f"max_length is {max_length}, but members of the constraint have at least {shortest} tokens")
    source = RandomSource(generator_of(key), scheme)
    return _grow(source, language_model, constraint, max_length, n_particles, ess_threshold, settings)


def _grow(
    source: Source,
    model: LanguageModel,
    constraint: Constraint,
    max_length: int,
    n_particles: int,
    ess_threshold: float,
    settings: LocalSettings,
) -> Iterator[Population]:
    end = constraint.vocabulary.end
    particles = [Particle((), constraint.start(), 0.0, False, i) for i in range(n_particles)]
    n_tests, n_tests_requested, n_resampled = 0, 0, 0
    model_state = model.start(n_particles)
    for step in range(max_length + 1):
        rows = model.log_probabilities(model_state)
        steps_left = max_length - step
        tests = {particle.tokens: prefix_tests(constraint, particle, steps_left) for particle in particles}
        for i, particle in enumerate(particles):
            if not particle.finished:
                log_p = _distribution(rows[i], particle.tokens)
                own = tests[particle.tokens]
                if steps_left:
                    particles[i] = extend(source, particle, log_p, constraint, steps_left, own, settings)
                else:
                    particles[i] = force_end(particle, log_p, own, end, settings)
        last = np.array([end if particle.finished else particle.tokens[-1] for particle in particles])
        ancestors = None
        if needs_resampling(particles, ess_threshold):
            particles, ancestors = resample(source, particles)
            last = last[ancestors]
            n_resampled += 1
        n_tests += sum(own.evaluated for own in tests.values())
        n_tests_requested += sum(own.requested for own in tests.values())
        population = Population(tuple(particles), step + 1, n_tests, n_tests_requested, n_resampled)
        yield population
        if population.is_finished:
            return
        model_state = model.advance(model_state, last, ancestors)


def weighted_strings(population: Population, constraint: Constraint, is_evidence: bool = True) -> WeightedStrings:
    """Make the result of a population; strings that have not ended count as they stand.

    Args:
        population: from `constrained_smc_steps`.
        constraint: it was grown under.
        is_evidence: whether the mean weight estimates the evidence; not so for masked decoding.
    """
    particles = population.particles
    weights = relative_weights(particles)
    total = weights.sum()
    probabilities = weights / total if total > 0 else weights
    roots = np.array([particle.root for particle in particles])
    return WeightedStrings(
        strings=tuple(particle.tokens for particle in particles),
        log_weights=np.array([particle.log_weight for particle in particles]),
        log_evidence=log_mean_weight(particles) if is_evidence else None,
        log_evidence_error=genealogical_error(roots, probabilities) if is_evidence else None,
        n_ancestors=len(set(roots[probabilities > 0])),
        ess=effective_sample_size(weights),
        n_tests=population.n_tests,
        n_tests_requested=population.n_tests_requested,
        n_resampled=population.n_resampled,
        n_steps=population.n_steps,
        vocabulary=constraint.vocabulary,
    )


def masked_decoding(
    key: Array, model: Any, constraint: Constraint, *, max_length: int, n_samples: int = 16, progress: bool = False
) -> WeightedStrings:
    """Decode under a mask: at each step draw from the allowed tokens, renormalised. A biased baseline.

    Every string satisfies the constraint, but the law is not the model's conditioned on it: a prefix is chosen as if
    all its completions were allowed. There is no estimate of the evidence.

    Args:
        key: typed random key.
        model: see `constrained_smc`.
        constraint: see `constrained_smc`.
        max_length: see `constrained_smc`.
        n_samples: independent strings.
        progress: show a bar.

    Returns:
        Weighted strings, as from `constrained_smc`.

    Raises:
        ValueError: see `constrained_smc`.

    Source: Lipkin et al. (2025), as for `constrained_smc`; among their baselines.
    """
    options = {"max_length": max_length, "n_particles": n_samples, "progress": progress}
    return constrained_smc(key, model, constraint, local="lcd", ess_threshold=0.0, **options)


def sample_and_rerank(
    key: Array, model: Any, constraint: Constraint, *, max_length: int, n_samples: int = 16, progress: bool = False
) -> WeightedStrings:
    """Sample from the model without looking, and keep the members: importance sampling from the model itself.

    Unbiased, with one constraint test a string; useless when p(L) is small against 1 / n_samples.

    Args:
        key: typed random key.
        model: see `constrained_smc`.
        constraint: see `constrained_smc`.
        max_length: see `constrained_smc`.
        n_samples: independent strings.
        progress: show a bar.

    Returns:
        Weighted strings, as from `constrained_smc`.

    Raises:
        ValueError: see `constrained_smc`.

    Source: Lipkin et al. (2025), as for `constrained_smc`; among their baselines.
    """
    options = {"max_length": max_length, "n_particles": n_samples, "progress": progress}
    return constrained_smc(key, model, constraint, local="none", ess_threshold=0.0, **options)


def twisted_smc(
    key: Array,
    model: Any,
    constraint: Constraint,
    *,
    max_length: int,
    n_particles: int = 16,
    ess_threshold: float = 0.5,
    progress: bool = False,
) -> WeightedStrings:
    """Propose tokens from the model, and resample by the prefix test: one test a step, unbiased, many deaths.

    Args:
        key: typed random key.
        model: see `constrained_smc`.
        constraint: see `constrained_smc`.
        max_length: see `constrained_smc`.
        n_particles: N >= 1.
        ess_threshold: see `constrained_smc`.
        progress: show a bar.

    Returns:
        Weighted strings, as from `constrained_smc`.

    Raises:
        ValueError: see `constrained_smc`.

    Source: Lipkin et al. (2025), as for `constrained_smc`; among their baselines.
    """
    options = {"max_length": max_length, "n_particles": n_particles, "progress": progress}
    return constrained_smc(key, model, constraint, local="twist", ess_threshold=ess_threshold, **options)


def _as_model(model: Any, vocabulary: Vocabulary) -> LanguageModel:
    if not hasattr(model, "advance"):
        if not callable(model):
            raise TypeError(f"model must be a LanguageModel or a function, got a {type(model).__name__}")
        return FunctionModel(model, len(vocabulary), vocabulary.end)
    if model.n_tokens != len(vocabulary):
        raise ValueError(f"model has {model.n_tokens} tokens, but the constraint's vocabulary has {len(vocabulary)}")
    return model


def _distribution(row: Float[np.ndarray, " v"], prefix: tuple[int, ...]) -> Float[np.ndarray, " v"]:
    """Log probabilities, normalised; or an error that names the prefix, and the token where there is one."""
    row = np.asarray(row, dtype=float)
    bad = np.flatnonzero(np.isnan(row) | (row == math.inf))
    if len(bad):
        raise ValueError(f"the model gives token {bad[0]} the log probability {row[bad[0]]} after the prefix {prefix}")
    top = row.max()
    log_total = top + math.log(np.exp(row - top).sum()) if top > -math.inf else -math.inf
    if not abs(log_total) < _ROW_TOLERANCE:
        raise ValueError(
            f"the model's probabilities after the prefix {prefix} sum to {math.exp(min(log_total, 700)):.6g}, "
            "not to one"
        )
    return row - log_total
