"""The driver of truncated expectation maximisation, on binary sparse coding, against enumeration in NumPy."""

import itertools
import math

import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from uqsparse.models.sparse_coding.bsc import ActivityParameters, BinaryModel
from uqsparse.solvers.chunked_rows import chunked_rows, row_moments
from uqsparse.solvers.truncated_em import Annealing, TruncatedEM, fit_truncated_em, placed_rows

N, D, H, GAMMA = 60, 5, 4, 2
MODEL = BinaryModel(H, H, GAMMA)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def problem():
    """Data, and parameters that are not those that made them."""
    rng = np.random.default_rng(0)
    W = 2 * rng.normal(size=(D, H))
    Y = (rng.random((N, H)) < 0.5) @ W.T + rng.normal(size=(N, D))
    return Y, ActivityParameters(W + 0.3 * rng.normal(size=W.shape), np.float64(1.2), np.float64(0.5))


def steps(parameters, Y, schedule):
    """Expectation maximisation by enumeration, with its free energies and numbers of rows."""
    states = np.array([s for s in itertools.product((0, 1), repeat=H) if sum(s) <= GAMMA])
    n_active = states.sum(axis=1)
    W, noise, probability = parameters
    free_energy, n_used = [], []
    for iteration in range(schedule.n_iter):
        prior = probability**n_active * (1 - probability) ** (H - n_active)
        density = norm.logpdf(Y[:, None, :], (states @ W.T)[None], noise).sum(axis=2)
        joint = np.log(prior) + density / schedule.temperature(iteration)
        evidence = logsumexp(joint, axis=1)
        free_energy.append(evidence.sum())
        n_used.append(math.floor(N * (1 - (1 - prior.sum()) * schedule.cut(iteration))))
        used = np.argsort(-evidence, kind="stable")[: n_used[-1]]
        q = np.exp(joint[used] - evidence[used, None])
        second = np.einsum("ns,sh,sk->hk", q, states, states)
        W = np.linalg.solve(second, (Y[used].T @ q @ states).T).T
        left = ((Y[used][:, None, :] - (states @ W.T)[None]) ** 2).sum(axis=2)
        noise = math.sqrt(np.sum(q * left) / (n_used[-1] * D))
        probability *= prior.sum() / (prior @ n_active) * np.mean(q @ n_active)
    return ActivityParameters(W, noise, probability), np.array(free_energy), np.array(n_used)


@pytest.fixture(scope="module")
def schedule():
    return Annealing(3.0, 6, fraction=0.5, cut_ramp=2 / 3)


@pytest.fixture(scope="module")
def run(problem, schedule):
    Y, parameters = problem
    return fit_truncated_em(MODEL, parameters, Y, schedule, key=KEY)


def test_annealed_steps_on_the_best_explained_rows_equal_enumeration(problem, schedule, run):
    wanted, free_energy, n_used = steps(problem[1], problem[0], schedule)
    assert n_used.min() < 50 < n_used[0] == N
    np.testing.assert_array_equal(run.n_used, n_used)
    np.testing.assert_allclose(run.free_energy, free_energy, rtol=1e-9)
    for found, value in zip(run.parameters, wanted, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-6)


def test_chunks_change_nothing(problem, schedule, run):
    Y, parameters = problem
    other = fit_truncated_em(MODEL, parameters, Y, schedule, key=KEY, chunk_size=7)
    np.testing.assert_array_equal(other.n_used, run.n_used)
    for found, value in zip(other.parameters, run.parameters, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-10)


def test_the_record_is_ordered_and_its_bound_is_that_of_the_last_parameters(problem, schedule, run):
    assert isinstance(run, TruncatedEM)
    np.testing.assert_allclose(run.temperature, [3, 3 - 2 / 3, 3 - 4 / 3, 1, 1, 1])
    again = fit_truncated_em(MODEL, run.parameters, problem[0], Annealing(1.0, 1, cut_ramp=None), key=KEY)
    np.testing.assert_allclose(run.final_free_energy, again.free_energy[0], rtol=1e-12)
    assert run.revived.shape == (0, 2)


