"""Statistics of parameters and data, squashed into [-1/2, 1/2] by scales that a pilot sample fixes.

A bet needs numbers whose bounds are known before they are seen. So every statistic is centred, scaled and put through a
tanh, and none of the three may depend on the draws it is then used on.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

Statistic = Callable[[Any, Any], Any]

# So many numbers of y are multiplied with theta as they are; longer data by so many combinations with random signs.
_MAX_DATA_FEATURES = 8


class Frame(eqx.Module):
    """Location and scale of k numbers, shape (k,) each."""

    centre: Float[Array | np.ndarray, " k"]
    scale: Float[Array | np.ndarray, " k"]

    def __call__(self, values: Float[Array, " k"]) -> Float[Array, " k"]:
        return (values - self.centre) / self.scale


class TestFunctions(eqx.Module):
    """Functions of (theta, y) with values in [-1/2, 1/2]; `fit_test_functions` makes them."""

    __test__: ClassVar[bool] = False  # pytest takes its name for that of a test

    raw: Callable[[Any, Any], Float[Array, " s"]]
    frame: Frame

    def __call__(self, theta: Any, y: Any) -> Float[Array, " s"]:
        """The squashed statistics; NaN where a statistic is."""
        return 0.5 * jnp.tanh(self.frame(self.raw(theta, y)))


def fit_test_functions(
    statistics: Any, log_likelihood: Statistic | None, theta: PyTree, y: PyTree
) -> tuple[TestFunctions, tuple[str, ...]]:
    """Choose statistics, and their scales from a pilot sample.

    Args:
        statistics: function of (theta, y) to a pytree of numbers, or a sequence or a dictionary of such functions; None
            for each number in theta, its square, its products with the numbers in y, and the log likelihood.
        log_likelihood: function of (theta, y) to a number, or None.
        theta: pilot draws, a pytree of numbers with a leading axis.
        y: the data drawn with them, with the same leading axis.

    Returns:
        The statistics and their names.

    Raises:
        TypeError: a statistic is not callable.
        ValueError: there is no statistic, or one of them is NaN on the pilot sample.
    """
    functions = _named(statistics, log_likelihood)
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"statistics must be functions of theta and y, got {function!r} for {name}")
    one_theta, one_y = jax.tree.map(lambda a: a[0], (theta, y))
    names: list[str] = []
    parts: list[Statistic] = []
    if statistics is None:
        standard = _Defaults(_fit(_table(theta)), _fit(_table(y)))
        names += standard.names(one_theta, one_y)
        parts.append(standard)
    for name, function in functions.items():
        labels = number_names(jax.eval_shape(function, one_theta, one_y))
        names += [name + label for label in labels]
        parts.append(_Flat(function))
    if not names:
        raise ValueError("statistics give no numbers: there is nothing to test")
    raw = _Joined(tuple(parts))
    values = np.asarray(_on_pilot(raw, theta, y))
    if np.isnan(values).any():
        row, i = (int(k) for k in np.argwhere(np.isnan(values))[0])
        place = jax.tree.map(lambda a: np.asarray(a[row]), (theta, y))
        raise ValueError(f"the statistic {names[i]} is NaN at theta = {place[0]}, y = {place[1]}")
    return TestFunctions(raw, _fit(values)), tuple(names)


def flatten(tree: PyTree) -> Float[Array, " k"]:
    """All numbers in a pytree as one vector; truth values and integers count as numbers, random keys do not."""
    leaves = [jnp.ravel(jnp.asarray(leaf)).astype(float) for leaf in jax.tree.leaves(tree) if _is_numeric(leaf)]
    return jnp.concatenate([*leaves, jnp.zeros(0)])


def number_names(tree: PyTree) -> list[str]:
    """A name for each number that `flatten` returns: the path to its leaf and its index there; "" for a bare number."""
    names = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if _is_numeric(leaf):
            stem = jax.tree_util.keystr(path)
            names += [stem + (f"[{', '.join(map(str, i))}]" if i else "") for i in np.ndindex(jnp.shape(leaf))]
    return names


def _is_numeric(leaf: Any) -> bool:
    return not jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def _named(statistics: Any, log_likelihood: Statistic | None) -> dict[str, Any]:
    if statistics is None:
        chosen = {}
    elif isinstance(statistics, dict):
        chosen = {str(name): function for name, function in statistics.items()}
    else:
        listed = statistics if isinstance(statistics, Sequence) else [statistics]
        chosen = {}
        for i, function in enumerate(listed):
            name = getattr(function, "__name__", type(function).__name__)
            chosen[f"statistic {i}" if name == "<lambda>" or name in chosen else name] = function
    return chosen if log_likelihood is None else {**chosen, "log likelihood": log_likelihood}


class _Flat(eqx.Module):
    """A user's function, its numbers as a vector."""

    function: Statistic

    def __call__(self, theta: Any, y: Any) -> Float[Array, " k"]:
        return flatten(self.function(theta, y))


