"""Rashomon sets: ranges against a convex solver and closed forms, properties, sampling, and the door."""

import json
import math

import cvxpy as cp
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import chi2
from sklearn.exceptions import NotFittedError

from uqsparse.bounds.multiplicity import sampling
from uqsparse.bounds.multiplicity.capacity import binary_capacity
from uqsparse.bounds.multiplicity.rashomon_set import RashomonSet

N, P = 80, 2
DELTAS = [0.02, 0.05, 0.1, 0.2]


def persons(seed=0, n=N):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, P))
    score = 0.3 + X @ [1.0, -0.7]
    return rng, X, score


def coins(seed=0, n=N):
    rng, X, score = persons(seed, n)
    return X, (rng.random(n) < expit(score)).astype(int)


@pytest.fixture(scope="module")
def fitted():
    return RashomonSet(epsilon=0.05).fit(*coins())


@pytest.fixture(scope="module")
def others():
    rng, X, score = persons(1)
    responses = {
        "squared": score + 0.5 * rng.normal(size=N),
        "poisson": rng.poisson(np.exp(score / 2)),
        "ordinal": np.digitize(score + rng.logistic(size=N), [0.0, 1.5]),
    }
    return X, {kind: RashomonSet(kind, epsilon=0.03).fit(X, y) for kind, y in responses.items()}


def extreme_score(X, y, l2, level, row, sign):
    """The same program in a modelling language."""
    w = cp.Variable(P + 1)
    design = np.column_stack([np.ones(len(X)), X])
    losses = cp.logistic(cp.multiply(-(2 * y - 1), design @ w))
    value = cp.sum(losses) / len(X) + l2 / 2 * cp.sum_squares(w[1:])
    problem = cp.Problem(cp.Maximize(sign * (np.append(1.0, row) @ w)), [value <= level])
    problem.solve(solver="CLARABEL")
    return sign * problem.value


def test_ranges_equal_those_of_a_convex_solver(fitted):
    X, y = coins()
    new = X.copy()
    new[:2] = [[0.0, 0.0], [3.0, -3.0]]
    found = fitted.viable_range(new)
    for k, row in enumerate(new[:3]):
        for sign, attained in ((1, found.upper[k]), (-1, found.lower[k])):
            expected = extreme_score(X, y, 1e-3, fitted.level_.level, row, sign)
            assert logit(attained) == pytest.approx(expected, abs=1e-5)
    assert found.score_gap.max() < 1e-7
    assert found.certificate_width.max() < 1e-7
    assert found.has_certificate.all()
    assert found.converged.all()


def test_attained_risks_are_those_of_models_in_the_set(fitted):
    X, y = coins()
    found = fitted.viable_range()
    design = np.column_stack([np.ones(N), X])
    for models, risks in ((found.lower_models, found.lower), (found.upper_models, found.upper)):
        assert expit((models * design).sum(1)) == pytest.approx(risks, abs=1e-12)
        losses = np.logaddexp(0, -(2 * y - 1) * (models @ design.T)).mean(1) + 5e-4 * (models[:, 1:] ** 2).sum(1)
        assert losses.max() <= fitted.level_.level + 1e-14
        assert fitted.training_loss(models) == pytest.approx(losses, abs=1e-14)
    assert (found.lower_certificate <= found.lower).all()
    assert (found.lower < found.risk).all()
    assert (found.risk < found.upper).all()
    assert (found.upper <= found.upper_certificate).all()
    assert found.risk == pytest.approx(fitted.risk(X))
    assert np.diagonal(fitted.risk(X, found.upper_models)) == pytest.approx(found.upper)


@settings(max_examples=4)
@given(st.integers(0, 10_000), st.sampled_from(["relative", "absolute"]))
@pytest.mark.filterwarnings("ignore:.*did not reach the tolerance")  # the least level is down at rounding
def test_order_and_monotonicity(seed, tolerance):
    X, y = coins(seed)
    if len(np.unique(y)) < 2:
        return
    before = None
    for epsilon in (1e-9, 0.01, 0.05):
        fitted = RashomonSet(epsilon=epsilon, tolerance=tolerance).fit(X, y)
        ambiguity, discrepancy = fitted.ambiguity(DELTAS), fitted.discrepancy(DELTAS, time_limit=0.2)
        assert (ambiguity.lower <= ambiguity.upper).all()
        assert (discrepancy.lower <= discrepancy.upper).all()
        assert (discrepancy.upper <= ambiguity.upper).all()
        assert (discrepancy.lower <= ambiguity.lower).all()
        for shares in (ambiguity.lower, ambiguity.upper, discrepancy.lower, discrepancy.upper):
            assert (np.diff(shares) <= 0).all()
        found = fitted.viable_range()
        if before is None:
            assert found.width.max() < 0.01
            assert ambiguity.upper.max() == discrepancy.upper.max() == 0
        else:
            assert (found.lower_certificate <= before[0].lower).all()
            assert (found.upper_certificate >= before[0].upper).all()
            assert (ambiguity.upper >= before[1].lower).all()
            assert (discrepancy.upper >= before[2].lower).all()
        before = found, ambiguity, discrepancy


