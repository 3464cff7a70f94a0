"""PMMH against quadrature over both parameters of a noisy autoregression (see `conftest`)."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

from uqsparse.inference import Proposal, StateSpaceModel
from uqsparse.inference.arviz_io import attributes, dataset, group_names
from uqsparse.inference.diagnostics import convergence
from uqsparse.inference.likelihood_noise import advised_n_particles, describe_noise, ideal_acceptance
from uqsparse.inference.pmmh import pmmh


def test_posterior_of_parameters_and_states(noisy_autoregression):
    """Means within 4.5 Monte Carlo standard errors, 27 of them: false-alarm rate 2e-4 on fresh keys, and the key is
    fixed. Filters of 20 particles: noise of more than 1.5, so that whoever mistreats the estimates is found out."""
    known = noisy_autoregression
    data = pmmh(jax.random.key(0), known.model, known.y, n_particles=20, n_warmup=400, n_samples=2500, missing="skip")
    summary = {row.name: row for row in convergence(data).scalars}
    for name in ("a", "q"):
        assert abs(summary[name].mean - known.means[name][-1]) < 4.5 * summary[name].mcse_mean
        assert summary[name].sd == pytest.approx(known.sds[name][-1], rel=0.12)
        assert summary[name].r_hat < 1.05
    posterior, stats_group = dataset(data), dataset(data, "sample_stats")
    errors = np.array([summary[f"states[{t}]"].mcse_mean for t in range(len(known.y))])
    assert np.all(np.abs(posterior["states"].mean(("chain", "draw")).values - known.state_means) < 4.5 * errors)
    np.testing.assert_allclose(posterior["variance"], posterior["q"] ** 2)
    # What is reported belongs together: the density of a draw is its prior in unconstrained space and its estimate.
    a, q = posterior["a"].values, posterior["q"].values
    log_prior = np.log((1 - a**2) / 4) + stats.halfnorm.logpdf(q) + np.log(q)
    np.testing.assert_allclose(stats_group["lp"], stats_group["log_evidence"] + log_prior, rtol=1e-9)
    assert {"posterior", "sample_stats", "observed_data"} <= set(group_names(data))
    notes = attributes(data)
    assert notes["algorithm"] == "PMMH"
    assert notes["advised_n_particles"] == advised_n_particles(20, notes["log_evidence_sd"])
    assert notes["longest_stay"] < 600


def test_estimates_stay_with_their_draws_until_something_is_accepted(noisy_autoregression):
    known = noisy_autoregression
    options = {"n_particles": 20, "n_warmup": 20, "n_samples": 60, "missing": "skip"}
    data = pmmh(jax.random.key(1), known.model, known.y, **options)
    found, drawn = dataset(data, "sample_stats"), dataset(data)
    stays = ~found["accepted"].values[:, 1:]
    assert stays.any()
    for values in (found["log_evidence"].values, drawn["a"].values, drawn["states"].values[..., 3]):
        np.testing.assert_array_equal(values[:, 1:] == values[:, :-1], stays)


def test_same_key_same_draws_and_states_may_be_left_out(noisy_autoregression, capsys):
    known = noisy_autoregression
    options = {"n_particles": 20, "n_warmup": 20, "n_samples": 60, "missing": "skip", "keep_states": False}
    first = pmmh(jax.random.key(1), known.model, known.y, **options)
    again = pmmh(jax.random.PRNGKey(1), known.model, known.y, progress=True, **options)
    np.testing.assert_array_equal(dataset(first)["a"], dataset(again)["a"])
    assert "states" not in dataset(first)
    assert "sampling, acceptance" in capsys.readouterr().out
    assert not jax.config.jax_enable_x64


COUNTS = StateSpaceModel(
    initial=lambda p, u: {"level": dist.Normal(0.0, 1.0), "regime": dist.Bernoulli(0.5)},
    transition=lambda p, x, u: {
        "level": dist.Normal(0.9 * x["level"] + u, p["step"]),
        "regime": dist.Bernoulli(jnp.where(x["regime"] == 1, 0.9, 0.1)),
    },
    observation=lambda p, x, u: dist.Poisson(jnp.exp(x["level"] + x["regime"])),
    prior=lambda: numpyro.sample("step", dist.LogNormal(-1.0, 0.5)),
)


def test_states_may_be_pytrees_and_discrete():
    y, inputs = np.array([1, 0, 3, 2, 5, 4]), np.linspace(0.0, 0.2, 6)
    data = pmmh(jax.random.key(0), COUNTS, y, inputs, n_particles=30, n_warmup=20, n_samples=60, n_chains=2)
    drawn = dataset(data)
    assert drawn["states_level"].shape == (2, 60, 6)
    assert set(np.unique(drawn["states_regime"])) == {0, 1}


def test_too_few_particles_are_warned_about():
    """An exact observation every time: the noise of a filter of 5 particles is far above 1.7."""
    model = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 1.0),
        transition=lambda p, x, u: dist.Normal(p["a"] * x, 1.0),
        observation=lambda p, x, u: dist.Normal(x, 0.1),
        prior=lambda: numpyro.sample("a", dist.Normal(0.0, 1.0)),
    )
    y = np.random.default_rng(0).normal(size=20)
    with pytest.warns(UserWarning, match="raise n_particles to about"):
        data = pmmh(jax.random.key(0), model, y, n_particles=5, n_warmup=50, n_samples=100)
    assert attributes(data)["log_evidence_sd"] > 1.7
    assert attributes(data)["advised_n_particles"] > 5

    def given(mean, y):
        return dist.Normal(mean + (y - mean) / 1.01, 0.1 / np.sqrt(1.01))

    guided = Proposal(lambda p, u, y: given(0.0, y), lambda p, x, u, y: given(p["a"] * x, y))
    data = pmmh(jax.random.key(0), model, y, n_particles=20, n_warmup=50, n_samples=100, proposal=guided)
    assert attributes(data)["log_evidence_sd"] < 0.5
    assert "would do" in attributes(data)["advice"]


def test_collapsed_filters_are_rejections():
    """A uniform observation error of unknown width: too narrow a width has likelihood zero."""
    model = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 0.1),
        transition=lambda p, x, u: dist.Normal(x, 0.1),
        observation=lambda p, x, u: dist.Uniform(x - p["width"], x + p["width"]),
        prior=lambda: numpyro.sample("width", dist.HalfNormal(2.0)),
    )
    data = pmmh(jax.random.key(0), model, np.array([0.0, 1.0, -1.0, 0.5]), n_particles=20, n_warmup=50, n_samples=200)
    assert np.all(np.isfinite(dataset(data, "sample_stats")["log_evidence"]))
    assert dataset(data)["width"].min() > 0.3
    with pytest.raises(ValueError, match="none of 128 draws from the prior"):
        pmmh(jax.random.key(0), COUNTS, np.array([1, -1]), np.zeros(2), n_particles=20)


def test_densities_that_are_no_numbers_are_errors():
    model = StateSpaceModel(
        initial=lambda p, u: dist.Normal(0.0, 1.0),
        transition=lambda p, x, u: dist.Normal(x, 1.0),
        observation=lambda p, x, u: dist.Normal(x, jnp.sqrt(p["variance"])),
        prior=lambda: numpyro.sample("variance", dist.Normal(3.0, 1.0)),
    )
    with pytest.raises(ValueError, match=r"a log density is NaN or \+inf .*for parameters {'variance': -"):
        pmmh(jax.random.key(0), model, np.zeros(5), n_particles=20)


def test_ideal_acceptance_agrees_with_theory():
    """Without noise: exact for one dimension, 0.234 in the limit. With much of it: 0.07 at noise 1.8 and step 2.56."""
    assert ideal_acceptance(1, 0.0) == pytest.approx(2 / np.pi * np.arctan(2 / 2.38), abs=0.01)
    assert ideal_acceptance(10_000, 0.0) == pytest.approx(2 * stats.norm.cdf(-2.38 / 2), abs=0.01)
    exact = 2 * stats.norm.cdf(-np.sqrt(2.38**2 + 2 * 1.8**2) / 2)
    assert ideal_acceptance(10_000, 1.8) == pytest.approx(exact, abs=0.01)
    assert advised_n_particles(100, np.inf) == 400
    assert "100 particles suit it" in describe_noise(100, 1.3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_chains": 0}, ValueError, "n_chains"),
        ({"n_samples": 1.5}, ValueError, "n_samples"),
        ({"n_particles": 1}, ValueError, "n_particles"),
        ({"resampling": "all"}, ValueError, "resampling"),
        ({"model": StateSpaceModel(COUNTS.initial, COUNTS.transition, COUNTS.observation)}, ValueError, "no prior"),
        ({"observations": np.array([0.0, np.nan])}, ValueError, "first at t = 1"),
        ({"key": 0}, TypeError, "key must be"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(options, error, message):
    arguments = {"key": jax.random.key(0), "model": COUNTS, "observations": np.zeros(4)} | options
    with pytest.raises(error, match=message):
        pmmh(arguments.pop("key"), arguments.pop("model"), arguments.pop("observations"), **arguments)
