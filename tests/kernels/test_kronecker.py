"""The Kronecker operator against the matrix that `numpy.kron` makes."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.kernels.kronecker import KroneckerOperator, kronecker_vector, mode_products, product_order

SHAPES = [[(3, 5)], [(2, 4), (5, 3)], [(1, 3), (4, 1), (3, 2)], [(3, 2), (2, 3), (2, 2), (1, 2)]]


def random_array(rng, shape, complex_valued):
    real = rng.normal(size=shape)
    return real + 1j * rng.normal(size=shape) if complex_valued else real


def case(shapes, complex_valued, seed=0):
    rng = np.random.default_rng(seed)
    factors = tuple(random_array(rng, shape, complex_valued) for shape in shapes)
    return KroneckerOperator(factors), functools.reduce(np.kron, factors), rng


@given(shapes=st.sampled_from(SHAPES), complex_valued=st.booleans(), seed=st.integers(0, 1000))
def test_products_are_those_of_the_dense_matrix(shapes, complex_valued, seed):
    operator, dense, rng = case(shapes, complex_valued, seed)
    assert operator.shape == dense.shape
    x = random_array(rng, (2, 3, dense.shape[1]), complex_valued)
    y = random_array(rng, (3, dense.shape[0]), complex_valued)
    np.testing.assert_allclose(operator.matvec(x), x @ dense.T, atol=1e-12)
    np.testing.assert_allclose(operator.rmatvec(y), y @ dense.conj(), atol=1e-12)
    np.testing.assert_allclose(operator.matvec(x[0, 0]), dense @ x[0, 0], atol=1e-12)
    np.testing.assert_allclose(operator.gram().to_dense(), dense.conj().T @ dense, atol=1e-11)
    np.testing.assert_array_equal(operator.adjoint().to_dense(), dense.conj().T)


@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize("shapes", SHAPES)
def test_rows_columns_and_parts_are_those_of_the_dense_matrix(shapes, complex_valued):
    operator, dense, rng = case(shapes, complex_valued)
    np.testing.assert_array_equal(operator.to_dense(), dense)
    row, column = rng.integers(dense.shape[0]), rng.integers(dense.shape[1])
    np.testing.assert_array_equal(operator.rows(row), dense[row])
    np.testing.assert_array_equal(operator.columns(column), dense[:, column])
    some = rng.integers(dense.shape[1], size=(2, 3))
    np.testing.assert_array_equal(operator.columns(some), dense[:, some])
    kept = [np.flatnonzero(rng.uniform(size=n) < 0.6) for _, n in shapes]
    flat = np.arange(dense.shape[1]).reshape(operator.column_shape)[np.ix_(*kept)].ravel()
    np.testing.assert_array_equal(operator.restrict(kept).to_dense(), dense[:, flat])


def test_a_kronecker_vector_is_numpys():
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=n) for n in (3, 1, 4)]
    np.testing.assert_array_equal(kronecker_vector(vectors), functools.reduce(np.kron, vectors))


def test_it_is_a_pytree_that_can_be_compiled_batched_and_differentiated():
    with jax.enable_x64(True):
        operator, dense, rng = case([(2, 4), (5, 3)], True)
        operator = jax.tree.map(jnp.asarray, operator)
        x = jnp.asarray(random_array(rng, (4, 12), True))

        def power(operator, x):
            return jnp.sum(abs(operator.matvec(x)) ** 2)

        batched = jax.jit(jax.vmap(KroneckerOperator.matvec, (None, 0)))(operator, x)
        np.testing.assert_allclose(batched, x @ dense.T, atol=1e-12)
        rows = jax.jit(KroneckerOperator.rows)(operator, jnp.arange(3))
        np.testing.assert_allclose(rows, dense[:3], atol=1e-12)
        # JAX's gradient of a real function of complex numbers is the conjugate of the usual one
        gradient = jax.jit(jax.grad(power, argnums=1))(operator, x[0])
        np.testing.assert_allclose(gradient, (2 * dense.conj().T @ (dense @ x[0])).conj(), atol=1e-10)
        real = jax.tree.map(jnp.real, operator)
        by_factor = jax.grad(power)(real, x[0].real).factors[0]
        step = np.zeros((2, 4))
        step[1, 2] = 1e-6
        moved = KroneckerOperator((real.factors[0] + step, real.factors[1]))
        slope = (power(moved, x[0].real) - power(real, x[0].real)) / 1e-6
        np.testing.assert_allclose(by_factor[1, 2], slope, rtol=1e-4)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4))
def test_no_order_of_products_takes_fewer_multiplications(shapes):
    def multiplications(order):
        sizes, total = [n for _, n in shapes], 0
        for mode in order:
            total += shapes[mode][0] * math.prod(sizes)
            sizes[mode] = shapes[mode][0]
        return total

    fewest = min(map(multiplications, itertools.permutations(range(len(shapes)))))
    assert multiplications(product_order(shapes)) == fewest


def test_the_wrong_length_is_named():
    operator, _, _ = case([(2, 4), (5, 3)], False)
    with pytest.raises(ValueError, match="x must have 12 entries in its last axis, got shape"):
        operator.matvec(np.ones(11))
    with pytest.raises(ValueError, match="y must have 10 entries"):
        operator.rmatvec(np.ones((10, 1)))
    with pytest.raises(ValueError, match=r"tensor must have last axes \(4, 3\)"):
        mode_products(operator.factors, np.ones((3, 4)))
