"""Predictive multiplicity: what all near-optimal models say about each person, with certificates."""

from uqsparse.bounds.multiplicity.loss_level import LossLevel
from uqsparse.bounds.multiplicity.rashomon_set import RashomonSet
from uqsparse.bounds.multiplicity.results import (
    Ambiguity,
    Discrepancy,
    EpsilonForMass,
    RashomonCapacity,
    RashomonSample,
    ViableRange,
)

__all__ = [
    "Ambiguity",
    "Discrepancy",
    "EpsilonForMass",
    "LossLevel",
    "RashomonCapacity",
    "RashomonSample",
    "RashomonSet",
    "ViableRange",
]
