"""Forecasters: from a random walk to a level whose volatility wanders, learned by PMMH and followed by a filter."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import optimize

from uqsparse import bench
from uqsparse.inference import LinearGaussian, StateSpaceModel, kalman_filter, particle_filter, pmmh
from uqsparse.inference.arviz_io import dataset
from uqsparse.kernels import systematic, uniform

N_DRAWS = 500


def _before(y_train: np.ndarray, y_test: np.ndarray, lags: int) -> np.ndarray:
    """The `lags` targets before each row of the test part, the latest first, shape (n_test, lags)."""
    y = np.concatenate([y_train, y_test])
    rows = np.arange(len(y_train), len(y))
    return np.stack([y[rows - k] for k in range(1, lags + 1)], axis=1)


@bench.method("random walk", kind="forecast")
def random_walk(context, X_train, y_train):
    """The last value, with the spread of past steps."""
    sd = np.asarray(np.std(np.diff(y_train)))
    return lambda X_test, y_test: bench.GaussianMixture(_before(y_train, y_test, 1)[:, 0], sd)


@bench.method("autoregression", kind="forecast")
def autoregression(context, X_train, y_train):
    """Four lags and a constant by least squares, with the spread of the residuals."""
    lags = 4
    past = _before(y_train[:lags], y_train[lags:], lags)
    design = np.column_stack([np.ones(len(past)), past])
    coefficients, *_ = np.linalg.lstsq(design, y_train[lags:], rcond=None)
    sd = np.sqrt(np.sum((y_train[lags:] - design @ coefficients) ** 2) / (len(past) - lags - 1))

    def forecast(X_test, y_test):
        past = _before(y_train, y_test, lags)
        return bench.GaussianMixture(np.column_stack([np.ones(len(past)), past]) @ coefficients, sd)

    return forecast


@bench.method("local level (Kalman)", kind="forecast")
def local_level(context, X_train, y_train):
    """A random walk under noise; both variances by maximum likelihood."""
    centre, scale = y_train.mean(), y_train.std()
    one = jnp.ones((1, 1))

    def model(log_sds):
        step, noise = jnp.exp(2 * log_sds)
        return LinearGaussian(jnp.zeros(1), 10.0 * one, one, step * one, one, noise * one)

    @jax.jit
    def loss(log_sds, y):
        return jax.value_and_grad(lambda s: -kalman_filter(model(s), y).log_evidence)(log_sds)

    def standardised(y):
        return jnp.asarray((y - centre) / scale)[:, None]

    with jax.enable_x64(True):
        seen = standardised(y_train)
        found = optimize.minimize(
            lambda s: [np.asarray(x, float) for x in loss(jnp.asarray(s), seen)],
            np.log([0.3, 0.5]),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-6, 2)] * 2,
        )

    def forecast(X_test, y_test):
        with jax.enable_x64(True):
            fitted = model(jnp.asarray(found.x))
            result = kalman_filter(fitted, standardised(np.concatenate([y_train, y_test])))
            mean = np.asarray(result.predicted_means)[len(y_train) :, 0]
            variance = np.asarray(result.predicted_covariances)[len(y_train) :, 0, 0]
            sd = np.sqrt(variance + float(fitted.observation_covariance[0, 0]))
        return bench.GaussianMixture(centre + scale * mean, scale * sd)

    return forecast


def _volatility_prior():
    numpyro.sample("level_step", dist.HalfNormal(0.5))
    numpyro.sample("volatility_step", dist.HalfNormal(0.3))


# Stock & Watson (2007), Why has U.S. inflation become harder to forecast?, with a constant step of the level.
LOCAL_LEVEL_WITH_VOLATILITY = StateSpaceModel(
    initial=lambda p, u: {"level": dist.Normal(0.0, 2.0), "log_variance": dist.Normal(-1.0, 1.5)},
    transition=lambda p, x, u: {
        "level": dist.Normal(x["level"], p["level_step"]),
        "log_variance": dist.Normal(x["log_variance"], p["volatility_step"]),
    },
    observation=lambda p, x, u: dist.Normal(x["level"], jnp.exp(x["log_variance"] / 2)),
    prior=_volatility_prior,
)


@jax.jit
def _ahead(keys, states, log_weights, parameters):
    """Level and spread of the next value at each time, drawn: a particle by its weight, and its next state."""

    def one(key, states, log_weights):
        key_choice, key_level, key_variance = jax.random.split(key, 3)
        # Not by `jax.random.categorical`, which draws a number for every pair of draw and particle.
        chosen = systematic(jnp.exp(log_weights), uniform(key_choice, ()), N_DRAWS)
        x = jax.tree.map(lambda leaf: leaf[chosen], states)
        level = x["level"] + parameters["level_step"] * jax.random.normal(key_level, (N_DRAWS,))
        steps = parameters["volatility_step"] * jax.random.normal(key_variance, (N_DRAWS,))
        return level, jnp.exp((x["log_variance"] + steps) / 2)

    return jax.vmap(one)(keys, states, log_weights)


@bench.method("local level with stochastic volatility (PMMH)", kind="forecast", quick=False)
def stochastic_volatility(context, X_train, y_train):
    """Steps of level and log variance learned by PMMH on the training part; a particle filter follows the series."""
    centre, scale = y_train.mean(), y_train.std()
    key_learn, key_filter, key_draw = jax.random.split(jax.random.key(context.seed), 3)
    n_draws = 100 if context.quick else 1000
    model = LOCAL_LEVEL_WITH_VOLATILITY
    with warnings.catch_warnings():
        # Means of two parameters need no better chains than these short ones.
        warnings.simplefilter("ignore", UserWarning)
        learned = pmmh(
            key_learn,
            model,
            (y_train - centre) / scale,
            n_particles=100,
            n_warmup=n_draws,
            n_samples=n_draws,
            keep_states=False,
        )
    parameters = {name: float(dataset(learned)[name].mean()) for name in ("level_step", "volatility_step")}

    def forecast(X_test, y_test):
        y = (np.concatenate([y_train, y_test]) - centre) / scale
        history: Any = particle_filter(key_filter, model, y, parameters, n_particles=2000, keep_history=True).history
        before = slice(len(y_train) - 1, len(y) - 1)

        states = jax.tree.map(lambda one: one[before], history.states)
        keys = jax.random.split(key_draw, len(y_test))
        mean, sd = _ahead(keys, states, history.log_weights[before], parameters)
        return bench.GaussianMixture(centre + scale * np.asarray(mean).T, scale * np.asarray(sd).T)

    return forecast
