"""CaPE: calibrated probability estimation, by epochs on empirical probabilities between epochs on labels."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Key, Num, PyTree
from scipy.special import expit

from uqsparse.bounds.calibration.early_stopping import ProbabilityTraining, train_on_targets
from uqsparse.bounds.calibration.empirical_targets import Targets, empirical_targets, require_target_settings
from uqsparse.bounds.calibration.losses import cross_entropy
from uqsparse.bounds.calibration.network_training import (
    Augmentation,
    Recipe,
    adam,
    checked_rows,
    compiled_logits,
    require_recipe,
)
from uqsparse.kernels.arguments import require_count
from uqsparse.nn.training import Plateau

# The schedule of the paper's program.
REFERENCE_PLATEAU = Plateau(factor=0.5, patience=5, least_scale=1e-3)


def fit_cape(
    key: Key[Array, ""],
    network: PyTree,
    x: Num[ArrayLike, "n ..."],
    y: Num[ArrayLike, " n"],
    x_validation: Num[ArrayLike, "m ..."],
    y_validation: Num[ArrayLike, " m"],
    *,
    targets: Targets = "kernel",
    ce_epochs: int = 1,
    n_bins: int = 10,
    bandwidth: float = 0.1,
    window: int = 500,
    optimiser: optax.GradientTransformation | None = None,
    n_epochs: int = 40,
    batch_size: int = 128,
    patience: int | None = None,
    plateau: Plateau | None = REFERENCE_PLATEAU,
    augment: Augmentation | None = None,
    progress: bool = False,
) -> ProbabilityTraining:
    """Go on from an early-stopped network with epochs on empirical probabilities between epochs on labels.

    Epochs 0, c + 1, 2 (c + 1), ... (c is `ce_epochs`) calibrate: the network's predictions for all training rows,
    without augmentation or dropout, give each row an empirical probability (`empirical_targets`), and the epoch fits
    those in place of the labels. The epochs between fit the labels, which keeps the predictions apart. The network of
    the lowest validation cross entropy is kept, the one it began with included: in that loss the result is never worse.

    It pays where the network would go on learning if the labels' noise let it, as with augmented images; where a
    network memorises small data it only slows that down. Compare with `fit_early_stopped` called for as many more
    epochs, and with Platt scaling of the early-stopped network.

    Args:
        key: for the order of the rows, the augmentation and dropout.
        network: a trained Equinox module from one row to one logit, best `fit_early_stopped(...).network`.
        x: rows to train on, shape (n, ...).
        y: their labels 0 and 1, shape (n,).
        x_validation: other rows, shape (m, ...).
        y_validation: their labels, shape (m,).
        targets: "kernel" or "bin", see `empirical_targets`.
        ce_epochs: epochs on labels after each calibrating epoch. With 0 the network learns from itself alone, and may
            drift.
        n_bins: number of bins.
        bandwidth: of the kernel, in probability.
        window: of the kernel, in ranks.
        optimiser: any Optax transformation; Adam with rate 0.001 if not given.
        n_epochs: how many, at least 1.
        batch_size: rows a step.
        patience: stop after so many epochs without improvement; never if not given.
        plateau: schedule of the rate; constant if None.
        augment: `(key, batch of rows) -> batch`, applied in training only.
        progress: show a bar.

    Raises:
        ValueError: data or settings out of range: NaN, labels that are not 0 and 1 or only one of them, fewer rows than
            bins, shapes that do not fit, a network that does not give one finite logit.

    Warns:
        UserWarning: the validation loss was still falling at the end, a loss was not finite, or it was interrupted.

    Source: Liu, Kaku, Zhu, Leibovich, Mohan et al. (2022), Deep probability estimation, ICML, section 5, algorithm 1.
    """
    rows = checked_rows(x, y, x_validation, y_validation)
    recipe = Recipe(cross_entropy, optimiser or adam(1e-3), batch_size, augment)
    require_recipe(recipe, n_epochs, patience)
    require_count("ce_epochs", ce_epochs, 0)
    require_target_settings(len(rows.y), targets, n_bins, bandwidth, window)
    labels = np.asarray(rows.y)

    def targets_of_epoch(index: int, network: Any) -> tuple[Array, bool]:
        if index % (ce_epochs + 1):
            return rows.y, False
        q = expit(np.asarray(compiled_logits(network, rows.x), np.float64))
        estimates = empirical_targets(q, labels, targets, n_bins=n_bins, bandwidth=bandwidth, window=window)
        return jnp.asarray(estimates, jnp.float32), True

    return train_on_targets(key, network, rows, recipe, targets_of_epoch, n_epochs, patience, plateau, progress, "CaPE")
