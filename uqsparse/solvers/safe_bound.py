"""Bounds that stay proofs whatever the solver did: weak duality, evaluated with its residuals and rounding errors.

For any duals Z_b in the (dual) cones and any feasible y of a maximisation,

    constant + objective @ y <= constant + objective @ y + sum_b <Z_b, F_b(y)> = d_0 + sum_i d_i y_i
                              <= d_0 + sum_i |d_i| sup|y_i|,      d = (constant, objective) + sum_b F_b^T Z_b.

A solver makes d_i small; this does not have to be zero for the bound to hold, only for it to be tight.

Rounding. Each d_i is off by at most `gamma (|c_i| + |F|_i^T |Z|)`, which is added to |d_i|; gamma covers the longest
sum and a relative error of 2^-50 in every entry of the data. A dual need not lie in its cone: a semidefinite one is
used as `Z + s I`, where s is so large that the Cholesky factorisation of the stored matrix runs through after a
smaller shift, which proves `Z + s I` positive semidefinite. The shift adds at most `s sup tr F_b(y)`, and that is
added too.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import ArrayLike, Float

from uqsparse.solvers.conic import ConicProblem, ConicSolution, Dual, triangle

_UNIT = 2.0**-53
# Relative error allowed for in every stored number of the problem.
_DATA_ERROR = 2.0**-50


@dataclasses.dataclass(frozen=True)
class DualCertificate:
    """What weak duality says for one set of duals: evaluate it with `bound` for any bounds on the unknowns.

    Args:
        constant: d_0.
        constant_error: bound on its rounding error.
        residuals: d_i, shape (m,).
        residual_errors: bounds on their rounding errors, shape (m,).
        shifts: how far each dual had to be moved to lie in its cone, one for each cone.
        traces: constant and coefficients of what a shift multiplies (the trace of a semidefinite block, the first
            entry of a second-order one), shape (n_cones, 1 + m).
        maximise: whether `bound` bounds the objective from above, otherwise from below.
    """

    constant: float
    constant_error: float
    residuals: Float[np.ndarray, " m"]
    residual_errors: Float[np.ndarray, " m"]
    shifts: Float[np.ndarray, " n_cones"]
    traces: Float[np.ndarray, "n_cones columns"]
    maximise: bool

    def bound(self, largest: Float[ArrayLike, " m"], traces: Float[ArrayLike, " n_cones"] | None = None) -> float:
        """The bound on the objective over all feasible y with `|y_i| <= largest[i]`.

        Args:
            largest: bounds on the unknowns, nonnegative, may be infinite, shape (m,).
            traces: bounds on the traces of the blocks, shape (n_cones,), if better ones than those that follow from
                `largest` are known.

        Returns:
            An upper bound if `maximise`, otherwise a lower one. Infinite if nothing follows.

        Raises:
            ValueError: a bound is negative or NaN, or the length is wrong.
        """
        largest = np.asarray(largest, dtype=np.float64)
        if largest.shape != self.residuals.shape or not (largest >= 0).all():
            raise ValueError(
                f"largest must be {self.residuals.shape[0]} nonnegative numbers, got shape {largest.shape}"
            )
        total = self.constant + self.constant_error + _absolute(abs(self.residuals) + self.residual_errors, largest)
        needed = np.flatnonzero(self.shifts)
        if needed.size:
            tops = np.array([self.traces[b, 0] + _absolute(abs(self.traces[b, 1:]), largest) for b in needed])
            if traces is not None:
                tops = np.minimum(tops, np.asarray(traces, dtype=np.float64)[needed])
            total += _absolute(self.shifts[needed], np.maximum(tops, 0.0))
        # every term above was summed to nearest; this covers it
        total += (self.residuals.size + 20) * _UNIT * (abs(total) + abs(self.constant))
        return float(total if self.maximise else -total)


@dataclasses.dataclass(frozen=True)
class SafeBound:
    """A bound that holds, and how far it lies from what the solver said.

    Args:
        bound: upper bound of the objective if the problem maximises, otherwise lower bound.
        solver_value: the solver's objective, not a bound.
        correction: `bound - solver_value`, what exactness costs.
    """

    bound: float
    solver_value: float
    correction: float


@dataclasses.dataclass(frozen=True)
class EmptinessCertificate:
    """Proof that no y with `|y_i| <= largest[i]` lies in all cones: duals under which a sum that is nonnegative for
    every feasible y is at most `value < 0`.

    Args:
        value: the negative number; scaled so that the duals' entries sum to 1 in absolute value.
        duals: one for each cone.
    """

    value: float
    duals: tuple[Dual, ...] = dataclasses.field(repr=False)


def dual_certificate(problem: ConicProblem, duals: Sequence[Any]) -> DualCertificate:
    """Weak duality for given duals, which may come from anywhere.

    Args:
        problem: the problem.
        duals: one for each cone: symmetric matrices for semidefinite cones, vectors for the others. A dual outside of
            its cone is projected on it first.

    Raises:
        ValueError: a dual has the wrong shape or is not finite.

    Source: Jansson, Chaykin & Keil (2008), Rigorous error bounds for the optimal value in semidefinite programming;
    Rump (2006), Verification of positive definiteness (the Cholesky test).
    """
    if len(duals) != len(problem.cones):
        raise ValueError(f"duals must have one entry for each of {len(problem.cones)} cones, got {len(duals)}")
    sign = 1.0 if problem.maximise else -1.0
    total = sign * np.concatenate([[problem.constant], problem.objective])
    size = abs(total)
    longest = 1
    shifts, traces = [], []
    for number, (cone, dual) in enumerate(zip(problem.cones, duals, strict=True)):
        wanted = (cone.side, cone.side) if cone.kind == "semidefinite" else (cone.n_rows,)
        dual = np.asarray(dual, dtype=np.float64)
        if dual.shape != wanted or not np.isfinite(dual).all():
            raise ValueError(f"duals[{number}] must be finite and of shape {wanted}, got shape {dual.shape}")
        trace = np.zeros(1 + problem.n_unknowns)
        shift = 0.0
        if cone.kind == "semidefinite":
            dual, shift = _in_semidefinite_cone((dual + dual.T) / 2)
            rows, columns = triangle(cone.side)
            weights = np.where(rows == columns, 1.0, 2.0) * dual[rows, columns]
            if shift:
                trace = np.asarray(cone.maps[np.flatnonzero(rows == columns)].sum(axis=0)).ravel()
        else:
            weights = np.maximum(dual, 0.0) if cone.kind == "nonnegative" else dual
            if cone.kind == "second_order":
                length = float(np.linalg.norm(dual[1:])) * (1 + (cone.n_rows + 4) * _UNIT)
                shift = max(0.0, length - float(dual[0])) * (1 + 4 * _UNIT)
                trace = cone.maps[[0]].toarray()[0]
        total = total + cone.maps.T @ weights
        size = size + abs(cone.maps).T @ abs(weights)
        longest += cone.n_rows
        shifts.append(shift)
        traces.append(trace * (1 + np.copysign(4 * cone.side * _UNIT, trace)) if shift else trace)
    errors = ((longest + 4) * _UNIT * 1.01 + _DATA_ERROR) * size
    return DualCertificate(
        float(total[0]),
        float(errors[0]),
        total[1:],
        errors[1:],
        np.array(shifts),
        np.array(traces).reshape(len(problem.cones), -1),
        problem.maximise,
    )


def safe_bound(
    problem: ConicProblem,
    solution: ConicSolution,
    largest: Float[ArrayLike, " m"],
    traces: Float[ArrayLike, " n_cones"] | None = None,
) -> SafeBound:
    """A proved bound on the objective over all feasible y with `|y_i| <= largest[i]`, from a solver's duals.

    It holds however early the solver stopped. If its duals are worse than none, the bound over the box alone is given.

    Args:
        problem: the problem that was solved.
        solution: what `solve_conic` returned.
        largest: bounds on the unknowns that all feasible points of interest meet, shape (m,).
        traces: bounds on the traces of the blocks, if known.

    Raises:
        ValueError: a shape is wrong or `largest` holds a negative number or NaN.
    """
    duals = solution.duals
    if solution.status == "infeasible":
        duals = [np.zeros_like(one) for one in duals]
    bound = dual_certificate(problem, duals).bound(largest, traces)
    box = dual_certificate(problem, [np.zeros_like(one) for one in duals]).bound(largest)
    bound = min(bound, box) if problem.maximise else max(bound, box)
    value = solution.value
    return SafeBound(bound, value, bound - value if np.isfinite(value) else float("nan"))


def prove_empty(
    problem: ConicProblem, duals: Sequence[Any], largest: Float[ArrayLike, " m"]
) -> EmptinessCertificate | None:
    """Check a Farkas certificate: proof that no y in the box is feasible, or None if these duals do not prove it.

    Args:
        problem: the problem, of which only the cones matter.
        duals: such as those of a solution with status "infeasible".
        largest: bounds on the unknowns, shape (m,).
    """
    scale = sum(float(abs(np.asarray(dual)).sum()) for dual in duals)
    if not 0 < scale < np.inf:
        return None
    duals = tuple(np.asarray(dual) / scale for dual in duals)
    value = dual_certificate(ConicProblem(np.zeros(problem.n_unknowns), problem.cones), duals).bound(largest)
    return EmptinessCertificate(value, duals) if value < 0 else None


def _in_semidefinite_cone(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """A matrix at or near the given one, and a shift s such that it plus `s I` is proved positive semidefinite."""
    if not matrix.any():
        return matrix, 0.0
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < 0:
        matrix = (vectors * np.maximum(values, 0.0)) @ vectors.T
        matrix = (matrix + matrix.T) / 2
        if not matrix.any():
            return matrix, 0.0
    n = len(matrix)
    size = float(abs(np.diag(matrix)).sum())
    gamma = 2 * (n + 2) * _UNIT
    shift = 0.0
    while True:
        shifted = matrix + shift * np.eye(n)
        try:
            scipy.linalg.cholesky(shifted, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            shift = max(2 * shift, gamma * size, np.finfo(float).tiny)
            continue
        # The factorisation exists, so the matrix is indefinite by no more than its backward error.
        return matrix, (shift + gamma * (size + n * shift)) * (1 + 4 * _UNIT)


def _absolute(factors: np.ndarray, tops: np.ndarray) -> float:
    """Sum of products of nonnegative numbers, where zero times infinity is zero."""
    used = factors > 0
    return float(factors[used] @ tops[used])
