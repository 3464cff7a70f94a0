"""A decoder of the Llama architecture: from tokens to the logits of the next token.

Every linear map is a module of its own that sends one vector to one vector, an `equinox.nn.Linear` to begin with, so
any of them can be replaced by a sparse, gated or pruned one:

    eqx.tree_at(lambda m: m.blocks[3].mlp.gate, llama, replacement)

Keys and values of past positions are kept in a `KVCache`. The same code reads a prompt (many tokens, empty cache) and
continues it (one token, filled cache); strings of a batch move in step.

Sources: Touvron et al. (2023), LLaMA: open and efficient foundation language models, section 2.2; Ainslie et al.
(2023), GQA: training generalized multi-query transformer models; Su et al. (2021), RoFormer: enhanced transformer with
rotary position embedding, eq. 34; Shazeer (2020), GLU variants improve transformer; Zhang & Sennrich (2019), Root mean
square layer normalization.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from uqsparse.nn.llama_config import LlamaConfig

# Vectors of all positions of all strings stand in the columns of one matrix: position s of string b is column b t + s.
# A linear map is then weight @ x. On a CPU this is up to three times as fast as x @ weight.T for 2 to 16 columns.
Columns = Float[Array, "d bt"]
Rotation = tuple[Float[Array, "half 1 t"], Float[Array, "half 1 t"]]
# Positions stand last in keys and before the coordinates in values, as the two products of attention read them.
Keys = Float[Array, "b k h c"]
Values = Float[Array, "b k c h"]
VectorMap = Callable[[Array], Array]  # a module like `equinox.nn.Linear`


class Prompt(NamedTuple):
    """Keys and values of one block at positions that all strings have in common.

    Args:
        keys: shape (key-value heads, head size, capacity).
        values: shape (key-value heads, capacity, head size).
        length: positions filled.
    """

    keys: Float[Array, "k h p"]
    values: Float[Array, "k p h"]
    length: Int[Array, ""]


class KVCache(NamedTuple):
    """Keys and values of the positions read so far, one array of each a block.

    Args:
        keys: for each block an array of shape (batch, key-value heads, head size, capacity).
        values: for each block an array of shape (batch, key-value heads, capacity, head size).
        length: positions filled so far, the same for every string of the batch.
        prompt: for each block what comes before, if the strings share it (see `share`); not counted in `length`.
    """

    keys: tuple[Keys, ...]
    values: tuple[Values, ...]
    length: Int[Array, ""]
    prompt: tuple[Prompt, ...] | None = None

    @property
    def capacity(self) -> int:
        """Most positions that fit, behind the shared ones."""
        return self.keys[0].shape[3]

    @property
    def position(self) -> Int[Array, ""]:
        """Of the next token, from the beginning of the prompt."""
        return self.length if self.prompt is None else self.length + self.prompt[0].length

    def share(self, empty: "KVCache") -> "KVCache":
        """Take the one string of this cache as the prompt of the strings of an empty one, which is kept once."""
        prompts = zip(self.keys, self.values, strict=True)
        return empty._replace(prompt=tuple(Prompt(keys[0], values[0], self.length) for keys, values in prompts))


def on_columns(layer: VectorMap, x: Columns) -> Columns:
    """Apply a map of vectors to every column."""
    return jax.vmap(layer, in_axes=1, out_axes=1)(x)


def rotation(positions: Int[Array, " t"], size: int, base: float, dtype: jnp.dtype) -> Rotation:
    """Cosines and sines of the angles by which RoPE turns each pair of a head's coordinates at each position."""
    frequencies = base ** (-2.0 * jnp.arange(size // 2, dtype=dtype) / size)
    angles = frequencies[:, None, None] * positions.astype(dtype)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "*heads h b t"], turn: Rotation) -> Float[Array, "*heads h b t"]:
    """Turn the pairs of coordinates (2i, 2i + 1) of every head: the interleaved form of RoPE."""
    cos, sin = turn
    even, odd = x[..., 0::2, :, :], x[..., 1::2, :, :]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-3).reshape(x.shape)


