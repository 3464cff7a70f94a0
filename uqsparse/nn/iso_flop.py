"""Spend sparsity on size: bigger sparse networks that cost as many multiply-adds as a dense one.

Source: Thangarasa, Saxena, Gupta & Lie (2024), Sparse iso-FLOP transformations for maximizing training efficiency,
ICML. Their code, too, searches for the sparsity at which the costs agree.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
from jaxtyping import Array, Key, PyTree

from uqsparse.nn.iso_flop_layers import (
    Activation,
    Dense,
    SparseDoped,
    SparseFactorized,
    SparseParallel,
    require_replaceable,
)
from uqsparse.nn.iso_flop_sizes import (
    doped_rank,
    factorized_rank,
    log_cardinality,
    parallel_branches,
    require_sparsity,
    wide_factor,
)
from uqsparse.nn.traced_products import count_products, is_weight, named_weights
from uqsparse.nn.tree_paths import path_name

Member = Literal["wide", "parallel", "factorized", "doped"]
# Layers of a chain that take any width.
_WIDTHLESS = (eqx.nn.Lambda, eqx.nn.Dropout, eqx.nn.Identity, eqx.nn.Pool, eqx.nn.AdaptivePool)


class IsoFlop(NamedTuple):
    """A bigger network that costs the same once it is masked; made by `iso_flop`.

    Args:
        model: the network, with no mask applied.
        counts: weights to keep, by the path of each leaf to be masked.
        sizes: entries of these leaves.
        sparsity: s after matching.
        macs_before: multiply-adds of one example in the network that was given.
        macs_after: those of the new one with its masks.
        dense_macs: those of the new one with every weight.
    """

    model: Any
    counts: dict[str, int]
    sizes: dict[str, int]
    sparsity: float
    macs_before: int
    macs_after: int
    dense_macs: int

    @property
    def densities(self) -> dict[str, float]:
        """By path, for `uqsparse.pruning.allocation.fixed`."""
        return {path: count / self.sizes[path] for path, count in self.counts.items()}

    @property
    def density(self) -> float:
        """Of the leaves to be masked together, for other allocations of as many weights."""
        return sum(self.counts.values()) / sum(self.sizes.values())

    @property
    def log_cardinality(self) -> float:
        """Of masks with these counts, in nats."""
        return sum(log_cardinality(self.sizes[path], count) for path, count in self.counts.items())


def iso_flop(
    model: PyTree,
    sparsity: float,
    member: Member = "wide",
    *,
    where: Callable[[str, Any], bool] | None = None,
    match: bool = True,
    tolerance: float = 1e-3,
    input_shape: Any = None,
    call: Callable[[Any, Any], Any] | None = None,
    norm: bool = True,
    activation: Activation | None = jax.nn.relu,
    key: Key[Array, ""],
) -> IsoFlop:
    """Turn a dense network into a bigger one that is to be trained sparse, at the same multiply-adds.

    Weights that are masked keep a share 1 - s. Of a network made wider, the first layer has its old inputs and the last
    one its old outputs: they grow by one factor only, and keep sqrt(1 - s). With `match`, s is found by bisection, so
    that roundings of widths, branches and ranks cost nothing. At s = 0 widths, branches and doping change nothing.

    The product of a masked network is cheaper only where zeros are skipped: computed as a masked dense one, it costs
    `dense_macs`, up to 1 / (1 - s) times more than the network given.

    Args:
        model: the network. To make it wider it has to be an `equinox.nn.MLP`, or an `equinox.nn.Sequential` of linear
            layers or convolutions and of layers without a width; other members replace layers of any module that calls
            them.
        sparsity: s, in [0, 1).
        member: "wide": hidden widths times 1 / sqrt(1 - s); "parallel": a sum of 1 / (1 - s) branches; "factorized":
            two factors with an activation between; "doped": a sparse matrix plus a dense one of low rank.
        where: `(path, layer) -> bool`, which layers to replace, or, of a wider network, to mask. By default all layers
            of a wider network, and else all but the first and the last.
        match: whether to search for the s at which the costs agree.
        tolerance: relative difference of the costs that counts as equal.
        input_shape: of one example, see `count_products`; needed if there are convolutions.
        call: the forward pass; `model(x)` if not given.
        norm: whether branches and factors are normalised, over their outputs.
        activation: between factors; branches have none, as the network's own follows.
        key: for the new weights.

    Returns:
        The network and how many weights to keep of each leaf. It warns where single weights cost more than `tolerance`.

    Raises:
        ValueError: the sparsity is not in [0, 1) or leaves a layer without weights; no layer is to be replaced, one is
            of another kind, or the network cannot be made wider; what stays dense costs more than all of the network
            given; convolutions without `input_shape`.

    Source: Thangarasa et al. (2024).

    >>> mlp = eqx.nn.MLP(40, 10, 48, 2, key=jax.random.key(0))
    >>> wide = iso_flop(mlp, 0.75, key=jax.random.key(1))
    >>> wide.model.layers[1].weight.shape, wide.macs_before, wide.macs_after, round(wide.sparsity, 3)
    ((96, 96), 4704, 4704, 0.75)
    """
    require_sparsity(sparsity)
    if member not in get_args(Member):
        raise ValueError(f"member must be one of {', '.join(map(repr, get_args(Member)))}, got {member!r}")
    layers = _layers(model)
    chosen = _chosen(layers, member, where)
    before = _costs(model, input_shape, call)
    build = {"wide": _wide, "parallel": _parallel, "factorized": _factorized, "doped": _doped}[member]
    new, roots = build(model, chosen, sparsity, norm, activation, key)
    after = _costs(new, input_shape, call)
    sizes = {path: math.prod(leaf.shape) for path, leaf in named_weights(eqx.filter(new, is_weight)) if path in roots}
    budget = sum(before.values())

    unit = {path: after.get(path, 0) // sizes[path] for path in roots}  # how often each weight is used
    fixed = sum(cost for path, cost in after.items() if path not in roots)

    def exact(s: float) -> dict[str, float]:
        return {path: (1 - s) ** root * sizes[path] for path, root in roots.items()}

    def cost_of(counts: Mapping[str, float]) -> float:
        return fixed + sum(unit[path] * count for path, count in counts.items())

    found, counts = sparsity, {path: round(count) for path, count in exact(sparsity).items()}
    if match:
        if fixed > budget:
            raise ValueError(f"what stays dense costs {fixed} multiply-adds, more than the {budget} of all before")
        found = _bisect(lambda s: cost_of(exact(s)) - budget)
        parts = {path: math.modf(count + 1e-6) for path, count in exact(found).items()}
        counts = {path: int(whole) for path, (_, whole) in parts.items()}
        for path in sorted(counts, key=lambda path: -parts[path][0]):  # what is left goes to the largest fractions
            if counts[path] < sizes[path] and cost_of(counts) + unit[path] <= budget:
                counts[path] += 1
    if empty := [path for path, count in counts.items() if count < 1]:
        raise ValueError(f"sparsity must leave a weight in each layer; {empty[0]} keeps none of {sizes[empty[0]]}")
    result = IsoFlop(new, counts, sizes, found, budget, int(cost_of(counts)), sum(after.values()))
    if match and abs(result.macs_after / budget - 1) > tolerance:
        warnings.warn(
            f"the costs agree to {result.macs_after / budget - 1:.2%} only: single weights cost more", stacklevel=2
        )
    return result


def _bisect(excess: Callable[[float], float]) -> float:
    """Where a function that falls on [0, 1] reaches zero, from above; 0 if it is nowhere positive."""
    low, high = 0.0, 1.0
    if excess(0.0) <= 0:
        return 0.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def _layers(model: PyTree) -> dict[str, Dense]:
    """Linear layers and convolutions by path."""
    nodes = jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda node: isinstance(node, Dense))[0]
    named = ((path_name(path), node) for path, node in nodes)
    return {path: node for path, node in named if isinstance(node, Dense)}


def _chosen(layers: dict[str, Dense], member: Member, where: Callable[[str, Any], bool] | None) -> dict[str, Dense]:
    if where is None:
        chosen = dict(layers) if member == "wide" else dict(list(layers.items())[1:-1])
    else:
        chosen = {path: layer for path, layer in layers.items() if where(path, layer)}
    if not chosen:
        raise ValueError(f"where must choose a layer; there are {', '.join(map(repr, layers)) or 'none'}")
    for path, layer in chosen.items():
        require_replaceable(path, layer)
    return chosen


def _costs(model: PyTree, input_shape: Any, call: Callable[[Any, Any], Any] | None) -> dict[str, int]:
    """Multiply-adds by path; without an input those of linear layers that are used once."""
    if input_shape is not None:
        return dict(count_products(model, input_shape, call).weights)
    layers = _layers(model)
    if any(isinstance(layer, eqx.nn.Conv) for layer in layers.values()):
        raise ValueError("input_shape is needed: how often a convolution is applied depends on it")
    return {_join(path, "weight"): math.prod(layer.weight.shape) for path, layer in layers.items()}


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _wide(
    model: Any, chosen: dict[str, Dense], sparsity: float, norm: bool, activation: Any, key: Key[Array, ""]
) -> tuple[Any, dict[str, float]]:
    """Wider hidden layers, and the exponent of 1 - s for each mask."""
    if not isinstance(model, eqx.nn.MLP | eqx.nn.Sequential):
        raise ValueError(
            f"model must be equinox.nn.MLP or Sequential to be made wider, got {type(model).__name__}: where layers "
            "share a width, as in residual blocks and attention, make the whole block wider by its own settings"
        )
    chain = [layer for layer in model.layers if isinstance(layer, Dense)]
    for i, layer in enumerate(model.layers):
        if isinstance(layer, Dense):
            require_replaceable(f"layers.{i}", layer)
        elif not isinstance(layer, _WIDTHLESS):
            raise ValueError(f"layers.{i} is {type(layer).__name__}, which has a width or may have: widen it by hand")
    if len(chain) < 2:
        raise ValueError(f"model must have a hidden layer to be made wider, got {len(chain)} layers")
    if isinstance(model, eqx.nn.MLP) and (model.scan or jax.tree.leaves(eqx.filter(model.activation, eqx.is_array))):
        raise ValueError("model must be an MLP without scan and without learned activations to be made wider")
    factor, keys = wide_factor(sparsity), iter(jax.random.split(key, len(chain)))
    new, roots, place = [], {}, 0
    for i, layer in enumerate(model.layers):
        if not isinstance(layer, Dense):
            new.append(layer)
            continue
        n_out, n_in = layer.weight.shape[:2]
        first, last = place == 0, place == len(chain) - 1
        n_in, n_out = (n_in if first else round(factor * n_in)), (n_out if last else round(factor * n_out))
        same = (n_out, n_in) == layer.weight.shape[:2]
        new.append(layer if same else _resized(layer, n_in, n_out, next(keys)))
        if f"layers.{i}" in chosen:
            roots[f"layers.{i}.weight"] = (2 - first - last) / 2
        place += 1
    shell = model
    if isinstance(model, eqx.nn.MLP):
        sizes = (model.in_size, model.out_size, round(factor * model.width_size), model.depth)
        rest = (model.activation, model.final_activation, model.use_bias, model.use_final_bias)
        shell = eqx.filter_eval_shape(eqx.nn.MLP, *sizes, *rest, key=key)
    return eqx.tree_at(lambda net: net.layers, shell, tuple(new)), roots


def _resized(layer: Dense, n_in: int, n_out: int, key: Key[Array, ""]) -> Dense:
    """The same layer with other widths and Equinox's own starting values."""
    use_bias, dtype = layer.use_bias, layer.weight.dtype
    if isinstance(layer, eqx.nn.Linear):
        return eqx.nn.Linear(n_in, n_out, use_bias, dtype, key=key)
    return eqx.nn.Conv(
        layer.num_spatial_dims,
        n_in,
        n_out,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        use_bias=use_bias,
        padding_mode=layer.padding_mode,
        dtype=dtype,
        key=key,
    )


