"""Transformations keep measures, exactly in Fractions; the oracle walks all paths of each model by itertools."""

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.inference import transformations
from uqsparse.inference.checks.exact import check_valid
from uqsparse.inference.representations import (
    Enumeration,
    Lift,
    Population,
    Program,
    Sample,
    Sampler,
    Score,
    Sequential,
    Trace,
    Traced,
    Traces,
    Weighted,
    draw,
)
from uqsparse.inference.transformations import (
    advance,
    collapse,
    drop_weights,
    extract_evidence,
    finish,
    freeze,
    hoist,
    hoist_first,
    marginal,
    mh_step,
    multinomial,
    pmmh,
    proper,
    push_evidence,
    resample,
    resample_move_smc,
    residual,
    smc,
    smc2,
    spawn,
    stratified,
    systematic,
)

F = Fraction
E = Enumeration()
P = Population(E)
SCHEMES = [multinomial, stratified, systematic, residual]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.__name__)

FIRST = (F(1, 4), F(3, 4))
MOVES = ((F(1, 2), F(1, 2)), (F(1, 5), F(4, 5)))
EMITS = ((F(1, 4), F(3, 4)), (F(2, 3), F(1, 3)))
PROPOSAL = ((F(1, 3), F(2, 3)), (F(3, 5), F(2, 5)))  # by the observation


# A hidden Markov model of two states, and its measure.


def hidden_markov(observations):
    path = ()
    for y in observations:
        path += ((yield Sample(MOVES[path[-1]] if path else FIRST)),)
        yield Score(EMITS[path[-1]][y])
    return path


def guided(observations, forget=False):
    """The same model, drawn from a proposal that looks at the observation."""
    path = ()
    for y in observations:
        p, q = (MOVES[path[-1]] if path else FIRST), PROPOSAL[y]
        x = yield Sample(q)
        yield Score(EMITS[x][y] if forget else p[x] / q[x] * EMITS[x][y])
        path += (x,)
    return path


def joint(observations):
    return {path: joint_mass(path, observations, FIRST) for path in all_paths(len(observations))}


def all_paths(n):
    return itertools.product((0, 1), repeat=n)


def joint_mass(path, observations, first):
    mass = first[path[0]]
    for old, new in itertools.pairwise(path):
        mass *= MOVES[old][new]
    for x, y in zip(path, observations, strict=True):
        mass *= EMITS[x][y]
    return mass


# Resampling and populations.

particles_ = st.lists(
    st.tuples(st.integers(0, 3), st.fractions(min_value=0, max_value=2, max_denominator=7)), min_size=1, max_size=4
).map(tuple)


@every_scheme
@given(particles=particles_, threshold=st.sampled_from([None, F(1, 2), F(3, 4)]))
def test_resampling_keeps_the_measure_and_the_number_of_particles(scheme, particles, threshold):
    before = E.unit(particles)
    after = resample(P, before, scheme, threshold)
    assert P.meaning(after) == P.meaning(before)
    assert {len(some) for some in after} == {len(particles)}


@every_scheme
@given(particles=particles_, names=st.permutations(["a", "b", "c", "d"]))
def test_resampling_commutes_with_renaming_of_values(scheme, particles, names):
    before = E.unit(particles)
    renamed = resample(P, P.map(before, lambda x: names[x]), scheme)
    assert renamed == P.map(resample(P, before, scheme), lambda x: names[x])


@every_scheme
@given(particles=particles_)
def test_ancestors_are_expected_as_often_as_their_weights_say(scheme, particles):
    n, z = len(particles), sum(w for _, w in particles)
    if z == 0:
        return
    shares = tuple(w / z for _, w in particles)
    draws = scheme(shares, n)
    assert all(sum(one.values()) == 1 for one in draws)
    for j in range(n):
        expected = sum(p * outcome.count(j) for one in draws for outcome, p in one.items())
        assert expected == n * shares[j]


@given(particles=particles_)
def test_stratified_systematic_and_residual_spread_less_than_one(particles):
    """Of n W copies, systematic and residual take at least the floor; systematic at most the ceiling."""
    n, z = len(particles), sum(w for _, w in particles)
    if z == 0:
        return
    for j, (_, w) in enumerate(particles):
        for outcome in systematic(tuple(w / z for _, w in particles), n)[0]:
            assert n * w / z - 1 < outcome.count(j) < n * w / z + 1
        assert residual(tuple(w / z for _, w in particles), n)[0].popitem()[0].count(j) == n * w / z // 1


