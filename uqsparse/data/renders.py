"""Rendered images of a small textured solid in known poses, to train and test a keypoint detector without downloads.

The solid is convex, a cuboid with slanted faces, and so a ray meets it where it has entered the last of its half-spaces
and not yet left any. Every face has two colours of its own, so that no turn maps the solid to itself.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

_RADIUS = 0.08  # metres from the keypoints' mean to the farthest corner
_CELL = 0.022  # metres, side of a square of the pattern
_CHUNK = 64  # images drawn at once: their rays fit into the processor's cache
_OVERSAMPLING = 2
# Half-spaces normal @ x <= distance, before scaling: +x, -x, +y, -y, +z, -z.
_NORMALS = ((1, 0.1, 0.25), (-1, 0.2, 0.05), (0.15, 1, -0.1), (0.1, -1, 0.3), (-0.2, 0.1, 1), (0.05, 0.1, -1))
_DISTANCES = (1.5, 1.4, 0.9, 1.0, 0.75, 0.7)
# Two colours of each face, red, green and blue.
_COLOURS = (
    ((0.95, 0.15, 0.10), (0.55, 0.05, 0.10)),
    ((0.15, 0.80, 0.20), (0.05, 0.45, 0.15)),
    ((0.20, 0.35, 1.00), (0.05, 0.10, 0.55)),
    ((1.00, 0.85, 0.10), (0.65, 0.45, 0.00)),
    ((0.90, 0.25, 0.90), (0.50, 0.05, 0.45)),
    ((0.15, 0.90, 0.90), (0.00, 0.50, 0.55)),
)
# The view that turns start from: three faces are seen about equally well.
_VIEW = np.array([[1, -1, 0], [1, 1, -2], [1, 1, 1]]) / np.sqrt([[2], [6], [3]])


class RenderedPoses(NamedTuple):
    """Images of the solid and the poses that made them.

    Args:
        images: red, green and blue in [0, 1], shape (n, size, size, 3), in single precision.
        keypoints: where the corners project to (x, y), in pixels, shape (n, 8, 2); pixel (row r, column c) has its
            centre at (c + 0.5, r + 0.5). Corners that are hidden project all the same; all lie within the image.
        points3d: the corners in the solid's frame, metres, shape (8, 3).
        R: rotations, shape (n, 3, 3): the camera sees R Y + t.
        t: translations, metres, shape (n, 3).
        intrinsics: the camera's matrix, shape (3, 3).
        visible: which corners are hidden neither by the solid nor by what stands before it, shape (n, 8).
        source: where they come from.
        licence: under which terms.
    """

    images: Float[np.ndarray, "n size size 3"]
    keypoints: Float[np.ndarray, "n 8 2"]
    points3d: Float[np.ndarray, "8 3"]
    R: Float[np.ndarray, "n 3 3"]
    t: Float[np.ndarray, "n 3"]
    intrinsics: Float[np.ndarray, "3 3"]
    visible: Bool[np.ndarray, "n 8"]
    source: str
    licence: str


class Solid(NamedTuple):
    """A convex solid: the points x with normals @ x <= distances.

    Args:
        normals: outward unit normals of the faces, shape (6, 3).
        distances: of the faces from the origin, metres, shape (6,).
        corners: shape (8, 3), metres; their mean is the origin.
        corner_faces: the three faces that meet in each corner, shape (8, 3).
    """

    normals: Float[np.ndarray, "6 3"]
    distances: Float[np.ndarray, " 6"]
    corners: Float[np.ndarray, "8 3"]
    corner_faces: Int[np.ndarray, "8 3"]


class RayHits(NamedTuple):
    """Where the rays of pixels meet the solid.

    Args:
        face: number of the face that is seen, -1 where the ray passes by, shape (n, size, size).
        depth: coordinate along the camera's axis of the place, metres, shape (n, size, size); infinite where it passes.
    """

    face: Int[np.ndarray, "n size size"]
    depth: Float[np.ndarray, "n size size"]


def rendered_poses(seed: int, n: int, size: int = 64, *, turn: float = 180.0) -> RenderedPoses:
    """Render a solid of radius 8 cm in random poses, about 1 m from the camera.

    Light, background and noise vary, and in two images of three something stands before a part of the solid.

    Args:
        seed: seed of the generator, at least 0; the same seed gives the same images.
        n: number of images, at least 1.
        size: side of an image in pixels, at least 8.
        turn: largest angle in degrees from a view that shows three faces, in (0, 180]; rotations are uniform among
            these. Few views make an easier problem.

    Raises:
        ValueError: if n or size is too small, or turn out of range.

    >>> rendered_poses(seed=0, n=2).images.shape
    (2, 64, 64, 3)
    """
    if n < 1 or size < 8:
        raise ValueError(f"n must be at least 1 and size at least 8, got {n} and {size}")
    if not 0 < turn <= 180:
        raise ValueError(f"turn must lie in (0, 180] degrees, got {turn}")
    rng = np.random.default_rng(seed)
    body = solid()
    # At 0.9 m a corner is at most 4.8 tan(asin(0.08 / 0.9)) = 0.43 image sides from the middle, a shift moves it 0.05.
    intrinsics = np.array([[4.8 * size, 0, 0.5 * size], [0, 4.8 * size, 0.5 * size], [0, 0, 1]])
    R = _rotations(rng, n, np.radians(turn)) @ _VIEW
    t = np.concatenate([rng.uniform(-0.01, 0.01, (n, 2)), rng.uniform(0.9, 1.1, (n, 1))], axis=1)
    seen = (body.corners @ R.swapaxes(1, 2) + t[:, None]) @ intrinsics.T
    keypoints = seen[..., :2] / seen[..., 2:]

    images = np.empty((n, size, size, 3), np.float32)
    hidden = np.empty((n, size, size), bool)
    for start in range(0, n, _CHUNK):
        rows = slice(start, min(start + _CHUNK, n))
        images[rows], hidden[rows] = _draw(rng, body, R[rows], t[rows], intrinsics, size)
    # A face shows if the camera, at -R^T t in the solid's frame, is on its outer side.
    shows = -np.einsum("nij,ni,fj->nf", R, t, body.normals) > body.distances
    column, row = np.floor(keypoints).astype(int).reshape(-1, 2).T
    at_corner = hidden[np.repeat(np.arange(n), 8), row, column].reshape(n, 8)
    visible = shows[:, body.corner_faces].any(-1) & ~at_corner
    return RenderedPoses(
        images, keypoints, body.corners, R, t, intrinsics, visible, "rendered by this program", "made by this program"
    )


def solid() -> Solid:
    """The solid that `rendered_poses` shows.

    >>> float(np.linalg.norm(solid().corners, axis=1).max().round(6))
    0.08
    """
    normals = np.array(_NORMALS) / np.linalg.norm(_NORMALS, axis=1, keepdims=True)
    distances = np.array(_DISTANCES)
    faces = np.array([[x, y, z] for x in (0, 1) for y in (2, 3) for z in (4, 5)])
    corners = np.linalg.solve(normals[faces], distances[faces][..., None])[..., 0]
    middle = corners.mean(0)
    corners, distances = corners - middle, distances - normals @ middle
    scale = _RADIUS / np.linalg.norm(corners, axis=1).max()
    return Solid(normals, scale * distances, scale * corners, faces)


def cast_rays(
    body: Solid,
    R: Float[np.ndarray, "n 3 3"],
    t: Float[np.ndarray, "n 3"],
    intrinsics: Float[np.ndarray, "3 3"],
    size: int,
) -> RayHits:
    """Follow the ray of every pixel's centre to the solid.

    Args:
        body: the solid.
        R: rotations, shape (n, 3, 3).
        t: translations, metres, shape (n, 3); the camera stands outside the solid.
        intrinsics: the camera's matrix, shape (3, 3).
        size: side of the image in pixels.

    Source: Cyrus & Beck (1978), Generalized two- and three-dimensional clipping, Computers & Graphics 3.
    """
    # In the solid's frame the point at depth s on a ray is origin + s direction.
    directions = (R.swapaxes(1, 2) @ np.linalg.inv(intrinsics)).astype(np.float32) @ _pixels(size)
    origin = -np.einsum("nij,ni->nj", R, t)
    room = (body.distances - origin @ body.normals.T).astype(np.float32)  # negative: outside this half-space
    n, _, n_pixels = directions.shape
    enter, leave = np.full((n, n_pixels), -np.inf, np.float32), np.full((n, n_pixels), np.inf, np.float32)
    face = np.zeros((n, n_pixels), np.int8)
    for f, normal in enumerate(body.normals.astype(np.float32)):
        speed = normal @ directions
        with np.errstate(divide="ignore"):
            crossing = room[:, f, None] / speed
        inwards = speed < 0
        later = inwards & (crossing > enter)
        np.copyto(enter, crossing, where=later)
        np.copyto(face, np.int8(f), where=later)
        np.minimum(leave, crossing, out=leave, where=~inwards)
    hit = (enter > 0) & (enter < leave)
    shape = (n, size, size)
    return RayHits(np.where(hit, face, -1).reshape(shape), np.where(hit, enter, np.inf).reshape(shape))


def _pixels(size: int) -> np.ndarray:
    """Homogeneous coordinates of the pixels' centres, row by row, shape (3, size^2)."""
    middle = np.arange(size, dtype=np.float32) + 0.5
    return np.stack([*np.meshgrid(middle, middle, indexing="xy"), np.ones((size, size), np.float32)]).reshape(3, -1)


