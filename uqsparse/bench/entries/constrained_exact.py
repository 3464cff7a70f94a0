"""The population of constrained SMC, all randomness enumerated through the production steps, against p(x) 1[x in L].

A bigram model over three tokens, two particles, and a constraint with dead ends: "ends in token 2, at most one 1".
"""

import functools
import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from uqsparse.bench.entries.local_sampler_checks import ChancePool
from uqsparse.inference.checks.exact import Chance, Measure, check_valid, meaning, push
from uqsparse.inference.checks.verdict import Verdict
from uqsparse.inference.constrained.local_samplers import LocalSettings, local_settings
from uqsparse.inference.constrained.pools import Pool
from uqsparse.inference.constrained.populations import (
    Particle,
    extend,
    force_end,
    needs_resampling,
    prefix_tests,
    resample,
)
from uqsparse.inference.constraints.constraint import Constraint
from uqsparse.inference.constraints.vocabulary import Vocabulary

F = Fraction
END = 3
ROWS = {
    None: (F(1, 2), F(1, 4), F(1, 4), F(0)),
    0: (F(1, 4), F(1, 4), F(1, 4), F(1, 4)),
    1: (F(1, 2), F(1, 4), F(1, 4), F(0)),
    2: (F(1, 4), F(1, 4), F(0), F(1, 2)),
}
# Weights are floats: equal ones are merged at this many digits, and masses are compared at the tolerance.
_DIGITS = 11
_TOLERANCE = 1e-9

CASES: dict[str, tuple[int, LocalSettings]] = {
    "two-loop, T = 2": (2, local_settings("two-loop")),
    "two-loop, T = 3": (3, local_settings("two-loop")),
    "two-loop, 2 rejects, T = 3": (3, local_settings("two-loop", 2)),
    "recursive, T = 2": (2, local_settings("recursive")),
    "recursive, T = 3": (3, local_settings("recursive")),
    "recursive, 2 rejects, T = 3": (3, local_settings("recursive", 2)),
    "geometric, 3 rejects, T = 2": (2, local_settings("geometric", 3)),
    "geometric, 3 rejects, T = 3": (3, local_settings("geometric", 3)),
    "masking, T = 3": (3, local_settings("mask")),
    "twist, T = 3": (3, local_settings("twist")),
    "model alone, T = 3": (3, local_settings("none")),
}


class EndsInTwo(Constraint):
    """Strings that end in token 2 and have at most one 1; the prefix test knows of the second rule only."""

    vocabulary = Vocabulary.of(["0", "1", "2"])

    def start(self) -> tuple[int, int]:
        """No ones, and no last token."""
        return 0, -1

    def step(self, state: tuple[int, int], token: int) -> tuple[int, int] | None:
        """Count ones."""
        ones = state[0] + (token == 1)
        return (ones, token) if ones <= 1 else None

    def is_complete(self, state: tuple[int, int]) -> bool:
        """Ends in 2."""
        return state[1] == 2


class LogPool(ChancePool):
    """A pool of the production steps, whose masses are logs of floats; draws are choices between Fractions."""

    def __init__(self, log_p: np.ndarray, chance: Chance):
        # The rows are Fractions of small denominators, and come back as such.
        super().__init__([F(math.exp(x)).limit_denominator(1000) for x in log_p], chance)

    def mass(self, token: int) -> float:
        """Log of p of a token."""
        return math.log(super().mass(token))

    def mass_left(self) -> float:
        """Log of the sum of p over the pool."""
        return math.log(super().mass_left())


class EnumeratedSource:
    """Randomness of a population, all of it choices of a `Chance`."""

    def __init__(self, chance: Chance, scheme: str):
        self._chance = chance
        self._scheme = scheme

    def pool(self, log_p: np.ndarray) -> Pool:
        """Candidates."""
        return LogPool(log_p, self._chance)

    def ancestors(self, weights: np.ndarray) -> np.ndarray:
        """Ancestors by the law of multinomial, or of systematic, resampling."""
        n = len(weights)
        shares = _shares(list(weights))
        if self._scheme == "multinomial":
            return np.array([self._chance.choose(shares) for _ in range(n)])
        ends = np.cumsum(shares) * n
        offset = float(self._chance.uniform([round(float(end % 1), 12) for end in ends]))
        return np.minimum(np.searchsorted(ends, np.arange(n) + offset, side="right"), n - 1)


