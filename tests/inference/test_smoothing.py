"""Smoothing against dense Gaussian conditioning, sums over all paths of a finite chain, and the filter's genealogy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from uqsparse.inference import Density, Proposal, StateSpaceModel, particle_filter, smooth

PHI, NOISE, T, N = 0.8, 0.6, 15, 4000


def model():
    return StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 1.0),
        transition=lambda p, x, u: dist.Normal(p * x + u, 1.0),
        observation=lambda p, x, u: dist.Normal(x, NOISE),
    )


INPUTS = np.sin(np.arange(T))
Y = 1.5 * np.random.default_rng(0).normal(size=T) + INPUTS


def law(last=T - 1):
    """Mean and covariance of all states given y_0, ..., y_last."""
    response = np.array([[PHI ** (i - j) if i >= j else 0.0 for j in range(T)] for i in range(T)])
    drift = response @ np.where(np.arange(T) > 0, INPUTS, 0.0)
    states, seen = response @ response.T, slice(last + 1)
    gain = states[:, seen] @ np.linalg.inv(states[seen, seen] + NOISE**2 * np.eye(last + 1))
    return drift + gain @ (Y[seen] - drift[seen]), states - gain @ states[seen]


@pytest.fixture(scope="module")
def filtered():
    return particle_filter(jax.random.key(0), model(), Y, PHI, INPUTS, n_particles=N, keep_history=True)


def test_backward_simulation_draws_whole_paths(filtered):
    """4000 paths from 4000 particles: 45 numbers within 5 standard errors of paths and filter together, whose variances
    are about equal (false-alarm rate 3e-5)."""
    mean, covariance = law()
    sds = np.sqrt(np.diag(covariance))
    result = smooth(jax.random.key(1), model(), filtered, PHI, INPUTS, n_paths=4000, quantiles=(0.05, 0.95))
    assert result.paths.shape == (4000, T)
    error = np.sqrt(2 / 4000)
    assert np.all(np.abs(result.means - mean) < 5 * error * sds)
    assert np.all(np.abs(np.asarray(result.sds) / sds - 1) < 5 * error)
    pairs = np.mean(np.diff(np.asarray(result.paths) - mean, axis=1) ** 2, axis=0)
    expected = np.diag(covariance)[1:] + np.diag(covariance)[:-1] - 2 * np.diag(covariance, 1)
    assert np.all(np.abs(pairs / expected - 1) < 5 * error * np.sqrt(2))
    np.testing.assert_allclose(result.quantiles, mean[:, None] + np.outer(sds, [-1.645, 1.645]), atol=0.15)
    np.testing.assert_allclose(result.mcse, result.sds / np.sqrt(4000), rtol=1e-5)
    assert int(result.failed_at) == -1
    assert np.all(np.asarray(result.n_distinct) > 500)


@pytest.mark.parametrize("lag", [0, 2, T - 1])
def test_fixed_lag_is_the_law_given_that_many_more_observations(filtered, lag):
    """Weighted particles, at worst a tenth of them distinct: bounds of 5 standard errors from n_distinct."""
    exact = [law(min(t + lag, T - 1)) for t in range(T)]
    means = np.array([mean[t] for t, (mean, _) in enumerate(exact)])
    sds = np.sqrt([covariance[t, t] for t, (_, covariance) in enumerate(exact)])
    result = smooth(jax.random.key(0), model(), filtered, PHI, INPUTS, method="fixed_lag", lag=lag)
    error = sds / np.sqrt(np.minimum(np.asarray(result.n_distinct), N / 4))
    assert np.all(np.abs(result.means - means) < 5 * error)
    assert result.paths is None
    if lag == 0:
        np.testing.assert_allclose(result.means, filtered.means, atol=1e-4)


def test_the_genealogy_is_a_lag_over_the_whole_series_and_thins_out(filtered):
    lines = smooth(jax.random.key(0), model(), filtered, PHI, INPUTS, method="genealogy", quantiles=(0.5,))
    lagged = smooth(jax.random.key(0), model(), filtered, PHI, INPUTS, method="fixed_lag", lag=T, quantiles=(0.5,))
    np.testing.assert_allclose(lines.means, lagged.means, atol=1e-6)
    np.testing.assert_allclose(lines.quantiles, lagged.quantiles)
    n_distinct = np.asarray(lines.n_distinct)
    assert np.all(np.diff(n_distinct) >= 0)
    assert n_distinct[0] < n_distinct[-1] / 4


def test_discrete_states_against_the_sum_over_all_paths():
    """Probabilities from 4000 paths and 4000 particles, standard error below 0.012; bounds of 5."""
    first, moves = np.array([0.3, 0.7]), np.array([[0.8, 0.2], [0.4, 0.6]])
    emits, y = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]), np.array([0, 2, 1, 0, 0])
    chain = StateSpaceModel(
        initial=lambda p, u: {"k": dist.Categorical(jnp.asarray(first))},
        transition=lambda p, x, u: {"k": dist.Categorical(jnp.asarray(moves)[x["k"]])},
        observation=lambda p, x, u: dist.Categorical(jnp.asarray(emits)[x["k"]]),
    )
    paths = np.array(list(itertools.product((0, 1), repeat=5)))
    steps = np.array([np.prod([moves[a, b] for a, b in itertools.pairwise(path)]) for path in paths])
    weights = first[paths[:, 0]] * steps * np.prod(emits[paths, y], axis=1)
    weights /= weights.sum()
    result = particle_filter(jax.random.key(0), chain, y, n_particles=4000, keep_history=True)
    smoothed = smooth(jax.random.key(1), chain, result, n_paths=4000, statistics=lambda x: x["k"] == 1)
    np.testing.assert_allclose(smoothed.means, weights @ paths, atol=5 * 0.012)
    assert smoothed.paths["k"].shape == (4000, 5)


def test_it_can_be_traced(filtered):
    def both(key):
        result = particle_filter(key, model(), Y, PHI, INPUTS, n_particles=50, keep_history=True)
        return smooth(key, model(), result, PHI, INPUTS, n_paths=10).means

    batch = jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(0), 3))
    np.testing.assert_allclose(batch[0], both(jax.random.split(jax.random.key(0), 3)[0]), atol=1e-4)


def test_bad_arguments_are_named(filtered):
    plain = particle_filter(jax.random.key(0), model(), Y, PHI, INPUTS, n_particles=10)
    for changes, message in (
        ({"result": plain}, "keep_history=True"),
        ({"method": "forward"}, "method must be"),
        ({"n_paths": 1}, "n_paths"),
        ({"lag": -1}, "lag"),
        ({"quantiles": (1.0,)}, "quantiles"),
        ({"inputs": np.zeros(3)}, "the filter ran over 15 steps"),
    ):
        arguments = {"result": filtered, "parameters": PHI, "inputs": INPUTS} | changes
        with pytest.raises(ValueError, match=message):
            smooth(jax.random.key(0), model(), arguments.pop("result"), **arguments)
    with pytest.raises(TypeError, match="FilterResult"):
        smooth(jax.random.key(0), model(), Y)
    simulator = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 1.0),
        transition=lambda p, x, u: Density(lambda key: x + jax.random.normal(key)),
        observation=lambda p, x, u: dist.Normal(x, NOISE),
    )
    result = particle_filter(jax.random.key(0), simulator, Y, n_particles=20, keep_history=True)
    with pytest.raises(ValueError, match="no log_prob"):
        smooth(jax.random.key(0), simulator, result)
    smooth(jax.random.key(0), simulator, result, method="fixed_lag")


def test_a_state_that_nothing_leads_to_is_named():
    """The proposal leaves the support of the transition; only a wrong model does that, and it must be said."""
    bounded = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 1.0),
        transition=lambda p, x, u: dist.Uniform(x, x + 1.0),
        observation=lambda p, x, u: dist.Normal(x, 1.0),
    )
    result = particle_filter(jax.random.key(0), bounded, np.zeros(4), n_particles=20, keep_history=True)
    shifted = result.history._replace(states=result.history.states.at[2].add(50.0))
    with pytest.raises(ValueError, match="no particle at t = 2"):
        smooth(jax.random.key(0), bounded, result._replace(history=shifted))


def test_one_time_is_a_series():
    y = np.array([0.4])
    simple = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 1.0),
        transition=lambda p, x, u: dist.Normal(x, 1.0),
        observation=lambda p, x, u: dist.Normal(x, 1.0),
    )
    proposal = Proposal(lambda p, u, y: dist.Normal(0.0, 2.0), lambda p, x, u, y: dist.Normal(x, 2.0))
    result = particle_filter(jax.random.key(0), simple, y, n_particles=500, proposal=proposal, keep_history=True)
    assert smooth(jax.random.key(0), simple, result, n_paths=50).means.shape == (1,)
    assert smooth(jax.random.key(0), simple, result, method="genealogy").n_distinct.shape == (1,)
