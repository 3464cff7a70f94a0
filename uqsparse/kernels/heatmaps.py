"""What a keypoint heatmap says: where, how surely, and how spread out."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from uqsparse.kernels.namespaces import AnyArray, array_namespace

# A point that is uniform within its pixel has this variance along each axis.
PIXEL_VARIANCE = 1 / 12


def clean_heatmap(heatmap: Float[AnyArray, "... h w"]) -> Float[AnyArray, "... h w"]:
    """Probabilities of pixels: background removed below the median, then divided by the sum.

    Args:
        heatmap: any real numbers, larger where the keypoint is likelier, shape (..., h, w).

    Returns:
        Nonnegative numbers that sum to one over the pixels; uniform for a constant heatmap.

    Source: Yang & Pavone (2023), Object pose estimation with statistical guarantees, section 3.

    >>> clean_heatmap(np.array([[0.0, 1.0], [2.0, 5.0]])).tolist()
    [[0.0, 0.0], [0.2857142857142857, 0.7142857142857143]]
    """
    xp = array_namespace(heatmap)
    low = heatmap.min((-2, -1), keepdims=True)
    raised = heatmap - low
    middle = xp.median(raised, (-2, -1), keepdims=True)
    kept = xp.where(raised < middle, 0.0, raised)
    total = kept.sum((-2, -1), keepdims=True)
    size = heatmap.shape[-2] * heatmap.shape[-1]
    return xp.where(total > 0, kept / xp.where(total > 0, total, 1.0), 1.0 / size)


def heatmap_peak(probabilities: Float[AnyArray, "... h w"]) -> tuple[Float[AnyArray, "... 2"], Float[AnyArray, "..."]]:
    """The most probable pixel and its probability.

    Args:
        probabilities: from `clean_heatmap`, shape (..., h, w).

    Returns:
        Its centre (x, y) in pixels, the corner of the first pixel being (0, 0), shape (..., 2), and its probability.

    >>> heatmap_peak(np.array([[0.1, 0.6], [0.1, 0.2]]))
    (array([1.5, 0.5]), np.float64(0.6))
    """
    xp = array_namespace(probabilities)
    width = probabilities.shape[-1]
    flat = probabilities.reshape(*probabilities.shape[:-2], -1)
    best = flat.argmax(-1)
    place = xp.stack([best % width, best // width], -1).astype(flat.dtype) + 0.5
    return place, flat.max(-1)


def heatmap_moments(
    probabilities: Float[AnyArray, "... h w"], top: int = 100
) -> tuple[Float[AnyArray, "... 2"], Float[AnyArray, "... 2 2"]]:
    """Mean and covariance of the place under the most probable pixels.

    The spread within a pixel (1/12 along each axis) is counted, so that the covariance of a single pixel can be
    inverted.

    Args:
        probabilities: from `clean_heatmap`, shape (..., h, w).
        top: how many pixels to use; all if there are fewer.

    Returns:
        Mean (x, y) in pixels, shape (..., 2), and covariance in square pixels, shape (..., 2, 2).

    Source: Yang & Pavone (2023), Object pose estimation with statistical guarantees, section 3, the ellipse.
    """
    xp = array_namespace(probabilities)
    width = probabilities.shape[-1]
    flat = probabilities.reshape(*probabilities.shape[:-2], -1)
    weights, places = _largest(flat, min(top, flat.shape[-1]))
    weights = weights / weights.sum(-1, keepdims=True)
    points = xp.stack([places % width, places // width], -1).astype(flat.dtype) + 0.5
    mean = (weights[..., None] * points).sum(-2)
    centred = points - mean[..., None, :]
    covariance = xp.einsum("...i,...ij,...ik->...jk", weights, centred, centred)
    return mean, covariance + PIXEL_VARIANCE * xp.eye(2, dtype=flat.dtype)


def _largest(flat: Any, top: int) -> tuple[Any, Any]:
    if array_namespace(flat) is not np:
        return jax.lax.top_k(flat, top)
    places = np.argpartition(flat, -top, axis=-1)[..., -top:]
    return np.take_along_axis(flat, places, -1), places
