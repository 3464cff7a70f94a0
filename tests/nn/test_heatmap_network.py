"""The heatmap network draws where it is told to, on squares that a plain program paints."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from uqsparse.nn.heatmap_network import SCALE, HeatmapNetwork, heatmap_loss, heatmaps, train_heatmap_network


def squares(seed, n):
    """A red and a green square on grey, and their upper left corners (x, y)."""
    rng = np.random.default_rng(seed)
    images = np.full((n, 32, 32, 3), 0.3, np.float32)
    keypoints = rng.integers(4, 24, (n, 2, 2)).astype(np.float32)
    for image, places in zip(images, keypoints.astype(int), strict=True):
        for channel, (x, y) in enumerate(places):
            image[y : y + 5, x : x + 5, channel] = 1.0
    return images, keypoints


@pytest.fixture(scope="module")
def network():
    return eqx.filter_jit(HeatmapNetwork)(jax.random.key(1), n_keypoints=3, width=4)


def test_shapes(network):
    assert jax.eval_shape(network, jnp.zeros((64, 96, 3))).shape == (3, 32, 48)
    probabilities = heatmaps(network, np.random.default_rng(0).uniform(size=(4, 32, 64, 3)), batch_size=2)
    assert probabilities.shape == (4, 3, 16, 32)
    np.testing.assert_allclose(probabilities.sum((2, 3)), 1, rtol=1e-5)


def test_maps_move_with_the_image(network):
    """A shift by 32 pixels, the coarsest cell, shifts the maps by 16: rows are rows and columns columns."""
    patch = np.random.default_rng(0).uniform(size=(32, 32, 3))
    near, far = np.full((2, 224, 192, 3), 0.5)  # grey is zero to the network, so that the patch stands alone
    near[64:96, 64:96], far[96:128, 64:96] = patch, patch
    maps_near, maps_far = np.asarray(jax.jit(jax.vmap(network))(np.stack([near, far])))
    # Away from the border, whose padding the coarsest scales feel.
    np.testing.assert_allclose(maps_near[:, 32:56, 32:56], maps_far[:, 48:72, 32:56], atol=1e-4)
    assert np.abs(maps_near[:, 32:56, 32:56] - maps_far[:, 32:56, 32:56]).max() > 1e-2


def test_loss_is_the_cross_entropy_to_a_bump(network):
    """Against a sum over pixels, one by one."""
    images, keypoints = squares(0, 2)
    keypoints = np.concatenate([keypoints, keypoints[:, :1] + 0.7], axis=1)
    logits = np.asarray(jax.jit(jax.vmap(network))(images), np.float64)
    expected = []
    for maps, places in zip(logits, keypoints, strict=True):
        for one, (x, y) in zip(maps, SCALE * places, strict=True):
            away = [[(c + 0.5 - x) ** 2 + (r + 0.5 - y) ** 2 for c in range(16)] for r in range(16)]
            target = np.exp(-0.5 * np.array(away) / 0.9**2)
            expected.append(-np.sum(target / target.sum() * (one - logsumexp(one))))
    assert float(jax.jit(heatmap_loss)(network, images, keypoints, 0.9)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_gradient_is_finite_and_reaches_every_layer(network):
    images, keypoints = squares(0, 4)
    keypoints = np.concatenate([keypoints, keypoints[:, :1]], axis=1)
    slope = jax.jit(jax.grad(heatmap_loss))(network, images, keypoints)
    leaves = jax.tree.leaves(slope)
    assert len(leaves) == len(jax.tree.leaves(network))
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in leaves)


def test_training_finds_the_corners():
    images, keypoints = squares(0, 256)
    found = train_heatmap_network(
        jax.random.key(0), images, keypoints, width=4, n_epochs=20, batch_size=16, learning_rate=1e-2
    )
    assert found.losses.shape == (20,)
    assert found.losses[0] < np.log(256) + 0.5
    assert found.losses[-1] < 0.6 * found.losses[0]
    new_images, new_keypoints = squares(1, 100)
    maps = heatmaps(found.network, new_images)
    middle = np.arange(16) + 0.5
    means = np.stack([maps.sum(2) @ middle, maps.sum(3) @ middle], -1) / SCALE
    away = np.linalg.norm(means - new_keypoints, axis=-1)
    assert np.median(away) < 1.0  # half a pixel of the maps; the squares' positions spread over 20 pixels


def test_same_key_same_network():
    images, keypoints = squares(0, 32)
    one, two = (train_heatmap_network(jax.random.key(3), images, keypoints, width=4, n_epochs=1) for _ in range(2))
    for a, b in zip(jax.tree.leaves(one.network), jax.tree.leaves(two.network), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": np.zeros((4, 30, 32, 3))}, "divisible by 32"),
        ({"images": np.full((4, 32, 32, 3), np.nan)}, "images have .* NaN"),
        ({"keypoints": np.zeros((3, 2, 2))}, "keypoints have shape"),
        ({"keypoints": np.full((4, 2, 2), np.inf)}, "keypoints have 16 NaN or infinite"),
        ({"batch_size": 5}, "batch_size must be at most"),
        ({"n_epochs": 0}, "n_epochs"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_bad_input_is_refused(change, words):
    images, keypoints = squares(0, 4)
    arguments = {"images": images, "keypoints": keypoints, "batch_size": 4, **change}
    with pytest.raises(ValueError, match=words):
        train_heatmap_network(jax.random.key(0), **arguments)


def test_counts_of_the_network_are_checked():
    with pytest.raises(ValueError, match="n_keypoints"):
        HeatmapNetwork(jax.random.key(0), n_keypoints=0)
