"""Grammars over tokens: JSON against Python's own reader, the trie against one by one, the bound against a search."""

import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.inference.constraints.constraint import Constraint
from uqsparse.inference.constraints.earley import Recogniser
from uqsparse.inference.constraints.grammar import read_grammar
from uqsparse.inference.constraints.grammar_constraint import GrammarConstraint
from uqsparse.inference.constraints.json_grammar import JSON, ArrayOf, json_object_grammar
from uqsparse.inference.constraints.vocabulary import Vocabulary

RECOGNISER = Recogniser(read_grammar(JSON))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
BYTES = Vocabulary((*(bytes([byte]) for byte in range(256)), None), 256)


def no_constant(name):
    raise ValueError(name)


def is_json(text):
    """RFC 8259 by the standard library, and white space as the grammar has it."""
    try:
        json.loads(text, parse_constant=no_constant)
    except ValueError:
        return False
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)
    return all(re.fullmatch(r" |\n[ \t]{0,20}", blank) for blank in re.findall(r"\s+", outside)) and not (
        outside[0].isspace() or outside[-1].isspace()
    )


def accepts(recogniser, text):
    column = recogniser.after(text.encode())
    return column is not None and column.complete


@given(VALUES, st.sampled_from([None, 0, 1, 2]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_json_texts_are_accepted(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert is_json(text)
    assert accepts(RECOGNISER, text)
    assert accepts(RECOGNISER, json.dumps(value, separators=(",", ":")))


@given(VALUES, st.data())
@settings(max_examples=300, deadline=None)
def test_changed_json_texts_are_accepted_exactly_when_python_reads_them(value, data):
    text = list(json.dumps(value, indent=data.draw(st.sampled_from([None, 1]))))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text)))
        width = data.draw(st.integers(0, 2))
        text[place : place + width] = data.draw(st.sampled_from(['"', "\\", "}", "]", ",", ":", "0", "-", ".", "e", " ",
            "\n", "\t", "u00e", "\x07", "é", "[", "{", "true", "nul", "", '\\"']))  # fmt: skip
    joined = "".join(text)
    assert accepts(RECOGNISER, joined) == is_json(joined)


@given(VALUES, st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_every_beginning_of_json_lives_and_is_completed_by_the_fewest_bytes(value, cut):
    column = RECOGNISER.after(json.dumps(value, ensure_ascii=False).encode()[:cut])
    assert column is not None
    while not column.complete:  # some byte brings the end nearer, each time
        left = column.bytes_left
        after = [RECOGNISER.advance(column, c) for c in set(RECOGNISER.byte_classes)]
        column = min((c for c in after if c is not None), key=lambda c: c.bytes_left)
        assert column.bytes_left == left - 1


NO_JSON = ["", " 1", "1 ", "01", "1.", ".5", "+1", "1e", "NaN", "[1,]", '{"a":1,}', "{a:1}", "'a'", '"\t"', '"\\x"',
           '"\\u12"', "[1,  2]", "[1,\n" + 21 * " " + "2]", "[1,\r2]", "nulls", "[", '"a', "[]]"]  # fmt: skip


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_no_json_here(text):
    assert not accepts(RECOGNISER, text)


FIELDS = {
    "name": "string",
    "age": "integer",
    "height": "number",
    "member": "boolean",
    "nothing": "null",
    "kind": ["a", 'b"\\', 3, None, True, "é"],
    "tags": ArrayOf("string"),
    "pair": ArrayOf("integer", 2, 2),
    "some": ArrayOf({"x": "value"}, 1, 3),
    "none": ArrayOf("string", 0, 0),
    "inner": {"é\n": "array", "empty": {}, "any": "object"},
}
OBJECT = {
    "name": "Ana",
    "age": -3,
    "height": 1.5,
    "member": False,
    "nothing": None,
    "kind": 'b"\\',
    "tags": [],
    "pair": [1, 2],
    "some": [{"x": {"y": [1]}}],
    "none": [],
    "inner": {"é\n": [1, "a"], "empty": {}, "any": {"k": 1}},
}


def test_objects_with_known_fields():
    recogniser = Recogniser(read_grammar(json_object_grammar(FIELDS)))

    def takes(**changed):
        text = json.dumps(OBJECT | changed, ensure_ascii=False)
        assert accepts(recogniser, json.dumps(OBJECT | changed, ensure_ascii=False, indent=1)) == accepts(
            recogniser, text
        )
        return accepts(recogniser, text)

    assert takes()
    assert all(takes(kind=choice) for choice in FIELDS["kind"])
    assert all(takes(tags=tags) for tags in (["a"], ["a", "b"], ["a", "b", "c"]))
    assert all(takes(some=[{"x": 1}] * n) == (1 <= n <= 3) for n in range(6))
    assert all(takes(pair=[1] * n) == (n == 2) for n in range(4))
    wrong = [
        {"name": 1}, {"age": 1.5}, {"age": "1"}, {"height": True}, {"member": None}, {"nothing": 0}, {"kind": "c"},
        {"kind": 33}, {"tags": [1]}, {"none": ["a"]}, {"inner": {}}, {"more": 1},
    ]  # fmt: skip
    assert not any(takes(**change) for change in wrong)
    assert not accepts(recogniser, json.dumps(dict(reversed(OBJECT.items())), ensure_ascii=False))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (["a"], TypeError, "fields must map names"),
        ({1: "string"}, TypeError, "fields has the name 1"),
        ({"a": {"b": "text"}}, ValueError, r"fields\['a'\]\['b'\] must be one of"),
        ({"a": []}, ValueError, r"fields\['a'\] is an empty list"),
        ({"a": [float("nan")]}, TypeError, "has the literal nan"),
        ({"a": [[1]]}, TypeError, "has the literal"),
        ({"a": 3}, TypeError, r"fields\['a'\] must be the name of a type"),
        ({"a": ArrayOf("real")}, ValueError, r"fields\['a'\].item must be one of"),
        ({"a": ArrayOf("null", 3, 2)}, ValueError, r"at_most must be an integer of at least 3, got 2"),
        ({"a": ["\ud800"]}, ValueError, "surrogate"),
    ],
)
def test_fields_of_unknown_types_are_refused(fields, error, message):
    with pytest.raises(error, match=message):
        json_object_grammar(fields)


