"""Simulation-based calibration: exact samplers pass, wrong ones are found, and so is one that ignores the data."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from uqsparse.inference.checks.rank_verdict import RankVerdict
from uqsparse.inference.checks.sbc import sbc

N = 4
Y = np.array([2.0, 1.0, 3.0, 1.5])
FAST = {"n_simulations": 300, "n_ranks": 16, "batch_size": 100, "vectorized": True}


def model(y=None):
    """A normal mean with four observations: the posterior is N(sum / 5, 1 / 5)."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", N):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def posterior(key, total, count, scale=1.0, memory=0.0):
    """Draws of the posterior given the sum of `count` observations, from a stationary autoregression."""

    def step(z, key):
        z = memory * z + jnp.sqrt(1 - memory**2) * jax.random.normal(key)
        return z, z

    keys = jax.random.split(key, 16)
    _, z = jax.lax.scan(step, jax.random.normal(keys[0]), keys[1:])
    return {"mu": total / (count + 1) + scale * z / jnp.sqrt(count + 1)}


def exact(key, data):
    return posterior(key, data["y"].sum(), N)


def narrow(key, data):
    return posterior(key, data["y"].sum(), N, scale=0.6)


def shifted(key, data):
    return posterior(key, data["y"].sum() + 2.0, N)


def dependent(key, data):
    return posterior(key, data["y"].sum(), N, memory=0.97)


def prior(key, data):
    return posterior(key, 0.0, 0)


def check(sampler, seed=0, **options) -> RankVerdict:
    return sbc(jax.random.key(seed), model, observed=("y",), sampler=sampler, **{**FAST, **options})


def test_an_exact_sampler_passes():
    # False-alarm rate 1e-5.
    found = check(exact)
    assert found.ok, str(found)
    assert found.names == ("mu", "log likelihood")
    assert found.ranks.shape == (300, 2)
    assert found.n == 300
    assert found.ess.min() > 13  # of 15
    assert "exact on model 'model'" in found.subject
    # Chi-squared with 15 degrees of freedom exceeds 50 with probability 1e-5.
    counts = np.bincount(found.ranks[:, 0], minlength=16)
    assert np.sum((counts - 300 / 16) ** 2 / (300 / 16)) < 50


@pytest.mark.parametrize(
    ("sampler", "words"),
    [(narrow, "too many extreme ranks"), (shifted, "ranks too low"), (dependent, "too many extreme ranks")],
    ids=["narrow", "shifted", "dependent"],
)
def test_wrong_or_dependent_draws_are_found(sampler, words):
    found = check(sampler, parameters=("mu",), log_likelihood=False)
    assert not found.ok
    assert words in str(found)
    assert "the sampler is wrong, or its thinning too slight" in str(found)


def test_only_the_likelihood_sees_a_sampler_that_returns_the_prior():
    assert check(prior, log_likelihood=False, n_simulations=500).ok
    found = check(prior)
    assert not found.ok
    assert found.n < 100
    assert found.counterexample is not None
    assert found.counterexample.where == "rank of log likelihood"


def test_a_sampler_in_plain_python_gets_numpy_arrays_and_may_return_more_draws_than_needed():
    seen = []

    def plain(key, data):
        seen.append(data["y"])
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return {"mu": rng.normal(data["y"].sum() / 5, 5**-0.5, 40), "else": 0}

    found = check(plain, vectorized=False, n_simulations=120, batch_size=60)
    assert found.ok, str(found)
    assert len(seen) == 120
    assert all(isinstance(y, np.ndarray) and y.dtype == np.float64 and y.shape == (N,) for y in seen)


def test_statistics_of_the_user_may_depend_on_the_data():
    def uneven(key, data):
        """Too narrow for some data and too wide for others."""
        return posterior(key, data["y"].sum(), N, scale=jnp.where(data["y"][0] > 0, 0.4, 2.0))

    def distance(latent, data):
        return jnp.sign(data["y"][0]) * jnp.abs(latent["mu"] - data["y"].sum() / 5)

    found = check(uneven, statistics={"distance": distance}, parameters=(), log_likelihood=False)
    assert found.names == ("distance",)
    assert not found.ok
    assert found.n < 300


def given_both(key, data, replicate):
    """The posterior given data and, if there is one, a replicate."""
    more = 0.0 if replicate is None else replicate["y"].sum()
    return posterior(key, data["y"].sum() + more, N if replicate is None else 2 * N)


def ignores_replicate(key, data, replicate):
    return posterior(key, data["y"].sum(), N)


def forgets_data(key, data, replicate):
    return given_both(key, data, None) if replicate is None else posterior(key, replicate["y"].sum(), N)


