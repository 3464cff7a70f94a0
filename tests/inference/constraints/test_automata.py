"""Automata over bytes, against the definition: which of all short texts they accept."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.inference.constraints.automata import DFA

A, B = b"ab"


@st.composite
def automata(draw, most=5):
    n = draw(st.integers(1, most))
    table = np.full((n, 256), -1)
    targets = st.integers(-1, n - 1)
    table[:, A] = draw(st.lists(targets, min_size=n, max_size=n))
    table[:, B] = draw(st.lists(targets, min_size=n, max_size=n))
    accepting = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    return DFA(table, draw(st.integers(0, n - 1)), np.array(accepting))


def texts(length):
    return [bytes(t) for n in range(length + 1) for t in itertools.product(b"ab", repeat=n)]


def walk(dfa, state, text):
    """Follow a text through the raw table; None when it dies."""
    for byte in text:
        state = None if state is None or dfa.table[state, byte] < 0 else int(dfa.table[state, byte])
    return state


def accepted(dfa, longest):
    """By the definition, from the raw table."""
    ends = ((t, walk(dfa, dfa.start, t)) for t in texts(longest))
    return {t for t, state in ends if state is not None and dfa.accepting[state]}


@settings(max_examples=100)
@given(automata())
def test_the_minimal_automaton_has_one_state_for_each_residual_language(dfa):
    small = dfa.minimal()
    assert accepted(small, 7) == accepted(dfa, 7)
    # Myhill and Nerode: prefixes whose continuations differ. Five states (and the dead one) are reached by at most four
    # letters, and differ within at most five more.
    member = accepted(dfa, 9)
    residuals = {frozenset(rest for rest in texts(5) if p + rest in member) for p in texts(4)}
    assert small.n_states == max(1, len(residuals - {frozenset()}))
    assert small.is_empty == dfa.is_empty == (not member)


@given(automata())
def test_trimming_leaves_states_that_are_reached_and_lead_to_acceptance(dfa):
    trimmed = dfa.trimmed()
    assert accepted(trimmed, 7) == accepted(dfa, 7)
    reached = {walk(trimmed, trimmed.start, t) for t in texts(6)} - {None}
    useful = {
        s for s in range(trimmed.n_states) for t in texts(6)
        if (end := walk(trimmed, s, t)) is not None and trimmed.accepting[end]
    }  # fmt: skip
    assert reached == set(range(trimmed.n_states))
    assert useful == reached or (trimmed.is_empty and trimmed.n_states == 1)


@given(automata(4), automata(4))
def test_an_intersection_accepts_what_both_accept(one, other):
    both = one.intersect(other)
    assert accepted(both, 7) == accepted(one, 7) & accepted(other, 7)
    assert both.n_states == both.minimal().n_states


def test_a_letter_that_leads_nowhere_tells_states_apart():
    """a a* b or b b: two states go on to acceptance by b, and only one of them reads a."""
    table = np.full((4, 256), -1)
    table[0, A], table[0, B], table[1, A], table[1, B], table[2, B] = 1, 2, 1, 3, 3
    small = DFA(table, 0, np.arange(4) == 3).minimal()
    assert small.n_states == 4
    assert [small.accepts(t) for t in (b"aab", b"bb", b"bab")] == [True, True, False]


def test_classes_that_differ_only_after_long_texts_are_told_apart():
    """A chain that accepts a^n for all n but 40: every state of it differs, most of them only far behind."""
    n = 60
    table = np.full((n, 256), -1)
    table[np.arange(n - 1), A] = np.arange(1, n)
    table[n - 1, A] = n - 1
    accepting = np.ones(n, bool)
    accepting[40] = False
    small = DFA(table, 0, accepting).minimal()
    assert small.n_states == 42  # 0 to 40, and all behind
    assert [small.accepts(b"a" * k) for k in (39, 40, 41, 1000)] == [True, False, True, True]


@pytest.mark.parametrize(
    ("table", "start", "accepting", "message"),
    [
        (np.full((2, 255), -1), 0, np.zeros(2, bool), r"table must be integers of shape \(s, 256\)"),
        (np.full((0, 256), -1), 0, np.zeros(0, bool), r"table must be integers of shape \(s, 256\)"),
        (np.full((2, 256), -1.0), 0, np.zeros(2, bool), r"table must be integers .* got float64"),
        (np.full((2, 256), 2), 0, np.zeros(2, bool), "table must hold -1 or states below 2"),
        (np.full((2, 256), -1), 2, np.zeros(2, bool), "start must be a state below 2, got 2"),
        (np.full((2, 256), -1), 0, np.zeros(2), "accepting must be Booleans"),
    ],
    ids=["columns", "no-states", "floats", "range", "start", "accepting"],
)
def test_tables_that_are_no_automaton_are_refused(table, start, accepting, message):
    with pytest.raises(ValueError, match=message):
        DFA(table, start, accepting)


def test_an_intersection_that_is_too_large_is_refused():
    def cycle(n):
        table = np.full((n, 256), -1)
        table[:, A] = (np.arange(n) + 1) % n
        return DFA(table, 0, np.arange(n) == 0)

    assert cycle(7).intersect(cycle(5)).n_states == 35
    with pytest.raises(ValueError, match="more than max_states = 34 states"):
        cycle(7).intersect(cycle(5), max_states=34)
