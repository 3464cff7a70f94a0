"""A mask that is chosen before training and never changes."""

import optax
from jaxtyping import Array, Key

from uqsparse.pruning.allocation import Allocation
from uqsparse.pruning.hook import Sparsifier, sparsify
from uqsparse.pruning.masks import Mask, Prunable
from uqsparse.pruning.rules import Static
from uqsparse.pruning.schedules import Constant
from uqsparse.pruning.structures import Structure


def static(
    inner: optax.GradientTransformation,
    *,
    density: float,
    steps: int | None = None,
    key: Key[Array, ""],
    allocation: Allocation | None = None,
    mask: Mask | None = None,
    structure: Structure | None = None,
    prunable: Prunable | None = None,
) -> Sparsifier:
    """Train the weights of one mask: random positions, or a mask of yours.

    Args:
        inner: the optimiser.
        density: share of the prunable weights that live, in (0, 1]; with a mask of yours only its record.
        steps: of the whole training; nothing depends on it here.
        key: for the positions.
        allocation: weights of each leaf; `erk` if not given.
        mask: in place of random positions, such as one of `select_mask`; it decides the density.
        structure: legal positions.
        prunable: see `full_mask`.

    Source: Liu et al. (2022), The unreasonable effectiveness of random pruning.
    """
    return sparsify(
        inner,
        schedule=Constant(density),
        rule=Static(),
        key=key,
        allocation=allocation,
        initial=mask,
        structure=structure,
        prunable=prunable,
    )
