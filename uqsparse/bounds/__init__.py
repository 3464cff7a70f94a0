"""What can be guaranteed: prediction sets, worst-case bounds, calibration."""

from uqsparse.bounds import calibration, scores
from uqsparse.bounds.asymmetric import AsymmetricQuantile
from uqsparse.bounds.conformal import Calibrated, SplitConformal, conformal_quantile
from uqsparse.bounds.conformal_bayes import ConformalBayes
from uqsparse.bounds.conformal_distribution import ConformalDistribution
from uqsparse.bounds.covariate_shift import WeightedConformal, density_ratio
from uqsparse.bounds.coverage import coverage, coverage_by_group, expected_coverage, set_sizes
from uqsparse.bounds.cross_conformal import CVPlus
from uqsparse.bounds.exchangeability import exchangeability_martingale
from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.keypoint_regions import Detections, KeypointRegions
from uqsparse.bounds.keypoints import KeypointConformal
from uqsparse.bounds.mondrian import CalibratedGroups, MondrianConformal
from uqsparse.bounds.multiplicity import (
    Ambiguity,
    Discrepancy,
    EpsilonForMass,
    LossLevel,
    RashomonCapacity,
    RashomonSample,
    RashomonSet,
    ViableRange,
)
from uqsparse.bounds.online import AdaptiveConformal
from uqsparse.bounds.pose import PoseUncertaintySet
from uqsparse.bounds.pose_regions import PoseBall, PoseEllipsoid
from uqsparse.bounds.pose_relaxation import CertifiedBound
from uqsparse.bounds.predictive_densities import GaussianMixture, GridDensity
from uqsparse.bounds.predictive_draws import PredictiveDraws
from uqsparse.bounds.predictive_systems import PredictiveSystem
from uqsparse.bounds.regions import Boxes, Intervals, IntervalUnions, LabelSets, Region
from uqsparse.bounds.risk_control import conformal_risk_control
from uqsparse.bounds.worst_slab import worst_slab_coverage

__all__ = [
    "AdaptiveConformal",
    "Ambiguity",
    "AsymmetricQuantile",
    "Boxes",
    "CVPlus",
    "Calibrated",
    "CalibratedGroups",
    "CertifiedBound",
    "ConformalBayes",
    "ConformalDistribution",
    "Detections",
    "Discrepancy",
    "EpsilonForMass",
    "GaussianMixture",
    "GridDensity",
    "Guarantee",
    "IntervalUnions",
    "Intervals",
    "KeypointConformal",
    "KeypointRegions",
    "LabelSets",
    "LossLevel",
    "MondrianConformal",
    "PoseBall",
    "PoseEllipsoid",
    "PoseUncertaintySet",
    "PredictiveDraws",
    "PredictiveSystem",
    "RashomonCapacity",
    "RashomonSample",
    "RashomonSet",
    "Region",
    "SplitConformal",
    "ViableRange",
    "WeightedConformal",
    "calibration",
    "conformal_quantile",
    "conformal_risk_control",
    "coverage",
    "coverage_by_group",
    "density_ratio",
    "exchangeability_martingale",
    "expected_coverage",
    "scores",
    "set_sizes",
    "worst_slab_coverage",
]
