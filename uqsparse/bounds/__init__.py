"""What can be guaranteed: prediction sets, worst-case bounds, calibration."""

from uqsparse.bounds import scores
from uqsparse.bounds.conformal import Calibrated, SplitConformal, conformal_quantile
from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.mondrian import CalibratedGroups, MondrianConformal
from uqsparse.bounds.predictive_draws import PredictiveDraws
from uqsparse.bounds.regions import Boxes, Intervals, IntervalUnions, LabelSets, Region

__all__ = [
    "Boxes",
    "Calibrated",
    "CalibratedGroups",
    "Guarantee",
    "IntervalUnions",
    "Intervals",
    "LabelSets",
    "MondrianConformal",
    "PredictiveDraws",
    "Region",
    "SplitConformal",
    "conformal_quantile",
    "scores",
]
