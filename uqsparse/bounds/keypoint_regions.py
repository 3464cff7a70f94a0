"""Detected keypoints, and the regions of the image that hold the true ones."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.regions import Region
from uqsparse.bounds.scores.score import as_array
from uqsparse.kernels import array_namespace, is_traced
from uqsparse.kernels.heatmaps import clean_heatmap, heatmap_moments, heatmap_peak
from uqsparse.kernels.namespaces import AnyArray


class Detections(eqx.Module):
    """Detected keypoints of n images, with how sure the detector is of each.

    Build it by `of` or `from_heatmaps`, which check their input.

    Args:
        points: where they were detected (x, y), in pixels, shape (n, K, 2).
        precision: how sure: information matrices up to one factor, in pixels^-2, shape (n, K, 2, 2).
        seen: which keypoints were detected at all, shape (n, K).
    """

    points: Float[AnyArray, "n k 2"]
    precision: Float[AnyArray, "n k 2 2"]
    seen: Bool[AnyArray, "n k"]

    @property
    def n(self) -> int:
        """The number of images."""
        return self.points.shape[0]

    @classmethod
    def of(cls, points: Any, *, confidence: Any = None, covariance: Any = None, seen: Any = None) -> "Detections":
        """Take detections with a confidence or a covariance for each keypoint.

        Args:
            points: shape (n, K, 2), in pixels.
            confidence: positive numbers, shape (n, K): regions are discs of radius threshold / confidence. 1 if
                neither is given.
            covariance: symmetric positive definite, in square pixels, shape (n, K, 2, 2): regions are ellipses.
            seen: which keypoints count, shape (n, K); those that were not detected have no region, at calibration and
                at test alike.

        Raises:
            ValueError: shapes do not fit, both are given, or values are not finite, positive or positive definite.
        """
        points = as_array("points", points)
        xp = array_namespace(points)
        if points.ndim != 3 or points.shape[-1] != 2:
            raise ValueError(f"points have shape {points.shape}; expected (n, n_keypoints, 2)")
        shape = points.shape[:2]
        seen = xp.ones(shape, bool) if seen is None else as_array("seen", seen)
        if seen.shape != shape or seen.dtype.kind != "b":
            raise ValueError(f"seen has shape {seen.shape} and dtype {seen.dtype}; expected booleans {shape}")
        if confidence is not None and covariance is not None:
            raise ValueError("confidence and covariance are both given; a region is a disc or an ellipse")
        if covariance is None:
            confidence = as_array("confidence", xp.ones(shape) if confidence is None else confidence)
            _require("confidence", confidence, shape, seen, lambda c: np.isfinite(c) & (c > 0), "positive and finite")
            precision = (xp.where(seen, confidence, 1.0) ** 2)[..., None, None] * xp.eye(2)
        else:
            covariance = as_array("covariance", covariance)
            _require("covariance", covariance, (*shape, 2, 2), seen, _positive_definite, "positive definite")
            precision = xp.linalg.inv(xp.where(seen[..., None, None], covariance, xp.eye(2)))
        _require("points", points, (*shape, 2), seen, lambda p: np.isfinite(p).all(-1), "finite")
        return cls(xp.where(seen[..., None], points, 0.0), precision, seen)

    @classmethod
    def from_heatmaps(
        cls, heatmaps: Float[AnyArray, "n k h w"], *, ellipse: bool = False, top: int = 100
    ) -> "Detections":
        """Detect keypoints in heatmaps.

        Args:
            heatmaps: one for each image and keypoint, shape (n, K, h, w).
            ellipse: take mean and covariance of the `top` most probable pixels, and not the peak and its probability.
            top: for ellipses. More pixels than the bump covers let the background dominate.

        Raises:
            ValueError: the shape is another, or a value is not finite.
        """
        heatmaps = as_array("heatmaps", heatmaps)
        if heatmaps.ndim != 4:
            raise ValueError(f"heatmaps have shape {heatmaps.shape}; expected (n, n_keypoints, height, width)")
        if not is_traced(heatmaps) and not np.isfinite(np.asarray(heatmaps)).all():
            raise ValueError(
                f"heatmaps have {np.count_nonzero(~np.isfinite(np.asarray(heatmaps)))} NaN or infinite values"
            )
        xp = array_namespace(heatmaps)
        probabilities = clean_heatmap(heatmaps)
        seen = xp.ones(heatmaps.shape[:2], bool)
        if ellipse:
            points, covariance = heatmap_moments(probabilities, top)
            return cls(points, xp.linalg.inv(covariance), seen)
        points, confidence = heatmap_peak(probabilities)
        return cls(points, (confidence**2)[..., None, None] * xp.eye(2, dtype=points.dtype), seen)


def _require(name: str, array: Any, shape: tuple[int, ...], seen: Any, good: Any, wanted: str) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
    if not is_traced(array, seen) and (bad := np.count_nonzero(~good(np.asarray(array)) & np.asarray(seen))):
        raise ValueError(f"{name} must be {wanted} wherever a keypoint was seen; {bad} are not")


def _positive_definite(matrices: np.ndarray) -> np.ndarray:
    symmetric = np.isclose(matrices[..., 0, 1], matrices[..., 1, 0], rtol=1e-6, atol=0)
    determinant = matrices[..., 0, 0] * matrices[..., 1, 1] - matrices[..., 0, 1] * matrices[..., 1, 0]
    return symmetric & np.isfinite(matrices).all((-2, -1)) & (matrices[..., 0, 0] > 0) & (determinant > 0)


class KeypointRegions(Region):
    """One disc or ellipse a keypoint, which jointly hold all true keypoints of an image.

    Keypoint k of an image lies in its region where (y - centre)^T information (y - centre) <= 1.

    Args:
        centre: centres (x, y) in pixels, shape (n, K, 2).
        information: symmetric matrices in pixels^-2, shape (n, K, 2, 2); zero where the region is the whole plane.
        seen: keypoints that have a region, shape (n, K).
        threshold: see `Region`.
        guarantee: see `Region`.
    """

    centre: Float[AnyArray, "... n k 2"]
    information: Float[AnyArray, "... n k 2 2"]
    seen: Bool[AnyArray, "... n k"]
    threshold: Any = None
    guarantee: Guarantee | None = eqx.field(static=True, default=None)

    def contains(self, y: Float[AnyArray, "n k 2"]) -> Bool[AnyArray, "... n"]:
        """Whether all keypoints of an image lie in their regions.

        Args:
            y: true keypoints, shape (n, K, 2), or for symmetric objects all their equivalent positions, shape
                (n, G, K, 2), of which one has to lie in the regions as a whole.
        """
        rounding = 8 * np.finfo(self.information.dtype).eps  # a point on the edge is inside
        return keypoint_distances(self.centre, self.information, self.seen, y) <= 1 + rounding

    def size(self) -> Float[AnyArray, "... n"]:
        """Mean area of the regions of an image, in square pixels."""
        xp = array_namespace(self.information)
        determinant = xp.linalg.det(self.information)
        area = xp.where(determinant > 0, np.pi / xp.sqrt(xp.where(determinant > 0, determinant, 1.0)), xp.inf)
        return xp.where(self.seen, area, 0.0).sum(-1) / xp.maximum(self.seen.sum(-1), 1)

    def to_image(
        self, matrix: Float[AnyArray, "n 2 2"], shift: Float[AnyArray, "n 2"], scale: float = 1.0
    ) -> "KeypointRegions":
        """The same regions in the coordinates of the whole image.

        Args:
            matrix: A of the crop, shape (n, 2, 2), or (2, 2) for all images.
            shift: b of the crop, shape (n, 2) or (2,): heatmap coordinates are scale (A y + b) at image point y.
            scale: of the heatmap beside the crop.

        Raises:
            ValueError: A is singular.
        """
        matrix, shift = as_array("matrix", matrix), as_array("shift", shift)
        xp = array_namespace(self.centre, matrix, shift)
        if not is_traced(matrix) and not (np.abs(np.linalg.det(np.asarray(matrix))) > 0).all():
            raise ValueError("matrix is singular: the crop has no inverse")
        back = xp.linalg.inv(matrix)[..., None, :, :]
        centre = (back @ (self.centre / scale - shift[..., None, :])[..., None])[..., 0]
        forth = matrix[..., None, :, :]
        information = scale**2 * forth.swapaxes(-1, -2) @ self.information @ forth
        return KeypointRegions(
            centre=centre, information=information, seen=self.seen, threshold=self.threshold, guarantee=self.guarantee
        )


def keypoint_distances(centre: Any, precision: Any, seen: Any, y: Any) -> Any:
    """The largest of (y - centre)^T precision (y - centre) over the keypoints seen, shape (n,).

    Of positions with an axis of equivalents, shape (n, G, K, 2), the least over the equivalents.
    """
    xp = array_namespace(centre, y)
    several = y.ndim == 4
    if several:
        centre, precision, seen = centre[..., None, :, :], precision[..., None, :, :, :], seen[..., None, :]
    away = y - centre
    squared = xp.einsum("...i,...ij,...j->...", away, precision, away)
    largest = xp.where(seen, squared, 0.0).max(-1)
    return largest.min(-1) if several else largest
