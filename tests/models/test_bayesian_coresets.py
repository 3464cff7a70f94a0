"""Weighted rows in NumPyro: densities, and which scores a likelihood gets."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density
from scipy import stats

from uqsparse.models.bayesian_coresets import regression_coreset, weighted_plate
from uqsparse.solvers.row_scores import leverage_scores, lewis_weights

X = np.random.default_rng(0).normal(size=(40, 2))
Y = X @ [1.0, -2.0] + np.random.default_rng(1).laplace(size=40)


def test_log_densities_inside_are_multiplied_by_the_weights():
    def model(weights):
        slope = numpyro.sample("slope", dist.Normal(0, 10))
        with weighted_plate("rows", weights) as indices:
            assert indices.shape == (3,)
            numpyro.sample("y", dist.Normal(slope * X[:3, 0], 1.0), obs=Y[:3])

    weights = np.array([1.0, 2.5, 0.5])
    with jax.enable_x64(True):
        found = log_density(model, (weights,), {}, {"slope": 0.3})[0]
        traced = jax.jit(lambda w: log_density(model, (w,), {}, {"slope": 0.3})[0])(weights)
    assert float(traced) == pytest.approx(float(found))
    rows = stats.norm(0.3 * X[:3, 0], 1.0).logpdf(Y[:3])
    assert float(found) == pytest.approx(weights @ rows + stats.norm(0, 10).logpdf(0.3))


def test_the_axis_of_the_plate_is_that_of_the_weights():
    def model(weights):
        with weighted_plate("rows", weights, dim=-2), numpyro.plate("columns", 2):
            numpyro.sample("x", dist.Normal(0, 1), obs=X[:3])

    weights = np.array([1.0, 2.0, 3.0])
    with jax.enable_x64(True):
        found = log_density(model, (weights,), {}, {})[0]
    assert float(found) == pytest.approx(weights @ stats.norm.logpdf(X[:3]).sum(axis=1))


@pytest.mark.parametrize("weights", [[1.0, 0.0], [np.nan], [[1.0]], []])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be positive"), weighted_plate("rows", np.array(weights)):
        pass


def test_scores_follow_the_likelihood():
    key, joint = jax.random.key(0), np.column_stack([X, Y])

    def probabilities(**options):
        found = regression_coreset(key, X, Y, 10, **options).probabilities
        assert found.sum() == pytest.approx(10)
        return found

    for likelihood, p in (("laplace", 1.0), ("gaussian", 2.0)):
        found, w = probabilities(likelihood=likelihood), lewis_weights(joint, p).weights
        free = found < 1
        np.testing.assert_allclose(found[free] / found[free].sum(), w[free] / w[free].sum(), rtol=1e-4)
    for likelihood, rows in (("logistic", X), ("student-t", joint)):
        found, w = probabilities(likelihood=likelihood), np.sqrt(leverage_scores(rows)) + 1 / 40
        np.testing.assert_allclose(found, 10 * w / w.sum())
        np.testing.assert_allclose(probabilities(likelihood=likelihood, scheme="uniform"), 0.25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": Y[:5]}, "X and y must have shapes"),
        ({"y": np.where(Y > 0, np.nan, Y)}, "y must be finite"),
        ({"size": 0}, "size must be an integer"),
        ({"likelihood": "cauchy"}, "likelihood must be"),
        ({"scheme": "best"}, "scheme must be one of"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"X": X, "y": Y, "size": 10, **change}
    with pytest.raises(ValueError, match=message):
        regression_coreset(jax.random.key(0), **arguments)
