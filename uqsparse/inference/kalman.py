"""Kalman filter and Rauch-Tung-Striebel smoother: linear models with Gaussian noise, solved exactly.

    x_0 ~ N(m_0, P_0),   x_t = F_t x_{t-1} + b_t + N(0, Q_t),   y_t = H_t x_t + c_t + N(0, R_t),   t = 0, ..., T - 1

Covariances are carried in Joseph's form, a sum of positive semidefinite terms, so that rounding never makes them
indefinite.

Sources: Kalman (1960), A new approach to linear filtering and prediction problems; Joseph in Bucy & Joseph (1968),
Filtering for stochastic processes with applications to guidance; Rauch, Tung & Striebel (1965), Maximum likelihood
estimates of linear dynamic systems.
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float

from uqsparse.inference.linear_gaussian import (
    Equation,
    LinearGaussian,
    check_linear_gaussian,
    observation_equation,
    split_rows,
    transition_equation,
)
from uqsparse.inference.state_space import Missing, row

__all__ = ["KalmanResult", "LinearGaussian", "SmootherResult", "kalman_filter", "kalman_smoother"]


class KalmanResult(NamedTuple):
    """The states given the observations up to their time, and the evidence.

    Args:
        means: means of x_t given y_0, ..., y_t, shape (T, d).
        covariances: their covariances, shape (T, d, d).
        predicted_means: means of x_t given y_0, ..., y_{t-1}, shape (T, d).
        predicted_covariances: their covariances, shape (T, d, d).
        log_evidence: log p(y_0, ..., y_{T-1}), of the components that were observed.
        log_evidence_increments: log p(y_t | y_0, ..., y_{t-1}), shape (T,). Under `jit` -inf marks an observation whose
            predicted covariance is singular or whose density overflows; the filter passes it over.
    """

    means: Float[Array, "T d"]
    covariances: Float[Array, "T d d"]
    predicted_means: Float[Array, "T d"]
    predicted_covariances: Float[Array, "T d d"]
    log_evidence: Float[Array, ""]
    log_evidence_increments: Float[Array, " T"]


class SmootherResult(NamedTuple):
    """The states given all observations.

    Args:
        means: means of x_t given y_0, ..., y_{T-1}, shape (T, d).
        covariances: their covariances, shape (T, d, d).
        lag_one_covariances: covariance of x_t (rows) with x_{t+1} (columns), given everything, shape (T - 1, d, d).
        filtered: what the filter found on the way, the evidence included.
    """

    means: Float[Array, "T d"]
    covariances: Float[Array, "T d d"]
    lag_one_covariances: Float[Array, "T-1 d d"]
    filtered: KalmanResult

    @property
    def log_evidence(self) -> Float[Array, ""]:
        """Log p(y_0, ..., y_{T-1})."""
        return self.filtered.log_evidence


def kalman_filter(
    model: LinearGaussian, observations: Float[Array, "T p"], *, missing: Missing = "error"
) -> KalmanResult:
    """Filter a series exactly.

    One `lax.scan` in the precision JAX is set to; wide initial covariances want double precision. It may be called
    inside `jit`, under `vmap` and `grad`: values that are traced are not checked, shapes are.

    Args:
        model: the model.
        observations: y, shape (T, p).
        missing: "error" refuses NaN; "skip" takes components that are NaN as not observed, one by one.

    Returns:
        A `KalmanResult`.

    Raises:
        TypeError: `model` is no `LinearGaussian`.
        ValueError: shapes do not fit, a value is not finite, a covariance is not symmetric positive semidefinite, or
            the predicted covariance of an observation is singular, so that it has no density.

    Source: Särkkä (2013), Bayesian filtering and smoothing, theorem 4.2, with Joseph's form of the covariance.

    >>> one = jnp.ones((1, 1))
    >>> walk = LinearGaussian(jnp.zeros(1), one, one, 0.1 * one, one, one)
    >>> result = kalman_filter(walk, jnp.array([[1.0], [2.0]]))
    >>> print(result.means[:, 0].round(4))
    [0.5    1.0625]
    """
    model, observations = check_linear_gaussian(model, observations, missing)
    result = _filter(model, observations, missing == "skip")
    _require_density(result)
    return result


def kalman_smoother(
    model: LinearGaussian, observations: Float[Array, "T p"], *, missing: Missing = "error"
) -> SmootherResult:
    """Filter a series and smooth it: the states given all observations, exactly.

    As `kalman_filter`, it may be called inside `jit`, under `vmap` and `grad`.

    Args:
        model: the model.
        observations: y, shape (T, p).
        missing: "error" refuses NaN; "skip" takes components that are NaN as not observed, one by one.

    Returns:
        A `SmootherResult`.

    Raises:
        TypeError: `model` is no `LinearGaussian`.
        ValueError: as `kalman_filter`.

    Source: Särkkä (2013), Bayesian filtering and smoothing, theorem 8.2, with the covariance as a sum of positive
    semidefinite terms.

    >>> one = jnp.ones((1, 1))
    >>> walk = LinearGaussian(jnp.zeros(1), one, one, 0.0 * one, one, one)
    >>> print(kalman_smoother(walk, jnp.array([[1.0], [2.0]])).means[:, 0].round(4))  # a constant, seen twice
    [1. 1.]
    """
    model, observations = check_linear_gaussian(model, observations, missing)
    filtered = _filter(model, observations, missing == "skip")
    _require_density(filtered)
    return _smooth(model, filtered)


class _Gaussian(NamedTuple):
    mean: Array
    covariance: Array


@partial(jax.jit, static_argnames="has_gaps")
@jax.default_matmul_precision("highest")
def _filter(model: LinearGaussian, observations: Float[Array, "T p"], has_gaps: bool) -> KalmanResult:
    move_rows, move_constant = split_rows(transition_equation(model))
    see_rows, see_constant = split_rows(observation_equation(model))

    def update(see, y, predicted):
        return _update(eqx.combine(see, see_constant), y, predicted, has_gaps)

    def step(state, x):
        move, see, y = x
        predicted = _predict(eqx.combine(move, move_constant), state)
        state, increment = update(see, y, predicted)
        return state, (predicted, state, increment)

    initial = _Gaussian(model.initial_mean, model.initial_covariance)
    state, increment = update(row(see_rows, 0), observations[0], initial)
    later = jax.tree.map(lambda x: x[1:], (see_rows, observations))
    _, rest = jax.lax.scan(step, state, (move_rows, *later))
    first = (initial, state, increment)
    predicted, filtered, increments = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), first, rest)
    return KalmanResult(
        filtered.mean,
        filtered.covariance,
        predicted.mean,
        predicted.covariance,
        jnp.sum(increments),
        increments,
    )


def _predict(move: Equation, state: _Gaussian) -> _Gaussian:
    return _Gaussian(
        move.matrix @ state.mean + move.offset,
        _sandwich(move.matrix, state.covariance) + move.covariance,
    )


def _update(see: Equation, y: Array, predicted: _Gaussian, has_gaps: bool) -> tuple[_Gaussian, Array]:
    """Condition a state on an observation; also the log density of the observation."""
    matrix, noise = see.matrix, see.covariance
    residual = y - (matrix @ predicted.mean + see.offset)
    n_seen = len(y)
    if has_gaps:
        # What is missing becomes independent noise of variance one, seen at its mean: it tells nothing.
        seen = ~jnp.isnan(y)
        matrix = jnp.where(seen[:, None], matrix, 0)
        noise = jnp.where(seen[:, None] & seen, noise, jnp.eye(len(y)))
        residual = jnp.where(seen, residual, 0)
        n_seen = jnp.sum(seen)

    factor = jnp.linalg.cholesky(_sandwich(matrix, predicted.covariance) + noise)
    whitened = solve_triangular(factor, residual, lower=True)
    log_determinant = jnp.sum(jnp.log(jnp.diagonal(factor)))
    increment = -0.5 * (whitened @ whitened + n_seen * np.log(2 * np.pi)) - log_determinant

    gain = cho_solve((factor, True), matrix @ predicted.covariance).T
    keep = jnp.eye(len(predicted.mean)) - gain @ matrix
    state = _Gaussian(
        predicted.mean + gain @ residual,
        _sandwich(keep, predicted.covariance) + _sandwich(gain, noise),
    )
    has_density = jnp.isfinite(increment)
    state = jax.tree.map(lambda new, old: jnp.where(has_density, new, old), state, predicted)
    return state, jnp.where(has_density, increment, -jnp.inf)


@jax.jit
@jax.default_matmul_precision("highest")
def _smooth(model: LinearGaussian, filtered: KalmanResult) -> SmootherResult:
    move_rows, move_constant = split_rows(transition_equation(model))

    def step(later, x):
        move, now, predicted = x
        move = eqx.combine(move, move_constant)
        gain = _regress(now, move, predicted)
        state = _Gaussian(
            now.mean + gain @ (later.mean - predicted.mean),
            _sandwich(jnp.eye(len(now.mean)) - gain @ move.matrix, now.covariance)
            + _sandwich(gain, later.covariance + move.covariance),
        )
        return state, (state, gain @ later.covariance)

    states = _Gaussian(filtered.means, filtered.covariances)
    last = row(states, -1)
    before = jax.tree.map(lambda x: x[:-1], states)
    predicted = _Gaussian(filtered.predicted_means[1:], filtered.predicted_covariances[1:])
    _, (earlier, lag_one) = jax.lax.scan(step, last, (move_rows, before, predicted), reverse=True)
    means, covariances = jax.tree.map(lambda xs, x: jnp.concatenate([xs, x[None]]), earlier, last)
    return SmootherResult(means, covariances, lag_one, filtered)


def _regress(now: _Gaussian, move: Equation, predicted: _Gaussian) -> Array:
    """The gain Cov(x_t, x_{t+1}) Cov(x_{t+1})^-1 of the regression of a state on the next one.

    The predicted covariance may be singular, and its components may be of very different size: it is scaled to
    correlations and lifted by a few units of rounding, which one step of refinement takes off again.
    """
    variance = jnp.diagonal(predicted.covariance)
    scale = jnp.sqrt(jnp.where(variance > 0, variance, 1))
    correlation = predicted.covariance / (scale[:, None] * scale)
    lift = 4 * len(scale) * jnp.finfo(scale.dtype).eps
    factor = (jnp.linalg.cholesky(correlation + lift * jnp.eye(len(scale))), True)
    cross = move.matrix @ now.covariance / scale[:, None]
    gain = cho_solve(factor, cross)
    gain += cho_solve(factor, cross - correlation @ gain)
    return (gain / scale[:, None]).T


def _sandwich(matrix: Array, covariance: Array) -> Array:
    """Covariance after a linear map, exactly symmetric."""
    product = matrix @ covariance @ matrix.T
    return 0.5 * (product + product.T)


def _require_density(result: KalmanResult) -> None:
    increments = result.log_evidence_increments
    if isinstance(increments, Tracer):
        return
    bad = ~np.isfinite(np.asarray(increments))
    if bad.any():
        raise ValueError(
            f"the observation at t = {int(np.argmax(bad))} has no finite log density: its predicted covariance is "
            "singular or overflows; give it noise (observation_covariance), or check the model's scale"
        )
