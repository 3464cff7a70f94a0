"""Gradual pruning with zero-cost neuroregeneration."""

import optax
from jaxtyping import Array, Key

from uqsparse.pruning.allocation import Allocation, global_by
from uqsparse.pruning.criteria import Criterion, gradient
from uqsparse.pruning.hook import Sparsifier, sparsify
from uqsparse.pruning.masks import Prunable
from uqsparse.pruning.rules import PruneRegrow
from uqsparse.pruning.schedules import CosineChurn, Cubic
from uqsparse.pruning.structures import Structure


def granet(
    inner: optax.GradientTransformation,
    *,
    density: float,
    steps: int,
    key: Key[Array, ""],
    start_density: float = 1.0,
    every: int = 100,
    start: float = 0.0,
    end: float = 0.75,
    churn: float = 0.5,
    churn_end: float = 0.75,
    churn_floor: float = 0.0,
    allow_regrow: bool = False,
    grow: Criterion | None = None,
    allocation: Allocation | None = None,
    structure: Structure | None = None,
    prunable: Prunable | None = None,
    automatic: bool = True,
) -> Sparsifier:
    """Prune while training, and at each change trade the weakest weights for those with the largest gradients.

    The paper's own churn goes on to the end of training: `churn_end=1.0, churn_floor=0.005`. Here it ends where pruning
    does, so that the last mask has time to train.

    Args:
        inner: the optimiser.
        density: final share of the prunable weights, in (0, 1].
        steps: of the whole training.
        key: for a sparse initial mask.
        start_density: 1 begins dense; below, from a random mask (0.5 in the paper's sparse-to-sparse training).
        every: steps between changes.
        start: of the pruning, as a share of `steps`.
        end: of the pruning, as a share of `steps`.
        churn: share of the weights that is traded at first, in [0, 1); 0 is gradual magnitude pruning.
        churn_end: when no more is traded, as a share of `steps`.
        churn_floor: share that is traded at least, until then.
        allow_regrow: weights just dropped can come back, with their values, as in the published code.
        grow: what a weight that is off is worth; the gradient if not given.
        allocation: weights of each leaf; one threshold for all if not given.
        structure: legal positions.
        prunable: see `full_mask`.
        automatic: see `sparsify`.

    Source: Liu et al. (2021), Sparse training via boosting pruning plasticity with neuroregeneration, algorithm 1.
    """
    return sparsify(
        inner,
        schedule=Cubic(int(start * steps), int(end * steps), every, start_density, density),
        rule=PruneRegrow(allow_regrow=allow_regrow),
        key=key,
        grow=grow or gradient(),
        churn=CosineChurn(churn, int(churn_end * steps), churn_floor),
        allocation=allocation or global_by(),
        structure=structure,
        prunable=prunable,
        automatic=automatic,
    )
