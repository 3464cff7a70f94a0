"""One pruning, and training on."""

import optax
from jaxtyping import Array, Key

from uqsparse.pruning.allocation import Allocation, global_by
from uqsparse.pruning.criteria import Criterion
from uqsparse.pruning.hook import Sparsifier, sparsify
from uqsparse.pruning.masks import Prunable
from uqsparse.pruning.rules import Prune
from uqsparse.pruning.schedules import OneShot
from uqsparse.pruning.structures import Structure


def one_shot(
    inner: optax.GradientTransformation,
    *,
    density: float,
    steps: int,
    key: Key[Array, ""],
    at: float = 0.75,
    criterion: Criterion | None = None,
    allocation: Allocation | None = None,
    structure: Structure | None = None,
    prunable: Prunable | None = None,
    automatic: bool = True,
) -> Sparsifier:
    """Train dense, prune once, and train what is left.

    To prune a network that is trained already, without retraining, use `select_mask`; to see how much can go,
    `essential_sparsity`.

    Args:
        inner: the optimiser.
        density: share of the prunable weights that stays, in (0, 1].
        steps: of the whole training.
        key: for criteria that are random.
        at: when to prune, as a share of `steps`.
        criterion: what a weight is worth; magnitude if not given.
        allocation: weights of each leaf; one threshold for all if not given.
        structure: legal positions.
        prunable: see `full_mask`.
        automatic: see `sparsify`.
    """
    return sparsify(
        inner,
        schedule=OneShot(int(at * steps), density),
        rule=Prune(),
        key=key,
        drop=criterion,
        allocation=allocation or global_by(),
        structure=structure,
        prunable=prunable,
        automatic=automatic,
    )
