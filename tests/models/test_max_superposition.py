"""Maximal causes and maximum magnitude causes against enumeration, automatic derivatives and generated bars."""

import itertools
import math
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sklearn.utils.estimator_checks import estimator_checks_generator

from uqsparse.data.images import bars
from uqsparse.models.sparse_coding.max_superposition import MaxParameters, MaxStatistics
from uqsparse.models.sparse_coding.mca import MaximalCauses, MaximalModel
from uqsparse.models.sparse_coding.mmca import MaximumMagnitudeCauses, MaximumMagnitudeModel

MODELS = {"max": MaximalModel, "magnitude": MaximumMagnitudeModel}
ESTIMATORS = [MaximalCauses, MaximumMagnitudeCauses]
BOTH = pytest.mark.parametrize("kind", ["max", "magnitude"])


@eqx.filter_jit
def e_step(model, parameters, Y, weights, temperature):
    return model.e_step(parameters, Y, weights, temperature)


@eqx.filter_jit
def m_step(model, parameters, statistics):
    return model.m_step(parameters, statistics, jnp.ones(()))


@eqx.filter_jit
def posterior(model, parameters, Y):
    return model.posterior(parameters, Y, 3)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def parameters_and_data(kind, H=4, D=6, n=5, seed=0):
    rng = np.random.default_rng(seed)
    W = rng.uniform(0.5, 3.0, size=(D, H))
    if kind == "magnitude":
        W *= rng.choice([-1, 1], size=W.shape)
    Y = rng.normal(1.0 if kind == "max" else 0.0, 2.0, size=(n, D))
    return MaxParameters(W, np.array(0.7), np.array(0.3)), Y


def soft_mean(W, active, rho):
    """The soft maximum over a list of causes, one pixel after the other."""
    mean = np.zeros(len(W))
    for d in range(len(W)):
        total = sum(math.copysign(abs(W[d, h]) ** rho, W[d, h]) for h in active)
        mean[d] = math.copysign(abs(total) ** (1 / rho), total) if total else 0.0
    return mean


def kept(kind, W, y, n_candidates, gamma):
    """The kept states of a datum as tuples of active causes."""
    H = W.shape[1]
    if kind == "max":
        scores = [-np.maximum(W[:, h] - y, 0).sum() for h in range(H)]
    else:
        scores = [-((y - W[:, h]) ** 2).sum() for h in range(H)]
    best = sorted(range(H), key=lambda h: -scores[h])[:n_candidates]
    several = [
        active
        for g in range(2, gamma + 1)
        for active in itertools.combinations(range(H), g)
        if set(active) <= set(best)
    ]
    return [(), *((h,) for h in range(H)), *several]


def enumerated(kind, parameters, Y, temperature, n_candidates, gamma):
    """Log evidence, posterior probabilities by state, and the sums of the M-step, one state after the other."""
    W, sigma, pi = (np.asarray(part) for part in parameters)
    D, H = W.shape
    rho = 1 / (1 - 1 / max(temperature, 1.05))
    evidence, posteriors = [], []
    attributed, attribution = np.zeros((H, D)), np.zeros((H, D))
    error = 0.0
    for y in Y:
        states = kept(kind, W, y, n_candidates, gamma)
        means = [soft_mean(W, active, rho) for active in states]
        log_joint = np.array(
            [
                len(a) * math.log(pi)
                + (H - len(a)) * math.log(1 - pi)
                - 0.5 * D * math.log(2 * math.pi * sigma**2)
                - 0.5 * ((y - mean) ** 2).sum() / sigma**2
                for a, mean in zip(states, means, strict=True)
            ]
        )
        log_joint /= temperature
        evidence.append(np.logaddexp.reduce(log_joint))
        q = np.exp(log_joint - evidence[-1])
        posteriors.append(dict(zip(states, q, strict=True)))
        for active, mean, share in zip(states, means, q, strict=True):
            error += share * ((y - mean) ** 2).sum()
            for h in active:
                A = np.minimum((np.abs(W[:, h]) / np.abs(mean)) ** (rho - 1), 1.0)
                attributed[h] += share * A * y
                attribution[h] += share * A
    return np.array(evidence), posteriors, attributed, attribution, error


