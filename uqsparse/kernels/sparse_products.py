"""Products with group-sparse matrices, in compiled code where there is some, with gradients.

`matmul` multiplies rows by a matrix that `pack` made. Three programs can do it: compiled kernels (`"native"`), a loop
of gathers and small dense products in JAX (`"jax"`), and the dense product with the unpacked matrix (`"dense"`). They
give the same numbers to rounding; the number of threads changes no bit of a compiled product.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from uqsparse.kernels.bilinear import BilinearProducts
from uqsparse.kernels.group_sparsity import GroupSparse, unpack
from uqsparse.kernels.native import library
from uqsparse.kernels.product_choice import Product, Shape, choose
from uqsparse.kernels.sparse_loops import group_products, input_gradients, value_gradients

Backend = Literal["auto", "native", "jax", "dense"]


def backend() -> str:
    """What computes sparse products on this machine's CPU.

    Returns:
        "native (avx512)", "native (avx2)" or "native (neon)" by the vectors that the compiled kernels use; "jax" where
        no compiled kernel can be used, for which `uqsparse.kernels.native.library().reason` gives the reason.
    """
    found = library()
    return f"native ({found.kernels})" if found.kernels else "jax"


def matmul(x: Float[Array, "*batch K"], gs: GroupSparse, backend: Backend = "auto") -> Float[Array, "*batch N"]:
    """Rows times a group-sparse matrix, x W.

    It has derivatives of any order for x and for the values of W, at their positions, and works inside `jit` and
    `jax.checkpoint`. Under `vmap` over x alone the batch joins the rows, in gradients too; over W too the products are
    done one after another.

    Args:
        x: rows, shape (..., K).
        gs: the matrix (K, N), from `pack`.
        backend: "auto" takes the compiled kernels or the dense product, whichever is faster at this shape and
            density (see `calibrate`); where nothing is compiled, and on other devices than a CPU, the loop or the dense
            product. "native", "jax" and "dense" ask for one. Compiled kernels are for float32: "auto" takes another
            program for other types.

    Returns:
        Shape (..., N), in the type that JAX promotes both to. A NaN in x reaches exactly the outputs that use it, save
        with the dense product, which multiplies it by zeros.

    Raises:
        ValueError: the last axis of x is not K long, or the backend is unknown.
        TypeError: x holds no real floating numbers, or "native" is asked for with another type than float32.
        RuntimeError: "native" is asked for, and there is none.

    >>> import numpy as np
    >>> from uqsparse.kernels.group_sparsity import pack
    >>> gs = pack(np.array([[0.0, 0.0, 1.0], [2.0, 3.0, 0.0]]), group=2)
    >>> matmul(jnp.array([1.0, 10.0]), gs).tolist()
    [20.0, 30.0, 1.0]
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(map(repr, get_args(Backend)))}, got {backend!r}")
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must hold real floating numbers, got {x.dtype}")
    if x.ndim < 1 or x.shape[-1] != gs.shape[0]:
        raise ValueError(f"x must have {gs.shape[0]} entries in its last axis, got shape {x.shape}")
    if backend == "native":
        _require_native(x.dtype, gs.val.dtype)
    kind = _Kind(gs.shape, gs.group, backend)
    positions = _Positions(gs.ptr, gs.idx, gs.ptr_t, gs.group_t, gs.pos_t)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return _product(kind, rows, gs.val, positions).reshape(*x.shape[:-1], gs.shape[1])


