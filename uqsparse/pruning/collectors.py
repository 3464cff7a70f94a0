"""What criteria need beside weights and gradients, gathered by running the model."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from uqsparse.nn.tree_paths import path_name
from uqsparse.pruning.masks import is_unit


def grasp_stats(loss: Callable[[PyTree, Any], Float[Array, ""]], params: PyTree, batches: Iterable[Any]) -> PyTree:
    """H g for `grasp`, with gradient g and Hessian H of the loss summed over the batches.

    The authors divide logits by a temperature of 200 inside the loss, which makes it nearly quadratic, and take 25
    examples of each class in two batches. A factor on the loss itself changes no selection.

    Args:
        loss: `loss(params, batch)`, a scalar, twice differentiable.
        params: parameters; all of them count in g and H.
        batches: one or more batches, gone through twice.

    Returns:
        Tree of the parameters' structure.

    Source: Wang, Zhang & Grosse (2020), Picking winning tickets before training by preserving gradient flow,
    Algorithm 1.

    >>> A = jnp.array([[2.0, 1.0], [1.0, 3.0]])
    >>> grasp_stats(lambda w, scale: scale * w @ A @ w / 2, jnp.array([1.0, 0.0]), [1.0]).tolist()
    [5.0, 5.0]
    """
    batches = list(batches)
    if not batches:
        raise ValueError("batches is empty")

    # Compiled once for all batches.
    @jax.jit
    def product(params: PyTree, direction: PyTree, batch: Any) -> PyTree:
        return jax.jvp(lambda tree: jax.grad(loss)(tree, batch), (params,), (direction,))[1]

    gradient = jax.jit(jax.grad(loss))
    g = _sum(gradient(params, batch) for batch in batches)
    return _sum(product(params, g, batch) for batch in batches)


def _sum(trees: Iterable[PyTree]) -> PyTree:
    total: Any = None
    for tree in trees:
        total = tree if total is None else jax.tree.map(jnp.add, total, tree)
    return total


def movement_stats(total: PyTree | None, params: PyTree, grads: PyTree) -> PyTree:
    """Add -w g of one step to what was gathered so far, for `movement`.

    Args:
        total: the sum so far; None starts.
        params: parameters before the step.
        grads: gradients at them.
    """
    step = jax.tree.map(lambda w, g: -w * g, params, grads)
    return step if total is None else jax.tree.map(jnp.add, total, step)


def input_norms(
    x: Float[Array, "*batch inputs"], previous: Float[Array, " inputs"] | None = None
) -> Float[Array, " inputs"]:
    """Euclidean norm of each input over all examples, for `wanda`.

    Args:
        x: what enters the layer, inputs last.
        previous: norms over earlier batches, which are added to.

    >>> input_norms(jnp.array([[3.0, 0.0], [4.0, 1.0]]), previous=jnp.array([12.0, 0.0])).tolist()
    [13.0, 1.0]
    """
    squares = jnp.square(x).reshape(-1, x.shape[-1]).sum(axis=0)
    return jnp.sqrt(squares if previous is None else squares + jnp.square(previous))


def stats_at(params: PyTree, by_path: Mapping[str, Any]) -> PyTree:
    """Statistics named by the path of their weight, as the tree that criteria take.

    Args:
        params: parameters.
        by_path: statistics by path, such as {"layers.0.weight": norms}.

    Raises:
        ValueError: there is no leaf of that path.

    >>> stats_at({"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, {"w": 3.0})
    {'b': None, 'w': 3.0}
    """
    left = dict(by_path)
    found = jax.tree_util.tree_map_with_path(lambda path, _: left.pop(path_name(path), None), params, is_leaf=is_unit)
    if left:
        raise ValueError(f"params has no leaf {', '.join(map(repr, left))}")
    return found
