"""Sparse coding: six generative models by truncated expectation maximisation, and dictionaries for any penalty."""

from uqsparse.models.sparse_coding.bsc import BinarySparseCoding
from uqsparse.models.sparse_coding.dictionary_learner import DictionaryLearner
from uqsparse.models.sparse_coding.dsc import DiscreteSparseCoding
from uqsparse.models.sparse_coding.gsc import SpikeSlabSparseCoding
from uqsparse.models.sparse_coding.mca import MaximalCauses
from uqsparse.models.sparse_coding.mmca import MaximumMagnitudeCauses
from uqsparse.models.sparse_coding.receptive_fields import GaborFits, fit_gabors
from uqsparse.models.sparse_coding.tsc import TernarySparseCoding

# The names that the literature uses.
BSC, TSC, DSC = BinarySparseCoding, TernarySparseCoding, DiscreteSparseCoding
MCA, MMCA, GSC = MaximalCauses, MaximumMagnitudeCauses, SpikeSlabSparseCoding

__all__ = [
    "BSC",
    "DSC",
    "GSC",
    "MCA",
    "MMCA",
    "TSC",
    "BinarySparseCoding",
    "DictionaryLearner",
    "DiscreteSparseCoding",
    "GaborFits",
    "MaximalCauses",
    "MaximumMagnitudeCauses",
    "SpikeSlabSparseCoding",
    "TernarySparseCoding",
    "fit_gabors",
]
