"""Random masks, fixed before training: the baseline that every way to choose weights is measured against."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from uqsparse.pruning.allocation import Allocation, allocate, erk
from uqsparse.pruning.masks import (
    Mask,
    Prunable,
    apply_mask,
    at_pruned,
    full_mask,
    is_unit,
    masked_map,
    pruned_leaves,
    with_masks,
)
from uqsparse.pruning.structures import Structure, Unstructured


def random_mask(
    key: PRNGKeyArray,
    params: PyTree,
    density: float,
    allocation: Allocation | None = None,
    *,
    exact: bool = True,
    structure: Structure | None = None,
    prunable: Prunable | None = None,
) -> Mask:
    """A mask at random positions: every set of the allocated size is as likely as any other. It looks at no weight.

    Args:
        key: a typed random key; may be mapped over by `vmap`.
        params: parameters; only shapes are read.
        density: share of the prunable weights that is kept, in (0, 1].
        allocation: how many in each leaf; `erk()` if left out.
        exact: whether the counts are exact; otherwise each weight is kept independently, with the leaf's density as
            probability, as in the code of the authors.
        structure: legal positions; any if left out. It needs exact counts.
        prunable: from path and leaf, whether a leaf is pruned; see `full_mask`.

    Raises:
        ValueError: the density is out of range or leaves a leaf without weights, or the allocation compares scores.

    Source: Liu et al. (2022), The unreasonable effectiveness of random pruning: return of the most naive baseline for
    sparse training.

    >>> mask = random_mask(jax.random.key(0), {"first": jnp.ones((30, 10)), "second": jnp.ones((10, 30))}, 0.1)
    >>> int(mask["first"].sum()), int(mask["second"].sum())
    (30, 30)
    """
    allocation = erk() if allocation is None else allocation
    if allocation.by_score:
        raise ValueError(
            f"allocation must say how many weights each leaf keeps, and {allocation.name!r} compares scores; use "
            "ratio_of(scores)"
        )
    if structure is not None and not exact:
        raise ValueError("exact must be True with a structure")
    structure = structure or Unstructured()
    full = full_mask(params, prunable)
    counts = at_pruned(allocate(params, density, allocation, prunable=prunable), params, full)
    shapes = [leaf.shape for leaf in pruned_leaves(params, full).leaves]
    draws = [jax.random.uniform(*one) for one in zip(jax.random.split(key, len(counts)), shapes, strict=True)]
    if exact:
        masks = [structure.project(draw, count) for draw, count in zip(draws, counts, strict=True)]
    else:
        masks = [draw < count / draw.size for draw, count in zip(draws, counts, strict=True)]
    return with_masks(params, full, masks)


def rescale_fan_in(params: PyTree, mask: Mask) -> PyTree:
    """Freshly drawn weights, masked, and divided by the square root of their leaf's density.

    Weights drawn for the dense number of inputs make a sparse network too quiet: this restores the variance of what a
    layer puts out. The authors of random pruning do without, and so do the recipes.

    Args:
        params: parameters, drawn for dense layers.
        mask: with a weight in every leaf.

    Returns:
        Parameters of the same structure; leaves without a mask stay as they are.

    Raises:
        ValueError: a leaf of the mask keeps nothing, or belongs to a weight unit; the path is named.
    """
    for path, leaf, kept in zip(*pruned_leaves(params, mask), strict=True):
        if is_unit(leaf) or not kept.any():
            what = "is a weight unit" if is_unit(leaf) else "keeps no weight"
            raise ValueError(f"{path!r} cannot be rescaled: it {what}")
    return masked_map(lambda w, kept: w if kept is None else w / jnp.sqrt(kept.mean()), apply_mask(mask, params), mask)


def gradient_flow(grads: PyTree, mask: Mask) -> Float[Array, ""]:
    """Squared norm of the gradient over the weights that a mask keeps: whether a sparse network can still learn.

    Args:
        grads: gradients of the loss, of the parameters' structure.
        mask: leaves without one are left out.

    Source: Wang, Zhang & Grosse (2020), Picking winning tickets before training by preserving gradient flow, eq. 5.

    >>> gradient_flow({"w": jnp.array([3.0, 4.0, 5.0])}, {"w": jnp.array([True, True, False])}).item()
    25.0
    """
    _, leaves, masks = pruned_leaves(grads, mask)
    values = [leaf.score_array if is_unit(leaf) else leaf for leaf in leaves]
    squares = [jnp.where(kept, jnp.square(value), 0).sum() for value, kept in zip(values, masks, strict=True)]
    return jnp.stack(squares).sum()
