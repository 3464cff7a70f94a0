"""Scores of keypoints on an image, jointly over all of them."""

import abc
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from uqsparse.bounds.keypoint_regions import Detections, KeypointRegions, keypoint_distances
from uqsparse.bounds.scores.score import Score, as_array
from uqsparse.kernels import array_namespace, is_traced
from uqsparse.kernels.namespaces import AnyArray


def checked_keypoints(y: Any, shape: tuple[int, ...], seen: Any) -> Any:
    """True keypoints, (n, K, 2) or (n, G, K, 2), finite wherever seen.

    Raises:
        ValueError: otherwise.
    """
    y = as_array("keypoints", y)
    if y.ndim not in (3, 4) or (*y.shape[:1], *y.shape[-2:]) != (*shape, 2):
        n, k = shape
        raise ValueError(
            f"keypoints have shape {y.shape}; expected ({n}, {k}, 2), or ({n}, G, {k}, 2) for symmetric objects"
        )
    if not is_traced(y, seen):
        mask = np.asarray(seen)[:, None] if y.ndim == 4 else np.asarray(seen)
        if bad := np.count_nonzero(~np.isfinite(np.asarray(y)).all(-1) & mask):
            raise ValueError(f"keypoints have {bad} positions that are NaN or infinite, of keypoints that were seen")
    xp = array_namespace(y)
    return xp.where(xp.isfinite(y), y, 0.0)


class _KeypointScore(Score):
    """The largest distance over keypoints; of a symmetric object the least over its equivalent positions."""

    @abc.abstractmethod
    def detect(self, predictions: Any) -> Detections:
        """Detections in heatmaps, or those given."""

    def __call__(self, predictions: Any, y: Float[AnyArray, "n k 2"]) -> Float[AnyArray, " n"]:
        found = self.detect(predictions)
        y = checked_keypoints(y, found.points.shape[:2], found.seen)
        xp = array_namespace(found.points, y)
        return xp.sqrt(keypoint_distances(found.points, found.precision, found.seen, y))

    def region(self, predictions: Any, threshold: Float[AnyArray, "..."]) -> KeypointRegions:
        found = self.detect(predictions)
        xp = array_namespace(found.points, threshold)
        # A threshold of 0 leaves a point, whose information would be infinite.
        least = xp.maximum(xp.asarray(threshold, dtype=found.points.dtype), 1e-9)
        factor = (1 / least**2)[..., None, None, None] if np.ndim(threshold) else 1 / least**2
        return KeypointRegions(
            centre=found.points, information=found.precision * factor, seen=found.seen, threshold=threshold
        )


class KeypointBall(_KeypointScore):
    """max over keypoints of confidence x distance to the detection: discs of radius threshold / confidence.

    Predictions are heatmaps of shape (n, K, h, w), whose peaks are the detections and their probabilities the
    confidences, or `Detections`. True keypoints have shape (n, K, 2), in pixels of the heatmap; (n, G, K, 2) where an
    object looks the same in G poses.

    Source: Yang & Pavone (2023), Object pose estimation with statistical guarantees: conformal keypoint detection and
    geometric uncertainty propagation, section 3.
    """

    def detect(self, predictions: Any) -> Detections:
        return predictions if isinstance(predictions, Detections) else Detections.from_heatmaps(predictions)


class KeypointEllipse(_KeypointScore):
    """max over keypoints of the Mahalanobis distance to the heatmap's mean: ellipses shaped as the heatmaps are.

    Predictions and keypoints as for `KeypointBall`. The score is the root of the paper's, which orders the same.

    Args:
        top: how many pixels of a heatmap count. More than the bump covers let the background dominate.

    Source: Yang & Pavone (2023), section 3.
    """

    top: int = eqx.field(static=True, default=100)

    def detect(self, predictions: Any) -> Detections:
        if isinstance(predictions, Detections):
            return predictions
        return Detections.from_heatmaps(predictions, ellipse=True, top=self.top)
