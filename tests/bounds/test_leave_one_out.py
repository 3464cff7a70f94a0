"""Leave-one-out by importance weights, against the closed form of Bayesian linear regression."""

import sys
import types

import numpy as np
import pytest
import xarray

from uqsparse.bounds import cross_calibrated
from uqsparse.bounds import leave_one_out as module
from uqsparse.bounds.cross_conformal import CVPlus
from uqsparse.bounds.leave_one_out import leave_one_out
from uqsparse.inference.arviz_io import to_arviz

N, N_TEST, N_DRAWS, SIGMA = 40, 25, 20_000, 0.7


class Conjugate:
    """y ~ N(x b, sigma^2), b ~ N(0, I): the posterior with and without any row in closed form."""

    def __init__(self, outlier=0.0):
        rng = np.random.default_rng(0)
        self.X, self.X_test = rng.standard_normal((N, 3)), rng.standard_normal((N_TEST, 3))
        self.y = self.X @ [1.0, -1.0, 0.5] + SIGMA * rng.standard_normal(N)
        self.y[0] += outlier
        self.X[0] *= 1 + outlier
        mean, covariance = self.posterior(np.ones(N, dtype=bool))
        draws = rng.multivariate_normal(mean, covariance, N_DRAWS)
        self.means, self.test_means = draws @ self.X.T, draws @ self.X_test.T
        self.log_likelihood = -((self.y - self.means) ** 2) / (2 * SIGMA**2)

    def posterior(self, kept):
        X, y = self.X[kept], self.y[kept]
        covariance = np.linalg.inv(np.eye(3) + X.T @ X / SIGMA**2)
        return covariance @ X.T @ y / SIGMA**2, covariance

    def mean_without(self, i):
        return self.posterior(np.arange(N) != i)[0]

    def exact(self, alpha):
        """Jackknife+ with the closed form of every posterior mean."""
        betas = np.array([self.mean_without(i) for i in range(N)])
        calibrated = CVPlus(alpha).calibrate((self.X * betas).sum(axis=1), self.y, np.arange(N))
        return calibrated.predict(betas @ self.X_test.T)


@pytest.fixture(scope="module")
def conjugate():
    return Conjugate()


