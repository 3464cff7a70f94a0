"""Compiled array functions: arrays in, arrays out, safe under `jit`, `vmap` and `grad`."""

from uqsparse.kernels.noise import random_bits, standard_normal, uniform
from uqsparse.kernels.quantiles import weighted_quantile
from uqsparse.kernels.resampling import (
    conditional_effective_sample_size,
    effective_sample_size,
    multinomial,
    residual,
    stratified,
    systematic,
)

__all__ = [
    "conditional_effective_sample_size",
    "effective_sample_size",
    "multinomial",
    "random_bits",
    "residual",
    "standard_normal",
    "stratified",
    "systematic",
    "uniform",
    "weighted_quantile",
]
