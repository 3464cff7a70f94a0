"""Regression tasks that are a context and targets: functions of Gaussian processes, standardised or as they are."""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

Kernel = Literal["rbf", "matern", "periodic", "t-noise"]


class Tasks(NamedTuple):
    """T regression tasks of one shape. Rows whose mask is False are padding and hold zeros.

    Args:
        context_x: inputs that are seen with their outputs, shape (T, N, dx).
        context_y: their outputs, shape (T, N, dy).
        context_mask: which rows of the context are there, shape (T, N).
        target_x: inputs to predict at, shape (T, M, dx).
        target_y: their outputs, shape (T, M, dy).
        target_mask: which targets are there, shape (T, M).
    """

    context_x: Float[Array, "T N dx"]
    context_y: Float[Array, "T N dy"]
    context_mask: Bool[Array, "T N"]
    target_x: Float[Array, "T M dx"]
    target_y: Float[Array, "T M dy"]
    target_mask: Bool[Array, "T M"]


class GaussianProcesses(NamedTuple):
    """The laws that T tasks were drawn from, one entry a task.

    Args:
        length: length scale, shape (T,).
        scale: standard deviation of the function, shape (T,).
        period: of the periodic kernel, shape (T,); the other kernels do not use it.
        noise: standard deviation of the Gaussian noise on every output.
    """

    length: Float[Array, " T"]
    scale: Float[Array, " T"]
    period: Float[Array, " T"]
    noise: float


def gp_tasks(
    key: Key[Array, ""],
    n_tasks: int,
    *,
    kernel: Kernel = "rbf",
    max_points: int = 50,
    min_context: int = 3,
    min_target: int = 3,
    x_size: int = 1,
    bounds: tuple[float, float] = (-2.0, 2.0),
    noise: float = 0.02,
) -> Tasks:
    """Draw functions from Gaussian processes whose hyper-parameters are new in each task.

    Inputs are uniform; the length scale is uniform on [0.1, 0.6], the standard deviation of the function on [0.1, 1],
    the period on [0.1, 0.5]. A task has `U{min_context, ..., max_points - min_target}` points of context and, given
    those, `U{min_target, ..., max_points - n_context}` targets. For use under `jit` as it is: all shapes are fixed.

    Args:
        key: random key.
        n_tasks: T, at least 1.
        kernel: "rbf", "matern" (5/2), "periodic", or "t-noise": rbf, and on each output noise of a Student
            distribution of 2.1 degrees of freedom, times a uniform on [0, 0.15].
        max_points: context and targets together have at most so many points.
        min_context: least number of points in a context, at least 0.
        min_target: least number of targets, at least 1.
        x_size: number of inputs dx, at least 1.
        bounds: the least and the largest input.
        noise: standard deviation of the Gaussian noise on every output, positive.

    Returns:
        Tasks with N = `max_points - min_target`, M = `max_points - min_context` and dy = 1.

    Raises:
        ValueError: an argument is out of range.

    Source: Lee, Lee, Kim, Yang, Hwang & Teh (2020), Bootstrapping neural processes, NeurIPS 33, section 5.1.

    >>> tasks = gp_tasks(jax.random.key(0), 4, kernel="matern")
    >>> tasks.context_x.shape, bool((tasks.context_mask.sum(1) >= 3).all())
    ((4, 47, 1), True)
    """
    return gp_tasks_with_laws(
        key,
        n_tasks,
        kernel=kernel,
        max_points=max_points,
        min_context=min_context,
        min_target=min_target,
        x_size=x_size,
        bounds=bounds,
        noise=noise,
    )[0]


def gp_tasks_with_laws(
    key: Key[Array, ""],
    n_tasks: int,
    *,
    kernel: Kernel = "rbf",
    max_points: int = 50,
    min_context: int = 3,
    min_target: int = 3,
    x_size: int = 1,
    bounds: tuple[float, float] = (-2.0, 2.0),
    noise: float = 0.02,
) -> tuple[Tasks, GaussianProcesses]:
    """The tasks of `gp_tasks`, and the hyper-parameters each was drawn with: what an oracle knows.

    >>> gp_tasks_with_laws(jax.random.key(0), 4)[1].length.shape
    (4,)
    """
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel must be one of {', '.join(map(repr, get_args(Kernel)))}, got {kernel!r}")
    require_count("n_tasks", n_tasks, 1)
    require_count("x_size", x_size, 1)
    require_point_counts(max_points, min_context, min_target)
    if not (np.isfinite(bounds).all() and len(bounds) == 2 and bounds[0] < bounds[1]):
        raise ValueError(f"bounds must be two finite numbers, the least first, got {bounds!r}")
    if not 0 < noise < np.inf:
        raise ValueError(f"noise must be a positive number, got {noise!r}")
    counts = max_points, min_context, min_target
    return _gp_tasks(key, n_tasks, kernel, counts, x_size, tuple(map(float, bounds)), float(noise))


