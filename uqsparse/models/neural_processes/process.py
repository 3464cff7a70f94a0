"""What all neural processes have in common: tasks in, a loss for training, a mixture for prediction."""

from abc import abstractmethod
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Key

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.namespaces import is_traced
from uqsparse.models.neural_processes.mixture import Mixture


class TaskBatch(Protocol):
    """T tasks of one shape: any record with these fields, such as those that `uqsparse.data` draws."""

    @property
    def context_x(self) -> Float[Array, "T N dx"]:
        """Inputs that are seen with their outputs."""
        ...

    @property
    def context_y(self) -> Float[Array, "T N dy"]:
        """Their outputs."""
        ...

    @property
    def context_mask(self) -> Bool[Array, "T N"]:
        """Which rows of the context there are; the others are padding."""
        ...

    @property
    def target_x(self) -> Float[Array, "T M dx"]:
        """Inputs to predict at."""
        ...

    @property
    def target_y(self) -> Float[Array, "T M dy"]:
        """Their outputs."""
        ...

    @property
    def target_mask(self) -> Bool[Array, "T M"]:
        """Which targets there are."""
        ...


class Points(NamedTuple):
    """A set of inputs with outputs; rows that the mask leaves out are zero.

    Args:
        x: inputs, shape (..., N, dx).
        y: outputs, shape (..., N, dy).
        mask: which rows there are, shape (..., N).
    """

    x: Float[Array, "*tasks N dx"]
    y: Float[Array, "*tasks N dy"]
    mask: Bool[Array, "*tasks N"]


class NeuralProcess(eqx.Module):
    """A network that maps a context, a set of points of one function, to predictions of that function elsewhere.

    Args:
        x_size: entries of an input, dx.
        y_size: entries of an output, dy.
        min_scale: smallest standard deviation it can predict. It bounds the log density that can be reached:
            comparisons must share it.
    """

    x_size: eqx.AbstractVar[int]
    y_size: eqx.AbstractVar[int]
    min_scale: eqx.AbstractVar[float]

    @abstractmethod
    def loss(self, tasks: TaskBatch, key: Key[Array, ""]) -> Float[Array, ""]:
        """What training makes small: per point, averaged over tasks. For use under `jit` and `grad`."""

    @abstractmethod
    def components(
        self, context: Points, target_x: Float[Array, "*tasks M dx"], key: Key[Array, ""], n_samples: int
    ) -> Mixture:
        """Predictions for any number of tasks at once. For use under `jit`; nothing is checked."""

    def predict(
        self,
        context_x: Float[ArrayLike, "N dx"],
        context_y: Float[ArrayLike, "N dy"],
        target_x: Float[ArrayLike, "M dx"],
        key: Key[Array, ""],
        n_samples: int = 50,
        *,
        context_mask: Bool[ArrayLike, " N"] | None = None,
    ) -> Mixture:
        """Predict a function at new inputs from a context of its points.

        Each new number of rows is compiled once; pad the context and mask the padding to use one program for several.
        Without any context the result is what the network says before it has seen anything: finite, and worth
        something only where it was trained on empty contexts too.

        Args:
            context_x: inputs, shape (N, dx).
            context_y: outputs, shape (N, dy).
            target_x: inputs to predict at, shape (M, dx).
            key: random key.
            n_samples: components of the mixture, K; networks without randomness give one.
            context_mask: which rows of the context there are, shape (N,); all if not given.

        Returns:
            Mixture of K components, each of means and scales of shape (M, dy).

        Raises:
            ValueError: shapes that do not fit, values that are not finite, or `n_samples` below 1.
        """
        require_count("n_samples", n_samples, 1)
        x = _checked("context_x", context_x, (None, self.x_size), context_mask)
        y = _checked("context_y", context_y, (len(x), self.y_size), context_mask)
        at = _checked("target_x", target_x, (None, self.x_size))
        mask = jnp.ones(len(x), bool) if context_mask is None else jnp.asarray(context_mask, bool)
        return _predicted(self, masked_points(x, y, mask), at, key, n_samples)

    def predict_tasks(self, tasks: TaskBatch, key: Key[Array, ""], n_samples: int = 50) -> Mixture:
        """Predict the targets of T tasks at once: a mixture of shape (K, T, M, dy). Targets are not looked at.

        Args:
            tasks: of which the context and the inputs of the targets are used.
            key: random key.
            n_samples: as in `predict`.

        Raises:
            ValueError: shapes that do not fit, values that are not finite, or `n_samples` below 1.
        """
        require_count("n_samples", n_samples, 1)
        require_tasks(tasks, self)
        return _predicted(self, context_points(tasks), tasks.target_x, key, n_samples)


