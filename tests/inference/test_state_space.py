"""The model record, its data at the door, and its joint density."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from uqsparse.inference import StateSpaceModel, simulate
from uqsparse.inference.state_space import complete_log_density, prepare_series

MODEL = StateSpaceModel(
    initial=lambda p, u: dist.Normal(u, 2.0),
    transition=lambda p, x, u: dist.Normal(p["phi"] * x + u, 0.5),
    observation=lambda p, x, u: dist.Poisson(jnp.exp(x)),
)
PARAMETERS = {"phi": 0.7}


def test_joint_density_is_the_sum_of_its_parts():
    path, counts, inputs = np.array([0.3, -0.2, 0.8]), np.array([1.0, np.nan, 4.0]), np.array([0.1, 0.0, -0.3])
    series = prepare_series(counts, inputs, "skip")
    expected = stats.norm(0.1, 2).logpdf(0.3)
    expected += stats.norm(0.7 * path[:-1] + inputs[1:], 0.5).logpdf(path[1:]).sum()
    expected += stats.poisson(np.exp(path[[0, 2]])).logpmf([1, 4]).sum()
    found = complete_log_density(MODEL, PARAMETERS, jnp.asarray(path), series)
    assert float(found) == pytest.approx(expected, abs=1e-5)


def test_simulated_series_have_the_moments_of_the_model():
    """Means and variances of 20 000 first and second states within 5 standard errors."""
    inputs = jnp.array([1.0, -1.0])
    run = jax.jit(jax.vmap(lambda key: simulate(key, MODEL, 2, PARAMETERS, inputs)))
    states, counts = run(jax.random.split(jax.random.key(0), 20_000))
    assert states.shape == counts.shape == (20_000, 2)
    for column, mean, variance in ((0, 1.0, 4.0), (1, 0.7 - 1.0, 0.49 * 4 + 0.25)):
        draws = np.asarray(states)[:, column]
        assert abs(draws.mean() - mean) < 5 * np.sqrt(variance / 20_000)
        assert abs(draws.var() / variance - 1) < 5 * np.sqrt(2 / 20_000)
    assert jnp.issubdtype(counts.dtype, jnp.integer)
    with pytest.raises(ValueError, match="n_steps"):
        simulate(jax.random.key(0), MODEL, 0, PARAMETERS)


def test_missing_rows_are_set_apart_leaf_by_leaf():
    observations = {"a": np.array([[1.0, 2.0], [np.nan, np.nan]]), "b": np.array([np.nan, 3.0])}
    series = prepare_series(observations, None, "skip")
    assert [flag.tolist() for flag in series.missing] == [[False, True], [True, False]]
    assert np.all(np.isfinite(series.observations["a"]))
    assert series.n_steps == 2
    assert prepare_series(np.ones(3), None, "skip").missing is None
    assert prepare_series(np.full(3, np.nan), None, "skip").missing[0].all()
    assert prepare_series(np.array([1, 2]), None, "skip").observations.dtype == jnp.int32


@pytest.mark.parametrize(
    ("observations", "inputs", "missing", "message"),
    [
        ({}, None, "error", "observations is empty"),
        (3.0, None, "error", r"observations has shape \(\)"),
        ({"a": np.zeros(3), "b": np.zeros(2)}, None, "error", r"observations\['b'\] has shape \(2,\)"),
        (np.zeros(3), {"u": np.zeros(2)}, "error", r"inputs\['u'\] has shape \(2,\)"),
        (np.array([[1.0, np.nan], [1.0, 2.0]]), None, "skip", "NaN in part of row t = 0"),
        (np.array([1.0, np.nan]), None, "error", "pass missing='skip'"),
        (np.zeros(2), None, "drop", "missing must be"),
    ],
)
def test_bad_series_are_named(observations, inputs, missing, message):
    with pytest.raises(ValueError, match=message):
        prepare_series(observations, inputs, missing)
