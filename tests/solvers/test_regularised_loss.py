"""Minima of regularised losses against statsmodels and scikit-learn; losses without a minimum are refused."""

import numpy as np
import pytest
import scipy.optimize

from uqsparse.solvers.regularised_loss import RegularisedLoss, minimise, ordinal_directions, ordinal_loss

N = 120
RNG = np.random.default_rng(3)
X = np.column_stack([np.ones(N), RNG.normal(size=(N, 3))])
SCORES = X @ [0.2, 1.0, -0.7, 0.0]
RESPONSES = {
    "logistic": (RNG.random(N) < 1 / (1 + np.exp(-SCORES))).astype(float),
    "squared": SCORES + RNG.normal(size=N),
    "poisson": RNG.poisson(np.exp(SCORES)).astype(float),
}
CLASSES = np.digitize(SCORES + RNG.logistic(size=N), [-1.0, 0.5, 2.0])
EQUAL = np.full(N, 1 / N)
UNEQUAL = RNG.random(N) + 0.1
UNEQUAL = UNEQUAL / UNEQUAL.sum()


def _loss(kind, l2=0.0, weights=EQUAL):
    if kind == "ordinal":
        return ordinal_loss(X[:, 1:], CLASSES, n_classes=4, weights=weights, l2=l2)
    return RegularisedLoss(X, RESPONSES[kind], weights, np.append(0.0, np.full(3, l2)), kind)


@pytest.mark.parametrize("kind", ["logistic", "squared", "poisson"])
def test_maximum_likelihood_is_that_of_statsmodels(kind):
    sm = pytest.importorskip("statsmodels.api")
    family = {"logistic": sm.families.Binomial, "squared": sm.families.Gaussian, "poisson": sm.families.Poisson}[kind]
    theirs = sm.GLM(RESPONSES[kind], X, family=family(), freq_weights=UNEQUAL * N).fit(tol=1e-13)
    ours = minimise(_loss(kind, weights=UNEQUAL))
    assert ours.converged
    np.testing.assert_allclose(ours.w, theirs.params, rtol=1e-7, atol=1e-9)
    if kind != "squared":
        np.testing.assert_allclose(2 * N * ours.value, theirs.deviance, rtol=1e-9)


def test_ridge_is_that_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    ours = minimise(_loss("logistic", l2=0.02))
    theirs = linear_model.LogisticRegression(C=1 / (0.02 * N), tol=1e-12, max_iter=10_000)
    theirs.fit(X[:, 1:], RESPONSES["logistic"])
    np.testing.assert_allclose(ours.w, np.append(theirs.intercept_, theirs.coef_), atol=1e-6)


def test_proportional_odds_likelihood_is_that_of_statsmodels():
    # With free differences the ordinal loss is not their model, but at equal slopes it is.
    ordinal = pytest.importorskip("statsmodels.miscmodels.ordinal_model")
    model = ordinal.OrderedModel(CLASSES, X[:, 1:], distr="logit")
    fit = model.fit(method="bfgs", disp=False, gtol=1e-10)
    slopes, cuts = fit.params[:3], model.transform_threshold_params(fit.params)[1:-1]
    w = np.concatenate([cuts, -slopes, np.zeros(6)])
    loss = _loss("ordinal")
    np.testing.assert_allclose(N * loss.value(w), -fit.llf, rtol=1e-12)
    assert minimise(loss).value < loss.value(w)


@pytest.mark.parametrize("kind", ["logistic", "squared", "poisson", "ordinal"])
def test_derivatives_and_minimum(kind):
    loss = _loss(kind, l2=0.03, weights=UNEQUAL)
    minimum = minimise(loss)
    w, step = 0.8 * minimum.w, 1e-6
    units = step * np.eye(len(w))
    slopes = [(loss.value(w + one) - loss.value(w - one)) / (2 * step) for one in units]
    np.testing.assert_allclose(loss.gradient(w), slopes, rtol=1e-5, atol=1e-8)
    curves = [(loss.gradient(w + one) - loss.gradient(w - one)) / (2 * step) for one in units]
    np.testing.assert_allclose(loss.hessian(w), curves, rtol=1e-5, atol=1e-8)
    assert minimum.converged
    assert minimum.gradient_norm < 1e-14
    assert minimum.value < loss.value(w)
    np.testing.assert_allclose(minimum.hessian, loss.hessian(minimum.w))


