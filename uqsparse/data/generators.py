"""Synthetic data whose truth is known."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_GENERATED = "generated, free to use"


class HeteroscedasticRegression(NamedTuple):
    """A regression in which the noise depends on the input, with its truth.

    Args:
        X: inputs in [0, 1], shape (n, 1).
        y: targets, shape (n,).
        mean: true mean of each target, shape (n,).
        sd: true standard deviation of each target, shape (n,).
        feature_names: the one input's name.
        source: where the construction comes from.
        licence: under which terms the data may be used.
    """

    X: Float[np.ndarray, "n 1"]
    y: Float[np.ndarray, " n"]
    mean: Float[np.ndarray, " n"]
    sd: Float[np.ndarray, " n"]
    feature_names: tuple[str, ...]
    source: str
    licence: str


class SimulatedSeries(NamedTuple):
    """A time series with the hidden states that made it.

    Args:
        values: observations, shape (T,).
        states: true hidden state at each time, shape (T,).
        source: where the model comes from.
        licence: under which terms the data may be used.
    """

    values: Float[np.ndarray, " T"]
    states: Float[np.ndarray, " T"]
    source: str
    licence: str


def heteroscedastic_regression(seed: int, n: int = 200) -> HeteroscedasticRegression:
    """Draw a sine wave whose noise triples from left to right: `y = 2 sin(2 pi x) + (0.5 + x) e`, `e ~ N(0,
    1)`.

    Args:
        seed: seed of the generator, at least 0; the same seed gives the same data.
        n: number of rows, at least 1; inputs are uniform on [0, 1].

    Raises:
        ValueError: if `n` is below 1.

    Source: Goldberg, Williams & Bishop (1998), Regression with input-dependent noise, NIPS 10, section 4.

    >>> heteroscedastic_regression(seed=0, n=3).X.shape
    (3, 1)
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=n)
    mean, sd = 2.0 * np.sin(2.0 * np.pi * x), 0.5 + x
    return HeteroscedasticRegression(
        X=x[:, None],
        y=mean + sd * rng.standard_normal(n),
        mean=mean,
        sd=sd,
        feature_names=("x",),
        source="Goldberg, Williams & Bishop (1998), Regression with input-dependent noise, NIPS 10",
        licence=_GENERATED,
    )


def linear_gaussian_series(
    seed: int, n: int = 100, persistence: float = 0.9, step_sd: float = 1.0, noise_sd: float = 1.0
) -> SimulatedSeries:
    """Draw an autoregression under noise: `x_t = persistence x_{t-1} + step_sd e_t`, `y_t = x_t + noise_sd u_t`, `e_t,
    u_t ~ N(0, 1)`; the first state is stationary.

    Args:
        seed: seed of the generator, at least 0; the same seed gives the same data.
        n: length T, at least 1.
        persistence: between -1 and 1.
        step_sd: standard deviation of the steps of the state, at least 0.
        noise_sd: standard deviation of the noise, at least 0.

    Raises:
        ValueError: if an argument is out of range.

    >>> linear_gaussian_series(seed=0, n=3).values.shape
    (3,)
    """
    if noise_sd < 0:
        raise ValueError(f"noise_sd must be at least 0, got {noise_sd}")
    rng = np.random.default_rng(seed)
    states = _autoregression(rng, n, persistence, step_sd)
    return SimulatedSeries(
        values=states + noise_sd * rng.standard_normal(n),
        states=states,
        source="autoregression of order one, observed under Gaussian noise",
        licence=_GENERATED,
    )


def stochastic_volatility_series(
    seed: int, n: int = 500, mean: float = -1.0, persistence: float = 0.97, step_sd: float = 0.2
) -> SimulatedSeries:
    """Draw returns whose log variance drifts: `y_t = exp(h_t / 2) u_t`, `h_t = mean + persistence (h_{t-1} - mean)
    + step_sd e_t`, `e_t, u_t ~ N(0, 1)`; the first state is stationary.

    Args:
        seed: seed of the generator, at least 0; the same seed gives the same data.
        n: length T, at least 1.
        mean: mean of the log variance.
        persistence: between -1 and 1.
        step_sd: standard deviation of the steps of the log variance, at least 0.

    Raises:
        ValueError: if an argument is out of range.

    Source: Taylor (1982), Financial returns modelled by the product of two stochastic processes; in this form Kim,
    Shephard & Chib (1998), Stochastic volatility: likelihood inference and comparison with ARCH models, equation 1.

    >>> stochastic_volatility_series(seed=0, n=3).states.shape
    (3,)
    """
    rng = np.random.default_rng(seed)
    log_variance = mean + _autoregression(rng, n, persistence, step_sd)
    return SimulatedSeries(
        values=np.exp(log_variance / 2) * rng.standard_normal(n),
        states=log_variance,
        source="Kim, Shephard & Chib (1998), Stochastic volatility, Review of Economic Studies 65, equation 1",
        licence=_GENERATED,
    )


def _autoregression(rng: np.random.Generator, n: int, persistence: float, step_sd: float) -> Float[np.ndarray, " n"]:
    """Draw a stationary autoregression of order one around zero."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not -1 < persistence < 1:
        raise ValueError(f"persistence must lie strictly between -1 and 1, got {persistence}")
    if step_sd < 0:
        raise ValueError(f"step_sd must be at least 0, got {step_sd}")
    steps = step_sd * rng.standard_normal(n)
    steps[0] /= np.sqrt(1 - persistence**2)
    for t in range(1, n):
        steps[t] += persistence * steps[t - 1]
    return steps
