"""An honest account of a sparse network: weights, bits, multiply-adds and milliseconds."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.product_choice import median_seconds
from uqsparse.nn.tree_paths import path_name
from uqsparse.pruning.flops import Phase, flops, training_flops, unpacked
from uqsparse.pruning.masks import Mask, full_mask, is_unit, pruned_leaves
from uqsparse.pruning.run_trace import RunTrace
from uqsparse.pruning.sparsity_report import LeafAccount, Report
from uqsparse.pruning.storage import Format, format_name, storage_bits
from uqsparse.pruning.structures import NM, Block, Group, Structure

_PLAIN = ("dense", "bitmask", "csr", "coo")


def report(
    model: PyTree,
    mask: Mask | None = None,
    *,
    input_shape: Any = None,
    call: Callable[[Any, Any], Any] | None = None,
    structure: Structure | None = None,
    trace: RunTrace | None = None,
    batch_size: int = 1,
    dense_gradients: int = 0,
    n_moments: int = 2,
    timed: Mapping[str, Callable[[], Any]] | None = None,
    machine: str = "",
) -> Report:
    """Say what a sparse network costs.

    Args:
        model: a network, or its parameters.
        mask: boolean arrays, None where a leaf is never pruned; if not given, what packed layers store counts as kept,
            and every weight of dense ones.
        input_shape: of one example, see `flops`; needs a network, not parameters. Without it no FLOPs are counted.
        call: the forward pass, see `flops`.
        structure: of the mask; adds a format for `NM`, `Block` and `Group`.
        trace: the recorded and finished run; gives the FLOPs and the memory of training.
        batch_size: examples a step.
        dense_gradients: steps of the run in which gradients of all weights were computed.
        n_moments: arrays that the optimiser keeps for each weight; two for Adam.
        timed: by name, functions without arguments that wait for their result, such as a forward pass of the dense
            network and one of the packed one. Measured in turn, in milliseconds of the wall clock.
        machine: its name, for the report.

    Raises:
        ValueError: the mask does not fit the parameters or its structure, the trace is not finished or of other
            weights, or it is given without an input.

    >>> linear = eqx.nn.Linear(8, 4, key=jax.random.key(0))
    >>> mask = full_mask(eqx.filter(linear, eqx.is_inexact_array))
    >>> found = report(linear, mask, input_shape=(8,))
    >>> found.nnz, found.density_of_all, found.bits["best"], found.inference.macs
    (32, 1.0, 1152, 32)
    """
    model, packed = unpacked(model)
    params = eqx.filter(model, eqx.is_inexact_array)
    full = full_mask(params) if mask is None else mask
    pruned = pruned_leaves(params, full)
    masks = {path: np.asarray(one) for path, one in zip(pruned.paths, pruned.masks, strict=True)}
    masks |= {path: one for path, one in packed.items() if mask is None}
    cost = None
    if input_shape is not None:
        cost = flops(model, input_shape, _by_path(params, masks), call=call)
    formats: list[Format] = [*_PLAIN, structure] if isinstance(structure, NM | Block | Group) else [*_PLAIN]
    leaves = tuple(
        LeafAccount(
            path,
            masks[path].size,
            int(np.count_nonzero(masks[path])),
            {format_name(one): storage_bits(masks[path], one, _value_bits(leaf)) for one in formats},
            None if cost is None else cost.active.get(path, 0),
        )
        for path, leaf in zip(pruned.paths, pruned.leaves, strict=True)
    )
    rest = jax.tree.leaves(params, is_leaf=is_unit)
    n_parameters = sum(math.prod(leaf.shape) for leaf in rest)
    prunable_bits = sum(leaf.size * _value_bits(one) for leaf, one in zip(leaves, pruned.leaves, strict=True))
    other_bits = sum(math.prod(leaf.shape) * _value_bits(leaf) for leaf in rest) - prunable_bits
    found = Report(leaves, n_parameters, other_bits, cost, machine=machine)
    if trace is not None:
        found = _with_run(found, trace, prunable_bits, batch_size, dense_gradients, n_moments)
    if timed:
        seconds = median_seconds(list(timed.values()), 7, clock=time.perf_counter)
        times = {name: 1e3 * one for name, one in zip(timed, seconds, strict=True)}
        found = dataclasses.replace(found, milliseconds=times)
    return found


def _with_run(
    found: Report, trace: RunTrace, prunable_bits: int, batch_size: int, dense_gradients: int, n_moments: int
) -> Report:
    require_count("n_moments", n_moments, 0)
    if trace.n_steps is None:
        raise ValueError("trace must be finished: call trace.finish(n_steps)")
    if trace.sizes != {leaf.path: leaf.size for leaf in found.leaves}:
        raise ValueError(f"trace must be of the weights of the mask, got {trace.sizes}")
    if found.inference is None:
        raise ValueError("trace needs input_shape: FLOPs of training are multiples of those of inference")
    dense, shares = found.inference.dense, trace.densities()
    forward = 2 * (sum(macs * shares.get(path, 1.0) for path, macs in dense.items()) + found.inference.products)
    run = training_flops(
        [Phase(trace.n_steps, forward, dense_gradients)],
        found.inference.dense_flops,
        batch_size=batch_size,
        selections=[trace.size] * trace.n_changes,
    )
    most = prunable_bits * trace.highest_count // trace.size
    gradients = prunable_bits if dense_gradients else most
    memory = {"sparse": (1 + n_moments) * most + gradients, "masked": (2 + n_moments) * prunable_bits}
    # and those of what is never pruned, and the mask
    memory = {name: bits + (2 + n_moments) * found.other_bits + trace.size for name, bits in memory.items()}
    return dataclasses.replace(found, training=run, training_bits=memory, explored=trace.explored)


def _by_path(params: PyTree, masks: Mapping[str, np.ndarray]) -> Mask:
    return jax.tree_util.tree_map_with_path(lambda path, _: masks.get(path_name(path)), params, is_leaf=is_unit)


def _value_bits(leaf: Any) -> int:
    """Bits of one entry: of a unit, of all its arrays."""
    return 8 * sum(np.dtype(one.dtype).itemsize for one in jax.tree.leaves(leaf))
