"""The recogniser against all strings of small random grammars, found by a fixed point; and the size of its states."""

import gc
import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from uqsparse.inference.constraints import earley
from uqsparse.inference.constraints.earley import Recogniser
from uqsparse.inference.constraints.grammar import read_grammar

LONGEST = 6
LETTERS = "ab"
STRINGS = ["".join(letters) for n in range(LONGEST + 1) for letters in itertools.product(LETTERS, repeat=n)]
NAMES = ("A", "B", "C")
BODIES = st.lists(st.sampled_from([*LETTERS, *NAMES, *LETTERS]), max_size=3).map(tuple)
GRAMMARS = st.fixed_dictionaries({name: st.lists(BODIES, min_size=1, max_size=3) for name in NAMES})

AMBIGUOUS = {"A": [("A", "A"), ("a",), ("b",)], "B": [()], "C": [()]}
HIDDEN_LEFT = {"A": [("B", "A", "b"), ("a",)], "B": [(), ("b",)], "C": [()]}
NULLABLE_TAIL = {"A": [("a", "A", "B"), ()], "B": [(), ("b",)], "C": [()]}
CYCLE = {"A": [("B",), ("a",)], "B": [("C",), ("b", "A", "B")], "C": [("A",), ()]}
DEAD_END = {"A": [("a", "B"), ("b",)], "B": [("a", "C")], "C": [("b", "C")]}


def fewest_letters(grammar):
    """For each nonterminal, its prefixes of up to LONGEST letters with the fewest letters that complete them (0 for
    members): the least fixed point of the rules, worked out on strings alone."""
    table = {name: {} for name in grammar} | {letter: {"": 1, letter: 0} for letter in LETTERS}
    changed = True
    while changed:
        changed = False
        for name, bodies in grammar.items():
            for body in bodies:
                if any("" not in table[symbol] for symbol in body):
                    continue  # not known to be productive yet
                rest = [sum(table[symbol][""] for symbol in body[i:]) for i in range(len(body) + 1)]
                found, whole = {"": rest[0]}, {""}
                for i, symbol in enumerate(body):
                    for before in whole:
                        for after, more in table[symbol].items():
                            if len(before + after) <= LONGEST:
                                cost = more + rest[i + 1]
                                found[before + after] = min(found.get(before + after, cost), cost)
                    whole = {
                        before + after
                        for before in whole
                        for after, more in table[symbol].items()
                        if more == 0 and len(before + after) <= LONGEST
                    }
                found |= dict.fromkeys(whole, 0)
                for text, cost in found.items():
                    if cost < table[name].get(text, 1 << 30):
                        table[name][text], changed = cost, True
    return table["A"]


def written(grammar):
    def body(symbols):
        return " ".join(f'"{s}"' if s in LETTERS else s for s in symbols) or '""'

    return "\n".join(f"{name} ::= {' | '.join(map(body, bodies))}" for name, bodies in grammar.items())


@given(GRAMMARS)
@settings(max_examples=250, deadline=None)
@example(AMBIGUOUS)
@example(HIDDEN_LEFT)
@example(NULLABLE_TAIL)
@example(CYCLE)
@example(DEAD_END)
def test_members_living_prefixes_and_fewest_bytes_are_those_of_all_derivations(grammar):
    """Ambiguous, nullable, left- and right-recursive and cyclic grammars over two letters: all 127 strings."""
    expected = fewest_letters(grammar)
    if not expected:
        with pytest.raises(ValueError, match="derives no string"):
            read_grammar(written(grammar), "A")
        return
    recogniser = Recogniser(read_grammar(written(grammar), "A"))
    for text in STRINGS:
        column = recogniser.after(text.encode())
        assert (column is not None) == (text in expected), text
        if column is not None:
            assert column.bytes_left == expected[text], text
            assert column.complete == (expected[text] == 0), text


def columns_along(grammar, text):
    recogniser = Recogniser(read_grammar(grammar))
    column, seen = recogniser.start, []
    for byte_class in text.translate(recogniser.byte_classes):
        column = recogniser.advance(column, byte_class)
        seen.append(column)
    return seen


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "a" root | "a"',
        'root ::= root "a" | "a"',
        'root ::= "a"*',
        'root ::= ("a" | "b")+',
        'root ::= item tail \n tail ::= item tail | "" \n item ::= "a"',
    ],
)
def test_lists_of_any_recursion_need_a_bounded_number_of_states(grammar):
    seen = columns_along(grammar, b"a" * 3000)
    assert seen[-1].complete
    assert len(set(seen)) <= 3
    assert seen[-1].bytes_left == 0


def test_right_recursion_with_an_empty_tail_keeps_a_return_for_each_open_item():
    """As documented: the short cut does not apply, states grow. They stay right."""
    seen = columns_along('root ::= "a" root "b"? | "a"', b"a" * 200 + b"b" * 199)
    assert len(set(seen)) == 399
    assert seen[-1].complete
    assert not columns_along('root ::= "a" root "b"? | "a"', b"a" * 200 + b"b" * 199 + b"b")[-1]


def test_equal_states_are_one_object_and_branches_share_their_past():
    recogniser = Recogniser(read_grammar('root ::= "(" root ")" | [a-z]*'))
    assert recogniser.after(b"((xy") is recogniser.after(b"((zab")
    assert recogniser.after(b"((") is not recogniser.after(b"(((")
    assert hash(recogniser.after(b"((")) == hash(recogniser.after(b"(("))


def test_remembered_steps_are_forgotten_when_there_are_many(monkeypatch):
    monkeypatch.setattr(earley, "_MOST_COLUMNS", 50)
    recogniser = Recogniser(read_grammar('root ::= "(" root ")" | "x"'))
    kept = recogniser.after(b"(" * 10)
    assert recogniser.after(b"(" * 1000 + b"x" + b")" * 1000).complete
    gc.collect()
    assert len(recogniser._columns) < 200
    assert recogniser.after(b"(" * 10) is kept


def test_deep_nesting_needs_no_deep_recursion():
    recogniser = Recogniser(read_grammar('root ::= "(" root ")" | "x"'))
    column = recogniser.after(b"(" * 5_000)
    assert column.bytes_left == 5_001
    assert recogniser.after(b"(" * 5_000 + b"x" + b")" * 5_000).complete
