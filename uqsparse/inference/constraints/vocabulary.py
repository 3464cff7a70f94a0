"""The tokens of a language model, and the text that they spell."""

from collections.abc import Sequence
from dataclasses import dataclass

from uqsparse.kernels.arguments import require_count


@dataclass(frozen=True)
class Vocabulary:
    """What each token of a language model spells, and the token that ends a string.

    Args:
        tokens: the bytes of each token, by its number; None for tokens that stand for no text (control tokens, and the
            end). Text constraints accept no token without text.
        end: number of the token that ends a string.

    Raises:
        ValueError: `end` is no token, or a token is empty (an empty token could be appended without end).

    >>> words = Vocabulary.of(["the", " cat", " sat"])
    >>> words.decode([0, 1, 2]), words.end, len(words)
    ('the cat sat', 3, 4)
    """

    tokens: tuple[bytes | None, ...]
    end: int

    def __post_init__(self):
        object.__setattr__(self, "tokens", tuple(self.tokens))
        require_count("end", self.end, 0)
        if self.end >= len(self.tokens):
            raise ValueError(f"end is {self.end}, but the vocabulary has the tokens 0 to {len(self.tokens) - 1}")
        for number, token in enumerate(self.tokens):
            if token is not None and not token:
                raise ValueError(f"token {number} spells nothing; give None for tokens that stand for no text")

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Vocabulary":
        """Make a vocabulary of texts (UTF-8), with the end as one more token after them."""
        return cls((*(text.encode() for text in texts), None), len(texts))

    def __repr__(self) -> str:
        return f"<Vocabulary of {len(self.tokens)} tokens, end {self.end}>"

    def __len__(self) -> int:
        return len(self.tokens)

    def spell(self, tokens: Sequence[int]) -> bytes:
        """Join the bytes of tokens; tokens without text count as nothing."""
        return b"".join(self.tokens[token] or b"" for token in tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """Join the text of tokens; bytes that are no UTF-8 become U+FFFD."""
        return self.spell(tokens).decode("utf-8", errors="replace")
