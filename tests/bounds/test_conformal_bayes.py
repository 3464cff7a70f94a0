"""Conformal Bayes against refitting in closed form, exact enumeration, and the formula written out in NumPy."""

import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from uqsparse.bounds.conformal_bayes import ConformalBayes
from uqsparse.bounds.conformal_bayes_edges import locate, unions
from uqsparse.inference.arviz_io import dataset, to_arviz

NOISE = 0.7


def linear(beta, x, y):
    """Log density of one observation of a linear regression, up to its constant."""
    return -0.5 * ((y - x @ beta) / NOISE) ** 2


def location(mu, x, y):
    return -0.5 * (y - mu - x) ** 2


def two_bumps(mu, x, y):
    return jnp.logaddexp(-0.5 * ((y - 3 - mu) / 0.5) ** 2, -0.5 * ((y + 3 - mu) / 0.5) ** 2)


def category(log_probabilities, x, y):
    return log_probabilities[y]


def posterior(x, y):
    """Mean and covariance of the coefficients, standard normal a priori."""
    covariance = np.linalg.inv(np.eye(x.shape[1]) + x.T @ x / NOISE**2)
    return covariance @ x.T @ y / NOISE**2, covariance


def regression(rng, n=30, d=2, n_test=8, n_draws=300):
    x, x_test = rng.normal(size=(n, d)), rng.normal(size=(n_test, d))
    y = x @ np.linspace(-1, 1, d) + NOISE * rng.normal(size=n)
    mean, covariance = posterior(x, y)
    return x, y, x_test, rng.multivariate_normal(mean, covariance, size=n_draws)


def refitted_count(x, y, new_x, new_y):
    """How many observations have no greater predictive density, when the new one is added and the model refitted."""
    all_x, all_y = np.vstack([x, new_x]), np.append(y, new_y)
    mean, covariance = posterior(all_x, all_y)
    variance = NOISE**2 + np.einsum("ij,jk,ik->i", all_x, covariance, all_x)
    densities = stats.norm.logpdf(all_y, all_x @ mean, np.sqrt(variance))
    return int((densities[:-1] <= densities[-1]).sum())


def written_out(log_train, log_new, members=slice(None)):
    """p-value and effective sample size of one candidate, from log densities (T, n) and (T,), as in the paper."""
    weights = special.softmax(log_new)
    sigma = special.logsumexp(log_train + np.log(weights)[:, None], axis=0)[members]
    new = special.logsumexp(log_new + np.log(weights))
    return (1 + (sigma <= new + 1e-9).sum()) / (1 + len(sigma)), 1 / (weights**2).sum()


def test_decisions_agree_with_refitting():
    x, y, x_test, draws = regression(np.random.default_rng(0), n=25, n_test=20, n_draws=4000)
    calibrated = ConformalBayes(linear, draws).calibrate(x, y)
    grid = np.linspace(y.min() - 2, y.max() + 2, 50)
    ours = np.stack([calibrated.pvalue(x_test, np.full(20, value)) for value in grid], axis=1)
    exact = np.array([[(1 + refitted_count(x, y, row, value)) / 26 for value in grid] for row in x_test])
    for alpha in (0.1, 0.2, 0.5):
        assert ((ours > alpha) == (exact > alpha)).mean() >= 0.97
    assert np.abs(ours - exact).max() <= 3 / 26


def test_sets_agree_with_refitting():
    x, y, x_test, draws = regression(np.random.default_rng(1), n=25, n_test=6, n_draws=4000)
    sets = ConformalBayes(linear, draws, alpha=[0.1, 0.3]).calibrate(x, y).predict(x_test)
    fine = np.linspace(y.min() - 3, y.max() + 3, 600)
    for row in range(6):
        counts = np.array([refitted_count(x, y, x_test[row], value) for value in fine])
        for level, alpha in enumerate((0.1, 0.3)):
            exact = ((1 + counts) / 26 > alpha).sum() * (fine[1] - fine[0])
            assert abs(sets.size()[level, row] - exact) <= 0.15


