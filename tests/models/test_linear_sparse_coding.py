"""Binary, ternary and discrete sparse coding against enumeration of all their states."""

import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from uqsparse.data.images import bars
from uqsparse.models.sparse_coding.bsc import ActivityParameters, BinaryModel, BinarySparseCoding
from uqsparse.models.sparse_coding.dsc import DiscreteModel, DiscreteParameters, DiscreteSparseCoding
from uqsparse.models.sparse_coding.selection import spread_vectors, sum_matrices, top_candidates
from uqsparse.models.sparse_coding.states import multi_cause_states, require_state_count, state_count
from uqsparse.models.sparse_coding.tsc import TernaryModel, TernarySparseCoding
from uqsparse.solvers.dictionary_matching import match_dictionaries
from uqsparse.solvers.truncated_em import Annealing, fit_truncated_em

N, D, H = 23, 6, 4
NOISE = 0.7


def case(name):
    """A model with its truncation, its parameters, and the prior of a cause as a table."""
    rng = np.random.default_rng(0)
    W = rng.normal(size=(D, H))
    kind, _, gamma = name.partition("-")
    gamma = int(gamma or H)
    if kind == "binary":
        return BinaryModel(H, H, gamma), ActivityParameters(W, np.float64(NOISE), np.float64(0.3)), {0: 0.7, 1: 0.3}
    if kind == "ternary":
        parameters = ActivityParameters(W, np.float64(NOISE), np.float64(0.3))
        return TernaryModel(H, H, gamma), parameters, {0: 0.7, 1: 0.15, -1: 0.15}
    parameters = DiscreteParameters(W, np.float64(NOISE), np.array([0.2, 0.1, 0.05]))
    return DiscreteModel(H, H, gamma, (1, 2.5, -1)), parameters, {0: 0.65, 1: 0.2, 2.5: 0.1, -1: 0.05}


@pytest.fixture(scope="module")
def Y():
    return 2 * np.random.default_rng(1).normal(size=(N, D))


def enumerated(parameters, prior, Y, gamma=H, temperature=1.0):
    """States with at most gamma active causes, and the log joint of each datum with each of them."""
    states = np.array([s for s in itertools.product(prior, repeat=H) if np.count_nonzero(s) <= gamma])
    log_prior = np.array([sum(math.log(prior[value]) for value in s) for s in states])
    means = states @ parameters.dictionary.T
    density = norm.logpdf(Y[:, None, :], means[None], parameters.noise_scale).sum(axis=2)
    return states, log_prior + density / temperature


def posteriors(joint):
    return np.exp(joint - logsumexp(joint, axis=1, keepdims=True))


def in_double(function, *args):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, function(*args))


@pytest.mark.parametrize("name", ["binary", "ternary", "discrete", "discrete-2"])
def test_passes_equal_enumeration(name, Y):
    model, parameters, prior = case(name)
    weights, temperature = np.random.default_rng(2).random(N), 1.7
    states, joint = enumerated(parameters, prior, Y, model.gamma, temperature)
    q = posteriors(joint)
    log_evidence, statistics = in_double(jax.jit(model.e_step), parameters, Y, weights, temperature)
    np.testing.assert_allclose(log_evidence, logsumexp(joint, axis=1), atol=1e-10)
    np.testing.assert_allclose(statistics.cross, np.einsum("n,nd,ns,sh->dh", weights, Y, q, states), atol=1e-10)
    second = np.einsum("n,ns,sh,sk->hk", weights, q, states, states)
    np.testing.assert_allclose(statistics.second, second, atol=1e-10)
    counts = [np.einsum("n,ns,sh->h", weights, q, states == value) for value in model.values]
    np.testing.assert_allclose(statistics.counts, counts, atol=1e-10)
    np.testing.assert_allclose(model.activity(statistics), np.sum(counts, axis=0), atol=1e-6)


@pytest.mark.parametrize("name", ["binary", "ternary", "discrete-2"])
def test_posteriors_equal_enumeration(name, Y):
    model, parameters, prior = case(name)
    states, joint = enumerated(parameters, prior, Y, model.gamma)
    q = posteriors(joint)
    for top_k in (1, 4):
        found = in_double(jax.jit(model.posterior, static_argnums=2), parameters, Y, top_k)
        best = np.argsort(-q, axis=1)[:, :top_k]
        np.testing.assert_array_equal(found.states, states[best])
        np.testing.assert_allclose(found.probabilities, np.take_along_axis(q, best, axis=1), atol=1e-12)
    np.testing.assert_allclose(found.mean, q @ states, atol=1e-12)
    np.testing.assert_allclose(found.marginals, q @ (states != 0), atol=1e-12)
    np.testing.assert_allclose(found.log_evidence, logsumexp(joint, axis=1), atol=1e-10)


