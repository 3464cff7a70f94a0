"""Scores of rows against linear and convex programmes, closed forms and the inequalities between them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from uqsparse.solvers.row_scores import leverage_scores, lewis_weights, row_scores, sensitivity_brackets

N, D = 80, 4
ALL_P = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)


def heavy(seed, n=N, d=D):
    return np.random.default_rng(seed).standard_t(2, size=(n, d))


def least_norm(A, i, p):
    """min |A x|_p^p with a_i x = 1, by CVXPY."""
    cvxpy = pytest.importorskip("cvxpy")
    x = cvxpy.Variable(A.shape[1])
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.norm(A @ x, p)), [A[i] @ x == 1])
    return problem.solve(solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11) ** p


@pytest.mark.parametrize("p", [1.0, 1.25, 1.5, 3.0, 4.0])
def test_convex_programmes_give_values_inside_the_brackets(p):
    A = heavy(0)
    found = sensitivity_brackets(A, p)
    assert found.converged.all()
    assert found.gap <= 1e-4
    for i in (0, 7, int(found.upper.argmax()), int(found.upper.argmin())):
        exact = 1 / least_norm(A, i, p)
        assert found.lower[i] * (1 - 1e-6) <= exact <= found.upper[i] * (1 + 1e-6)


def test_sensitivities_of_order_one_are_those_of_linear_programmes():
    A = heavy(3)
    found = sensitivity_brackets(A, 1.0)
    assert found.gap <= 1e-9
    for i in range(0, N, 8):
        solved = linprog(
            np.r_[np.zeros(D), np.ones(N)],
            A_ub=np.block([[A, -np.eye(N)], [-A, -np.eye(N)]]),
            b_ub=np.zeros(2 * N),
            A_eq=np.r_[A[i], np.zeros(N)][None],
            b_eq=[1.0],
            bounds=[(None, None)] * D + [(0, None)] * N,
        )
        assert found.lower[i] == pytest.approx(1 / solved.fun, rel=1e-9)


@pytest.mark.parametrize("p", ALL_P)
def test_an_interrupted_search_still_bounds(p):
    A = heavy(1)
    good = sensitivity_brackets(A, p)
    if p not in (1.0, 2.0):  # these are solved exactly, in two steps too
        with pytest.warns(UserWarning, match="the bounds hold all the same"):
            early = sensitivity_brackets(A, p, max_iterations=2, tolerance=1e-12)
        assert not early.converged.all()
        assert (early.lower <= good.upper * (1 + 1e-9)).all()
        assert (early.upper >= good.lower * (1 - 1e-9)).all()
    random = np.random.default_rng(0).normal(size=(D, 2000))
    powers = np.abs(A @ random) ** p
    assert ((powers / powers.sum(axis=0)).max(axis=1) <= good.upper * (1 + 1e-9)).all()


@given(seed=st.integers(0, 10**6), p=st.sampled_from(ALL_P))
def test_inequalities_between_scores_and_invariance(seed, p):
    A = heavy(seed)
    found, weights, leverage = sensitivity_brackets(A, p), lewis_weights(A, p), leverage_scores(A)
    w, total, slack = weights.weights, found.upper.sum(), 1 + 1e-7
    assert weights.converged
    assert weights.residual <= 1e-9
    assert w.sum() == pytest.approx(D)
    if p <= 2:
        assert (found.lower <= w * slack).all()
        assert (w <= D ** (1 - p / 2) * found.upper * slack).all()
        assert (found.lower <= leverage ** (p / 2) * slack).all()
        assert D ** (p / 2) <= total * slack
        assert found.lower.sum() <= D * slack
    else:
        assert (found.lower <= D ** (p / 2 - 1) * w * slack).all()
        assert total * slack >= D
        assert found.lower.sum() <= D ** (p / 2) * slack
    mixing = np.random.default_rng(seed + 1).normal(size=(D, D)) + 3 * np.eye(D)
    mixed = sensitivity_brackets(A @ mixing, p)
    assert (mixed.lower <= found.upper * slack).all()
    assert (found.lower <= mixed.upper * slack).all()
    np.testing.assert_allclose(lewis_weights(A @ mixing, p).weights, w, rtol=1e-6)


def test_order_two_is_the_diagonal_of_the_hat_matrix():
    A = heavy(2)
    hat = np.diag(A @ np.linalg.inv(A.T @ A) @ A.T)
    np.testing.assert_allclose(leverage_scores(A), hat, atol=1e-12)
    np.testing.assert_allclose(sensitivity_brackets(A, 2.0).upper, hat, atol=1e-12)
    np.testing.assert_allclose(lewis_weights(A, 2.0).weights, hat, atol=1e-12)


def test_lewis_weights_satisfy_their_definition():
    A = heavy(4)
    for p in (1.0, 3.0, 5.0):
        w = lewis_weights(A, p).weights
        scaled = A * w[:, None] ** (0.5 - 1 / p)
        np.testing.assert_allclose(w, np.diag(scaled @ np.linalg.inv(scaled.T @ scaled) @ scaled.T), rtol=1e-8)


def test_duplicates_share_zeros_have_none_and_single_directions_are_whole():
    A = heavy(5, n=20)
    A[3] = 0
    A[:, 2] = 0
    A[7] = [0, 0, 1e-9, 0]
    A[12] = A[11]
    for p in (1.0, 1.5, 3.0):
        found, w = sensitivity_brackets(A, p), lewis_weights(A, p).weights
        assert found.upper[3] == found.lower[3] == w[3] == 0
        assert found.lower[7] == pytest.approx(1)
        assert w[7] == pytest.approx(1)
        assert found.lower[11] == pytest.approx(found.lower[12], rel=1e-6)
        single = sensitivity_brackets(np.delete(A, 12, axis=0), p).upper[11]
        assert 2 * found.upper[11] >= single * (1 - 1e-6)
    assert leverage_scores(A)[3] == 0
    assert leverage_scores(A).sum() == pytest.approx(4)


@pytest.mark.parametrize("p", [1.0, 3.0])
def test_collinear_columns_and_single_columns(p):
    A = heavy(6, n=30, d=2)
    wide = np.column_stack([A, A @ [1.0, 2.0]])
    np.testing.assert_allclose(sensitivity_brackets(wide, p).upper, sensitivity_brackets(A, p).upper, rtol=2e-4)
    assert lewis_weights(wide, p).weights.sum() == pytest.approx(2)
    one = np.abs(A[:, :1]) ** p
    np.testing.assert_allclose(sensitivity_brackets(A[:, :1], p).upper, (one / one.sum())[:, 0], rtol=1e-4)


def test_a_tiny_row_with_a_direction_of_its_own_is_not_lost():
    A = np.column_stack([heavy(7, n=30, d=2), np.zeros(30)])
    A[:, 2] = A[:, 0] * 1e8
    A[9, 2] += 1e-9  # below what the singular values of the rest can show
    found = sensitivity_brackets(A, 1.5, rows=np.array([9, 3]))
    assert (found.lower <= found.upper).all()
    assert (found.upper <= 1).all()


def test_schemes_are_what_their_names_say():
    A = heavy(8)
    leverage, sensitivity = leverage_scores(A), row_scores(A, 1.5, "sensitivity")
    np.testing.assert_array_equal(row_scores(A, 1.5, "root-leverage"), leverage**0.75)
    np.testing.assert_allclose(row_scores(A, 1.5, "mixed"), sensitivity + leverage)
    np.testing.assert_allclose(row_scores(A, 3.0, "mixed"), np.maximum(row_scores(A, 3.0, "sensitivity"), leverage))
    np.testing.assert_array_equal(row_scores(A, 3.0, "uniform"), np.ones(N))
    np.testing.assert_allclose(row_scores(A, 1.0), lewis_weights(A, 1.0).weights, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda A: sensitivity_brackets(A, 0.5), "p must be at least 1"),
        (lambda A: lewis_weights(A, np.inf), "p must be at least 1"),
        (lambda A: leverage_scores(A[0]), "A must be a matrix"),
        (lambda A: leverage_scores(A[:0]), "A must be a matrix"),
        (lambda A: leverage_scores(np.where(A > 1, np.nan, A)), "A must be finite"),
        (lambda A: sensitivity_brackets(A, 1, rows=[N]), "rows must be indices from 0 to 79"),
        (lambda A: sensitivity_brackets(A, 1, tolerance=0), "tolerance must be positive"),
        (lambda A: sensitivity_brackets(A, 1, max_iterations=0), "max_iterations must be an integer of at least 1"),
        (lambda A: row_scores(A, 3, "root-leverage"), "'root-leverage' is for p <= 2"),
        (lambda A: row_scores(A, 1, "best"), "scheme must be one of"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(heavy(9))