def _parallel(model, chosen, sparsity, norm, activation, key) -> tuple[Any, dict[str, float]]:
    n = parallel_branches(sparsity)

    def replace(layer: Dense, key: Key[Array, ""]) -> Any:
        return layer if n == 1 else SparseParallel.in_place_of(layer, n, norm=norm, key=key)

    masked = ["weight"] if n == 1 else [f"branches.{j}.weight" for j in range(n)]
    return _replaced(model, chosen, replace, lambda _: masked, key)


def _factorized(model, chosen, sparsity, norm, activation, key) -> tuple[Any, dict[str, float]]:
    def replace(layer: Dense, key: Key[Array, ""]) -> Any:
        rank = factorized_rank(sparsity, *_sizes(layer))
        return SparseFactorized.in_place_of(layer, rank, norm=norm, activation=activation, key=key)

    return _replaced(model, chosen, replace, lambda _: ["first.weight", "second.weight"], key)


def _doped(model, chosen, sparsity, norm, activation, key) -> tuple[Any, dict[str, float]]:
    def replace(layer: Dense, key: Key[Array, ""]) -> Any:
        rank = doped_rank(sparsity, *_sizes(layer))
        return layer if rank == 0 else SparseDoped.in_place_of(layer, rank, key=key)

    return _replaced(
        model, chosen, replace, lambda layer: ["sparse.weight" if isinstance(layer, SparseDoped) else "weight"], key
    )


def _sizes(layer: Dense) -> tuple[int, int, int]:
    n_out, n_in, *kernel = layer.weight.shape
    return n_in, n_out, math.prod(kernel)


def _replaced(
    model: Any,
    chosen: dict[str, Dense],
    replace: Callable[[Dense, Key[Array, ""]], Any],
    masked: Callable[[Any], list[str]],
    key: Key[Array, ""],
) -> tuple[Any, dict[str, float]]:
    """The network with its chosen layers replaced, and which leaves of theirs are masked."""
    keys, roots = dict(zip(chosen, jax.random.split(key, len(chosen)), strict=True)), {}

    def visit(path: tuple[Any, ...], node: Any) -> Any:
        name = path_name(path)
        if name not in chosen or not isinstance(node, Dense):
            return node
        new = replace(node, keys[name])
        roots.update({_join(name, leaf): 1.0 for leaf in masked(new)})
        return new

    return jax.tree_util.tree_map_with_path(visit, model, is_leaf=lambda node: isinstance(node, Dense)), roots
