"""Sparse Bayesian regression: the scikit-learn contract, peers, invariances, and samplers of the same model."""

import warnings

import jax
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density
from scipy import stats
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ARDRegression
from sklearn.utils.estimator_checks import check_estimator

from uqsparse.inference import RandomWalk, TemperedTarget, tempered_smc
from uqsparse.models.sparse_bayes import SparseBayesianRegression, sparse_bayesian_model

UPDATES = ("fast", "em", "mackay", "mm")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 20)) @ np.diag(np.geomspace(0.01, 100, 20)) + 5.0
    coef = np.zeros(20)
    coef[[2, 9, 17]] = np.array([3.0, -2.0, 1.0]) / X.std(axis=0)[[2, 9, 17]]
    return X, 7.0 + X @ coef + 0.5 * rng.normal(size=60), coef


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("update", UPDATES)
def test_scikit_learn_contract(update):
    results = check_estimator(SparseBayesianRegression(update=update), on_skip=None, on_fail="raise")
    assert sum(result["status"] == "passed" for result in results) > 40


@pytest.mark.parametrize("update", UPDATES)
def test_predictions_are_those_of_the_joint_gaussian_with_a_vague_intercept(data, update):
    """Conditioning y and new targets jointly, under an intercept of huge variance, by dense covariances."""
    X, y, _ = data
    model = SparseBayesianRegression(update=update).fit(X[:50], y[:50])
    vague = 1e8
    everything = vague + X @ np.diag(model.gammas_) @ X.T + model.noise_variance_ * np.eye(60)
    old, new = slice(50), slice(50, 60)
    gain = np.linalg.solve(everything[old, old], everything[old, new]).T
    mean, sd = model.predict(X[new], return_std=True)
    np.testing.assert_allclose(mean, gain @ y[old], rtol=1e-4)
    covariance = everything[new, new] - gain @ everything[old, new]
    np.testing.assert_allclose(sd, np.sqrt(np.diag(covariance)), rtol=1e-4)
    np.testing.assert_allclose(model.predict(X[new]), mean)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_log_evidence_is_a_density(data, fit_intercept):
    X, y, _ = data
    model = SparseBayesianRegression(fit_intercept=fit_intercept).fit(X, y)
    contrasts = np.linalg.svd(np.ones((1, 60)))[2][1:] if fit_intercept else np.eye(60)
    covariance = contrasts @ (X * model.gammas_ @ X.T) @ contrasts.T + model.noise_variance_ * np.eye(len(contrasts))
    expected = multivariate_normal(cov=covariance).logpdf(contrasts @ y)
    assert model.log_evidence_ == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("update", UPDATES)
def test_a_sparse_truth_is_found_and_units_do_not_matter(data, update):
    X, y, coef = data
    model = SparseBayesianRegression(update=update, tol=1e-6, max_iter=5000).fit(X, y)
    assert set(np.flatnonzero(coef)) <= set(model.support_)
    assert 0.1 < model.noise_variance_ < 0.5
    large = np.flatnonzero(coef)
    assert np.all(abs(model.coef_ - coef)[large] < 5 * model.coef_std_[large])
    units = np.geomspace(1e-3, 1e3, 20)
    other = SparseBayesianRegression(update=update, tol=1e-6, max_iter=5000).fit(X * units + 3, 10 * y - 4)
    np.testing.assert_allclose(other.coef_ * units, 10 * model.coef_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(other.predict(X * units + 3), 10 * model.predict(X) - 4, rtol=1e-5)


def test_evidence_is_no_worse_than_that_of_the_peer():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(80, 60))
    y = X[:, :5] @ rng.normal(size=5) + 0.5 * rng.normal(size=80)
    model, peer = SparseBayesianRegression().fit(X, y), ARDRegression().fit(X, y)
    kept = peer.lambda_ < peer.threshold_lambda
    contrasts = np.linalg.svd(np.ones((1, 80)))[2][1:]
    X_kept = contrasts @ X[:, kept]
    covariance = X_kept / peer.lambda_[kept] @ X_kept.T + np.eye(79) / peer.alpha_
    assert model.log_evidence_ >= multivariate_normal(cov=covariance).logpdf(contrasts @ y)


def test_known_noise_is_kept(data):
    X, y, _ = data
    assert SparseBayesianRegression(noise_variance=0.25).fit(X, y).noise_variance_ == 0.25


