"""Linear objectives over semidefinite and second-order cones, in a sparse standard form that interior point and
first-order solvers take directly."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Literal

import clarabel
import numpy as np
import scipy.sparse as sp
import scs
from jaxtyping import Float

ConeKind = Literal["zero", "nonnegative", "second_order", "semidefinite"]
Status = Literal["solved", "inaccurate", "infeasible", "unbounded", "stopped", "failed"]
Dual = Float[np.ndarray, "..."]

_KINDS: tuple[ConeKind, ...] = ("zero", "nonnegative", "second_order", "semidefinite")
_CLARABEL_STATUS: dict[str, Status] = {
    "Solved": "solved",
    "AlmostSolved": "inaccurate",
    "PrimalInfeasible": "infeasible",
    "AlmostPrimalInfeasible": "infeasible",
    "DualInfeasible": "unbounded",
    "AlmostDualInfeasible": "unbounded",
    "MaxIterations": "stopped",
    "MaxTime": "stopped",
    "InsufficientProgress": "stopped",
}
_SCS_STATUS: dict[int, Status] = {
    1: "solved",
    2: "inaccurate",
    -2: "infeasible",
    -7: "infeasible",
    -1: "unbounded",
    -6: "unbounded",
}


def triangle(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the upper triangle of an n x n matrix, column by column: the order of a cone's rows.

    >>> [list(map(int, one)) for one in triangle(2)]
    [[0, 0, 1], [0, 1, 1]]
    """
    columns, rows = np.tril_indices(n)
    return rows, columns


@dataclasses.dataclass(frozen=True)
class Cone:
    """An affine image of the unknowns that has to lie in a cone: `maps @ [1; y]`.

    Args:
        kind: "zero" (an equality), "nonnegative", "second_order" (first entry at least the length of the others), or
            "semidefinite".
        maps: shape (rows, 1 + m); column 0 is the constant, column i multiplies y_i. For "semidefinite" the rows are
            the upper triangle of a symmetric matrix, column by column, each entry as it is in the matrix.

    Raises:
        ValueError: an entry is not finite, the kind is unknown, or the rows do not make a triangle.
    """

    kind: ConeKind
    maps: sp.csr_array

    def __post_init__(self):
        if self.kind not in _KINDS:
            raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {self.kind!r}")
        object.__setattr__(self, "maps", sp.csr_array(self.maps, dtype=np.float64))
        if not np.isfinite(self.maps.data).all():
            raise ValueError(f"maps of a {self.kind} cone must be finite")
        rows, side = self.n_rows, self.side
        if self.kind == "semidefinite" and side * (side + 1) // 2 != rows:
            raise ValueError(f"maps of a semidefinite cone must have n (n + 1) / 2 rows, got {rows}")

    @property
    def n_rows(self) -> int:
        return self.maps.shape[0]  # pyright: ignore[reportOptionalSubscript]

    @property
    def side(self) -> int:
        """Side of the matrix of a semidefinite cone, otherwise the number of rows."""
        if self.kind != "semidefinite":
            return self.n_rows
        return int((np.sqrt(8 * self.n_rows + 1) - 1) / 2 + 0.5)


def linear_matrix_inequality(constant: Any, matrices: Sequence[Any]) -> Cone:
    """The cone `constant + sum_i y_i matrices[i]` positive semidefinite.

    Args:
        constant: symmetric, shape (n, n), dense or sparse.
        matrices: one symmetric matrix (n, n) for each unknown.

    Raises:
        ValueError: shapes differ or a matrix is not symmetric.
    """
    columns, upper = [], None
    for name, matrix in [("constant", constant), *((f"matrices[{i}]", one) for i, one in enumerate(matrices))]:
        dense = np.asarray(matrix.toarray() if sp.issparse(matrix) else matrix, dtype=np.float64)
        if upper is None:
            upper = triangle(dense.shape[0])
            shape = dense.shape
        if dense.shape != shape or dense.ndim != 2 or shape[0] != shape[1]:
            raise ValueError(f"{name} must be square and of the shape of constant, got {dense.shape}")
        if not np.array_equal(dense, dense.T):
            raise ValueError(f"{name} must be symmetric")
        columns.append(dense[upper])
    return Cone("semidefinite", sp.csr_array(np.stack(columns, axis=1)))


