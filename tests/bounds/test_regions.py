"""Regions: what they hold, how large they are, and how they look in ArviZ data."""

import numpy as np

from uqsparse.bounds import Boxes, Guarantee, Intervals, IntervalUnions, LabelSets
from uqsparse.inference.arviz_io import dataset

nan = np.nan


def test_unions_hold_what_any_part_holds():
    unions = IntervalUnions(
        lower=np.array([[0.0, 4.0], [1.0, nan], [nan, nan]]), upper=np.array([[1.0, 6.0], [2.0, nan], [nan, nan]])
    )
    assert unions.size().tolist() == [3.0, 1.0, 0.0]
    for y, expected in [(0.5, [True, False, False]), (1.0, [True, True, False]), (5.0, [True, False, False])]:
        assert unions.contains(np.full(3, y)).tolist() == expected


def test_boxes_hold_what_every_side_holds():
    boxes = Boxes(lower=np.zeros((2, 2)), upper=np.array([[1.0, 2.0], [1.0, -1.0]]))
    assert boxes.size().tolist() == [2.0, 0.0]
    assert boxes.contains(np.array([[1.0, 2.0], [0.5, 0.0]])).tolist() == [True, False]
    assert boxes.contains(np.array([[1.1, 2.0], [0.5, -0.5]])).tolist() == [False, False]


def test_label_sets_hold_their_members_at_one_level_and_at_several():
    member = np.array([[True, False, True], [False, False, False]])
    assert LabelSets(member=member).contains(np.array([2, 0])).tolist() == [True, False]
    several = LabelSets(member=np.stack([member, ~member]))
    assert several.contains(np.array([2, 0])).tolist() == [[True, False], [False, True]]
    assert several.size().tolist() == [[2, 0], [1, 3]]


def test_every_region_names_its_dimensions_in_arviz_data():
    guarantee = Guarantee("marginal", (0.9, 0.5), 20)
    regions = {
        ("level", "observation"): Intervals(
            lower=np.zeros((2, 3)), upper=np.ones((2, 3)), threshold=np.ones(2), guarantee=guarantee
        ),
        ("observation", "part"): IntervalUnions(lower=np.zeros((3, 2)), upper=np.ones((3, 2)), threshold=np.ones(3)),
        ("observation", "output"): Boxes(lower=np.zeros((3, 2)), upper=np.ones((3, 2))),
        ("level", "observation", "label"): LabelSets(member=np.ones((2, 3, 4), bool), threshold=np.ones((2, 3))),
    }
    for dims, region in regions.items():
        group = dataset(region.to_arviz(), "conformal")
        assert group["member" if "label" in dims else "lower"].dims == dims
        assert group.sizes["observation"] == 3
        if region.threshold is not None:
            assert group["threshold"].dims == dims[: 1 + (dims[0] == "level")]
    attributes = dataset(regions["level", "observation"].to_arviz(), "conformal").attrs
    assert attributes["level"] == [0.9, 0.5]
    np.testing.assert_allclose(attributes["alpha"], [0.1, 0.5])
