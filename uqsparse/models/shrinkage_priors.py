"""Priors that shrink most coefficients towards zero and leave a few alone, as NumPyro sampling functions.

Each is called inside a model function, like `numpyro.sample`, and returns the coefficients.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float


def laplace(name: str, shape: tuple[int, ...], scale: Any) -> Float[Array, "..."]:
    """Draw coefficients from independent Laplace priors, whose posterior mode is a lasso estimate.

    The mode is sparse, the posterior is not: its draws are zero nowhere. Take `regularised_horseshoe` to tell large
    coefficients from none.

    Args:
        name: name of the site.
        shape: shape of the coefficients.
        scale: positive scale, broadcast to `shape`. A lasso objective `mean loss + penalty |b|` over n rows has scale
            `1 / (n * penalty)`.

    Returns:
        The coefficients, of the given shape.

    Source: Park & Casella (2008), The Bayesian lasso, JASA 103.

    >>> from numpyro import handlers
    >>> handlers.seed(laplace, 0)("b", (3,), 0.1).shape
    (3,)
    """
    prior = dist.Laplace(jnp.zeros(shape), jnp.broadcast_to(scale, shape)).to_event(len(shape))
    return numpyro.sample(name, prior)  # pyright: ignore[reportReturnType]


def horseshoe_global_scale(n_coefs: int, n_nonzero: float, n: int, noise_scale: float = 1.0) -> float:
    """Scale of the global parameter at which a horseshoe expects a given number of coefficients to matter.

    Args:
        n_coefs: coefficients under the prior, at least 1.
        n_nonzero: how many of them are expected to be far from zero, between 0 and `n_coefs`, ends excluded.
        n: number of rows, at least 1.
        noise_scale: standard deviation of the noise, positive. For a generalised linear model that of a Gaussian with
            the same curvature: 2 for a balanced logistic regression.

    Returns:
        `n_nonzero / (n_coefs - n_nonzero) * noise_scale / sqrt(n)`.

    Raises:
        ValueError: if an argument is out of range.

    Source: Piironen & Vehtari (2017), Sparsity information and regularization in the horseshoe and other shrinkage
    priors, Electronic Journal of Statistics 11, section 3.3.

    >>> horseshoe_global_scale(100, 10, 400)
    0.00555...
    """
    if n_coefs < 1 or n < 1:
        raise ValueError(f"n_coefs and n must be at least 1, got {n_coefs} and {n}")
    if not 0 < n_nonzero < n_coefs:
        raise ValueError(f"n_nonzero must lie strictly between 0 and n_coefs = {n_coefs}, got {n_nonzero!r}")
    if not 0 < noise_scale < math.inf:
        raise ValueError(f"noise_scale must be positive and finite, got {noise_scale!r}")
    return n_nonzero / (n_coefs - n_nonzero) * noise_scale / math.sqrt(n)


def regularised_horseshoe(
    name: str, shape: tuple[int, ...], *, global_scale: float, slab_scale: float = 2.0, slab_df: float = 4.0
) -> Float[Array, "..."]:
    """Draw coefficients that are near zero or roughly as large as the slab allows.

    Coefficient j is `z_j tau lambda_j c / sqrt(c^2 + tau^2 lambda_j^2)`, with z_j standard normal, tau half-Cauchy
    with scale `global_scale`, lambda_j half-Cauchy with scale 1, and c^2 inverse gamma, so that a coefficient far from
    zero has a Student t prior with `slab_df` degrees of freedom and scale `slab_scale`.

    Its parts are the sites `{name}_z`, `{name}_global`, `{name}_local` and `{name}_slab` (c^2); `{name}` is
    deterministic.

    Args:
        name: name of the coefficients.
        shape: their shape.
        global_scale: positive; see `horseshoe_global_scale`.
        slab_scale: positive scale of the large coefficients.
        slab_df: degrees of freedom of the slab, positive; infinite for a Gaussian slab with c = `slab_scale`.

    Returns:
        The coefficients, of the given shape.

    Raises:
        ValueError: if a scale or `slab_df` is not positive.

    Source: Piironen & Vehtari (2017), Sparsity information and regularization in the horseshoe and other shrinkage
    priors, Electronic Journal of Statistics 11, equations 2.8 and 2.9, section 4.1.

    >>> from numpyro import handlers
    >>> handlers.seed(regularised_horseshoe, 0)("b", (3,), global_scale=0.1).shape
    (3,)
    """
    for argument, value in (("global_scale", global_scale), ("slab_scale", slab_scale), ("slab_df", slab_df)):
        if not value > 0:
            raise ValueError(f"{argument} must be positive, got {value!r}")
    z: Any = numpyro.sample(f"{name}_z", dist.Normal(jnp.zeros(shape), 1.0).to_event(len(shape)))
    tau: Any = numpyro.sample(f"{name}_global", dist.HalfCauchy(global_scale))
    local: Any = numpyro.sample(f"{name}_local", dist.HalfCauchy(jnp.ones(shape)).to_event(len(shape)))
    if math.isinf(slab_df):
        slab: Any = slab_scale**2
    else:
        slab = numpyro.sample(f"{name}_slab", dist.InverseGamma(slab_df / 2, slab_df / 2 * slab_scale**2))
    return numpyro.deterministic(name, z * horseshoe_scale(tau, local, slab))  # pyright: ignore[reportReturnType]


def horseshoe_scale(tau: Any, local: Any, slab: Any) -> Any:
    """Prior standard deviation of a coefficient, given the parameters of the regularised horseshoe.

    Args:
        tau: global parameter, positive.
        local: local parameters, positive, any shape.
        slab: c^2, positive.

    Returns:
        `sqrt(c^2 tau^2 lambda^2 / (c^2 + tau^2 lambda^2))`, written so that a huge lambda gives c.
    """
    wide = tau * local
    return wide / jnp.hypot(1.0, wide / jnp.sqrt(slab))
