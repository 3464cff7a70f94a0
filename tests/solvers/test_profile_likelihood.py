"""Profile-likelihood intervals against profiles traced with SciPy on likelihoods written apart from ours."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from uqsparse.solvers.profile_likelihood import profile_likelihood_interval
from uqsparse.solvers.regularised_loss import RegularisedLoss

# The shapes of test_support_function, so that its compiled programs serve.
N = 120
RNG = np.random.default_rng(5)
X = np.column_stack([np.ones(N), RNG.normal(size=(N, 3))])
SCORES = X @ [0.2, 1.0, -0.7, 0.3]
COINS = (RNG.random(N) < 1 / (1 + np.exp(-SCORES))).astype(float)
NOISY = SCORES + RNG.normal(size=N)
COUNTS = RNG.poisson(np.exp(0.5 * SCORES)).astype(float)
EQUAL = np.full(N, 1 / N)
DIRECTIONS = np.concatenate([np.eye(4), X[:2]])


def _log_likelihood(kind, w):
    if kind == "logistic":
        return scipy.stats.bernoulli.logpmf(COINS, 1 / (1 + np.exp(-X @ w))).sum()
    return scipy.stats.poisson.logpmf(COUNTS, np.exp(X @ w)).sum()


def _profile(kind, x, theta, start):
    """The largest log-likelihood over w with x^T w = theta."""
    base = theta * x / (x @ x)
    basis = np.linalg.svd(x[None])[2][1:].T
    found = scipy.optimize.minimize(
        lambda z: -_log_likelihood(kind, base + basis @ z), basis.T @ start, method="BFGS", options={"gtol": 1e-6}
    )
    return -found.fun


@pytest.mark.parametrize(("kind", "y"), [("logistic", COINS), ("poisson", COUNTS)])
def test_ends_are_where_the_traced_profile_crosses(kind, y):
    found = profile_likelihood_interval(RegularisedLoss(X, y, EQUAL, np.zeros(4), kind), DIRECTIONS, 0.9)
    best = scipy.optimize.minimize(lambda w: -_log_likelihood(kind, w), np.zeros(4), method="BFGS")
    drop = scipy.stats.chi2.ppf(0.9, 1) / 2
    assert found.converged.all()
    for index in (1, 5):
        x = DIRECTIONS[index]
        middle = x @ best.x
        for end in (found.lower[index], found.upper[index]):
            crossing = scipy.optimize.brentq(
                lambda theta, x=x: best.fun + _profile(kind, x, theta, best.x) + drop,
                middle,
                middle + 2 * (end - middle),
                xtol=1e-8,
            )
            assert abs(crossing - end) < 1e-5
        assert found.lower_certificate[index] <= found.lower[index] < found.estimate[index]
        assert found.estimate[index] < found.upper[index] <= found.upper_certificate[index]


def test_linear_regression_has_its_closed_form():
    found = profile_likelihood_interval(RegularisedLoss(X, NOISY, EQUAL, np.zeros(4), "squared"), DIRECTIONS)
    w, rss = np.linalg.lstsq(X, NOISY, rcond=None)[:2]
    # n log(1 + (theta - estimate)^2 / (RSS x^T (X^T X)^-1 x)) = quantile
    spread = (DIRECTIONS * np.linalg.solve(X.T @ X, DIRECTIONS.T).T).sum(axis=1)
    half = np.sqrt(rss * np.expm1(scipy.stats.chi2.ppf(0.95, 1) / N) * spread)
    np.testing.assert_allclose(found.estimate, DIRECTIONS @ w, atol=1e-12)
    np.testing.assert_allclose(found.upper, DIRECTIONS @ w + half, rtol=1e-7)
    np.testing.assert_allclose(found.lower, DIRECTIONS @ w - half, rtol=1e-7)


def test_twice_the_observations_is_half_the_quantile():
    loss = RegularisedLoss(X, COINS, EQUAL, np.zeros(4))
    doubled = profile_likelihood_interval(loss, DIRECTIONS, n_observations=2 * N)
    lower_confidence = scipy.stats.chi2.cdf(scipy.stats.chi2.ppf(0.95, 1) / 2, 1)
    once = profile_likelihood_interval(loss, DIRECTIONS, lower_confidence)
    np.testing.assert_allclose(doubled.upper, once.upper, rtol=1e-8)


def test_bad_input():
    loss = RegularisedLoss(X, COINS, EQUAL, np.zeros(4))
    with pytest.raises(ValueError, match="confidence"):
        profile_likelihood_interval(loss, DIRECTIONS, 1.0)
    uneven = np.where(np.arange(N) < 60, 1.5, 0.5) / N
    with pytest.raises(ValueError, match="n_observations must be given"):
        profile_likelihood_interval(RegularisedLoss(X, COINS, uneven, np.zeros(4)), DIRECTIONS)
    with pytest.raises(ValueError, match="n_observations must be positive"):
        profile_likelihood_interval(loss, DIRECTIONS, n_observations=0)
    with pytest.raises(ValueError, match="no ridge"):
        profile_likelihood_interval(RegularisedLoss(X, NOISY, EQUAL, np.ones(4), "squared"), DIRECTIONS)
    with pytest.raises(ValueError, match="fit is perfect"):
        profile_likelihood_interval(RegularisedLoss(X, 0 * NOISY, EQUAL, np.zeros(4), "squared"), DIRECTIONS)
    separable = (X[:, 1] > 0).astype(float)
    with pytest.raises(ValueError, match="separable"):
        profile_likelihood_interval(RegularisedLoss(X, separable, EQUAL, np.zeros(4)), DIRECTIONS)
