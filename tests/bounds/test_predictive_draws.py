"""Posterior predictive draws: their axes, where they may come from, and what they summarise to."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from uqsparse.bounds import PredictiveDraws
from uqsparse.inference.arviz_io import to_arviz

rng = np.random.default_rng(0)


def test_chains_are_joined_and_axes_are_never_guessed():
    draws = rng.normal(size=(2, 10, 3))
    joined = PredictiveDraws.of(draws)
    assert joined.values.shape == (20, 3)
    assert joined.n == 3
    assert (joined.values == draws.reshape(20, 3)).all()
    assert PredictiveDraws.of(draws[0]).values.shape == (10, 3)
    assert PredictiveDraws.of(draws, n_outputs=3).values.shape == (2, 10, 3)
    assert PredictiveDraws.of(rng.normal(size=(2, 5, 4, 3)), n_outputs=3).values.shape == (10, 4, 3)


@pytest.mark.parametrize(
    ("draws", "n_outputs", "match"),
    [
        (np.zeros(5), None, "expected the axes"),
        (np.zeros((2, 2, 2, 2)), None, "expected the axes"),
        (np.zeros((4, 5, 2)), 3, "then 3 outputs"),
        (np.zeros((1, 5)), None, "at least 2 draws"),
        (np.full((3, 2), np.nan), None, "6 NaN or infinite"),
    ],
    ids=["one-axis", "four-axes", "outputs", "one-draw", "nan"],
)
def test_draws_of_another_form_are_refused(draws, n_outputs, match):
    with pytest.raises(ValueError, match=match):
        PredictiveDraws.of(draws, n_outputs=n_outputs)


def test_summaries_are_numpys():
    values = rng.normal(size=(50, 4))
    draws = PredictiveDraws.of(values)
    np.testing.assert_array_equal(draws.mean(), values.mean(0))
    np.testing.assert_array_equal(draws.sd(), values.std(0, ddof=1))
    np.testing.assert_array_equal(draws.quantile(0.3), np.quantile(values, 0.3, axis=0))
    assert draws.cdf(np.sort(values, axis=0)[9]).tolist() == [9.5 / 50] * 4
    assert PredictiveDraws.of(np.zeros((4, 2))).cdf(np.array([0.0, 1.0])).tolist() == [0.5, 1.0]


def test_draws_for_fitted_observations_are_refused_unless_they_were_held_out():
    values = rng.normal(size=(2, 10, 3))
    data = to_arviz(
        {
            "posterior": {"mu": np.zeros((2, 10))},
            "posterior_predictive": {"y": values},
            "predictions": {"y": values + 1},
        }
    )
    assert (PredictiveDraws.from_arviz(data, "y").values == values.reshape(20, 3) + 1).all()
    with pytest.raises(ValueError, match="cannot calibrate"):
        PredictiveDraws.from_arviz(data, "y", group="posterior_predictive")
    with pytest.raises(ValueError, match="cannot calibrate"):
        PredictiveDraws.from_arviz(data, "y", held_out=False)
    held_out = PredictiveDraws.from_arviz(data, "y", group="posterior_predictive", held_out=True)
    assert (held_out.values == values.reshape(20, 3)).all()
    with pytest.raises(KeyError, match="no variable 'z'"):
        PredictiveDraws.from_arviz(data, "z")
    with pytest.raises(KeyError, match="no group"):
        PredictiveDraws.from_arviz(to_arviz({"posterior": {"mu": np.zeros((2, 10))}}))


def test_a_numpyro_model_predicts_held_out_observations():
    def line(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        with numpyro.plate("observations", len(x)):
            numpyro.sample("y", dist.Normal(slope * x, 0.5), obs=y)

    x = np.linspace(-1, 1, 5)
    draws = PredictiveDraws.from_numpyro(jax.random.key(0), line, {"slope": np.full(4000, 2.0)}, x)
    # Means and standard deviations of 4,000 draws, five of each, to 5 se: false-alarm rate below 1e-5.
    np.testing.assert_allclose(draws.mean(), 2 * x, atol=5 * 0.5 / np.sqrt(4000))
    np.testing.assert_allclose(draws.sd(), 0.5, rtol=5 / np.sqrt(8000))
    with pytest.raises(ValueError, match="site is 'target'; the model draws y"):
        PredictiveDraws.from_numpyro(jax.random.key(0), line, {"slope": np.zeros(4)}, x, site="target")
