"""Deep ensembles for a probability: networks from different starts, whose probabilities are averaged."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
from jax import random
from jaxtyping import Array, ArrayLike, Float, Int, Key, Num, PyTree
from scipy.special import expit

from uqsparse.bounds.calibration.losses import cross_entropy
from uqsparse.bounds.calibration.network_training import (
    Augmentation,
    ProbabilityLoss,
    Recipe,
    adam,
    checked_rows,
    epoch,
    evaluated_logits,
    require_network,
    require_recipe,
    start_state,
    validation_loss,
)
from uqsparse.kernels.arguments import require_count
from uqsparse.nn.training import Plateau, train_keeping_best


class DeepEnsemble(NamedTuple):
    """M networks that estimate a probability, and how their training went. E epochs were finished.

    Args:
        networks: one module whose arrays have a leading axis of M, each network as it was after its own best epoch.
        validation_loss: cross entropy of the validation labels of each network, in nats, shape (M,).
        best_epoch: of each, from 0; -1 where none improved on its start, shape (M,).
        training_losses: mean training loss in each epoch, shape (E, M).
        validation_losses: after each epoch, shape (E, M).
        stopped: "epochs" (all were done), "patience", "diverged" (a loss was not finite) or "interrupted".
        converged: whether it ended as planned with every best epoch before the last.
    """

    networks: PyTree
    validation_loss: Float[np.ndarray, " M"]
    best_epoch: Int[np.ndarray, " M"]
    training_losses: Float[np.ndarray, "E M"]
    validation_losses: Float[np.ndarray, "E M"]
    stopped: str
    converged: bool

    @property
    def n_epochs(self) -> int:
        """How many epochs were finished."""
        return len(self.validation_losses)

    def member_probability(self, x: Num[ArrayLike, "n ..."]) -> Float[np.ndarray, "M n"]:
        """Each network's probability of label 1 for rows of shape (n, ...), shape (M, n)."""
        logits = np.asarray(_member_logits(self.networks, jnp.asarray(x)), np.float64)
        if not np.isfinite(logits).all():
            raise ValueError(f"the networks give {(~np.isfinite(logits)).sum()} logits that are NaN or infinite")
        return expit(logits)

    def probability(self, x: Num[ArrayLike, "n ..."]) -> Float[np.ndarray, " n"]:
        """Mean of the networks' probabilities of label 1 for rows of shape (n, ...), shape (n,)."""
        return self.member_probability(x).mean(axis=0)


def deep_ensemble(
    key: Key[Array, ""],
    make_network: Callable[[Key[Array, ""]], PyTree],
    x: Num[ArrayLike, "n ..."],
    y: Num[ArrayLike, " n"],
    x_validation: Num[ArrayLike, "m ..."],
    y_validation: Num[ArrayLike, " m"],
    *,
    n_members: int = 5,
    loss: ProbabilityLoss = cross_entropy,
    optimiser: optax.GradientTransformation | None = None,
    n_epochs: int = 40,
    batch_size: int = 128,
    patience: int | None = None,
    plateau: Plateau | None = None,
    augment: Augmentation | None = None,
    progress: bool = False,
) -> DeepEnsemble:
    """Train networks from different starts, in different orders, in one program; each keeps its own best epoch.

    An interrupt returns the best networks so far.

    Args:
        key: for the starts, the orders, the augmentation and dropout.
        make_network: `key -> network`, an Equinox module from one row to one logit; made once for each member.
        x: rows to train on, shape (n, ...).
        y: their labels 0 and 1, shape (n,).
        x_validation: other rows, shape (m, ...).
        y_validation: their labels, shape (m,).
        n_members: number of networks M, at least 1.
        loss: mean loss `(logits, targets)` of a batch. The validation loss is the cross entropy in any case.
        optimiser: any Optax transformation; Adam with rate 0.001 if not given.
        n_epochs: how many, at least 1.
        batch_size: rows a step.
        patience: stop when no network has improved for so many epochs; never if not given.
        plateau: schedule of each network's rate, constant if not given.
        augment: `(key, batch of rows) -> batch`, applied in training only.
        progress: show a bar.

    Raises:
        ValueError: as `fit_early_stopped`.

    Warns:
        UserWarning: a validation loss was still falling at the end, a loss was not finite, or it was interrupted.

    Source: Lakshminarayanan, Pritzel & Blundell (2017), Simple and scalable predictive uncertainty estimation using
    deep ensembles, algorithm 1 without the adversarial examples.
    """
    rows = checked_rows(x, y, x_validation, y_validation)
    recipe = Recipe(loss, optimiser or adam(1e-3), batch_size, augment)
    require_recipe(recipe, n_epochs, patience)
    require_count("n_members", n_members, 1)
    key_start, key_epochs = random.split(key)
    require_network(make_network(key_start), rows.x[0])
    networks = eqx.filter_vmap(make_network)(random.split(key_start, n_members))
    began = np.asarray(_member_losses(networks, rows), np.float64)
    if not np.isfinite(began).all():
        raise ValueError("make_network gives networks with logits that are not finite")

    def all_members(index, networks, states, scales):
        keys = random.split(random.fold_in(key_epochs, index), n_members)
        return _members_epoch(recipe, keys, networks, states, rows, jnp.asarray(scales))

    done = train_keeping_best(
        networks,
        _member_states(recipe.optimiser, networks),
        all_members,
        n_epochs,
        validation_loss=began,
        patience=patience,
        plateau=plateau,
        progress=progress,
        title=f"{n_members} networks",
        stacklevel=3,
    )
    return DeepEnsemble(
        networks=done.network,
        validation_loss=done.validation_loss,
        best_epoch=done.best_epoch,
        training_losses=done.training_losses,
        validation_losses=done.validation_losses,
        stopped=done.stopped,
        converged=done.converged,
    )


@eqx.filter_jit
def _members_epoch(recipe, keys, networks, states, rows, scales):
    def one(key, network, state, scale):
        return epoch(recipe, key, network, state, rows, rows.y, scale)

    return eqx.filter_vmap(one)(keys, networks, states, scales)


_member_losses = eqx.filter_jit(eqx.filter_vmap(validation_loss, in_axes=(eqx.if_array(0), None)))
_member_logits = eqx.filter_jit(eqx.filter_vmap(evaluated_logits, in_axes=(eqx.if_array(0), None)))
_member_states = eqx.filter_jit(eqx.filter_vmap(start_state, in_axes=(None, eqx.if_array(0))))