def test_resampling_waits_for_the_effective_sample_size():
    """Weights 1 and 3 have an effective size of 16 / 10 of two: below 0.9 of them, not below 0.8."""
    before = E.unit((("a", F(1)), ("b", F(3))))
    assert resample(P, before, systematic, F(4, 5)) == before
    assert resample(P, before, systematic, F(9, 10)) != before


@given(particles=particles_)
def test_evidence_and_single_particles_keep_the_measure(particles):
    before = E.unit(particles)
    expected = P.meaning(before)
    z = sum(w for _, w in particles)
    outside = extract_evidence(P, before)
    assert Population(Weighted(E)).meaning(outside) == expected
    assert {total for _, total in outside} == {z}
    assert {sum(w for _, w in normal) for normal, _ in outside} == {1 if z else 0}
    assert P.meaning(push_evidence(P, before)) == expected
    assert Weighted(E).meaning(proper(P, before)) == expected
    assert collapse(P, before) == expected


def test_spawn_keeps_the_total():
    assert spawn(P, 3) == E.unit((((), F(1, 3)),) * 3)
    assert P.meaning(spawn(P, 3)) == {(): 1}


# Sequential Monte Carlo.


@every_scheme
@pytest.mark.parametrize("threshold", [None, F(19, 20)], ids=["always", "triggered"])
@pytest.mark.parametrize(("steps", "n"), [(3, 2), (2, 3)])
def test_smc_keeps_the_measure(scheme, threshold, steps, n):
    ys = (0, 1, 0)[:steps]
    held = smc(E, Program(hidden_markov, (ys,)), n_particles=n, steps=steps - 1, scheme=scheme, ess_threshold=threshold)
    assert check_valid(P.meaning(held), joint(ys))


@pytest.mark.parametrize("n_resampled", [0, 1, 2, 5])
def test_smc_may_resample_less_often_or_after_the_end(n_resampled):
    held = smc(E, Program(hidden_markov, ((0, 1, 0),)), n_particles=2, steps=n_resampled)
    assert check_valid(P.meaning(held), joint((0, 1, 0)))


@every_scheme
def test_smc_with_a_proposal_of_its_own_keeps_the_measure(scheme):
    held = smc(E, Program(guided, ((0, 1),)), n_particles=2, steps=1, scheme=scheme)
    assert check_valid(P.meaning(held), joint((0, 1)))


def test_smc_in_doubles_agrees_to_rounding():
    def floats():
        steps, answer = hidden_markov((0, 1, 0)), None
        try:
            while True:
                request = steps.send(answer)
                is_sample = isinstance(request, Sample)
                answer = yield (
                    Sample(tuple(map(float, request.probabilities))) if is_sample else Score(float(request.weight))
                )
        except StopIteration as stop:
            return stop.value

    for scheme in SCHEMES:
        held = smc(E, floats, n_particles=2, steps=2, scheme=scheme)
        assert check_valid(P.meaning(held), {path: float(mass) for path, mass in joint((0, 1, 0)).items()})


def test_smc_of_samplers_keeps_the_measure():
    rep = Population(Sampler())
    held = smc(Sampler(), Program(hidden_markov, ((0, 1),)), n_particles=2, steps=1, scheme=systematic)
    assert check_valid(rep.meaning(held), joint((0, 1)))


def test_smc_of_a_model_whose_weights_may_all_be_zero():
    def often_impossible():
        x = yield Sample((F(1, 2), F(1, 2)))
        yield Score(x)
        y = yield Sample((F(1, 2), F(1, 2)))
        yield Score(y)
        return x, y

    for scheme in SCHEMES:
        held = smc(E, often_impossible, n_particles=2, steps=1, scheme=scheme)
        assert P.meaning(held) == {(1, 1): F(1, 4)}


def test_a_transformation_of_every_stage_keeps_the_measure():
    rep = Sequential(P)
    held = rep.interpret(Program(hidden_markov, ((0, 1),)))
    held = hoist(rep, lambda a: resample(P, a), P.then(spawn(P, 2), held))
    assert check_valid(rep.meaning(held), joint((0, 1)))
    assert check_valid(P.meaning(finish(rep, advance(rep, held))), joint((0, 1)))


# Traces.


