"""NUTS and HMC: NumPyro's draws, bit for bit, the right posterior, and bad input stopped with its name."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from scipy import stats

from uqsparse.inference.arviz_io import attributes, dataset, group_names
from uqsparse.inference.nuts import hmc, nuts

Y = np.array([0.3, 1.1, 2.4, -0.2, 1.9])
SHORT = {"n_warmup": 200, "n_samples": 250, "n_chains": 4}


def flat_prior(y, n_samples, init_params=0.0):
    """Normal data with a flat prior, a N(0, 1) factor, and parameters with names that a sampler uses."""
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.factor("prior", -0.5 * mu**2)
    numpyro.deterministic("double", n_samples * mu)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu + init_params, 1.0), obs=y)


MODEL = partial(flat_prior, n_samples=2)


@pytest.fixture(scope="module")
def ours():
    return nuts(jax.random.key(3), MODEL, Y, **SHORT)


def numpyro_draws(key):
    mcmc = numpyro.infer.MCMC(
        numpyro.infer.NUTS(MODEL),
        num_warmup=SHORT["n_warmup"],
        num_samples=SHORT["n_samples"],
        num_chains=SHORT["n_chains"],
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(key, Y)
    return mcmc.get_samples(group_by_chain=True)


def test_draws_are_numpyros_own_bit_for_bit(ours):
    theirs = numpyro_draws(jax.random.key(3))
    posterior = dataset(ours)
    assert set(posterior.data_vars) == {"mu", "double"}
    for name in theirs:
        np.testing.assert_array_equal(posterior[name], theirs[name])
        assert posterior[name].dtype == theirs[name].dtype


def assert_normal_posterior(draws, mean, sd):
    # Five standard errors: a false alarm once in 10^6, even if autocorrelation leaves a quarter of the draws.
    error = sd / np.sqrt(draws.size / 4)
    assert abs(draws.mean() - mean) < 5 * error
    assert abs(draws.std() / sd - 1) < 5 / np.sqrt(2 * draws.size / 4)


def test_posterior_is_the_closed_form(ours):
    n = len(Y)
    assert_normal_posterior(dataset(ours)["mu"].values, Y.sum() / (n + 1), 1 / np.sqrt(n + 1))


def test_groups_and_statistics(ours):
    assert set(group_names(ours)) == {"posterior", "sample_stats", "log_likelihood", "observed_data"}
    mu = dataset(ours)["mu"].values
    observed = dataset(ours, "observed_data")
    assert list(observed.data_vars) == ["y"]  # the factor observes nothing
    np.testing.assert_array_equal(observed["y"], Y)
    log_likelihood = dataset(ours, "log_likelihood")
    assert list(log_likelihood.data_vars) == ["y"]
    expected = stats.norm.logpdf(Y, mu[..., None].astype(float), 1.0)
    np.testing.assert_allclose(log_likelihood["y"], expected, rtol=1e-5, atol=1e-5)

    statistics = dataset(ours, "sample_stats")
    log_joint = expected.sum(-1) - 0.5 * mu.astype(float) ** 2
    np.testing.assert_allclose(statistics["lp"], log_joint, rtol=1e-5, atol=1e-5)
    assert np.all(statistics["energy"] + statistics["lp"] >= -1e-4)  # the kinetic energy
    steps, depth = statistics["n_steps"].values, statistics["tree_depth"].values
    assert np.all((2 ** (depth - 1) <= steps) & (steps <= 2**depth - 1))
    assert np.all((statistics["acceptance_rate"] >= 0) & (statistics["acceptance_rate"] <= 1))
    assert not statistics["reached_max_treedepth"].any()
    assert statistics["diverging"].dtype == bool


def test_attributes_tell_how_the_draws_came_about(ours):
    notes = attributes(ours)
    assert notes["inference_library"] == "numpyro"
    assert notes["algorithm"] == "NUTS"
    assert list(notes["key"]) == list(jax.random.key_data(jax.random.key(3)))
    assert notes["n_divergent"] == int(dataset(ours, "sample_stats")["diverging"].sum())
    assert notes["seconds"] > 0
    assert notes["n_warmup"] == SHORT["n_warmup"]
    assert np.atleast_1d(notes["deterministic_sites"]).tolist() == ["double"]


def test_progress_legacy_key_and_no_log_likelihood_change_no_draw(ours, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "rich.progress.Progress.advance", lambda self, task, advance=1: shown.append(advance), raising=True
    )
    same = nuts(jax.random.PRNGKey(3), MODEL, Y, **SHORT, progress=True, log_likelihood=False)
    np.testing.assert_array_equal(dataset(same)["mu"], dataset(ours)["mu"])
    assert "log_likelihood" not in group_names(same)
    total = SHORT["n_warmup"] + SHORT["n_samples"]
    assert total - 2 * max(shown) <= sum(shown) <= total + max(shown)


def test_tree_depth_limit_is_kept_and_recorded():
    data = nuts(jax.random.key(0), MODEL, Y, n_warmup=20, n_samples=20, n_chains=1, max_tree_depth=1)
    statistics = dataset(data, "sample_stats")
    assert np.all(statistics["n_steps"] == 1)
    assert statistics["reached_max_treedepth"].all()


def test_hmc_and_a_model_argument_that_numpyro_would_take_for_its_own():
    shift = 1.5
    data = hmc(jax.random.key(0), MODEL, Y, init_params=shift, trajectory_length=1.0, **SHORT)
    n = len(Y)
    assert_normal_posterior(dataset(data)["mu"].values, (Y - shift).sum() / (n + 1), 1 / np.sqrt(n + 1))
    assert "tree_depth" not in dataset(data, "sample_stats")
    assert attributes(data)["algorithm"] == "HMC"


def test_double_precision_follows_the_flag():
    with jax.enable_x64(True):
        data = nuts(jax.random.key(0), MODEL, Y, n_warmup=20, n_samples=20, n_chains=1)
    assert dataset(data)["mu"].dtype == np.float64
    assert not jax.config.jax_enable_x64


def regression(X, y=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(jnp.asarray(X) @ w, 1.0), obs=y)


def discrete(y):
    z = numpyro.sample("z", dist.Bernoulli(0.5))
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu + z, 1.0), obs=y)


def subsampled(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y), subsample_size=2):
        batch = numpyro.subsample(jnp.asarray(y), event_dim=0)
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=batch)


def impossible(y):
    rate = numpyro.sample("rate", dist.Gamma(1.0, 1.0))
    numpyro.sample("lifetime", dist.Exponential(rate), obs=-jnp.abs(jnp.asarray(y)))


def hidden_nan():
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("measured", dist.Normal(mu, 1.0), obs=np.array([0.0, np.nan]))


def no_latent(y):
    numpyro.sample("y", dist.Normal(0, 1.0), obs=y)


X = np.ones((5, 2))
X_INF = np.where(np.arange(10).reshape(5, 2) == 3, np.inf, 1.0)
Y_NAN = np.array([0.0, np.nan, 1.0, np.nan, 2.0])


@pytest.mark.parametrize(
    ("model", "args", "kwargs", "message"),
    [
        (
            regression,
            (X, Y_NAN),
            {},
            r"argument 'y' of model 'regression' has 2 NaN .* out of 5.*index \[1\]",
        ),
        (regression, (X_INF,), {"y": Y}, r"argument 'X'.*has 1 NaN or infinite.*index \[1, 1\]"),
        (regression, ({"a": [X_INF]},), {"y": Y}, r"argument \"X\['a'\]\[0\]\""),
        (partial(regression, y=Y_NAN), (X,), {}, "argument 'y'"),
        (hidden_nan, (), {}, "observed site 'measured'"),
        (discrete, (Y,), {}, r"discrete latent site\(s\) z"),
        (subsampled, (Y,), {}, r"plate\(s\) rows"),
        (impossible, (Y,), {}, r"observed site 'lifetime' \((NaN|zero density)\)"),
        (no_latent, (Y,), {}, "no latent sites"),
        (regression, (np.ones((5, 3)), Y), {}, "model 'regression' failed on its arguments: TypeError"),
        (flat_prior, (Y,), {"n_samples": 10}, r"parameter 'n_samples'.*functools.partial\(model, n_samples"),
        (regression, (X, Y), {"n_warmup": 0}, "n_warmup must be an integer of at least 1, got 0"),
        (regression, (X, Y), {"n_samples": 2.5}, "n_samples"),
        (regression, (X, Y), {"n_chains": True}, "n_chains"),
        (regression, (X, Y), {"target_accept": 1.0}, "target_accept"),
        (regression, (X, Y), {"max_tree_depth": 0}, "max_tree_depth"),
    ],
)
def test_bad_input_is_named(model, args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        nuts(jax.random.key(0), model, *args, **kwargs)


def test_bad_calls_are_type_errors():
    with pytest.raises(TypeError, match="missing a required argument: 'X'"):
        nuts(jax.random.key(0), regression)
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        nuts(jax.random.key(0), regression, X, z=1)
    with pytest.raises(TypeError, match="key must be"):
        nuts(0, regression, X, Y)
    with pytest.raises(TypeError, match="key must be"):
        nuts(jax.random.split(jax.random.key(0), 4), regression, X, Y)
    with pytest.raises(ValueError, match="trajectory_length"):
        hmc(jax.random.key(0), regression, X, Y, trajectory_length=0.0)


def test_a_parameter_given_by_position_is_no_collision():
    # The door is passed: what stops this call is the NaN behind it.
    with pytest.raises(ValueError, match="argument 'y'"):
        nuts(jax.random.key(0), flat_prior, Y_NAN, 2)
    with pytest.raises(ValueError, match="argument 'y'"):
        nuts(jax.random.key(0), handlers.scale(MODEL, scale=2.0), Y_NAN)
