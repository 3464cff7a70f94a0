"""Deterministic algorithms with certificates: each returns its answer and the gap that bounds its error."""

from uqsparse.solvers.conic import Cone, ConicProblem, ConicSolution, linear_matrix_inequality, solve_conic
from uqsparse.solvers.coresets import (
    Distortion,
    RowSample,
    TotalSensitivity,
    embedding_distortion,
    sample_rows,
    sample_size,
    sampling_probabilities,
    total_sensitivity,
)
from uqsparse.solvers.moments import EnclosingBall, MomentBound, MomentSDP
from uqsparse.solvers.polynomials import Polynomial, PolynomialRing, variables
from uqsparse.solvers.row_scores import (
    LewisWeights,
    SensitivityBrackets,
    leverage_scores,
    lewis_weights,
    row_scores,
    sensitivity_brackets,
)
from uqsparse.solvers.safe_bound import EmptinessCertificate, SafeBound, prove_empty, safe_bound

__all__ = [
    "Cone",
    "ConicProblem",
    "ConicSolution",
    "Distortion",
    "EmptinessCertificate",
    "EnclosingBall",
    "LewisWeights",
    "MomentBound",
    "MomentSDP",
    "Polynomial",
    "PolynomialRing",
    "RowSample",
    "SafeBound",
    "SensitivityBrackets",
    "TotalSensitivity",
    "embedding_distortion",
    "leverage_scores",
    "lewis_weights",
    "linear_matrix_inequality",
    "prove_empty",
    "row_scores",
    "safe_bound",
    "sample_rows",
    "sample_size",
    "sampling_probabilities",
    "sensitivity_brackets",
    "solve_conic",
    "total_sensitivity",
    "variables",
]
