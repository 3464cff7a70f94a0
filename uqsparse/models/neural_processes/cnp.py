"""Conditional neural processes, with and without attention: one function of the context, without latent variables."""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

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

# A set of rows that represent points, and which of them there are.
Part = tuple["Memory", Bool[Array, "*batch N"]]


class Memory(NamedTuple):
    """What is kept of each point of a context; without attention, rows alone.

    Args:
        rows: to be averaged, shape (..., N, width).
        keys: for the attention of targets, shape (..., N, width).
        values: that the attention averages, shape (..., N, width).
    """

    rows: Float[Array, "*batch N width"]
    keys: Float[Array, "*batch N width"] | None = None
    values: Float[Array, "*batch N width"] | None = None


class ConditionalProcess(NeuralProcess):
    """What CNP and CANP share, and what the processes built around them call.

    `remember` maps points to rows, `recall` maps rows to the vectors that `decoder` takes.
    """

    decoder: eqx.AbstractVar[Decoder]

    def remember(self, context: Points) -> Memory:
        """Rows that represent the points of a context."""
        raise NotImplementedError

    def recall(self, parts: Sequence[Part], target_x: Array) -> tuple[Array, ...]:
        """Vectors that represent the union of sets of rows, for the decoder."""
        raise NotImplementedError

    def encode(self, context: Points, target_x: Array) -> tuple[Array, ...]:
        """Vectors that represent a context."""
        return self.recall([(self.remember(context), context.mask)], target_x)

    def components(self, context: Points, target_x: Array, key: Key[Array, ""], n_samples: int) -> Mixture:
        """One Gaussian at each target."""
        mean, scale = self.decoder(self.encode(context, target_x), target_x)
        return Mixture(mean[None], scale[None])

    def loss(self, tasks: TaskBatch, key: Key[Array, ""]) -> Float[Array, ""]:
        """Negative log density of context and targets given the context, per point."""
        points = all_points(tasks)
        mean, scale = self.decoder(self.encode(context_points(tasks), points.x), points.x)
        densities = gaussian_log_density(points.y, mean, scale)
        return -per_point(jnp.where(points.mask, densities, 0.0).sum(-1), points.mask)


class ExtendedProcess(NeuralProcess):
    """A process built around a conditional one, whose sizes and smallest standard deviation it has."""

    base: eqx.AbstractVar[ConditionalProcess]

    @property
    def x_size(self) -> int:
        """Entries of an input."""
        return self.base.x_size

    @property
    def y_size(self) -> int:
        """Entries of an output."""
        return self.base.y_size

    @property
    def min_scale(self) -> float:
        """Smallest standard deviation it can predict."""
        return self.base.min_scale


class CNP(ConditionalProcess):
    """Conditional neural process: points are encoded one by one and averaged, targets decoded one by one.

    Args:
        x_size: entries of an input.
        y_size: entries of an output.
        width: of all hidden layers, and of the representation.
        encoder_depth: linear layers on each point.
        decoder_depth: linear layers from the representation and an input to the output, at least 2.
        min_scale: smallest standard deviation it can predict, in (0, 1).
        key: for the weights.

    Raises:
        ValueError: an argument is out of range.

    Source: Garnelo et al. (2018), Conditional neural processes, ICML.
    """

    encoder: RowMLP
    after_pooling: RowMLP
    decoder: Decoder
    x_size: int = eqx.field(static=True)
    y_size: int = eqx.field(static=True)
    min_scale: float = eqx.field(static=True)

    def __init__(
        self,
        x_size: int,
        y_size: int,
        *,
        width: int = 64,
        encoder_depth: int = 4,
        decoder_depth: int = 3,
        min_scale: float = 0.1,
        key: Key[Array, ""],
    ):
        require_sizes(x_size=x_size, y_size=y_size, width=width, encoder_depth=encoder_depth)
        require_min_scale(min_scale)
        keys = jax.random.split(key, 3)
        self.encoder = RowMLP(x_size + y_size, width, width, encoder_depth, key=keys[0])
        self.after_pooling = RowMLP(width, width, width, 2, key=keys[1])
        self.decoder = Decoder(
            x_size, y_size, [width], width=width, depth=decoder_depth, min_scale=min_scale, key=keys[2]
        )
        self.x_size, self.y_size, self.min_scale = x_size, y_size, min_scale

    def remember(self, context: Points) -> Memory:
        """Rows that represent the points of a context."""
        return Memory(self.encoder(jnp.concatenate([context.x, context.y], axis=-1)))

    def recall(self, parts: Sequence[Part], target_x: Array) -> tuple[Array, ...]:
        """The mean of all rows, mapped: shape (..., 1, width)."""
        return (self.after_pooling(pooled(parts))[..., None, :],)


