"""CV+ of scikit-learn regressors."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GroupKFold, KFold, LeaveOneOut, ShuffleSplit, TimeSeriesSplit

from uqsparse.bounds import cross_calibrated
from uqsparse.bounds.cross_conformal import CVPlus

rng = np.random.default_rng(0)
X = rng.standard_normal((60, 3))
Y = X @ [1.0, -2.0, 0.5] + rng.standard_normal(60)
X_TEST = rng.standard_normal((40, 3))


def _assert_same(one, other):
    np.testing.assert_allclose(one.lower, other.lower, rtol=1e-10)
    np.testing.assert_allclose(one.upper, other.upper, rtol=1e-10)


def test_equals_fitting_each_fold_by_hand():
    folds, own, test = np.empty(60, dtype=int), np.empty(60), []
    for k, (train, rest) in enumerate(KFold(4).split(X)):
        model = LinearRegression().fit(X[train], Y[train])
        folds[rest], own[rest] = k, model.predict(X[rest])
        test.append(model.predict(X_TEST))
    expected = CVPlus(0.1).calibrate(own, Y, folds).predict(np.stack(test))
    fitted = CVPlus(0.1).fit(LinearRegression(), X, Y, cv=KFold(4))
    _assert_same(fitted.predict(X_TEST), expected)
    assert fitted.guarantee == expected.guarantee
    assert len(fitted.models) == 4


def test_jackknife_plus_of_least_squares_by_its_closed_form():
    """Leaving row i out changes a prediction by the leverage formula, without fitting again."""
    design = np.column_stack([np.ones(60), X])
    inverse = np.linalg.inv(design.T @ design)
    beta, leverage = inverse @ design.T @ Y, np.einsum("ij,jk,ik->i", design, inverse, design)
    residual = (Y - design @ beta) / (1 - leverage)
    betas = beta[:, None] - inverse @ design.T * residual
    test = np.column_stack([np.ones(40), X_TEST]) @ betas
    centre_up, centre_down = np.sort(test + abs(residual), axis=1), np.sort(test - abs(residual), axis=1)
    fitted = CVPlus(0.1).fit(LinearRegression(), X, Y, cv="loo")
    sets = fitted.predict(X_TEST)
    np.testing.assert_allclose(sets.upper, centre_up[:, 54], rtol=1e-9)  # ceil(0.9 * 61) = 55
    np.testing.assert_allclose(sets.lower, centre_down[:, 5], rtol=1e-9)  # floor(0.1 * 61) = 6
    assert fitted.guarantee.level == 0.8


def test_blocks_change_nothing(monkeypatch):
    fitted = CVPlus([0.1, 0.2]).fit(Ridge(), X, Y, cv=KFold(5))
    whole = fitted.predict(X_TEST)
    monkeypatch.setattr(cross_calibrated, "BLOCK", 35)
    blocks = fitted.predict(X_TEST)
    np.testing.assert_allclose(blocks.upper, whole.upper, rtol=1e-12)
    assert blocks.upper.shape == (2, 40)
    assert blocks.guarantee == whole.guarantee


def test_random_state_repeats_and_the_estimator_is_left_alone():
    estimator = Ridge()
    first, again, other = (
        CVPlus(0.1).fit(estimator, X, Y, random_state=seed).predict(X_TEST) for seed in (0, np.random.RandomState(0), 1)
    )
    _assert_same(first, again)
    assert (first.lower != other.lower).any()
    assert not hasattr(estimator, "coef_")


def test_a_bar_changes_nothing(capsys):
    with_bar = CVPlus(0.1).fit(Ridge(), X, Y, random_state=0, progress=True).predict(X_TEST)
    capsys.readouterr()
    _assert_same(with_bar, CVPlus(0.1).fit(Ridge(), X, Y, random_state=0).predict(X_TEST))
    assert capsys.readouterr().out == ""


def test_frames_sparse_matrices_and_lists():
    pandas = pytest.importorskip("pandas")
    expected = CVPlus(0.1).fit(Ridge(), X, Y, cv=KFold(5)).predict(X_TEST)
    columns = ["a", "b", "c"]
    frame, test = pandas.DataFrame(X, columns=columns), pandas.DataFrame(X_TEST, columns=columns)
    shuffled = frame.set_index(np.arange(60)[::-1])
    _assert_same(CVPlus(0.1).fit(Ridge(), shuffled, Y, cv=KFold(5)).predict(test), expected)
    _assert_same(CVPlus(0.1).fit(Ridge(), X.tolist(), Y.tolist(), cv=KFold(5)).predict(X_TEST.tolist()), expected)
    found = CVPlus(0.1).fit(Ridge(), scipy.sparse.coo_array(X), Y, cv=KFold(5))
    assert np.isfinite(found.predict(scipy.sparse.csr_array(X_TEST)).upper).all()


class TestGroups:
    groups = np.arange(60) // 3

    def test_folds_are_of_groups(self):
        fitted = CVPlus(0.1).fit(Ridge(), X, Y, groups=self.groups)
        _assert_same(
            fitted.predict(X_TEST),
            CVPlus(0.1).fit(Ridge(), X, Y, groups=self.groups, cv=GroupKFold(5)).predict(X_TEST),
        )
        assert fitted.guarantee.n == 20

    def test_one_a_group_by_the_random_state(self):
        method = CVPlus(0.1, within_group="one")
        first, again, other = (
            method.fit(Ridge(), X, Y, groups=self.groups, cv="loo", random_state=seed).calibrated.residuals
            for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()

    @pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
    def test_folds_that_tear_them_apart(self):
        with pytest.raises(ValueError, match="tear groups apart"):
            CVPlus(0.1).fit(Ridge(), X, Y, groups=self.groups, cv=LeaveOneOut())


class _Column(RegressorMixin, BaseEstimator):
    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.zeros((len(X), 2))


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"cv": 1}, ValueError, "cv must be an integer of at least 2"),
        ({"cv": 2.5}, ValueError, "cv must be an integer"),
        ({"cv": "jackknife"}, ValueError, "cv must be a number of folds, 'loo'"),
        ({"cv": 61}, ValueError, "n_splits=61"),
        ({"cv": TimeSeriesSplit(3)}, ValueError, "15 of 60 rows are not tested exactly once"),
        ({"cv": ShuffleSplit(3, random_state=0)}, ValueError, "not tested exactly once"),
        ({"cv": [(np.arange(60), np.arange(30)), (np.arange(30), np.arange(30, 60))]}, ValueError, "fold 0"),
        ({"y": Y[:50]}, ValueError, "X has 60 rows, y 50"),
        ({"groups": np.arange(50)}, ValueError, "groups 50"),
        ({"y": np.append(Y[:59], np.nan)}, ValueError, "y: 1 of 60"),
        ({"estimator": DummyClassifier()}, TypeError, "regressor"),
        ({"estimator": object()}, TypeError, "regressor"),
        ({"estimator": _Column()}, ValueError, r"shape \(12, 2\) for 12 rows"),
    ],
)
def test_bad_input(keywords, error, message):
    arguments = {"estimator": Ridge(), "X": X, "y": Y, **keywords}
    with pytest.raises(error, match=message):
        CVPlus(0.1).fit(**arguments)
