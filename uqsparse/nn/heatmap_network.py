"""A small convolutional network that draws a heatmap of each keypoint of an object, and its training.

Strided convolutions halve the image until a few cells see all of it; on the way back each scale adds what was seen on
the way down. The maps are half as wide as the image. Trained by cross-entropy, the softmax of a map over its pixels is
the network's law of where the keypoint is.

Sources: Ronneberger, Fischer & Brox (2015), U-Net: convolutional networks for biomedical image segmentation; Newell,
Yang & Deng (2016), Stacked hourglass networks for human pose estimation; Lin, Dollar, Girshick, He, Hariharan &
Belongie (2017), Feature pyramid networks for object detection (scales added after 1 by 1 convolutions).
"""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Key
from rich.progress import track

# Side of an image pixel in pixels of the maps.
SCALE = 0.5
_DEPTH = 5  # halvings of the image


class HeatmapNetwork(eqx.Module):
    """From an image to one map of logits for each keypoint.

    Args:
        key: for the initial weights.
        n_keypoints: number of keypoints K, and of maps.
        width: channels of the finest scale; coarser ones have up to four times as many.

    Raises:
        ValueError: n_keypoints or width is not positive.

    >>> network = HeatmapNetwork(jax.random.key(0), n_keypoints=8, width=4)
    >>> network(jnp.zeros((64, 64, 3))).shape
    (8, 32, 32)
    """

    down: tuple[eqx.nn.Conv2d, ...]
    lateral: tuple[eqx.nn.Conv2d, ...]
    smooth: tuple[eqx.nn.Conv2d, ...]
    quarter_head: eqx.nn.Conv2d
    half_head: eqx.nn.Conv2d

    def __init__(self, key: Key[Array, ""], n_keypoints: int, width: int = 16):
        if n_keypoints < 1 or width < 1:
            raise ValueError(f"n_keypoints and width must be at least 1, got {n_keypoints} and {width}")
        keys = iter(jax.random.split(key, 3 * _DEPTH))
        widths = [3, *(width * min(2**level, 4) for level in range(_DEPTH))]
        self.down = tuple(
            _scaled(eqx.nn.Conv2d(fine, coarse, 3, stride=2, padding=1, key=next(keys)))
            for fine, coarse in pairwise(widths)
        )
        # From one fourth of the image's side on; at one half a convolution costs as much as all others.
        self.lateral = tuple(
            _scaled(eqx.nn.Conv2d(coarse, fine, 1, key=next(keys))) for fine, coarse in pairwise(widths[2:])
        )
        self.smooth = tuple(_scaled(eqx.nn.Conv2d(one, one, 3, padding=1, key=next(keys))) for one in widths[2:-1])
        self.quarter_head = eqx.nn.Conv2d(widths[2], 4 * n_keypoints, 1, key=next(keys))
        self.half_head = eqx.nn.Conv2d(widths[1], n_keypoints, 1, key=next(keys))

    def __call__(self, image: Float[Array, "height width 3"]) -> Float[Array, "K h w"]:
        """Logits of the keypoints' places.

        Args:
            image: red, green and blue in [0, 1], shape (height, width, 3), sides divisible by 32.

        Returns:
            Logits up to a constant for each map, shape (K, height / 2, width / 2); an image point (x, y) is at
            (x / 2, y / 2).
        """
        x = 2 * jnp.moveaxis(image, -1, 0) - 1
        scales = []
        for convolution in self.down:
            x = jax.nn.relu(convolution(x))
            scales.append(x)
        for lateral, smooth, finer in zip(self.lateral[::-1], self.smooth[::-1], scales[-2:0:-1], strict=True):
            x = finer + jnp.repeat(jnp.repeat(lateral(x), 2, axis=1), 2, axis=2)
            x = x + jax.nn.relu(smooth(x))
        # Each cell draws its two by two pixels.
        drawn = self.quarter_head(x)
        _, rows, columns = drawn.shape
        drawn = drawn.reshape(-1, 2, 2, rows, columns).transpose(0, 3, 1, 4, 2).reshape(-1, 2 * rows, 2 * columns)
        return drawn + self.half_head(scales[0])


def _scaled(convolution):
    """The convolution with weights that keep the size of signals through a rectifier, and no bias.

    Source: He, Zhang, Ren & Sun (2015), Delving deep into rectifiers, eq. 10.
    """
    weight = convolution.weight * jnp.sqrt(6.0)  # drawn uniformly within 1 / sqrt(inputs)
    return eqx.tree_at(lambda c: (c.weight, c.bias), convolution, (weight, jnp.zeros_like(convolution.bias)))


class HeatmapTraining(NamedTuple):
    """A trained network and how its training went.

    Args:
        network: the network.
        losses: mean cross-entropy of each epoch in nats a keypoint, shape (n_epochs,). A map that says nothing has
            the logarithm of its number of pixels.
    """

    network: HeatmapNetwork
    losses: Float[np.ndarray, " n_epochs"]


