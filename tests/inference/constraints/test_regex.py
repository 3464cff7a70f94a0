"""Regular expressions, against Python's own matcher and against enumeration."""

import functools
import itertools
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from uqsparse.inference.constraints.regex import RegexConstraint, regex_dfa
from uqsparse.inference.constraints.vocabulary import Vocabulary

CHARACTERS = "abAZ09_- \n\té€😀ßK"  # the last one is the Kelvin sign, which (?i) folds to k outside of ASCII
SAME_LENGTH = [[(0, 0x80)], [(0x80, 0x800)], [(0x800, 0xD800), (0xE000, 0x10000)], [(0x10000, 0x110000)]]
single = st.sampled_from([re.escape(c) for c in "abk0- é€😀"])
classes = st.sampled_from(
    [
        *(r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", ".", "(?s:.)"),
        *("[ab]", "[^a]", "[a-z0-9]", "[^a-z]", "[é-€]", "[^é-😀]", r"[^\d_]", r"[\w-]", "[A-_]", r"[\Sb]", r"[^\W\d]"),
        *("(?i:a)", "(?i:[^b-z])", "(?i:[A-_])", "(?i:k)"),
    ]
)
quantifiers = st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,3}", "{2,}", "*?", "+?", "??", "{1,2}?", "{0}"])
patterns = st.recursive(
    single | classes | st.just(""),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.lists(inner, min_size=1, max_size=3).map(lambda options: f"(?:{'|'.join(options)})")
        | st.tuples(inner, quantifiers).map(lambda pair: f"({pair[0]}){pair[1]}")
    ),
    max_leaves=6,
)
small_patterns = st.recursive(
    st.sampled_from(["a", "b", ".", "[^a]", ""]),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})")
        | st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}"])).map(lambda pair: f"({pair[0]}){pair[1]}")
    ),
    max_leaves=5,
)


def matches(pattern, text):
    return re.fullmatch(pattern, text, re.ASCII) is not None


@settings(max_examples=200)
@given(patterns, st.lists(st.text(CHARACTERS, max_size=6), min_size=8, max_size=8))
def test_the_automaton_accepts_what_python_matches(pattern, texts):
    dfa = regex_dfa(pattern)
    for text in texts:
        assert dfa.accepts(text.encode()) == matches(pattern, text), text


@settings(max_examples=50)
@given(st.data())
def test_the_automaton_accepts_members(data):
    pattern = data.draw(patterns)
    member = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    assume(not any("\ud800" <= c <= "\udfff" for c in member))
    assert matches(pattern, member)
    assert regex_dfa(pattern).accepts(member.encode())


@pytest.mark.parametrize(
    "pattern",
    [
        "(?s:.)",
        ".",
        r"\w",
        r"\W",
        r"\D",
        r"\S",
        "[^a-zé-🙂]",
        "[à-ÿĀ-῿💀-💿]",
        "(?i:[k-mé])",
        r"[^\n\U00010000-\U0010ffff]",
    ],
)
def test_classes_hold_the_same_characters_of_all_of_unicode(pattern):
    """Every code point there is, walked through the table at once (surrogates have no UTF-8)."""
    dfa = regex_dfa(pattern)
    table = np.vstack([dfa.table, np.full(256, -1)])
    accepting = np.append(dfa.accepting, False)
    for length, bounds in enumerate(SAME_LENGTH):
        characters = "".join(chr(c) for low, high in bounds for c in range(low, high))
        letters = np.frombuffer(characters.encode(), np.uint8).reshape(-1, length + 1)
        states = functools.reduce(lambda s, column: table[s, column], letters.T, np.full(len(letters), dfa.start))
        expected = "".join(re.findall(pattern, characters, re.ASCII))
        assert "".join(characters[i] for i in np.flatnonzero(accepting[states])) == expected


