"""What a user fits: NumPyro models and scikit-learn estimators."""

from uqsparse.models.bayesian_coresets import regression_coreset, weighted_plate
from uqsparse.models.bayesian_presto import PrestoPosterior, RareProbability, bayesian_presto
from uqsparse.models.channels import (
    IRSLink,
    IRSSetup,
    normalised_error,
    simulate_irs_link,
    spectral_efficiency,
    support_recovery_rate,
)
from uqsparse.models.kronecker_sbl import KroneckerSBL
from uqsparse.models.kronecker_sbl_result import KroneckerSBLResult
from uqsparse.models.meta_baselines import MAML, FineTune, ProtoNet, Reptile
from uqsparse.models.niw_meta import NIWMeta
from uqsparse.models.normal_inverse_wishart import NormalInverseWishart
from uqsparse.models.ordinal_path import OrdinalPath, fit_ordinal_path
from uqsparse.models.presto import PrestoClassifier
from uqsparse.models.shrinkage_priors import horseshoe_global_scale, laplace, regularised_horseshoe
from uqsparse.models.sparse_bayes import SparseBayesianRegression, sparse_bayesian_model
from uqsparse.models.sparse_coding import (
    BSC,
    DSC,
    GSC,
    MCA,
    MMCA,
    TSC,
    BinarySparseCoding,
    DictionaryLearner,
    DiscreteSparseCoding,
    MaximalCauses,
    MaximumMagnitudeCauses,
    SpikeSlabSparseCoding,
    TernarySparseCoding,
)

__all__ = [
    "BSC",
    "DSC",
    "GSC",
    "MAML",
    "MCA",
    "MMCA",
    "TSC",
    "BinarySparseCoding",
    "DictionaryLearner",
    "DiscreteSparseCoding",
    "FineTune",
    "IRSLink",
    "IRSSetup",
    "KroneckerSBL",
    "KroneckerSBLResult",
    "MaximalCauses",
    "MaximumMagnitudeCauses",
    "NIWMeta",
    "NormalInverseWishart",
    "OrdinalPath",
    "PrestoClassifier",
    "PrestoPosterior",
    "ProtoNet",
    "RareProbability",
    "Reptile",
    "SparseBayesianRegression",
    "SpikeSlabSparseCoding",
    "TernarySparseCoding",
    "bayesian_presto",
    "fit_ordinal_path",
    "horseshoe_global_scale",
    "laplace",
    "normalised_error",
    "regression_coreset",
    "regularised_horseshoe",
    "simulate_irs_link",
    "sparse_bayesian_model",
    "spectral_efficiency",
    "support_recovery_rate",
    "weighted_plate",
]
