"""Episodes for learning from few: a support set to learn from, and queries to be judged on."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from uqsparse.data.tasks import require_count


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
    require_count("n_tasks", n_tasks, 1)
    require_count("n_support", n_support, 1)
    require_count("n_query", n_query, 1)
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
        require_count(name, value, least)
    require_count("n_query", n_query, 1)
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
