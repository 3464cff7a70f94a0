"""Spike-and-slab sparse coding against enumeration with dense Gaussian densities, and on bars."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, multivariate_normal, norm

from uqsparse.data.images import bars
from uqsparse.models.sparse_coding.gsc import (
    SpikeSlabModel,
    SpikeSlabParameters,
    SpikeSlabSparseCoding,
    SpikeSlabStatistics,
    normalise_slabs,
)
from uqsparse.solvers.dictionary_matching import match_dictionaries

# One number of rows in all tests, so that each function is compiled once.
H, D, N = 4, 6, 40


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def random_parameters(seed=0, per_column=False, n_causes=H):
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0.4, 0.9, D) if per_column else np.array(0.6)
    return SpikeSlabParameters(
        rng.normal(size=(D, n_causes)),
        noise,
        rng.uniform(0.1, 0.6, n_causes),
        rng.normal(size=n_causes),
        rng.uniform(0.2, 1.5, n_causes),
    )


def draw(parameters, seed=1, n=N):
    """Data of the model, by NumPy."""
    rng = np.random.default_rng(seed)
    active = rng.uniform(size=(n, len(parameters.slab_mean))) < parameters.prior_probability
    z = parameters.slab_mean + np.sqrt(parameters.slab_variance) * rng.normal(size=active.shape)
    return (active * z) @ parameters.dictionary.T + parameters.noise_scale * rng.normal(size=(n, D))


def enumerate_posterior(parameters, y, states, temperature=1.0):
    """Log evidence, marginals, mean and second moment of s z, and per state probability and mean: dense and slow."""
    W, noise, p, mu, psi = (np.asarray(x) for x in parameters)
    n_causes = W.shape[1]
    log_joint, means, moments = [], [], []
    for state in states:
        on = list(state)
        cross = psi[on, None] * W[:, on].T
        covariance = W[:, on] @ cross + np.diag(np.broadcast_to(noise, len(y)) ** 2)
        centre = W[:, on] @ mu[on]
        log_prior = sum(np.log(p[h]) if h in on else np.log(1 - p[h]) for h in range(n_causes))
        log_joint.append(log_prior + multivariate_normal.logpdf(y, centre, covariance) / temperature)
        gain = np.linalg.solve(covariance, cross.T).T
        mean, second = np.zeros(n_causes), np.zeros((n_causes, n_causes))
        mean[on] = mu[on] + gain @ (y - centre)
        second[np.ix_(on, on)] = np.diag(psi[on]) - gain @ cross.T
        means.append(mean)
        moments.append(second + np.outer(mean, mean))
    log_joint = np.array(log_joint)
    log_evidence = np.logaddexp.reduce(log_joint)
    q = np.exp(log_joint - log_evidence)
    marginals = np.array([sum(q[i] for i, s in enumerate(states) if h in s) for h in range(n_causes)])
    return log_evidence, marginals, np.tensordot(q, means, 1), np.tensordot(q, moments, 1), q, np.array(means)


ALL_STATES = [state for g in range(H + 1) for state in combinations(range(H), g)]


@pytest.fixture(scope="module")
def steps():
    """Compiled E- and M-steps without truncation, by the kind of noise."""
    found = {}
    for per_column in (False, True):
        model = SpikeSlabModel(H, H, H, per_column)
        found[per_column] = model, jax.jit(model.e_step), jax.jit(model.m_step)
    return found


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_full_posterior_equals_enumeration(steps, per_column, temperature):
    parameters = random_parameters(0, per_column)
    Y = draw(parameters)
    weights = np.r_[np.linspace(0, 2, 12), np.zeros(N - 12)]  # the rest is padding
    found = steps[per_column][1](parameters, Y, weights, temperature)
    exact = [enumerate_posterior(parameters, y, ALL_STATES, temperature) for y in Y[:12]]
    np.testing.assert_allclose(found.log_evidence[:12], [e[0] for e in exact], rtol=0, atol=1e-9)
    statistics = found.statistics
    for name, k in (("active", 1), ("code", 2), ("code_code", 3)):
        expected = sum(w * e[k] for w, e in zip(weights[:12], exact, strict=True))
        np.testing.assert_allclose(getattr(statistics, name), expected, rtol=0, atol=1e-9)
    expected = sum(w * np.outer(y, e[2]) for w, y, e in zip(weights[:12], Y[:12], exact, strict=True))
    np.testing.assert_allclose(statistics.data_code, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(statistics.data_squares, weights @ Y**2)
    assert float(statistics.n_rows) == pytest.approx(weights.sum())


def test_truncated_posterior_equals_enumeration_of_its_states():
    parameters = random_parameters(3, n_causes=5)
    Y = draw(parameters, 4)
    model = SpikeSlabModel(5, 3, 2)
    found = jax.jit(model.e_step)(parameters, Y, np.ones(N), 1.0)
    for y, log_evidence in zip(Y[:6], found.log_evidence[:6], strict=True):
        scores = []
        for h in range(5):
            w, psi = parameters.dictionary[:, h], parameters.slab_variance[h]
            covariance = psi * np.outer(w, w) + parameters.noise_scale**2 * np.eye(D)
            scores.append(multivariate_normal.logpdf(y, w * parameters.slab_mean[h], covariance))
        best = sorted(np.argsort(scores)[-3:])
        states = [(), *((h,) for h in range(5)), *combinations(best, 2)]
        assert float(log_evidence) == pytest.approx(enumerate_posterior(parameters, y, states)[0], abs=1e-9)


def test_top_states_equal_enumeration():
    parameters = random_parameters(5)
    Y = draw(parameters, 6)
    found = jax.jit(SpikeSlabModel(H, H, H).posterior, static_argnums=2)(parameters, Y, 5)
    for n, y in enumerate(Y[:12]):
        log_evidence, marginals, mean, _, q, means = enumerate_posterior(parameters, y, ALL_STATES)
        order = np.argsort(-q)[:5]
        np.testing.assert_allclose(found.probabilities[n], q[order], atol=1e-9)
        np.testing.assert_allclose(found.states[n], means[order], atol=1e-9)
        np.testing.assert_allclose(found.marginals[n], marginals, atol=1e-9)
        np.testing.assert_allclose(found.mean[n], mean, atol=1e-9)
        assert float(found.log_evidence[n]) == pytest.approx(log_evidence, abs=1e-9)


@pytest.mark.parametrize("per_column", [False, True])
def test_m_step_is_a_maximum_of_the_expected_log_joint(steps, per_column):
    """Stationary by differentiation of the expected complete log joint, written out with all second moments."""
    old = random_parameters(7, per_column)
    Y = draw(random_parameters(8, per_column), 9)
    _, e_step, m_step = steps[per_column]
    s = jax.tree.map(jnp.asarray, e_step(old, Y, np.ones(N), 1.0).statistics)
    new = m_step(old, s, 1.0)

    def expected_log_joint(p: SpikeSlabParameters):
        noise = jnp.broadcast_to(p.noise_scale, D)
        errors = s.data_squares + jnp.einsum("dh,hk,dk->d", p.dictionary, s.code_code, p.dictionary)
        errors = errors - 2 * jnp.sum(p.dictionary * s.data_code, axis=1)
        gaussian = -jnp.sum(errors / noise**2) / 2 - N * jnp.sum(jnp.log(noise))
        prior = s.active @ jnp.log(p.prior_probability) + (N - s.active) @ jnp.log1p(-p.prior_probability)
        spread = jnp.diag(s.code_code) - 2 * p.slab_mean * s.code + p.slab_mean**2 * s.active
        slab = -jnp.sum(spread / p.slab_variance + s.active * jnp.log(p.slab_variance)) / 2
        return gaussian + prior + slab

    # Dictionary and noise are stationary for codes in the old scale, slabs likewise: undo the normalisation.
    mean, variance = s.code / s.active, jnp.diag(s.code_code) / s.active - (s.code / s.active) ** 2
    scale = jnp.sign(mean) * jnp.sqrt(mean**2 + variance)
    plain = new._replace(dictionary=new.dictionary / scale, slab_mean=mean, slab_variance=variance)
    np.testing.assert_allclose(new.slab_mean * scale, mean, rtol=1e-9)
    np.testing.assert_allclose(new.slab_variance * scale**2, variance, rtol=1e-9)
    for gradient in jax.tree.leaves(jax.jit(jax.grad(expected_log_joint))(plain)):
        np.testing.assert_allclose(gradient, 0, atol=1e-4)


@pytest.mark.parametrize("per_column", [False, True])
def test_free_energy_never_falls(steps, per_column):
    Y = draw(random_parameters(10, per_column), 11)
    model, e_step, m_step = steps[per_column]
    parameters = model.initial(jax.random.key(0), jnp.asarray(Y.mean(0)), jnp.asarray(Y.std(0).mean()))
    trace = []
    for _ in range(60):
        step = e_step(parameters, Y, np.ones(N), 1.0)
        trace.append(float(step.log_evidence.sum()))
        parameters = m_step(parameters, step.statistics, 1.0)
    rises = np.diff(trace)
    assert rises.min() >= -1e-9 * abs(trace[-1])
    assert trace[-1] > trace[0] + 10


def test_scale_of_a_slab_is_the_models_business_only(steps):
    parameters = random_parameters(12)
    scaled = parameters._replace(
        dictionary=parameters.dictionary * [-3, 1, 0.1, 2],
        slab_mean=parameters.slab_mean / [-3, 1, 0.1, 2],
        slab_variance=parameters.slab_variance / np.array([9, 1, 0.01, 4]),
    )
    Y = draw(parameters, 13)
    e_step = steps[False][1]
    one, other = (normalise_slabs(SpikeSlabParameters(*map(jnp.asarray, p))) for p in (parameters, scaled))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    np.testing.assert_allclose(one.slab_mean**2 + one.slab_variance, 1)
    assert float(one.slab_mean.min()) >= 0
    expected = e_step(parameters, Y, np.ones(N), 1.0).log_evidence
    np.testing.assert_allclose(e_step(one, Y, np.ones(N), 1.0).log_evidence, expected, atol=1e-9)


def test_sample_follows_the_model():
    """False alarm 1e-5 in each of three tests: activity, residual variance, slab mean."""
    parameters = random_parameters(14)
    Y, codes = jax.jit(SpikeSlabModel(H, H, H).sample, static_argnums=2)(parameters, jax.random.key(3), 4000)
    residual = np.asarray(Y - codes @ parameters.dictionary.T) / parameters.noise_scale
    low, high = chi2.ppf([5e-6, 1 - 5e-6], residual.size)
    assert low < (residual**2).sum() < high
    active = np.asarray(codes != 0)
    p = parameters.prior_probability
    score = (active.mean(0) - p) / np.sqrt(p * (1 - p) / 4000)
    assert abs(score).max() < norm.isf(5e-6 / H)
    for h in range(H):
        drawn = np.asarray(codes[active[:, h], h])
        z = (drawn.mean() - parameters.slab_mean[h]) / np.sqrt(parameters.slab_variance[h] / len(drawn))
        assert abs(z) < norm.isf(5e-6 / H)


def test_share_of_data_with_at_most_gamma_causes():
    parameters = random_parameters(15)
    p = parameters.prior_probability
    for gamma in (1, 3):
        expected = sum(
            np.prod([p[h] if h in state else 1 - p[h] for h in range(H)]) for state in ALL_STATES if len(state) <= gamma
        )
        assert float(SpikeSlabModel(H, H, gamma).covered_share(parameters)) == pytest.approx(expected, rel=1e-12)


def test_duplicate_columns_dead_causes_and_rows_of_zeros_give_numbers(steps):
    """A thousandth of a thousandth of noise, two equal columns, one column of zeros, data of zeros."""
    parameters = random_parameters(16)
    W = parameters.dictionary.copy()
    W[:, 1], W[:, 2] = W[:, 0], 0
    parameters = parameters._replace(dictionary=W, noise_scale=np.array(1e-6))
    Y = np.r_[np.zeros((2, D)), draw(parameters, 17, N - 2)]
    model, e_step, m_step = steps[False]
    step = e_step(parameters, Y, np.ones(N), 1.0)
    for leaf in jax.tree.leaves((step, m_step(parameters, step.statistics, 1.0))):
        assert np.isfinite(leaf).all()
    zeros = SpikeSlabStatistics(*(jnp.zeros_like(x) for x in step.statistics))._replace(n_rows=jnp.asarray(3.0))
    kept = m_step(normalise_slabs(parameters), zeros, 1.0)
    np.testing.assert_allclose(kept.dictionary, normalise_slabs(parameters).dictionary, rtol=1e-9)
    assert 0 < kept.prior_probability.min() <= 1e-5
    assert float(kept.noise_scale) > 0
    assert float(model.initial(jax.random.key(0), jnp.zeros(D), jnp.zeros(())).noise_scale) > 0
    revived = model.revive(SpikeSlabParameters(*map(np.asarray, kept)), 2, np.arange(6.0))
    np.testing.assert_array_equal(revived.dictionary[:, 2], np.arange(6.0))
    np.testing.assert_array_equal(revived.dictionary[:, :2], kept.dictionary[:, :2])
    assert np.isfinite(e_step(revived, Y, np.ones(N), 1.0).log_evidence).all()


@pytest.fixture(scope="module")
def fitted():
    """Bars of Gaussian strength with mean and variance 1, learned once; and the data."""
    data = bars(0, 400, slab=(1.0, 1.0))
    with jax.enable_x64(False):  # as a caller has it
        coder = SpikeSlabSparseCoding(10, n_candidates=6, gamma=3, n_iter=60, random_state=0).fit(data.images)
    return coder, data


def test_all_bars_are_found(fitted):
    coder, data = fitted
    matching = match_dictionaries(coder.dictionary_, data.dictionary, sign=True, scale=True)
    assert matching.cosine.min() > 0.95
    # The root mean square of a strength with mean 1 and variance 1 is sqrt(2).
    lengths = np.linalg.norm(coder.dictionary_, axis=0) / np.linalg.norm(data.dictionary, axis=0).mean()
    assert abs(lengths / np.sqrt(2) - 1).mean() < 0.2
    # Weak bars are not seen, and states with more than three are left out.
    assert 0.12 < coder.prior_probability_.mean() < 0.22
    assert abs(coder.noise_scale_ / 2.0 - 1) < 0.25
    np.testing.assert_allclose(coder.prior_slab_mean_**2 + coder.prior_slab_variance_, 1, rtol=1e-9)
    assert abs(coder.prior_slab_mean_ - np.sqrt(0.5)).mean() < 0.15
    assert coder.restarts_[0].converged


def test_codes_are_the_bars_strengths(fitted):
    coder, data = fitted
    found = coder.posterior(data.images, top_k=2)
    order = match_dictionaries(coder.dictionary_, data.dictionary, sign=True, scale=True)
    strengths = found.mean[:, order.assignment] / order.factor
    strong = abs(data.coefficients) > 0.7
    assert np.corrcoef(strengths[strong], data.coefficients[strong])[0, 1] > 0.95
    assert found.marginals[:, order.assignment][strong].mean() > 0.9
    assert found.marginals[:, order.assignment][data.states == 0].mean() < 0.1
    np.testing.assert_allclose(coder.transform(data.images), found.mean)
    rebuilt = coder.inverse_transform(found.mean)
    assert np.mean((rebuilt - data.coefficients @ data.dictionary.T) ** 2) < 0.5 * data.noise_scale**2


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"noise": "per-pixel"}, "noise must be 'scalar' or 'per-column'"),
        ({"gamma": 4, "n_candidates": 3}, "gamma must be at most n_candidates=3"),
        ({"n_candidates": 6}, "n_candidates must be at most n_causes=5"),
        ({"max_states": 20}, "above max_states=20"),
        ({"temperature": 0.5}, "temperature must be"),
    ],
)
def test_bad_arguments_are_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        SpikeSlabSparseCoding(**{"n_causes": 5, **argument}).fit(np.eye(6))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_are_not_finite_are_refused(value):
    X = np.eye(6)
    X[2, 3] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        SpikeSlabSparseCoding(3).fit(X)


def test_noise_free_data_and_constant_columns_stop_at_the_floor():
    """Three columns that never change, one row of zeros, no noise, single precision."""
    rng = np.random.default_rng(0)
    X = np.zeros((60, D))
    X[1:, :3] = rng.normal(size=(59, 1)) @ rng.normal(size=(1, 3))
    coder = SpikeSlabSparseCoding(2, gamma=2, noise="per-column", dtype="float32", n_iter=30, tol=1.0, random_state=0)
    coder.fit(X)
    assert coder.noise_scale_.shape == (D,)
    assert coder.noise_scale_.min() > 0
    for value in (coder.dictionary_, coder.free_energy(X), coder.transform(X)):
        assert value.dtype == np.float32
        assert np.isfinite(value).all()
