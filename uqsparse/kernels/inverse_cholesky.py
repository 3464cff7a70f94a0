"""The inverse of a Cholesky factor, in array operations alone, for batches of small matrices under `vmap`.

With it every solve is a product. It also keeps clear of LAPACK: up to JAX 0.10 its batched calls hand parts to the pool
of threads that they run on and wait for them, so that as many calls at once as there are threads wait for ever.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def inverse_cholesky(matrix: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """The lower triangular W with `W matrix W' = I`: inverse of the lower Cholesky factor.

    Row by row: with the rows above row j, `l = W a_j` is the j-th row of the factor, `d = sqrt(a_jj - |l|^2)` its
    diagonal, and `(e_j - l' W) / d` the next row. Takes k steps of k^2 operations each. Differentiable, also under
    `vmap`: `dW = -Phi(W dA W') W`, where Phi keeps the lower triangle and half of the diagonal.

    Args:
        matrix: symmetric and positive definite; else the result is NaN.

    Source: the bordering method, Golub & Van Loan (2013), Matrix computations, section 4.2; the derivative as in Murray
    (2016), Differentiation of the Cholesky decomposition.

    >>> inverse_cholesky(jnp.array([[4.0, 2.0], [2.0, 2.0]])).tolist()
    [[0.5, 0.0], [-0.5, 1.0]]
    """

    matrix = jnp.asarray(matrix)

    def add_row(j: Any, rows: Array) -> Array:
        row_of_factor = rows @ matrix[:, j]  # rows not there yet are zero
        diagonal = jnp.sqrt(matrix[j, j] - row_of_factor @ row_of_factor)
        unit = (jnp.arange(len(matrix)) == j).astype(matrix.dtype)
        return rows.at[j].set((unit - row_of_factor @ rows) / diagonal)

    return jax.lax.fori_loop(0, len(matrix), add_row, jnp.zeros_like(matrix))


@inverse_cholesky.defjvp
def _slope(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    rows = inverse_cholesky(*primals)
    seen = rows @ tangents[0] @ rows.T
    return rows, -(jnp.tril(seen) - jnp.diag(jnp.diagonal(seen)) / 2) @ rows
