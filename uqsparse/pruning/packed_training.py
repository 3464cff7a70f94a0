"""Sparse training that stores no dense weight: the inputs of packed groups move while the network trains.

Between two moves, a network of packed layers trains as any other: gradients and moments have the size of what is kept.
A move drops, in each group of outputs, the inputs with the smallest weights, and takes in as many others. The dense
gradient that says which exists only during the move.

Source: Evci et al. (2020), Rigging the lottery: making all tickets winners, algorithm 1; Mocanu et al. (2018), Scalable
training of artificial neural networks with adaptive sparse connectivity inspired by network science (random growth).
"""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree
from optax.tree_utils import tree_map_params

from uqsparse.kernels.group_sparsity import GroupSparse, group_scores, unpack
from uqsparse.kernels.namespaces import is_traced
from uqsparse.nn.tree_paths import path_name
from uqsparse.pruning.rules import DropGrow

Network = TypeVar("Network")


@eqx.filter_jit
def dense_gradients(loss: Callable[..., Float[Array, ""]], network: PyTree, *args: Any) -> PyTree:
    """The gradient of a loss for the dense weight of every packed layer, at the positions that are not stored too.

    It takes the time and the memory of a gradient of the dense network, so call it at moves only. It is compiled once
    for a function `loss` and shapes.

    Args:
        loss: `loss(network, *args)`, a number.
        network: any pytree with packed weights, as those of `GroupLinear` and `GroupConv`.
        *args: what else the loss takes, such as a batch.

    Returns:
        The network with a matrix (inputs, outputs) in place of each packed weight and None in place of all else.

    Raises:
        ValueError: there is no packed weight, or several are stacked in one.

    >>> from uqsparse.nn.linear import GroupLinear
    >>> layer = GroupLinear(3, 2, False, density=1 / 3, group=2, key=jax.random.key(0))
    >>> dense_gradients(lambda layer, x: layer(x).sum(), layer, jnp.array([1.0, 2.0, 3.0])).packed.tolist()
    [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    """
    leaves, structure, places = _packed_leaves(network)

    def with_weights(weights: list[Array]) -> Any:
        whole = list(leaves)
        for place, weight in zip(places, weights, strict=True):
            whole[place] = _with_every_input(leaves[place]).with_weight(weight)
        return structure.unflatten(whole)

    found = jax.grad(lambda weights: loss(with_weights(weights), *args))([unpack(leaves[place]) for place in places])
    gradients = [None] * len(leaves)
    for place, gradient in zip(places, found, strict=True):
        gradients[place] = gradient
    return structure.unflatten(gradients)


def move_groups(
    network: Network,
    optimiser_state: PyTree,
    gradients: PyTree | None,
    churn: Any,
    *,
    inner: optax.GradientTransformation,
    key: Key[Array, ""] | None = None,
    allow_regrow: bool = False,
) -> tuple[Network, PyTree, Int[Array, ""]]:
    """Exchange a share of the inputs of every group of a packed network: one mask update of RigL, or of SET.

    A group with F inputs drops the r = min(floor(churn F), inputs - F) with the smallest sum of |weight| and takes in
    the r with the largest sum of |gradient|, or random ones; ties go to the first input. What stays keeps its values
    and the optimiser's moments, bit for bit; what is new starts at zero, moments included. All arrays keep their
    shapes, so programs are not compiled again. It works inside `jit` too.

    Args:
        network: any pytree with packed weights.
        optimiser_state: from `inner.init(equinox.filter(network, equinox.is_inexact_array))`, or later.
        gradients: from `dense_gradients`; None with a key.
        churn: the share to exchange, in [0, 1]; may be traced.
        inner: the Optax transformation of the state. Moments of another shape than the weight's, such as factored ones,
            are left as they are.
        key: for random inputs, in place of gradients.
        allow_regrow: whether an input may come back in the move that drops it; it then keeps its values.

    Returns:
        The network, the state, and how many pairs of a group and an input are new.

    Raises:
        ValueError: churn is out of range, not exactly one of gradients and key is given, there is no packed weight,
            gradients do not fit, or weights or gradients are not finite; the weight is named. Inside `jit`, a weight
            that is not finite, or has such gradients, keeps its inputs instead.

    >>> from uqsparse.nn.linear import GroupLinear
    >>> layer = GroupLinear(8, 4, density=0.5, group=2, key=jax.random.key(0))
    >>> optimiser = optax.adam(1e-3)
    >>> state = optimiser.init(eqx.filter(layer, eqx.is_inexact_array))
    >>> moved, state, n_new = move_groups(layer, state, None, 0.5, inner=optimiser, key=jax.random.key(1))
    >>> int(n_new), int((moved.mask & ~layer.mask).sum())
    (4, 8)
    """
    if (gradients is None) == (key is None):
        raise ValueError("give either gradients, or a key for random growth")
    if not is_traced(churn) and not 0 <= churn <= 1:
        raise ValueError(f"churn must lie in [0, 1], got {churn!r}")
    leaves, structure, places = _packed_leaves(network)
    slopes = [None] * len(leaves) if gradients is None else structure.flatten_up_to(gradients)
    for place, name in places.items():
        _require_fit(name, leaves[place], slopes[place], key is None)
    return _all_moved(network, optimiser_state, gradients, jnp.asarray(churn), key, inner, allow_regrow)


