"""Rigged lottery: sparse from the first step, weights traded by magnitude and gradient."""

import optax
from jaxtyping import Array, Key

from uqsparse.pruning.allocation import Allocation
from uqsparse.pruning.criteria import gradient
from uqsparse.pruning.hook import Sparsifier, sparsify
from uqsparse.pruning.masks import Mask, Prunable
from uqsparse.pruning.rules import DropGrow
from uqsparse.pruning.schedules import Constant, CosineChurn
from uqsparse.pruning.structures import Structure


def rigl(
    inner: optax.GradientTransformation,
    *,
    density: float,
    steps: int,
    key: Key[Array, ""],
    every: int = 100,
    end: float = 0.75,
    churn: float = 0.3,
    allow_regrow: bool = False,
    skip_step: bool = False,
    allocation: Allocation | None = None,
    mask: Mask | None = None,
    structure: Structure | None = None,
    prunable: Prunable | None = None,
    automatic: bool = True,
) -> Sparsifier:
    """Train a constant number of weights; at each change the smallest leave, those with the largest gradients come in.

    Args:
        inner: the optimiser.
        density: share of the prunable weights, in (0, 1].
        steps: of the whole training.
        key: for the initial mask.
        every: steps between changes.
        end: of the changes, as a share of `steps`.
        churn: share of the weights that is traded at first, in [0, 1); it falls to 0 as a cosine.
        allow_regrow: weights just dropped can come back, with their values, as in the published code.
        skip_step: make no optimiser step where the mask changes, as in the published code.
        allocation: weights of each leaf; `erk` if not given.
        mask: to begin with, in place of random positions.
        structure: legal positions.
        prunable: see `full_mask`.
        automatic: see `sparsify`.

    Source: Evci et al. (2020), Rigging the lottery: making all tickets winners, algorithm 1.
    """
    return sparsify(
        inner,
        schedule=Constant(density, every),
        rule=DropGrow(allow_regrow=allow_regrow),
        key=key,
        grow=gradient(),
        churn=CosineChurn(churn, int(end * steps)),
        allocation=allocation,
        initial=mask,
        structure=structure,
        skip_step=skip_step,
        prunable=prunable,
        automatic=automatic,
    )
