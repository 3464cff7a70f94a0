"""Losses in the linear predictor against SciPy, finite differences, brute-force conjugates and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from uqsparse.kernels.glm_losses import glm_conjugate, glm_terms, row_terms
from uqsparse.kernels.ordinal import ordinal_nll

KINDS = {"logistic": [0.0, 1.0], "squared": [-1.3, 0.0, 2.0], "poisson": [0.0, 1.0, 7.0]}
CASES = [(kind, y) for kind, ys in KINDS.items() for y in ys]
U = np.linspace(-6.0, 4.0, 21)


def test_values_are_those_of_scipy():
    for y in (0, 1):
        expected = -scipy.stats.bernoulli.logpmf(y, scipy.special.expit(U))
        np.testing.assert_allclose(glm_terms("logistic", float(y), U).value, expected, rtol=1e-13)
    for y in (0, 1, 7):
        saturated = -scipy.stats.poisson.logpmf(y, y)
        expected = -scipy.stats.poisson.logpmf(y, np.exp(U)) - saturated
        np.testing.assert_allclose(glm_terms("poisson", float(y), U).value, expected, rtol=1e-9, atol=1e-13)
    expected = -scipy.stats.norm.logpdf(2.0, U) + scipy.stats.norm.logpdf(0.0)
    np.testing.assert_allclose(glm_terms("squared", 2.0, U).value, expected, rtol=1e-13)


@pytest.mark.parametrize(("kind", "y"), CASES)
def test_derivatives(kind, y):
    step = 1e-5
    above, here, below = (glm_terms(kind, y, U + one) for one in (step, 0.0, -step))
    np.testing.assert_allclose(here.slope, (above.value - below.value) / (2 * step), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(here.curvature, (above.slope - below.slope) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("kind", "y"), CASES)
def test_conjugate_is_the_supremum(kind, y):
    slopes = np.asarray(glm_terms(kind, y, np.array([-2.0, -0.3, 1.1])).slope)
    for v in slopes:
        best = scipy.optimize.minimize_scalar(lambda u, v=v: glm_terms(kind, y, u).value - v * u, bounds=(-9, 9))
        np.testing.assert_allclose(glm_conjugate(kind, y, v), -best.fun, rtol=1e-8, atol=1e-9)


def test_conjugates_are_infinite_outside_their_domain():
    assert np.isinf(glm_conjugate("logistic", 1.0, np.array([0.1, -1.1]))).all()
    assert np.isinf(glm_conjugate("poisson", 2.0, -2.1))
    np.testing.assert_array_equal(glm_conjugate("logistic", 0.0, np.array([0.0, 1.0])), [0.0, 0.0])


def test_extreme_predictors_stay_accurate():
    found = glm_terms("logistic", 1.0, np.array([-800.0, 40.0, 800.0]))
    np.testing.assert_allclose(found.value, [800.0, np.exp(-40.0), 0.0], rtol=1e-14)
    np.testing.assert_allclose(found.curvature[1], np.exp(-40.0), rtol=1e-14)
    # Half a deviance near its zero: 1e6 (e^v - 1 - v) with v = 1e-6, not the difference of numbers of size 1e7.
    near = glm_terms("poisson", 1e6, np.log(1e6) + 1e-6)
    np.testing.assert_allclose(near.value, 5e-7, rtol=1e-3)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_jax_and_numpy_agree(kind):
    y = np.resize(KINDS[kind], U.shape)
    with jax.enable_x64(True):
        compiled = jax.jit(glm_terms, static_argnums=0)(kind, y, jnp.array(U))
        slope = jax.vmap(jax.grad(lambda u, y: glm_terms(kind, y, u).value))(jnp.array(U), jnp.array(y))
    plain = glm_terms(kind, y, U)
    for ours, theirs in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-14, atol=1e-15)
    np.testing.assert_allclose(slope, plain.slope, rtol=1e-12, atol=1e-14)


def test_rows_of_the_ordinal_loss_see_the_boundaries_they_have():
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 2, 3, 1, 3])
    with jax.enable_x64(True):
        eta = jnp.array(np.sort(rng.normal(size=(6, 3)), axis=1))
        index = np.arange(6)
        lower, upper = eta[index, np.maximum(labels - 1, 0)], eta[index, np.minimum(labels, 2)]
        sides = jnp.array(np.where(labels == 0, 0, np.where(labels == 3, 2, 1)))
        found = row_terms("ordinal", sides, jnp.concatenate([lower, upper]))
        np.testing.assert_allclose(found.value, ordinal_nll(eta, jnp.array(labels)), rtol=1e-14)
        assert (np.asarray(found.slopes[:6])[labels == 0] == 0).all()
        assert (np.asarray(found.slopes[6:])[labels == 3] == 0).all()
        assert found.slopes.shape == (12,)
        assert found.curvatures.shape == (18,)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind"):
        glm_terms("probit", 1.0, 0.0)
    with pytest.raises(ValueError, match="kind"):
        glm_conjugate("probit", 1.0, 0.0)
