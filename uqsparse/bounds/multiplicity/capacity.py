"""Rashomon capacity: how much the choice among near-optimal models says about a person, in bits."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Float
from scipy.special import entr, xlogy

from uqsparse.kernels.blahut_arimoto import blahut_arimoto

# Numbers of a block of channels that are in memory at once.
_BLOCK = 4_000_000


class ModelsCapacity(NamedTuple):
    """Capacity of finitely many models at each of n persons, in bits.

    Args:
        lower: lower bounds, shape (n,).
        upper: upper bounds for these models, shape (n,); other models of the set may have more.
        converged: whether the two met within the tolerance, shape (n,).
    """

    lower: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    converged: Bool[np.ndarray, " n"]


def binary_capacity(lower: Float[ArrayLike, "..."], upper: Float[ArrayLike, "..."]) -> Float[np.ndarray, "..."]:
    """Capacity in bits of all models whose risk lies in an interval; 2 to its power is between 1 and 2.

    Only the two extreme risks matter. It is 0 where all models agree and 1 where one says 0 and another 1.

    Args:
        lower: smallest risk, in [0, 1], any shape.
        upper: largest risk, in [lower, 1], of the same shape.

    Raises:
        ValueError: an interval is empty, NaN or not within [0, 1].

    Source: Hsu & Calmon (2022), Rashomon capacity: a metric for predictive multiplicity in classification; the closed
    form is that of the binary asymmetric channel.

    >>> binary_capacity([0.0, 0.3], [1.0, 0.3]).tolist()
    [1.0, 0.0]
    """
    a, b = np.broadcast_arrays(np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64))
    if not ((a >= 0) & (a <= b) & (b <= 1)).all():
        raise ValueError("lower and upper must satisfy 0 <= lower <= upper <= 1, and some do not")
    # The best mixture's risk q is where the slope of the binary entropy is that of its chord, and the capacity is the
    # divergence of either end from q. In this form nothing cancels when the ends are close.
    width = b - a
    slope = np.divide(_entropy(b) - _entropy(a), width, out=np.zeros_like(width), where=width > 0)
    # exp of the slope, in nats, overflows at most where the risk is below the smallest number
    with np.errstate(over="ignore"):
        q = np.clip(1 / (1 + np.exp(slope)), a, b)
    q = np.clip(q, np.finfo(float).tiny, 1 - np.finfo(float).epsneg)
    nats = np.minimum(_divergence(a, q), _divergence(b, q))
    return np.where(width > 0, np.clip(nats / np.log(2), 0.0, 1.0), 0.0)


def capacity_of_models(
    probabilities: Float[ArrayLike, "m n k"], *, tolerance: float = 1e-6, max_iter: int = 2000
) -> ModelsCapacity:
    """Capacity of m models of k classes at each of n persons, by Blahut-Arimoto.

    It bounds the capacity of any set of models that holds these from below.

    Args:
        probabilities: of each model, person and class, shape (m, n, k). A row with a negative entry is no distribution
            and is left out at that person.
        tolerance: how close the two bounds should be, in bits.
        max_iter: iterations at most.

    Raises:
        ValueError: the shape is wrong, or rows are not finite or do not sum to 1.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 3 or 0 in probabilities.shape:
        raise ValueError(f"probabilities must have shape (models, persons, classes), got {probabilities.shape}")
    if not (abs(probabilities.sum(-1) - 1) <= 1e-6).all():
        raise ValueError("probabilities must be finite and sum to 1 over the classes, and some do not")
    allowed = np.all(probabilities >= 0, axis=-1).T
    channels = np.maximum(probabilities, 0.0).swapaxes(0, 1)
    m, n, k = probabilities.shape
    size = max(1, _BLOCK // (m * k))
    parts = []
    with jax.enable_x64(True):
        for first in range(0, n, size):
            block = slice(first, first + size)
            found = _capacities(channels[block].copy(), allowed[block].copy(), tolerance, max_iter)
            parts.append([np.asarray(part) for part in (found.lower, found.upper, found.converged)])
    return ModelsCapacity(*(np.concatenate(part) for part in zip(*parts, strict=True)))


@partial(jax.jit, static_argnums=(2, 3))
def _capacities(channels, allowed, tolerance, max_iter):
    run = partial(blahut_arimoto, tolerance=tolerance, max_iter=max_iter)
    return jax.vmap(run)(jnp.asarray(channels), allowed)


def _entropy(p: np.ndarray) -> np.ndarray:
    """Binary entropy in nats."""
    return entr(p) + entr(1 - p)


def _divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL divergence of Bernoulli laws, in nats."""
    return xlogy(p, p) + xlogy(1 - p, 1 - p) - xlogy(p, q) - xlogy(1 - p, 1 - q)
