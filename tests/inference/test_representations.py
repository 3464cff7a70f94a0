"""Representations: their meanings respect return, bind, sample, score and lift, on random programs and exactly."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.inference.representations import (
    Enumeration,
    Lift,
    Population,
    Program,
    Sample,
    Sampler,
    Score,
    Sequential,
    Suspend,
    Trace,
    Traced,
    Weighted,
    draw,
)
from uqsparse.inference.transformations import (
    advance,
    hoist,
    hoist_first,
    mh_step,
    resample,
    smc,
    spawn,
)

F = Fraction
E = Enumeration()

STACKS = {
    "sampler": Sampler(),
    "enumeration": E,
    "weighted": Weighted(E),
    "weighted sampler": Weighted(Sampler()),
    "population": Population(E),
    "population of samplers": Population(Sampler()),
    "weighted populations": Population(Weighted(E)),
    "population of weighted": Weighted(Population(E)),
    "sequential": Sequential(E),
    "sequential population": Sequential(Population(E)),
    "twice sequential": Sequential(Sequential(E)),
    "traced": Traced(E),
    "traced weighted": Traced(Weighted(E)),
    "traced population": Traced(Population(E)),
    "sequential traced population": Sequential(Traced(Population(E))),
    "sequential traced sampler": Sequential(Traced(Weighted(Sampler()))),
}
every_stack = pytest.mark.parametrize("rep", STACKS.values(), ids=STACKS.keys())


# Random programs, as trees; their measures by walking the tree, with no code of ours.

weights = st.fractions(min_value=0, max_value=2, max_denominator=3)


@st.composite
def probabilities(draw_):
    shares = draw_(st.lists(st.integers(0, 3), min_size=1, max_size=3).filter(any))
    return tuple(F(share, sum(shares)) for share in shares)


def trees(depth=3, lifts=True):
    leaf = st.tuples(st.just("return"), st.integers(0, 2))
    if depth == 0:
        return leaf
    below = trees(depth - 1, lifts)
    choice = probabilities().flatmap(
        lambda p: st.tuples(
            st.just("sample"), st.just(p), st.tuples(*[below] * len(p)), st.booleans() if lifts else st.just(False)
        )
    )
    return st.one_of(leaf, choice, st.tuples(st.just("score"), weights, below))


def run(tree):
    while tree[0] != "return":
        if tree[0] == "score":
            yield Score(tree[1])
            tree = tree[2]
        else:
            _, p, below, is_lifted = tree
            tree = below[(yield Lift(lambda base, p=p: base.sample(p)) if is_lifted else Sample(p))]
    return tree[1]


def walk(tree):
    if tree[0] == "return":
        return {tree[1]: F(1)}
    if tree[0] == "score":
        return combine([(tree[1], walk(tree[2]))])
    return combine(zip(tree[1], map(walk, tree[2]), strict=True))


def combine(parts):
    total = {}
    for share, measure in parts:
        for value, mass in measure.items():
            total[value] = total.get(value, 0) + share * mass
    return {value: mass for value, mass in total.items() if mass}


@every_stack
@given(tree=trees())
def test_every_representation_of_a_program_denotes_its_measure(rep, tree):
    assert rep.meaning(rep.interpret(Program(run, (tree,)))) == walk(tree)


@every_stack
@given(first=trees(2), then=st.tuples(trees(2), trees(2), trees(2)))
@settings(max_examples=15)
def test_meaning_respects_bind(rep, first, then):
    held = rep.bind(rep.interpret(Program(run, (first,))), lambda x: rep.interpret(Program(run, (then[x],))))
    assert rep.meaning(held) == combine((mass, walk(then[x])) for x, mass in walk(first).items())


@every_stack
@given(p=probabilities(), w=weights, x=st.integers())
@settings(max_examples=5)
def test_meaning_respects_return_sample_score_and_lift(rep, p, w, x):
    law = {i: share for i, share in enumerate(p) if share}
    assert rep.meaning(rep.unit(x)) == {x: 1}
    assert rep.meaning(rep.sample(p)) == law
    assert rep.meaning(rep.lift(lambda base: base.sample(p))) == law
    assert rep.meaning(rep.score(w)) == ({(): w} if w else {})
    assert rep.meaning(rep.suspend()) == {(): 1}
    assert rep.meaning(rep.map(rep.sample(p), lambda i: i % 2)) == combine([(s, {i % 2: F(1)}) for i, s in law.items()])
    assert rep.meaning(rep.fold(lambda sum_, i: rep.unit(sum_ + i), 0, (1, 2, 3))) == {6: 1}


@pytest.mark.parametrize("inner", [E, Weighted(E), Sampler()], ids=["enumeration", "weighted", "sampler"])
@given(first=trees(1), then=st.tuples(trees(1), trees(1), trees(1)))
@settings(max_examples=15)
def test_meaning_respects_bind_after_particles_were_spawned_and_resampled(inner, first, then):
    rep = Population(inner)
    start = resample(rep, rep.then(spawn(rep, 2), rep.interpret(Program(run, (first,)))))
    held = rep.bind(start, lambda x: rep.interpret(Program(run, (then[x],))))
    assert rep.meaning(held) == combine((mass, walk(then[x])) for x, mass in walk(first).items())


@given(first=trees(2), then=st.tuples(trees(1), trees(1), trees(1)))
def test_what_comes_after_a_suspended_resampled_and_moved_program_is_bound_to_it(first, then):
    population = Population(E)
    traced = Traced(population)
    rep = Sequential(traced)

    def start(a):
        return mh_step(traced, hoist(traced, lambda b: population.then(spawn(population, 2), b), a))

    held = advance(rep, hoist_first(start, rep.interpret(Program(run, (first,)))))
    bound = rep.bind(held, lambda x: rep.interpret(Program(run, (then[x],))))
    assert rep.meaning(bound) == combine((mass, walk(then[x])) for x, mass in walk(first).items())


@given(tree=trees(lifts=False))
def test_traces_have_their_weight_as_density(tree):
    held = Traced(E).interpret(Program(run, (tree,)))
    for trace, mass in held.sampler().items():
        assert mass == trace.weight * math.prod(request.probabilities[i] for request, i in trace.choices)
        assert _replay(held.program(), [i for _, i in trace.choices]) == (trace.value, trace.weight)


def _replay(steps, answers):
    weight, answer, answers = F(1), None, iter(answers)
    try:
        while True:
            request = steps.send(answer)
            weight *= getattr(request, "weight", 1)
            answer = next(answers) if isinstance(request, Sample) else ()
    except StopIteration as stop:
        return stop.value, weight


def flips(n):
    heads = 0
    for _ in range(n):
        heads += yield Sample((F(1, 2), F(1, 2)))
        yield Score(F(1 + heads, 2 + n))
    return heads


def test_a_random_run_and_the_exact_measure_are_the_same_code():
    """The law of whole weighted populations, not only their mean, by replay of the procedure and by merging."""
    arguments = {"n_particles": 2, "steps": 1}
    program = Program(flips, (2,))
    assert Sampler().meaning(smc(Sampler(), program, **arguments)) == smc(E, program, **arguments)


def test_equal_states_are_merged():
    """Three particles after one flip each: 8 populations; resampled they have equal weights within, z differs."""
    population = Population(E)
    rep = Sequential(population)
    held = population.then(spawn(population, 3), rep.interpret(Program(flips, (2,))))
    assert len(held) == 8
    # By z, of which there are four: which of the suspended programs may be where.
    assert len(resample(population, held)) == 1 + 8 + 8 + 1
    assert len({suspended for particles in held for suspended, _ in particles}) == 2


def test_programs_are_equal_if_function_and_arguments_are():
    assert Program(flips, (2,)) == Program(flips, (2,))
    assert hash(Program(flips, (2,))) == hash(Program(flips, (2,)))
    assert Program(flips, (2,)) != Program(flips, (3,))


def test_draws_have_the_frequencies_of_the_exact_measure():
    """Evidence estimates of 1000 draws; false alarm probability 6e-7 (five standard errors of a mean)."""
    rng = random.Random(1)
    program = Program(flips, (2,))
    exact = smc(E, program, n_particles=3, steps=1)
    evidence = sum(mass * sum(w for _, w in particles) for particles, mass in exact.items())
    square = sum(mass * sum(w for _, w in particles) ** 2 for particles, mass in exact.items())
    procedure = smc(Sampler(), program, n_particles=3, steps=1)
    draws = [float(sum(w for _, w in draw(procedure, rng))) for _ in range(1000)]
    assert abs(sum(draws) / 1000 - evidence) < 5 * math.sqrt((square - evidence**2) / 1000)
    assert [draw(procedure, random.Random(3)) for _ in range(2)] == [draw(procedure, random.Random(3))] * 2


def test_a_random_run_may_have_many_particles_and_steps():
    def walk_():
        x = 0.0
        for _ in range(30):
            x += 2 * (yield Sample((0.5, 0.5))) - 1
            yield Score(math.exp(-abs(x)))
        return x

    particles = draw(smc(Sampler(), walk_, n_particles=100, steps=29), random.Random(0))
    assert len(particles) == 100
    assert all(w > 0 for _, w in particles)


def test_long_programs_run_in_a_sampler():
    def long():
        heads = 0
        for _ in range(5000):
            heads += yield Sample((0.5, 0.5))
        return heads

    assert 2000 < draw(Sampler().interpret(long), random.Random(0)) < 3000  # 14 standard deviations


def test_explicit_suspensions_stop_a_program_and_weigh_nothing():
    def two_stops():
        x = yield Sample((F(1, 3), F(2, 3)))
        yield Suspend()
        return x

    rep = Sequential(E)
    held = rep.interpret(two_stops)
    assert all(type(state).__name__ == "Suspended" for state in held)
    assert all(type(state).__name__ == "Done" for state in advance(rep, held))
    for stack in STACKS.values():
        assert stack.meaning(stack.interpret(two_stops)) == {0: F(1, 3), 1: F(2, 3)}


@pytest.mark.parametrize(
    "p", [(), (F(1, 2),), (0.5, 0.4), (-0.5, 1.5), (math.nan, 1.0), (F(1, 2), F(1, 2), F(1, 2))], ids=str
)
def test_probabilities_that_are_none_are_refused(p):
    with pytest.raises(ValueError, match="sum to one"):
        Sample(p)


@pytest.mark.parametrize("w", [-1, math.nan, math.inf], ids=str)
def test_weights_that_are_none_are_refused(w):
    with pytest.raises(ValueError, match="finite"):
        Score(w)


def test_what_is_no_program_is_refused():
    def yields_a_number():
        yield 3

    for rep in (Sampler(), E):
        with pytest.raises(TypeError, match="yielded 3; expected Sample"):
            rep.meaning(rep.interpret(yields_a_number))
        with pytest.raises(TypeError, match="generator function"):
            rep.meaning(rep.interpret(lambda: 3))
    with pytest.raises(TypeError, match="use lift"):
        Traced(E).up({0: F(1)})
    with pytest.raises(TypeError, match="Weighted"):
        draw(Sampler().interpret(Program(flips, (1,))), random.Random(0))


def test_too_many_states_are_refused():
    rep = Population(Enumeration(max_states=100))
    with pytest.raises(ValueError, match="max_states = 100"):
        rep.then(spawn(rep, 10), rep.sample((F(1, 2), F(1, 2))))


def test_traces_list_the_choices_that_may_be_redrawn():
    request = Sample((F(1),))
    fixed = Sample((F(1),), free=False)
    assert Trace(((request, 0), (fixed, 0), (request, 0)), None).free_sites() == [0, 2]
    assert Trace((), None).free_sites() == []
