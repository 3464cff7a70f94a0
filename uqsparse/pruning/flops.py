"""Multiply-adds of a network, dense and with its mask, and of its training.

Products are counted where they happen, in the program that JAX traces, and ascribed to the weights that enter them.
A product counts one multiply-add for each term of each of its sums, borders of convolutions included. Multiply-adds
are stored; what is called FLOPs is twice their number.

Sources: Evci, Gale, Menick, Castro & Elsen (2020), Rigging the lottery, for training; Liu & Wang (2023),
Ten lessons we have learned in the new "Sparseland", for what has to be told apart.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from uqsparse.nn.group_convolution import GroupConv
from uqsparse.nn.linear import GroupLinear, SparseLinear
from uqsparse.nn.traced_products import count_products, is_weight, named_weights
from uqsparse.nn.tree_paths import path_name
from uqsparse.pruning.masks import Pruned, pruned_leaves


class Flops(NamedTuple):
    """Multiply-adds of one forward pass.

    Args:
        dense: by the path of the weight, those with every weight; a weight that is used twice counts twice.
        active: by path, those with the weights that the mask keeps.
        products: those between activations, as in attention, or with constants.
        other: operations that are no multiply-adds of products: biases, norms, activation functions, reductions.
        uncounted: weights that enter no product, and operations of unknown cost. Where there are any, all numbers are
            lower bounds.
    """

    dense: dict[str, int]
    active: dict[str, int]
    products: int
    other: int
    uncounted: tuple[str, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds with the mask."""
        return sum(self.active.values()) + self.products

    @property
    def dense_macs(self) -> int:
        """Multiply-adds with every weight."""
        return sum(self.dense.values()) + self.products

    @property
    def flops(self) -> int:
        """Twice the multiply-adds with the mask; `other` is apart."""
        return 2 * self.macs

    @property
    def dense_flops(self) -> int:
        """Twice the multiply-adds with every weight; `other` is apart."""
        return 2 * self.dense_macs


def flops(
    model: PyTree, input_shape: Any, mask: PyTree | None = None, *, call: Callable[[Any, Any], Any] | None = None
) -> Flops:
    """Count the multiply-adds of a forward pass; nothing is computed.

    A mask scales the products of a weight by the share that it keeps. That is exact for linear layers and
    convolutions, where every entry of a weight is used equally often. Packed layers count what they store.

    Args:
        model: an Equinox module, or any pytree with `call`; its arrays may be shapes, as of `eqx.filter_eval_shape`.
        input_shape: shape of one example, without a batch, for a float32 array; or an array, or a tree of
            `jax.ShapeDtypeStruct`, for other inputs.
        mask: as the parameters: boolean arrays, None where a leaf is never pruned.
        call: `call(model, x)`, the forward pass; `model(x)` if not given.

    Raises:
        ValueError: a mask does not fit the parameters.

    Source: Liu & Wang (2023); the products are those of `jax.jit(f).lower(x).compile().cost_analysis()`, which leaves
    out what falls on the padding of convolutions.

    >>> linear = eqx.nn.Linear(8, 4, key=jax.random.key(0))
    >>> flops(linear, (8,)).macs, flops(linear, (8,)).other
    (32, 4)
    """
    model, packed = unpacked(model)
    params = eqx.filter(model, is_weight)
    pruned = Pruned([], [], []) if mask is None else pruned_leaves(params, mask)
    masks = dict(zip(pruned.paths, map(np.asarray, pruned.masks), strict=True)) | packed
    tally = count_products(model, input_shape, call)
    dense = dict(tally.weights)
    active = {path: _share(macs, masks[path]) if path in masks else macs for path, macs in dense.items()}
    multiplied = {path for paths in dense for path in paths.split(" * ")}
    missing = [
        path
        for path, leaf in named_weights(params)
        if path not in multiplied and (path in masks or (len(leaf.shape) >= 2 and path not in tally.elsewhere))
    ]
    uncounted = [f"{path}: in no matrix product" for path in missing] + sorted(tally.unknown)
    return Flops(dense, active, tally.products, tally.other, tuple(uncounted))


class Phase(NamedTuple):
    """Training steps of one cost.

    Args:
        steps: how many.
        forward: FLOPs of the forward pass of one example with the active weights.
        dense_gradients: in how many of these steps the gradient of every weight is computed, active or not.
    """

    steps: int
    forward: float
    dense_gradients: int = 0


