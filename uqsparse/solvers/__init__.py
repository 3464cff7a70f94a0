"""Deterministic algorithms with certificates: each returns its answer and the gap that bounds its error."""

from uqsparse.solvers.conic import Cone, ConicProblem, ConicSolution, linear_matrix_inequality, solve_conic
from uqsparse.solvers.moments import EnclosingBall, MomentBound, MomentSDP
from uqsparse.solvers.polynomials import Polynomial, PolynomialRing, variables
from uqsparse.solvers.safe_bound import EmptinessCertificate, SafeBound, prove_empty, safe_bound

__all__ = [
    "Cone",
    "ConicProblem",
    "ConicSolution",
    "EmptinessCertificate",
    "EnclosingBall",
    "MomentBound",
    "MomentSDP",
    "Polynomial",
    "PolynomialRing",
    "SafeBound",
    "linear_matrix_inequality",
    "prove_empty",
    "safe_bound",
    "solve_conic",
    "variables",
]
