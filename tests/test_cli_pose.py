"""`uqsparse pose` as a user meets it: what it writes, checked by hand, and how it refuses."""

import json
from pathlib import Path

import command_line
import numpy as np
import pytest
from command_line import assert_one_error_line, succeeded
from scipy.spatial.transform import Rotation

from uqsparse.data.heatmaps import keypoint_heatmaps
from uqsparse.data.pose_problems import pose_problem

CAMERA = np.array([[572.4, 0, 325.3], [0, 573.6, 242.0], [0, 0, 1]])
PNG = b"\x89PNG"


def run(*arguments):
    return command_line.run("pose", *arguments)


def read(path):
    return json.loads(Path(path).read_text())


def files():
    return sorted(path.name for path in Path().rglob("*"))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("UQSPARSE_LMO", raising=False)
    monkeypatch.chdir(tmp_path)


def detector(seed, n=40, K=6, **others):
    """Points that miss by a normal error whose scale the confidence knows."""
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(100, 400, size=(n, K, 2))
    scale = rng.uniform(0.5, 3, size=(n, K))
    points = keypoints + scale[..., None] * rng.normal(size=(n, K, 2))
    return {"points": points, "confidence": 1 / scale, "keypoints": keypoints, **others}


def saved(name, arrays):
    np.savez(name, **arrays)
    return name


def scores(data):
    return (data["confidence"] * np.linalg.norm(data["points"] - data["keypoints"], axis=-1)).max(-1)


def pose_data():
    """A calibration set of unit discs of 8 keypoints, and two images of an object whose true pose is known.

    The second image's regions are moved so far apart that no pose fits them.
    """
    problem = pose_problem(seed=1, semi_axes=((3.0, 6.0),))
    truth = problem.points3d @ problem.R.T + problem.t
    keypoints = (truth @ problem.intrinsics.T)[:, :2] / truth[:, 2:]
    rng = np.random.default_rng(0)
    wild = problem.centres + 80 * rng.normal(size=problem.centres.shape)
    images = {
        "points": np.stack([problem.centres, wild]),
        "confidence": np.stack([1 / problem.radii] * 2),
        "points3d": problem.points3d,
        "intrinsics": problem.intrinsics,
        "R_true": np.stack([problem.R] * 2),
        "t_true": np.stack([problem.t] * 2),
        "keypoints": np.stack([keypoints] * 2),
    }
    # scores 0.05, 0.10, ..., 1.00: the threshold at eps 0.1 is the 19th of 20, 0.95
    distance = np.arange(1, 21) / 20
    calibration = {
        "points": np.zeros((20, 8, 2)),
        "keypoints": np.stack([distance, 0 * distance], -1)[:, None].repeat(8, axis=1),
    }
    return calibration, images


def test_the_threshold_is_the_order_statistic_of_the_scores():
    data = detector(0)
    result = succeeded(run("calibrate", saved("c.npz", data), "--eps", 0.2, "--out", "c.json"))
    found = read("c.json")
    assert (found["score"], found["eps"], found["n"]) == ("ball", 0.2, 40)
    (one,) = found["thresholds"]
    assert one["threshold"] == pytest.approx(np.sort(scores(data))[32])  # ceil(0.8 * 41) = 33rd
    assert one["guarantee"]["level"] == pytest.approx(0.8)
    assert one["guarantee"]["kind"] == "marginal"
    assert "at least 0.8" in result.stdout
    assert files() == ["c.json", "c.npz"]


@pytest.mark.filterwarnings("error::UserWarning")
def test_groups_have_their_own_thresholds_and_few_images_give_the_whole_plane():
    groups = np.array(["mug"] * 36 + ["jar"] * 4)
    data = detector(1, groups=groups)
    result = succeeded(run("calibrate", saved("c.npz", data), "--out", "c.json"))
    found = {one["group"]: one for one in read("c.json")["thresholds"]}
    assert found["jar"]["threshold"] == "inf"
    assert "group jar: threshold inf" in result.stdout
    assert "whole plane" in result.stdout
    assert found["mug"]["threshold"] == pytest.approx(np.sort(scores(data)[:36])[33])
    assert found["mug"]["guarantee"]["kind"] == "group"
    # and prediction uses them, in the order of the images
    new = detector(2, n=3, groups=np.array(["mug", "jar", "mug"]))
    succeeded(run("predict", "c.json", saved("n.npz", new), "--out", "r.json"))
    images = read("r.json")["images"]
    assert [one["image"] for one in images] == [0, 1, 2]
    assert [one["group"] for one in images] == ["mug", "jar", "mug"]
    assert images[1]["regions"][0]["information"] == [[0, 0], [0, 0]]
    radius = found["mug"]["threshold"] / new["confidence"][2, 4]
    np.testing.assert_allclose(images[2]["regions"][4]["information"], np.eye(2) / radius**2)
    np.testing.assert_allclose(images[2]["regions"][4]["centre"], new["points"][2, 4])
    covered = scores(new) <= found["mug"]["threshold"]
    assert [one["holds_keypoints"] for one in images] == [covered[0], True, covered[2]]
    assert_one_error_line(
        run("predict", "c.json", saved("n.npz", detector(2, groups=np.full(40, "cup"))), "--out", "r2.json"),
        "group cup was not calibrated",
        "jar, mug",
    )
    assert_one_error_line(
        run("predict", "c.json", saved("n.npz", detector(2)), "--out", "r2.json"), "the images have no groups"
    )
    assert not Path("r2.json").exists()


