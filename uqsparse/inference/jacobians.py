"""Jacobians of maps between pytrees that mix real entries with labels.

Floating-point leaves are the continuous part, on which the Jacobian is taken; integer and boolean leaves are labels,
held fixed. A space of varying dimension is stored in arrays of fixed size: `active` says which real entries count at a
label, and all others are padding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

Map = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]


def log_abs_det(
    f: Map, x: PyTree, v: PyTree, active: Callable[[PyTree, PyTree], PyTree] | None = None
) -> Float[Array, ""]:
    """Log of |det Df(x, v)| over the continuous part, labels held fixed. Minus infinity if Df is singular."""
    matrix = jacobian(f, x, v, active)
    return jnp.linalg.slogdet(matrix)[1] if matrix.size else jnp.zeros(())


def jacobian(
    f: Map, x: PyTree, v: PyTree, active: Callable[[PyTree, PyTree], PyTree] | None = None
) -> Float[Array, "d d"]:
    """Matrix Df(x, v) over the continuous part, labels held fixed.

    With `active`, entries that count on one side only are left out, and what is left over on both sides is paired in
    order by ones, so that the determinant is that of the part that counts.

    Raises:
        ValueError: f returns another number of reals than it gets.
    """
    vector, rebuild = continuous_part((x, v))

    def on_vectors(entries):
        image = f(*rebuild(entries))
        return continuous_part(image)[0], image

    matrix, image = jax.jacfwd(on_vectors, has_aux=True)(vector)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"f must keep the number of reals: it maps {matrix.shape[1]} to {matrix.shape[0]}")
    if active is None:
        return matrix
    return active_block(matrix, active_entries(active, (x, v)), active_entries(active, image))


def active_block(
    matrix: Float[Array, "d d"], before: Bool[Array, " d"], after: Bool[Array, " d"]
) -> Float[Array, "d d"]:
    """A Jacobian on the entries that count before (columns) and after (rows), the others paired in order by ones."""
    order_before, order_after = jnp.cumsum(~before), jnp.cumsum(~after)
    padding = (~after)[:, None] & (~before)[None, :] & (order_after[:, None] == order_before[None, :])
    return jnp.where(after[:, None] & before[None, :], matrix, padding.astype(matrix.dtype))


def continuous_part(z: PyTree) -> tuple[Float[Array, " d"], Callable[[Float[Array, " d"]], PyTree]]:
    """The floating-point leaves of a pytree as one vector, and the way back, with the other leaves as they are.

    Raises:
        TypeError: a leaf is complex.
    """
    leaves, structure = jax.tree.flatten(z)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    if any(jnp.iscomplexobj(leaf) for leaf in leaves):
        raise TypeError("complex leaves are not supported: use their real and imaginary parts")
    reals = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    vector = jnp.concatenate([jnp.ravel(leaves[i]) for i in reals]) if reals else jnp.zeros(0)

    def rebuild(entries):
        filled, start = list(leaves), 0
        for i in reals:
            stop = start + leaves[i].size
            filled[i] = entries[start:stop].reshape(leaves[i].shape).astype(leaves[i].dtype)
            start = stop
        return jax.tree.unflatten(structure, filled)

    return vector, rebuild


def active_entries(active: Callable[[PyTree, PyTree], PyTree], z: PyTree) -> Bool[Array, " d"]:
    """What `active` says of the entries of the continuous part of z, in the same order."""
    leaves, structure = jax.tree.flatten(z)
    flags = structure.flatten_up_to(active(*z))
    parts = [
        jnp.broadcast_to(jnp.asarray(flag, bool), jnp.shape(leaf)).ravel()
        for leaf, flag in zip(leaves, flags, strict=True)
        if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    ]
    return jnp.concatenate(parts) if parts else jnp.zeros(0, bool)
