"""Log likelihoods of tasks under a neural process: what training raises, and what comparisons report."""

from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from uqsparse.kernels.arguments import require_count
from uqsparse.models.neural_processes.mixture import gaussian_log_density, log_mean_exp
from uqsparse.models.neural_processes.process import (
    NeuralProcess,
    TaskBatch,
    all_points,
    context_points,
    per_point,
    require_tasks,
)

# Whether the components of a mixture are averaged at each point, or over all points of a task at once.
Coherence = Literal["pointwise", "joint"]


class LogLikelihoods(NamedTuple):
    """Mean log densities per point of T tasks; the mean over tasks is the score of a model.

    Args:
        context: of the points of the context, each by itself, shape (T,); zero where there are none.
        target: of the targets, each by itself, shape (T,).
        joint: of all targets at once, divided by their number, shape (T,).
    """

    context: Float[np.ndarray, " T"]
    target: Float[np.ndarray, " T"]
    joint: Float[np.ndarray, " T"]


def log_likelihoods(
    model: NeuralProcess, tasks: TaskBatch, key: Key[Array, ""], n_samples: int = 50, *, batch_size: int = 64
) -> LogLikelihoods:
    """Score a model on tasks.

    Scores of mixtures of few components are biased low: compare models at the same number.

    Args:
        model: a neural process.
        tasks: T tasks.
        key: random key.
        n_samples: components of the mixtures.
        batch_size: tasks that are predicted at once, which bounds the memory.

    Raises:
        ValueError: tasks that do not fit the model or are not finite, a number below 1.
    """
    require_count("n_samples", n_samples, 1)
    require_count("batch_size", batch_size, 1)
    require_tasks(tasks, model)
    n_tasks = len(tasks.context_x)
    parts: list[Any] = []
    for first in range(0, n_tasks, batch_size):
        # The last batch is filled up with repetitions, so that all have one shape.
        rows = np.minimum(np.arange(first, first + min(batch_size, n_tasks)), n_tasks - 1)
        batch = _Rows(*(getattr(tasks, name)[rows] for name in _Rows._fields))
        scored = _scored(model, batch, key, n_samples)
        parts.append([np.asarray(score)[: n_tasks - first] for score in scored])
    return LogLikelihoods(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def mixture_score(
    densities: Float[Array, "K T P"], mask: Bool[Array, "T P"], coherence: Coherence = "pointwise"
) -> Float[Array, ""]:
    """Log of the mean density over the components, per point, averaged over tasks.

    Args:
        densities: log densities of each point under each component.
        mask: which points there are.
        coherence: "pointwise" takes the mean at each point; "joint" once for a task, which rewards components that
            explain all of its points.
    """
    densities = jnp.where(mask, densities, 0.0)
    if coherence == "joint":
        return per_point(log_mean_exp(densities.sum(-1)), mask)
    return per_point(log_mean_exp(densities).sum(-1), mask)


def require_coherence(coherence: Any) -> None:
    """Raise ValueError unless it is one of the two."""
    if coherence not in get_args(Coherence):
        raise ValueError(f"coherence must be one of {', '.join(map(repr, get_args(Coherence)))}, got {coherence!r}")


class _Rows(NamedTuple):
    """Some of the tasks."""

    context_x: Any
    context_y: Any
    context_mask: Any
    target_x: Any
    target_y: Any
    target_mask: Any


@eqx.filter_jit
def _scored(model: NeuralProcess, tasks: _Rows, key: Key[Array, ""], n_samples: int) -> tuple[Array, Array, Array]:
    points = all_points(tasks)
    mixture = model.components(context_points(tasks), points.x, key, n_samples)
    densities = gaussian_log_density(points.y, mixture.means, mixture.scales)
    n_context = tasks.context_x.shape[1]

    def mean(total, mask):
        return total / jnp.maximum(mask.sum(-1), 1)

    by_point = jnp.where(points.mask, log_mean_exp(densities), 0.0)
    targets = jnp.where(tasks.target_mask, densities[..., n_context:], 0.0)
    return (
        mean(by_point[:, :n_context].sum(-1), tasks.context_mask),
        mean(by_point[:, n_context:].sum(-1), tasks.target_mask),
        mean(log_mean_exp(targets.sum(-1)), tasks.target_mask),
    )