def test_decisions_follow_the_formula_with_and_without_groups():
    rng = np.random.default_rng(2)
    x, y, x_test, draws = regression(rng)
    groups, new_groups = rng.integers(3, size=30), rng.integers(3, size=8)
    y_test = rng.normal(size=8) * 2
    log_train = np.array([[linear(beta, a, b) for a, b in zip(x, y, strict=True)] for beta in draws])
    log_test = np.array([[linear(beta, a, b) for a, b in zip(x_test, y_test, strict=True)] for beta in draws])
    plain = [written_out(log_train, log_test[:, j])[0] for j in range(8)]
    grouped = [written_out(log_train, log_test[:, j], groups == new_groups[j])[0] for j in range(8)]
    model = ConformalBayes(linear, draws)
    np.testing.assert_allclose(model.calibrate(x, y).pvalue(x_test, y_test), plain)
    named, new_named = np.array(["a", "b", "c"])[groups], np.array(["a", "b", "c"])[new_groups]
    found = model.calibrate(x, y, groups=named).pvalue(x_test, y_test, groups=new_named)
    np.testing.assert_allclose(found, grouped)


def test_effective_sample_size_is_the_least_over_the_set():
    rng = np.random.default_rng(3)
    x, y, x_test, draws = regression(rng)
    sets = ConformalBayes(linear, draws, alpha=0.2).calibrate(x, y).predict(x_test)
    for row in range(3):
        inside = np.linspace(sets.lower[row, 0] + 1e-3, sets.upper[row, 0] - 1e-3, 200)
        log_f = np.array([[linear(beta, x_test[row], value) for value in inside] for beta in draws])
        weights = special.softmax(log_f, axis=0)
        least = (1 / (weights**2).sum(axis=0)).min()
        assert sets.ess[row] == pytest.approx(least, rel=0.02)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_of_a_dirichlet_posterior_are_exact(dtype):
    labels = np.repeat([0, 1, 2], [5, 9, 16])
    prior, n = np.array([1, 1, 1]), len(labels)
    draws = np.log(np.random.default_rng(4).dirichlet(prior + np.bincount(labels), size=4000)).astype(dtype)
    calibrated = ConformalBayes(category, draws, alpha=[0.2, 0.05], n_labels=3).calibrate(np.zeros(n), labels)
    exact = []
    for candidate in range(3):
        # Predictive probability of each label once the candidate is added; observations of one label tie.
        sigma = [Fraction(int(prior[k] + (labels == k).sum() + (k == candidate)), n + 4) for k in range(3)]
        exact.append(Fraction(1 + sum(sigma[k] <= sigma[candidate] for k in labels), n + 1))
    found = calibrated.pvalue(np.zeros(3), np.arange(3))
    np.testing.assert_allclose(found, [float(p) for p in exact])
    sets = calibrated.predict(np.zeros(2))
    assert sets.member.tolist() == [
        [[p > Fraction(1, 5) for p in exact]] * 2,
        [[p > Fraction(1, 20) for p in exact]] * 2,
    ]
    assert sets.size().tolist() == [[2, 2], [3, 3]]


def test_coverage_holds_under_a_wrong_model():
    """False alarms: 2e-4 on both sides together (binomial with 300 trials of probability 0.2)."""
    rng = np.random.default_rng(5)
    n, repeats, missed = 9, 300, 0
    for _ in range(repeats):
        y = rng.standard_t(2, size=n + 1) * 3 + 5  # the model has standard deviation 1 and a prior mean of 0
        draws = y[:n].sum() / (n + 1) + rng.normal(size=200) / np.sqrt(n + 1)
        calibrated = ConformalBayes(location, draws).calibrate(np.zeros(n), y[:n])
        missed += calibrated.pvalue(np.zeros(1), y[n:])[0] <= 0.2 + 1e-9
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], repeats, 0.2)
    assert low <= missed <= high


def test_sets_can_have_two_parts():
    rng = np.random.default_rng(6)
    y = rng.choice([-3, 3], 60) + 0.5 * rng.normal(size=60)
    draws = 0.05 * rng.normal(size=500)
    calibrated = ConformalBayes(two_bumps, draws, alpha=0.2).calibrate(np.zeros(60), y)
    sets = calibrated.predict(np.zeros(2))
    assert sets.lower.shape == (2, 2)
    assert sets.contains(np.array([0.0, -3.0])).tolist() == [False, True]
    assert (sets.upper[:, 0] < 0).all()
    assert (sets.lower[:, 1] > 0).all()


