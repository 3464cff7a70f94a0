"""The reader of poses in the BOP format, on small files that it is given."""

import json

import numpy as np
import pytest

from uqsparse.data.bop import linemod_occlusion

IDENTITY = np.eye(3).ravel().tolist()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two images; object 1 in both and estimated twice in the first, object 5 never estimated."""
    monkeypatch.delenv("UQSPARSE_LMO", raising=False)
    truth = {
        "3": [
            {"cam_R_m2c": IDENTITY, "cam_t_m2c": [1.0, 2.0, 900.0], "obj_id": 1},
            {"cam_R_m2c": IDENTITY, "cam_t_m2c": [0.0, 0.0, 800.0], "obj_id": 5},
        ],
        "8": [{"cam_R_m2c": IDENTITY, "cam_t_m2c": [5.0, 0.0, 700.0], "obj_id": 1}],
    }
    info = {"3": [{"visib_fract": 0.5}, {"visib_fract": 1.0}], "8": [{"visib_fract": 0.25}]}
    camera = {name: {"cam_K": [500.0, 0, 320, 0, 510, 240, 0, 0, 1]} for name in truth}
    (tmp_path / "kpts3d.json").write_text(
        json.dumps({"lmo": {"1": [[0, 0, 0], [1, 0, 0], [0, 1, 0]], "5": [[0, 0, 1]]}})
    )
    below = tmp_path / "data" / "bop"
    below.mkdir(parents=True)
    for name, content in (("scene_gt", truth), ("scene_gt_info", info), ("scene_camera", camera)):
        (below / f"{name}.json").write_text(json.dumps(content))
    R = " ".join(map(str, IDENTITY))
    lines = ["scene_id,im_id,obj_id,score,R,t,time"]
    lines += [
        f"2,{im},1,{score},{R},{t},-1" for im, score, t in [(3, 0.4, "9 9 9"), (3, 0.8, "1 2 901"), (8, 0.9, "5 0 702")]
    ]
    (tmp_path / "results_lmo-test.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_estimates_meet_their_truths(folder, monkeypatch):
    found = linemod_occlusion(folder)
    assert found.object_id.tolist() == [1, 1]
    assert found.image.tolist() == [3, 8]
    assert found.t.tolist() == [[1, 2, 901], [5, 0, 702]]  # the estimate of the higher score
    assert found.t_true[:, 2].tolist() == [900, 700]
    assert found.visible.tolist() == [0.5, 0.25]
    assert found.intrinsics[0].tolist() == [[500, 0, 320], [0, 510, 240], [0, 0, 1]]
    assert found.keypoints[1].shape == (3, 3)
    monkeypatch.setenv("UQSPARSE_LMO", str(folder))
    assert linemod_occlusion().image.tolist() == [3, 8]


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="UQSPARSE_LMO"):
        linemod_occlusion()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        linemod_occlusion(tmp_path / "nowhere")
    (folder / "kpts3d.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no kpts3d\.json"):
        linemod_occlusion(folder)


@pytest.mark.parametrize(
    ("file", "old", "new", "match"),
    [
        ("results_lmo-test.csv", "5 0 702", "5 702", r"results_lmo-test\.csv, line 4: expected 3 numbers"),
        ("results_lmo-test.csv", "5 0 702", "5 0 nan", "line 4: a number is NaN"),
        ("results_lmo-test.csv", "1.0 0.0 0.0", "2.0 0.0 0.0", "line 2: a matrix is no rotation"),
        ("results_lmo-test.csv", "im_id", "image", r"lacks the column\(s\) im_id"),
        ("results_lmo-test.csv", "1,0.", "7,0.", "no estimate belongs"),
        ("kpts3d.json", '"lmo"', '"ycbv"', "no keypoints under 'lmo'"),
        ("kpts3d.json", "{", "", "kpts3d.json is no JSON"),
        ("data/bop/scene_camera.json", "cam_K", "K", "image 3 has no cam_K"),
    ],
)
def test_files_of_another_form_are_named(folder, file, old, new, match):
    path = folder / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=match):
        linemod_occlusion(folder)
