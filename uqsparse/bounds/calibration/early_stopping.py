"""Networks that estimate a probability, trained until the validation loss rises: the base of what calibrates them."""

from typing import NamedTuple

import numpy as np
import optax
from jax import random
from jaxtyping import Array, ArrayLike, Bool, Float, Key, Num, PyTree
from scipy.special import expit

from uqsparse.bounds.calibration.losses import cross_entropy
from uqsparse.bounds.calibration.network_training import (
    Augmentation,
    ProbabilityLoss,
    Recipe,
    Rows,
    adam,
    checked_rows,
    compiled_epoch,
    compiled_start_state,
    compiled_validation_loss,
    network_logits,
    require_network,
    require_recipe,
)
from uqsparse.nn.training import Plateau, train_keeping_best


class ProbabilityTraining(NamedTuple):
    """A network that estimates a probability, and how its training went. E epochs were finished.

    Args:
        network: as it was after its best epoch, by the cross entropy of the validation labels.
        validation_loss: that cross entropy, in nats.
        best_epoch: from 0; -1 where no epoch improved on the network it began with.
        training_losses: mean training loss in each epoch, shape (E,).
        validation_losses: cross entropy of the validation labels after each epoch, shape (E,).
        rate_scales: share of the optimiser's rate used in each epoch, shape (E,).
        calibrating: which epochs used empirical targets in place of labels, shape (E,).
        stopped: "epochs" (all were done), "patience", "diverged" (a loss was not finite) or "interrupted".
        converged: whether it ended as planned with the best epoch before the last.
    """

    network: PyTree
    validation_loss: float
    best_epoch: int
    training_losses: Float[np.ndarray, " E"]
    validation_losses: Float[np.ndarray, " E"]
    rate_scales: Float[np.ndarray, " E"]
    calibrating: Bool[np.ndarray, " E"]
    stopped: str
    converged: bool

    @property
    def n_epochs(self) -> int:
        """How many epochs were finished."""
        return len(self.validation_losses)

    def logits(self, x: Num[ArrayLike, "n ..."]) -> Float[np.ndarray, " n"]:
        """Log odds of label 1 for rows of shape (n, ...), shape (n,)."""
        return network_logits(self.network, x)

    def probability(self, x: Num[ArrayLike, "n ..."]) -> Float[np.ndarray, " n"]:
        """Probability of label 1 for rows of shape (n, ...), shape (n,)."""
        return expit(self.logits(x))


def fit_early_stopped(
    key: Key[Array, ""],
    network: PyTree,
    x: Num[ArrayLike, "n ..."],
    y: Num[ArrayLike, " n"],
    x_validation: Num[ArrayLike, "m ..."],
    y_validation: Num[ArrayLike, " m"],
    *,
    loss: ProbabilityLoss = cross_entropy,
    optimiser: optax.GradientTransformation | None = None,
    n_epochs: int = 40,
    batch_size: int = 128,
    patience: int | None = None,
    plateau: Plateau | None = None,
    augment: Augmentation | None = None,
    progress: bool = False,
) -> ProbabilityTraining:
    """Train on the labels, and keep the network of the epoch with the lowest validation cross entropy.

    A flexible network first learns the probabilities and then the labels themselves; the validation labels say when
    the second begins. Called with a trained network, it goes on from there with a new state of the optimiser: the
    control that any gain of `fit_cape` has to be compared with. An interrupt returns the best network so far.

    Args:
        key: for the order of the rows, the augmentation and dropout.
        network: an Equinox module from one row to one logit, of shape () or (1,). Dropout is active in training only;
            layers with a state (batch normalisation) are not supported.
        x: rows to train on, shape (n, ...).
        y: their labels 0 and 1, shape (n,).
        x_validation: other rows, shape (m, ...).
        y_validation: their labels, shape (m,).
        loss: mean loss `(logits, targets)` of a batch. The validation loss is the cross entropy in any case.
        optimiser: any Optax transformation; Adam with rate 0.001 if not given. Hand over the same object again, and
            what was compiled is used again.
        n_epochs: how many, at least 1.
        batch_size: rows a step.
        patience: stop after so many epochs without improvement; never if not given.
        plateau: schedule of the rate, constant if not given.
        augment: `(key, batch of rows) -> batch`, applied in training only.
        progress: show a bar.

    Raises:
        ValueError: data or settings out of range: NaN, labels that are not 0 and 1 or only one of them, shapes that do
            not fit, a network that does not give one finite logit.

    Warns:
        UserWarning: the validation loss was still falling at the end, a loss was not finite, or it was interrupted.

    Source: Liu, Kaku, Zhu, Leibovich, Mohan et al. (2022), Deep probability estimation, ICML, section 4 (early learning
    and memorisation).
    """
    rows = checked_rows(x, y, x_validation, y_validation)
    recipe = Recipe(loss, optimiser or adam(1e-3), batch_size, augment)
    require_recipe(recipe, n_epochs, patience)
    return train_on_targets(
        key,
        network,
        rows,
        recipe,
        lambda index, network: (rows.y, False),
        n_epochs,
        patience,
        plateau,
        progress,
        "labels",
    )


def train_on_targets(key, network, rows: Rows, recipe: Recipe, targets, n_epochs, patience, plateau, progress, title):
    """Train with the targets that `targets(index, network)` gives each epoch, and says whether they are estimates."""
    require_network(network, rows.x[0])
    began = float(compiled_validation_loss(network, rows))
    if not np.isfinite(began):
        raise ValueError(f"network gives a validation loss of {began} before training: its logits must be finite")
    calibrating = []

    def epoch(index, network, state, scale):
        now, estimated = targets(index, network)
        result = compiled_epoch(recipe, random.fold_in(key, index), network, state, rows, now, scale)
        calibrating.append(estimated)
        return result

    done = train_keeping_best(
        network,
        compiled_start_state(recipe.optimiser, network),
        epoch,
        n_epochs,
        validation_loss=began,
        patience=patience,
        plateau=plateau,
        progress=progress,
        title=title,
        stacklevel=4,
    )
    return ProbabilityTraining(
        network=done.network,
        validation_loss=float(done.validation_loss),
        best_epoch=int(done.best_epoch),
        training_losses=done.training_losses,
        validation_losses=done.validation_losses,
        rate_scales=done.scales,
        calibrating=np.array(calibrating[: len(done.validation_losses)], bool),
        stopped=done.stopped,
        converged=done.converged,
    )
