"""From scores to the mask of a network: one selection, without training."""

from jaxtyping import Array, Key, PyTree

from uqsparse.pruning.allocation import Allocation, allocate, global_by
from uqsparse.pruning.criteria import Criterion, magnitude
from uqsparse.pruning.masks import Mask, Prunable, at_pruned, full_mask, pruned_leaves, with_masks
from uqsparse.pruning.structures import Structure, Unstructured


def select_mask(
    params: PyTree,
    density: float,
    *,
    criterion: Criterion | None = None,
    allocation: Allocation | None = None,
    structure: Structure | None = None,
    prunable: Prunable | None = None,
    grads: PyTree | None = None,
    stats: PyTree | None = None,
    key: Key[Array, ""] | None = None,
) -> Mask:
    """The mask of the best weights, without retraining.

    Args:
        params: parameters.
        density: share of the prunable weights to keep, in (0, 1]; a structure such as N:M fixes it.
        criterion: what a weight is worth; magnitude if not given.
        allocation: how many each leaf keeps; one threshold for all leaves if not given.
        structure: legal positions; any if not given.
        prunable: see `full_mask`.
        grads: gradients of the loss, if the criterion needs them.
        stats: what a collector gathered, if it needs that.
        key: for a criterion that is random.

    Returns:
        With no structure, exactly `round(density * N)` weights, ties to the first.

    Raises:
        ValueError: the density is out of range, a leaf cannot have the structure, or a score is NaN; the leaf is named.

    >>> import jax.numpy as jnp
    >>> params = {"a": jnp.array([[1.0, -4.0]]), "b": jnp.array([[2.0, 3.0]])}
    >>> mask = select_mask(params, 0.5)
    >>> mask["a"].tolist(), mask["b"].tolist()
    ([[False, True]], [[False, True]])
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density!r}")
    structure, allocation = structure or Unstructured(), allocation or global_by()
    criterion = criterion or allocation.criterion or magnitude()
    mask = full_mask(params, prunable)
    paths, leaves, _ = pruned_leaves(params, mask)
    for path, leaf in zip(paths, leaves, strict=True):
        structure.check(path, tuple(leaf.shape))
    scores = at_pruned(criterion(params, grads=grads, stats=stats, mask=mask, key=key), params, mask)
    if structure.density is not None:
        counts = [leaf.size * structure.density for leaf in scores]
    else:
        tree = with_masks(params, mask, scores)
        counts = at_pruned(allocate(params, density, allocation, scores=tree, prunable=prunable), params, mask)
    return with_masks(params, mask, [structure.project(s, c) for s, c in zip(scores, counts, strict=True)])
