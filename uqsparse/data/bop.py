"""Object poses in the BOP format: keypoints, estimates and ground truth from a folder that the user has.

Nothing is downloaded, and nothing of it belongs to this package.
"""

import csv
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

FOLDER_VARIABLE = "UQSPARSE_LMO"
_FILES = ("kpts3d.json", "results_lmo-test.csv", "scene_gt.json", "scene_gt_info.json", "scene_camera.json")


class PoseEstimates(NamedTuple):
    """Estimated and true poses of objects in images, one row an instance.

    A pose takes a point Y of the object to the camera frame as R Y + t.

    Args:
        object_id: the object, shape (n,).
        image: number of the image, shape (n,).
        R: estimated rotations, shape (n, 3, 3).
        t: estimated translations, in millimetres, shape (n, 3).
        R_true: true rotations, shape (n, 3, 3).
        t_true: true translations, in millimetres, shape (n, 3).
        intrinsics: camera matrices, shape (n, 3, 3), in pixels.
        visible: visible share of the object, shape (n,).
        keypoints: keypoints of each object, in millimetres, shape (K, 3), by object.
        source: who made the data.
        licence: under which terms.
    """

    object_id: Int[np.ndarray, " n"]
    image: Int[np.ndarray, " n"]
    R: Float[np.ndarray, "n 3 3"]
    t: Float[np.ndarray, "n 3"]
    R_true: Float[np.ndarray, "n 3 3"]
    t_true: Float[np.ndarray, "n 3"]
    intrinsics: Float[np.ndarray, "n 3 3"]
    visible: Float[np.ndarray, " n"]
    keypoints: dict[int, Float[np.ndarray, "k 3"]]
    source: str
    licence: str


def bop_folder(folder: str | os.PathLike | None = None) -> Path:
    """The folder given, or that named by the environment variable `UQSPARSE_LMO`.

    Raises:
        FileNotFoundError: neither is given, or there is no such folder.
    """
    folder = folder if folder is not None else os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise FileNotFoundError(f"no data folder: name one, or set {FOLDER_VARIABLE}")
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"data folder {str(path)!r} does not exist")
    return path


def linemod_occlusion(folder: str | os.PathLike | None = None) -> PoseEstimates:
    """Poses that a keypoint detector found in LineMOD-Occlusion, beside the true ones.

    The folder, or any folder below it, holds `kpts3d.json` and `results_lmo-test.csv` of the detector and
    `scene_gt.json`, `scene_gt_info.json` and `scene_camera.json` of BOP's test scene 2. An instance is an object in an
    image, with the estimate of the highest score; objects without estimate or without ground truth are left out.
    Matrices are replaced by the nearest rotations.

    Args:
        folder: where to look; None takes the environment variable `UQSPARSE_LMO`.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a file is not as the format says; it is named.
    """
    path = bop_folder(folder)
    keypoints_file, results_file, truth_file, info_file, camera_file = (_find(path, name) for name in _FILES)
    keypoints = _json(keypoints_file).get("lmo")
    if not isinstance(keypoints, dict):
        raise ValueError(f"{keypoints_file.name}: no keypoints under 'lmo'")
    points = {int(name): _numbers(keypoints_file, value, (len(value), 3)) for name, value in keypoints.items()}
    truths, infos, cameras = _json(truth_file), _json(info_file), _json(camera_file)
    best: dict[tuple[int, int], tuple[float, Any, Any]] = {}
    for row, (image, name, score, R, t) in enumerate(_results(results_file), start=2):
        if score > best.get((image, name), (-np.inf,))[0]:
            best[image, name] = score, _rotation(results_file, R, row), _numbers(results_file, t, (3,), row)
    rows = []
    for image, instances in truths.items():
        camera = _numbers(camera_file, _entry(camera_file, cameras, image, "cam_K"), (3, 3))
        for place, truth in enumerate(instances):
            found = best.get((int(image), truth["obj_id"]))
            if found is None or truth["obj_id"] not in points:
                continue
            R_true = _rotation(truth_file, truth["cam_R_m2c"])
            t_true = _numbers(truth_file, truth["cam_t_m2c"], (3,))
            visible = float(infos[image][place]["visib_fract"])
            rows.append((truth["obj_id"], int(image), found[1], found[2], R_true, t_true, camera, visible))
    if not rows:
        raise ValueError(f"{results_file.name}: no estimate belongs to an instance of {truth_file.name}")
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return PoseEstimates(
        *columns,
        keypoints=points,
        source="LineMOD-Occlusion (Brachmann et al., 2014) in BOP's form (Hodaň et al., 2018); keypoints and estimates "
        "of yufu-wang/6D_Pose",
        licence="ground truth CC BY-SA 4.0; keypoints and estimates MIT",
    )


def _find(folder: Path, name: str) -> Path:
    if (folder / name).is_file():
        return folder / name
    found = sorted(folder.rglob(name))
    if not found:
        raise FileNotFoundError(f"data folder {str(folder)!r} holds no {name}")
    return found[0]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON: {error}") from error


def _entry(path: Path, values: Any, image: str, name: str) -> Any:
    try:
        return values[image][name]
    except KeyError:
        raise ValueError(f"{path.name}: image {image} has no {name}") from None


def _numbers(path: Path, values: Any, shape: tuple[int, ...], row: int | None = None) -> np.ndarray:
    place = path.name if row is None else f"{path.name}, line {row}"
    try:
        array = np.array(values.split() if isinstance(values, str) else values, dtype=float).reshape(shape)
    except ValueError as error:
        raise ValueError(f"{place}: expected {' x '.join(map(str, shape))} numbers: {error}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{place}: a number is NaN or infinite")
    return array


def _rotation(path: Path, values: Any, row: int | None = None) -> np.ndarray:
    """The nearest rotation: the matrices of the files are up to half a percent off."""
    matrix = _numbers(path, values, (3, 3), row)
    left, stretches, right = np.linalg.svd(matrix)
    if abs(stretches - 1).max() > 0.02 or np.linalg.det(matrix) < 0:
        place = path.name if row is None else f"{path.name}, line {row}"
        raise ValueError(f"{place}: a matrix is no rotation: {matrix.tolist()}")
    return left @ right


def _results(path: Path) -> list[tuple[int, int, float, str, str]]:
    with path.open(newline="") as lines:
        table = csv.DictReader(lines)
        missing = {"im_id", "obj_id", "score", "R", "t"} - set(table.fieldnames or ())
        if missing:
            raise ValueError(f"{path.name} lacks the column(s) {', '.join(sorted(missing))}")
        return [(int(r["im_id"]), int(r["obj_id"]), float(r["score"]), r["R"], r["t"]) for r in table]
