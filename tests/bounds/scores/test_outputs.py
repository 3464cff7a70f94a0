"""Scores of several outputs and of keypoints: joint coverage, brute force, regions, refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.bounds import PredictiveDraws, SplitConformal
from uqsparse.bounds.scores.outputs import Balls, MaxDistance, MaxNormalisedResidual
from uqsparse.inference.arviz_io import dataset

rng = np.random.default_rng(0)
OUTPUTS = (rng.normal(size=(30, 3)), rng.uniform(0.5, 2.0, size=(30, 3)))
KEYPOINTS = (rng.normal(size=(30, 4, 2)), rng.uniform(0.5, 2.0, size=(30, 4)))
Y_OUTPUTS, Y_KEYPOINTS = rng.normal(size=(30, 3)), rng.normal(size=(30, 4, 2))


cases = pytest.mark.parametrize(
    ("score", "predictions", "y"),
    [(MaxNormalisedResidual(), OUTPUTS, Y_OUTPUTS), (MaxDistance(), KEYPOINTS, Y_KEYPOINTS)],
    ids=["outputs", "keypoints"],
)


def test_scores_are_those_of_brute_force():
    mean, sd = OUTPUTS
    expected = [max(abs(Y_OUTPUTS[i, j] - mean[i, j]) / sd[i, j] for j in range(3)) for i in range(30)]
    np.testing.assert_allclose(MaxNormalisedResidual()(OUTPUTS, Y_OUTPUTS), expected, rtol=1e-15)
    centre, scale = KEYPOINTS
    far = [[np.hypot(*(Y_KEYPOINTS[i, k] - centre[i, k])) for k in range(4)] for i in range(30)]
    np.testing.assert_allclose(MaxDistance()(centre, Y_KEYPOINTS), np.max(far, axis=1), rtol=1e-15)
    np.testing.assert_allclose(MaxDistance()(KEYPOINTS, Y_KEYPOINTS), np.max(far / scale, axis=1), rtol=1e-15)


@cases
@settings(max_examples=20)
@given(threshold=st.floats(0.01, 5.0))
def test_sets_hold_what_the_score_allows(score, predictions, y, threshold):
    scores = score(predictions, y)
    clear = abs(scores - threshold) > 1e-9
    assert (score.region(predictions, threshold).contains(y) == (scores <= threshold))[clear].all()
    assert score.region(predictions, scores + 1e-9).contains(y).all()
    assert not score.region(predictions, scores - 1e-9).contains(y).any()


@cases
def test_jax_gives_the_same_sets(score, predictions, y):
    scores = score(predictions, y)
    threshold = np.median(scores) + 1e-3
    found = jax.jit(lambda *p: score.region(p, threshold).contains(jnp.asarray(y)))(*map(jnp.asarray, predictions))
    assert (np.asarray(found) == (scores <= threshold)).all()


def test_draws_give_means_and_standard_deviations():
    values = rng.normal(size=(50, 30, 3))
    draws = PredictiveDraws.of(values, n_outputs=3)
    pair = (values.mean(0), values.std(0, ddof=1))
    np.testing.assert_allclose(MaxNormalisedResidual()(draws, Y_OUTPUTS), MaxNormalisedResidual()(pair, Y_OUTPUTS))
    values = rng.normal(size=(50, 30, 4, 2))
    expected = MaxDistance()(values.mean(0), Y_KEYPOINTS)
    np.testing.assert_allclose(MaxDistance()(PredictiveDraws(values), Y_KEYPOINTS), expected)


def test_all_outputs_and_all_keypoints_are_covered_at_once():
    """Joint coverage over 500 calibrations of 49 is 45/50, within 4 se: false-alarm rate 1e-4."""
    covered = np.empty((500, 2))
    scale = np.array([0.1, 1.0, 10.0])
    for i in range(500):
        y = scale * rng.standard_t(3, size=(79, 3)) * (1 + rng.random((79, 1)))
        old, new = ((np.zeros((n, 3)), np.ones((n, 3)) * scale) for n in (49, 30))
        sets = SplitConformal(MaxNormalisedResidual(), 0.1).calibrate(old, y[:49]).predict(new)
        covered[i, 0] = sets.contains(y[49:]).mean()
        points = y.reshape(79, 1, 3) + rng.normal(size=(79, 5, 3))
        balls = SplitConformal(MaxDistance(), 0.1).calibrate(np.zeros((49, 5, 3)), points[:49])
        covered[i, 1] = balls.predict(np.zeros((30, 5, 3))).contains(points[49:]).mean()
    assert (abs(covered.mean(0) - 0.9) < 4 * covered.std(0) / np.sqrt(500)).all()


def test_sizes_are_volumes():
    assert MaxNormalisedResidual().region((np.zeros((1, 2)), np.array([[1.0, 3.0]])), 2.0).size().tolist() == [48.0]
    balls = Balls(centre=np.zeros((2, 2, 3)), radius=np.array([[1.0, 2.0], [1.0, -1.0]]))
    np.testing.assert_allclose(balls.size(), [(4 / 3 * np.pi) ** 2 * 8, 0.0])
    discs = Balls(centre=np.zeros((1, 1, 2)), radius=np.array([[3.0]]))
    np.testing.assert_allclose(discs.size(), [9 * np.pi])
    inside = rng.uniform(-3, 3, size=(20000, 1, 2))
    held = Balls(centre=np.zeros((20000, 1, 2)), radius=np.full((20000, 1), 3.0)).contains(inside).mean()
    assert abs(36 * held - 9 * np.pi) < 4 * 36 * np.sqrt(0.17 / 20000)


def test_too_few_observations_give_infinite_sets():
    with pytest.warns(UserWarning, match="infinite"):
        calibrated = SplitConformal(MaxDistance(), 0.1).calibrate(KEYPOINTS[0][:5], Y_KEYPOINTS[:5])
    balls: Any = calibrated.predict(KEYPOINTS[0])
    assert np.isinf(balls.radius).all()


def test_balls_name_their_dimensions_in_arviz_data():
    calibrated = SplitConformal(MaxDistance(), [0.1, 0.5]).calibrate(KEYPOINTS, Y_KEYPOINTS)
    group = dataset(calibrated.predict(KEYPOINTS).to_arviz(), "conformal")
    assert group["centre"].dims == ("level", "observation", "keypoint", "coordinate")
    assert group["radius"].dims == ("level", "observation", "keypoint")
    assert group["threshold"].dims == ("level", "observation")


def test_bad_input_is_refused():
    mean, sd = OUTPUTS
    for predictions, y, match in [
        (OUTPUTS, Y_OUTPUTS[:, :1], r"y has shape \(30, 1\); expected \(30, 3\)"),
        (OUTPUTS, Y_OUTPUTS[:1], r"y has shape \(1, 3\)"),
        ((mean, sd[:, :1]), Y_OUTPUTS, r"sd has shape \(30, 1\)"),
        ((mean, -sd), Y_OUTPUTS, "90 values that are not positive"),
        ((mean[:, 0], sd[:, 0]), Y_OUTPUTS[:, 0], r"mean has shape \(30,\)"),
    ]:
        with pytest.raises(ValueError, match=match):
            MaxNormalisedResidual()(predictions, y)
    centre, scale = KEYPOINTS
    for predictions, y, match in [
        (centre, Y_KEYPOINTS[:, :1], r"y has shape \(30, 1, 2\)"),
        (centre[..., 0], Y_KEYPOINTS[..., 0], "centre has shape"),
        ((centre, scale[:, :1]), Y_KEYPOINTS, "scale has shape"),
        ((centre, 0 * scale), Y_KEYPOINTS, "120 values that are not positive"),
    ]:
        with pytest.raises(ValueError, match=match):
            MaxDistance()(predictions, y)
    with pytest.raises(ValueError, match=r"threshold has shape \(3,\)"):
        MaxDistance().region(centre, np.zeros(3))
    with pytest.raises(ValueError, match="scores are NaN in 1 of 30 rows: 7"):
        SplitConformal(MaxDistance(), 0.1).calibrate(
            centre, np.where(np.arange(30)[:, None, None] == 7, np.nan, Y_KEYPOINTS)
        )
