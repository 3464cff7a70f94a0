"""Nonconformity scores: how strange an observation looks beside its prediction, and the sets they cut out."""

from uqsparse.bounds.scores.densities import HighestDensity, ProbabilityIntegral
from uqsparse.bounds.scores.keypoints import KeypointBall, KeypointEllipse
from uqsparse.bounds.scores.labels import APS, LAC, RAPS, SAPS, LabelScore
from uqsparse.bounds.scores.outputs import MaxNormalisedResidual
from uqsparse.bounds.scores.residuals import AbsoluteResidual, NormalisedResidual, QuantileResidual
from uqsparse.bounds.scores.score import Score

__all__ = [
    "APS",
    "LAC",
    "RAPS",
    "SAPS",
    "AbsoluteResidual",
    "HighestDensity",
    "KeypointBall",
    "KeypointEllipse",
    "LabelScore",
    "MaxNormalisedResidual",
    "NormalisedResidual",
    "ProbabilityIntegral",
    "QuantileResidual",
    "Score",
]