@given(seed=st.integers(0, 10**6), alpha=st.sampled_from([0.05, 0.1, 0.25, 0.5]))
@settings(max_examples=10)
def test_a_set_holds_the_values_whose_pvalue_exceeds_alpha(seed, alpha):
    rng = np.random.default_rng(seed)
    x, y, x_test, draws = regression(rng)
    calibrated = ConformalBayes(linear, draws, alpha).calibrate(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few draws carry the weights
        sets = calibrated.predict(x_test)
    y_test = x_test @ np.linspace(-1, 1, 2) + rng.normal(size=8)
    ends = np.concatenate([sets.lower, sets.upper], axis=1)
    clear = np.nanmin(np.abs(ends - y_test[:, None]), axis=1) > 0.2  # islands beside an edge are below the resolution
    expected = calibrated.pvalue(x_test, y_test) > alpha
    assert (sets.contains(y_test) == expected)[clear].all()
    order = rng.permutation(30)
    shuffled = ConformalBayes(linear, draws, alpha).calibrate(x[order], y[order])
    np.testing.assert_allclose(shuffled.pvalue(x_test, y_test), calibrated.pvalue(x_test, y_test))


def test_smaller_alpha_gives_larger_sets():
    x, y, x_test, draws = regression(np.random.default_rng(7))
    calibrated = ConformalBayes(linear, draws, alpha=[0.05, 0.2, 0.5]).calibrate(x, y)
    sets = calibrated.predict(x_test)
    assert sets.lower.shape[:2] == (3, 8)
    assert (np.diff(sets.size(), axis=0) < 0).all()
    assert sets.guarantee.level == (0.95, 0.8, 0.5)
    assert sets.guarantee.n == 30
    assert "least effective sample size" in str(sets.guarantee)
    one = ConformalBayes(linear, draws, alpha=0.2).calibrate(x, y).predict(x_test)
    np.testing.assert_allclose(one.size(), sets.size()[1], atol=2e-2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_likelihoods_neither_overflow_nor_vanish(dtype):
    x, y, x_test, draws = regression(np.random.default_rng(8))
    y_test = np.linspace(-2, 2, 8)
    plain = ConformalBayes(linear, draws.astype(dtype)).calibrate(x, y).pvalue(x_test, y_test)
    for constant in (-500.0, 300.0):
        found = ConformalBayes(lambda b, x, y, c=constant: linear(b, x, y) + c, draws.astype(dtype)).calibrate(x, y)
        np.testing.assert_allclose(found.pvalue(x_test, y_test), plain, atol=1.5 / 31)
    assert found.posterior.scaled.dtype == dtype
    assert not jax.config.read("jax_enable_x64")


def test_narrow_sets_far_from_the_data_are_found():
    rng = np.random.default_rng(9)
    x = rng.uniform(0, 1, 50)
    y = 1000 * x + 0.7 * rng.normal(size=50)
    variance = 0.7**2 / (x @ x)
    draws = (x @ y) / (x @ x) + np.sqrt(variance) * rng.normal(size=400)

    sets = ConformalBayes(lambda b, x, y: linear(b[None], x[None], y), draws, alpha=0.2).calibrate(x, y)
    with pytest.warns(UserWarning, match="1 of 2 test points have an effective sample size"):
        found = sets.predict(np.array([0.5, 20.0]))  # the second is far from everything seen
    assert found.contains(np.array([500.0, 20 * draws.mean()])).all()
    assert 1.2 < found.size()[0] < 2.8


def test_a_set_that_goes_beyond_the_first_grid_is_followed():
    # The model's standard deviation is a hundredth of the data's.
    rng = np.random.default_rng(10)
    y = rng.normal(size=99)
    draws = y.mean() + 1e-3 * rng.normal(size=400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calibrated = ConformalBayes(lambda mu, x, y: -0.5 * ((y - mu) / 0.01) ** 2, draws, alpha=0.1).calibrate(
            np.zeros(99), y
        )
        sets = calibrated.predict(np.zeros(1))
    # Conformity falls with the distance from the mean.
    threshold = np.sort(np.abs(y - y.mean()))[89]
    np.testing.assert_allclose([-sets.lower[0, 0], sets.upper[0, 0]], threshold, atol=0.25)


def test_unbounded_sets_warn():
    y = np.array([0.0, 1.0, 2.0])
    draws = np.random.default_rng(11).normal(size=300)
    few = ConformalBayes(location, draws, alpha=0.2).calibrate(np.zeros(3), y)
    with pytest.warns(UserWarning, match="unbounded"):
        sets = few.predict(np.zeros(2))
    assert np.isneginf(sets.lower).all()
    assert np.isposinf(sets.upper).all()
    enough = ConformalBayes(location, draws, alpha=0.5).calibrate(np.zeros(3), y, groups=[1, 1, 1])
    with (
        pytest.warns(UserWarning, match="1 of 2 test points are unbounded"),
        pytest.warns(UserWarning, match="1 of 2 test points have an effective"),
    ):
        sets = enough.predict(np.zeros(2), groups=[1, 7])
    assert np.isposinf(sets.size()).tolist() == [False, True]
    assert sets.guarantee.kind == "group"
    assert np.isnan(sets.ess[1])
    many = ConformalBayes(location, draws / 6, alpha=0.2).calibrate(np.zeros(30), np.linspace(-1, 1, 30))
    with pytest.warns(UserWarning, match="unbounded"):
        sets = many.predict(np.zeros(1), grid=np.linspace(-0.5, 3, 20))
    assert np.isneginf(sets.lower).all()
    assert np.isfinite(sets.upper).all()


def test_weights_that_few_draws_carry_warn():
    rng = np.random.default_rng(12)
    y = rng.normal(size=20)
    draws = y.mean() + 0.2 * rng.normal(size=40)
    with pytest.warns(UserWarning, match="effective sample size below 50"):
        sets = ConformalBayes(location, draws, alpha=0.2).calibrate(np.zeros(20), y).predict(np.zeros(1))
    assert 1 <= sets.ess[0] <= 40


def test_sets_go_to_arviz():
    x, y, x_test, draws = regression(np.random.default_rng(13))
    calibrated = ConformalBayes(linear, draws, alpha=[0.1, 0.2]).calibrate(x, y)
    pvalue = calibrated.pvalue(x_test, np.zeros(8))
    group = dataset(calibrated.predict(x_test).to_arviz(pvalue=pvalue), "conformal")
    assert group["ess"].dims == ("level", "observation")
    assert group["lower"].dims == ("level", "observation", "part")
    np.testing.assert_array_equal(group["pvalue"], pvalue)
    assert group.attrs["guarantee"] == "marginal"
    labels = ConformalBayes(category, np.log(np.full((100, 2), 0.5)), alpha=0.2, n_labels=2)
    group = dataset(labels.calibrate(np.zeros(30), np.arange(30) % 2).predict(np.zeros(3)).to_arviz(), "conformal")
    assert group["member"].dims == ("observation", "label")
    assert group["ess"].shape == (3,)


def gaussian_model(x, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    mean = numpyro.deterministic("mean", x @ beta)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(mean, NOISE), obs=y)


def positive_model(x, y=None):
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.LogNormal(mu + 0 * x, 0.5), obs=y)


def logistic_model(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=slope * x), obs=y)


@pytest.mark.parametrize("form", ["draws", "chains", "arviz"])
def test_a_numpyro_model_gives_the_same_as_its_likelihood(form):
    x, y, x_test, draws = regression(np.random.default_rng(14))
    given = {
        "draws": {"beta": draws, "mean": np.zeros((300, 30))},
        "chains": {"beta": draws.reshape(3, 100, 2)},
        "arviz": to_arviz({"posterior": {"beta": draws.reshape(3, 100, 2), "mean": np.zeros((3, 100, 30))}}),
    }[form]
    ours = ConformalBayes.from_numpyro(gaussian_model, given, alpha=0.2).calibrate(x, y)
    plain = ConformalBayes(linear, draws, alpha=0.2).calibrate(x, y)
    y_test = np.linspace(-2, 2, 8)
    np.testing.assert_allclose(ours.pvalue(x_test, y_test), plain.pvalue(x_test, y_test))
    if form == "arviz":
        np.testing.assert_allclose(ours.predict(x_test).size(), plain.predict(x_test).size(), atol=1e-2)


def test_impossible_values_are_left_out():
    rng = np.random.default_rng(15)
    y = np.exp(0.3 * rng.normal(size=40))
    posterior = {"mu": np.log(y).mean() + 0.08 * rng.normal(size=300)}
    calibrated = ConformalBayes.from_numpyro(positive_model, posterior, alpha=0.05).calibrate(np.zeros(40), y)
    sets = calibrated.predict(np.zeros(1))
    assert sets.lower[0, 0] > 0
    assert calibrated.pvalue(np.zeros(1), np.array([-1.0]))[0] == 1 / 41


def test_labels_of_a_numpyro_model():
    rng = np.random.default_rng(16)
    x, slopes = rng.normal(size=50), 2 + 0.3 * rng.normal(size=300)
    y = (rng.uniform(size=50) < special.expit(2 * x)).astype(int)
    calibrated = ConformalBayes.from_numpyro(logistic_model, {"slope": slopes}, 0.1, n_labels=2).calibrate(x, y)
    sets = calibrated.predict(np.array([-3.0, 3.0]))
    assert sets.member.tolist() == [[True, False], [False, True]]


def several_sites(x, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu + 0 * x, 1), obs=y)
    numpyro.sample("z", dist.Normal(mu, 1), obs=0.3)


