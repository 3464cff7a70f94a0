"""Gradual magnitude pruning."""

import optax
from jaxtyping import Array, Key

from uqsparse.pruning.allocation import Allocation, global_by
from uqsparse.pruning.criteria import Criterion
from uqsparse.pruning.hook import Sparsifier, sparsify
from uqsparse.pruning.masks import Prunable
from uqsparse.pruning.rules import Prune
from uqsparse.pruning.schedules import Cubic
from uqsparse.pruning.structures import Structure


def gmp(
    inner: optax.GradientTransformation,
    *,
    density: float,
    steps: int,
    key: Key[Array, ""],
    every: int = 100,
    start: float = 0.0,
    end: float = 0.75,
    criterion: Criterion | None = None,
    allocation: Allocation | None = None,
    structure: Structure | None = None,
    prunable: Prunable | None = None,
    automatic: bool = True,
) -> Sparsifier:
    """Prune a dense network while it trains, fast at first; what is gone stays gone.

    Args:
        inner: the optimiser.
        density: final share of the prunable weights, in (0, 1].
        steps: of the whole training.
        key: for criteria that are random.
        every: steps between changes.
        start: of the pruning, as a share of `steps`.
        end: of the pruning, as a share of `steps`.
        criterion: what a weight is worth; magnitude if not given.
        allocation: weights of each leaf; one threshold for all if not given.
        structure: legal positions.
        prunable: see `full_mask`.
        automatic: see `sparsify`.

    Source: Zhu & Gupta (2018), To prune, or not to prune: exploring the efficacy of pruning for model compression.
    """
    return sparsify(
        inner,
        schedule=Cubic(int(start * steps), int(end * steps), every, 1.0, density),
        rule=Prune(),
        key=key,
        drop=criterion,
        allocation=allocation or global_by(),
        structure=structure,
        prunable=prunable,
        automatic=automatic,
    )
