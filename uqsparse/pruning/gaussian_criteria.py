"""Criteria for weights with distributions N(mu, sigma^2): which are worth keeping.

Scores rank weights as the named quantity does, but most are functions of it that increase: logarithms neither
overflow nor cancel in single precision. A weight that is off scores -inf: never keep.

Source: Li, Miao, Qiu & Zhang (2024), Training Bayesian neural networks with sparse subspace variational inference,
ICLR, section 3.3.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.scipy.special import erfc
from jaxtyping import Array, Float

from uqsparse.nn.gaussian_layers import GaussianWeight
from uqsparse.pruning.criteria import Criterion

_SMALL = 0.03  # lam sigma up to which three cumulants say more than differences of logarithms in single precision
_FAR = 30.0  # mu / sigma from which the sign of a weight is certain in any precision


def posterior_mean() -> Criterion:
    """|mu|: magnitude, blind to the spread."""
    return _criterion("mean", lambda mu, sigma: mu)


def snr() -> Criterion:
    """The signal-to-noise ratio |mu| / sigma, as its logarithm."""
    return _criterion("snr", _log_ratio)


def mean_abs() -> Criterion:
    """E|w|, the mean of the folded normal distribution; |mu| for weights that are nearly certain."""
    return _criterion("E_mean_abs", lambda mu, sigma: mu + sigma * _cumulants(mu, sigma)[0])


def snr_mean_abs() -> Criterion:
    """E|w| / SD|w|: the default of the method. It ranks exactly as `snr`.

    |w| / sigma has a distribution that depends on |mu| / sigma alone, and its mean over its deviation increases with
    it. The quotient itself cancels in single precision from |mu| / sigma of about 1,000 on; so the score is that of
    `snr`.
    """
    return _criterion("SNR_mean_abs", _log_ratio)


def mean_exp_abs(lam: float = 1.0) -> Criterion:
    """E exp(lam |w|), as its logarithm.

    Args:
        lam: positive. Where lam |w| is small this is `mean_abs`.
    """
    _require_positive(lam)

    def score(mu: Array, sigma: Array) -> Array:
        excess, variance, third = _cumulants(mu, sigma)
        m, s = lam * mu, lam * sigma
        small = m + s * (excess + s * (variance / 2 + s * third / 6))
        return jnp.where(s < _SMALL, small, m + s**2 / 2 + _log_masses(m, s, 1))

    return _criterion("E_exp_mean_abs", score)


def snr_exp_abs(lam: float = 1.0) -> Criterion:
    """Mean over standard deviation of exp(lam |w|), as its logarithm.

    Args:
        lam: positive. Where lam |w| is small this ranks by 1 / SD|w| alone and ignores how large weights are; the
            method's usual spreads of 0.001 to 0.01 with lam = 1 are such a case.
    """
    _require_positive(lam)

    def score(mu: Array, sigma: Array) -> Array:
        _, variance, third = _cumulants(mu, sigma)
        m, s = lam * mu, lam * sigma
        # d = log M(2 lam) - 2 log M(lam), and the squared quotient is 1 / (exp(d) - 1).
        small = jnp.log(variance + s * third) + 2 * jnp.log(s)
        d = jnp.maximum(s**2 + _log_masses(m, s, 2) - 2 * _log_masses(m, s, 1), _SMALL**2 / 10)
        large = jnp.where(d < 1, jnp.log(jnp.expm1(jnp.minimum(d, 1.0))), d + jnp.log1p(-jnp.exp(-d)))
        return -0.5 * jnp.where(s < _SMALL, small, large)

    return _criterion("SNR_exp_mean_abs", score)


def _criterion(name: str, of: Callable[[Array, Array], Array]) -> Criterion:
    def score(unit: Any, *, grad: Any = None, stats: Any = None, key: Any = None) -> Float[Array, "..."]:
        if not isinstance(unit, GaussianWeight):
            raise TypeError(f"criterion {name} needs Gaussian weights, got {type(unit).__name__}; see to_bayesian")
        active = unit.active
        found = of(jnp.abs(unit.mu), jnp.where(active, unit.sigma, 1.0))
        most = jnp.finfo(found.dtype).max
        return jnp.where(active, jnp.clip(found, -most, most), -jnp.inf)

    return Criterion(name, score)


def _log_ratio(mu: Array, sigma: Array) -> Array:
    least = jnp.finfo(mu.dtype).tiny
    ratio = jnp.log(jnp.maximum(mu, least)) - jnp.log(sigma)
    return jnp.where(mu < least, jnp.log(least) - jnp.log(jnp.finfo(mu.dtype).max), ratio)


def _cumulants(mu: Array, sigma: Array) -> tuple[Array, Array, Array]:
    """Of |z + t|, z standard normal and t = mu / sigma >= 0: mean less t, variance, third central moment.

    |z + t| = z + t + r with r = 2 max(0, -z - t), whose moments die out with t: nothing cancels where t is large.
    """
    t = jnp.minimum(mu / sigma, _FAR)
    density, tail = jnp.exp(-0.5 * t**2) / jnp.sqrt(2 * jnp.pi), _tail(t)
    r = 2 * jnp.maximum(density - t * tail, 0.0)
    r2 = 4 * ((1 + t**2) * tail - t * density)
    r3 = 8 * ((t**2 + 2) * density - (t**3 + 3 * t) * tail)
    third = 6 * density - 12 * r * (1 - tail) + r3 - 3 * r * r2 + 2 * r**3
    return r, 1 - 2 * t * r - r**2, third


def _log_masses(m: Array, s: Array, k: int) -> Array:
    """log E exp(k lam |w|) without its terms k m + (k s)^2 / 2, m = lam |mu| and s = lam sigma."""
    t = m / s
    return jnp.log(_tail(-t - k * s) + jnp.exp(-2 * k * m) * _tail(t - k * s))


def _tail(x: Array) -> Array:
    """Probability that a standard normal variable exceeds x."""
    return 0.5 * erfc(x / jnp.sqrt(2.0))


def _require_positive(lam: float) -> None:
    if not 0 < lam < float("inf"):
        raise ValueError(f"lam must be positive and finite, got {lam!r}")
