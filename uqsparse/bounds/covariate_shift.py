"""Conformal prediction where test inputs follow another law than calibration inputs, by weights."""

import warnings
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float, Num

from uqsparse.bounds.conformal import Alpha, checked_alpha, checked_scores, checked_weights, level_of, sets_of
from uqsparse.bounds.guarantee import NOT_TUNED, Guarantee
from uqsparse.bounds.regions import Region
from uqsparse.bounds.scores.score import Score, as_array, n_points, require_same_length
from uqsparse.kernels import array_namespace, is_traced, weighted_order_statistic
from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.namespaces import AnyArray

SAME_CONDITIONAL = "calibration and test data differ in the law of their inputs only"
TRUE_RATIO = "weights are the true density ratio up to a constant"
ESTIMATED_RATIO = "weights estimate the density ratio closely: coverage falls by half their mean absolute error at most"


class DensityRatio(NamedTuple):
    """Estimated importance weights of calibration and test points.

    Args:
        calibration_weights: shape (n,), mean about 1.
        test_weights: shape (m,), on the same scale.
        ess: effective sample size of the calibration weights, between 1 and n.
        auc: area under the curve of the classifier that tells test from calibration points: near 0.5 there is no
            shift to be seen, near 1 the calibration data hold next to nothing about the test points. Held out if the
            weights are cross-fitted, optimistic if not.
    """

    calibration_weights: Float[np.ndarray, " n"]
    test_weights: Float[np.ndarray, " m"]
    ess: float
    auc: float


def density_ratio(
    X_calibration: Num[AnyArray, "n p"],
    X_test: Num[AnyArray, "m p"],
    classifier: Any = None,
    *,
    n_folds: int = 5,
    clip: float = 0.01,
) -> DensityRatio:
    """Estimate the density of test inputs over that of calibration inputs by telling the two apart.

    Args:
        X_calibration: inputs of the calibration points.
        X_test: inputs of the test points; no targets are used.
        classifier: scikit-learn classifier with `predict_proba`, which is cloned; logistic regression on standardised
            inputs if None.
        n_folds: each point's weight comes from a classifier fitted without its fold, so that its own membership does
            not shape it. Folds are interleaved, so nothing is random. 0 fits once, to all points.
        clip: class probabilities are kept in [clip, 1 - clip], and so weights within a finite range.

    Returns:
        The weights, with their effective sample size and how well the classifier separates.

    Raises:
        ValueError: shapes do not fit, an input is NaN or infinite, there are fewer points than folds, or `clip` lies
            outside (0, 0.5).

    Source: Tibshirani, Barber, Candès & Ramdas (2019), Conformal prediction under covariate shift, section 2.3;
    the clip at 0.01 is theirs.

    >>> inputs = np.linspace(0, 1, 40)[:, None]
    >>> ratio = density_ratio(inputs, inputs + 0.5)
    >>> bool(ratio.calibration_weights[0] < 1 < ratio.calibration_weights[-1])
    True
    """
    from sklearn.base import clone as _clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    clone: Any = _clone  # its annotations leave out what it returns for an estimator
    calibration, test = _inputs("X_calibration", X_calibration), _inputs("X_test", X_test)
    if calibration.shape[1] != test.shape[1]:
        raise ValueError(f"X_test has {test.shape[1]} columns, X_calibration has {calibration.shape[1]}")
    if not 0 < clip < 0.5:
        raise ValueError(f"clip must lie strictly between 0 and 0.5, got {clip!r}")
    require_count("n_folds", n_folds, 0)
    n, m = len(calibration), len(test)
    if n_folds == 1 or n_folds > min(n, m):
        raise ValueError(f"n_folds is {n_folds}; expected 0, or 2 to {min(n, m)} for {n} and {m} points")
    usual = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    fresh: Any = usual if classifier is None else classifier
    inputs, is_test = np.concatenate([calibration, test]), np.repeat([0, 1], [n, m])
    probability = np.empty(n + m)
    if n_folds == 0:
        probability[:] = clone(fresh).fit(inputs, is_test).predict_proba(inputs)[:, 1]
    else:
        fold = np.concatenate([np.arange(n), np.arange(m)]) % n_folds
        for one in range(n_folds):
            fitted = clone(fresh).fit(inputs[fold != one], is_test[fold != one])
            probability[fold == one] = fitted.predict_proba(inputs[fold == one])[:, 1]
    clipped = np.clip(probability, clip, 1 - clip)
    weights = clipped / (1 - clipped) * (n / m)
    ess = float(weights[:n].sum() ** 2 / (weights[:n] ** 2).sum())
    return DensityRatio(weights[:n], weights[n:], ess, float(roc_auc_score(is_test, probability)))


