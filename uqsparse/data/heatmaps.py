"""Synthetic keypoint heatmaps, as a trained detector's look: bumps of varying width, distractors and noise."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit

TARGET_WIDTH = 1.5  # pixels


class KeypointHeatmaps(NamedTuple):
    """Heatmaps and where the keypoints truly are.

    Args:
        heatmaps: shape (n, n_keypoints, size, size), in single precision.
        keypoints: true positions (x, y) in pixels, shape (n, n_keypoints, 2); pixel (row r, column c) has its centre
            at (c + 0.5, r + 0.5).
        source: where they come from.
        licence: under which terms.
    """

    heatmaps: Float[np.ndarray, "n k h w"]
    keypoints: Float[np.ndarray, "n k 2"]
    source: str
    licence: str


def keypoint_heatmaps(seed: int, n: int, n_keypoints: int = 8, size: int = 64) -> KeypointHeatmaps:
    """Heatmaps as a network draws them that was trained to draw a bump of 1.5 pixels at the keypoint.

    Such a network draws the mean of its target: the bump, spread out by where it believes the keypoint to be. That
    spread is log-normal (median 1.5 pixels), its axes differ by up to a factor of three, and the keypoint lies as far
    off as it says. One heatmap in ten has a second, weaker mode elsewhere, and the background is noisy.

    Args:
        seed: same seed, same heatmaps.
        n: number of images.
        n_keypoints: keypoints an image.
        size: side of a heatmap in pixels.
    """
    rng = np.random.default_rng(seed)
    shape = (n, n_keypoints)
    centres = rng.uniform(0.25 * size, 0.75 * size, size=(*shape, 2))
    spread = 1.5 * np.exp(0.5 * rng.normal(size=shape))
    ratio = np.sqrt(rng.uniform(1, 3, size=shape))
    angle = rng.uniform(0, np.pi, size=shape)
    axes = np.stack([np.stack([np.cos(angle), np.sin(angle)], -1), np.stack([-np.sin(angle), np.cos(angle)], -1)], -1)
    roots = axes * (spread[..., None] * np.stack([ratio, 1 / ratio], -1))[..., None, :]
    keypoints = centres + (roots @ rng.normal(size=(*shape, 2, 1)))[..., 0]
    covariance = roots @ roots.swapaxes(-1, -2) + TARGET_WIDTH**2 * np.eye(2)
    precision, height = np.linalg.inv(covariance), TARGET_WIDTH**2 / np.sqrt(np.linalg.det(covariance))
    grid = np.stack(np.meshgrid(*[np.arange(size) + 0.5] * 2, indexing="xy"), -1).astype(np.float32)
    second = np.where(rng.uniform(size=shape) < 0.1, expit(rng.normal(-1, 0.5, size=shape)), 0.0)
    elsewhere = rng.uniform(0.1 * size, 0.9 * size, size=(*shape, 2))
    heatmaps = np.empty((*shape, size, size), np.float32)
    for place in np.ndindex(shape):
        heatmaps[place] = height[place] * _bump(grid, centres[place], precision[place])
        if second[place]:
            heatmaps[place] += second[place] * height[place] * _bump(grid, elsewhere[place], precision[place])
    heatmaps += 0.01 * rng.uniform(size=heatmaps.shape).astype(np.float32)
    return KeypointHeatmaps(heatmaps, keypoints, "synthetic", "made by this program")


def _bump(grid: np.ndarray, centre: np.ndarray, precision: np.ndarray) -> np.ndarray:
    away = grid - centre.astype(np.float32)
    return np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", away, precision.astype(np.float32), away, optimize=True))
