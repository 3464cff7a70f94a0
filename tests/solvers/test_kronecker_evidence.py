"""The Kronecker posterior and the M-steps against dense linear algebra and independent minimisers."""

import functools

import jax
import numpy as np
import pytest
import scipy.optimize

from uqsparse.kernels.kronecker import KroneckerOperator, kronecker_vector
from uqsparse.solvers.kronecker_evidence import decompose, determined_shares, kronecker_posterior, posterior_mean
from uqsparse.solvers.kronecker_variances import (
    alternating_variances,
    majorised_variances,
    nearest_kronecker_variances,
    neighbour_coupling,
)

# Wide, square and tall factors at once.
SHAPES = [(3, 5), (4, 4), (4, 2)]
NOISE = 0.3


def problem(complex_valued, seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape) + 1j * rng.normal(size=shape) if complex_valued else rng.normal(size=shape)

    factors = tuple(draw(*shape) for shape in shapes)
    gammas = [rng.uniform(0.1, 2, n) for _, n in shapes]
    y = draw(int(np.prod([m for m, _ in shapes])))
    return KroneckerOperator(factors), gammas, y


def dense(operator, gammas, y, noise):
    H, gamma = functools.reduce(np.kron, operator.factors), functools.reduce(np.kron, gammas)
    C = noise * np.eye(len(y)) + (H * gamma) @ H.conj().T
    gain = np.linalg.solve(C, H * gamma).conj().T
    mean = gain @ y
    covariance = np.diag(gamma) - gain @ H * gamma
    cost = np.linalg.slogdet(C)[1] + (y.conj() @ np.linalg.solve(C, y)).real
    return H, gamma, C, mean, covariance.diagonal().real, cost


@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
def test_the_posterior_is_that_of_dense_linear_algebra(complex_valued, zeros):
    operator, gammas, y = problem(complex_valued)
    if zeros:
        gammas[0][1], gammas[2][0] = 0.0, 0.0
    H, gamma, C, mean, variance, cost = dense(operator, gammas, y, NOISE)
    model = decompose(operator, gammas, NOISE)
    found = kronecker_posterior(model, y)
    np.testing.assert_allclose(found.mean, mean, atol=1e-10)
    np.testing.assert_allclose(found.variance, variance, atol=1e-10)
    np.testing.assert_allclose(found.cost, cost, rtol=1e-10)
    np.testing.assert_allclose(found.residual, np.sum(abs(y - H @ mean) ** 2), rtol=1e-9)
    np.testing.assert_allclose(found.precision, np.trace(np.linalg.inv(C)).real, rtol=1e-9)
    np.testing.assert_allclose(gamma * found.moment_ratio, variance + abs(mean) ** 2, atol=1e-10)
    slopes = np.sum(H.conj() * np.linalg.solve(C, H), axis=0).real
    np.testing.assert_allclose(determined_shares(model), gamma * slopes, atol=1e-10)
    np.testing.assert_allclose(found.effective, gamma @ slopes, rtol=1e-9)
    np.testing.assert_allclose(posterior_mean(model, np.stack([y, 2 * y])), [mean, 2 * mean], atol=1e-10)


def test_no_digits_are_lost_where_the_prior_is_wide():
    operator, gammas, y = problem(False, shapes=[(6, 4), (5, 5)])
    noise = 1e-13
    found = kronecker_posterior(decompose(operator, gammas, noise), y)
    H, gamma = functools.reduce(np.kron, operator.factors), kronecker_vector(gammas)
    information = H.T @ H + noise * np.diag(1 / gamma)
    np.testing.assert_allclose(found.variance, noise * np.linalg.inv(information).diagonal(), rtol=1e-8)
    single = kronecker_posterior(decompose(operator, [g.astype(np.float32) for g in gammas], np.float32(1e-12)), y)
    assert (single.variance >= 0).all()


def test_jax_arrays_can_be_compiled_and_batched():
    operator, gammas, y = problem(True)
    expected = kronecker_posterior(decompose(operator, gammas, NOISE), y)
    with jax.enable_x64(True):
        operator, gammas = jax.tree.map(jax.numpy.asarray, (operator, gammas))
        ys = jax.numpy.stack([jax.numpy.asarray(y), jax.numpy.asarray(2 * y)])
        model = decompose(operator, gammas, NOISE)
        found = jax.jit(jax.vmap(kronecker_posterior, (None, 0)))(model, ys)
    np.testing.assert_allclose(found.mean, [expected.mean, 2 * expected.mean], atol=1e-10)
    np.testing.assert_allclose(found.variance[1], expected.variance, atol=1e-10)
    np.testing.assert_allclose(found.cost[0], expected.cost, rtol=1e-10)


@pytest.fixture(scope="module")
def moments():
    rng = np.random.default_rng(3)
    shape = (4, 3, 5)
    gammas = [rng.uniform(0.2, 3, n) for n in shape]
    second_moment = rng.exponential(size=shape) ** 2
    ratio = second_moment / kronecker_vector(gammas).reshape(shape)
    return gammas, second_moment, ratio


