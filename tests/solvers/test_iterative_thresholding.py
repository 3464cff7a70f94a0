"""Iterative thresholding against scikit-learn's lasso and enumeration; descent, refusals, matched sparsity, refit."""

import itertools
import warnings

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from uqsparse.kernels.penalties import CEL0, L0, L1, MCP, PENALTIES, SCAD, penalty_named
from uqsparse.solvers.iterative_thresholding import iterative_thresholding, squared_norm_bound
from uqsparse.solvers.matched_sparsity import debias, matched_sparsity


@pytest.fixture(scope="module")
def problem():
    """32 signals of 4 active units among 24, in 12 dimensions."""
    rng = np.random.default_rng(3)
    dictionary = rng.normal(size=(12, 24))
    dictionary /= np.linalg.norm(dictionary, axis=0)
    codes = rng.normal(size=(32, 24)) * (rng.random((32, 24)) < 4 / 24)
    return codes @ dictionary.T + 0.05 * rng.normal(size=(32, 12)), dictionary


def objective(X, dictionary, penalty, codes):
    return 0.5 * np.sum((X - codes @ dictionary.T) ** 2, axis=1) + penalty.value(codes).sum(axis=1)


def quiet(*data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return iterative_thresholding(*data, **options)


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("name", list(PENALTIES))
def test_the_objective_never_rises(problem, name, accelerated):
    X, dictionary = problem
    penalty, step = penalty_named(name, 0.1), 0.98 / np.linalg.norm(dictionary, 2) ** 2
    found = quiet(X, dictionary, penalty, step=step, tolerance=1e-15, max_iter=300, acceleration=accelerated)
    trace = found.objective_trace
    assert len(trace) == found.n_iter.max() + 1 > 20
    assert (np.diff(trace) <= 1e-10 * trace[0]).all()
    np.testing.assert_allclose(found.objective, objective(X, dictionary, penalty, found.codes), rtol=1e-12)
    assert trace[0] == pytest.approx(0.5 * np.sum(X**2), rel=1e-12)
    assert trace[-1] == pytest.approx(found.objective.sum(), rel=1e-10)
    # A stationary point, by the map itself.
    moved = penalty.prox(found.codes + step * (X - found.codes @ dictionary.T) @ dictionary, step)
    np.testing.assert_allclose(found.residual, np.linalg.norm(moved - found.codes, axis=1), atol=1e-12)
    assert np.median(found.residual) < 1e-5


def test_a_step_that_is_too_long_makes_it_rise(problem):
    X, dictionary = problem
    step = 2.5 / np.linalg.norm(dictionary, 2) ** 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = iterative_thresholding(X, dictionary, L1(0.1), step=step, max_iter=60, acceleration=False)
    assert any("is not below 1 / L" in str(one.message) for one in caught)
    assert np.diff(found.objective_trace).max() > 1e-3


@pytest.mark.parametrize("shape", [(12, 24), (24, 12)])
def test_l1_is_scikit_learns_lasso_and_its_gap_proves_it(shape):
    rng = np.random.default_rng(4)
    dictionary, X = rng.normal(size=shape), rng.normal(size=(10, shape[0]))
    found = iterative_thresholding(X, dictionary, L1(0.4), tolerance=1e-10, max_iter=50_000)
    assert found.converged.all()
    assert found.gap.max() < 1e-6
    for x, code, value in zip(X, found.codes, found.objective, strict=True):
        peer = Lasso(alpha=0.4 / len(x), fit_intercept=False, tol=1e-14, max_iter=100_000).fit(dictionary, x)
        np.testing.assert_allclose(code, peer.coef_, atol=1e-6)
        assert value == pytest.approx(0.5 * np.sum((x - dictionary @ code) ** 2) + 0.4 * abs(code).sum(), rel=1e-12)
    # The gap bounds the distance to the minimum also long before.
    early = quiet(X, dictionary, L1(0.4), tolerance=1e-2, max_iter=5)
    assert (early.objective - found.objective <= early.gap + 1e-9).all()
    assert (early.gap > 1e-3).any()


def test_other_penalties_have_no_gap(problem):
    assert quiet(*problem, L0(0.1), max_iter=300).gap is None


def test_cel0_finds_the_enumerated_l0_minimum_where_hard_thresholding_does_not():
    """Eight problems of 8 x 10, 32 restarts each as one batch; 50 problems are in the benchmarks."""
    rng = np.random.default_rng(5)
    hits = {"cel0": 0, "hard": 0}
    for _ in range(8):
        dictionary = rng.normal(size=(8, 10))
        dictionary /= np.linalg.norm(dictionary, axis=0)
        x, price = rng.normal(size=8), 0.5
        best = min(
            0.5 * np.sum((x - dictionary[:, s] @ np.linalg.lstsq(dictionary[:, s], x, rcond=None)[0]) ** 2)
            + price * len(s)
            for size in range(11)
            for s in map(list, itertools.combinations(range(10), size))
        )
        starts = 3 * rng.normal(size=(32, 10))  # narrow ones find fewer minima
        X = np.tile(x, (32, 1))
        found = quiet(X, dictionary, CEL0(price), start=starts, tolerance=1e-9)
        reached = objective(X, dictionary, L0(price), debias(X, dictionary, found.codes)).min()
        hits["cel0"] += reached <= best + 1e-9
        plain = quiet(X, dictionary, L0(price), tolerance=1e-9)
        hits["hard"] += plain.objective[0] <= best + 1e-9
        assert reached >= best - 1e-9
    assert hits["cel0"] >= 7
    assert hits["hard"] < hits["cel0"]


def test_rows_do_not_depend_on_their_neighbours_or_on_slots(problem):
    X, dictionary = problem
    penalty = MCP(0.1)
    together = iterative_thresholding(X, dictionary, penalty)
    for slots in (1, 5):
        again = iterative_thresholding(X, dictionary, penalty, n_slots=slots)
        np.testing.assert_allclose(again.codes, together.codes, atol=1e-10)
        np.testing.assert_array_equal(again.n_iter, together.n_iter)
        np.testing.assert_allclose(again.objective_trace, together.objective_trace, rtol=1e-10)
    reversed_ = iterative_thresholding(X[::-1], dictionary, penalty, n_slots=5)
    np.testing.assert_allclose(reversed_.codes[::-1], together.codes, atol=1e-10)


def test_a_start_is_used_and_a_zero_row_stays_zero(problem):
    X, dictionary = problem
    X = X.copy()
    X[3] = 0.0
    found = iterative_thresholding(X, dictionary, CEL0(0.1), tolerance=1e-8)
    assert not found.codes[3].any()
    assert found.objective[3] == 0
    again = iterative_thresholding(X, dictionary, CEL0(0.1), tolerance=1e-6, start=found.codes)
    assert again.n_iter.max() <= 3
    np.testing.assert_allclose(again.codes, found.codes, atol=1e-5)


def test_single_precision_stays_single(problem):
    X, dictionary = problem
    found = iterative_thresholding(X.astype(np.float32), dictionary, L1(0.1))
    assert found.codes.dtype == np.float32
    np.testing.assert_allclose(found.codes, iterative_thresholding(X, dictionary, L1(0.1)).codes, atol=2e-3)


def test_the_bound_of_the_squared_norm_is_above_and_close():
    rng = np.random.default_rng(6)
    for shape in ((5, 9), (9, 5), (40, 40), (1, 3)):
        matrix = rng.normal(size=shape)
        exact = np.linalg.norm(matrix, 2) ** 2
        assert exact <= squared_norm_bound(matrix) <= 1.01 * exact
    for scale in (1e-120, 1e120):
        assert squared_norm_bound(scale * np.eye(3)) / scale**2 == pytest.approx(1, rel=2e-3)


def test_matched_sparsity_hits_its_target_for_every_penalty(problem):
    X, dictionary = problem
    for name in ("l1", "l0", "l1/2", "log", "cel0"):
        found = matched_sparsity(X, dictionary, name, 0.12, relative_tolerance=0.05)
        assert found.converged
        assert abs(found.active_fraction - 0.12) <= 0.006
        assert found.active_fraction == np.count_nonzero(found.codes.codes) / found.codes.codes.size
        assert found.penalty == penalty_named(name, found.strength)
        direct = iterative_thresholding(X, dictionary, found.penalty)
        np.testing.assert_array_equal(direct.codes, found.codes.codes)
    counted = matched_sparsity(X, dictionary, "l1", 3, relative_tolerance=0.05)
    assert counted.target == 3 / 24
    with pytest.warns(RuntimeWarning, match="the closest active fraction to"):
        matched_sparsity(X[:1], dictionary, "l1", 0.06, relative_tolerance=1e-6, max_solves=6)


def test_debias_is_least_squares_on_each_support(problem):
    X, dictionary = problem
    rng = np.random.default_rng(7)
    codes = rng.normal(size=(32, 24)) * (rng.random((32, 24)) < 0.2)
    codes[0], codes[1] = 0.0, 1.0  # no unit, and more units than dimensions
    refit = debias(X, dictionary, codes)
    np.testing.assert_array_equal(refit != 0, codes != 0)
    for x, r, code in zip(X, refit, codes, strict=True):
        on = code != 0
        np.testing.assert_allclose(r[on], np.linalg.lstsq(dictionary[:, on], x, rcond=None)[0], atol=1e-8)
    twice = np.hstack([dictionary[:, :1], dictionary[:, :1]])
    np.testing.assert_allclose(np.diff(debias(X, twice, np.ones((32, 2))), axis=1), 0, atol=1e-8)


ONE = np.ones((2, 3)), np.eye(3)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (
            lambda: iterative_thresholding(np.full((2, 3), np.nan), np.eye(3), L1(0.1)),
            "X must be finite, got 6 values",
        ),
        (
            lambda: iterative_thresholding(ONE[0], np.full((3, 3), np.inf), L1(0.1)),
            "dictionary must be finite, got 9 values",
        ),
        (lambda: iterative_thresholding(np.ones(3), np.eye(3), L1(0.1)), "X must be a matrix"),
        (lambda: iterative_thresholding(np.array([["a"]]), np.eye(1), L1(0.1)), "X must hold real numbers"),
        (lambda: iterative_thresholding(ONE[0], np.eye(2), L1(0.1)), r"dictionary has shape \(2, 2\)"),
        (lambda: iterative_thresholding(ONE[0], np.zeros((3, 3)), L1(0.1)), "dictionary is zero"),
        (lambda: iterative_thresholding(*ONE, L1(0.1), start=np.ones((1, 3))), r"start has shape \(1, 3\)"),
        (
            lambda: iterative_thresholding(*ONE, L1(0.1), start=np.full((2, 3), np.nan)),
            "start must be finite, got 6 values",
        ),
        (lambda: iterative_thresholding(*ONE, L1(0.1), tolerance=0.0), "tolerance must be a positive number"),
        (lambda: iterative_thresholding(*ONE, L1(0.1), max_iter=0), "max_iter must be an integer of at least 1"),
        (lambda: iterative_thresholding(*ONE, L1(0.1), n_slots=0), "n_slots must be an integer of at least 1"),
        (lambda: iterative_thresholding(*ONE, L1(0.1), step=-1.0), "step must be a positive number"),
        (lambda: iterative_thresholding(*ONE, L1(-0.1)), "lambda_ of L1 must be nonnegative"),
        (lambda: iterative_thresholding(*ONE, SCAD(0.1, 1.5)), "b must be larger than 1 . step"),
        (lambda: iterative_thresholding(*ONE, MCP(0.1, 0.5)), "gamma must be larger than step"),
        (lambda: matched_sparsity(*ONE, "l1", 3), r"target must be a share in \(0, 1\) or a count in \[1, 3\)"),
        (lambda: matched_sparsity(*ONE, "l1", -0.1), "target must be a share"),
        (lambda: matched_sparsity(*ONE, "l1", 0.1, relative_tolerance=0.0), "relative_tolerance must lie"),
        (lambda: matched_sparsity(*ONE, "l1", 0.1, first=0.0), "first must be a positive number"),
        (lambda: matched_sparsity(*ONE, "l3", 0.1), "penalty must be one of"),
        (lambda: matched_sparsity(np.zeros((2, 3)), np.eye(3), "l1", 0.1), "X is zero"),
        (lambda: debias(*ONE, np.ones((2, 2))), "shapes do not fit"),
        (lambda: debias(*ONE, np.full((2, 3), np.nan)), "codes must be finite, got 6 values"),
    ],
)
def test_refusals(refused, message):
    with pytest.raises(ValueError, match=message):
        refused()


def test_a_penalty_that_is_none_is_refused():
    with pytest.raises(TypeError, match="penalty must be a record"):
        iterative_thresholding(*ONE, "l1")


def test_what_is_warned_about(problem):
    X, dictionary = problem
    with pytest.warns(RuntimeWarning, match="32 of 32 rows did not converge in max_iter=2"):
        iterative_thresholding(X, dictionary, L1(0.1), max_iter=2)
    with pytest.warns(UserWarning, match="norms of the dictionary's columns differ"):
        iterative_thresholding(X, 2 * dictionary, CEL0(0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        iterative_thresholding(X, 2 * dictionary, CEL0(0.1, column_norm=np.full(24, 2.0)))
