"""Martingale posteriors on the leaderboard's tables: a line with resampled weights, and copula regression."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uqsparse import bench
from uqsparse.inference import BayesianBootstrap, CopulaRegression, martingale_posterior

_N_SAMPLES, _LEVELS, _N_TARGETS = 200, (np.arange(200) + 0.5) / 200, 400


@bench.method("linear, Bayesian bootstrap", kind="regression", quick=False)
def bootstrapped_line(
    context: bench.Context, X_train: np.ndarray, y_train: np.ndarray, X_test: np.ndarray
) -> bench.GaussianMixture:
    """Least squares with Dirichlet weights on the rows: the martingale posterior of the line and of its noise."""
    X_train, X_test = (np.column_stack([np.ones(len(X)), X]) for X in (X_train, X_test))
    lines = martingale_posterior(
        jax.random.key(context.seed),
        BayesianBootstrap(),
        (X_train, y_train),
        _weighted_line,
        n_forward=math.inf,
        n_samples=_N_SAMPLES,
    ).samples
    coefficients, sd = np.asarray(lines[:, :-1]), np.asarray(lines[:, -1])
    return bench.GaussianMixture(coefficients @ X_test.T, np.tile(sd[:, None], len(X_test)))


def _weighted_line(urn: Any) -> jax.Array:
    """Coefficients of weighted least squares, and the noise around them."""
    (X, y), root = urn.atoms, jnp.sqrt(urn.weights)
    coefficients = jnp.linalg.lstsq(root[:, None] * X, root * y)[0]
    variance = jnp.sum(urn.weights * (y - X @ coefficients) ** 2) / urn.weights.sum()
    return jnp.append(coefficients, jnp.sqrt(variance))


@bench.method("copula regression", kind="regression", quick=False)
def copula_regression(
    context: bench.Context, X_train: np.ndarray, y_train: np.ndarray, X_test: np.ndarray
) -> np.ndarray:
    """The predictive of Gaussian copula updates, as its quantiles at 200 levels."""
    spread = y_train.std()
    # The update takes no ties; a millionth of the spread parts them.
    y = y_train + 1e-6 * spread * np.random.default_rng(context.seed).normal(size=len(y_train))
    targets = np.linspace(y.min() - 2 * spread, y.max() + 2 * spread, _N_TARGETS)
    law = CopulaRegression(X_test, targets, seed=context.seed % 2**31).init((X_train, y))
    return np.stack([np.asarray(law.quantile(level), float) for level in _LEVELS])
