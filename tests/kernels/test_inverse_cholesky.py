"""The inverse Cholesky factor against SciPy and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import cholesky, solve_triangular

from uqsparse.kernels import inverse_cholesky

K = 6


def positive(seed, n=1):
    root = np.random.default_rng(seed).normal(size=(n, K, K + 2))
    return root @ root.transpose(0, 2, 1)


@given(st.integers(0, 10_000))
def test_it_is_the_inverse_of_the_factor(seed):
    with jax.enable_x64(True):
        matrices = positive(seed, 3)
        found = jax.jit(jax.vmap(inverse_cholesky))(jnp.asarray(matrices))
    for one, matrix in zip(found, matrices, strict=True):
        expected = solve_triangular(cholesky(matrix, lower=True), np.eye(K), lower=True)
        np.testing.assert_allclose(one, expected, rtol=1e-8, atol=1e-10 * abs(expected).max())


def test_slopes_are_those_of_finite_differences():
    """Both modes; the direction is symmetric, as every change of a symmetric matrix is."""
    rng = np.random.default_rng(0)
    matrix, weights = positive(1)[0], rng.normal(size=(K, K))
    turn = rng.normal(size=(K, K))
    turn = turn + turn.T

    def value(step):
        return (weights * inverse_cholesky(matrix + step * turn)).sum()

    with jax.enable_x64(True):
        expected = (value(1e-5) - value(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.jvp(value, (0.0,), (1.0,))[1], expected, rtol=1e-6)
        np.testing.assert_allclose(jax.grad(value)(0.0), expected, rtol=1e-6)


def test_a_matrix_that_is_not_positive_gives_nan():
    assert np.isnan(inverse_cholesky(jnp.diag(jnp.array([1.0, -1.0])))).any()
