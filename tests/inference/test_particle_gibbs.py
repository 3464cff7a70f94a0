"""Particle Gibbs against quadrature over the one parameter of a linear-Gaussian model."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

from uqsparse.inference import RandomWalk, StateSpaceModel, particle_gibbs
from uqsparse.inference.arviz_io import attributes, dataset, group_names
from uqsparse.inference.diagnostics import convergence

T, NOISE = 20, 0.7


def prior():
    numpyro.sample("a", dist.Normal(0.0, 1.0))


MODEL = StateSpaceModel(
    initial=lambda p, u: dist.Normal(0.0, 1.0),
    transition=lambda p, x, u: dist.Normal(p["a"] * x, 1.0),
    observation=lambda p, x, u: dist.Normal(x, NOISE),
    prior=prior,
)


@pytest.fixture(scope="module")
def posterior():
    """Observations with one gap, posterior mean and sd of a, and the posterior mean of the states."""
    rng = np.random.default_rng(3)
    x = [rng.normal()]
    for _ in range(T - 1):
        x.append(0.8 * x[-1] + rng.normal())
    y = np.array(x) + NOISE * rng.normal(size=T)
    y[7] = np.nan
    seen = ~np.isnan(y)
    grid = np.linspace(-0.5, 1.7, 400)
    log_posterior, means = np.zeros(400), np.zeros((400, T))
    for i, a in enumerate(grid):
        response = np.array([[a ** (t - s) if t >= s else 0.0 for s in range(T)] for t in range(T)])
        states = response @ response.T
        noisy = states[np.ix_(seen, seen)] + NOISE**2 * np.eye(seen.sum())
        log_posterior[i] = stats.multivariate_normal(cov=noisy).logpdf(y[seen]) + stats.norm.logpdf(a)
        means[i] = states[:, seen] @ np.linalg.solve(noisy, y[seen])
    weights = np.exp(log_posterior - log_posterior.max())
    weights /= weights.sum()
    mean = weights @ grid
    return y, mean, np.sqrt(weights @ (grid - mean) ** 2), weights @ means


def conjugate(key, parameters, path):
    """a given the path is Gaussian: precision 1 + sum x_{t-1}^2."""
    precision = 1.0 + jnp.sum(path[:-1] ** 2)
    return {"a": jnp.sum(path[:-1] * path[1:]) / precision + jax.random.normal(key) / jnp.sqrt(precision)}


@pytest.mark.parametrize("update", ["nuts", RandomWalk(), conjugate], ids=["nuts", "move", "conjugate"])
def test_posterior_of_parameters_and_states(posterior, update):
    """Means within 5 Monte Carlo standard errors (false-alarm rate 1e-6), standard deviation within 15 %."""
    y, mean, sd, states = posterior
    data = particle_gibbs(
        jax.random.key(0),
        MODEL,
        y,
        n_particles=15,
        n_warmup=200,
        n_samples=600,
        parameter_update=update,
        missing="skip",
    )
    summary = {row.name: row for row in convergence(data).scalars}
    assert abs(summary["a"].mean - mean) < 5 * summary["a"].mcse_mean
    assert summary["a"].sd == pytest.approx(sd, rel=0.15)
    drawn = dataset(data)["states"].mean(("chain", "draw")).values
    errors = np.array([summary[f"states[{t}]"].mcse_mean for t in range(T)])
    assert np.all(np.abs(drawn - states) < 5 * errors)
    assert {"posterior", "sample_stats", "observed_data"} <= set(group_names(data))
    assert dataset(data)["states"].shape == (4, 600, T)
    assert attributes(data)["algorithm"] == "particle Gibbs"
    assert len(attributes(data)["update_rate"]) == T
    assert 0.2 < attributes(data)["least_update_rate"] <= 1


def test_same_key_same_draws_and_states_may_be_left_out(posterior):
    options = {"n_particles": 15, "n_warmup": 20, "n_samples": 30, "missing": "skip", "keep_states": False}
    first, again = (
        particle_gibbs(key, MODEL, posterior[0], parameter_update=conjugate, **options)
        for key in (jax.random.key(1), jax.random.PRNGKey(1))
    )
    np.testing.assert_array_equal(dataset(first)["a"], dataset(again)["a"])
    assert "states" not in dataset(first)


def test_paths_that_hardly_move_are_warned_about():
    y = np.zeros(60)
    options = {"n_particles": 2, "n_warmup": 5, "n_samples": 30, "ancestor_sampling": False}
    with pytest.warns(UserWarning, match="was renewed in"):
        particle_gibbs(jax.random.key(1), MODEL, y, parameter_update=conjugate, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_chains": 0}, ValueError, "n_chains"),
        ({"n_particles": 1}, ValueError, "n_particles"),
        ({"target_accept": 1.0}, ValueError, "target_accept"),
        ({"parameter_update": "gibbs"}, TypeError, "parameter_update must be"),
        ({"model": StateSpaceModel(MODEL.initial, MODEL.transition, MODEL.observation)}, ValueError, "no prior"),
        ({"observations": np.array([0.0, np.nan])}, ValueError, "first at t = 1"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    arguments = {"model": MODEL, "observations": np.zeros(T)} | options
    with pytest.raises(error, match=message):
        particle_gibbs(jax.random.key(0), arguments.pop("model"), arguments.pop("observations"), **arguments)


def test_observations_that_no_prior_draw_explains_are_refused():
    counts = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 1.0),
        transition=lambda p, x, u: dist.Normal(x, 0.1),
        observation=lambda p, x, u: dist.Poisson(jnp.exp(p["a"] * x)),
        prior=prior,
    )
    with pytest.raises(ValueError, match="none of 128 draws from the prior"):
        particle_gibbs(jax.random.key(0), counts, np.array([1, -1]), n_particles=5, n_warmup=5, n_samples=5)