PIECES = ['{"', '"', '":', ": ", ",", "}", "]", "[", "tr", "true", "ue", "1", "12", "1,2", "0.5", '"}', '"}]', "\\",
          "\\n", "n", "name", "na", "me", "é", " ", "\n", "  ", "{}", "[]", "[[", "a}", 'x"', 'xyz"]']  # fmt: skip
HALVES = (b"\xc3", b"\xa9", b'\xa9"', b"\xf0\x9f", None)


@pytest.mark.parametrize("grammar", [JSON, json_object_grammar({"name": "string", "n": ArrayOf("integer", 1)})])
@pytest.mark.parametrize("steps_left", [None, 0, 1, 2, 3, 5])
def test_masks_from_the_trie_equal_one_by_one(grammar, steps_left):
    """Along random walks through living tokens; tokens with halves of characters, and tokens without text, too."""
    vocabulary = Vocabulary((*(piece.encode() for piece in PIECES), *HALVES, b"end", None), len(PIECES) + len(HALVES))
    constraint = GrammarConstraint(grammar, vocabulary)
    rng = np.random.default_rng(0)
    for _ in range(6):
        state = constraint.start()
        for _ in range(12):
            mask = constraint.allowed(state, steps_left)
            np.testing.assert_array_equal(mask, Constraint.allowed(constraint, state, steps_left))
            choices = np.flatnonzero(constraint.allowed(state))
            choices = choices[choices != vocabulary.end]
            if not len(choices):
                break
            state = constraint.step(state, int(rng.choice(choices)))
            assert state is not None


@pytest.mark.parametrize(
    "grammar", ['root ::= "a" root "b" | "ab"*', 'root ::= root root | "aab" | "b"', "root ::= [ab]{3}"]
)
def test_steps_to_complete_never_exceed_the_fewest_tokens(grammar):
    """Against a search through all strings of up to four tokens behind each beginning."""
    constraint = GrammarConstraint(grammar, Vocabulary.of(["a", "ab", "bb", "b", "aab"]))
    depth, exact = 4, 0
    for prefix in itertools.chain.from_iterable(itertools.product(range(5), repeat=n) for n in range(4)):
        state = constraint.state_of(prefix)
        if state is None:
            continue
        ends = [state]
        fewest = 0
        while ends and not any(map(constraint.is_complete, ends)) and fewest < depth:
            ends = {after for s in ends for t in range(5) if (after := constraint.step(s, t)) is not None}
            fewest += 1
        if any(map(constraint.is_complete, ends)):
            assert constraint.steps_to_complete(state) <= fewest
            exact += constraint.steps_to_complete(state) == fewest
    assert exact > 5  # the bound is met, too


def test_tokens_without_text_and_the_end_spell_nothing():
    constraint = GrammarConstraint('root ::= "ab"*', Vocabulary((b"ab", None, b"ab"), 2))
    assert constraint.step(constraint.start(), 1) is None
    assert constraint.allowed(constraint.start()).tolist() == [True, False, True]
    assert constraint.allowed(constraint.start(), 0).tolist() == [False, False, True]


def test_json_of_fields_by_name():
    constraint = GrammarConstraint.json(BYTES, {"a": "integer"})
    state = constraint.state_of(b'{"a": -1')
    assert state is not None
    assert constraint.steps_to_complete(state) == 1
    assert constraint.state_of(b'{"b') is None
    assert GrammarConstraint.json(BYTES).state_of(b'{"b') is not None
