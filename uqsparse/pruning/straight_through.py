"""Masks that are a function of learned scores, with gradients that pass straight through."""

import jax
from jaxtyping import Array, Float, Int

from uqsparse.pruning.structures import Structure, Unstructured


def straight_through(
    scores: Float[Array, "..."], count: int | Int[Array, ""], structure: Structure | None = None
) -> Float[Array, "..."]:
    """The mask of the best scores as zeros and ones; its derivative is taken for that of the scores themselves.

    The gradient of a loss with respect to the mask reaches the scores at all positions, on the mask and off it. Train
    the scores with any optimiser; no hook is needed.

    Args:
        scores: what is learned.
        count: weights to keep; may be traced.
        structure: legal positions; any if not given.

    Source: Bengio, Leonard & Courville (2013), Estimating or propagating gradients through stochastic neurons, section
    3; Ramanujan et al. (2020), What's hidden in a randomly weighted neural network?, section 3.

    >>> import jax.numpy as jnp
    >>> weight = jnp.array([[2.0, 3.0]])
    >>> value, slope = jax.value_and_grad(lambda s: (straight_through(s, 1) * weight).sum())(jnp.array([[1.0, 0.0]]))
    >>> float(value), slope.tolist()
    (2.0, [[2.0, 3.0]])
    """
    chosen = structure or Unstructured()

    @jax.custom_jvp
    def mask(scores: Array, count: Array | int) -> Array:
        return chosen.project(scores, count).astype(scores.dtype)

    @mask.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        return mask(*primals), tangents[0]

    return mask(scores, count)
