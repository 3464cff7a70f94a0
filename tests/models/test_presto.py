"""PRESTO as an estimator: scikit-learn's contract, selection by folds, the policies of order, and the door."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

import uqsparse.models.ordinal_path
import uqsparse.models.presto
from uqsparse.models.presto import PrestoClassifier, fit_ordinal_path

# Rows so many that whole tables, folds and weighted ones are filled up to the same size, and share their programs.
N, P = 480, 3


def draw(seed, n=N):
    """Four classes; the last boundary has weights of its own, so that raw probabilities can be negative."""
    rng = np.random.default_rng(seed)
    X = rng.normal([0.0, 5.0, -1.0], [1.0, 3.0, 0.1], (n, P))
    Z = (X - [0.0, 5.0, -1.0]) / [1.0, 3.0, 0.1]
    eta = np.sort(np.array([-0.5, 1.0, 2.0]) + Z[:, :1] + Z[:, 1:2] * np.array([0.0, 0.0, 1.0]), axis=1)
    return X, (rng.uniform(size=(n, 1)) > 1 / (1 + np.exp(-eta))).sum(1)


@pytest.fixture(scope="module")
def data():
    return draw(0)


@pytest.fixture(scope="module")
def fitted(data):
    return PrestoClassifier(n_lambdas=8, cv=3).fit(*data)


TWO_CLASSES = "it uses data of two classes, which is a logistic regression"
EXPECTED = dict.fromkeys(
    [
        "check_estimators_dtypes",
        "check_sample_weights_pandas_series",
        "check_sample_weights_not_an_array",
        "check_all_zero_sample_weights_error",
        "check_sample_weights_shape",
        "check_sample_weights_not_overwritten",
        "check_pipeline_consistency",
        "check_estimators_nan_inf",
        "check_estimators_pickle",
        "check_classifier_data_not_an_array",
        "check_classifiers_train",
        "check_fit2d_1feature",
        "check_fit_idempotent",
        "check_fit_check_is_fitted",
        "check_n_features_in",
    ],
    TWO_CLASSES,
) | {"check_classifiers_classes": "it uses strings that have no order"}


@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_accepts_it():
    check_estimator(PrestoClassifier(lambdas=[0.01], cv=None), expected_failed_checks=EXPECTED)


@pytest.mark.filterwarnings("ignore")
def test_the_checks_of_two_classes_pass_where_two_are_allowed(monkeypatch):
    """Two classes are refused at the door only, so that all but the strings can be checked behind it."""
    monkeypatch.setattr(uqsparse.models.presto, "LEAST_CLASSES", 2)
    monkeypatch.setattr(uqsparse.models.ordinal_path, "LEAST_CLASSES", 2)
    for model, check in estimator_checks_generator(PrestoClassifier(lambdas=[0.01], cv=None)):
        if EXPECTED.get(check.func.__name__) == TWO_CLASSES:
            check(model)


def test_the_path_comes_with_its_evidence(data, fitted):
    path = fitted.path_
    assert path.coefs.shape == (8, 3, P)
    assert np.max(path.gap) <= 1e-8
    assert path.converged.all()
    assert path.n_nonzero[0] == 0
    assert (np.diff(path.objective) < 0).all()
    np.testing.assert_allclose(np.cumsum(path.differences, axis=1), path.coefs)
    assert np.array_equal(fitted.coef_, path.coefs[fitted.best_index_])
    assert fitted.best_lambda_ == path.lambdas[fitted.best_index_] == path.lambdas[np.argmin(fitted.cv_scores_)]
    again = fit_ordinal_path(*data, n_classes=4, penalty_factors=np.ones(3), n_lambdas=8)
    np.testing.assert_allclose(again.coefs, path.coefs)
    # The objective, from the coefficients in the units given.
    at = 5
    eta = path.intercepts[at] + data[0] @ path.coefs[at].T
    cumulative = np.c_[np.zeros(N), 1 / (1 + np.exp(-eta)), np.ones(N)]
    nll = -np.log(np.diff(cumulative, axis=1)[np.arange(N), data[1]]).mean()
    cost = np.abs(path.differences[at] * data[0].std(axis=0)).sum()
    assert path.objective[at] == pytest.approx(nll + path.lambdas[at] * cost, abs=1e-12)


@pytest.mark.parametrize(("scoring", "first"), [("brier", 1.0), ("log_loss", 0.0)])
def test_folds_as_weights_are_fits_to_the_other_rows(data, scoring, first):
    """Each fold on its own, standardised on its own rows, through the public function."""
    X, y = data
    model = PrestoClassifier(first_penalty=first, n_lambdas=8, cv=3, scoring=scoring).fit(X, y)
    lambdas, factors = model.path_.lambdas, [first, 1.0, 1.0]
    totals = np.zeros(8)
    for train, test in StratifiedKFold(3).split(X, y):
        path = fit_ordinal_path(X[train], y[train], n_classes=4, penalty_factors=factors, lambdas=lambdas)
        for k in range(8):
            eta = np.sort(path.intercepts[k] + X[test] @ path.coefs[k].T, axis=1)
            cumulative = np.c_[np.zeros(len(test)), 1 / (1 + np.exp(-eta)), np.ones(len(test))]
            probabilities = np.diff(cumulative, axis=1)
            if scoring == "brier":
                totals[k] += ((probabilities - np.eye(4)[y[test]]) ** 2).sum()
            else:
                totals[k] -= np.log(probabilities[np.arange(len(test)), y[test]]).sum()
    np.testing.assert_allclose(model.cv_scores_, totals / N, atol=1e-7)


def test_ties_go_to_the_larger_penalty(data):
    model = PrestoClassifier(lambdas=np.linspace(10.0, 17.0, 8), cv=3).fit(*data)
    assert np.ptp(model.cv_scores_) < 1e-12
    assert np.argmin(model.cv_scores_) == model.best_index_
    tied = PrestoClassifier(lambdas=np.full(8, 0.01), cv=3).fit(*data)
    assert tied.best_index_ == int(np.argmin(tied.cv_scores_))


def test_weights_are_repeated_rows(data):
    X, y = data
    counts = np.random.default_rng(1).permutation(np.arange(N) % 3)
    weighted = PrestoClassifier(lambdas=[0.005], cv=None).fit(X, y, sample_weight=counts)
    repeated = PrestoClassifier(lambdas=[0.005], cv=None).fit(np.repeat(X, counts, 0), np.repeat(y, counts))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-8)


def test_units_of_the_features_do_not_matter(data, fitted):
    X, y = data
    other = PrestoClassifier(n_lambdas=8, cv=3).fit(3.0 * X + 7.0, y)
    np.testing.assert_allclose(other.predict_proba(3.0 * X + 7.0), fitted.predict_proba(X), atol=1e-8)


def test_policies_of_order(data):
    X, y = data
    far = 3.0 * (X - X.mean(axis=0)) + X.mean(axis=0)
    models = {
        name: PrestoClassifier(lambdas=[1e-3], cv=None, monotone=name).fit(X, y)
        for name in ("ignore", "raise", "sort", "box")
    }
    raw = models["ignore"].predict_proba(far)
    assert raw.min() < 0
    np.testing.assert_allclose(raw.sum(axis=1), 1.0)
    with pytest.raises(ValueError, match=r"boundaries cross in \d+ of 480 rows"):
        models["raise"].predict_proba(far)
    for name in ("sort", "box"):
        found = models[name].predict_proba(far)
        assert found.min() >= 0
        np.testing.assert_allclose(found.sum(axis=1), 1.0)
    # In the box of the training rows, corners too, boundaries never cross.
    corners = np.array(np.meshgrid(*zip(X.min(0), X.max(0), strict=True))).reshape(P, -1).T
    box = models["box"]
    assert np.diff(box.intercept_ + corners @ box.coef_.T, axis=1).min() >= -1e-9
    assert np.diff(models["sort"].intercept_ + corners @ models["sort"].coef_.T, axis=1).min() < -0.1
    assert box.path_.converged[0]
    assert box.path_.gap[0] < 1e-6
    assert box.path_.objective[0] > models["sort"].path_.objective[0]


def test_sorting_is_never_further_from_a_monotone_truth():
    rng = np.random.default_rng(0)
    truth, raw = np.sort(rng.normal(size=(500, 3)), axis=1), rng.normal(size=(500, 3))
    assert (((np.sort(raw, axis=1) - truth) ** 2).sum(1) <= ((raw - truth) ** 2).sum(1) + 1e-12).all()


def test_the_order_of_labels_is_given_or_that_of_numbers_or_categories(data, fitted):
    pd = pytest.importorskip("pandas")
    X, y = data
    names = np.array(["none", "mild", "bad", "worst"])
    settings = {"n_lambdas": 8, "cv": 3}
    named = PrestoClassifier(classes=list(names), **settings).fit(X, names[y])
    assert named.classes_.tolist() == names.tolist()
    np.testing.assert_allclose(named.coef_, fitted.coef_)
    assert set(named.predict(X)) <= set(names)
    ordered = pd.Series(pd.Categorical.from_codes(y, categories=list(names), ordered=True))
    np.testing.assert_allclose(PrestoClassifier(**settings).fit(X, ordered).coef_, fitted.coef_)
    numbers = PrestoClassifier(**settings).fit(X, 10.0 * y - 5.0)
    assert numbers.classes_.tolist() == [-5.0, 5.0, 15.0, 25.0]
    for unordered in (names[y], pd.Series(names[y]), pd.Series(pd.Categorical.from_codes(y, categories=list(names)))):
        with pytest.raises(ValueError, match="labels without an order"):
            PrestoClassifier().fit(X, unordered)


def test_the_first_penalty_decides_where_the_path_starts(data):
    odds = fit_ordinal_path(*data, n_classes=4, penalty_factors=[0.0, 1.0, 1.0], n_lambdas=8)
    first = odds.coefs[0]
    assert np.abs(first[0]).min() > 0
    assert (first == first[0]).all()
    assert np.max(odds.gap) <= 1e-8


def test_the_elastic_net_shrinks_and_its_gap_closes(data):
    path = fit_ordinal_path(*data, n_classes=4, penalty_factors=np.ones(3), n_lambdas=8, l1_ratio=0.5)
    ridge = fit_ordinal_path(*data, n_classes=4, penalty_factors=np.ones(3), n_lambdas=8, l1_ratio=0.0)
    assert path.converged.all()
    assert ridge.converged.all()
    assert path.n_nonzero[0] == 0
    assert (ridge.n_nonzero == 9).all()


def test_more_columns_than_a_dense_problem_takes(data):
    """Noise columns, so many that the path goes by working sets."""
    X, y = data
    wide = np.c_[X, np.random.default_rng(0).normal(size=(N, 100))]
    path = fit_ordinal_path(wide, y, n_classes=4, penalty_factors=np.ones(3), n_lambdas=2, lambda_min_ratio=0.7)
    assert path.converged.all()
    assert np.max(path.gap) < 1e-8
    assert path.n_nonzero[-1] > 0


def test_bad_arguments_are_refused_by_name(data):
    X, y = data
    for settings, message in [
        ({"first_penalty": -1.0}, "first_penalty must be a finite nonnegative number, got -1.0"),
        ({"first_penalty": np.nan}, "first_penalty"),
        ({"lambdas": [0.1, -0.1]}, "lambdas must be finite and nonnegative"),
        ({"lambdas": [np.inf]}, "lambdas must be finite"),
        ({"lambdas": []}, "lambdas"),
        ({"n_lambdas": 0}, "n_lambdas must be an integer of at least 1"),
        ({"lambda_min_ratio": 1.0}, "lambda_min_ratio must lie strictly between 0 and 1"),
        ({"scoring": "auc"}, "scoring must be one of 'brier', 'log_loss'"),
        ({"monotone": "yes"}, "monotone must be one of"),
        ({"l1_ratio": 1.5}, r"l1_ratio must lie in \[0, 1\]"),
        ({"cv": None}, "cv=None leaves nothing to choose among 20 penalties by"),
        ({"classes": [0, 1, 2, 2]}, "classes must be a list of distinct labels"),
        ({"classes": [0, 1, 2]}, "labels that are not in classes: 3"),
        ({"classes": [0, 1, 2, 3, 4]}, "class 4 has no row"),
    ]:
        with pytest.raises(ValueError, match=message):
            PrestoClassifier(**settings).fit(X, y)


def test_bad_data_is_refused_by_name(data):
    X, y = data
    for bad in (np.nan, np.inf):
        broken = X.copy()
        broken[3, 1] = bad
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            PrestoClassifier().fit(broken, y)
        with pytest.raises(ValueError, match="X must be a finite table"):
            fit_ordinal_path(broken, y, n_classes=4, penalty_factors=np.ones(3))
    with pytest.raises(ValueError, match=r"0 feature\(s\)"):
        PrestoClassifier().fit(X[:, :0], y)
    with pytest.raises(ValueError, match="at least 3 classes"):
        PrestoClassifier().fit(X, y > 1)
    weights = np.where(y == 2, 0.0, 1.0)
    with pytest.raises(ValueError, match="class 2 has no row of positive weight"):
        PrestoClassifier().fit(X, y, sample_weight=weights)
    with pytest.raises(ValueError, match="class 2 of 4 has none"):
        fit_ordinal_path(X, y, n_classes=4, penalty_factors=np.ones(3), weights=weights)
    with pytest.raises(ValueError, match="n_classes must be an integer of at least 3"):
        fit_ordinal_path(X, y > 1, n_classes=2, penalty_factors=np.ones(1))
    with pytest.raises(ValueError, match="penalty_factors must be 3 nonnegative numbers"):
        fit_ordinal_path(X, y, n_classes=4, penalty_factors=[1.0, -1.0, 1.0])
    with pytest.raises(ValueError, match=r"y must be coded 0 \.\. 3"):
        fit_ordinal_path(X, y + 1, n_classes=4, penalty_factors=np.ones(3))
    with pytest.raises(ValueError, match="weights must be"):
        fit_ordinal_path(X, y, n_classes=4, penalty_factors=np.ones(3), weights=-np.ones(N))


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_folds_without_a_class_are_refused_and_few_rows_warned_about(data):
    X, y = data
    few = np.minimum(y, 2)
    few[:3] = 3
    model = PrestoClassifier(n_lambdas=8, cv=3)
    with pytest.warns(UserWarning, match="class 3 has 3 rows"):
        model.fit(X, few)
    few[1:3] = 2
    with pytest.raises(ValueError, match="holds out all rows of class 3"):
        model.fit(X, few)


def test_constant_columns_get_no_weight(data):
    X, y = data
    model = PrestoClassifier(lambdas=[0.005], cv=None).fit(np.c_[X[:, :2], np.full(N, 0.1)], y)
    assert (model.coef_[:, 2] == 0).all()
    assert np.isfinite(model.intercept_).all()


def test_separable_classes_without_penalty_are_warned_about():
    X = np.linspace(-1, 1, N)[:, None] * np.ones((1, P)) + 1e-3 * np.random.default_rng(0).normal(size=(N, P))
    y = np.digitize(X.mean(axis=1), [-0.5, 0.0, 0.5])
    with pytest.warns(ConvergenceWarning, match="1 of 1 fits did not converge"):
        model = PrestoClassifier(lambdas=[0.0], cv=None).fit(X, y)
    assert np.isfinite(model.coef_).all()
    assert not model.path_.converged[0]
