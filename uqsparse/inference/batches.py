"""Work on a population batch by batch, so that what a density needs per particle never exists for all at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def in_batches(
    function: Callable[[Array, PyTree], tuple[PyTree, PyTree]],
    key: Array,
    population: PyTree,
    batch_size: int,
) -> tuple[PyTree, PyTree]:
    """Apply a function to a population in equal batches, one after the other.

    Args:
        function: maps (key, batch) to (per-particle results with the batch's leading axis, summary of the batch).
        key: split among the batches.
        population: pytree whose leaves share the leading axis n.
        batch_size: most particles in a batch, at least 1. A population that fits is passed whole.

    Returns:
        Per-particle results, leading axis n, and the summaries stacked along a new leading axis of batches.
    """
    n = jax.tree.leaves(population)[0].shape[0]
    n_batches = -(-n // batch_size)
    if n_batches == 1:
        results, summary = function(key, population)
        return results, jax.tree.map(lambda x: jnp.asarray(x)[None], summary)
    size = -(-n // n_batches)
    # The last batch is filled up with copies of the last particle, whose results are dropped again.
    rows = jnp.minimum(jnp.arange(n_batches * size), n - 1).reshape(n_batches, size)
    batches = jax.tree.map(lambda x: x[rows], population)
    results, summaries = jax.lax.map(lambda args: function(*args), (jax.random.split(key, n_batches), batches))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], results), summaries
