"""What a one-step predictive is, and one step forward with it.

A predictive says what the next observation is likely to be, given those so far. Three functions are all it needs:

    init(data) -> state          what is known after the data
    sample(key, state) -> y      a draw of the next observation
    update(state, y) -> state    what is known after it

Sources: Fong, Holmes & Walker (2023), Martingale posterior distributions; Berti, Pratelli & Rigo (2004), Limit
theorems for a class of identically distributed random variables.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree


class Predictive(Protocol):
    """What `martingale_posterior` and `check_martingale` ask of a predictive.

    `sample` and `update` are compiled and vectorised: they are functions of one state, made of JAX operations, and a
    state keeps its structure, shapes and kinds of numbers. With `compiled = False` they are called as they are, and
    `sample` gets a `numpy.random.Generator` in place of a key; then a state may be any object, which is copied before
    its first update.

    A predictive may offer more:

    - `limit(key, state)`: a draw of the state after infinitely many observations, for `n_forward=math.inf`;
    - `empirical(state)`: pair (atoms, weights), the empirical law of all observations, if the state holds it;
    - `observation(y)`: the observation in a draw, where `sample` returns more than that;
    - `log_prob(state, y)` and `cdf(state, y)`: of the next observation, for functionals;
    - `draws_are_data = False` says that `sample` returns something else than an observation.
    """

    def init(self, data: Any) -> Any: ...

    def sample(self, key: Any, state: Any) -> Any: ...

    def update(self, state: Any, y: Any) -> Any: ...


class _Once:
    """A plain object's functions, compiled anew in each call: its attributes may have changed since the last."""

    def __init__(self, predictive: Predictive):
        self.sample, self.update = predictive.sample, predictive.update
        self.limit = getattr(predictive, "limit", None)
        self.empirical = getattr(predictive, "empirical", None)
        self.observation = getattr(predictive, "observation", lambda y: y)


def require_predictive(predictive: Any) -> None:
    """Raise TypeError unless an object has the three functions of a predictive."""
    missing = [name for name in ("init", "sample", "update") if not callable(getattr(predictive, name, None))]
    if missing:
        raise TypeError(
            f"predictive must have the methods init(data), sample(key, state) and update(state, y); "
            f"{type(predictive).__name__} has no {' and no '.join(missing)}"
        )


def observation(predictive: Any, draw: PyTree) -> PyTree:
    """The observation in a draw."""
    inside = getattr(predictive, "observation", None)
    return draw if inside is None else inside(draw)


def is_compiled(predictive: Predictive) -> bool:
    """Whether its functions can be traced, as they can unless it says `compiled = False`."""
    return bool(getattr(predictive, "compiled", True))


def count_observations(data: Any) -> int:
    """Number of observations in arrays that share their leading axis; 0 for None and an empty pytree.

    Raises:
        ValueError: a value is NaN or infinite, or the leading axes differ.

    >>> count_observations((np.zeros((3, 2)), np.zeros(3)))
    3
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(data)]
    for leaf in leaves:
        if leaf.ndim == 0:
            raise ValueError("data must be arrays whose leading axis counts observations, got a single number")
        if leaf.dtype.kind in "fc" and (n_bad := np.count_nonzero(~np.isfinite(leaf))):
            raise ValueError(f"data must be finite, got {n_bad} values that are NaN or infinite")
    counts = {len(leaf) for leaf in leaves}
    if len(counts) > 1:
        raise ValueError(f"data must agree in the leading axis, got lengths {sorted(counts)}")
    return counts.pop() if counts else 0


def traceable(predictive: Predictive) -> Any:
    """The predictive as an argument of compiled functions: pytrees as they are, other objects compiled once a call."""
    leaves = jax.tree.leaves(predictive)
    return _Once(predictive) if len(leaves) == 1 and leaves[0] is predictive else predictive


def settled(predictive: Any, key: Array, state: PyTree) -> PyTree:
    """A first state whose numbers have the types that they keep in updates.

    Raises:
        ValueError: `update` returns a state of another structure, or of other shapes.
    """
    state = jax.tree.map(jnp.asarray, state)
    for _ in range(3):
        draw = jax.eval_shape(predictive.sample, key, state)
        after = jax.eval_shape(predictive.update, state, draw)
        if _form(after) != _form(state):
            raise ValueError(f"update must return a state of the form {_form(state)}; it returns {_form(after)}")
        before = state
        state = jax.tree.map(lambda old, new: old.astype(jnp.promote_types(old.dtype, new.dtype)), state, after)
        if all(
            old.dtype == new.dtype for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(state), strict=True)
        ):
            break
    return state


def step(predictive: Any, key: Array, state: PyTree, i: Any) -> tuple[PyTree, PyTree]:
    """Draw observation i of a future from the state, and update the state by it; traceable."""
    draw = predictive.sample(jax.random.fold_in(key, i), state)
    after = predictive.update(state, draw)
    return draw, jax.tree.map(lambda old, new: jnp.asarray(new).astype(old.dtype), state, after)


def advance(predictive: Any, key: Array, state: PyTree, first: Any, last: Any) -> PyTree:
    """The state after the draws `first` to `last` - 1 of a future; traceable, also in the two numbers."""
    return jax.lax.fori_loop(first, last, lambda i, now: step(predictive, key, now, i)[1], state)


def generator(key: Array, index: int) -> np.random.Generator:
    """A NumPy generator for one future on the host."""
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    return np.random.default_rng([*words, index])


def _form(tree: PyTree) -> str:
    return str(jax.tree.map(lambda leaf: list(leaf.shape), tree))
