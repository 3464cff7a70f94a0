"""CV+ and jackknife+ from arrays, against plain Python, MAPIE and the coverage they promise."""

import math
import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.bounds.cross_calibrated import cross_level
from uqsparse.bounds.cross_conformal import CVPlus
from uqsparse.inference.arviz_io import dataset

ALPHAS = ("0.01", "0.05", "0.1", "0.2", "0.3", "0.5")


def brute_force(predictions, y, folds, test, alpha):
    """Both ends by the definition, in plain Python; alpha is the text of a decimal."""
    exact, n = Fraction(alpha), len(y)
    ends = []
    for point in zip(*test, strict=True):
        residuals = [abs(float(target) - float(mean)) for target, mean in zip(y, predictions, strict=True)]
        low = sorted(point[fold] - residual for fold, residual in zip(folds, residuals, strict=True))
        high = sorted(point[fold] + residual for fold, residual in zip(folds, residuals, strict=True))
        first, last = math.floor(exact * (n + 1)), math.ceil((1 - exact) * (n + 1))
        ends.append((low[first - 1] if first else -math.inf, high[last - 1] if last <= n else math.inf))
    return np.array(ends).T


@st.composite
def _problems(draw):
    k = draw(st.integers(2, 5))
    folds = draw(st.permutations([*range(k), *draw(st.lists(st.integers(0, k - 1), max_size=30))]))
    number = st.integers(-20, 20).map(lambda step: step * 0.3)
    of_rows = st.lists(number, min_size=len(folds), max_size=len(folds))
    test = draw(st.lists(st.lists(number, min_size=3, max_size=3), min_size=k, max_size=k))
    return draw(of_rows), draw(of_rows), folds, test


@given(_problems(), st.sampled_from(ALPHAS))
@pytest.mark.filterwarnings("ignore:a threshold is infinite")
def test_equals_the_definition(problem, alpha):
    predictions, y, folds, test = problem
    sets = CVPlus(float(alpha)).calibrate(predictions, y, folds).predict(np.array(test))
    lower, upper = brute_force(predictions, y, folds, test, alpha)
    np.testing.assert_array_equal(sets.lower, lower)
    np.testing.assert_array_equal(sets.upper, upper)
    assert (sets.lower <= sets.upper).all()


@pytest.mark.parametrize("alpha", ALPHAS[:-1])
def test_ranks_are_exact(alpha):
    """Jackknife+ whose models all predict 0: the ends show their ranks. 1 - 0.9 is a little less than 0.1 in binary."""
    for n in (*range(5, 60), *range(60, 401, 20), 119, 219, 399):
        rank = math.ceil((1 - Fraction(alpha)) * (n + 1))
        if rank > n:
            continue
        for given_alpha in (float(alpha), 1 - float(1 - Fraction(alpha))):
            residuals = np.arange(1.0, n + 1)
            sets = CVPlus(given_alpha).calibrate(np.zeros(n), residuals, np.arange(n)).predict(np.zeros((n, 1)))
            assert (sets.lower[0], sets.upper[0]) == (-rank, rank)


def _regression(n, rng, n_test=50):
    X = rng.standard_normal((n + n_test, 3))
    y = X @ [1.0, -2.0, 0.5] + rng.standard_t(3, n + n_test)
    return X[:n], y[:n], X[n:]


class TestAgainstMapie:
    @pytest.fixture
    def peer(self):
        return pytest.importorskip("mapie.regression").CrossConformalRegressor

    @pytest.mark.parametrize("folds", [3, 5, "loo"])
    @pytest.mark.parametrize("confidence", [0.9, 0.8])
    def test_same_intervals(self, peer, folds, confidence):
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import KFold, LeaveOneOut

        X, y, X_test = _regression(83, np.random.default_rng(0))
        cv = LeaveOneOut() if folds == "loo" else KFold(folds)
        theirs = peer(Ridge(), confidence_level=confidence, method="plus", cv=cv).fit_conformalize(X, y)
        expected = theirs.predict_interval(X_test)[1][:, :, 0].T
        sets = CVPlus(round(1 - confidence, 6)).fit(Ridge(), X, y, cv=cv).predict(X_test)
        np.testing.assert_allclose([sets.lower, sets.upper], expected, rtol=1e-12)

    def test_its_lower_rank_is_rounded_up_at_some_n(self, peer):
        """At n = 59 and 0.95 the third smallest is asked for: 0.05 * 60 = 3. MAPIE takes the second."""
        from sklearn.dummy import DummyRegressor
        from sklearn.model_selection import KFold

        y = np.random.default_rng(1).standard_normal(59)
        X, cv = np.zeros((59, 1)), KFold(3)
        theirs = peer(DummyRegressor(), confidence_level=0.95, method="plus", cv=cv).fit_conformalize(X, y)
        (lower, upper) = theirs.predict_interval(X[:1])[1][0, :, 0]
        sets = CVPlus(0.05).fit(DummyRegressor(), X, y, cv=cv).predict(X[:1])
        assert sets.upper[0] == pytest.approx(upper, rel=1e-12)
        assert sets.lower[0] > lower + 1e-6

    def test_infinite_where_it_raises(self, peer):
        from sklearn.dummy import DummyRegressor

        X, y = np.zeros((12, 1)), np.arange(12.0)
        with pytest.raises(ValueError, match="too low"):
            peer(DummyRegressor(), confidence_level=0.95, cv=3).fit_conformalize(X, y).predict_interval(X)
        with pytest.warns(UserWarning, match="12 residuals are too few for alpha = 0.05"):
            sets = CVPlus(0.05).fit(DummyRegressor(), X, y, cv=3).predict(X)
        assert np.isneginf(sets.lower).all()
        assert np.isposinf(sets.upper).all()