@partial(jax.jit, static_argnums=(1, 2, 3, 4, 5, 6))
def _gp_tasks(key, n_tasks, kernel, counts, x_size, bounds, noise):
    key_x, key_law, key_f, key_t, key_counts = jax.random.split(key, 5)
    max_points = counts[0]
    x = jax.random.uniform(key_x, (n_tasks, max_points, x_size), minval=bounds[0], maxval=bounds[1])
    uniform = jax.random.uniform(key_law, (3, n_tasks))
    laws = GaussianProcesses(0.1 + 0.5 * uniform[0], 0.1 + 0.9 * uniform[1], 0.1 + 0.4 * uniform[2], noise)
    covariance = jax.vmap(partial(gp_covariance, kernel))(x, x, laws.length, laws.scale, laws.period)
    factor = jnp.linalg.cholesky(covariance + noise**2 * jnp.eye(max_points))
    y = jnp.einsum("tij,tj->ti", factor, jax.random.normal(key_f, (n_tasks, max_points)))
    if kernel == "t-noise":
        key_size, key_student = jax.random.split(key_t)
        size = 0.15 * jax.random.uniform(key_size, y.shape)
        y = y + size * jax.random.t(key_student, 2.1, y.shape)
    return split_points(key_counts, x, y[..., None], counts), laws


def gp_covariance(
    kernel: Kernel,
    x: Float[Array, "n d"],
    other: Float[Array, "m d"],
    length: Any,
    scale: Any,
    period: Any = 1.0,
) -> Float[Array, "n m"]:
    """Covariances, without noise, between the values of a function of `gp_tasks` at two sets of inputs.

    With d the Euclidean distance over `length`: `scale^2 exp(-d^2 / 2)`,
    `scale^2 (1 + sqrt(5) d + 5 d^2 / 3) exp(-sqrt(5) d)`, or `scale^2 exp(-2 sum_j sin^2(pi delta_j / period) /
    length^2)`.

    Args:
        kernel: "rbf", "matern", "periodic" or "t-noise", whose functions are those of "rbf".
        x: inputs.
        other: inputs.
        length: length scale, positive.
        scale: standard deviation, positive.
        period: of the periodic kernel, positive.
    """
    delta = x[:, None, :] - other[None, :, :]
    if kernel == "periodic":
        return scale**2 * jnp.exp(-2 * (jnp.sin(jnp.pi * delta / period) ** 2).sum(-1) / length**2)
    squared = (delta**2).sum(-1) / length**2
    if kernel == "matern":
        d = jnp.sqrt(5 * squared)
        return scale**2 * (1 + d + d**2 / 3) * jnp.exp(-d)
    return scale**2 * jnp.exp(-squared / 2)


@jax.jit
def standardise_tasks(tasks: Tasks) -> Tasks:
    """Shift and scale each task's inputs and outputs by the mean and the standard deviation of its context.

    A column that is constant over the context is only shifted; a task without a context stays as it is. Only the
    context is looked at, so a model never sees the targets. Padding stays zero.

    >>> tasks = standardise_tasks(gp_tasks(jax.random.key(0), 2, min_context=5))
    >>> bool(jnp.allclose(tasks.context_y.sum(1), 0, atol=1e-3))
    True
    """
    mask, count = tasks.context_mask[..., None], jnp.maximum(tasks.context_mask.sum(1), 1)[:, None, None]

    def moments(values):
        centre = jnp.where(mask, values, 0.0).sum(1, keepdims=True) / count
        spread = jnp.sqrt(jnp.where(mask, (values - centre) ** 2, 0.0).sum(1, keepdims=True) / count)
        # What is left of a constant column in single precision is rounding.
        return centre, jnp.where(spread > 1e-5 * jnp.maximum(1.0, jnp.abs(centre)), spread, 1.0)

    def apply(values, centre, spread, mask):
        return jnp.where(mask[..., None], (values - centre) / spread, 0.0)

    x, y = moments(tasks.context_x), moments(tasks.context_y)
    return Tasks(
        apply(tasks.context_x, *x, tasks.context_mask),
        apply(tasks.context_y, *y, tasks.context_mask),
        tasks.context_mask,
        apply(tasks.target_x, *x, tasks.target_mask),
        apply(tasks.target_y, *y, tasks.target_mask),
        tasks.target_mask,
    )


def split_points(key, x, y, counts) -> Tasks:
    """Put the first points of each task into its context, the next ones into its targets, by random numbers of both."""
    max_points, min_context, min_target = counts
    key_context, key_target = jax.random.split(key)
    n_tasks, last_context = len(x), max_points - min_target
    n_context = jax.random.randint(key_context, (n_tasks, 1), min_context, last_context + 1)
    n_target = jax.random.randint(key_target, (n_tasks, 1), min_target, max_points - n_context + 1)
    at_context = jnp.arange(last_context)[None]
    at_target = jnp.arange(max_points - min_context)[None]
    context_mask, target_mask = at_context < n_context, at_target < n_target
    at_context = jnp.broadcast_to(at_context, context_mask.shape)
    at_target = jnp.minimum(n_context + at_target, max_points - 1)

    def take(values, rows, mask):
        return jnp.where(mask[..., None], jnp.take_along_axis(values, rows[..., None], axis=1), 0.0)

    context = take(x, at_context, context_mask), take(y, at_context, context_mask), context_mask
    return Tasks(*context, take(x, at_target, target_mask), take(y, at_target, target_mask), target_mask)


def require_count(name: str, value: Any, least: int) -> None:
    """Raise ValueError unless a value is an integer of at least `least`. Loaders know nothing of the kernels' own."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def require_point_counts(max_points: Any, min_context: Any, min_target: Any) -> None:
    """Raise ValueError unless the least numbers of points fit into the largest."""
    require_count("min_context", min_context, 0)
    require_count("min_target", min_target, 1)
    require_count("max_points", max_points, min_context + min_target)