class Attention(eqx.Module):
    """Causal self-attention in which groups of query heads share a key and a value head."""

    query: VectorMap
    key: VectorMap
    value: VectorMap
    output: VectorMap
    n_kv_heads: int = eqx.field(static=True)
    head_size: int = eqx.field(static=True)

    def __init__(self, config: LlamaConfig, *, key: Array):
        keys = jax.random.split(key, 4)
        wide, narrow = config.n_heads * config.head_size, config.n_kv_heads * config.head_size
        self.query = eqx.nn.Linear(config.width, wide, use_bias=False, key=keys[0])
        self.key = eqx.nn.Linear(config.width, narrow, use_bias=False, key=keys[1])
        self.value = eqx.nn.Linear(config.width, narrow, use_bias=False, key=keys[2])
        self.output = eqx.nn.Linear(wide, config.width, use_bias=False, key=keys[3])
        self.n_kv_heads, self.head_size = config.n_kv_heads, config.head_size

    def __call__(
        self, x: Columns, keys: Keys, values: Values, start: Int[Array, ""], turn: Rotation, prompt: Prompt | None
    ) -> tuple[Columns, Keys, Values]:
        """Attend from new positions to themselves and to all before; also returns the extended keys and values."""
        batch, _, size, capacity = keys.shape

        def heads(layer) -> Float[Array, "k g h b t"]:
            return on_columns(layer, x).reshape(self.n_kv_heads, -1, size, batch, x.shape[1] // batch)

        update = jax.lax.dynamic_update_slice_in_dim
        queries = rotate(heads(self.query), turn)
        keys = update(keys, jnp.einsum("kghbt->bkht", rotate(heads(self.key), turn)), start, axis=3)
        values = update(values, jnp.einsum("kghbt->bkth", heads(self.value)), start, axis=2)
        queries = jnp.einsum("kghbt->bkgth", queries) / size**0.5
        visible = jnp.arange(capacity) <= start + jnp.arange(queries.shape[3])[:, None]
        scores = jnp.where(visible, jnp.einsum("bkgth,bkhc->bkgtc", queries, keys), -jnp.inf)
        if prompt is not None:
            common = jnp.einsum("bkgth,khp->bkgtp", queries, prompt.keys)
            common = jnp.where(jnp.arange(common.shape[-1]) < prompt.length, common, -jnp.inf)
            scores = jnp.concatenate([scores, common], axis=-1)
        attention = jax.nn.softmax(scores, axis=-1)
        mixed = jnp.einsum("bkgtc,bkch->bkgth", attention[..., :capacity], values)
        if prompt is not None:
            mixed += jnp.einsum("bkgtp,kph->bkgth", attention[..., capacity:], prompt.values)
        mixed = jnp.einsum("bkgth->kghbt", mixed).reshape(-1, x.shape[1])
        return on_columns(self.output, mixed), keys, values


class GatedMLP(eqx.Module):
    """The feed-forward part: down(silu(gate(x)) * up(x))."""

    gate: VectorMap
    up: VectorMap
    down: VectorMap

    def __init__(self, config: LlamaConfig, *, key: Array):
        keys = jax.random.split(key, 3)
        self.gate = eqx.nn.Linear(config.width, config.mlp_width, use_bias=False, key=keys[0])
        self.up = eqx.nn.Linear(config.width, config.mlp_width, use_bias=False, key=keys[1])
        self.down = eqx.nn.Linear(config.mlp_width, config.width, use_bias=False, key=keys[2])

    def __call__(self, x: Columns) -> Columns:
        """Apply it to every column."""
        return on_columns(self.down, jax.nn.silu(on_columns(self.gate, x)) * on_columns(self.up, x))


class Block(eqx.Module):
    """One layer: attention and feed-forward part, each behind a norm and added to its input."""

    attention_norm: VectorMap
    attention: Attention
    mlp_norm: VectorMap
    mlp: Callable[[Columns], Columns]

    def __init__(self, config: LlamaConfig, *, key: Array):
        for_attention, for_mlp = jax.random.split(key)
        self.attention_norm = eqx.nn.RMSNorm(config.width, eps=config.norm_eps, use_bias=False)
        self.attention = Attention(config, key=for_attention)
        self.mlp_norm = eqx.nn.RMSNorm(config.width, eps=config.norm_eps, use_bias=False)
        self.mlp = GatedMLP(config, key=for_mlp)

    def __call__(
        self,
        x: Columns,
        keys: Keys,
        values: Values,
        start: Int[Array, ""],
        turn: Rotation,
        prompt: Prompt | None = None,
    ) -> tuple[Columns, Keys, Values]:
        """The vectors that go on to the next block, and the extended keys and values."""
        attended, keys, values = self.attention(on_columns(self.attention_norm, x), keys, values, start, turn, prompt)
        x = x + attended
        return x + self.mlp(on_columns(self.mlp_norm, x)), keys, values


@partial(jax.jit, static_argnames=("config", "dtype"))
def _enter(matrix, tokens, start, config, dtype) -> tuple[Columns, Rotation]:
    turn = rotation(start + jnp.arange(tokens.shape[1]), config.head_size, config.rope_base, dtype)
    return matrix[tokens.ravel()].astype(dtype).T, turn


@eqx.filter_jit
def _leave(norm, head, x: Columns) -> Float[Array, "bt v"]:
    output = head.weight.__matmul__ if isinstance(head, eqx.nn.Embedding) else head
    logits = on_columns(output, on_columns(norm, x))
    # Else XLA turns the product around to spare the transposition of its small result, and takes the slow form.
    return jax.lax.optimization_barrier(logits).T


class Llama(eqx.Module):
    """A Llama decoder with random weights; `load_gguf` and `load_safetensors` give trained ones.

    Its methods are plain functions of arrays, to be called inside a `jit`, or through `compile_blocks`.

    Args:
        config: sizes and constants.
        key: random key.

    >>> config = LlamaConfig(n_tokens=50, width=16, n_blocks=2, n_heads=4, n_kv_heads=2, mlp_width=24, context=32)
    >>> llama = Llama(config, key=jax.random.key(0))
    >>> llama(jnp.array([3, 1, 4])).shape
    (3, 50)
    """

    embedding: eqx.nn.Embedding
    blocks: tuple[Block, ...]
    norm: VectorMap
    head: VectorMap | None  # None: the rows of the embedding
    config: LlamaConfig = eqx.field(static=True)

    def __init__(self, config: LlamaConfig, *, key: Array):
        for_embedding, for_head, *for_blocks = jax.random.split(key, 2 + config.n_blocks)
        self.embedding = eqx.nn.Embedding(config.n_tokens, config.width, key=for_embedding)
        self.blocks = tuple(Block(config, key=k) for k in for_blocks)
        self.norm = eqx.nn.RMSNorm(config.width, eps=config.norm_eps, use_bias=False)
        self.head = None if config.tied else eqx.nn.Linear(config.width, config.n_tokens, use_bias=False, key=for_head)
        self.config = config

    def __call__(self, tokens: Int[ArrayLike, "*b t"]) -> Float[Array, "*b t v"]:
        """Logits of the token after each position of whole sequences.

        Args:
            tokens: token numbers from 0 to v - 1, shape (t,) or (b, t), with t at most the context.

        Returns:
            Unnormalised log probabilities; row i belongs to the token after tokens[..., : i + 1].

        Raises:
            ValueError: the sequence is empty or longer than the context, or a token is out of range.
        """
        tokens = jnp.asarray(tokens)
        batch = jnp.atleast_2d(tokens)
        x, _ = self._extend(batch, self.empty_cache(batch.shape[0], batch.shape[1]))
        return self._logits(x).reshape(*tokens.shape, -1)

    def empty_cache(self, batch: int, capacity: int) -> KVCache:
        """A cache for `batch` strings of at most `capacity` tokens each; capacity is at most the context."""
        config = self.config
        if not 1 <= capacity <= config.context:
            raise ValueError(f"{capacity} tokens asked for; the context of the model holds 1 to {config.context}")
        heads, size = (batch, config.n_kv_heads), config.head_size
        keys = tuple(jnp.zeros((*heads, size, capacity), self.dtype) for _ in self.blocks)
        values = tuple(jnp.zeros((*heads, capacity, size), self.dtype) for _ in self.blocks)
        return KVCache(keys, values, jnp.zeros((), jnp.int32))

    def prefill(
        self, tokens: Int[ArrayLike, "b t"], cache: KVCache, n_real: int | Int[Array, ""] | None = None
    ) -> tuple[Float[Array, "b v"], KVCache]:
        """Read t more tokens of each string.

        Inside a `jit`, tokens that do not fit into what is left of the cache cannot be refused: see to it before.

        Args:
            tokens: token numbers, shape (b, t).
            cache: what was read before.
            n_real: how many of the t tokens count, from 1 to t, the same for all strings. The rest is padding, so that
                prompts of different lengths share one compiled program. None: all.

        Returns:
            The logits of the next token and the extended cache.

        Raises:
            ValueError: the tokens do not fit into the cache or are out of range.
        """
        tokens = jnp.asarray(tokens)
        n_real = tokens.shape[1] if n_real is None else n_real
        if not isinstance(n_real, Tracer) and not 1 <= n_real <= tokens.shape[1]:
            raise ValueError(f"n_real must be between 1 and the number of tokens, {tokens.shape[1]}, got {n_real}")
        x, extended = self._extend(tokens, cache)
        last = jax.lax.dynamic_index_in_dim(x.reshape(-1, *tokens.shape), n_real - 1, axis=2, keepdims=False)
        return self._logits(last), extended._replace(length=cache.length + n_real)

    def decode(self, tokens: Int[ArrayLike, " b"], cache: KVCache) -> tuple[Float[Array, "b v"], KVCache]:
        """Read one more token of each string; otherwise as `prefill`."""
        x, extended = self._extend(jnp.asarray(tokens)[:, None], cache)
        return self._logits(x), extended

    @property
    def dtype(self) -> jnp.dtype:
        """Type of the computation: that of the embedding, and at least float32."""
        return jnp.promote_types(self.embedding.weight.dtype, jnp.float32)

    def _extend(self, tokens: Int[Array, "b t"], cache: KVCache) -> tuple[Columns, KVCache]:
        _require_fitting(tokens, cache, self.config.n_tokens)
        x, turn = _enter(self.embedding.weight, tokens, cache.position, self.config, self.dtype)
        keys, values = list(cache.keys), list(cache.values)
        for i, block in enumerate(self.blocks):
            prompt = None if cache.prompt is None else cache.prompt[i]
            x, keys[i], values[i] = block(x, keys[i], values[i], cache.length, turn, prompt)
        return x, KVCache(tuple(keys), tuple(values), cache.length + tokens.shape[1], cache.prompt)

    def _logits(self, x: Columns) -> Float[Array, "bt v"]:
        return _leave(self.norm, self.embedding if self.head is None else self.head, x)


def _require_fitting(tokens: Int[Array, "b t"], cache: KVCache, n_tokens: int) -> None:
    if tokens.ndim != 2 or 0 in tokens.shape or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens must be integers, one row a string; got {tokens.dtype} of shape {tokens.shape}")
    if len(tokens) != len(cache.keys[0]):
        raise ValueError(f"tokens of {len(tokens)} strings do not fit a cache of {len(cache.keys[0])} strings")
    filled = 0 if isinstance(cache.length, Tracer) else int(cache.length)
    if filled + tokens.shape[1] > cache.capacity:
        raise ValueError(f"{filled} + {tokens.shape[1]} tokens do not fit into a cache of {cache.capacity} positions")
    if not isinstance(tokens, Tracer):
        least, most = np.min(tokens), np.max(tokens)
        if least < 0 or most >= n_tokens:
            raise ValueError(f"tokens must lie between 0 and {n_tokens - 1}, got {least} to {most}")
