"""Monte Carlo algorithms on finite spaces, in exact arithmetic, each short enough to be read against its textbook.

They are what the exact checker is measured with: right as they stand, and wrong after the change of a line. What
`uqsparse.inference.transformations` has is taken from there; here stand models, moves and algorithms that keep a state
of their own: these are kernels, which take their randomness from a `Chance`. Numbers are Fractions.

Throughout, `chain` and `data` are a model and its observations, `n` is the number of particles, `scheme` one of the
resampling schemes of `transformations`, `chance` the source of randomness, and `proposal` maps a value to the law from
which a move draws the next one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

from uqsparse.inference.checks.exact import Chance, Measure, meaning, push
from uqsparse.inference.representations import Enumeration, Population, Program, Sample, Score, Steps
from uqsparse.inference.transformations import Resampling, multinomial, proper, resample, smc, spawn

F = Fraction
Density = Callable[[Any], Fraction]
Proposal = Callable[[Any], dict[Any, Fraction]]
POPULATION = Population(Enumeration())


def draw(chance: Chance, masses: dict[Any, Any]) -> Any:
    """One of the values, with probabilities proportional to their masses."""
    total = sum(masses.values())
    shares = masses.values() if total == 1 else [mass / total for mass in masses.values()]
    return tuple(masses)[chance.choose(shares)]


def metropolis(chance: Chance, here: Any, density: Density, proposal: Proposal) -> Any:
    """One Metropolis-Hastings step (Hastings 1970) from `here`; `proposal` maps a value to the law of the next."""
    options = proposal(here)
    ratios = {there: density(there) * proposal(there)[here] / (density(here) * options[there]) for there in options}
    there = draw(chance, options)
    accepted = min(F(1), ratios[there])
    return there if chance.choose([1 - accepted, accepted]) else here


# Models.


@dataclass(frozen=True)
class Chain:
    """A hidden Markov chain: `first[x]`, `moves[x][x']` and `emits[x][y]` are probabilities."""

    first: tuple[Fraction, ...]
    moves: tuple[tuple[Fraction, ...], ...]
    emits: tuple[tuple[Fraction, ...], ...]

    def after(self, path: tuple[int, ...]) -> tuple[Fraction, ...]:
        """Law of the state after a path."""
        return self.moves[path[-1]] if path else self.first

    def joint(self, path: tuple[int, ...], data: Sequence[int]) -> Fraction:
        """Mass of a path together with as many observations as it is long."""
        mass = F(1)
        for t, x in enumerate(path):
            mass *= self.after(path[:t])[x] * self.emits[x][data[t]]
        return mass


def smoothing_measure(chain: Chain, data: Sequence[int]) -> Measure:
    """All paths with their joint masses, which sum to the evidence: what a filter should denote."""
    paths: list[tuple[int, ...]] = [()]
    for _ in data:
        paths = [(*path, x) for path in paths for x in range(len(chain.first))]
    return {path: chain.joint(path, data) for path in paths}


def chain_program(chain: Chain, data: Sequence[int]) -> Steps:
    """The path of a chain, weighed by its emissions."""
    path = ()
    for y in data:
        x = yield Sample(chain.after(path))
        path = (*path, x)
        yield Score(chain.emits[x][y])
    return path


def guided_program(chain: Chain, data: Sequence[int], guides: tuple[tuple[Fraction, ...], ...]) -> Steps:
    """The same measure, with states drawn from `guides[y]` and weighed by the ratio of the laws."""
    path = ()
    for y in data:
        x = yield Sample(guides[y])
        correction = chain.after(path)[x] / guides[y][x]
        path = (*path, x)
        yield Score(correction * chain.emits[x][y])
    return path


def runs_program(heads: Fraction, scores: tuple[Fraction, ...]) -> Steps:
    """Flip until heads, at most len(scores) times; the number of flips, weighed by its score."""
    n = 0
    while n < len(scores):
        n += 1
        if (yield Sample((1 - heads, heads))):
            break
    yield Score(scores[n - 1])
    return n


# Filters.


def resample_move_filter(
    chain: Chain, data: Sequence[int], n: int, proposal: Proposal, scheme: Resampling = multinomial
) -> Any:
    """A particle filter that moves the last state of each path after resampling, held in `POPULATION`.

    Source: Gilks & Berzuini (2001), Following a moving target: Monte Carlo inference for dynamic Bayesian models.
    """
    m = spawn(POPULATION, n)
    for t in range(len(data)):
        m = POPULATION.bind(m, lambda path, t=t: POPULATION.interpret(Program(_extended, (path, data[t], chain))))
        m = resample(POPULATION, m, scheme)
        m = POPULATION.bind(m, partial(_moved_path, chain=chain, data=data[: t + 1], proposal=proposal))
    return m


def _extended(path: tuple, y: int, chain: Chain) -> Steps:
    x = yield Sample(chain.after(path))
    yield Score(chain.emits[x][y])
    return (*path, x)


def _moved_path(path: tuple, chain: Chain, data: Sequence[int], proposal: Proposal) -> Any:
    def density(x: int) -> Fraction:
        return chain.joint((*path[:-1], x), data)

    return POPULATION.up(meaning(lambda c: (*path[:-1], metropolis(c, path[-1], density, proposal))))


def weighted_filter(chain: Chain, data: Sequence[int], n: int, ess_below: Any, scheme: Resampling) -> Measure:
    """A particle filter with normalised weights, whose evidence is scored as it comes.

    It resamples when the effective sample size, in [1, n], is below `ess_below`.

    Returns:
        The laws of populations of (path, normalised weight).

    Source: Del Moral, Doucet & Jasra (2006), eq. 14 (the evidence with weights that are not equal).
    """

    def extend(chance: Chance, particles: tuple, i: int) -> tuple:
        path, weight = particles[i]
        return (*particles[:i], ((*path, chance.choose(chain.after(path))), weight), *particles[i + 1 :])

    def weigh(chance: Chance, particles: tuple, y: int) -> tuple:
        increments = [chain.emits[path[-1]][y] for path, _ in particles]
        weights = [weight * new for (_, weight), new in zip(particles, increments, strict=True)]
        evidence = sum(weights)
        chance.score(evidence)
        shares = [weight / sum(weights) for weight in weights]
        paths = [path for path, _ in particles]
        if _ess(shares) < ess_below:
            paths = [paths[a] for a in _ancestors(chance, shares, n, scheme)]
            shares = [F(1, n)] * n
        return tuple(zip(paths, shares, strict=True))

    populations: Measure = {(((), F(1, n)),) * n: F(1)}
    for y in data:
        for i in range(n):
            populations = push(populations, partial(extend, i=i))
        populations = push(populations, partial(weigh, y=y))
    return populations


def _ess(weights: Sequence[Fraction]) -> Fraction:
    total = sum(weights, F(0))
    return total * total / sum((weight * weight for weight in weights), F(0))


def _ancestors(chance: Chance, shares: Sequence[Fraction], n: int, scheme: Resampling) -> tuple[int, ...]:
    return sum((draw(chance, outcomes) for outcomes in scheme(tuple(shares), n)), ())


# Particle Markov chain Monte Carlo.


def conditional_multinomial(chance: Chance, shares: Sequence[Fraction]) -> tuple[int, ...]:
    """Independent ancestors, given that slot 0 comes from particle 0."""
    return (0, *(chance.choose(shares) for _ in shares[1:]))


def conditional_systematic(chance: Chance, shares: Sequence[Fraction]) -> tuple[int, ...]:
    """Systematic resampling on a circle, given that slot 0 comes from particle 0 (after Chopin & Singh 2015).

    Slot i looks at position + i/n, modulo one. Without the condition the position is uniform on [0, 1), and a rotation
    of particles or slots changes nothing; under the condition it is uniform on the part of particle 0.
    """
    n = len(shares)
    ends = [sum(shares[: i + 1], F(0)) for i in range(n)]
    breaks = [(end - F(i, n)) % 1 for end in ends for i in range(n)]
    position = shares[0] * chance.uniform(point / shares[0] for point in breaks)
    return tuple(next(j for j, end in enumerate(ends) if (position + F(i, n)) % 1 < end) for i in range(n))


def conditional_smc(
    chance: Chance,
    reference: tuple,
    chain: Chain,
    data: Sequence[int],
    n: int,
    ancestors: Callable[[Chance, Sequence[Fraction]], tuple[int, ...]] = conditional_multinomial,
) -> tuple:
    """One step of a particle Gibbs sampler for paths; particle 0 follows the reference.

    Source: Andrieu, Doucet & Holenstein (2010), Particle Markov chain Monte Carlo methods, section 2.4.
    """
    paths: list[tuple] = [()] * n
    shares: list[Fraction] = []
    for t, y in enumerate(data):
        parents = [paths[a] for a in ancestors(chance, shares)] if t else paths
        free = [(*parent, chance.choose(chain.after(parent))) for parent in parents[1:]]
        paths = [reference[: t + 1], *free]
        weights = [chain.emits[path[-1]][y] for path in paths]
        shares = [weight / sum(weights) for weight in weights]
    return paths[chance.choose(shares)]


@dataclass(frozen=True)
class Parameters:
    """A finite parameter: prior masses, a proposal law for each value, and for each the law of (estimate, path)."""

    prior: tuple[Fraction, ...]
    proposal: tuple[dict[int, Fraction], ...]
    filters: tuple[Measure, ...]


def filter_output(chain: Chain, data: Sequence[int], n: int) -> Measure:
    """Law of a filter's evidence estimate, together with a path drawn in proportion to the weights."""
    particles = smc(Enumeration(), Program(chain_program, (chain, data)), n_particles=n, steps=len(data) - 1)
    return {(estimate, path): mass for (path, estimate), mass in proper(POPULATION, particles).items()}