class _Joined(eqx.Module):
    parts: tuple[Statistic, ...]

    def __call__(self, theta: Any, y: Any) -> Float[Array, " s"]:
        return jnp.concatenate([part(theta, y) for part in self.parts])


class _Defaults(eqx.Module):
    """Each number in theta, its square, and its products with features of y, after standardisation.

    A statistic of theta alone cannot see a kernel that ignores the data and keeps the prior: the products can.
    """

    theta_frame: Frame
    y_frame: Frame

    def __call__(self, theta: Any, y: Any) -> Float[Array, " s"]:
        u, v = self.theta_frame(flatten(theta)), self.y_frame(flatten(y))
        # What is missing in y says nothing about theta.
        features = _mix(v.size) @ jnp.where(jnp.isnan(v), 0.0, v)
        return jnp.concatenate([u, u**2, (u[:, None] * features).ravel()])

    def names(self, theta: Any, y: Any) -> list[str]:
        of_theta = [f"theta{name}" for name in number_names(theta)]
        of_y = [f"y{name}" for name in number_names(y)]
        if len(of_y) > _MAX_DATA_FEATURES:
            of_y = ["the sum of y", *(f"signed sum {i} of y" for i in range(1, _MAX_DATA_FEATURES))]
        squares = [f"{name} squared" for name in of_theta]
        return of_theta + squares + [f"{first} times {second}" for first in of_theta for second in of_y]


def _mix(size: int) -> Float[np.ndarray, "k size"]:
    if size <= _MAX_DATA_FEATURES:
        return np.eye(size)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (_MAX_DATA_FEATURES, size))
    signs[0] = 1.0
    return signs / math.sqrt(size)


def _table(tree: PyTree) -> Float[np.ndarray, "n k"]:
    """What `flatten` makes of each row."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree) if _is_numeric(leaf)]
    rows = [leaf.reshape(len(leaf), -1).astype(np.float64) for leaf in leaves]
    return np.concatenate(rows, axis=1) if rows else np.zeros((1, 0))


def _fit(values: Float[np.ndarray, "n k"]) -> Frame:
    """Middle and half the distance of the outer deciles, which heavy tails do not move."""
    if not values.shape[1]:
        return Frame(np.zeros(0), np.ones(0))
    table = np.where(np.isfinite(values), values, np.nan)
    table = np.where(np.isnan(table).all(axis=0), 0.0, table)
    low, high = np.nanquantile(table, [0.1, 0.9], axis=0)
    # Half and twice this scale make a wrong kernel's drift about as clear.
    centre, scale = (low + high) / 2, (high - low) / 2
    # A number that hardly ever differs, such as the label of a model of small probability, has a scale all the same.
    spread = np.nanmax(np.abs(table - centre), axis=0)
    return Frame(centre, np.where(scale > 0, scale, np.where(spread > 0, spread, 1.0)))


@eqx.filter_jit
def _on_pilot(raw: Statistic, theta: PyTree, y: PyTree) -> Float[Array, "n s"]:
    return jax.vmap(raw)(theta, y)
