"""State-space models: a hidden Markov process of any kind, seen through observations.

    x_0 ~ initial,   x_t ~ transition(x_{t-1}),   y_t ~ observation(x_t),   t = 0, ..., T - 1

The model is written for one particle with NumPyro's distributions; filters, smoothers and samplers turn it into array
programs for whole populations.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PyTree

from uqsparse.inference.populations import Density, distributions_in, draw, draw_sources, log_prob, plan_draws

__all__ = ["Density", "Series", "StateSpaceModel", "complete_log_density", "prepare_series", "simulate"]

Missing = Literal["error", "skip"]


class StateSpaceModel(eqx.Module):
    """A hidden Markov process and how it is observed.

    Each function returns a NumPyro distribution, a `Density` of two plain functions, or a pytree of them, which then
    are independent; states and observations have the same structure. States may be continuous or discrete, arrays or
    pytrees of arrays. Functions are written for one particle.

    Args:
        initial: `initial(parameters, inputs)`, distribution of the first state x_0.
        transition: `transition(parameters, state, inputs)`, distribution of x_t given x_{t-1}.
        observation: `observation(parameters, state, inputs)`, distribution of y_t given x_t.
        prior: NumPyro model function without arguments that samples the parameters; they reach the functions above as
            a dictionary by site name, deterministic sites included. Only what learns parameters needs it.

    `inputs` is the row of the exogenous inputs at the time of the state that is drawn or observed, None without inputs.

    >>> import numpyro.distributions as dist
    >>> walk = StateSpaceModel(
    ...     initial=lambda parameters, inputs: dist.Normal(0.0, 1.0),
    ...     transition=lambda parameters, state, inputs: dist.Normal(state, parameters["step"]),
    ...     observation=lambda parameters, state, inputs: dist.Poisson(jnp.exp(state)),
    ... )
    >>> states, counts = simulate(jax.random.key(0), walk, 5, {"step": 0.1})
    >>> states.shape, counts.shape
    ((5,), (5,))
    """

    initial: Callable[[PyTree, PyTree], PyTree]
    transition: Callable[[PyTree, PyTree, PyTree], PyTree]
    observation: Callable[[PyTree, PyTree, PyTree], PyTree]
    prior: Callable[[], Any] | None = None

    def __check_init__(self):
        for name in ("initial", "transition", "observation"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function, got a {type(getattr(self, name)).__name__}")
        if self.prior is not None and not callable(self.prior):
            raise TypeError(f"prior must be a NumPyro model function, got a {type(self.prior).__name__}")


class Series(NamedTuple):
    """Observations and inputs, checked and ready for a scan.

    Args:
        observations: pytree with leading axis T; rows that are missing hold another row's values.
        missing: per leaf of the observations a boolean array (T,); None if nothing is missing.
        inputs: pytree with leading axis T, or None.
    """

    observations: PyTree
    missing: list[Bool[Array, " T"]] | None
    inputs: PyTree

    @property
    def n_steps(self) -> int:
        """T."""
        return jnp.shape(jax.tree.leaves(self.observations)[0])[0]


def prepare_series(observations: PyTree, inputs: PyTree = None, missing: Missing = "error") -> Series:
    """Check observations and inputs, and set missing rows apart.

    Args:
        observations: array or pytree of arrays with common leading axis T.
        inputs: array or pytree of arrays with the same leading axis, or None.
        missing: "error" refuses NaN. "skip" takes a row that is NaN throughout as not observed; leaves of a pytree
            may be missing one by one.

    Raises:
        ValueError: lengths differ, T is 0, a value is infinite or NaN, or a row is NaN in part.
    """
    if missing not in ("error", "skip"):
        raise ValueError(f"missing must be 'error' or 'skip', got {missing!r}")
    named = [
        ("observations" + jax.tree_util.keystr(p), x) for p, x in jax.tree_util.tree_leaves_with_path(observations)
    ]
    if not named:
        raise ValueError("observations is empty: expected an array or a pytree of arrays with leading axis T")
    named += [("inputs" + jax.tree_util.keystr(at), x) for at, x in _with_paths(inputs)]
    n_steps = np.shape(named[0][1])[0] if np.ndim(named[0][1]) else 0
    for name, leaf in named:
        if not np.ndim(leaf) or np.shape(leaf)[0] != n_steps or not n_steps:
            raise ValueError(
                f"{name} has shape {np.shape(leaf)}; all observations and inputs share a leading axis of T >= 1 steps"
            )
    for name, leaf in named[len(jax.tree.leaves(observations)) :]:
        _require_finite_rows(name, leaf)

    leaves, structure = jax.tree.flatten(observations)
    flags = []
    for i, leaf in enumerate(leaves):
        name = named[i][0]
        if missing == "skip" and not isinstance(leaf, Tracer):
            leaf, flag = _set_apart(name, np.asarray(leaf))
            leaves[i] = leaf
            flags.append(jnp.asarray(flag))
        else:
            _require_finite_rows(name, leaf)
            flags.append(jnp.zeros(n_steps, bool))
    any_missing = missing == "skip" and any(isinstance(f, Tracer) or np.any(f) for f in flags)
    observations = jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in leaves])
    return Series(observations, flags if any_missing else None, jax.tree.map(jnp.asarray, inputs))


def prepare_inputs(inputs: PyTree, n_steps: int) -> PyTree:
    """Check inputs alone, for what follows a filter run.

    Raises:
        ValueError: a length is not T, or a value is NaN or infinite.
    """
    for at, leaf in _with_paths(inputs):
        name = "inputs" + jax.tree_util.keystr(at)
        if not np.ndim(leaf) or np.shape(leaf)[0] != n_steps:
            raise ValueError(f"{name} has shape {np.shape(leaf)}; the filter ran over {n_steps} steps")
        _require_finite_rows(name, leaf)
    return jax.tree.map(jnp.asarray, inputs)


def require_fitting_rows(model: StateSpaceModel, parameters: PyTree, state: PyTree, series: Series) -> None:
    """Compare the observations' structure and shape with the distributions that are to explain them (at trace time).

    Raises:
        ValueError: naming the observation.
    """
    found: list[tuple[str, tuple[int, ...]]] = []
    n_distributions = 0

    def probe(state):
        nonlocal n_distributions
        for one in distributions_in(model.observation(parameters, state, row(series.inputs, 0))):
            n_distributions += 1
            if hasattr(one, "shape"):
                found.append((type(one).__name__, tuple(one.shape())))
        return 0

    jax.eval_shape(probe, state)
    leaves = _with_paths(series.observations)
    if n_distributions > len(found):
        return  # a Density does not tell its shape
    if len(leaves) != len(found):
        raise ValueError(f"observations has {len(leaves)} leaves, the observation function gives {len(found)}")
    for (path, rows), (kind, shape) in zip(leaves, found, strict=True):
        if jnp.shape(rows)[1:] != shape:
            raise ValueError(
                f"observations{jax.tree_util.keystr(path)} has rows of shape {jnp.shape(rows)[1:]}, their distribution "
                f"{kind} has shape {shape}"
            )


def simulate(
    key: Array, model: StateSpaceModel, n_steps: int, parameters: PyTree = None, inputs: PyTree = None
) -> tuple[PyTree, PyTree]:
    """Draw states and observations from a model.

    Args:
        key: random key, typed or legacy.
        model: the model.
        n_steps: T, at least 1.
        parameters: passed to the model's functions.
        inputs: exogenous inputs with leading axis T, or None.

    Returns:
        States and observations, each with leading axis T.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    inputs = jax.tree.map(jnp.asarray, inputs)

    def observe(key, state, now):
        tree = model.observation(parameters, state, now)
        return _draw_with(key, tree)

    def step(state, x):
        key, now = x
        key_state, key_seen = jax.random.split(key)
        state = as_carry(_draw_with(key_state, model.transition(parameters, state, now)), state)
        return state, (state, observe(key_seen, state, now))

    key_first, key_seen, key_rest = jax.random.split(key, 3)
    first = row(inputs, 0)
    state = _draw_with(key_first, model.initial(parameters, first))
    seen = observe(key_seen, state, first)
    rest = jax.tree.map(lambda x: x[1:], inputs)
    _, later = jax.lax.scan(step, state, (jax.random.split(key_rest, n_steps - 1), rest))
    return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs.astype(x.dtype)]), (state, seen), later)


