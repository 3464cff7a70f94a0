"""What a next-token model has to offer, and how a plain function becomes one."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

Prefix = tuple[int, ...]


class LanguageModel(Protocol):
    """A next-token model over a batch of strings, with a state of its own (a cache of keys and values, a context).

    Tokens are numbers from 0 to `n_tokens` - 1; the vocabulary of the constraint names the one that ends a string.
    """

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary, the end included."""
        ...

    def start(self, n: int) -> Any:
        """The state of n empty strings (behind the model's prompt, if it has one)."""
        ...

    def log_probabilities(self, state: Any) -> Float[np.ndarray, "n v"]:
        """Log probabilities of the next token of each string; -inf for impossible ones."""
        ...

    def advance(self, state: Any, tokens: Int[np.ndarray, " n"], ancestors: Int[np.ndarray, " n"] | None) -> Any:
        """String i becomes the old string `ancestors[i]` (itself, where None) followed by `tokens[i]`.

        Strings that have ended are carried along with the end as their token; their rows are not looked at.
        """
        ...


class FunctionModel:
    """A language model from a function of one prefix.

    Args:
        function: maps a tuple of token numbers to the (v,) log probabilities of the next token. It is never asked about
            strings that have ended.
        n_tokens: size of the vocabulary v, the end included.
        end: number of the token that ends a string.

    >>> coin = FunctionModel(lambda prefix: np.log([0.5, 0.25, 0.25]), 3, 2)
    >>> state = coin.advance(coin.start(2), np.array([0, 1]), None)
    >>> state, coin.log_probabilities(state).shape
    ([(0,), (1,)], (2, 3))
    """

    def __init__(self, function: Callable[[Prefix], Any], n_tokens: int, end: int):
        self.function = function
        self.n_tokens = n_tokens
        self.end = end

    def start(self, n: int) -> list[Prefix]:
        """N empty prefixes."""
        return [()] * n

    def log_probabilities(self, state: Sequence[Prefix]) -> Float[np.ndarray, "n v"]:
        """Ask the function once for each different prefix."""
        rows = {}
        for prefix in dict.fromkeys(state):
            has_ended = bool(prefix) and prefix[-1] == self.end
            rows[prefix] = np.zeros(self.n_tokens) if has_ended else np.asarray(self.function(prefix), dtype=float)
        for prefix, row in rows.items():
            if row.shape != (self.n_tokens,):
                raise ValueError(
                    f"the model returned an array of shape {row.shape} after the prefix {prefix}; "
                    f"expected ({self.n_tokens},), one log probability a token"
                )
        return np.stack([rows[prefix] for prefix in state])

    def advance(
        self, state: Sequence[Prefix], tokens: Int[np.ndarray, " n"], ancestors: Int[np.ndarray, " n"] | None
    ) -> list[Prefix]:
        """Append the tokens."""
        chosen = range(len(state)) if ancestors is None else ancestors
        return [(*state[i], int(token)) for i, token in zip(chosen, tokens, strict=True)]