@eqx.filter_jit
def _predicted(model: NeuralProcess, context: Points, target_x: Array, key: Key[Array, ""], n_samples: int) -> Mixture:
    return model.components(context, target_x, key, n_samples)


def masked_points(x: Array, y: Array, mask: Array) -> Points:
    """Points whose padding is zero, whatever it was."""
    return Points(jnp.where(mask[..., None], x, 0.0), jnp.where(mask[..., None], y, 0.0), mask)


def context_points(tasks: TaskBatch) -> Points:
    """The contexts of tasks."""
    return masked_points(tasks.context_x, tasks.context_y, tasks.context_mask)


def all_points(tasks: TaskBatch) -> Points:
    """Contexts and targets of tasks, in this order."""
    context, target = context_points(tasks), masked_points(tasks.target_x, tasks.target_y, tasks.target_mask)
    return Points(
        jnp.concatenate([context.x, target.x], axis=-2),
        jnp.concatenate([context.y, target.y], axis=-2),
        jnp.concatenate([context.mask, target.mask], axis=-1),
    )


def per_point(total: Float[Array, " T"], mask: Bool[Array, "T P"]) -> Float[Array, ""]:
    """Sums over the points of each task, divided by their number, averaged over tasks."""
    return (total / jnp.maximum(mask.sum(-1), 1)).mean()


def require_tasks(tasks: TaskBatch, model: NeuralProcess) -> None:
    """Raise ValueError unless tasks fit a model and are finite where they are not masked."""
    shapes = {}
    for part in ("context", "target"):
        try:
            x, y, mask = (getattr(tasks, f"{part}_{name}") for name in ("x", "y", "mask"))
        except AttributeError as error:
            raise ValueError(f"tasks need {part}_x, {part}_y and {part}_mask, got {type(tasks).__name__}") from error
        if getattr(mask, "ndim", None) != 2 or mask.dtype != bool:
            raise ValueError(f"{part}_mask must be a boolean array of shape (tasks, points), got {np.shape(mask)}")
        _checked(f"{part}_x", x, (*mask.shape, model.x_size), mask)
        _checked(f"{part}_y", y, (*mask.shape, model.y_size), mask)
        shapes[part] = mask.shape
    if shapes["context"][0] != shapes["target"][0]:
        raise ValueError(f"context and target must have as many tasks, got {shapes['context']} and {shapes['target']}")


def _checked(name: str, values: Any, shape: tuple[int | None, ...], mask: Any = None) -> Array:
    """The values as an array of single precision; those that are not masked are finite."""
    found = np.shape(values)
    if len(found) != len(shape) or any(want not in (None, got) for got, want in zip(found, shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have shape ({wanted}), got {found}")
    if mask is not None and np.shape(mask) != found[:-1]:
        raise ValueError(f"the mask of {name} must have shape {found[:-1]}, got {np.shape(mask)}")
    if not is_traced(values, mask):
        host = np.asarray(values)
        if host.dtype.kind not in "fiub":
            raise ValueError(f"{name} must hold real numbers, got {host.dtype}")
        bad = ~np.isfinite(host)
        if mask is not None:
            bad &= np.asarray(mask, bool)[..., None]
        if bad.any():
            raise ValueError(f"{name} has {int(bad.sum())} values that are NaN or infinite")
    return jnp.asarray(values, jnp.float32)


def require_sizes(**sizes: int) -> None:
    """Raise ValueError unless all sizes are positive integers."""
    for name, value in sizes.items():
        require_count(name, value, 1)


def require_min_scale(min_scale: float) -> None:
    """Raise ValueError unless the smallest standard deviation is in (0, 1)."""
    if not 0 < min_scale < 1:
        raise ValueError(f"min_scale must lie strictly between 0 and 1, got {min_scale!r}")
