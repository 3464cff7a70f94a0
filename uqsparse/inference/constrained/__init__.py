"""Language models under constraints: properly weighted local samplers, sequential Monte Carlo, the exact posterior."""

from uqsparse.inference.constrained.exact_posterior import ExactPosterior, exact_posterior
from uqsparse.inference.constrained.language_model import FunctionModel, LanguageModel
from uqsparse.inference.constrained.local_samplers import LocalInfo, LocalSample, local_sample
from uqsparse.inference.constrained.ngrams import NgramLM
from uqsparse.inference.constrained.smc import (
    Population,
    constrained_smc,
    constrained_smc_steps,
    masked_decoding,
    sample_and_rerank,
    twisted_smc,
    weighted_strings,
)
from uqsparse.inference.constrained.weighted_strings import StringProbability, WeightedStrings

__all__ = [
    "ExactPosterior",
    "FunctionModel",
    "LanguageModel",
    "LocalInfo",
    "LocalSample",
    "NgramLM",
    "Population",
    "StringProbability",
    "WeightedStrings",
    "constrained_smc",
    "constrained_smc_steps",
    "exact_posterior",
    "local_sample",
    "masked_decoding",
    "sample_and_rerank",
    "twisted_smc",
    "weighted_strings",
]