def test_warnings(data):
    X, y, _ = data
    with pytest.warns(ConvergenceWarning, match="max_iter=1"):
        SparseBayesianRegression("em", max_iter=1).fit(X, y)
    with pytest.warns(UserWarning, match="noise variance went to its lower limit"):
        SparseBayesianRegression().fit(X, X[:, 0] + X[:, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SparseBayesianRegression().fit(X, y)


@pytest.mark.parametrize(
    ("parameters", "change", "match"),
    [
        ({}, lambda X, y: (X, y + 1j), "Complex data not supported|complex"),
        ({}, lambda X, y: (np.where(np.arange(20) == 4, 2.0, X), y), "X has constant columns, the first at index 4"),
        ({"fit_intercept": False}, lambda X, y: (X * (np.arange(20) != 4), y), "X has zero columns.* index 4"),
        ({}, lambda X, y: (X, np.full(60, 0.1)), "y is constant"),
        ({"fit_intercept": False}, lambda X, y: (X, 0 * y), "y is zero"),
        ({}, lambda X, y: (X, np.where(np.arange(60) == 4, np.nan, y)), "NaN"),
        ({}, lambda X, y: (X, y[:50]), "inconsistent"),
        ({"noise_variance": 0.0}, lambda X, y: (X, y), "noise_variance"),
        ({"update": "am"}, lambda X, y: (X, y), "update"),
        ({"tol": -1.0}, lambda X, y: (X, y), "tol must be"),
        ({"prune": -1.0}, lambda X, y: (X, y), "prune must be"),
        ({"max_iter": 0}, lambda X, y: (X, y), "max_iter"),
    ],
)
def test_bad_input_is_refused(data, parameters, change, match):
    X, y, _ = data
    with pytest.raises(ValueError, match=match):
        SparseBayesianRegression(**parameters).fit(*change(X, y))


def test_smc_agrees_with_the_evidence_given_the_variances():
    """Over 60 keys the error had standard deviation 0.045, and no bias: 0.25 is more than five of them."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(12, 3))
    y = X @ [1.0, 0.0, -2.0] + 0.5 * rng.normal(size=12)
    fit = SparseBayesianRegression("em", fit_intercept=False, prune=0.0).fit(X, y)
    target = TemperedTarget.from_numpyro(
        sparse_bayesian_model, X, y=y, gammas=fit.gammas_, noise_variance=fit.noise_variance_
    )
    result = tempered_smc(jax.random.key(0), target, n_particles=500, move=RandomWalk(), n_replicates=4)
    assert float(result.log_evidence) == pytest.approx(fit.log_evidence_, abs=0.25)


def test_model_has_the_stated_joint_density():
    rng = np.random.default_rng(3)
    X, y, z = rng.normal(size=(5, 2)), rng.normal(size=5), rng.normal(size=2)
    gamma, noise_sd, shape, scale, noise_scale = np.array([0.5, 2.0]), 0.7, 1.5, 0.8, 2.0
    options = {"y": y, "shape": shape, "scale": scale, "noise_scale": noise_scale}
    sites = {"gamma": gamma, "noise_sd": noise_sd, "coef_z": z}
    found, trace = log_density(sparse_bayesian_model, (X,), options, sites)
    np.testing.assert_allclose(trace["coef"]["value"], np.sqrt(gamma) * z, rtol=1e-6)
    likelihood = stats.norm.logpdf(y, X @ (np.sqrt(gamma) * z), noise_sd).sum() + stats.norm.logpdf(z).sum()
    hyper = stats.gamma.logpdf(1 / gamma, shape, scale=1 / (shape * scale**2)) - 2 * np.log(gamma)
    wanted = likelihood + hyper.sum() + stats.halfnorm.logpdf(noise_sd, scale=noise_scale)
    assert float(found) == pytest.approx(wanted, abs=1e-4)
    found, trace = log_density(
        sparse_bayesian_model, (X,), {"y": y, "gammas": gamma, "noise_variance": noise_sd**2}, {"coef_z": z}
    )
    assert float(found) == pytest.approx(likelihood, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"gammas": np.ones(3)}, "gammas has shape"),
        ({"gammas": np.array([1.0, -1.0])}, "gammas must be nonnegative"),
        ({"shape": 0.0}, "shape must be"),
        ({"scale": -1.0}, "scale must be"),
        ({"gammas": np.ones(2), "noise_variance": 0.0}, "noise_variance must be"),
    ],
)
def test_model_refuses_bad_input(arguments, match):
    with pytest.raises(ValueError, match=match):
        handlers.seed(sparse_bayesian_model, 0)(np.ones((4, 2)), **arguments)
