"""Exact checks of the local samplers: the production estimators, enumerated in Fractions over all that they can draw.

The geometric sampler without a limit of rejects has infinitely many numbers of repeats. It is checked in floats, in two
ways: by a series with a bounded rest, where that is short; and, for every case, by an integral over the numbers of
repeats of each sequence of draws.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np

from uqsparse.inference.checks import Verdict, check_valid
from uqsparse.inference.checks.exact import Chance, Measure, meaning
from uqsparse.inference.constrained.constraint_tests import ConstraintTests
from uqsparse.inference.constrained.local_samplers import LocalSettings, sample_locally
from uqsparse.inference.constrained.pools import Pool
from uqsparse.inference.constrained.weight_estimators import Estimate, Search, search

F = Fraction
# Most mass that the series of repeats leaves out at each draw; a path has less than ten draws.
SERIES_REST = 1e-11
FLOAT_TOLERANCE = 1e-9
ESTIMATORS = ("two-loop", "recursive", "truncated", "geometric")


class ChancePool(Pool):
    """A pool whose draws are the choices of an enumerated program, and whose masses are Fractions.

    Numbers of repeats without a limit are enumerated up to where less than `SERIES_REST` of the mass is left, which is
    dropped: what follows is right to that, in floats.
    """

    def __init__(self, masses: Sequence[Fraction], chance: Chance):
        self._masses = tuple(masses)
        self._chance = chance
        self._left = [token for token, mass in enumerate(masses) if mass]

    @property
    def n_tokens(self) -> int:
        return len(self._masses)

    def draw(self) -> int | None:
        if not self._left:
            return None
        return self._left[self._chance.choose(shares(self._masses, tuple(self._left)))]

    def remove(self, token: int) -> None:
        self._left = [other for other in self._left if other != token]

    def mass(self, token: int) -> Fraction:
        return self._masses[token]

    def mass_left(self) -> Fraction:
        return sum((self._masses[token] for token in self._left), F(0))

    def repeats(self, at_most: int | None = None) -> int:
        share = self.share_removed()
        if not share:
            return 0
        if at_most is not None:
            return self._chance.choose(geometric_law(share, at_most))
        law = series_law(share)
        count = self._chance.choose(law)
        if count == len(law) - 1:
            self._chance.score(0)
        return count

    def share_removed(self) -> Fraction:
        """Share of the removed tokens in p."""
        return 1 - sum((self._masses[token] for token in self._left), F(0)) / sum(self._masses)


class RecordingPool(ChancePool):
    """A pool without repeats, which remembers what their numbers would depend on."""

    def __init__(self, masses: Sequence[Fraction], chance: Chance):
        super().__init__(masses, chance)
        self.recorded: list[Fraction] = []

    def repeats(self, at_most: int | None = None) -> int:
        self.recorded.append(self.share_removed())
        return 0


@cache
def shares(masses: tuple[Fraction, ...], left: tuple[int, ...]) -> tuple[Fraction, ...]:
    """Probabilities of the tokens that are left."""
    total = sum(masses[token] for token in left)
    return tuple(masses[token] / total for token in left)


@cache
def geometric_law(share: Fraction, at_most: int) -> tuple[Fraction, ...]:
    """P(j) = r^j (1 - r), the last one cut."""
    return (*(share**j * (1 - share) for j in range(at_most)), share**at_most)


@cache
def series_law(share: Fraction) -> tuple[float, ...]:
    """P(j) up to a small rest, which is the last entry."""
    law, rest = [], 1.0
    while rest > SERIES_REST:
        law.append(rest * float(1 - share))
        rest *= float(share)
    return (*law, rest)


class Case(NamedTuple):
    """Masses of the tokens, of any sum, and the accepted ones."""

    masses: tuple[Fraction, ...]
    accepted: frozenset[int]

    @property
    def accepted_mass(self) -> Fraction:
        return sum((self.masses[token] for token in self.accepted), F(0))

    @property
    def rejected(self) -> list[int]:
        """Rejected tokens of positive probability."""
        return [t for t, mass in enumerate(self.masses) if mass and t not in self.accepted]


def _case(weights: Sequence[int], accepted: Sequence[int], over: int | None = None) -> Case:
    total = sum(weights) if over is None else over
    return Case(tuple(F(w, total) for w in weights), frozenset(accepted))


EDGE_CASES: tuple[Case, ...] = (
    _case([1, 2, 3, 4], []),  # nothing acceptable
    _case([1, 2, 3, 4], [0, 1, 2, 3]),  # all acceptable
    _case([1, 2, 3, 4, 5], [1]),  # a single acceptable token
    _case([999, 1], [1]),
    _case([999, 1], [0]),
    _case([9990, 4, 3, 2, 1], [1, 4]),  # a spike of 0.999, rejected
    _case([9990, 4, 3, 2, 1], [0, 3]),  # and accepted
    _case([0, 2, 0, 3], [1]),
    _case([0, 2, 0, 3], [0, 2]),  # what is acceptable has no mass
    _case([1], [0]),
    _case([1], []),
    _case([3, 1, 4, 1], [0, 3], over=7),  # does not sum to one
    _case([2, 7, 1, 8, 2], [0, 2, 4]),
)


def cases(n: int, seed: int = 0, most: int = 5) -> list[Case]:
    """The edge cases, and random ones: up to `most` tokens, zeros among the masses, every eighth not normalised."""
    rng = random.Random(seed)
    made = list(EDGE_CASES[:n])
    while len(made) < n:
        weights = [rng.choice((0, 1, 1, 2, 3, 5, 9)) for _ in range(rng.randint(2, most))]
        if any(weights):
            accepted = [token for token in range(len(weights)) if rng.random() < 0.5]
            made.append(_case(weights, accepted, over=11 if len(made) % 8 == 0 else None))
    return made


# Few tokens and little rejected mass, so that the series are short.
SERIES_CASES: tuple[Case, ...] = (
    _case([3, 2], [0]),
    _case([1, 1], [1]),
    _case([1, 3, 2], [1, 2]),
    _case([1, 2, 97], [2]),
)


def weighted_law(case: Case, settings: LocalSettings) -> Measure:
    """E[w 1{v = u}] of every token u, by running the sampler over all that it can draw."""

    def program(chance: Chance) -> int:
        estimate = run(case, settings, chance)
        if not estimate.factor and estimate.token in case.accepted:
            raise ValueError(f"weight zero with the accepted token {estimate.token}")
        chance.score(estimate.mass * estimate.factor)
        return estimate.token

    return meaning(program)


def run(case: Case, settings: LocalSettings, chance: Chance) -> Estimate:
    """Run the sampler once."""
    tests = ConstraintTests(lambda token: token in case.accepted)
    return sample_locally(ChancePool(case.masses, chance), tests, settings)


def check_local_weights(case: Case, settings: LocalSettings) -> Verdict:
    """Whether E[w 1{v = u}] = p_u 1[u in A] for every token u."""
    is_series = settings.method == "geometric" and settings.max_rejects is None
    return _against_target(
        case, weighted_law(case, settings), describe(settings), FLOAT_TOLERANCE if is_series else None
    )


def check_geometric_by_integral(case: Case, max_accepts: int = 2) -> Verdict:
    """The geometric sampler without a limit of rejects: E[w 1{v = u}] = p_u 1[u in A], by an integral a path.

    With N new rejects and numbers of repeats G_i of shares r_i, the weight is (k - 1) / (k - 1 + N + sum G), and

        E 1 / (m + sum G) = integral over x in [0, 1] of x^(m - 1) prod E x^(G_i),   E x^G = (1 - r) / (1 - r x).

    The sampler is run with no repeats at all, which tells N and the r_i of each path.
    """
    settings = LocalSettings("geometric", None, max_accepts)

    def program(chance: Chance) -> int:
        pool = RecordingPool(case.masses, chance)
        estimate = sample_locally(pool, ConstraintTests(lambda token: token in case.accepted), settings)
        if estimate.factor:
            m = (max_accepts - 1) / estimate.factor
            chance.score(estimate.mass * (max_accepts - 1) * _mean_reciprocal(int(m), tuple(sorted(pool.recorded))))
        else:
            chance.score(0)
        return estimate.token

    return _against_target(case, meaning(program), f"geometric, k = {max_accepts}, no limit", FLOAT_TOLERANCE)


@cache
def _mean_reciprocal(m: int, removed: tuple[Fraction, ...]) -> float:
    """E 1 / (m + sum of geometric numbers), by Gauss-Legendre quadrature.

    With r = 0.9995, the largest share here, the pole at 1/r lets 400 nodes converge to 1e-15.
    """
    x, weights = _nodes(400)
    r = np.array([float(share) for share in removed])[:, None]
    return float(np.sum(weights * x ** (m - 1) * np.prod((1 - r) / (1 - r * x), axis=0)))


@cache
def _nodes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]."""
    x, weights = np.polynomial.legendre.leggauss(n)
    return (x + 1) / 2, weights / 2


