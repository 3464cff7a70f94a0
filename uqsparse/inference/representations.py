"""Representations of probabilistic programs: what inference algorithms work on, each with the measure that it denotes.

A *program* is a generator function that yields `Sample`, `Score` and `Lift`. A *representation* T says how programs are
held: it offers return (here `unit`), `bind`, `sample`, `score`, and a `meaning` that respects all four:

    meaning(unit(x)) = one unit of mass at x          meaning(bind(m, f)) = meaning(m) >>= (meaning . f)
    meaning(sample(p)) = p on 0, 1, ...               meaning(score(w)) = w at ()

Representations stack: `Sequential(Population(Sampler()))` holds populations of suspended programs that are drawn at
random, `Sequential(Population(Enumeration()))` the exact measure over such populations. The steps of an algorithm
(`uqsparse.inference.transformations`) are written once and run in both: to draw, and to be proved right.

A suspended program is its past answers, which can be compared; so an `Enumeration` merges equal particles, traces and
populations. Weights and probabilities are Fractions (exact) or floats. This is made to be read and to check with.

Source: Ścibior, Kammar, Vákár, Staton, Yang, Cai, Ostermann, Moss, Heunen & Ghahramani (2018), Denotational validation
of higher-order Bayesian inference. A trace is a list of finite choices here, not of uniform numbers.
"""

import functools
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar, dataclass_transform

from uqsparse.inference.checks.exact import FLOAT_SUM_TOLERANCE, Measure, meaning

Held = Any  # what a representation holds: a measure, a procedure, a pair
Steps = Generator[Any, Any, Any]

_ONE = Fraction(1)
_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def _record(cls: type[_T]) -> type[_T]:
    """A frozen dataclass that computes its hash once: they nest deeply, and the hashes of Fractions are slow."""
    frozen: Any = dataclass(frozen=True)(cls)
    compute = frozen.__hash__

    def kept(self) -> int:
        if "_hash" not in self.__dict__:
            self.__dict__["_hash"] = compute(self)
        return self.__dict__["_hash"]

    frozen.__hash__ = kept
    return frozen


# Programs, and what they ask for.


@_record
class Sample:
    """Ask for a random index.

    Args:
        probabilities: of the indices 0, 1, ...; they sum to one, Fractions exactly and floats to 1e-12.
        free: whether trace moves may pick this choice to redraw; `freeze` clears it.
    """

    probabilities: tuple
    free: bool = True

    def __post_init__(self):
        object.__setattr__(self, "probabilities", tuple(self.probabilities))
        total = sum(self.probabilities)
        off = abs(total - 1) > (0 if isinstance(total, Fraction | int) else FLOAT_SUM_TOLERANCE)
        if off or total != total or any(p < 0 for p in self.probabilities):
            raise ValueError(f"Sample has probabilities {self.probabilities}; they have to be >= 0 and sum to one")


@_record
class Score:
    """Multiply the mass of this run by a finite weight >= 0. The answer is ()."""

    weight: Any

    def __post_init__(self):
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"Score has weight {self.weight}; it has to be >= 0 and finite")


@_record
class Lift:
    """Ask for the result of an action of the representation at the bottom, which is not traced and does not score.

    Args:
        action: maps the bottom representation to what it holds.
    """

    action: Callable[["Representation"], Held]


@_record
class Suspend:
    """Mark a place where `advance` stops. Every `Score` is followed by one already."""


@_record
class Program:
    """A generator function with arguments: equal if function and arguments are, so that its runs can be merged.

    >>> def two_flips(bias):
    ...     return (yield Sample((1 - bias, bias))) + (yield Sample((1 - bias, bias)))
    >>> measure = Enumeration().interpret(Program(two_flips, (Fraction(1, 4),)))
    >>> {heads: str(mass) for heads, mass in measure.items()}
    {0: '9/16', 1: '3/8', 2: '1/16'}
    """

    function: Callable[..., Steps]
    arguments: tuple = ()

    def __call__(self) -> Steps:
        return self.function(*self.arguments)


