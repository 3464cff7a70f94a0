"""Inference that proves itself: a sampler is put together from parts, proved right, and then broken on purpose.

A machine is in order or worn, wears out over time, and is heard once a day. Sequential Monte Carlo for its states is
written down as a composition of small steps. Over `Enumeration` the same lines compute the exact measure that they
denote, in fractions, and `check_valid` compares it with the model's. Over `Sampler` they draw.
"""

import random
from fractions import Fraction

from uqsparse.inference.checks import check_valid
from uqsparse.inference.representations import Enumeration, Population, Sample, Sampler, Score, Sequential, draw
from uqsparse.inference.transformations import advance, finish, hoist_first, resample, spawn, systematic

F = Fraction
WEARS_OUT = ((F(4, 5), F(1, 5)), (F(0), F(1)))  # from in order (0), from worn (1)
SOUNDS = ((F(9, 10), F(1, 10)), (F(1, 3), F(2, 3)))  # quiet, loud
HEARD = (0, 1, 0)


def machine():
    """The model: an ordinary generator that asks for random choices and scores what was heard."""
    states = (0,)
    for sound in HEARD:
        states += ((yield Sample(WEARS_OUT[states[-1]])),)
        yield Score(SOUNDS[states[-1]][sound])
    return states[1:]


def particle_filter(base, resample_particles, n_particles=2):
    """Sequential Monte Carlo from its parts, over any source of randomness."""
    population = Population(base)
    suspended = Sequential(population)
    held = hoist_first(lambda a: population.then(spawn(population, n_particles), a), suspended.interpret(machine))
    for _ in HEARD[1:]:
        held = advance(suspended, hoist_first(lambda a: resample_particles(population, a), held))
    return finish(suspended, held)


def right(population, held):
    return resample(population, held, systematic)


def wrong(population, held):
    """Starts every generation with weights 1/n: the evidence so far is lost."""

    def even(particles):
        return tuple((state, F(1, len(particles))) for state, _ in particles)

    return population.inner.map(resample(population, held, systematic), even)


def main() -> None:
    exact = Enumeration()
    model = exact.interpret(machine)
    print("the model's measure over states of three days, its total the evidence")
    for states, mass in sorted(model.items()):
        print(f"  {states}: {mass}")

    population = Population(exact)
    for name, resampling in (("systematic resampling", right), ("systematic resampling, weights 1/n", wrong)):
        held = particle_filter(exact, resampling)
        print(check_valid(population.meaning(held), model, subject=f"a filter of two particles, {name}"))

    particles = draw(particle_filter(Sampler(), right, n_particles=100), random.Random(0))
    total = sum(weight for _, weight in particles)
    worn = sum(weight for states, weight in particles if states[-1]) / total
    print("the same lines, drawn with 100 particles")
    print(f"  evidence {float(total):.3f} (exactly {float(sum(model.values())):.3f})")
    print(f"  probability of being worn on the last day {float(worn):.3f} (exactly {_worn(model):.3f})")


def _worn(model):
    return float(sum(mass for states, mass in model.items() if states[-1]) / sum(model.values()))


if __name__ == "__main__":
    main()