@eqx.filter_jit
def _all_moved(
    network: Network,
    optimiser_state: PyTree,
    gradients: PyTree | None,
    churn: Array,
    key: Key[Array, ""] | None,
    inner: optax.GradientTransformation,
    allow_regrow: bool,
) -> tuple[Network, PyTree, Int[Array, ""]]:
    leaves, structure, places = _packed_leaves(network)
    slopes = [None] * len(leaves) if gradients is None else structure.flatten_up_to(gradients)
    rows: list[Any] = [None] * len(leaves)
    n_new = jnp.zeros((), int)
    for place in places:
        packed = leaves[place]
        if key is None:
            gain = group_scores(jnp.abs(jnp.asarray(slopes[place])), packed.group).T
        else:
            gain = jax.random.uniform(jax.random.fold_in(key, place), (packed.n_groups, packed.shape[0]))
        leaves[place], row = _moved(packed, gain, churn, allow_regrow)
        rows[place] = eqx.tree_at(lambda one: one.val, eqx.filter(packed, eqx.is_inexact_array), row)
        n_new += (row < 0).sum()
    old_rows = structure.unflatten(rows)  # like the parameters, with the old row of each new one
    state = tree_map_params(
        inner, _taken, optimiser_state, old_rows, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
    )
    return structure.unflatten(leaves), state, n_new


def _moved(
    packed: GroupSparse, gain: Float[Array, "groups K"], churn: Any, allow_regrow: bool
) -> tuple[GroupSparse, Int[Array, " n"]]:
    """The weight after its move, and which row of the old values each row was; -1: none."""
    (n_inputs, _), n, n_groups = packed.shape, packed.idx.shape[0], packed.n_groups
    fan_in = jnp.diff(packed.ptr)
    group = jnp.repeat(jnp.arange(n_groups), fan_in, total_repeat_length=n)
    row = jnp.full((n_groups, n_inputs), -1).at[group, packed.idx].set(jnp.arange(n))
    worth = jnp.full((n_groups, n_inputs), -jnp.inf, packed.val.dtype)
    worth = worth.at[group, packed.idx].set(jnp.abs(packed.val).sum(axis=1))
    live = row >= 0

    kept = DropGrow(allow_regrow)(live, worth, gain, fan_in, churn)
    finite = jnp.isfinite(worth).sum() == n  # outside of `live` it is -inf
    kept = jnp.where(finite & jnp.isfinite(gain).all(), kept, live)

    group, idx = jnp.nonzero(kept, size=n)
    row = row[group, idx]
    val = jnp.where(row[:, None] >= 0, packed.val[row], 0)
    pos_t = jnp.argsort(idx, stable=True)
    ptr_t = jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(jnp.bincount(idx, length=n_inputs))])
    idx, ptr_t, group_t, pos_t = (one.astype(jnp.int32) for one in (idx, ptr_t, group[pos_t], pos_t))
    return GroupSparse(packed.ptr, idx, val, ptr_t, group_t, pos_t, packed.shape, packed.group), row


def _taken(moment: Any, row: Array | None) -> Any:
    """The moments of the rows that stayed, and zeros for new ones."""
    if row is None or isinstance(moment, optax.MaskedNode) or moment.shape[:1] != row.shape:
        return moment
    return jnp.where((row >= 0).reshape(-1, *(1,) * (moment.ndim - 1)), moment[row], jnp.zeros((), moment.dtype))


def _require_fit(name: str, packed: GroupSparse, gradient: Any, gradient_needed: bool) -> None:
    if gradient_needed:
        if getattr(gradient, "shape", None) != packed.shape:
            got = getattr(gradient, "shape", gradient)
            raise ValueError(f"gradients must hold a matrix {packed.shape} for {name!r}, got {got}")
        if not is_traced(gradient) and not np.isfinite(gradient).all():
            raise ValueError(f"gradients of {name!r} are NaN or infinite")
    if not is_traced(packed.val) and not np.isfinite(packed.val).all():
        raise ValueError(f"{name!r} has weights that are NaN or infinite")


def _is_packed(node: Any) -> bool:
    return isinstance(node, GroupSparse)


def _packed_leaves(network: PyTree) -> tuple[list[Any], Any, dict[int, str]]:
    """The leaves of a network with packed weights whole, its structure, and where and what the packed weights are."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(network, is_leaf=_is_packed)
    places = {i: path_name(path) for i, (path, leaf) in enumerate(leaves) if _is_packed(leaf)}
    if not places:
        raise ValueError("network must have packed layers, such as GroupLinear; it has none")
    for place, name in places.items():
        if leaves[place][1].val.ndim != 2:
            raise ValueError(f"{name!r} holds several weights; use `vmap` over the layers")
    return [leaf for _, leaf in leaves], structure, places


def _with_every_input(packed: GroupSparse) -> GroupSparse:
    """A weight of the same shape that stores every input for every group."""
    n_inputs, n_groups = packed.shape[0], packed.n_groups
    inputs, groups = jnp.arange(n_inputs, dtype=jnp.int32), jnp.arange(n_groups, dtype=jnp.int32)
    return GroupSparse(
        ptr=n_inputs * jnp.arange(n_groups + 1, dtype=jnp.int32),
        idx=jnp.tile(inputs, n_groups),
        val=jnp.zeros((n_inputs * n_groups, packed.group), packed.val.dtype),
        ptr_t=n_groups * jnp.arange(n_inputs + 1, dtype=jnp.int32),
        group_t=jnp.tile(groups, n_inputs),
        pos_t=(n_inputs * groups + inputs[:, None]).reshape(-1),
        shape=packed.shape,
        group=packed.group,
    )
