"""Running a recursion over a series: by a plain loop for NumPy, compiled for JAX and for long series."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uqsparse.kernels.namespaces import array_namespace

# Steps up to which a loop in Python takes less time than compiling one.
MOST_PLAIN_STEPS = 1_000


def recursion(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any) -> tuple[Any, Any]:
    """`jax.lax.scan` for JAX arrays, and the same for NumPy arrays: in NumPy or, if they are long, compiled.

    Args:
        step: maps (carry, x) to (carry, output); it has to work in NumPy and in jax.numpy. A function of a module, not
            one made anew for each call, is compiled once for each length.
        carry: arrays to start from, of the shapes and types that `step` returns.
        xs: arrays with an axis of time in front, all of one length, at least 1.

    Returns:
        The last carry, and the outputs stacked along a first axis; NumPy arrays if all inputs were.

    >>> recursion(lambda total, x: (total + x, total), np.array(0.0), np.array([1.0, 2.0, 3.0]))[1].tolist()
    [0.0, 1.0, 3.0]
    """
    if array_namespace(carry, xs) is jnp:
        return jax.lax.scan(step, carry, xs)
    leaves, structure = jax.tree.flatten(xs)
    if len(leaves[0]) > MOST_PLAIN_STEPS:
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, _compiled(step, carry, xs))
    outputs = []
    for parts in zip(*leaves, strict=True):
        carry, output = step(carry, jax.tree.unflatten(structure, parts))
        outputs.append(output)
    return carry, jax.tree.map(lambda *parts: np.stack(parts), *outputs)


@functools.partial(jax.jit, static_argnums=0)
def _compiled(step: Callable, carry: Any, xs: Any) -> tuple[Any, Any]:
    return jax.lax.scan(step, carry, xs)
