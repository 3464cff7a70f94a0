"""Updates of predictive densities by the Gaussian copula.

A density learns from a datum by mixing itself with itself times a copula density, which raises it where its
distribution function is near that of the datum. No integral appears: only distribution functions at the points of
interest.

Source: Hahn, Martin & Walker (2018), On recursive Bayesian predictive distributions; Fong, Holmes & Walker (2023),
Martingale posterior distributions.
"""

from typing import Any

import jax.numpy as jnp
from jax.scipy.special import erfc, erfinv
from jaxtyping import Array, Float

_ROOT_TWO = 2**0.5
# Products of copula densities stay below this, so that their exponentials are finite in single precision.
_LARGEST_LOG = 80.0


def normal_scores(ranks: Float[Array, "..."]) -> Float[Array, "..."]:
    """Normal quantiles of probabilities, which are first kept away from 0 and 1, by 1e-6 in single precision.

    >>> float(normal_scores(jnp.array(0.5)))
    0.0
    """
    ranks = jnp.asarray(ranks)
    margin = 1e-10 if ranks.dtype == jnp.float64 else 1e-6
    # by the error functions, which cost half of ndtri and ndtr
    return _ROOT_TWO * erfinv(2 * jnp.clip(ranks, margin, 1 - margin) - 1)


def log_gaussian_copula(
    a: Float[Array, "..."], b: Float[Array, "..."], rho: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Log density of the Gaussian copula with correlation rho, at normal scores a and b."""
    rest = 1 - jnp.square(rho)
    return -0.5 * jnp.log(rest) + (2 * rho * a * b - jnp.square(rho) * (jnp.square(a) + jnp.square(b))) / (2 * rest)


def gaussian_copula_cdf(
    a: Float[Array, "..."], b: Float[Array, "..."], rho: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Probability of a rank below that of score a, given one of score b."""
    return 0.5 * erfc((rho * b - a) / jnp.sqrt(2 * (1 - jnp.square(rho))))


def learning_weight(i: Any) -> Float[Array, ""]:
    """Weight of datum i = 1, 2, ...: (2 - 1 / i) / (i + 1).

    >>> float(learning_weight(1.0))
    0.5
    """
    return jnp.asarray((2 - 1 / i) / (i + 1))


def copula_update(
    log_density: Float[Array, "m d"],
    cdf: Float[Array, "m d"],
    ranks: Float[Array, " d"],
    rho: Float[Array, " d"],
    weight: Float[Array, "..."],
) -> tuple[Float[Array, "m d"], Float[Array, "m d"]]:
    """Update a density of d coordinates at m points by one datum.

    Args:
        log_density: log p(y_1, ..., y_j) at each point, in column j.
        cdf: P(y_j | y_1, ..., y_{j-1}) at each point, in column j.
        ranks: the same distribution functions at the datum.
        rho: bandwidth of each coordinate, in (0, 1): the larger, the more local.
        weight: weight of the datum, one number or one a point (m,).

    Returns:
        The two arrays after the update.

    Source: Fong, Holmes & Walker (2023), copula updates for multivariate densities.

    >>> flat = jnp.zeros((1, 1))  # with weight 0 nothing is learned
    >>> copula_update(flat, flat + 0.3, jnp.array([0.9]), jnp.array([0.5]), jnp.array(0.0))[1].round(3).tolist()
    [[0.30000...]]
    """
    a, b = normal_scores(cdf), normal_scores(ranks)
    weight = jnp.asarray(weight)[..., None]
    log_products = jnp.minimum(jnp.cumsum(log_gaussian_copula(a, b, rho), axis=-1), _LARGEST_LOG)
    products = jnp.expm1(log_products)
    earlier = jnp.pad(products[..., :-1], ((0, 0), (1, 0)))
    share = weight * (1 + earlier) / (1 + weight * earlier)
    return log_density + jnp.log1p(weight * products), cdf + share * (gaussian_copula_cdf(a, b, rho) - cdf)
