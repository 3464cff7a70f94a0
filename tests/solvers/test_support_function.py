"""Maxima over sublevel sets against CVXPY, closed forms and exact arithmetic; the bounds hold from anywhere."""

import importlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.solvers import sublevel_set as sublevel_set_module
from uqsparse.solvers.regularised_loss import RegularisedLoss, minimise, ordinal_directions, ordinal_loss
from uqsparse.solvers.sublevel_ascent import Ascent
from uqsparse.solvers.sublevel_certificate import certify
from uqsparse.solvers.sublevel_set import sublevel_set
from uqsparse.solvers.support_function import support_function

KINDS = ("logistic", "squared", "poisson", "ordinal")
N = 120
RNG = np.random.default_rng(5)
X = np.column_stack([np.ones(N), RNG.normal(size=(N, 3))])
SCORES = X @ [0.2, 1.0, -0.7, 0.3]
RESPONSES = {
    "logistic": (RNG.random(N) < 1 / (1 + np.exp(-SCORES))).astype(float),
    "squared": SCORES + RNG.normal(size=N),
    "poisson": RNG.poisson(np.exp(0.5 * SCORES)).astype(float),
}
CLASSES = np.digitize(SCORES + RNG.logistic(size=N), [-1.0, 1.0])
WEIGHTS = RNG.random(N) + 0.2
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def _loss(kind, l2=0.02):
    if kind == "ordinal":
        return ordinal_loss(X[:, 1:], CLASSES, n_classes=3, weights=WEIGHTS, l2=l2)
    return RegularisedLoss(X, RESPONSES[kind], WEIGHTS, np.append(0.0, np.full(3, l2)), kind)


def _directions(kind, n=6):
    """Rows with both signs and a coefficient: 13 directions, one compiled size."""
    rows = X[:n]
    if kind == "ordinal":
        rows = ordinal_directions(X[:n, 1:], np.arange(n) % 2, 3)
    return np.concatenate([rows, -rows, np.eye(rows.shape[1])[-1:]])


@pytest.fixture(scope="module")
def solved():
    """For each kind and ridge: loss, level, directions and what was found."""
    found = {}
    for kind in KINDS:
        for l2 in (0.02, 0.0):
            loss = _loss(kind, l2)
            minimum = minimise(loss)
            level = minimum.value + 0.05
            directions = _directions(kind)
            found[kind, l2] = loss, minimum, level, directions, support_function(loss, level, directions)
    return found


def _cvxpy_maximum(loss, level, x):
    cp = pytest.importorskip("cvxpy")
    w = cp.Variable(len(x))
    upper, y, weights = loss.X @ w, loss.y, loss.weights
    if loss.kind == "logistic":
        data = weights @ cp.logistic(cp.multiply(1 - 2 * y, upper))
    elif loss.kind == "squared":
        data = 0.5 * (weights @ cp.square(upper - y))
    elif loss.kind == "poisson":
        constant = weights @ np.where(y > 0, y * np.log(np.maximum(y, 1)) - y, 0.0)
        data = weights @ (cp.exp(upper) - cp.multiply(y, upper)) + constant
    else:
        lower = loss.X_lower @ w
        has_upper, has_lower, both = y != 2, y != 0, y == 1
        data = weights[has_upper] @ cp.logistic(-upper[has_upper]) + weights[has_lower] @ cp.logistic(lower[has_lower])
        data = data - weights[both] @ cp.log(1 - cp.exp(lower[both] - upper[both]))
    total = data + 0.5 * cp.sum(cp.multiply(loss.l2, cp.square(w)))
    problem = cp.Problem(cp.Maximize(x @ w), [total <= level])
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    return float(problem.value)


