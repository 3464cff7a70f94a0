"""Nonconformity scores: how strange an observation looks beside its prediction, and the sets they cut out."""

from uqsparse.bounds.scores.residuals import AbsoluteResidual, NormalisedResidual, QuantileResidual
from uqsparse.bounds.scores.score import Score

__all__ = ["AbsoluteResidual", "NormalisedResidual", "QuantileResidual", "Score"]