def growing():
    """Up to three flips, with a score that depends on their number, and choices that depend on the ones before."""
    n = 0
    while n < 3 and (yield Sample((F(1, 3), F(2, 3)))):
        n += 1
    yield Score(F(1 + n * n, 7))
    last = yield Sample((F(1, 2 + n), F(1 + n, 2 + n)))
    yield Score(F(1 + last, 3))
    return n, last


def growing_measure():
    measure = {}
    for n, last in itertools.product(range(4), (0, 1)):
        prior = F(2, 3) ** n * (F(1, 3) if n < 3 else 1) * (F(1 + n, 2 + n) if last else F(1, 2 + n))
        measure[n, last] = prior * F(1 + n * n, 7) * F(1 + last, 3)
    return measure


both_moves = pytest.mark.parametrize("whole_suffix", [False, True], ids=["single", "suffix"])


@both_moves
@pytest.mark.parametrize("inner", [E, Weighted(E), P], ids=["enumeration", "weighted", "population"])
def test_trace_moves_keep_the_measure_where_the_number_of_choices_varies(inner, whole_suffix):
    rep = Traced(inner)
    held = rep.interpret(growing)
    assert rep.meaning(held) == growing_measure()
    for _ in range(2):
        held = mh_step(rep, held, whole_suffix=whole_suffix)
        assert check_valid(inner.meaning(marginal(rep, held)), growing_measure())


@both_moves
def test_trace_moves_reach_the_posterior_from_every_trace(whole_suffix):
    """A move that stays is invariant too; this one, repeated, forgets where it started."""
    rep = Traced(E)
    held = rep.interpret(growing)
    traces = list(held.sampler())
    kernel = np.zeros((len(traces), len(traces)))
    for i, trace in enumerate(traces):
        images = mh_step(rep, Traces(held.program, lambda t=trace: E.unit(t)), whole_suffix=whole_suffix).sampler()
        for j, other in enumerate(traces):
            kernel[i, j] = images.get(other, 0)
    posterior = np.array([float(held.sampler()[trace]) for trace in traces])
    np.testing.assert_allclose(kernel.sum(1), 1)
    np.testing.assert_allclose(np.linalg.matrix_power(kernel, 2**12), np.tile(posterior / posterior.sum(), (8, 1)))


def test_a_trace_without_choices_stays():
    def nothing_random():
        yield Score(F(1, 2))
        return "x"

    rep = Traced(E)
    held = rep.interpret(nothing_random)
    assert mh_step(rep, held).sampler() == held.sampler() == {Trace((), "x", F(1, 2)): F(1, 2)}


@both_moves
def test_frozen_choices_are_kept_and_later_ones_move(whole_suffix):
    rep = Traced(E)

    def later(pair):
        return rep.interpret(Program(again, pair))

    def again(n, last):
        x = yield Sample((F(1, 2 + n), F(1 + n, 2 + n)))
        yield Score(F(1 + x + last, 4))
        return n, last, x

    expected = {}
    for (n, last), mass in growing_measure().items():
        for x in (0, 1):
            p = F(1 + n, 2 + n) if x else F(1, 2 + n)
            expected[n, last, x] = mass * p * F(1 + x + last, 4)

    held = rep.bind(freeze(rep, rep.interpret(growing)), later)
    moved = mh_step(rep, held, whole_suffix=whole_suffix)
    assert check_valid(rep.meaning(moved), expected)
    one = next(trace for trace in held.sampler() if trace.value == (2, 1, 0))
    reached = mh_step(rep, Traces(held.program, lambda: E.unit(one)), whole_suffix=whole_suffix).sampler()
    assert {trace.value for trace in reached} == {(2, 1, 0), (2, 1, 1)}
    frozen = freeze(rep, rep.interpret(growing))
    assert mh_step(rep, frozen).sampler() == frozen.sampler()
    assert check_valid(rep.meaning(frozen), growing_measure())


