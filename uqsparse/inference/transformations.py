"""Inference algorithms as compositions of small steps, each of which keeps the measure that its argument denotes.

A transformation takes the representation, something held in it, and returns something held in the same or another
representation. It is *valid* if the meaning stays the same. Valid steps compose, so `smc`, `resample_move_smc`, `pmmh`
and `smc2` are valid because their parts are; `checks.check_valid` proves either on finite programs, over
`Enumeration()`, and `draw` runs the same code over `Sampler()`.

`drop_weights` is the exception. It is not valid, and here to be seen to fail.

Source: Ścibior, Kammar, Vákár, Staton, Yang, Cai, Ostermann, Moss, Heunen & Ghahramani (2018), Denotational validation
of higher-order Bayesian inference; the compositions are those of Ścibior, Kammar & Ghahramani (2018), Functional
programming for modular Bayesian inference.
"""

import bisect
import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from uqsparse.inference.representations import (
    Done,
    Held,
    Lift,
    Population,
    Program,
    Representation,
    Sample,
    Score,
    Sequential,
    Steps,
    Suspend,
    Suspended,
    Trace,
    Traced,
    Traces,
    Weighted,
)

# Shares W of n particles -> the independent draws whose outcomes, joined, are the ancestors; each draw is a dictionary
# from tuples of ancestors to probabilities. Valid if ancestor j is expected n W_j times.
Resampling = Callable[[tuple, int], list[dict[tuple[int, ...], Any]]]


# Resampling schemes.


def multinomial(shares: tuple, n: int) -> list[dict[tuple[int, ...], Any]]:
    """Draw each ancestor by the shares."""
    return [{(j,): share for j, share in enumerate(shares)}] * n


def stratified(shares: tuple, n: int) -> list[dict[tuple[int, ...], Any]]:
    """Draw ancestor i by a uniform number on [i / n, (i + 1) / n), put where the shares are laid end to end."""
    edges = list(itertools.accumulate(shares, initial=Fraction(0)))

    def overlap(i, j):
        return max(min(edges[j + 1], Fraction(i + 1, n)) - max(edges[j], Fraction(i, n)), Fraction(0))

    return [{(j,): n * overlap(i, j) for j in range(len(shares))} for i in range(n)]


def systematic(shares: tuple, n: int) -> list[dict[tuple[int, ...], Any]]:
    """Use one uniform number u for all: ancestor i sits at (i + u) / n."""
    ends = [n * edge for edge in itertools.accumulate(shares)]
    # The ancestors change where some (i + u) meets an end; between two such u any point will do.
    cells = itertools.pairwise(sorted({Fraction(0), Fraction(1), *(end % 1 for end in ends)}))
    draw: dict[tuple[int, ...], Any] = {}
    for low, high in cells:
        middle = (low + high) / 2
        ancestors = tuple(min(bisect.bisect_right(ends, i + middle), len(ends) - 1) for i in range(n))
        draw[ancestors] = draw.get(ancestors, 0) + (high - low)
    return [draw]


def residual(shares: tuple, n: int) -> list[dict[tuple[int, ...], Any]]:
    """Take floor(n W_j) copies of each, and draw the rest by what is left of n W_j."""
    copies = [math.floor(n * share) for share in shares]
    n_left = n - sum(copies)
    kept = tuple(j for j, count in enumerate(copies) for _ in range(count))
    rest = [{(j,): (n * share - copies[j]) / n_left for j, share in enumerate(shares)}] if n_left else []
    return [{kept: Fraction(1)}, *rest * n_left]


# Populations.


def spawn(rep: Population, n: int) -> Held:
    """n particles () with weight 1 / n each. `rep.then(spawn(rep, n), m)` runs m in each of them.

    Valid: its meaning is that of `rep.unit(())`.
    """
    _require(rep, Population)
    _require_counts(1, n=n)
    return rep.inner.unit((((), Fraction(1, n)),) * n)


def resample(rep: Population, m: Held, scheme: Resampling = multinomial, ess_threshold: Any = None) -> Held:
    """Replace particles by copies of themselves, as many as their weights ask for on average, of equal weight.

    Args:
        rep: the representation of m.
        m: a population.
        scheme: how ancestors are drawn: `multinomial`, `stratified`, `systematic` or `residual`.
        ess_threshold: resample only if the effective sample size (sum w)^2 / sum w^2 is below this share of the
            number of particles; None resamples always.

    Returns:
        The resampled population, each weight being z / n with z the sum of the weights. Untouched if z = 0.

    Valid if `scheme` draws each ancestor n times its share on average. Natural: never looks at the values.
    """
    _require(rep, Population)
    inner = rep.inner

    def choose(particles):
        weights = [w for _, w in particles]
        n, z = len(particles), sum(weights)
        if z == 0 or (ess_threshold is not None and z * z >= ess_threshold * n * sum(w * w for w in weights)):
            return inner.unit(particles)

        def add(chosen, draw):
            outcomes, probabilities = tuple(draw), tuple(draw.values())
            return inner.map(inner.sample(probabilities), lambda i: chosen + outcomes[i])

        ancestors = inner.fold(add, (), scheme(tuple(w / z for w in weights), n))
        return inner.map(ancestors, lambda chosen: tuple((particles[j][0], z / n) for j in chosen))

    return inner.bind(m, choose)