def _draw(rng, body, R, t, intrinsics, size) -> tuple[np.ndarray, np.ndarray]:
    """Images of a few poses, and where something stands before the solid."""
    n = len(R)
    colour, share = _paint(rng, body, R, t, intrinsics, size)
    images = np.broadcast_to(_muted(rng, n)[:, None, None], (n, size, size, 3)).copy()
    for _ in range(6):
        _paste(rng, images, rng.uniform(0, size, (n, 2)), rng.uniform(0.08, 0.4, (n, 2)) * size, np.ones(n, bool))
    images = images * (1 - share) + colour
    # What stands before the solid covers a part near its rim.
    angle = rng.uniform(0, 2 * np.pi, n)
    away = rng.uniform(0.15, 0.4, n)[:, None] * size * np.stack([np.cos(angle), np.sin(angle)], -1)
    half = rng.uniform(0.05, 0.14, (n, 2)) * size
    hidden = _paste(rng, images, 0.5 * size + away, half, rng.uniform(size=n) < 2 / 3)
    images *= rng.uniform(0.7, 1.15, (n, 1, 1, 3)).astype(np.float32)  # what the camera makes of the light
    images += 0.03 * rng.standard_normal(images.shape, dtype=np.float32)
    return np.clip(images, 0, 1, out=images), hidden


