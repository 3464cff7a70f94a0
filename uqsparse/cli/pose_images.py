"""Images with detected keypoints for `uqsparse pose`: from an npz file, or from a folder in the BOP format."""

import dataclasses
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from uqsparse.bounds.keypoint_regions import Detections
from uqsparse.bounds.scores.keypoints import checked_keypoints

# Objects of which less is visible are left out, as is the custom with these data.
LEAST_VISIBLE = 0.1
_KNOWN = (
    "heatmaps",
    "points",
    "confidence",
    "covariance",
    "seen",
    "keypoints",
    "groups",
    "points3d",
    "intrinsics",
    "R_true",
    "t_true",
)


@dataclasses.dataclass(frozen=True, eq=False)
class PoseImages:
    """Images that share one threshold: one object, or one group.

    Args:
        group: name of the group or number of the object; None if all images belong together.
        images: numbers of the images, shape (n,).
        detections: of n images.
        keypoints: true keypoints in pixels, shape (n, K, 2) or (n, G, K, 2), or None.
        points3d: keypoints in the object's frame, shape (K, 3), or None.
        intrinsics: camera matrices, shape (n, 3, 3), or None.
        R_true: true rotations, shape (n, 3, 3), or None.
        t_true: true translations, shape (n, 3), or None.
        unit: of length; empty for that of `points3d`, whatever it is.
    """

    group: str | None
    images: Int[np.ndarray, " n"]
    detections: Detections
    keypoints: Float[np.ndarray, "n *g k 2"] | None = None
    points3d: Float[np.ndarray, "k 3"] | None = None
    intrinsics: Float[np.ndarray, "n 3 3"] | None = None
    R_true: Float[np.ndarray, "n 3 3"] | None = None
    t_true: Float[np.ndarray, "n 3"] | None = None
    unit: str = ""

    def rows(self, rows: Any) -> "PoseImages":
        """Some of the images."""
        arrays = ("images", "detections", "keypoints", "intrinsics", "R_true", "t_true")
        taken = {name: jax.tree.map(lambda array: array[rows], getattr(self, name)) for name in arrays}
        return dataclasses.replace(self, **taken)


def read_npz(path: Path, score: str, top: int, needed: tuple[str, ...] = ()) -> list[PoseImages]:
    """Read images from an npz file, one entry a group.

    Args:
        path: the file.
        score: "ball" or "ellipse"; it says how keypoints are detected in heatmaps.
        top: how many pixels of a heatmap count, for ellipses.
        needed: names that have to be there beside the detections.

    Raises:
        ValueError: the file is no npz file, lacks a name, or an array is not as it should be; the file is named.
        OSError: it cannot be read.
    """
    arrays = _arrays(path)
    try:
        if missing := [name for name in needed if name not in arrays]:
            raise ValueError(f"has no {_listed(missing)}; its names are {_listed(list(arrays))}")
        detections = _detections(arrays, score, top)
        n, K = detections.points.shape[:2]
        if not n:
            raise ValueError("holds no image")
        keypoints = arrays.get("keypoints")
        if keypoints is not None:
            keypoints = checked_keypoints(_numbers("keypoints", keypoints), (n, K), detections.seen)
        everything = PoseImages(
            group=None,
            images=np.arange(n),
            detections=detections,
            keypoints=keypoints,
            points3d=_shaped(arrays, "points3d", (K, 3)),
            intrinsics=_shaped(arrays, "intrinsics", (n, 3, 3), repeat=True),
            R_true=_shaped(arrays, "R_true", (n, 3, 3)),
            t_true=_shaped(arrays, "t_true", (n, 3)),
        )
        if (everything.R_true is None) != (everything.t_true is None):
            raise ValueError("R_true and t_true come together; one is missing")
        if "groups" not in arrays:
            return [everything]
        groups = arrays["groups"]
        if groups.shape != (n,) or groups.dtype.kind not in "iuUSb":
            raise ValueError(
                f"groups have shape {groups.shape} and dtype {groups.dtype}; expected names or numbers {n}"
            )
        names = groups.astype(str)
        return [
            dataclasses.replace(everything.rows(np.flatnonzero(groups == one)), group=str(names[groups == one][0]))
            for one in np.unique(groups)
        ]
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from None


