"""Byte-level BPE tokenisers of language models: text goes in and tokens come out, and back without loss."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Token types of GGUF (llama.cpp, enum llama_token_type).
_NORMAL, _CONTROL = 1, 3
_PRE_TOKENIZERS = ("smollm",)
_FIELDS = (
    "ggml.model",
    "ggml.pre",
    "ggml.tokens",
    "ggml.token_type",
    "ggml.merges",
    "ggml.eos_token_id",
    "chat_template",
)


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A byte-level BPE tokeniser.

    Args:
        token_bytes: what each token spells, by its number; None for control tokens.
        special: numbers of the control tokens by their names.
        end: number of the token that ends a text or a turn.
        default_system: what `chat` tells the model first, unless told otherwise.
    """

    token_bytes: tuple[bytes | None, ...]
    special: Mapping[str, int]
    end: int
    default_system: str
    _merger: Any

    @functools.cached_property
    def _unspellable(self) -> frozenset[int]:
        return frozenset(range(256)) - {token[0] for token in self.token_bytes if token and len(token) == 1}

    @property
    def ends(self) -> list[int]:
        """Tokens that end a text or a turn: `end`, and <|endoftext|> where it is another one."""
        others = {self.special.get("<|endoftext|>", self.end)} - {self.end}
        return [self.end, *others]

    def __repr__(self) -> str:
        return f"<Tokenizer of {len(self.token_bytes)} tokens, end {self.end}>"

    def __len__(self) -> int:
        return len(self.token_bytes)

    def encode(self, text: str) -> list[int]:
        """Split a text into tokens. Names of control tokens in it are read as plain text, so that no text can fake one.

        Raises:
            ValueError: the text holds half of a surrogate pair, or a byte that no token spells (SmolLM2 knows neither
                some control characters, nor characters beyond U+3FFFF).
        """
        try:
            spelled = text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"text is not valid Unicode at place {error.start}: {text[error.start]!r}") from None
        # The package leaves such bytes out in silence.
        for byte in self._unspellable.intersection(spelled):
            place = next(i for i, character in enumerate(text) if byte in character.encode())
            raise ValueError(f"no token spells the byte {byte:#04x} of {text[place]!r}, at place {place} of the text")
        return self._merger.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Join the text of tokens; control tokens count as nothing, bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: a number is no token.
        """
        ids = list(ids)
        for token in ids:
            if not 0 <= token < len(self.token_bytes):
                raise ValueError(f"{token} is no token; they are 0 to {len(self.token_bytes) - 1}")
        return b"".join(self.token_bytes[token] or b"" for token in ids).decode("utf-8", errors="replace")

    def chat(self, messages: str | Sequence[Mapping[str, str]], *, system: str | None = None) -> list[int]:
        """Tokens of a conversation in ChatML, up to where the assistant's next turn begins.

        Args:
            messages: what the user says; or the turns so far, each {"role": "system" | "user" | "assistant",
                "content": text}.
            system: first message if the turns do not begin with one; None for `default_system`.

        Raises:
            ValueError: there is no turn, or one lacks its role or content.
        """
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        for number, turn in enumerate(turns):
            if turn.get("role") not in ("system", "user", "assistant") or not isinstance(turn.get("content"), str):
                raise ValueError(
                    f"message {number} must have a role (system, user or assistant) and a content (text), got {turn!r}"
                )
        if not turns:
            raise ValueError("messages are empty; a chat needs at least one turn")
        if turns[0]["role"] != "system":
            turns = [{"role": "system", "content": self.default_system if system is None else system}, *turns]
        opens, closes = (self.special[name] for name in ("<|im_start|>", "<|im_end|>"))
        ids: list[int] = []
        for turn in turns:
            ids += [opens, *self.encode(f"{turn['role']}\n{turn['content']}"), closes, *self.encode("\n")]
        return [*ids, opens, *self.encode("assistant\n")]


def make_tokenizer(
    tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], *, end: int, default_system: str = ""
) -> Tokenizer:
    """Make a tokeniser that cuts text into single digits and GPT-2's words, and then merges byte pairs.

    Args:
        tokens: spelled in GPT-2's alphabet of bytes, by their numbers.
        types: GGUF's type of each: 1 for ordinary, 3 for control tokens.
        merges: pairs of tokens, separated by a space, the first to be merged first.
        end: number of the token that ends a text or a turn.
        default_system: what a chat begins with.

    Raises:
        ImportError: tokenizers is not installed (extra `lm`).
        ValueError: tokens, types, merges and end do not fit each other, or a token is not spelled in bytes.

    Source: Sennrich, Haddow & Birch (2016), Neural machine translation of rare words with subword units (the merges);
        Radford, Wu, Child, Luan, Amodei & Sutskever (2019), Language models are unsupervised multitask learners,
        section 2.2 (bytes as the alphabet).
    """
    if len(tokens) != len(types) or not 0 <= end < len(tokens):
        raise ValueError(f"{len(tokens)} tokens, {len(types)} token types and the end {end} do not fit each other")
    alphabet = {character: byte for byte, character in enumerate(byte_alphabet())}
    token_bytes: list[bytes | None] = []
    for number, (token, type_) in enumerate(zip(tokens, types, strict=True)):
        if type_ not in (_NORMAL, _CONTROL):
            raise ValueError(f"token {number} is of type {type_}, which a byte-level tokeniser has not")
        if type_ == _NORMAL and (not token or not alphabet.keys() >= set(token)):
            raise ValueError(f"token {number}, {token!r}, is not spelled in the alphabet of bytes")
        token_bytes.append(None if type_ == _CONTROL else bytes(alphabet[character] for character in token))
    special = {tokens[number]: number for number, spelled in enumerate(token_bytes) if spelled is None}
    return Tokenizer(tuple(token_bytes), special, end, default_system, _merger(tokens, merges))


def byte_alphabet() -> str:
    """The 256 printable characters by which GPT-2's tokeniser writes the bytes 0 to 255.

    Printable Latin-1 characters stand for themselves; the others follow from U+0100 on.

    >>> byte_alphabet()[ord("a")], byte_alphabet()[ord(" ")], len(set(byte_alphabet()))
    ('a', 'Ġ', 256)
    """
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (chr(0x100 + i) for i in range(256 - len(plain)))
    return "".join(chr(byte) if byte in plain else next(others) for byte in range(256))


def _merger(tokens: Sequence[str], merges: Sequence[str]) -> Any:
    try:
        from tokenizers import Tokenizer as Merger
        from tokenizers import models, pre_tokenizers
    except ImportError as error:
        raise ImportError("encoding text needs the package tokenizers; pip install 'uqsparse[lm]'") from error
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs: list[tuple[str, str]] = []
    for number, merge in enumerate(merges):
        first, _, second = merge.partition(" ")
        # The package would panic.
        if not {first, second, first + second} <= vocabulary.keys():
            raise ValueError(f"merge {number}, {merge!r}, is not made of two tokens that make a third")
        pairs.append((first, second))
    merger = Merger(models.BPE(vocab=vocabulary, merges=pairs))
    merger.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return merger