def rows_matvec(
    x: Float[Array, "*batch K"], W: Float[Array, "K N"], idx: Int[Array, "*batch S"]
) -> Float[Array, "*batch N"]:
    """The product of x and W over chosen inputs only: sum over s of x[idx[s]] W[idx[s], :].

    For activations that are sparse in another way for every row. Compiled where there is a kernel and both are float32;
    a gather and a dense product otherwise. It has derivatives of any order for x and W, each at the cost of a dense
    product, and works inside `jit`. Under `vmap` over x and idx the batch joins the rows, in gradients too.

    Args:
        x: shape (..., K).
        W: the dense matrix, shape (K, N).
        idx: which inputs count, each in [0, K), shape (..., S) with the leading axes of x. One that is named twice
            counts twice. Out of range is an error of the compiled kernel; otherwise JAX's own rule holds.

    Raises:
        ValueError: shapes do not fit.
        TypeError: idx does not hold integers, or x and W no real floating numbers.

    >>> rows_matvec(jnp.array([1.0, 2.0, 3.0]), jnp.eye(3), jnp.array([2, 0])).tolist()
    [1.0, 0.0, 3.0]
    """
    x, W, idx = jnp.asarray(x), jnp.asarray(W), jnp.asarray(idx)
    if W.ndim != 2 or x.ndim < 1 or x.shape[-1] != W.shape[0]:
        raise ValueError(f"x and W must have shapes (..., K) and (K, N), got {x.shape} and {W.shape}")
    if idx.ndim != x.ndim or idx.shape[:-1] != x.shape[:-1]:
        raise ValueError(f"idx must have the leading axes of x, {x.shape[:-1]}, got shape {idx.shape}")
    if not jnp.issubdtype(idx.dtype, jnp.integer):
        raise TypeError(f"idx must hold integers, got {idx.dtype}")
    for name, array in (("x", x), ("W", W)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name} must hold real floating numbers, got {array.dtype}")
    n_rows = math.prod(x.shape[:-1])  # -1 would not do where the last axis is empty
    places = idx.reshape(n_rows, idx.shape[-1]).astype(jnp.int32)
    rows = _rows_product(W.shape, x.reshape(n_rows, x.shape[-1]), W, places)
    return rows.reshape(*x.shape[:-1], W.shape[1])


# --- the product and its gradients ------------------------------------------------------------------------------------


class _Kind(NamedTuple):
    """What is known before anything is traced."""

    shape: tuple[int, int]
    group: int
    backend: Backend


class _Positions(NamedTuple):
    ptr: Any
    idx: Any
    ptr_t: Any
    group_t: Any
    pos_t: Any

    def matrix(self, kind: _Kind, val: Any) -> GroupSparse:
        return GroupSparse(self.ptr, self.idx, val, self.ptr_t, self.group_t, self.pos_t, kind.shape, kind.group)


def _forward_now(kind: _Kind, x: Any, val: Any, positions: _Positions) -> Any:
    n_outputs = kind.shape[1]

    def native(x, val, positions):
        result = jax.ShapeDtypeStruct((x.shape[0], n_outputs), jnp.float32)
        return jax.ffi.ffi_call("uqsparse_forward", result)(x, positions.ptr, positions.idx, val)

    def loop(x, val, positions):
        return group_products(x, positions.ptr, positions.idx, val)[:, :n_outputs]

    def dense(x, val, positions):
        return x @ unpack(positions.matrix(kind, val))

    return _by(kind, x.shape[0], "forward", native, loop, dense, x, val, positions)


def _input_gradient_now(kind: _Kind, dy: Any, val: Any, positions: _Positions) -> Any:
    n_inputs = kind.shape[0]

    def native(dy, val, positions):
        result = jax.ShapeDtypeStruct((dy.shape[0], n_inputs), jnp.float32)
        call = jax.ffi.ffi_call("uqsparse_input_gradient", result)
        return call(dy, positions.ptr, positions.idx, val, positions.ptr_t, positions.group_t, positions.pos_t)

    def loop(dy, val, positions):
        return input_gradients(_padded(kind, dy), positions.ptr, positions.idx, val, n_inputs)

    def dense(dy, val, positions):
        return dy @ unpack(positions.matrix(kind, val)).T

    return _by(kind, dy.shape[0], "gradients", native, loop, dense, dy, val, positions)


