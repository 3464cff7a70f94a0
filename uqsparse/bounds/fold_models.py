"""Clones of one scikit-learn regressor, each fitted without one fold, with the residuals of their folds."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int
from rich.progress import Progress
from sklearn.base import clone, is_classifier
from sklearn.model_selection import GroupKFold, KFold, LeaveOneGroupOut, LeaveOneOut, check_cv
from sklearn.utils import indexable

from uqsparse.bounds.cross_calibrated import CrossCalibrated, in_blocks, rows_of
from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.regions import Intervals
from uqsparse.kernels.arguments import require_count


class CrossFitted(eqx.Module):
    """The models of all folds with their residuals, ready to predict.

    Args:
        models: one fitted regressor a fold.
        calibrated: the residuals; its `predict` takes predictions that were made elsewhere.
    """

    models: tuple[Any, ...] = eqx.field(static=True)
    calibrated: CrossCalibrated

    @property
    def guarantee(self) -> Guarantee:
        """What the intervals promise."""
        return self.calibrated.guarantee

    def predict(self, X: Any) -> Intervals:
        """The interval of each row of X, computed in blocks of rows; see `CrossCalibrated.predict`.

        Args:
            X: inputs, as `CVPlus.fit` took them.

        Raises:
            ValueError: a model predicts another number of values than there are rows, or one that is not finite.
        """
        (X,) = indexable(X if hasattr(X, "shape") else np.asarray(X))

        def of_block(block: slice) -> Intervals:
            inputs = rows_of(X, block)
            return self.calibrated.predict(np.stack([_predict(model, inputs) for model in self.models]))

        return in_blocks(X.shape[0], len(self.models), of_block)


def fit_folds(
    estimator: Any, X: Any, y: np.ndarray, cv: Any, groups: Any, random_state: Any, progress: bool
) -> tuple[tuple[Any, ...], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Fit one clone a fold, see `CVPlus.fit`.

    Returns:
        The models, the fold of each row, and the prediction of each row by the model that has not seen its fold.

    Raises:
        ValueError: lengths differ, or the folds do not test every row once, or not without fitting to it.
        TypeError: the estimator is no regressor.
    """
    if not (hasattr(estimator, "fit") and hasattr(estimator, "predict")) or is_classifier(estimator):
        raise TypeError(f"estimator must be a regressor with fit and predict, got {type(estimator).__name__}")
    (X,) = indexable(X if hasattr(X, "shape") else np.asarray(X))
    n = y.shape[0]
    if X.shape[0] != n or (groups is not None and len(groups) != n):
        raise ValueError(f"X has {X.shape[0]} rows, y {n}" + ("" if groups is None else f", groups {len(groups)}"))
    splits = list(_splitter(cv, groups, random_state).split(X, y, groups))
    folds, predictions = _folds_of(splits, n), np.empty(n)
    models = []
    with Progress(disable=not progress, transient=True) as bar:
        # A bar that is switched off would still start a thread.
        for train, test in bar.track(splits, description="folds") if progress else splits:
            model: Any = clone(estimator)
            model.fit(rows_of(X, train), y[train])
            predictions[test] = _predict(model, rows_of(X, test))
            models.append(model)
    return tuple(models), folds, predictions


def _splitter(cv: Any, groups: Any, random_state: Any) -> Any:
    if isinstance(cv, str):
        if cv != "loo":
            raise ValueError(f"cv must be a number of folds, 'loo' or a splitter of scikit-learn, got {cv!r}")
        return LeaveOneOut() if groups is None else LeaveOneGroupOut()
    if isinstance(cv, int | np.integer | float):
        require_count("cv", cv, 2)
        k = int(cv)
        return KFold(k, shuffle=True, random_state=random_state) if groups is None else GroupKFold(k)
    return check_cv(cv)


def _folds_of(splits: list[tuple[np.ndarray, np.ndarray]], n: int) -> np.ndarray:
    """The fold of each row, all of which have to be tested once by a model that is fitted to the others."""
    times, folds = np.zeros(n, dtype=int), np.empty(n, dtype=int)
    for k, (train, test) in enumerate(splits):
        times[test] += 1
        folds[test] = k
        if not len(test) or np.isin(test, train).any():
            raise ValueError(f"cv: fold {k} is empty, or its model is fitted to it")
    if (times != 1).any():
        raise ValueError(f"cv: {np.count_nonzero(times != 1)} of {n} rows are not tested exactly once")
    return folds


def _predict(model: Any, inputs: Any) -> np.ndarray:
    found = np.asarray(model.predict(inputs))
    if found.shape not in ((inputs.shape[0],), (inputs.shape[0], 1)):
        raise ValueError(f"estimator predicts an array of shape {found.shape} for {inputs.shape[0]} rows")
    return found.reshape(-1)