class CANP(ConditionalProcess):
    """Conditional process with attention: an average over the context, whose points attend to each other, and for each
    target what it attends to in the context.

    Args:
        x_size: entries of an input.
        y_size: entries of an output.
        width: of all hidden layers, and of both representations, divisible by the number of heads.
        heads: of each attention.
        encoder_depth: linear layers on each point.
        decoder_depth: linear layers from the representations and an input to the output, at least 2.
        min_scale: smallest standard deviation it can predict, in (0, 1).
        key: for the weights.

    Raises:
        ValueError: an argument is out of range.

    Source: Kim et al. (2019), Attentive neural processes, ICLR, without its latent variable.
    """

    encoder: RowMLP
    among_context: SAB
    after_pooling: RowMLP
    value_encoder: RowMLP
    cross_attention: CrossAttention
    decoder: Decoder
    x_size: int = eqx.field(static=True)
    y_size: int = eqx.field(static=True)
    min_scale: float = eqx.field(static=True)

    def __init__(
        self,
        x_size: int,
        y_size: int,
        *,
        width: int = 64,
        heads: int = 4,
        encoder_depth: int = 4,
        decoder_depth: int = 3,
        min_scale: float = 0.1,
        key: Key[Array, ""],
    ):
        require_sizes(x_size=x_size, y_size=y_size, width=width, heads=heads, encoder_depth=encoder_depth)
        require_min_scale(min_scale)
        keys = jax.random.split(key, 6)
        self.encoder = RowMLP(x_size + y_size, width, width, encoder_depth, key=keys[0])
        self.among_context = SAB(width, width, heads=heads, key=keys[1])
        self.after_pooling = RowMLP(width, width, width, 2, key=keys[2])
        self.value_encoder = RowMLP(x_size + y_size, width, width, encoder_depth, key=keys[3])
        self.cross_attention = CrossAttention(x_size, width, heads=heads, key=keys[4])
        self.decoder = Decoder(
            x_size, y_size, [width, width], width=width, depth=decoder_depth, min_scale=min_scale, key=keys[5]
        )
        self.x_size, self.y_size, self.min_scale = x_size, y_size, min_scale

    def remember(self, context: Points) -> Memory:
        """Rows, keys and values that represent the points of a context."""
        both = jnp.concatenate([context.x, context.y], axis=-1)
        rows = self.among_context(self.encoder(both), context.mask)
        return Memory(rows, self.cross_attention.to_key(context.x), self.value_encoder(both))

    def recall(self, parts: Sequence[Part], target_x: Array) -> tuple[Array, ...]:
        """The mean of all rows, mapped, of shape (..., 1, width), and what each target attends to, (..., M, width)."""
        mean = self.after_pooling(pooled(parts))[..., None, :]
        keys = _side_by_side([memory.keys for memory, _ in parts], -2)
        values = _side_by_side([memory.values for memory, _ in parts], -2)
        mask = _side_by_side([mask for _, mask in parts], -1)
        return mean, self.cross_attention(target_x, keys, values, mask)


def pooled(parts: Sequence[Part]) -> Float[Array, "*batch width"]:
    """Mean of the rows of all parts; zero where there are none."""
    total = sum((pool(memory.rows, mask, "sum") for memory, mask in parts), start=jnp.zeros(()))
    count = sum((mask.sum(-1, keepdims=True) for _, mask in parts), start=jnp.zeros((), int))
    return total / jnp.maximum(count, 1)


def _side_by_side(arrays, axis: int) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    rank = -axis
    leading = jnp.broadcast_shapes(*(array.shape[: array.ndim - rank] for array in arrays))
    return jnp.concatenate([jnp.broadcast_to(a, (*leading, *a.shape[a.ndim - rank :])) for a in arrays], axis=axis)