def given_data(sampler, **options) -> RankVerdict:
    return sbc(jax.random.key(0), model, Y, data={}, sampler=sampler, **{**FAST, **options})


def test_posterior_calibration_passes_what_is_exact():
    found = given_data(given_both)
    assert found.ok, str(found)
    assert "given its data" in found.subject
    assert "posterior of the data alone" in str(found)
    # The true values come from N(7.5 / 5, 1 / 5) and not from the prior: a wrong one would shift the ranks of both.
    assert len(found.assumptions) == 2


def test_posterior_calibration_finds_what_ignores_one_of_the_two():
    assert given_data(ignores_replicate, log_likelihood=False).ok
    assert not given_data(ignores_replicate).ok
    assert not given_data(forgets_data, log_likelihood=False).ok


def test_same_key_same_result():
    first, second = (check(narrow, n_simulations=100) for _ in range(2))
    np.testing.assert_array_equal(first.ranks, second.ranks)


@pytest.mark.slow
def test_nuts_passes_and_thins_to_independent_draws():
    found = sbc(jax.random.key(1), model, Y, n_simulations=100, n_ranks=32, n_warmup=200, batch_size=50)
    assert found.ok, str(found)
    assert found.ess.min() > 20  # of 31
    assert "one draw in" in str(found)
    assert "pilot runs: autocorrelation time" in str(found)
    assert "NUTS (200 steps of warm-up)" in found.subject


@pytest.mark.slow
def test_nuts_passes_given_data():
    found = sbc(jax.random.key(2), model, Y, data={}, n_simulations=60, n_ranks=16, n_warmup=200, thin=3)
    assert found.ok, str(found)
    assert "one draw in 3 kept" in str(found)


def test_nan_is_an_error_that_says_where():
    def lost(key, data):
        return {"mu": posterior(key, data["y"].sum(), N)["mu"] * jnp.where(data["y"][0] > 1, jnp.nan, 1.0)}

    with pytest.raises(ValueError, match=r"mu is NaN at a draw, with simulated y = \["):
        check(lost, log_likelihood=False)

    def overflowing(count=None):
        scale = numpyro.sample("scale", dist.Cauchy(0.0, 1e6))
        numpyro.sample("count", dist.Normal(0.0, jnp.exp(jnp.exp(jnp.abs(scale)))), obs=count)

    with pytest.raises(ValueError, match=r"site 'count' of model 'overflowing' was simulated as .*prior too wide"):
        sbc(jax.random.key(0), overflowing, observed=("count",), sampler=exact, **FAST)


def test_bad_input_is_refused():
    key = jax.random.key(0)
    for name in ("n_simulations", "n_ranks", "n_warmup", "thin", "max_thin", "batch_size"):
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least"):
            sbc(key, model, Y, **{name: 0})
    with pytest.raises(ValueError, match="alpha must lie"):
        sbc(key, model, Y, alpha=0)
    with pytest.raises(ValueError, match="parameters must be a tuple of latent sites"):
        sbc(key, model, Y, parameters=("tau",))
    with pytest.raises(ValueError, match="there is nothing to rank"):
        sbc(key, model, Y, parameters=(), log_likelihood=False)
    with pytest.raises(ValueError, match=r"data\['y'\] has shape \(3,\)"):
        sbc(key, model, Y, data={"y": Y[:3]})
    with pytest.raises(ValueError, match=r"data\['y'\] must hold finite numbers"):
        sbc(key, model, Y, data={"y": Y * np.nan})
    with pytest.raises(ValueError, match="data must hold the observed sites"):
        sbc(key, model, Y, observed=("y",), data={"z": Y})
    with pytest.raises(TypeError, match="sampler returned no draws of mu"):
        check(lambda key, data: {})
    with pytest.raises(TypeError, match="sampler returned ndarray; expected a dict"):
        check(lambda key, data: np.zeros(20), vectorized=False)
    with pytest.raises(ValueError, match="sampler returned 3 draws of 'mu'; n_ranks = 16 needs 15"):
        check(lambda key, data: {"mu": np.zeros(3)}, vectorized=False)

    with pytest.raises(TypeError, match="data must be a dict of real data by site, got ndarray"):
        sbc(key, model, Y, data=Y)

    def named_like_an_option(data=None):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=data)

    with pytest.raises(ValueError, match="has a parameter 'data', an option of sbc"):
        sbc(key, named_like_an_option, observed=("y",))

    def discrete(y=None):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(ValueError, match="has discrete latent site"):
        sbc(key, discrete, observed=("y",))
