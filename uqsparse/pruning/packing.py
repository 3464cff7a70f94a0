"""A network that was trained with a mask, stored and multiplied without what the mask dropped."""

from typing import TypeVar

import jax
import numpy as np

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.sparse_products import Backend
from uqsparse.nn.packed_networks import pack_network
from uqsparse.pruning.masks import Mask, apply_mask, pruned_leaves

Model = TypeVar("Model")


def pack_model(model: Model, mask: Mask, *, group: int | None = None, backend: Backend = "auto") -> Model:
    """Replace the linear layers and convolutions of a trained network by packed ones, as its mask says.

    Groups of outputs that share their inputs are what compiled products gain most from: train with the structure
    `Group(16)`. Other masks are packed in the largest groups that they keep whole, down to single weights. With
    `backend="auto"` a layer that would not gain stays dense, as do masked weights in other places than linear layers
    and convolutions; see `pack_network`.

    Args:
        model: whose weights off the mask are zero, as `sparsify` leaves them.
        mask: of the state of `sparsify`; None, or a boolean array of the weight's shape, for each leaf.
        group: outputs that share their inputs in every layer; if not given, the largest of 16, 8, 4, 2 and 1 for each.
        backend: of the products, see `uqsparse.kernels.matmul`; any but "auto" packs every layer.

    Returns:
        The model, with the same function up to rounding.

    Raises:
        ValueError: the mask has another structure or shape than the model's weights, splits a group, or weights are not
            zero off the mask or not finite. The weight is named.

    >>> import equinox as eqx
    >>> from uqsparse.pruning.masks import full_mask
    >>> linear = eqx.nn.Linear(8, 32, key=jax.random.key(0))
    >>> mask = eqx.tree_at(lambda one: one.weight, full_mask(linear), np.arange(8) % 4 == np.zeros((32, 1)))
    >>> pack_model(apply_mask(mask, linear), mask).packed.val.shape
    (4, 16)
    """
    if group is not None:
        require_count("group", group, 1)
    given, cleared = pruned_leaves(model, mask), pruned_leaves(apply_mask(mask, model), mask)
    for path, weight, masked in zip(given.paths, given.leaves, cleared.leaves, strict=True):
        pairs = zip(jax.tree.leaves(weight), jax.tree.leaves(masked), strict=True)
        if not all(np.array_equal(one, other, equal_nan=True) for one, other in pairs):
            raise ValueError(
                f"{path!r} has weights that are not zero off the mask: sparsify must be the outermost transformation; "
                "apply_mask sets them to zero"
            )
    return pack_network(model, mask=mask, group=group, backend=backend)
