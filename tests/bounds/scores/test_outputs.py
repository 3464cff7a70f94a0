"""Scores of several outputs: joint coverage, brute force, regions, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.bounds import PredictiveDraws, SplitConformal
from uqsparse.bounds.scores.outputs import MaxNormalisedResidual

rng = np.random.default_rng(0)
OUTPUTS = (rng.normal(size=(30, 3)), rng.uniform(0.5, 2.0, size=(30, 3)))
Y_OUTPUTS = rng.normal(size=(30, 3))
SCORE = MaxNormalisedResidual()


def test_scores_are_those_of_brute_force():
    mean, sd = OUTPUTS
    expected = [max(abs(Y_OUTPUTS[i, j] - mean[i, j]) / sd[i, j] for j in range(3)) for i in range(30)]
    np.testing.assert_allclose(MaxNormalisedResidual()(OUTPUTS, Y_OUTPUTS), expected, rtol=1e-15)


@settings(max_examples=20)
@given(threshold=st.floats(0.01, 5.0))
def test_sets_hold_what_the_score_allows(threshold):
    score, predictions, y = SCORE, OUTPUTS, Y_OUTPUTS
    scores = score(predictions, y)
    clear = abs(scores - threshold) > 1e-9
    assert (score.region(predictions, threshold).contains(y) == (scores <= threshold))[clear].all()
    assert score.region(predictions, scores + 1e-9).contains(y).all()
    assert not score.region(predictions, scores - 1e-9).contains(y).any()


def test_jax_gives_the_same_sets():
    score, predictions, y = SCORE, OUTPUTS, Y_OUTPUTS
    scores = score(predictions, y)
    threshold = np.median(scores) + 1e-3
    found = jax.jit(lambda *p: score.region(p, threshold).contains(jnp.asarray(y)))(*map(jnp.asarray, predictions))
    assert (np.asarray(found) == (scores <= threshold)).all()


def test_draws_give_means_and_standard_deviations():
    values = rng.normal(size=(50, 30, 3))
    draws = PredictiveDraws.of(values, n_outputs=3)
    pair = (values.mean(0), values.std(0, ddof=1))
    np.testing.assert_allclose(MaxNormalisedResidual()(draws, Y_OUTPUTS), MaxNormalisedResidual()(pair, Y_OUTPUTS))


def test_all_outputs_are_covered_at_once():
    """Joint coverage over 500 calibrations of 49 is 45/50, within 4 se: false-alarm rate 1e-4."""
    covered = np.empty(500)
    scale = np.array([0.1, 1.0, 10.0])
    for i in range(500):
        y = scale * rng.standard_t(3, size=(79, 3)) * (1 + rng.random((79, 1)))
        old, new = ((np.zeros((n, 3)), np.ones((n, 3)) * scale) for n in (49, 30))
        sets = SplitConformal(MaxNormalisedResidual(), 0.1).calibrate(old, y[:49]).predict(new)
        covered[i] = sets.contains(y[49:]).mean()
    assert abs(covered.mean() - 0.9) < 4 * covered.std() / np.sqrt(500)


def test_sizes_are_volumes():
    assert MaxNormalisedResidual().region((np.zeros((1, 2)), np.array([[1.0, 3.0]])), 2.0).size().tolist() == [48.0]


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
    with pytest.raises(ValueError, match=r"threshold has shape \(3,\)"):
        MaxNormalisedResidual().region(OUTPUTS, np.zeros(3))
    with pytest.raises(ValueError, match="scores are NaN in 1 of 30 rows: 7"):
        SplitConformal(SCORE, 0.1).calibrate(OUTPUTS, np.where(np.arange(30)[:, None] == 7, np.nan, Y_OUTPUTS))
