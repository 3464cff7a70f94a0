"""Targets whose answers are known, shared by the claims and speed contests on inference.

Each problem is built once per process, so that entries which share a problem and its settings also share its
compiled program.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from jax.scipy.stats import cauchy, norm
from jaxtyping import Array, Float
from scipy import integrate, stats

from uqsparse import data
from uqsparse.inference import TemperedTarget

PRIOR_SD = 3.0
LIKELIHOOD_SD = 0.3
MODE_WEIGHTS = np.array([0.7, 0.3])
MODE_CENTRES = np.array([2.0, -2.0])


class Known(NamedTuple):
    """A target with its exact answers.

    Args:
        target: prior and likelihood.
        log_evidence: exact log evidence.
        mean: exact posterior means, by site of the model.
        sd: exact posterior standard deviations, by site.
    """

    target: TemperedTarget
    log_evidence: float
    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]


class Densities(NamedTuple):
    """A target as the plain functions that any sampler in JAX can be given.

    Args:
        log_prior: maps u (d,) to the log density of the prior.
        log_likelihood: maps u (d,) to the log likelihood.
        sample_prior: maps (key, n) to prior draws (n, d).
        target: the same as a `TemperedTarget`.
        log_evidence: exact log evidence.
    """

    log_prior: Callable[[Float[Array, " d"]], Float[Array, ""]]
    log_likelihood: Callable[[Float[Array, " d"]], Float[Array, ""]]
    sample_prior: Callable[[Array, int], Float[Array, "n d"]]
    target: TemperedTarget
    log_evidence: float


def linear_regression(x: Float[Array, "n d"], y: Float[Array, " n"]) -> None:
    """NumPyro model: standard normal coefficients, noise of known standard deviation 0.7."""
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ beta, 0.7), obs=y)


@functools.cache
def diabetes_regression() -> Known:
    """Conjugate regression on the diabetes table, standardised: ten coefficients, 442 patients."""
    table = data.diabetes()
    x = (table.X - table.X.mean(axis=0)) / table.X.std(axis=0)
    y = (table.y - table.y.mean()) / table.y.std()
    covariance = np.linalg.inv(np.eye(x.shape[1]) + x.T @ x / 0.7**2)
    marginal = stats.multivariate_normal(cov=x @ x.T + 0.7**2 * np.eye(len(y)))
    return Known(
        TemperedTarget.from_numpyro(linear_regression, x, y),
        float(marginal.logpdf(y)),
        {"beta": covariance @ x.T @ y / 0.7**2},
        {"beta": np.sqrt(np.diag(covariance))},
    )


def coin(heads: int, tosses: int) -> None:
    """NumPyro model: a coin of unknown bias, tossed a number of times."""
    bias = numpyro.sample("bias", dist.Beta(2.0, 3.0))
    numpyro.sample("heads", dist.Binomial(tosses, bias), obs=heads)


@functools.cache
def beta_binomial() -> Known:
    """31 heads in 40 tosses, with a prior that leans the other way: a bounded site, one dimension."""
    heads, tosses = 31, 40
    posterior = stats.beta(2.0 + heads, 3.0 + tosses - heads)
    return Known(
        TemperedTarget.from_numpyro(coin, heads, tosses),
        float(stats.betabinom.logpmf(heads, tosses, 2.0, 3.0)),
        {"bias": np.asarray(posterior.mean())},
        {"bias": np.asarray(posterior.std())},
    )


@functools.cache
def gaussian_mixture_likelihood(dim: int, n_modes: int) -> Densities:
    """Prior N(0, 9 I); likelihood 0.7 N(2, 0.09 I) + 0.3 N(-2, 0.09 I), or its first mode alone.

    Args:
        dim: dimension, at least 1.
        n_modes: 1 or 2. With one mode the likelihood is N(2, 0.09 I), of weight 1.
    """
    weights = MODE_WEIGHTS[:n_modes] / MODE_WEIGHTS[:n_modes].sum()
    centres = MODE_CENTRES[:n_modes]

    def log_prior(u):
        return norm.logpdf(u, 0.0, PRIOR_SD).sum()

    def log_likelihood(u):
        modes = norm.logpdf(u, centres[:, None], LIKELIHOOD_SD).sum(axis=1)
        return logsumexp(jnp.log(weights) + modes)

    def sample_prior(key, n):
        return PRIOR_SD * jax.random.normal(key, (n, dim))

    # Prior and likelihood are Gaussian, so each mode's share of the evidence is a Gaussian density at 0.
    each = stats.norm.logpdf(centres, 0.0, np.hypot(PRIOR_SD, LIKELIHOOD_SD)) * dim
    return Densities(
        log_prior,
        log_likelihood,
        sample_prior,
        TemperedTarget(log_prior, log_likelihood, sample_prior, dim),
        float(np.logaddexp.reduce(np.log(weights) + each)),
    )


def bimodal(dim: int) -> Densities:
    """The mixture of two modes; the posterior weight of the first one is 0.7."""
    return gaussian_mixture_likelihood(dim, 2)


def unimodal(dim: int) -> Densities:
    """A Gaussian likelihood ten times narrower than the prior in each coordinate."""
    return gaussian_mixture_likelihood(dim, 1)


def two_modes(dim: int) -> None:
    """The bimodal target as a NumPyro model."""
    u = jnp.asarray(numpyro.sample("u", dist.Normal(0.0, PRIOR_SD).expand([dim]).to_event(1)))
    numpyro.factor("likelihood", bimodal(dim).log_likelihood(u))


@functools.cache
def cauchy_prior() -> Densities:
    """Standard Cauchy prior and one observation at 2 with standard deviation 0.5: asymmetric, heavy-tailed."""

    def log_prior(u):
        return cauchy.logpdf(u[0])

    def log_likelihood(u):
        return norm.logpdf(2.0, u[0], 0.5)

    def sample_prior(key, n):
        return jax.random.cauchy(key, (n, 1))

    # In the angle whose tangent is u the prior is uniform, so the integrand is bounded on a bounded interval.
    evidence, _ = integrate.quad(
        lambda angle: stats.norm.pdf(2.0, np.tan(angle), 0.5) / np.pi,
        -np.pi / 2,
        np.pi / 2,
        points=[np.arctan(2)],
    )
    return Densities(
        log_prior,
        log_likelihood,
        sample_prior,
        TemperedTarget(log_prior, log_likelihood, sample_prior, 1),
        float(np.log(evidence)),
    )


class LogisticData(NamedTuple):
    """Breast-cancer diagnoses: inputs (569, 31), standardised, the first column 1; labels (569,), 0 or 1."""

    x: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, " n"]


def logistic_data() -> LogisticData:
    """The breast-cancer table with an intercept."""
    table = data.breast_cancer()
    x = (table.X - table.X.mean(axis=0)) / table.X.std(axis=0)
    return LogisticData(np.column_stack([np.ones(len(x)), x]), table.y.astype(float))


def logistic_regression(x: Float[Array, "n d"], y: Float[Array, " n"]) -> None:
    """NumPyro model: standard normal coefficients, labels with log odds `x @ beta`."""
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.BernoulliLogits(x @ beta), obs=y)


@functools.cache
def logistic_target() -> TemperedTarget:
    """The logistic regression on the breast-cancer data, to be tempered: 31 coefficients."""
    return TemperedTarget.from_numpyro(logistic_regression, *logistic_data())
