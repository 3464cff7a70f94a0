"""Regular expressions as constraints on the text of a string."""

import re
from collections.abc import Iterable
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from uqsparse.inference.constraints.automata import DFA
from uqsparse.inference.constraints.derivatives import Expression, Expressions
from uqsparse.inference.constraints.dfa_constraint import DFAConstraint
from uqsparse.inference.constraints.utf8 import Intervals, byte_ranges, complement, intervals
from uqsparse.inference.constraints.vocabulary import Vocabulary
from uqsparse.kernels.arguments import require_count

MAX_STATES = 20_000
_SHOWN = 200  # characters of a pattern in an error

_DIGIT: Intervals = ((0x30, 0x39),)
_SPACE: Intervals = ((0x09, 0x0D), (0x20, 0x20))
_WORD: Intervals = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_CATEGORIES: dict[Any, Intervals] = {
    ops.CATEGORY_DIGIT: _DIGIT,
    ops.CATEGORY_NOT_DIGIT: complement(_DIGIT),
    ops.CATEGORY_SPACE: _SPACE,
    ops.CATEGORY_NOT_SPACE: complement(_SPACE),
    ops.CATEGORY_WORD: _WORD,
    ops.CATEGORY_NOT_WORD: complement(_WORD),
}
_NEWLINE: Intervals = ((0x0A, 0x0A),)
_AT_START = (ops.AT_BEGINNING, ops.AT_BEGINNING_STRING)
_AT_END = (ops.AT_END, ops.AT_END_STRING)
_REFUSED = {
    ops.GROUPREF: "a back-reference",
    ops.GROUPREF_EXISTS: "a conditional group (?(1)...)",
    ops.ASSERT: "look-around",
    ops.ASSERT_NOT: "look-around",
    ops.FAILURE: "look-around",
    ops.ATOMIC_GROUP: "an atomic group (?>...)",
    ops.POSSESSIVE_REPEAT: "a possessive quantifier",
}


class RegexConstraint(DFAConstraint):
    r"""Strings whose text matches a regular expression from its first character to its last.

    A text belongs to the constraint if and only if `re.fullmatch(pattern, text, re.ASCII)` accepts it. Its states are
    those of the smallest automaton, as integers.

    Args:
        pattern: in the syntax of Python's `re`, over characters; see `regex_dfa` for what is refused.
        vocabulary: the tokens that spell the text.
        max_length: most tokens of a string, the end not counted; None if there is no limit. Only checked here, for
            whether anything matches.
        max_states: most states of the automaton, before it is made smaller.

    Raises:
        ValueError: the pattern is refused, or no string of at most `max_length` tokens matches it.

    >>> digits = Vocabulary.of(["1", "23", "-"])
    >>> constraint = RegexConstraint(r"\d{3}-\d*", digits)
    >>> constraint.allowed(constraint.start())
    array([ True,  True, False, False])
    >>> constraint.steps_to_complete(constraint.start())
    3
    """

    def __init__(
        self,
        pattern: str,
        vocabulary: Vocabulary,
        *,
        max_length: int | None = None,
        max_states: int = MAX_STATES,
    ):
        dfa = regex_dfa(pattern, max_states)
        super().__init__(dfa, vocabulary, name=_named(pattern), max_length=max_length)
        self.pattern = pattern

    def __repr__(self) -> str:
        return f"RegexConstraint({self.pattern!r})"


def regex_dfa(pattern: str, max_states: int = MAX_STATES) -> DFA:
    r"""Compile a regular expression to the smallest automaton over UTF-8 bytes.

    The texts are those that `re.fullmatch(pattern, text, re.ASCII)` accepts: \d, \w and \s stand for ASCII characters,
    the flags (?i), (?s), (?x) and (?a) are understood, and whether a quantifier is lazy makes no difference. ^ and $
    may stand at the ends, where they change nothing.

    Args:
        pattern: in the syntax of Python's `re`.
        max_states: most states of the automaton, before it is made smaller.

    Raises:
        TypeError: the pattern is no str.
        ValueError: it is no regular expression; it uses a construct that is refused (back-references, look-around,
            word boundaries, anchors inside, atomic groups, possessive quantifiers, Unicode classes); or the automaton
            needs too many states.

    >>> regex_dfa("[äö]{2}").n_states
    5
    """
    if not isinstance(pattern, str):
        raise TypeError(f"pattern must be a str, got {type(pattern).__name__}")
    require_count("max_states", max_states, 1)
    try:
        try:
            tree: Any = _parser.parse(pattern, re.ASCII)
        except (re.error, ValueError, OverflowError) as error:
            raise ValueError(f"{_named(pattern)} is no regular expression: {error}") from None
        translation = _Translation(pattern, max_states)
        expression = translation.sequence(list(tree), tree.state.flags, True, True)
        return translation.build.dfa(expression, max_states)
    except RecursionError:
        raise ValueError(f"{_named(pattern)} is nested too deeply") from None


