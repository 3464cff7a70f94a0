"""Scores of real targets from point predictions, standard deviations and quantiles."""

import warnings
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Num

from uqsparse.bounds.regions import Intervals
from uqsparse.bounds.scores.score import Score, as_array, require_same_length
from uqsparse.kernels import array_namespace, is_traced
from uqsparse.kernels.namespaces import AnyArray


def point_prediction(predictions: Any) -> Any:
    """An array as it is; the mean of a predictive distribution."""
    return predictions.mean() if hasattr(predictions, "quantile") else as_array("predictions", predictions)


def location_and_scale(predictions: Any) -> tuple[Any, Any]:
    """(mean, sd) as given, or those of a predictive distribution; sd has to be positive."""
    if hasattr(predictions, "sd"):
        mean, sd = predictions.mean(), predictions.sd()
    else:
        mean, sd = _pair(predictions, "(mean, sd)")
    require_same_length("sd", sd, mean.shape[0], "mean")
    if not is_traced(sd) and not (np.asarray(sd) > 0).all():
        raise ValueError(f"sd has {np.count_nonzero(~(np.asarray(sd) > 0))} values that are not positive")
    return mean, sd


def _pair(predictions: Any, names: str) -> tuple[Any, Any]:
    if not isinstance(predictions, tuple | list) or len(predictions) != 2:
        raise TypeError(f"predictions must be a pair {names} or a predictive distribution, got {type(predictions)}")
    return as_array("predictions[0]", predictions[0]), as_array("predictions[1]", predictions[1])


class AbsoluteResidual(Score):
    """|y - mean|: intervals of one width for all test points.

    Predictions are means of shape (n,), or a predictive distribution.

    >>> AbsoluteResidual()(np.array([1.0, 2.0]), np.array([1.5, 2.0])).tolist()
    [0.5, 0.0]
    """

    def __call__(self, predictions: Any, y: Num[AnyArray, " n"]) -> Float[AnyArray, " n"]:
        mean = point_prediction(predictions)
        require_same_length("predictions", mean, len(y), "y")
        return abs(y - mean)

    def region(self, predictions: Any, threshold: Float[AnyArray, "..."]) -> Intervals:
        mean = point_prediction(predictions)
        return Intervals(lower=mean - threshold, upper=mean + threshold, threshold=threshold)


class NormalisedResidual(Score):
    """|y - mean| / sd: intervals as wide as the model's own standard deviations say, up to one factor.

    Predictions are a pair (mean, sd), each of shape (n,), or a predictive distribution.

    Source: Papadopoulos, Gammerman & Vovk (2008), Normalized nonconformity measures for regression conformal
    prediction.
    """

    def __call__(self, predictions: Any, y: Num[AnyArray, " n"]) -> Float[AnyArray, " n"]:
        mean, sd = location_and_scale(predictions)
        require_same_length("predictions", mean, len(y), "y")
        return abs(y - mean) / sd

    def region(self, predictions: Any, threshold: Float[AnyArray, "..."]) -> Intervals:
        mean, sd = location_and_scale(predictions)
        return Intervals(lower=mean - threshold * sd, upper=mean + threshold * sd, threshold=threshold)


class QuantileResidual(Score):
    """max(lower - y, y - upper) of two predicted quantiles: conformalised quantile regression.

    Predictions are a pair (lower, upper), each of shape (n,), or a predictive distribution, whose quantiles at the two
    `probabilities` are taken. Quantiles that cross are swapped, with a warning.

    Args:
        probabilities: which quantiles a predictive distribution is asked for.

    Source: Romano, Patterson & Candès (2019), Conformalized quantile regression, algorithm 1.
    """

    probabilities: tuple[float, float] = eqx.field(static=True, default=(0.05, 0.95))

    def quantiles(self, predictions: Any) -> tuple[Any, Any]:
        """Lower and upper quantiles, in order."""
        if hasattr(predictions, "quantile"):
            low, high = (predictions.quantile(probability) for probability in self.probabilities)
        else:
            low, high = _pair(predictions, "(lower, upper)")
        require_same_length("upper", high, low.shape[0], "lower")
        if not is_traced(low, high) and (crossing := np.count_nonzero(np.asarray(low) > np.asarray(high))):
            warnings.warn(f"{crossing} of {len(low)} predicted quantiles cross; they were swapped", stacklevel=3)
        xp = array_namespace(low, high)
        return xp.minimum(low, high), xp.maximum(low, high)

    def __call__(self, predictions: Any, y: Num[AnyArray, " n"]) -> Float[AnyArray, " n"]:
        low, high = self.quantiles(predictions)
        require_same_length("predictions", low, len(y), "y")
        return array_namespace(low, y).maximum(low - y, y - high)

    def region(self, predictions: Any, threshold: Float[AnyArray, "..."]) -> Intervals:
        low, high = self.quantiles(predictions)
        return Intervals(lower=low - threshold, upper=high + threshold, threshold=threshold)
