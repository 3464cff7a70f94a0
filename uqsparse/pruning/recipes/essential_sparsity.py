"""How much of a trained network can be thrown away: one-shot pruning at many sparsities."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key, PyTree
from rich.progress import track

from uqsparse.pruning.allocation import Allocation, global_by, uniform
from uqsparse.pruning.criteria import Criterion
from uqsparse.pruning.masks import Mask, Prunable, apply_mask, mask_density
from uqsparse.pruning.selection import select_mask
from uqsparse.pruning.sparsity_curves import Curve
from uqsparse.pruning.structures import NM, Structure, Unstructured


def essential_sparsity(
    params: PyTree,
    evaluate: Callable[[PyTree], ArrayLike],
    sparsities: Sequence[float] | Float[np.ndarray, " n"] | None = None,
    *,
    structure: Structure | None = None,
    allocation: Allocation | None = None,
    criterion: Criterion | None = None,
    finetune: Callable[[PyTree, Mask], PyTree] | None = None,
    prunable: Prunable | None = None,
    grads: PyTree | None = None,
    stats: PyTree | None = None,
    key: Key[Array, ""] | None = None,
    progress: bool = False,
) -> Curve:
    """Prune a trained network once at each sparsity, from the same weights, and evaluate it.

    One threshold over all leaves compares weights of different layers. Multiplying one layer by 10 and the next by 0.1
    leaves a network of rectified units as it is, and changes that selection; `allocation=uniform()` does not care.

    Args:
        params: trained parameters, or a whole network.
        evaluate: from parameters to performance, higher is better: a number, or an array with one of each example,
            which intervals are made from. For a loss give minus the loss; accuracies near 100% hide the knee.
        sparsities: shares of the prunable weights to remove, increasing from 0, below 1; 0, 0.05, ..., 0.9 if not
            given. For `NM(n, m)` they are 1 - k / m with k from m down to n, each with k of m weights.
        structure: legal positions; any if not given.
        allocation: weights of each leaf; if not given, one threshold for all without a structure, and else the same
            density for each.
        criterion: what a weight is worth; magnitude if not given.
        finetune: `(params, mask) -> params`, trains with the mask fixed; weights off the mask are set to zero after it.
        prunable: see `full_mask`.
        grads: gradients, if the criterion needs them.
        stats: statistics, if it needs them.
        key: if it is random; the masks are nested then.
        progress: whether to show a bar.

    Returns:
        The curve, with `essential`, `knee` and `plot`.

    Raises:
        ValueError: sparsities are out of order or range, or no multiples of 1 / m; a performance is not finite, or of
            another number of examples than before; a leaf cannot have the structure.

    Source: Jaiswal, Liu, Chen & Wang (2023), The emergence of essential sparsity in large pre-trained models: the
    weights that matter, NeurIPS.

    >>> params = {"w": np.array([[1.0, 0.1, 3.0, 2.0]])}
    >>> curve = essential_sparsity(params, lambda tree: tree["w"].sum(), [0.0, 0.25, 0.5])
    >>> curve.performances.round(3).tolist(), round(curve.essential(0.1), 2)
    ([6.1, 6.0, 5.0], 0.38)
    """
    structure = structure or Unstructured()
    if allocation is None:
        allocation = global_by() if isinstance(structure, Unstructured) else uniform()
    if sparsities is None:
        sparsities = _grid(structure)
    asked = np.asarray(sparsities, float)
    if asked.ndim != 1 or len(asked) < 2 or asked[0] != 0 or not (np.diff(asked) > 0).all() or not asked[-1] < 1:
        raise ValueError(f"sparsities must increase from 0, be two or more and below 1, got {sparsities!r}")
    structures = [_at(structure, float(s)) for s in asked]
    reached, found = [], []
    for s, one in track(
        list(zip(asked.tolist(), structures, strict=True)), "essential sparsity", transient=True, disable=not progress
    ):
        mask = select_mask(
            params,
            1 - s,
            criterion=criterion,
            allocation=allocation,
            structure=one,
            prunable=prunable,
            grads=grads,
            stats=stats,
            key=key,
        )
        pruned = apply_mask(mask, params)
        if finetune is not None:
            pruned = apply_mask(mask, finetune(pruned, mask))
        performance = np.asarray(evaluate(pruned), float)
        if performance.ndim > 1 or not performance.size or not np.isfinite(performance).all():
            raise ValueError(f"evaluate must return a finite number or a row of them, got {performance} at {s:g}")
        if found and performance.shape != found[0].shape:
            raise ValueError(f"evaluate returned shape {performance.shape} at {s:g}, and {found[0].shape} before")
        reached.append(1 - mask_density(mask))
        found.append(performance)
    examples = np.stack(found) if found[0].ndim else None
    means = np.stack([performance.mean() for performance in found])
    return Curve(np.array(reached), means, examples)


def _grid(structure: Structure) -> Float[np.ndarray, " n"]:
    if isinstance(structure, NM):
        return 1 - np.arange(structure.m, structure.n - 1, -1) / structure.m
    return np.arange(19) / 20


def _at(structure: Structure, sparsity: float) -> Structure:
    """The structure at a sparsity: k of m weights where it is N:M."""
    if not isinstance(structure, NM):
        return structure
    k = round((1 - sparsity) * structure.m)
    if abs(k / structure.m - (1 - sparsity)) > 1e-6 or not k:
        raise ValueError(f"sparsities must be multiples of 1 / {structure.m} for {structure}, got {sparsity:g}")
    return NM(k, structure.m, structure.axis)
