"""The penalised ordinal model under the constraint that its boundaries do not cross anywhere in a box.

For every x with `|x_j - centre_j| <= radius_j` the logits are in order exactly if, for each boundary k >= 1,

    alpha_k - alpha_(k-1) + psi_k centre - sum_j radius_j |psi_kj| >= 0.

These constraints are concave, so the problem stays convex. It is solved by proximal Newton steps whose quadratic
models, now with the constraints, go to an interior point method; steps between admissible points stay admissible.
"""

from typing import Any, NamedTuple

import clarabel
import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from uqsparse.solvers.ordinal_loss import OrdinalLoss

_ARMIJO = 1e-4
_MOST_HALVINGS = 60
# Share of the distance of its two boundaries that a row has to keep in a step. The constraints allow a row in a corner
# of the box no distance at all, where its loss is infinite: close to that, Hessians are useless.
_KEPT = 0.05
# Coefficients of the interior point method below this share of the largest are zeros.
_ZERO = 1e-7


class BoxPoint(NamedTuple):
    """The minimiser under the constraints, its evidence, and how it stopped.

    Args:
        w: shape (q,).
        objective: loss plus penalty.
        gap: objective less a lower bound of the constrained minimum.
        converged: predicted decrease and gap are below their tolerances.
        n_iter: Newton steps.
    """

    w: Float[np.ndarray, " q"]
    objective: float
    gap: float
    converged: bool
    n_iter: int


def order_margins(
    w: Float[np.ndarray, " q"], centre: Float[np.ndarray, " p"], radius: Float[np.ndarray, " p"]
) -> Float[np.ndarray, " m"]:
    """The least distance of neighbouring logits in the box, for each pair of boundaries; negative where they cross.

    Args:
        w: intercept and differences for each boundary in turn, shape ((K-1)(p+1),).
        centre: shape (p,).
        radius: nonnegative, shape (p,).

    >>> order_margins(np.array([0.0, 1.0, 2.0, -0.5]), np.zeros(1), np.ones(1)).tolist()
    [1.5]
    """
    table = w.reshape(-1, len(centre) + 1)
    return np.diff(table[:, 0]) + table[1:, 1:] @ centre - np.abs(table[1:, 1:]) @ radius


def minimise_in_box(
    loss: OrdinalLoss,
    start: Float[np.ndarray, " q"],
    l1: Float[np.ndarray, " q"],
    l2: Float[np.ndarray, " q"],
    centre: Float[np.ndarray, " p"],
    radius: Float[np.ndarray, " p"],
    *,
    tolerance: float = 1e-9,
    gap_tolerance: float = 1e-6,
    max_iter: int = 100,
) -> BoxPoint:
    """Minimise the penalised ordinal loss under the order of its boundaries in a box.

    Args:
        loss: the ordinal loss.
        start: an admissible point of its domain, such as `null_point`, shape (q,).
        l1: nonnegative, shape (q,).
        l2: nonnegative, shape (q,).
        centre: of the box, in the units of the loss's design, shape (p,).
        radius: half the lengths of its edges, shape (p,).
        tolerance: the predicted decrease after which a step is the last.
        gap_tolerance: the duality gap at which the point counts as converged.
        max_iter: most steps.

    Returns:
        The minimiser, with order margins that are nonnegative.

    Raises:
        ValueError: the start is not admissible.
    """
    if (order_margins(start, centre, radius) < 0).any():
        raise ValueError("start is not admissible: boundaries cross in the box")
    model = _QuadraticProgram(l1, l2, centre, radius)
    w, decrease, n_iter, multipliers = start, np.inf, 0, np.zeros(loss.n_classes - 2)
    solved = True
    while decrease > tolerance and n_iter < max_iter:
        n_iter += 1
        value, gradient, hessian = (np.asarray(part) for part in _derivatives(loss, jnp.asarray(w)))
        target, multipliers, solved = model.solve(hessian, gradient - hessian @ w)
        if not solved:
            break
        direction = target - w
        slope = gradient @ direction + _penalty(target, l1, l2) - _penalty(w, l1, l2)
        here = value + _penalty(w, l1, l2)
        decrease = abs(slope)
        for halvings in range(_MOST_HALVINGS):
            trial = w + 0.5**halvings * direction if halvings else target
            found = float(_value(loss, jnp.asarray(trial))) + _penalty(trial, l1, l2)
            enough = found <= here + _ARMIJO * 0.5**halvings * slope + 1e-14 * max(abs(here), 1.0)
            if enough and float(_kept_distance(loss, jnp.asarray(w), jnp.asarray(trial))) >= _KEPT:
                w = trial
                break
        else:
            break  # The interior point method is not accurate enough for further progress.
    w = _admissible(w, centre, radius)
    tilt, widening = model.multiplier_terms(multipliers)
    bound = float(_bound(loss, jnp.asarray(w), *(jnp.asarray(one) for one in (l1, l2, tilt, widening))))
    objective = float(_value(loss, jnp.asarray(w))) + _penalty(w, l1, l2)
    gap = max(objective - bound, 0.0)
    return BoxPoint(w, objective, gap, solved and gap <= gap_tolerance, n_iter)


