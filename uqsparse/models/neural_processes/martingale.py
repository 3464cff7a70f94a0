"""Martingale posterior neural processes: a network draws the points of the context that have not been seen."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from uqsparse.kernels.arguments import require_count
from uqsparse.models.neural_processes.cnp import CANP, CNP, ExtendedProcess, Memory, Part
from uqsparse.models.neural_processes.mixture import Mixture, gaussian_log_density
from uqsparse.models.neural_processes.process import Points, TaskBatch, all_points, context_points
from uqsparse.models.neural_processes.scores import Coherence, mixture_score, require_coherence
from uqsparse.nn.attention import apply_linear
from uqsparse.nn.sets import ISAB


class RowGenerator(eqx.Module):
    """Draws rows of unseen points: an induced set attention block on noise, whose inducing points are the context.

    Permuting the rows of the noise permutes those of the result, which start small.

    Args:
        in_size: entries that represent a point of the context.
        out_size: entries of a drawn row.
        width: of the noise and of the block, divisible by the number of heads.
        heads: of the block's attention.
        key: for the weights.
    """

    to_points: eqx.nn.Linear
    block: ISAB
    from_rows: eqx.nn.Linear

    def __init__(self, in_size: int, out_size: int, width: int, *, heads: int, key: Key[Array, ""]):
        keys = jax.random.split(key, 3)
        self.to_points = eqx.nn.Linear(in_size, width, key=keys[0])
        self.block = ISAB(width, width, 0, heads=heads, key=keys[1])
        from_rows = eqx.nn.Linear(width, out_size, key=keys[2])
        self.from_rows = eqx.tree_at(lambda linear: linear.weight, from_rows, replace_fn=lambda weight: 0.1 * weight)

    @property
    def width(self) -> int:
        """Entries of a row of noise."""
        return self.from_rows.weight.shape[1]

    def __call__(
        self, noise: Float[Array, "K *tasks G width"], points: Float[Array, "*tasks N in"], mask: Array
    ) -> Float[Array, "K *tasks G out"]:
        """One row for each row of noise."""
        induced = apply_linear(self.to_points, points)
        return apply_linear(self.from_rows, self.block(noise, points=induced, points_mask=mask))


class _MartingaleProcess(ExtendedProcess):
    """What both have in common: the generator's draws join the context, and the three terms of the objective."""

    generator: eqx.AbstractVar[RowGenerator | None]
    n_pseudo: eqx.AbstractVar[int]
    training_samples: eqx.AbstractVar[int]
    amortisation_weight: eqx.AbstractVar[float]
    pseudo_weight: eqx.AbstractVar[float]
    coherence: eqx.AbstractVar[Coherence]

    def generate(self, noise: Float[Array, "K *tasks G width"], memory: Memory, mask: Array) -> Memory:
        """Rows of points that have not been seen, exchangeable given those of the context.

        Args:
            noise: independent standard normal; permuting its rows permutes those of the result.
            memory: what is kept of the context.
            mask: which of its points there are.
        """
        raise NotImplementedError

    def components(self, context: Points, target_x: Array, key: Key[Array, ""], n_samples: int) -> Mixture:
        """One Gaussian at each target for each draw of the unseen points."""
        if self.generator is None:
            return self.base.components(context, target_x, key, n_samples)
        seen, unseen = self._parts(context, key, n_samples)
        return Mixture(*self.base.decoder(self.base.recall([seen, unseen], target_x), target_x))

    def loss(self, tasks: TaskBatch, key: Key[Array, ""]) -> Float[Array, ""]:
        """Negative weighted sum of three log densities of context and targets, per point.

        Given the context and the draws, as a mixture over draws; given the context alone, which keeps the encoder good
        on sets of seen points; and given the draws alone, averaged over them, which makes the generator carry the
        function.
        """
        if self.generator is None:
            return self.base.loss(tasks, key)
        context, points = context_points(tasks), all_points(tasks)

        def densities(parts):
            mean, scale = self.base.decoder(self.base.recall(parts, points.x), points.x)
            return gaussian_log_density(points.y, mean, scale)

        seen, unseen = self._parts(context, key, self.training_samples)
        total = mixture_score(densities([seen, unseen]), points.mask, self.coherence)
        if self.amortisation_weight:
            total += self.amortisation_weight * mixture_score(densities([seen])[None], points.mask)
        if self.pseudo_weight:
            alone = jax.vmap(lambda one: mixture_score(one[None], points.mask))(densities([unseen]))
            total += self.pseudo_weight * alone.mean()
        return -total

    def _parts(self, context: Points, key: Key[Array, ""], n_samples: int) -> tuple[Part, Part]:
        """The rows of the context, and draws of rows of unseen points."""
        memory = self.base.remember(context)
        assert self.generator is not None
        noise = jax.random.normal(key, (n_samples, *context.mask.shape[:-1], self.n_pseudo, self.generator.width))
        unseen = self.generate(noise, memory, context.mask)
        return (memory, context.mask), (unseen, jnp.ones(noise.shape[:-1], bool))


