"""The measure that a finite program denotes, computed exactly, and what follows from comparing two of them.

A *program* is a function of a `Chance`, from which it asks every random choice and to which it tells every weight. It
is run once for each sequence of outcomes, and the masses of equal results are added. With Fractions the result is
exact and compared with `==`; with floats it is right to rounding.

An algorithm of several steps is better given as *kernels* `kernel(chance, state) -> state`, through which a measure is
pushed one at a time: equal states are merged between the steps, so that the work grows with the number of distinct
states instead of the number of histories.

Source: Ścibior, Kammar, Vákár, Staton, Yang, Cai, Ostermann, Moss, Heunen & Ghahramani (2018), Denotational validation
of higher-order Bayesian inference (what is compared: a transformation is valid if it keeps the measure).
"""

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from uqsparse.inference.checks.verdict import Counterexample, Verdict

Number = Fraction | float
Measure = dict[Any, Any]  # hashable values -> masses, Numbers
Program = Callable[["Chance"], Hashable]
Kernel = Callable[["Chance", Any], Hashable]

# Relative to the total mass; masses are sums of some thousand products of doubles.
FLOAT_TOLERANCE = 1e-12
FLOAT_SUM_TOLERANCE = 1e-12


class _Dead(BaseException):
    """A weight of zero ends a path; not an `Exception`, so that no handler of a program holds it up."""


class Chance:
    """Where an enumerated program gets its randomness from, and leaves its weights."""

    def __init__(self, planned: Sequence[int]):
        self._planned = planned
        self.outcomes: list[int] = []
        self.alternatives: list[tuple[Number, ...]] = []
        self.mass: Number = Fraction(1)

    def choose(self, probabilities: Iterable[Any]) -> int:
        """Choose an index with the given probabilities.

        Args:
            probabilities: nonnegative, summing to one: Fractions and integers exactly, floats to 1e-12.

        Raises:
            ValueError: they are not probabilities.
        """
        allowed = tuple(_number(p) for p in probabilities)
        self._require_probabilities(allowed)
        depth = len(self.outcomes)
        outcome = self._planned[depth] if depth < len(self._planned) else next(i for i, p in enumerate(allowed) if p)
        if not (outcome < len(allowed) and allowed[outcome]):
            raise ValueError(
                f"{self._place()} is another one in a second run with the same outcomes: the program has randomness of "
                "its own, or remembers earlier runs"
            )
        self.outcomes.append(outcome)
        self.alternatives.append(allowed)
        self.mass = self.mass * allowed[outcome]
        return outcome

    def score(self, weight: Any) -> None:
        """Multiply the mass of this path by a weight; zero ends it.

        Raises:
            ValueError: the weight is negative or not finite.
        """
        weight = _number(weight)
        if not 0 <= weight < math.inf:
            raise ValueError(
                f"score after outcomes {self._path()}: the weight is {weight}; it has to be >= 0 and finite"
            )
        if weight == 0:
            raise _Dead
        self.mass = self.mass * weight

    def uniform(self, breakpoints: Iterable[Any]) -> Number:
        """Draw a uniform number on [0, 1) for code that only looks on which side of some breakpoints it lies.

        Args:
            breakpoints: where anything may change; those outside of (0, 1) are left out.

        Returns:
            The midpoint of one of the cells between them, chosen with its length as probability.
        """
        inner = sorted({b for b in map(_number, breakpoints) if 0 < b < 1})
        edges = [Fraction(0), *inner, Fraction(1)]
        cell = self.choose([high - low for low, high in itertools.pairwise(edges)])
        return (edges[cell] + edges[cell + 1]) / 2

    def _require_probabilities(self, allowed: tuple[Number, ...]) -> None:
        if not allowed or not all(p >= 0 for p in allowed):  # false for NaN
            raise ValueError(f"{self._place()}: the probabilities are {_listed(allowed)}; each has to be at least 0")
        total = sum(allowed)
        exact = isinstance(total, Fraction)
        if total != 1 if exact else abs(total - 1) > FLOAT_SUM_TOLERANCE:
            raise ValueError(f"{self._place()}: the probabilities {_listed(allowed)} sum to {total}, not to one")

    def _place(self) -> str:
        return f"choice {len(self.outcomes) + 1} after outcomes {self._path()}"

    def _path(self) -> str:
        return f"({', '.join(map(str, self.outcomes))})"