def test_small_levels_follow_the_quadratic_law():
    X, y = coins()
    fitted = RashomonSet(epsilon=1e-3).fit(X, y)
    found = fitted.viable_range()
    design = np.column_stack([np.ones(N), X])
    p = expit(design @ fitted.coef_)
    hessian = (design.T * (p * (1 - p) / N)) @ design + np.diag([0, 1e-3, 1e-3])
    predicted = np.sqrt(2 * fitted.level_.height * (design @ np.linalg.inv(hessian) * design).sum(1))
    half = (logit(found.upper) - logit(found.lower)) / 2
    assert half / predicted == pytest.approx(1, abs=1e-3)


def test_squared_loss_has_a_closed_form(others):
    X, sets = others
    fitted = sets["squared"]
    design = np.column_stack([np.ones(N), X])
    hessian = design.T @ design / N + np.diag([0, 1e-3, 1e-3])
    half = np.sqrt(2 * fitted.level_.height * (design @ np.linalg.inv(hessian) * design).sum(1))
    found = fitted.viable_range()
    assert found.upper == pytest.approx(design @ fitted.coef_ + half, rel=1e-7)
    assert found.lower == pytest.approx(design @ fitted.coef_ - half, rel=1e-7)


@pytest.mark.parametrize("kind", ["squared", "poisson", "ordinal"])
def test_other_losses_are_certified_and_bracketed(others, kind):
    X, sets = others
    fitted = sets[kind]
    found = fitted.viable_range()
    assert found.has_certificate.all()
    assert found.certificate_width.max() < 1e-6
    for models in (found.lower_models, found.upper_models):
        assert fitted.training_loss(models).max() <= fitted.level_.level
    rng = np.random.default_rng(0)
    jitter = fitted.coef_ + 0.05 * rng.normal(size=(200, len(fitted.coef_)))
    inside = jitter[fitted.training_loss(jitter) <= fitted.level_.level]
    risks = fitted.risk(X, inside)
    assert len(inside) > 10
    assert (risks >= found.lower_certificate).all()
    assert (risks <= found.upper_certificate).all()
    discrepancy = fitted.discrepancy(0.1, time_limit=0.5)
    assert discrepancy.lower <= discrepancy.upper <= fitted.ambiguity(0.1).upper
    moved = abs(fitted.risk(X, discrepancy.model) - found.risk) >= 0.1 - 1e-12
    assert moved.mean() >= discrepancy.lower


def test_capacity(fitted, others):
    found = fitted.viable_range()
    capacity = fitted.capacity()
    assert capacity.lower == pytest.approx(2 ** binary_capacity(found.lower, found.upper))
    assert (capacity.lower <= capacity.upper).all()
    assert (capacity.lower >= 1).all()
    assert (capacity.upper - capacity.lower).max() < 1e-7
    _, sets = others
    three = sets["ordinal"].capacity()
    assert (three.lower >= 1).all()
    assert (three.upper == 3).all()
    # what is left of three classes when only the last is told from the others
    rare = sets["ordinal"].viable_range()
    assert (three.lower >= 2 ** binary_capacity(rare.lower, rare.upper) - 0.02).all()
    with pytest.raises(ValueError, match="probabilities of classes"):
        sets["squared"].capacity()


def test_uniform_draws_lie_inside_the_certified_ranges(fitted):
    X, _ = coins()
    drawn = fitted.sample(jax.random.key(0), 200)
    assert drawn.models.shape == (4, 50, 3)
    assert (drawn.loss <= fitted.level_.level).all()
    assert fitted.training_loss(drawn.models) == pytest.approx(drawn.loss)
    risks, found = fitted.risk(X, drawn.models), fitted.viable_range()
    assert (risks >= found.lower_certificate).all()
    assert (risks <= found.upper_certificate).all()
    # uniform on a ball of three dimensions: the share within half the radius is an eighth. 200 draws with an effective
    # size of at least 60 miss by 0.2 with a probability below 1e-4
    inner = (drawn.loss - fitted.level_.minimum) <= fitted.level_.height / 4
    assert inner.mean() == pytest.approx(1 / 8, abs=0.2)
    assert drawn.to_arviz().posterior["coefficients"].shape == (4, 50, 3)


