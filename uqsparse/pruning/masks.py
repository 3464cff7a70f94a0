"""Masks: which weights of a network live.

A mask is a pytree with the structure of the parameters: a boolean array for each weight that can be pruned, None for
every other leaf. Parameters are what `equinox.filter(network, equinox.is_inexact_array)` gives, or any other pytree of
arrays. A mask is data: no function here takes a weight for pruned because it is zero.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree, UInt8

from uqsparse.kernels.group_sparsity import GroupSparse
from uqsparse.nn.tree_paths import path_name
from uqsparse.nn.weight_units import WeightUnit

Mask = PyTree  # of Bool[Array, "..."] or None
# Decides from the path and the leaf, an array or a weight unit, whether a leaf can be pruned.
Prunable = Callable[[str, Any], bool]

_NEVER = (
    eqx.nn.Embedding,
    eqx.nn.LayerNorm,
    eqx.nn.RMSNorm,
    eqx.nn.GroupNorm,
    eqx.nn.BatchNorm,
    eqx.nn.PReLU,
    GroupSparse,
)
_NEVER_NAMED = ("bias", "embed", "norm")


def is_unit(node: Any) -> bool:
    """Whether a node is a weight unit, at which maps over a mask stop."""
    return isinstance(node, WeightUnit)


def masked_map(function: Callable[..., Any], params: PyTree, mask: Mask, *rest: PyTree) -> PyTree:
    """Map `function(leaf, mask leaf, *rest)` over parameters and their mask; the mask leaf is None where unpruned.

    The parameters come first: with the mask first its None leaves would be taken for empty trees. Weight units are
    handed over whole.

    Raises:
        ValueError: the mask or one of the rest has another structure than the parameters.
    """
    return jax.tree.map(function, params, mask, *rest, is_leaf=is_unit)


class Pruned(NamedTuple):
    """The leaves that a mask governs, in the order of the tree.

    Args:
        paths: their names.
        leaves: arrays or weight units.
        masks: of the same shapes.
    """

    paths: list[str]
    leaves: list[Any]
    masks: list[Array]


def pruned_leaves(params: PyTree, mask: Mask) -> Pruned:
    """The leaves of the parameters that the mask governs.

    Raises:
        ValueError: a mask leaf is not boolean of its weight's shape, or stands at no parameter; the path is named.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_unit)
    try:
        masks = structure.flatten_up_to(mask)
    except (ValueError, TypeError) as error:
        raise ValueError(f"mask must have the structure of the parameters: {error}") from None
    found = Pruned([], [], [])
    for (path, leaf), one in zip(leaves, masks, strict=True):
        if one is None:
            continue
        name, shape = path_name(path), tuple(leaf.shape)
        if getattr(one, "dtype", None) != np.dtype(bool) or tuple(one.shape) != shape:
            got = f"{getattr(one, 'dtype', type(one).__name__)} of shape {getattr(one, 'shape', None)}"
            raise ValueError(f"mask of {name!r} must be boolean of shape {shape}, got {got}")
        found.paths.append(name)
        found.leaves.append(leaf)
        found.masks.append(one)
    return found


def at_pruned(tree: PyTree, params: PyTree, mask: Mask) -> list[Any]:
    """The nodes of a tree like the parameters (gradients, scores) at the leaves that the mask governs."""
    structure = jax.tree.structure(params, is_leaf=is_unit)
    nodes, masks = structure.flatten_up_to(tree), structure.flatten_up_to(mask)
    return [node for node, one in zip(nodes, masks, strict=True) if one is not None]


def with_masks(params: PyTree, mask: Mask, masks: list[Array]) -> Mask:
    """The mask with other boolean arrays, in the order of `pruned_leaves`."""
    left = iter(masks)
    return masked_map(lambda _, one: None if one is None else next(left), params, mask)


