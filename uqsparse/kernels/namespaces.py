"""Which library computes: NumPy for NumPy arrays, JAX for JAX arrays and inside `jit`."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# A NumPy or a JAX array, in annotations.
AnyArray = Any


def array_namespace(*trees: Any) -> ModuleType:
    """`jax.numpy` if any leaf is a JAX array, traced or not, and `numpy` otherwise.

    Code that asks this runs on NumPy arrays in their own precision and without compiling (sorting 50,000 numbers is
    forty times faster there), and on JAX arrays inside `jit` and `vmap`.

    >>> array_namespace(np.ones(2), 1.0).__name__, array_namespace(np.ones(2), jnp.ones(2)).__name__
    ('numpy', 'jax.numpy')
    """
    return jnp if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(trees)) else np


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is being traced by `jit`, `vmap` or `grad`, so that its values cannot be looked at.

    >>> is_traced(np.ones(2), jnp.ones(2))
    False
    """
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))