@both_moves
def test_frozen_choices_after_free_ones_stay_where_they_are_still_asked_for(whole_suffix):
    """One free choice, then one or two frozen ones as it says, then another free one."""
    rep = Traced(E)
    half, skew = (F(1, 2), F(1, 2)), (F(1, 4), F(3, 4))

    def first():
        x = yield Sample((F(1, 3), F(2, 3)))
        yield Score(F(1 + x, 2))
        return x

    def second(x):
        y = yield Sample(skew)
        y2 = (yield Sample(half)) if x else 0
        yield Score(F(2 + y, 3))
        return x, y, y2

    def third(x, y, y2):
        z = yield Sample(half)
        yield Score(F(1 + x + y + y2 + z, 5))
        return x, y, y2, z

    expected = {}
    for x, y, y2, z in all_paths(4):
        if x or not y2:
            prior_mass = F(1 + x, 3) * skew[y] * (half[y2] if x else 1) * half[z]
            expected[x, y, y2, z] = prior_mass * F(1 + x, 2) * F(2 + y, 3) * F(1 + x + y + y2 + z, 5)

    held = rep.bind(rep.interpret(first), lambda x: freeze(rep, rep.interpret(Program(second, (x,)))))
    held = rep.bind(held, lambda found: rep.interpret(Program(third, found)))
    assert check_valid(rep.meaning(mh_step(rep, held, whole_suffix=whole_suffix)), expected)
    one = next(trace for trace in held.sampler() if trace.value == (0, 1, 0, 1))
    reached = mh_step(rep, Traces(held.program, lambda: E.unit(one)), whole_suffix=whole_suffix).sampler()
    assert {trace.value[0] for trace in reached} == {0, 1}
    assert {trace.value[1] for trace in reached} == {1}


@both_moves
def test_trace_moves_keep_the_measure_where_untraced_answers_decide_what_is_asked(whole_suffix):
    def program():
        a = yield Sample((F(1, 3), F(2, 3)))
        n = yield Lift(lambda base: base.sample((F(1, 2), F(1, 4), F(1, 4)) if a else (F(1, 5), F(2, 5), F(2, 5))))
        heads = 0
        for _ in range(n):
            heads += yield Sample((F(1, 2), F(1, 2)))
        yield Score(F(1 + heads + a, 4))
        return a, n, heads

    rep = Traced(E)
    expected = E.interpret(program)
    assert check_valid(rep.meaning(mh_step(rep, rep.interpret(program), whole_suffix=whole_suffix)), expected)


def no_more_than_lifted():
    """What is untraced may leave nothing to redraw: the only choice is asked for half of the time."""
    x = 0
    if (yield Lift(lambda base: base.sample((F(1, 2), F(1, 2))))):
        x = yield Sample((F(1, 3), F(2, 3)))
    yield Score(F(1 + x, 2))
    return x


def test_trace_moves_do_not_leave_where_there_is_no_way_back():
    rep = Traced(E)
    moved = mh_step(rep, rep.interpret(no_more_than_lifted))
    assert check_valid(rep.meaning(moved), {0: F(1, 2) * F(1, 2) + F(1, 2) * F(1, 3) * F(1, 2), 1: F(1, 3)})


@both_moves
@pytest.mark.parametrize(("steps", "n"), [(2, 2), (3, 2), (2, 3)])
def test_resample_move_smc_keeps_the_measure(steps, n, whole_suffix):
    ys = (0, 1, 0)[:steps]
    held = resample_move_smc(
        E, Program(hidden_markov, (ys,)), n_particles=n, steps=steps - 1, whole_suffix=whole_suffix
    )
    assert check_valid(P.meaning(held), joint(ys))


@every_scheme
def test_resample_move_smc_keeps_the_measure_of_programs_of_varying_length(scheme):
    held = resample_move_smc(E, growing, n_particles=2, steps=1, moves=2, scheme=scheme)
    assert check_valid(P.meaning(held), growing_measure())


# Parameters.

STARTS = (FIRST, (F(1, 2), F(1, 2)))
PRIOR = (F(2, 3), F(1, 3))
OBSERVATIONS = (0, 1)


def prior():
    return (yield Sample(PRIOR))


def given_parameter(theta, n=2):
    path = ()
    for y in OBSERVATIONS[:n]:
        path += ((yield Sample(MOVES[path[-1]] if path else STARTS[theta])),)
        yield Score(EMITS[path[-1]][y])
    return path


def given_parameter_once(theta):
    return given_parameter(theta, 1)


def parameter_joint(n):
    return {
        (theta, path): PRIOR[theta] * joint_mass(path, OBSERVATIONS[:n], STARTS[theta])
        for theta in (0, 1)
        for path in all_paths(n)
    }


@pytest.mark.parametrize("scheme", [multinomial, systematic], ids=lambda scheme: scheme.__name__)
def test_pmmh_keeps_the_measure_of_parameters_and_paths(scheme):
    held = pmmh(E, prior, given_parameter, n_particles=2, steps=1, scheme=scheme)
    assert check_valid(Weighted(E).meaning(held), parameter_joint(2))


