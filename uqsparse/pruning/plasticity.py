"""Pruning plasticity: how much a network recovers from being pruned at one time of its training."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from uqsparse.pruning.allocation import Allocation
from uqsparse.pruning.criteria import gradient, magnitude
from uqsparse.pruning.masks import Mask, Prunable, apply_mask, at_pruned, pruned_leaves, with_masks
from uqsparse.pruning.rules import DropGrow
from uqsparse.pruning.selection import select_mask


class Plasticity(NamedTuple):
    """What pruning cost at each of T times, and what came back; all of shape (T,).

    Args:
        steps: times of pruning.
        before: score of the unpruned network.
        pruned: score right after pruning.
        after: score after retraining.
    """

    steps: Int[np.ndarray, " T"]
    before: Float[np.ndarray, " T"]
    pruned: Float[np.ndarray, " T"]
    after: Float[np.ndarray, " T"]

    @property
    def plasticity(self) -> Float[np.ndarray, " T"]:
        """After retraining less before pruning: 0 is full recovery."""
        return self.after - self.before


def pruning_plasticity(
    checkpoints: Sequence[tuple[int, PyTree]],
    retrain: Callable[[PyTree, Mask, int], PyTree],
    score: Callable[[PyTree], float],
    *,
    density: float,
    regenerate: float = 0.0,
    gradients: Callable[[PyTree], PyTree] | None = None,
    allocation: Allocation | None = None,
    prunable: Prunable | None = None,
) -> Plasticity:
    """Prune by magnitude at several times of a training, retrain, and see what comes back.

    Args:
        checkpoints: step and parameters, at the times to prune.
        retrain: `(masked parameters, mask, step) -> parameters`: more steps with the mask fixed, such as with `static`.
        score: of parameters, higher is better.
        density: share of the prunable weights that pruning leaves.
        regenerate: share of them that is traded at once for the weights with the largest gradients, in [0, 1).
        gradients: of the loss, dense, at parameters; needed to regenerate.
        allocation: weights of each leaf; one threshold for all if not given.
        prunable: see `full_mask`.

    Raises:
        ValueError: an argument is out of its range, or gradients are needed and missing.

    Source: Liu et al. (2021), Sparse training via boosting pruning plasticity with neuroregeneration, section 3.
    """
    if not 0 <= regenerate < 1:
        raise ValueError(f"regenerate must lie in [0, 1), got {regenerate!r}")
    if regenerate and gradients is None:
        raise ValueError("gradients must be given to regenerate weights")
    rows = []
    for step, params in checkpoints:
        mask = select_mask(params, density, allocation=allocation, prunable=prunable)
        cut = apply_mask(mask, params)
        pruned = score(cut)
        if gradients is not None and regenerate:
            mask = _traded(cut, mask, gradients(cut), regenerate)
        after = score(retrain(apply_mask(mask, cut), mask, step))
        rows.append((score(params), pruned, after))
    before, pruned, after = np.array(rows, np.float64).reshape(-1, 3).T
    return Plasticity(np.array([step for step, _ in checkpoints]), before, pruned, after)


def _traded(params: PyTree, mask: Mask, grads: PyTree, share: float) -> Mask:
    keep = at_pruned(magnitude()(params, mask=mask), params, mask)
    come = at_pruned(gradient()(params, grads=grads, mask=mask), params, mask)
    rule, new = DropGrow(), []
    for old, a, b in zip(pruned_leaves(params, mask).masks, keep, come, strict=True):
        rows = rule(old.reshape(1, -1), a.reshape(1, -1), b.reshape(1, -1), old.sum(), jnp.asarray(share))
        new.append(rows.reshape(old.shape))
    return with_masks(params, mask, new)
