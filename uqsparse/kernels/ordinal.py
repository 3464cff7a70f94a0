"""The cumulative logit likelihood of ordered classes: values, derivatives, conjugate and probabilities, row by row.

Classes are 0 .. K-1 and `P(y <= k) = sigmoid(eta_k)` for k = 0 .. K-2. A row of class y sees at most two of the
numbers: its upper one `b = eta_y` (none for the last class) and its lower one `a = eta_(y-1)` (none for the first).
With d = b - a,

    -log P(y) = softplus(-b) + softplus(a) - log(1 - exp(-d)),

which is jointly convex in (a, b) and +inf where d <= 0. No step subtracts two probabilities that are nearly equal.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Int

from uqsparse.kernels.namespaces import AnyArray, array_namespace


class OrdinalDerivatives(NamedTuple):
    """Negative log-likelihood of each row with its derivatives in (lower, upper); entries of a missing side are 0.

    Where the value is +inf, all derivatives are 0.
    """

    value: Float[Array, "*n"]
    d_lower: Float[Array, "*n"]
    d_upper: Float[Array, "*n"]
    h_ll: Float[Array, "*n"]
    h_lu: Float[Array, "*n"]
    h_uu: Float[Array, "*n"]


def ordinal_nll(eta: Float[Array, "*n k"], y: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """Negative log-likelihood of each row under the cumulative logit model.

    Args:
        eta: logits of P(y <= k), shape (..., K-1).
        y: classes, 0 .. K-1, shape (...).

    Returns:
        Shape (...); +inf where the two logits of a row are not in increasing order. Its gradient is finite there (0).

    Source: McCullagh (1980), Regression models for ordinal data.

    >>> [round(float(one), 4) for one in ordinal_nll(jnp.zeros((2, 1)), jnp.array([0, 1]))]
    [0.6931, 0.6931]
    """
    lower, upper, has_lower, has_upper = _sides(eta, y)
    distance, inside = _distance(lower, upper, has_lower & has_upper)
    value = jnp.where(has_upper, jax.nn.softplus(-upper), 0.0) + jnp.where(has_lower, jax.nn.softplus(lower), 0.0)
    value = value - jnp.where(has_lower & has_upper, _log1mexp(distance), 0.0)
    return jnp.where(inside, value, jnp.inf)


def ordinal_derivatives(eta: Float[Array, "*n k"], y: Int[Array, "*n"]) -> OrdinalDerivatives:
    """Negative log-likelihood of each row, its gradient and its 2 x 2 Hessian in the two logits that the row sees.

    Args:
        eta: logits of P(y <= k), shape (..., K-1).
        y: classes, 0 .. K-1, shape (...).

    >>> found = ordinal_derivatives(jnp.array([[0.0, 1.0]]), jnp.array([1]))
    >>> bool(found.d_lower[0] > 0 > found.d_upper[0]), bool(found.h_ll[0] * found.h_uu[0] > found.h_lu[0] ** 2)
    (True, True)
    """
    lower, upper, has_lower, has_upper = _sides(eta, y)
    interior = has_lower & has_upper
    distance, inside = _distance(lower, upper, interior)
    below = -jnp.expm1(-distance)
    ratio = jnp.where(interior, jnp.exp(-distance) / below, 0.0)  # 1 / (e^d - 1)
    curvature = jnp.where(interior, jnp.exp(-distance) / below**2, 0.0)  # 1 / (4 sinh^2(d / 2))
    value = jnp.where(has_upper, jax.nn.softplus(-upper), 0.0) + jnp.where(has_lower, jax.nn.softplus(lower), 0.0)
    value = jnp.where(inside, value - jnp.where(interior, _log1mexp(distance), 0.0), jnp.inf)
    keep_lower, keep_upper = has_lower & inside, has_upper & inside
    p_lower, p_upper = jax.nn.sigmoid(lower), jax.nn.sigmoid(upper)
    return OrdinalDerivatives(
        value,
        jnp.where(keep_lower, p_lower + ratio, 0.0),
        jnp.where(keep_upper, -jax.nn.sigmoid(-upper) - ratio, 0.0),
        jnp.where(keep_lower, p_lower * jax.nn.sigmoid(-lower) + curvature, 0.0),
        jnp.where(interior & inside, -curvature, 0.0),
        jnp.where(keep_upper, p_upper * jax.nn.sigmoid(-upper) + curvature, 0.0),
    )


def ordinal_conjugate(
    u_lower: Float[Array, "*n"], u_upper: Float[Array, "*n"], y: Int[Array, "*n"], n_classes: int
) -> Float[Array, "*n"]:
    """Convex conjugate of the negative log-likelihood of each row: sup over (a, b) of `u_lower a + u_upper b - nll`.

    The supremum is attained where p_1 = sigmoid(a) and p_2 = sigmoid(b) solve `u_lower pi = p_1 (1 - p_1)` and
    `-u_upper pi = p_2 (1 - p_2)`, with pi = p_2 - p_1; this has a closed form.

    Args:
        u_lower: slopes in the lower logit, shape (...); ignored for class 0.
        u_upper: slopes in the upper logit, shape (...); ignored for class K-1.
        y: classes, 0 .. K-1, shape (...).
        n_classes: K.

    Returns:
        Shape (...); +inf outside the domain `u_upper <= 0 <= u_lower`, `|u_lower + u_upper| <= 1`.

    >>> round(float(ordinal_conjugate(jnp.array(0.0), jnp.array(-0.5), jnp.array(0), n_classes=3)), 4)
    -0.6931
    """
    has_lower, has_upper = y > 0, y < n_classes - 1
    interior = has_lower & has_upper
    # End classes: minus the entropy of a coin.
    t = jnp.where(has_upper, -u_upper, u_lower)
    t_inside = (t >= 0) & (t <= 1)
    t = jnp.where(~interior & t_inside, t, 0.5)
    end = xlogy(t, t) + xlogy(1 - t, 1 - t)
    # Interior classes. Probabilities are kept from underflow, so that logarithms stay finite at the corners.
    tiny = jnp.finfo(jnp.result_type(u_lower, u_upper)).tiny
    total = 1 + u_lower + u_upper
    inside = (u_lower >= 0) & (u_upper <= 0) & (total >= 0) & (total <= 2)
    safe = interior & inside
    a = jnp.where(safe, u_lower, 0.5)
    b = jnp.where(safe, u_upper, -0.5)
    total = jnp.clip(jnp.where(safe, total, 1.0), tiny**0.5, 2.0)
    rest = jnp.maximum(1 - a - b, tiny**0.5)  # 2 - total, without the rounding of total
    difference = a - b
    pi = total * rest / (difference + jnp.sqrt(difference**2 + total * rest))
    # The smaller of p and 1 - p comes from p (1 - p) = |u| pi: a difference would lose its digits.
    p1, q1 = _pair((total - pi) / 2, (rest + pi) / 2, a * pi)
    p2, q2 = _pair((total + pi) / 2, (rest - pi) / 2, -b * pi)
    corner = (a <= 0) | (b >= 0)
    edge = xlogy(b, p2) - xlogy(b, q2) + xlogy(a, p1) - xlogy(a, q1)
    p1, q2 = jnp.maximum(p1, tiny), jnp.maximum(q2, tiny)
    distance = jnp.log1p(pi / (p1 * q2))  # logit p2 - logit p1
    middle = (jnp.log(p1) - jnp.log(q1) + jnp.log(p2) - jnp.log(q2)) / 2
    inner = jnp.where(corner, edge, (a + b) * middle - difference * distance / 2) + jnp.log(pi)
    return jnp.where(jnp.where(interior, inside, t_inside), jnp.where(interior, inner, end), jnp.inf)


def ordinal_probabilities(eta: Float[AnyArray, "*n k"]) -> Float[AnyArray, "*n k+1"]:
    """Class probabilities: differences of neighbouring cumulative probabilities, as they are.

    Args:
        eta: logits of P(y <= k), shape (..., K-1), NumPy or JAX.

    Returns:
        Shape (..., K), summing to 1; negative where logits decrease. Accurate for small differences.

    >>> ordinal_probabilities(jnp.array([0.0, 0.0])).tolist()
    [0.5, 0.0, 0.5]
    """
    xp = array_namespace(eta)
    sigmoid = scipy.special.expit if xp is np else jax.nn.sigmoid
    lower, upper = eta[..., :-1], eta[..., 1:]
    least, most = xp.minimum(lower, upper), xp.maximum(lower, upper)
    size = sigmoid(most) * sigmoid(-least) * xp.abs(xp.expm1(least - most))
    between = xp.where(upper >= lower, size, -size)
    return xp.concatenate([sigmoid(eta[..., :1]), between, sigmoid(-eta[..., -1:])], axis=-1)


def _sides(eta, y):
    """Lower and upper logit of each row (0 where there is none), and which of them there are."""
    boundaries = jnp.arange(eta.shape[-1])
    # Sums over a mask: several times faster than gathering.
    lower = jnp.sum(jnp.where(y[..., None] == boundaries + 1, eta, 0.0), axis=-1)
    upper = jnp.sum(jnp.where(y[..., None] == boundaries, eta, 0.0), axis=-1)
    return lower, upper, y > 0, y < eta.shape[-1]


def _distance(lower, upper, interior):
    """Distance of the two logits, 1 where it is undefined or not positive, and whether the row is in the domain."""
    distance = upper - lower
    inside = ~interior | (distance > 0)
    return jnp.where(interior & inside, distance, 1.0), inside


def _log1mexp(distance):
    """log(1 - exp(-d)) for d > 0, to full accuracy at both ends."""
    small = distance < 0.6931471805599453
    near = jnp.log(-jnp.expm1(-jnp.where(small, distance, 0.5)))
    return jnp.where(small, near, jnp.log1p(-jnp.exp(-jnp.where(small, 1.0, distance))))


def _pair(p, q, product):
    """p and q = 1 - p with both small ends accurate, from rough values and their exact product."""
    p_is_small = p < q
    return jnp.where(p_is_small, product / q, p), jnp.where(p_is_small, q, product / p)