@pytest.mark.parametrize("name", ["binary", "ternary", "discrete"])
def test_free_energy_never_falls_in_60_steps(name, Y):
    model, parameters, prior = case(name)
    run = fit_truncated_em(model, parameters, Y, Annealing(1.0, 60, cut_ramp=None), key=jax.random.key(0))
    trace = np.append(run.free_energy, run.final_free_energy)
    assert (np.diff(trace) >= -1e-9 * abs(trace[1:])).all()
    assert trace[-1] > trace[0] + 10
    np.testing.assert_allclose(trace[0], logsumexp(enumerated(parameters, prior, Y)[1], axis=1).sum(), rtol=1e-9)
    assert run.n_iter == 60
    assert (run.n_used == N).all()


@pytest.mark.parametrize("name", ["binary-2", "ternary-2", "discrete-2"])
def test_next_parameters_solve_the_least_squares_of_all_states(name, Y):
    model, parameters, prior = case(name)
    states, joint = enumerated(parameters, prior, Y, model.gamma)
    q = posteriors(joint)
    following = in_double(
        jax.jit(lambda p: model.m_step(p, model.e_step(p, Y, np.ones(N), 1.0).statistics, 1.0)), parameters
    )
    # one row for each pair of datum and state, weighted by the state's probability
    design = (np.sqrt(q)[:, :, None] * states).reshape(-1, H)
    target = (np.sqrt(q)[:, :, None] * Y[:, None, :]).reshape(-1, D)
    dictionary = np.linalg.lstsq(design, target, rcond=None)[0].T
    np.testing.assert_allclose(following.dictionary, dictionary, atol=1e-7)
    left = target - design @ dictionary.T
    np.testing.assert_allclose(following.noise_scale**2, np.sum(left**2) / (N * D), rtol=1e-9)
    # A and B are sums of the prior over the states that are kept
    kept = np.array([math.prod(prior[value] for value in s) for s in states])
    n_active = np.count_nonzero(states, axis=1)
    ratio = kept.sum() / (kept @ n_active)
    if name.startswith("discrete"):
        numbers = np.array([np.einsum("ns,sh->", q, states == value) for value in model.values]) / N
        before, found = sum(parameters.value_probabilities), following.value_probabilities
    else:
        numbers, before, found = np.mean(q @ n_active), parameters.prior_probability, following.prior_probability
    np.testing.assert_allclose(found, ratio * before * numbers, rtol=1e-9)
    np.testing.assert_allclose(in_double(model.covered_share, parameters), kept.sum(), rtol=1e-9)


def test_a_cause_of_no_data_keeps_its_column(Y):
    model, parameters, _ = case("binary-2")
    far = parameters._replace(dictionary=parameters.dictionary + np.array([0, 0, 0, 1e3]))
    following = in_double(jax.jit(lambda p: model.m_step(p, model.e_step(p, Y, np.ones(N), 1.0).statistics, 1.0)), far)
    np.testing.assert_allclose(following.dictionary[:, 3], far.dictionary[:, 3], rtol=1e-12)
    assert np.isfinite(following.dictionary).all()


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([(1.0,), (-1.0, 1.0), (1.0, 2.0, 3.0)]))
def test_states_are_all_with_two_to_gamma_active_causes(n_candidates, gamma, values):
    gamma = min(gamma, n_candidates, 4)
    states = multi_cause_states(n_candidates, gamma, values)
    every = itertools.product((0.0, *values), repeat=n_candidates)
    wanted = {state for state in every if 2 <= np.count_nonzero(state) <= gamma}
    assert set(map(tuple, states.tolist())) == wanted
    assert len(states) == len(wanted)
    assert state_count(9, n_candidates, gamma, len(values)) == 1 + 9 * len(values) + len(wanted)


