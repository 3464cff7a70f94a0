"""ArviZ data of samplers that draw parameters and paths of states."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from uqsparse.inference.arviz_io import to_arviz


def draws_to_arviz(
    parameters: Mapping[str, Any],
    states: PyTree,
    sample_stats: Mapping[str, Any],
    observations: PyTree,
    attributes: Mapping[str, Any],
) -> Any:
    """Put draws with leading axes (chain, draw) into ArviZ data.

    Args:
        parameters: site name to draws.
        states: paths, a pytree of arrays (chain, draw, T, ...), or None. A pytree becomes one variable a leaf, such as
            `states_level`.
        sample_stats: statistic name to array (chain, draw).
        observations: what was observed; a pytree becomes one variable a leaf, such as `observations_price`.
        attributes: what is known about the run.

    Raises:
        ValueError: a parameter bears the name of a variable of the states.
    """
    paths = _named("states", states)
    clash = sorted(set(paths) & set(parameters))
    if clash:
        raise ValueError(f"parameter {clash[0]!r} bears the name of the states in the posterior: rename its site")
    return to_arviz(
        {
            "posterior": {**parameters, **paths},
            "sample_stats": sample_stats,
            "observed_data": _named("observations", observations),
        },
        {"inference_library": "uqsparse", **attributes},
    )


def _named(stem: str, tree: PyTree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if len(leaves) == 1 and not leaves[0][0]:
        return {stem: np.asarray(leaves[0][1])}
    return {"_".join([stem, *(jax.tree_util.keystr((k,), simple=True) for k in at)]): np.asarray(x) for at, x in leaves}
