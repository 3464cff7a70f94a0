"""Tempered SMC against closed forms, quadrature and itself."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import cauchy, norm
from scipy import integrate, stats
from sklearn.datasets import load_diabetes

from uqsparse.inference import (
    HMC,
    IndependentProposal,
    RandomWalk,
    TemperedTarget,
    freeze_ladder,
    tempered_smc,
)
from uqsparse.inference.arviz_io import attributes, dataset, group_names

NOISE = 0.7


def regression(X, y):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ beta, NOISE), obs=y)


@pytest.fixture(scope="module")
def diabetes():
    """Standardised data with the closed-form evidence and posterior of `regression`."""
    X, y = load_diabetes(return_X_y=True)
    X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    log_evidence = stats.multivariate_normal(cov=X @ X.T + NOISE**2 * np.eye(len(y))).logpdf(y)
    covariance = np.linalg.inv(np.eye(X.shape[1]) + X.T @ X / NOISE**2)
    mean = covariance @ X.T @ y / NOISE**2
    return TemperedTarget.from_numpyro(regression, X, y), log_evidence, mean, np.sqrt(np.diag(covariance))


def skewed_target():
    """Cauchy prior and a Gaussian likelihood away from its centre: nothing is symmetric about zero."""
    return TemperedTarget(
        lambda u: cauchy.logpdf(u[0]),
        lambda u: norm.logpdf(2.0, u[0], 0.5),
        lambda key, n: jax.random.cauchy(key, (n, 1)),
        dim=1,
    )


SKEWED_EVIDENCE = integrate.quad(lambda u: stats.cauchy.pdf(u) * stats.norm.pdf(2.0, u, 0.5), -10, 14)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("move", "n_moves"), [(RandomWalk(), 20), (HMC(), 10)], ids=str)
def test_evidence_and_posterior_of_a_conjugate_regression(diabetes, move, n_moves):
    """S1, with fewer runs than in the bench. The key is fixed, so the outcome is too; on fresh keys the bounds lie some
    4 standard errors out."""
    target, log_evidence, mean, sd = diabetes
    result = tempered_smc(jax.random.key(1), target, n_particles=2000, move=move, n_moves=n_moves, n_replicates=8)
    errors = result.log_evidence_replicates - log_evidence
    assert abs(errors.mean()) <= 0.2
    assert errors.std(ddof=1) <= 0.3
    np.testing.assert_allclose(result.particles.mean(0), mean, atol=0.1 * sd.min())
    np.testing.assert_allclose(result.particles.std(0), sd, rtol=0.1)
    assert abs(result.log_evidence - log_evidence) < 5 * result.log_evidence_se


@pytest.mark.parametrize("ess_fraction", [0.5, 0.8])
def test_ladder_keeps_the_requested_effective_sample_size(ess_fraction):
    """S2, and the mutant that solves for the step with the sign of the likelihood flipped."""
    n = 4000
    result = tempered_smc(jax.random.key(0), skewed_target(), n_particles=n, ess_fraction=ess_fraction)
    assert result.converged
    assert result.n_iter < 15
    np.testing.assert_allclose(result.ess[:-1] / n, ess_fraction, atol=1e-6)
    assert result.ess[-1] / n >= ess_fraction - 1e-6
    assert result.temperatures[-1] == 1
    # Relative standard error about 0.02 (n = 4000); a false alarm needs 5 of them.
    assert result.log_evidence == pytest.approx(np.log(SKEWED_EVIDENCE), abs=5 * 0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"move": IndependentProposal(degrees_of_freedom=5.0)},
        {"move": HMC()},
        {"n_moves": "acceptance"},
        {"n_moves": "displacement"},
        {"waste_free": True, "n_moves": 20},
        {"ladder": [0.1, 0.4, 1.0]},
        {"batch_size": 700},
    ],
    ids=str,
)
def test_every_variant_finds_evidence_and_posterior(options):
    """Bounds of 5 standard errors: false-alarm rate below 1e-5 a test."""
    result = tempered_smc(jax.random.key(3), skewed_target(), n_particles=4000, **options)
    assert result.log_evidence == pytest.approx(np.log(SKEWED_EVIDENCE), abs=5 * 0.025)

    def density(u):
        return stats.cauchy.pdf(u) * stats.norm.pdf(2.0, u, 0.5) / SKEWED_EVIDENCE

    mean = integrate.quad(lambda u: u * density(u), -10, 14)[0]
    sd = np.sqrt(integrate.quad(lambda u: (u - mean) ** 2 * density(u), -10, 14)[0])
    assert result.particles.shape == (4000, 1)
    assert result.particles.mean() == pytest.approx(mean, abs=5 * 2 * sd / np.sqrt(4000))
    assert result.particles.std() == pytest.approx(sd, rel=0.1)


def test_frozen_ladder_gives_unbiased_evidence():
    """Mean of 200 estimates with few particles within 4.5 standard errors of the truth; false-alarm rate 1e-5."""
    target = skewed_target()
    pilot = tempered_smc(jax.random.key(0), target, n_particles=2000)
    ladder = freeze_ladder(pilot)
    result = tempered_smc(jax.random.key(1), target, n_particles=50, n_moves=2, ladder=ladder, n_replicates=200)
    ratio = np.exp(result.log_evidence_replicates) / SKEWED_EVIDENCE
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / np.sqrt(200)
    np.testing.assert_array_equal(result.temperatures, np.tile(ladder.temperatures, (200, 1)))


def test_single_run_error_bar_matches_the_spread_of_runs():
    """Root mean square of the estimated errors against the standard deviation of 100 runs, within 35 %: about
    five standard errors of a standard deviation from 100 runs (each 7 %)."""
    target = skewed_target()
    for options in ({}, {"waste_free": True, "n_moves": 20}):
        runs = [tempered_smc(jax.random.key(s), target, n_particles=1000, **options) for s in range(100)]
        spread = np.std([run.log_evidence for run in runs], ddof=1)
        claimed = np.sqrt(np.mean([run.log_evidence_se**2 for run in runs]))
        assert claimed == pytest.approx(spread, rel=0.35)


def test_replicates_are_single_runs_side_by_side():
    target = skewed_target()
    both = tempered_smc(jax.random.key(5), target, n_particles=500, n_replicates=2)
    assert both.particles.shape == (1000, 1)
    assert both.temperatures.shape == (2, both.n_iter)
    assert both.log_evidence == pytest.approx(np.logaddexp.reduce(both.log_evidence_replicates) - np.log(2))
    assert not np.array_equal(both.particles[:500], both.particles[500:])


def test_same_key_same_result_and_legacy_keys_work():
    target = skewed_target()
    first = tempered_smc(jax.random.key(7), target, n_particles=500)
    again = tempered_smc(jax.random.PRNGKey(7), target, n_particles=500)
    np.testing.assert_array_equal(first.particles, again.particles)
    assert first.particles.dtype == np.float64
    assert not jax.config.jax_enable_x64


def test_new_data_of_the_same_shape_are_not_retraced():
    """S7. The model counts how often it is traced while the sampler compiles and runs."""
    traces = 0

    def model(y):
        nonlocal traces
        traces += isinstance(jnp.asarray(y), jax.core.Tracer)
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    for seed in range(3):
        y = np.random.default_rng(seed).normal(size=5)
        result = tempered_smc(jax.random.key(seed), TemperedTarget.from_numpyro(model, y), n_particles=100)
        if seed == 0:
            after_first = traces
        exact = stats.multivariate_normal(cov=np.eye(5) + np.ones((5, 5))).logpdf(y)
        assert result.log_evidence == pytest.approx(exact, abs=1.0)
    assert traces == after_first


def test_no_likelihood_means_one_step_and_evidence_one():
    def model():
        numpyro.sample("x", dist.Gamma(2.0, 1.0))

    result = tempered_smc(jax.random.key(0), TemperedTarget.from_numpyro(model), n_particles=500)
    assert result.n_iter == 1
    assert result.log_evidence == pytest.approx(0, abs=1e-12)
    assert stats.kstest(result.samples["x"], stats.gamma(2.0).cdf).pvalue > 1e-5


def test_impossible_particles_are_left_behind():
    """A likelihood that is zero on half the prior: evidence is the other half's, and no survivor is impossible."""

    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.factor("half", jnp.where(mu > 0, 0.0, -jnp.inf))

    result = tempered_smc(jax.random.key(0), TemperedTarget.from_numpyro(model), n_particles=2000)
    assert result.log_evidence == pytest.approx(np.log(0.5), abs=5 / np.sqrt(2000))
    assert result.samples["mu"].min() > 0