def pmmh_target(parameters: Parameters) -> Measure:
    """The extended target: (parameter, estimate, path) with mass prior x law of the filter x estimate."""
    return {
        (theta, estimate, path): mass * share * estimate
        for theta, mass in enumerate(parameters.prior)
        for (estimate, path), share in parameters.filters[theta].items()
    }


def pmmh_step(chance: Chance, state: tuple, parameters: Parameters) -> tuple:
    """One particle marginal Metropolis-Hastings step (Andrieu, Doucet & Holenstein 2010, section 2.4.2)."""
    theta, estimate, _ = state
    prior, proposal = parameters.prior, parameters.proposal
    new = draw(chance, proposal[theta])
    new_estimate, new_path = draw(chance, parameters.filters[new])
    ratio = new_estimate / estimate
    ratio *= prior[new] / prior[theta]
    ratio *= proposal[new][theta] / proposal[theta][new]
    accepted = min(F(1), ratio)
    return (new, new_estimate, new_path) if chance.choose([1 - accepted, accepted]) else state


# Tempering.


@dataclass(frozen=True)
class Tempered:
    """Points with prior masses and the likelihood's root; `root ** k` is the likelihood at temperature k."""

    prior: tuple[Fraction, ...]
    root: tuple[Fraction, ...]

    def density(self, x: int, power: int) -> Fraction:
        """Mass of a point at a temperature, not normalised."""
        return self.prior[x] * self.root[x] ** power


