"""Series with known answers, and real ones, for the benchmark of state-space models."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

from uqsparse import data
from uqsparse.inference import LinearGaussian, Proposal, StateSpaceModel, kalman_filter, simulate

PERSISTENCE, STEP, START, NOISE = 0.9, 1.0, 2.0, 0.5


class Autoregression(NamedTuple):
    """x_t = 0.9 x_{t-1} + e_t seen with noise, in any number of independent dimensions, with its exact evidence."""

    model: StateSpaceModel
    proposal: Proposal
    y: np.ndarray
    log_evidence: float


def _given(mean, variance, y):
    """The Gaussian of a state after its observation."""
    gain = variance / (variance + NOISE**2)
    return dist.Normal(mean + gain * (y - mean), jnp.sqrt((1 - gain) * variance))


AUTOREGRESSION = StateSpaceModel(
    initial=lambda p, u: dist.Normal(0.0, START),
    transition=lambda p, x, u: dist.Normal(PERSISTENCE * x, STEP),
    observation=lambda p, x, u: dist.Normal(x, NOISE),
)
OPTIMAL = Proposal(
    initial=lambda p, u, y: _given(0.0, START**2, y),
    transition=lambda p, x, u, y: _given(PERSISTENCE * x, STEP**2, y),
)


def look_ahead(p, x, u, y):
    """A guess of the predictive density that is too wide, so that the correction has something to correct."""
    return dist.Normal(PERSISTENCE * x, 1.5 * np.hypot(STEP, NOISE)).log_prob(y)


def linear_gaussian(persistence: Any = PERSISTENCE, step: Any = STEP) -> LinearGaussian:
    """The same model as matrices."""
    one = jnp.ones((1, 1))
    return LinearGaussian(
        initial_mean=jnp.zeros(1),
        initial_covariance=START**2 * one,
        transition_matrix=persistence * one,
        transition_covariance=step**2 * one,
        observation_matrix=one,
        observation_covariance=NOISE**2 * one,
    )


@functools.cache
def autoregression(n_steps: int) -> Autoregression:
    """One series of the model, always the same."""
    _, y = simulate(jax.random.key(1), AUTOREGRESSION, n_steps)
    y = np.asarray(y, float)
    with jax.enable_x64(True):
        log_evidence = float(kalman_filter(linear_gaussian(), jnp.asarray(y)[:, None]).log_evidence)
    return Autoregression(AUTOREGRESSION, OPTIMAL, y, log_evidence)


def learning_prior():
    """Prior of the autoregression's two parameters."""
    numpyro.sample("persistence", dist.Uniform(0.0, 1.0))
    numpyro.sample("step", dist.HalfNormal(2.0))


LEARNED = StateSpaceModel(
    initial=lambda p, u: dist.Normal(0.0, START),
    transition=lambda p, x, u: dist.Normal(p["persistence"] * x, p["step"]),
    observation=lambda p, x, u: dist.Normal(x, NOISE),
    prior=learning_prior,
)


def marginal_autoregression(y):
    """The same posterior as a NumPyro model: the Kalman filter integrates the states out exactly."""
    persistence = numpyro.sample("persistence", dist.Uniform(0.0, 1.0))
    step = numpyro.sample("step", dist.HalfNormal(2.0))
    numpyro.factor("series", kalman_filter(linear_gaussian(persistence, step), y[:, None]).log_evidence)


def volatility_prior():
    """Prior of the stochastic volatility of the treasury bill rate."""
    numpyro.sample("level", dist.Normal(0.0, 1.5))
    numpyro.sample("persistence", dist.Beta(20.0, 1.5))
    numpyro.sample("volatility", dist.HalfNormal(0.5))


def _stationary(p):
    return p["volatility"] / jnp.sqrt(1 - p["persistence"] ** 2)


VOLATILITY = StateSpaceModel(
    initial=lambda p, u: dist.Normal(p["level"], _stationary(p)),
    transition=lambda p, h, u: dist.Normal(p["level"] + p["persistence"] * (h - p["level"]), p["volatility"]),
    observation=lambda p, h, u: dist.Normal(0.0, jnp.exp(h / 2)),
    prior=volatility_prior,
)


def joint_volatility(y):
    """The same model written for NUTS: states and parameters together, the states as standardised noise."""
    level = numpyro.sample("level", dist.Normal(0.0, 1.5))
    persistence = numpyro.sample("persistence", dist.Beta(20.0, 1.5))
    volatility = numpyro.sample("volatility", dist.HalfNormal(0.5))
    z: Any = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1))
    first = z[0] * volatility / jnp.sqrt(1 - persistence**2)

    def step(deviation, noise):
        deviation = persistence * deviation + volatility * noise
        return deviation, deviation

    _, later = scan(step, first, z[1:])
    h = level + jnp.concatenate([first[None], later])
    numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2)), obs=y)


@functools.cache
def rate_changes() -> np.ndarray:
    """Quarterly changes of the treasury bill rate, 202 of them."""
    return np.diff(data.treasury_bill().values)