@pytest.mark.parametrize("l2", [0.02, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_maxima_are_those_of_cvxpy(solved, kind, l2):
    loss, _, level, directions, found = solved[kind, l2]
    for index in (0, 12):
        theirs = _cvxpy_maximum(loss, level, directions[index])
        assert abs(theirs - found.value[index]) < 1e-6
        assert abs(theirs - found.upper[index]) < 1e-6


@pytest.mark.parametrize("l2", [0.02, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_points_attain_the_values_and_lie_in_the_set(solved, kind, l2):
    loss, minimum, level, directions, found = solved[kind, l2]
    assert found.converged.all()
    assert found.has_certificate.all()
    assert (found.gap >= 0).all()
    width = found.value - directions @ minimum.w
    assert (found.gap <= 1e-9 * width).all()
    assert max(loss.value(point) for point in found.points) <= level
    np.testing.assert_allclose((found.points * directions).sum(axis=1), found.value, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("l2", [0.02, 0.0])
def test_squared_loss_has_its_closed_form(solved, l2):
    _, minimum, _, directions, found = solved["squared", l2]
    lengths = np.sqrt(0.1 * (directions * np.linalg.solve(minimum.hessian, directions.T).T).sum(axis=1))
    np.testing.assert_allclose(found.value, directions @ minimum.w + lengths, rtol=1e-9)
    assert found.n_iter.max() <= 1


@pytest.mark.parametrize("l2", [0.02, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_no_point_of_the_set_is_beyond_a_bound(solved, kind, l2):
    loss, minimum, level, directions, found = solved[kind, l2]
    rng = np.random.default_rng(0)
    for away in rng.normal(size=(60, len(minimum.w))):
        # On the boundary along a random ray, found by a root-finder of SciPy.
        away = np.linalg.solve(np.linalg.cholesky(minimum.hessian).T, away)
        length = 1.0
        while loss.value(minimum.w + length * away) < level:
            length *= 2
        share = scipy.optimize.brentq(
            lambda r, away=away: min(loss.value(minimum.w + r * away), 1e9) - level, 0, length, xtol=1e-13
        )
        assert (directions @ (minimum.w + share * away) <= found.upper + 1e-9).all()


@pytest.mark.parametrize("l2", [0.02, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_certificate_is_a_bound_at_any_point_and_multiplier(solved, kind, l2):
    loss, minimum, level, directions, found = solved[kind, l2]
    rng = np.random.default_rng(1)
    free = loss.l2 == 0
    units = np.eye(len(minimum.w))[free]
    with jax.enable_x64(True):
        region = sublevel_set(loss, level, minimum.w, minimum.value)
        ends = support_function(loss, level, np.concatenate([units, -units])).upper
        lower, upper = np.full(len(free), -np.inf), np.full(len(free), np.inf)
        upper[free], lower[free] = ends[: len(units)], -ends[len(units) :]
        region = region._replace(lower=jnp.array(lower), upper=jnp.array(upper))
        program = jax.jit(certify, static_argnums=0)
        for spread in (1e-3, 0.03, 0.3):
            share = 1 + spread * rng.normal(size=found.points.shape)
            points = minimum.w + share * (found.points - minimum.w)
            # The multiplier of the maximum, disturbed.
            slopes = np.array([loss.gradient(point) for point in found.points])
            t = (slopes * directions).sum(axis=1) / (directions**2).sum(axis=1)
            t = t * np.exp(spread * rng.normal(size=t.shape))
            start = Ascent(jnp.array(points), jnp.array(t), jnp.array(t), jnp.array(t))
            scores = program(loss.kind, region, jnp.array(directions), start)
            assert (np.asarray(scores.upper) >= found.value).all()
            assert (np.asarray(scores.value) <= found.upper).all()
            assert max(loss.value(point) for point in np.asarray(scores.points)) <= level
            if spread == 1e-3:
                # And not a useless one.
                assert (np.asarray(scores.upper) < found.value + 1.0).all()


def test_the_ridge_alone_bounds_a_coordinate_without_data():
    # The last coordinate costs mu / 2 w^2 and nothing else, so that its part of the certificate has no slack.
    design = X * [1.0, 1.0, 1.0, 0.0]
    loss = RegularisedLoss(design, RESPONSES["squared"], WEIGHTS, np.array([0.0, 0.02, 0.02, 0.02]), "squared")
    minimum = minimise(loss)
    level = minimum.value + 0.05
    x = np.tile([[1.0, 0.5, -1.0, 2.0]], (13, 1))
    found = support_function(loss, level, x)
    points = found.points + np.linspace(-1.0, 1.0, 13)[:, None] * [0.0, 0.0, 0.0, 1.0]
    with jax.enable_x64(True):
        t = jnp.ones(13)
        start = Ascent(jnp.array(points), t, t, t)
        scores = certify("squared", sublevel_set(loss, level, minimum.w, minimum.value), jnp.array(x), start)
    upper = np.asarray(scores.upper)
    assert (upper >= found.value).all()
    np.testing.assert_allclose(upper, found.value, rtol=1e-8)


@given(st.integers(1, 3), st.floats(1e-4, 3.0), st.booleans())
def test_bounds_enclose_the_exact_maximum(ones, rise, poisson):
    # One coefficient, four rows: the maximum is a root, found here in extended precision.
    y = np.arange(4) < ones
    loss = RegularisedLoss(
        np.ones((4, 1)), y.astype(float), np.full(4, 0.25), [0.0], "poisson" if poisson else "logistic"
    )
    minimum = minimise(loss)
    level = minimum.value + rise
    mean, target = np.longdouble(ones) / 4, np.longdouble(level)

    def value(w):
        return np.exp(w) - mean * w - mean if poisson else np.log1p(np.exp(w)) - mean * w

    def crossing(sign):
        low, high = np.longdouble(minimum.w[0]), np.longdouble(minimum.w[0]) + sign * 60
        for _ in range(90):
            middle = (low + high) / 2
            low, high = (middle, high) if value(middle) < target else (low, middle)
        return low

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = support_function(loss, level, [[1.0], [-1.0]], minimum=minimum, tolerance=1e-14)
    for index, sign in enumerate((1, -1)):
        exact = sign * crossing(sign)
        assert found.value[index] <= exact <= found.upper[index]
    assert (found.gap < 1e-11 * (1 + abs(found.value))).all()


@given(st.integers(0, 11), st.integers(0, 11), st.floats(1e-3, 1e3))
def test_axioms_of_a_support_function(first, second, scale):
    loss = _loss("logistic")
    rows = np.concatenate([X[:6], -X[:6]])
    x, y = rows[first], rows[second] * [1.0, 2.0, 1.0, 1.0]
    found = support_function(loss, 0.75, np.stack([x, y, x + y, scale * x]))
    assert found.value[2] <= found.upper[0] + found.upper[1] + 1e-12
    np.testing.assert_allclose(found.value[3], scale * found.value[0], rtol=1e-8, atol=1e-8 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_grow_with_the_level_and_obey_the_small_level_law(kind):
    loss = _loss(kind)
    minimum = minimise(loss)
    directions = _directions(kind)
    center = directions @ minimum.w
    lengths = np.sqrt(2 * (directions * np.linalg.solve(minimum.hessian, directions.T).T).sum(axis=1))
    last = center
    for rise in (1e-5, 1e-3, 0.1):
        value = support_function(loss, minimum.value + rise, directions, minimum=minimum, tolerance=1e-7).value
        assert (value > last).all()
        last = value
        if rise == 1e-5:
            np.testing.assert_allclose(value - center, np.sqrt(rise) * lengths, rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rise", [0.3, 20.0])
def test_outlying_directions_and_high_levels_are_certified(kind, rise):
    loss = _loss(kind)
    minimum = minimise(loss)
    directions = _directions(kind)
    directions[1, -1], directions[2, -1], directions[3] = 1e8, 1e4, 1e-7 * directions[3]
    if kind == "ordinal":
        rise = min(rise, 1.0)
    if kind == "poisson" and rise > 1:
        rise = 5.0
    found = support_function(loss, minimum.value + rise, directions, minimum=minimum)
    width = found.value - directions @ minimum.w
    assert found.converged.all()
    assert (found.gap <= 1e-9 * width).all()
    assert max(loss.value(point) for point in found.points) <= minimum.value + rise


def test_many_rows_and_products_that_do_not_fit(monkeypatch):
    # 600 rows are two blocks with rows to fill up.
    rng = np.random.default_rng(2)
    design = np.column_stack([np.ones(600), rng.normal(size=(600, 3))])
    y = (rng.random(600) < 0.3).astype(float)
    loss = RegularisedLoss(design, y, np.full(600, 1 / 600), np.append(0.0, np.full(3, 0.1)))
    stored = support_function(loss, 0.7, design[:13])
    monkeypatch.setattr(sublevel_set_module, "_MOST_PRODUCTS", 0)
    formed = support_function(loss, 0.7, design[:13])
    np.testing.assert_allclose(formed.value, stored.value, rtol=1e-9)
    for index in (0, 7):
        ours = scipy.optimize.minimize(
            lambda w, index=index: -design[index] @ w,
            stored.points[index] * 0.9,
            jac=lambda w, index=index: -design[index],
            constraints={"type": "ineq", "fun": lambda w: 0.7 - loss.value(w), "jac": lambda w: -loss.gradient(w)},
            method="SLSQP",
            options={"ftol": 1e-12},
        )
        np.testing.assert_allclose(stored.value[index], -ours.fun, atol=1e-6)


def test_batches_equal_directions_and_zero(monkeypatch):
    loss = _loss("logistic")
    module = importlib.import_module("uqsparse.solvers.support_function")
    rows = np.concatenate([X[:20], X[:3], np.zeros((1, 4))])
    monkeypatch.setattr(module, "_BATCH_SIZE", 0)
    found = support_function(loss, 0.7, rows)
    np.testing.assert_array_equal(found.value[20:23], found.value[:3])
    assert found.value[23] == found.upper[23] == 0
    assert found.converged.all()
    assert max(loss.value(point) for point in found.points) <= 0.7
    assert found.points.shape == (24, 4)


def test_without_an_intercept_no_coordinate_needs_balancing():
    loss = RegularisedLoss(X, RESPONSES["logistic"], WEIGHTS, np.full(4, 0.02))
    found = support_function(loss, minimise(loss).value + 0.05, _directions("logistic"))
    assert found.converged.all()
    assert abs(found.value[0] - _cvxpy_maximum(loss, minimise(loss).value + 0.05, X[0])) < 1e-6


def test_unbounded_sets_are_refused_with_the_reason():
    y = (X[:, 1] > 0).astype(float)
    with pytest.raises(ValueError, match="separable"):
        support_function(RegularisedLoss(X, y, WEIGHTS, np.zeros(4)), 0.5, X)
    twice = np.column_stack([X, X[:, 1]])
    with pytest.raises(ValueError, match="collinear"):
        support_function(RegularisedLoss(twice, y, WEIGHTS, np.zeros(5)), 0.5, twice)


def test_stopping_early_is_reported_and_still_a_bound():
    loss = _loss("logistic")
    with pytest.warns(RuntimeWarning, match="did not reach the tolerance"):
        early = support_function(loss, 1.0, _directions("logistic"), max_iter=1)
    late = support_function(loss, 1.0, _directions("logistic"))
    assert not early.converged.all()
    assert (early.upper >= late.value).all()
    assert (early.value <= late.upper).all()


@pytest.mark.parametrize(
    ("level", "directions", "options", "message"),
    [
        (0.1, X, {}, "level must be above the minimum"),
        (np.nan, X, {}, "level must be finite"),
        (0.7, X[:, :2], {}, "directions must have shape"),
        (0.7, X[0], {}, "directions must have shape"),
        (0.7, np.where(X > 1, np.inf, X), {}, "directions must be finite"),
        (0.7, X, {"tolerance": 0.0}, "tolerance"),
        (0.7, X, {"max_iter": 0}, "max_iter"),
    ],
)
def test_bad_input(level, directions, options, message):
    with pytest.raises(ValueError, match=message):
        support_function(_loss("logistic"), level, directions, **options)
