"""Proximal Newton for a smooth convex loss with a weighted lasso or elastic net, along a path of penalties.

Each step minimises the quadratic model of the loss plus the penalty, then backtracks. A loss may be +inf outside an
open convex set; a step that leaves it is halved. Every point of the path comes with a duality gap: its objective
less a lower bound that the loss derives from the point, so that nothing has to be believed about how it was found.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from uqsparse.kernels.lasso_quadratic import lasso_quadratic

_ARMIJO = 1e-4
_MOST_HALVINGS = 60
# A last step of more than this share of the point says that it is still running away, however flat the loss is there.
_SETTLED = 1e-2


class SmoothLoss(eqx.Module):
    """A convex function with derivatives and a lower bound by duality; a pytree, so that it can be mapped over."""

    @abc.abstractmethod
    def value(self, w: Float[Array, " q"]) -> Float[Array, ""]:
        """Value at w; +inf outside the domain, never NaN."""

    @abc.abstractmethod
    def derivatives(self, w: Float[Array, " q"]) -> tuple[Float[Array, ""], Float[Array, " q"], Float[Array, "q q"]]:
        """Value, gradient and Hessian at a point of the domain."""

    @abc.abstractmethod
    def lower_bound(self, w: Float[Array, " q"], l1: Float[Array, " q"], l2: Float[Array, " q"]) -> Float[Array, ""]:
        """A number that `loss(v) + sum_j (l1_j |v_j| + 1/2 l2_j v_j^2)` is below for no v.

        It is made from w, and has to reach the optimum as w does.
        """


class PenalisedPath(eqx.Module):
    """Minimisers along a path of penalties.

    Args:
        lambdas: penalties, shape (L,).
        w: minimisers, shape (L, q); exactly 0 off the support.
        objective: loss plus penalty, shape (L,).
        gap: objective less a lower bound of it, shape (L,); the objective is at most this far from its minimum.
        converged: predicted decrease and gap are both below their tolerances, shape (L,).
        n_iter: Newton steps, shape (L,).
    """

    lambdas: Float[Array, " L"]
    w: Float[Array, "L q"]
    objective: Float[Array, " L"]
    gap: Float[Array, " L"]
    converged: Bool[Array, " L"]
    n_iter: Int[Array, " L"]


def penalty(w: Float[Array, " q"], l1: Float[Array, " q"], l2: Float[Array, " q"]) -> Float[Array, ""]:
    """The elastic net `sum_j (l1_j |w_j| + 1/2 l2_j w_j^2)`.

    >>> float(penalty(jnp.array([-2.0, 1.0]), jnp.ones(2), jnp.ones(2)))
    5.5
    """
    return jnp.sum(l1 * jnp.abs(w) + l2 * w**2 / 2)


@eqx.filter_jit
def proximal_newton_path(
    loss: SmoothLoss,
    start: Float[Array, " q"],
    lambdas: Float[Array, " L"],
    l1_factors: Float[Array, " q"],
    l2_factors: Float[Array, " q"] | None = None,
    *,
    tolerance: float = 1e-12,
    gap_tolerance: float = 1e-8,
    max_iter: int = 100,
) -> PenalisedPath:
    """Minimise `loss(w) + lambda sum_j (l1_factors_j |w_j| + 1/2 l2_factors_j w_j^2)` for each lambda in turn.

    Each point starts from the one before. It is compiled, and safe under `vmap` over the loss, the factors and the
    start. Call it in double precision (`with jax.enable_x64(True)`): single precision does not reach the tolerances.

    Args:
        loss: what is smooth.
        start: a point of the loss's domain, shape (q,).
        lambdas: nonnegative penalties, in the order to solve them, best from large to small.
        l1_factors: nonnegative, shape (q,); 0 for what is not penalised.
        l2_factors: nonnegative, shape (q,); none by default.
        tolerance: the predicted decrease of the objective after which a Newton step is the last.
        gap_tolerance: the duality gap at which a point counts as converged.
        max_iter: most Newton steps for one penalty.

    Returns:
        The path; `converged` is False where the iteration stopped at `max_iter`, where no step made progress, where
        the gap is larger than its tolerance, or where the point still moves far though the loss hardly falls, as it
        does where the infimum is not attained (separable classes without penalty).

    Source: Lee, Sun & Saunders (2014), Proximal Newton-type methods for minimizing composite functions, algorithm 1.
    """
    l1_factors = jnp.asarray(l1_factors, start.dtype)
    l2_factors = jnp.zeros_like(l1_factors) if l2_factors is None else jnp.asarray(l2_factors, start.dtype)

    def point(w, strength):
        l1, l2 = strength * l1_factors, strength * l2_factors
        w, decrease, n_iter, stuck, settled = _minimise(loss, w, l1, l2, tolerance, max_iter)
        objective = loss.value(w) + penalty(w, l1, l2)
        # Weak duality makes the difference nonnegative; rounding can make it -1e-16.
        gap = jnp.maximum(objective - loss.lower_bound(w, l1, l2), 0.0)
        converged = (decrease <= tolerance) & (gap <= gap_tolerance) & ~stuck & settled
        return w, (w, objective, gap, converged, n_iter)

    _, found = jax.lax.scan(point, start, jnp.asarray(lambdas, start.dtype))
    return PenalisedPath(jnp.asarray(lambdas, start.dtype), *found)


def largest_penalty(
    gradient: Float[Array, " q"], l1_factors: Float[Array, " q"], margin: float = 1e-9
) -> Float[Array, ""]:
    """The least lambda from which on all penalised coordinates are zero, given the gradient where they are.

    Args:
        gradient: of the loss at its minimum over the coordinates that are not penalised, shape (q,).
        l1_factors: nonnegative, shape (q,), not all 0.
        margin: relative, so that rounding does not let a coordinate in.

    >>> float(largest_penalty(jnp.array([0.5, -3.0, 7.0]), jnp.array([1.0, 2.0, 0.0]), margin=0.0))
    1.5
    """
    penalised = l1_factors > 0
    ratios = jnp.abs(gradient) / jnp.where(penalised, l1_factors, 1.0)
    return (1 + margin) * jnp.max(jnp.where(penalised, ratios, 0.0))


def _minimise(loss, w, l1, l2, tolerance, max_iter):
    """Newton steps until the predicted decrease is small: the point, that decrease, the steps, stuck, settled."""

    def step(state):
        w, _, n_iter, _, _ = state
        value, gradient, hessian = loss.derivatives(w)
        target = lasso_quadratic(hessian, gradient - hessian @ w, l1, l2, w).w
        direction = target - w
        here = value + penalty(w, l1, l2)
        slope = gradient @ direction + penalty(target, l1, l2) - penalty(w, l1, l2)
        # Close to the minimum the decrease drowns in rounding, and full steps have to pass.
        slack = 8 * jnp.finfo(w.dtype).eps * jnp.maximum(jnp.abs(here), 1.0)

        def trial(t):
            # w + (target - w) need not be 0 where the target is.
            return jnp.where(t == 1.0, target, w + t * direction)

        def too_long(state):
            t, halvings = state
            moved = trial(t)
            enough = loss.value(moved) + penalty(moved, l1, l2) <= here + _ARMIJO * t * slope + slack
            return ~enough & (halvings < _MOST_HALVINGS)

        t, halvings = jax.lax.while_loop(
            too_long, lambda state: (state[0] / 2, state[1] + 1), (jnp.ones_like(here), jnp.asarray(0))
        )
        stuck = (halvings == _MOST_HALVINGS) | ~jnp.isfinite(slope)
        decrease = jnp.where(jnp.isfinite(slope), jnp.abs(slope), jnp.inf)
        settled = jnp.max(jnp.abs(direction)) <= _SETTLED * jnp.max(jnp.abs(target))
        return jnp.where(stuck, w, trial(t)), decrease, n_iter + 1, stuck, settled

    def unfinished(state):
        _, decrease, n_iter, stuck, _ = state
        return (decrease > tolerance) & (n_iter < max_iter) & ~stuck

    first = (w, jnp.asarray(jnp.inf, w.dtype), jnp.asarray(0), jnp.asarray(False), jnp.asarray(False))
    return jax.lax.while_loop(unfinished, step, first)
