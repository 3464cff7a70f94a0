"""Bayesian regression with noise that depends on x: one NumPyro model, sampled by NUTS and by tempered SMC.

The mean and the log standard deviation are each a linear function of the inputs plus bends (smooth curves of
each input), shrunk towards zero by scales that are learned. Where nothing bends or varies, the scales shrink
and a linear regression with constant noise is left; so the same model is a fair entrant on both kinds of
task.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import SplineTransformer, StandardScaler

from uqsparse import bench
from uqsparse.inference import HMC, TemperedTarget, nuts, tempered_smc
from uqsparse.inference.arviz_io import dataset


def heteroscedastic_regression(
    linear: Float[Array, "n d"], bends: Float[Array, "n k"], y: Float[Array, " n"] | None = None
) -> None:
    """NumPyro model: y ~ Normal(mean(x), sd(x)) with shrunken curves for the mean and for the log sd.

    Args:
        linear: standardised inputs.
        bends: standardised smooth curves of the inputs.
        y: standardised responses; None draws them from the prior.
    """
    mean = _curve("mean", linear, bends, centre=0.0, size=0.5)
    log_sd = _curve("log_sd", linear, bends, centre=-0.5, size=0.25)
    with numpyro.plate("observations", linear.shape[0]):
        numpyro.sample("y", dist.Normal(mean, jnp.exp(log_sd)), obs=y)


def _curve(
    name: str, linear: Float[Array, "n d"], bends: Float[Array, "n k"], centre: float, size: float
) -> Float[Array, " n"]:
    """A level, a straight part and a bent part; a scale is the standard deviation of its part over the data.

    A log-normal scale keeps away from zero, so the posterior has no funnel there for the samplers to get
    stuck in.
    """
    curve = numpyro.sample(f"{name}_level", dist.Normal(centre, 1.0))
    for part, columns in (("slope", linear), ("bend", bends)):
        n_columns = columns.shape[1]
        scale = numpyro.sample(f"{name}_{part}_scale", dist.LogNormal(jnp.log(size), 1.0))
        weights = numpyro.sample(f"{name}_{part}", dist.Normal(0.0, scale).expand([n_columns]).to_event(1))
        curve = curve + columns @ weights / np.sqrt(n_columns)
    return curve


class _Problem(NamedTuple):
    """The regression in standard units, and what is needed to come back."""

    linear: np.ndarray
    bends: np.ndarray
    y: np.ndarray
    linear_test: np.ndarray
    bends_test: np.ndarray
    centre: float
    spread: float


def _standardise(X_train: np.ndarray, y_train: np.ndarray, X_test: np.ndarray) -> _Problem:
    scaler = StandardScaler().fit(X_train)
    linear, linear_test = np.asarray(scaler.transform(X_train)), np.asarray(scaler.transform(X_test))
    # One input affords a flexible curve; ten inputs get gentle bends, or there are more columns than rows can
    # tell.
    n_knots, degree = (8, 3) if X_train.shape[1] == 1 else (3, 2)
    # An input with a handful of values, such as a sex, has no curve to speak of.
    curved = [j for j in range(linear.shape[1]) if len(np.unique(linear[:, j])) >= 10]
    pairs = [_bends(linear[:, [j]], linear_test[:, [j]], n_knots, degree) for j in curved]
    centre, spread = float(y_train.mean()), float(y_train.std())
    return _Problem(
        linear=linear,
        bends=np.hstack([train for train, _ in pairs]),
        y=(y_train - centre) / spread,
        linear_test=linear_test,
        bends_test=np.hstack([test for _, test in pairs]),
        centre=centre,
        spread=spread,
    )


def _bends(x: np.ndarray, x_test: np.ndarray, n_knots: int, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Splines of one input without their straight part, made uncorrelated: samplers like round posteriors."""
    splines = SplineTransformer(n_knots, degree, knots="quantile", extrapolation="linear", include_bias=False)
    columns = splines.fit_transform(x)
    line = LinearRegression().fit(x, columns)
    turn = PCA(columns.shape[1] - 1, whiten=True).fit(columns - line.predict(x))
    return (
        turn.transform(columns - line.predict(x)),
        turn.transform(splines.transform(x_test) - line.predict(x_test)),
    )


def _predict(problem: _Problem, draws: dict[str, np.ndarray]) -> bench.GaussianMixture:
    """One Gaussian per posterior draw and test point, in the units of y."""

    def curve(name: str) -> np.ndarray:
        total = draws[f"{name}_level"][:, None]
        for part, columns in (("slope", problem.linear_test), ("bend", problem.bends_test)):
            total = total + draws[f"{name}_{part}"] @ columns.T / np.sqrt(columns.shape[1])
        return total

    mean = problem.centre + problem.spread * curve("mean")
    return bench.GaussianMixture(mean, problem.spread * np.exp(curve("log_sd")))


@bench.method("NUTS", kind="regression", quick=True, conformal="full")
def nuts_regression(
    context: bench.Context, X_train: np.ndarray, y_train: np.ndarray, X_test: np.ndarray
) -> bench.GaussianMixture:
    """Heteroscedastic spline regression sampled by the no-U-turn sampler (Hoffman and Gelman, 2014)."""
    problem = _standardise(X_train, y_train, X_test)
    n_warmup, n_samples = (200, 100) if context.quick else (1000, 1000)
    data = nuts(
        jax.random.key(context.seed),
        heteroscedastic_regression,
        problem.linear,
        problem.bends,
        y=problem.y,
        n_warmup=n_warmup,
        n_samples=n_samples,
        log_likelihood=False,
    )
    posterior = dataset(data, "posterior")
    draws = {str(name): _join_chains(posterior[name].values) for name in posterior.data_vars}
    return _predict(problem, draws)


@bench.method("tempered SMC", kind="regression", quick=True, conformal="full")
def tempered_smc_regression(
    context: bench.Context, X_train: np.ndarray, y_train: np.ndarray, X_test: np.ndarray
) -> bench.GaussianMixture:
    """The same model, sampled by tempered sequential Monte Carlo with Hamiltonian moves."""
    problem = _standardise(X_train, y_train, X_test)
    target = TemperedTarget.from_numpyro(heteroscedastic_regression, problem.linear, problem.bends, y=problem.y)
    n_particles, n_moves = (400, 4) if context.quick else (1000, 5)
    result = tempered_smc(jax.random.key(context.seed), target, n_particles=n_particles, move=HMC(), n_moves=n_moves)
    return _predict(problem, {name: np.asarray(values) for name, values in result.samples.items()})


def _join_chains(values: np.ndarray) -> np.ndarray:
    """(chain, draw, ...) to (chain * draw, ...)."""
    return values.reshape(-1, *values.shape[2:])
