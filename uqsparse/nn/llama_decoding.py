"""A Llama decoder as a next-token model over a population of strings."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from uqsparse.kernels.arguments import require_count
from uqsparse.nn.compiled_blocks import compile_blocks
from uqsparse.nn.llama import KVCache, Llama

_CHUNK = 64  # the prompt is read in pieces of this many tokens, and capacities are multiples of it: few programs


class DecoderState(NamedTuple):
    """Strings behind a prompt.

    Args:
        cache: keys and values of the prompt and of the strings.
        logits: of the next token, shape (n, v).
        length: tokens of each string so far.
    """

    cache: KVCache
    logits: Float[Array, "n v"]
    length: int


class LlamaDecoder:
    """Next-token probabilities behind a prompt, for n strings that grow in step.

    The prompt is read once, and its keys and values are kept once for all strings. A state is used up by `advance`,
    whose cache is extended in place.

    Args:
        llama: the decoder.
        prompt: token numbers, at least one; for a text from nothing, the model's beginning-of-text token.
        max_length: most tokens of a string, the end not counted.
        end: tokens that end a string. The probabilities of all go to the first.
        temperature: the logits are divided by it, above 0.

    Raises:
        ValueError: the prompt is empty, a token is out of range, prompt and strings together are longer than the
            context of the model, or another argument is out of range.

    >>> from uqsparse.nn.llama_config import LlamaConfig
    >>> config = LlamaConfig(n_tokens=50, width=16, n_blocks=2, n_heads=4, n_kv_heads=2, mlp_width=24, context=32)
    >>> decoder = LlamaDecoder(Llama(config, key=jax.random.key(0)), [3, 1, 4], max_length=5, end=[0])
    >>> state = decoder.advance(decoder.start(2), np.array([7, 8]), None)
    >>> decoder.log_probabilities(state).shape
    (2, 50)
    """

    def __init__(
        self, llama: Llama, prompt: Sequence[int], max_length: int, end: Sequence[int], temperature: float = 1.0
    ):
        self.n_tokens, context = llama.config.n_tokens, llama.config.context
        self.prompt, self.end = _tokens("prompt", prompt, self.n_tokens), _tokens("end", end, self.n_tokens)
        require_count("max_length", max_length, 1)
        if not 0 < temperature < np.inf:
            raise ValueError(f"temperature must be a finite number above 0, got {temperature!r}")
        if len(self.prompt) + max_length > context:
            raise ValueError(
                f"a prompt of {len(self.prompt)} tokens and strings of {max_length} do not fit into the context of the "
                f"model, {context} tokens"
            )
        self.max_length, self.temperature = int(max_length), float(temperature)
        self._llama = compile_blocks(llama, in_place=True)

    @cached_property
    def _read_prompt(self) -> tuple[KVCache, Float[Array, "1 v"]]:
        capacity = self._capacity(len(self.prompt))
        cache = self._llama.empty_cache(1, capacity)
        logits = jnp.zeros((1, self.n_tokens))
        for start in range(0, len(self.prompt), _CHUNK):
            piece = self.prompt[start : start + _CHUNK]
            width = _CHUNK if start + _CHUNK <= capacity else len(piece)
            padded = np.pad(piece, (0, width - len(piece)))
            logits, cache = self._llama.prefill(padded[None], cache, len(piece))
        return cache, logits

    def start(self, n: int) -> DecoderState:
        """The state of n empty strings behind the prompt."""
        require_count("n", n, 1)
        prompt, logits = self._read_prompt
        own = self._llama.empty_cache(n, self._capacity(self.max_length))
        return DecoderState(prompt.share(own), jnp.tile(logits, (n, 1)), 0)

    def _capacity(self, n_tokens: int) -> int:
        return min(self._llama.config.context, -(-n_tokens // _CHUNK) * _CHUNK)

    def log_probabilities(self, state: DecoderState) -> Float[np.ndarray, "n v"]:
        """Log probabilities of the next token, in float64; rows sum to 1.

        Raises:
            ValueError: the model returned NaN or infinite logits.
        """
        logits = np.asarray(state.logits, np.float64) / self.temperature
        if not np.isfinite(logits).all():
            row = int(np.argmin(np.isfinite(logits).all(axis=1)))
            raise ValueError(f"the logits of string {row} after {state.length} tokens are not finite")
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        ends = list(dict.fromkeys(self.end.tolist()))
        if len(ends) > 1:
            logits[:, ends[0]] = np.logaddexp.reduce(logits[:, ends], axis=1)
            logits[:, ends[1:]] = -np.inf
        return logits

    def advance(
        self, state: DecoderState, tokens: Int[np.ndarray, " n"], ancestors: Int[np.ndarray, " n"] | None
    ) -> DecoderState:
        """String i becomes the old string `ancestors[i]` (itself, where None) followed by `tokens[i]`.

        Raises:
            ValueError: the strings have max_length tokens already, a token or an ancestor is out of range, or the state
                was used up before.
        """
        if state.length >= self.max_length:
            raise ValueError(f"the strings have {state.length} tokens; max_length is {self.max_length}")
        if state.cache.keys[0].is_deleted():
            raise ValueError("this state was advanced before; its cache has been extended in place")
        old = len(state.logits)
        tokens = _tokens("tokens", tokens, self.n_tokens)
        cache = state.cache
        if ancestors is not None:
            ancestors = _tokens("ancestors", ancestors, old)
            if not np.array_equal(ancestors, np.arange(old)):
                keys, values = _take((cache.keys, cache.values), ancestors)
                cache = cache._replace(keys=keys, values=values)
        n = old if ancestors is None else len(ancestors)
        if len(tokens) != n:
            raise ValueError(f"tokens must have {n} entries, one a string; got {len(tokens)}")
        logits, cache = self._llama.decode(tokens, cache)
        return DecoderState(cache, logits, state.length + 1)


@jax.jit
def _take(arrays, rows):
    return jax.tree.map(lambda array: array[rows], arrays)


def _tokens(name: str, values: Sequence[int] | np.ndarray, n: int) -> Int[np.ndarray, " n"]:
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be a sequence of integers with at least one, got {values!r:.80}")
    if array.min() < 0 or array.max() >= n:
        raise ValueError(f"{name} must lie between 0 and {n - 1}, got {array.min()} to {array.max()}")
    return array
