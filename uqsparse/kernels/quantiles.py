"""Quantiles of weighted populations, and the ranks that conformal prediction rests on."""

import math
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from uqsparse.kernels.namespaces import AnyArray, array_namespace


def weighted_quantile(
    values: Float[Array, " n"], weights: Float[Array, " n"], probabilities: Float[Array, " k"]
) -> Float[Array, " k"]:
    """Quantiles of a discrete distribution: the least value whose cumulative weight reaches the probability.

    Args:
        values: points, shape (n,), in any order.
        weights: nonnegative weights, shape (n,), not all zero, normalised or not.
        probabilities: in (0, 1), shape (k,).

    Returns:
        Quantiles, shape (k,); each is one of the values, of positive weight.

    Source: inverse of the empirical distribution function (type 1 of Hyndman & Fan 1996).

    >>> weighted_quantile(jnp.array([3.0, 1.0, 2.0]), jnp.array([1.0, 1.0, 2.0]), jnp.array([0.2, 0.5])).tolist()
    [1.0, 2.0]
    """
    order = jnp.argsort(values)
    cumulative = jnp.cumsum(weights[order])
    found = jnp.searchsorted(cumulative, probabilities * cumulative[-1], side="left")
    return values[order][jnp.minimum(found, values.shape[0] - 1)]


def conformal_rank(n: int, alpha: float) -> int:
    """The rank of the score that bounds a new one with probability 1 - alpha: ceil((n + 1)(1 - alpha)).

    It is computed in exact arithmetic, with alpha read generously by 1e-9: 1 - 0.9 is a little below 0.1 in binary,
    and at n = 9 would otherwise ask for the tenth of nine scores. A rank beyond n says that no finite
    threshold will do.

    Args:
        n: the number of scores, at least 0.
        alpha: the miscoverage allowed, in (0, 1).

    Source: Papadopoulos, Proedrou, Vovk & Gammerman (2002), Inductive confidence machines for regression.

    >>> conformal_rank(9, 0.1), conformal_rank(9, 1 - 0.9), conformal_rank(8, 0.1), conformal_rank(119, 0.1)
    (9, 9, 9, 108)
    """
    return math.ceil((n + 1) * (1 - Fraction(alpha) - Fraction(1, 10**9)))


def order_statistic(values: Num[AnyArray, "... n"], rank: int) -> Num[AnyArray, "..."]:
    """The value of a rank in ascending order along the last axis, +inf for a rank beyond the last.

    Args:
        values: shape (..., n), NumPy or JAX.
        rank: 1 for the least; -inf is returned for ranks below 1.

    >>> float(order_statistic(np.array([3.0, 1.0, 2.0]), 2)), float(order_statistic(np.array([3.0, 1.0, 2.0]), 4))
    (2.0, inf)
    """
    xp = array_namespace(values)
    n = values.shape[-1]
    if not 1 <= rank <= n:
        return xp.full(values.shape[:-1], xp.inf if rank > n else -xp.inf, dtype=values.dtype)[()]
    if xp is np:
        return np.partition(values, rank - 1, axis=-1)[..., rank - 1]
    return jnp.sort(values, axis=-1)[..., rank - 1]


def weighted_order_statistic(
    ordered: Float[AnyArray, " n"],
    cumulative: Float[AnyArray, " n"],
    extra: Float[AnyArray, "..."],
    probability: float,
) -> Float[AnyArray, "..."]:
    """Quantile of weighted values and one more atom at +inf.

    Args:
        ordered: the values in ascending order, shape (n,).
        cumulative: cumulative sums of their weights, shape (n,).
        extra: the weight of the atom at +inf, any shape; one quantile is returned for each.
        probability: in (0, 1); read generously by 1e-9, as in `conformal_rank`.

    Returns:
        The least value whose cumulative share reaches the probability, +inf where none does.

    Source: Tibshirani, Barber, Candès & Ramdas (2019), Conformal prediction under covariate shift, lemma 3.
    """
    xp = array_namespace(ordered, cumulative, extra)
    ends = xp.append(ordered, xp.asarray(xp.inf, ordered.dtype))
    wanted = (probability - 1e-9) * (cumulative[-1] + extra)
    return ends[xp.searchsorted(cumulative, wanted, side="left")]


def rank_pvalue(ordered: Float[AnyArray, " n"], score: Float[AnyArray, "..."], u: Any = 1.0) -> Float[AnyArray, "..."]:
    """The share of scores at least as large as a new one, the new one counted: the conformal p-value.

    Args:
        ordered: n scores in ascending order.
        score: new scores, any shape.
        u: in [0, 1], broadcast to them: which part of the ties counts. 1 is conservative; uniform draws make p-values
            of exchangeable scores exactly uniform.

    Returns:
        (#{greater} + u (#{equal} + 1)) / (n + 1), in the shape of `score`.

    Source: Vovk, Gammerman & Shafer (2005), Algorithmic learning in a random world, equation 2.20.

    >>> rank_pvalue(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 9.0])).tolist()
    [1.0, 0.75, 0.25]
    """
    xp = array_namespace(ordered, score, u)
    n = ordered.shape[0]
    greater = n - xp.searchsorted(ordered, score, side="right")
    equal = n - xp.searchsorted(ordered, score, side="left") - greater
    return (greater + u * (equal + 1)) / (n + 1)
