"""The cumulative logit likelihood: against differences of probabilities, automatic derivatives and brute force."""

import decimal
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit

from uqsparse.kernels import ordinal

N_CLASSES = 4
# Compiled whole: operation by operation takes far longer to compile.
ordinal_nll = jax.jit(ordinal.ordinal_nll)
ordinal_derivatives = jax.jit(ordinal.ordinal_derivatives)
ordinal_conjugate = jax.jit(ordinal.ordinal_conjugate, static_argnums=3)
ordinal_probabilities = ordinal.ordinal_probabilities
rng = np.random.default_rng(0)


@pytest.fixture(scope="module", autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def rows():
    eta = np.sort(3 * rng.normal(size=(120, N_CLASSES - 1)), axis=1) + 1e-3 * np.arange(N_CLASSES - 1)
    return jnp.asarray(eta), jnp.asarray(np.arange(120) % N_CLASSES)


def test_it_is_minus_the_log_of_a_difference_of_probabilities(rows):
    eta, y = rows
    cumulative = np.concatenate([np.zeros((120, 1)), expit(np.asarray(eta)), np.ones((120, 1))], axis=1)
    plain = -np.log(np.diff(cumulative, axis=1)[np.arange(120), np.asarray(y)])
    np.testing.assert_allclose(ordinal_nll(eta, y), plain, rtol=1e-10)
    np.testing.assert_allclose(ordinal_probabilities(np.asarray(eta)), np.diff(cumulative, axis=1), atol=1e-15)
    np.testing.assert_allclose(jax.jit(ordinal_probabilities)(eta), ordinal_probabilities(np.asarray(eta)), atol=1e-15)


@pytest.mark.parametrize(("a", "d"), [(0.0, 1e-9), (30.0, 1e-12), (-40.0, 1e-3), (700.0, 5.0), (-700.0, 800.0)])
def test_extreme_rows_agree_with_exact_arithmetic(a, d):
    b = a + d
    with decimal.localcontext() as context:
        context.prec = 800
        exact = 1 / (1 + (-Decimal(b)).exp()) - 1 / (1 + (-Decimal(a)).exp())
        expected, probability = float(-exact.ln()), float(exact)
    assert float(ordinal_nll(jnp.array([a, b]), jnp.array(1))) == pytest.approx(expected, rel=1e-13)
    assert float(ordinal_probabilities(np.array([a, b]))[1]) == pytest.approx(probability, rel=1e-12, abs=0)


def test_derivatives_are_those_of_the_value(rows):
    eta, y = rows
    found = ordinal_derivatives(eta, y)
    gradient = jax.jit(jax.vmap(jax.grad(ordinal.ordinal_nll)))(eta, y)
    hessian = np.asarray(jax.jit(jax.vmap(jax.hessian(ordinal.ordinal_nll)))(eta, y))
    built_gradient, built = np.zeros_like(gradient), np.zeros_like(hessian)
    for i, k in enumerate(np.asarray(y)):
        if k < N_CLASSES - 1:
            built_gradient[i, k] += found.d_upper[i]
            built[i, k, k] += found.h_uu[i]
        if k > 0:
            built_gradient[i, k - 1] += found.d_lower[i]
            built[i, k - 1, k - 1] += found.h_ll[i]
        if 0 < k < N_CLASSES - 1:
            built[i, k, k - 1] = built[i, k - 1, k] = found.h_lu[i]
    np.testing.assert_allclose(built_gradient, gradient, rtol=1e-9)
    np.testing.assert_allclose(built, hessian, rtol=1e-6, atol=1e-9)


def test_crossed_rows_are_infinite_and_poison_no_gradient():
    eta, y = jnp.array([[1.0, 0.5, 2.0], [1.0, 1.0, 2.0], [0.0, 1.0, 0.5]]), jnp.array([1, 1, 0])
    assert np.isposinf(ordinal_nll(eta, y)).tolist() == [True, True, False]  # the third crosses where it was not seen
    weights = jnp.array([0.0, 0.0, 1.0])

    def total(eta):
        return jnp.sum(jnp.where(weights > 0, weights * ordinal.ordinal_nll(eta, y), 0.0))

    assert np.isfinite(jax.jit(jax.grad(total))(eta)).all()
    found = ordinal_derivatives(eta, y)
    assert all(np.isfinite(part).all() for part in found[1:])
    probabilities = ordinal_probabilities(np.asarray(eta))
    assert probabilities[0, 1] < 0
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert ((probabilities[:, -1] > 0) & (probabilities[:, -1] < 1)).all()


def test_the_conjugate_meets_fenchel_with_equality_at_the_slopes(rows):
    eta, y = rows
    found = ordinal_derivatives(eta, y)
    at = np.arange(120)
    lower = np.where(y > 0, np.asarray(eta)[at, np.maximum(y - 1, 0)], 0.0)
    upper = np.where(y < N_CLASSES - 1, np.asarray(eta)[at, np.minimum(y, N_CLASSES - 2)], 0.0)
    conjugate = ordinal_conjugate(found.d_lower, found.d_upper, y, N_CLASSES)
    slack = found.value + conjugate - lower * found.d_lower - upper * found.d_upper
    assert np.abs(slack / (1 + found.d_lower - found.d_upper)).max() < 1e-13


@pytest.mark.parametrize("slopes", [(0.3, -0.6), (2.0, -2.5), (0.05, -0.9), (4.0, -3.5)])
def test_the_conjugate_is_the_supremum(slopes):
    """Brute force by Nelder and Mead on a, log d."""
    ua, ub = slopes

    def minus(z):
        a, b = z[0], z[0] + np.exp(z[1])
        return -(ua * a + ub * b + np.log(expit(b) - expit(a)))

    found = scipy.optimize.minimize(minus, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
    value = float(ordinal_conjugate(jnp.array(ua), jnp.array(ub), jnp.array(1), 3))
    assert value == pytest.approx(-found.fun, abs=1e-8)


def test_the_conjugate_knows_its_domain_and_its_corners():
    ua = jnp.array([-0.1, 0.1, 2.0, 0.2, 0.0, 0.0, 1.0, 0.0])
    ub = jnp.array([-0.1, 0.1, -0.5, -1.3, 0.0, -1.0, 0.0, -0.3])
    found = np.asarray(ordinal_conjugate(ua, ub, jnp.ones(8, int), 3))
    assert np.isposinf(found[:4]).all()
    assert found[4:7] == pytest.approx(0.0, abs=1e-12)
    # Without a lower slope it is that of an end class.
    assert found[7] == pytest.approx(0.3 * np.log(0.3) + 0.7 * np.log(0.7))
    ends = ordinal_conjugate(jnp.array([0.0, 1.2]), jnp.array([-1.2, 0.0]), jnp.array([0, 2]), 3)
    assert np.isposinf(ends).all()


def test_the_value_is_convex_along_chords(rows):
    eta, y = rows
    middle = ordinal_nll((eta + eta[::-1]) / 2, y)
    ends = (ordinal_nll(eta, y) + ordinal_nll(eta[::-1], y)) / 2
    assert (middle <= ends + 1e-12).all()