def start(program: Callable[[], Steps]) -> Steps:
    """The generator of a program.

    Raises:
        TypeError: it is none.
    """
    steps = program()
    if not isinstance(steps, Generator):
        raise TypeError(f"program returned {steps!r}; expected a generator function without (further) arguments")
    return steps


class Representation(ABC):
    """The operations of a representation; see the module for the equations that they obey."""

    @abstractmethod
    def unit(self, value: Any) -> Held:
        """The program that returns a value."""

    @abstractmethod
    def bind(self, m: Held, f: Callable[[Any], Held]) -> Held:
        """The program that runs m, then f of its result."""

    @abstractmethod
    def sample(self, probabilities: tuple) -> Held:
        """The program that returns a random index."""

    @abstractmethod
    def score(self, weight: Any) -> Held:
        """The program that has a weight and returns ()."""

    @abstractmethod
    def lift(self, action: Callable[["Representation"], Held]) -> Held:
        """The program that runs an action of the representation at the bottom."""

    @abstractmethod
    def meaning(self, m: Held) -> Measure:
        """The measure that m denotes: results with their masses."""

    def suspend(self) -> Held:
        """The program that returns () and, where that means something, may be stopped here."""
        return self.unit(())

    def map(self, m: Held, f: Callable[[Any], Any]) -> Held:
        """Apply a function to the result."""
        return self.bind(m, lambda value: self.unit(f(value)))

    def then(self, first: Held, second: Held) -> Held:
        """Run two programs and return what the second returns."""
        return self.bind(first, lambda _: second)

    def fold(self, step: Callable[[Any, Any], Held], state: Any, items: Iterable) -> Held:
        """Run `state <- step(state, item)` for one item after the other."""
        return functools.reduce(lambda m, item: self.bind(m, lambda now: step(now, item)), items, self.unit(state))

    def remember(self, f: Callable) -> Callable:
        """The same function, with its values kept where that saves work."""
        return f

    def interpret(self, program: Callable[[], Steps]) -> Held:
        """Hold a program: the one map from programs that respects all operations."""
        return _After(self, program, ())._go_on()

    def perform(self, request: Any) -> Held:
        """Hold the program that makes a single request and returns its answer."""
        match request:
            case Sample(probabilities):
                return self.sample(probabilities)
            case Score(weight):
                return self.score(weight)
            case Lift(action):
                return self.lift(action)
            case Suspend():
                return self.suspend()
        raise TypeError(f"the program yielded {request!r}; expected Sample, Score, Lift or Suspend")


@_record
class _After:
    """The rest of a program after some answers. Generators cannot be copied, so it is run anew from its start."""

    rep: Representation
    program: Callable[[], Steps]
    answers: tuple

    def __call__(self, answer: Any) -> Held:
        return _After(self.rep, self.program, (*self.answers, answer))._go_on()

    def _go_on(self) -> Held:
        steps = start(self.program)
        try:
            request = next(steps)
            for answer in self.answers:
                request = steps.send(answer)
        except StopIteration as stop:
            return self.rep.unit(stop.value)
        return self.rep.bind(self.rep.perform(request), self)


# Two representations for the bottom.


@dataclass(frozen=True)
class Sampler(Representation):
    """A procedure that draws: a function of a `Chance` (see `checks.exact`). Meaning: the law of its result."""

    def unit(self, value):
        return lambda chance: value

    def bind(self, m, f):
        return lambda chance: f(m(chance))(chance)

    def sample(self, probabilities):
        return lambda chance: chance.choose(probabilities)

    def score(self, weight):
        return lambda chance: chance.score(weight) or ()

    def lift(self, action):
        return action(self)

    def meaning(self, m):
        return meaning(m)

    def fold(self, step, state, items):
        def run(chance):  # a loop where binds would nest
            return functools.reduce(lambda now, item: step(now, item)(chance), items, state)

        return run

    def interpret(self, program):
        def run(chance):  # a single run needs no copies of the generator
            steps, answer = start(program), None
            try:
                while True:
                    answer = self.perform(steps.send(answer))(chance)
            except StopIteration as stop:
                return stop.value

        return run


