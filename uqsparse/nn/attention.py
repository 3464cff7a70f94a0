"""Multi-head attention between sets of different sizes, with masks, for any number of leading axes."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from uqsparse.kernels.arguments import require_count


def apply_linear(linear: eqx.nn.Linear, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
    """Apply a layer to vectors in the last axis, for any leading axes, without `vmap`."""
    y = x @ linear.weight.T
    return y if linear.bias is None else y + linear.bias


def masked_attention(
    queries: Float[Array, "*batch m d"],
    keys: Float[Array, "*batch n d"],
    values: Float[Array, "*batch n v"],
    mask: Bool[Array, "*batch n"] | None = None,
    *,
    scale: float,
) -> Float[Array, "*batch m v"]:
    """Averages of the values, weighted by the softmax of `scale` times the products of queries and keys.

    Args:
        queries: shape (..., m, d).
        keys: shape (..., n, d).
        values: shape (..., n, v), finite also where masked.
        mask: which keys there are, shape (..., n); all if not given. Where there are none the result is zero.
        scale: of the products.
    """
    logits = scale * jnp.einsum("...md,...nd->...mn", queries, keys)
    if mask is None and keys.shape[-2]:
        return jnp.einsum("...mn,...nv->...mv", jax.nn.softmax(logits, axis=-1), values)
    present = jnp.zeros(keys.shape[:-1], bool)[..., None, :] if mask is None else mask[..., None, :]
    # The largest finite value stands in where no key is left, so that neither the result nor its slope is NaN.
    top = jnp.max(jnp.where(present, logits, -jnp.inf), axis=-1, keepdims=True, initial=-jnp.inf)
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))
    weights = jnp.where(present, jnp.exp(jnp.where(present, logits - top, 0.0)), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    return jnp.einsum("...mn,...nv->...mv", weights / jnp.where(total > 0, total, 1.0), values)


class MultiHeadAttention(eqx.Module):
    """Attention of queries to a set of keys and values, by several heads side by side.

    Args:
        query_size: entries of a query.
        key_size: entries of a key.
        value_size: entries of a value.
        size: entries of the result, divisible by the number of heads.
        heads: how many.
        use_output: whether a linear layer follows the heads.
        key: for the weights.

    Raises:
        ValueError: a size is no positive integer, or `heads` does not divide `size`.

    Source: Vaswani et al. (2017), Attention is all you need, section 3.2; products are scaled by 1 / sqrt(size) as in
    Lee et al. (2019), Set Transformer, section 3.1.
    """

    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    output: eqx.nn.Linear | None
    size: int = eqx.field(static=True)
    heads: int = eqx.field(static=True)

    def __init__(
        self,
        query_size: int,
        key_size: int,
        value_size: int,
        size: int,
        *,
        heads: int = 4,
        use_output: bool = True,
        key: Key[Array, ""],
    ):
        for name, value in (
            ("query_size", query_size),
            ("key_size", key_size),
            ("value_size", value_size),
            ("size", size),
            ("heads", heads),
        ):
            require_count(name, value, 1)
        if size % heads:
            raise ValueError(f"heads must divide the size {size}, got {heads}")
        keys = jax.random.split(key, 4)
        self.query = eqx.nn.Linear(query_size, size, use_bias=False, key=keys[0])
        self.key = eqx.nn.Linear(key_size, size, use_bias=False, key=keys[1])
        self.value = eqx.nn.Linear(value_size, size, use_bias=False, key=keys[2])
        self.output = eqx.nn.Linear(size, size, key=keys[3]) if use_output else None
        self.size, self.heads = size, heads

    def __call__(
        self,
        queries: Float[Array, "*batch m query"],
        keys: Float[Array, "*batch n key"],
        values: Float[Array, "*batch n value"],
        mask: Bool[Array, "*batch n"] | None = None,
    ) -> Float[Array, "*batch m size"]:
        """One result for each query; leading axes are broadcast.

        Args:
            queries: shape (..., m, query_size).
            keys: shape (..., n, key_size), finite also where masked; n may be 0.
            values: shape (..., n, value_size), likewise.
            mask: which keys there are, shape (..., n); all if not given. A query that finds none gets the output
                layer's bias, or zero.
        """
        q, k, v = (
            self._split(apply_linear(linear, x))
            for linear, x in ((self.query, queries), (self.key, keys), (self.value, values))
        )
        scale = 1 / math.sqrt(self.size)
        found = masked_attention(q, k, v, None if mask is None else mask[..., None, :], scale=scale)
        merged = jnp.moveaxis(found, -3, -2)
        merged = merged.reshape(*merged.shape[:-2], self.size)
        return merged if self.output is None else apply_linear(self.output, merged)

    def _split(self, x: Array) -> Array:
        """(..., n, size) to (..., heads, n, size / heads)."""
        return jnp.moveaxis(x.reshape(*x.shape[:-1], self.heads, x.shape[-1] // self.heads), -2, -3)
