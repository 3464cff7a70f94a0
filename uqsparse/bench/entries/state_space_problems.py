"""Time series whose answers are known, shared by the claims and speed contests on state-space models.

The answers come from closed forms in NumPy and SciPy, which share no code with the filters that are measured.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from scipy import stats

from uqsparse import data
from uqsparse.inference import Proposal, StateSpaceModel

NOISE_SD = 1.0
TRUTH = {"a": 0.9, "q": 1.0}


# --- an autoregression under Gaussian noise --------------------------------------------------------------------------


def _prior() -> None:
    numpyro.sample("a", dist.Uniform(0.0, 1.0))
    numpyro.sample("q", dist.HalfNormal(2.0))


def _stationary_variance(p: dict[str, Any]) -> Any:
    return p["q"] ** 2 / (1 - p["a"] ** 2)


def _given_observation(mean: Any, variance: Any, y: Any) -> dist.Normal:
    """Normal state with this mean and variance, once it has been observed under noise."""
    gain = variance / (variance + NOISE_SD**2)
    return dist.Normal(mean + gain * (y - mean), jnp.sqrt(gain) * NOISE_SD)


autoregression = StateSpaceModel(
    initial=lambda p, inputs: dist.Normal(0.0, jnp.sqrt(_stationary_variance(p))),
    transition=lambda p, x, inputs: dist.Normal(p["a"] * x, p["q"]),
    observation=lambda p, x, inputs: dist.Normal(x, NOISE_SD),
    prior=_prior,
)
optimal_proposal = Proposal(
    initial=lambda p, inputs, y: _given_observation(0.0, _stationary_variance(p), y),
    transition=lambda p, x, inputs, y: _given_observation(p["a"] * x, p["q"] ** 2, y),
)


def lookahead(p: dict[str, Any], x: Any, inputs: Any, y: Any) -> Array:
    """Log density of the next observation given the state."""
    return dist.Normal(p["a"] * x, jnp.sqrt(p["q"] ** 2 + NOISE_SD**2)).log_prob(y)


FILTERS: dict[str, dict[str, Any]] = {
    "bootstrap": {},
    "guided": {"proposal": optimal_proposal},
    "auxiliary": {"lookahead": lookahead},
}


class Known(NamedTuple):
    """A series with its exact answers.

    Args:
        y: observations, shape (T,).
        log_evidence: exact log evidence.
        smoothed: exact means of the states given all observations, shape (T,).
    """

    y: np.ndarray
    log_evidence: float
    smoothed: Float[np.ndarray, " T"]


@functools.cache
def known_autoregression(n_steps: int) -> Known:
    """T values drawn from the model at `TRUTH`."""
    states = _state_covariance(n_steps, TRUTH["a"], TRUTH["q"])
    rng = np.random.default_rng(n_steps)
    y = np.linalg.cholesky(states) @ rng.normal(size=n_steps) + NOISE_SD * rng.normal(size=n_steps)
    seen = states + NOISE_SD**2 * np.eye(n_steps)
    return Known(y, float(stats.multivariate_normal(cov=seen).logpdf(y)), states @ np.linalg.solve(seen, y))


def _state_covariance(n_steps: int, a: Any, q: Any) -> np.ndarray:
    lags = np.abs(np.subtract.outer(np.arange(n_steps), np.arange(n_steps)))
    a, q = np.asarray(a)[..., None, None], np.asarray(q)[..., None, None]
    return q**2 / (1 - a**2) * a**lags


@functools.cache
def exact_posterior_means(n_steps: int, n_grid: int = 120) -> dict[str, float]:
    """Posterior means of `a` and `q` given `known_autoregression(n_steps)`, by the midpoint rule on a grid.

    The likelihood is the density of one normal vector; the grid reaches to `q` = 4.
    """
    y = known_autoregression(n_steps).y
    midpoints = (np.arange(n_grid) + 0.5) / n_grid
    q = 4 * midpoints
    log_posterior = np.empty((n_grid, n_grid))
    for i, a in enumerate(midpoints):
        covariance = _state_covariance(n_steps, np.full(n_grid, a), q) + NOISE_SD**2 * np.eye(n_steps)
        factor = np.linalg.cholesky(covariance)
        whitened = np.linalg.solve(factor, np.broadcast_to(y[:, None], (n_grid, n_steps, 1)))[..., 0]
        log_determinant = np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(axis=-1)
        log_posterior[i] = -0.5 * (whitened**2).sum(axis=-1) - log_determinant + stats.halfnorm(scale=2).logpdf(q)
    weights = np.exp(log_posterior - log_posterior.max())
    weights /= weights.sum()
    return {"a": float(weights.sum(axis=1) @ midpoints), "q": float(weights.sum(axis=0) @ q)}


# --- two states, three symbols ---------------------------------------------------------------------------------------

START = np.array([0.6, 0.4])
MOVES = np.array([[0.8, 0.2], [0.3, 0.7]])
SYMBOLS = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])

two_states = StateSpaceModel(
    initial=lambda p, inputs: dist.Categorical(jnp.asarray(START)),
    transition=lambda p, k, inputs: dist.Categorical(jnp.asarray(MOVES)[k]),
    observation=lambda p, k, inputs: dist.Categorical(jnp.asarray(SYMBOLS)[k]),
)


class Message(NamedTuple):
    """Five symbols and their exact log evidence."""

    y: Int[np.ndarray, " 5"]
    log_evidence: float


@functools.cache
def message() -> Message:
    """Symbols of the two states, with the evidence summed over all 32 paths."""
    y = np.array([0, 2, 2, 0, 1])
    total = 0.0
    for path in itertools.product(range(2), repeat=len(y)):
        moves = np.prod([MOVES[before, after] for before, after in itertools.pairwise(path)])
        total += START[path[0]] * moves * np.prod(SYMBOLS[list(path), y])
    return Message(y, float(np.log(total)))


# --- stochastic volatility of an interest rate -----------------------------------------------------------------------


def _volatility_prior() -> None:
    numpyro.sample("level", dist.Normal(0.0, 1.5))
    numpyro.sample("persistence", dist.Beta(20.0, 1.5))
    numpyro.sample("volatility", dist.HalfNormal(0.5))


def _stationary_sd(p: dict[str, Any]) -> Any:
    return p["volatility"] / jnp.sqrt(1 - p["persistence"] ** 2)


stochastic_volatility = StateSpaceModel(
    initial=lambda p, inputs: dist.Normal(p["level"], _stationary_sd(p)),
    transition=lambda p, h, inputs: dist.Normal(p["level"] + p["persistence"] * (h - p["level"]), p["volatility"]),
    observation=lambda p, h, inputs: dist.Normal(0.0, jnp.exp(h / 2)),
    prior=_volatility_prior,
)


def joint_stochastic_volatility(y: Float[Array, " T"]) -> None:
    """The same model for NUTS: parameters and standardised shocks together.

    Args:
        y: observations.
    """
    p = {
        "level": numpyro.sample("level", dist.Normal(0.0, 1.5)),
        "persistence": numpyro.sample("persistence", dist.Beta(20.0, 1.5)),
        "volatility": numpyro.sample("volatility", dist.HalfNormal(0.5)),
    }
    shocks = jnp.asarray(numpyro.sample("shocks", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1)))

    def step(deviation, shock):
        deviation = p["persistence"] * deviation + p["volatility"] * shock
        return deviation, deviation

    first = _stationary_sd(p) * shocks[0]
    _, later = jax.lax.scan(step, first, shocks[1:])
    log_variance = p["level"] + jnp.concatenate([first[None], later])
    numpyro.sample("y", dist.Normal(0.0, jnp.exp(log_variance / 2)).to_event(1), obs=y)


def rate_changes() -> Float[np.ndarray, " T"]:
    """Quarterly changes of the treasury bill rate, in percentage points: 202 of them."""
    return np.diff(data.treasury_bill().values)