class MPNP(_MartingaleProcess):
    """Martingale posterior neural process, around a `CNP`.

    A network draws representations of points that have not been seen, given those of the context, and targets are
    predicted from both together. The draws are exchangeable, so that they are conditionally identically distributed:
    their spread is a posterior of the function, without a latent variable and without a prior.

    Args:
        x_size: entries of an input.
        y_size: entries of an output.
        width: of all hidden layers, and of the representation, divisible by the number of heads.
        heads: of the generator's attention.
        generator_width: of the generator and its noise, divisible by the number of heads; `width` if not given. Of a
            given number of parameters a narrow one leaves more to the rest.
        n_pseudo: points that are drawn; about as many as a context may have. With 0 it is a `CNP`.
        encoder_depth: linear layers on each point.
        decoder_depth: linear layers from the representation and an input to the output, at least 2.
        training_samples: draws a training step.
        amortisation_weight: of the log density given the context alone, at least 0.
        pseudo_weight: of the log density given the draws alone, at least 0. The paper has 1; in trainings of a few
            thousand steps 0.1 gives better predictions.
        coherence: whether the mixture is scored "pointwise" or "joint", over all points of a task, in training.
        min_scale: smallest standard deviation it can predict, in (0, 1).
        key: for the weights.

    Raises:
        ValueError: an argument is out of range.

    Source: Lee, Yun, Nam, Fong & Lee (2023), Martingale posterior neural processes, ICLR.
    """

    base: CNP
    generator: RowGenerator | None
    n_pseudo: int = eqx.field(static=True)
    training_samples: int = eqx.field(static=True)
    amortisation_weight: float = eqx.field(static=True)
    pseudo_weight: float = eqx.field(static=True)
    coherence: Coherence = eqx.field(static=True)

    def __init__(
        self,
        x_size: int,
        y_size: int,
        *,
        width: int = 64,
        heads: int = 4,
        generator_width: int | None = None,
        n_pseudo: int = 12,
        encoder_depth: int = 4,
        decoder_depth: int = 3,
        training_samples: int = 4,
        amortisation_weight: float = 1.0,
        pseudo_weight: float = 1.0,
        coherence: Coherence = "pointwise",
        min_scale: float = 0.1,
        key: Key[Array, ""],
    ):
        _require_settings(generator_width, n_pseudo, training_samples, amortisation_weight, pseudo_weight, coherence)
        key_base, key_generator = jax.random.split(key)
        depths = {"encoder_depth": encoder_depth, "decoder_depth": decoder_depth}
        self.base = CNP(x_size, y_size, width=width, **depths, min_scale=min_scale, key=key_base)
        size = generator_width or width
        self.generator = RowGenerator(width, width, size, heads=heads, key=key_generator) if n_pseudo else None
        self.n_pseudo, self.training_samples, self.coherence = n_pseudo, training_samples, coherence
        self.amortisation_weight, self.pseudo_weight = float(amortisation_weight), float(pseudo_weight)

    def generate(self, noise: Float[Array, "K *tasks G width"], memory: Memory, mask: Array) -> Memory:
        """Rows of unseen points."""
        assert self.generator is not None
        return Memory(self.generator(noise, memory.rows, mask))


