"""The posterior mode of the NumPyro model behind `bayesian_presto`, found without PRESTO's solver."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from numpyro.infer.util import log_density
from scipy.optimize import minimize

from uqsparse.models.cumulative_logit import presto_model
from uqsparse.models.shrinkage_priors import laplace


def posterior_mode(
    X: Float[np.ndarray, "n p"], y: Int[np.ndarray, " n"], n_classes: int, rate: float
) -> Float[np.ndarray, "boundaries p"]:
    """Weights of highest density under Laplace priors on the first weights and on all differences.

    The corner of the density at zero is taken apart: psi = u - v with nonnegative u and v, which L-BFGS-B can handle.

    Args:
        X: standardised features.
        y: classes 0, ..., K - 1.
        n_classes: K.
        rate: one over the prior's scale: rows times PRESTO's penalty.
    """
    k, p = n_classes - 1, X.shape[1]
    prior = functools.partial(laplace, scale=1 / rate)
    model = functools.partial(presto_model, n_classes=n_classes, first_prior=prior, difference_prior=prior)
    size = k * p
    with jax.enable_x64(True):
        rows, codes = jnp.asarray(X.copy()), jnp.asarray(y.copy())

        def negative(u):
            """Minus the log density where |psi| is u + v: below it elsewhere, and equal at the minimum."""
            positive, rest = u[k : k + size], u[k + size :]
            psi = (positive - rest).reshape(k, p)
            values = {"intercepts": jnp.cumsum(u[:k]), "first": psi[:1], "differences": psi[1:]}
            density, _ = log_density(model, (rows, codes), {}, values)
            return -density + rate * (positive + rest - abs(positive - rest)).sum()

        both = jax.jit(jax.value_and_grad(negative))

        def objective(u):
            value, gradient = both(jnp.asarray(u))
            return float(value), np.asarray(gradient)

        below = np.bincount(y).cumsum()[:-1] / len(y)
        logits = np.log(below / (1 - below))
        start = np.concatenate([logits[:1], np.diff(logits), np.full(2 * size, 1e-3)])
        bounds = [(None, None), *[(1e-9, None)] * (k - 1), *[(0.0, None)] * (2 * size)]
        options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-7, "maxcor": 50}
        found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return (found.x[k : k + size] - found.x[k + size :]).reshape(k, p)
