"""Losses of generalised linear models in the linear predictor: value, slope, curvature and convex conjugate.

A loss f(y, u) is convex in the linear predictor u. The kinds:

    "logistic"  softplus(-s u) with s = 2 y - 1, y in {0, 1}: minus the log-likelihood of a coin.
    "squared"   (y - u)^2 / 2.
    "poisson"   exp(u) - y u - y + y log y, y >= 0: half the deviance of a Poisson count with mean exp(u). It is at
                least 0, and differs from minus the log-likelihood by a term without u.
    "ordinal"   the cumulative logit likelihood of `uqsparse.kernels.ordinal`, of two linear predictors a row.

NumPy arrays stay with NumPy and JAX arrays with JAX, except for "ordinal", which is JAX.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uqsparse.kernels.namespaces import AnyArray, array_namespace
from uqsparse.kernels.ordinal import ordinal_derivatives

LossKind = Literal["logistic", "squared", "poisson", "ordinal"]
LOSS_KINDS: tuple[str, ...] = ("logistic", "squared", "poisson", "ordinal")


class LossTerms(NamedTuple):
    """A loss of one linear predictor, entry by entry: its value and its first two derivatives in the predictor."""

    value: AnyArray
    slope: AnyArray
    curvature: AnyArray


class RowTerms(NamedTuple):
    """The losses of n rows with m predictors each, laid out for matrix products with stacked designs.

    Args:
        value: shape (..., n); +inf outside the domain.
        slopes: derivatives in the predictors, one block of n for each of the m, shape (..., m n).
        curvatures: second derivatives, one block of n for each pair of predictors (m = 1: one; m = 2: lower-lower,
            lower-upper, upper-upper), shape (..., m (m + 1) / 2 n).
    """

    value: AnyArray
    slopes: AnyArray
    curvatures: AnyArray


def glm_terms(kind: LossKind, y: AnyArray, u: AnyArray) -> LossTerms:
    """Value, slope and curvature of a loss of one linear predictor.

    Args:
        kind: "logistic", "squared" or "poisson".
        y: responses, broadcast against `u`.
        u: linear predictors.

    Raises:
        ValueError: another kind.

    Source: McCullagh & Nelder (1989), Generalized Linear Models, chapter 2.

    >>> [round(float(one), 4) for one in glm_terms("logistic", 1.0, 0.0)]
    [0.6931, -0.5, 0.25]
    """
    xp: Any = array_namespace(y, u)
    if kind == "logistic":
        sign = 2.0 * y - 1.0
        z = -sign * u
        # One exponential, of a number that is at most 0.
        e = xp.exp(-abs(z))
        larger = 1.0 / (1.0 + e)
        smaller = e * larger
        value = np.maximum(z, 0.0) + np.log1p(e) if xp is np else _softplus(z)
        return LossTerms(value, -sign * xp.where(z > 0, larger, smaller), smaller * larger)
    if kind == "squared":
        residual = u - y
        return LossTerms(0.5 * residual * residual, residual, xp.ones_like(residual))
    if kind == "poisson":
        mean = xp.exp(u)
        # y (e^v - 1 - v) with v = u - log y: the large terms of exp(u) - y u - y + y log y cancel before rounding.
        v = u - xp.log(xp.where(y > 0, y, 1.0))
        value = xp.where(y > 0, y * (xp.expm1(v) - v), mean)
        return LossTerms(value, mean - y, mean)
    raise ValueError(f"kind must be 'logistic', 'squared' or 'poisson', got {kind!r}")


def glm_conjugate(kind: LossKind, y: AnyArray, v: AnyArray) -> AnyArray:
    """Convex conjugate of a loss of one linear predictor: the supremum over u of `v u - f(y, u)`.

    Args:
        kind: "logistic", "squared" or "poisson".
        y: responses, broadcast against `v`.
        v: slopes.

    Returns:
        The conjugate; +inf outside its domain (logistic: -y <= v <= 1 - y; Poisson: v >= -y).

    Raises:
        ValueError: another kind.

    Source: Rockafellar (1970), Convex Analysis, section 12.

    >>> round(float(glm_conjugate("logistic", 1.0, -0.5)), 4), float(glm_conjugate("squared", 1.0, 2.0))
    (-0.6931, 4.0)
    """
    xp: Any = array_namespace(y, v)
    if kind == "logistic":
        mean = v + y
        inside = (mean >= 0) & (mean <= 1)
        mean = xp.where(inside, mean, 0.5)
        return xp.where(inside, _xlogx(xp, mean) + _xlogx(xp, 1.0 - mean), xp.inf)
    if kind == "squared":
        return 0.5 * v * v + v * y
    if kind == "poisson":
        mean = v + y
        inside = mean >= 0
        mean = xp.where(inside, mean, 1.0)
        return xp.where(inside, _xlogx(xp, mean) - v - _xlogx(xp, y + 0.0 * v), xp.inf)
    raise ValueError(f"kind must be 'logistic', 'squared' or 'poisson', got {kind!r}")


def row_terms(kind: LossKind, y: AnyArray, margins: AnyArray) -> RowTerms:
    """Losses of n rows and their derivatives in all their predictors, of any kind.

    Args:
        kind: one of `LOSS_KINDS`.
        y: responses, shape (n,). For "ordinal" what a row has: 0 an upper boundary, 1 both, 2 a lower boundary.
        margins: linear predictors, shape (..., n), or (..., 2 n) for "ordinal": the lower ones, then the upper ones;
            a missing one is ignored.

    >>> row_terms("squared", np.array([1.0]), np.array([3.0])).slopes.tolist()
    [2.0]
    """
    if kind != "ordinal":
        return RowTerms(*glm_terms(kind, y, margins))
    lower, upper = jnp.split(margins, 2, axis=-1)
    y = jnp.broadcast_to(y, lower.shape)
    # The three cases of a row are those of three classes with two boundaries.
    eta = jnp.stack([jnp.where(y == 0, upper, lower), jnp.where(y == 2, lower, upper)], axis=-1)
    terms = ordinal_derivatives(eta, y)
    return RowTerms(
        terms.value,
        jnp.concatenate([terms.d_lower, terms.d_upper], axis=-1),
        jnp.concatenate([terms.h_ll, terms.h_lu, terms.h_uu], axis=-1),
    )


@jax.custom_jvp
def _softplus(z: Any) -> Any:
    return jnp.maximum(z, 0.0) + _log1p_of_share(jnp.exp(-abs(z)))


@_softplus.defjvp
def _softplus_jvp(primals: Any, tangents: Any) -> Any:
    # The formula has a kink at 0, the function has none.
    return _softplus(primals[0]), jax.nn.sigmoid(primals[0]) * tangents[0]


def _log1p_of_share(e: Any) -> Any:
    """log(1 + e) for 0 <= e <= 1 to a few units in the last place: a third of the time of XLA's, which serves all e."""
    # log(1 + e) = 2 artanh(e / (2 + e)), and for the larger e log 2 + log((1 + e) / 2): the series is in s^2 <= 0.03.
    large = e > 0.414
    s = jnp.where(large, (e - 1.0) / (e + 3.0), e / (e + 2.0))
    square = s * s
    series = jnp.full_like(e, 1 / 21)
    for power in range(19, 0, -2):
        series = series * square + 1 / power
    return jnp.where(large, 0.6931471805599453, 0.0) + 2 * s * series


def _xlogx(xp: Any, x: AnyArray) -> AnyArray:
    positive = x > 0
    return xp.where(positive, x * xp.log(xp.where(positive, x, 1.0)), 0.0)