def _inputs(name: str, X: Any) -> np.ndarray:
    X = np.asarray(as_array(name, X), dtype=float)
    if X.ndim != 2 or not X.shape[0]:
        raise ValueError(f"{name} has shape {X.shape}; expected (n, p) with n >= 1")
    if bad := np.count_nonzero(~np.isfinite(X)):
        raise ValueError(f"{name} has {bad} NaN or infinite values")
    return X


class CalibratedWeighted(eqx.Module):
    """A score with weighted calibration scores, ready to predict; a pytree, so that `predict` works inside `jit`.

    Args:
        score: the score.
        scores: calibration scores in ascending order, shape (n,).
        cumulative: cumulative sums of their weights, the largest weight being 1, shape (n,).
        scale: the largest weight as it was given, by which test weights are divided.
        effective_sample_size: (sum w)^2 / sum w^2, how many equally weighted calibration points would be as good.
        alpha: miscoverage allowed, one or several.
        guarantee: what its sets promise.
    """

    score: Score
    scores: Float[AnyArray, " n"]
    cumulative: Float[AnyArray, " n"]
    scale: Float[AnyArray, ""]
    effective_sample_size: Float[AnyArray, ""]
    alpha: float | tuple[float, ...] = eqx.field(static=True)
    guarantee: Guarantee = eqx.field(static=True)

    def predict(self, predictions: Any, test_weights: Num[AnyArray, " m"] | DensityRatio) -> Region:
        """The prediction set of each test point.

        Args:
            predictions: in the form the score takes, m test points.
            test_weights: their weights, on the scale of the calibration weights, shape (m,). A point that weighs too
                much beside the calibration points gets an infinite set, with a warning.

        Raises:
            ValueError: weights are negative, not finite, or not one for each test point.
        """
        extra = self._test_weights(test_weights)
        require_same_length("test_weights", extra, n_points(predictions), "predictions")
        several = self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)
        found = [weighted_order_statistic(self.scores, self.cumulative, extra, 1 - one) for one in several]
        threshold = array_namespace(*found).stack(found) if isinstance(self.alpha, tuple) else found[0]
        _warn_infinite(threshold)
        return sets_of(self.score, predictions, threshold, self.guarantee, several=isinstance(self.alpha, tuple))

    def pvalue(
        self,
        predictions: Any,
        y: Num[AnyArray, " m"],
        test_weights: Num[AnyArray, " m"] | DensityRatio,
        u: Any = 1.0,
    ) -> Float[AnyArray, " m"]:
        """Weighted conformal p-values: y lies in the set at alpha exactly where its p-value exceeds alpha.

        Args:
            predictions: what `predict` takes.
            y: observed values, shape (m,).
            test_weights: what `predict` takes.
            u: which part of the ties counts, see `kernels.rank_pvalue`.

        Source: Jin & Candès (2023), Model-free selective inference under covariate shift via weighted conformal
        p-values.
        """
        score, extra = self.score(predictions, as_array("y", y)), self._test_weights(test_weights)
        require_same_length("test_weights", extra, score.shape[0], "y")
        xp = array_namespace(self.scores, self.cumulative, score, extra)
        below = xp.append(xp.zeros(1, self.cumulative.dtype), self.cumulative)
        less = below[xp.searchsorted(self.scores, score, side="left")]
        up_to = below[xp.searchsorted(self.scores, score, side="right")]
        total = self.cumulative[-1]
        return (total - up_to + u * (up_to - less + extra)) / (total + extra)

    def _test_weights(self, weights: Any) -> Any:
        weights = as_array("test_weights", weights.test_weights if isinstance(weights, DensityRatio) else weights)
        if not is_traced(weights):
            plain = np.asarray(weights)
            if bad := np.count_nonzero(~np.isfinite(plain) | (plain < 0)):
                raise ValueError(f"test_weights have {bad} values that are negative or not finite")
        return weights / self.scale