def test_pmmh_finishes_a_model_that_was_not_advanced_to_its_end():
    held = pmmh(E, prior, given_parameter, n_particles=2, steps=0)
    assert check_valid(Weighted(E).meaning(held), parameter_joint(2))


def test_smc2_keeps_the_measure_of_parameters_and_paths():
    held = smc2(E, prior, given_parameter_once, n_parameters=2, n_particles=2, steps=0)
    assert check_valid(P.meaning(held), parameter_joint(1))


@pytest.mark.parametrize(("n_parameters", "n_particles"), [(1, 2), (2, 1)])
def test_smc2_keeps_the_measure_over_two_observations(n_parameters, n_particles):
    held = smc2(E, prior, given_parameter, n_parameters=n_parameters, n_particles=n_particles, steps=1)
    assert check_valid(P.meaning(held), parameter_joint(2))


def test_smc2_and_pmmh_can_be_drawn():
    rng = random.Random(0)
    particles = draw(smc2(Sampler(), prior, given_parameter, n_parameters=5, n_particles=4, steps=1, moves=2), rng)
    assert len(particles) == 5
    (theta, path), weight = draw(pmmh(Sampler(), prior, given_parameter, n_particles=4, steps=1, moves=20), rng)
    assert theta in (0, 1)
    assert len(path) == 2
    assert weight > 0


# Planted bugs: each is seen.


def smc_from(spawn_n, resample_all, n=2, steps=3):
    rep = Sequential(P)
    ys = (0, 1, 0)[:steps]
    held = hoist_first(lambda a: P.then(spawn_n(n), a), rep.interpret(Program(hidden_markov, (ys,))))
    for _ in range(steps - 1):
        held = advance(rep, hoist_first(resample_all, held))
    return check_valid(P.meaning(finish(rep, held)), joint(ys))


def reweighed(scheme, weight):
    """Resampling whose new weights are a function of (n, z, the ancestor's old weight)."""

    def resample_all(held):
        def again(particles):
            n, z = len(particles), sum(w for _, w in particles)
            kept = resample(P, E.unit(tuple(((x, w), w) for x, w in particles)), scheme)
            return E.map(kept, lambda some: tuple((x, weight(n, z, w)) for (x, w), _ in some))

        return E.bind(held, again)

    return resample_all


def right(n):
    return spawn(P, n)


def keep_weight(n, z, w):
    return w


def mean_weight(n, z, w):
    return z / n


def test_the_hand_made_smc_is_right_without_a_bug():
    for scheme in SCHEMES:
        assert smc_from(right, reweighed(scheme, mean_weight))
        assert smc_from(right, lambda a, scheme=scheme: resample(P, a, scheme))
    assert smc_from(right, lambda a: resample(P, a, ordered))
    # Wasteful but valid: ancestors that do not depend on the place may be given the weights that stood there.
    assert smc_from(right, weights_stay(multinomial))


def ordered(shares, n):
    """Multinomial ancestors, as one draw of all, in order."""
    joint_draw = {}
    for parts in itertools.product(*(one.items() for one in multinomial(shares, n))):
        some, p = tuple(sorted(j for (j,), _ in parts)), math.prod(p for _, p in parts)
        joint_draw[some] = joint_draw.get(some, 0) + p
    return [joint_draw]


def weights_stay(scheme):
    def resample_all(held):
        def again(particles):
            new = resample(P, E.unit(particles), scheme)
            return E.map(new, lambda some: tuple((x, w) for (x, _), (_, w) in zip(some, particles, strict=True)))

        return E.bind(held, again)

    return resample_all


@pytest.mark.parametrize(
    ("spawn_n", "resample_all"),
    [
        (right, reweighed(systematic, keep_weight)),
        (right, weights_stay(systematic)),
        (right, reweighed(systematic, lambda n, z, w: F(1, n))),
        (right, reweighed(systematic, lambda n, z, w: z)),
        (lambda n: E.unit((((), F(1)),) * n), lambda a: resample(P, a)),
    ],
    ids=[
        "keeps the ancestor's weight",
        "weights stay where they were",
        "resets to one over n",
        "resets to the sum",
        "spawns without one over n",
    ],
)
def test_wrong_weights_are_seen(spawn_n, resample_all):
    verdict = smc_from(spawn_n, resample_all)
    assert not verdict
    assert verdict.counterexample is not None


