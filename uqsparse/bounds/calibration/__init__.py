"""Calibrated probabilities of events: metrics, curves with confidence bands, recalibrators, training."""

from uqsparse.bounds.calibration.cape import fit_cape
from uqsparse.bounds.calibration.class_recalibrators import Dirichlet, MixNMatch, Temperature
from uqsparse.bounds.calibration.decompositions import (
    BrierDecomposition,
    IsotonicDecomposition,
    brier_decomposition,
    isotonic_decomposition,
)
from uqsparse.bounds.calibration.deep_ensembles import DeepEnsemble, deep_ensemble
from uqsparse.bounds.calibration.early_stopping import ProbabilityTraining, fit_early_stopped
from uqsparse.bounds.calibration.empirical_targets import empirical_targets
from uqsparse.bounds.calibration.event_recalibrators import Beta, HistogramBinning, Isotonic, Platt
from uqsparse.bounds.calibration.losses import cross_entropy, entropy_regularised, focal_loss, mmce_loss
from uqsparse.bounds.calibration.metrics import (
    CalibrationError,
    CalibrationMetrics,
    ClippedScore,
    auc,
    brier,
    calibration_metrics,
    expected_calibration_error,
    kl_to_truth,
    ks_error,
    log_loss,
    maximum_calibration_error,
    mse_to_truth,
)
from uqsparse.bounds.calibration.recalibrator import Recalibrator
from uqsparse.bounds.calibration.reliability import (
    Band,
    IsotonicBand,
    ReliabilityCurve,
    isotonic_band,
    reliability_curve,
)

__all__ = [
    "Band",
    "Beta",
    "BrierDecomposition",
    "CalibrationError",
    "CalibrationMetrics",
    "ClippedScore",
    "DeepEnsemble",
    "Dirichlet",
    "HistogramBinning",
    "Isotonic",
    "IsotonicBand",
    "IsotonicDecomposition",
    "MixNMatch",
    "Platt",
    "ProbabilityTraining",
    "Recalibrator",
    "ReliabilityCurve",
    "Temperature",
    "auc",
    "brier",
    "brier_decomposition",
    "calibration_metrics",
    "cross_entropy",
    "deep_ensemble",
    "empirical_targets",
    "entropy_regularised",
    "expected_calibration_error",
    "fit_cape",
    "fit_early_stopped",
    "focal_loss",
    "isotonic_band",
    "isotonic_decomposition",
    "kl_to_truth",
    "ks_error",
    "log_loss",
    "maximum_calibration_error",
    "mmce_loss",
    "mse_to_truth",
    "reliability_curve",
]
