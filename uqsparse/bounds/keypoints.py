"""Conformal keypoints: regions that hold all true keypoints of an image at once, at a stated rate."""

from typing import Any, Literal

from jaxtyping import Float, Shaped

from uqsparse.bounds.conformal import Alpha, Calibrated, SplitConformal
from uqsparse.bounds.mondrian import CalibratedGroups, MondrianConformal
from uqsparse.bounds.scores.keypoints import KeypointBall, KeypointEllipse
from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.namespaces import AnyArray


class KeypointConformal:
    """Calibrate a keypoint detector, so that its regions hold all keypoints of a new image at once.

    Args:
        score: "ball" for discs around the peaks of heatmaps, "ellipse" for ellipses shaped as the heatmaps are.
        eps: share of images whose keypoints may leave their regions, in (0, 1).
        top: for ellipses, how many pixels of a heatmap count.

    Raises:
        ValueError: the score is unknown, eps lies outside (0, 1), or top is no count.

    Source: Yang & Pavone (2023), Object pose estimation with statistical guarantees: conformal keypoint detection and
    geometric uncertainty propagation, algorithm 1.
    """

    def __init__(self, score: Literal["ball", "ellipse"] = "ball", eps: Alpha = 0.1, *, top: int = 100):
        if score not in ("ball", "ellipse"):
            raise ValueError(f"score must be 'ball' or 'ellipse', got {score!r}")
        require_count("top", top, 1)
        self.score = KeypointBall() if score == "ball" else KeypointEllipse(top)
        self._split = SplitConformal(self.score, eps)
        self._mondrian = MondrianConformal(self.score, eps)

    def calibrate(
        self,
        heatmaps: Any,
        keypoints: Float[AnyArray, "n k 2"],
        *,
        groups: Shaped[AnyArray, " n"] | None = None,
    ) -> Calibrated | CalibratedGroups:
        """Find the threshold from labelled images that the detector was not trained on.

        Args:
            heatmaps: shape (n, K, h, w), or `Detections`.
            keypoints: true keypoints (x, y) in pixels of the heatmap, shape (n, K, 2); for an object that looks the
                same in G poses all its equivalent positions, shape (n, G, K, 2).
            groups: the object in each image, shape (n,): each is calibrated by itself. Objects of different numbers of
                keypoints are calibrated apart, one call each.

        Returns:
            What predicts `KeypointRegions` of new heatmaps.

        Raises:
            ValueError: shapes do not fit, or a value is not finite.
        """
        if groups is None:
            return self._split.calibrate(heatmaps, keypoints)
        return self._mondrian.calibrate(heatmaps, keypoints, groups)