@pytest.mark.parametrize("score", ["ball", "ellipse"])
def test_heatmaps_go_in_as_they_are(score):
    made = keypoint_heatmaps(3, n=44, n_keypoints=3, size=24)
    for name, rows in (("c.npz", slice(0, 30)), ("n.npz", slice(30, 44))):
        np.savez(name, heatmaps=made.heatmaps[rows], keypoints=made.keypoints[rows])
    succeeded(run("calibrate", "c.npz", "--score", score, "--eps", 0.1, "--top", 40, "--out", "c.json"))
    Path("regions").mkdir()
    result = succeeded(run("predict", "c.json", "n.npz", "--out", "regions"))
    found = read("regions/regions.json")
    y, inside = made.keypoints[30:], []
    for image, true in zip(found["images"], y, strict=True):
        away = true - np.array([one["centre"] for one in image["regions"]])
        shape = np.array([one["information"] for one in image["regions"]])
        inside.append(bool((np.einsum("ki,kij,kj->k", away, shape, away) <= 1).all()))
    assert [one["holds_keypoints"] for one in found["images"]] == inside
    assert sum(inside) >= 9  # 14 at level 0.9
    assert f"{sum(inside)} of 14 have all keypoints in their regions" in result.stdout
    is_round = np.allclose(shape, shape[:, :1, :1] * np.eye(2))
    assert is_round == (score == "ball")


def test_keypoints_that_were_not_seen_have_no_region():
    seen = np.ones((40, 6), bool)
    seen[:, 2] = False
    data = detector(4, seen=seen)
    data["keypoints"][:, 2] = np.nan
    succeeded(run("calibrate", saved("c.npz", data), "--out", "c.json"))
    succeeded(run("predict", "c.json", "c.npz", "--out", "r.json"))
    assert read("r.json")["images"][0]["regions"][2] == {"keypoint": 2, "seen": False}


def test_bounds_hold_for_the_true_pose_and_an_impossible_image_is_told():
    calibration, images = pose_data()
    succeeded(run("calibrate", saved("c.npz", calibration), "--out", "c.json"))
    # so that the truth is well inside its regions of 0.95 of the radius
    images["confidence"] = images["confidence"] * 0.9
    result = succeeded(
        run("bound", "c.json", saved("i.npz", images), "--level", "q2", "--samples", 200, "--out", "out")
    )
    assert sorted(path.name for path in Path("out").iterdir()) == ["bounds.json", "image_0.png", "image_1.png"]
    assert all(Path("out", f"image_{i}.png").read_bytes().startswith(PNG) for i in range(2))
    found = read("out/bounds.json")
    good, impossible = found["images"]
    truth = good["truth"]
    assert truth["is_inside"]
    assert good["empty"] is False
    assert good["samples"] == 200
    # the errors, by another route
    R, t = np.array(good["average"]["R"]), np.array(good["average"]["t"])
    degrees = np.degrees(Rotation.from_matrix(R.T @ np.array(truth["R"])).magnitude())
    assert truth["rotation_error_degrees"] == pytest.approx(degrees)
    assert truth["translation_error"] == pytest.approx(np.linalg.norm(t - truth["t"]))
    for name, error in (("rotation_degrees", degrees), ("translation", truth["translation_error"])):
        one = good[name]
        assert error <= one["bound"]
        assert one["largest_sampled"] <= one["lower"] * (1 + 1e-9)
        assert one["lower"] <= one["bound"] * (1 + 1e-9)
        assert one["bound"] <= 3 * one["largest_sampled"]  # the right quantity in the right unit
        assert one["gap"] == pytest.approx(1 - one["lower"] / one["bound"], abs=1e-9)
        assert one["level"] == "q2"
    assert good["guarantee"]["level"] == pytest.approx(0.9)
    assert impossible["samples"] == 0
    assert impossible["average"] is None
    assert impossible["rotation_degrees"] is None
    assert impossible["empty"] is True
    assert impossible["truth"]["is_inside"] is False
    assert impossible["truth"]["rotation_error_degrees"] is None
    assert "true pose in the set" in result.stdout
    assert "image 1: no pose fits all regions (proved)" in result.stdout
    # an image's numbers do not depend on which others are chosen
    succeeded(run("bound", "c.json", "i.npz", "--level", "q2", "--samples", 200, "--image", 0, "--out", "again"))
    again = read("again/bounds.json")["images"]
    assert len(again) == 1
    assert again[0]["average"] == good["average"]
    assert again[0]["rotation_degrees"]["bound"] == good["rotation_degrees"]["bound"]