class _QuadraticProgram:
    """Quadratic models of the loss with penalty and constraints, in the form that Clarabel takes.

    The unknowns are w, and for each difference a bound t of its absolute value.
    """

    def __init__(self, l1, l2, centre, radius):
        self.l1, self.l2 = l1, l2
        size, width = len(l1), len(centre) + 1
        self.width, self.radius = width, radius
        n_boundaries = size // width
        slots = np.arange(size).reshape(n_boundaries, width)
        # A bound without price and without constraint would be free to run away.
        bounded = [j for k in range(n_boundaries) for j in slots[k, 1:] if k > 0 or l1[j] > 0]
        self.bounded = np.array(bounded, int)
        at = {j: i for i, j in enumerate(bounded)}
        n_bounds = len(bounded)
        pick = sp.csr_array((np.ones(n_bounds), (np.arange(n_bounds), self.bounded)), (n_bounds, size))
        eye = sp.eye_array(n_bounds)
        self.margins = np.zeros((n_boundaries - 1, size))
        spread = np.zeros((n_boundaries - 1, n_bounds))
        for k in range(1, n_boundaries):
            self.margins[k - 1, slots[k, 0]] = 1.0
            self.margins[k - 1, slots[k - 1, 0]] = -1.0
            self.margins[k - 1, slots[k, 1:]] = centre
            spread[k - 1, [at[j] for j in slots[k, 1:]]] = radius
        # Rows s = -A z >= 0: t - psi, t + psi, and the margins.
        self.rows = sp.csc_matrix(sp.block_array([[pick, -eye], [-pick, -eye], [-self.margins, spread]]))

    def solve(self, hessian, linear):
        api: Any = clarabel  # a compiled module without type stubs
        size, n_bounds = len(self.l1), len(self.bounded)
        curvature = sp.block_diag([sp.csc_matrix(np.triu(hessian + np.diag(self.l2))), sp.csc_matrix((n_bounds,) * 2)])
        settings = api.DefaultSettings()
        settings.verbose = False
        settings.max_threads = 1
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
        cost = np.concatenate([linear, self.l1[self.bounded]])
        n_rows = self.rows.shape[0]  # pyright: ignore[reportOptionalSubscript]
        solution = api.DefaultSolver(
            sp.csc_matrix(curvature), cost, self.rows, np.zeros(n_rows), [api.NonnegativeConeT(n_rows)], settings
        ).solve()
        found, duals = np.array(solution.x), np.array(solution.z)
        solved = str(solution.status) in ("Solved", "AlmostSolved", "InsufficientProgress")
        if not (solved and np.isfinite(found).all() and np.isfinite(duals).all()):
            return np.zeros(size), np.zeros(len(self.margins)), False
        w = found[:size]
        tiny = np.abs(w[self.bounded]) <= _ZERO * max(1.0, np.abs(w).max())
        w[self.bounded[tiny]] = 0.0
        return w, np.maximum(duals[2 * n_bounds :], 0.0), True

    def multiplier_terms(self, multipliers):
        """What multipliers of the margins do to the dual: the tilt, and what they add to the l1 penalty."""
        widening = np.zeros((len(multipliers) + 1, self.width))
        widening[1:, 1:] = multipliers[:, None] * self.radius
        return multipliers @ self.margins, widening.ravel()


def _admissible(w, centre, radius):
    """The point with later intercepts raised by what rounding has left of negative margins."""
    table = w.reshape(-1, len(centre) + 1).copy()
    table[1:, 0] += np.cumsum(np.maximum(1e-13 - order_margins(w, centre, radius), 0.0))
    return table.ravel()


def _penalty(w, l1, l2):
    return float(np.sum(l1 * np.abs(w) + l2 * w**2 / 2))


@eqx.filter_jit
def _value(loss, w):
    return loss.value(w)


@eqx.filter_jit
def _kept_distance(loss, w, trial):
    """The least ratio of the distance of a row's two boundaries after and before a step."""
    before, after = jnp.diff(loss.logits(w), axis=1), jnp.diff(loss.logits(trial), axis=1)
    seen = (loss.y[:, None] == jnp.arange(1, loss.n_classes - 1)) & (loss.weights > 0)[:, None]
    return jnp.min(jnp.where(seen, after / jnp.where(seen, before, 1.0), jnp.inf))


@eqx.filter_jit
def _derivatives(loss, w):
    return loss.derivatives(w)


@eqx.filter_jit
def _bound(loss, w, l1, l2, tilt, widening):
    slopes = loss.balanced_slopes(w, (l1 + l2 + widening) == 0, tilt)
    return loss.bound_from_slopes(slopes, l1, l2, tilt, widening)
