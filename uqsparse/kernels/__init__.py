"""Compiled array functions: arrays in, arrays out, safe under `jit`, `vmap` and `grad`."""

from uqsparse.kernels.gaussian_copula import (
    copula_update,
    gaussian_copula_cdf,
    learning_weight,
    log_gaussian_copula,
    normal_scores,
)
from uqsparse.kernels.group_sparsity import GroupSparse, pack, project_group, unpack
from uqsparse.kernels.inverse_cholesky import inverse_cholesky
from uqsparse.kernels.kronecker import KroneckerOperator
from uqsparse.kernels.namespaces import array_namespace, is_traced
from uqsparse.kernels.noise import random_bits, standard_normal, uniform
from uqsparse.kernels.ordinal import ordinal_nll, ordinal_probabilities
from uqsparse.kernels.output_order import OutputOrder, rearrange_outputs
from uqsparse.kernels.penalties import CEL0, L0, L1, MCP, SCAD, LHalf, Log, LTwoThirds, Penalty, penalty_named
from uqsparse.kernels.product_choice import calibrate
from uqsparse.kernels.quantiles import (
    conformal_rank,
    order_statistic,
    rank_pvalue,
    weighted_order_statistic,
    weighted_quantile,
)
from uqsparse.kernels.rearrangement import Place, Rearranged, Stream, rearrange, reorder
from uqsparse.kernels.resampling import (
    conditional_effective_sample_size,
    effective_sample_size,
    multinomial,
    residual,
    stratified,
    systematic,
)
from uqsparse.kernels.selection import top_mask
from uqsparse.kernels.sparse_products import backend, matmul, rows_matvec
from uqsparse.kernels.sparseness import active_fraction, lifetime_sparseness, population_sparseness
from uqsparse.kernels.thresholding import (
    cel0_threshold,
    elastic_net_prox,
    half_threshold,
    hard_threshold,
    log_threshold,
    mcp_threshold,
    scad_threshold,
    soft_threshold,
    two_thirds_threshold,
)

__all__ = [
    "CEL0",
    "L0",
    "L1",
    "MCP",
    "SCAD",
    "GroupSparse",
    "KroneckerOperator",
    "LHalf",
    "LTwoThirds",
    "Log",
    "OutputOrder",
    "Penalty",
    "Place",
    "Rearranged",
    "Stream",
    "active_fraction",
    "array_namespace",
    "backend",
    "calibrate",
    "cel0_threshold",
    "conditional_effective_sample_size",
    "conformal_rank",
    "copula_update",
    "effective_sample_size",
    "elastic_net_prox",
    "gaussian_copula_cdf",
    "half_threshold",
    "hard_threshold",
    "inverse_cholesky",
    "is_traced",
    "learning_weight",
    "lifetime_sparseness",
    "log_gaussian_copula",
    "log_threshold",
    "matmul",
    "mcp_threshold",
    "multinomial",
    "normal_scores",
    "order_statistic",
    "ordinal_nll",
    "ordinal_probabilities",
    "pack",
    "penalty_named",
    "population_sparseness",
    "project_group",
    "random_bits",
    "rank_pvalue",
    "rearrange",
    "rearrange_outputs",
    "reorder",
    "residual",
    "rows_matvec",
    "scad_threshold",
    "soft_threshold",
    "standard_normal",
    "stratified",
    "systematic",
    "top_mask",
    "two_thirds_threshold",
    "uniform",
    "unpack",
    "weighted_order_statistic",
    "weighted_quantile",
]
