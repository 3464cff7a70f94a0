"""Sparse evolutionary training: weights traded by magnitude and chance."""

import optax
from jaxtyping import Array, Key

from uqsparse.pruning.allocation import Allocation
from uqsparse.pruning.criteria import magnitude, random, signed_magnitude
from uqsparse.pruning.hook import Sparsifier, sparsify
from uqsparse.pruning.masks import Mask, Prunable
from uqsparse.pruning.rules import DropGrow
from uqsparse.pruning.schedules import Constant, CosineChurn
from uqsparse.pruning.structures import Structure


def set_(
    inner: optax.GradientTransformation,
    *,
    density: float,
    steps: int,
    key: Key[Array, ""],
    every: int = 100,
    end: float = 0.75,
    churn: float = 0.3,
    signed: bool = False,
    allocation: Allocation | None = None,
    mask: Mask | None = None,
    structure: Structure | None = None,
    prunable: Prunable | None = None,
    automatic: bool = True,
) -> Sparsifier:
    """Train a constant number of weights; at each change the smallest leave and random ones come in.

    No dense gradient is ever needed.

    Args:
        inner: the optimiser.
        density: share of the prunable weights, in (0, 1].
        steps: of the whole training.
        key: for the masks.
        every: steps between changes.
        end: of the changes, as a share of `steps`.
        churn: share of the weights that is traded at each change, in [0, 1).
        signed: drop the smallest positive and the largest negative weights, each by their share, as in the paper.
        allocation: weights of each leaf; `erk` if not given.
        mask: to begin with, in place of random positions.
        structure: legal positions.
        prunable: see `full_mask`.
        automatic: see `sparsify`.

    Source: Mocanu et al. (2018), Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science.
    """
    return sparsify(
        inner,
        schedule=Constant(density, every),
        rule=DropGrow(),
        key=key,
        drop=signed_magnitude() if signed else magnitude(),
        grow=random(),
        churn=CosineChurn(churn, int(end * steps), floor=churn),
        allocation=allocation,
        initial=mask,
        structure=structure,
        prunable=prunable,
        automatic=automatic,
    )
