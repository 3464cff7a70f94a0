"""A model with two unknown parameters whose posterior quadrature and a Kalman filter give exactly."""

from typing import NamedTuple

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

from uqsparse.inference import StateSpaceModel

T, NOISE = 25, 0.7


class KnownPosterior(NamedTuple):
    """Moments given y_0, ..., y_t have a leading axis T; `state_means` are given the whole series."""

    model: StateSpaceModel
    y: np.ndarray
    log_evidence_increments: np.ndarray
    means: dict[str, np.ndarray]
    sds: dict[str, np.ndarray]
    filtered_means: np.ndarray
    state_means: np.ndarray


def _prior():
    """One parameter on an interval and one on the half line: both Jacobians matter."""
    numpyro.sample("a", dist.Uniform(-1.0, 1.0))
    q = numpyro.sample("q", dist.HalfNormal(1.0))
    numpyro.deterministic("variance", q**2)


MODEL = StateSpaceModel(
    initial=lambda p, u: dist.Normal(0.0, 1.0),
    transition=lambda p, x, u: dist.Normal(p["a"] * x, p["q"]),
    observation=lambda p, x, u: dist.Normal(x, NOISE),
    prior=_prior,
)


@pytest.fixture(scope="session")
def noisy_autoregression() -> KnownPosterior:
    """A series with one gap, x_t = a x_{t-1} + q e_t seen with noise; a midpoint grid of 300 x 300 parameters."""
    rng = np.random.default_rng(3)
    x = [rng.normal()]
    for _ in range(T - 1):
        x.append(0.8 * x[-1] + 0.6 * rng.normal())
    y = np.array(x) + NOISE * rng.normal(size=T)
    y[7] = np.nan

    k = (np.arange(300) + 0.5) / 300
    a, q = (g.ravel() for g in np.meshgrid(2 * k - 1, 4 * k))
    log_weights = stats.halfnorm.logpdf(q)
    log_weights -= np.logaddexp.reduce(log_weights)
    total, increments, moments, filters = 0.0, [], [], []
    mean, variance = np.zeros(a.size), np.ones(a.size)
    for t in range(T):
        if t:
            mean, variance = a * mean, a**2 * variance + q**2
        predicted = mean, variance
        if not np.isnan(y[t]):
            gain = variance / (variance + NOISE**2)
            log_weights = log_weights + stats.norm.logpdf(y[t], mean, np.sqrt(variance + NOISE**2))
            mean, variance = mean + gain * (y[t] - mean), (1 - gain) * variance
        increments.append(np.logaddexp.reduce(log_weights) - total)
        total += increments[-1]
        weights = np.exp(log_weights - total)
        moments.append([(weights @ g, np.sqrt(weights @ (g - weights @ g) ** 2)) for g in (a, q)])
        filters.append((*predicted, mean, variance, weights @ mean))
    smoothed, state_means = filters[-1][2], [filters[-1][4]]
    for t in reversed(range(T - 1)):
        prior_mean, prior_variance = filters[t + 1][:2]
        mean, variance = filters[t][2:4]
        smoothed = mean + a * variance / prior_variance * (smoothed - prior_mean)
        state_means.append(weights @ smoothed)
    moments = np.array(moments)
    return KnownPosterior(
        MODEL,
        y,
        np.array(increments),
        {"a": moments[:, 0, 0], "q": moments[:, 1, 0]},
        {"a": moments[:, 0, 1], "q": moments[:, 1, 1]},
        np.array([f[4] for f in filters]),
        np.array(state_means[::-1]),
    )
