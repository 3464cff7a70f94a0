"""The posterior of the ordinal model against importance sampling by NumPy, and its mode against the penalised fit."""

import functools
import math
import warnings

import arviz
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density
from scipy import stats
from scipy.special import expit, log_expit

from uqsparse.bench.entries.presto_mode import posterior_mode
from uqsparse.bench.entries.presto_peers import largest_penalty
from uqsparse.data.ordinal_draws import sparse_differences
from uqsparse.inference.arviz_io import dataset, group_names
from uqsparse.models.bayesian_presto import bayesian_presto
from uqsparse.models.cumulative_logit import presto_model
from uqsparse.models.presto import fit_ordinal_path
from uqsparse.models.presto_start import horseshoe_start, penalised_start, started_model
from uqsparse.models.shrinkage_priors import laplace, regularised_horseshoe

PENALTY, FIRST_SCALE = 0.06, 1.5
NEW = np.array([[-0.8], [0.0], [0.9]])


@pytest.fixture(scope="module")
def draw():
    return sparse_differences(1, n=150, p=1, intercepts=(0.0, 1.5), share=1.0)


@pytest.fixture(scope="module")
def posterior(draw):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wall of the domain is met now and then
        return bayesian_presto(
            jax.random.key(0),
            draw.X,
            draw.y + 10,
            penalty=PENALTY,
            first_scale=FIRST_SCALE,
            n_warmup=300,
            n_samples=700,
            n_chains=2,
            log_likelihood=True,
        )


def _log_posterior(theta, X, y):
    """Intercepts and psi on standardised columns; the definition of the model, one draw a row of theta."""
    centre, scale = X.mean(axis=0), X.std(axis=0)
    x = ((X - centre) / scale)[:, 0]
    first, last = theta[:, :1] + theta[:, 2:3] * x, theta[:, 1:2] + (theta[:, 2:3] + theta[:, 3:]) * x
    with np.errstate(divide="ignore", invalid="ignore"):
        between = log_expit(last) + log_expit(-first) + np.log(-np.expm1(first - last))
    rows = np.where(y == 0, log_expit(first), np.where(y == 2, log_expit(-last), between))
    prior = stats.norm.logpdf(theta[:, 2], scale=FIRST_SCALE)
    prior += stats.laplace.logpdf(theta[:, 3], scale=1 / (len(y) * PENALTY))
    found = rows.sum(axis=1) + prior
    return np.where((theta[:, 1] > theta[:, 0]) & np.isfinite(found), found, -np.inf)


def test_posterior_is_that_of_the_definition(draw, posterior):
    flat = dataset(posterior.data)
    draws = np.concatenate(
        [
            (flat["intercepts"].values + flat["coefs"].values @ draw.X.mean(axis=0)).reshape(-1, 2),
            flat["psi"].values.reshape(-1, 2),
        ],
        axis=1,
    )
    rng = np.random.default_rng(0)
    proposal = stats.multivariate_t(draws.mean(axis=0), 1.3 * np.cov(draws.T), df=5, seed=rng)
    theta = proposal.rvs(20_000)
    log_weights = _log_posterior(theta, draw.X, draw.y) - proposal.logpdf(theta)
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    assert 1 / (weights**2).sum() > 5000
    mean = weights @ theta
    sd = np.sqrt(weights @ (theta - mean) ** 2)
    np.testing.assert_array_less(abs(draws.mean(axis=0) - mean), 0.3 * sd)
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.3)
    x = (NEW - draw.X.mean(axis=0)) / draw.X.std(axis=0)
    rare = expit(-(theta[:, 1:2] + (theta[:, 2:3] + theta[:, 3:]) * x.T))
    ours = posterior.rare_probability(NEW)
    spread = np.sqrt(weights @ (rare - weights @ rare) ** 2)
    # 1400 draws of an effective size of 300 at least: means within 0.3 spreads are 5 standard errors.
    assert ours.ess_bulk.min() > 300
    np.testing.assert_array_less(abs(ours.mean - weights @ rare), 0.3 * spread)
    for column, (lower, upper) in enumerate(zip(ours.lower, ours.upper, strict=True)):
        inside = weights @ ((rare[:, column] >= lower) & (rare[:, column] <= upper))
        assert inside == pytest.approx(0.9, abs=0.06)


