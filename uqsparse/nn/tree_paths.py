"""Where a leaf of a network stands, as text."""

from typing import Any

import jax


def path_name(path: tuple[Any, ...]) -> str:
    """A path of a tree as text, such as layers.0.weight.

    >>> [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path({"layers": [1, 2]})]
    ['layers.0', 'layers.1']
    """
    return jax.tree_util.keystr(path, simple=True, separator=".")
