"""Compiled array functions: arrays in, arrays out, safe under `jit`, `vmap` and `grad`."""

from uqsparse.kernels.kronecker import KroneckerOperator
from uqsparse.kernels.namespaces import array_namespace, is_traced
from uqsparse.kernels.noise import random_bits, standard_normal, uniform
from uqsparse.kernels.ordinal import ordinal_nll, ordinal_probabilities
from uqsparse.kernels.quantiles import (
    conformal_rank,
    order_statistic,
    rank_pvalue,
    weighted_order_statistic,
    weighted_quantile,
)
from uqsparse.kernels.resampling import (
    conditional_effective_sample_size,
    effective_sample_size,
    multinomial,
    residual,
    stratified,
    systematic,
)
from uqsparse.kernels.thresholding import soft_threshold

__all__ = [
    "KroneckerOperator",
    "array_namespace",
    "conditional_effective_sample_size",
    "conformal_rank",
    "effective_sample_size",
    "is_traced",
    "multinomial",
    "order_statistic",
    "ordinal_nll",
    "ordinal_probabilities",
    "random_bits",
    "rank_pvalue",
    "residual",
    "soft_threshold",
    "standard_normal",
    "stratified",
    "systematic",
    "uniform",
    "weighted_order_statistic",
    "weighted_quantile",
]