@dataclass(frozen=True)
class Enumeration(Representation):
    """The finite measure itself: a dictionary from results to masses, in which equal results are merged at every bind.

    Args:
        max_states: most distinct results at any point.
    """

    max_states: int = 100_000

    def unit(self, value):
        return {value: _ONE}

    def bind(self, m, f):
        total: Measure = {}
        for value, mass in m.items():
            for after, share in f(value).items():
                total[after] = total.get(after, 0) + mass * share
            if len(total) > self.max_states:
                raise ValueError(f"more than max_states = {self.max_states} states: take fewer particles or steps")
        return total

    def sample(self, probabilities):
        return {i: p * _ONE for i, p in enumerate(probabilities) if p}

    def score(self, weight):
        return {(): weight * _ONE} if weight else {}

    def lift(self, action):
        return action(self)

    def meaning(self, m):
        return m

    def remember(self, f):
        return functools.cache(f)


# Representations on top of others: what they hold, `inner` holds, with richer results.


@dataclass(frozen=True)
class _Transformer(Representation):
    inner: Representation

    @abstractmethod
    def up(self, m: Held) -> Held:
        """Hold here what `inner` holds (lift : T -> FT)."""

    def sample(self, probabilities):
        return self.up(self.inner.sample(probabilities))

    def lift(self, action):
        return self.up(self.inner.lift(action))

    def remember(self, f):
        return self.inner.remember(f)


class Weighted(_Transformer):
    """T of pairs (result, weight). Meaning: each pair puts its weight at its result."""

    def up(self, m):
        return self.inner.map(m, lambda x: (x, _ONE))

    def unit(self, value):
        return self.inner.unit((value, _ONE))

    def bind(self, m, f):
        def go_on(pair):
            return self.inner.map(f(pair[0]), lambda after: (after[0], pair[1] * after[1]))

        return self.inner.bind(m, go_on)

    def score(self, weight):
        return self.inner.unit(((), weight * _ONE))

    def meaning(self, m):
        return _sum((x, mass * w) for (x, w), mass in self.inner.meaning(m).items())


class Population(_Transformer):
    """T of tuples of particles (result, weight). Meaning: each particle puts its weight at its result."""

    def up(self, m):
        return self.inner.map(m, lambda x: ((x, _ONE),))

    def unit(self, value):
        return self.inner.unit(((value, _ONE),))

    def bind(self, m, f):
        image = self.remember(f)

        def move(moved, particle):  # one particle at a time, so that equal halves of populations are merged
            x, w = particle
            return self.inner.map(image(x), lambda new: (*moved, *((y, w * v) for y, v in new)))

        return self.inner.bind(m, lambda particles: self.inner.fold(move, (), particles))

    def score(self, weight):
        return self.inner.unit((((), weight * _ONE),))

    def meaning(self, m):
        populations = self.inner.meaning(m).items()
        return _sum((x, mass * w) for particles, mass in populations for x, w in particles)


@_record
class Done:
    """A program that has ended with a value."""

    value: Any


@_record
class Suspended:
    """A program that has stopped.

    Args:
        rep: the `Sequential` that holds it.
        continuations: what is left to do: the first is given (), each later one the result of the one before.
    """

    rep: "Sequential"
    continuations: tuple[Callable[[Any], Held], ...] = ()

    def rest(self) -> Held:
        """Hold the remainder."""
        return functools.reduce(self.rep.bind, self.continuations, self.rep.unit(()))


class Sequential(_Transformer):
    """T of programs that have ended (`Done`) or stopped (`Suspended`). Meaning: that of running them all to the end."""

    def up(self, m):
        return self.inner.map(m, Done)

    def unit(self, value):
        return self.inner.unit(Done(value))

    def bind(self, m, f):
        def go_on(state):
            return f(state.value) if isinstance(state, Done) else self._stop(*state.continuations, f)

        return self.inner.bind(m, go_on)

    def score(self, weight):
        return self.inner.then(self.inner.score(weight), self.suspend())

    def suspend(self):
        return self._stop()

    def meaning(self, m):
        def to_the_end(state):
            return {state.value: _ONE} if isinstance(state, Done) else self.meaning(state.rest())

        states = self.inner.meaning(m).items()
        return _sum((x, mass * share) for state, mass in states for x, share in to_the_end(state).items())

    def _stop(self, *continuations: Callable[[Any], Held]) -> Held:
        return self.inner.unit(Suspended(self, continuations))


