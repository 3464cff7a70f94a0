"""Bayesian optimisation: minimise a costly function over candidates, guided by a model that has learned from tasks.

A step predicts at every candidate, given the values seen so far, and takes the one of largest expected improvement.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp, ndtr
from jaxtyping import Array, Bool, Float, Int, Key
from rich.progress import track

from uqsparse.kernels.arguments import require_count
from uqsparse.models.neural_processes.process import NeuralProcess

# From (context_x (N, d), context_y (N, 1), context_mask (N,), candidates (M, d), key) to the means and the standard
# deviations (K, M) of the K equally likely Gaussians that make up the prediction at each candidate.
Surrogate = Callable[..., tuple[Float[Array, "K M"], Float[Array, "K M"]]]

_HALF_LOG_TAU = 0.5 * float(np.log(2 * np.pi))


class Minimisation(NamedTuple):
    """What a search has evaluated, in order, and what came out. S = `n_start + n_steps`.

    Args:
        x: the candidates evaluated, shape (S, d).
        y: their values, shape (S,).
        rows: which candidates they are, shape (S,).
        lowest: least value up to and including each evaluation, shape (S,).
        log_improvement: log of the expected improvement at each step's choice, before its evaluation, shape
            (n_steps,). Small values say that the model sees nothing left to gain.
        n_start: how many evaluations were drawn at random.
    """

    x: Float[np.ndarray, "S d"]
    y: Float[np.ndarray, " S"]
    rows: Int[np.ndarray, " S"]
    lowest: Float[np.ndarray, " S"]
    log_improvement: Float[np.ndarray, " n_steps"]
    n_start: int

    @property
    def best_x(self) -> Float[np.ndarray, " d"]:
        """Where the least value was found."""
        return self.x[self.y.argmin()]

    @property
    def best_y(self) -> float:
        """The least value found."""
        return float(self.y.min())


@jax.jit
def log_expected_improvement(
    mean: Float[Any, "..."], scale: Float[Any, "..."], best: Float[Any, "..."]
) -> Float[Array, "..."]:
    """Log of `E[max(best - y, 0)]` for `y ~ N(mean, scale^2)`, accurate where the improvement itself underflows.

    With z = (best - mean) / scale it is `log(scale) + log(phi(z) + z Phi(z))`; below z = -8 the second term is taken
    from its asymptotic series.

    Args:
        mean: of the prediction.
        scale: its standard deviation, positive.
        best: the value to beat.

    Source: Ament, Daulton, Eriksson, Balandat & Bakshy (2023), Unexpected improvements to expected improvement for
    Bayesian optimization, NeurIPS 36, section 4.1.

    >>> round(float(log_expected_improvement(0.0, 1.0, 0.0)), 4)  # log of 1 / sqrt(2 pi)
    -0.9189
    """
    z = (best - jnp.asarray(mean)) / scale
    # On either side of -8 the branch that is not taken gets an argument at which it is finite.
    near, far = jnp.maximum(z, -8.0), jnp.minimum(z, -8.0)
    central = jnp.log(jnp.exp(-0.5 * near**2 - _HALF_LOG_TAU) + near * ndtr(near))
    u = far**-2.0
    tail = -0.5 * far**2 - _HALF_LOG_TAU + jnp.log(u) + jnp.log1p(u * (-3 + u * (15 + u * (-105 + u * 945))))
    return jnp.log(scale) + jnp.where(z < -8.0, tail, central)


def surrogate(model: NeuralProcess, n_samples: int = 50) -> Surrogate:
    """What a neural process predicts of a function of one output, as the searches of this module want it.

    Args:
        model: a neural process.
        n_samples: K, functions drawn for each prediction.

    Raises:
        ValueError: the model has more than one output, or `n_samples` is no positive integer.
    """
    require_count("n_samples", n_samples, 1)
    if model.y_size != 1:
        raise ValueError(f"model must have one output, got y_size = {model.y_size}")
    return eqx.Partial(_predict, model, n_samples=n_samples)


def _predict(model, context_x, context_y, context_mask, candidates, key, *, n_samples):
    found = model.predict(context_x, context_y, candidates, key, n_samples, context_mask=context_mask)
    return found.means[..., 0], found.scales[..., 0]


def _choose(
    predict: Surrogate,
    candidates: Float[Any, "M d"],
    x: Float[Any, "S d"],
    y: Float[Any, " S"],
    seen: Int[Array, ""],
    open_: Bool[Any, " M"],
    key: Array,
) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """The open candidate of largest expected improvement, and its log; the first `seen` rows are the context."""
    mask = jnp.arange(len(x)) < seen
    best = jnp.where(mask, y, jnp.inf).min()
    mean, scale = predict(x, y[:, None], mask, candidates, key)
    # The improvement expected of a mixture is the mean of those of its components.
    gain = logsumexp(log_expected_improvement(mean, scale, best), axis=0) - jnp.log(len(mean))
    gain = jnp.where(open_, gain, -jnp.inf)
    row = gain.argmax()
    return row, gain[row]


_choose_compiled = eqx.filter_jit(_choose)


def minimise(
    key: Key[Array, ""],
    predict: Surrogate,
    objective: Callable[[Float[np.ndarray, " d"]], float],
    candidates: Float[Any, "M d"],
    n_steps: int,
    *,
    n_start: int = 1,
    progress: bool = False,
) -> Minimisation:
    """Minimise a function over candidates, one evaluation a step, by expected improvement.

    No candidate is evaluated twice, so the function should be nearly free of noise. It should also look like those
    that the model was trained on: shift and scale it to their range.

    Args:
        key: random key, for the start and the model's draws.
        predict: the model, as `surrogate` makes it of a neural process; or any function of the same form.
        objective: the function to minimise, from a candidate to a finite number.
        candidates: where it may be evaluated, finite, shape (M, d).
        n_steps: evaluations after the start, at least 1.
        n_start: evaluations at candidates drawn at random, at least 1.
        progress: show a bar.

    Returns:
        All evaluations in order. The search ends when its budget is used up.

    Raises:
        ValueError: candidates that are not finite or too few, a count out of range, or a value that is not finite.

    Source: Jones, Schonlau & Welch (1998), Efficient global optimization of expensive black-box functions, J. of Global
    Optimization 13; with a neural process as the model Garnelo et al. (2018), Neural processes, section 4.3.
    """
    grid = _candidates(candidates, n_start, n_steps)
    key_start, key_steps = jax.random.split(key)
    rows = [int(row) for row in jax.random.permutation(key_start, len(grid))[:n_start]]
    values, gains = [_evaluate(objective, grid[row]) for row in rows], []
    size = n_start + n_steps
    x, y = np.zeros((size, grid.shape[1]), np.float32), np.zeros(size, np.float32)
    open_ = np.ones(len(grid), bool)
    x[:n_start], y[:n_start], open_[rows] = grid[rows], values, False
    # One shape throughout, so that the model is compiled once.
    for key_step in track(jax.random.split(key_steps, n_steps), "minimising", disable=not progress):
        seen = len(rows)
        row, gain = _choose_compiled(predict, grid, x, y, jnp.asarray(seen), open_, key_step)
        rows.append(int(row))
        gains.append(float(gain))
        values.append(_evaluate(objective, grid[rows[-1]]))
        x[seen], y[seen], open_[rows[-1]] = grid[rows[-1]], values[-1], False
    found = np.array(values)
    return Minimisation(
        grid[rows], found, np.array(rows), np.minimum.accumulate(found), np.array(gains), n_start=n_start
    )


def _evaluate(objective: Callable[[np.ndarray], float], x: np.ndarray) -> float:
    value = float(objective(x.copy()))
    if not np.isfinite(value):
        raise ValueError(f"objective must return a finite number, got {value} at {x.tolist()}")
    return value


def _candidates(candidates: Any, n_start: int, n_steps: int) -> Float[np.ndarray, "M d"]:
    require_count("n_steps", n_steps, 1)
    require_count("n_start", n_start, 1)
    grid = np.asarray(candidates, np.float32)
    if grid.ndim != 2 or grid.shape[1] == 0:
        raise ValueError(f"candidates must have shape (M, d), got {grid.shape}")
    if not np.isfinite(grid).all():
        raise ValueError("candidates must be finite, got NaN or infinite values")
    if len(grid) < n_start + n_steps:
        raise ValueError(f"candidates must be at least n_start + n_steps = {n_start + n_steps}, got {len(grid)}")
    return grid


def minimise_known(
    key: Key[Array, ""],
    predict: Surrogate,
    candidates: Float[Any, "M d"],
    values: Float[Any, "F M"],
    n_steps: int,
    *,
    n_start: int = 1,
) -> Float[np.ndarray, "F S"]:
    """Run `minimise` on F functions whose values at all candidates are known: to compare models, in one program.

    Args:
        key: random key; function i gets the i-th key of a split.
        predict: as for `minimise`.
        candidates: finite, shape (M, d).
        values: of the functions at the candidates, finite, shape (F, M).
        n_steps: evaluations after the start, at least 1.
        n_start: evaluations drawn at random, at least 1.

    Returns:
        The least value up to and including each of S = `n_start + n_steps` evaluations.

    Raises:
        ValueError: as for `minimise`, or values of another shape.
    """
    grid = _candidates(candidates, n_start, n_steps)
    known = np.asarray(values, np.float32)
    if known.ndim != 2 or known.shape[1] != len(grid):
        raise ValueError(f"values must have shape (F, {len(grid)}), one column a candidate, got {known.shape}")
    if not np.isfinite(known).all():
        raise ValueError("values must be finite, got NaN or infinite values")
    keys = jax.random.split(key, len(known))
    return np.asarray(_minimise_known(keys, predict, jnp.asarray(grid), jnp.asarray(known), n_steps, n_start))


@eqx.filter_jit
def _minimise_known(keys, predict, grid, values, n_steps: int, n_start: int):
    def one(key, value):
        key_start, key_steps = jax.random.split(key)
        rows = jax.random.permutation(key_start, len(grid))[:n_start]
        size = n_start + n_steps
        x = jnp.zeros((size, grid.shape[1])).at[:n_start].set(grid[rows])
        y = jnp.zeros(size).at[:n_start].set(value[rows])
        open_ = jnp.ones(len(grid), bool).at[rows].set(False)

        def step(carry, inputs):
            x, y, open_ = carry
            seen, key = inputs
            row, _ = _choose(predict, grid, x, y, seen, open_, key)
            return (x.at[seen].set(grid[row]), y.at[seen].set(value[row]), open_.at[row].set(False)), None

        inputs = jnp.arange(n_start, size), jax.random.split(key_steps, n_steps)
        (_, y, _), _ = jax.lax.scan(step, (x, y, open_), inputs)
        return jax.lax.cummin(y)

    return jax.vmap(one)(keys, values)