def tempered_smc(problem: Tempered, ladder: Sequence[int], n: int, scheme: Resampling, proposal: Proposal) -> Measure:
    """Laws of a population at the end of a fixed ladder of powers, which increase from above 0; evidence is scored.

    Source: Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers, section 3.3.2.3.
    """
    clouds = _prior_points(problem, n)
    stages = list(zip((0, *ladder[:-1]), ladder, strict=True))
    for before, after in stages:
        clouds = push(clouds, partial(_reweighed, problem=problem, step=after - before, n=n, scheme=scheme))
        density = partial(problem.density, power=after)
        for i in range(n):
            clouds = push(clouds, partial(_moved_point, i=i, density=density, proposal=proposal))
    return push(clouds, _equal_weights)


def waste_free_smc(
    problem: Tempered, ladder: Sequence[int], n_chains: int, length: int, scheme: Resampling, proposal: Proposal
) -> Measure:
    """As `tempered_smc`, but all states of `n_chains` chains of `length` are kept as points.

    Source: Dau & Chopin (2022), Waste-free sequential Monte Carlo, algorithm 2.
    """
    clouds = _prior_points(problem, n_chains * length)
    for before, after in zip((0, *ladder[:-1]), ladder, strict=True):
        step = after - before
        clouds = push(clouds, partial(_reweighed, problem=problem, step=step, n=n_chains, scheme=scheme))
        density = partial(problem.density, power=after)
        for _ in range(n_chains * (length - 1)):
            # The chains grow in turn: the last state of the one whose turn it is stands n_chains places back.
            clouds = push(clouds, lambda c, x, at=density: (*x, metropolis(c, x[-n_chains], at, proposal)))
    return push(clouds, _equal_weights)


def adaptive_smc(
    problem: Tempered, last: int, n: int, scheme: Resampling, proposal: Proposal, ess_at_least: Any
) -> Measure:
    """As `tempered_smc`, but each step is the longest that keeps the effective sample size: biased.

    The ladder goes up to the power `last`. A step of one is taken if no step keeps `ess_at_least`.

    Source: Jasra, Stephens, Doucet & Tsagaris (2011) for the rule; Beskos, Jasra, Kantas & Thiery (2016) show that the
    bias vanishes as n grows.
    """

    def advance(chance: Chance, state: tuple) -> tuple:
        power, cloud = state
        steps = range(last - power, 0, -1)
        kept = (step for step in steps if _ess([problem.root[x] ** step for x in cloud]) >= ess_at_least)
        step = next(kept, min(steps, default=0))
        return power + step, _reweighed(chance, cloud, problem, step, n, scheme)

    def move(chance: Chance, state: tuple, i: int) -> tuple:
        power, cloud = state
        return power, _moved_point(chance, cloud, i, partial(problem.density, power=power), proposal)

    states = {(0, cloud): mass for cloud, mass in _prior_points(problem, n).items()}
    for _ in range(last):
        states = push(states, advance)
        for i in range(n):
            states = push(states, partial(move, i=i))
    return push(states, lambda chance, state: _equal_weights(chance, state[1]))


def _prior_points(problem: Tempered, n: int) -> Measure:
    clouds: Measure = {(): F(1)}
    for _ in range(n):
        clouds = push(clouds, lambda chance, cloud: (*cloud, chance.choose(problem.prior)))
    return clouds


def _reweighed(
    chance: Chance, cloud: tuple, problem: Tempered, step: int, n: int, scheme: Resampling
) -> tuple[int, ...]:
    weights = [problem.root[x] ** step for x in cloud]
    total = sum(weights)
    chance.score(total / len(cloud))
    return tuple(cloud[a] for a in _ancestors(chance, [weight / total for weight in weights], n, scheme))


def _moved_point(chance: Chance, cloud: tuple, i: int, density: Density, proposal: Proposal) -> tuple:
    return (*cloud[:i], metropolis(chance, cloud[i], density, proposal), *cloud[i + 1 :])


def _equal_weights(chance: Chance, cloud: tuple) -> tuple:
    return tuple((x, F(1, len(cloud))) for x in cloud)
