"""The least loss of a model that moves given persons: minimum of a convex function under linear inequalities."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize
from jaxtyping import Float, Int

_MOST_STEPS = 40


class ConstrainedMinimum(NamedTuple):
    """A minimum of f over {z : rows z >= sides}.

    Args:
        z: the minimiser, shape (d,).
        value: f there; +inf if the inequalities contradict each other.
        lower: no point that satisfies the `active` inequalities has less, up to rounding.
        active: inequalities with a positive multiplier, which alone keep f from being less.
        multipliers: of the active inequalities, positive, shape (k,).
    """

    z: Float[np.ndarray, " d"]
    value: float
    lower: float
    active: Int[np.ndarray, " k"]
    multipliers: Float[np.ndarray, " k"]


def constrained_minimum(
    value: Callable[[np.ndarray], float],
    gradient: Callable[[np.ndarray], np.ndarray],
    hessian: Callable[[np.ndarray], np.ndarray],
    rows: Float[np.ndarray, "m d"],
    sides: Float[np.ndarray, " m"],
    start: Float[np.ndarray, " d"],
) -> ConstrainedMinimum | None:
    """Minimise a convex function under rows z >= sides by Newton steps, each a least-distance problem.

    Args:
        value: f, from a point to a number, +inf outside its domain.
        gradient: of f.
        hessian: of f, positive definite.
        rows: shape (m, d).
        sides: shape (m,).
        start: where the first quadratic model is taken; it need not satisfy the inequalities.

    Returns:
        The minimum, or None if no step led to a finite value.

    Source: Lawson & Hanson (1974), Solving Least Squares Problems, chapter 23 (least distance by nonnegative least
    squares).
    """
    z, at = start, np.inf
    is_feasible = bool((rows @ z >= sides).all())
    if is_feasible:
        at = value(z)
    multipliers = np.zeros(len(rows))
    for _ in range(_MOST_STEPS):
        slope, factor = gradient(z), scipy.linalg.cholesky(hessian(z), lower=True)
        turned = scipy.linalg.solve_triangular(factor, rows.T, lower=True).T
        shift = scipy.linalg.solve_triangular(factor, slope, lower=True)
        q, multipliers = _least_distance(turned, sides - rows @ z + turned @ shift)
        if q is None:
            active = np.flatnonzero(multipliers > 0)
            return ConstrainedMinimum(z, np.inf, np.inf, active, multipliers[active])
        step = scipy.linalg.solve_triangular(factor, q - shift, lower=True, trans=1)
        if not is_feasible:
            # the first step leads to a point that satisfies the inequalities, and the others stay there
            z, is_feasible = z + step, True
            at = value(z)
            if not np.isfinite(at):
                return None
            continue
        decrease = -float(slope @ step)
        size, new = 1.0, value(z + step)
        while not new <= at - 1e-4 * size * decrease and size > 1e-9:
            size /= 2
            new = value(z + size * step)
        if new < at:
            z, at = z + size * step, new
        if decrease <= 1e-11 * (1 + abs(at)) or size <= 1e-9:
            break
    # by convexity f(v) >= f(z) + slope (v - z), and the slope is the active rows' multipliers, up to a residual
    slope = gradient(z)
    residual = slope - multipliers @ rows
    lower = at + float(multipliers @ (sides - rows @ z)) - 10 * float(np.linalg.norm(residual))
    active = np.flatnonzero(multipliers > 0)
    return ConstrainedMinimum(z, float(at), lower, active, multipliers[active])


def _least_distance(rows: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """The shortest q with rows q >= sides and its multipliers, or None and multipliers that prove there is none."""
    system = np.column_stack([rows, sides]).T
    target = np.zeros(len(system))
    target[-1] = 1.0
    u, length = scipy.optimize.nnls(system, target, maxiter=30 * len(rows) + 100)
    if length < 1e-9:
        return None, u
    residual = system @ u - target
    return -residual[:-1] / residual[-1], -u / residual[-1]
