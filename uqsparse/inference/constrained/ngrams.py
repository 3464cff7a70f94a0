"""N-gram language models with additive back-off, as finite automata: small real models, with exact answers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from uqsparse.inference.constraints.vocabulary import Vocabulary
from uqsparse.kernels.arguments import require_count, require_fraction

# Rows may come from single precision.
_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class NgramLM:
    """A next-token model with finitely many contexts: a dense row of probabilities for each, and where a token leads.

    It is a `LanguageModel` whose state is an array of context numbers, one a string.

    Args:
        rows: probabilities of the next token in each context, the end included, shape (c, v).
        next_context: number of the context after one more token, shape (c, v). The column of the end leads
            to `start_context`, whatever is given.
        start_context: number of the context of the empty string.
        end: number of the token that ends a string.

    Raises:
        ValueError: a row is not a distribution (it has to sum to one within 1e-6), or a number is out of range; the
            context is named.

    Source: Jelinek (1997), Statistical Methods for Speech Recognition, chapter 4 (n-gram models and their back-off);
    MacKay & Peto (1995), A hierarchical Dirichlet language model, eq. 12 (the additive form).

    >>> coin = NgramLM(np.array([[0.5, 0.25, 0.25]]), np.zeros((1, 3), int), start_context=0, end=2)
    >>> round(float(np.exp(coin.log_probability([0, 1]))), 6)
    0.03125
    """

    rows: Float[np.ndarray, "c v"]
    next_context: Int[np.ndarray, "c v"]
    start_context: int
    end: int

    def __post_init__(self):
        rows = _copied("rows", self.rows, "iuf", float)
        contexts = _copied("next_context", self.next_context, "iu", np.int64)
        if rows.ndim != 2 or 0 in rows.shape or contexts.shape != rows.shape:
            raise ValueError(
                "rows and next_context must have one row a context and one column a token, "
                f"got the shapes {rows.shape} and {contexts.shape}"
            )
        require_count("end", self.end, 0)
        require_count("start_context", self.start_context, 0)
        n_contexts, n_tokens = rows.shape
        if self.end >= n_tokens:
            raise ValueError(f"end is {self.end}, but there are the tokens 0 to {n_tokens - 1}")
        if self.start_context >= n_contexts:
            raise ValueError(f"start_context is {self.start_context}, but there are {n_contexts} contexts")
        _require_distributions(rows)
        contexts[:, self.end] = self.start_context
        wrong = (contexts < 0) | (contexts >= n_contexts)
        if wrong.any():
            context, token = (int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"next_context of context {context} and token {token} is {contexts[context, token]}, "
                f"but there are {n_contexts} contexts"
            )
        for name, array in (("rows", rows), ("next_context", contexts.astype(np.int32))):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @classmethod
    def fit(
        cls,
        sequences: Iterable[Sequence[int]],
        vocabulary: Vocabulary | int,
        *,
        order: int = 2,
        pseudo_count: float = 8.0,
        uniform_count: float = 1.0,
        end_probability: float | None = None,
        mark_start: bool = False,
        max_entries: int = 50_000_000,
    ) -> "NgramLM":
        """Count the n-grams of sequences of tokens.

        P(v | context) = (count + a P(v | context without its first token)) / (total + a) with a = `pseudo_count`, down
        to the empty context, which backs off to the uniform distribution with a = `uniform_count`. A context that was
        never followed by anything is the same as the one without its first token.

        Args:
            sequences: token numbers, the end left out.
            vocabulary: of the tokens; or their number v, the last of them being the end.
            order: length n of the n-grams, so that a context is at most `order` - 1 tokens, at least 1.
            pseudo_count: weight of the shorter context, at least 0.
            uniform_count: weight of the uniform distribution; 0 leaves tokens that were not seen impossible.
            end_probability: of the end in the empty context, in (0, 1), for text whose ends mean nothing: they are not
                counted, and longer contexts give the end what their back-off leaves. None counts them.
            mark_start: count the start of a sequence as a context of its own; otherwise a string starts in the empty
                context.
            max_entries: most probabilities to hold, contexts times tokens; one takes 12 bytes.

        Returns:
            The model; its contexts are the ones seen, the empty one first, shorter ones before longer ones.

        Raises:
            ValueError: no sequence has a token, a token is out of range or the end, an argument is out of range, or
                there are more entries than `max_entries`.

        >>> model = NgramLM.fit([[0, 1, 0, 1, 1]], 3, order=2, pseudo_count=1.0, end_probability=0.1)
        >>> model.rows.shape, model.rows[1].round(3)
        ((3, 3), array([0.125, 0.842, 0.033]))
        """
        if isinstance(vocabulary, Vocabulary):
            n_tokens, end = len(vocabulary), vocabulary.end
        else:
            require_count("vocabulary", vocabulary, 2)
            n_tokens, end = vocabulary, vocabulary - 1
        require_count("order", order, 1)
        for name, value in (("pseudo_count", pseudo_count), ("uniform_count", uniform_count)):
            if not 0 <= value < np.inf:
                raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
        if end_probability is not None:
            require_fraction("end_probability", end_probability)
        stream, position = _join(sequences, n_tokens, end, counts_ends=end_probability is None, mark_start=mark_start)
        levels = _contexts(stream, position, n_tokens, order - 1)
        n_contexts = 1 + sum(len(level.parent) for level in levels)
        if n_contexts * n_tokens > max_entries:
            raise ValueError(
                f"{n_contexts} contexts of {n_tokens} tokens are {n_contexts * n_tokens} probabilities, more than "
                f"max_entries = {max_entries} ({12 * max_entries / 2**30:.1f} GiB): lower the order, or take fewer "
                "tokens or a shorter text"
            )
        predictable = np.ones(n_tokens)
        if end_probability is not None:
            predictable[end] = 0.0
        counts = np.bincount(stream, minlength=n_tokens + 1)[:n_tokens]
        unigram = (counts + uniform_count * predictable / predictable.sum()) / (counts.sum() + uniform_count)
        if end_probability is not None:
            unigram *= 1.0 - end_probability
            unigram[end] = end_probability
        return cls(*_automaton(stream, levels, n_contexts, unigram, pseudo_count), end)

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary, the end included."""
        return self.rows.shape[1]

    @property
    def n_contexts(self) -> int:
        """Number of contexts."""
        return self.rows.shape[0]

    def start(self, n: int) -> Int[np.ndarray, " n"]:
        """The contexts of n empty strings."""
        return np.full(n, self.start_context, dtype=np.int32)

    def log_probabilities(self, state: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n v"]:
        """Log probabilities of the next token in some contexts; -inf for impossible ones."""
        with np.errstate(divide="ignore"):
            return np.log(self.rows[state])

    def advance(
        self, state: Int[np.ndarray, " n"], tokens: Int[np.ndarray, " n"], ancestors: Int[np.ndarray, " n"] | None
    ) -> Int[np.ndarray, " n"]:
        """The contexts after one more token each."""
        return self.next_context[state if ancestors is None else state[np.asarray(ancestors)], np.asarray(tokens)]

    def context_after(self, tokens: Sequence[int]) -> int:
        """The context after a prefix.

        Raises:
            ValueError: the prefix holds the end, or a number that is no token.
        """
        context = self.start_context
        for place, token in enumerate(tokens):
            self._require_token(place, token)
            context = int(self.next_context[context, token])
        return context

    def log_probability(self, tokens: Sequence[int], *, ended: bool = True) -> float:
        """Log probability of a string.

        Args:
            tokens: of the string, without the end.
            ended: whether the string ends there; otherwise it is the probability of all strings that begin so.

        Raises:
            ValueError: the string holds the end, or a number that is no token.
        """
        context, total = self.start_context, 0.0
        with np.errstate(divide="ignore"):
            for place, token in enumerate(tokens):
                self._require_token(place, token)
                total += float(np.log(self.rows[context, token]))
                context = int(self.next_context[context, token])
            return total + float(np.log(self.rows[context, self.end])) if ended else total

    def perplexity(self, sequences: Iterable[Sequence[int]], *, ended: bool = True) -> float:
        """Exponential of the mean negative log probability of a token.

        Args:
            sequences: strings, without the end.
            ended: whether the ends are predicted and counted too.

        Returns:
            At least 1; infinite if a string is impossible.

        Raises:
            ValueError: there is nothing to predict, or a number is no token.
        """
        texts = [tuple(sequence) for sequence in sequences]
        n_predicted = sum(len(text) + ended for text in texts)
        if not n_predicted:
            raise ValueError("sequences hold no tokens to predict")
        return float(np.exp(-sum(self.log_probability(text, ended=ended) for text in texts) / n_predicted))

    def _require_token(self, place: int, token: Any) -> None:
        if not 0 <= token < self.n_tokens or token == self.end:
            what = "the end" if token == self.end else f"no token; they are 0 to {self.n_tokens - 1}"
            raise ValueError(f"place {place} of the string is {token}, which is {what}")


def _copied(name: str, values: Any, kinds: str, dtype: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be an array: {error}") from None
    if array.dtype.kind not in kinds:
        raise ValueError(f"{name} must be an array of {'integers' if kinds == 'iu' else 'numbers'}, not {array.dtype}")
    return array.astype(dtype)


def _require_distributions(rows: Float[np.ndarray, "c v"]) -> None:
    lowest, total = rows.min(axis=1), rows.sum(axis=1)  # NaN in either fails the comparisons
    fine = (lowest >= 0) & (np.abs(total - 1) <= _SUM_TOLERANCE)
    if not fine.all():
        context = int(np.argmin(fine))
        row = rows[context]
        if np.isnan(row).any() or row.min() < 0:
            token = int(np.argmax(np.isnan(row) | (row < 0)))
            raise ValueError(f"the probability of token {token} in context {context} is {float(row[token])!r}")
        raise ValueError(f"the probabilities in context {context} sum to {float(total[context])!r}, not to one")


def _join(
    sequences: Iterable[Sequence[int]], n_tokens: int, end: int, *, counts_ends: bool, mark_start: bool
) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " t"]]:
    """Concatenate sequences, with a mark (the number `n_tokens`) before and the end behind each, where wanted.

    Returns:
        The tokens, and the place of each in its sequence.
    """
    parts: list[np.ndarray] = []
    n_seen = 0
    for number, sequence in enumerate(sequences):
        tokens = np.asarray(sequence)
        if tokens.size == 0:
            tokens = np.zeros(0, dtype=np.int64)
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise ValueError(f"sequence {number} must be a list of token numbers, got {str(sequence)[:60]!r}")
        bad = (tokens < 0) | (tokens >= n_tokens) | (tokens == end)
        if bad.any():
            place = int(np.argmax(bad))
            what = "the end" if tokens[place] == end else f"no token; they are 0 to {n_tokens - 1}"
            raise ValueError(f"token {place} of sequence {number} is {tokens[place]}, which is {what}")
        n_seen += len(tokens)
        parts.append(np.r_[[n_tokens] * mark_start, tokens, [end] * counts_ends].astype(np.int64))
    if not n_seen:
        raise ValueError("sequences hold no tokens to count")
    return np.concatenate(parts), np.concatenate([np.arange(len(part)) for part in parts])


