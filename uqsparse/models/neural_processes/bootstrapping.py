"""Bootstrapping neural processes: the context is resampled, and a network sees how the function moves with it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from uqsparse.kernels.arguments import require_count
from uqsparse.models.neural_processes.cnp import CANP, CNP, ExtendedProcess
from uqsparse.models.neural_processes.mixture import Mixture, gaussian_log_density
from uqsparse.models.neural_processes.process import Points, TaskBatch, all_points, context_points
from uqsparse.models.neural_processes.scores import Coherence, mixture_score, require_coherence
from uqsparse.nn.attention import apply_linear


class _BootstrappingProcess(ExtendedProcess):
    """What both have in common: residual bootstrap of the context, and a second representation for the decoder."""

    adaptation: eqx.AbstractVar[tuple[eqx.nn.Linear, ...]]
    training_samples: eqx.AbstractVar[int]
    coherence: eqx.AbstractVar[Coherence]

    def components(self, context: Points, target_x: Array, key: Key[Array, ""], n_samples: int) -> Mixture:
        """One Gaussian at each target for each bootstrapped context."""
        resampled = self.resample_context(key, context, n_samples)
        extra = self.base.encode(resampled, target_x)
        shift = sum(
            (apply_linear(layer, vector) for layer, vector in zip(self.adaptation, extra, strict=True)),
            start=jnp.zeros(()),
        )
        return Mixture(*self.base.decoder(self.base.encode(context, target_x), target_x, shift))

    def loss(self, tasks: TaskBatch, key: Key[Array, ""]) -> Float[Array, ""]:
        """Negative log densities of context and targets, per point: of the base network, and of the mixture."""
        points = all_points(tasks)
        mixture = self.components(context_points(tasks), points.x, key, self.training_samples)
        densities = gaussian_log_density(points.y, mixture.means, mixture.scales)
        return self.base.loss(tasks, key) - mixture_score(densities, points.mask, self.coherence)

    def resample_context(self, key: Key[Array, ""], context: Points, n_samples: int) -> Points:
        """Contexts at the same inputs with new outputs, by the residual bootstrap; training does not see through it.

        The base network, given a resample of the context with replacement, predicts the whole context; residuals in
        units of its standard deviation are resampled, centred, and added to its means.

        Returns:
            Points with a leading axis of `n_samples` copies.
        """
        key_points, key_residuals = jax.random.split(key)
        pairs = with_replacement(key_points, jnp.concatenate([context.x, context.y], -1), context.mask, n_samples)
        paired = Points(pairs[..., : self.x_size], pairs[..., self.x_size :], context.mask)
        mean, scale = self.base.decoder(self.base.encode(paired, context.x), context.x)
        residuals = (context.y - mean) / scale
        drawn = with_replacement(key_residuals, residuals, context.mask, n_samples, has_samples=True)
        present = context.mask[..., None]
        count = jnp.maximum(present.sum(axis=-2, keepdims=True), 1)
        centre = jnp.where(present, drawn, 0.0).sum(axis=-2, keepdims=True) / count
        y = jnp.where(present, mean + scale * (drawn - centre), 0.0)
        x = jnp.broadcast_to(context.x, (n_samples, *context.x.shape))
        return Points(x, jax.lax.stop_gradient(y), context.mask)


class BNP(_BootstrappingProcess):
    """Bootstrapping neural process, around a `CNP`.

    Args:
        x_size: entries of an input.
        y_size: entries of an output.
        width: of all hidden layers, and of the representation.
        encoder_depth: linear layers on each point.
        decoder_depth: linear layers from the representation and an input to the output, at least 2.
        training_samples: bootstrapped contexts a training step.
        coherence: whether the mixture is scored "pointwise" or "joint", over all points of a task, in training.
        min_scale: smallest standard deviation it can predict, in (0, 1).
        key: for the weights.

    Raises:
        ValueError: an argument is out of range.

    Source: Lee et al. (2020), Bootstrapping neural processes, NeurIPS 33, section 3.
    """

    base: CNP
    adaptation: tuple[eqx.nn.Linear, ...]
    training_samples: int = eqx.field(static=True)
    coherence: Coherence = eqx.field(static=True)

    def __init__(
        self,
        x_size: int,
        y_size: int,
        *,
        width: int = 64,
        encoder_depth: int = 4,
        decoder_depth: int = 3,
        training_samples: int = 4,
        coherence: Coherence = "pointwise",
        min_scale: float = 0.1,
        key: Key[Array, ""],
    ):
        require_count("training_samples", training_samples, 1)
        require_coherence(coherence)
        key_base, key_adaptation = jax.random.split(key)
        depths = {"encoder_depth": encoder_depth, "decoder_depth": decoder_depth}
        self.base = CNP(x_size, y_size, width=width, **depths, min_scale=min_scale, key=key_base)
        self.adaptation = (eqx.nn.Linear(width, width, key=key_adaptation),)
        self.training_samples, self.coherence = training_samples, coherence


class BANP(_BootstrappingProcess):
    """Bootstrapping process with attention, around a `CANP`.

    Args:
        x_size: entries of an input.
        y_size: entries of an output.
        width: of all hidden layers, and of both representations, divisible by the number of heads.
        heads: of each attention.
        encoder_depth: linear layers on each point.
        decoder_depth: linear layers from the representations and an input to the output, at least 2.
        training_samples: bootstrapped contexts a training step.
        coherence: whether the mixture is scored "pointwise" or "joint", over all points of a task, in training.
        min_scale: smallest standard deviation it can predict, in (0, 1).
        key: for the weights.

    Raises:
        ValueError: an argument is out of range.

    Source: Lee et al. (2020), Bootstrapping neural processes, NeurIPS 33, section 3.
    """

    base: CANP
    adaptation: tuple[eqx.nn.Linear, ...]
    training_samples: int = eqx.field(static=True)
    coherence: Coherence = eqx.field(static=True)

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
        coherence: Coherence = "pointwise",
        min_scale: float = 0.1,
        key: Key[Array, ""],
    ):
        require_count("training_samples", training_samples, 1)
        require_coherence(coherence)
        keys = jax.random.split(key, 3)
        depths = {"encoder_depth": encoder_depth, "decoder_depth": decoder_depth}
        self.base = CANP(x_size, y_size, width=width, heads=heads, **depths, min_scale=min_scale, key=keys[0])
        self.adaptation = (
            eqx.nn.Linear(width, width, key=keys[1]),
            eqx.nn.Linear(width, width, use_bias=False, key=keys[2]),
        )
        self.training_samples, self.coherence = training_samples, coherence


def with_replacement(
    key: Key[Array, ""],
    rows: Float[Array, "*tasks N d"],
    mask: Array,
    n_samples: int,
    *,
    has_samples: bool = False,
) -> Float[Array, "K *tasks N d"]:
    """Draw, K times, as many rows as there are from those that the mask says are there.

    Args:
        key: random key.
        rows: shape (..., N, d), or (K, ..., N, d) where each sample has its own.
        mask: shape (..., N); rows of the result mean something where it is true.
        n_samples: K.
        has_samples: whether rows have the leading axis of samples.
    """
    present = jnp.argsort(~mask, axis=-1, stable=True)  # positions of the rows that there are come first
    count = mask.sum(axis=-1, keepdims=True)
    uniform = jax.random.uniform(key, (n_samples, *mask.shape))
    rank = jnp.minimum((uniform * count).astype(int), jnp.maximum(count - 1, 0))
    chosen = jnp.take_along_axis(jnp.broadcast_to(present, rank.shape), rank, axis=-1)
    rows = rows if has_samples else rows[None]
    return jnp.take_along_axis(rows, chosen[..., None], axis=-2)