def read_bop(folder: Path | None, wanted: list[int] | None) -> list[PoseImages]:
    """Read a folder in the BOP format, one entry an object.

    The keypoints of an estimated pose, projected into the image, stand for the detections. They have no shape of
    their own, so that regions are discs of one radius.

    Args:
        folder: where; None takes the environment variable.
        wanted: objects; None for all.

    Raises:
        ValueError: a file is not as the format says, or an object is not there.
        FileNotFoundError: the folder or one of its files is missing.
    """
    from uqsparse.data.bop import linemod_occlusion

    found = linemod_occlusion(folder)
    visible = found.visible >= LEAST_VISIBLE
    there = sorted(set(found.object_id[visible].tolist()))
    for one in wanted or ():
        if one not in there:
            raise ValueError(f"--object {one}: the folder has estimates of the objects {_listed(there)}")
    parts = []
    for one in dict.fromkeys(wanted or there):
        rows = np.flatnonzero(visible & (found.object_id == one))
        points, cameras = found.keypoints[one], found.intrinsics[rows]
        parts.append(
            PoseImages(
                group=str(one),
                images=found.image[rows],
                detections=Detections.of(project(cameras, points, found.R[rows], found.t[rows])),
                keypoints=project(cameras, points, found.R_true[rows], found.t_true[rows]),
                points3d=points,
                intrinsics=cameras,
                R_true=found.R_true[rows],
                t_true=found.t_true[rows],
                unit="mm",
            )
        )
    return parts


def project(intrinsics: np.ndarray, points3d: np.ndarray, R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Pixels of the keypoints under poses, shape (m, K, 2)."""
    seen = (points3d @ np.swapaxes(R, -1, -2) + t[:, None, :]) @ np.swapaxes(intrinsics, -1, -2)
    return seen[..., :2] / seen[..., 2:]


def _arrays(path: Path) -> Mapping[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise ValueError("one array without a name")
            return {name: loaded[name] for name in loaded.files if name in _KNOWN}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{str(path)!r} is no readable npz file of arrays: {error}") from None


def _detections(arrays: Mapping[str, np.ndarray], score: str, top: int) -> Detections:
    if ("heatmaps" in arrays) == ("points" in arrays):
        raise ValueError("needs heatmaps or points, " + ("and not both" if "points" in arrays else "and has neither"))
    if "heatmaps" in arrays:
        heatmaps = _numbers("heatmaps", arrays["heatmaps"])
        if heatmaps.ndim == 4 and score == "ellipse" and not 1 <= top <= heatmaps[0, 0].size:
            raise ValueError(f"--top is {top}, and a heatmap has {heatmaps[0, 0].size} pixels")
        return Detections.from_heatmaps(heatmaps, ellipse=score == "ellipse", top=top)
    shape = "covariance" if score == "ellipse" else "confidence"
    other = "confidence" if score == "ellipse" else "covariance"
    if other in arrays and shape not in arrays:
        raise ValueError(f"has a {other} of the points; the score {score!r} needs their {shape}")
    if score == "ellipse" and shape not in arrays:
        raise ValueError("has no covariance of the points, which the score 'ellipse' needs")
    values = {shape: _numbers(shape, arrays[shape])} if shape in arrays else {}
    return Detections.of(_numbers("points", arrays["points"]), seen=arrays.get("seen"), **values)


def _numbers(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array.astype(np.float64)


def _shaped(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], *, repeat: bool = False) -> Any:
    """The array of that name, or None; where `repeat`, one for all images is as good as one each."""
    if name not in arrays:
        return None
    array = _numbers(name, arrays[name])
    if repeat and array.shape == shape[1:]:
        array = np.broadcast_to(array, shape)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {f'{shape[1:]} or ' if repeat else ''}{shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has {np.count_nonzero(~np.isfinite(array))} NaN or infinite values")
    return array


def _listed(names: list[Any], most: int = 12) -> str:
    return ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")


def in_order(parts: list[PoseImages]) -> Iterator[tuple[PoseImages, int]]:
    """Every image as its part and its row there, by number of image."""
    places = [(part, row) for part in parts for row in range(len(part.images))]
    return iter(sorted(places, key=lambda place: int(place[0].images[place[1]])))
