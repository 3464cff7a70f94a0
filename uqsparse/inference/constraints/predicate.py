"""Any Python predicates as constraints."""

from collections.abc import Callable
from typing import Any

import numpy as np

from uqsparse.inference.constraints.constraint import Constraint
from uqsparse.inference.constraints.vocabulary import Vocabulary

_SHOWN = 120  # characters of a prefix in an error


class PredicateConstraint(Constraint):
    """Strings that a Python predicate accepts, with a second one that knows which prefixes may still become a member.

    Args:
        prefix: whether a prefix may have a member among its continuations. It may say yes more often than that; it
            must say yes to all prefixes of members.
        complete: whether a string is a member.
        vocabulary: the tokens.
        on: what the predicates are asked about: "text", a str, or "tokens", a tuple of token numbers. With "text",
            tokens without text are refused, and so are bytes that no continuation turns into UTF-8; the first bytes of
            an unfinished character are held back until it is whole, and no string ends before.
        check: whether to ask `complete` about every prefix that `prefix` refuses, which costs one more call for each.

    Raises:
        ValueError: here or in any later call: a predicate raises an exception or answers with anything but a Boolean,
            or (with `check`) `prefix` refuses what `complete` accepts. Here: the empty prefix is refused.

    >>> letters = Vocabulary.of(["a", "b"])
    >>> only_ab = PredicateConstraint(lambda s: "ab".startswith(s), lambda s: s == "ab", letters)
    >>> only_ab.allowed(only_ab.state_of([0, 1]))
    array([False, False,  True])
    """

    def __init__(
        self,
        prefix: Callable[[Any], bool],
        complete: Callable[[Any], bool],
        vocabulary: Vocabulary,
        *,
        on: str = "text",
        check: bool = True,
    ):
        if on not in ("text", "tokens"):
            raise ValueError(f"on must be 'text' or 'tokens', got {on!r}")
        self.prefix, self.complete, self.vocabulary = prefix, complete, vocabulary
        self.on, self.check = on, check
        empty = "" if on == "text" else ()
        if not self._may_go_on(empty, empty, None):
            raise ValueError("prefix refuses the empty prefix, so that nothing satisfies the constraint")

    def start(self) -> Any:
        """The empty prefix."""
        return ("", b"") if self.on == "text" else ()

    def step(self, state: Any, token: int) -> Any | None:
        """Ask `prefix` about the prefix with one more token."""
        if token == self.vocabulary.end:
            return None
        if self.on == "tokens":
            after = (*state, int(token))
            return after if self._may_go_on(after, state, token) else None
        spelled = self.vocabulary.tokens[token]
        if spelled is None:
            return None
        text, unfinished = state
        decoded = _decode(unfinished + spelled)
        if decoded is None:
            return None
        more, unfinished = decoded
        if more and not self._may_go_on(text + more, text, token):
            return None
        return text + more, unfinished

    def is_complete(self, state: Any) -> bool:
        """Ask `complete`."""
        if self.on == "tokens":
            return self._ask("complete", state, state, None)
        text, unfinished = state
        return not unfinished and self._ask("complete", text, text, None)

    def is_member(self, tokens: tuple[int, ...]) -> bool:
        """Whether `complete` accepts a whole string, whatever `prefix` says of its prefixes."""
        if self.vocabulary.end in tokens:
            return False
        if self.on == "tokens":
            string: Any = tuple(map(int, tokens))
        else:
            if any(self.vocabulary.tokens[token] is None for token in tokens):
                return False
            try:
                string = self.vocabulary.spell(tokens).decode()
            except UnicodeDecodeError:
                return False
        return self._ask("complete", string, string, None)

    def _may_go_on(self, string: Any, before: Any, token: int | None) -> bool:
        if self._ask("prefix", string, before, token):
            return True
        if self.check and self._ask("complete", string, before, token):
            raise ValueError(f"prefix refuses {self._place(before, token)}, but complete accepts it")
        return False

    def _ask(self, which: str, string: Any, before: Any, token: int | None) -> bool:
        try:
            answer = getattr(self, which)(string)
        except Exception as error:
            place = self._place(before, token)
            raise ValueError(f"{which} raised {type(error).__name__}: {error}; asked about {place}") from error
        if not isinstance(answer, bool | np.bool_):
            raise ValueError(
                f"{which} must return a Boolean, got {answer!r} of type {type(answer).__name__}; "
                f"asked about {self._place(before, token)}"
            )
        return bool(answer)

    def _place(self, before: Any, token: int | None) -> str:
        shown = repr(before)
        if len(shown) > _SHOWN:
            shown = f"{shown[: _SHOWN // 2]} ... {shown[-_SHOWN // 2 :]}"
        if token is None:
            return f"the prefix {shown}"
        return f"the prefix {shown} with the token {token} ({self.vocabulary.tokens[token]!r})"


def _decode(data: bytes) -> tuple[str, bytes] | None:
    """The whole characters of some bytes, and the rest that may still become one; None if it cannot."""
    try:
        return data.decode(), b""
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return None
        return data[: error.start].decode(), data[error.start :]
