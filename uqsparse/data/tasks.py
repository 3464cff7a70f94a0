"""Streams of small tasks for learning from few: regression sets with a context, and episodes with a support set."""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num

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


class FewShotTasks(NamedTuple):
    """T episodes: learn from the support set, be judged on the queries.

    Args:
        support_x: inputs, shape (T, S, dx).
        support_y: numbers, shape (T, S, dy), or classes 0, ..., n_way - 1 as integers, shape (T, S).
        query_x: inputs, shape (T, Q, dx).
        query_y: as `support_y`, shape (T, Q, dy) or (T, Q).
    """

    support_x: Float[Array, "T S dx"]
    support_y: Num[Array, "T S ..."]
    query_x: Float[Array, "T Q dx"]
    query_y: Num[Array, "T Q ..."]


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
    _require_count("n_tasks", n_tasks, 1)
    _require_count("x_size", x_size, 1)
    _require_counts(max_points, min_context, min_target)
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
    return _split(key_counts, x, y[..., None], counts), laws


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


def image_completion_tasks(
    key: Key[Array, ""],
    images: Float[Any, "n height width *channels"],
    n_tasks: int,
    *,
    max_points: int | None = None,
    min_context: int = 3,
    min_target: int = 3,
) -> Tasks:
    """Predict pixels of an image from some others of it: inputs are coordinates, outputs are intensities less 0.5.

    Images are drawn with replacement, pixels without. Coordinates (row, column) go from -1 to 1. The numbers of points
    are drawn as in `gp_tasks`. For use under `jit` as it is, where the images are not traced.

    Args:
        key: random key.
        images: intensities in [0, 1], shape (n, height, width) or (n, height, width, channels).
        n_tasks: T, at least 1.
        max_points: context and targets together have at most so many pixels; 200, or all where there are fewer.
        min_context: least number of pixels in a context, at least 0.
        min_target: least number of targets, at least 1.

    Returns:
        Tasks with dx = 2 and dy the number of channels.

    Raises:
        ValueError: images that are not finite, lie outside [0, 1] or have another shape; a count out of range.

    Source: Garnelo et al. (2018), Conditional neural processes, ICML, section 4.2.

    >>> image_completion_tasks(jax.random.key(0), np.zeros((5, 8, 8)), 2).target_y.shape
    (2, 61, 1)
    """
    pixels = np.asarray(images, np.float32)
    if pixels.ndim not in (3, 4) or 0 in pixels.shape:
        raise ValueError(
            f"images must have shape (n, height, width) or (n, height, width, channels), got {pixels.shape}"
        )
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError("images must hold finite intensities in [0, 1]; divide them by their largest value")
    _require_count("n_tasks", n_tasks, 1)
    n_images, height, width = pixels.shape[:3]
    n_pixels = height * width
    max_points = min(200, n_pixels) if max_points is None else max_points
    _require_counts(max_points, min_context, min_target)
    if max_points > n_pixels:
        raise ValueError(f"max_points is {max_points}, and an image has {n_pixels} pixels")
    return _image_tasks(
        key,
        pixels.reshape(n_images, n_pixels, -1) - 0.5,
        pixel_coordinates(height, width),
        n_tasks,
        (max_points, min_context, min_target),
    )


