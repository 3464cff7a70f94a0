"""Compiled array functions: arrays in, arrays out, safe under `jit`, `vmap` and `grad`."""

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
    "residual",
    "stratified",
    "systematic",
]
