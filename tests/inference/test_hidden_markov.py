"""Forward-backward against the sum over all paths, and where probabilities underflow or vanish."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uqsparse.inference.hidden_markov import forward_backward, sample_paths


def random_chain(rng, n_steps, n_states, varies, sparsity=0.0):
    """Initial probabilities, transitions and log likelihoods; some transitions and likelihoods are zero."""
    shape = (n_steps - 1, n_states, n_states) if varies else (n_states, n_states)
    transition = rng.dirichlet(np.ones(n_states), size=shape[:-1]) * (rng.uniform(size=shape) >= sparsity)
    transition += np.eye(n_states) * 0.1
    transition /= transition.sum(-1, keepdims=True)
    log_likelihood = 3 * rng.normal(size=(n_steps, n_states))
    log_likelihood[:, 1:][rng.uniform(size=(n_steps, n_states - 1)) < sparsity] = -np.inf
    return rng.dirichlet(np.ones(n_states)), transition, log_likelihood


def path_weights(initial, transition, log_likelihood):
    """Joint probability of every path of states and the observations, an array with one axis a time."""
    n_steps, n_states = log_likelihood.shape
    transition = np.broadcast_to(transition, (n_steps - 1, n_states, n_states))
    weights = np.zeros((n_states,) * n_steps)
    for path in itertools.product(range(n_states), repeat=n_steps):
        moves = [transition[t, i, j] for t, (i, j) in enumerate(itertools.pairwise(path))]
        seen = np.exp(log_likelihood[np.arange(n_steps), path])
        weights[path] = initial[path[0]] * np.prod(moves) * np.prod(seen)
    return weights


def marginal(weights, *times):
    return weights.sum(axis=tuple(set(range(weights.ndim)) - set(times))) / weights.sum()


@given(seed=st.integers(0, 2**32 - 1), varies=st.booleans(), sparsity=st.sampled_from([0.0, 0.4]))
def test_agrees_with_the_sum_over_all_paths(seed, varies, sparsity):
    n_steps = 5
    chain = random_chain(np.random.default_rng(seed), n_steps, 3, varies, sparsity)
    initial, transition, log_likelihood = chain
    weights = path_weights(*chain)
    with jax.enable_x64(True):
        result = jax.device_get(forward_backward(*chain))
    np.testing.assert_allclose(result.log_evidence, np.log(weights.sum()), rtol=1e-10, atol=1e-10)
    for t in range(n_steps):
        past = path_weights(initial, transition[:t] if varies else transition, log_likelihood[: t + 1])
        np.testing.assert_allclose(result.filtered[t], marginal(past, t), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(result.smoothed[t], marginal(weights, t), rtol=1e-9, atol=1e-12)
        so_far = result.log_evidence_increments[: t + 1].sum()
        np.testing.assert_allclose(so_far, np.log(past.sum()), rtol=1e-9, atol=1e-10)
    for t in range(n_steps - 1):
        np.testing.assert_allclose(result.pairwise[t], marginal(weights, t, t + 1), rtol=1e-9, atol=1e-12)


def test_paths_are_drawn_from_the_posterior():
    """Counts of all 27 paths in 20 000 draws: chi-square with a false-alarm rate of 1e-5."""
    chain = random_chain(np.random.default_rng(1), 3, 3, varies=True)
    paths = np.asarray(sample_paths(jax.random.key(0), forward_backward(*chain), 20_000))
    assert paths.shape == (20_000, 3)
    expected = path_weights(*chain)
    expected *= 20_000 / expected.sum()
    counts = np.zeros(expected.shape)
    np.add.at(counts, tuple(paths.T), 1)
    # Rare paths share a cell, so that no cell expects fewer than five.
    rare = expected < 5
    counts, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
    kept = expected > 0
    distance = np.sum((counts[kept] - expected[kept]) ** 2 / expected[kept])
    assert distance < stats.chi2.isf(1e-5, kept.sum() - 1)
    again = sample_paths(jax.random.PRNGKey(0), forward_backward(*chain), 20_000)
    np.testing.assert_array_equal(paths, again)


def test_neither_long_series_nor_unlikely_observations_underflow():
    """Left to right through three states, of which the second explains its one observation 200 nats worse than the
    first: a filtering probability of e^-200, which single precision cannot hold. But the only way to the third state,
    which explains all the rest, leads through it."""
    moves = np.array([[0.9, 0.1, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    n = 3000
    log_likelihood = np.zeros((2 * n + 1, 3))
    log_likelihood[:n, 1:] = -200.0
    log_likelihood[n] = [0.0, -200.0, -400.0]
    log_likelihood[n + 1 :, :2] = -1000.0
    result = forward_backward(np.array([1.0, 0.0, 0.0]), moves, log_likelihood)
    np.testing.assert_allclose(result.smoothed.argmax(1), [0] * n + [1] + [2] * n)
    np.testing.assert_allclose(result.log_evidence, n * np.log(0.9) + np.log(0.1 / 0.9 * 0.5) - 200, rtol=1e-5)
    np.testing.assert_allclose(result.smoothed.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(result.pairwise.sum((1, 2)), 1, rtol=1e-5)
    assert result.smoothed.dtype == jnp.float32


def test_a_state_without_observations_is_its_prior():
    initial, moves = np.array([0.2, 0.8]), np.array([[0.6, 0.4], [0.1, 0.9]])
    with jax.enable_x64(True):
        result = forward_backward(initial, moves, np.zeros((4, 2)))
    expected = [initial @ np.linalg.matrix_power(moves, t) for t in range(4)]
    np.testing.assert_allclose(result.filtered, expected, rtol=1e-12)
    np.testing.assert_allclose(result.smoothed, expected, rtol=1e-12)
    np.testing.assert_allclose(result.log_evidence, 0, atol=1e-12)


def test_gradients_against_finite_differences_where_states_and_moves_are_impossible():
    """A left-to-right chain, of which one state is never reached."""
    stays = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    leaves = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    log_likelihood = np.random.default_rng(0).normal(size=(6, 3))
    log_likelihood[2, 1] = -np.inf

    def log_evidence(stay, shift):
        moves = stay * stays + (1 - stay) * leaves
        result = forward_backward(jnp.array([1.0, 0.0, 0.0]), moves, log_likelihood + shift * np.arange(3))
        return result.log_evidence + result.smoothed[3, 0] + result.pairwise[3, 0, 1]

    with jax.enable_x64(True):
        slopes = jax.grad(log_evidence, (0, 1))(0.7, 0.3)
        h = 1e-6
        by_stay = (log_evidence(0.7 + h, 0.3) - log_evidence(0.7 - h, 0.3)) / (2 * h)
        by_shift = (log_evidence(0.7, 0.3 + h) - log_evidence(0.7, 0.3 - h)) / (2 * h)
    np.testing.assert_allclose(slopes, [by_stay, by_shift], rtol=1e-6)


def test_vmap_over_chains_is_a_loop():
    chains = [random_chain(np.random.default_rng(seed), 5, 3, varies=False) for seed in range(3)]
    with jax.enable_x64(True):
        batch = jax.jit(jax.vmap(forward_backward))(*map(np.stack, zip(*chains, strict=True)))
        for i, chain in enumerate(chains):
            alone = forward_backward(*chain)
            jax.tree.map(lambda xs, x, i=i: np.testing.assert_allclose(xs[i], x, rtol=1e-9), batch, alone)


def test_one_observation_and_one_state():
    result = forward_backward(np.array([0.3, 0.7]), np.eye(2), np.log([[0.5, 0.1]]))
    np.testing.assert_allclose(result.smoothed, [[0.15 / 0.22, 0.07 / 0.22]], rtol=1e-5)
    assert result.pairwise.shape == (0, 2, 2)
    assert sample_paths(jax.random.key(0), result).shape == (1, 1)
    alone = forward_backward(np.ones(1), np.ones((1, 1)), np.array([[-1.0], [-2.0]]))
    np.testing.assert_allclose(alone.log_evidence, -3.0, rtol=1e-6)


def test_an_observation_that_no_state_explains_is_named_or_flagged():
    """The second state would explain it, but cannot be reached."""
    initial, moves = np.array([1.0, 0.0]), np.eye(2)
    log_likelihood = np.array([[0.0, 0.0], [-np.inf, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"no state that can be reached .* at t = 1"):
        forward_backward(initial, moves, log_likelihood)
    inside = jax.jit(forward_backward)(initial, moves, log_likelihood)
    assert inside.log_evidence_increments.tolist() == [0.0, -np.inf, 0.0]
    np.testing.assert_array_equal(inside.smoothed, [[1.0, 0.0]] * 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_likelihood": np.zeros(3)}, r"log_likelihood has shape \(3,\), expected \(T, K\)"),
        ({"log_likelihood": np.zeros((0, 2))}, "at least 1"),
        ({"log_likelihood": np.array([[0, 0], [0, np.nan], [0, 0]])}, r"NaN or \+inf values, first at t = 1"),
        ({"log_likelihood": np.array([[0, 0], [0, 0], [0, np.inf]])}, r"first at t = 2"),
        ({"initial": np.ones(3) / 3}, r"initial_probabilities has shape \(3,\), expected \(2,\)"),
        ({"initial": np.array([0.5, 0.4])}, "initial_probabilities must sum to 1, but sums to 0.9"),
        ({"initial": np.array([1.5, -0.5])}, "initial_probabilities has values that are negative"),
        ({"transition": np.eye(3)}, r"transition_matrix has shape \(3, 3\), expected \(2, 2\) or \(2, 2, 2\)"),
        ({"transition": np.ones((3, 2, 2)) / 2}, r"transition_matrix has shape \(3, 2, 2\)"),
        ({"transition": np.array([[1.0, 0.0], [0.5, 0.6]])}, r"transition_matrix\[1\] must sum to 1, but sums to 1.1"),
        ({"transition": np.array([np.eye(2), 2 * np.eye(2)])}, r"transition_matrix\[1, 0\] must sum to 1"),
        ({"transition": np.full((2, 2), np.nan)}, "transition_matrix has values that are negative or not finite"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(changes, message):
    arguments = {"initial": np.ones(2) / 2, "transition": np.eye(2), "log_likelihood": np.zeros((3, 2))} | changes
    with pytest.raises(ValueError, match=message):
        forward_backward(*arguments.values())


def test_bad_draws_are_named():
    result = forward_backward(np.ones(2) / 2, np.eye(2), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="n_paths must be an integer of at least 1, got 0"):
        sample_paths(jax.random.key(0), result, 0)
    with pytest.raises(TypeError, match="key must be a JAX random key"):
        sample_paths(3, result)