@BOTH
@pytest.mark.parametrize(
    ("H", "n_candidates", "gamma", "temperature"), [(4, 4, 4, 1.0), (4, 3, 2, 2.5), (20, 4, 3, 1.0)]
)
def test_e_step_equals_enumeration(kind, H, n_candidates, gamma, temperature):
    """Exact posteriors, truncated ones from a table of all states, and truncated ones state by state."""
    parameters, Y = parameters_and_data(kind, H=H)
    model = MODELS[kind](H, n_candidates, gamma)
    assert model._tabulates == (H == 4)
    evidence, posteriors, attributed, attribution, error = enumerated(
        kind, parameters, Y, temperature, n_candidates, gamma
    )
    step = e_step(model, parameters, Y, np.ones(len(Y)), np.array(temperature))
    np.testing.assert_allclose(step.log_evidence, evidence, rtol=1e-11)
    np.testing.assert_allclose(step.statistics.attributed, attributed, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(step.statistics.attribution, attribution, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(step.statistics.squared_error, error, rtol=1e-10)
    marginals = np.array([[sum(q for a, q in one.items() if h in a) for h in range(H)] for one in posteriors])
    np.testing.assert_allclose(step.statistics.counts, marginals.sum(axis=0), rtol=1e-9, atol=1e-13)
    if temperature == 1.0:
        found = posterior(model, parameters, Y)
        np.testing.assert_allclose(found.marginals, marginals, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(found.log_evidence, evidence, rtol=1e-11)
        for states, probabilities, one in zip(found.states, found.probabilities, posteriors, strict=True):
            for state, probability in zip(np.asarray(states), probabilities, strict=True):
                assert one[tuple(np.flatnonzero(state))] == pytest.approx(float(probability), rel=1e-9)
            np.testing.assert_allclose(probabilities, sorted(one.values())[:-4:-1], rtol=1e-9)


@BOTH
def test_m_step_solves_the_equation_with_automatic_derivatives(kind):
    """sum <dW_bar/dW (y - W)> = 0 for the new W, with the derivatives of the soft maximum at the last one by JAX.

    Causes of opposite sign whose derivative is held at 1 are left out: the data have one sign.
    """
    parameters, Y = parameters_and_data("max")
    sign = -1.0 if kind == "magnitude" else 1.0
    parameters, Y = parameters._replace(dictionary=sign * parameters.dictionary), sign * Y
    model, W = MODELS[kind](4, 4, 4), parameters.dictionary
    _, posteriors, *_ = enumerated(kind, parameters, Y, 1.0, 4, 4)

    @jax.jit
    def slopes(W, states):
        def mean_of(W, state):
            return sign * jnp.sum(state * jnp.abs(W) ** 21.0, axis=1) ** (1 / 21.0)

        return jax.vmap(lambda state: jnp.einsum("ddh->dh", jax.jacobian(mean_of)(W, state)))(states)

    statistics = e_step(model, parameters, Y, np.ones(len(Y)), np.ones(())).statistics
    new = np.asarray(m_step(model, parameters, statistics).dictionary)
    if kind == "magnitude":  # undo the shorter step
        new = W + (new - W) / np.asarray(jax.jit(model.step_size)(statistics.attribution.T))
    states = [active for active in posteriors[0] if active]
    A = np.asarray(slopes(W, np.array([[float(h in active) for h in range(4)] for active in states])))
    q = np.array([[one[active] for active in states] for one in posteriors])
    left = np.einsum("ns,sdh,ndh->dh", q, A, Y[:, :, None] - new)
    inside = new * sign > 0.01  # entries at their floor have no equation
    assert inside.mean() > 0.5
    assert np.abs(left / np.einsum("ns,sdh->dh", q, A))[inside].max() < 1e-9


def test_m_step_of_prior_and_noise():
    parameters, Y = parameters_and_data("max")
    for n_candidates, gamma in ((4, 4), (3, 2)):
        model = MaximalModel(4, n_candidates, gamma)
        step = e_step(model, parameters, Y, np.ones(len(Y)), np.ones(()))
        new = m_step(model, parameters, step.statistics)
        terms = [math.comb(4, g) * 0.3**g * 0.7 ** (4 - g) for g in range(gamma + 1)]
        correction = sum(terms) / sum(g * term for g, term in enumerate(terms))
        mean_active = float(step.statistics.counts.sum()) / len(Y)
        assert float(new.prior_probability) == pytest.approx(0.3 * correction * mean_active)
        assert float(new.noise_scale) == pytest.approx(math.sqrt(float(step.statistics.squared_error) / Y.size))
    assert float(model.covered_share(parameters)) == pytest.approx(sum(terms))


@BOTH
def test_statistics_add_over_rows_and_ignore_padding(kind):
    parameters, Y = parameters_and_data(kind, n=5)
    model = MODELS[kind](4, 3, 2)
    some = np.array([1.0, 1, 0, 0, 1])
    whole, first, rest = (
        e_step(model, parameters, Y, w, np.array(1.3)).statistics for w in (np.ones(5), some, 1 - some)
    )
    for all_rows, a, b in zip(whole, first, rest, strict=True):
        np.testing.assert_allclose(all_rows, a + b, rtol=1e-10, atol=1e-12)


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_more_states_never_lower_the_free_energy(seed, scale):
    parameters, Y = parameters_and_data("magnitude", seed=seed)
    parameters = parameters._replace(dictionary=scale * parameters.dictionary, noise_scale=scale * np.array(0.7))
    found = [
        np.asarray(e_step(MaximumMagnitudeModel(4, c, g), parameters, scale * Y, np.ones(5), np.ones(())).log_evidence)
        for c, g in ((3, 2), (4, 4))
    ]
    assert np.all(np.diff(found, axis=0) >= -1e-9 * np.abs(found[0]))


def test_opposite_causes_settle_where_a_full_step_swings():
    """Two causes of opposite sign and equal size cross in one pixel; the iteration must come to rest."""
    bar = np.array([[4.0, 4, 0], [0, -4, -4]]).T
    states = np.array([[0, 0], [1, 0], [0, 1], [1, 1]] * 40)
    shown = np.where(states[:, :1] == 1, bar[:, 0], 0)
    shown = np.where((states[:, 1:] == 1) & ((np.abs(bar[:, 1]) > np.abs(shown)) | (shown == 0)), bar[:, 1], shown)
    Y = shown + 0.5 * np.random.default_rng(0).normal(size=shown.shape)
    model = MaximumMagnitudeModel(2, 2, 2)
    parameters = MaxParameters(bar + 0.1, np.array(0.5), np.array(0.5))
    for _ in range(60):
        last = parameters
        parameters = m_step(model, last, e_step(model, last, Y, np.ones(len(Y)), np.ones(())).statistics)
    assert np.abs(np.asarray(parameters.dictionary) - last.dictionary).max() < 1e-3
    assert np.abs(np.asarray(parameters.dictionary) - bar).max() < 0.8


@pytest.fixture(scope="module")
def fitted():
    """Both estimators on bars of 4 x 4 pixels."""
    found = {}
    for cls, superposition in zip(ESTIMATORS, ("max", "max-magnitude"), strict=True):
        data = bars(1, 300, side=4, superposition=superposition)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[cls] = data, cls(8, n_iter=60, n_restarts=2, random_state=0).fit(data.images)
    return found


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_finds_all_bars_and_the_noise(fitted, cls):
    data, model = fitted[cls]
    error = np.linalg.norm(model.dictionary_[:, :, None] - data.dictionary[:, None], axis=0)
    error = error / np.linalg.norm(data.dictionary, axis=0)
    assert error[linear_sum_assignment(error)].max() < 0.2
    assert abs(model.noise_scale_ / 2.0 - 1) < 0.15
    assert abs(model.prior_probability_ - 0.2) < 0.06


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_codes_scores_and_samples(fitted, cls):
    data, model = fitted[cls]
    codes = model.transform(data.images)
    assert codes.shape == (300, 8)
    assert model.score(data.images) == pytest.approx(model.restarts_[0].final_free_energy / 300)
    states = np.eye(8)[:2] + np.eye(8)[5]
    shown = model.dictionary_ * states[:1]
    largest = np.argmax(np.abs(shown), axis=1)
    np.testing.assert_allclose(model.inverse_transform(states)[0], shown[np.arange(16), largest])
    drawn, which = model.sample(4000, random_state=0)
    # 4.9 standard errors: once in a million runs
    share, n = float(model.prior_probability_), which.size
    assert abs(which.mean() - share) < 4.9 * math.sqrt(share * (1 - share) / n)
    noise = drawn - model.inverse_transform(which)
    assert abs(noise.std() / model.noise_scale_ - 1) < 4.9 / math.sqrt(2 * noise.size)


def test_a_starved_cause_starts_again_from_what_the_others_leave():
    data = bars(0, 50, side=4, superposition="max", noise_scale=0.5)
    model = MaximalModel(8, 8, 3)
    W = data.dictionary.copy()
    W[:, 5] = 3.0
    parameters = MaxParameters(W, np.array(0.5), np.array(0.2))
    datum = data.dictionary[:, [0, 5]].max(axis=1)
    new = np.asarray(model.revive(parameters, 5, datum).dictionary)
    hidden = data.dictionary[:, 0] > 0
    np.testing.assert_allclose(new[:, 5], np.where(hidden, 1e-4, data.dictionary[:, 5]).clip(1e-4))
    np.testing.assert_array_equal(np.delete(new, 5, axis=1), np.delete(W, 5, axis=1))
    counts = jnp.array([50.0, 40, 45, 55, 50, 60, 3, 50])
    dead = np.asarray(model.activity(MaxStatistics(*[jnp.zeros(())] * 5, counts)))
    np.testing.assert_array_equal(np.flatnonzero(dead == 0), [6])


@BOTH
def test_single_precision_agrees(kind):
    """Also where the largest and the least entry are seven powers of ten apart."""
    parameters, Y = parameters_and_data(kind, H=4)
    parameters.dictionary[::2, 0] = 1e-4
    parameters = parameters._replace(dictionary=parameters.dictionary * 300, noise_scale=np.array(200.0))
    model = MODELS[kind](4, 4, 4)
    exact = e_step(model, parameters, 300 * Y, np.ones(5), np.ones(()))
    single = [np.asarray(part, np.float32) for part in (*parameters, 300 * Y, np.ones(5), np.ones(()))]
    found = e_step(model, MaxParameters(*single[:3]), *single[3:])
    assert found.log_evidence.dtype == jnp.float32
    np.testing.assert_allclose(found.log_evidence, exact.log_evidence, rtol=1e-4)
    np.testing.assert_allclose(found.statistics.attribution, exact.statistics.attribution, atol=0.02)


@BOTH
def test_degenerate_statistics_give_finite_parameters(kind):
    """No cause is ever active, and the data are explained without error."""
    parameters, Y = parameters_and_data(kind)
    model = MODELS[kind](4, 4, 2)
    nothing = np.zeros(())
    statistics = MaxStatistics(np.array(5.0), nothing, nothing, np.zeros((4, 6)), np.zeros((4, 6)), np.zeros(4))
    new = m_step(model, parameters, statistics)
    assert float(new.prior_probability) == pytest.approx(1e-5)
    np.testing.assert_allclose(new.dictionary, parameters.dictionary)
    again = e_step(model, new, np.zeros_like(Y), np.ones(5), np.ones(()))
    assert all(np.all(np.isfinite(part)) for part in jax.tree.leaves(again))


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_constant_pixels_zero_rows_and_data_without_noise(cls):
    data = bars(0, 60, side=3, superposition="max", noise_scale=0.0)
    X = np.c_[data.images, np.full(60, 3.0)]
    X[:5] = 0
    model = cls(6, n_iter=8, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X)
    assert model.noise_scale_ > 0
    for values in (model.dictionary_, model.transform(X), model.free_energy(X), model.free_energy_trace_):
        assert np.all(np.isfinite(values))


def test_negative_data_and_dictionaries_are_refused():
    data = bars(0, 200, side=3, superposition="max").images
    assert data.min() < -3  # noise alone is no reason
    model = MaximalCauses(6, n_iter=1)
    for shifted in (data - 20.0, data - 6.0, np.where(np.arange(9) == 4, -5.0, data)):
        with pytest.raises(ValueError, match=r"Negative values in data passed to MaximalCauses.*column"):
            model.fit(shifted)
    parameters, Y = parameters_and_data("max")
    with pytest.raises(ValueError, match="dictionary must be at least 0"):
        MaximalModel(4, 4, 2).posterior(parameters._replace(dictionary=-parameters.dictionary), Y, 1)


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_candidates": 7}, "n_candidates must be at most n_causes=6, got 7"),
        ({"n_candidates": 3, "gamma": 4}, "gamma must be at most n_candidates=3, got 4"),
        ({"max_states": 10}, "n_candidates=6 and gamma=4 ask for 57 states a datum"),
        ({"temperature": 0.5}, "temperature must be a number of at least 1, got 0.5"),
    ],
)
def test_settings_are_refused(cls, arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        cls(6, **arguments).fit(np.abs(np.random.default_rng(0).normal(size=(20, 9))))


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_not_a_number_is_refused(cls):
    X = np.ones((20, 9))
    X[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        cls(6).fit(X)


# The checks that tags and constructor of the two could fail; the others belong to the base, and fit many shapes.
_CHECKS = {
    "check_estimators_nan_inf",
    "check_positive_only_tag_during_fit",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_transformers_unfitted",
}


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_scikit_learn_checks(cls):
    done = set()
    for estimator, check in estimator_checks_generator(cls(1, n_iter=1, random_state=0)):
        if (name := check.func.__name__) in _CHECKS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check(estimator)
            done.add(name)
    assert done == _CHECKS