def _against_target(case: Case, obtained: Measure, subject: str, tolerance: float | None) -> Verdict:
    expected: Measure = {token: case.masses[token] for token in case.accepted if case.masses[token]}
    # A unit of mass of no token on both sides, since nothing can be compared with a measure without mass.
    one: Measure = {"total": F(1)}
    where = f"p = {', '.join(map(str, case.masses))}; A = {sorted(case.accepted)}"
    return check_valid(one | obtained, one | expected, subject=f"{subject}: {where}", tolerance=tolerance)


def describe(settings: LocalSettings) -> str:
    """The settings in words."""
    accepts = f", k = {settings.max_accepts}" if settings.method == "geometric" else ""
    rejects = "" if settings.max_rejects is None else f", R = {settings.max_rejects}"
    return f"{settings.method}{accepts}{rejects}"


def geometric_settings(case: Case, place: int) -> LocalSettings:
    """Limits R = 2..6 and accepts k = 2, 3 in turn; small ones for many tokens, as outcomes multiply."""
    most_rejects, most_accepts = {1: (6, 3), 2: (6, 3), 3: (5, 3), 4: (3, 2)}.get(sum(map(bool, case.masses)), (2, 2))
    rejects, accepts = range(2, most_rejects + 1), range(2, most_accepts + 1)
    return LocalSettings("geometric", rejects[place % len(rejects)], accepts[place // len(rejects) % len(accepts)])


def check_estimators(n_cases: int, estimators: Sequence[str] = ESTIMATORS) -> Iterator[Verdict]:
    """Yield the verdicts of the named estimators on as many cases each.

    The truncated ones are all three, two-loop and recursive with limits R = 2..6 in turn.
    """
    for place, case in enumerate(cases(n_cases)):
        if "two-loop" in estimators:
            yield check_local_weights(case, LocalSettings("two-loop"))
        if "recursive" in estimators:
            yield check_local_weights(case, LocalSettings("recursive"))
        if "truncated" in estimators:
            yield check_local_weights(case, LocalSettings("two-loop", 2 + place % 5))
            yield check_local_weights(case, LocalSettings("recursive", 2 + place % 5))
            yield check_local_weights(case, geometric_settings(case, place))
        if "geometric" in estimators:
            most_accepts = max(2, 6 - sum(map(bool, case.masses)))
            yield check_geometric_by_integral(case, 2 + place % (most_accepts - 1))
    if "geometric" in estimators:
        for case in SERIES_CASES:
            yield check_local_weights(case, LocalSettings("geometric"))


def expected_tests_of_search(case: Case) -> Fraction:
    """Mean number of tests of adaptive rejection sampling, by running it over all that it can draw."""
    return _expectation(case, lambda found, tests: tests.evaluated)


def expected_rejects_of_search(case: Case) -> Fraction:
    """Mean number of rejects."""
    return _expectation(case, lambda found, tests: found.n_rejected)


def _expectation(case: Case, of: Callable[[Search, ConstraintTests], int]) -> Fraction:
    def program(chance: Chance) -> int:
        tests = ConstraintTests(lambda token: token in case.accepted)
        return of(search(ChancePool(case.masses, chance), tests), tests)

    return sum((count * mass for count, mass in meaning(program).items()), F(0))


def closed_form_of_tests(masses: Sequence[Fraction | float], accepted: frozenset[int]) -> Fraction | float:
    """Mean number of tests of adaptive rejection sampling, from exponential clocks.

    Token v rings at rate p_v; sampling without replacement visits tokens in the order of their first rings. A rejected
    token is tested if it rings before the first accepted one, with probability p_v / (p_v + p(A)).
    """
    inside = sum(masses[token] for token in accepted)
    outside = sum(m / (m + inside) for token, m in enumerate(masses) if m and token not in accepted)
    return outside + (1 if inside else 0)
