"""Scores of targets with several outputs: all of them are covered at once."""

from typing import Any

import numpy as np
from jaxtyping import Float, Num

from uqsparse.bounds.regions import Boxes
from uqsparse.bounds.scores.residuals import location_and_scale
from uqsparse.bounds.scores.score import Score, as_array
from uqsparse.kernels import array_namespace
from uqsparse.kernels.namespaces import AnyArray


class MaxNormalisedResidual(Score):
    """The largest |y_j - mean_j| / sd_j over outputs j: boxes that hold all outputs at once.

    Predictions are a pair (mean, sd), each of shape (n, d), or `PredictiveDraws` of shape (m, n, d); y has shape
    (n, d). The sides of a box are in proportion to the standard deviations.

    Source: Diquigiovanni, Fontana & Vantini (2022), Conformal prediction bands for multivariate functional data
    (the supremum of normalised residuals, here over outputs).

    >>> MaxNormalisedResidual()((np.zeros((1, 2)), np.array([[1.0, 2.0]])), np.array([[0.5, 3.0]])).tolist()
    [1.5]
    """

    def __call__(self, predictions: Any, y: Num[AnyArray, "n d"]) -> Float[AnyArray, " n"]:
        mean, sd = _outputs(predictions)
        y = as_array("y", y)
        _require_shape("y", y, mean.shape)
        return (abs(y - mean) / sd).max(-1)

    def region(self, predictions: Any, threshold: Float[AnyArray, "..."]) -> Boxes:
        mean, sd = _outputs(predictions)
        reach = _per_part(threshold, mean.shape[0]) * sd
        return Boxes(lower=mean - reach, upper=mean + reach, threshold=threshold)


def _outputs(predictions: Any) -> tuple[Any, Any]:
    mean, sd = location_and_scale(predictions)
    if mean.ndim != 2 or not mean.shape[1]:
        raise ValueError(f"mean has shape {mean.shape}; expected (n, d), d outputs")
    _require_shape("sd", sd, mean.shape)
    return mean, sd


def _require_shape(name: str, array: Any, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}, as the predictions have")


def _per_part(threshold: Any, n: int) -> Any:
    """A scalar threshold as it is, one for each test point as a column."""
    if np.ndim(threshold) == 0:
        return threshold
    if np.shape(threshold) != (n,):
        raise ValueError(f"threshold has shape {np.shape(threshold)}; expected () or ({n},)")
    return array_namespace(threshold).asarray(threshold)[:, None]
