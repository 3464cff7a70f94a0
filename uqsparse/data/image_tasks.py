"""Completion of images as regression tasks: some pixels are seen, others are to be predicted."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from uqsparse.data.tasks import Tasks, require_count, require_point_counts, split_points


def image_completion_tasks(
    key: Key[Array, ""],
    images: Float[Any, "n height width *channels"],
    n_tasks: int,
    *,
    max_points: int | None = None,
    min_context: int = 3,
    min_target: int = 3,
) -> Tasks:
    """Predict pixels of an image from some others of it: inputs are coordinates, outputs are intensities less 0.5.

    Images are drawn with replacement, pixels without. Coordinates (row, column) go from -1 to 1. The numbers of points
    are drawn as in `gp_tasks`. For use under `jit` as it is, where the images are not traced.

    Args:
        key: random key.
        images: intensities in [0, 1], shape (n, height, width) or (n, height, width, channels).
        n_tasks: T, at least 1.
        max_points: context and targets together have at most so many pixels; 200, or all where there are fewer.
        min_context: least number of pixels in a context, at least 0.
        min_target: least number of targets, at least 1.

    Returns:
        Tasks with dx = 2 and dy the number of channels.

    Raises:
        ValueError: images that are not finite, lie outside [0, 1] or have another shape; a count out of range.

    Source: Garnelo et al. (2018), Conditional neural processes, ICML, section 4.2.

    >>> image_completion_tasks(jax.random.key(0), np.zeros((5, 8, 8)), 2).target_y.shape
    (2, 61, 1)
    """
    pixels = np.asarray(images, np.float32)
    if pixels.ndim not in (3, 4) or 0 in pixels.shape:
        raise ValueError(
            f"images must have shape (n, height, width) or (n, height, width, channels), got {pixels.shape}"
        )
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError("images must hold finite intensities in [0, 1]; divide them by their largest value")
    require_count("n_tasks", n_tasks, 1)
    n_images, height, width = pixels.shape[:3]
    n_pixels = height * width
    max_points = min(200, n_pixels) if max_points is None else max_points
    require_point_counts(max_points, min_context, min_target)
    if max_points > n_pixels:
        raise ValueError(f"max_points is {max_points}, and an image has {n_pixels} pixels")
    return _image_tasks(
        key,
        pixels.reshape(n_images, n_pixels, -1) - 0.5,
        pixel_coordinates(height, width),
        n_tasks,
        (max_points, min_context, min_target),
    )


def pixel_coordinates(height: int, width: int) -> Float[np.ndarray, "pixels 2"]:
    """Coordinates (row, column) of the pixels of an image from -1 to 1, row by row; a side of one pixel is at 0.

    >>> pixel_coordinates(2, 1).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    sides = [np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1) for n in (height, width)]
    return np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


@partial(jax.jit, static_argnums=(3, 4))
def _image_tasks(key, values, coordinates, n_tasks, counts):
    key_image, key_pixel, key_counts = jax.random.split(key, 3)
    which = jax.random.randint(key_image, (n_tasks,), 0, len(values))
    order = jax.vmap(lambda k: jax.random.permutation(k, len(coordinates)))(jax.random.split(key_pixel, n_tasks))
    chosen = order[:, : counts[0]]
    return split_points(key_counts, coordinates[chosen], values[which[:, None], chosen], counts)
