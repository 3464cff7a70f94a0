"""Simulation-based calibration: of a sampler that ignores the data, and of NumPyro's NUTS on real models."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from uqsparse import bench, data
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Picture
from uqsparse.inference.checks.rank_plots import MOST_PANELS
from uqsparse.inference.checks.rank_verdict import RankVerdict
from uqsparse.inference.checks.sbc import sbc

SYSTEM = "validated inference"
ALPHA = 1e-5
N_RANKS = 64
LIMIT = -np.log(ALPHA)
REJECTS = "log(1/alpha), alpha 1e-5, at any stopping time"


def normal_mean(y: Any = None) -> None:
    """Ten normal observations of a normal mean."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 10):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def eight_schools(standard_error: Any, effect: Any = None) -> None:
    """The hierarchical model of the eight schools, not centred, as in examples/eight_schools.py."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(standard_error)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("effect", dist.Normal(mu + tau * z, standard_error), obs=effect)


def diagnosis(x: Any, y: Any = None) -> None:
    """Logistic regression."""
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 1.5))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.BernoulliLogits(intercept + x @ slope), obs=y)


def sunspot_counts(year: Any, count: Any = None) -> None:
    """Poisson counts whose log rate follows a cycle of eleven years."""
    level = numpyro.sample("level", dist.Normal(4.0, 0.5))
    cycle: Any = numpyro.sample("cycle", dist.Normal(0.0, 0.7).expand([2]).to_event(1))
    angle = 2 * jnp.pi * year / 11.0
    rate = jnp.exp(level + cycle[0] * jnp.sin(angle) + cycle[1] * jnp.cos(angle))
    with numpyro.plate("years", len(year)):
        numpyro.sample("count", dist.Poisson(rate), obs=count)


def prior_draws(key: Any, data: Any) -> dict[str, Any]:
    """Draws of `normal_mean` that ignore the data."""
    return {"mu": jax.random.normal(key, (N_RANKS - 1,))}


def _measured(result: RankVerdict, detail: str = "") -> bench.Measured:
    notes = "; ".join(note for note in result.notes if not note.startswith("pilot"))
    detail = f"{result.n} fits, {len(result.names)} statistics; {notes}{f'; {detail}' if detail else ''}"
    return bench.Measured(result.evidence, "<", LIMIT, REJECTS, detail, (_picture(result),))


def _picture(result: RankVerdict) -> Picture:
    bands = "bars and lines of a correct sampler stay in their bands, each of them 95 times in 100"
    n = len(result.names)
    some = f"; of {n} statistics the {MOST_PANELS} with most evidence against them" if n > MOST_PANELS else ""
    caption = f"Ranks of true values among {result.n_ranks - 1} draws, {result.subject}{some}; {bands}"
    return picture(result.plot(), caption, wide=n > 2)


@functools.cache
def _prior_sampler(seed: int, log_likelihood: bool) -> RankVerdict:
    return sbc(
        jax.random.key(seed),
        normal_mean,
        observed=("y",),
        sampler=prior_draws,
        vectorized=True,
        n_simulations=500,
        n_ranks=N_RANKS,
        batch_size=100,
        log_likelihood=log_likelihood,
    )


@bench.claim(
    "calibration: a sampler that ignores the data passes by ranks of its parameters", system=SYSTEM, quick=False
)
def prior_sampler_passes(context: bench.Context) -> bench.Measured:
    return _measured(_prior_sampler(context.seed, log_likelihood=False), "the blind spot that the next claim closes")


@bench.claim(
    "calibration: simulations until the rank of the log likelihood rejects that sampler", system=SYSTEM, quick=False
)
def prior_sampler_fails(context: bench.Context) -> bench.Measured:
    result = _prior_sampler(context.seed, log_likelihood=True)
    needed = result.n if not result.ok else np.iinfo(np.int32).max
    detail = f"log e-value {result.evidence:.1f}; the prior as sampler; {result.counterexample}"
    return bench.Measured(needed, "<=", 500, "a budget of 500", detail, (_picture(result),))


@functools.cache
def _conjugate(seed: int) -> tuple[RankVerdict, float]:
    start = time.perf_counter()
    result = sbc(jax.random.key(seed), normal_mean, observed=("y",), n_simulations=300, n_ranks=N_RANKS)
    return result, time.perf_counter() - start


@bench.claim("calibration of NUTS on a conjugate model: log e-value against it", system=SYSTEM, quick=False)
def nuts_conjugate(context: bench.Context) -> bench.Measured:
    return _measured(_conjugate(0)[0], "a normal mean, ten observations")


@bench.claim("calibration of NUTS on a conjugate model: seconds for 300 fits", system=SYSTEM, quick=False)
def nuts_conjugate_seconds(context: bench.Context) -> bench.Measured:
    result, seconds = _conjugate(0)
    detail = f"{result.n} fits and the pilot runs, compilation included"
    return bench.Measured(seconds, "<", 180.0, "three minutes", detail)


@bench.claim("calibration of NUTS on the eight schools: log e-value against it", system=SYSTEM, quick=False)
def nuts_eight_schools(context: bench.Context) -> bench.Measured:
    schools = data.eight_schools()
    result = sbc(jax.random.key(context.seed), eight_schools, schools.standard_error, effect=schools.effect)
    return _measured(result, "non-centred")


@bench.claim("calibration of NUTS given the eight schools' data: log e-value against it", system=SYSTEM, quick=False)
def nuts_given_eight_schools(context: bench.Context) -> bench.Measured:
    schools = data.eight_schools()
    result = sbc(jax.random.key(context.seed), eight_schools, schools.standard_error, effect=schools.effect, data={})
    return _measured(result, "posterior calibration, non-centred")


@bench.claim("calibration of NUTS on a logistic regression: log e-value against it", system=SYSTEM, quick=False)
def nuts_logistic(context: bench.Context) -> bench.Measured:
    table = data.breast_cancer()
    x = (table.X - table.X.mean(axis=0)) / table.X.std(axis=0)
    result = sbc(jax.random.key(context.seed), diagnosis, x[:60, :3], table.y[:60])
    return _measured(result, "breast cancer, 60 rows, 3 inputs")


@bench.claim("calibration of NUTS on counts of sunspots: log e-value against it", system=SYSTEM, quick=False)
def nuts_sunspots(context: bench.Context) -> bench.Measured:
    try:
        series = data.sunspots()
    except ImportError as error:
        raise bench.NotMeasured(str(error)) from None
    year, count = series.times[-33:], np.round(series.values[-33:]).astype(int)
    result = sbc(jax.random.key(context.seed), sunspot_counts, year, count)
    return _measured(result, "Poisson regression, yearly sunspot numbers, 33 years")
