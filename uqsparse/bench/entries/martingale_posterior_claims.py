"""Claims about predictive resampling: exactness, convergence along the horizon, checks, densities by copulas."""

import math
from functools import cache
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from matplotlib.figure import Figure
from scipy import stats

from uqsparse.bench.plots import picture
from uqsparse.bench.records import Contest, Context, Measured
from uqsparse.bench.registry import claim, speed
from uqsparse.inference.checks.martingale import check_martingale
from uqsparse.inference.conjugate_predictives import ConjugatePredictive, MeanState
from uqsparse.inference.copula_predictive import CopulaPredictive
from uqsparse.inference.incremental_predictive import IncrementalPredictive
from uqsparse.inference.martingale_result import MartingalePosterior
from uqsparse.inference.plug_in_predictive import PlugInPredictive
from uqsparse.inference.predictive_resampling import martingale_posterior
from uqsparse.inference.urn_predictives import BayesianBootstrap

_SYSTEM = "Martingale posteriors"
_PRIOR_SCALE = 2.0
_NORMAL = ConjugatePredictive.normal_normal(0.0, _PRIOR_SCALE, 1.0)
_PLUG_IN = PlugInPredictive(lambda theta: dist.Normal(theta[0], 1.0), np.zeros(1), lambda theta: jnp.eye(1))


def _mean(state):
    return state.mean


def _weights(state):
    return state.weights


def _theta(state):
    return state.theta[0]


def _density(state):
    return state.density


def _normal_data(seed: int, n: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.8, 1.0, n)


def _sizes(context: Context) -> tuple[int, int]:
    """Length and number of futures."""
    return (1000, 1000) if context.quick else (3000, 4000)


