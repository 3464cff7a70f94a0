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
from uqsparse.solvers.dictionary_matching import Matching, match_dictionaries
from uqsparse.solvers.evidence import EvidenceRun, maximise_evidence
from uqsparse.solvers.iterative_thresholding import Codes, iterative_thresholding
from uqsparse.solvers.matched_sparsity import MatchedSparsity, debias, matched_sparsity
from uqsparse.solvers.moments import EnclosingBall, MomentBound, MomentSDP
from uqsparse.solvers.polynomials import Polynomial, PolynomialRing, variables
from uqsparse.solvers.profile_likelihood import ProfileInterval, profile_likelihood_interval
from uqsparse.solvers.proximal_newton import PenalisedPath, SmoothLoss, proximal_newton_path
from uqsparse.solvers.regularised_loss import Minimum, RegularisedLoss, minimise, ordinal_directions, ordinal_loss
from uqsparse.solvers.row_scores import (
    LewisWeights,
    SensitivityBrackets,
    leverage_scores,
    lewis_weights,
    row_scores,
    sensitivity_brackets,
)
from uqsparse.solvers.safe_bound import EmptinessCertificate, SafeBound, prove_empty, safe_bound
from uqsparse.solvers.sparse_bayes import SparsePosterior, sparse_bayes
from uqsparse.solvers.support_function import SupportFunction, support_function
from uqsparse.solvers.truncated_em import Annealing, TruncatedEM, TruncatedModel, fit_truncated_em

__all__ = [
    "Annealing",
    "Codes",
    "Cone",
    "ConicProblem",
    "ConicSolution",
    "Distortion",
    "EmptinessCertificate",
    "EnclosingBall",
    "EvidenceRun",
    "LewisWeights",
    "MatchedSparsity",
    "Matching",
    "Minimum",
    "MomentBound",
    "MomentSDP",
    "PenalisedPath",
    "Polynomial",
    "PolynomialRing",
    "ProfileInterval",
    "RegularisedLoss",
    "RowSample",
    "SafeBound",
    "SensitivityBrackets",
    "SmoothLoss",
    "SparsePosterior",
    "SupportFunction",
    "TotalSensitivity",
    "TruncatedEM",
    "TruncatedModel",
    "debias",
    "embedding_distortion",
    "fit_truncated_em",
    "iterative_thresholding",
    "leverage_scores",
    "lewis_weights",
    "linear_matrix_inequality",
    "match_dictionaries",
    "matched_sparsity",
    "maximise_evidence",
    "minimise",
    "ordinal_directions",
    "ordinal_loss",
    "profile_likelihood_interval",
    "prove_empty",
    "proximal_newton_path",
    "row_scores",
    "safe_bound",
    "sample_rows",
    "sample_size",
    "sampling_probabilities",
    "sensitivity_brackets",
    "solve_conic",
    "sparse_bayes",
    "support_function",
    "total_sensitivity",
    "variables",
]