@dataclass(frozen=True)
class _Level:
    """All contexts of k tokens: the context of their first k - 1 and the last token; and where in the text each ends.

    `before[t]` is the number, within the level, of the context right before place t of the text, -1 if there is none.
    """

    parent: Int[np.ndarray, " m"]
    token: Int[np.ndarray, " m"]
    before: Int[np.ndarray, " t"]


def _contexts(
    stream: Int[np.ndarray, " t"], position: Int[np.ndarray, " t"], n_tokens: int, longest: int
) -> list[_Level]:
    """The contexts of 1 to `longest` tokens that some token of the text follows."""
    levels: list[_Level] = []
    before = np.zeros(len(stream), dtype=np.int64)  # the empty context is before every place
    for length in range(1, longest + 1):
        has = np.flatnonzero(position >= length)
        # A context is the one before its last token, and that token.
        codes = before[has - 1] * (n_tokens + 1) + stream[has - 1]
        distinct, number = np.unique(codes, return_inverse=True)
        if not len(distinct):
            break
        before = np.full(len(stream), -1)
        before[has] = number
        levels.append(_Level(distinct // (n_tokens + 1), distinct % (n_tokens + 1), before))
    return levels


def _automaton(
    stream: Int[np.ndarray, " t"],
    levels: list[_Level],
    n_contexts: int,
    unigram: Float[np.ndarray, " v"],
    pseudo_count: float,
) -> tuple[Float[np.ndarray, "c v"], Int[np.ndarray, "c v"], int]:
    """Rows, next contexts and the start context; contexts are numbered level by level, the empty one is 0."""
    n_tokens = len(unigram)
    rows = np.empty((n_contexts, n_tokens))
    next_context = np.zeros((n_contexts, n_tokens), dtype=np.int32)
    rows[0] = unigram
    start = 0
    # The suffix of a context is itself without its first token: one level down, never missing.
    suffix = np.zeros(1, dtype=np.int64)
    below, first = 0, 1
    for depth, level in enumerate(levels):
        here = slice(first, first + len(level.parent))
        ordinary = level.token < n_tokens
        reached = next_context[suffix[level.parent], np.minimum(level.token, n_tokens - 1)]
        shorter = np.where(ordinary, reached, 0) if depth else np.zeros(len(level.parent), dtype=np.int64)
        seen = level.before >= 0
        counts = np.zeros((len(level.parent), n_tokens))
        np.add.at(counts, (level.before[seen], stream[seen]), 1)
        totals = counts.sum(axis=1, keepdims=True)
        rows[here] = (counts + pseudo_count * rows[shorter]) / (totals + pseudo_count)
        children = np.arange(here.start, here.stop)
        next_context[below + level.parent[ordinary], level.token[ordinary]] = children[ordinary]
        next_context[here] = next_context[shorter]  # until the next level adds contexts that are one longer
        if not ordinary.all():
            start = int(children[~ordinary][0])
        suffix, below, first = shorter, first, here.stop
    return rows, next_context, start