def complete_log_density(model: StateSpaceModel, parameters: PyTree, path: PyTree, series: Series) -> Float[Array, ""]:
    """Joint log density of a path of states and the observations, given the parameters.

    Args:
        model: the model; its initial and transition distributions need log densities.
        parameters: passed to the model's functions.
        path: states with leading axis T.
        series: what `prepare_series` returned.
    """
    first = log_prob(model.initial(parameters, row(series.inputs, 0)), row(path, 0))
    before, after = jax.tree.map(lambda x: x[:-1], path), jax.tree.map(lambda x: x[1:], path)
    later_inputs = jax.tree.map(lambda x: x[1:], series.inputs)
    moved = jax.vmap(lambda x, u, new: log_prob(model.transition(parameters, x, u), new))(before, later_inputs, after)

    def observed(state, now, seen, missing):
        return log_prob(model.observation(parameters, state, now), seen, missing)

    seen = jax.vmap(observed)(path, series.inputs, series.observations, series.missing)
    return first + jnp.sum(moved) + jnp.sum(seen)


def row(tree: PyTree, t: Any) -> PyTree:
    """Take the row t of every leaf."""
    return jax.tree.map(lambda x: x[t], tree)


def as_carry(new: PyTree, old: PyTree) -> PyTree:
    """Give new states the types of the old ones, which a scan carries.

    Raises:
        ValueError: if structure or shape differ.
    """
    if jax.tree.structure(new) != jax.tree.structure(old) or any(
        jnp.shape(a) != jnp.shape(b) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
    ):
        raise ValueError(f"transition gives states like {_outline(new)}, initial gives {_outline(old)}")
    return jax.tree.map(lambda a, b: a.astype(b.dtype), new, old)


