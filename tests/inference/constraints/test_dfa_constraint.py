"""Automata over tokens: all tokens at once against one by one, and SmolLM2's vocabulary against a list of dates."""

import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.inference.constraints.constraint import Constraint
from uqsparse.inference.constraints.dfa_constraint import DFAConstraint
from uqsparse.inference.constraints.regex import RegexConstraint, regex_dfa
from uqsparse.inference.constraints.vocabulary import Vocabulary

PATTERNS = ["(ab)*", "[^a]*", ".{0,3}", "a{2,5}b|é+", "(é|€|a)*b", "(?s:.)*", "[a-c]{3}(é|ab)?", "ééé", "(aab|ab)*a?"]
pieces = [
    b"a",
    b"b",
    b"ab",
    b"aab",
    b"ba",
    b"c",
    b"\n",
    "é".encode(),
    b"\xc3",
    b"\xa9",
    "€".encode(),
    b"\xe2\x82",
    b"\xac",
]
pieces += [b"a\xc3", b"\xa9b", b"\xff", "😀".encode(), b"aaaaaa", b"x" * 30]


@st.composite
def vocabularies(draw):
    tokens = draw(st.lists(st.sampled_from(pieces) | st.none(), min_size=1, max_size=10))
    end = draw(st.integers(0, len(tokens)))
    tokens.insert(end, draw(st.sampled_from([None, b"a"])))  # an end that spells something is no token of text
    return Vocabulary(tuple(tokens), end)


@settings(max_examples=80)
@given(st.sampled_from(PATTERNS), vocabularies())
def test_rows_agree_with_single_steps(pattern, vocabulary):
    try:
        constraint = RegexConstraint(pattern, vocabulary)
    except ValueError as error:
        assert "tokens spells" in str(error)  # noqa: PT017
        return
    automaton = constraint.token_automaton()
    v = len(vocabulary)
    assert automaton.next_state.shape == (constraint.dfa.n_states, v)
    assert automaton.next_state.dtype == np.int32
    assert automaton.start == constraint.start()
    for state in range(constraint.dfa.n_states):
        if not constraint._alive[state]:
            continue
        steps = [constraint.step(state, token) for token in range(v)]
        row = [-1 if s is None else s for s in steps]
        assert constraint.next_states(state).tolist() == row == automaton.next_state[state].tolist()
        assert row[vocabulary.end] == -1
        assert automaton.accepting[state] == constraint.is_complete(state)
        for left in (None, 0, 1, 2, 3, 7):
            expected = Constraint.allowed(constraint, state, left)  # one by one
            assert constraint.allowed(state, left).tolist() == expected.tolist()


@given(st.sampled_from(PATTERNS), vocabularies())
def test_fewest_tokens_obey_their_recursion(pattern, vocabulary):
    """0 where accepted, else one more than the best successor; and no way at all where the constraint is dead."""
    try:
        constraint = RegexConstraint(pattern, vocabulary)
    except ValueError:
        return
    fewest = constraint.fewest_tokens
    for state in range(constraint.dfa.n_states):
        row = constraint.next_states(state)
        best = min((fewest[s] + 1 for s in row[row >= 0]), default=-1)
        assert fewest[state] == (0 if constraint.is_complete(state) else best)
        assert (fewest[state] >= 0) == constraint._alive[state]


def test_a_state_that_only_bytes_could_complete_is_dead():
    constraint = RegexConstraint("(ab)*", Vocabulary.of(["a", "ab", "abab"]))
    assert constraint.step(constraint.start(), 0) is None
    assert constraint.step(constraint.start(), 2) == constraint.start()
    assert constraint.allowed(constraint.start()).tolist() == [False, True, True, True]


def test_characters_may_be_cut_between_tokens():
    constraint = RegexConstraint("é€", Vocabulary((b"\xc3", b"\xa9\xe2", b"\x82\xac", b"\x82", None), 4))
    assert constraint.steps_to_complete(constraint.start()) == 3
    state = constraint.state_of([0, 1, 2])
    assert constraint.is_complete(state)
    assert constraint.state_of([0, 1, 3]) is None  # nothing goes on with the last byte alone
    assert constraint.is_member((0, 1, 2))
    assert not constraint.is_member((0, 1, 2, 4))


