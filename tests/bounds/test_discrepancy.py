"""Discrepancy: both methods against a dense grid, each other, and brute force; and the door."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit

from uqsparse.bounds.multiplicity import discrepancy as module
from uqsparse.bounds.multiplicity.constrained_minimum import constrained_minimum
from uqsparse.bounds.multiplicity.discrepancy import discrepancy_bounds
from uqsparse.bounds.multiplicity.moved_program import MovedProgram, ProgramAnswer
from uqsparse.bounds.multiplicity.moved_search import ball_coordinates
from uqsparse.solvers.regularised_loss import RegularisedLoss, minimise


class Problem:
    """Logistic persons, thresholds at a shift of the risk, and no ranges: the loosest constants that are valid."""

    def __init__(self, n, d, delta, seed=0, epsilon=0.02, repeated=1):
        rng = np.random.default_rng(seed)
        features = np.repeat(rng.normal(size=(n // repeated, d - 1)), repeated, axis=0)
        self.X = np.column_stack([np.ones(n), features])
        y = (rng.random(n) < expit(self.X @ rng.normal(size=d))).astype(float)
        self.l2 = np.append(0.0, np.full(d - 1, 1e-3))
        self.loss = RegularisedLoss(self.X, y, np.full(n, 1 / n), self.l2)
        self.y, self.n = y, n
        self.minimum = minimise(self.loss)
        self.level = (1 + epsilon) * self.minimum.value
        risk = expit(self.X @ self.minimum.w)
        self.above = np.where(risk + delta < 1, logit(np.minimum(risk + delta, 1)), np.inf)
        self.below = np.where(risk - delta > 0, logit(np.maximum(risk - delta, 0)), -np.inf)
        # 1.1 of the quadratic approximation's half-width is wide enough for these data; the grid checks it
        reach = 1.1 * np.linalg.norm(self.X @ ball_coordinates(self.minimum, self.level), axis=1)
        self.score_lower = self.X @ self.minimum.w - reach
        self.score_upper = self.X @ self.minimum.w + reach

    def solve(self, **options):
        return discrepancy_bounds(
            self.loss,
            self.level,
            self.minimum,
            self.X,
            self.above,
            self.below,
            **{
                "score_lower": self.score_lower,
                "score_upper": self.score_upper,
                "models": self.minimum.w[None],
                "time_limit": 20.0,
                **options,
            },
        )

    def moved(self, models):
        scores = models @ self.X.T
        return ((scores >= self.above) | (scores <= self.below)).sum(1)

    def training_loss(self, models):
        signs = 2 * self.y - 1
        return np.logaddexp(0, -signs * (models @ self.X.T)).mean(1) + 0.5 * models**2 @ self.l2

    def grid(self, points):
        basis = ball_coordinates(self.minimum, self.level)
        axis = np.linspace(-1.3, 1.3, points)
        models = self.minimum.w + np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2) @ basis.T
        models = models[self.training_loss(models) <= self.level]
        return self.moved(models).max()


@pytest.mark.parametrize(("method", "n"), [("auto", 100), ("integer program", 30)])
def test_two_coefficients_equal_a_dense_grid(method, n):
    problem = Problem(n, 2, 0.1)
    found = problem.solve(method=method)
    assert found.status == "proved"
    assert found.lower == found.upper == problem.grid(401)
    assert problem.training_loss(found.model[None])[0] <= problem.level + 1e-14
    assert problem.moved(found.model[None])[0] == found.lower


def test_a_grid_never_finds_more_than_was_proved():
    for seed in range(3):
        problem = Problem(60, 2, 0.07, seed=seed)
        found = problem.solve()
        assert found.status == "proved"
        assert problem.grid(201) <= found.upper


def test_both_methods_agree_with_three_coefficients():
    problem = Problem(40, 3, 0.15, seed=3)
    directions = problem.solve()
    program = problem.solve(method="integer program", time_limit=2.0)
    assert directions.status == "proved"
    assert program.lower <= directions.lower <= program.upper
    if program.status == "proved":
        assert program.lower == directions.lower


def test_many_coefficients_are_bracketed():
    problem = Problem(80, 10, 0.15, seed=1, epsilon=0.05)
    found = problem.solve(time_limit=0.5)
    assert found.lower <= found.upper
    assert problem.moved(found.model[None])[0] == found.lower
    assert problem.training_loss(found.model[None])[0] <= problem.level + 1e-14
    # models drawn at random move no more than the bound
    rng = np.random.default_rng(0)
    rays = rng.normal(size=(500, 10))
    basis = ball_coordinates(problem.minimum, problem.level)
    models = problem.minimum.w + 0.95 * (rays / np.linalg.norm(rays, axis=1, keepdims=True)) @ basis.T
    models = models[problem.training_loss(models) <= problem.level]
    assert len(models) > 100
    assert problem.moved(models).max() <= found.upper


def test_rows_that_stand_for_several_persons_count_so():
    problem = Problem(60, 2, 0.08, seed=2, repeated=3)
    rows, first, counts = np.unique(problem.X, axis=0, return_index=True, return_counts=True)
    whole = problem.solve()
    merged = discrepancy_bounds(
        problem.loss,
        problem.level,
        problem.minimum,
        rows,
        problem.above[first],
        problem.below[first],
        score_lower=problem.score_lower[first],
        score_upper=problem.score_upper[first],
        models=problem.minimum.w[None],
        counts=counts,
    )
    assert (counts == 3).all()
    assert merged.lower == merged.upper == whole.lower == whole.upper


def test_nobody_within_reach():
    problem = Problem(60, 2, 0.1)
    problem.above, problem.below = np.full(60, np.inf), np.full(60, -np.inf)
    found = problem.solve()
    assert (found.lower, found.upper, found.status) == (0, 0, "proved")


def test_false_bounds_of_the_scores_raise():
    problem = Problem(60, 2, 0.1)
    scores = problem.X @ problem.minimum.w
    with pytest.raises(RuntimeError, match="cannot be trusted"):
        problem.solve(score_lower=scores, score_upper=scores)


def test_a_bound_below_what_a_model_attains_raises(monkeypatch):
    # as SciPy's milp 1.17.1 did: "optimal" with a value below a feasible point's
    problem = Problem(40, 3, 0.12, seed=3)
    empty = np.zeros(0, dtype=int)
    monkeypatch.setattr(MovedProgram, "solve", lambda self, seconds: ProgramAnswer(0.0, empty, empty, True))
    with pytest.raises(RuntimeError, match="cannot be trusted"):
        problem.solve(method="integer program")


def test_constrained_minimum_agrees_with_a_general_optimiser():
    rng = np.random.default_rng(5)
    rows, sides = rng.normal(size=(5, 3)), rng.uniform(0, 0.5, size=5)

    def value(z):
        return float(np.log(np.exp(rows @ z).sum()) + z @ z)

    def gradient(z):
        p = np.exp(rows @ z)
        return rows.T @ (p / p.sum()) + 2 * z

    def hessian(z):
        p = np.exp(rows @ z)
        p /= p.sum()
        return (rows.T * p) @ rows - np.outer(rows.T @ p, rows.T @ p) + 2 * np.eye(3)

    found = constrained_minimum(value, gradient, hessian, rows[:3], sides[:3], np.zeros(3))
    constraints = {"type": "ineq", "fun": lambda z: rows[:3] @ z - sides[:3]}
    expected = minimize(value, np.ones(3), jac=gradient, constraints=constraints, method="SLSQP", tol=1e-12)
    assert found is not None
    # the other one violates a constraint by 4e-8
    assert found.value == pytest.approx(expected.fun, abs=1e-5)
    assert found.lower == pytest.approx(found.value, abs=1e-6)
    assert (rows[:3] @ found.z >= sides[:3] - 1e-9).all()
    contradictory = constrained_minimum(
        value, gradient, hessian, np.array([[1.0, 0, 0], [-1.0, 0, 0]]), np.ones(2), np.zeros(3)
    )
    assert contradictory is not None
    assert contradictory.lower == np.inf
    assert contradictory.active.tolist() == [0, 1]


def test_conflicts_are_true():
    problem = Problem(30, 3, 0.15, seed=4)
    search = module.MovedSearch(
        problem.loss, problem.level, problem.minimum, problem.X, problem.above, problem.below, np.ones(30, int)
    )
    rising = np.flatnonzero(np.isfinite(problem.above))
    search.refine(rising, rising[:0], np.inf)
    assert search.conflicts
    rng = np.random.default_rng(0)
    rays = rng.normal(size=(4000, 3))
    basis = ball_coordinates(problem.minimum, problem.level)
    rays *= rng.uniform(0.8, 1.2, size=(4000, 1)) / np.linalg.norm(rays, axis=1, keepdims=True)
    models = problem.minimum.w + rays @ basis.T
    models = models[problem.training_loss(models) <= problem.level]
    up = models @ problem.X.T >= problem.above
    for conflict in search.conflicts:
        assert not up[:, conflict.rising].all(1).any()
    # the persons that are left are moved by a model
    assert search.lower >= up.sum(1).max() / 2 > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_limit": 0}, "time_limit must be a positive"),
        ({"time_limit": np.nan}, "time_limit must be a positive"),
        ({"method": "magic"}, "method must be one of"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Problem(40, 2, 0.1).solve(**options)


def test_levels_at_the_minimum_are_refused():
    problem = Problem(40, 2, 0.1)
    problem.level = problem.minimum.value
    with pytest.raises(ValueError, match="level must exceed"):
        discrepancy_bounds(
            problem.loss,
            problem.minimum.value,
            problem.minimum,
            problem.X,
            problem.above,
            problem.below,
            score_lower=problem.score_lower,
            score_upper=problem.score_upper,
            models=problem.minimum.w[None],
        )