def fixed_offset(shares, n):
    """Systematic with u = 1/2 always."""
    ends = [n * end for end in itertools.accumulate(shares)]
    return [{tuple(next(j for j, end in enumerate(ends) if i + F(1, 2) < end) for i in range(n)): F(1)}]


def off_by_one(shares, n):
    return [{tuple((j + 1) % n for j in some): p for some, p in one.items()} for one in systematic(shares, n)]


def flattened(shares, n):
    return [{(j,): F(1, n) for j in range(n)}] * n


def remainder_by_shares(shares, n):
    """Residual whose remainder is drawn by W instead of n W - floor(n W)."""
    fixed, *rest = residual(shares, n)
    return [fixed, *[{(j,): share for j, share in enumerate(shares)} for _ in rest]]


@pytest.mark.parametrize(
    "scheme", [fixed_offset, off_by_one, flattened, remainder_by_shares], ids=lambda scheme: scheme.__name__
)
def test_wrong_ancestors_are_seen(scheme):
    assert not smc_from(right, lambda a: resample(P, a, scheme), n=3, steps=2)


def test_a_forgotten_proposal_density_is_seen():
    held = smc(E, Program(guided, ((0, 1), True)), n_particles=2, steps=1)
    assert not check_valid(P.meaning(held), joint((0, 1)))


def test_dropped_weights_are_seen():
    rep = Weighted(E)
    held = rep.interpret(Program(hidden_markov, ((0, 1),)))
    assert check_valid(rep.meaning(held), joint((0, 1)))
    verdict = check_valid(drop_weights(rep, held), joint((0, 1)))
    assert not verdict
    one = smc(E, Program(hidden_markov, ((0, 1),)), n_particles=2, steps=1)
    assert check_valid(collapse(P, one), joint((0, 1)))
    assert not check_valid(drop_weights(rep, proper(P, one)), joint((0, 1)))


def ratio(old, new):
    return new.weight / old.weight


WRONG_ACCEPTANCE = {
    "always": lambda old, new, site: F(1),
    "without n / n'": lambda old, new, site: min(F(1), ratio(old, new)),
    "with n' / n": lambda old, new, site: min(F(1), ratio(old, new) * len(new.choices) / len(old.choices)),
    "inverted": lambda old, new, site: min(F(1), 1 / ratio(old, new)),
}


@both_moves
@pytest.mark.parametrize("name", WRONG_ACCEPTANCE)
def test_wrong_acceptance_is_seen(name, whole_suffix, monkeypatch):
    monkeypatch.setattr(transformations, "_acceptance", WRONG_ACCEPTANCE[name])
    rep = Traced(E)
    held = mh_step(rep, rep.interpret(growing), whole_suffix=whole_suffix)
    assert not check_valid(rep.meaning(held), growing_measure())
    held = resample_move_smc(E, growing, n_particles=2, steps=1, whole_suffix=whole_suffix)
    assert not check_valid(P.meaning(held), growing_measure())


@pytest.mark.parametrize("name", ["always", "inverted"])
def test_wrong_acceptance_is_seen_in_pmmh_and_smc2(name, monkeypatch):
    monkeypatch.setattr(transformations, "_acceptance", WRONG_ACCEPTANCE[name])
    held = pmmh(E, prior, given_parameter, n_particles=2, steps=1)
    assert not check_valid(Weighted(E).meaning(held), parameter_joint(2))
    held = smc2(E, prior, given_parameter_once, n_parameters=2, n_particles=2, steps=0)
    assert not check_valid(P.meaning(held), parameter_joint(1))


def test_the_wrong_representation_is_refused():
    with pytest.raises(TypeError, match="works on a Population"):
        resample(E, {(): F(1)})
    with pytest.raises(TypeError, match="works on a Sequential"):
        advance(P, P.unit(0))
    with pytest.raises(TypeError, match="works on a Traced"):
        mh_step(P, P.unit(0))


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="n is 0"):
        spawn(P, 0)
    with pytest.raises(ValueError, match="steps is -1"):
        smc(E, growing, n_particles=2, steps=-1)
    with pytest.raises(ValueError, match="moves is -1"):
        resample_move_smc(E, growing, n_particles=2, steps=1, moves=-1)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=5)
def test_the_same_generator_gives_the_same_draw(seed):
    procedure = smc(Sampler(), Program(hidden_markov, ((0, 1),)), n_particles=4, steps=1, scheme=residual)
    assert draw(procedure, random.Random(seed)) == draw(procedure, random.Random(seed))