@pytest.fixture
def bop(tmp_path):
    """Object 7 in 41 images, one hardly visible, and object 8, of another number of keypoints, in 4."""
    rng = np.random.default_rng(5)
    folder = tmp_path / "bop"
    folder.mkdir()
    points = {"7": 50 * rng.normal(size=(6, 3)), "8": 50 * rng.normal(size=(4, 3))}
    truth, info, camera = {}, {}, {}
    lines = ["scene_id,im_id,obj_id,score,R,t,time"]
    for image in range(41):
        objects = [7, 8] if image < 4 else [7]
        camera[str(image)] = {"cam_K": CAMERA.ravel().tolist()}
        truth[str(image)], info[str(image)] = [], []
        for one in objects:
            R, t = Rotation.from_quat(rng.normal(size=4)), rng.normal(size=3) * 30 + [0, 0, 900]
            truth[str(image)].append(
                {
                    "cam_R_m2c": np.round(R.as_matrix(), 6).ravel().tolist(),
                    "cam_t_m2c": t.tolist(),
                    "obj_id": one,
                }
            )
            info[str(image)].append({"visib_fract": 0.05 if image == 40 else 0.8})
            near = Rotation.from_rotvec(0.02 * rng.normal(size=3)) * R
            values = " ".join(map(repr, near.as_matrix().ravel().tolist()))
            shift = " ".join(map(repr, (t + rng.normal(size=3)).tolist()))
            lines.append(f"2,{image},{one},0.9,{values},{shift},-1")
    (folder / "kpts3d.json").write_text(json.dumps({"lmo": {name: one.tolist() for name, one in points.items()}}))
    for name, content in (("scene_gt", truth), ("scene_gt_info", info), ("scene_camera", camera)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "results_lmo-test.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.filterwarnings("error::UserWarning")
def test_half_of_a_bop_folder_calibrates_and_the_rest_is_bounded(bop, monkeypatch):
    result = succeeded(run("calibrate", "--data-dir", bop, "--out", "all.json"))
    assert "object 7: threshold" in result.stdout
    both = {one["group"]: one for one in read("all.json")["thresholds"]}
    assert (both["7"]["n"], both["8"]["n"]) == (20, 2)
    assert (both["7"]["n_keypoints"], both["8"]["n_keypoints"]) == (6, 4)
    assert both["8"]["threshold"] == "inf"
    monkeypatch.setenv("UQSPARSE_LMO", str(bop))
    succeeded(run("calibrate", "--object", 7, "--out", "c.json"))
    (one,) = read("c.json")["thresholds"]
    used = one["images"]
    assert used == both["7"]["images"]  # the draw does not depend on the other objects
    assert one["threshold"] == both["7"]["threshold"]
    assert 40 not in used
    succeeded(run("predict", "c.json", "--out", "r.json"))
    images = [image["image"] for image in read("r.json")["images"]]
    assert sorted([*images, *used]) == list(range(40))
    chosen = images[3]
    result = succeeded(run("bound", "c.json", "--image", chosen, "--level", "q2", "--samples", 100, "--out", "found"))
    assert f"image {chosen}, object 7: rotation error at most" in result.stdout
    assert sorted(path.name for path in Path("found").iterdir()) == ["bounds.json", f"object_7_image_{chosen}.png"]
    found = read("found/bounds.json")
    assert found["unit"] == "mm"
    holds = next(image["holds_keypoints"] for image in read("r.json")["images"] if image["image"] == chosen)
    assert found["images"][0]["truth"]["is_inside"] == holds
    assert_one_error_line(
        run("bound", "c.json", "--image", used[0], "--out", "out"), f"--image {used[0]}: it was used to calibrate"
    )
    assert_one_error_line(run("bound", "c.json", "--image", 99, "--out", "out"), "there is no such image")
    assert_one_error_line(run("bound", "c.json", "--object", 8, "--out", "out"), "group 8 was not calibrated")
    assert_one_error_line(run("calibrate", "--object", 3, "--out", "x.json"), "--object 3", "7, 8")
    assert_one_error_line(run("calibrate", "--score", "ellipse", "--out", "x.json"), "--score ball")
    assert_one_error_line(run("bound", "all.json", "--object", 8, "--out", "out"), "image", "whole plane")
    assert not Path("out").exists()
    assert not Path("x.json").exists()


def without(data, *names):
    return {name: array for name, array in data.items() if name not in names}


_GOOD = detector(6)
_NAN = {**_GOOD, "points": np.where(np.arange(240).reshape(40, 6, 1) == 7, np.nan, _GOOD["points"])}


@pytest.mark.parametrize(
    ("data", "options", "parts"),
    [
        (without(_GOOD, "points"), (), ("needs heatmaps or points",)),
        ({**_GOOD, "heatmaps": np.ones((40, 6, 4, 4))}, (), ("and not both",)),
        (without(_GOOD, "keypoints"), (), ("has no keypoints", "points, confidence")),
        (_NAN, (), ("points must be finite",)),
        ({**_GOOD, "keypoints": _GOOD["keypoints"][:, :5]}, (), ("keypoints have shape (40, 5, 2)",)),
        ({**_GOOD, "confidence": -_GOOD["confidence"]}, (), ("confidence must be positive",)),
        ({**_GOOD, "groups": np.zeros(3, int)}, (), ("groups have shape (3,)",)),
        ({**_GOOD, "points": np.full((40, 6, 2), "a")}, (), ("points must hold real numbers",)),
        (_GOOD, ("--eps", 1.5), ("alpha", "1.5")),
        (_GOOD, ("--score", "ellipse"), ("confidence", "covariance")),
        (_GOOD, ("--data-dir", "."), ("--data-dir and a file are given",)),
        (_GOOD, ("--score", "square"), ("square",)),
    ],
)
def test_bad_calibration_input_is_one_line(data, options, parts):
    assert_one_error_line(run("calibrate", saved("c.npz", data), *options, "--out", "c.json"), *parts)
    assert files() == ["c.npz"]


def test_what_cannot_be_read_or_written_is_one_line():
    assert_one_error_line(run("calibrate", "none.npz", "--out", "c.json"), "No such file", "none.npz")
    assert_one_error_line(run("calibrate", "--out", "c.json"), "UQSPARSE_LMO")
    Path("text.npz").write_text("no arrays")
    assert_one_error_line(run("calibrate", "text.npz", "--out", "c.json"), "text.npz", "no readable npz")
    np.savez("object.npz", points=np.array([{}], dtype=object))
    assert_one_error_line(run("calibrate", "object.npz", "--out", "c.json"), "object.npz")
    saved("c.npz", _GOOD)
    assert_one_error_line(run("calibrate", "c.npz", "--out", "none/c.json"), "does not exist")
    assert_one_error_line(run("calibrate", "c.npz", "--out", "."), "is a folder")
    for content in ("{", "[]", "{}", '{"format": "uqsparse pose calibration", "score": "ball", "thresholds": []}'):
        Path("bad.json").write_text(content)
        assert_one_error_line(run("predict", "bad.json", "c.npz", "--out", "r.json"), "bad.json", "is no calibration")
    succeeded(run("calibrate", "c.npz", "--out", "c.json"))
    assert_one_error_line(run("bound", "c.json", "c.npz", "--out", "out"), "has no points3d, intrinsics")
    assert_one_error_line(run("bound", "c.json", "c.npz", "--out", "c.npz"), "is a file")
    assert_one_error_line(
        run("predict", "c.json", saved("k.npz", detector(0, K=4)), "--out", "r.json"), "4 keypoints", "is of 6"
    )
    assert not Path("out").exists()
    assert not Path("r.json").exists()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"intrinsics": np.zeros((3, 3))}, ("intrinsics must",)),
        ({"intrinsics": np.eye(4)}, ("intrinsics has shape (4, 4)",)),
        ({"points3d": np.arange(8)[:, None] * np.ones(3)}, ("must not lie on a line",)),
        ({"points3d": np.full((8, 3), np.nan)}, ("points3d has 24 NaN",)),
        ({"R_true": np.ones((2, 3, 3))}, ("image 0: R must hold rotations",)),
    ],
)
def test_bad_pose_input_is_one_line(change, parts):
    calibration, images = pose_data()
    succeeded(run("calibrate", saved("c.npz", calibration), "--out", "c.json"))
    assert_one_error_line(run("bound", "c.json", saved("i.npz", {**images, **change}), "--out", "out"), *parts)
    assert_one_error_line(run("bound", "c.json", "i.npz", "--level", "q9", "--out", "out"), "q9")
    assert not Path("out").exists()