def test_two_patterns_at_once():
    vocabulary = Vocabulary.of(list("ab01"))
    both = DFAConstraint(regex_dfa("[a-z0-9]{4}").intersect(regex_dfa(r"\w*0\w*1")), vocabulary, max_length=4)
    accepted = {
        s for s in (f"{i:04b}".translate(t) for i in range(16) for t in ({}, {48: "a"}, {49: "b"}))
        if (state := both.state_of(["ab01".index(c) for c in s])) is not None and both.is_complete(state)
    }  # fmt: skip
    assert accepted == {"0001", "0011", "0101", "0111", "1001", "1011", "1101"}
    with pytest.raises(ValueError, match="automaton: no text at all matches it"):
        DFAConstraint(regex_dfa("a+").intersect(regex_dfa("b+")), vocabulary)


def test_rows_are_kept_within_a_limit(monkeypatch):
    monkeypatch.setattr("uqsparse.inference.constraints.dfa_constraint._KEPT_ENTRIES", 30)
    constraint = RegexConstraint("a{0,40}", Vocabulary.of(["a", "aa"]))
    rows = [constraint.next_states(state).tolist() for state in range(41) for _ in range(2)]
    assert len(constraint._rows) <= 10
    assert rows[::2] == rows[1::2]


def test_a_table_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr("uqsparse.inference.constraints.dfa_constraint._MOST_ENTRIES", 30)
    with pytest.raises(ValueError, match=r"pattern 'a\{40\}': a table of 41 states by 2 tokens is too large"):
        RegexConstraint("a{40}", Vocabulary.of(["a"])).token_automaton()


@pytest.fixture(scope="module")
def smollm2(smollm2_path):
    """Tokens of SmolLM2, spelled in GPT-2's alphabet for bytes (all of ASCII and Latin-1 that prints, then others)."""
    import gguf

    field = gguf.GGUFReader(smollm2_path).fields["tokenizer.ggml.tokens"]
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printed]
    alphabet = {chr(b): b for b in printed} | {chr(256 + i): b for i, b in enumerate(others)}
    texts = [bytes(field.parts[i]).decode() for i in field.data]
    control = [t.startswith("<|") and t.endswith("|>") for t in texts]
    return Vocabulary(
        tuple(None if c else bytes(alphabet[x] for x in t) for t, c in zip(texts, control, strict=True)), 2
    )


@pytest.mark.slow
def test_dates_on_the_vocabulary_of_smollm2(smollm2):
    """Against the list of the dates of three decades: a token is allowed if and only if a date goes on with it."""
    pattern = r"20[0-2]\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    assert len(smollm2) == 49152
    constraint = RegexConstraint(pattern, smollm2)
    days = [datetime.date(2000, 1, 1) + datetime.timedelta(i) for i in range(10958)]
    real = {str(day) for day in days}
    made_up = {f"{y}-{m:02}-{d:02}" for y in range(2000, 2030) for m in range(1, 13) for d in range(1, 32)}
    assert real < made_up
    prefixes = {date[:n] for date in made_up for n in range(11)}
    short = {token: text.decode("latin-1") for token, text in enumerate(smollm2.tokens) if text and len(text) <= 10}
    token_of = {text: token for token, text in short.items()}
    for prefix in ("", "2", "201", "2019-", "2019-1", "2019-02-3", "2029-12-31"):
        state = constraint.state_of([token_of[c] for c in prefix])
        expected = {token for token, text in short.items() if prefix + text in prefixes}
        row = constraint.allowed(state)
        assert row[2] == (prefix in made_up)
        assert set(np.flatnonzero(row).tolist()) - {2} == expected
    # Fewest tokens, by layers of the strings that are reached.
    reached, fewest = {""}, 0
    pieces = [text for text in short.values() if any(text in date for date in ("2019-02-28", "0123456789", "-10-30"))]
    while not reached & made_up:
        reached = {p + text for p in reached for text in pieces} & prefixes
        fewest += 1
    assert constraint.steps_to_complete(constraint.start()) == fewest