def _warn_infinite(threshold: Any) -> None:
    """Say how many test points have unbounded sets, and why."""
    if is_traced(threshold):
        return
    n_test = threshold.shape[-1]
    infinite = np.isposinf(np.asarray(threshold)).reshape(-1, n_test).any(axis=0)
    if infinite.any():
        warnings.warn(
            f"{infinite.sum()} of {n_test} thresholds are infinite, and their sets hold every value: the test points "
            "weigh too much beside the calibration points",
            stacklevel=4,  # methods of Equinox modules add a frame
        )


class WeightedConformal:
    """Split conformal prediction under covariate shift: calibration points count by how likely they are at test time.

    Args:
        score: the nonconformity score, see `scores`.
        alpha: miscoverage allowed, in (0, 1); several give sets at several levels.

    Raises:
        ValueError: alpha is outside (0, 1).

    Source: Tibshirani, Barber, Candès & Ramdas (2019), Conformal prediction under covariate shift, corollary 1.
    Estimated weights: Lei & Candès (2021), Conformal inference of counterfactuals and individual treatment effects,
    theorem 1.

    >>> from uqsparse.bounds.scores import AbsoluteResidual
    >>> y = np.arange(99.0)
    >>> calibrated = WeightedConformal(AbsoluteResidual()).calibrate(np.zeros(99), y, weights=np.exp(-y / 20))
    >>> calibrated.predict(np.zeros(2), test_weights=np.array([0.1, 1.0])).upper.tolist()
    [45.0, 55.0]
    """

    def __init__(self, score: Score, alpha: Alpha = 0.1):
        if not isinstance(score, Score):
            raise TypeError(f"score must be a Score, got {type(score).__name__}")
        self.score = score
        self.alpha = checked_alpha(alpha)

    def calibrate(
        self,
        predictions: Any,
        y: Num[AnyArray, " n"],
        weights: Num[AnyArray, " n"] | DensityRatio,
        *,
        estimated: bool = False,
    ) -> CalibratedWeighted:
        """Rank held-out observations by their score, each with its weight.

        Args:
            predictions: predictions of observations that the model was not fitted to, in the form the score takes.
            y: their observed values, shape (n,).
            weights: density of the inputs at test time over that at calibration, up to a constant, shape (n,); or the
                record that `density_ratio` returns.
            estimated: whether the weights were estimated, which makes the guarantee approximate; always so for a
                record of `density_ratio`.

        Raises:
            ValueError: shapes do not fit, a score is NaN, or weights are negative, not finite or all zero.
        """
        scores = checked_scores(self.score(predictions, as_array("y", y)))
        n = scores.shape[0]
        if isinstance(weights, DensityRatio):
            mass, estimated = checked_weights("weights", weights.calibration_weights, n), True
        else:
            mass = checked_weights("weights", weights, n)
        xp = array_namespace(scores, mass)
        # Equal weights become exactly 1, and their sums ranks.
        scale = mass.max()
        relative = mass / scale
        order = xp.argsort(scores)
        cumulative = xp.cumsum(relative[order], dtype=float)
        ess = cumulative[-1] ** 2 / (relative**2).sum()
        ratio = ESTIMATED_RATIO if estimated else TRUE_RATIO
        kind = "approximate" if estimated else "marginal"
        guarantee = Guarantee(kind, level_of(self.alpha), n, (SAME_CONDITIONAL, ratio, NOT_TUNED))
        return CalibratedWeighted(self.score, scores[order], cumulative, scale, ess, self.alpha, guarantee)
