"""What conformal Bayes is given, checked at the door: each refusal is a ValueError that names the argument."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from uqsparse.bounds.scores.score import as_array, require_same_length


def checked_targets(y: Any, n_labels: int | None) -> np.ndarray:
    """Observed values: real and finite, or labels from 0 to n_labels - 1."""
    y = np.asarray(as_array("y", y))
    if y.ndim != 1 or not len(y):
        raise ValueError(f"y has shape {y.shape}; expected (n,) with n >= 1")
    if n_labels is None:
        y = y if y.dtype.kind == "f" else y.astype(float)
        if not np.isfinite(y).all():
            raise ValueError(f"y has {np.count_nonzero(~np.isfinite(y))} NaN or infinite values")
    elif y.dtype.kind not in "iub" or y.min() < 0 or y.max() >= n_labels:
        raise ValueError(f"y must hold integer labels from 0 to {n_labels - 1}, got {y.dtype} up to {y.max()}")
    return y


def checked_grid(grid: Any) -> np.ndarray:
    """Candidates in ascending order."""
    grid = np.asarray(as_array("grid", grid), dtype=float)
    if grid.ndim != 1 or len(grid) < 3 or not np.isfinite(grid).all() or (np.diff(grid) <= 0).any():
        raise ValueError(f"grid must be finite and strictly ascending, with at least 3 points; got shape {grid.shape}")
    return grid


def n_rows_of(x: Any) -> int:
    """The number of rows of a pytree of predictors."""
    leaves = jax.tree.leaves(x)
    if not leaves or not np.ndim(leaves[0]) or not len(leaves[0]):
        raise ValueError(f"x has shapes {list(map(np.shape, leaves))}; each needs a first axis of test points")
    return len(leaves[0])


def checked_rows(name: str, x: Any, n: int) -> Any:
    """Predictors of n rows as NumPy arrays, finite."""
    rows = jax.tree.map(lambda a: np.asarray(as_array(name, a)), x)
    for leaf in jax.tree.leaves(rows):
        require_same_length(name, leaf, n, "y")
        if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
            raise ValueError(f"{name} has {np.count_nonzero(~np.isfinite(leaf))} NaN or infinite values")
    return rows


def checked_draws(draws: Any) -> tuple[Any, np.dtype]:
    """Draws as NumPy arrays, finite and at least 2, and the precision to compute in."""
    draws = jax.tree.map(lambda a: np.asarray(as_array("draws", a)), draws)
    leaves = jax.tree.leaves(draws)
    if len(leaves[0]) < 2:
        raise ValueError(f"draws have a first axis of length {len(leaves[0])}; at least 2 draws are needed")
    if bad := sum(np.count_nonzero(~np.isfinite(leaf)) for leaf in leaves):
        raise ValueError(f"draws have {bad} NaN or infinite values")
    double = any(leaf.dtype == np.float64 for leaf in leaves)
    return draws, np.dtype(np.float64 if double else np.float32)


def require_likelihood(log_f: Float[np.ndarray, "t n"]) -> None:
    """Refuse log likelihoods that are NaN, +inf, or -inf under every draw, and name the rows."""
    for what, bad in (
        ("NaN or +inf", np.any(np.isnan(log_f) | np.isposinf(log_f), axis=0)),
        ("-inf under every draw", np.all(np.isneginf(log_f), axis=0)),
    ):
        if bad.any():
            named = ", ".join(map(str, np.flatnonzero(bad)[:5]))
            raise ValueError(f"the log likelihood is {what} in {bad.sum()} of {len(bad)} rows: {named}")