def minimum(cost_of, shape):
    """Over the logarithms of all variances, by a method that shares nothing with ours."""

    def cost(logs):
        parts = np.split(logs, np.cumsum(shape)[:-1])
        value, slope = cost_of(functools.reduce(np.add.outer, parts))
        axes = range(len(shape))
        return value, np.concatenate([slope.sum(axis=tuple(a for a in axes if a != mode)) for mode in axes])

    found = scipy.optimize.minimize(cost, np.zeros(sum(shape)), jac=True, method="L-BFGS-B", tol=1e-15)
    return found.fun


def expected_cost(second_moment):
    return lambda logs: (
        float((logs + second_moment * np.exp(-logs)).sum()),
        1 - second_moment * np.exp(-logs),
    )


def test_alternation_reaches_the_global_minimum_of_the_expected_cost(moments):
    gammas, T, ratio = moments
    found = alternating_variances(ratio, gammas, tolerance=1e-12, max_cycles=200)
    gamma = kronecker_vector(found.gammas).reshape(T.shape)
    cost = float((np.log(gamma) + T / gamma).sum())
    np.testing.assert_allclose(cost, minimum(expected_cost(T), T.shape), rtol=1e-8)
    np.testing.assert_allclose((T / gamma).sum(), T.size, rtol=1e-10)
    np.testing.assert_allclose([np.linalg.norm(one) for one in found.gammas[:-1]], 1)
    assert found.stationarity < 1e-12


def test_one_cycle_of_alternation_lowers_the_expected_cost_mode_by_mode(moments):
    gammas, T, ratio = moments
    costs = []
    for n_cycles in range(1, 5):
        found = alternating_variances(ratio, gammas, tolerance=1e-15, max_cycles=n_cycles)
        assert found.n_cycles == n_cycles
        gamma = kronecker_vector(found.gammas).reshape(T.shape)
        costs.append(float((np.log(gamma) + T / gamma).sum()))
    assert all(np.diff(costs) < 0)


def test_the_upper_bound_is_minimised(moments):
    gammas, T, ratio = moments
    determined = np.random.default_rng(4).uniform(size=T.shape)
    gamma = kronecker_vector(gammas).reshape(T.shape)
    slopes, squares = determined / gamma, ratio * gamma

    def bound(logs):
        up, down = slopes * np.exp(logs), squares * np.exp(-logs)
        return float((up + down).sum()), up - down

    found = majorised_variances(ratio, determined, gammas, max_cycles=500)
    value = bound(np.log(kronecker_vector(found.gammas).reshape(T.shape)))[0]
    np.testing.assert_allclose(value, minimum(bound, T.shape), rtol=1e-8)


def test_variances_that_underflow_stay_finite():
    gammas = [np.array([1.0, 1e-300]), np.array([1e-300, 1.0])]
    for found in (
        alternating_variances(np.ones((2, 2)), gammas),
        majorised_variances(np.array([[0.5, 0.0], [0.0, 0.0]]), np.array([[0.5, 0.0], [0.0, 0.0]]), gammas),
    ):
        assert all(np.isfinite(gamma).all() for gamma in found.gammas)


def test_two_modes_get_the_nearest_product():
    T = np.random.default_rng(0).exponential(size=(5, 7))
    u, s, vh = np.linalg.svd(T)
    found = nearest_kronecker_variances(T)
    np.testing.assert_allclose(np.outer(*found), s[0] * abs(np.outer(u[:, 0], vh[0])), rtol=1e-10)


def test_a_product_of_three_modes_is_found_again(moments):
    gammas, T, _ = moments
    found = nearest_kronecker_variances(kronecker_vector(gammas).reshape(T.shape))
    np.testing.assert_allclose(kronecker_vector(found), kronecker_vector(gammas), rtol=1e-10)
    np.testing.assert_allclose([np.linalg.norm(one) for one in found[:-1]], 1)
    assert all((one >= 0).all() for one in nearest_kronecker_variances(T))


def test_coupling_that_couples_nothing_changes_nothing(moments):
    gammas, _, ratio = moments
    couplings = {0: neighbour_coupling(4, 0.0), 2: neighbour_coupling(5, 0.0)}
    found = alternating_variances(ratio, gammas, max_cycles=20, couplings=couplings)
    plain = alternating_variances(ratio, gammas, max_cycles=20)
    np.testing.assert_allclose(kronecker_vector(found.gammas), kronecker_vector(plain.gammas), rtol=1e-10)


def test_coupled_variances_lie_in_the_cone_of_the_coupling(moments):
    gammas, _, ratio = moments
    coupling = neighbour_coupling(5, 0.5)
    found = alternating_variances(ratio, gammas, max_cycles=3, couplings={2: coupling}, floor=1e-5)
    _, distance = scipy.optimize.nnls(coupling, found.gammas[2] - 1e-5 / (1 + 1e-5) * found.gammas[2].max())
    assert distance < 1e-12