def _posterior(y: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the normal posterior."""
    precision = _PRIOR_SCALE**-2 + len(y)
    return float(y.sum() / precision), precision**-0.5


@claim("Simulated futures of the normal model give its posterior", system=_SYSTEM)
def normal_posterior_by_futures(context: Context) -> Measured:
    """Kolmogorov-Smirnov p-value of the sampled means against the conjugate posterior, n = 10."""
    y, (n_forward, n_samples) = _normal_data(context.seed), _sizes(context)
    found = martingale_posterior(jax.random.key(context.seed), _NORMAL, y, _mean, n_forward, n_samples)
    mean, sd = _posterior(y)
    detail = (
        f"N = {n_forward}, B = {n_samples}: mean {found.samples.mean():.4f} and sd {found.samples.std():.4f}, "
        f"Bayes {mean:.4f} and {sd:.4f}"
    )
    return Measured(stats.kstest(found.samples, stats.norm(mean, sd).cdf).pvalue, ">", 0.01, "exact posterior", detail)


@claim("Simulated futures of four conjugate models give their posteriors", system=_SYSTEM, quick=False)
def conjugate_posteriors_by_futures(context: Context) -> Measured:
    """Smallest Kolmogorov-Smirnov p-value of six marginals, times six; N = 3,000, B = 2,000."""
    y, key = _normal_data(context.seed), jax.random.key(context.seed)
    rng = np.random.default_rng(context.seed)
    mean, sd = _posterior(y)
    flips = np.array([1, 1, 0, 1, 0, 0, 1])
    models = {
        "normal": (_NORMAL, y, [stats.norm(mean, sd)]),
        "Bernoulli": (
            ConjugatePredictive.beta_bernoulli(2.0, 1.0),
            flips,
            [stats.beta(6, 4)],
        ),
        "categorical": (
            ConjugatePredictive.dirichlet_categorical(np.array([1.0, 0.5, 2.0])),
            np.array([0, 2, 2, 1, 0, 2]),
            [stats.beta(3, 6.5), stats.beta(1.5, 8.0)],
        ),
    }
    pvalues = {}
    for name, (rule, data, laws) in models.items():
        draws = np.atleast_2d(martingale_posterior(key, rule, data, _mean, 3000, 2000).samples.T)
        for k, law in enumerate(laws):
            # finite futures of counts have ties, of size 1 / N
            noise = 0.0 if name == "normal" else rng.uniform(-0.5, 0.5, 2000) / 3000
            pvalues[f"{name} {k}"] = stats.kstest(draws[k] + noise, law.cdf).pvalue
    rule = ConjugatePredictive.normal_inverse_gamma(0.5, 2.0, 3.0, 2.0)
    draws = martingale_posterior(key, rule, y, lambda s: (s.mean, s.variance), 3000, 2000).samples
    n, a, k = len(y), 3 + len(y) / 2, 2 + len(y)
    b = 2 + 0.5 * ((y - y.mean()) ** 2).sum() + n / k * (y.mean() - 0.5) ** 2
    laws = (stats.t(2 * a, (1.0 + y.sum()) / k, math.sqrt(b / (a * k))), stats.invgamma(a, scale=b))
    for name, values, law in zip(("mean", "variance"), draws, laws, strict=True):
        pvalues[f"normal-inverse-gamma {name}"] = stats.kstest(values, law.cdf).pvalue
    detail = ", ".join(f"{name} {p:.2f}" for name, p in pvalues.items())
    return Measured(min(1.0, len(pvalues) * min(pvalues.values())), ">", 0.01, "exact posteriors", detail)


@claim("Weights of Polya's urn are Dirichlet", system=_SYSTEM)
def urn_weights(context: Context) -> Measured:
    """Relative error of the variance of the weights, n = 20."""
    n_forward, n_samples = (1000, 1000) if context.quick else (2000, 4000)
    found = martingale_posterior(
        jax.random.key(context.seed), BayesianBootstrap(), np.arange(20.0), _weights, n_forward, n_samples
    )
    variance, exact = found.samples.var(axis=0).mean(), (1 / 20) * (1 - 1 / 20) / 21
    # finite urns have ties, of size 1 / N
    spread = np.random.default_rng(context.seed).uniform(-0.5, 0.5, n_samples) / n_forward
    pvalue = stats.kstest(found.samples[:, 0] + spread, stats.beta(1, 19).cdf).pvalue
    detail = f"N = {n_forward}, B = {n_samples}: {variance:.5f}, Dirichlet {exact:.5f}; KS p = {pvalue:.2f}"
    return Measured(abs(variance / exact - 1), "<=", 0.1, "0", detail)


@claim("A plug-in mean spreads by the sum of 1 / j^2", system=_SYSTEM)
def plug_in_spread(context: Context) -> Measured:
    """Relative error of the standard deviation, known scale 1, n = 10."""
    n_forward, n_samples = _sizes(context)
    y = _normal_data(context.seed)
    found = martingale_posterior(jax.random.key(context.seed), _PLUG_IN, y, _theta, n_forward, n_samples)
    exact = math.sqrt(np.sum(np.arange(11.0, 11 + n_forward) ** -2))
    detail = f"N = {n_forward}, B = {n_samples}: {found.samples.std():.4f}, series {exact:.4f}"
    return Measured(abs(found.samples.std() / exact - 1), "<=", 0.05, "0", detail)


@claim("The horizon's shortfall is reported, and the correction removes it", system=_SYSTEM)
def shortfall_is_corrected(context: Context) -> Measured:
    """Relative error of the corrected standard deviation, N = n = 10, where the raw one is short by 29%."""
    y, n_samples = _normal_data(context.seed), 4000
    found = martingale_posterior(jax.random.key(context.seed), _NORMAL, y, _mean, 10, n_samples, tail_correction=True)
    raw, sd = float(found.sd_path[-1]), _posterior(y)[1]
    detail = (
        f"reported {found.sd_shortfall:.1%}, true {1 - raw / sd:.1%}; corrected {found.samples.std():.4f}, "
        f"posterior {sd:.4f}; B = {n_samples}"
    )
    return Measured(abs(found.samples.std() / sd - 1), "<=", 0.05, "0", detail)


class ShrunkenMean(eqx.Module):
    """Draws from N(0.9 mean, 1): no martingale."""

    shrink: float = 0.9

    def init(self, data):
        return _NORMAL.init(data)

    def sample(self, key, state):
        return self.shrink * state.mean + jax.random.normal(key, (), float)

    def update(self, state, y):
        return MeanState(state.mean + (y - state.mean) / (state.strength + 1), state.strength + 1)


@claim("A rule that shrinks its mean is caught", system=_SYSTEM)
def invalid_rule_is_caught(context: Context) -> Measured:
    """Log of the evidence against N(0.9 mean, 1); log(1 / alpha) rejects, alpha = 1e-5."""
    y = _normal_data(context.seed)
    key = jax.random.key(context.seed)
    verdict = check_martingale(key, ShrunkenMean(), y, _mean)
    drifted = martingale_posterior(key, ShrunkenMean(), y, _mean, 1000, 500)
    detail = (
        f"{verdict.n} futures of 32 draws; the mean drifts from {float(drifted.start):.3f} to "
        f"{drifted.samples.mean():.3f} in 1,000 draws"
    )
    if not context.quick:
        by_draws = check_martingale(key, ShrunkenMean(), y)
        detail += f"; by draws alone {'missed' if by_draws.ok else 'caught'} after {by_draws.n} futures"
    return Measured(verdict.evidence, ">=", -math.log(verdict.alpha), "rejection", detail)


@claim("The check passes the rules that come with the library", system=_SYSTEM, quick=False)
def valid_rules_pass(context: Context) -> Measured:
    """Rules flagged, of seven; 20,000 futures of 32 draws each, alpha = 1e-5."""
    y, key = _normal_data(context.seed), jax.random.key(context.seed)
    x = np.random.default_rng(context.seed).normal(size=10)
    spread = ConjugatePredictive.normal_inverse_gamma(0.0, 1.0, 3.0, 2.0)
    regression = CopulaPredictive.regression(np.array([-0.5, 0.5]), np.linspace(-3, 4, 15), 0.8)
    rules = {
        "normal": (_NORMAL, y, _mean),
        "Bernoulli": (ConjugatePredictive.beta_bernoulli(), (y > 0.8).astype(int), _mean),
        "normal-inverse-gamma": (spread, y, lambda s: (s.mean, s.variance * s.shape / (s.shape - 1))),
        "bootstrap": (BayesianBootstrap(), y, _mean),
        "plug-in": (_PLUG_IN, y, _theta),
        "copula density": (CopulaPredictive(np.array([-1.0, 0.0, 1.0, 2.0]), 0.8), y, _density),
        "copula regression": (regression, (x, y), lambda s: s.density[:, 4:12]),
    }
    found = {name: check_martingale(key, *rule) for name, rule in rules.items()}
    detail = "log evidence: " + ", ".join(f"{name} {one.evidence:.1f}" for name, one in found.items())
    return Measured(sum(not one.ok for one in found.values()), "==", 0, "0", f"{detail}; 11.5 rejects")


class Copula(NamedTuple):
    """A resampled density of the two-normal example, standardised as the data are."""

    y: np.ndarray
    grid: np.ndarray
    truth: np.ndarray
    start: np.ndarray
    found: MartingalePosterior
    bandwidth: float


def _two_normals(seed: int, n: int = 50) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y = np.where(rng.uniform(size=n) < 0.8, rng.normal(-2, 1, n), rng.normal(2, 1, n))
    return y


@cache
def _copula(seed: int, n_points: int = 401) -> Copula:
    """100 futures of 2,000 draws."""
    y = _two_normals(seed)
    centre, scale = y.mean(), y.std(ddof=1)
    z, grid = (y - centre) / scale, np.linspace(-6, 6, n_points)
    truth = scale * (0.8 * stats.norm.pdf(grid * scale + centre, -2) + 0.2 * stats.norm.pdf(grid * scale + centre, 2))
    bandwidth = float(CopulaPredictive(grid).init(z).bandwidth[0])
    rule = CopulaPredictive(grid, bandwidth)
    found = martingale_posterior(jax.random.key(seed), rule, z, _density, 2000, 100)
    return Copula(z, grid, truth, found.start, found, bandwidth)


@claim("A copula density integrates to one", system=_SYSTEM, quick=False)
def copula_integral(context: Context) -> Measured:
    """Largest error of the integral over [-6, 6], of the fit and of the resampled densities."""
    one = _copula(context.seed)
    fit = abs(np.trapezoid(one.start, one.grid) - 1)
    sampled = np.abs(np.trapezoid(one.found.samples, one.grid, axis=1) - 1).max()
    return Measured(float(max(fit, sampled)), "<=", 1e-6, "1", f"n = 50: fit {fit:.1e}, worst sample {sampled:.1e}")


@claim("A copula density is nearer to the truth than the normal it starts from", system=_SYSTEM, quick=False)
def copula_error(context: Context) -> Measured:
    """Integrated squared error over that of N(0, 1), n = 50 from 0.8 N(-2, 1) + 0.2 N(2, 1), standardised."""
    one = _copula(context.seed)
    error, start = (np.trapezoid((p - one.truth) ** 2, one.grid) for p in (one.start, stats.norm.pdf(one.grid)))
    roots = (math.sqrt(error), math.sqrt(start))
    detail = (
        f"bandwidth {one.bandwidth:.3f}; integrated squared error {error:.4f} against {start:.4f}, roots "
        f"{roots[0]:.3f} and {roots[1]:.3f}"
    )
    return Measured(float(error / start), "<", 1.0, "normal", detail)


@claim("Resampled copula densities keep their mean", system=_SYSTEM, quick=False)
def copula_mean(context: Context) -> Measured:
    """Largest |mean - fit| in standard errors where the true density is above 0.02; N = 2,000, B = 100."""
    one = _copula(context.seed)
    away = np.abs(one.found.samples.mean(axis=0) - one.start)
    error = one.found.samples.std(axis=0, ddof=1) / math.sqrt(len(one.found.samples))
    where = one.truth > 0.02
    detail = (
        f"largest difference {away[where].max():.4f}, largest standard error {error.max():.4f}; mean change in the "
        f"second half of the horizon {np.mean(one.found.shift[-1]):.4f}, shortfall {one.found.sd_shortfall:.1%}"
    )
    return Measured(float((away / error)[where].max()), "<=", 3.0, "0", detail)


@claim("Bands of copula densities cover the truth", system=_SYSTEM, quick=False)
def copula_bands(context: Context) -> Measured:
    """Share of grid points with true density above 0.02 in the pointwise 95% band, N = 2,000; mean of 20 data sets."""
    shares = []
    for i in range(20):
        one = _copula(context.seed + i, n_points=101)
        low, high = np.quantile(one.found.samples, [0.025, 0.975], axis=0)
        shares.append(np.mean(((low <= one.truth) & (one.truth <= high))[one.truth > 0.02]))
    one = _copula(context.seed)
    low, high = np.quantile(one.found.samples, [0.025, 0.975], axis=0)
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(one.grid, low, high, color="#bbbbbb", label="pointwise 95%")
    axes.plot(one.grid, one.start, color="#1f77b4", label="predictive density")
    axes.plot(one.grid, one.truth, color="#000000", linestyle="--", label="truth")
    axes.plot(one.y, np.zeros_like(one.y), "|", color="#808080", markersize=12)
    axes.set(xlim=(-3, 4), xlabel="y, standardised", ylabel="density")
    axes.legend(frameon=False)
    drawn = picture(figure, "A density from 50 observations, with 95% bands of its martingale posterior")
    error = np.std(shares, ddof=1) / math.sqrt(len(shares))
    detail = f"from {min(shares):.2f} to {max(shares):.2f}, median {np.median(shares):.2f}; standard error {error:.3f}"
    return Measured(float(np.mean(shares)), ">=", 0.7, "truth", detail, (drawn,))


@claim("Regression by copulas predicts better than a straight line where the truth bends", system=_SYSTEM, quick=False)
def copula_regression(context: Context) -> Measured:
    """Mean squared error of E[y | x] over that of least squares; y = sin(2 x) + 0.3 noise, n = 80."""
    rng = np.random.default_rng(context.seed)
    x = rng.uniform(-2, 2, 80)
    y = np.sin(2 * x) + 0.3 * rng.normal(size=80)
    inputs, targets = np.linspace(-1.9, 1.9, 20), np.linspace(-3, 3, 61)
    rule = CopulaPredictive.regression(inputs, targets)

    def look(state):
        return {"mean": state.mean, "low": state.quantile(0.05), "high": state.quantile(0.95)}

    found = martingale_posterior(jax.random.key(context.seed), rule, (x, y), look, 1000, 100, tolerance=0.2)
    mean, truth = found.start["mean"], np.sin(2 * inputs)
    line = np.polyval(np.polyfit(x, y, 1), inputs)
    low, high = np.quantile(found.samples["mean"], [0.025, 0.975], axis=0)
    covered = np.mean((low <= truth) & (truth <= high))
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(x, y, ".", color="#808080")
    axes.fill_between(inputs, found.start["low"], found.start["high"], color="#bbbbbb", alpha=0.5, label="90% of y")
    axes.fill_between(inputs, low, high, color="#1f77b4", alpha=0.4, label="95% of E[y | x]")
    axes.plot(inputs, mean, color="#1f77b4")
    axes.plot(inputs, truth, color="#000000", linestyle="--", label="truth")
    axes.set(xlabel="x", ylabel="y")
    axes.legend(frameon=False)
    drawn = picture(figure, "A regression from 80 pairs, with 95% bands of its mean and 90% bands of new values")
    detail = f"E[y | x] in its pointwise 95% band at {covered:.0%} of 20 inputs; shortfall {found.sd_shortfall:.1%}"
    errors = np.mean((mean - truth) ** 2) / np.mean((line - truth) ** 2)
    return Measured(float(errors), "<=", 0.5, "least squares", detail, (drawn,))


@claim("Futures of an incremental classifier spread as the Bayesian bootstrap does", system=_SYSTEM, quick=False)
def incremental_classifier(context: Context) -> Measured:
    """Larger of the ratio of standard deviations and its inverse: logistic slope by SGD against weighted fits."""
    from sklearn.linear_model import LogisticRegression, SGDClassifier

    rng = np.random.default_rng(context.seed)
    x = rng.normal(size=100)
    labels = (rng.uniform(size=100) < 1 / (1 + np.exp(-x))).astype(int)
    X = x[:, None]
    # The step of stochastic gradients that is a natural gradient's: one over the information of the slope.
    slope = LogisticRegression(C=np.inf, fit_intercept=False).fit(X, labels).coef_[0, 0]
    information = np.mean(x**2 / (2 + 2 * np.cosh(slope * x)))
    model = SGDClassifier(
        "log_loss", alpha=0.0, fit_intercept=False, learning_rate="invscaling", power_t=1.0, eta0=1 / information
    )
    rule = IncrementalPredictive(model, n_passes=1)
    found = martingale_posterior(
        jax.random.key(context.seed), rule, (X, labels), lambda s: s.model.coef_[0, 0], 400, 100, tail_correction=True
    )
    weights = rng.dirichlet(np.ones(100), 200) * 100
    fits = [LogisticRegression(C=np.inf, fit_intercept=False).fit(X, labels, w).coef_[0, 0] for w in weights]
    ratio = found.samples.std() / np.std(fits)
    return Measured(
        float(max(ratio, 1 / ratio)),
        "<=",
        1.35,
        "1",
        f"n = 100, N = 400, B = 100: {found.samples.std():.3f} against {np.std(fits):.3f} of 200 weighted fits",
    )


@jax.jit
def _plain_loop(key, mean, strength):
    """The normal futures without the library: a loop for each sample."""

    def one(key):
        def step(i, state):
            mean, strength = state
            noise = jax.random.normal(jax.random.fold_in(key, i), (), float)
            y = mean + jnp.sqrt(1 + 1 / strength) * noise
            return mean + (y - mean) / (strength + 1), strength + 1

        return jax.lax.fori_loop(0, 2000, step, (mean, strength))[0]

    return jax.vmap(one)(jax.vmap(lambda b: jax.random.fold_in(key, b))(jnp.arange(1000)))


@speed(
    "1,000 futures of 2,000 normal draws",
    ours="martingale_posterior",
    peer="the same loop written in JAX",
    at_least=0.6,
    unit="draw",
)
def futures_against_a_plain_loop(context: Context) -> Contest:
    """The price of taking any predictive: a state for each sample, where the loop shares the count, and records."""
    y = _normal_data(context.seed)

    def peer(i):
        with jax.enable_x64(True):
            state = _NORMAL.init(y)
            return np.asarray(_plain_loop(jax.random.key(i), state.mean, jnp.asarray(state.strength)))

    return Contest(
        lambda i: martingale_posterior(jax.random.key(i), _NORMAL, y, _mean, 2000, 1000).samples,
        peer,
        work=lambda _: 2e6,
        error=lambda results: abs(float(np.mean(np.concatenate(results))) - _posterior(y)[0]),
        rounds=3 if context.quick else 7,
    )
