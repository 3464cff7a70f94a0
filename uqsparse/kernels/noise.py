"""Noise for whole populations: uniform and standard normal numbers, in one fused pass.

JAX's own generators are built for many backends and shapes; on a CPU they walk memory once for each round of the
hash. Here the rounds are written out, so that the compiler fuses hash, transformation and whatever uses the numbers.
The bits are those of `jax.random.bits` for the same key.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))

# Giles (2012), table 5: erfinv(x) / x as polynomials in w = -log(1 - x^2), near the centre and in the tails.
_CENTRE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
_TAILS = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip


def random_bits(key: Array, shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Draw independent 32-bit words.

    Args:
        key: random key, typed or legacy. Typed keys of another kind than JAX's default are served by JAX.
        shape: shape of the result, fewer than 2**32 numbers.

    Returns:
        Unsigned integers, equal to `jax.random.bits(key, shape)`.

    Source: Salmon, Moraes, Dror & Shaw (2011), Parallel random numbers: as easy as 1, 2, 3; Threefry-2x32-20.

    >>> bool(jnp.all(random_bits(jax.random.key(1), (3, 2)) == jax.random.bits(jax.random.key(1), (3, 2))))
    True
    """
    words = key
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if str(jax.random.key_impl(key)) != "threefry2x32":
            return jax.random.bits(key, shape, jnp.uint32)
        words = jax.random.key_data(key)
    if words.shape != (2,):
        raise ValueError(f"key has data of shape {words.shape}; expected one threefry key of shape (2,)")
    size = math.prod(shape)
    if size >= 2**32:
        raise ValueError(f"shape {shape} asks for {size} numbers; one key gives fewer than 2**32")
    counter = lax.iota(jnp.uint32, size).reshape(shape)
    first, second = _threefry(words[0], words[1], jnp.zeros_like(counter), counter)
    return first ^ second


def uniform(key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draw uniform numbers in `[0, 1)`, of JAX's default precision, on a grid of 2**-32 (double) or 2**-24 (single).

    Args:
        key: random key, typed or legacy.
        shape: shape of the result.
    """
    bits = random_bits(key, shape)
    if jnp.zeros(()).dtype == jnp.float64:
        return bits.astype(float) * 2.0**-32
    return (bits >> np.uint32(8)).astype(jnp.float32) * np.float32(2.0**-24)


def standard_normal(key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draw standard normal numbers, of JAX's default precision, each from 32 random bits.

    One bit is the sign and 31 choose the tail probability, so values reach out to 6.3. The quantile function is in
    single precision: its error is below 1e-6 up to 5, and below 4e-4 of the value beyond.

    Args:
        key: random key, typed or legacy.
        shape: shape of the result.

    Source: Giles (2012), Approximating the erfinv function, GPU Computing Gems.

    >>> standard_normal(jax.random.key(0), (2, 3)).shape
    (2, 3)
    """
    return normal_from_bits(random_bits(key, shape)).astype(float)


def normal_from_bits(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """The standard normal numbers that 32-bit words stand for, in single precision."""
    # Through int32, which processors convert faster than uint32.
    half = (bits >> np.uint32(1)).astype(jnp.int32).astype(jnp.float32)
    tail = (half + np.float32(0.5)) * np.float32(2.0**-31)  # P(|z| > z)
    w = -jnp.log(tail * (2 - tail))  # 1 - x^2 for x = 1 - tail, without cancellation
    ratio = jnp.where(
        w < 5, _polynomial(_CENTRE, w - np.float32(2.5)), _polynomial(_TAILS, jnp.sqrt(jnp.maximum(w, 5)) - 3)
    )
    magnitude = np.float32(math.sqrt(2)) * ratio * (1 - tail)
    return jnp.where((bits & np.uint32(1)) == 1, -magnitude, magnitude)


def _threefry(key0, key1, x0, x1):
    """Twenty rounds of Threefry on a pair of 32-bit words."""
    keys = (key0, key1, key0 ^ key1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))) ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def _polynomial(coefficients, x):
    value = jnp.full_like(x, np.float32(coefficients[0]))
    for coefficient in coefficients[1:]:
        value = value * x + np.float32(coefficient)
    return value