def test_summary_is_arvizs(draw, posterior):
    rare = posterior.rare_draws(NEW)
    assert rare.shape == (2, 700, 3)
    values = dataset(posterior.data)
    by_hand = 1 / (1 + np.exp(values["intercepts"].values[1, 5, -1] + NEW @ values["coefs"].values[1, 5, -1]))
    np.testing.assert_allclose(rare[1, 5], by_hand, rtol=1e-9)
    found = posterior.rare_probability(NEW, interval=0.5)
    assert found.r_hat[1] == pytest.approx(float(arviz.rhat(rare[:, :, 1])))
    assert found.ess_tail[2] == pytest.approx(float(arviz.ess(rare[:, :, 2], method="tail", prob=(0.05, 0.95))))
    np.testing.assert_allclose(found.lower, np.quantile(rare.reshape(-1, 3), 0.25, axis=0))
    assert ((found.lower < found.mean) & (found.mean < found.upper)).all()


def test_result_holds_arviz_data_labels_and_the_start(draw, posterior):
    assert set(group_names(posterior.data)) >= {"posterior", "sample_stats", "log_likelihood", "observed_data"}
    values = dataset(posterior.data)
    assert {name: one.shape[2:] for name, one in values.data_vars.items()} == {
        "intercepts": (2,),
        "coefs": (2, 1),
        "psi": (2, 1),
    }
    np.testing.assert_allclose(values["coefs"].values, values["psi"].values.cumsum(axis=2) / draw.X.std(axis=0))
    assert posterior.classes.tolist() == [10, 11, 12]
    assert posterior.penalty == PENALTY
    assert posterior.start_coefs.shape == (2, 1)
    assert posterior.converged == posterior.convergence.converged
    log_likelihood = dataset(posterior.data, "log_likelihood")["y"].values
    assert log_likelihood.shape == (2, 700, 150)
    eta = values["intercepts"].values[0, 0] + draw.X @ values["coefs"].values[0, 0].T
    p = np.diff(expit(eta), axis=1, prepend=0.0, append=1.0)[np.arange(150), draw.y]
    np.testing.assert_allclose(log_likelihood[0, 0], np.log(p), rtol=1e-6)


def test_mode_is_the_penalised_fit():
    data = sparse_differences(3, n=200, p=3, intercepts=(0.0, 2.0), share=0.5)
    X = (data.X - data.X.mean(axis=0)) / data.X.std(axis=0)
    lambdas = largest_penalty(X, data.y, 3) * np.array([1.001, 0.999, 0.2])
    path = fit_ordinal_path(X, data.y, n_classes=3, penalty_factors=[1.0, 1.0], lambdas=lambdas)
    assert path.n_nonzero[0] == 0 < path.n_nonzero[1]
    assert 0 < path.n_nonzero[2] < 6  # so that corners are met
    mode = posterior_mode(X, data.y, 3, 200 * lambdas[2])
    np.testing.assert_allclose(mode, path.differences[2], atol=1e-4)


def test_horseshoe_starts_at_the_penalised_fit(draw):
    X = (draw.X - draw.X.mean(axis=0)) / draw.X.std(axis=0)
    intercepts, psi, tau = np.array([-0.2, 1.7]), np.array([[0.4], [-0.3]]), 0.05
    local = abs(psi[1:]) / tau
    scale = tau * local / np.hypot(1.0, tau * local / 2.0)
    start = penalised_start(X, draw.y, intercepts, psi, np.array([[1.0], [1 / scale[0, 0] ** 2]]))
    np.testing.assert_allclose(start.factor @ start.factor.T, _inverse_hessian(X, draw.y, intercepts, psi, scale), 1e-3)
    model = functools.partial(
        presto_model,
        n_classes=3,
        first_prior=functools.partial(laplace, scale=1.0),
        difference_prior=functools.partial(regularised_horseshoe, global_scale=tau, slab_scale=2.0),
    )
    moved = started_model(model, horseshoe_start(start, scale, tau, local, 2.0))
    trace = handlers.trace(handlers.substitute(moved, {"step": np.zeros(7)})).get_trace(X, draw.y)
    np.testing.assert_allclose(trace["intercepts"]["value"], intercepts, rtol=1e-5)
    np.testing.assert_allclose(trace["first"]["value"], psi[:1], rtol=1e-5)
    np.testing.assert_allclose(trace["differences"]["value"], psi[1:], rtol=1e-5)
    assert set(trace) >= {"differences_global", "differences_local", "differences_slab", "y"}


