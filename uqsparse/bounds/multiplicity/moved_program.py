"""The mixed-integer program of the discrepancy, for HiGHS."""

import warnings
from typing import Any, NamedTuple

import highspy
import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from uqsparse.bounds.multiplicity.moved_search import MovedSearch


class ProgramAnswer(NamedTuple):
    """What the solver returned.

    Args:
        bound: no model moves more, if the solver is right.
        rising: persons its solution moves upwards, or None if it found no solution.
        falling: persons its solution moves downwards.
        was_solved: whether it proved its solution to be the best.
    """

    bound: float
    rising: Int[np.ndarray, " k"] | None
    falling: Int[np.ndarray, " l"]
    was_solved: bool


class MovedProgram:
    """Maximise the persons moved over the polyhedron of the tangents, with a binary for each person and side.

    x_i^T w >= above_i - (above_i - lowest_i) (1 - z_i), and the mirror image, where the proved ranges of the scores
    give the smallest valid constants.

    Args:
        search: the set with its tangents and conflicts.
        rising: persons who can be moved upwards.
        falling: persons who can be moved downwards.
        score_lower: proved lower bounds of the scores, shape (n,).
        score_upper: proved upper bounds, shape (n,).
    """

    def __init__(
        self,
        search: MovedSearch,
        rising: Int[np.ndarray, " k"],
        falling: Int[np.ndarray, " l"],
        score_lower: Float[np.ndarray, " n"],
        score_upper: Float[np.ndarray, " n"],
    ):
        self.search, self.rising, self.falling = search, rising, falling
        k, m, d = len(rising), len(falling), search.rows.shape[1]
        # columns: z, the binaries of those who rise, of those who fall
        self.rise_column = np.full(len(search.rows), -1)
        self.rise_column[rising] = d + np.arange(k)
        self.fall_column = np.full(len(search.rows), -1)
        self.fall_column[falling] = d + k + np.arange(m)
        rise = scipy.sparse.hstack(
            [
                scipy.sparse.csr_matrix(-search.rows[rising]),
                scipy.sparse.diags_array(search.above[rising] - score_lower[rising]),
                scipy.sparse.csr_matrix((k, m)),
            ]
        )
        fall = scipy.sparse.hstack(
            [
                scipy.sparse.csr_matrix(search.rows[falling]),
                scipy.sparse.csr_matrix((m, k)),
                scipy.sparse.diags_array(score_upper[falling] - search.below[falling]),
            ]
        )
        self.matrix = scipy.sparse.vstack([rise, fall], format="csr")
        self.sides = np.concatenate(
            [
                search.offsets[rising] - score_lower[rising],
                score_upper[falling] - search.offsets[falling],
            ]
        )
        far = np.full(d, highspy.kHighsInf)
        self.low = np.concatenate([-far, np.zeros(k + m)])
        self.high = np.concatenate([far, np.ones(k + m)])
        self.cost = np.concatenate([np.zeros(d), search.counts[rising], search.counts[falling]]).astype(np.float64)

    def solve(self, seconds: float) -> ProgramAnswer:
        """Solve with the tangents and conflicts known now.

        Args:
            seconds: time limit.

        Raises:
            RuntimeError: the solver calls the program infeasible, which a model of the set satisfies.
        """
        search, d, n = self.search, self.search.rows.shape[1], len(self.cost)
        solver = _Silent()
        for name, value in (
            ("output_flag", False),
            ("time_limit", max(seconds, 1e-3)),
            ("mip_rel_gap", 0.0),
            ("mip_abs_gap", 0.5),  # counts are whole
        ):
            solver.setOptionValue(name, value)
        solver.addVars(n, self.low, self.high)
        columns = np.arange(n, dtype=np.int32)
        solver.changeColsCost(n, columns, self.cost)
        solver.changeColsIntegrality(n - d, columns[d:], np.ones(n - d, dtype=np.uint8))
        solver.changeObjectiveSense(highspy.ObjSense.kMaximize)
        _add_rows(solver, self.matrix, self.sides)
        both = np.flatnonzero((self.rise_column >= 0) & (self.fall_column >= 0))
        lines = [[self.rise_column[i], self.fall_column[i]] for i in both]
        lines += [[*self.rise_column[c.rising], *self.fall_column[c.falling]] for c in search.conflicts]
        most = [1.0] * len(both) + [len(c.rising) + len(c.falling) - 1.0 for c in search.conflicts]
        _add_rows(solver, _indicator(lines, n), np.array(most))
        tangents = np.zeros((len(search.cuts), n))
        tangents[:, :d] = np.asarray(search.cuts).reshape(-1, d)
        _add_rows(solver, scipy.sparse.csr_matrix(tangents), np.asarray(search.sides))
        start = highspy.HighsSolution()
        start.col_value = self._point_of(search.model).tolist()
        solver.setSolution(start)
        solver.run()
        status, info = solver.getModelStatus(), solver.getInfo()
        if status == highspy.HighsModelStatus.kInfeasible:
            raise RuntimeError("the mixed-integer solver calls a program infeasible that a model of the set satisfies")
        was_solved = status == highspy.HighsModelStatus.kOptimal
        if not was_solved and status != highspy.HighsModelStatus.kTimeLimit:
            warnings.warn(f"the mixed-integer solver stopped: {solver.modelStatusToString(status)}", stacklevel=4)
        bound = float(info.mip_dual_bound)
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return ProgramAnswer(bound, None, self.falling[:0], False)
        chosen = np.array(solver.getSolution().col_value, dtype=np.float64) > 0.5
        rising = self.rising[chosen[self.rise_column[self.rising]]]
        return ProgramAnswer(bound, rising, self.falling[chosen[self.fall_column[self.falling]]], was_solved)

    def _point_of(self, model: np.ndarray) -> np.ndarray:
        """A model's point in the program, for the solver to start from."""
        search = self.search
        scores = search.directions @ model
        z = np.linalg.solve(search.basis, model - search.centre)
        rise = scores[self.rising] >= search.above[self.rising]
        fall = scores[self.falling] <= search.below[self.falling]
        return np.concatenate([z, rise, fall]).astype(np.float64)


class _Silent(highspy.Highs):
    """A solver that says nothing: its banner is printed with the first callback, before options can be set."""

    def enableCallbacks(self) -> None:
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()


def _indicator(lines: list[list[int]], n: int) -> Any:
    """Rows of ones in the given columns."""
    lengths = [len(line) for line in lines]
    indices = np.array([column for line in lines for column in line], dtype=np.int64)
    return scipy.sparse.csr_matrix((np.ones(len(indices)), indices, np.cumsum([0, *lengths])), shape=(len(lines), n))


def _add_rows(solver: highspy.Highs, matrix: Any, sides: np.ndarray) -> None:
    """Append rows x <= sides."""
    if not len(sides):
        return
    lower = np.full(len(sides), -highspy.kHighsInf)
    starts, indices = matrix.indptr[:-1].astype(np.int32), matrix.indices.astype(np.int32)
    solver.addRows(len(sides), lower, sides, matrix.nnz, starts, indices, matrix.data.astype(np.float64))