def meaning(program: Program, *, max_paths: int = 1_000_000) -> Measure:
    """Compute the measure that a program denotes: for each result the total mass of the paths that lead to it.

    Args:
        program: a function of a `Chance`; deterministic apart from it. Its result has to be hashable.
        max_paths: most sequences of outcomes to run.

    Returns:
        Results with their masses; masses of zero are left out.

    Raises:
        ValueError: probabilities do not sum to one, a weight is negative or NaN, the result is NaN, the program is not
            a function of its choices, or it has more paths than `max_paths`.
        TypeError: a result is not hashable.

    >>> from fractions import Fraction as F
    >>> def two_flips(chance):
    ...     heads = chance.choose([F(1, 2), F(1, 2)]) + chance.choose([F(1, 4), F(3, 4)])
    ...     chance.score(F(1, 3) if heads == 2 else 1)
    ...     return heads
    >>> {heads: str(mass) for heads, mass in sorted(meaning(two_flips).items())}
    {0: '1/8', 1: '1/2', 2: '1/8'}
    """
    measure: Measure = {}
    planned: list[int] | None = []
    n_paths = 0
    while planned is not None:
        n_paths += 1
        if n_paths > max_paths:
            raise ValueError(
                f"the program has more than max_paths = {max_paths} sequences of outcomes (this one has {len(planned)} "
                "choices): take fewer particles, steps or values, or push a measure through its steps one by one"
            )
        chance = Chance(planned)
        try:
            value = program(chance)
        except _Dead:
            pass
        else:
            _require_value(value, chance)
            measure[value] = measure.get(value, Fraction(0)) + chance.mass
        planned = _next_path(chance)
    return {value: mass for value, mass in measure.items() if mass}


class Images:
    """A kernel by its image of every state, each computed once.

    Args:
        image: maps a state to the measure over next states.
        tolerance: tells, after use, to what the masses of its images can be trusted, if they are floats.
    """

    def __init__(self, image: Callable[[Any], Measure], tolerance: Callable[[], float] = lambda: FLOAT_TOLERANCE):
        self._image = image
        self._known: dict[Any, Measure] = {}
        self.tolerance = tolerance

    def of(self, state: Any) -> Measure:
        """The measure over next states."""
        if state not in self._known:
            self._known[state] = self._image(state)
        return self._known[state]


def images(kernel: Kernel | Images) -> Images:
    """Let a kernel remember its images, for use in several pushes."""
    if isinstance(kernel, Images):
        return kernel
    return Images(lambda state: meaning(lambda chance: kernel(chance, state)))


def push(measure: Measure, kernel: Kernel | Images, *, max_states: int = 100_000) -> Measure:
    """Push a measure through a kernel, merging equal states.

    Args:
        measure: states with their masses.
        kernel: `kernel(chance, state)`, which returns the next state.
        max_states: most distinct next states.

    Returns:
        The next states with their masses.

    Raises:
        ValueError: what `meaning` raises, naming the state; or there are more states than `max_states`.
    """
    remembered = images(kernel)
    pushed: Measure = {}
    for state, mass in measure.items():
        try:
            image = remembered.of(state)
        except (ValueError, TypeError) as error:
            raise type(error)(f"at state {_short(state)}: {error}") from error
        for after, share in image.items():
            pushed[after] = pushed.get(after, Fraction(0)) + mass * share
        if len(pushed) > max_states:
            raise ValueError(
                f"more than max_states = {max_states} distinct states: take fewer particles, steps or values, or "
                "resample at every step, so that weights coincide"
            )
    return {state: mass for state, mass in pushed.items() if mass}


def normalise(measure: Measure) -> Measure:
    """Divide by the total mass.

    Raises:
        ValueError: the total mass is zero.
    """
    total = sum(measure.values())
    if not total:
        raise ValueError("the measure has no mass")
    return {value: mass / total for value, mass in measure.items()}


def check_valid(
    obtained: Program | Measure, expected: Program | Measure, *, subject: str = "", tolerance: float | None = None
) -> Verdict:
    """Check that a transformed program denotes the same measure as what it was made from.

    The masses are compared, not only their proportions: an algorithm that loses evidence fails.

    Args:
        obtained: the program to be checked, or its measure.
        expected: the program it should agree with, or its measure.
        subject: what is checked, for the report.
        tolerance: largest difference of masses that are floats, relative to the total mass; 1e-12 if not given.
            Fractions have to be equal.

    Returns:
        An exact verdict; its evidence is the total variation distance relative to the total expected mass.

    Raises:
        ValueError: what `meaning` raises; the expected measure has no mass.

    Source: Ścibior et al. (2018), definition of a valid inference transformation.

    >>> from fractions import Fraction as F
    >>> check_valid(lambda chance: chance.choose([F(1, 3), F(2, 3)]), {0: F(1, 3), 1: F(2, 3)}).ok
    True
    """
    first = obtained if isinstance(obtained, dict) else meaning(obtained)
    second = expected if isinstance(expected, dict) else meaning(expected)
    allowed = FLOAT_TOLERANCE if tolerance is None else tolerance
    return _compare(first, second, subject or "the measure of a program", allowed, ())


