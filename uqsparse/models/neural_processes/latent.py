"""Neural processes with a latent variable, with and without attention: a draw of it is a draw of the function."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from uqsparse.kernels.arguments import require_count
from uqsparse.models.neural_processes.blocks import CrossAttention, Decoder
from uqsparse.models.neural_processes.mixture import Mixture, gaussian_log_density
from uqsparse.models.neural_processes.process import (
    NeuralProcess,
    Points,
    TaskBatch,
    all_points,
    context_points,
    per_point,
    require_min_scale,
    require_sizes,
)
from uqsparse.nn.sets import SAB, RowMLP, pool


class LatentEncoder(eqx.Module):
    """A Gaussian law of the latent vector given a set of points; its standard deviations lie in (0.1, 1).

    Args:
        in_size: entries of a point, input and output together.
        width: of the layers, and entries of the latent vector.
        depth: linear layers on each point.
        heads: of the attention of points to each other; 0 for none.
        key: for the weights.
    """

    encoder: RowMLP
    among_points: SAB | None
    head: RowMLP

    def __init__(self, in_size: int, width: int, depth: int, heads: int, *, key: Key[Array, ""]):
        keys = jax.random.split(key, 3)
        self.encoder = RowMLP(in_size, width, width, depth, key=keys[0])
        self.among_points = SAB(width, width, heads=heads, key=keys[1]) if heads else None
        self.head = RowMLP(width, 2 * width, width, 2, key=keys[2])

    def __call__(self, points: Points) -> tuple[Float[Array, "*tasks width"], Float[Array, "*tasks width"]]:
        """Means and standard deviations."""
        rows = self.encoder(jnp.concatenate([points.x, points.y], axis=-1))
        if self.among_points is not None:
            rows = self.among_points(rows, points.mask)
        mean, raw = jnp.split(self.head(pool(rows, points.mask)), 2, axis=-1)
        return mean, 0.1 + 0.9 * jax.nn.sigmoid(raw)


class _LatentProcess(NeuralProcess):
    """What both have in common: the evidence bound and the mixture over draws of the latent vector."""

    latent_encoder: eqx.AbstractVar[LatentEncoder]
    decoder: eqx.AbstractVar[Decoder]
    training_samples: eqx.AbstractVar[int]

    def encode(self, context: Points, target_x: Array) -> Array:
        """The part of the representation that is not random, of shape (..., 1 or M, width)."""
        raise NotImplementedError

    def components(self, context: Points, target_x: Array, key: Key[Array, ""], n_samples: int) -> Mixture:
        """One Gaussian at each target for each draw of the latent vector given the context."""
        mean, deviation = self.latent_encoder(context)
        return self._decode(key, n_samples, mean, deviation, context, target_x)

    def loss(self, tasks: TaskBatch, key: Key[Array, ""]) -> Float[Array, ""]:
        """Negative evidence bound of context and targets, per point.

        The latent vector is drawn given all points; the Kullback-Leibler divergence of that law from the one given the
        context is added.
        """
        points, context = all_points(tasks), context_points(tasks)
        mean, deviation = self.latent_encoder(points)
        prior_mean, prior_deviation = self.latent_encoder(context)
        drawn = self._decode(key, self.training_samples, mean, deviation, context, points.x)
        densities = gaussian_log_density(points.y, drawn.means, drawn.scales).mean(axis=0)
        expected = jnp.where(points.mask, densities, 0.0).sum(-1)
        return -per_point(expected - gaussian_divergence(mean, deviation, prior_mean, prior_deviation), points.mask)

    def _decode(self, key, n_samples, mean, deviation, context, target_x) -> Mixture:
        latent = mean + deviation * jax.random.normal(key, (n_samples, *mean.shape))
        return Mixture(*self.decoder((self.encode(context, target_x), latent[..., None, :]), target_x))


class NP(_LatentProcess):
    """Neural process: the mean of the encoded points and a latent vector, both given the context, are decoded.

    Args:
        x_size: entries of an input.
        y_size: entries of an output.
        width: of all hidden layers, of the representation and of the latent vector.
        encoder_depth: linear layers on each point.
        decoder_depth: linear layers from representation, latent vector and input to the output, at least 2.
        training_samples: draws of the latent vector a training step.
        min_scale: smallest standard deviation it can predict, in (0, 1).
        key: for the weights.

    Raises:
        ValueError: an argument is out of range.

    Source: Garnelo et al. (2018), Neural processes, arXiv:1807.01622; with the deterministic path of Kim et al. (2019),
    Attentive neural processes, ICLR.
    """

    encoder: RowMLP
    after_pooling: RowMLP
    latent_encoder: LatentEncoder
    decoder: Decoder
    x_size: int = eqx.field(static=True)
    y_size: int = eqx.field(static=True)
    min_scale: float = eqx.field(static=True)
    training_samples: int = eqx.field(static=True)

    def __init__(
        self,
        x_size: int,
        y_size: int,
        *,
        width: int = 64,
        encoder_depth: int = 4,
        decoder_depth: int = 3,
        training_samples: int = 4,
        min_scale: float = 0.1,
        key: Key[Array, ""],
    ):
        require_sizes(x_size=x_size, y_size=y_size, width=width, encoder_depth=encoder_depth)
        require_count("training_samples", training_samples, 1)
        require_min_scale(min_scale)
        keys = jax.random.split(key, 4)
        self.encoder = RowMLP(x_size + y_size, width, width, encoder_depth, key=keys[0])
        self.after_pooling = RowMLP(width, width, width, 2, key=keys[1])
        self.latent_encoder = LatentEncoder(x_size + y_size, width, encoder_depth, 0, key=keys[2])
        self.decoder = Decoder(
            x_size, y_size, [width, width], width=width, depth=decoder_depth, min_scale=min_scale, key=keys[3]
        )
        self.x_size, self.y_size, self.min_scale = x_size, y_size, min_scale
        self.training_samples = training_samples

    def encode(self, context: Points, target_x: Array) -> Array:
        """The mean of the encoded points, mapped: shape (..., 1, width)."""
        rows = self.encoder(jnp.concatenate([context.x, context.y], axis=-1))
        return self.after_pooling(pool(rows, context.mask))[..., None, :]


class ANP(_LatentProcess):
    """Attentive neural process: what each target attends to in the context, and a latent vector, are decoded.

    Args:
        x_size: entries of an input.
        y_size: entries of an output.
        width: of all hidden layers, of the representation and of the latent vector, divisible by the number of heads.
        heads: of each attention.
        encoder_depth: linear layers on each point.
        decoder_depth: linear layers from representation, latent vector and input to the output, at least 2.
        training_samples: draws of the latent vector a training step.
        min_scale: smallest standard deviation it can predict, in (0, 1).
        key: for the weights.

    Raises:
        ValueError: an argument is out of range.

    Source: Kim et al. (2019), Attentive neural processes, ICLR.
    """

    value_encoder: RowMLP
    cross_attention: CrossAttention
    latent_encoder: LatentEncoder
    decoder: Decoder
    x_size: int = eqx.field(static=True)
    y_size: int = eqx.field(static=True)
    min_scale: float = eqx.field(static=True)
    training_samples: int = eqx.field(static=True)

    def __init__(
        self,
        x_size: int,
        y_size: int,
        *,
        width: int = 64,
        heads: int = 4,
        encoder_depth: int = 4,
        decoder_depth: int = 3,
        training_samples: int = 4,
        min_scale: float = 0.1,
        key: Key[Array, ""],
    ):
        require_sizes(x_size=x_size, y_size=y_size, width=width, heads=heads, encoder_depth=encoder_depth)
        require_count("training_samples", training_samples, 1)
        require_min_scale(min_scale)
        keys = jax.random.split(key, 4)
        self.value_encoder = RowMLP(x_size + y_size, width, width, encoder_depth, key=keys[0])
        self.cross_attention = CrossAttention(x_size, width, heads=heads, key=keys[1])
        self.latent_encoder = LatentEncoder(x_size + y_size, width, encoder_depth, heads, key=keys[2])
        self.decoder = Decoder(
            x_size, y_size, [width, width], width=width, depth=decoder_depth, min_scale=min_scale, key=keys[3]
        )
        self.x_size, self.y_size, self.min_scale = x_size, y_size, min_scale
        self.training_samples = training_samples

    def encode(self, context: Points, target_x: Array) -> Array:
        """What each target attends to: shape (..., M, width)."""
        values = self.value_encoder(jnp.concatenate([context.x, context.y], axis=-1))
        return self.cross_attention(target_x, self.cross_attention.to_key(context.x), values, context.mask)


def gaussian_divergence(
    mean: Float[Array, "*tasks d"],
    deviation: Float[Array, "*tasks d"],
    other_mean: Float[Array, "*tasks d"],
    other_deviation: Float[Array, "*tasks d"],
) -> Float[Array, "*tasks"]:
    """Kullback-Leibler divergence of independent Gaussians from others, in nats.

    >>> zero, one = jnp.zeros(1), jnp.ones(1)
    >>> float(gaussian_divergence(zero, one, one, one))
    0.5
    """
    ratio, shift = deviation / other_deviation, (mean - other_mean) / other_deviation
    return (0.5 * (ratio**2 + shift**2 - 1) - jnp.log(ratio)).sum(-1)