def test_any_text_is_exactly_what_is_utf8():
    dfa = regex_dfa("(?s:.)*")

    def is_utf8(data):
        try:
            data.decode()
        except UnicodeDecodeError:
            return False
        return True

    edges = [0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEE, 0xEF]
    edges += [0xF0, 0xF1, 0xF4, 0xF5, 0xFF]
    for first in range(256):
        for rest in itertools.chain([()], *(itertools.product(edges, repeat=n) for n in (1, 2))):
            data = bytes((first, *rest))
            assert dfa.accepts(data) == is_utf8(data), data
    rng = np.random.default_rng(0)
    for data in (bytes(row) for row in rng.choice(edges, (20_000, 4)).tolist()):
        assert dfa.accepts(data) == is_utf8(data), data


@pytest.mark.parametrize(
    ("pattern", "n_states", "empty", "longest", "longer"),
    [
        (r"\d{1000}", 1001, False, "7" * 1000, "7" * 1001),
        (r"(?:ab){0,700}", 1401, True, "ab" * 700, "ab" * 701),
        (r"(a?){2000}", 2001, True, "a" * 2000, "a" * 2001),  # Python's matcher never ends on the longer one
        (r"(?s:.){0,500}", 4001, True, "é" * 499 + "\n", "€" * 501),
        ("(?:){999999999}", 1, True, "", "a"),
    ],
)
def test_big_counted_repetitions(pattern, n_states, empty, longest, longer):
    dfa = regex_dfa(pattern)
    assert dfa.n_states == n_states
    assert dfa.accepts(longest.encode())
    assert not dfa.accepts(longer.encode())
    assert dfa.accepts(b"") == empty


@pytest.mark.parametrize(
    ("pattern", "same"),
    [
        (r"^ab$", "ab"), (r"\Aab\Z", "ab"), (r"(?m)^ab$", "ab"), (r"(^a|^b)c$|^$", "[ab]c|"),
        (r"(?:^a)?b", "a?b"), ("(?x) a b # c", "ab"), ("a|b|c", "[a-c]"),
        (r"(^)a($)", "a"), (r"^^a(?:b$|c)", "a[bc]"), ("a+?b??", "a+b?"), ("(?P<year>a){2}", "aa"),
        ("(?i)aB1", "[aA][bB]1"), ("(?i:a(?-i:b))", "[aA]b"), ("((a+)+)*", "a*"),
        ("(a{2,})*", "(aaa*)?"), (r"()^(?:)a$()", "a"), ("(?s).", r"(?s:.)"),
    ],
)  # fmt: skip
def test_patterns_of_the_same_language_have_the_same_automaton(pattern, same):
    one, other = regex_dfa(pattern), regex_dfa(same)
    assert one.n_states == other.n_states
    both = one.intersect(other)
    assert both.n_states == one.n_states
    for text in map("".join, itertools.product("abc\nB1", repeat=3)):
        for cut in range(4):
            assert one.accepts(text[:cut].encode()) == matches(pattern, text[:cut])


