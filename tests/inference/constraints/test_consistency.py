"""The check of constraints, on right ones and on ones that are wrong in one place each."""

import dataclasses
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.inference.constraints.consistency import check_prefix_consistency
from uqsparse.inference.constraints.constraint import Constraint
from uqsparse.inference.constraints.predicate import PredicateConstraint
from uqsparse.inference.constraints.regex import RegexConstraint
from uqsparse.inference.constraints.vocabulary import Vocabulary

LETTERS = Vocabulary.of(["a", "b", "c"])


class Balanced(Constraint):
    """As many b as a at the end, never more before; c anywhere. Right, and with one part to be replaced."""

    vocabulary = LETTERS

    def start(self):
        return 0

    def step(self, state, token):
        after = state + (1, -1, 0)[token]
        return after if after >= 0 else None

    def is_complete(self, state):
        return state == 0

    def steps_to_complete(self, state):
        return state


def balanced(**parts):
    return type("Wrong", (Balanced,), parts)()


@given(st.sampled_from(["(ab)*c?", "a{2}|b", "[^b]*", "(a|bc)*b", ""]), st.integers(0, 5))
def test_evidence_counts_what_was_tried(pattern, max_length):
    evidence = check_prefix_consistency(RegexConstraint(pattern, LETTERS), max_length)
    strings = ["".join(s) for n in range(max_length + 1) for s in itertools.product("abc", repeat=n)]
    longer = strings + ["".join(s) for s in itertools.product("abc", repeat=max_length + 1)] + [
        s + t for s in strings for t in ("a", "b", "aa", "ab", "bc", "cb")
    ]  # fmt: skip
    members = {s for s in longer if re.fullmatch(pattern, s)}
    living = {m[:n] for m in members for n in range(len(m) + 1)} & set(strings)
    within = {m[:n] for m in members & set(strings) for n in range(len(m) + 1)}
    assert evidence.n_strings == len(strings)
    assert evidence.n_members == len(members & set(strings))
    assert evidence.n_refused == sum(s not in living and (s == "" or s[:-1] in living) for s in strings)
    assert evidence.n_dead_ends == len(living - within)
    assert evidence.n_longer_dead_ends == sum(len(s) == max_length for s in living - within)
    assert evidence.independent


def test_a_right_constraint_of_ones_own_passes():
    evidence = check_prefix_consistency(Balanced(), 5)
    assert not evidence.independent
    assert evidence.n_members == sum(
        all(s[:n].count("a") >= s[:n].count("b") for n in range(len(s))) and s.count("a") == s.count("b")
        for n in range(6) for s in map("".join, itertools.product("abc", repeat=n))
    )  # fmt: skip
    told = check_prefix_consistency(Balanced(), 5, member=lambda s: Balanced().state_of(s) == 0)
    assert told.independent
    with pytest.raises(ValueError, match=r"must return a Boolean, got 0 of the string \(\) \(''\)"):
        check_prefix_consistency(Balanced(), 5, member=lambda s: 0)


def test_a_member_behind_a_refused_prefix_is_found():
    constraint = PredicateConstraint(lambda s: len(s) != 2, lambda s: s == "abc", LETTERS)
    message = re.escape("the string (0, 1, 2) ('abc') is a member, but its prefix (0, 1) ('ab') is refused")
    with pytest.raises(ValueError, match=message):
        check_prefix_consistency(constraint, 3)
    assert check_prefix_consistency(constraint, 2).n_refused == 9
    assert check_prefix_consistency(constraint, 4, alphabet=[0, 1]).n_members == 0


def test_a_generous_prefix_is_right_and_its_dead_ends_are_counted():
    constraint = PredicateConstraint(lambda s: True, lambda s: s == "ab", LETTERS)
    evidence = check_prefix_consistency(constraint, 3)
    assert (evidence.n_members, evidence.n_refused) == (1, 0)
    assert evidence.n_dead_ends == 1 + 3 + 9 + 27 - 3  # all but '', 'a' and 'ab'
    assert evidence.n_longer_dead_ends == 27
    assert dataclasses.asdict(evidence)["max_length"] == 3


def never_after_two(self, state, token):
    after = Balanced.step(self, state, token)
    return None if after == 2 else after


def all_allowed(self, state, steps_left=None):
    return [True] * 4


def steps_forgotten(self, state, token, steps_left=None):
    return Constraint.accepts(self, state, token)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"steps_to_complete": lambda self, state: state + 1}, r"says 1 after the prefix .*, but 0 more"),
        ({"is_complete": lambda self, state: state <= 1}, r"is_complete says True of the string \(0,\) \('a'\)"),
        ({"step": never_after_two}, r"\('aabb'\) is a member, but its prefix \(0, 0\) \('aa'\)"),
        ({"allowed": all_allowed}, r"allowed says True of the token 1 .* with steps_left None"),
        ({"accepts": steps_forgotten}, r"says True of the token 0 after the prefix .* with steps_left 0"),
    ],
    ids=["steps", "complete", "prefix", "allowed", "accepts"],
)  # fmt: skip
def test_each_part_that_is_wrong_is_found(parts, message):
    def is_member(self, tokens):
        counts = [tokens[:n].count(0) - tokens[:n].count(1) for n in range(len(tokens) + 1)]
        return min(counts) >= 0 and counts[-1] == 0

    with pytest.raises(ValueError, match=message):
        check_prefix_consistency(balanced(**{"is_member": is_member, **parts}), 4)


@dataclasses.dataclass(frozen=True)
class Open:
    """How many a's are open; two of them count as equal if both are odd or both even."""

    n: int

    def __eq__(self, other):
        return self.n % 2 == other.n % 2

    def __hash__(self):
        return self.n % 2


def test_states_that_are_equal_but_go_on_differently_are_found():
    class Parity(Balanced):
        def start(self):
            return Open(0)

        def step(self, state, token):
            after = Balanced.step(self, state.n, token)
            return None if after is None else Open(after)

        def is_complete(self, state):
            return state.n == 0

        def steps_to_complete(self, state):
            return state.n

    message = re.escape("prefixes () ('') and (0, 0) ('aa') have equal states, but not the same continuations")
    with pytest.raises(ValueError, match=message):
        check_prefix_consistency(Parity(), 3)


def test_too_many_strings_are_refused_with_a_hint():
    vocabulary = Vocabulary.of([f"w{i}" for i in range(500)])
    constraint = RegexConstraint(r"(w\d+)*", vocabulary)
    with pytest.raises(
        ValueError, match="more than max_strings = 100000 strings of up to 2 of 500 tokens; give a smaller"
    ):
        check_prefix_consistency(constraint, 2)
    assert check_prefix_consistency(constraint, 2, alphabet=[3, 4, 3]).n_strings == 7
    with pytest.raises(ValueError, match="alphabet must hold tokens below 501 and not the end, got 500"):
        check_prefix_consistency(constraint, 2, alphabet=[500])
    with pytest.raises(ValueError, match="max_length must be an integer of at least 0"):
        check_prefix_consistency(constraint, -1)
