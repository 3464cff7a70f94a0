"""Scores of targets with several outputs, and of several keypoints: all of them are covered at once."""

import math
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Num

from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.predictive_draws import PredictiveDraws
from uqsparse.bounds.regions import Boxes, Region
from uqsparse.bounds.scores.residuals import location_and_scale
from uqsparse.bounds.scores.score import Score, as_array
from uqsparse.kernels import array_namespace, is_traced
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


class Balls(Region):
    """For each test point K balls, one a keypoint; the set holds the K-tuples of points that lie each in its ball.

    Args:
        centre: shape (n, K, d).
        radius: shape (n, K); negative where the set is empty.
        threshold: see `Region`.
        guarantee: see `Region`.
    """

    centre: Float[AnyArray, "... n k d"]
    radius: Float[AnyArray, "... n k"]
    threshold: Any = None
    guarantee: Guarantee | None = eqx.field(static=True, default=None)

    def contains(self, y: Num[AnyArray, "n k d"]) -> Bool[AnyArray, "... n"]:
        return (_distance(y - self.centre) <= self.radius).all(-1)

    def size(self) -> Float[AnyArray, "... n"]:
        """Volumes in the space of K-tuples: products of the volumes of the balls, 0 for empty sets."""
        xp = array_namespace(self.radius)
        d = self.centre.shape[-1]
        unit = math.pi ** (d / 2) / math.gamma(d / 2 + 1)
        return (unit * xp.maximum(self.radius, 0.0) ** d).prod(-1)


class MaxDistance(Score):
    """The largest distance of a keypoint from its prediction, over its scale: balls that hold all keypoints at once.

    Predictions are centres of shape (n, K, d), a pair (centre, scale) with scales of shape (n, K), positive, or
    `PredictiveDraws` of shape (m, n, K, d), whose means are the centres; y has shape (n, K, d).

    Source: Yang & Pavone (2023), Object pose estimation with statistical guarantees: conformal keypoint detection and
    geometric uncertainty propagation, equations 6 and 8 (ball sets; their scale is one over the heatmap's peak).

    >>> MaxDistance()(np.zeros((1, 2, 2)), np.array([[[3.0, 4.0], [0.0, 1.0]]])).tolist()
    [5.0]
    """

    def __call__(self, predictions: Any, y: Num[AnyArray, "n k d"]) -> Float[AnyArray, " n"]:
        centre, scale = _keypoints(predictions)
        y = as_array("y", y)
        _require_shape("y", y, centre.shape)
        return (_distance(y - centre) / scale).max(-1)

    def region(self, predictions: Any, threshold: Float[AnyArray, "..."]) -> Balls:
        centre, scale = _keypoints(predictions)
        return Balls(centre=centre, radius=_per_part(threshold, centre.shape[0]) * scale, threshold=threshold)


def _keypoints(predictions: Any) -> tuple[Any, Any]:
    scale = None
    if isinstance(predictions, PredictiveDraws):
        centre = predictions.mean()
    elif isinstance(predictions, tuple | list) and len(predictions) == 2:
        centre, scale = as_array("centre", predictions[0]), as_array("scale", predictions[1])
    else:
        centre = as_array("predictions", predictions)
    if centre.ndim != 3 or 0 in centre.shape[1:]:
        raise ValueError(f"centre has shape {centre.shape}; expected (n, n_keypoints, n_coordinates)")
    if scale is None:
        return centre, array_namespace(centre).ones(centre.shape[:2], dtype=centre.dtype)
    if scale.shape != centre.shape[:2]:
        raise ValueError(f"scale has shape {scale.shape}; expected {centre.shape[:2]}, as the centres have")
    if not is_traced(scale) and not (np.asarray(scale) > 0).all():
        raise ValueError(f"scale has {np.count_nonzero(~(np.asarray(scale) > 0))} values that are not positive")
    return centre, scale


def _distance(difference: Float[AnyArray, "... d"]) -> Float[AnyArray, "..."]:
    xp = array_namespace(difference)
    return xp.sqrt((difference**2).sum(-1))
