"""The split of a model into prior and likelihood, against NumPyro's own potential energy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import norm
from numpyro import handlers
from numpyro.infer.util import potential_energy, unconstrain_fn

from uqsparse.inference import TemperedTarget, stein_check

Y = np.array([0.3, -1.2, 0.8, 2.0])
X = np.random.default_rng(0).normal(size=(4, 3))


def normal(y):
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    numpyro.sample("y", dist.Normal(mu, 0.5), obs=y)


def half_cauchy(y):
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    numpyro.sample("y", dist.Normal(0, 1 + tau), obs=y)


def dirichlet(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([2.0, 3.0, 4.0])))
    mixture = dist.Categorical(weights)
    numpyro.sample("y", dist.MixtureSameFamily(mixture, dist.Normal(jnp.arange(3.0), 1.0)), obs=y)


def lkj(y):
    factor = numpyro.sample("factor", dist.LKJCholesky(2, concentration=2.0))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(2), scale_tril=factor), obs=y.reshape(2, 2))


def nested_support(y):
    top = numpyro.sample("top", dist.LogNormal(0.0, 0.5))
    inside = numpyro.sample("inside", dist.Uniform(0.0, top))
    numpyro.sample("y", dist.Normal(inside, 1.0), obs=y)


def plates(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("groups", 4):
        theta = numpyro.sample("theta", dist.Gamma(3.0, jnp.exp(mu)))
        numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def factor(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.factor("penalty", -jnp.sum(jnp.abs(y - mu)))


def scaled_likelihood(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with handlers.scale(scale=0.3):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def masked_likelihood(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with handlers.mask(mask=jnp.array([True, False, True, True])):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def deterministic(y):
    raw = numpyro.sample("raw", dist.Normal(0, 1).expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(numpyro.deterministic("line", X @ raw), 1.0), obs=y)


def nothing_observed(y):
    numpyro.sample("beta", dist.Beta(2.0, 3.0))


def vector_events(y):
    corner = numpyro.sample("corner", dist.MultivariateNormal(jnp.zeros(2), jnp.array([[2.0, 0.5], [0.5, 1.0]])))
    ordered = numpyro.sample(
        "ordered",
        dist.TransformedDistribution(dist.Normal(jnp.zeros(2), 1).to_event(1), dist.transforms.OrderedTransform()),
    )
    numpyro.sample("y", dist.Normal(corner[0] + ordered[1], 1.0), obs=y)


MODELS = [normal, half_cauchy, dirichlet, lkj, nested_support, plates, factor, scaled_likelihood, masked_likelihood,
          deterministic, nothing_observed, vector_events]  # fmt: skip


def site_dict(model, draws_of_prior):
    """Unconstrained prior draws of NumPyro's own, as a dict, made without our code."""
    trace = handlers.trace(handlers.seed(model, draws_of_prior)).get_trace(Y)
    values = {
        name: site["value"] for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]
    }
    return unconstrain_fn(handlers.seed(model, draws_of_prior), (Y,), {}, values)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_prior_and_likelihood_add_up_to_the_joint(model):
    target = TemperedTarget.from_numpyro(model, Y)
    with jax.enable_x64(True):
        for seed in range(3):
            sites = site_dict(model, jax.random.key(seed))
            u = jnp.concatenate([jnp.ravel(value) for value in sites.values()])
            log_prior, log_likelihood = target.split(u)
            joint = -potential_energy(model, (Y,), {}, sites)
            np.testing.assert_allclose(log_prior + log_likelihood, joint, rtol=1e-10, atol=1e-10)
            if model is nothing_observed:
                assert float(log_likelihood) == 0


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_prior_draws_belong_to_the_prior_density(model):
    """Stein's identities hold for the draws; false-alarm rate below 1e-4 (|z| < 5, at most 14 statistics)."""
    target = TemperedTarget.from_numpyro(model, Y)
    with jax.enable_x64(True):
        draws = target.sample_prior(jax.random.key(1), 4000)
        assert draws.shape == (4000, target.dim)
    assert stein_check(target.log_prior, np.asarray(draws)).max_abs_z < 5


def test_zero_likelihood_leaves_the_prior_finite():
    def bounded(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.factor("bound", jnp.where(mu > 0, 0.0, -jnp.inf))

    target = TemperedTarget.from_numpyro(bounded, Y)
    log_prior, log_likelihood = target.split(jnp.array([-1.0]))
    assert float(log_likelihood) == -np.inf
    np.testing.assert_allclose(log_prior, norm.logpdf(-1.0), rtol=1e-6)
    np.testing.assert_allclose(target.log_density(jnp.array([-1.0]), 0.0), norm.logpdf(-1.0), rtol=1e-6)


def test_constrain_reports_latent_and_deterministic_sites():
    values = TemperedTarget.from_numpyro(deterministic, Y).constrain(jnp.array([1.0, 2.0, 3.0]))
    assert list(values) == ["raw", "line"]
    np.testing.assert_allclose(values["line"], X @ [1.0, 2.0, 3.0], rtol=1e-5)


def test_a_reference_bridges_an_improper_prior():
    def flat(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    reference = (lambda key, n: 3 * jax.random.normal(key, (n, 1)), lambda u: norm.logpdf(u[0], 0, 3))
    target = TemperedTarget.from_numpyro(flat, Y, reference=reference)
    u = jnp.array([0.7])
    np.testing.assert_allclose(target.log_prior(u), norm.logpdf(0.7, 0, 3), rtol=1e-6)
    np.testing.assert_allclose(target.log_density(u), np.sum(norm.logpdf(Y, 0.7, 1)), rtol=1e-6)
    with pytest.raises(ValueError, match=r"'mu' has an improper prior.*reference="):
        TemperedTarget.from_numpyro(flat, Y)


def discrete(y):
    k = numpyro.sample("k", dist.Poisson(3.0))
    numpyro.sample("y", dist.Normal(k, 1.0), obs=y)


def subsampled(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", 4, subsample_size=2) as rows:
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y[rows])


def scaled_prior(y):
    with handlers.scale(scale=2.0):
        numpyro.sample("mu", dist.Normal(0, 1))


def masked_prior(y):
    with handlers.mask(mask=False):
        numpyro.sample("mu", dist.Normal(0, 1))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (discrete, "'k' is discrete"),
        (subsampled, "'rows' is subsampled"),
        (scaled_prior, "'mu' is scaled"),
        (masked_prior, "'mu' is masked"),
        (lambda y: numpyro.sample("y", dist.Normal(0, 1), obs=y), "no latent site"),
    ],
)
def test_models_that_cannot_be_tempered_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        TemperedTarget.from_numpyro(model, Y)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"'y'.*NaN"):
        TemperedTarget.from_numpyro(normal, np.array([1.0, np.nan]))
    with pytest.raises(TypeError, match="y"):
        TemperedTarget.from_numpyro(normal)
    with pytest.raises(TypeError, match="argument 'y' holds a object"):
        TemperedTarget.from_numpyro(normal, object())
    with pytest.raises(ValueError, match="dim must be a positive integer"):
        TemperedTarget(lambda u: 0.0, lambda u: 0.0, lambda key, n: jnp.zeros((n, 1)), dim=0)


def test_models_that_draw_their_own_keys_and_partials_work():
    def noisy(y, width):
        numpyro.prng_key()
        mu = numpyro.sample("mu", dist.Normal(0, width))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    target = TemperedTarget.from_numpyro(partial(noisy, width=2.0), Y)
    np.testing.assert_allclose(target.log_prior(jnp.array([1.0])), norm.logpdf(1.0, 0, 2), rtol=1e-6)
