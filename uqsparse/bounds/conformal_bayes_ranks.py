"""Ranks of candidate values among the observations when each candidate is added to the data of a posterior.

Adding (x, y) multiplies the posterior by f(y | x, theta), so that draws with weights proportional to that density
stand for a refit. A candidate's conformity is its predictive density under those weights, an observation's likewise.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Numbers that one block of test points may hold at once, draws and observations times candidates: few enough for the
# processor's cache.
_BLOCK_NUMBERS = 2**18


class Reweighted(NamedTuple):
    """Draws of a posterior and how likely they make the observations it was fitted to.

    Args:
        likelihood: maps one draw, predictors of R rows and candidates (R, K) to log densities (R, K); hashable, so that
            programs compiled for it are found again.
        draws: pytree of draws with a first axis of length T.
        scaled: likelihood of observation i under draw t over its largest, shape (n, T).
        log_largest: log of that largest likelihood, shape (n,).
        codes: number of each observation's group, shape (n,); all zero without groups.
    """

    likelihood: Callable
    draws: Any
    scaled: Float[Array, "n T"]
    log_largest: Float[Array, " n"]
    codes: Int[Array, " n"]


@functools.partial(jax.jit, static_argnames=("likelihood",))
def log_densities(likelihood: Callable, draws: Any, x: Any, y: Array) -> Float[Array, "T R K"]:
    """Log density of each candidate under each draw."""
    return jax.vmap(likelihood, (0, None, None))(draws, x, y)


@functools.partial(jax.jit, static_argnames=("likelihood",))
def _log_predictive(likelihood: Callable, draws: Any, x: Any, y: Array) -> Float[Array, "R K"]:
    return jax.nn.logsumexp(log_densities(likelihood, draws, x, y), axis=0)


@functools.partial(jax.jit, static_argnames=("likelihood",))
def _ranks(
    likelihood: Callable,
    draws: Any,
    scaled: Float[Array, "n T"],
    log_largest: Float[Array, " n"],
    codes: Int[Array, " n"],
    x: Any,
    y: Array,
    row_codes: Int[Array, " R"],
) -> tuple[Int[Array, "R K"], Float[Array, "R K"]]:
    log_f = log_densities(likelihood, draws, x, y)
    peak = log_f.max(axis=0)
    possible = peak > -jnp.inf
    peak = jnp.where(possible, peak, 0.0)
    # Weights over their largest. The candidate's own density is exp(peak) times the weight, hence the squares.
    weights = jnp.exp(log_f - peak)
    total, squares = weights.sum(axis=0), (weights**2).sum(axis=0)
    conformity = peak + jnp.log(squares)
    products = scaled @ weights.reshape(len(weights), -1)
    # A sum that underflows counts as less likely than the candidate: that can only enlarge the set.
    others = jnp.log(products).reshape(-1, *y.shape) + log_largest[:, None, None]
    # An observation equal to the candidate ties with it, but for rounding.
    tolerance = jnp.finfo(weights.dtype).eps ** (2 / 3)
    no_greater = (others <= conformity + tolerance) & (codes[:, None, None] == row_codes[:, None])
    counts = jnp.where(possible, no_greater.sum(axis=0), 0)
    ess = jnp.where(possible, total**2 / jnp.where(possible, squares, 1.0), 0.0)
    return jnp.where(jnp.isnan(log_f).any(axis=0), -1, counts), ess


def add_one_in_ranks(
    posterior: Reweighted, x: Any, y: np.ndarray, row_codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many observations conform no better than each candidate, and how many draws carry its weights.

    Args:
        posterior: the draws and the observations.
        x: predictors of R test points, a pytree of arrays with a first axis of length R.
        y: K candidates for each, shape (R, K).
        row_codes: number of each test point's group, shape (R,); only observations of that group are counted.

    Returns:
        (counts, ess), each of shape (R, K): the number of observations i with sigma_i <= sigma_new, 0 for candidates
        that no draw thinks possible; and the effective sample size 1 / sum of squared normalised weights.

    Raises:
        ValueError: the log likelihood of a candidate is NaN.

    Source: Fong & Holmes (2021), Conformal Bayesian computation, algorithm 1.
    """
    counts, ess = np.empty(y.shape, dtype=int), np.empty(y.shape)
    per_row = (posterior.scaled.shape[0] + posterior.scaled.shape[1]) * y.shape[1]
    for rows, real in _blocks(len(y), per_row):
        found = _ranks(*posterior, jax.tree.map(lambda a, r=rows: a[r], x), y[rows], row_codes[rows])
        counts[rows[:real]], ess[rows[:real]] = (np.asarray(part)[:real] for part in found)
    if (bad := np.argwhere(counts < 0)).size:
        value = y[tuple(bad[0])]
        raise ValueError(
            f"the log likelihood is NaN for {len(bad)} candidates, such as y = {value:g} of test point {bad[0][0]}; "
            "it must be -inf where y is impossible"
        )
    return counts, ess


def log_predictive_densities(posterior: Reweighted, x: Any, y: np.ndarray) -> Float[np.ndarray, "R K"]:
    """Log posterior predictive density of each candidate, up to a constant; NaN taken for impossible."""
    found = np.empty(y.shape)
    for rows, real in _blocks(len(y), posterior.scaled.shape[1] * y.shape[1]):
        block = _log_predictive(posterior.likelihood, posterior.draws, jax.tree.map(lambda a, r=rows: a[r], x), y[rows])
        found[rows[:real]] = np.asarray(block)[:real]
    return np.where(np.isnan(found), -np.inf, found)


def training_likelihoods(likelihood: Callable, draws: Any, x: Any, y: np.ndarray) -> Float[np.ndarray, "T n"]:
    """Log likelihood of each observation under each draw."""
    n_draws = jax.tree.leaves(draws)[0].shape[0]
    parts = [
        np.asarray(log_densities(likelihood, draws, jax.tree.map(lambda a, r=rows: a[r], x), y[rows][:, None]))
        for rows, _ in _blocks(len(y), n_draws)
    ]
    return np.concatenate(parts, axis=1)[:, : len(y), 0]


def _blocks(n_rows: int, numbers_a_row: int) -> Iterator[tuple[np.ndarray, int]]:
    """Indices of rows in blocks of one shape, the last filled up by repeating the last row, and how many are real."""
    size = min(max(1, _BLOCK_NUMBERS // numbers_a_row), 1 << max(0, n_rows - 1).bit_length())
    for start in range(0, n_rows, size):
        yield np.minimum(np.arange(start, start + size), n_rows - 1), min(size, n_rows - start)
