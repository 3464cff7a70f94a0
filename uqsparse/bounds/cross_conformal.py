"""CV+ and jackknife+: intervals calibrated on the data that the models are fitted to, without setting any aside."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Int, Num, Shaped
from sklearn.utils import check_random_state

from uqsparse.bounds.conformal import Alpha, checked_alpha, row_of_each_group
from uqsparse.bounds.cross_calibrated import CrossCalibrated, cross_calibrated, require_finite, rows_of, targets
from uqsparse.bounds.fold_models import CrossFitted, fit_folds
from uqsparse.bounds.guarantee import EXCHANGEABLE
from uqsparse.bounds.leave_one_out import PosteriorCalibrated, flat_draws, leave_one_out, warn_unreliable
from uqsparse.bounds.scores.score import as_array, require_same_length
from uqsparse.kernels.namespaces import AnyArray

ONE_PROCEDURE = "the models come from one fitting procedure, fixed beforehand, that treats its rows alike"
WEIGHTED_DRAWS = "importance weights turn the posterior into that without each observation"


class CVPlus:
    """CV+ and jackknife+: every observation calibrates, and every observation also fits.

    Where `SplitConformal` sets data aside, this fits one model a fold and centres the intervals on all of them. What
    is proved is coverage of 1 - 2 alpha, less a little for folds of more than one observation (`cross_level`); what is
    seen is about 1 - alpha. The record that calibration returns has `predict` and `guarantee`.

    Args:
        alpha: in (0, 1); several give intervals at several levels.
        within_group: where groups of dependent observations are given, each lies in one fold and gives one residual:
            "max" covers all observations of a new group at once, "one" takes one at random and covers one random
            observation of a new group.

    Raises:
        ValueError: alpha is outside (0, 1), or `within_group` is unknown.

    Source: Barber, Candès, Ramdas & Tibshirani (2021), Predictive inference with the jackknife+, sections 1 and 3.
    MAPIE's method "plus" takes the same order statistics up to the rounding of their ranks, which are exact here, and
    raises where they do not exist, where intervals are infinite here.

    >>> calibrated = CVPlus(alpha=0.1).calibrate(np.zeros(99), np.arange(99.0), folds=np.arange(99) % 3)
    >>> sets = calibrated.predict(np.zeros((3, 1)))
    >>> float(sets.lower[0]), float(sets.upper[0]), sets.guarantee.alpha
    (-89.0, 89.0, 0.1)
    """

    def __init__(self, alpha: Alpha = 0.1, *, within_group: Literal["max", "one"] = "max"):
        if within_group not in ("max", "one"):
            raise ValueError(f"within_group must be 'max' or 'one', got {within_group!r}")
        self.alpha = checked_alpha(alpha)
        self.within_group = within_group

    def fit(
        self,
        estimator: Any,
        X: Any,
        y: Num[AnyArray, " n"],
        *,
        cv: Any = 5,
        groups: Shaped[AnyArray, " n"] | None = None,
        random_state: Any = None,
        progress: bool = False,
    ) -> CrossFitted:
        """Fit a clone of a scikit-learn regressor without each fold, and calibrate by the fold.

        Args:
            estimator: the regressor; it is cloned and left as it is.
            X: inputs, an array, sparse matrix or data frame of n rows.
            y: targets, shape (n,).
            cv: the number of folds, of rows shuffled by `random_state`; "loo" for jackknife+; or what scikit-learn
                takes for `cv`, as long as it tests every row once.
            groups: which group each observation belongs to, shape (n,); observations of one group may depend, and
                share a fold.
            random_state: seed or generator, for the shuffling and for `within_group="one"`.
            progress: show a bar over the folds.

        Returns:
            The fitted models with their residuals; `predict(X)` gives `Intervals`.

        Raises:
            ValueError: shapes do not fit, a number is not finite, or the folds do not test every row once.
            TypeError: the estimator is no regressor.
        """
        y = np.asarray(targets(y))
        generator = check_random_state(random_state)
        models, folds, predictions = fit_folds(estimator, X, y, cv, groups, generator, progress)
        key = None if groups is None else jax.random.key(generator.randint(2**31))
        return CrossFitted(models, self.calibrate(predictions, y, folds, groups=groups, key=key))

    def calibrate(
        self,
        predictions: Num[AnyArray, " n"],
        y: Num[AnyArray, " n"],
        folds: Int[AnyArray, " n"],
        *,
        groups: Shaped[AnyArray, " n"] | None = None,
        key: Array | None = None,
    ) -> CrossCalibrated:
        """Calibrate by predictions of any models, one a fold.

        Args:
            predictions: of each observation by the model that has not seen its fold, shape (n,), such as
                `sklearn.model_selection.cross_val_predict` returns.
            y: observed values, shape (n,).
            folds: the fold of each observation, 0 to k - 1, shape (n,); `np.arange(n)` for jackknife+.
            groups: which group each observation belongs to, shape (n,); those of one group share a fold.
            key: random key, for `within_group="one"`.

        Returns:
            The residuals; `predict(predictions)` takes the predictions of all k models, shape (k, n_test).

        Raises:
            ValueError: shapes do not fit, a number is not finite, a fold is empty or tears a group apart.
        """
        y, predictions, folds = targets(y), as_array("predictions", predictions), np.asarray(folds)
        if predictions.shape != y.shape:
            raise ValueError(f"predictions have shape {predictions.shape}; y has {y.shape}")
        require_finite("predictions", predictions)
        _check_folds(folds, y.shape[0])
        residuals = abs(y - predictions)
        exchangeable = EXCHANGEABLE
        if groups is not None:
            groups = np.asarray(groups)
            rows = row_of_each_group(np.asarray(residuals), groups, self.within_group, key)
            if (folds[rows][np.unique(groups, return_inverse=True)[1]] != folds).any():
                raise ValueError("folds tear groups apart: observations of one group must share a fold")
            residuals, folds = residuals[rows], folds[rows]
            what = "all" if self.within_group == "max" else "one random observation"
            exchangeable = f"groups are exchangeable, and coverage is of {what} of a new group"
        return cross_calibrated(residuals, folds, self.alpha, "marginal", (exchangeable, ONE_PROCEDURE))

    def from_posterior(
        self,
        log_likelihood: Any,
        means: Num[AnyArray, "m n"],
        y: Num[AnyArray, " n"],
        *,
        var_name: str | None = None,
        relative_efficiency: float = 1.0,
        refit: Callable[[int], Callable[[Any], Any]] | None = None,
        X: Any = None,
    ) -> PosteriorCalibrated:
        """Calibrate by one posterior of all observations: jackknife+ whose models are reweighted, not refitted.

        The mean without observation i is sum_t w_it mu_t(x), with Pareto-smoothed weights w_it proportional to
        1 / f(y_i | theta_t). There is no exact guarantee. Observations with unreliable weights (k-hat above 0.7) are
        warned about, or refitted.

        Args:
            log_likelihood: log f(y_i | theta_t), (draw, observation) or (chain, draw, observation); or ArviZ data
                with the group `log_likelihood`.
            means: the mean mu_t(x_i) of each observation under each draw, with the axes and the order of
                `log_likelihood`.
            y: observed values, shape (n,).
            var_name: the variable of ArviZ data; not needed if there is one.
            relative_efficiency: effective over actual number of draws, for the length of the tail that is smoothed.
            refit: `refit(i)` fits without observation i and returns a function from inputs to means, shape (b,). It
                is called for the observations with unreliable weights, which then count exactly.
            X: the inputs of the n observations, an array or data frame; with `refit` only.

        Returns:
            The weights, k-hat and residuals; `predict(means)` takes the means of the test points under each draw.

        Raises:
            ValueError: shapes do not fit, there are fewer than 25 draws, or a number is not finite.

        Source: Vehtari, Gelman & Gabry (2017), Practical Bayesian model evaluation using leave-one-out
        cross-validation and WAIC, section 2.
        """
        y = np.asarray(targets(y))
        n = y.shape[0]
        if (refit is not None) != (X is not None) or (X is not None and X.shape[0] != n):
            raise ValueError(f"X must hold the inputs of the {n} observations where refit is given, and only there")
        loo = leave_one_out(log_likelihood, var_name=var_name, relative_efficiency=relative_efficiency)
        means = np.asarray(flat_draws("means", means, n_draws=loo.weights.shape[1]))
        if not loo.weights.shape[0] == means.shape[1] == n:
            counts = f"{loo.weights.shape[0]} observations, means of {means.shape[1]}"
            raise ValueError(f"log_likelihood is of {counts}; y has {n}")
        centre = loo.own_mean(means)
        refitted, refits = (), ()
        if refit is None:
            warn_unreliable(loo, "pass refit= to fit without them")
        else:
            refitted = tuple(loo.unreliable().tolist())
            refits = tuple(refit(i) for i in refitted)
            for i, mean in zip(refitted, refits, strict=True):
                centre[i] = np.asarray(mean(rows_of(X, slice(i, i + 1)))).item()
            require_finite("means of refitted models", centre)
        assumptions = (EXCHANGEABLE, ONE_PROCEDURE, WEIGHTED_DRAWS)
        calibrated = cross_calibrated(abs(y - centre), np.arange(n), self.alpha, "approximate", assumptions)
        return PosteriorCalibrated(loo, calibrated, refitted, refits)


def _check_folds(folds: np.ndarray, n: int) -> None:
    """Refuse folds that are not numbered 0 to k - 1, or of which one is empty."""
    require_same_length("folds", folds, n, "y")
    if folds.dtype.kind not in "iu" or folds.ndim != 1 or folds.min() < 0:
        raise ValueError(f"folds must be integers from 0 of shape ({n},), got {folds.dtype} of shape {folds.shape}")
    sizes = np.bincount(folds)
    if len(sizes) < 2 or not sizes.all():
        empty = np.flatnonzero(sizes == 0)[:5].tolist()
        raise ValueError(f"folds must be 0 to k - 1 with k >= 2, none empty; got k = {len(sizes)}, empty: {empty}")
