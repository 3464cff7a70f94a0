"""Multiply-adds of a traced program, ascribed to the weights that enter its products."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jaxtyping import PyTree

from uqsparse.nn.tree_paths import path_name
from uqsparse.nn.weight_units import WeightUnit


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MOVES = _names(
    "argmax argmin argsort bitcast_convert_type broadcast_in_dim concatenate convert_element_type copy copy_p "
    "device_put dynamic_slice dynamic_update_slice expand_dims gather iota optimization_barrier pad random_bits "
    "random_fold_in random_seed random_split random_unwrap random_wrap reshape rev select_n slice split squeeze "
    "stop_gradient threefry2x32 transpose"
)
_ELEMENTWISE = _names(
    "abs acos add add_any and asin atan2 cbrt ceil clamp cos cosh div eq erf erf_inv erfc exp exp2 expm1 floor ge gt "
    "integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not or pow rem round rsqrt "
    "shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan tanh xor"
)
_REDUCTIONS = _names(
    "cummax cummin cumprod cumsum cumlogsumexp reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum "
    "reduce_window_max reduce_window_sum scatter scatter-add scatter_add select_and_scatter_add"
)
_CALLS = _names(
    "checkpoint closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr jit pjit remat remat2"
)


class Source(NamedTuple):
    """Where a value comes from: whether the input is in it, and if not, which weights are."""

    data: bool
    paths: frozenset[str]


class Tally:
    """What has been counted so far.

    Attributes:
        weights: multiply-adds by path; of products that several weights enter, by their paths with " * " between.
        products: multiply-adds between activations, or with constants.
        other: all other operations.
        unknown: operations of unknown cost.
        elsewhere: weights that are looked up, or multiplied entry by entry.
    """

    def __init__(self):
        self.weights: Counter[str] = Counter()
        self.products, self.other = 0, 0
        self.unknown: set[str] = set()
        self.elsewhere: set[str] = set()

    @property
    def macs(self) -> int:
        """All multiply-adds."""
        return sum(self.weights.values()) + self.products

    def add(self, other: "Tally") -> None:
        self.weights.update(other.weights)
        self.products += other.products
        self.other += other.other
        self.unknown |= other.unknown
        self.elsewhere |= other.elsewhere

    def product(self, macs: int, left: Source, right: Source) -> None:
        weight = left if right.data else right
        if left.data != right.data and weight.paths:
            self.weights[" * ".join(sorted(weight.paths))] += macs
        else:
            self.products += macs


def is_weight(leaf: Any) -> bool:
    """Whether a leaf is an array of floating or complex type, or the shape of one."""
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def named_weights(params: PyTree) -> list[tuple[str, Any]]:
    """The leaves by path, such as layers.0.weight; a weight unit is one leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda node: isinstance(node, WeightUnit))[0]
    return [(path_name(path), leaf) for path, leaf in leaves]


def count_products(model: PyTree, input_shape: Any, call: Callable[[Any, Any], Any] | None = None) -> Tally:
    """Count the multiply-adds of a forward pass, by weight; nothing is computed.

    Args:
        model: an Equinox module, or any pytree with `call`; its arrays may be shapes, as of `eqx.filter_eval_shape`.
        input_shape: shape of one example, without a batch, for a float32 array; or an array, or a tree of
            `jax.ShapeDtypeStruct`, for other inputs.
        call: `call(model, x)`, the forward pass; `model(x)` if not given.

    >>> dict(count_products(eqx.nn.Linear(8, 4, key=jax.random.key(0)), (8,)).weights)
    {'weight': 32}
    """
    params, static = eqx.partition(model, is_weight)
    run = (lambda net, x: net(x)) if call is None else call
    x = input_shape
    if isinstance(x, tuple) and all(isinstance(size, int) for size in x):
        x = jax.ShapeDtypeStruct(x, jnp.float32)
    params, x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, x))
    traced = jax.make_jaxpr(lambda params, x: run(eqx.combine(params, static), x))(params, x)
    sources = [Source(False, frozenset([path])) for path, leaf in named_weights(params) for _ in jax.tree.leaves(leaf)]
    sources += [Source(True, frozenset())] * len(jax.tree.leaves(x))
    tally = Tally()
    _walk(traced.jaxpr, sources, 1, tally)
    return tally


