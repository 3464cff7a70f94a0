"""A vocabulary as a trie, so that tokens with a common beginning are tested together."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Int

S = TypeVar("S")


class _Node:
    """A common beginning: its tokens are order[first:stop], those that end here order[first:own]."""

    __slots__ = ("below", "first", "own", "stop", "symbols")

    def __init__(self, first: int):
        self.first = self.own = self.stop = first
        self.symbols = 0  # bits of the symbols that occur below
        self.below: dict[int, _Node] = {}


class TokenTrie:
    """Tokens by their bytes (or classes of bytes: then tokens that no constraint tells apart share one path).

    Args:
        texts: what each token spells, by its number; None for tokens that are never met.

    >>> trie = TokenTrie([b"a", b"ab", None, b"b", b"ab"])
    >>> [(tokens.tolist(), state) for tokens, state in trie.walk("", lambda s, b: s + chr(b) if b == 97 or s else None)]
    [([0], 'a'), ([1, 4], 'ab')]
    """

    def __init__(self, texts: Sequence[bytes | None]):
        spelt = sorted((text, token) for token, text in enumerate(texts) if text is not None)
        self._order = np.array([token for _, token in spelt], dtype=int)
        self._root = _Node(0)
        for place, (text, _) in enumerate(spelt):
            symbols, bits = 0, [0]
            for symbol in reversed(text):
                symbols |= 1 << symbol
                bits.append(symbols)
            node = self._root
            for symbol, rest in zip(text, bits[-2::-1], strict=True):
                below = node.below.get(symbol)
                if below is None:
                    below = node.below[symbol] = _Node(place)
                node = below
                node.symbols |= rest
                node.stop = place + 1
            node.own = place + 1

    def walk(
        self, state: S, advance: Callable[[S, int], S | None], loops: Callable[[S], int] = lambda _: 0
    ) -> Iterator[tuple[Int[np.ndarray, " n"], S]]:
        """Step through all tokens at once.

        Args:
            state: to start from.
            advance: maps a state and a symbol to the next state, or None where no token need go on.
            loops: maps a state to the bits of symbols that do not change it; it may leave out some. Tokens that go on
                with such symbols only are not looked at one by one.

        Yields:
            Numbers of tokens, and the state behind each of them.
        """
        todo = [(state, self._root)]
        while todo:
            before, node = todo.pop()
            for symbol, child in node.below.items():
                after = advance(before, symbol)
                if after is None:
                    continue
                if not child.symbols or not child.symbols & ~loops(after):
                    yield self._order[child.first : child.stop], after
                    continue
                if child.own > child.first:
                    yield self._order[child.first : child.own], after
                todo.append((after, child))