def test_posterior_mass_of_the_set(fitted):
    laplace = fitted.epsilon_for_mass(0.5)
    assert laplace.absolute == pytest.approx(chi2(3).ppf(0.5) / (2 * N))
    assert laplace.relative == pytest.approx(laplace.absolute / fitted.level_.minimum)
    sampled = fitted.epsilon_for_mass(0.5, "mcmc", key=jax.random.key(0), n_draws=1000, n_warmup=200)
    # the two differ by the skewness of the posterior, of order 1/n
    assert sampled.absolute == pytest.approx(laplace.absolute, rel=0.15)
    assert 0 < sampled.standard_error < 0.1 * laplace.absolute


def test_posterior_draws_are_those_that_lie_in_the_set(monkeypatch):
    X, y = coins()
    half = RashomonSet(epsilon=chi2(3).ppf(0.5) / (2 * N), tolerance="absolute").fit(X, y)
    design = np.column_stack([np.ones(N), X])
    p = expit(design @ half.coef_)
    covariance = np.linalg.inv((design.T * (p * (1 - p))) @ design + N * np.diag([0, 1e-3, 1e-3]))
    rng, asked = np.random.default_rng(0), []

    def normal_draws(key, loss, minimum, n_draws, *, n_warmup):
        asked.append(n_draws)
        models = rng.multivariate_normal(half.coef_, covariance, size=(4, math.ceil(n_draws / 4)))
        return models, half.training_loss(models) - half.level_.minimum

    monkeypatch.setattr(sampling, "posterior_models", normal_draws)
    drawn = half.sample(jax.random.key(1), 398, "nuts", n_warmup=200)
    assert drawn.models.shape == (1, 400, 3)
    assert drawn.loss.max() <= half.level_.level
    # 960 draws or more, of which about a half: 0.1 off fails with a probability below 1e-9
    assert drawn.acceptance == pytest.approx(0.5, abs=0.1)
    assert sum(asked) < 2000
    with pytest.raises(ValueError, match="too little of the posterior"):
        RashomonSet(epsilon=1e-7).fit(X, y).sample(jax.random.key(2), 400, "nuts", n_warmup=200)


def test_equal_persons_are_solved_once_and_answered_each(fitted):
    X, _ = coins()
    chosen = np.append([3, 3, 7], np.arange(N))
    found = fitted.viable_range(X[chosen])
    assert found.lower[0] == found.lower[1] != found.lower[2]
    assert found.lower == pytest.approx(fitted.viable_range().lower[chosen])


def test_results_say_which_models_count_and_become_json(fitted):
    assert "relative tolerance" in str(fitted.level_)
    assert "absolute tolerance" in str(RashomonSet(epsilon=0.01, tolerance="absolute").fit(*coins()).level_)
    results = (
        fitted.viable_range(),
        fitted.ambiguity(0.1),
        fitted.ambiguity(DELTAS),
        fitted.discrepancy(0.1, time_limit=1),
        fitted.capacity(),
    )
    for result in results:
        assert result.level == fitted.level_
        plain = json.loads(json.dumps(result.to_dict()))
        assert plain["level"]["tolerance"] == "relative"
    persons_table = results[0].to_dict()["persons"]
    assert {len(column) for column in persons_table.values()} == {N}


def test_levels_are_what_the_tolerance_says():
    X, y = coins()
    relative = RashomonSet(epsilon=0.05).fit(X, y).level_
    absolute = RashomonSet(epsilon=0.05, tolerance="absolute").fit(X, y).level_
    design = np.column_stack([np.ones(N), X])
    least = minimize(
        lambda w: np.logaddexp(0, -(2 * y - 1) * (design @ w)).mean() + 5e-4 * w[1:] @ w[1:], np.zeros(3)
    ).fun
    assert relative.level == pytest.approx(1.05 * least, abs=1e-8)
    assert absolute.level == pytest.approx(0.05 + least, abs=1e-8)