def extract_evidence(rep: Population, m: Held) -> Held:
    """Normalise the weights and hand their sum outside: a `Population(Weighted(rep.inner))`.

    Valid. Weights that sum to zero are left as they are.
    """
    _require(rep, Population)

    def split(particles):
        z = sum(w for _, w in particles)
        return (tuple((x, w / z) for x, w in particles) if z else particles), z

    return rep.inner.map(m, split)


def push_evidence(rep: Population, m: Held) -> Held:
    """Normalise the weights and score their sum in `rep.inner`. Valid."""

    def score(pair):
        particles, z = pair
        return rep.inner.then(rep.inner.score(z), rep.inner.unit(particles))

    return rep.inner.bind(extract_evidence(rep, m), score)


def proper(rep: Population, m: Held) -> Held:
    """Draw one particle by its weight and give it the sum of the weights: a `Weighted(rep.inner)`. Valid."""
    _require(rep, Population)

    def pick(particles):
        z = sum(w for _, w in particles)
        n = len(particles)
        shares = tuple(w / z if z else Fraction(1, n) for _, w in particles)
        return rep.inner.map(rep.inner.sample(shares), lambda i: (particles[i][0], z))

    return rep.inner.bind(m, pick)


def collapse(rep: Population, m: Held) -> Held:
    """Draw one particle by its weight and score the sum of the weights: held in `rep.inner`. Valid."""

    def score(pair):
        value, z = pair
        return rep.inner.then(rep.inner.score(z), rep.inner.unit(value))

    return rep.inner.bind(proper(rep, m), score)


def drop_weights(rep: Weighted, m: Held) -> Held:
    """Forget the weights: held in `rep.inner`. NOT VALID: what is left is the prior, or the proposal."""
    _require(rep, Weighted)
    return rep.inner.map(m, lambda pair: pair[0])


# Suspended programs.


def advance(rep: Sequential, m: Held) -> Held:
    """Run to the next suspension. Valid."""
    _require(rep, Sequential)
    return rep.inner.bind(m, lambda state: rep.inner.unit(state) if isinstance(state, Done) else state.rest())


def finish(rep: Sequential, m: Held) -> Held:
    """Run to the end: held in `rep.inner`. Valid."""
    _require(rep, Sequential)

    def end(state):
        return rep.inner.unit(state.value) if isinstance(state, Done) else finish(rep, state.rest())

    return rep.inner.bind(m, end)


def hoist_first(t: Callable[[Held], Held], m: Held) -> Held:
    """Transform the stage that a `Sequential` has reached, not what comes after. Valid if t is valid and natural."""
    return t(m)


def hoist(rep: Representation, t: Callable[[Held], Held], m: Held) -> Held:
    """Transform what `rep.inner` holds, in a `Sequential` at every stage. Valid if t is valid and natural."""

    def later(state):
        if isinstance(state, Done):
            return state
        return Suspended(state.rep, (lambda _: hoist(rep, t, state.rest()),))

    if isinstance(rep, Traced):
        return Traces(m.program, lambda: t(m.sampler()))
    return rep.inner.map(t(m), later) if isinstance(rep, Sequential) else t(m)


# Traces.


def marginal(rep: Traced, m: Traces) -> Held:
    """Forget how the values came about: held in `rep.inner`. Valid."""
    _require(rep, Traced)
    return rep.inner.map(m.sampler(), lambda trace: trace.value)


def freeze(rep: Traced, m: Traces) -> Traces:
    """Fix the choices made so far: later moves keep them. Valid."""
    _require(rep, Traced)

    def fixed(request):
        return replace(request, free=False) if isinstance(request, Sample) else request

    def program():
        steps, answer = m.program(), None
        try:
            while True:
                answer = yield fixed(steps.send(answer))
        except StopIteration as stop:
            return stop.value

    def fix(trace):
        return replace(trace, choices=tuple((fixed(request), i) for request, i in trace.choices))

    return Traces(program, lambda: rep.inner.map(m.sampler(), fix))