class MPANP(_MartingaleProcess):
    """Martingale posterior process with attention, around a `CANP`: targets attend to the drawn points too.

    Args:
        x_size: entries of an input.
        y_size: entries of an output.
        width: of all hidden layers, and of both representations, divisible by the number of heads.
        heads: of each attention.
        generator_width: of the generator and its noise, divisible by the number of heads; `width` if not given. Of a
            given number of parameters a narrow one leaves more to the rest.
        n_pseudo: points that are drawn; about as many as a context may have. With 0 it is a `CANP`.
        encoder_depth: linear layers on each point.
        decoder_depth: linear layers from the representations and an input to the output, at least 2.
        training_samples: draws a training step.
        amortisation_weight: of the log density given the context alone, at least 0.
        pseudo_weight: of the log density given the draws alone, at least 0. The paper has 1; in trainings of a few
            thousand steps 0.1 gives better predictions.
        coherence: whether the mixture is scored "pointwise" or "joint", over all points of a task, in training.
        min_scale: smallest standard deviation it can predict, in (0, 1).
        key: for the weights.

    Raises:
        ValueError: an argument is out of range.

    Source: Lee, Yun, Nam, Fong & Lee (2023), Martingale posterior neural processes, ICLR. How keys
    of drawn points are made is ours: a linear map of the generator's row gives row, key and value.
    """

    base: CANP
    generator: RowGenerator | None
    n_pseudo: int = eqx.field(static=True)
    training_samples: int = eqx.field(static=True)
    amortisation_weight: float = eqx.field(static=True)
    pseudo_weight: float = eqx.field(static=True)
    coherence: Coherence = eqx.field(static=True)

    def __init__(
        self,
        x_size: int,
        y_size: int,
        *,
        width: int = 64,
        heads: int = 4,
        generator_width: int | None = None,
        n_pseudo: int = 12,
        encoder_depth: int = 4,
        decoder_depth: int = 3,
        training_samples: int = 4,
        amortisation_weight: float = 1.0,
        pseudo_weight: float = 1.0,
        coherence: Coherence = "pointwise",
        min_scale: float = 0.1,
        key: Key[Array, ""],
    ):
        _require_settings(generator_width, n_pseudo, training_samples, amortisation_weight, pseudo_weight, coherence)
        key_base, key_generator = jax.random.split(key)
        depths = {"encoder_depth": encoder_depth, "decoder_depth": decoder_depth}
        self.base = CANP(x_size, y_size, width=width, heads=heads, **depths, min_scale=min_scale, key=key_base)
        size = generator_width or width
        self.generator = RowGenerator(2 * width, 3 * width, size, heads=heads, key=key_generator) if n_pseudo else None
        self.n_pseudo, self.training_samples, self.coherence = n_pseudo, training_samples, coherence
        self.amortisation_weight, self.pseudo_weight = float(amortisation_weight), float(pseudo_weight)

    def generate(self, noise: Float[Array, "K *tasks G width"], memory: Memory, mask: Array) -> Memory:
        """Rows, keys and values of unseen points, from one row each."""
        assert self.generator is not None
        assert memory.values is not None
        drawn = self.generator(noise, jnp.concatenate([memory.rows, memory.values], axis=-1), mask)
        return Memory(*jnp.split(drawn, 3, axis=-1))


def _require_settings(
    generator_width, n_pseudo, training_samples, amortisation_weight, pseudo_weight, coherence
) -> None:
    if generator_width is not None:
        require_count("generator_width", generator_width, 1)
    require_count("n_pseudo", n_pseudo, 0)
    require_count("training_samples", training_samples, 1)
    for name, value in (("amortisation_weight", amortisation_weight), ("pseudo_weight", pseudo_weight)):
        if not 0 <= value < jnp.inf:
            raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    require_coherence(coherence)
