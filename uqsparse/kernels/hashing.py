"""Pseudo-random numbers that are a fixed function of a key and of the data they belong to."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num, UInt32

from uqsparse.kernels.namespaces import AnyArray, array_namespace

_SMALLEST_NORMAL = np.finfo(np.float32).tiny
_GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: consecutive multiples are far apart


def row_uniforms(words: UInt32[AnyArray, " w"], rows: Num[AnyArray, "... k"]) -> Float[AnyArray, "..."]:
    """A number in (0, 1) for each row, uniform over keys and over rows, and always the same for the same two.

    The numbers do not depend on which rows stand beside a row, so that a score that uses them is one fixed function
    of an observation, however observations are batched. Rows are read in single precision: NumPy and JAX, in either
    precision, give the same numbers, and rows that agree in single precision share theirs.

    Args:
        words: the key, `jax.random.key_data(key)`: any number of 32-bit words.
        rows: real numbers, shape (..., k).

    Returns:
        Odd multiples of 2^-24, shape (...), in single precision.

    Source: Appleby (2011), MurmurHash3 (the final mixer), applied to each entry with its place and summed, which mixes
    in any order; Wegman & Carter (1981), New hash functions and their use in authentication and set equality.

    >>> u = row_uniforms(np.array([0, 1], np.uint32), np.array([[0.2, 0.8], [0.8, 0.2], [0.2, 0.8]]))
    >>> bool(u[0] == u[2]), bool(u[0] == u[1])
    (True, False)
    """
    xp = array_namespace(words, rows)
    bits = _bits(rows)
    state = _seed(words, xp)
    place = xp.arange(rows.shape[-1], dtype=xp.uint32) * xp.uint32(_GOLDEN)
    # The entry is mixed before its place is brought in, and again after: x + place alone would let entries swap.
    mixed = _mix(_mix(bits ^ state[0]) + _mix(place ^ state[1]))
    total = _mix(mixed.sum(-1, dtype=xp.uint32) ^ state[2])
    return ((total >> xp.uint32(9)).astype(xp.float32) + xp.float32(0.5)) * xp.float32(2.0**-23)


def _bits(rows: AnyArray) -> AnyArray:
    """The bits of each entry in single precision; subnormal numbers, which XLA may flush, and -0 read as 0."""
    if array_namespace(rows) is np:
        single = np.asarray(rows).astype(np.float32)
        return np.where(np.abs(single) < _SMALLEST_NORMAL, np.float32(0), single).view(np.uint32)
    single = rows.astype(jnp.float32)
    return jax.lax.bitcast_convert_type(
        jnp.where(jnp.abs(single) < _SMALLEST_NORMAL, jnp.float32(0), single), jnp.uint32
    )


def _seed(words: AnyArray, xp) -> list:
    """Three words of state from the words of a key, each dependent on all."""
    state = xp.zeros(1, dtype=xp.uint32)
    for word in range(words.shape[0]):
        state = _mix(state + xp.uint32(_GOLDEN) ^ words[word : word + 1].astype(xp.uint32))
    seeds = []
    for _ in range(3):
        state = _mix(state + xp.uint32(_GOLDEN))
        seeds.append(state)
    return seeds


def _mix(x: UInt32[AnyArray, "..."]) -> UInt32[AnyArray, "..."]:
    """A bijection of 32-bit words under which each bit of the input flips each bit of the output half of the time."""
    xp = array_namespace(x)
    x = (x ^ (x >> xp.uint32(16))) * xp.uint32(0x85EBCA6B)
    x = (x ^ (x >> xp.uint32(13))) * xp.uint32(0xC2B2AE35)
    return x ^ (x >> xp.uint32(16))