@pytest.mark.parametrize(
    ("pattern", "construct"),
    [
        (r"(a)\1", "back-reference"), (r"(?P<x>a)(?P=x)", "back-reference"), (r"(a)?(?(1)b|c)", "conditional"),
        (r"(?=a)a", "look-around"), (r"(?!a)b", "look-around"), (r"(?<=a)b", "look-around"), (r"a(?!)", "look-around"),
        (r"\bab", "word boundary"), (r"a\B", "word boundary"), (r"(?>a|ab)c", "atomic"), (r"a*+b", "possessive"),
        (r"a^b", "anchor"), (r"a$b", "anchor"), (r"(^a)*", "anchor"), (r"a$\n", "anchor"), (r"a?^b", "anchor"),
        (r"(?u:\w)", "Unicode classes"), (r"(a", "no regular expression"), (r"[b-a]", "no regular expression"),
        (r"(?u)a", "no regular expression"), ("a{0,99999999999}", "no regular expression"),
        ("(" * 3000 + ")" * 3000, "deep"),
    ],
    ids=lambda value: value[:20],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(pattern, construct):
    with pytest.raises(ValueError, match=construct) as error:
        regex_dfa(pattern)
    assert repr(pattern)[:50] in str(error.value)


@pytest.mark.parametrize("pattern", [r"(a|b)*a(a|b){12}", "((a{999}){999}){999}", r"x*.{0,40}x", "(a{0,50}b?){50}"])
def test_patterns_with_too_many_states_are_refused(pattern):
    with pytest.raises(ValueError, match="max_states = 500") as error:
        regex_dfa(pattern, max_states=500)
    assert repr(pattern) in str(error.value)


@pytest.mark.parametrize("pattern", [b"a", re.compile("a"), None], ids=["bytes", "compiled", "none"])
def test_a_pattern_has_to_be_a_str(pattern):
    with pytest.raises(TypeError, match="pattern must be a str"):
        regex_dfa(pattern)


@pytest.mark.parametrize(
    ("pattern", "tokens", "max_length", "message"),
    [
        (r"[^\s\S]", ["a"], None, "no text at all"),
        (r"a[^\s\S]|\ud800", ["a"], None, "no text at all"),
        ("ab*", ["b", "ba"], None, "no sequence of the vocabulary's tokens"),
        ("é", ["e", "´"], None, "no sequence of the vocabulary's tokens"),
        ("a{7}", ["aa", "aaa"], 2, "its shortest member has 3 tokens; max_length is 2"),
    ],
    ids=["empty", "surrogate", "unspelled", "accent", "long"],
)
def test_a_pattern_that_nothing_matches_is_refused(pattern, tokens, max_length, message):
    with pytest.raises(ValueError, match=message) as error:
        RegexConstraint(pattern, Vocabulary.of(tokens), max_length=max_length)
    assert repr(pattern) in str(error.value)


def test_the_shortest_member_may_be_as_long_as_asked_for():
    assert RegexConstraint("a{7}", Vocabulary.of(["aa", "aaa"]), max_length=3).steps_to_complete(0) >= 0
    assert RegexConstraint("a*", Vocabulary.of(["a"]), max_length=0).is_complete(0)
    with pytest.raises(ValueError, match="max_length must be an integer of at least 0, got -1"):
        RegexConstraint("a*", Vocabulary.of(["a"]), max_length=-1)


@settings(max_examples=150)
@given(
    small_patterns, st.lists(st.sampled_from(["a", "b", "ab", "ba", "bb", "aba"]), min_size=1, max_size=3, unique=True)
)
def test_living_prefixes_and_fewest_tokens_against_all_strings(pattern, tokens):
    """A prefix lives if and only if a member begins with it; found by trying all strings of up to six tokens."""
    longest, shown = 6, 3
    strings = [s for n in range(longest + 1) for s in itertools.product(range(len(tokens)), repeat=n)]
    members = [s for s in strings if matches(pattern, "".join(tokens[t] for t in s))]
    fewest = {}
    for member in members:
        for n in range(len(member) + 1):
            fewest[member[:n]] = min(fewest.get(member[:n], longest), len(member) - n)
    try:
        constraint = RegexConstraint(pattern, Vocabulary.of(tokens))
    except ValueError:
        assert not members
        return
    for s in strings:
        if len(s) > shown:
            break
        state = constraint.state_of(s)
        if s in fewest:
            assert state is not None
            assert constraint.is_complete(state) == (fewest[s] == 0)
            assert constraint.steps_to_complete(state) == fewest[s]
        else:
            assert state is None or constraint.steps_to_complete(state) > longest - len(s)


def test_the_states_of_a_constraint_tell_which_continuations_there_are():
    """Prefixes with the same continuations have one state: the automaton is the smallest."""
    constraint = RegexConstraint("(a|b)(a|b)|c", Vocabulary.of(["a", "b", "c"]))
    assert constraint.state_of([0]) == constraint.state_of([1])
    assert constraint.state_of([0, 1]) == constraint.state_of([2])
    assert constraint.state_of([2, 2]) is None
    assert repr(constraint) == "RegexConstraint('(a|b)(a|b)|c')"