def mh_step(rep: Traced, m: Traces, *, whole_suffix: bool = False) -> Traces:
    """One Metropolis-Hastings step on each trace: redraw a choice, run the program again, accept or stay.

    The choice is picked evenly among the free ones. Later choices keep their answers where the program asks for the
    same distribution at the same place, and are drawn afresh elsewhere. A trace without free choices stays.

    Args:
        rep: the representation of m.
        m: a program with its traces.
        whole_suffix: draw all free choices from the picked one on afresh.

    Valid: the acceptance probability min(1, w' n / (w n')), with n and n' free choices, makes the step reversible.

    Source: Ścibior et al. (2018), trace Metropolis-Hastings; Wingate, Stuhlmüller & Goodman (2011), Lightweight
    implementations of probabilistic programming languages.
    """
    _require(rep, Traced)
    inner = rep.inner
    propose = inner.remember(lambda choices, site: _propose(inner, m.program, choices, site, whole_suffix))

    def move(old):
        sites = old.free_sites()
        if not sites:
            return inner.unit(old)

        def decide(new, site):
            accept = _acceptance(old, new, site)
            return inner.map(inner.sample((accept, 1 - accept)), lambda i: (new, old)[i])

        def redraw(i):
            return inner.bind(propose(old.choices, sites[i]), lambda new: decide(new, sites[i]))

        return inner.bind(inner.sample((Fraction(1, len(sites)),) * len(sites)), redraw)

    return Traces(m.program, lambda: inner.bind(m.sampler(), move))


def _acceptance(old: Trace, new: Trace, site: int) -> Any:
    if site not in new.free_sites():  # lifted answers have led elsewhere, where there is no way back
        return Fraction(0)
    if old.weight == 0:  # such traces have no mass
        return Fraction(1)
    return min(Fraction(1), new.weight * len(old.free_sites()) / (old.weight * len(new.free_sites())))


def _propose(inner: Representation, program: Callable[[], Steps], old: tuple, site: int, whole_suffix: bool) -> Held:
    """Hold a new trace in `inner`: the program run with the old choices' answers, but for the redrawn ones."""

    def kept(position, request):
        if position == site or position >= len(old) or old[position][0] != request:
            return None
        return old[position][1] if position < site or not (whole_suffix and request.free) else None

    def run(fresh):  # the answers drawn so far; runs until another one is wanted
        steps, drawn, answer = program(), iter(fresh), None
        choices, weight = [], Fraction(1)
        try:
            while True:
                request = steps.send(answer)
                match request:
                    case Score(factor):
                        weight, answer = weight * factor, ()
                    case Suspend():
                        answer = ()
                    case Sample() if (answer := kept(len(choices), request)) is not None:
                        choices.append((request, answer))
                    case _:
                        waiting = next(drawn, drawn)
                        if waiting is drawn:
                            return inner.bind(inner.perform(request), lambda new: run((*fresh, new)))
                        answer = waiting
                        if isinstance(request, Sample):
                            choices.append((request, answer))
        except StopIteration as stop:
            return inner.unit(Trace(tuple(choices), stop.value, weight))

    return run(())


# Compositions.


def smc(
    base: Representation,
    program: Callable[[], Steps],
    *,
    n_particles: int,
    steps: int,
    scheme: Resampling = multinomial,
    ess_threshold: Any = None,
) -> Held:
    """Sequential Monte Carlo: spawn, then resample and advance `steps` times, then finish.

    Args:
        base: where randomness comes from: `Sampler()` to draw, `Enumeration()` for the exact measure.
        program: the model; it may be stopped after each of its scores.
        n_particles: size of the population.
        steps: how many times to resample and advance; one less than there are scores resamples between all of them.
        scheme: how ancestors are drawn, as for `resample`.
        ess_threshold: when to resample, as for `resample`.

    Returns:
        Held in `Population(base)`.

    Source: Ścibior et al. (2018), sequential Monte Carlo as finish . (advance . hoist resample)^k . hoist (spawn n).
    """
    _require_counts(0, steps=steps)
    population, rep = _stack(base)
    m = hoist_first(lambda a: population.then(spawn(population, n_particles), a), rep.interpret(program))
    for _ in range(steps):
        m = advance(rep, hoist_first(lambda a: resample(population, a, scheme, ess_threshold), m))
    return finish(rep, m)


def resample_move_smc(
    base: Representation,
    program: Callable[[], Steps],
    *,
    n_particles: int,
    steps: int,
    moves: int = 1,
    scheme: Resampling = multinomial,
    whole_suffix: bool = False,
) -> Held:
    """Sequential Monte Carlo with trace Metropolis-Hastings after each resampling.

    Args:
        base: as for `smc`, like the arguments that are not listed here.
        program: the model.
        n_particles: size of the population.
        steps: how many times to resample, move and advance.
        moves: Metropolis-Hastings steps each time.
        scheme: how ancestors are drawn.
        whole_suffix: as for `mh_step`.

    Returns:
        Held in `Population(base)`.

    Source: Ścibior et al. (2018), resample-move SMC; Gilks & Berzuini (2001), Following a moving target.
    """
    _require_counts(0, steps=steps, moves=moves)
    population = Population(base)
    traced = Traced(population)
    rep = Sequential(traced)

    def begin(a):
        return hoist(traced, lambda b: population.then(spawn(population, n_particles), b), a)

    def rejuvenate(a):
        a = hoist(traced, lambda b: resample(population, b, scheme), a)
        for _ in range(moves):
            a = mh_step(traced, a, whole_suffix=whole_suffix)
        return a

    m = hoist_first(begin, rep.interpret(program))
    for _ in range(steps):
        m = advance(rep, hoist_first(rejuvenate, m))
    return marginal(traced, finish(rep, m))