@dataclasses.dataclass(frozen=True)
class ConicProblem:
    """The best value of `constant + objective @ y` over all y whose images lie in the cones.

    Args:
        objective: shape (m,).
        cones: each with maps of 1 + m columns.
        constant: added to the objective.
        maximise: whether the largest value is sought, otherwise the least.
    """

    objective: Float[np.ndarray, " m"]
    cones: tuple[Cone, ...]
    constant: float = 0.0
    maximise: bool = True

    def __post_init__(self):
        object.__setattr__(self, "objective", np.asarray(self.objective, dtype=np.float64))
        object.__setattr__(self, "cones", tuple(self.cones))
        if self.objective.ndim != 1 or not np.isfinite(self.objective).all() or not np.isfinite(self.constant):
            raise ValueError(f"objective must be a vector of finite numbers, got shape {self.objective.shape}")
        for number, cone in enumerate(self.cones):
            if cone.maps.shape[1] != 1 + self.n_unknowns:  # pyright: ignore[reportOptionalSubscript]
                raise ValueError(f"cones[{number}] must have 1 + {self.n_unknowns} columns, got {cone.maps.shape}")

    @property
    def n_unknowns(self) -> int:
        return self.objective.shape[0]


@dataclasses.dataclass(frozen=True)
class ConicSolution:
    """What a solver returned; none of it is a proof. `safe_bound` turns the duals into one.

    Args:
        value: objective at `y`, or at the duals if that is what the solver trusts; +-inf if infeasible or unbounded.
        y: shape (m,). Where the status is "unbounded", a direction.
        duals: one for each cone: a symmetric matrix for a semidefinite cone, otherwise a vector. Where the status is
            "infeasible", they are a Farkas certificate. Zeros where the solver returned something that is not finite.
        status: "solved"; "inaccurate" (to reduced accuracy); "infeasible" and "unbounded", as the solver says;
            "stopped" (at a limit, or without progress); "failed".
        iterations: how many the solver took.
        seconds: CPU time of this thread, assembly included.
        solver: which solver, and its own word for the status.
    """

    value: float
    y: Float[np.ndarray, " m"]
    duals: tuple[Dual, ...]
    status: Status
    iterations: int
    seconds: float
    solver: str


def solve_conic(
    problem: ConicProblem,
    solver: Literal["clarabel", "scs"] = "clarabel",
    *,
    tolerance: float = 1e-8,
    max_iterations: int | None = None,
    time_limit: float = float("inf"),
) -> ConicSolution:
    """Solve a conic problem with an interior point method or with an operator splitting method.

    Args:
        problem: what to solve.
        solver: "clarabel" (interior point, accurate) or "scs" (splitting: cheap steps, many of them).
        tolerance: accuracy asked of residuals and gap, relative and absolute, positive.
        max_iterations: where to stop, at least 1; 200 for Clarabel and 20000 for SCS by default.
        time_limit: where to stop, in seconds by the clock.

    Returns:
        The solution as the solver sees it, also if it stopped early.

    Raises:
        ValueError: the solver is unknown or a limit is not positive.

    Source: Goulart & Chen (2024), Clarabel: an interior-point solver for conic programs with quadratic objectives;
    O'Donoghue (2021), Operator splitting for a homogeneous embedding of the linear complementarity problem.

    >>> cone = linear_matrix_inequality(np.eye(2), [np.array([[0.0, 1.0], [1.0, 0.0]])])
    >>> round(solve_conic(ConicProblem(np.ones(1), (cone,))).value, 6)
    1.0
    """
    if not tolerance > 0 or not time_limit > 0:
        raise ValueError(f"tolerance and time_limit must be positive, got {tolerance!r} and {time_limit!r}")
    if max_iterations is not None and max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations!r}")
    start = time.thread_time()
    if solver == "clarabel":
        found = _clarabel(problem, tolerance, max_iterations or 200, time_limit)
    elif solver == "scs":
        found = _scs(problem, tolerance, max_iterations or 20000, time_limit)
    else:
        raise ValueError(f"solver must be 'clarabel' or 'scs', got {solver!r}")
    y, stacked, status, iterations, word = found
    # A certificate of infeasibility has no point, one of unboundedness no duals: SCS leaves NaN there.
    if status == "infeasible" and not np.isfinite(y).all():
        y = np.zeros(problem.n_unknowns)
    if status == "unbounded" and not np.isfinite(stacked).all():
        stacked = np.zeros_like(stacked)
    if not (np.isfinite(y).all() and np.isfinite(stacked).all()):
        y, stacked, status = np.zeros(problem.n_unknowns), np.zeros_like(stacked), "failed"
    sign = 1.0 if problem.maximise else -1.0
    value = problem.constant + float(problem.objective @ y)
    if status in ("infeasible", "unbounded"):
        value = sign * (np.inf if status == "unbounded" else -np.inf)
    elif status == "failed":
        value = sign * np.inf
    duals, at = [], 0
    for cone in problem.cones:
        duals.append(_unstacked(cone, stacked[at : at + cone.n_rows]))
        at += cone.n_rows
    return ConicSolution(value, y, tuple(duals), status, iterations, time.thread_time() - start, f"{solver}: {word}")


