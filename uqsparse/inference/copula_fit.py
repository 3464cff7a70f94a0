"""How copula predictives learn from data: standardised columns, many orders, bandwidths by their predictions.

The updates depend on the order of the data. So the data are learned in several random orders; bandwidths maximise the
mean log predictive density of each observation given those before it.

Source: Fong, Holmes & Walker (2023), Martingale posterior distributions.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int
from scipy.optimize import minimize

from uqsparse.kernels.arguments import require_count

# Logits of bandwidths between which the search goes: 0.007 to 0.9999.
_LOGIT_RANGE = (-5.0, 9.0)
# A density of one column is searched from 0.5 on. Near 0 it stays the normal that it starts from, whose mean and scale
# come from the same data: that scores well without having predicted anything, and its futures do not spread.
_LOWEST_ALONE = 0.0


class Columns(NamedTuple):
    """Standardised columns, and what they were standardised by."""

    values: Float[np.ndarray, "n d"]
    centre: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]


def standardised(name: str, data: ArrayLike, is_density: bool) -> Columns:
    """Columns of mean zero and standard deviation one.

    Args:
        name: of the argument, for errors.
        data: (n,) or (n, d).
        is_density: whether a density is learned of the columns, for which no two values of one may be equal.

    Raises:
        ValueError: fewer than two rows, a value that is not finite, a constant column, or ties.
    """
    values = np.asarray(data, float)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"{name} must have shape (n,) or (n, d), got {np.shape(data)}")
    if len(values) < 2:
        raise ValueError(f"{name} must hold at least two observations to be standardised, got {len(values)}")
    if n_bad := np.count_nonzero(~np.isfinite(values)):
        raise ValueError(f"{name} must be finite, got {n_bad} values that are NaN or infinite")
    scale = values.std(axis=0, ddof=1)
    for j, column in enumerate(values.T):
        if np.ptp(column) <= 1e-12 * max(1.0, np.abs(column).max()):
            raise ValueError(f"{name} has a constant column, number {j}: leave it out")
        n_ties = len(column) - len(np.unique(column))
        if is_density and n_ties:
            raise ValueError(
                f"{name} has {n_ties} ties in column {j}, where a density is infinite: if values were rounded, spread "
                "them by uniform noise of the unit that they were rounded to"
            )
    return Columns((values - values.mean(axis=0)) / scale, values.mean(axis=0), scale)


def random_orders(n: int, n_permutations: int, seed: int) -> Int[np.ndarray, "p n"]:
    """Random permutations of n rows."""
    require_count("n_permutations", n_permutations, 1)
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n) for _ in range(n_permutations)])


def check_bandwidth(bandwidth: ArrayLike | None, d: int) -> Float[np.ndarray, " d"] | None:
    """A given bandwidth as an array (d,), or None.

    Raises:
        ValueError: it has another shape, or leaves (0, 1).
    """
    if bandwidth is None:
        return None
    given = np.asarray(bandwidth, float)
    if given.shape not in ((), (d,)) or not ((given > 0) & (given < 1)).all():
        raise ValueError(f"bandwidth must lie in (0, 1), one number or of shape ({d},), got {bandwidth}")
    return np.broadcast_to(given, (d,)).copy()


def best_bandwidth(
    score: Callable[..., Float[Array, ""]], rows: tuple[ArrayLike, ...], d: int, n_targets: int
) -> Float[np.ndarray, " d"]:
    """The bandwidths that maximise a score, by L-BFGS-B in their logits.

    Args:
        score: mean log predictive density of one observation, a function of bandwidths (d,) and the rows.
        rows: the data, as `score` takes them.
        d: number of bandwidths.
        n_targets: how many of the first belong to what the density is of.

    Returns:
        Bandwidths (d,).

    Warns:
        UserWarning: if the search did not converge, or ended where little is learned.
    """

    rows = tuple(jnp.asarray(part) for part in rows)

    def on_host(logits):
        value, slope = _cost(score, jnp.asarray(logits), rows)
        return float(value), np.asarray(slope, float)

    lowest = np.full(d, _LOGIT_RANGE[0])
    if n_targets == 1:
        lowest[0] = _LOWEST_ALONE
    bounds = list(zip(lowest, np.full(d, _LOGIT_RANGE[1]), strict=True))
    found = minimize(on_host, np.full(d, 1.5), jac=True, method="L-BFGS-B", bounds=bounds)
    if not found.success:
        warnings.warn(f"the search for the bandwidths ended early: {found.message}", stacklevel=6)
    if (found.x[:n_targets] < lowest[:n_targets] + 1e-3).any():
        warnings.warn(
            "a bandwidth ended at its lower limit: the normal that the density starts from predicts as well, little "
            "more is learned, and bands are narrow. Give a bandwidth, such as 0.8, if you do not believe in a normal",
            stacklevel=6,
        )
    return np.asarray(jax.nn.sigmoid(found.x), float)


@partial(jax.jit, static_argnums=0)
def _cost(
    score: Callable[..., Float[Array, ""]], logits: Float[Array, " d"], rows: tuple[Array, ...]
) -> tuple[Float[Array, ""], Float[Array, " d"]]:
    return jax.value_and_grad(lambda at: -score(jax.nn.sigmoid(at), *rows))(logits)
