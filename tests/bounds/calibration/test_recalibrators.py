"""Recalibrators against known truths, brute force, SciPy's optimisers and scikit-learn's habits."""

import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import GridSearchCV, cross_val_score

from uqsparse.bounds.calibration import (
    Beta,
    Dirichlet,
    HistogramBinning,
    Isotonic,
    MixNMatch,
    Platt,
    Temperature,
)

seeds = st.integers(0, 10_000)
few = settings(max_examples=10)
EVENTS = (Platt, Beta, Isotonic, HistogramBinning)
CLASSES = (Temperature, Dirichlet, MixNMatch)


def events(seed: int, n: int = 200, a: float = 1.8, b: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions whose log-odds are a logit(p) + b, outcomes, and the true p."""
    rng = np.random.default_rng(seed)
    p = rng.beta(2, 2, n)
    return expit(a * logit(p) + b), (rng.random(n) < p).astype(int), p


def classes(seed: int, n: int = 300, c: int = 3, sharper: float = 2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions proportional to p^sharper, labels, and the true p."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(c, 1.5), n)
    y = (p.cumsum(1) > rng.random((n, 1))).argmax(1)
    return softmax(sharper * np.log(p), axis=1), y, p


def loss(q: np.ndarray, y: np.ndarray) -> float:
    return float(-np.mean(np.where(y == 1, np.log(q), np.log1p(-q))))


def test_platt_finds_the_distortion():
    """Within three of its standard errors, of these seeds; four for the second half, whose false alarms are 6e-5."""
    q, y, p = events(4, 20_000, a=1.7, b=0.6)
    found = Platt().fit(q, y)
    errors = np.sqrt(np.diag(found.covariance_))
    assert abs(found.slope_ - 1 / 1.7) < 3 * errors[0]
    assert abs(found.intercept_ + 0.6 / 1.7) < 3 * errors[1]
    assert found.converged_
    assert np.mean((found(q) - p) ** 2) < 0.01 * np.mean((q - p) ** 2)
    # The errors themselves: 60 repetitions, so the spread is known to 9%; 4 of its standard errors are allowed.
    z = []
    for seed in range(60):
        fitted = Platt().fit(*events(seed, 500, a=0.7, b=-0.4)[:2])
        z.append((fitted.slope_ - 1 / 0.7) / np.sqrt(fitted.covariance_[0, 0]))
    assert abs(np.mean(z)) < 0.52
    assert 0.63 < np.std(z) < 1.37


@given(seeds)
@few
def test_platt_is_the_maximum_of_the_likelihood(seed):
    q, y, _ = events(seed)
    found = Platt().fit(q, y)
    peer = minimize(lambda w: loss(expit(w[0] * logit(q) + w[1]), y), [1.0, 0.0], method="BFGS", tol=1e-10)
    np.testing.assert_allclose([found.slope_, found.intercept_], peer.x, atol=1e-4)
    assert loss(found(q), y) <= peer.fun + 1e-12


@given(seeds, st.sampled_from([(1.8, 0.5), (0.4, 0.0), (-0.5, 0.2), (0.02, 1.0)]))
def test_beta_is_the_maximum_of_the_likelihood_in_its_quadrant(seed, distortion):
    q, y, _ = events(seed, 80, *distortion)
    found = Beta().fit(q, y)
    features = np.stack([np.log(q), -np.log1p(-q), np.ones(len(q))])

    def value_and_slope(w):
        u = w @ features
        return np.mean(np.logaddexp(0, u) - y * u), features @ (expit(u) - y) / len(y)

    bounds = [(0, None), (0, None), (None, None)]
    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 2000}
    peer = minimize(value_and_slope, [1, 1, 0], jac=True, bounds=bounds, method="L-BFGS-B", options=options)
    assert (found.slopes_ >= 0).all()
    assert found.converged_
    assert loss(found(q), y) <= peer.fun + 1e-9
    assert (np.diff(found(np.linspace(0.01, 0.99, 50))) >= 0).all()


def test_beta_contains_the_identity_and_platt():
    q, y, _ = events(2)
    found = Beta().fit(q, y)
    found.slopes_, found.intercept_ = np.ones(2), 0.0
    np.testing.assert_allclose(found(q), q, rtol=1e-14)
    platt = Platt().fit(q, y)
    found.slopes_, found.intercept_ = np.full(2, platt.slope_), platt.intercept_
    np.testing.assert_allclose(found(q), platt(q), rtol=1e-12)
    # On calibrated predictions it finds the identity: of 20 000, within a hundredth.
    q, y, _ = events(6, 20_000, 1.0, 0.0)
    assert np.abs(Beta().fit(q, y)(np.linspace(0.05, 0.95, 19)) - np.linspace(0.05, 0.95, 19)).max() < 0.02


def pool_adjacent_violators(q: np.ndarray, y: np.ndarray) -> dict[float, float]:
    """The isotonic fit by its formula: the largest, over left ends, of the least mean, over right ends."""
    values = np.unique(q)
    m = len(values)
    mean = [[y[(q >= values[i]) & (q <= values[j])].mean() if i <= j else 0 for j in range(m)] for i in range(m)]
    return {value: max(min(mean[i][j] for j in range(k, m)) for i in range(k + 1)) for k, value in enumerate(values)}


@given(seeds, st.sampled_from([1, 15]))
@few
def test_isotonic_is_the_pool_of_adjacent_violators(seed, digits):
    q, y, _ = events(seed, 25)
    y[:2] = 0, 1
    q = q.round(digits)
    found = Isotonic().fit(q, y)
    expected = pool_adjacent_violators(q, y)
    np.testing.assert_allclose(found(q), [expected[one] for one in q], atol=1e-12)
    between = np.linspace(0, 1, 201)
    assert (np.diff(found(between)) >= 0).all()
    peer = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(q, y)
    np.testing.assert_allclose(found(between), peer.predict(between), atol=1e-12)


@given(seeds, st.sampled_from([2, 3, 5]))
@few
def test_temperature_is_the_maximum_of_the_likelihood(seed, c):
    q, y, _ = classes(seed, c=c)
    found = Temperature().fit(q, y)
    logits = np.log(q)

    def at(t):
        return -log_softmax(logits / t, axis=1)[np.arange(len(y)), y].mean()

    peer = minimize_scalar(at, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9})
    assert found.temperature_ == pytest.approx(peer.x, rel=1e-4)
    assert (found.predict_proba(q).argmax(1) == q.argmax(1)).all()
    if c == 2:
        np.testing.assert_allclose(found(q[:, 1]), expit(logit(q[:, 1]) / found.temperature_), rtol=1e-9)


def test_temperature_finds_how_much_too_sharp():
    q, y, _ = classes(1, 20_000, sharper=2.5)
    assert Temperature().fit(q, y).temperature_ == pytest.approx(2.5, rel=0.05)
    with pytest.warns(UserWarning, match="limit 0.001: the most probable class is always right"):
        assert Temperature().fit(np.array([0.4, 0.6]), [0, 1]).at_limit_
    with pytest.warns(UserWarning, match="limit 1000: predictions say nothing"):
        assert Temperature().fit(np.array([0.6, 0.4]), [0, 1]).temperature_ == 1000


@pytest.mark.parametrize(("c", "l2"), [(2, 1e-3), (3, 0.5)])
def test_dirichlet_is_the_least_of_its_objective(c, l2):
    q, y, _ = classes(9, c=c)
    # Classes are mistaken for each other, so that the entries off the diagonal and their penalty matter.
    q = softmax(np.log(q) @ (np.eye(c) + 0.6 * np.eye(c, k=1)), axis=1)
    found = Dirichlet(l2=l2, l2_intercept=l2).fit(q, y)
    logits = np.log(q)

    def objective(flat):
        w, b = flat[: c * c].reshape(c, c), flat[c * c :]
        penalty = l2 * sum(w[i, j] ** 2 for i in range(c) for j in range(c) if i != j) / (c * (c - 1))
        fit = log_softmax(logits @ w.T + b, axis=1)[np.arange(len(y)), y]
        return -fit.mean() + penalty + l2 * np.mean(b**2)

    ours = np.r_[found.coef_.ravel(), found.intercept_]
    peer = minimize(objective, np.zeros(c * c + c), method="BFGS", options={"gtol": 1e-7})
    assert found.converged_
    assert objective(ours) == pytest.approx(peer.fun, abs=1e-8)
    expected = softmax(logits @ peer.x[: c * c].reshape(c, c).T + peer.x[c * c :], axis=1)
    np.testing.assert_allclose(found.predict_proba(q), expected, atol=2e-3)


@given(seeds, st.sampled_from(["mse", "ce"]), st.sampled_from([0.4, 1.0, 3.0]))
@few
def test_mix_n_match_has_the_best_weights(seed, kind, sharper):
    q, y, _ = classes(seed, 100, sharper=sharper)
    found = MixNMatch(kind).fit(q, y)
    assert found.weights_.sum() == pytest.approx(1)
    assert found.converged_
    parts = np.stack([softmax(np.log(q) / found.temperature_, axis=1), q, np.full_like(q, 1 / 3)])

    def score(mixed):
        if kind == "mse":
            return ((mixed - np.eye(3)[y]) ** 2).sum(1).mean()
        return -np.log(mixed[np.arange(len(y)), y]).mean()

    ours = score(found.predict_proba(q))
    grid = [(i / 20, j / 20, 1 - (i + j) / 20) for i in range(21) for j in range(21 - i)]
    best = min(score(np.tensordot(w, parts, 1)) for w in grid)
    assert ours <= best + found.gap_ + 1e-12
    assert ours <= min(score(parts[1]), score(parts[0])) + 1e-6
    assert min(score(softmax(np.log(q) / t, axis=1)) for t in np.geomspace(0.05, 20, 60)) >= score(parts[0]) - 1e-9


def test_histogram_binning_by_hand():
    q, y = np.array([0.1, 0.2, 0.3, 0.5, 0.6, 0.9]), np.array([0, 1, 0, 1, 1, 1])
    found = HistogramBinning(3).fit(q, y)
    np.testing.assert_allclose(found.edges_, [0.25, 0.55])
    np.testing.assert_allclose(found.values_, [0.5, 0.5, 1.0])
    assert found(np.array([0.0, 0.25, 0.26, 1.0])).tolist() == [0.5, 0.5, 0.5, 1.0]
    assert found.count_.tolist() == [2, 2, 2]
    # Equal predictions share a bin, and a bin without a row maps to its middle.
    ties = HistogramBinning(3).fit(np.repeat([0.2, 0.7], 3), y)
    assert ties.count_.tolist() == [3, 3]
    np.testing.assert_allclose(ties.values_, [1 / 3, 1.0])
    width = HistogramBinning(4, binning="width").fit(q, y)
    np.testing.assert_allclose(width.values_, [0.5, 0.5, 1.0, 1.0])
    assert HistogramBinning(6, binning="width").fit(q, y)(np.array([0.75]))[0] == pytest.approx(0.75)
    # Next to each other in floating point, the two values still fall into two bins.
    near = np.array([0.3, 0.3, np.nextafter(0.3, 1), np.nextafter(0.3, 1)])
    assert HistogramBinning(2).fit(near, [0, 0, 1, 1])(near).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("maker", EVENTS + CLASSES)
def test_scikit_learn_s_habits(maker):
    q, y, _ = events(3, 150)
    found = maker().fit(q, y)
    both = np.stack([1 - q, q], axis=1)
    np.testing.assert_allclose(found.predict_proba(q).sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(maker().fit(both, y)(both)[:, 1], found(q), rtol=1e-9, atol=1e-12)
    assert found(q).shape == q.shape
    assert found.predict(q).tolist() == (found(q) > 0.5).astype(int).tolist()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found))(q), found(q))
    assert clone(found).get_params() == found.get_params()
    with pytest.raises(NotFittedError):
        clone(found)(q)
    assert np.isfinite(cross_val_score(maker(), q, y, scoring="neg_brier_score", cv=3)).all()
    np.testing.assert_allclose(maker().fit(q.astype(np.float32), y == 1)(q), found(q), atol=2e-2)


def test_settings_can_be_searched():
    q, y, _ = events(3, 150)
    search = GridSearchCV(HistogramBinning(), {"n_bins": [2, 5]}, scoring="neg_brier_score", cv=3).fit(q, y)
    assert search.best_params_["n_bins"] in (2, 5)


@pytest.mark.parametrize("maker", EVENTS + CLASSES)
@pytest.mark.parametrize(
    ("q", "y", "message"),
    [
        ([0.2, np.nan, 0.4], [0, 1, 0], "NaN"),
        ([0.2, 1.2, 0.4], [0, 1, 0], "between 0.2 and 1.2"),
        ([0.2, 0.3, 0.4], [1, 1, 1], "the class 1 only"),
        ([0.2, 0.3, 0.4], [0, 1], r"y has shape \(2,\)"),
        ([0.2, 0.3, 0.4], [0, 1, 2], "0 and 1 only"),
        ([[0.5, 0.5], [0.2, 0.9]], [0, 1], "row 1 sum to 1.1"),
        ([[0.5, np.nan], [0.2, 0.8]], [0, 1], "NaN"),
        ([[1.0], [1.0]], [0, 0], "one class only"),
        ([], [], r"q has shape \(0,\)"),
    ],
)
def test_bad_input_is_refused(maker, q, y, message):
    with pytest.raises(ValueError, match=message):
        maker().fit(np.array(q), np.array(y))


def test_other_refusals():
    q, y, _ = events(0)
    with pytest.raises(ValueError, match="10 points for n_bins=15 bins"):
        HistogramBinning().fit(np.linspace(0, 1, 10), np.arange(10) % 2)
    with pytest.raises(ValueError, match="binning must be"):
        HistogramBinning(binning="count").fit(q, y)
    for apart in ([0.1, 0.2, 0.8, 0.9], [0.1, 0.4, 0.4, 0.9]):
        for maker in (Platt, Beta):
            with pytest.raises(ValueError, match="separates the classes"):
                maker().fit(np.array(apart), [0, 0, 1, 1])
    with pytest.raises(ValueError, match="separates the classes"):
        Platt().fit(np.array([0.1, 0.2, 0.8, 0.9]), [1, 1, 0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Predictions the wrong way round: the best map that never falls is the base rate.
        np.testing.assert_allclose(Beta().fit(np.array([0.1, 0.2, 0.8, 0.9]), [1, 1, 0, 0]).slopes_, 0)
    for maker, least in ((Platt, 2), (Beta, 3)):
        with pytest.raises(ValueError, match=f"needs at least {least}"):
            maker().fit(np.full(4, 0.5), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="y never holds class 1"):
        Dirichlet().fit(np.full((2, 3), 1 / 3), [0, 2])
    with pytest.raises(ValueError, match="Platt is defined for two"):
        Platt().fit(*classes(0)[:2])
    with pytest.raises(ValueError, match="fitted for 2"):
        Temperature().fit(q, y)(np.full((2, 3), 1 / 3))
    with pytest.raises(ValueError, match="NaN"):
        Platt().fit(q, y)(np.array([np.nan]))
    with pytest.raises(ValueError, match="loss must be"):
        MixNMatch("brier").fit(q, y)
    with pytest.raises(ValueError, match="l2 must be"):
        Dirichlet(l2=-1).fit(q, y)
    for maker in (Platt, Beta, Temperature, Dirichlet, MixNMatch):
        with pytest.raises(ValueError, match="clip must lie"):
            maker(clip=0).fit(q, y)


def test_sure_predictions_are_clipped_and_counted():
    q, y, _ = events(5)
    q[:3], y[:3] = (0.0, 1.0, 1.0), (1, 0, 1)
    for maker in (Platt, Beta, Temperature, Dirichlet, MixNMatch):
        found = maker().fit(q, y)
        assert found.n_clipped_ == 3
        assert np.isfinite(found(np.array([0.0, 0.5, 1.0]))).all()
