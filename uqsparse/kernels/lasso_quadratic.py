"""The lasso for a quadratic function: coordinate descent, finished by exact solves on the support that it finds.

Coordinate descent finds the support and the signs in a few sweeps, but is slow to agree on the values where
coordinates are correlated. Once support and signs are fixed the problem is a linear system, so each round ends with
its solution, or with the part of the way to it on which no sign changes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from uqsparse.kernels.thresholding import elastic_net_prox

# Coordinate sweeps between two exact solves.
_SWEEPS = 3
# Relative jitter of the exact solves; they refine a point, so that it costs accuracy of one step only.
_JITTER = 1e-10


class LassoQuadratic(NamedTuple):
    """Minimiser, by how much it misses the optimality conditions, and the rounds taken.

    Args:
        w: shape (q,); coordinates off the support are exactly 0.
        violation: the largest absolute violation of the optimality conditions, in units of `linear`.
        n_rounds: rounds of sweeps and exact solve.
    """

    w: Float[Array, " q"]
    violation: Float[Array, ""]
    n_rounds: Int[Array, ""]


def lasso_quadratic(
    hessian: Float[Array, "q q"],
    linear: Float[Array, " q"],
    l1: Float[Array, " q"],
    l2: Float[Array, " q"],
    start: Float[Array, " q"],
    tolerance: float = 1e-11,
    max_rounds: int = 20,
) -> LassoQuadratic:
    """Minimise `linear w + 1/2 w H w + sum_j (l1_j |w_j| + 1/2 l2_j w_j^2)`.

    Args:
        hessian: H, symmetric and positive semidefinite, shape (q, q).
        linear: shape (q,).
        l1: nonnegative, shape (q,); 0 leaves a coordinate free.
        l2: nonnegative, shape (q,).
        start: where to start, shape (q,).
        tolerance: violation of the optimality conditions at which to stop.
        max_rounds: where to stop otherwise.

    Returns:
        The minimiser with its violation. A coordinate without curvature is left where it started.

    Source: Friedman, Hastie & Tibshirani (2010), Regularization paths for generalized linear models via coordinate
    descent; exact solves on the support: Lee, Battle, Raina & Ng (2007), Efficient sparse coding algorithms.

    >>> found = lasso_quadratic(jnp.eye(2), jnp.array([-3.0, 0.5]), jnp.ones(2), jnp.zeros(2), jnp.zeros(2))
    >>> found.w.tolist()
    [2.0, 0.0]
    """
    n = linear.shape[0]
    diagonal = jnp.diagonal(hessian)
    curvature = diagonal + l2
    has_curvature = curvature > 0
    inverse = 1 / jnp.where(has_curvature, curvature, 1.0)

    def move(i, state):
        w, gradient = state
        j = i % n
        goal = elastic_net_prox(w[j] - (gradient[j] + l2[j] * w[j]) * inverse[j], l1[j] * inverse[j], 0.0)
        change = jnp.where(has_curvature[j], goal - w[j], 0.0)
        return w.at[j].add(change), gradient + hessian[j] * change

    def round_(state):
        w, _, rounds = state
        w, _ = jax.lax.fori_loop(0, _SWEEPS * n, move, (w, linear + hessian @ w))
        swept = _violation(hessian @ w + linear, w, l1, l2)
        exact = _solve_on_support(hessian, linear, l1, l2, w, curvature)
        polished = _violation(hessian @ exact + linear, exact, l1, l2)
        better = (polished <= swept) | (_value(hessian, linear, l1, l2, exact) < _value(hessian, linear, l1, l2, w))
        better &= jnp.isfinite(polished)
        return jnp.where(better, exact, w), jnp.where(better, polished, swept), rounds + 1

    def unfinished(state):
        _, violation, rounds = state
        return (violation > tolerance) & (rounds < max_rounds)

    first = jnp.asarray(jnp.inf, linear.dtype)
    return LassoQuadratic(*jax.lax.while_loop(unfinished, round_, (start, first, jnp.asarray(0))))


def _solve_on_support(hessian, linear, l1, l2, w, curvature):
    """The minimiser with the support and signs of w, or the last point towards it before a sign changes."""
    signs = jnp.sign(w)
    support = ((w != 0) | (l1 == 0)) & (curvature > 0)
    gradient = jnp.where(support, hessian @ w + linear + l2 * w + l1 * signs, 0.0)
    system = jnp.where(support[:, None] & support[None, :], hessian, 0.0)
    system += jnp.diag(jnp.where(support, l2 + _JITTER * curvature, 1.0))
    step = -jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(system), True), gradient)
    crosses = support & (l1 > 0) & ((w + step) * signs <= 0)
    share = jnp.where(crosses, -w / jnp.where(crosses, step, 1.0), 1.0)
    least = jnp.min(share, initial=1.0)
    return jnp.where(crosses & (share <= least), 0.0, w + least * step)


def _violation(gradient, w, l1, l2):
    active = jnp.abs(gradient + l2 * w + l1 * jnp.sign(w))
    return jnp.max(jnp.where(w != 0, active, jnp.maximum(jnp.abs(gradient) - l1, 0.0)), initial=0.0)


def _value(hessian, linear, l1, l2, w):
    return w @ (linear + hessian @ w / 2 + l1 * jnp.sign(w) + l2 * w / 2)
