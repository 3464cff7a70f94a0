"""Quantiles of weighted populations."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def weighted_quantile(
    values: Float[Array, " n"], weights: Float[Array, " n"], probabilities: Float[Array, " k"]
) -> Float[Array, " k"]:
    """Quantiles of a discrete distribution: the least value whose cumulative weight reaches the probability.

    Args:
        values: points, shape (n,), in any order.
        weights: nonnegative weights, shape (n,), not all zero, normalised or not.
        probabilities: in (0, 1), shape (k,).

    Returns:
        Quantiles, shape (k,); each is one of the values, of positive weight.

    Source: inverse of the empirical distribution function (type 1 of Hyndman & Fan 1996).

    >>> weighted_quantile(jnp.array([3.0, 1.0, 2.0]), jnp.array([1.0, 1.0, 2.0]), jnp.array([0.2, 0.5])).tolist()
    [1.0, 2.0]
    """
    order = jnp.argsort(values)
    cumulative = jnp.cumsum(weights[order])
    found = jnp.searchsorted(cumulative, probabilities * cumulative[-1], side="left")
    return values[order][jnp.minimum(found, values.shape[0] - 1)]