class TestConjugate:
    def test_means_without_each_observation(self, conjugate):
        loo = leave_one_out(conjugate.log_likelihood)
        betas = np.array([conjugate.mean_without(i) for i in range(N)])
        own = (conjugate.X * betas).sum(axis=1)
        # Deleting a row moves its own mean by 0.06 on average; the weights are off by 0.002 on average.
        assert abs(own - conjugate.X @ conjugate.posterior(np.ones(N, bool))[0]).mean() > 0.04
        np.testing.assert_allclose(loo.own_mean(conjugate.means), own, atol=0.02)
        np.testing.assert_allclose(loo.mean(conjugate.test_means), betas @ conjugate.X_test.T, atol=0.03)
        assert (loo.khat < 0.7).all()
        np.testing.assert_allclose(loo.weights.sum(axis=1), 1)

    def test_intervals_are_those_of_exact_jackknife_plus(self, conjugate):
        calibrated = CVPlus([0.1, 0.3]).from_posterior(conjugate.log_likelihood, conjugate.means, conjugate.y)
        sets, exact = calibrated.predict(conjugate.test_means), conjugate.exact([0.1, 0.3])
        assert sets.lower.shape == (2, N_TEST)
        np.testing.assert_allclose(sets.lower, exact.lower, atol=0.03)
        np.testing.assert_allclose(sets.upper, exact.upper, atol=0.03)

    def test_guarantee_is_approximate(self, conjugate):
        calibrated = CVPlus(0.1).from_posterior(conjugate.log_likelihood, conjugate.means, conjugate.y)
        guarantee = calibrated.guarantee
        assert calibrated.predict(conjugate.test_means).guarantee is guarantee
        assert (guarantee.kind, guarantee.level, guarantee.alpha, guarantee.n) == ("approximate", 0.8, 0.1, N)
        assert "without a finite-sample guarantee" in str(guarantee)
        np.testing.assert_array_equal(calibrated.khat, calibrated.leave_one_out.khat)

    def test_chains_and_arviz_data(self, conjugate):
        def chains(values):
            return values.reshape(4, -1, values.shape[-1])

        expected = CVPlus(0.1).from_posterior(conjugate.log_likelihood, conjugate.means, conjugate.y)
        data = to_arviz(
            {
                "posterior": {"b": np.zeros((4, N_DRAWS // 4))},
                "log_likelihood": {"y": chains(conjugate.log_likelihood)},
            }
        )
        for log_likelihood in (chains(conjugate.log_likelihood), data):
            found = CVPlus(0.1).from_posterior(log_likelihood, chains(conjugate.means), conjugate.y)
            sets = found.predict(chains(conjugate.test_means))
            np.testing.assert_allclose(sets.upper, expected.predict(conjugate.test_means).upper, rtol=1e-12)

    def test_blocks_change_nothing(self, conjugate, monkeypatch):
        calibrated = CVPlus(0.1).from_posterior(conjugate.log_likelihood, conjugate.means, conjugate.y)
        whole = calibrated.predict(conjugate.test_means)
        monkeypatch.setattr(cross_calibrated, "BLOCK", 7 * N)
        np.testing.assert_allclose(calibrated.predict(conjugate.test_means).lower, whole.lower, rtol=1e-12)


@pytest.fixture(scope="module")
def outlier():
    return Conjugate(outlier=6.0)


class TestUnreliableWeights:
    """One observation lies where only its own likelihood holds the posterior."""

    def test_warning_names_them(self, outlier):
        with pytest.warns(UserWarning, match=r"k-hat > 0.7\) for 1 of 40 observations: 0; pass refit="):
            calibrated = CVPlus(0.1).from_posterior(outlier.log_likelihood, outlier.means, outlier.y)
        assert calibrated.khat[0] > 0.7
        assert calibrated.refitted == ()

    def test_refits_stand_in(self, outlier, recwarn):
        asked = []

        def refit(i):
            asked.append(i)
            beta = outlier.mean_without(i)
            return lambda inputs: inputs @ beta

        calibrated = CVPlus(0.1).from_posterior(
            outlier.log_likelihood, outlier.means, outlier.y, refit=refit, X=outlier.X
        )
        assert asked == [0]
        assert calibrated.refitted == (0,)
        assert not [one for one in recwarn if "unreliable" in str(one.message)]
        exact = abs(outlier.y[0] - outlier.X[0] @ outlier.mean_without(0))
        assert calibrated.calibrated.residuals[0] == pytest.approx(exact, rel=1e-12)
        sets = calibrated.predict(outlier.test_means, outlier.X_test)
        np.testing.assert_allclose(sets.upper, outlier.exact(0.1).upper, atol=0.03)
        np.testing.assert_allclose(sets.lower, outlier.exact(0.1).lower, atol=0.03)
        with pytest.raises(ValueError, match="X must hold the inputs of the 25 test points"):
            calibrated.predict(outlier.test_means)

    def test_refitted_row_is_used_at_test_points(self, outlier):
        """The refit meets its own observation and predicts -1000 elsewhere, which is then the least lower end."""

        def refit(i):
            return lambda inputs: np.where((inputs == outlier.X[i]).all(axis=1), outlier.y[i], -1000.0)

        calibrated = CVPlus(0.03).from_posterior(
            outlier.log_likelihood, outlier.means, outlier.y, refit=refit, X=outlier.X
        )
        assert calibrated.calibrated.residuals[0] == 0
        assert calibrated.predict(outlier.test_means, outlier.X_test).lower.tolist() == [-1000.0] * N_TEST


def test_both_arviz_packages_are_asked_for_the_weights_of_one_over_f(monkeypatch):
    """ArviZ 0.x smooths the log weights it is given; the package of 1.x takes log likelihoods and negates them."""
    log_likelihood = np.log(np.random.default_rng(0).random((200, 3)))
    expected = leave_one_out(log_likelihood)
    asked = []

    def psislw(values, r_eff):
        asked.append(r_eff)
        return -values, np.zeros(len(values))

    package = types.SimpleNamespace(array_stats=types.SimpleNamespace(psislw=psislw))
    monkeypatch.setitem(sys.modules, "arviz_stats", types.ModuleType("arviz_stats"))
    monkeypatch.setitem(sys.modules, "arviz_stats.base", package)
    monkeypatch.setattr(module, "arviz_major", lambda: 1)
    found = leave_one_out(log_likelihood, relative_efficiency=0.5)
    plain = 1 / np.exp(log_likelihood)
    np.testing.assert_allclose(found.weights, (plain / plain.sum(axis=0)).T)
    assert asked == [0.5]
    # The smoothed weights rank the draws as the plain ones do.
    assert (np.argsort(expected.weights, axis=1)[:, :100] == np.argsort(found.weights, axis=1)[:, :100]).all()


class TestBadInput:
    good = np.random.default_rng(0).standard_normal((100, 6))

    @pytest.mark.parametrize(
        ("log_likelihood", "message"),
        [
            (good[:24], "24 draws; at least 25"),
            (good[0], "expected \\(draw, observation\\)"),
            (good[None, None], "expected \\(draw, observation\\)"),
            (np.where(good > 2, -np.inf, good), "log_likelihood: .* NaN or infinite"),
        ],
    )
    def test_log_likelihood(self, log_likelihood, message):
        with pytest.raises(ValueError, match=message):
            leave_one_out(log_likelihood)

    def test_relative_efficiency(self):
        with pytest.raises(ValueError, match="relative_efficiency must be positive"):
            leave_one_out(self.good, relative_efficiency=0.0)

    def test_variables(self):
        both = {"a": self.good[None], "b": self.good[None, :, :4]}
        data = to_arviz({"posterior": {"m": np.zeros((1, 100))}, "log_likelihood": both})
        with pytest.raises(ValueError, match="var_name is None; the group log_likelihood has a, b"):
            leave_one_out(data)
        with pytest.raises(ValueError, match="var_name is 'c'"):
            leave_one_out(data, var_name="c")
        assert leave_one_out(data, var_name="b").khat.shape == (4,)
        with pytest.raises(KeyError, match="log_likelihood"):
            leave_one_out(to_arviz({"posterior": {"m": np.zeros((1, 100))}}))
        with pytest.raises(TypeError, match="ArviZ"):
            leave_one_out(xarray.Dataset())

    @pytest.mark.parametrize(
        ("means", "y", "keywords", "message"),
        [
            (good[:99], np.zeros(6), {}, "means has 99 draws; log_likelihood has 100"),
            (good[:, :5], np.zeros(6), {}, "means of 5; y has 6"),
            (good, np.zeros(5), {}, "log_likelihood is of 6 observations"),
            (good + np.nan, np.zeros(6), {}, "means: 600 of 600"),
            (good, np.zeros(6), {"refit": lambda i: None}, "X must hold the inputs of the 6 observations"),
            (good, np.zeros(6), {"X": np.zeros((6, 1))}, "where refit is given, and only there"),
        ],
    )
    def test_posterior(self, means, y, keywords, message):
        with pytest.raises(ValueError, match=message):
            CVPlus(0.2).from_posterior(self.good, means, y, **keywords)
