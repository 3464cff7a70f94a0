"""The conic standard form against CVXPY, and bounds that hold whatever the solver did."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.solvers.conic import Cone, ConicProblem, linear_matrix_inequality, solve_conic, triangle
from uqsparse.solvers.dual_polish import polished_duals, tightest_bound
from uqsparse.solvers.safe_bound import dual_certificate, prove_empty, safe_bound


def _symmetric(rng, n):
    matrix = rng.normal(size=(n, n))
    return matrix + matrix.T


def _random_problem(seed, m=4, n=5):
    """A problem with y = 0 strictly inside, in a box by nonnegative rows, with all kinds of cones."""
    rng = np.random.default_rng(seed)
    matrices = [_symmetric(rng, n) for _ in range(m)]
    box = np.concatenate([np.hstack([np.full((m, 1), 3.0), s * np.eye(m)]) for s in (1.0, -1.0)])
    ball = np.vstack([np.r_[2.0, np.zeros(m)], np.hstack([np.zeros((m, 1)), np.eye(m)])])
    plane = np.r_[0.0, rng.normal(size=m)][None]
    cones = (
        linear_matrix_inequality(np.eye(n) * 3, matrices),
        Cone("nonnegative", sp.csr_array(box)),
        Cone("second_order", sp.csr_array(ball)),
        Cone("zero", sp.csr_array(plane)),
        linear_matrix_inequality(np.eye(2), [_symmetric(rng, 2) for _ in range(m)]),
    )
    return ConicProblem(rng.normal(size=m), cones, 0.7, bool(seed % 2)), matrices


def _with_cvxpy(problem):
    cp = pytest.importorskip("cvxpy")
    y = cp.Variable(problem.n_unknowns)
    constraints = []
    for cone in problem.cones:
        image = cone.maps.toarray()[:, 1:] @ y + cone.maps.toarray()[:, 0]
        if cone.kind == "zero":
            constraints.append(image == 0)
        elif cone.kind == "nonnegative":
            constraints.append(image >= 0)
        elif cone.kind == "second_order":
            constraints.append(cp.norm(image[1:]) <= image[0])
        else:
            rows, columns = triangle(cone.side)
            spread = np.zeros((cone.side**2, cone.n_rows))
            spread[rows * cone.side + columns, np.arange(cone.n_rows)] = 1
            spread[columns * cone.side + rows, np.arange(cone.n_rows)] = 1
            matrix = cp.reshape(spread @ image, (cone.side, cone.side), order="C")
            constraints.append(matrix >> 0)
    objective = problem.objective @ y + problem.constant
    goal = cp.Maximize(objective) if problem.maximise else cp.Minimize(objective)
    return cp.Problem(goal, constraints).solve(solver="CLARABEL")


@pytest.mark.parametrize("solver", ["clarabel", "scs"])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_cvxpy(seed, solver):
    problem, _ = _random_problem(seed)
    found = solve_conic(problem, solver, tolerance=1e-8)
    assert found.status == "solved"
    assert found.value == pytest.approx(_with_cvxpy(problem), abs=1e-5)
    certified = safe_bound(problem, found, np.full(problem.n_unknowns, 3.0))
    assert certified.bound == pytest.approx(found.value, abs=1e-4)
    assert (certified.bound >= found.value - 1e-6) if problem.maximise else (certified.bound <= found.value + 1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), iterations=st.integers(1, 30), solver=st.sampled_from(["clarabel", "scs"]))
def test_no_feasible_point_is_beyond_the_bound_of_a_solver_stopped_early(seed, iterations, solver):
    problem, _ = _random_problem(seed)
    found = solve_conic(problem, solver, max_iterations=iterations)
    largest = np.full(problem.n_unknowns, 2.0)  # the second-order cone says |y| <= 2
    best = solve_conic(problem)
    truth = problem.constant + problem.objective @ best.y
    # best.y is feasible up to 1e-8
    slack = 1e-6
    for bound in (safe_bound(problem, found, largest).bound, tightest_bound(problem, found.duals, largest)):
        assert np.isfinite(bound)
        assert (bound >= truth - slack) if problem.maximise else (bound <= truth + slack)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(0, 10))
def test_any_duals_give_a_bound_even_outside_of_their_cones(seed, size):
    """Duals drawn at random, indefinite ones included; feasible points by rejection along rays from the inside."""
    problem, _ = _random_problem(2 * seed + 1)
    problem = dataclasses.replace(problem, cones=tuple(c for c in problem.cones if c.kind != "zero"))
    rng = np.random.default_rng(seed)
    duals = [
        size * (_symmetric(rng, c.side) if c.kind == "semidefinite" else rng.normal(size=c.n_rows))
        for c in problem.cones
    ]
    bound = dual_certificate(problem, duals).bound(np.full(problem.n_unknowns, 2.0))
    for _ in range(6):
        y = rng.normal(size=problem.n_unknowns)
        y *= 2 / np.linalg.norm(y)
        while not _feasible(problem, y):
            y *= 0.8
        assert problem.constant + problem.objective @ y <= bound + 1e-12 * abs(bound)


def _feasible(problem, y):
    for cone in problem.cones:
        image = cone.maps @ np.r_[1.0, y]
        if cone.kind == "nonnegative" and image.min() < 0:
            return False
        if cone.kind == "second_order" and np.linalg.norm(image[1:]) > image[0]:
            return False
        if cone.kind == "semidefinite":
            matrix = np.zeros((cone.side, cone.side))
            matrix[triangle(cone.side)] = image
            if np.linalg.eigvalsh(matrix, UPLO="U")[0] < 0:
                return False
    return True


def test_a_dual_with_a_negative_eigenvalue_pays_its_trace():
    # maximise y subject to diag(1 - y, 1 + y) >= 0: the dual diag(1, -e) is projected, diag(1, 0) is exact
    cone = linear_matrix_inequality(np.eye(2), [np.diag([-1.0, 1.0])])
    problem = ConicProblem(np.ones(1), (cone,))
    certificate = dual_certificate(problem, [np.diag([1.0, 0.0])])
    # diag(1, 0) passes no Cholesky test, so a shift of rounding size is charged, and no more
    assert 0 < certificate.shifts[0] < 1e-13
    assert certificate.traces[0].tolist() == pytest.approx([2.0, 0.0])
    assert 1.0 < certificate.bound([5.0]) < 1.0 + 1e-12
    assert dual_certificate(problem, [np.diag([1.0, -0.1])]).bound([5.0]) == pytest.approx(1.0)


def test_the_residual_is_charged_at_the_size_of_the_box():
    cone = linear_matrix_inequality(np.eye(2), [np.diag([-1.0, 1.0])])
    problem = ConicProblem(np.ones(1), (cone,))
    certificate = dual_certificate(problem, [np.diag([0.75, 0.0])])
    # d_0 = 0.75 and d_1 = 0.25
    assert certificate.bound([5.0]) == pytest.approx(0.75 + 0.25 * 5)
    assert dual_certificate(dataclasses.replace(problem, maximise=False), [np.zeros((2, 2))]).bound([5.0]) == (
        pytest.approx(-5)
    )
    assert certificate.bound([np.inf]) == np.inf


@pytest.mark.parametrize("solver", ["clarabel", "scs"])
def test_infeasible_problems_are_proved_empty(solver):
    rng = np.random.default_rng(0)
    cones = (
        linear_matrix_inequality(-np.eye(3), [np.zeros((3, 3)), np.diag([1.0, -1.0, 0.0])]),
        Cone("nonnegative", sp.csr_array(rng.normal(size=(2, 3)))),
    )
    problem = ConicProblem(np.ones(2), cones)
    found = solve_conic(problem, solver)
    assert found.status == "infeasible"
    assert found.value == -np.inf
    proof = prove_empty(problem, found.duals, [10.0, 10.0])
    assert proof is not None
    assert proof.value < 0
    # a feasible problem has no such proof, whatever the duals
    feasible = ConicProblem(np.ones(2), (linear_matrix_inequality(np.eye(3), [np.zeros((3, 3))] * 2),))
    assert prove_empty(feasible, found.duals[:1], [10.0, 10.0]) is None
    assert prove_empty(feasible, [np.zeros((3, 3))], [10.0, 10.0]) is None


def test_unbounded_problems_have_an_infinite_value_and_the_bound_of_the_box():
    problem = ConicProblem(np.ones(1), (Cone("nonnegative", sp.csr_array([[1.0, 1.0]])),))
    found = solve_conic(problem)
    assert found.status == "unbounded"
    assert found.value == np.inf
    assert safe_bound(problem, found, [7.0]).bound == pytest.approx(7.0)


def test_polishing_takes_the_residuals_away():
    problem, _ = _random_problem(5)
    largest = np.full(problem.n_unknowns, 3.0)
    found = solve_conic(problem, tolerance=1e-4)
    before = dual_certificate(problem, found.duals)
    polished = polished_duals(problem, found.duals, largest)
    assert polished is not None
    after = dual_certificate(problem, polished)
    assert abs(after.residuals).max() < 1e-10
    assert abs(after.residuals).max() < 0.1 * abs(before.residuals).max()
    assert after.shifts.max() < 1e-10


def test_triangles_are_column_by_column():
    upper = np.zeros((3, 3))
    upper[triangle(3)] = np.arange(6)
    assert upper.tolist() == [[0, 1, 3], [0, 2, 4], [0, 0, 5]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cone("odd", sp.csr_array((1, 2))), "kind must be one of"),
        (lambda: Cone("zero", sp.csr_array([[np.nan, 1.0]])), "must be finite"),
        (lambda: Cone("semidefinite", sp.csr_array((4, 2))), "n \\(n \\+ 1\\) / 2 rows, got 4"),
        (lambda: linear_matrix_inequality(np.eye(2), [np.triu(np.ones((2, 2)))]), "matrices\\[0\\] must be symmetric"),
        (lambda: linear_matrix_inequality(np.eye(2), [np.eye(3)]), "of the shape of constant"),
        (lambda: ConicProblem(np.ones(2), (Cone("zero", sp.csr_array((1, 2))),)), "1 \\+ 2 columns"),
        (lambda: ConicProblem(np.array([np.inf]), ()), "finite"),
        (lambda: solve_conic(_random_problem(0)[0], "simplex"), "solver must be"),
        (lambda: solve_conic(_random_problem(0)[0], tolerance=0.0), "must be positive"),
        (lambda: solve_conic(_random_problem(0)[0], max_iterations=0), "at least 1"),
        (lambda: dual_certificate(_random_problem(0)[0], []), "one entry for each of 5 cones"),
        (lambda: dual_certificate(_random_problem(0)[0], [np.full((5, 5), np.nan)] * 5), "must be finite"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