def pixel_coordinates(height: int, width: int) -> Float[np.ndarray, "pixels 2"]:
    """Coordinates (row, column) of the pixels of an image from -1 to 1, row by row; a side of one pixel is at 0.

    >>> pixel_coordinates(2, 1).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    sides = [np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1) for n in (height, width)]
    return np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


@partial(jax.jit, static_argnums=(3, 4))
def _image_tasks(key, values, coordinates, n_tasks, counts):
    key_image, key_pixel, key_counts = jax.random.split(key, 3)
    which = jax.random.randint(key_image, (n_tasks,), 0, len(values))
    order = jax.vmap(lambda k: jax.random.permutation(k, len(coordinates)))(jax.random.split(key_pixel, n_tasks))
    chosen = order[:, : counts[0]]
    return _split(key_counts, coordinates[chosen], values[which[:, None], chosen], counts)


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


def sine_line_tasks(
    key: Key[Array, ""],
    n_tasks: int,
    *,
    n_support: int = 5,
    n_query: int = 15,
    noise: float = 0.3,
) -> FewShotTasks:
    """Draw regressions that are a sine wave or a straight line, with probability one half each.

    The wave is `a sin(x + b)` with a uniform on [0.1, 5] and b on [0, pi]; the line has slope and intercept uniform on
    [-3, 3]. Inputs are uniform on [-5, 5], and every output carries Gaussian noise. For use under `jit` as it is.

    Args:
        key: random key.
        n_tasks: T, at least 1.
        n_support: S, at least 1.
        n_query: Q, at least 1.
        noise: standard deviation, at least 0.

    Raises:
        ValueError: an argument is out of range.

    Source: Finn, Xu & Levine (2018), Probabilistic model-agnostic meta-learning, NeurIPS 31, section 6.

    >>> sine_line_tasks(jax.random.key(0), 3).query_y.shape
    (3, 15, 1)
    """
    _require_count("n_tasks", n_tasks, 1)
    _require_count("n_support", n_support, 1)
    _require_count("n_query", n_query, 1)
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise must be a number of at least 0, got {noise!r}")
    return _sine_line_tasks(key, n_tasks, n_support, n_query, float(noise))


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _sine_line_tasks(key, n_tasks, n_support, n_query, noise):
    key_x, key_law, key_noise = jax.random.split(key, 3)
    x = jax.random.uniform(key_x, (n_tasks, n_support + n_query, 1), minval=-5.0, maxval=5.0)
    u = jax.random.uniform(key_law, (5, n_tasks, 1, 1))
    wave = (0.1 + 4.9 * u[0]) * jnp.sin(x + jnp.pi * u[1])
    line = (6 * u[2] - 3) * x + (6 * u[3] - 3)
    y = jnp.where(u[4] < 0.5, wave, line) + noise * jax.random.normal(key_noise, x.shape)
    return FewShotTasks(x[:, :n_support], y[:, :n_support], x[:, n_support:], y[:, n_support:])


def classification_tasks(
    key: Key[Array, ""],
    features: Float[Any, "n d"],
    labels: Int[Any, " n"],
    n_tasks: int,
    *,
    n_way: int,
    n_shot: int,
    n_query: int,
) -> FewShotTasks:
    """Draw episodes from a labelled table: `n_way` of its classes, renumbered, with `n_shot + n_query` rows of each.

    Classes and rows are drawn without replacement; no row is in support and queries both. Support and queries are
    ordered by class. For use under `jit` as it is, where the table is not traced.

    Args:
        key: random key.
        features: the table.
        labels: its classes, any integers.
        n_tasks: T, at least 1.
        n_way: classes in an episode, from 2 to the number of classes.
        n_shot: rows of each class in the support, at least 1.
        n_query: rows of each class among the queries, at least 1.

    Returns:
        Episodes with S = `n_way n_shot`, Q = `n_way n_query`, and classes 0, ..., `n_way - 1`.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, or a class with fewer rows than are asked for.

    Source: Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra (2016), Matching networks for one shot learning, NIPS.

    >>> labels = np.repeat([3, 5, 9], 4)
    >>> tasks = classification_tasks(jax.random.key(0), np.eye(12), labels, 2, n_way=2, n_shot=1, n_query=3)
    >>> tasks.support_y.tolist(), tasks.query_x.shape
    ([[0, 1], [0, 1]], (2, 6, 12))
    """
    features, labels = np.asarray(features, np.float32), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features must have shape (n, d) and labels (n,), got {features.shape} and {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if not np.isfinite(features).all():
        raise ValueError("features must be finite, got NaN or infinite values")
    for name, value, least in (("n_tasks", n_tasks, 1), ("n_way", n_way, 2), ("n_shot", n_shot, 1)):
        _require_count(name, value, least)
    _require_count("n_query", n_query, 1)
    classes, sizes = np.unique(labels, return_counts=True)
    if n_way > len(classes):
        raise ValueError(f"n_way is {n_way}, and there are {len(classes)} classes")
    if sizes.min() < n_shot + n_query:
        raise ValueError(
            f"n_shot + n_query is {n_shot + n_query}, and class {classes[sizes.argmin()]} has {sizes.min()} rows"
        )
    # One row of indices a class, filled up with -1.
    members = np.full((len(classes), sizes.max()), -1)
    for row, one in zip(members, classes, strict=True):
        found = np.flatnonzero(labels == one)
        row[: len(found)] = found
    return _classification_tasks(key, features, members, n_tasks, n_way, n_shot, n_query)


@partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _classification_tasks(key, features, members, n_tasks, n_way, n_shot, n_query):
    def one(key):
        key_class, key_row = jax.random.split(key)
        chosen = members[jax.random.permutation(key_class, len(members))[:n_way]]
        ranks = jnp.where(chosen < 0, 2.0, jax.random.uniform(key_row, chosen.shape))
        return jnp.take_along_axis(chosen, jnp.argsort(ranks, axis=1), axis=1)[:, : n_shot + n_query]

    rows = jax.vmap(one)(jax.random.split(key, n_tasks))

    def part(taken, n) -> tuple[Array, Array]:
        label = jnp.broadcast_to(jnp.repeat(jnp.arange(n_way), n), (n_tasks, n_way * n))
        return features[taken].reshape(n_tasks, n_way * n, -1), label

    return FewShotTasks(*part(rows[..., :n_shot], n_shot), *part(rows[..., n_shot:], n_query))


def _split(key, x, y, counts) -> Tasks:
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


def _require_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def _require_counts(max_points: Any, min_context: Any, min_target: Any) -> None:
    _require_count("min_context", min_context, 0)
    _require_count("min_target", min_target, 1)
    _require_count("max_points", max_points, min_context + min_target)
