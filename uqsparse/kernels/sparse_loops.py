"""The group-sparse product and its gradients in plain JAX: a loop over groups of gathers and small dense products.

It runs on every machine and in every precision, and reads exactly the entries that a group has: a NaN in x reaches only
outputs that use it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Entries of a group that are multiplied together.
CHUNK = 128


def group_products(
    x: Float[Array, "B K"], ptr: Int[Array, " n_groups_and_1"], idx: Int[Array, " n"], val: Float[Array, "n G"]
) -> Float[Array, "B n_groups*G"]:
    """Rows times a group-sparse matrix; outputs that pad the last group are there too.

    Args:
        x: rows.
        ptr: where each group begins in `idx`.
        idx: the inputs of each group.
        val: their values.
    """
    dtype = jnp.result_type(x, val)
    columns = x.T.astype(dtype)

    def add(place: _Chunk, total):
        kept = jnp.where(place.used[:, None], columns[place.take(idx)], 0)  # a NaN beside the group must not count
        return total + place.take(val).astype(dtype).T @ kept

    n_groups, group = ptr.shape[0] - 1, val.shape[1]
    if idx.shape[0] == 0:
        return jnp.zeros((x.shape[0], n_groups * group), dtype)

    def one(g):
        return _over_chunks(ptr, idx.shape[0], g, add, jnp.zeros((group, x.shape[0]), dtype))

    return jax.lax.map(one, jnp.arange(n_groups)).reshape(n_groups * group, -1).T


def input_gradients(
    dy: Float[Array, "B n_groups*G"],
    ptr: Int[Array, " n_groups_and_1"],
    idx: Int[Array, " n"],
    val: Float[Array, "n G"],
    n_inputs: int,
) -> Float[Array, "B K"]:
    """The gradient of `group_products` for its rows.

    Args:
        dy: gradient of the outputs, padded as they are.
        ptr: where each group begins in `idx`.
        idx: the inputs of each group.
        val: their values.
        n_inputs: K.
    """
    dtype = jnp.result_type(dy, val)
    total = jnp.zeros((n_inputs, dy.shape[0]), dtype)
    if idx.shape[0] == 0:
        return total.T
    by_group = dy.T.astype(dtype).reshape(ptr.shape[0] - 1, val.shape[1], -1)

    def one(g, total):
        def add(place: _Chunk, total):
            part = place.take(val).astype(dtype) @ by_group[g]
            return total.at[place.take(idx)].add(jnp.where(place.used[:, None], part, 0))

        return _over_chunks(ptr, idx.shape[0], g, add, total)

    return jax.lax.fori_loop(0, ptr.shape[0] - 1, one, total).T


def value_gradients(
    x: Float[Array, "B K"],
    dy: Float[Array, "B n_groups*G"],
    ptr: Int[Array, " n_groups_and_1"],
    idx: Int[Array, " n"],
    group: int,
) -> Float[Array, "n G"]:
    """The gradient of `group_products` for its values.

    Args:
        x: rows.
        dy: gradient of the outputs, padded as they are.
        ptr: where each group begins in `idx`.
        idx: the inputs of each group.
        group: G.
    """
    dtype = jnp.result_type(x, dy)
    found = jnp.zeros((idx.shape[0], group), dtype)
    if idx.shape[0] == 0:
        return found
    columns = x.T.astype(dtype)
    by_group = dy.T.astype(dtype).reshape(ptr.shape[0] - 1, group, -1)

    def one(g, found):
        def write(place: _Chunk, found):
            part = columns[place.take(idx)] @ by_group[g].T
            return place.put(found, jnp.where(place.used[:, None], part, place.take(found)))

        return _over_chunks(ptr, idx.shape[0], g, write, found)

    return jax.lax.fori_loop(0, ptr.shape[0] - 1, one, found)


class _Chunk:
    """Some entries that lie side by side, of which those in `used` belong to the group at hand."""

    def __init__(self, start: Any, size: int, used: Any):
        self._start, self._size, self.used = start, size, used

    def take(self, array: Any) -> Any:
        return jax.lax.dynamic_slice_in_dim(array, self._start, self._size)

    def put(self, array: Any, part: Any) -> Any:
        return jax.lax.dynamic_update_slice_in_dim(array, part, self._start, 0)


def _over_chunks(ptr: Any, n: int, g: Any, step: Callable[[_Chunk, Any], Any], start: Any) -> Any:
    """Apply a step to the entries of group g, chunk by chunk."""
    size = min(CHUNK, n)
    end = ptr[g + 1]

    def body(carry):
        first, value = carry
        # The last chunk of all begins earlier, so that it does not reach beyond the entries.
        begin = jnp.minimum(first, n - size)
        place = begin + jnp.arange(size)
        return first + size, step(_Chunk(begin, size, (place >= first) & (place < end)), value)

    return jax.lax.while_loop(lambda carry: carry[0] < end, body, (ptr[g], start))[1]