def test_to_arviz_holds_chains_evidence_and_data(diabetes):
    target = diabetes[0]
    result = tempered_smc(jax.random.key(0), target, n_particles=200, n_replicates=2)
    data = result.to_arviz()
    assert {"posterior", "log_likelihood", "observed_data"} <= set(group_names(data))
    assert dataset(data, "posterior")["beta"].shape == (2, 200, 10)
    assert dataset(data, "log_likelihood")["y"].shape == (2, 200, 442)
    assert attributes(data)["log_evidence"] == result.log_evidence


def test_warnings_and_non_convergence():
    target = skewed_target()
    with pytest.warns(UserWarning, match="tempering stopped at temperature"):
        result = tempered_smc(jax.random.key(0), target, n_particles=500, max_temperatures=1)
    assert not result.converged
    with pytest.raises(ValueError, match="did not reach temperature 1"):
        freeze_ladder(result)

    def wide(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal(0, 1).expand([30]).to_event(1)), 1), obs=y)

    with pytest.warns(UserWarning, match="too few for a covariance"):
        tempered_smc(jax.random.key(0), TemperedTarget.from_numpyro(wide, np.zeros(30)), n_particles=100)


def test_failures_name_their_cause():
    def impossible():
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.factor("never", jnp.where(mu > 1e6, 0.0, -jnp.inf))

    with pytest.raises(ValueError, match="no particle has positive likelihood"):
        tempered_smc(jax.random.key(0), TemperedTarget.from_numpyro(impossible), n_particles=100)

    def broken(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.factor("root", jnp.sqrt(mu - y))

    with pytest.raises(ValueError, match="site 'root' is NaN"):
        tempered_smc(jax.random.key(0), TemperedTarget.from_numpyro(broken, 1.0), n_particles=100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_particles": 1}, "n_particles"),
        ({"n_particles": 10.5}, "n_particles"),
        ({"ess_fraction": 1.0}, "ess_fraction"),
        ({"n_moves": 0}, "n_moves"),
        ({"n_moves": "often"}, "n_moves"),
        ({"waste_free": True, "n_moves": 7}, "must divide"),
        ({"waste_free": True, "n_moves": "acceptance"}, "fixed chain length"),
        ({"ladder": [0.5, 0.4, 1.0]}, "ladder"),
        ({"ladder": [0.5]}, "ladder"),
        ({"n_replicates": 0}, "n_replicates"),
        ({"batch_size": 0}, "batch_size"),
    ],
    ids=str,
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tempered_smc(jax.random.key(0), skewed_target(), **options)


def test_a_frozen_ladder_must_fit_the_target(diabetes):
    pilot = tempered_smc(jax.random.key(0), skewed_target(), n_particles=500)
    with pytest.raises(ValueError, match="spread of shape"):
        tempered_smc(jax.random.key(0), diabetes[0], ladder=freeze_ladder(pilot))


def test_progress_moves_a_bar(capsys):
    tempered_smc(jax.random.key(0), skewed_target(), n_particles=500, progress=True)
    assert "temperature 1" in capsys.readouterr().out