def test_a_dead_cause_starts_again_from_the_worst_row_and_is_recorded(problem):
    Y, parameters = problem
    dead = parameters._replace(dictionary=parameters.dictionary + np.array([0, 1e3, 0, 0]))
    run = fit_truncated_em(MODEL, dead, Y, Annealing(2.0, 1, cut_ramp=None), key=KEY)
    states = np.array([s for s in itertools.product((0, 1), repeat=H) if sum(s) <= GAMMA])
    joint = norm.logpdf(Y[:, None, :], (states @ dead.dictionary.T)[None], 1.2).sum(axis=2) / 2
    worst = np.argmin(logsumexp(joint + math.log(1 / 16), axis=1))
    assert run.revived.tolist() == [[0, 1]]
    np.testing.assert_array_equal(run.parameters.dictionary[:, 1], Y[worst])
    # at temperature 1 nothing is started again, so that free energies stay monotone
    cold = fit_truncated_em(MODEL, dead, Y, Annealing(1.0, 1, cut_ramp=None), key=KEY)
    assert cold.revived.size == 0
    assert cold.dead.tolist() == [1]


def test_parameter_noise_fades_and_follows_its_key(problem):
    Y, parameters = problem
    noisy = Annealing(2.0, 5, parameter_noise=0.1, cut_ramp=None)
    assert [round(noisy.noise(iteration), 3) for iteration in range(5)] == [0.1, 0.075, 0.05, 0.025, 0]
    fits = [fit_truncated_em(MODEL, parameters, Y, noisy, key=jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(fits[0].free_energy, fits[1].free_energy)
    assert (abs(fits[0].free_energy[1:] - fits[2].free_energy[1:]) > 1e-6).all()


def test_a_run_goes_on_from_any_state_bit_for_bit(problem):
    Y, parameters = problem
    schedule, states = Annealing(2.0, 6, parameter_noise=0.1), []
    whole = fit_truncated_em(MODEL, parameters, Y, schedule, key=KEY, on_iteration=states.append)
    assert len(states) == 6
    for state in (states[0], states[3], states[5]):
        rest = fit_truncated_em(MODEL, parameters, Y, schedule, key=KEY, start=state)
        assert rest.final_free_energy == whole.final_free_energy
        jax.tree.map(np.testing.assert_array_equal, rest, whole)


def test_moments_of_padded_rows_are_those_of_the_data(problem):
    Y = problem[0]
    with jax.enable_x64(True):
        rows = chunked_rows(Y, 7)
        mean, scale = row_moments(rows)
    assert rows.Y.shape == (9, 7, D)
    np.testing.assert_allclose(mean, Y.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scale, Y.std(axis=0).mean(), rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 0.5}, "start must be a temperature of at least 1, got 0.5"),
        ({"n_iter": 0}, "n_iter must be an integer of at least 1, got 0"),
        ({"fraction": 1.5}, "fraction must lie in"),
        ({"cut_ramp": 0}, "cut_ramp must be None or lie in"),
        ({"parameter_noise": -0.1}, "parameter_noise must be at least 0"),
        ({"start": math.nan}, "start must be"),
    ],
)
def test_schedules_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Annealing(**settings)


def test_data_and_meshes_that_do_not_fit_are_refused(problem):
    Y, _ = problem
    for bad, message in (
        (np.where(Y > 3, np.nan, Y), "Y must be finite, got"),
        (Y[:, 0], "Y must be a matrix"),
        (Y[:0], "Y must be a matrix"),
        (Y.astype(int), "Y must be of dtype float64 or float32, got int64"),
    ):
        with pytest.raises(ValueError, match=message):
            placed_rows(MODEL, bad)
    with pytest.raises(ValueError, match="chunk_size must be an integer of at least 1, got 0"):
        placed_rows(MODEL, Y, 0)
    with pytest.raises(ValueError, match=r"mesh must be a jax\.sharding\.Mesh with one axis called .data., got .*rows"):
        placed_rows(MODEL, Y, mesh=jax.make_mesh((1,), ("rows",)))
    with pytest.raises(ValueError, match="mesh must be"):
        placed_rows(MODEL, Y, mesh=4)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 5, 2), "n_candidates must be at most n_causes=4, got 5"),
        ((4, 2, 3), "gamma must be at most n_candidates=2"),
    ],
)
def test_truncations_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        BinaryModel(*shape)