def test_rows_of_weight_zero_do_not_count():
    weights = np.where(np.arange(N) < N // 2, 2 / N, 0.0)
    half = RegularisedLoss(X[: N // 2], RESPONSES["poisson"][: N // 2], np.full(N // 2, 2 / N), np.zeros(4), "poisson")
    np.testing.assert_allclose(minimise(_loss("poisson", weights=weights)).w, minimise(half).w, atol=1e-12)


def test_ordinal_directions_pick_the_logits():
    w = np.arange(1.0, 13.0)
    alpha, beta = w[:3], np.cumsum(w[3:].reshape(3, 3), axis=0)
    for k in range(3):
        np.testing.assert_allclose(ordinal_directions(X[:5, 1:], k, 4) @ w, alpha[k] + X[:5, 1:] @ beta[k])


def test_ordinal_loss_is_infinite_where_boundaries_cross():
    loss = _loss("ordinal")
    assert loss.value(np.concatenate([[2.0, 1.0, 0.0], np.zeros(9)])) == np.inf


@pytest.mark.parametrize("kind", ["logistic", "poisson", "ordinal"])
def test_separable_data_are_refused_with_the_reason(kind):
    x = X[:, 1]
    if kind == "ordinal":
        loss = ordinal_loss(x[:, None], np.digitize(x, [-0.5, 0.5]), n_classes=3)
    else:
        # The counts are all at x = 0 or to one side of it.
        y = (x > 0.3).astype(float) if kind == "logistic" else np.where(x > 0, 0.0, 3.0)
        design = np.column_stack([np.ones(N), x if kind == "logistic" else np.maximum(x, 0.0)])
        loss = RegularisedLoss(design, y, EQUAL, np.zeros(2), kind)
    with pytest.raises(ValueError, match="separable"):
        minimise(loss)


def test_nearly_separable_data_are_not_refused():
    x = np.sort(X[:, 1])
    y = (np.arange(N) >= N // 2).astype(float)
    y[[N // 2 - 1, N // 2]] = 1.0, 0.0
    loss = RegularisedLoss(np.column_stack([np.ones(N), 1e3 * x]), y, EQUAL, np.zeros(2))
    found = minimise(loss)
    assert found.converged
    tight = scipy.optimize.minimize(
        lambda v: loss.value(v / [1.0, 1e3]), found.w * [1.0, 1e3] * 0.9, method="BFGS", options={"gtol": 1e-9}
    )
    assert found.value <= tight.fun + 1e-12


def test_one_class_only_is_refused():
    with pytest.raises(ValueError, match="separable"):
        minimise(RegularisedLoss(X, np.ones(N), EQUAL, np.append(0.0, np.ones(3))))


def test_collinear_columns_are_refused_unless_penalised():
    twice = np.column_stack([X, X[:, 1]])
    with pytest.raises(ValueError, match="collinear"):
        minimise(RegularisedLoss(twice, RESPONSES["logistic"], EQUAL, np.zeros(5)))
    with pytest.raises(ValueError, match="neither data nor a penalty"):
        minimise(
            RegularisedLoss(np.column_stack([X, np.zeros(N)]), RESPONSES["squared"], EQUAL, np.zeros(5), "squared")
        )
    assert minimise(RegularisedLoss(twice, RESPONSES["logistic"], EQUAL, np.append(0.0, np.full(4, 0.1)))).converged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": X[:, 0]}, "X must have 2 dimensions"),
        ({"X": np.where(X > 1, np.nan, X)}, "X must be finite"),
        ({"y": RESPONSES["logistic"][:-1]}, "y must have 120 entries"),
        ({"y": 2 * RESPONSES["logistic"] - 1}, "y must be 0 or 1"),
        ({"y": -np.ones(N), "kind": "poisson"}, "at least 0"),
        ({"weights": 2 * EQUAL}, "sum to 1"),
        ({"weights": EQUAL - 2 * EQUAL * (np.arange(N) == 0)}, "at least 0 and sum to 1"),
        ({"l2": -np.ones(4)}, "l2 must be at least 0"),
        ({"l2": np.ones(3)}, "l2 must have 4 entries"),
        ({"kind": "probit"}, "kind must be one of"),
        ({"kind": "ordinal"}, "X_lower must be given"),
        ({"kind": "ordinal", "y": np.full(N, 3.0)}, "y must be 0, 1 or 2"),
        ({"kind": "ordinal", "X_lower": X[:, :2]}, "X_lower must have the shape"),
    ],
)
def test_bad_input(change, message):
    good = {"X": X, "y": RESPONSES["logistic"], "weights": EQUAL, "l2": np.zeros(4), "kind": "logistic"}
    with pytest.raises(ValueError, match=message):
        RegularisedLoss(**{**good, **change})


def test_bad_classes():
    with pytest.raises(ValueError, match="classes out of"):
        ordinal_loss(X, CLASSES + 1, n_classes=4)
    with pytest.raises(ValueError, match="n_classes"):
        ordinal_loss(X, CLASSES, n_classes=1)
