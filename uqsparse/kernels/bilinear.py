"""Three products that are each other's gradients, with rules for `vmap` that join batches to rows.

`forward(x, val)`, `input_gradient(dy, val)` and `value_gradient(x, dy)` are linear in each argument, and each is the
transpose of the others. As primitives of JAX they can be differentiated in forward and reverse mode, to any order. A
rule written with `jax.custom_vjp` would lose what matters most: in the gradient of a `vmap`ped function it is asked for
one gradient of the values per element of the batch, and only then are they summed. Here the batch has joined the rows
before anything is transposed.
"""

from collections.abc import Callable, Hashable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# (kind, rows, others, positions): the rows are the first argument of each product and, of the last, the second too.
Product = Callable[[Any, Any, Any, Any], Any]


class BilinearProducts:
    """The three products, bound as primitives.

    Args:
        name: of the primitives, as it stands in a jaxpr.
        forward: `(kind, x, val, positions)` to y, rows (B, K) to rows (B, N).
        input_gradient: `(kind, dy, val, positions)` to dx.
        value_gradient: `(kind, x, dy, positions)` to dval.
        positions_by_row: whether the positions are arrays (B, ...) too, of each row its own.
    """

    def __init__(
        self,
        name: str,
        forward: Product,
        input_gradient: Product,
        value_gradient: Product,
        *,
        positions_by_row: bool = False,
    ):
        joined = (0, *((2,) if positions_by_row else ()))
        self._forward = _primitive(name, forward, joined)
        self._input_gradient = _primitive(f"{name}_input_gradient", input_gradient, joined)
        self._value_gradient = _primitive(f"{name}_value_gradient", value_gradient, ())
        _differentiable(self._forward, self._input_gradient, self._value_gradient)
        # the cotangent of dx takes the place of x
        _differentiable(self._input_gradient, self._forward, self._value_gradient, swapped=True)

        def from_value_gradient(ct: Any, x: Any, dy: Any, *positions: Any, **kind: Any) -> list[Any]:
            if ad.is_undefined_primal(x):
                return [self._input_gradient.bind(dy, ct, *positions, **kind), None, *(None for _ in positions)]
            return [None, self._forward.bind(x, ct, *positions, **kind), *(None for _ in positions)]

        _transposable(self._value_gradient, from_value_gradient)

    def __call__(self, kind: Hashable, x: Any, val: Any, positions: Any) -> Any:
        """y, for rows x (B, K)."""
        flat, structure = jax.tree.flatten(positions)
        return self._forward.bind(x, val, *flat, kind=kind, structure=structure)


def _primitive(name: str, product: Product, joined: tuple[int, ...]) -> Primitive:
    """A primitive; where only the arguments `joined` (2: and all after it) are batched, batches become rows of one."""
    primitive = Primitive(name)

    def compute(one: Any, other: Any, *positions: Any, kind: Any, structure: Any) -> Any:
        return product(kind, one, other, jax.tree.unflatten(structure, positions))

    @cache
    def compiled(kind: Any, structure: Any) -> Callable[..., Any]:
        return jax.jit(lambda *arrays: compute(*arrays, kind=kind, structure=structure))

    def run(*arrays: Any, kind: Any, structure: Any) -> Any:
        return compiled(kind, structure)(*arrays)

    def shape_of(*arrays: Any, kind: Any, structure: Any) -> Any:
        found = jax.eval_shape(
            lambda *arrays: compute(*arrays, kind=kind, structure=structure),
            *(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays),
        )
        return ShapedArray(found.shape, found.dtype)

    def batch(arrays: Any, axes: Any, **kind: Any) -> tuple[Any, int]:
        (size,) = {array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None}
        moved = [
            array if axis is None else jnp.moveaxis(array, axis, 0) for array, axis in zip(arrays, axes, strict=True)
        ]
        has_rows = [min(place, 2) in joined for place in range(len(arrays))]
        if joined and all(axis is None for axis, rows in zip(axes, has_rows, strict=True) if not rows):
            found = primitive.bind(
                *(
                    _one_after_another(size, array, axis is not None) if rows else array
                    for array, axis, rows in zip(moved, axes, has_rows, strict=True)
                ),
                **kind,
            )
            n_rows = moved[0].shape[0 if axes[0] is None else 1]
            return found.reshape(size, n_rows, found.shape[-1]), 0

        def one(i: Any) -> Any:
            return primitive.bind(
                *(array if axis is None else array[i] for array, axis in zip(moved, axes, strict=True)), **kind
            )

        return jax.lax.map(one, jnp.arange(size)), 0

    primitive.def_impl(run)
    primitive.def_abstract_eval(shape_of)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    return primitive


def _one_after_another(size: int, rows: Any, batched: bool) -> Any:
    """The rows of all elements of a batch; all elements have the same ones where they are not batched."""
    whole = rows if batched else jnp.broadcast_to(rows, (size, *rows.shape))
    return whole.reshape(size * whole.shape[1], *whole.shape[2:])


def _differentiable(primitive: Primitive, adjoint: Primitive, of_values: Primitive, swapped: bool = False) -> None:
    """Rules for rows times values: the adjoint takes rows back, and rows with rows give values."""

    def transpose(ct: Any, rows: Any, val: Any, *positions: Any, **kind: Any) -> list[Any]:
        if ad.is_undefined_primal(rows):
            return [adjoint.bind(ct, val, *positions, **kind), None, *(None for _ in positions)]
        pair = (ct, rows) if swapped else (rows, ct)
        return [None, of_values.bind(*pair, *positions, **kind), *(None for _ in positions)]

    _transposable(primitive, transpose)


def _transposable(primitive: Primitive, transpose: Callable[..., list[Any]]) -> None:
    def jvp(primals: Any, tangents: Any, **kind: Any) -> tuple[Any, Any]:
        one, other, *positions = primals
        value = primitive.bind(*primals, **kind)
        found = []
        if not isinstance(tangents[0], ad.Zero):
            found.append(primitive.bind(tangents[0], other, *positions, **kind))
        if not isinstance(tangents[1], ad.Zero):
            found.append(primitive.bind(one, tangents[1], *positions, **kind))
        return value, sum(found[1:], found[0]) if found else jnp.zeros_like(value)

    def rule(ct: Any, *arguments: Any, **kind: Any) -> list[Any]:
        if isinstance(ct, ad.Zero):
            return [None] * len(arguments)
        # promoted products give back cotangents in the type of what they are for
        found = transpose(ct, *arguments, **kind)
        return [
            one.astype(argument.aval.dtype) if one is not None else None
            for one, argument in zip(found, arguments, strict=True)
        ]

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = rule
