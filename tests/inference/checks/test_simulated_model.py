"""A model as its own simulator: densities against SciPy, sites drawn anew, and models that cannot be simulated."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density
from scipy import stats

from uqsparse.inference.checks.simulated_model import SimulatedModel

Y = np.array([0.5, -1.0, 2.0])
COUNT = np.array(3)


def model(y=None, count=None, sd=1.5):
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    rate = numpyro.sample("rate", dist.Gamma(3.0, 2.0))
    with numpyro.plate("rows", 3):
        numpyro.sample("y", dist.Normal(mu, sd), obs=y)
    numpyro.sample("count", dist.Poisson(rate), obs=count)


@pytest.fixture(autouse=True, scope="module")
def _double_precision():
    with jax.enable_x64(True):
        yield


def expected_log_likelihood(mu, rate, y, count):
    return stats.norm.logpdf(y, mu, 1.5).sum() + stats.poisson.logpmf(count, rate)


@pytest.mark.parametrize("arguments", [{}, {"y": Y, "count": COUNT}])
def test_log_likelihood_is_scipys_whether_or_not_the_arguments_hold_the_data(arguments):
    simulated = SimulatedModel(model, (), arguments, ("y", "count"))
    assert simulated.latent == ("mu", "rate")
    got = simulated.log_likelihood({"mu": 0.7, "rate": 2.5}, {"y": Y + 1, "count": 4})
    assert float(got) == pytest.approx(expected_log_likelihood(0.7, 2.5, Y + 1, 4), rel=1e-12)


def test_sites_that_the_arguments_observe_are_found_and_drawn_anew():
    simulated = SimulatedModel(model, (Y,), {"count": COUNT}, None)
    assert simulated.observed == ("y", "count")
    np.testing.assert_array_equal(simulated.values["y"], Y)
    latent, data = simulated.simulate(jax.random.key(0))
    assert set(latent) == {"mu", "rate"}
    assert data["y"].shape == (3,)
    assert not np.isin(data["y"], Y).any()


def test_simulations_follow_the_model():
    simulated = SimulatedModel(model, (), {}, ("y", "count"))
    latent, data = jax.vmap(simulated.simulate)(jax.random.split(jax.random.key(1), 4000))
    # Kolmogorov-Smirnov, and a z-score for the counts: false alarms once in 10^6 each.
    assert stats.kstest(latent["mu"], stats.norm(1.0, 2.0).cdf).pvalue > 1e-6
    assert stats.kstest(latent["rate"], stats.gamma(3.0, scale=0.5).cdf).pvalue > 1e-6
    assert stats.kstest((data["y"][:, 1] - latent["mu"]) / 1.5, stats.norm.cdf).pvalue > 1e-6
    residual = np.asarray(data["count"] - latent["rate"])
    assert abs(residual.mean()) < 5 * np.sqrt(1.5 / 4000)  # the variance of a count is its rate, 1.5 on average


def test_given_latent_values_only_the_observations_are_drawn():
    simulated = SimulatedModel(model, (), {}, ("y", "count"))
    latent, data = simulated.simulate(jax.random.key(0), {"mu": jnp.asarray(500.0), "rate": jnp.asarray(1e-9)})
    assert float(latent["mu"]) == 500.0
    assert np.all(data["y"] > 400)
    assert int(data["count"]) == 0


def test_another_observed_site_stays_as_it_is():
    simulated = SimulatedModel(model, (Y, COUNT), {}, ("y",))
    got = simulated.log_likelihood({"mu": 0.7, "rate": 2.5}, {"y": Y})
    assert float(got) == pytest.approx(stats.norm.logpdf(Y, 0.7, 1.5).sum(), rel=1e-12)
    joint, _ = log_density(simulated.given({"y": Y + 1}), (), {}, {"mu": 0.7, "rate": 2.5})
    prior = stats.norm.logpdf(0.7, 1, 2) + stats.gamma.logpdf(2.5, 3, scale=0.5)
    assert float(joint) == pytest.approx(prior + expected_log_likelihood(0.7, 2.5, Y + 1, 3), rel=1e-12)


@pytest.mark.parametrize("use", [True, False])
def test_the_posterior_of_data_and_replicate_counts_both_once(use):
    simulated = SimulatedModel(model, (Y, COUNT), {}, None)
    both = simulated.given_both({"y": Y, "count": COUNT}, {"y": Y - 2, "count": 1}, jnp.asarray(use))
    joint, trace = log_density(handlers.seed(both, jax.random.key(0)), (), {}, {"mu": 0.7, "rate": 2.5})
    expected = stats.norm.logpdf(0.7, 1, 2) + stats.gamma.logpdf(2.5, 3, scale=0.5)
    expected += expected_log_likelihood(0.7, 2.5, Y, 3) + use * expected_log_likelihood(0.7, 2.5, Y - 2, 1)
    assert float(joint) == pytest.approx(expected, rel=1e-12)
    assert {name for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]} == {
        "mu",
        "rate",
    }


def improper(y=None):
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def with_factor(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.factor("more", -(mu**2))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def masked(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0).expand([2]).mask(np.array([True, False])), obs=y)


def scaled(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with handlers.scale(scale=2.0):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def subsampled(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 4, subsample_size=2):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def without_latent(y=None):
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def broken(y=None):
    raise RuntimeError("no such luck")


@pytest.mark.parametrize("case", [improper, with_factor])
def test_a_prior_without_draws_is_refused_where_it_is_to_be_drawn_from(case):
    simulated = SimulatedModel(case, (), {}, ("y",))
    with pytest.raises(ValueError, match="check it by posterior SBC"):
        simulated.require_proper_prior()


@pytest.mark.parametrize(
    ("case", "observed", "words"),
    [
        (masked, ("y",), "observed site 'y' of model 'masked' is masked"),
        (scaled, ("y",), "observed site 'y' of model 'scaled' is masked, scaled"),
        (subsampled, ("y",), "plate 'rows' of model 'subsampled' subsamples"),
        (without_latent, ("y",), "no latent sites"),
        (broken, ("y",), "failed on its arguments: RuntimeError: no such luck"),
        (model, None, "observes nothing when called"),
        (model, ("z",), "observed must be a tuple of sites among"),
        (model, "y", "observed must be a tuple of sites among"),
    ],
)
def test_models_that_cannot_be_simulated_are_refused(case, observed, words):
    with pytest.raises(ValueError, match=words):
        SimulatedModel(case, (), {}, observed)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match="cannot be called with these arguments"):
        SimulatedModel(partial(model, nonsense=1), (), {}, ("y",))