def test_states_above_the_limit_are_refused_with_formula_and_number():
    with pytest.raises(ValueError, match=r"ask for 53009172 states.*C\(n_candidates, g\) v\^g.*max_states=20000"):
        require_state_count(100, 30, 10)
    with pytest.raises(ValueError, match="max_states=50"):
        BinarySparseCoding(n_causes=10, max_states=50).fit(np.random.default_rng(0).normal(size=(20, 3)))


def test_candidates_are_the_best_and_ties_go_to_the_first():
    scores = np.array([[1.0, 3.0, 3.0, np.nan], [-np.inf, -np.inf, -np.inf, -np.inf], [1e30, -1e30, 0.0, 2e30]])
    assert top_candidates(scores, 3).tolist() == [[1, 2, 0], [0, 1, 2], [3, 0, 2]]


def test_sums_over_candidates_land_among_all_causes():
    rng = np.random.default_rng(0)
    candidates = np.argsort(rng.random((7, 5)), axis=1)[:, :3]
    vectors, matrices = rng.normal(size=(7, 3)), rng.normal(size=(7, 3, 3))
    dense, total = np.zeros((7, 5)), np.zeros((5, 5))
    for row, places in enumerate(candidates):
        dense[row, places] = vectors[row]
        total[np.ix_(places, places)] += matrices[row]
    np.testing.assert_allclose(in_double(spread_vectors, candidates, vectors, 5), dense, atol=1e-12)
    np.testing.assert_allclose(in_double(sum_matrices, candidates, matrices, 5), total, atol=1e-12)


@pytest.fixture(scope="module")
def fitted():
    data = bars(0, 500)
    return data, BinarySparseCoding(n_causes=10, n_candidates=8, gamma=3, n_iter=60, random_state=0).fit(data.images)


def test_bars_are_recovered_with_noise_and_activity(fitted):
    data, coder = fitted
    assert (match_dictionaries(coder.dictionary_, data.dictionary).relative_error < 0.2).all()
    assert abs(coder.prior_probability_ - 0.2) <= 0.04
    assert abs(coder.noise_scale_ / 2 - 1) <= 0.15
    assert coder.restarts_[0].n_used[-1] < 500
    np.testing.assert_allclose(coder.score(data.images) * 500, coder.restarts_[0].final_free_energy, rtol=1e-9)


def test_adaptive_posteriors_keep_more_states_where_they_are_full(fitted):
    data, coder = fitted
    fixed, grown = coder.posterior(data.images), coder.posterior(data.images, adaptive=True)
    full = np.count_nonzero(fixed.states[:, 0], axis=1) == 3
    assert 20 < full.sum() < 250
    np.testing.assert_array_equal(grown.mean[~full], fixed.mean[~full])
    gain = grown.log_evidence[full] - fixed.log_evidence[full]
    assert (gain >= -1e-9).all()
    assert np.mean(gain > 1) > 0.1
    # a row with a MAP state of g causes was given at least one cause more, or all
    assert np.count_nonzero(grown.states[:, 0], axis=1).max() > 3
    same_bars = match_dictionaries(coder.dictionary_, data.dictionary).assignment
    exact = np.all((grown.states[:, 0][:, same_bars] != 0) == (data.states != 0), axis=1)
    assert exact[full].mean() > 0.8


def test_adaptive_posteriors_stop_at_the_limit_with_a_warning(fitted):
    data, coder = fitted
    limited = clone(coder).set_params(max_states=100)
    limited.__dict__.update({name: value for name, value in vars(coder).items() if name.endswith("_")})
    with pytest.warns(RuntimeWarning, match="above max_states=100"):
        limited.posterior(data.images, adaptive=True)


