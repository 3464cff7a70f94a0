"""Kronecker products of matrices as operators: applied one mode at a time, never formed.

`(A_1 x ... x A_I) x` is `x` reshaped to (N_1, ..., N_I), multiplied by each A_i along its axis, and flattened: with
row-major order everywhere, as `numpy.kron` has it. NumPy arrays are worked on by NumPy in their own precision, JAX
arrays by JAX, inside `jit`, `vmap` and `grad` too.

Source: Van Loan (2000), The ubiquitous Kronecker product.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from uqsparse.kernels.namespaces import AnyArray, array_namespace


def mode_products(factors: Sequence[AnyArray], tensor: Shaped[AnyArray, "..."]) -> Shaped[AnyArray, "..."]:
    """Multiply a tensor by a matrix along each of its last axes.

    The matrices are applied in the order that takes the fewest multiplications.

    Args:
        factors: I matrices (M_i, N_i).
        tensor: shape (..., N_1, ..., N_I).

    Returns:
        Shape (..., M_1, ..., M_I).

    >>> mode_products([np.ones((1, 2)), np.eye(3)], np.ones((2, 3))).tolist()
    [[2.0, 2.0, 2.0]]
    """
    xp = array_namespace(factors, tensor)
    n_modes = len(factors)
    start = tensor.ndim - n_modes
    if start < 0 or tuple(tensor.shape[start:]) != tuple(factor.shape[1] for factor in factors):
        wanted = tuple(factor.shape[1] for factor in factors)
        raise ValueError(f"tensor must have last axes {wanted}, got shape {tuple(tensor.shape)}")
    for i in product_order([factor.shape for factor in factors]):
        shape = tensor.shape
        left, right = math.prod(shape[: start + i]), math.prod(shape[start + i + 1 :])
        if right == 1:
            tensor = tensor.reshape(left, shape[start + i]) @ factors[i].T
        else:
            tensor = xp.matmul(factors[i], tensor.reshape(left, shape[start + i], right))
        tensor = tensor.reshape(*shape[: start + i], factors[i].shape[0], *shape[start + i + 1 :])
    return tensor


def product_order(shapes: Sequence[tuple[int, int]]) -> list[int]:
    """The order of mode products that takes the fewest multiplications.

    Of two neighbours, i before j takes fewer than j before i exactly if 1/N_i - 1/M_i < 1/N_j - 1/M_j.

    Args:
        shapes: (M_i, N_i) of each factor.

    >>> product_order([(4, 2), (2, 4)])
    [1, 0]
    """
    return sorted(range(len(shapes)), key=lambda i: 1 / max(shapes[i][1], 1) - 1 / max(shapes[i][0], 1))


def kronecker_vector(vectors: Sequence[Shaped[AnyArray, " N_i"]]) -> Shaped[AnyArray, " N"]:
    """The Kronecker product of vectors.

    >>> kronecker_vector([np.array([1.0, 2.0]), np.array([1.0, 10.0])]).tolist()
    [1.0, 10.0, 2.0, 20.0]
    """
    product = vectors[0]
    for vector in vectors[1:]:
        product = (product[:, None] * vector).reshape(-1)
    return product


class KroneckerOperator(NamedTuple):
    """The matrix `A_1 x ... x A_I` (Kronecker), of which only the factors are stored; a pytree.

    Args:
        factors: matrices (M_i, N_i), real or complex; the product is (M, N), M = prod M_i and N = prod N_i.

    >>> operator = KroneckerOperator((np.array([[1.0, 2.0]]), np.eye(2)))
    >>> operator.shape, operator.matvec(np.array([1.0, 2.0, 3.0, 4.0])).tolist()
    ((2, 4), [7.0, 10.0])
    """

    factors: tuple[Shaped[AnyArray, "M_i N_i"], ...]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """(M_1, ..., M_I)."""
        return tuple(factor.shape[0] for factor in self.factors)

    @property
    def column_shape(self) -> tuple[int, ...]:
        """(N_1, ..., N_I)."""
        return tuple(factor.shape[1] for factor in self.factors)

    @property
    def shape(self) -> tuple[int, int]:
        """(M, N)."""
        return math.prod(self.row_shape), math.prod(self.column_shape)

    def matvec(self, x: Shaped[AnyArray, "*batch N"]) -> Shaped[AnyArray, "*batch M"]:
        """The product with a vector, or with each of a batch of them: (..., N) to (..., M).

        Raises:
            ValueError: the last axis is not N long.
        """
        if x.ndim < 1 or x.shape[-1] != self.shape[1]:
            raise ValueError(f"x must have {self.shape[1]} entries in its last axis, got shape {tuple(x.shape)}")
        batch = tuple(x.shape[:-1])
        return mode_products(self.factors, x.reshape(batch + self.column_shape)).reshape(*batch, self.shape[0])

    def rmatvec(self, y: Shaped[AnyArray, "*batch M"]) -> Shaped[AnyArray, "*batch N"]:
        """The product of the conjugate transpose with a vector, or a batch of them: (..., M) to (..., N).

        Raises:
            ValueError: the last axis is not M long.
        """
        if y.ndim < 1 or y.shape[-1] != self.shape[0]:
            raise ValueError(f"y must have {self.shape[0]} entries in its last axis, got shape {tuple(y.shape)}")
        return self.adjoint().matvec(y)

    def adjoint(self) -> "KroneckerOperator":
        """The conjugate transpose."""
        return KroneckerOperator(tuple(factor.conj().T for factor in self.factors))

    def gram(self) -> "KroneckerOperator":
        """The conjugate transpose times the operator, (N, N)."""
        return KroneckerOperator(tuple(factor.conj().T @ factor for factor in self.factors))

    def rows(self, index: Int[AnyArray, "*batch"] | int) -> Shaped[AnyArray, "*batch N"]:
        """Rows, dense: shape (..., N) for indices of shape (...).

        Args:
            index: row numbers in [0, M).
        """
        places = _unravel(index, self.row_shape, self.factors)
        return _outer([factor[place] for factor, place in zip(self.factors, places, strict=True)])

    def columns(self, index: Int[AnyArray, "*batch"] | int) -> Shaped[AnyArray, "M *batch"]:
        """Columns, dense: shape (M, ...) for indices of shape (...).

        Args:
            index: column numbers in [0, N).
        """
        places = _unravel(index, self.column_shape, self.factors)
        stacked = _outer([factor.T[place] for factor, place in zip(self.factors, places, strict=True)])
        return array_namespace(stacked).moveaxis(stacked, -1, 0)

    def restrict(self, kept: Sequence[Int[AnyArray, " kept_i"]]) -> "KroneckerOperator":
        """The operator on a product of column sets.

        Args:
            kept: for each mode the columns of its factor that stay.
        """
        return KroneckerOperator(tuple(factor[:, one] for factor, one in zip(self.factors, kept, strict=True)))

    def to_dense(self) -> Shaped[AnyArray, "M N"]:
        """The matrix itself: for small cases and for tests."""
        return self.rows(np.arange(self.shape[0]))


def _unravel(index: AnyArray | int, shape: tuple[int, ...], factors: Sequence[AnyArray]) -> Sequence[AnyArray]:
    return array_namespace(index, factors).unravel_index(index, shape)


def _outer(vectors: Sequence[AnyArray]) -> AnyArray:
    """Kronecker products along the last axes of arrays that share their first ones."""
    product = vectors[0]
    for vector in vectors[1:]:
        product = (product[..., :, None] * vector[..., None, :]).reshape(*product.shape[:-1], -1)
    return product