def _unstacked(cone: Cone, rows: np.ndarray) -> Dual:
    """A dual in the cone's own shape, from its isometric rows."""
    if cone.kind != "semidefinite":
        return rows.copy()
    upper = triangle(cone.side)
    matrix = np.zeros((cone.side, cone.side))
    matrix[upper] = rows / _isometry(cone)
    matrix.T[upper] = matrix[upper]
    return matrix


def _isometry(cone: Cone) -> np.ndarray:
    """Factors of the rows under which the inner product of vectors is that of the matrices."""
    if cone.kind != "semidefinite":
        return np.ones(cone.n_rows)
    rows, columns = triangle(cone.side)
    return np.where(rows == columns, 1.0, np.sqrt(2.0))


def _stacked(problem: ConicProblem) -> tuple[sp.csr_array, np.ndarray]:
    """Maps of all cones under one another, isometric, and their constants."""
    if not problem.cones:
        return sp.csr_array((0, problem.n_unknowns)), np.zeros(0)
    factors = np.concatenate([_isometry(cone) for cone in problem.cones])
    maps = sp.csr_array(sp.vstack([cone.maps for cone in problem.cones]))
    maps.data *= np.repeat(factors, np.diff(maps.indptr))
    columns = maps.tocsc()
    return columns[:, 1:], columns[:, [0]].toarray()[:, 0]


def _costs(problem: ConicProblem) -> np.ndarray:
    return -problem.objective if problem.maximise else problem.objective


def _clarabel(problem: ConicProblem, tolerance: float, max_iterations: int, time_limit: float):
    api: Any = clarabel  # a compiled module without type stubs
    maps, constants = _stacked(problem)
    makers = {
        "zero": api.ZeroConeT,
        "nonnegative": api.NonnegativeConeT,
        "second_order": api.SecondOrderConeT,
        "semidefinite": api.PSDTriangleConeT,
    }
    settings = api.DefaultSettings()
    settings.verbose = False
    settings.max_iter = max_iterations
    settings.time_limit = time_limit
    settings.max_threads = 1
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    # Moment blocks are dense: looking for chordal structure in them is lost time.
    settings.chordal_decomposition_enable = False
    solution = api.DefaultSolver(
        sp.csc_matrix((problem.n_unknowns, problem.n_unknowns)),
        _costs(problem),
        sp.csc_matrix(-maps),
        constants,
        [makers[cone.kind](cone.side) for cone in problem.cones],
        settings,
    ).solve()
    word = str(solution.status)
    return np.array(solution.x), np.array(solution.z), _CLARABEL_STATUS.get(word, "failed"), solution.iterations, word


def _scs(problem: ConicProblem, tolerance: float, max_iterations: int, time_limit: float):
    maps, constants = _stacked(problem)
    # SCS wants the cones sorted by kind, and the lower triangle column by column: the upper one row by row.
    starts = np.concatenate([[0], np.cumsum([cone.n_rows for cone in problem.cones])]).astype(int)
    order = []
    sizes: dict[str, list[int]] = {kind: [] for kind in _KINDS}
    for kind in _KINDS:
        for start, cone in zip(starts, problem.cones, strict=False):
            if cone.kind == kind:
                order.append(start + _row_order(cone))
                sizes[kind].append(cone.side)
    order = np.concatenate([*order, np.zeros(0, int)]).astype(int)
    cones: dict[str, Any] = {"z": sum(sizes["zero"]), "l": sum(sizes["nonnegative"])}
    cones |= {"q": sizes["second_order"], "s": sizes["semidefinite"]}
    limits: dict[str, Any] = {} if np.isinf(time_limit) else {"time_limit_secs": float(time_limit)}
    solution = scs.SCS(
        {"A": sp.csc_matrix(-sp.csr_array(maps)[order]), "b": constants[order], "c": _costs(problem)},
        cones,
        verbose=False,
        eps_abs=tolerance,
        eps_rel=tolerance,
        max_iters=max_iterations,
        **limits,
    ).solve()
    info = solution["info"]
    duals = np.empty_like(constants)
    duals[order] = solution["y"]
    status = _SCS_STATUS.get(info["status_val"], "failed")
    if status == "inaccurate":
        status = "stopped"
    return np.asarray(solution["x"]), duals, status, info["iter"], info["status"]


def _row_order(cone: Cone) -> np.ndarray:
    if cone.kind != "semidefinite":
        return np.arange(cone.n_rows)
    rows, columns = triangle(cone.side)
    return np.lexsort((columns, rows))
