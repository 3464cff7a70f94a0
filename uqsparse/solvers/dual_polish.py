"""Duals moved so that they meet their equations: what an interior point method leaves over is taken away afterwards."""

from collections.abc import Sequence

import numpy as np
import scipy.linalg
from jaxtyping import ArrayLike, Float

from uqsparse.solvers.conic import Cone, ConicProblem, Dual, triangle
from uqsparse.solvers.safe_bound import EmptinessCertificate, dual_certificate, prove_empty

_REGULARISATION = 1e-14
_STEPS = 2


def polished_duals(
    problem: ConicProblem, duals: Sequence[Dual], largest: Float[ArrayLike, " m"]
) -> tuple[Dual, ...] | None:
    """Change duals in the interior of their cones by least, in the cones' own metric, so that the residuals vanish.

    With F the problem's maps and P the quadratic representation of the duals (`X . X` for a matrix), the change is
    `P F u` with `F^T P F u = -residuals`. Small eigenvalues of X then change little, so that the duals tend to stay
    in their cones. Nothing has to be believed: evaluate the result with `dual_certificate`.

    Args:
        problem: the problem.
        duals: in the interior of their cones, as interior point methods leave them.
        largest: bounds on the unknowns, finite, shape (m,): their units.

    Returns:
        The new duals, or None if the equations are too ill-conditioned.

    Source: Peyrl & Parrilo (2008), Computing sum of squares decompositions with rational coefficients, section 3.1
    (projection on the affine space), in the metric of the interior point method.
    """
    largest = np.asarray(largest, dtype=np.float64)
    if not np.isfinite(largest).all():
        return None
    duals = [np.asarray(dual, dtype=np.float64) for dual in duals]
    m = problem.n_unknowns
    normal = np.zeros((m, m))
    spread = []
    for cone, dual in zip(problem.cones, duals, strict=True):
        columns, maps = _used(cone)
        moved = _represented(cone, dual, maps)
        spread.append((columns, moved))
        normal[np.ix_(columns, columns)] += moved @ (maps * _weights(cone)).T
    normal = largest[:, None] * normal * largest
    diagonal = np.diag(normal)
    if not np.isfinite(diagonal).all() or not (diagonal > 0).any():
        return None
    # an unknown that no dual touches cannot be moved: its row is zero, and so will its step be
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    normal = normal / scale[:, None] / scale + np.diag(np.where(diagonal > 0, _REGULARISATION, 1.0))
    try:
        factor = scipy.linalg.cho_factor(normal, overwrite_a=True, check_finite=True)
    except (np.linalg.LinAlgError, ValueError):
        return None
    for _ in range(_STEPS):
        sign = 1.0 if problem.maximise else -1.0
        residuals = _residuals(problem, duals, sign)
        step = largest / scale * scipy.linalg.cho_solve(factor, -(largest * residuals) / scale)
        for number, (cone, (columns, moved)) in enumerate(zip(problem.cones, spread, strict=True)):
            change = step[columns] @ moved
            if cone.kind == "semidefinite":
                upper = triangle(cone.side)
                matrix = np.zeros((cone.side, cone.side))
                matrix[upper] = change
                matrix.T[upper] = change
                change = matrix
            duals[number] = duals[number] + change
    return tuple(duals) if all(np.isfinite(dual).all() for dual in duals) else None


def _residuals(problem: ConicProblem, duals: Sequence[Dual], sign: float) -> np.ndarray:
    total = sign * problem.objective
    for cone, dual in zip(problem.cones, duals, strict=True):
        rows = dual[triangle(cone.side)] if cone.kind == "semidefinite" else dual
        total = total + (cone.maps.T @ (rows * _weights(cone)))[1:]
    return total


def _weights(cone: Cone) -> np.ndarray:
    """Off-diagonal entries count twice in the inner product of matrices."""
    if cone.kind != "semidefinite":
        return np.ones(cone.n_rows)
    rows, columns = triangle(cone.side)
    return np.where(rows == columns, 1.0, 2.0)


def _used(cone: Cone) -> tuple[np.ndarray, np.ndarray]:
    """Unknowns that a cone depends on, and its maps for them, dense, one row an unknown."""
    maps = cone.maps[:, 1:].tocsc()
    columns = np.flatnonzero(np.diff(maps.indptr))
    return columns, maps[:, columns].toarray().T


def _represented(cone: Cone, dual: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The quadratic representation of the dual, applied to each row of the maps."""
    if cone.kind == "semidefinite":
        upper = triangle(cone.side)
        matrices = np.zeros((len(maps), cone.side, cone.side))
        matrices[:, upper[0], upper[1]] = maps
        matrices[:, upper[1], upper[0]] = maps
        return (dual @ matrices @ dual)[:, upper[0], upper[1]]
    if cone.kind == "second_order":
        flipped = maps.copy()
        flipped[:, 1:] *= -1
        return 2 * (maps @ dual)[:, None] * dual - (dual[0] ** 2 - dual[1:] @ dual[1:]) * flipped
    # an equality's multiplier is free: any positive metric will do
    return maps * dual**2 if cone.kind == "nonnegative" else maps * (1.0 + dual**2)


def tightest_bound(problem: ConicProblem, duals: Sequence[Dual], largest: Float[ArrayLike, " m"]) -> float:
    """The best proved bound among those of the duals, of the duals polished, and of no duals at all.

    Args:
        problem: the problem.
        duals: one for each cone.
        largest: bounds on the unknowns, shape (m,).
    """
    several = [list(duals), [np.zeros_like(dual) for dual in duals]]
    if (polished := polished_duals(problem, duals, largest)) is not None:
        several.append(list(polished))
    bounds = [dual_certificate(problem, one).bound(largest) for one in several]
    return min(bounds) if problem.maximise else max(bounds)


def search_emptiness(
    problem: ConicProblem, duals: Sequence[Dual], largest: Float[ArrayLike, " m"]
) -> EmptinessCertificate | None:
    """Proof that no y in the box is feasible, from duals that may point to it, as they are or polished.

    Solvers that end in numerical trouble often do so because the problem is infeasible: their duals are then near a
    Farkas certificate even if they do not say so.

    Args:
        problem: the problem, of which only the cones matter.
        duals: one for each cone.
        largest: bounds on the unknowns, shape (m,).
    """
    if (proof := prove_empty(problem, duals, largest)) is not None:
        return proof
    cones_only = ConicProblem(np.zeros(problem.n_unknowns), problem.cones)
    scale = max((float(abs(dual).max(initial=0.0)) for dual in duals), default=0.0)
    if not 0 < scale < np.inf:
        return None
    polished = polished_duals(cones_only, [dual / scale for dual in duals], largest)
    return None if polished is None else prove_empty(problem, polished, largest)
