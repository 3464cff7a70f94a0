"""The images' labels follow the stated probabilities, and the blob's elongation the latent value."""

import numpy as np
import pytest
from scipy import stats

from uqsparse.data.known_probability_images import SIDE, known_probability_images, true_probability

SCENARIOS = ("linear", "sigmoid", "skewed", "centred", "discrete")


def test_same_seed_same_data():
    one, two, other = (known_probability_images(seed, 5) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one.images, two.images)
    assert (one.images != other.images).all()
    assert one.images.shape == (5, SIDE, SIDE)
    assert one.source
    assert one.licence


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_labels_follow_the_probability(scenario):
    """False alarms 2e-5 a scenario: two binomial tests at 1e-5 each, of the mean and of the upper half."""
    data = known_probability_images(11, 4000, scenario)
    p, y = data.probability, data.y
    for rows in (np.ones(len(y), bool), p > np.median(p)):
        z = (y[rows] - p[rows]).sum() / np.sqrt((p[rows] * (1 - p[rows])).sum())
        assert 2 * stats.norm.sf(abs(z)) > 1e-5


def test_probabilities_of_the_scenarios():
    z = np.array([0.1, 0.29, 0.5, 0.95])
    expected = {
        "linear": z,
        "sigmoid": [1 / (1 + np.exp(4.75)), 0.5, 1 / (1 + np.exp(-5.25)), 1 / (1 + np.exp(-16.5))],
        "skewed": [0.04, 0.116, 0.2, 0.38],
        "centred": [0.35 + 0.1 / 3, 0.35 + 0.29 / 3, 0.35 + 0.5 / 3, 0.35 + 0.95 / 3],
        "discrete": [0.1, 0.3, 0.5, 0.9],
    }
    for scenario in SCENARIOS:
        np.testing.assert_allclose(true_probability(z, scenario), expected[scenario])


def test_elongation_is_what_the_latent_value_says():
    """Second moments of the bright part of the blobs; false alarms far below 1e-4 at a correlation of 0.9."""
    data = known_probability_images(2, 400)
    y, x = np.mgrid[:SIDE, :SIDE]
    ratios = []
    for image in data.images:
        bright = image > 0.5 * image.max()
        ratios.append(np.cov(x[bright], y[bright]))
    values = np.linalg.eigvalsh(np.array(ratios))
    ratio = np.sqrt(values[:, 1] / values[:, 0])
    assert stats.spearmanr(ratio, data.latent).statistic > 0.9
    # The long axis lies across: the angle is at most 0.4.
    assert (np.array(ratios)[data.latent > 0.5, 0, 0] > np.array(ratios)[data.latent > 0.5, 1, 1]).all()


def test_bad_input():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        known_probability_images(0, 0)
    with pytest.raises(
        ValueError, match="scenario must be one of linear, sigmoid, skewed, centred, discrete, got 'lin'"
    ):
        known_probability_images(0, 3, "lin")