def string_measure() -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """Every string of at most three tokens with its probability under the model."""
    for length in range(4):
        for tokens in itertools.product(range(3), repeat=length):
            chain = [None, *tokens]
            steps = [ROWS[before][after] for before, after in itertools.pairwise(chain)]
            yield tokens, math.prod(steps, start=F(1)) * ROWS[chain[-1]][END]


def expected_measure(max_length: int) -> Measure:
    """p(x) of the members of at most that length, by the definition of the constraint."""
    return {
        tokens: mass
        for tokens, mass in string_measure()
        if len(tokens) <= max_length and tokens[-1:] == (2,) and tokens.count(1) <= 1
    }


def population_measure(
    max_length: int, settings: LocalSettings, scheme: str, ess_threshold: float, n: int = 2
) -> Measure:
    """The mean of (1/N) sum_i w_i at x_i over all randomness of N particles."""
    constraint = EndsInTwo()
    measure: Measure = {tuple(Particle((), constraint.start(), 0.0, False, 0) for _ in range(n)): 1.0}
    for step in range(max_length + 1):
        measure = _extended(measure, constraint, max_length - step, settings)
        measure = push(measure, functools.partial(_resample, scheme, ess_threshold), max_states=1_000_000)
    total: dict[Any, float] = {}
    for population, mass in measure.items():
        for particle in population:
            if particle.log_weight > -math.inf:
                share = float(mass) * math.exp(particle.log_weight) / n
                total[particle.tokens] = total.get(particle.tokens, 0.0) + share
    return total


def population_verdict(case: str, scheme: str = "multinomial", ess_threshold: float = 0.0) -> Verdict:
    """Compare the two measures for one of `CASES`."""
    max_length, settings = CASES[case]
    obtained = population_measure(max_length, settings, scheme, ess_threshold)
    return check_valid(
        obtained,
        {tokens: float(mass) for tokens, mass in expected_measure(max_length).items()},
        subject=f"constrained SMC, {case}, {scheme}, threshold {ess_threshold}",
        tolerance=_TOLERANCE,
    )


def masked_bias(max_length: int) -> float:
    """Total variation distance of masked decoding from the posterior."""
    obtained = population_measure(max_length, local_settings("lcd", None, 2), "multinomial", 0.0, n=1)
    expected = expected_measure(max_length)
    total, alive = float(sum(expected.values())), sum(obtained.values())
    return 0.5 * sum(
        abs(obtained.get(tokens, 0.0) / alive - float(expected.get(tokens, F(0))) / total)
        for tokens in {*obtained, *expected}
    )


def _extended(measure: Measure, constraint: Constraint, steps_left: int, settings: LocalSettings) -> Measure:
    """Extend every particle. They do so independently, and each different one is enumerated once."""

    @functools.cache
    def images(particle: Particle) -> Measure:
        return meaning(functools.partial(_extend_one, constraint, steps_left, settings, particle))

    extended: Measure = {}
    for population, mass in measure.items():
        for combination in itertools.product(*(images(particle).items() for particle in population)):
            # In one order of many: the measure of a population does not depend on it, and there are fewer of them.
            after = tuple(sorted((particle for particle, _ in combination), key=_order))
            share = mass * math.prod(part for _, part in combination)
            extended[after] = extended.get(after, 0.0) + share
    return extended


def _extend_one(
    constraint: Constraint, steps_left: int, settings: LocalSettings, particle: Particle, chance: Chance
) -> Particle:
    if particle.finished:
        return particle
    with np.errstate(divide="ignore"):
        log_p = np.log([float(p) for p in ROWS[particle.tokens[-1] if particle.tokens else None]])
    tests = prefix_tests(constraint, particle, steps_left)
    if steps_left:
        source = EnumeratedSource(chance, "")
        return _merged(extend(source, particle, log_p, constraint, steps_left, tests, settings))
    return _merged(force_end(particle, log_p, tests, END, settings))


def _resample(scheme: str, ess_threshold: float, chance: Chance, population):
    if not needs_resampling(population, ess_threshold):
        return population
    return tuple(_merged(particle) for particle in resample(EnumeratedSource(chance, scheme), population)[0])


def _order(particle: Particle) -> tuple[Any, ...]:
    return particle.log_weight, particle.tokens, particle.finished


def _merged(particle: Particle) -> Particle:
    if particle.log_weight == -math.inf:
        return Particle((), None, -math.inf, True, 0)
    return particle._replace(log_weight=round(particle.log_weight, _DIGITS), root=0)


def _shares(weights: list[float]) -> list[float]:
    total = math.fsum(weights)
    return [float(weight) / total for weight in weights]