def test_codes_go_back_to_data(fitted):
    data, coder = fitted
    codes = coder.transform(data.images)
    assert codes.shape == (500, 10)
    np.testing.assert_allclose(coder.inverse_transform(codes), codes @ coder.dictionary_.T, rtol=1e-12)
    with pytest.raises(ValueError, match="codes must have 10 columns, one a cause, got 9"):
        coder.inverse_transform(codes[:, :9])
    with pytest.raises(ValueError, match="top_k must be at most the 95 states"):
        coder.posterior(data.images[:2], top_k=96)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_samples_have_the_moments_of_the_model():
    coder = TernarySparseCoding(n_causes=2, n_iter=2, random_state=0)
    coder.fit(np.random.default_rng(0).normal(size=(20, 3)))
    n, W = 40_000, np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    coder.parameters_ = ActivityParameters(W, np.float64(0.5), np.float64(0.4))
    coder.dictionary_ = W
    X, states = coder.sample(n)
    # each of 12 comparisons fails with probability 1e-6 by chance: 5 standard errors of a mean
    values, counts = np.unique(states, return_counts=True)
    assert values.tolist() == [-1, 0, 1]
    assert (abs(counts / (2 * n) - [0.2, 0.6, 0.2]) < 5 * 0.5 / math.sqrt(2 * n)).all()
    noise = X - states @ W.T
    assert (abs(noise.mean(axis=0)) < 5 * 0.5 / math.sqrt(n)).all()
    assert abs(np.mean(noise**2) - 0.25) < 5 * 0.25 * math.sqrt(2 / (3 * n))
    np.testing.assert_array_equal(coder.sample(n)[0], X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_noise_free_data_zero_rows_and_constant_columns_give_numbers():
    rng = np.random.default_rng(0)
    states = (rng.random((60, 3)) < 0.3).astype(float)
    X = states @ rng.normal(size=(3, 8))
    X[:, 5] = 7.0
    X[:4] = 0
    for coder in (
        BinarySparseCoding(n_causes=3, n_iter=25, random_state=0),
        DiscreteSparseCoding(n_causes=3, n_iter=25, random_state=0),
    ):
        coder.fit(X)
        assert coder.noise_scale_ > 0
        for value in (coder.dictionary_, coder.transform(X), coder.free_energy(X), coder.free_energy_trace_):
            assert np.isfinite(value).all()


def test_activity_that_goes_to_0_or_1_is_clipped():
    X = np.random.default_rng(0).normal(size=(40, 4)) * 0.01 + 5
    coder = BinarySparseCoding(n_causes=1, n_iter=30, random_state=0, temperature=1.0).fit(X)
    assert coder.prior_probability_ == 1 - 1e-5
    assert math.isfinite(coder.score(X))
    model, parameters = coder.model_, coder.parameters_
    never = in_double(jax.jit(lambda p: model.with_prior(p, np.zeros(1), np.float64(40))), parameters)
    assert never.prior_probability == 1e-5


def test_single_precision_finds_the_same():
    data = bars(1, 500)
    settings = {"n_causes": 10, "n_candidates": 8, "gamma": 3, "n_iter": 60, "random_state": 0}
    single = BinarySparseCoding(dtype="float32", **settings).fit(data.images)
    assert single.dictionary_.dtype == np.float32
    assert single.transform(data.images[:3]).dtype == np.float32
    assert (match_dictionaries(single.dictionary_, data.dictionary).relative_error < 0.2).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_candidates": 11}, "n_candidates must be at most n_causes=10, got 11"),
        ({"n_candidates": 4, "gamma": 5}, "gamma must be at most n_candidates=4, got 5"),
        ({"gamma": 0}, "gamma must be an integer of at least 1, got 0"),
        ({"n_causes": 2.5}, "n_causes must be an integer of at least 1, got 2.5"),
        ({"n_restarts": 0}, "n_restarts must be"),
        ({"temperature": 0.5}, "temperature must be a number of at least 1, got 0.5"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"parameter_noise": -1}, "parameter_noise must be"),
        ({"tol": -1}, "tol must be"),
        ({"dtype": "float16"}, "dtype must be 'float64' or 'float32', got 'float16'"),
        ({"chunk_size": 0}, "chunk_size must be an integer of at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BinarySparseCoding(**settings).fit(np.eye(4))


@pytest.mark.parametrize("values", [(), (0, 1), (1, 1), (1, float("inf"))])
def test_values_that_are_no_set_of_numbers_other_than_0_are_refused(values):
    with pytest.raises(ValueError, match="values must be"):
        DiscreteSparseCoding(values=values).fit(np.eye(4))


def test_data_that_carry_nothing_are_refused():
    for X, message in ((np.full((5, 3), 2.0), "X must have rows that differ"), (np.array([[1.0, np.nan]] * 3), "NaN")):
        with pytest.raises(ValueError, match=message):
            BinarySparseCoding(n_causes=2).fit(X)
    with pytest.raises(ValueError, match="X must have squares that do not overflow in float64: rescale it"):
        BinarySparseCoding(n_causes=2).fit(np.random.default_rng(0).normal(size=(20, 3)) * 1e200)


@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_accepts_it():
    check_estimator(BinarySparseCoding(n_causes=2, n_candidates=2, gamma=2, n_iter=2))