class _Translation:
    """From the syntax tree of Python's `re` to an expression over bytes."""

    def __init__(self, pattern: str, max_states: int):
        self.pattern, self.max_states = pattern, max_states
        self.build = Expressions(max_nodes=10_000 + 25 * max_states, refuse=self._too_large)

    def sequence(self, items: Iterable[Any], flags: int, first: bool, last: bool) -> Expression:
        """Translate items in a row; `first` and `last` tell whether nothing can stand before and behind them."""
        items = list(items)
        parts = [self.build.EMPTY] * len(items)
        # Items that match nothing but the empty text do not end `first`: ^(^a) is ^a. From the back likewise.
        ends = [last] * len(items)
        for i in range(len(items) - 1, 0, -1):
            ends[i - 1] = ends[i] and self._is_empty(items[i])
        for i, item in enumerate(items):
            parts[i] = self._item(item, flags, first, ends[i])
            first = first and self._is_empty(item)
        return self.build.sequence(parts)

    def _item(self, item: Any, flags: int, first: bool, last: bool) -> Expression:
        op, content = item
        if op in (ops.LITERAL, ops.NOT_LITERAL, ops.ANY, ops.IN):
            spelled = byte_ranges(self._characters(op, content, flags))
            build = self.build
            return build.union(build.sequence([build.byte_range(low, high) for low, high in s]) for s in spelled)
        if op is ops.BRANCH:
            return self.build.union(self.sequence(option, flags, first, last) for option in content[1])
        if op is ops.SUBPATTERN:
            _, added, removed, body = content
            if added & re.UNICODE:
                raise self._refused("Unicode classes (?u:...)")
            return self.sequence(body, (flags | added) & ~removed, first, last)
        if op in (ops.MAX_REPEAT, ops.MIN_REPEAT):
            least, most, body = content
            once = most == 1
            inner = self.sequence(body, flags, first and once, last and once)
            return self.build.repeat(inner, int(least), None if most is ops.MAXREPEAT else int(most))
        if op is ops.AT:
            if (content in _AT_START and first) or (content in _AT_END and last):
                return self.build.EMPTY
            if content in (*_AT_START, *_AT_END):
                raise self._refused("an anchor (^, $, \\A, \\Z) that is not at the start or the end")
            raise self._refused("a word boundary (\\b, \\B)")
        raise self._refused(_REFUSED.get(op, str(op).lower()))

    def _characters(self, op: Any, content: Any, flags: int) -> Intervals:
        if op is ops.ANY:
            return complement(() if flags & re.DOTALL else _NEWLINE)
        members = content if op is ops.IN else [(ops.LITERAL, content)]
        negated = op is ops.NOT_LITERAL
        pairs: list[tuple[int, int]] = []
        for kind, value in members:
            if kind is ops.NEGATE:
                negated = True
            elif kind is ops.LITERAL:
                pairs.append((value, value))
            elif kind is ops.RANGE:
                pairs.append(value)
            else:
                pairs.extend(_CATEGORIES[value])
        if flags & re.IGNORECASE:
            pairs.extend(_other_case(pairs))
        characters = intervals(pairs)
        return complement(characters) if negated else characters

    def _is_empty(self, item: Any) -> bool:
        """Whether an item matches nothing but the empty text, whatever its anchors say."""
        op, content = item
        if op is ops.AT:
            return True
        if op is ops.SUBPATTERN:
            return all(map(self._is_empty, content[3]))
        if op is ops.BRANCH:
            return all(self._is_empty(i) for option in content[1] for i in option)
        if op in (ops.MAX_REPEAT, ops.MIN_REPEAT):
            return content[1] == 0 or all(map(self._is_empty, content[2]))
        return False

    def _refused(self, construct: str) -> ValueError:
        return ValueError(f"{_named(self.pattern)} uses {construct}, which is not supported")

    def _too_large(self) -> None:
        raise ValueError(
            f"{_named(self.pattern)} is too large: max_states = {self.max_states} is not enough for its automaton, or "
            "for what is met while it is built; counted repetitions of things that overlap are the usual reason"
        )


def _named(pattern: str) -> str:
    shown = repr(pattern)
    return f"pattern {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'}"


def _other_case(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ASCII letters of some intervals, in the other case."""
    swapped = []
    for low, high in pairs:
        for first, last, shift in ((0x41, 0x5A, 32), (0x61, 0x7A, -32)):
            start, stop = max(low, first), min(high, last)
            if start <= stop:
                swapped.append((start + shift, stop + shift))
    return swapped