_with_paths = jax.tree_util.tree_leaves_with_path


def _outline(tree: PyTree) -> str:
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(jnp.shape(x))}", tree))


def _draw_with(key: Array, tree: PyTree) -> PyTree:
    plan = plan_draws(lambda: tree)
    return draw(tree, [source[0] for source in draw_sources(key, plan, 1)])


def _require_finite_rows(name: str, leaf: Any) -> None:
    if isinstance(leaf, Tracer):
        return
    array = np.asarray(leaf)
    if array.dtype.kind not in "fc" or not array.size:
        return
    bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if bad.any():
        t = int(np.argmax(bad))
        hint = "; pass missing='skip' if NaN rows are missing observations" if name.startswith("obs") else ""
        raise ValueError(f"{name} has NaN or infinite values in {int(bad.sum())} row(s), first at t = {t}{hint}")


def _set_apart(name: str, leaf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flags of the rows that are NaN throughout, which are filled with another row so that densities stay finite."""
    if leaf.dtype.kind != "f":
        _require_finite_rows(name, leaf)
        return leaf, np.zeros(len(leaf), bool)
    is_nan = np.isnan(leaf).reshape(len(leaf), -1)
    flag = np.asarray(is_nan.all(axis=1))
    in_part = is_nan.any(axis=1) & ~flag
    if in_part.any():
        raise ValueError(
            f"{name} is NaN in part of row t = {int(np.argmax(in_part))}; give components that may be missing one by "
            "one as leaves of a pytree, with a distribution each"
        )
    _require_finite_rows(name, leaf[~flag])
    filled = leaf.copy()
    filled[flag] = leaf[~flag][0] if not flag.all() else 0.0
    return filled, flag