def check_invariance(
    target: Measure, kernel: Kernel | Images, *, subject: str = "", tolerance: float | None = None
) -> Verdict:
    """Check that a Markov kernel leaves a distribution invariant: pi K = pi, state by state.

    Args:
        target: states with their masses, of any total.
        kernel: `kernel(chance, state)`, which returns the next state; for a JAX function of a key see `key_kernel`.
        subject: what is checked, for the report.
        tolerance: as for `check_valid`.

    Returns:
        An exact verdict. Invariance alone does not make a sampler: a kernel that never moves has it. States that no
        other state leads to are named in the notes.

    Raises:
        ValueError: the target has negative masses or none; what `push` raises.

    >>> from fractions import Fraction as F
    >>> def flip(chance, state):  # Metropolis between two states with masses 1 and 2
    ...     return 0 if state == 1 and chance.choose([F(1, 2), F(1, 2)]) else 1
    >>> check_invariance({0: 1, 1: 2}, flip).ok
    True
    """
    before = {state: _number(mass) for state, mass in target.items()}
    if any(not mass >= 0 for mass in before.values()) or not any(before.values()):
        raise ValueError("target has to hold nonnegative masses, not all zero")
    remembered = images(kernel)
    after = push(before, remembered)
    reached = {new for state in before for new in remembered.of(state) if new != state}
    stuck = [state for state in before if state not in reached]
    rest = f", nor to {len(stuck) - 1} more states" if len(stuck) > 1 else ""
    notes = (f"no other state leads to {_short(stuck[0])}{rest}",) if stuck else ()
    allowed = remembered.tolerance() if tolerance is None else tolerance
    return _compare(after, before, subject or "invariance of a kernel", allowed, notes)


def _compare(obtained: Measure, expected: Measure, subject: str, tolerance: float, notes: tuple[str, ...]) -> Verdict:
    total = sum(expected.values())
    if not total:
        raise ValueError("the expected measure has no mass")
    values = [*expected, *(value for value in obtained if value not in expected)]
    gaps = {value: obtained.get(value, Fraction(0)) - expected.get(value, Fraction(0)) for value in values}
    if any(gap != gap for gap in gaps.values()):
        raise ValueError(f"the mass of {_short(next(v for v, gap in gaps.items() if gap != gap))} is NaN")
    is_exact = all(isinstance(gap, Fraction | int) for gap in gaps.values())
    where, gap = max(gaps.items(), key=lambda pair: abs(pair[1]))
    ok = bool(gap == 0 if is_exact else abs(gap) <= tolerance * total)
    return Verdict(
        ok=ok,
        subject=subject,
        method="exact",
        evidence=float(sum(map(abs, gaps.values())) / (2 * total)),
        n=len(values),
        counterexample=None
        if ok
        else Counterexample(
            f"mass of {_short(where)}", expected.get(where, Fraction(0)), obtained.get(where, Fraction(0))
        ),
        assumptions=("the mean measure alone is compared, not the variance around it",),
        notes=notes,
    )


def _next_path(chance: Chance) -> list[int] | None:
    """The outcomes of the next path in depth-first order, up to its first new choice; None after the last."""
    for depth in reversed(range(len(chance.outcomes))):
        probabilities = chance.alternatives[depth]
        for outcome in range(chance.outcomes[depth] + 1, len(probabilities)):
            if probabilities[outcome]:
                return [*chance.outcomes[:depth], outcome]
    return None


def _number(value: Any) -> Number:
    """A Fraction for what is exact, a float for the rest."""
    if isinstance(value, Fraction | float):
        return float(value) if isinstance(value, np.floating) else value
    if isinstance(value, int | np.integer):
        return Fraction(int(value))
    return float(value)


def _require_value(value: Any, chance: Chance) -> None:
    if _has_nan(value):
        raise ValueError(f"the result after outcomes {chance._path()} is NaN: {_short(value)}")
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"the result {_short(value)} is a {type(value).__name__}, which is not hashable: return numbers, strings "
            "or tuples of them"
        ) from None


def _has_nan(value: Any) -> bool:
    if isinstance(value, float):
        return value != value
    return isinstance(value, tuple) and any(_has_nan(part) for part in value)


def _listed(probabilities: tuple[Number, ...]) -> str:
    return "[" + ", ".join(str(p) if isinstance(p, Fraction) else f"{p:.6g}" for p in probabilities) + "]"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."
