"""Certified ranges of all persons at once, against a loop over persons in CVXPY."""

from typing import Any

import numpy as np

from uqsparse import bench
from uqsparse.bench.entries.multiplicity_claims import ParametrisedProgram, tumour_set, tumours

# Programs of the peer that are timed in a round; it solves them one after the other.
_SAMPLE = 6


@bench.speed(
    "certified ranges of 569 persons, against a loop in CVXPY",
    ours="uqsparse",
    peer="CVXPY with Clarabel",
    at_least=50.0,
    unit="program",
    quick=False,
)
def ranges_against_cvxpy(context: bench.Context) -> bench.Contest:
    """Both ends of the range of each of 569 tumours; the peer's problem is parametrised and compiled once.

    The error shown is the share of programs that a side does not solve.
    """
    X, y = tumours()
    fitted = tumour_set()
    program = ParametrisedProgram(X, y, fitted.level_.level)
    n = len(X)

    def ours(i: int) -> Any:
        # a copy, since the ranges of the training rows are remembered
        found = fitted.viable_range(X.copy())
        return np.concatenate([found.lower_certificate, found.upper_certificate])

    def peer(i: int) -> Any:
        rows = np.random.default_rng(i).choice(n, size=_SAMPLE, replace=False)
        return np.array([program.solve(np.append(1.0, X[row])) for row in rows])

    def unsolved(results: Any) -> float:
        return float(np.mean(~np.isfinite(np.concatenate(results))))

    return bench.Contest(ours, peer, rounds=5, work=lambda results: float(len(results[0])), error=unsolved)