class TestGuarantee:
    def test_jackknife_plus(self):
        guarantee = CVPlus(0.1).calibrate(np.zeros(30), np.arange(30.0), np.arange(30)).guarantee
        assert (guarantee.kind, guarantee.level, guarantee.alpha, guarantee.n) == ("marginal", 0.8, 0.1, 30)

    @pytest.mark.parametrize(("n", "k"), [(100, 5), (100, 50), (1000, 10), (6, 2)])
    def test_theorem_4(self, n, k):
        first = 2 * (1 - Fraction(1, k)) / (Fraction(n, k) + 1)
        second = (1 - Fraction(k, n)) / (k + 1)
        level = cross_level(0.05, np.full(k, n // k))
        assert level == pytest.approx(float(1 - Fraction(1, 10) - min(first, second)), abs=1e-11)
        assert level >= 0.9 - math.sqrt(2 / n)

    def test_folds_of_several_sizes_have_the_first_bound_only(self):
        assert cross_level(0.1, np.array([1, 1, 2])) == pytest.approx(0.8 - 4 / 7)

    def test_a_level_below_zero_is_zero(self):
        assert cross_level(0.6, np.ones(9)) == 0.0

    def test_several_levels(self):
        calibrated = CVPlus([0.1, 0.2]).calibrate(np.zeros(30), np.arange(30.0), np.arange(30))
        assert calibrated.guarantee.level == (0.8, 0.6)
        sets = calibrated.predict(np.zeros((30, 4)))
        assert sets.lower.shape == (2, 4)
        one = CVPlus(0.2).calibrate(np.zeros(30), np.arange(30.0), np.arange(30)).predict(np.zeros((30, 4)))
        np.testing.assert_array_equal(sets.upper[1], one.upper)

    def test_to_arviz(self):
        sets = CVPlus(0.1).calibrate(np.zeros(30), np.arange(30.0), np.arange(30)).predict(np.zeros((30, 4)))
        group = dataset(sets.to_arviz(), "conformal")
        assert (group.attrs["guarantee"], group.attrs["level"], group.attrs["alpha"]) == ("marginal", 0.8, 0.1)
        np.testing.assert_array_equal(group["upper"], sets.upper)


@pytest.mark.parametrize("k", [4, 40])
def test_coverage(k):
    """Means as models, 600 data sets of n = 40, 20 test points each: about 1 - alpha, and the promise is .8 or less.

    The share covered has a standard error below .0035 and lies within .01 of .9 here; five of them more are allowed, so
    that a right implementation falls out with a probability below 1e-6.
    """
    rng = np.random.default_rng(k)
    folds = np.arange(40) % k
    covered = []
    for _ in range(600):
        y = rng.standard_t(2, 60)
        sizes, sums = np.bincount(folds), np.bincount(folds, weights=y[:40])
        means = (sums.sum() - sums) / (40 - sizes)
        sets = CVPlus(0.1).calibrate(means[folds], y[:40], folds).predict(np.tile(means[:, None], 20))
        covered.append(sets.contains(y[40:]).mean())
    assert 0.89 - 5 * 0.0035 < np.mean(covered) < 0.91 + 5 * 0.0035


class TestGroups:
    def test_largest_residual_of_each_group(self):
        y = np.array([1.0, 5.0, 2.0, 7.0, 3.0, 4.0])
        groups, folds = np.array(["a", "a", "b", "b", "c", "c"]), np.array([1, 1, 0, 0, 1, 1])
        calibrated = CVPlus(0.4).calibrate(np.zeros(6), y, folds, groups=groups)
        expected = CVPlus(0.4).calibrate(np.zeros(3), [5.0, 7.0, 4.0], [1, 0, 1])
        np.testing.assert_array_equal(calibrated.residuals, expected.residuals)
        assert (calibrated.starts, calibrated.guarantee.n) == (expected.starts, 3)
        assert "all of a new group" in calibrated.guarantee.assumptions[0]

    def test_one_at_random(self):
        y, groups = np.arange(200.0), np.arange(200) // 4
        method = CVPlus(0.1, within_group="one")

        def calibrated(seed):
            return method.calibrate(np.zeros(200), y, groups % 5, groups=groups, key=jax.random.key(seed))

        first, second = calibrated(0).residuals, calibrated(1).residuals
        assert sorted(first // 4) == list(range(50))
        assert (first != second).any()
        np.testing.assert_array_equal(first, calibrated(0).residuals)
        with pytest.raises(ValueError, match="key is missing"):
            method.calibrate(np.zeros(200), y, groups % 5, groups=groups)

    def test_groups_that_folds_tear_apart_are_refused(self):
        with pytest.raises(ValueError, match="tear groups apart"):
            CVPlus().calibrate(np.zeros(6), np.arange(6.0), np.arange(6) % 2, groups=[0, 0, 1, 1, 2, 2])


class TestJax:
    def test_in_jax_and_out_and_inside_jit(self):
        rng = np.random.default_rng(5)
        predictions, y = rng.standard_normal((2, 60)).astype(np.float32)
        test = rng.standard_normal((3, 7)).astype(np.float32)
        folds = np.arange(60) % 3
        expected = CVPlus(0.1).calibrate(predictions, y, folds).predict(test)
        calibrated = CVPlus(0.1).calibrate(jnp.asarray(predictions), jnp.asarray(y), folds)
        outside = calibrated.predict(jnp.asarray(test))
        inside = jax.jit(lambda record, values: record.predict(values))(calibrated, test)
        for sets in (outside, inside):
            assert isinstance(sets.upper, jax.Array)
            np.testing.assert_array_equal(sets.upper, expected.upper)
            np.testing.assert_array_equal(sets.lower, expected.lower)
        assert inside.guarantee == expected.guarantee


class TestBadInput:
    @pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan"), []])
    def test_alpha(self, alpha):
        with pytest.raises(ValueError, match="alpha"):
            CVPlus(alpha)

    def test_within_group(self):
        with pytest.raises(ValueError, match="within_group"):
            CVPlus(within_group="mean")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("predictions", "y", "folds", "message"),
        [
            (np.zeros(4), np.zeros(5), np.arange(5), r"predictions have shape \(4,\)"),
            (np.zeros((5, 1)), np.zeros(5), np.arange(5), r"predictions have shape \(5, 1\)"),
            (np.zeros(5), np.array([0, 1, np.nan, 2, 3]), np.arange(5), "y: 1 of 5 numbers"),
            (np.array([0, np.inf, 1, 2, np.nan]), np.zeros(5), np.arange(5), "predictions: 2 of 5 numbers"),
            (np.zeros(5), np.zeros((5, 1)), np.arange(5), "y has shape"),
            (np.zeros(0), np.zeros(0), np.arange(0), "y has shape"),
            (np.zeros(5), np.zeros(5), np.arange(4), "folds has shape"),
            (np.zeros(5), np.zeros(5), np.arange(5.0), "folds must be integers"),
            (np.zeros(5), np.zeros(5), np.arange(5) - 1, "folds must be integers"),
            (np.zeros(5), np.zeros(5), np.array([0, 0, 2, 2, 3]), r"empty: \[1\]"),
            (np.zeros(5), np.zeros(5), np.zeros(5, dtype=int), "k = 1"),
        ],
    )
    def test_calibration(self, predictions, y, folds, message):
        with pytest.raises(ValueError, match=message):
            CVPlus().calibrate(predictions, y, folds)

    @pytest.mark.parametrize(
        ("test", "message"),
        [
            (np.zeros((2, 5)), r"expected \(3, n_test\)"),
            (np.zeros(3), r"expected \(3, n_test\)"),
            (np.full((3, 2), np.nan), "6 of 6 numbers are NaN"),
        ],
    )
    def test_prediction(self, test, message):
        calibrated = CVPlus().calibrate(np.zeros(30), np.arange(30.0), np.arange(30) % 3)
        with pytest.raises(ValueError, match=message):
            calibrated.predict(test)

    def test_texts(self):
        with pytest.raises(TypeError, match="y has dtype"):
            CVPlus().calibrate(np.zeros(2), ["a", "b"], np.arange(2))

    def test_enough_residuals_are_no_cause_for_warnings(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            CVPlus(0.1).calibrate(np.zeros(9), np.arange(9.0), np.arange(9)).predict(np.zeros((9, 1)))

    def test_whole_numbers_may_have_infinite_intervals(self):
        with pytest.warns(UserWarning, match="too few"):
            sets = (
                CVPlus(0.1).calibrate(np.zeros(4, dtype=int), np.arange(4), np.arange(4)).predict(np.zeros((4, 1), int))
            )
        assert np.isposinf(sets.upper[0])
