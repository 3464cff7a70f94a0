"""Proximal maps and the lasso of a quadratic: against brute force and scikit-learn's coordinate descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet

from uqsparse.kernels.lasso_quadratic import lasso_quadratic
from uqsparse.kernels.thresholding import elastic_net_prox, soft_threshold

SIZE = 12


@pytest.fixture(scope="module", autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def test_the_soft_threshold_minimises_its_objective():
    grid = np.linspace(-4, 4, 80_001)
    for x in (-2.3, -0.4, 0.0, 0.9, 3.0):
        best = grid[np.argmin((grid - x) ** 2 / 2 + 0.7 * np.abs(grid))]
        assert soft_threshold(np.array(x), 0.7) == pytest.approx(best, abs=1e-4)
        best = grid[np.argmin((grid - x) ** 2 / 2 + 0.5 * (0.7 * np.abs(grid) + 1.5 * grid**2 / 2))]
        assert elastic_net_prox(np.array(x), 0.7, 1.5, 0.5) == pytest.approx(best, abs=1e-4)
    assert not np.signbit(soft_threshold(np.array([-0.5, 0.5]), 1.0)).any()
    assert isinstance(soft_threshold(jnp.ones(2), 0.5), jax.Array)


solve = jax.jit(lasso_quadratic)


@given(st.integers(0, 2**31), st.sampled_from([0.01, 0.1, 0.5]), st.sampled_from([0.0, 0.9]), st.sampled_from([0, 1]))
def test_it_is_the_elastic_net_of_scikit_learn(seed, strength, correlation, ridge):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(40, SIZE)) * np.sqrt(1 - correlation) + np.sqrt(correlation) * rng.normal(size=(40, 1))
    y = X[:, 0] - X[:, 1] + rng.normal(size=40)
    ratio = 0.5 if ridge else 1.0
    peer = ElasticNet(alpha=strength, l1_ratio=ratio, fit_intercept=False, tol=1e-13, max_iter=200_000).fit(X, y)
    ones = jnp.ones(SIZE)
    found = solve(X.T @ X / 40, -X.T @ y / 40, strength * ratio * ones, strength * (1 - ratio) * ones, 0 * ones)
    assert found.violation < 1e-10
    np.testing.assert_allclose(found.w, peer.coef_, atol=2e-6)


def test_coordinates_without_penalty_are_free_and_those_without_curvature_stay():
    hessian = jnp.diag(jnp.array([1.0, 2.0, 0.0]))
    found = solve(hessian, jnp.array([-1.0, 1.0, 0.0]), jnp.array([0.0, 3.0, 0.0]), jnp.zeros(3), jnp.ones(3))
    assert found.w.tolist() == [1.0, 0.0, 1.0]


def test_a_singular_system_still_reaches_the_optimum():
    """Two equal columns: any split of their weight is a minimum, and the optimality conditions say so."""
    X = np.random.default_rng(0).normal(size=(30, SIZE))
    X[:, 1] = X[:, 0]
    found = solve(X.T @ X / 30, -X.T @ X[:, 0] / 30, 0.1 * jnp.ones(SIZE), jnp.zeros(SIZE), jnp.zeros(SIZE))
    assert found.violation < 1e-9
    assert np.isfinite(found.w).all()
