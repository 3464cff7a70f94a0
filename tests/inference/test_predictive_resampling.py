"""Predictive resampling against posteriors that are known: conjugate models, Dirichlet weights, series of 1 / j^2.

False-alarm rate of each Kolmogorov-Smirnov test: 1e-5. Keys are fixed.
"""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from uqsparse.inference import martingale_result
from uqsparse.inference.conjugate_predictives import ConjugatePredictive
from uqsparse.inference.incremental_predictive import IncrementalPredictive
from uqsparse.inference.plug_in_predictive import PlugInPredictive
from uqsparse.inference.predictive_resampling import martingale_posterior
from uqsparse.inference.urn_predictives import BayesianBootstrap, DirichletProcess, urn_quantile

LEVEL = 1e-5
N, B = 600, 1500
Y = np.random.default_rng(0).normal(0.8, 1.0, 10)
NORMAL = ConjugatePredictive.normal_normal(0.5, 2.0, 1.0)
BOOTSTRAP = BayesianBootstrap()
LEARNED = PlugInPredictive(lambda theta: dist.Normal(theta[0], 1.0), np.zeros(1))
SINGULAR = PlugInPredictive(LEARNED.distribution, np.zeros(1), lambda theta: jnp.zeros((1, 1)))


def key(i=0):
    return jax.random.key(i)


def mean_of(state):
    return state.mean


def fits(samples, law):
    return stats.kstest(samples, law.cdf).pvalue > LEVEL


def normal_posterior():
    precision = 1 / 4 + len(Y)
    return stats.norm((0.5 / 4 + Y.sum()) / precision, precision**-0.5)


@pytest.fixture(scope="module")
def normal_result():
    return martingale_posterior(key(), NORMAL, Y, mean_of, N, B)


def test_normal_normal_gives_the_posterior(normal_result):
    assert fits(normal_result.samples, normal_posterior())
    assert normal_result.start == pytest.approx(normal_posterior().mean())
    assert fits(martingale_posterior(key(1), NORMAL, Y, mean_of, math.inf, B).samples, normal_posterior())


def test_the_horizon_is_reported(normal_result):
    """n = 10, N = 600: the standard deviation is short by 1 - sqrt(N / (n + N)), up to the error of an estimate."""
    found = normal_result
    assert found.horizons[-1] == N
    assert found.horizons[-2] == N // 2
    assert found.sd_shortfall == pytest.approx(1 - math.sqrt(N / (10.25 + N)), rel=0.15)
    assert found.remaining_sd == pytest.approx(math.sqrt(1 / (N + 10.5)), rel=0.12)
    # the deviation grows as the sum of 1 / j^2 does
    expected = np.sqrt([np.sum((np.arange(1, h + 1) + 10.25) ** -2.0 * _noise(h)) for h in found.horizons])
    np.testing.assert_allclose(found.sd_path, expected, rtol=0.08)
    assert (np.diff(found.shift) < 0).all()
    assert np.abs(found.mean_path - found.start).max() < 4.5 * found.sd_path.max() / math.sqrt(B)
    assert found.converged


def _noise(h):
    """Variance of the next observation over that of the noise, before each of h draws."""
    return 1 + 1 / (np.arange(h) + 10.25)


def test_short_futures_warn_and_are_corrected():
    with pytest.warns(UserWarning, match="standard deviations are about"):
        short = martingale_posterior(key(2), NORMAL, Y, mean_of, 10, B)
    assert not short.converged
    assert short.sd_shortfall == pytest.approx(1 - math.sqrt(10 / 20.25), abs=0.05)
    assert not fits(short.samples, normal_posterior())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corrected = martingale_posterior(key(2), NORMAL, Y, mean_of, 10, B, tail_correction=True)
    assert corrected.converged
    assert corrected.is_tail_corrected
    assert fits(corrected.samples, normal_posterior())


def test_the_correction_keeps_correlations():
    y = np.random.default_rng(1).normal(size=20)
    both = lambda s: {"a": s.mean, "b": jnp.stack([-s.mean, 0.0 * s.mean])}  # noqa: E731
    found = martingale_posterior(key(), NORMAL, y, both, 20, 200, tail_correction=True).samples
    np.testing.assert_allclose(found["b"][:, 0], -found["a"], atol=1e-12)
    np.testing.assert_array_equal(found["b"][:, 1], 0.0)