def train_heatmap_network(
    key: Key[Array, ""],
    images: Float[ArrayLike, "n height width 3"],
    keypoints: Float[ArrayLike, "n K 2"],
    *,
    width: int = 16,
    n_epochs: int = 5,
    batch_size: int = 16,
    learning_rate: float = 3e-3,
    target_width: float = 0.7,
    progress: bool = False,
) -> HeatmapTraining:
    """Train a network to draw a bump at each keypoint.

    The target of a map is a Gaussian bump on its pixels that sums to one; the loss is the cross-entropy to the map's
    softmax. Adam with weight decay, the rate rising and falling once over the training.

    Args:
        key: for the initial weights and the order of the images.
        images: red, green and blue in [0, 1], shape (n, height, width, 3), sides divisible by 32.
        keypoints: positions (x, y) in pixels of the image, the corner of the first pixel being (0, 0), shape (n, K, 2).
        width: channels of the finest scale.
        n_epochs: how often every image is used; a last batch that is not full is left out.
        batch_size: images a step, at most n.
        learning_rate: the highest.
        target_width: standard deviation of the bumps in pixels of the maps.
        progress: show a bar.

    Raises:
        ValueError: shapes do not fit, a value is not finite, or a count or rate is not positive.

    Sources: Tompson, Jain, LeCun & Bregler (2014), Joint training of a convolutional network and a graphical model for
    human pose estimation (bumps as targets); Loshchilov & Hutter (2019), Decoupled weight decay regularization; Smith &
    Topin (2019), Super-convergence (one cycle of the rate).
    """
    images, keypoints = _checked(images, keypoints)
    for name, value in (("n_epochs", n_epochs), ("batch_size", batch_size), ("width", width)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if batch_size > len(images):
        raise ValueError(f"batch_size must be at most the number of images, {len(images)}, got {batch_size}")
    if not (learning_rate > 0 and target_width > 0):
        raise ValueError(f"learning_rate and target_width must be positive, got {learning_rate} and {target_width}")
    key_network, key_order = jax.random.split(key)
    network = eqx.filter_jit(HeatmapNetwork)(key_network, keypoints.shape[1], width)
    n_steps = len(images) // batch_size
    rate = optax.cosine_onecycle_schedule(max(n_epochs * n_steps, 2), learning_rate, pct_start=0.2)
    optimiser = optax.adamw(rate, weight_decay=1e-3)
    state = jax.jit(optimiser.init)(network)
    losses = []
    for key_epoch in track(jax.random.split(key_order, n_epochs), "training", disable=not progress):
        order = np.asarray(jax.random.permutation(key_epoch, len(images)))
        total = 0.0
        for batch in order[: n_steps * batch_size].reshape(n_steps, batch_size):
            network, state, loss = _step(optimiser, target_width, network, state, images[batch], keypoints[batch])
            total += loss
        losses.append(float(total) / n_steps)
    return HeatmapTraining(network, np.array(losses))


# One program a step: within a compiled loop XLA's convolutions on a CPU take far longer.
@partial(jax.jit, static_argnums=(0, 1))
def _step(optimiser, target_width: float, network, state, images, keypoints):
    loss, slope = jax.value_and_grad(heatmap_loss)(network, images, keypoints, target_width)
    update, state = optimiser.update(slope, state, network)
    return optax.apply_updates(network, update), state, loss


def heatmap_loss(
    network: HeatmapNetwork,
    images: Float[Array, "n height width 3"],
    keypoints: Float[Array, "n K 2"],
    target_width: float = 0.7,
) -> Float[Array, ""]:
    """Mean cross-entropy of the maps to Gaussian bumps at the keypoints, in nats a keypoint.

    Args:
        network: the network.
        images: red, green and blue in [0, 1], shape (n, height, width, 3).
        keypoints: positions (x, y) in pixels of the image, shape (n, K, 2).
        target_width: standard deviation of the bumps in pixels of the maps.
    """
    logits = jax.vmap(network)(images)
    columns = _bump(SCALE * keypoints[..., 0], logits.shape[-1], target_width)
    rows = _bump(SCALE * keypoints[..., 1], logits.shape[-2], target_width)
    # sum(target * logits) with a target that is a product of rows and columns
    hit = jnp.einsum("nkhw,nkh,nkw->nk", logits, rows, columns)
    return jnp.mean(jax.nn.logsumexp(logits, axis=(-2, -1)) - hit)


def _bump(place: Array, size: int, width: float) -> Array:
    """A Gaussian bump on the centres of pixels that sums to one, for any place, in the map or not."""
    return jax.nn.softmax(-0.5 * ((jnp.arange(size) + 0.5 - place[..., None]) / width) ** 2, axis=-1)


def heatmaps(
    network: HeatmapNetwork, images: Float[ArrayLike, "n height width 3"], *, batch_size: int = 256
) -> Float[np.ndarray, "n K h w"]:
    """The network's heatmaps: for each keypoint the probabilities of the pixels of its map.

    Args:
        network: the network.
        images: red, green and blue in [0, 1], shape (n, height, width, 3), sides divisible by 32.
        batch_size: how many go through the network at once.

    Raises:
        ValueError: the shape is another, or a value is not finite.
    """
    images = _checked_images(images)
    parts = [_probabilities(network, images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
    return np.concatenate([np.asarray(part) for part in parts])


@jax.jit
def _probabilities(network, images):
    return jax.nn.softmax(jax.vmap(network)(images), axis=(-2, -1))


def _checked_images(images) -> np.ndarray:
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape or any(n % 2**_DEPTH for n in images.shape[1:3]):
        raise ValueError(
            f"images have shape {images.shape}; expected (n, height, width, 3) with sides divisible by {2**_DEPTH}"
        )
    if bad := np.count_nonzero(~np.isfinite(images)):
        raise ValueError(f"images have {bad} NaN or infinite values")
    return images


def _checked(images, keypoints) -> tuple[np.ndarray, np.ndarray]:
    images, keypoints = _checked_images(images), np.asarray(keypoints, np.float32)
    if keypoints.ndim != 3 or keypoints.shape[::2] != (len(images), 2):
        raise ValueError(f"keypoints have shape {keypoints.shape}; expected ({len(images)}, n_keypoints, 2)")
    if bad := np.count_nonzero(~np.isfinite(keypoints)):
        raise ValueError(f"keypoints have {bad} NaN or infinite values")
    return images, keypoints
