"""The largest entries of each row, in an exact number."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.jit
def top_mask(score: Float[Array, "*rows n"], count: Int[Array, "*rows"] | int) -> Bool[Array, "*rows n"]:
    """Which entries are among the `count` largest of their row.

    Ties go to the first entries, so the number is exact. Entries of -inf are never chosen. The threshold is found bit
    by bit, in as many passes as a number has bits, and so is the last index of a tie: faster on a CPU than sorting.

    Args:
        score: without NaN.
        count: how many of each row, clipped to 0..n; may be traced.

    >>> top_mask(jnp.array([1.0, 3.0, 3.0, 3.0]), 2).tolist()
    [False, True, True, False]
    """
    n = score.shape[-1]
    count = jnp.broadcast_to(jnp.clip(jnp.asarray(count), 0, n), score.shape[:-1])[..., None]
    keys = _ordered_bits(score)
    bits = 8 * keys.dtype.itemsize

    def raise_threshold(i: Array, low: Array) -> Array:
        """The largest key that `count` keys or more reach, found from its highest bit down."""
        trial = low | (jnp.ones((), keys.dtype) << (bits - 1 - i).astype(keys.dtype))
        return jnp.where((keys >= trial).sum(axis=-1, keepdims=True) >= count, trial, low)

    threshold = jax.lax.fori_loop(0, bits, raise_threshold, jnp.zeros_like(keys, shape=(*keys.shape[:-1], 1)))
    above, tied = keys > threshold, keys == threshold
    left = count - above.sum(axis=-1, keepdims=True)
    index = jnp.arange(n)

    def raise_end(i: Array, end: Array) -> Array:
        """The largest end before which no more than `left` keys are tied."""
        trial = end + (1 << (n.bit_length() - 1 - i))
        return jnp.where((tied & (index < trial)).sum(axis=-1, keepdims=True) <= left, trial, end)

    end = jax.lax.fori_loop(0, n.bit_length(), raise_end, jnp.zeros_like(count))
    return (above | (tied & (index < end))) & (score > -jnp.inf) & (count > 0)


def _ordered_bits(score: Float[Array, "..."]) -> Array:
    """Unsigned integers in the order of the numbers."""
    score = score.astype(jnp.float32) if score.dtype.itemsize < 4 else score
    kind = jnp.uint32 if score.dtype.itemsize == 4 else jnp.uint64
    bits = jax.lax.bitcast_convert_type(jnp.where(score == 0, 0, score), kind)  # -0 and 0 are one number
    sign = jnp.ones((), kind) << (8 * kind.dtype.itemsize - 1)
    return jnp.where(bits >= sign, ~bits, bits | sign)