def test_persons_with_equal_features_count_each():
    X, y = coins()
    X = np.concatenate([X[:60], np.repeat(X[:1], 20, axis=0)])
    fitted = RashomonSet(epsilon=0.05).fit(X, y)
    found = fitted.viable_range()
    # between two persons, so that about half of all can be moved so far
    reach = np.unique(np.maximum(found.upper - found.risk, found.risk - found.lower))
    shift = reach[len(reach) // 2 : len(reach) // 2 + 2].mean()
    moved = (found.upper >= found.risk + shift) | (found.lower <= found.risk - shift)
    assert 0 < moved.mean() < 1
    assert fitted.ambiguity(shift).lower == pytest.approx(moved.mean())
    discrepancy = fitted.discrepancy(shift, time_limit=5)
    assert discrepancy.status == "proved"
    assert discrepancy.lower == (abs(fitted.risk(X, discrepancy.model) - found.risk) >= shift - 1e-12).mean()


def test_ordinal_risks_are_of_the_last_class(others):
    X, sets = others
    rng, _, score = persons(1)
    rng.normal(size=N), rng.poisson(np.exp(score / 2))
    share = (score + rng.logistic(size=N) >= 1.5).mean()
    assert sets["ordinal"].risk(X).mean() == pytest.approx(share, abs=0.02)


def test_shifts_beyond_all_risks_move_nobody(fitted):
    assert fitted.ambiguity(0.999).upper == 0
    found = fitted.discrepancy(0.999)
    assert (found.lower, found.upper, found.status) == (0, 0, "proved")


def test_without_an_intercept():
    X, y = coins()
    fitted = RashomonSet(epsilon=0.05, fit_intercept=False).fit(X, y)
    found = fitted.viable_range()
    assert fitted.coef_.shape == (P,)
    assert found.has_certificate.all()
    assert found.certificate_width.max() < 1e-6


def test_labels_of_any_kind():
    X, y = coins()
    words = np.where(y == 1, "yes", "no")
    assert RashomonSet().fit(X, words).classes_.tolist() == ["no", "yes"]
    assert RashomonSet().fit(X, words).risk(X) == pytest.approx(RashomonSet().fit(X, y).risk(X))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "hinge"}, "loss must be one of"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"epsilon": -1.0}, "epsilon must be positive"),
        ({"epsilon": np.nan}, "epsilon must be positive"),
        ({"tolerance": "both"}, "tolerance must be"),
        ({"l2": -1e-3}, "l2 must be at least 0"),
        ({"l2": np.nan}, "l2 must be at least 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RashomonSet(**arguments)


X_GOOD, Y_GOOD = coins()


@pytest.mark.parametrize(
    ("arguments", "X", "y", "message"),
    [
        ({}, np.where(X_GOOD > 2, np.nan, X_GOOD), Y_GOOD, "X must be finite"),
        ({}, X_GOOD, Y_GOOD[:-1], "y must have shape"),
        ({}, X_GOOD, np.zeros(N), "exactly 2 classes"),
        ({}, X_GOOD, np.arange(N), "exactly 2 classes"),
        ({}, X_GOOD, np.where(Y_GOOD == 1, np.nan, 0.0), "y must be finite"),
        ({}, X_GOOD[:, 0], Y_GOOD, "X must have rows and columns"),
        ({"l2": [1e-3, 1e-3, 1e-3]}, X_GOOD, Y_GOOD, "l2 must be one number or have shape"),
        ({"l2": 0.0}, X_GOOD, (X_GOOD[:, 0] > 0).astype(int), "separable"),
        ({"loss": "ordinal"}, X_GOOD, Y_GOOD, "at least 3 classes"),
        ({"loss": "ordinal"}, X_GOOD, np.array([*list("abc" * 26), "a", "b"]), "whose classes have an order"),
        ({"loss": "poisson"}, X_GOOD, Y_GOOD - 0.5, "at least 0"),
        ({"loss": "squared", "l2": 0.0}, X_GOOD, X_GOOD @ [1.0, 2.0], "no level above"),
    ],
)
def test_bad_data_are_refused(arguments, X, y, message):
    with pytest.raises(ValueError, match=message):
        RashomonSet(**arguments).fit(X, y)


def test_bad_questions_are_refused(fitted):
    with pytest.raises(NotFittedError):
        RashomonSet().viable_range()
    with pytest.raises(ValueError, match="must have 2 features"):
        fitted.viable_range(np.ones((2, 3)))
    for delta in (0.0, 1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            fitted.ambiguity(delta)
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            fitted.discrepancy(delta)
    with pytest.raises(ValueError, match="delta must be a number"):
        fitted.ambiguity([])
    with pytest.raises(ValueError, match="time_limit"):
        fitted.discrepancy(0.1, time_limit=-1)
    with pytest.raises(ValueError, match="method must be"):
        fitted.sample(jax.random.key(0), 10, "gibbs")
    with pytest.raises(ValueError, match="n must be"):
        fitted.sample(jax.random.key(0), 0)
    with pytest.raises(ValueError, match="mass must lie"):
        fitted.epsilon_for_mass(1.0)
    with pytest.raises(ValueError, match="key is missing"):
        fitted.epsilon_for_mass(0.5, "mcmc")
    with pytest.raises(ValueError, match="how must be"):
        fitted.epsilon_for_mass(0.5, "guess")
    with pytest.raises(ValueError, match="coefficients each"):
        fitted.risk(X_GOOD, np.ones(2))