def _walk(jaxpr: Any, inputs: Sequence[Source], times: int, tally: Tally) -> list[Source]:
    """Count the operations of a traced program, each `times` times; returns the sources of its outputs."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def source(variable: Any) -> Source:
        nothing = Source(False, frozenset())
        return nothing if isinstance(variable, Literal) else known.get(variable, nothing)

    for step in jaxpr.eqns:
        ins, name = [source(one) for one in step.invars], step.primitive.name
        shapes = [one.aval.shape for one in (*step.invars, *step.outvars) if hasattr(one.aval, "shape")]
        data = any(one.data for one in ins)
        outs = [Source(data, frozenset() if data else frozenset().union(*(one.paths for one in ins)))]
        outs = outs * len(step.outvars)
        if name in _CALLS:
            outs = _walk(_inner(step), ins, times, tally)
        elif name == "scan":
            outs = _walk_scan(step, ins, times, tally)
        elif name == "cond":
            found = []
            for branch in step.params["branches"]:
                part = Tally()
                found.append((part, _walk(branch.jaxpr, ins[1:], times, part)))
            dearest = max((part for part, _ in found), key=lambda part: part.macs)
            tally.add(dearest)
            outs = [_join(column) for column in zip(*(out for _, out in found), strict=True)]
        elif name == "dot_general":
            (contracted, _), _ = step.params["dimension_numbers"]
            terms = math.prod(shapes[0][axis] for axis in contracted)
            tally.product(times * terms * math.prod(shapes[-1]), *ins[:2])
        elif name == "conv_general_dilated":
            kernel = math.prod(shapes[1]) // shapes[1][step.params["dimension_numbers"].rhs_spec[0]]
            spread = math.prod(step.params["lhs_dilation"])  # zeros put between inputs by transposed convolutions
            tally.product(times * kernel * math.prod(shapes[-1]) // spread, *ins[:2])
        elif name in _MOVES:
            if name in ("gather", "dynamic_slice"):
                tally.elsewhere |= ins[0].paths
        elif name in _ELEMENTWISE:
            tally.other += times * math.prod(shapes[-1])
            if data:
                tally.elsewhere |= frozenset().union(*(one.paths for one in ins))
        elif name in _REDUCTIONS:
            tally.other += times * math.prod(shapes[0])
        else:
            uses = sorted(frozenset().union(*(one.paths for one in ins)))
            tally.unknown.add(f"{name}{' of ' + ', '.join(uses) if uses else ''}: unknown cost")
        known.update(zip(step.outvars, outs, strict=True))
    return [source(one) for one in jaxpr.outvars]


def _walk_scan(step: Any, ins: list[Source], times: int, tally: Tally) -> list[Source]:
    """The body counts once for each turn; what is carried is followed until its sources settle."""
    n_consts, n_carry = step.params["num_consts"], step.params["num_carry"]
    body, ins = step.params["jaxpr"].jaxpr, list(ins)
    while True:
        outs = _walk(body, ins, 1, Tally())
        joined = [_join(pair) for pair in zip(ins[n_consts : n_consts + n_carry], outs[:n_carry], strict=True)]
        if joined == ins[n_consts : n_consts + n_carry]:
            break
        ins[n_consts : n_consts + n_carry] = joined
    return _walk(body, ins, times * step.params["length"], tally)


def _join(sources: Sequence[Source]) -> Source:
    data = any(one.data for one in sources)
    return Source(data, frozenset() if data else frozenset().union(*(one.paths for one in sources)))


def _inner(step: Any) -> Any:
    found = next(step.params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in step.params)
    return getattr(found, "jaxpr", found)
