"""The link over a reflecting surface against its own physics, written out."""

import jax
import numpy as np
import pytest

from uqsparse.kernels.kronecker import KroneckerOperator
from uqsparse.models.channels import (
    IRSSetup,
    angle_grid,
    normalised_error,
    simulate_irs_link,
    spectral_efficiency,
    steering_matrix,
    support_recovery_rate,
)

SETUP = IRSSetup(n_mobile=3, n_base=4, n_surface=16, n_grid=6, n_pilots=2, n_patterns=3, angle_spread=2)
# So little noise that y is what was sent.
QUIET = 300.0


@pytest.mark.parametrize("seed", range(3))
def test_what_is_received_is_the_kronecker_model(seed):
    link = simulate_irs_link(jax.random.key(seed), SETUP, snr_db=QUIET)
    received = [(channel @ link.pilots).ravel(order="F") for channel in link.channels]
    np.testing.assert_allclose(link.y, np.concatenate(received), atol=1e-12)
    np.testing.assert_allclose(KroneckerOperator(link.factors).matvec(link.x), link.y, atol=1e-12)
    assert np.count_nonzero(link.x) == 4
    np.testing.assert_allclose(link.channels_of(link.x), link.channels, atol=1e-12)
    assert link.channels_of(np.stack([link.x, link.x])).shape == (2, 3, 4, 3)


def test_channels_under_other_patterns_are_of_the_same_two_hops():
    link = simulate_irs_link(jax.random.key(0), SETUP, snr_db=QUIET)
    # the map from patterns to channels is linear
    mixed = link.patterns @ np.array([[1.0], [2.0], [-1.0]])
    expected = link.channels[0] + 2 * link.channels[1] - link.channels[2]
    np.testing.assert_allclose(link.channels_of(link.x, mixed)[0], expected, atol=1e-12)
    # one pair of angles departs from each array, so that both hops have one singular value
    assert np.linalg.matrix_rank(link.channels[0], tol=1e-10) == 1


def test_pilots_patterns_and_noise_have_their_sizes():
    link = simulate_irs_link(jax.random.key(1), SETUP, snr_db=10.0)
    np.testing.assert_allclose(abs(link.pilots), 1 / np.sqrt(3))
    assert set(np.round(4 * link.patterns.ravel(), 12)) == {-1.0, 1.0}
    clean = KroneckerOperator(link.factors).matvec(link.x)
    assert np.mean(abs(clean) ** 2) / link.noise_variance == pytest.approx(10)
    assert all(np.linalg.norm(factor, axis=0).min() > 1e-6 for factor in link.factors)
    again = simulate_irs_link(jax.random.key(1), SETUP, snr_db=10.0)
    np.testing.assert_array_equal(link.y, again.y)
    assert IRSSetup().n_surface == 256


def test_steering_vectors_are_plane_waves():
    cosines = angle_grid(5)
    found = steering_matrix(4, cosines)
    for r, cosine in enumerate(cosines):
        np.testing.assert_allclose(found[1:, r] / found[:-1, r], np.exp(1j * np.pi * cosine))
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1)
    np.testing.assert_allclose(np.diff(cosines), 0.4)


def test_scores():
    rng = np.random.default_rng(0)
    channels = rng.normal(size=(5, 3, 2)) + 1j * rng.normal(size=(5, 3, 2))
    mean = np.mean(np.linalg.norm(channels, axis=(1, 2)) ** 2)
    best = np.mean([np.log2(1 + 100 * np.linalg.norm(one, 2) ** 2 / mean) for one in channels])
    assert spectral_efficiency(channels, channels, 20.0) == pytest.approx(best)
    assert spectral_efficiency(1j * channels, channels, 20.0) == pytest.approx(best)
    assert spectral_efficiency(channels[::-1], channels, 20.0) < best
    assert normalised_error(np.zeros(3), np.ones(3)) == 1
    assert support_recovery_rate([1, 1, 0, 0], [0, 3, 0, 2]) == pytest.approx(1 / 3)
    assert support_recovery_rate([0, 0], [0, 0]) == 1


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="n_mobile must be an integer of at least 1, got 0"):
        IRSSetup(n_mobile=0)
    with pytest.raises(ValueError, match="angle_spread must be at most n_grid, 4, got 5"):
        IRSSetup(n_grid=4, angle_spread=5)
    with pytest.raises(ValueError, match="snr_db must be finite"):
        simulate_irs_link(jax.random.key(0), SETUP, snr_db=np.inf)
    with pytest.raises(ValueError, match="n_angles must be an integer"):
        angle_grid(0)
    with pytest.raises(ValueError, match="estimate must have the shape of truth"):
        normalised_error(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="truth must not be zero"):
        normalised_error(np.ones(2), np.zeros(2))
    with pytest.raises(ValueError, match="estimate must have the shape of truth"):
        support_recovery_rate(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match=r"must share \(K, N_r, N_t\)"):
        spectral_efficiency(np.ones((1, 2, 2)), np.ones((2, 2)), 0.0)
