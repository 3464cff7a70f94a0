"""Iterative magnitude pruning: the search for lottery tickets."""

import optax
from jaxtyping import Array, Key

from uqsparse.kernels.arguments import require_count
from uqsparse.pruning.allocation import Allocation, global_by
from uqsparse.pruning.criteria import Criterion
from uqsparse.pruning.hook import Sparsifier, sparsify
from uqsparse.pruning.masks import Prunable
from uqsparse.pruning.rules import Prune
from uqsparse.pruning.schedules import Geometric
from uqsparse.pruning.structures import Structure


def imp(
    inner: optax.GradientTransformation,
    *,
    density: float,
    steps: int,
    key: Key[Array, ""],
    rounds: int = 5,
    rewind_to: int | None = 0,
    criterion: Criterion | None = None,
    allocation: Allocation | None = None,
    structure: Structure | None = None,
    prunable: Prunable | None = None,
    automatic: bool = True,
) -> Sparsifier:
    """Train, prune the same share of what is left, go back to early weights, and again; R + 1 trainings in all.

    Each training has `steps // (rounds + 1)` steps. With rewinding the optimiser starts anew in each, its schedule of
    the rate included: give it one for that many steps.

    Args:
        inner: the optimiser.
        density: final share of the prunable weights, in (0, 1].
        steps: of all trainings together.
        key: for criteria that are random.
        rounds: prunings, R.
        rewind_to: step of the first training whose weights every later training starts from; None goes on from the
            weights that were trained.
        criterion: what a weight is worth; magnitude if not given.
        allocation: weights of each leaf; one threshold for all if not given.
        structure: legal positions.
        prunable: see `full_mask`.
        automatic: see `sparsify`.

    Source: Frankle & Carbin (2019), The lottery ticket hypothesis; Frankle et al. (2020), Linear mode connectivity and
    the lottery ticket hypothesis, algorithm 1.
    """
    require_count("rounds", rounds, 1)
    require_count("steps", steps, rounds + 1)
    return sparsify(
        inner,
        schedule=Geometric(rounds, steps // (rounds + 1), density),
        rule=Prune(),
        key=key,
        drop=criterion,
        allocation=allocation or global_by(),
        structure=structure,
        rewind_to=rewind_to,
        prunable=prunable,
        automatic=automatic,
    )
