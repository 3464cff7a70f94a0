"""Whether the parts of a constraint agree with one another, tried on all short strings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from uqsparse.inference.constraints.constraint import Constraint
from uqsparse.kernels.arguments import require_count

Member = Callable[[tuple[int, ...]], bool]


@dataclass(frozen=True)
class PrefixEvidence:
    """What was tried without finding a contradiction.

    Args:
        max_length: most tokens of the strings that were tried.
        n_strings: strings that were tried.
        n_members: of those, members.
        n_refused: of those, strings that are refused although all of their prefixes are not.
        n_dead_ends: prefixes that are not refused, with no member among their continuations up to `max_length`. Not an
            error, but samplers may lose weight there. Those of `max_length` tokens that are no members count too.
        n_longer_dead_ends: of those, the ones that are exactly `max_length` tokens long, where a member may be behind.
        independent: whether membership was told by something else than the states that were walked.
    """

    max_length: int
    n_strings: int
    n_members: int
    n_refused: int
    n_dead_ends: int
    n_longer_dead_ends: int
    independent: bool


@dataclass
class _Visit:
    tokens: tuple[int, ...]
    parent: int  # its number among the visits; -1 for the empty string
    state: Any  # None behind a refused prefix
    refused: tuple[int, ...] | None  # the shortest prefix that is refused
    is_member: bool
    fewest: float = float("inf")  # tokens to the nearest member among the strings that were tried


def check_prefix_consistency(
    constraint: Constraint,
    max_length: int,
    alphabet: Sequence[int] | None = None,
    *,
    member: Member | None = None,
    max_strings: int = 100_000,
) -> PrefixEvidence:
    """Try all strings of tokens up to a length, and compare what a constraint says of them and of their prefixes.

    Checked are: no member has a refused prefix; a string is complete if and only if it is a member;
    `steps_to_complete` is never more than it really takes; `accepts` and `allowed` say what `step`, `is_complete` and
    `steps_to_complete` do; and strings with equal states have the same next tokens and the same completeness.

    Args:
        constraint: to be tried.
        max_length: most tokens of a string, the end not counted.
        alphabet: the tokens to try; None for all but the end.
        member: tells membership of a tuple of tokens without looking at prefixes. None for the constraint's own
            `is_member`, and where it has none, for `is_complete` after the walk: then members behind a refused prefix
            cannot be seen.
        max_strings: most strings to try.

    Returns:
        What was tried.

    Raises:
        ValueError: a contradiction, with the string; or there are more than `max_strings` strings.

    >>> from uqsparse.inference.constraints.predicate import PredicateConstraint
    >>> from uqsparse.inference.constraints.vocabulary import Vocabulary
    >>> no_b = PredicateConstraint(lambda s: "b" not in s, lambda s: s == "aba", Vocabulary.of(["a", "b"]))
    >>> check_prefix_consistency(no_b, 3)
    Traceback (most recent call last):
    ValueError: the string (0, 1, 0) ('aba') is a member, but its prefix (0, 1) ('ab') is refused
    """
    require_count("max_length", max_length, 0)
    tokens = _alphabet(constraint, alphabet)
    _require_few(len(tokens), max_length, max_strings)
    told: Member | None = member if member is not None else getattr(constraint, "is_member", None)
    visits = _walk(constraint, tokens, max_length, told)
    for visit in reversed(visits):  # longer strings first
        if visit.is_member:
            visit.fewest = 0
        if visit.parent >= 0:
            parent = visits[visit.parent]
            parent.fewest = min(parent.fewest, visit.fewest + 1)
    _check_steps(constraint, visits)
    _check_answers(constraint, visits, tokens, max_length)
    dead = [v for v in visits if v.state is not None and v.fewest == float("inf")]
    return PrefixEvidence(
        max_length=max_length,
        n_strings=len(visits),
        n_members=sum(v.is_member for v in visits),
        n_refused=sum(v.refused == v.tokens for v in visits),
        n_dead_ends=len(dead),
        n_longer_dead_ends=sum(len(v.tokens) == max_length for v in dead),
        independent=told is not None,
    )


def _walk(constraint: Constraint, alphabet: Sequence[int], max_length: int, told: Member | None) -> list[_Visit]:
    """Visit the strings, shorter ones first; those behind a refused prefix only if membership is told without it."""
    visits: list[_Visit] = []
    pending: list[tuple[tuple[int, ...], int]] = [((), -1)]
    for string, parent in pending:  # grows while it is walked
        before = visits[parent] if parent >= 0 else None
        refused = before.refused if before else None
        state = None
        if refused is None:
            state = constraint.step(before.state, string[-1]) if before else constraint.start()
            refused = string if state is None else None
        complete = state is not None and _boolean("is_complete", constraint.is_complete(state), constraint, string)
        is_member = complete if told is None else _boolean("the test of members", told(string), constraint, string)
        if is_member and refused is not None:
            raise ValueError(
                f"the string {_shown(constraint, string)} is a member, "
                f"but its prefix {_shown(constraint, refused)} is refused"
            )
        if is_member != complete:
            raise ValueError(
                f"is_complete says {complete} of the string {_shown(constraint, string)}; "
                f"whether it is a member: {is_member}"
            )
        visits.append(_Visit(string, parent, state, refused, is_member))
        if len(string) < max_length and (state is not None or told is not None):
            pending.extend(((*string, token), len(visits) - 1) for token in alphabet)
    return visits


def _check_steps(constraint: Constraint, visits: list[_Visit]) -> None:
    for visit in visits:
        if visit.state is None:
            continue
        claimed = constraint.steps_to_complete(visit.state)
        if claimed > visit.fewest:
            raise ValueError(
                f"steps_to_complete says {claimed} after the prefix {_shown(constraint, visit.tokens)}, "
                f"but {int(visit.fewest)} more tokens make a member"
            )


def _check_answers(constraint: Constraint, visits: list[_Visit], alphabet: Sequence[int], max_length: int) -> None:
    """Compare `accepts` and `allowed` with what the walk found, and strings of equal state with each other."""
    seen: dict[Any, tuple[tuple[int, ...], tuple[bool, ...]]] = {}
    tried = [*alphabet, constraint.vocabulary.end]
    for visit in visits:
        if visit.state is None:
            continue
        after = [constraint.step(visit.state, token) for token in alphabet]
        answers = (*(state is not None for state in after), visit.is_member)
        other, expected = seen.setdefault(visit.state, (visit.tokens, answers))
        if answers != expected:
            raise ValueError(
                f"the prefixes {_shown(constraint, other)} and {_shown(constraint, visit.tokens)} have equal states, "
                "but not the same continuations"
            )
        if other != visit.tokens:
            continue  # the same state: the same answers
        needed = [float("inf") if s is None else 1 + constraint.steps_to_complete(s) for s in after] + [0.0]
        for left in (None, *range(max_length - len(visit.tokens) + 1)):
            row = constraint.allowed(visit.state, left)
            for token, answer, least in zip(tried, answers, needed, strict=True):
                right = answer and (left is None or least <= left)
                for name, said in (
                    ("allowed", bool(row[token])),
                    ("accepts", constraint.accepts(visit.state, token, left)),
                ):
                    if said != right:
                        raise ValueError(
                            f"{name} says {said} of the token {token} after the prefix "
                            f"{_shown(constraint, visit.tokens)} with steps_left {left}; by step, is_complete and "
                            f"steps_to_complete it is {right}"
                        )


def _alphabet(constraint: Constraint, alphabet: Sequence[int] | None) -> list[int]:
    vocabulary = constraint.vocabulary
    if alphabet is None:
        return [token for token in range(len(vocabulary)) if token != vocabulary.end]
    for token in alphabet:
        require_count("a token of alphabet", token, 0)
        if token >= len(vocabulary) or token == vocabulary.end:
            raise ValueError(f"alphabet must hold tokens below {len(vocabulary)} and not the end, got {token}")
    return [int(token) for token in dict.fromkeys(alphabet)]


def _require_few(n_tokens: int, max_length: int, max_strings: int) -> None:
    n_strings, n_longest = 1, 1
    for _ in range(max_length):
        n_longest *= n_tokens
        n_strings += n_longest
        if n_strings > max_strings:
            raise ValueError(
                f"there are more than max_strings = {max_strings} strings of up to {max_length} of {n_tokens} tokens; "
                "give a smaller alphabet or a smaller max_length"
            )


def _boolean(name: str, answer: Any, constraint: Constraint, string: tuple[int, ...]) -> bool:
    if not isinstance(answer, bool | np.bool_):
        raise ValueError(f"{name} must return a Boolean, got {answer!r} of the string {_shown(constraint, string)}")
    return bool(answer)


def _shown(constraint: Constraint, string: tuple[int, ...]) -> str:
    return f"{string} ({constraint.vocabulary.decode(string)!r})"
