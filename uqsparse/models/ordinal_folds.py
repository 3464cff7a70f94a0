"""Cross-validation of a path of ordinal models, with the folds as weights: all of them in one compiled program."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from uqsparse.kernels.ordinal import ordinal_probabilities
from uqsparse.models.ordinal_path import HUGE, OrdinalProblem, compiled_loss, moments, null_fit, solve_path
from uqsparse.solvers.ordinal_loss import OrdinalLoss, null_point
from uqsparse.solvers.proximal_newton import PenalisedPath, proximal_newton_path

Scoring = Literal["brier", "log_loss"]


def fold_paths(
    problem: OrdinalProblem, lambdas: Float[np.ndarray, " L"], held_out: Bool[np.ndarray, "f n"]
) -> tuple[OrdinalProblem, PenalisedPath]:
    """Fit the path on all rows but those held out, for each fold.

    Args:
        problem: all rows.
        lambdas: penalties from large to small, shape (L,).
        held_out: rows to leave out, for each fold, shape (f, n).

    Returns:
        The problem of each fold (weights and penalty factors have a leading axis of folds; the factors make up for the
        fold's own standard deviations), and the paths, with a leading axis of folds, in the units of `problem`.

    Raises:
        ValueError: a fold leaves a class without rows.
    """
    for fold, rows in enumerate(held_out):
        left = np.bincount(problem.y[~rows], minlength=problem.n_classes)
        if not left.all():
            raise ValueError(
                f"fold {fold} of cv holds out all rows of class {int(np.argmin(left))}; use fewer folds, stratified "
                "folds, or cv=None with one penalty"
            )
    weights = np.where(held_out, 0.0, problem.weights)
    weights /= weights.sum(axis=1, keepdims=True)
    # Scaling a column by s scales its l1 penalty by s and its l2 penalty by s^2; centring only moves the intercepts.
    scales = np.stack([moments(problem.X, one)[1] for one in weights])
    scales = np.concatenate([np.ones((len(scales), 1)), scales], axis=1)
    spread = np.tile(scales, (1, problem.n_classes - 1))
    folds = problem._replace(
        weights=weights, l1_factors=problem.l1_factors * spread, l2_factors=problem.l2_factors * spread**2
    )
    if problem.is_wide:
        problems = [one_fold(folds, fold) for fold in range(len(weights))]
        parts = [solve_path(one, lambdas, null_fit(one)) for one in problems]
        return folds, jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
    with jax.enable_x64(True):
        loss = compiled_loss(problem)
        padded = np.pad(weights, ((0, 0), (0, loss.weights.shape[0] - weights.shape[1])))
        padded, l1, l2 = jnp.asarray(padded), jnp.asarray(folds.l1_factors), jnp.asarray(folds.l2_factors)
        starts = _all_null_points(loss, padded)
        factors = folds.l1_factors + folds.l2_factors
        if np.count_nonzero(factors[0] == 0) > problem.n_classes - 1:
            strength = jnp.asarray([HUGE / factors[factors > 0].min()])
            starts = _all_folds(loss, padded, starts, strength, jnp.asarray(factors), jnp.asarray(0 * factors)).w[:, 0]
        paths = _all_folds(loss, padded, starts, jnp.asarray(lambdas), l1, l2)
        return folds, jax.tree.map(np.asarray, paths)


def one_fold(folds: OrdinalProblem, fold: int) -> OrdinalProblem:
    """The problem of one fold."""
    return folds._replace(
        weights=folds.weights[fold], l1_factors=folds.l1_factors[fold], l2_factors=folds.l2_factors[fold]
    )


def held_out_scores(
    problem: OrdinalProblem,
    points: Float[np.ndarray, "f L q"],
    held_out: Bool[np.ndarray, "f n"],
    scoring: Scoring,
) -> Float[np.ndarray, " L"]:
    """Weighted mean score of the held-out rows along the path, smaller is better.

    Crossing logits are sorted first, so that every prediction is a distribution.

    Args:
        problem: all rows.
        points: standardised solutions of each fold.
        held_out: rows of each fold.
        scoring: "brier" (sum over classes of squared errors) or "log_loss".
    """
    totals, mass = np.zeros(points.shape[1]), 0.0
    for rows, path in zip(held_out, points, strict=True):
        weights = problem.weights[rows]
        for at, w in enumerate(path):
            table = w.reshape(problem.n_classes - 1, -1)
            eta = table[:, 0] + problem.X[rows] @ np.cumsum(table[:, 1:], axis=0).T
            probabilities = ordinal_probabilities(np.sort(eta, axis=1))
            totals[at] += weights @ row_scores(probabilities, problem.y[rows], scoring)
        mass += weights.sum()
    return totals / mass


def row_scores(
    probabilities: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"], scoring: Scoring
) -> Float[np.ndarray, " n"]:
    """Brier score or log loss of each row.

    >>> row_scores(np.array([[0.5, 0.5, 0.0]]), np.array([0]), "brier").tolist()
    [0.5]
    """
    chosen = probabilities[np.arange(len(y)), y]
    if scoring == "brier":
        return (probabilities**2).sum(axis=1) - 2 * chosen + 1
    # Equal logits after sorting give a probability of zero, and one bad row should not decide alone by infinity.
    return -np.log(np.maximum(chosen, 1e-300))


@eqx.filter_jit
def _all_null_points(loss: OrdinalLoss, weights: Any) -> Any:
    return jax.vmap(lambda one: null_point(_weighted(loss, one)))(weights)


@eqx.filter_jit
def _all_folds(loss: OrdinalLoss, weights: Any, starts: Any, lambdas: Any, l1: Any, l2: Any) -> PenalisedPath:
    def fold(weights, start, l1, l2):
        return proximal_newton_path(_weighted(loss, weights), start, lambdas, l1, l2)

    return jax.vmap(fold)(weights, starts, l1, l2)


def _weighted(loss, weights):
    return OrdinalLoss(loss.design, loss.y, weights, loss.n_classes)
