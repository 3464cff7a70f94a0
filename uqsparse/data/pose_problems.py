"""Synthetic pose problems whose truth is known: keypoints of an object, seen by a camera, each known up to a region."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_INTRINSICS = ((572.4114, 0.0, 325.2611), (0.0, 573.5704, 242.0490), (0.0, 0.0, 1.0))


class PoseProblem(NamedTuple):
    """Image regions of an object's keypoints, and the pose that made them.

    Args:
        points3d: keypoints in the object's frame, metres, shape (K, 3).
        intrinsics: the camera's matrix, shape (3, 3).
        centres: centres of the regions in pixels, shape (K, 2).
        information: matrices Lam of the regions `(y - mu)^T Lam (y - mu) <= 1` in 1/pixel^2, shape (K, 2, 2).
        radii: radii in pixels of the discs of the same area, shape (K,); those of the regions if they are discs.
        R: true rotation, shape (3, 3).
        t: true translation, metres, shape (3,). Every keypoint projects into its region.
        source: where the construction comes from.
        licence: under which terms the data may be used.
    """

    points3d: Float[np.ndarray, "K 3"]
    intrinsics: Float[np.ndarray, "3 3"]
    centres: Float[np.ndarray, "K 2"]
    information: Float[np.ndarray, "K 2 2"]
    radii: Float[np.ndarray, " K"]
    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]
    source: str
    licence: str


def pose_problem(
    seed: int,
    n_keypoints: int = 8,
    *,
    object_radius: float = 0.08,
    distance: float = 1.0,
    semi_axes: tuple[tuple[float, float], ...] = ((3.0, 12.0),),
    is_planar: bool = False,
) -> PoseProblem:
    """Draw an object, a pose and regions that hold the true keypoints, each at a place uniform in its region.

    The camera is that of the LM-O images (640 by 480 pixels).

    Args:
        seed: seed of the generator, at least 0; the same seed gives the same problem.
        n_keypoints: number of keypoints K, at least 3.
        object_radius: largest distance of a keypoint from the object's origin, metres.
        distance: of the object from the camera, metres, up to a fifth.
        semi_axes: lowest and highest semi-axis of the regions in pixels: one pair for discs, two for ellipses.
        is_planar: put all keypoints into one plane.

    Raises:
        ValueError: if an argument is out of range.

    >>> pose_problem(seed=0).centres.shape
    (8, 2)
    """
    if n_keypoints < 3:
        raise ValueError(f"n_keypoints must be at least 3, got {n_keypoints}")
    if len(semi_axes) not in (1, 2) or any(not 0 < low <= high for low, high in semi_axes):
        raise ValueError(f"semi_axes must be one or two pairs 0 < low <= high, got {semi_axes}")
    if object_radius <= 0 or distance <= object_radius * 1.25:
        raise ValueError(
            f"object_radius and distance must leave the object in front of the camera, got {object_radius}, {distance}"
        )
    rng = np.random.default_rng(seed)
    intrinsics = np.array(_INTRINSICS)
    directions = rng.normal(size=(n_keypoints, 3))
    if is_planar:
        directions[:, 2] = 0
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points3d = object_radius * rng.uniform(0.6, 1.0, size=(n_keypoints, 1)) * directions
    R = _rotation(rng.normal(size=4))
    depth = distance * rng.uniform(0.8, 1.2)
    t = depth * np.append(rng.uniform(-0.2, 0.2, size=2), 1.0)
    pixels = (points3d @ R.T + t) @ intrinsics.T
    pixels = pixels[:, :2] / pixels[:, 2:]

    axes = np.stack([rng.uniform(low, high, size=n_keypoints) for low, high in semi_axes], -1)
    axes = np.broadcast_to(axes, (n_keypoints, 2))
    turn = rng.uniform(0, np.pi, size=n_keypoints)
    frames = np.stack([np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)], -1).reshape(-1, 2, 2)
    around = rng.uniform(0, 2 * np.pi, size=n_keypoints)
    place = np.sqrt(rng.uniform(size=n_keypoints))[:, None] * np.stack([np.cos(around), np.sin(around)], -1)
    return PoseProblem(
        points3d=points3d,
        intrinsics=intrinsics,
        centres=pixels - (frames @ (axes * place)[..., None])[..., 0],
        information=(frames / axes[:, None, :] ** 2) @ frames.swapaxes(1, 2),
        radii=np.sqrt(axes.prod(1)),
        R=R,
        t=t,
        source="random keypoints and pose; camera of the LM-O images",
        licence="generated, free to use",
    )


def _rotation(q: np.ndarray) -> np.ndarray:
    """The rotation matrix of a quaternion; of uniform law for four independent normals."""
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
