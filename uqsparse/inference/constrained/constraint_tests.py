"""Constraint tests of one prefix: asked once for each token, and counted."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool


class ConstraintTests:
    """Whether tokens may follow one prefix. An answer is kept, but only for this prefix.

    Args:
        accept: the constraint test of one token.
        prefix: the tokens before it, named in errors; None where there is none to name.

    Attributes:
        requested: how many answers were asked for.
        evaluated: how many of them the constraint had to give; the rest were known.

    >>> tests = ConstraintTests(lambda token: token > 1, prefix=(0, 2))
    >>> [tests(1), tests(2), tests(2)], tests.requested, tests.evaluated
    ([False, True, True], 3, 2)
    """

    def __init__(self, accept: Callable[[int], bool | np.bool_], prefix: tuple[int, ...] | None = None):
        self.prefix = prefix
        self.requested = 0
        self.evaluated = 0
        self._accept = accept
        self._answers: dict[int, bool] = {}
        self._mask: Bool[np.ndarray, " v"] | None = None

    def __call__(self, token: int) -> bool:
        """Whether a token may follow.

        Raises:
            ValueError: the constraint answered something else than true or false.
        """
        self.requested += 1
        if self._mask is not None:
            return bool(self._mask[token])
        answer = self._answers.get(token)
        if answer is None:
            answer = self._answers[token] = self._ask(token)
        return answer

    def of_all(
        self, n_tokens: int, allowed: Callable[[], Bool[np.ndarray, " v"]] | None = None
    ) -> Bool[np.ndarray, " v"]:
        """Whether each token of the vocabulary may follow; counted as one test a token, however it is computed.

        Args:
            n_tokens: size of the vocabulary v.
            allowed: computes all answers at once; they are asked for one by one if it is not given.

        Raises:
            ValueError: `allowed` returned something else than v Booleans, or what `__call__` raises.
        """
        self.requested += n_tokens
        if self._mask is None:
            if allowed is None:
                answers = (self._answers.get(token) for token in range(n_tokens))
                mask = np.array([self._ask(t) if known is None else known for t, known in enumerate(answers)])
            else:
                mask = np.asarray(allowed())
                self.evaluated += n_tokens - len(self._answers)
            if mask.shape != (n_tokens,) or mask.dtype != bool:
                raise ValueError(
                    f"the constraint gave a mask of shape {mask.shape} and type {mask.dtype}{self._place()}; "
                    f"expected {n_tokens} Booleans"
                )
            self._mask = mask
        return self._mask

    def _ask(self, token: int) -> bool:
        answer = self._accept(token)
        if not isinstance(answer, bool | np.bool_):
            raise ValueError(
                f"the constraint answered {answer!r} to token {token}{self._place()}; expected True or False"
            )
        self.evaluated += 1
        return bool(answer)

    def _place(self) -> str:
        return "" if self.prefix is None else f" after the prefix {self.prefix}"
