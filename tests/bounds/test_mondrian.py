"""Mondrian conformal prediction: thresholds by group, unseen groups, coverage within groups."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from uqsparse.bounds import MondrianConformal, SplitConformal
from uqsparse.bounds.scores import AbsoluteResidual

rng = np.random.default_rng(0)


def test_each_group_has_the_threshold_of_its_own_scores():
    y = rng.normal(size=90)
    groups = rng.permutation(np.repeat(["a", "b", "c"], 30))
    calibrated = MondrianConformal(AbsoluteResidual(), 0.1).calibrate(np.zeros(90), y, groups)
    for name, threshold, count in zip(calibrated.groups, calibrated.threshold, calibrated.counts, strict=True):
        own = y[groups == name]
        assert threshold == SplitConformal(AbsoluteResidual(), 0.1).calibrate(np.zeros(30), own).threshold
        assert count == 30
    sets = calibrated.predict(np.zeros(2), ["c", "a"])
    assert sets.upper.tolist() == calibrated.threshold[[2, 0]].tolist()
    assert (sets.guarantee.kind, sets.guarantee.n) == ("group", 30)


def test_several_levels_stand_in_front():
    calibrated = MondrianConformal(AbsoluteResidual(), [0.1, 0.5]).calibrate(
        np.zeros(60), rng.normal(size=60), np.repeat([3, 7], 30)
    )
    sets = calibrated.predict(np.zeros(5), [3, 7, 3, 3, 7])
    assert sets.lower.shape == sets.threshold.shape == (2, 5)
    assert (sets.threshold[:, 1] == calibrated.threshold[:, 1]).all()


def test_groups_unseen_or_too_small_have_infinite_sets_and_are_named():
    y, groups = rng.normal(size=35), np.array(["large"] * 30 + ["small"] * 5)
    with pytest.warns(UserWarning, match=r"too few observations in group\(s\) small \(5\)"):
        calibrated = MondrianConformal(AbsoluteResidual(), 0.1).calibrate(np.zeros(35), y, groups)
    with pytest.warns(UserWarning, match=r"no calibration observation in group\(s\) 'new'"):
        sets = calibrated.predict(np.zeros(3), ["new", "small", "large"])
    assert np.isinf(sets.upper).tolist() == [True, True, False]


def test_coverage_holds_within_each_group():
    """Two groups whose noise differs tenfold, 25 of each: mean coverage 24/26, to 4 se, false-alarm rate 1e-4."""
    scales, groups = np.array([1.0, 10.0]), np.repeat([0, 1], 25)
    repeats, new = 500, np.repeat([0, 1], 10)
    covered = np.zeros((repeats, 2))
    pooled = np.zeros((repeats, 2))
    for i in range(repeats):
        y, y_new = scales[groups] * rng.standard_t(3, size=50), scales[new] * rng.standard_t(3, size=20)
        sets = MondrianConformal(AbsoluteResidual(), 0.1).calibrate(np.zeros(50), y, groups).predict(np.zeros(20), new)
        covered[i] = sets.contains(y_new).reshape(2, 10).mean(1)
        plain = SplitConformal(AbsoluteResidual(), 0.1).calibrate(np.zeros(50), y).predict(np.zeros(20))
        pooled[i] = plain.contains(y_new).reshape(2, 10).mean(1)
    spread = covered.std(0) / np.sqrt(repeats)
    assert (abs(covered.mean(0) - 24 / 26) < 4 * spread).all()
    assert pooled.mean(0)[1] < 0.85  # what one threshold for both does to the noisy group


def test_predict_works_inside_jit_with_whole_number_groups():
    y, groups = rng.normal(size=60).astype(np.float32), np.repeat([2, 5], 30)
    calibrated = MondrianConformal(AbsoluteResidual(), 0.1).calibrate(np.zeros(60, np.float32), y, groups)
    compiled = eqx.filter_jit(lambda c, p, g: c.predict(p, g))(calibrated, jnp.zeros(3), jnp.array([5, 2, 9]))
    assert compiled.upper.tolist() == [*calibrated.threshold[[1, 0]].tolist(), np.inf]


def test_bad_input_is_refused_with_the_argument_named():
    mondrian = MondrianConformal(AbsoluteResidual(), 0.1)
    with pytest.raises(ValueError, match="groups are needed"):
        mondrian.calibrate(np.zeros(5), np.zeros(5))
    with pytest.raises(ValueError, match="groups has shape"):
        mondrian.calibrate(np.zeros(5), np.zeros(5), [1, 2])
    with pytest.raises(ValueError, match="by must be"):
        MondrianConformal(AbsoluteResidual(), 0.1, by="class")
    with pytest.raises(ValueError, match="alpha"):
        MondrianConformal(AbsoluteResidual(), 2.0)
    with pytest.raises(TypeError, match="score must be a Score"):
        MondrianConformal("absolute", 0.1)
    with pytest.raises(TypeError, match="needs a score of labels"):
        MondrianConformal(AbsoluteResidual(), 0.1, by="label").calibrate(np.zeros(5), np.zeros(5))
    calibrated = mondrian.calibrate(np.zeros(30), rng.normal(size=30), np.zeros(30))
    with pytest.raises(ValueError, match="groups are missing"):
        calibrated.predict(np.zeros(5))
    with pytest.raises(ValueError, match="groups has shape"):
        calibrated.predict(np.zeros(5), [0, 0])