def joint_site(x, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu + 0 * x, 1).to_event(1), obs=y)


def row_effects(x, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([len(x)]).to_event(1))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def centred_inside(x, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu + x - x.mean(), 1), obs=y)


def with_factor(x, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.factor("extra", -(mu**2))
    numpyro.sample("y", dist.Normal(mu + 0 * x, 1), obs=y)


def counts_model(x, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Poisson(jnp.exp(mu + 0 * x)), obs=y)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (several_sites, "name the one site of interest"),
        (joint_site, "a log density of its own"),
        (row_effects, "change shape with the number of rows"),
        (centred_inside, "depends on the other rows"),
        (with_factor, "factors or subsampled"),
        (counts_model, "discrete"),
    ],
    ids=lambda value: getattr(value, "__name__", "message"),
)
def test_models_without_a_likelihood_of_single_rows_are_refused(model, message):
    n = 6
    draws = np.zeros((5, n)) if model is row_effects else np.zeros(5)
    conformal = ConformalBayes.from_numpyro(model, {"mu": draws}, alpha=0.2)
    with pytest.raises(ValueError, match=message):
        conformal.calibrate(np.linspace(0, 1, n), np.ones(n))


def test_one_of_several_sites_can_be_named():
    conformal = ConformalBayes.from_numpyro(several_sites, {"mu": np.linspace(-1, 1, 100)}, alpha=0.2, site="y")
    assert conformal.calibrate(np.zeros(9), np.linspace(-1, 1, 9)).pvalue(np.zeros(1), np.zeros(1))[0] == 1


