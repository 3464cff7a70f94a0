"""`check_martingale` passes rules that are martingales and catches those that are not; alpha is 1e-5 throughout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uqsparse.inference.checks.martingale import check_martingale
from uqsparse.inference.conjugate_predictives import ConjugatePredictive, MeanState
from uqsparse.inference.copula_predictive import CopulaPredictive
from uqsparse.inference.incremental_predictive import IncrementalPredictive
from uqsparse.inference.urn_predictives import BayesianBootstrap, DirichletProcess

Y = np.random.default_rng(0).normal(0.8, 1.0, 10)
NORMAL = ConjugatePredictive.normal_normal(0.0, 2.0, 1.0)


def mean_of(state):
    return state.mean


class Shrunken:
    """Draws from N(shrink * mean, 1): not a martingale unless shrink is 1, where it is the plug-in rule."""

    def __init__(self, shrink):
        self.shrink = shrink

    def init(self, data):
        return NORMAL.init(data)

    def sample(self, key, state):
        return self.shrink * state.mean + jax.random.normal(key)

    def update(self, state, y):
        return MeanState(state.mean + (y - state.mean) / (state.strength + 1), state.strength + 1)


def test_an_urn_passes_by_its_mean():
    found = check_martingale(jax.random.key(0), BayesianBootstrap(), Y, mean_of, budget=4000)
    assert found.ok, str(found)
    assert found.n == 4000


def test_conditionally_identical_draws_pass():
    assert check_martingale(jax.random.key(1), DirichletProcess(jax.random.normal, 2.0, 30), Y, budget=4000)


def test_probabilities_pass_within_bounds():
    rule = CopulaPredictive(np.array([-4.0, 0.5, 5.0]), bandwidth=0.8)
    cdf = lambda s: s.cdf  # noqa: E731
    found = check_martingale(jax.random.key(0), rule, Y, cdf, bounds=(0, 1), budget=4000)
    assert found.ok
    assert found.bias_bound < 0.05
    with pytest.raises(ValueError, match="bounds must contain all values"):
        check_martingale(jax.random.key(0), rule, Y, cdf, bounds=(0, 0.5), budget=4000)


def test_a_shrinking_mean_is_caught():
    by_value = check_martingale(jax.random.key(2), Shrunken(0.9), Y, mean_of, budget=4000)
    assert not by_value.ok
    assert by_value.counterexample.where == "change of the functional"
    assert "-0." in by_value.counterexample.obtained
    by_draws = check_martingale(jax.random.key(2), Shrunken(0.9), Y)
    assert not by_draws.ok
    assert by_draws.n < 20_000
    assert check_martingale(jax.random.key(2), Shrunken(1.0), Y, mean_of, budget=4000)


def test_a_pull_to_the_centre_is_caught_where_nothing_drifts_on_average():
    found = check_martingale(jax.random.key(3), Shrunken(0.8), Y - NORMAL.init(Y).mean * 10.25 / 10, mean_of)
    assert not found.ok
    assert found.counterexample.where == "weighted change of the functional"


def test_draws_of_a_plug_in_rule_spread():
    """Its parameter is a martingale, and its draws are not identically distributed: they spread by 1 / (n + 1)^2."""
    rule = Shrunken(1.0)  # the normal family at its mean, with known scale
    assert check_martingale(jax.random.key(4), rule, Y[:2], mean_of, budget=4000)
    assert not check_martingale(jax.random.key(4), rule, Y[:2])


def test_penalties_of_incremental_models_are_caught():
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    X = rng.normal(size=(20, 1))
    data = X, 3 * X[:, 0] + 0.1 * rng.normal(size=20)

    def check(penalty, functional=lambda s: s.model.coef_, budget=30):
        model = linear.SGDRegressor(alpha=penalty, eta0=0.05, learning_rate="constant", random_state=0)
        rule = IncrementalPredictive(model, n_passes=20)
        return check_martingale(jax.random.key(0), rule, data, functional, n_steps=4, budget=budget)

    assert check(0.0).ok
    assert not check(0.3).ok
    assert check(0.0, None, 8).n == 8


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_steps": 2}, ValueError, "n_steps must be an integer of at least 3"),
        ({"alpha": 0.0}, ValueError, "alpha must lie"),
        ({"budget": 0}, ValueError, "budget must be"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"bounds": (0.0, 1.0), "functional": None}, ValueError, "bounds must be an increasing pair"),
        ({"bounds": (1.0, 0.0)}, ValueError, "bounds must be an increasing pair"),
        ({"functional": 3}, TypeError, "functional must be a function or None"),
        ({"predictive": 3}, TypeError, "predictive must have the methods"),
        ({"predictive": CopulaPredictive(), "functional": None}, ValueError, "draws ranks"),
        ({"data": np.array([np.nan])}, ValueError, "data must be finite"),
        ({"functional": lambda s: s.mean * jnp.nan}, ValueError, "must be finite, got NaN"),
    ],
)
def test_bad_input_is_refused(change, error, message):
    arguments = {"predictive": NORMAL, "data": Y, "functional": mean_of, "budget": 100}
    with pytest.raises(error, match=message):
        check_martingale(jax.random.key(0), **(arguments | change))
