"""The baselines of sparse recovery against scikit-learn's, and on complex problems that have an answer."""

import functools

import numpy as np
import pytest
from sklearn.linear_model import Lasso, OrthogonalMatchingPursuit

from uqsparse.bench.entries.sparse_recovery_baselines import (
    kronecker_matching_pursuit,
    matching_pursuit,
    minimum_norm,
    oracle_lasso,
    oracle_least_squares,
)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    H = rng.normal(size=(30, 60))
    x = np.zeros(60)
    x[[3, 20, 41]] = [2.0, -1.0, 1.5]
    return H, H @ x + 0.05 * rng.normal(size=30), x


def test_matching_pursuit_is_scikit_learns(problem):
    H, y, _ = problem
    ours = matching_pursuit(H, y, 0.05**2 * 1.5)
    normalised = H / np.linalg.norm(H, axis=0)
    model = OrthogonalMatchingPursuit(n_nonzero_coefs=np.count_nonzero(ours), fit_intercept=False)
    peer = model.fit(normalised, y).coef_ / np.linalg.norm(H, axis=0)
    np.testing.assert_allclose(ours, peer, atol=1e-10)
    assert np.linalg.norm(y - H @ ours) <= np.sqrt(0.05**2 * 1.5 * 30)


def test_the_lasso_is_scikit_learns_at_the_best_penalty(problem):
    H, y, x = problem
    ours = oracle_lasso(H, y, x, n_steps=5000, tolerance=1e-12)
    penalties = abs(H.T @ y).max() * np.geomspace(0.3, 1e-3, 16)
    fits = [Lasso(alpha / 30, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(H, y).coef_ for alpha in penalties]
    best = min(fits, key=lambda fit: np.linalg.norm(fit - x))
    np.testing.assert_allclose(ours, best, atol=1e-7)


def test_complex_problems_are_solved():
    rng = np.random.default_rng(1)

    def draw(*shape):
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    factors = [draw(8, 6), draw(9, 6)]
    tensor = np.zeros((6, 6), complex)
    tensor[np.ix_([1, 4], [2, 3])] = np.outer([1 + 1j, -2j], [2, 1 - 1j])
    x, H = tensor.ravel(), functools.reduce(np.kron, factors)
    y = H @ x
    np.testing.assert_allclose(kronecker_matching_pursuit(factors, y, [2, 2], 1e-12), x, atol=1e-9)
    np.testing.assert_allclose(oracle_least_squares(H, y, np.flatnonzero(x)), x, atol=1e-9)
    sparse = np.zeros(36, complex)
    sparse[[7, 30]] = 2j, 1.0
    np.testing.assert_allclose(matching_pursuit(H, H @ sparse, 1e-12), sparse, atol=1e-9)
    np.testing.assert_allclose(H @ minimum_norm(H, y), y, atol=1e-9)
    # the phase of the data is the phase of the answer
    turned = oracle_lasso(H, 1j * y, 1j * x)
    np.testing.assert_allclose(turned, 1j * oracle_lasso(H, y, x), atol=1e-9)
    assert np.linalg.norm(turned - 1j * x) < 0.5 * np.linalg.norm(x)