class TrainingFlops(NamedTuple):
    """FLOPs of a whole training.

    Args:
        sparse: if products with inactive weights cost nothing.
        masked: of a program that multiplies by all weights, zeros included.
        selection: operations that choose masks, n log2 n for each choice; in neither of the above.
        steps: of the optimiser.
    """

    sparse: float
    masked: float
    selection: float
    steps: int


def training_flops(
    phases: Sequence[Phase], dense: float, *, batch_size: int = 1, factor: float = 1.0, selections: Sequence[int] = ()
) -> TrainingFlops:
    """FLOPs of training: three forward passes a step, as the backward pass costs two.

    A step costs 3 f with the active weights' f, and f more of the gradients of the weights is dense where all of them
    are asked for: 2 f + f_dense. Over a period of D steps and one such step this is (3 f D + 2 f + f_dense) / (D + 1),
    the average of RigL. Rounds of pruning and retraining, and searches, are phases like others.

    Args:
        phases: the parts of the training, in any order.
        dense: FLOPs of the forward pass of one example with every weight.
        batch_size: examples a step.
        factor: 2 for weights with a mean and a variance, each with its own product; samples a step, if several.
        selections: for each choice of a mask, the number of weights that were ranked.

    Raises:
        ValueError: a phase has a negative number, more dense gradients than steps, or costs more than the dense
            network.

    Source: Evci et al. (2020), on the cost of RigL, SNFS and SET.

    >>> training_flops([Phase(101, 10.0, dense_gradients=1)], 100.0).sparse == 3 * 10 * 100 + 2 * 10 + 100
    True
    """
    sparse, steps = 0.0, 0
    for one in phases:
        if one.steps < 0 or not 0 <= one.dense_gradients <= one.steps:
            raise ValueError(f"phases: got {one}; wants steps >= 0 and dense gradients in at most all of them")
        if not 0 <= one.forward <= dense * (1 + 1e-9):
            raise ValueError(f"phases: forward must lie in [0, {dense:g}], the dense cost, got {one.forward:g}")
        sparse += 3 * one.forward * one.steps + (dense - one.forward) * one.dense_gradients
        steps += one.steps
    scale = batch_size * factor
    ranked = sum(n * math.log2(n) for n in selections if n > 1)
    return TrainingFlops(sparse * scale, 3.0 * dense * steps * scale, ranked, steps)


def _share(macs: int, mask: np.ndarray) -> int:
    """The multiply-adds of the weights that are kept; exact where each weight is used equally often."""
    return (2 * macs * int(np.count_nonzero(mask)) + mask.size) // (2 * mask.size)


def unpacked(model: PyTree) -> tuple[PyTree, dict[str, np.ndarray]]:
    """The network with dense layers for packed ones, and which of their weights are stored."""
    kinds, masks = (GroupLinear, SparseLinear, GroupConv), dict[str, np.ndarray]()

    def replace(path: Any, node: Any) -> Any:
        if not isinstance(node, kinds):
            return node
        weight = node.weight
        gs = eqx.tree_at(lambda gs: gs.val, node.packed, jnp.ones_like(node.packed.val))
        stored = eqx.tree_at(lambda layer: layer.packed, node, gs).weight
        masks[path_name((*path, jax.tree_util.GetAttrKey("weight")))] = np.asarray(stored) > 0
        if isinstance(node, GroupConv):
            dense = eqx.nn.Conv(
                len(node.kernel_size),
                node.in_channels,
                node.packed.shape[1],
                node.kernel_size,
                node.stride,
                node.padding,
                node.dilation,
                use_bias=node.bias is not None,
                padding_mode=node.padding_mode,
                key=jax.random.key(0),
            )
            return eqx.tree_at(
                lambda conv: (conv.weight, conv.bias), dense, (weight, node.bias), is_leaf=lambda x: x is None
            )
        return _Rows(node.to_linear())

    return jax.tree_util.tree_map_with_path(replace, model, is_leaf=lambda node: isinstance(node, kinds)), masks


class _Rows(eqx.nn.Linear):
    """A dense layer that takes batches without `vmap`, as packed ones do."""

    def __init__(self, linear: eqx.nn.Linear):
        self.weight, self.bias = linear.weight, linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.use_bias = linear.use_bias

    def __call__(self, x: Any, *, key: Any = None) -> Any:
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias
