"""Pseudo-random numbers of rows: uniform, fixed, alike in NumPy and JAX, and different for rows that differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from uqsparse.kernels.hashing import row_uniforms

rng = np.random.default_rng(0)
WORDS = np.asarray(jax.random.key_data(jax.random.key(3)))
# Rows that random words never look like: counts on a simplex, most entries shared by most rows.
COUNTS = np.array([[a, b, 40 - a - b] for a in range(41) for b in range(41 - a)]) / 40


def test_numpy_and_jax_give_the_same_numbers_in_either_precision():
    rows = np.concatenate([rng.dirichlet(np.ones(7), size=50), np.eye(7), [[1.0, 1e-39, -0.0, 1e-44, 0, 0, 0]]])
    expected = row_uniforms(WORDS, rows)
    assert expected.dtype == np.float32
    assert (row_uniforms(WORDS, rows.astype(np.float32)) == expected).all()
    assert (row_uniforms(WORDS, rows.reshape(2, 29, 7)) == expected.reshape(2, 29)).all()
    jitted = jax.jit(row_uniforms)
    assert (np.asarray(jitted(jnp.asarray(WORDS), jnp.asarray(rows, jnp.float32))) == expected).all()
    with jax.enable_x64(True):
        assert (np.asarray(jitted(jnp.asarray(WORDS), jnp.asarray(rows))) == expected).all()


@pytest.mark.parametrize("rows", [rng.dirichlet(np.ones(5), size=4000), COUNTS], ids=["random", "counts"])
def test_they_are_uniform_over_rows_and_not_related_to_them(rows):
    """Kolmogorov-Smirnov at 1e-5, and correlations with each column at 4.8 se: false alarms below 1e-4."""
    u = row_uniforms(WORDS, rows)
    assert u.min() > 0
    assert u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 1e-5
    for column in rows.T:
        assert abs(np.corrcoef(u, column)[0, 1]) < 4.8 / np.sqrt(len(rows))


def test_they_are_uniform_over_keys_and_independent_between_rows():
    """Kolmogorov-Smirnov at 1e-5 and correlations at 4.8 se: false alarms below 1e-4."""
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), 2000)))
    rows = np.array([[0.25, 0.25, 0.5], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    u = np.stack([row_uniforms(words, rows) for words in keys])
    assert all(stats.kstest(column, "uniform").pvalue > 1e-5 for column in u.T)
    assert (abs(np.corrcoef(u.T) - np.eye(4)) < 4.8 / np.sqrt(len(u))).all()
    consecutive = np.array([row_uniforms(np.array([0, i], np.uint32), rows)[0] for i in range(2000)])
    assert stats.kstest(consecutive, "uniform").pvalue > 1e-5


def test_rows_that_differ_have_numbers_of_their_own():
    """Of N distinct rows about N^2 / 2^24 pairs share a number by chance."""
    u = row_uniforms(WORDS, COUNTS)
    assert len(np.unique(u)) >= len(u) - 3
    swapped = row_uniforms(WORDS, COUNTS[:, ::-1])
    palindromes = (COUNTS[:, 0] == COUNTS[:, 2]).mean()
    assert (swapped == u).mean() == palindromes
