"""Populations drawn from distributions of one particle, against SciPy's distribution functions."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions.transforms import AffineTransform
from scipy import stats

from uqsparse.inference import Density
from uqsparse.inference.populations import draw, draw_sources, log_prob, plan_draws

N = 20_000
SCALE = jnp.array([[1.0, 0.0], [0.6, 0.8]])


def population(build, seed=0, n=N):
    """Draw n particles that share their parameters."""
    plan = plan_draws(build)
    sources = draw_sources(jax.random.key(seed), plan, n)
    return plan, jax.jit(jax.vmap(lambda s: draw(build(), s)))(sources)


CONTINUOUS = {
    "normal": (lambda: dist.Normal(1.0, 2.0), stats.norm(1, 2), "normal"),
    "log normal": (lambda: dist.LogNormal(0.5, 0.3), stats.lognorm(0.3, scale=np.exp(0.5)), "normal"),
    "affine": (
        lambda: dist.TransformedDistribution(dist.Normal(0.0, 1.0), AffineTransform(3.0, 2.0)),
        stats.norm(3, 2),
        "normal",
    ),
    "uniform": (lambda: dist.Uniform(-1.0, 3.0), stats.uniform(-1, 4), "uniform"),
    "gamma": (lambda: dist.Gamma(2.0, 3.0), stats.gamma(2, scale=1 / 3), "key"),
    "student": (lambda: dist.StudentT(4.0, 1.0, 2.0), stats.t(4, 1, 2), "key"),
    "truncated": (lambda: dist.TruncatedNormal(0.0, 1.0, low=0.5), stats.truncnorm(0.5, np.inf), "key"),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_draws_follow_their_law_and_are_independent(name):
    """Kolmogorov-Smirnov at 1e-5, and neighbours uncorrelated within 5 standard errors."""
    build, law, kind = CONTINUOUS[name]
    plan, draws = population(build)
    assert [source.kind for source in plan] == [kind]
    draws = np.asarray(draws, float)
    assert len(np.unique(draws)) > 0.99 * N
    assert stats.kstest(draws, law.cdf).pvalue > 1e-5
    ranks = stats.rankdata(draws) / N - 0.5
    assert abs(np.mean(ranks[1:] * ranks[:-1]) * 12) < 5 / np.sqrt(N)


def test_vectors_have_their_covariance():
    """Every entry of the covariance within 5 standard errors of at most sqrt(2 / n)."""
    cases = (
        (lambda: dist.MultivariateNormal(jnp.array([1.0, -1.0]), scale_tril=SCALE), SCALE @ SCALE.T),
        (lambda: dist.Normal(jnp.array([1.0, -1.0]), jnp.array([1.0, 2.0])).to_event(1), jnp.diag(jnp.array([1.0, 4]))),
        (lambda: dist.Normal(1.0, 2.0).expand([2]).to_event(1), 4 * jnp.eye(2)),
    )
    for build, covariance in cases:
        plan, draws = population(build)
        assert plan[0].kind == "normal"
        assert draws.shape == (N, 2)
        np.testing.assert_allclose(np.cov(np.asarray(draws).T), covariance, atol=5 * 4 * np.sqrt(2 / N))


@pytest.mark.parametrize("is_logit", [False, True])
def test_finite_draws_have_their_frequencies(is_logit):
    """Each frequency within 5 standard errors; a category of probability zero never comes."""
    probabilities = np.array([0.2, 0.0, 0.5, 0.3, 0.0])
    if is_logit:
        plan, draws = population(lambda: dist.Categorical(logits=jnp.log(jnp.asarray(probabilities))))
    else:
        plan, draws = population(lambda: dist.Categorical(jnp.asarray(probabilities)))
    assert plan[0].kind == "uniform"
    counts = np.bincount(np.asarray(draws), minlength=5)
    assert np.all(counts[probabilities == 0] == 0)
    assert np.all(np.abs(counts / N - probabilities) < 5 * np.sqrt(0.25 / N))
    _, heads = population(lambda: dist.Bernoulli(0.3))
    assert abs(np.mean(np.asarray(heads)) - 0.3) < 5 * np.sqrt(0.21 / N)
    _, fixed = population(lambda: dist.Delta(2.5), n=3)
    assert fixed.tolist() == [2.5, 2.5, 2.5]


def test_a_subclass_that_draws_in_its_own_way_is_asked_to():
    class Shifted(dist.Normal):
        def sample(self, key, sample_shape=()):
            return super().sample(key, sample_shape) + 100.0

    plan, draws = population(lambda: Shifted(0.0, 1.0), n=100)
    assert plan[0].kind == "key"
    assert draws.min() > 90


def test_a_pytree_is_a_product():
    def build():
        return {"a": dist.Normal(0.0, 1.0), "b": (dist.Gamma(2.0, 1.0), Density(lambda key: jax.random.normal(key)))}

    _, draws = population(build)
    columns = np.stack([np.asarray(x, float) for x in jax.tree.leaves(draws)])
    assert np.all(np.abs(np.corrcoef(columns) - np.eye(3)) < 5 / np.sqrt(N))
    value = {"a": 0.3, "b": (1.5, 0.0)}
    tree = {"a": dist.Normal(0.0, 1.0), "b": (dist.Gamma(2.0, 1.0), Density(None, lambda x: x - 7.0))}
    expected = stats.norm.logpdf(0.3) + stats.gamma(2).logpdf(1.5) - 7.0
    assert float(log_prob(tree, value)) == pytest.approx(expected, abs=1e-5)
    skipped = log_prob(tree, value, [jnp.asarray(False), jnp.asarray(True), jnp.asarray(True)])
    assert float(skipped) == pytest.approx(stats.norm.logpdf(0.3), abs=1e-5)


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (dist.Poisson(2.0), 3, -1),
        (dist.Exponential(1.0), 0.5, -0.5),
        (dist.Uniform(0.0, 1.0), 0.5, 1.5),
        (dist.Categorical(jnp.array([0.5, 0.5])), 1, 2),
        (dist.Dirichlet(jnp.ones(2)), jnp.array([0.4, 0.6]), jnp.array([0.4, 0.7])),
    ],
    ids=lambda x: type(x).__name__,
)
def test_outside_the_support_the_density_is_zero(distribution, inside, outside):
    assert np.isfinite(float(log_prob(distribution, inside)))
    assert float(log_prob(distribution, outside)) == -np.inf


def test_what_is_no_distribution_is_refused():
    with pytest.raises(TypeError, match="expected a NumPyro distribution"):
        plan_draws(lambda: {"a": dist.Normal(0.0, 1.0), "b": 3.0})