def _value_gradient_now(kind: _Kind, x: Any, dy: Any, positions: _Positions) -> Any:
    pair, val = (x, dy), jnp.zeros((positions.idx.shape[0], kind.group), jnp.result_type(x, dy))

    def native(pair, val, positions):
        result = jax.ShapeDtypeStruct(val.shape, jnp.float32)
        return jax.ffi.ffi_call("uqsparse_value_gradient", result)(*pair, positions.ptr, positions.idx)

    def loop(pair, val, positions):
        x, dy = pair
        return value_gradients(x, _padded(kind, dy), positions.ptr, positions.idx, kind.group)

    def dense(pair, val, positions):
        x, dy = pair
        return positions.matrix(kind, val).with_weight(x.T @ dy).val

    return _by(kind, pair[0].shape[0], "gradients", native, loop, dense, pair, val, positions)


def _padded(kind: _Kind, dy: Any) -> Any:
    return jnp.pad(dy, ((0, 0), (0, -kind.shape[1] % kind.group)))


_product = BilinearProducts("sparse_product", _forward_now, _input_gradient_now, _value_gradient_now)


# --- which program, on which device -----------------------------------------------------------------------------------


def _by(
    kind: _Kind,
    n_rows: int,
    product: Product,
    native: Callable[..., Any],
    loop: Callable[..., Any],
    dense: Callable[..., Any],
    rows: Any,
    val: Any,
    positions: _Positions,
) -> Any:
    """Call one of three programs, for the device that the result is computed on."""
    programs = {"native": native, "jax": loop, "dense": dense}
    if kind.backend != "auto":
        return programs[kind.backend](rows, val, positions)
    shape = Shape(n_rows, *kind.shape, kind.group, val.shape[0])
    elsewhere = programs[choose(shape, product, "jax")]
    if not library().kernels or any(one.dtype != jnp.float32 for one in (*jax.tree.leaves(rows), val)):
        return elsewhere(rows, val, positions)
    here = programs[choose(shape, product, "native")]
    if all(device.platform == "cpu" for device in jax.devices()):
        return here(rows, val, positions)
    return jax.lax.platform_dependent(rows, val, positions, cpu=here, default=elsewhere)


def _require_native(*dtypes: Any) -> None:
    if not library().kernels:
        raise RuntimeError(f'backend "native" cannot be used: {library().reason}')
    for dtype in dtypes:
        if dtype != jnp.float32:
            raise TypeError(f'backend "native" needs float32 rows and values, got {dtype}')


# --- chosen inputs ----------------------------------------------------------------------------------------------------


def _rows_now(shape: tuple[int, int], x: Any, W: Any, idx: Any) -> Any:
    if not library().kernels or not x.dtype == W.dtype == jnp.float32:
        return _rows_gathered(x, W, idx)
    if all(device.platform == "cpu" for device in jax.devices()):
        return _rows_native(x, W, idx)
    return jax.lax.platform_dependent(x, W, idx, cpu=_rows_native, default=_rows_gathered)


def _rows_native(x: Any, W: Any, idx: Any) -> Any:
    result = jax.ShapeDtypeStruct((x.shape[0], W.shape[1]), jnp.float32)
    return jax.ffi.ffi_call("uqsparse_rows_product", result)(x, W, idx)


def _rows_gathered(x: Any, W: Any, idx: Any) -> Any:
    return jax.vmap(lambda x, idx: x[idx] @ W[idx])(x, idx)


def _rows_input_gradient_now(shape: tuple[int, int], dy: Any, W: Any, idx: Any) -> Any:
    times = jax.vmap(lambda idx: jnp.zeros(shape[0], dy.dtype).at[idx].add(1))(idx)
    return jnp.where(times > 0, times * (dy @ W.T), 0)


def _rows_weight_gradient_now(shape: tuple[int, int], x: Any, dy: Any, idx: Any) -> Any:
    taken = jax.vmap(lambda x, idx: jnp.zeros_like(x).at[idx].add(x[idx]))(x, idx)
    return taken.T @ dy


_rows_product = BilinearProducts(
    "chosen_rows_product", _rows_now, _rows_input_gradient_now, _rows_weight_gradient_now, positions_by_row=True
)
