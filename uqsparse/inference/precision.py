"""Working in two precisions in one process, in spite of a fault of JAX.

JAX remembers the converted form of a NumPy array by the array alone, not by the precision (seen from 0.10 to
0.12). As long as a program that was compiled in single precision is alive, the arrays in it reach a program
in double precision as float32, which then fails, and the other way round. Copies of the arguments evade this;
data that a model function closes over need the old programs to be dropped.
"""

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from numpyro.infer import mcmc
from numpyro.util import fori_collect

T = TypeVar("T")


def copy_arrays(tree: T) -> T:
    """Copy the NumPy arrays of a pytree, so that no other precision has seen them."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def retry_after_precision_clash(function: Callable[[], T]) -> T:
    """Call a function; if arrays reach it in the wrong precision, drop all compiled programs and call again.

    Args:
        function: what to do; it may be called twice.

    Returns:
        What it returns.
    """
    try:
        return function()
    except Exception as error:
        if not _is_precision_clash(error):
            raise
    # Out of the `except` block, so that the error's traceback holds no array any more.
    jax.clear_caches()
    caches: tuple[Any, ...] = (fori_collect, mcmc._collect_and_postprocess)
    for owner in caches:
        getattr(owner, "_cache", {}).clear()
    gc.collect()
    return function()


def _is_precision_clash(error: BaseException | None) -> bool:
    while error is not None:
        if any(sign in str(error) for sign in ("RuntimeProgramInputMismatch", "verifier errors")):
            return True
        error = error.__cause__
    return False