def full_mask(params: PyTree, prunable: Prunable | None = None) -> Mask:
    """The mask that keeps every weight.

    Args:
        params: parameters; `equinox.filter(network, equinox.is_inexact_array)` of a network.
        prunable: `(path, leaf) -> bool`. By default weight units, and floating arrays of two axes or more that are no
            bias, embedding or normalisation, by their module or their name, and no packed weight.

    Raises:
        ValueError: a leaf that is not of floating type is called prunable, or no leaf is.

    >>> mlp = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    >>> mask = full_mask(eqx.filter(mlp, eqx.is_inexact_array))
    >>> mask.layers[0].weight.shape, mask.layers[0].bias
    ((4, 3), None)
    """

    def of_leaf(path: tuple[Any, ...], leaf: Any) -> Any:
        if prunable is None and isinstance(leaf, _NEVER):
            return jax.tree.map(lambda _: None, leaf)
        name = path_name(path)
        chosen = _is_weight(name, leaf) if prunable is None else prunable(name, leaf)
        if not chosen:
            return None
        if not is_unit(leaf) and not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise ValueError(f"prunable must choose leaves of floating type; {name!r} is {kind}")
        return jnp.ones(leaf.shape, bool)

    def stop(node: Any) -> bool:
        return is_unit(node) or (prunable is None and isinstance(node, _NEVER))

    mask = jax.tree_util.tree_map_with_path(of_leaf, params, is_leaf=stop)
    if not jax.tree.leaves(mask):
        raise ValueError("prunable chooses no leaf of the parameters")
    return mask


def _is_weight(name: str, leaf: Any) -> bool:
    if is_unit(leaf):
        return True
    if any(word in name.lower() for word in _NEVER_NAMED):
        return False
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.ndim >= 2


def prunable_leaves(params: PyTree, prunable: Prunable | None = None) -> list[tuple[str, Any]]:
    """Path and leaf of all weights that can be pruned; see `full_mask`."""
    found = pruned_leaves(params, full_mask(params, prunable))
    return list(zip(found.paths, found.leaves, strict=True))


def apply_mask(mask: Mask, params: PyTree) -> PyTree:
    """The parameters with exact zeros where the mask drops a weight; units are switched off there.

    `params` may be a whole network: leaves outside the mask stay as they are.
    """
    pruned_leaves(params, mask)
    return masked_map(_masked, params, mask)


def _masked(leaf: Any, mask: Array | None) -> Any:
    if mask is None:
        return leaf
    return leaf.masked(mask) if is_unit(leaf) else jnp.where(mask, leaf, 0)


def mask_count(mask: Mask) -> int:
    """How many weights a mask keeps."""
    return sum(int(np.asarray(leaf).sum(dtype=np.int64)) for leaf in jax.tree.leaves(mask))


def mask_density(mask: Mask) -> float:
    """The share of the prunable weights that a mask keeps."""
    return mask_count(mask) / sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(mask))


class PackedMask(eqx.Module):
    """One leaf of a mask, a bit a weight.

    Args:
        bits: rows in C order, shape (weights / 8 rounded up,), the first weight in the highest bit.
        shape: of the weight.
    """

    bits: UInt8[np.ndarray, " bytes"]
    shape: tuple[int, ...] = eqx.field(static=True)


def pack_mask(mask: Mask) -> PyTree[PackedMask | None]:
    """The mask with one bit a weight, for checkpoints.

    >>> packed = pack_mask({"w": np.array([[True, False], [True, True]])})
    >>> packed["w"].bits.tolist(), unpack_mask(packed)["w"].astype(int).tolist()
    ([176], [[1, 0], [1, 1]])
    """
    return jax.tree.map(lambda leaf: PackedMask(np.packbits(np.asarray(leaf)), tuple(leaf.shape)), mask)


def unpack_mask(packed: PyTree[PackedMask | None]) -> Mask:
    """The mask that was packed."""

    def of_leaf(leaf: PackedMask) -> Bool[Array, "..."]:
        size = math.prod(leaf.shape)
        if len(leaf.bits) != -(-size // 8):
            raise ValueError(f"packed mask of shape {leaf.shape} needs {-(-size // 8)} bytes, got {len(leaf.bits)}")
        return jnp.asarray(np.unpackbits(np.asarray(leaf.bits), count=size).reshape(leaf.shape).astype(bool))

    return jax.tree.map(of_leaf, packed, is_leaf=lambda node: isinstance(node, PackedMask))