@_record
class Trace:
    """A run of a program.

    Args:
        choices: each `Sample` that it asked for, with its answer. Answers to `Lift` are not recorded.
        value: what it returned.
        weight: the product of its scores.
    """

    choices: tuple[tuple[Sample, int], ...]
    value: Any
    weight: Any = _ONE

    def free_sites(self) -> list[int]:
        """Positions of the choices that moves may redraw."""
        return [position for position, (request, _) in enumerate(self.choices) if request.free]


@dataclass(frozen=True)
class Traces:
    """What `Traced` holds.

    Args:
        program: asks for the choices of a trace, in their order.
        sampler: makes T of traces of it. A function: where a program is only replayed, its traces are not wanted.
    """

    program: Callable[[], Steps]
    sampler: Callable[[], Held]


class Traced(_Transformer):
    """A program with T of traces of it. Meaning: that of the traces' values.

    Invariant: the traces have density `weight` with respect to the choices being drawn afresh.
    """

    def up(self, m):
        raise TypeError("Traced cannot hold a program that it cannot replay: use lift, with an action")

    def unit(self, value):
        return Traces(lambda: _returns(value), lambda: self.inner.unit(Trace((), value)))

    def bind(self, m, f):
        def program():
            return (yield from f((yield from m.program())).program())

        def extend(t):
            return self.inner.map(
                f(t.value).sampler(),
                lambda after: Trace(t.choices + after.choices, after.value, t.weight * after.weight),
            )

        return Traces(program, lambda: self.inner.bind(m.sampler(), extend))

    def sample(self, probabilities):
        request = Sample(probabilities)
        return self._single(request, lambda i: Trace(((request, i),), i))

    def score(self, weight):
        return self._single(Score(weight), lambda _: Trace((), (), weight * _ONE))

    def lift(self, action):
        return self._single(Lift(action), lambda value: Trace((), value))

    def meaning(self, m):
        return _sum((t.value, mass) for t, mass in self.inner.meaning(m.sampler()).items())

    def _single(self, request: Any, trace: Callable[[Any], Trace]) -> Traces:
        return Traces(lambda: _asks(request), lambda: self.inner.map(self.inner.perform(request), trace))


def draw(procedure: Callable, rng: random.Random) -> Any:
    """Run what a `Sampler` holds once, at random.

    Args:
        procedure: held in `Sampler()`, as by `Sampler().interpret(program)` or `smc(Sampler(), ...)`.
        rng: Python's generator; in the same state it leads to the same result.

    Returns:
        Its result.

    Raises:
        TypeError: the procedure scores. Hold the program in `Weighted(Sampler())` or in a population.

    >>> draw(Sampler().sample((0, 1)), random.Random(0))
    1
    """
    return procedure(_Dice(rng))


class _Dice:
    """A `Chance` that draws."""

    def __init__(self, rng: random.Random):
        self._rng = rng

    def choose(self, probabilities: tuple) -> int:
        return self._rng.choices(range(len(probabilities)), [float(p) for p in probabilities])[0]

    def score(self, weight: Any) -> None:
        raise TypeError(f"a score of {weight} reached the sampler, which cannot weigh: hold the program in Weighted")


def _returns(value: Any) -> Steps:
    return value
    yield


def _asks(request: Any) -> Steps:
    return (yield request)


def _sum(masses: Iterable[tuple[Any, Any]]) -> Measure:
    total: Measure = {}
    for value, mass in masses:
        total[value] = total.get(value, 0) + mass
    return {value: mass for value, mass in total.items() if mass}
