"""Predicates as constraints."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.inference.constraints.predicate import PredicateConstraint
from uqsparse.inference.constraints.regex import RegexConstraint
from uqsparse.inference.constraints.vocabulary import Vocabulary

LETTERS = Vocabulary.of(["a", "b", "ab"])
pieces = [
    b"a",
    "é".encode(),
    b"\xc3",
    b"\xa9",
    "😀".encode(),
    b"\xf0\x9f",
    b"\x98\x80",
    b"\xf0\x9f\x98",
    b"\x80",
    b"a\xc3",
    b"\xff",
]


@given(st.lists(st.integers(0, len(pieces) - 1), max_size=6))
def test_pieces_of_characters_against_an_automaton_of_all_text(tokens):
    """The automaton of (?s:.)* knows exactly which bytes can still become UTF-8."""
    vocabulary = Vocabulary((*pieces, None), len(pieces))
    asked = []

    def anything(text):
        asked.append(text)
        return True

    constraint = PredicateConstraint(anything, lambda text: True, vocabulary)
    automaton = RegexConstraint("(?s:.)*", vocabulary)
    state, other = constraint.state_of(tokens), automaton.state_of(tokens)
    assert (state is None) == (other is None)
    data = vocabulary.spell(tokens)
    if state is not None:
        assert constraint.is_complete(state) == automaton.is_complete(other)
        assert state[0].encode() + state[1] == data
        assert all(data.startswith(text.encode()) for text in asked)
    assert constraint.is_member(tuple(tokens)) == automaton.is_member(tuple(tokens))


def test_states_are_texts_so_that_two_spellings_are_one_state():
    constraint = PredicateConstraint(lambda s: "bb" not in s, lambda s: "bb" not in s, LETTERS)
    assert constraint.state_of([0, 1]) == constraint.state_of([2]) == ("ab", b"")
    assert constraint.state_of([2, 1]) is None
    assert constraint.allowed(constraint.state_of([2])).tolist() == [True, False, True, True]


def test_whole_characters_are_asked_about_before_the_next_one_is_finished():
    constraint = PredicateConstraint(
        lambda s: "aa" not in s, lambda s: True, Vocabulary((b"a", b"a\xc3", None), 2), check=False
    )
    assert constraint.state_of([1]) == ("a", b"\xc3")
    assert constraint.state_of([0, 1]) is None


def test_predicates_on_tokens():
    seen = []

    def prefix(tokens):
        seen.append(tokens)
        return sum(tokens) <= 2

    constraint = PredicateConstraint(prefix, lambda tokens: sum(tokens) == 2, LETTERS, on="tokens")
    assert constraint.start() == ()
    assert constraint.allowed(constraint.state_of(np.array([0, 1]))).tolist() == [True, True, False, False]
    assert constraint.is_complete(constraint.state_of([2, 0]))
    assert constraint.is_member((0, 2))
    assert not constraint.is_member((3,))
    assert all(type(t) is int for tokens in seen for t in tokens)


def test_tokens_without_text_and_the_end_are_never_steps():
    vocabulary = Vocabulary((b"a", None, b"."), 2)
    constraint = PredicateConstraint(lambda s: True, lambda s: np.bool_(True), vocabulary)
    assert constraint.step(constraint.start(), 1) is None
    assert constraint.step(constraint.start(), 2) is None
    assert constraint.allowed(constraint.start()).tolist() == [True, False, True]
    assert not constraint.is_member((0, 1))
    assert not constraint.is_member((2,))


def test_a_refused_prefix_that_is_complete_is_reported_with_prefix_and_token():
    arguments = (lambda s: "b" not in s, lambda s: s == "ab", LETTERS)
    constraint = PredicateConstraint(*arguments)
    state = constraint.step(constraint.start(), 0)
    message = re.escape("prefix refuses the prefix 'a' with the token 1 (b'b'), but complete accepts it")
    with pytest.raises(ValueError, match=message):
        constraint.step(state, 1)
    unchecked = PredicateConstraint(*arguments, check=False)
    assert unchecked.step(unchecked.start(), 2) is None
    with pytest.raises(ValueError, match="prefix refuses the prefix '', but complete accepts it"):
        PredicateConstraint(lambda s: False, lambda s: True, LETTERS)
    with pytest.raises(ValueError, match="nothing satisfies the constraint"):
        PredicateConstraint(lambda s: False, lambda s: False, LETTERS)


@pytest.mark.parametrize("answer", [1, None, "yes", np.array([True]), 0.0], ids=repr)
def test_answers_that_are_no_booleans_are_refused(answer):
    constraint = PredicateConstraint(lambda s: True if s != "a" else answer, lambda s: True, LETTERS)
    with pytest.raises(ValueError, match=r"prefix must return a Boolean, got .* the prefix '' with the token 0"):
        constraint.step(constraint.start(), 0)
    constraint = PredicateConstraint(lambda s: True, lambda s: answer, LETTERS)
    with pytest.raises(ValueError, match=r"complete must return a Boolean, got .* asked about the prefix 'ab'"):
        constraint.is_complete(constraint.state_of([2]))


def test_exceptions_are_reported_with_prefix_and_token():
    constraint = PredicateConstraint(lambda s: s == "" or int(s) > 0, lambda s: True, Vocabulary.of(["1", "x"]))
    state = constraint.step(constraint.start(), 0)
    message = r"prefix raised ValueError: invalid literal .*; asked about the prefix '1' with the token 1 \(b'x'\)"
    with pytest.raises(ValueError, match=message) as error:
        constraint.step(state, 1)
    assert isinstance(error.value.__cause__, ValueError)


def test_long_prefixes_are_shown_by_their_ends():
    constraint = PredicateConstraint(lambda s: True, lambda s: None, LETTERS)
    with pytest.raises(ValueError, match=r"asked about the prefix 'aaa.* \.\.\. .*ab'$") as error:
        constraint.is_complete(constraint.state_of([0] * 1000 + [1]))
    assert len(str(error.value)) < 300


def test_what_the_predicates_are_asked_about_is_checked():
    with pytest.raises(ValueError, match="on must be 'text' or 'tokens', got 'bytes'"):
        PredicateConstraint(lambda s: True, lambda s: True, LETTERS, on="bytes")
