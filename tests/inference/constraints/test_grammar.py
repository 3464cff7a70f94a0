"""Reading grammars: regular ones against `re`, characters against `str.encode`, and what is refused."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.inference.constraints.earley import Recogniser
from uqsparse.inference.constraints.grammar import read_grammar

# Both notations agree on these.
REGULAR = st.recursive(
    st.sampled_from(["[ab]", "[^a]", "[b-c]"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} {pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} | {pair[1]})"),
        st.tuples(inner, st.sampled_from(["?", "*", "+", "{2}", "{1,3}", "{,2}", "{2,}", "{0}"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
)
LETTERS = st.characters(codec="utf-8")  # no surrogates
TEXTS = ["".join(letters) for n in range(5) for letters in itertools.product("abc", repeat=n)]


@given(REGULAR)
@settings(max_examples=60, deadline=None)
def test_regular_right_hand_sides_mean_what_they_mean_to_re(expression):
    recogniser = Recogniser(read_grammar(f"root ::= {expression}"))
    pattern = re.compile(expression.replace(" ", ""))
    members = {text for text in TEXTS if (column := recogniser.after(text.encode())) and column.complete}
    assert members == {text for text in TEXTS if pattern.fullmatch(text)}


@given(st.text(max_size=6), st.lists(st.tuples(LETTERS, LETTERS), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_classes_hold_characters_of_any_length(text, pairs):
    """Every character that UTF-8 can spell is either in a class or in its complement, and in no other way."""
    ranges = [tuple(sorted(pair)) for pair in pairs]
    inside = "".join(f"\\U{ord(low):08x}-\\U{ord(high):08x}" for low, high in ranges)
    of = {sign: Recogniser(read_grammar(f"root ::= [{sign}{inside}]*")) for sign in ("", "^")}
    for character in text + "".join(low + high for low, high in ranges):
        held = any(low <= character <= high for low, high in ranges)
        for sign, recogniser in of.items():
            column = recogniser.after(character.encode())
            assert (column is not None and column.complete) == (held if sign == "" else not held)


@pytest.mark.parametrize("not_utf8", [b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xff", b"\xe0\x80"])
def test_a_complement_holds_no_bytes_that_are_no_utf8(not_utf8):
    assert Recogniser(read_grammar('root ::= [^"]*')).after(not_utf8) is None


def test_literals_know_escapes_and_both_quotes_and_comments_are_skipped():
    grammar = r"""
    # a rule over several lines
    first: 'it\'s' " \x41\u00e9\U0001F600\n" // the rest of a line
         | second_rule-2
    second_rule-2 ::= [\]\-^\\] [a-] "#|//"
    """
    recogniser = Recogniser(read_grammar(grammar))
    for text in ("it's Aé😀\n", "]a#|//", "--#|//", "^-#|//", "\\a#|//"):
        column = recogniser.after(text.encode())
        assert column is not None, text
        assert column.complete, text
    assert recogniser.after(b"ba") is None


def test_the_start_is_root_or_the_first_rule_or_the_one_asked_for():
    text = 'a ::= "a" \n root ::= "r" \n b ::= "b"'
    for start, member in ((None, b"r"), ("a", b"a"), ("b", b"b")):
        assert Recogniser(read_grammar(text, start)).after(member)
    assert Recogniser(read_grammar(text.replace("root", "c"))).after(b"a")


def test_unproductive_and_unreachable_rules_are_removed():
    grammar = read_grammar('root ::= "a" | loop "b" | root \n loop ::= "c" loop \n alone ::= "d"')
    assert grammar.names == ("root",)
    assert len(grammar.rules) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rule"),
        ('root ::= "a"\nb ::= nothing', "line 2: 'nothing' is not defined"),
        ('root ::= "a"\n\nroot ::= "b"', "line 3: 'root' is defined already, in line 1"),
        ('# begin\nroot ::= "a" root', "line 2: 'root' derives no string"),
        (r"root ::= [^\0-\U0010FFFF]", "line 1: 'root' derives no string"),
        ('root ::= "a" |', "line 1: expected a name"),
        ('root ::= "a" | | "b"', "got '|'"),
        ('root ::=\nb ::= "b"', "line 2: expected a name, a literal"),
        ('root ::= ("a" "b"\n', "line 2: expected the ) of the ( in line 1, got the end"),
        ('root ::= "a")', "line 1: expected a rule such as"),
        ('root ::= "a"\nb "c"', "line 2: 'b' is not defined; no rule begins b ::="),
        ('root ::= "a"\n"b" ::= "c"', "line 2: expected a name, a literal, a class or a group, got '::='"),
        ('root ::= * "a"', "line 1: expected a name"),
        ('root ::= "a', "line 1: a literal is not closed"),
        ("root ::=\n [a", "line 2: a class is not closed"),
        ("root ::= a & b", "line 1: no symbol of the notation: '& b'"),
        ("root ::= []", "line 1: the class"),
        ("root ::= [z-a]", "line 1: the range z-a"),
        (r'root ::= "\q"', r"line 1: unknown escape \q"),
        (r'root ::= "\ud800"', "is no character"),
        (r'root ::= "\U00110000"', "is no character"),
        ("root ::=\n" + "(" * 101 + '"a"' + ")" * 101, "line 2: groups are nested more than 100 deep"),
        ('root ::= "a"{3,2}', "line 1: {3,2} allows no count"),
        ('root ::= "a"{}', "line 1: expected a count"),
        ('root ::= "a"{,}', "line 1: expected a count"),
        ('root ::= "a"{1001}', "line 1: {1001} repeats more than 1000 times"),
    ],
)
def test_errors_name_line_and_symbol(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_grammar(text)


def test_a_grammar_that_is_no_text_is_refused():
    with pytest.raises(TypeError, match="must be a string of rules, got list"):
        read_grammar(["a"])


def test_a_start_that_is_not_defined_is_refused():
    with pytest.raises(ValueError, match="the start 'c' is not defined; the grammar defines a, b"):
        read_grammar('a ::= b \n b ::= "b"', start="c")
