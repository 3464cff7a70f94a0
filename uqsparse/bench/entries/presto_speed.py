"""Paths of PRESTO against CVXPY on the same problem, and at a hundred thousand rows."""

import time
from typing import Any

import numpy as np

from uqsparse import bench
from uqsparse.bench.entries.presto_peers import ConvexProgram
from uqsparse.data.ordinal_draws import sparse_differences
from uqsparse.models.presto import fit_ordinal_path

SYSTEM = "PRESTO"
N_LAMBDAS = 20


def _standardised(X: np.ndarray) -> np.ndarray:
    return (X - X.mean(axis=0)) / X.std(axis=0)


@bench.speed(
    "PRESTO path of 20 penalties, n = 2500, p = 10, K = 4, against CVXPY",
    ours="uqsparse",
    peer="CVXPY with Clarabel",
    at_least=50.0,
    unit="solved penalty",
    quick=False,
)
def path_against_cvxpy(context: bench.Context) -> bench.Contest:
    """Ours solves all 20 in each round. CVXPY solves each of them once, five in each of four rounds.

    Its penalty is a parameter, so that the problem is compiled once. Ours includes checks, standardisation and duality
    gaps.
    """
    draw = sparse_differences(context.seed)
    X, factors = _standardised(draw.X), np.ones(3)
    program = ConvexProgram(X, draw.y, 4, factors)

    def ours(i: int) -> Any:
        return fit_ordinal_path(X, draw.y, n_classes=4, penalty_factors=factors, n_lambdas=N_LAMBDAS)

    first = ours(0)

    def peer(i: int) -> Any:
        return {at: program.solve(first.lambdas[at]).objective for at in range(i % 4, N_LAMBDAS, 4)}

    def excess(results: Any) -> float:
        """Largest objective, less ours, of a side's solutions."""
        if isinstance(results[0], dict):
            return max(value - first.objective[at] for one in results for at, value in one.items())
        return max(float((one.objective - first.objective).max()) for one in results)

    def work(results: Any) -> float:
        return N_LAMBDAS / 4 if isinstance(results[0], dict) else N_LAMBDAS

    return bench.Contest(ours, peer, rounds=4, work=work, error=excess)


@bench.claim("PRESTO path of 20 penalties at n = 100,000: seconds", system=SYSTEM, quick=False)
def large_path(context: bench.Context) -> bench.Measured:
    """p = 10, K = 4, after compilation; the detail has the first run too."""
    draw = sparse_differences(context.seed, n=100_000, intercepts=(0.0, 3.5, 6.5), share=1 / 3)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        path = fit_ordinal_path(draw.X, draw.y, n_classes=4, penalty_factors=np.ones(3), n_lambdas=N_LAMBDAS)
        seconds.append(time.perf_counter() - start)
    detail = (
        f"compilation included {seconds[0]:.1f} s; largest duality gap {path.gap.max():.1e}, "
        f"{int(path.converged.sum())} of {N_LAMBDAS} converged"
    )
    return bench.Measured(seconds[1], "<", 30.0, "30 s", detail)
