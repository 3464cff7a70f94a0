"""Which weights live: masks, criteria, schedules, the Optax hook, and published recipes."""

from uqsparse.pruning import allocation, criteria, gaussian_criteria, schedules, structures
from uqsparse.pruning.accounting import report
from uqsparse.pruning.allocation import Allocation, allocate
from uqsparse.pruning.cards import Labels, SparsityCard, classify, violations
from uqsparse.pruning.collectors import grasp_stats, input_norms, movement_stats, stats_at
from uqsparse.pruning.criteria import Criterion
from uqsparse.pruning.flops import Flops, Phase, TrainingFlops, flops, training_flops
from uqsparse.pruning.hook import SparseState, Sparsifier, best_mask, check_changes, sparsify
from uqsparse.pruning.mask_changes import SwapGuard
from uqsparse.pruning.mask_similarity import MaskSimilarity, mask_similarity
from uqsparse.pruning.masks import (
    Mask,
    PackedMask,
    apply_mask,
    full_mask,
    mask_count,
    mask_density,
    masked_map,
    pack_mask,
    prunable_leaves,
    unpack_mask,
)
from uqsparse.pruning.packed_training import dense_gradients, move_groups
from uqsparse.pruning.packing import pack_model
from uqsparse.pruning.plasticity import Plasticity, pruning_plasticity
from uqsparse.pruning.quiet_weights import QuietWeights, quiet_weight_trace
from uqsparse.pruning.random_masks import gradient_flow, random_mask, rescale_fan_in
from uqsparse.pruning.recipes.essential_sparsity import essential_sparsity
from uqsparse.pruning.recipes.gmp import gmp
from uqsparse.pruning.recipes.granet import granet
from uqsparse.pruning.recipes.imp import imp
from uqsparse.pruning.recipes.one_shot import one_shot
from uqsparse.pruning.recipes.rigl import rigl
from uqsparse.pruning.recipes.set import set_
from uqsparse.pruning.recipes.ssvi import elbo_loss, predictive, ssvi
from uqsparse.pruning.recipes.static import static
from uqsparse.pruning.rules import DropGrow, Prune, PruneRegrow, Reselect, RestrictedSwap, Rule, Static
from uqsparse.pruning.run_trace import RunTrace, TraceEntry
from uqsparse.pruning.selection import select_mask
from uqsparse.pruning.sparsity_curves import Curve, Knee
from uqsparse.pruning.sparsity_report import Evidence, LeafAccount, Report
from uqsparse.pruning.storage import index_bits, storage_bits
from uqsparse.pruning.straight_through import straight_through

__all__ = [
    "Allocation",
    "Criterion",
    "Curve",
    "DropGrow",
    "Evidence",
    "Flops",
    "Knee",
    "Labels",
    "LeafAccount",
    "Mask",
    "MaskSimilarity",
    "PackedMask",
    "Phase",
    "Plasticity",
    "Prune",
    "PruneRegrow",
    "QuietWeights",
    "Report",
    "Reselect",
    "RestrictedSwap",
    "Rule",
    "RunTrace",
    "SparseState",
    "Sparsifier",
    "SparsityCard",
    "Static",
    "SwapGuard",
    "TraceEntry",
    "TrainingFlops",
    "allocate",
    "allocation",
    "apply_mask",
    "best_mask",
    "check_changes",
    "classify",
    "criteria",
    "dense_gradients",
    "elbo_loss",
    "essential_sparsity",
    "flops",
    "full_mask",
    "gaussian_criteria",
    "gmp",
    "gradient_flow",
    "granet",
    "grasp_stats",
    "imp",
    "index_bits",
    "input_norms",
    "mask_count",
    "mask_density",
    "mask_similarity",
    "masked_map",
    "move_groups",
    "movement_stats",
    "one_shot",
    "pack_mask",
    "pack_model",
    "predictive",
    "prunable_leaves",
    "pruning_plasticity",
    "quiet_weight_trace",
    "random_mask",
    "report",
    "rescale_fan_in",
    "rigl",
    "schedules",
    "select_mask",
    "set_",
    "sparsify",
    "ssvi",
    "static",
    "stats_at",
    "storage_bits",
    "straight_through",
    "structures",
    "training_flops",
    "unpack_mask",
    "violations",
]
