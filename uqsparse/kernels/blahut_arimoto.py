"""Capacity of a discrete memoryless channel, by the Blahut-Arimoto iteration, with both bounds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp, xlogy
from jaxtyping import Array, Bool, Float, Int


class ChannelCapacity(NamedTuple):
    """The capacity of a channel lies between `lower` and `upper`.

    Args:
        lower: in bits.
        upper: in bits: the largest divergence of a row from the mean row.
        weights: distribution over the inputs at the last iteration, whose mutual information tends to the capacity,
            shape (m,).
        converged: whether the bounds met within the tolerance.
        n_iter: iterations made.
    """

    lower: Float[Array, ""]
    upper: Float[Array, ""]
    weights: Float[Array, " m"]
    converged: Bool[Array, ""]
    n_iter: Int[Array, ""]


def blahut_arimoto(
    channel: Float[Array, "m k"],
    allowed: Bool[Array, " m"] | None = None,
    *,
    tolerance: float = 1e-6,
    max_iter: int = 2000,
) -> ChannelCapacity:
    """Capacity in bits of the channel whose row i is the distribution of the output given input i.

    With the weights r, the mean row q = r P and the divergences D_i = KL(P_i || q), the capacity lies between
    log sum r_i exp(D_i) and max D_i; the next weights are proportional to r_i exp(D_i). Works inside `jit` and `vmap`.

    Args:
        channel: rows of nonnegative numbers with sum 1, shape (m, k).
        allowed: which rows may be used, shape (m,); all if left out. At least one should be: with none, both bounds
            are 0.
        tolerance: stop when the bounds are this close, in bits.
        max_iter: stop after so many iterations; the bounds hold then too.

    Source: Arimoto (1972), An algorithm for computing the capacity of arbitrary discrete memoryless channels; Blahut
    (1972), Computation of channel capacity and rate-distortion functions, theorem 2 (the bounds).

    >>> noiseless = blahut_arimoto(jnp.eye(4))
    >>> round(float(noiseless.lower), 6), round(float(noiseless.upper), 6)
    (2.0, 2.0)
    """
    channel = jnp.asarray(channel)
    m = channel.shape[0]
    allowed = jnp.ones(m, bool) if allowed is None else allowed
    start = jnp.where(allowed, 0.0, -jnp.inf) - jnp.log(jnp.maximum(jnp.sum(allowed), 1)).astype(channel.dtype)
    entropy_terms = jnp.sum(xlogy(channel, channel), axis=1)

    def bounds(log_weights):
        mean = jnp.exp(log_weights) @ channel
        # where the mean is 0 no allowed row has mass, unless its weight has underflowed: then its divergence is large
        log_mean = jnp.log(jnp.maximum(mean, jnp.finfo(channel.dtype).tiny))
        divergence = jnp.where(allowed, entropy_terms - channel @ log_mean, -jnp.inf)
        total = logsumexp(log_weights + jnp.where(allowed, divergence, 0.0))
        return divergence, total

    def is_running(carry):
        _, lower, upper, n = carry
        return (upper - lower > tolerance * jnp.log(2.0)) & (n < max_iter)

    def step(carry):
        log_weights, _, _, n = carry
        divergence, total = bounds(log_weights)
        improved = jnp.where(allowed, log_weights + divergence - total, -jnp.inf)
        divergence, total = bounds(improved)
        return improved, total, jnp.max(divergence), n + 1

    divergence, total = bounds(start)
    first = (start, total, jnp.max(divergence), jnp.zeros((), jnp.int32))
    log_weights, lower, upper, n_iter = jax.lax.while_loop(is_running, step, first)
    bits = 1 / jnp.log(jnp.asarray(2.0, channel.dtype))
    is_any = jnp.any(allowed)
    lower = jnp.where(is_any, jnp.maximum(lower, 0.0) * bits, 0.0)
    upper = jnp.where(is_any, jnp.maximum(upper, 0.0) * bits, 0.0)
    return ChannelCapacity(lower, upper, jnp.exp(log_weights), upper - lower <= tolerance, n_iter)