def test_moved_model_has_the_density_of_the_definition(draw):
    X = (draw.X - draw.X.mean(axis=0)) / draw.X.std(axis=0)
    start = penalised_start(X, draw.y, np.array([-0.2, 1.7]), np.array([[0.4], [-0.3]]), np.ones((2, 1)))
    model = functools.partial(
        presto_model,
        n_classes=3,
        first_prior=lambda name, shape: numpyro.sample(name, dist.Normal(np.zeros(shape), FIRST_SCALE).to_event(2)),
        difference_prior=functools.partial(laplace, scale=1 / (len(draw.y) * PENALTY)),
    )
    moved = started_model(model, start)
    density = jax.jit(lambda step: log_density(moved, (X, draw.y), {}, {"step": step})[0])
    steps = np.random.default_rng(0).normal(size=(5, 4))
    free = np.array([-0.2, np.log(1.9), 0.4, -0.3]) + 0.5 * steps @ start.factor.T
    theta = np.column_stack([free[:, 0], free[:, 0] + np.exp(free[:, 1]), free[:, 2:]])
    # Uniform in the intercepts is exp(log increment) in the coordinate that is drawn.
    expected = _log_posterior(theta, draw.X, draw.y) + free[:, 1]
    found = np.array([density(step) for step in steps])
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=2e-3)
    assert np.ptp(expected) > 1


def _inverse_hessian(X, y, intercepts, psi, scale):
    """By differences of the log likelihood, in (first intercept, log increment, psi)."""

    def likelihood(u):
        theta = np.array([[u[0], u[0] + np.exp(u[1]), u[2], u[3]]])
        flat = _log_posterior(theta, X, y)[0] - stats.norm.logpdf(u[2], scale=FIRST_SCALE)
        return -flat + stats.laplace.logpdf(u[3], scale=1 / (len(y) * PENALTY))

    at, step = np.array([intercepts[0], np.log(np.diff(intercepts)[0]), *psi.ravel()]), 1e-3
    eye = step * np.eye(4)
    hessian = [
        [likelihood(at + a + b) - likelihood(at + a - b) - likelihood(at - a + b) + likelihood(at - a - b) for b in eye]
        for a in eye
    ]
    # Its Gauss-Newton part in the increment: the gradient in the intercept times the second derivative is left out.
    slope = (likelihood(at + eye[1]) - likelihood(at - eye[1])) / (2 * step)
    hessian = np.array(hessian) / (4 * step**2) - np.diag([0, slope, 0, 0]) + np.diag([0, 0, 1, 1 / scale[0, 0] ** 2])
    return np.linalg.inv(hessian)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "ridge"}, "prior must be 'laplace' or 'horseshoe'"),
        ({"penalty": 0.0}, "penalty must be None or positive"),
        ({"penalty": -1.0}, "penalty must be None or positive"),
        ({"penalty": math.nan}, "penalty must be None or positive"),
        ({"first_penalty": 0.0}, "first_penalty must be None or positive"),
        ({"first_scale": 0.0}, "first_scale must be positive"),
        ({"slab_scale": -1.0}, "slab_scale must be positive"),
        ({"n_differing": 0.0}, "n_differing must"),
        ({"n_samples": 0}, "n_samples must be an integer of at least 1"),
    ],
)
def test_bad_options_are_refused_before_any_work(draw, options, message):
    with pytest.raises(ValueError, match=message):
        bayesian_presto(jax.random.key(0), draw.X, draw.y, **options)


def test_bad_data_are_refused(draw, posterior):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="at least 3 classes"):
        bayesian_presto(key, draw.X, draw.y > 0)
    with pytest.raises(ValueError, match="labels without an order"):
        bayesian_presto(key, draw.X, np.array(list("abc"))[draw.y])
    broken = draw.X.copy()
    broken[3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        bayesian_presto(key, broken, draw.y, penalty=0.1)
    with pytest.raises(ValueError, match="column 0 of X is constant"):
        bayesian_presto(key, np.ones_like(draw.X), draw.y, penalty=0.1, first_scale=math.inf)
    with pytest.raises(ValueError, match=r"X must have shape \(n, 1\)"):
        posterior.rare_probability(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="X holds NaN"):
        posterior.rare_draws(np.full((1, 1), np.inf))
    with pytest.raises(ValueError, match="interval must lie strictly"):
        posterior.rare_probability(NEW, interval=1.0)
