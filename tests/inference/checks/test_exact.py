"""The exact engine: measures of small programs against closed forms and sums over paths, and its refusals."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.inference.checks import (
    assert_invariant,
    assert_valid,
    check_invariance,
    check_valid,
    images,
    meaning,
    normalise,
    push,
)

F = Fraction
probabilities = st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any).map(lambda w: [F(x, sum(w)) for x in w])


@given(st.lists(probabilities, min_size=1, max_size=3), st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_independent_choices_multiply_and_weights_count(tables, weights):
    def program(chance):
        outcomes = tuple(chance.choose(table) for table in tables)
        chance.score(F(weights[sum(outcomes) % 4]))
        return sum(outcomes)

    expected: dict[int, Fraction] = {}
    for outcomes in itertools.product(*(range(len(table)) for table in tables)):
        mass = F(weights[sum(outcomes) % 4])
        for table, i in zip(tables, outcomes, strict=True):
            mass *= table[i]
        expected[sum(outcomes)] = expected.get(sum(outcomes), F(0)) + mass
    assert meaning(program) == {value: mass for value, mass in expected.items() if mass}


def test_choices_may_depend_on_earlier_ones():
    def until_tails(chance):
        flips = 0
        while flips < 5 and chance.choose([F(1, 3), F(2, 3)]):
            flips += 1
        return flips

    expected = {k: F(2, 3) ** k * F(1, 3) for k in range(5)} | {5: F(2, 3) ** 5}
    assert meaning(until_tails) == expected


def test_a_weight_of_zero_ends_a_path():
    def program(chance):
        x = chance.choose([F(1, 2), F(1, 2)])
        chance.score(x)
        return 1 / x  # fails where the path has ended

    assert meaning(program) == {1.0: F(1, 2)}


def test_uniform_numbers_are_enumerated_by_cells():
    def program(chance):
        u = chance.uniform([F(1, 4), F(9, 10), 2, F(1, 4)])
        return "low" if u < F(1, 4) else "middle" if u < F(9, 10) else "high"

    assert meaning(program) == {"low": F(1, 4), "middle": F(13, 20), "high": F(1, 10)}


def test_pushing_through_steps_is_the_meaning_of_the_whole():
    def step(chance, state):
        return min(3, max(0, state + (chance.choose([F(1, 2), F(1, 3), F(1, 6)]) - 1)))

    def whole(chance):
        state = 0
        for _ in range(4):
            state = step(chance, state)
        return state

    kernel, measure = images(step), {0: F(1)}
    for _ in range(4):
        measure = push(measure, kernel)
    assert measure == meaning(whole)
    assert set(kernel._known) == {0, 1, 2, 3}


def metropolis(masses, accept=lambda ratio: min(F(1), ratio)):
    """Metropolis on a circle with steps of one to either side."""

    def kernel(chance, state):
        proposal = (state + (1 if chance.choose([F(1, 2), F(1, 2)]) else -1)) % len(masses)
        a = accept(F(masses[proposal], masses[state]))
        return proposal if chance.choose([1 - a, a]) else state

    return kernel


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_metropolis_is_invariant_with_any_balanced_acceptance(masses):
    target = dict(enumerate(map(F, masses)))
    assert check_invariance(target, metropolis(masses)).ok
    assert check_invariance(target, metropolis(masses, lambda ratio: ratio / (1 + ratio))).ok


def test_a_wrong_acceptance_is_rejected_with_a_counterexample():
    verdict = check_invariance({0: 1, 1: 2, 2: 4}, metropolis([1, 2, 4], lambda ratio: min(F(1), ratio**2)))
    assert not verdict.ok
    assert verdict.counterexample is not None
    assert verdict.counterexample.where.startswith("mass of")
    assert verdict.evidence > 0.01
    assert "WRONG" in str(verdict)
    assert "counter-example" in str(verdict)


def test_evidence_counts_not_only_proportions():
    assert check_valid({0: F(1, 2)}, {0: F(1, 2)})
    verdict = check_valid({0: F(1, 2), 1: F(1, 2)}, {0: F(1, 4), 1: F(1, 4)})
    assert not verdict
    assert verdict.evidence == 0.5 * (0.25 + 0.25) / 0.5


def test_fractions_have_to_be_equal_and_floats_nearly():
    assert not check_valid({0: F(1, 3) + F(1, 10**30), 1: F(2, 3)}, {0: F(1, 3), 1: F(2, 3)}).ok
    assert check_valid({0: 0.1 + 0.2, 1: 0.7}, {0: 0.3, 1: 0.7}).ok
    assert not check_valid({0: 0.3 + 1e-9, 1: 0.7}, {0: 0.3, 1: 0.7}).ok
    assert check_valid({0: 0.3 + 1e-9, 1: 0.7}, {0: 0.3, 1: 0.7}, tolerance=1e-8).ok


def test_states_that_are_never_reached_are_named():
    verdict = check_invariance({0: 1, 1: 1}, lambda chance, state: state)
    assert verdict.ok
    assert "no other state leads to 0" in verdict.notes[0]


def test_assertions_raise_with_the_report():
    assert_valid({0: F(1)}, {0: F(1)})
    assert_invariant({0: 1, 1: 1}, lambda chance, state: 1 - state)
    with pytest.raises(
        AssertionError, match=r"WRONG: my move[\s\S]*counter-example: mass of 0: expected 1, obtained 2"
    ):
        assert_invariant({0: 1, 1: 1}, lambda chance, state: 0, subject="my move")
    with pytest.raises(AssertionError, match="obtained 1/2"):
        assert_valid({0: F(1, 2)}, {0: F(1)})


def test_normalise():
    assert normalise({0: F(1), 1: F(3)}) == {0: F(1, 4), 1: F(3, 4)}
    with pytest.raises(ValueError, match="no mass"):
        normalise({})


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (lambda c: c.choose([F(1, 2), F(1, 3)]), r"choice 1 after outcomes \(\).*\[1/2, 1/3\] sum to 5/6"),
        (lambda c: (c.choose([F(1, 2), F(1, 2)]), c.choose([0.5, 0.4])), r"choice 2 after outcomes \(0\)"),
        (lambda c: c.choose([F(3, 2), F(-1, 2)]), "at least 0"),
        (lambda c: c.choose([float("nan"), 1.0]), "nan"),
        (lambda c: c.choose([]), "probabilities are"),
        (lambda c: c.score(-1), "the weight is -1"),
        (lambda c: c.score(float("inf")), "the weight is inf"),
        (lambda c: (c.choose([F(1)]), float("nan")), r"result after outcomes \(0\) is NaN"),
    ],
    ids=["sum", "place", "negative", "nan", "empty", "score", "infinite", "result"],
)
def test_bad_programs_are_refused_with_the_place(program, message):
    with pytest.raises(ValueError, match=message):
        meaning(program)


def test_programs_that_are_no_functions_of_their_choices_are_refused():
    rng = np.random.default_rng(0)

    def restless(chance):
        chance.choose([F(1, 2), F(1, 2)] if rng.random() < 0.5 else [F(1)])
        return chance.choose([F(1, 2), F(1, 2)])

    def many_times():
        for _ in range(20):
            meaning(restless)

    with pytest.raises(ValueError, match="randomness of its own"):
        many_times()


def test_explosions_are_capped_with_advice():
    with pytest.raises(ValueError, match="max_paths = 100"):
        meaning(lambda c: tuple(c.choose([F(1, 2), F(1, 2)]) for _ in range(10)), max_paths=100)
    with pytest.raises(ValueError, match=r"max_states = 3 distinct states: take fewer particles"):
        push({0: F(1)}, lambda c, state: c.choose([F(1, 4)] * 4), max_states=3)


def test_results_have_to_be_hashable_and_targets_masses():
    with pytest.raises(TypeError, match="list, which is not hashable"):
        meaning(lambda c: [1])
    with pytest.raises(ValueError, match="target"):
        check_invariance({0: -1, 1: 2}, lambda c, state: state)
    with pytest.raises(ValueError, match="target"):
        check_invariance({}, lambda c, state: state)
    with pytest.raises(ValueError, match="at state 7"):
        check_invariance({7: 1}, lambda c, state: c.choose([F(1, 2)]))
