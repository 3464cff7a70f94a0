"""Conformalised quantile regression with a threshold for each tail."""

import dataclasses
from typing import Any

import equinox as eqx
from jaxtyping import Float, Num

from uqsparse.bounds.conformal import Alpha, checked_alpha, checked_scores, conformal_quantile, level_of
from uqsparse.bounds.guarantee import EXCHANGEABLE, NOT_TUNED, Guarantee
from uqsparse.bounds.regions import Intervals
from uqsparse.bounds.scores.residuals import QuantileResidual
from uqsparse.bounds.scores.score import as_array, require_same_length
from uqsparse.kernels import array_namespace, rank_pvalue
from uqsparse.kernels.namespaces import AnyArray


class CalibratedTails(eqx.Module):
    """Two thresholds for predicted quantiles, ready to predict.

    Args:
        score: the score that takes predicted quantiles from predictions.
        lower_threshold: what is taken from lower quantiles, shape (), or (len(alpha),).
        upper_threshold: what is added to upper quantiles.
        lower_scores: lower quantile minus y of the calibration observations, in ascending order, shape (n,).
        upper_scores: y minus upper quantile, in ascending order, shape (n,).
        guarantee: what the intervals promise.
    """

    score: QuantileResidual
    lower_threshold: Float[AnyArray, "..."]
    upper_threshold: Float[AnyArray, "..."]
    lower_scores: Float[AnyArray, " n"]
    upper_scores: Float[AnyArray, " n"]
    guarantee: Guarantee = eqx.field(static=True)

    def predict(self, predictions: Any) -> Intervals:
        """The interval of each test point, with an axis of levels in front if several were asked for."""
        low, high = self.score.quantiles(predictions)
        sets = Intervals(lower=low - self.lower_threshold[..., None], upper=high + self.upper_threshold[..., None])
        return dataclasses.replace(sets, guarantee=self.guarantee)

    def pvalue(self, predictions: Any, y: Num[AnyArray, " n"]) -> Float[AnyArray, " n"]:
        """Twice the smaller p-value of the two tails, at most 1: y lies in the interval where it exceeds alpha."""
        lower, upper = _tails(self.score, predictions, y)
        xp = array_namespace(lower, upper)
        least = xp.minimum(rank_pvalue(self.lower_scores, lower), rank_pvalue(self.upper_scores, upper))
        return xp.minimum(2 * least, 1.0)


class AsymmetricQuantile:
    """Conformalised quantile regression that calibrates lower and upper quantiles apart.

    Each end is moved by its own threshold at alpha / 2, so that each tail is covered at 1 - alpha / 2: what one-sided
    use asks for. Intervals are often wider than those of `SplitConformal(QuantileResidual())`, whose one threshold may
    leave most misses to one tail.

    Args:
        alpha: miscoverage allowed of both tails together, in (0, 1); several give intervals at several levels.
        probabilities: which quantiles a predictive distribution is asked for, see `QuantileResidual`.

    Raises:
        ValueError: alpha is outside (0, 1).

    Source: Romano, Patterson & Candès (2019), Conformalized quantile regression, theorem 2.

    >>> import numpy as np
    >>> y = np.arange(-50.0, 49.0)
    >>> intervals = AsymmetricQuantile(alpha=0.1).calibrate((np.zeros(99), np.zeros(99)), y).predict(([0.0], [0.0]))
    >>> intervals.lower.tolist(), intervals.upper.tolist()
    ([-46.0], [44.0])
    """

    def __init__(self, alpha: Alpha = 0.1, *, probabilities: tuple[float, float] = (0.05, 0.95)):
        self.alpha = checked_alpha(alpha)
        self.score = QuantileResidual(probabilities)

    def calibrate(self, predictions: Any, y: Num[AnyArray, " n"]) -> CalibratedTails:
        """Find both thresholds from held-out observations.

        Args:
            predictions: a pair (lower, upper) of predicted quantiles, each of shape (n,), or a predictive distribution,
                for observations that the model was not fitted to.
            y: their observed values, shape (n,).

        Raises:
            ValueError: shapes do not fit, or a score is NaN.
        """
        lower, upper = map(checked_scores, _tails(self.score, predictions, as_array("y", y)))
        half = tuple(one / 2 for one in self.alpha) if isinstance(self.alpha, tuple) else self.alpha / 2
        guarantee = Guarantee("marginal", level_of(self.alpha), lower.shape[0], (EXCHANGEABLE, NOT_TUNED))
        sort = array_namespace(lower, upper).sort
        return CalibratedTails(
            self.score,
            conformal_quantile(lower, half),
            conformal_quantile(upper, half),
            sort(lower),
            sort(upper),
            guarantee,
        )


def _tails(score: QuantileResidual, predictions: Any, y: Any) -> tuple[Any, Any]:
    low, high = score.quantiles(predictions)
    require_same_length("predictions", low, len(y), "y")
    return low - y, y - high