def test_bad_input_is_refused_at_the_door():
    draws, x, y = np.zeros(5), np.zeros(4), np.arange(4.0)
    with pytest.raises(ValueError, match="alpha"):
        ConformalBayes(location, draws, alpha=1.0)
    with pytest.raises(ValueError, match="n_labels"):
        ConformalBayes(location, draws, n_labels=1)
    with pytest.raises(ValueError, match="n_grid"):
        ConformalBayes(location, draws, n_grid=2)
    for bad, message in (
        (np.array([0.0, np.nan]), "NaN"),
        (np.zeros(1), "at least 2"),
        (np.float64(1.0), "first axis"),
    ):
        with pytest.raises(ValueError, match=message):
            ConformalBayes(location, bad).calibrate(x, y)
    with pytest.raises(ValueError, match="first axis"):
        ConformalBayes(location, {"a": np.zeros(3), "b": np.zeros(4)}).calibrate(x, y)
    conformal = ConformalBayes(location, draws)
    with pytest.raises(ValueError, match="x has shape"):
        conformal.calibrate(np.zeros(3), y)
    with pytest.raises(ValueError, match="y has 1 NaN"):
        conformal.calibrate(x, np.array([0, 1, np.nan, 2]))
    with pytest.raises(ValueError, match="y has shape"):
        conformal.calibrate(x, np.zeros((4, 1)))
    with pytest.raises(ValueError, match="x has 1 NaN"):
        conformal.calibrate(np.array([0, 1, np.inf, 2]), y)
    with pytest.raises(ValueError, match="groups"):
        conformal.calibrate(x, y, groups=[1, 2])
    with pytest.raises(ValueError, match="expected a scalar"):
        ConformalBayes(lambda mu, x, y: jnp.stack([mu, y]), draws).calibrate(x, y)
    with pytest.raises(ValueError, match="NaN or \\+inf in 1 of 4 rows: 0"):
        ConformalBayes(lambda mu, x, y: jnp.where(y > 0, mu, jnp.nan), draws).calibrate(x, y)
    with pytest.raises(ValueError, match="-inf under every draw in 1 of 4 rows: 0"):
        ConformalBayes(lambda mu, x, y: jnp.where(y > 0, mu, -jnp.inf), draws).calibrate(x, y)
    with pytest.raises(ValueError, match="labels from 0 to 1"):
        ConformalBayes(category, np.zeros((5, 2)), n_labels=2).calibrate(x, np.array([0, 1, 2, 0]))
    with pytest.raises(ValueError, match="lacks draws of the latent site"):
        ConformalBayes.from_numpyro(positive_model, {"other": draws}).calibrate(x, y + 1)
    with pytest.raises(TypeError, match="posterior must be"):
        ConformalBayes.from_numpyro(positive_model, draws).calibrate(x, y + 1)
    calibrated = conformal.calibrate(x, y)
    with pytest.raises(ValueError, match="groups are given"):
        calibrated.pvalue(x, y, groups=[1, 1, 1, 1])
    with pytest.raises(ValueError, match="groups are missing"):
        conformal.calibrate(x, y, groups=[1, 1, 2, 2]).predict(x)
    with pytest.raises(ValueError, match="grid"):
        calibrated.predict(x, grid=np.array([0.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match="must be -inf where y is impossible"):
        ConformalBayes(lambda mu, x, y: mu + jnp.log(y), draws).calibrate(x, y + 1).pvalue(x, -y - 1)


def test_the_search_finds_mass_anywhere():
    centre, scale = np.array([0.0, 50.0, -4e3, 0.3]), np.array([1.0, 0.01, 5.0, 1e-4])
    low, high = locate(lambda rows, y: -0.5 * ((y - centre[rows, None]) / scale[rows, None]) ** 2, 4, -2.0, 2.0)
    assert ((low < centre - 2 * scale) & (centre + 2 * scale < high)).all()
    np.testing.assert_allclose(high - low, 7 * scale, rtol=0.1)


def test_unions_of_known_sets():
    # Set of the first point: [-1, 1] and [2, 2.5]; of the second: empty; of the third: everything above 0.
    def ranks(rows, y):
        first = (abs(y) <= 1) | ((y >= 2) & (y <= 2.5))
        third = y >= 0
        counts = np.select([rows[:, None] == 0, rows[:, None] == 2], [first, third], 0)
        return counts.astype(int), np.full(y.shape, 7.0)

    found = unions(ranks, np.ones((1, 3), dtype=int), np.full(3, -3.0), np.full(3, 3.0), 40)
    np.testing.assert_allclose(found.lower[0], [[-1, 2], [np.nan, np.nan], [0, np.nan]], atol=2e-3)
    np.testing.assert_allclose(found.upper[0], [[1, 2.5], [np.nan, np.nan], [np.inf, np.nan]], atol=2e-3)
    assert found.upper[0, 0, 0] >= 1
    assert found.ess[0, [0, 2]].tolist() == [7.0, 7.0]
    assert np.isnan(found.ess[0, 1])