def test_samples_do_not_depend_on_batches_and_are_continued(normal_result):
    fewer = martingale_posterior(key(), NORMAL, Y, mean_of, N, 100, batch_size=30)
    np.testing.assert_allclose(fewer.samples, normal_result.samples[:100], rtol=1e-12)
    half = martingale_posterior(key(), NORMAL, Y, mean_of, N // 2, B)
    np.testing.assert_allclose(half.mean_path[-1], normal_result.mean_path[-2], rtol=1e-12)


def test_beta_and_dirichlet_posteriors():
    ones = np.array([1, 1, 0, 1, 0, 0, 1])
    coin = ConjugatePredictive.beta_bernoulli(2.0, 1.0)
    assert fits(martingale_posterior(key(), coin, ones, mean_of, 300, 800).samples, stats.beta(6, 4))
    die = ConjugatePredictive.dirichlet_categorical([1.0, 0.5, 2.0])
    rolls = np.array([0, 2, 2, 1, 0, 2])
    exact = martingale_posterior(key(), die, rolls, mean_of, math.inf, 800).samples
    ahead = martingale_posterior(key(), die, rolls, mean_of, 300, 800).samples
    for k, count in enumerate([3.0, 1.5, 5.0]):
        assert fits(exact[:, k], stats.beta(count, 9.5 - count))
        assert fits(ahead[:, k], stats.beta(count, 9.5 - count))


def test_normal_inverse_gamma_posterior():
    """Mean: Student's t; variance: inverse gamma. Parameters by the textbook."""
    prior = ConjugatePredictive.normal_inverse_gamma(0.5, 2.0, 3.0, 2.0)
    n, average = len(Y), Y.mean()
    m, k, a = (2 * 0.5 + Y.sum()) / (2 + n), 2 + n, 3 + n / 2
    b = 2 + 0.5 * ((Y - average) ** 2).sum() + 0.5 * 2 * n / (2 + n) * (average - 0.5) ** 2
    mean, variance = stats.t(2 * a, m, math.sqrt(b / (a * k))), stats.invgamma(a, scale=b)
    both = lambda s: (s.mean, s.variance)  # noqa: E731
    for n_forward in (300, math.inf):
        found = martingale_posterior(key(), prior, Y, both, n_forward, 800).samples
        assert fits(found[0], mean)
        assert fits(found[1], variance)


def test_predictives_have_their_densities():
    """Log densities and distribution functions of the next observation, by SciPy."""
    z = np.array([-2.0, 0.3, 1.7])
    normal = stats.norm(normal_posterior().mean(), math.sqrt(1 + normal_posterior().var()))
    spread = ConjugatePredictive.normal_inverse_gamma(0.5, 2.0, 3.0, 2.0)
    state = spread.init(Y)
    student = stats.t(2 * state.shape, state.mean, math.sqrt(state.variance * (1 + 1 / state.strength)))
    coin, die = ConjugatePredictive.beta_bernoulli(), ConjugatePredictive.dirichlet_categorical(np.ones(3))
    cases = [(rule, rule.init(Y), z) for rule in (NORMAL, spread)]
    cases += [(coin, coin.init(np.array([1, 1, 0])), np.array([0, 1])), (die, die.init(np.array([0, 1])), 1)]

    @jax.jit
    def densities(states):
        return [
            (rule.log_prob(state, at), rule.cdf(state, at)) for (rule, _, at), state in zip(cases, states, strict=True)
        ]

    *continuous, (coin_log, coin_cdf), (die_log, die_cdf) = densities([state for _, state, _ in cases])
    for (log_prob, cdf), law in zip(continuous, (normal, student), strict=True):
        np.testing.assert_allclose(log_prob, law.logpdf(z), rtol=1e-4)
        np.testing.assert_allclose(cdf, law.cdf(z), rtol=1e-4)
    np.testing.assert_allclose(np.exp(coin_log), [0.4, 0.6], rtol=1e-5)
    np.testing.assert_allclose(coin_cdf, [0.4, 1], rtol=1e-5)
    np.testing.assert_allclose(np.exp(die_log), 0.4, rtol=1e-5)
    np.testing.assert_allclose(die_cdf, 0.8, rtol=1e-5)


@pytest.mark.parametrize(
    "rule", [NORMAL, ConjugatePredictive.normal_inverse_gamma(0.5, 0.5, 2.0, 2.0)], ids=["normal", "t"]
)
def test_draws_follow_their_distribution_function(rule):
    """After one observation, where the parameters' uncertainty counts."""
    draw = jax.jit(lambda keys, state: jax.vmap(lambda k: rule.cdf(state, rule.sample(k, state)))(keys))
    assert fits(np.asarray(draw(jax.random.split(key(), 4000), rule.init(Y[:1]))), stats.uniform())


def test_no_data_give_the_prior():
    for data in (None, np.zeros(0)):
        found = martingale_posterior(key(), NORMAL, data, mean_of, math.inf, B)
        assert found.n_data == 0
        assert fits(found.samples, stats.norm(0.5, 2.0))


def are_dirichlet(weights):
    n = weights.shape[1]
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    assert fits(weights[:, 0], stats.beta(1, n - 1))
    assert weights.var(axis=0).mean() == pytest.approx((1 / n) * (1 - 1 / n) / (n + 1), rel=0.1)


def test_urn_weights_are_dirichlet():
    data = np.arange(12.0)
    found = martingale_posterior(key(), BOOTSTRAP, data, lambda atoms, weights: weights, N, B, law="empirical")
    are_dirichlet(found.samples)


def test_bootstrap_of_a_regression():
    """A pytree of rows and targets, at the limit; the slope's spread is that of the sandwich formula."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=80)
    y = 2 * x + rng.normal(size=80) * (0.3 + abs(x))

    def slope(urn):
        x, y = urn.atoms
        return (urn.weights * x * y).sum() / (urn.weights * x * x).sum(), urn.weights

    slopes, weights = martingale_posterior(key(), BOOTSTRAP, (x, y), slope, math.inf, 800).samples
    are_dirichlet(weights)
    residual = y - x * (x * y).sum() / (x * x).sum()
    sandwich = np.sqrt(((x * residual) ** 2).sum()) / (x * x).sum()
    assert slopes.std() == pytest.approx(sandwich, rel=0.15)


@pytest.mark.parametrize(("n_forward", "n_slots"), [(300, 40), (math.inf, None)])
def test_dirichlet_process_mean(n_forward, n_slots):
    """Moments of the random mean: m and the variance of the predictive over (concentration + n + 1)."""
    process = DirichletProcess(jax.random.normal, 3.0, n_slots)
    found = martingale_posterior(key(), process, Y, mean_of, n_forward, 800)
    # the empirical law weighs data and draws; its mean at the horizon is that of the random law
    m = Y.sum() / 13
    variance = ((Y**2).sum() + 3.0) / 13 - m**2
    sd = math.sqrt(variance / 14)
    assert found.samples.mean() == pytest.approx(m, abs=4.5 * sd / math.sqrt(800) + 0.01)
    # five standard errors, and the 2% by which 300 draws fall short
    assert found.samples.std() == pytest.approx(sd, rel=0.14)


def test_dirichlet_process_without_data_and_with_full_slots():
    process = DirichletProcess(jax.random.normal, 2.0, n_slots=1)
    step = jax.jit(lambda key, urn: process.update(urn, process.sample(key, urn)))
    urn = step(key(), process.init())
    assert urn.counts.tolist() == [1.0]
    again = step(key(1), urn)
    assert again.counts.tolist() == [2.0]
    assert again.atoms.tolist() == urn.atoms.tolist()


def test_urn_quantiles_are_those_of_the_repeated_sample():
    y = np.random.default_rng(3).normal(size=9)
    urn = BOOTSTRAP.init(y)
    levels = np.array([0.0, 0.2, 0.5, 0.9, 1.0])
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(lambda level: urn_quantile(urn, level)))(levels)
    np.testing.assert_allclose(found, np.quantile(y, levels, method="inverted_cdf"), rtol=1e-6)


def test_plug_in_spread_is_the_sum_of_squares():
    rule = PlugInPredictive(lambda theta: dist.Normal(theta[0], 1.0), np.zeros(1), lambda theta: jnp.eye(1))
    look = lambda s: (s.theta[0], rule.update(s, 2.0).theta[0])  # noqa: E731
    found = martingale_posterior(key(), rule, Y, look, N, B)
    mean, mean_with_2 = found.start
    assert mean == pytest.approx(Y.mean(), abs=1e-6)
    assert mean_with_2 == pytest.approx(np.mean([*Y, 2.0]), abs=1e-6)
    sd = math.sqrt(sum(j**-2.0 for j in range(11, 11 + N)))
    assert found.samples[0].std() == pytest.approx(sd, rel=0.08)
    assert fits(found.samples[0], stats.norm(Y.mean(), sd))


def test_plug_in_learns_the_information():
    """An exponential rate in its log: Fisher information 1, asymptotic standard deviation 1 / sqrt(n)."""
    y = np.random.default_rng(4).exponential(0.5, 60)
    rule = PlugInPredictive(lambda theta: dist.Exponential(jnp.exp(theta[0])), [0.0])
    state = rule.init(y)
    assert float(state.theta[0]) == pytest.approx(-math.log(y.mean()), abs=1e-4)
    found = martingale_posterior(key(), rule, y, lambda s: s.theta[0], 200, 300, tail_correction=True)
    expected = math.sqrt(1 / (60 * float(state.information[0, 0])))
    assert found.samples.std() == pytest.approx(expected, rel=0.2)


class Memory:
    """A user's plain predictive: normal about the mean of all so far."""

    def __init__(self, scale):
        self.scale = scale

    def init(self, data):
        return np.float32(np.mean(data)), len(data)

    def sample(self, key, state):
        return state[0] + self.scale * jax.random.normal(key)

    def update(self, state, y):
        mean, n = state
        return mean + (y - mean) / (n + 1), n + 1


def test_plain_objects_serve_and_may_change():
    """The mean of all observations, by recording them, is the state that the rule keeps."""
    rule = Memory(1.0)
    by_state = martingale_posterior(key(), rule, Y, lambda s: s[0], 40, 20, tolerance=0.9)
    recorded = martingale_posterior(
        key(), rule, Y, lambda atoms, weights: weights @ atoms, 40, 20, law="empirical", tolerance=0.9
    )
    np.testing.assert_allclose(recorded.samples, by_state.samples, rtol=1e-6)
    np.testing.assert_allclose(recorded.mean_path, by_state.mean_path, rtol=1e-6)
    rule.scale = 3.0
    wider = martingale_posterior(key(), rule, Y, lambda s: s[0], 40, 20, tolerance=0.9)
    np.testing.assert_allclose(wider.samples - Y.mean(), 3 * (by_state.samples - Y.mean()), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def labelled():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(30, 2))
    return X, (X[:, 0] + 0.5 * rng.normal(size=30) > 0).astype(int)


def test_incremental_classifier(labelled):
    naive_bayes = pytest.importorskip("sklearn.naive_bayes")
    rule = IncrementalPredictive(naive_bayes.GaussianNB())
    at = np.array([[0.0, 0.0], [2.0, 0.0]])
    looks = lambda state: state.model.predict_proba(at)[:, 1]  # noqa: E731
    found = martingale_posterior(key(), rule, labelled, looks, 20, 6, tolerance=0.9, progress=True)
    expected = naive_bayes.GaussianNB().fit(*labelled).predict_proba(at)[:, 1]
    np.testing.assert_allclose(found.start, expected, rtol=1e-6)
    assert found.samples.shape == (6, 2)
    assert (found.samples.std(axis=0) > 0).all()
    again = martingale_posterior(key(), rule, labelled, looks, 20, 3, tolerance=0.9)
    np.testing.assert_array_equal(again.samples, found.samples[:3])


def test_incremental_regressor_records_pairs(labelled):
    linear = pytest.importorskip("sklearn.linear_model")
    X, y = labelled[0], labelled[0] @ [1.0, -1.0]
    rule = IncrementalPredictive(linear.SGDRegressor(alpha=0.0, random_state=0), n_passes=5)
    found = martingale_posterior(
        key(), rule, (X, y), lambda atoms, weights: weights @ atoms[1], 9, 3, law="empirical", tolerance=0.9
    )
    assert found.start == pytest.approx(y.mean())
    assert found.samples.shape == (3,)


def test_results_go_to_arviz(normal_result, monkeypatch):
    """What is handed to ArviZ, whose import is slow; the conversion has tests of its own."""
    monkeypatch.setattr(martingale_result, "to_arviz", lambda groups, notes: (groups["posterior"], notes))
    posterior, notes = normal_result.to_arviz()
    np.testing.assert_array_equal(posterior["theta"], normal_result.samples[None])
    assert notes["n_forward"] == N
    both = normal_result._replace(samples={"m": np.zeros(3), "v": np.zeros((3, 2))})
    assert {name: values.shape for name, values in both.to_arviz()[0].items()} == {"m": (1, 3), "v": (1, 3, 2)}
    assert set(both.to_arviz({"mean": np.zeros(3)})[0]) == {"mean"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_forward": 0}, ValueError, "n_forward must be an integer of at least 1"),
        ({"n_forward": 2.5}, ValueError, "n_forward must be an integer"),
        ({"n_forward": math.nan}, ValueError, "n_forward must be an integer"),
        ({"n_samples": 1}, ValueError, "n_samples must be an integer of at least 2"),
        ({"tolerance": 0.0}, ValueError, "tolerance must lie"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"law": "posterior"}, ValueError, "law must be"),
        ({"data": np.array([1.0, np.nan])}, ValueError, "data must be finite, got 1"),
        ({"data": np.ones((3, 2))}, ValueError, r"data must have shape \(n,\)"),
        ({"data": np.float64(3.0)}, ValueError, "single number"),
        ({"predictive": 3}, TypeError, "no init and no sample and no update"),
        ({"functional": 3}, TypeError, "functional must be a function"),
        ({"functional": lambda s: s.mean * jnp.nan}, ValueError, "functional is NaN"),
        ({"functional": lambda s: jnp.where(s.strength > 12, jnp.inf, 0.0)}, ValueError, "in 5 of 5 samples"),
        ({"functional": lambda s: ()}, ValueError, "at least one number"),
        ({"predictive": BayesianBootstrap(), "data": np.zeros(0)}, ValueError, "at least one observation"),
        ({"predictive": Memory(1.0), "n_forward": math.inf}, ValueError, "n_forward must be finite"),
        ({"n_forward": math.inf, "law": "empirical"}, ValueError, "needs a finite n_forward"),
        ({"predictive": SINGULAR, "functional": lambda s: s.theta[0]}, ValueError, "in 5 of 5 samples"),
        ({"predictive": LEARNED, "data": Y[:1]}, ValueError, "scores of 1 observations have a singular information"),
        ({"key": 0}, TypeError, "key must be a JAX random key"),
    ],
)
def test_bad_input_is_refused(change, error, message):
    arguments = {
        "key": key(), "predictive": NORMAL, "data": Y, "functional": mean_of, "n_forward": 20, "n_samples": 5,
        "tolerance": 0.9,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        martingale_posterior(**(arguments | change))


def test_a_single_observation_is_all_that_an_urn_knows():
    found = martingale_posterior(key(), BOOTSTRAP, Y[:1], mean_of, 20, 5)
    np.testing.assert_allclose(found.samples, Y[0])
    assert found.converged


class Growing(Memory):
    def update(self, state, y):
        return jnp.append(state[0], y), state[1] + 1


def test_states_of_changing_shape_are_refused():
    with pytest.raises(ValueError, match="update must return a state of the form"):
        martingale_posterior(key(), Growing(1.0), Y, lambda s: s[0], 10, 5)


def test_bad_models_are_refused(labelled):
    with pytest.raises(ValueError, match="prior_scale must be positive"):
        ConjugatePredictive.normal_normal(0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="concentration must have shape"):
        ConjugatePredictive.dirichlet_categorical([1.0])
    with pytest.raises(ValueError, match="mean must be finite"):
        ConjugatePredictive.normal_inverse_gamma(math.nan)
    with pytest.raises(ValueError, match="data must be 0 or 1, got 2"):
        ConjugatePredictive.beta_bernoulli().init(np.array([0, 2]))
    with pytest.raises(ValueError, match=r"integers from 0 to 1, got 0\.5"):
        ConjugatePredictive.dirichlet_categorical([1.0, 1.0]).init(np.array([0.5]))
    with pytest.raises(ValueError, match="concentration must be positive"):
        DirichletProcess(jax.random.normal, 0.0)
    with pytest.raises(TypeError, match="base must be a function"):
        DirichletProcess(3, 1.0)
    with pytest.raises(ValueError, match="base must draw something of the form"):
        DirichletProcess(jax.random.normal, 1.0).init(np.ones((3, 2)))
    with pytest.raises(ValueError, match="singular information"):
        PlugInPredictive(lambda theta: dist.Normal(theta[0] + theta[1], 1.0), lambda y: [0.0, 0.0]).init(Y)
    with pytest.raises(ValueError, match="at least one observation for a plug-in"):
        PlugInPredictive(lambda theta: dist.Normal(theta[0], 1.0), [0.0]).init(np.zeros(0))
    with pytest.raises(TypeError, match="distribution must be a function"):
        PlugInPredictive(3, [0.0])
    linear = pytest.importorskip("sklearn.linear_model")
    with pytest.raises(TypeError, match="model must have partial_fit"):
        IncrementalPredictive(linear.LinearRegression())
    rule = IncrementalPredictive(linear.SGDRegressor())
    with pytest.raises(ValueError, match=r"pair \(X, y\)"):
        rule.init(Y)
    with pytest.raises(ValueError, match="n at least 1"):
        rule.init((np.zeros((0, 2)), np.zeros(0)))
    with pytest.raises(ValueError, match="agree in the leading axis"):
        rule.init((labelled[0], labelled[1][:5]))