def filtered(
    prior: Callable[[], Steps],
    model: Callable[[Any], Steps],
    n_particles: int,
    steps: int,
    scheme: Resampling = multinomial,
) -> Steps:
    """A program: parameters from a prior, then SMC for the model, with the evidence of each stage as a score.

    The random choices of SMC are lifted: drawn anew in every run of the program, and not traced.

    Args:
        prior: a program that returns parameters.
        model: a generator function of the parameters.
        n_particles: size of the population.
        steps: how many times to resample and advance.
        scheme: how ancestors are drawn, as for `resample`.

    Returns:
        (parameters, result of the model).
    """
    parameters = yield from prior()
    program = Program(model, (parameters,))

    def stage(base, step, particles):
        population, rep = _stack(base)
        if step == 0:
            m = population.then(spawn(population, n_particles), rep.interpret(program))
        else:
            m = advance(rep, resample(population, base.unit(particles), scheme))
        return extract_evidence(population, m)

    def choose(base):
        population, rep = _stack(base)
        return proper(population, finish(rep, base.unit(particles)))

    particles = None
    for step in range(steps + 1):
        particles, evidence = yield Lift(functools.partial(stage, step=step, particles=particles))
        yield Score(evidence)
    value, remainder = yield Lift(choose)
    yield Score(remainder)
    return parameters, value


def pmmh(
    base: Representation,
    prior: Callable[[], Steps],
    model: Callable[[Any], Steps],
    *,
    n_particles: int,
    steps: int,
    moves: int = 1,
    scheme: Resampling = multinomial,
) -> Held:
    """Particle marginal Metropolis-Hastings: trace moves on the program `filtered`, started from the prior.

    Args:
        base: as for `smc`.
        prior: a program that returns parameters.
        model: a generator function of the parameters.
        n_particles: size of the population of states.
        steps: how many times to resample and advance the states.
        moves: Metropolis-Hastings steps.
        scheme: how ancestors are drawn.

    Returns:
        Held in `Weighted(base)`: (parameters, result of the model).

    Source: Andrieu, Doucet & Holenstein (2010), Particle Markov chain Monte Carlo methods, section 2.4.2.
    """
    _require_counts(0, steps=steps, moves=moves)
    rep = Traced(Weighted(base))
    m = rep.interpret(Program(filtered, (prior, model, n_particles, steps, scheme)))
    for _ in range(moves):
        m = mh_step(rep, m)
    return marginal(rep, m)


def smc2(
    base: Representation,
    prior: Callable[[], Steps],
    model: Callable[[Any], Steps],
    *,
    n_parameters: int,
    n_particles: int,
    steps: int,
    moves: int = 1,
    scheme: Resampling = multinomial,
) -> Held:
    """SMC^2: resample-move SMC on the program `filtered`, a population of parameters each with one of states.

    Args:
        base: as for `pmmh`, like the arguments that are not listed here.
        prior: a program that returns parameters.
        model: a generator function of the parameters.
        n_parameters: size of the population of parameters.
        n_particles: size of each population of states.
        steps: how many times to resample and advance the states.
        moves: Metropolis-Hastings steps after each resampling of the parameters.
        scheme: how ancestors are drawn, in both.

    Returns:
        Held in `Population(base)`: (parameters, result of the model).

    Source: Chopin, Jacob & Papaspiliopoulos (2013), SMC^2.
    """
    _require_counts(0, steps=steps)
    program = Program(filtered, (prior, model, n_particles, steps, scheme))
    return resample_move_smc(base, program, n_particles=n_parameters, steps=steps + 1, moves=moves, scheme=scheme)


def _stack(base: Representation) -> tuple[Population, Sequential]:
    return Population(base), Sequential(Population(base))


def _require(rep: Representation, kind: type[Representation]) -> None:
    if not isinstance(rep, kind):
        raise TypeError(f"rep is {rep!r}; this transformation works on a {kind.__name__}")


def _require_counts(least: int, **counts: int) -> None:
    for name, count in counts.items():
        if count < least:
            raise ValueError(f"{name} is {count}; it has to be at least {least}")