def _paint(rng, body, R, t, intrinsics, size) -> tuple[np.ndarray, np.ndarray]:
    """The solid's colour in each pixel, times the share of the pixel that it covers, and that share."""
    n, finer = len(R), _OVERSAMPLING * size
    zoomed = np.diag([_OVERSAMPLING, _OVERSAMPLING, 1]) @ intrinsics
    hits = cast_rays(body, R, t, zoomed, finer)
    which, row, column = np.nonzero(hits.face >= 0)
    face, depth = hits.face[which, row, column], hits.depth[which, row, column]
    rays = np.linalg.inv(zoomed) @ _pixels(finer)[:, row * finer + column]
    place = np.einsum("mi,mij->mj", (depth * rays).T - t[which], R[which])
    # Squares, like a chess board's, in the two coordinates other than the one that the normal mostly points along.
    across = np.array([[1, 2], [0, 2], [0, 1]])[np.abs(body.normals).argmax(1)]
    cells = np.floor(place / _CELL).astype(int)
    square = np.take_along_axis(cells, across[face], 1).sum(1) % 2
    colour = np.array(_COLOURS)[face, square] * _shine(rng, body, R)[which, face, None]
    pixel = (which * size + row // _OVERSAMPLING) * size + column // _OVERSAMPLING
    values = np.concatenate([colour, np.ones((len(colour), 1))], axis=1) / _OVERSAMPLING**2
    sums = np.stack([np.bincount(pixel, value, n * size * size) for value in values.T], -1).astype(np.float32)
    sums = sums.reshape(n, size, size, 4)
    return sums[..., :3], sums[..., 3:]


def _shine(rng, body: Solid, R: np.ndarray) -> np.ndarray:
    """Light that each face throws back, after Lambert, shape (n, face)."""
    light = rng.normal((0, 0, -2), size=(len(R), 3))  # mostly from the camera's side
    light /= np.linalg.norm(light, axis=1, keepdims=True)
    facing = np.einsum("nij,ni,fj->nf", R, light, body.normals)
    return 0.55 + 0.5 * np.maximum(facing, 0)


def _paste(rng, images: np.ndarray, centre: np.ndarray, half: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Paint a striped ellipse or rectangle into each image that wants one, in place; returns where."""
    n, size = images.shape[:2]
    angle = rng.uniform(0, np.pi, (n, 1, 1)).astype(np.float32)
    middle = np.arange(size, dtype=np.float32) + 0.5
    x = middle - centre[:, 0, None, None].astype(np.float32)
    y = middle[:, None] - centre[:, 1, None, None].astype(np.float32)
    along, across = (1 / half[:, :, None, None]).astype(np.float32).swapaxes(0, 1)
    u = (np.cos(angle) * along) * x + (np.sin(angle) * along) * y
    v = (np.cos(angle) * across) * y - (np.sin(angle) * across) * x
    is_round = rng.uniform(size=(n, 1, 1)) < 0.5
    inside = np.where(is_round, u * u + v * v < 1, np.maximum(np.abs(u), np.abs(v)) < 1) & wanted[:, None, None]
    colours = np.stack([_muted(rng, n), _muted(rng, n)], 1)
    n_stripes = rng.uniform(1, 4, n)
    which, row, column = np.nonzero(inside)
    stripe = np.floor(n_stripes[which] * u[which, row, column]).astype(int) % 2
    images[which, row, column] = colours[which, stripe]
    return inside


def _muted(rng, n: int) -> np.ndarray:
    """Colours of the surroundings, less vivid than the solid's, shape (n, 3)."""
    return np.clip(rng.uniform(0.1, 0.9, (n, 1)) + rng.uniform(-0.2, 0.2, (n, 3)), 0, 1).astype(np.float32)


def _rotations(rng, n: int, largest: float) -> np.ndarray:
    """Rotations uniform among those by at most an angle, shape (n, 3, 3).

    The angle of a uniform rotation has density (1 - cos angle) / pi; the axis is uniform.
    """
    angles = np.linspace(0, largest, 1001)
    below = angles - np.sin(angles)
    angle = np.interp(rng.uniform(0, below[-1], n), below, angles)[:, None, None]
    x, y, z = (axes := rng.normal(size=(n, 3))).T / np.linalg.norm(axes, axis=1)
    zero = np.zeros(n)
    cross = np.moveaxis(np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]), -1, 0)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
