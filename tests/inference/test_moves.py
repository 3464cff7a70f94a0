"""Each move leaves its density invariant and reaches it, against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from uqsparse.inference import HMC, IndependentProposal, RandomWalk
from uqsparse.inference.batches import in_batches
from uqsparse.inference.moves import MoveParams, fit_params

N, D = 20_000, 2
MOVES = [
    RandomWalk(),
    IndependentProposal(),
    IndependentProposal(inflation=1.5, degrees_of_freedom=5.0),
    HMC(),
]
# Scaled Student-t with 8 degrees of freedom times a skewed Gumbel: nothing that symmetry or a Gaussian would forgive.
T_SCALE, T_DF = 2.0, 8.0


def log_density(u):
    student = stats_t_logpdf(u[:, 0] / T_SCALE)
    gumbel = -u[:, 1] - jnp.exp(-u[:, 1])
    return student + gumbel, u[:, 0]


def stats_t_logpdf(x):
    return -0.5 * (T_DF + 1) * jnp.log1p(x**2 / T_DF)


def exact_draws(seed, n=N):
    rng = np.random.default_rng(seed)
    return np.stack([T_SCALE * rng.standard_t(T_DF, n), rng.gumbel(size=n)], axis=1)


def params(move):
    with jax.enable_x64(True):
        spread = jnp.array([[2.3, 0.0], [0.4, 1.2]])
        return MoveParams(jnp.asarray(move.initial_log_scale(D)), jnp.array([0.3, 0.5]), spread)


def run(move, position, steps, seed=0):
    with jax.enable_x64(True):
        state = move.start(jnp.asarray(position), log_density)
        step = jax.jit(lambda key, state: move.step(key, state, log_density, params(move)))
        for key in jax.random.split(jax.random.key(seed), steps):
            state, info = step(key, state)
        return jax.device_get(state), jax.device_get(info)


@pytest.mark.parametrize("move", MOVES, ids=repr)
def test_a_move_leaves_its_density_invariant(move):
    """Exact draws stay exact. Two KS tests at level 2e-5 each."""
    state, info = run(move, exact_draws(1), steps=4)
    assert 0.05 < info.acceptance < 1
    assert np.mean(state.position != exact_draws(1)) > 0.5
    marginals = (stats.t(T_DF, scale=T_SCALE).cdf, stats.gumbel_r.cdf)
    for i, cdf in enumerate(marginals):
        assert stats.kstest(state.position[:, i], cdf).pvalue > 2e-5
    # The extras and the log density travel with their particle.
    expected, first = log_density(jnp.asarray(state.position))
    np.testing.assert_allclose(state.log_density, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state.extras, first, rtol=1e-5)


@pytest.mark.parametrize("move", MOVES, ids=repr)
def test_a_move_reaches_its_density_from_elsewhere(move):
    """A hundred steps from a wrong start end in the right law; KS tests at level 2e-5 each."""
    n = 4000
    start = np.random.default_rng(0).normal(size=(n, D))
    state, _ = run(move, start, steps=100)
    assert stats.kstest(state.position[:, 0], stats.t(T_DF, scale=T_SCALE).cdf).pvalue > 2e-5
    assert stats.kstest(state.position[:, 1], stats.gumbel_r.cdf).pvalue > 2e-5


@pytest.mark.parametrize(("move", "target"), [(RandomWalk(), 0.234), (HMC(), 0.8)])
def test_tuning_lands_on_the_target_acceptance(move, target):
    dim = 20
    with jax.enable_x64(True):

        def gaussian(u):
            return -0.5 * jnp.sum(u**2, axis=-1), ()

        position = jax.random.normal(jax.random.key(0), (2000, dim))
        p = MoveParams(jnp.asarray(3.0), jnp.zeros(dim), jnp.ones(dim))  # far too large a step
        state = move.start(position, gaussian)
        step = jax.jit(lambda key, state, p: move.step(key, state, gaussian, p))
        accepted = []
        for key in jax.random.split(jax.random.key(1), 40):
            state, info = step(key, state, p)
            p = move.tune(p, info.acceptance)
            accepted.append(float(info.acceptance))
    assert np.mean(accepted[10:]) == pytest.approx(target, abs=0.1)


def test_fit_recovers_weighted_moments():
    rng = np.random.default_rng(0)
    position, weights = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 3)), rng.random(50)
    with jax.enable_x64(True):
        blank = MoveParams(jnp.zeros(()), jnp.zeros(3), jnp.eye(3))
        fitted = fit_params(blank, jnp.asarray(position), jnp.asarray(weights))
        diagonal = fit_params(blank._replace(spread=jnp.ones(3)), jnp.asarray(position), jnp.asarray(weights))
    covariance = np.cov(position.T, aweights=weights, bias=True)
    np.testing.assert_allclose(fitted.mean, np.average(position, axis=0, weights=weights), rtol=1e-12)
    spread = np.asarray(fitted.spread)
    # Up to the lift of 1e-8 of the mean variance.
    np.testing.assert_allclose(spread @ spread.T, covariance, atol=2e-8 * np.trace(covariance))
    np.testing.assert_allclose(diagonal.spread, np.sqrt(np.diag(covariance)), rtol=1e-5)


def test_a_singular_population_still_has_a_spread():
    with jax.enable_x64(True):
        blank = MoveParams(jnp.zeros(()), jnp.zeros(3), jnp.eye(3))
        position = jnp.tile(jnp.array([[1.0, 2.0, 3.0]]), (10, 1)).at[0, 0].set(2.0)
        assert np.all(np.isfinite(fit_params(blank, position, jnp.ones(10)).spread))


@pytest.mark.parametrize("n", [1, 7, 8, 9, 20])
def test_batches_cover_the_population_once(n):
    def double(key, batch):
        return {"x": 2 * batch["x"]}, jnp.max(batch["x"])

    results, summaries = in_batches(double, jax.random.key(0), {"x": jnp.arange(n)}, batch_size=8)
    np.testing.assert_array_equal(results["x"], 2 * np.arange(n))
    assert summaries.shape == (math.ceil(n / 8),)
    assert int(summaries.max()) == n - 1


def test_batches_use_different_keys():
    def draw(key, x):
        return x + jax.random.uniform(key, x.shape), ()

    results, _ = in_batches(draw, jax.random.key(0), jnp.zeros(16), batch_size=8)
    assert len(np.unique(results)) == 16


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: RandomWalk(target_acceptance=1.0), "target_acceptance"),
        (lambda: IndependentProposal(inflation=0.9), "inflation"),
        (lambda: IndependentProposal(degrees_of_freedom=0.0), "degrees_of_freedom"),
        (lambda: HMC(trajectory=0.0), "trajectory"),
        (lambda: HMC(max_leapfrog=0), "max_leapfrog"),
        (lambda: HMC(target_acceptance=0.0), "target_acceptance"),
    ],
)
def test_options_out_of_range_are_named(make, name):
    with pytest.raises(ValueError, match=name):
        make()
