"""Particle filters: the state of a state-space model given the observations so far, and the evidence of the series.

The steps themselves are in `filter_steps`: deterministic functions of explicit randomness, which the loop supplies from
a key.

Sources: Gordon, Salmond & Smith (1993), Novel approach to nonlinear/non-Gaussian Bayesian state estimation (bootstrap);
Doucet, Godsill & Andrieu (2000), On sequential Monte Carlo sampling methods (guided); Pitt & Shephard (1999), Filtering
via simulation: auxiliary particle filters; Carpenter, Clifford & Fearnhead (1999) (auxiliary, with the resampling
distribution free); Del Moral (2004), Feynman-Kac formulae, section 7.4 (unbiased evidence).
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree

from uqsparse.inference.evidence_error import close_lineage, extend_lineage, start_lineage
from uqsparse.inference.filter_settings import FilterSettings, Proposal, check_filter, check_quantiles
from uqsparse.inference.filter_steps import Move, Population, Row, filter_step, plan_start, plan_step, start_population
from uqsparse.inference.populations import draw_sources
from uqsparse.inference.precision import retry_after_precision_clash
from uqsparse.inference.smc_settings import typed
from uqsparse.inference.state_space import (
    Missing,
    Series,
    StateSpaceModel,
    prepare_series,
    require_fitting_rows,
    row,
)
from uqsparse.kernels import uniform, weighted_quantile


class FilterHistory(NamedTuple):
    """Every population of a run, as smoothing needs them.

    Args:
        states: pytree with leading axes (T, n).
        log_weights: normalised log weights, shape (T, n).
        ancestors: index of each particle's parent at the time before, shape (T, n); the row 0 is 0, ..., n - 1.
    """

    states: PyTree
    log_weights: Float[Array, "T n"]
    ancestors: Int[Array, "T n"]


class FilterResult(NamedTuple):
    """What a particle filter found, with the record that supports it.

    Args:
        means: means of the statistics given y_0, ..., y_t, a pytree with leading axis T.
        quantiles: quantiles of the statistics, a pytree with leading axes (T, k), or None.
        log_evidence: estimate of log p(y_0, ..., y_{T-1}); its exponential is unbiased.
        log_evidence_se: estimated standard error of it, from the genealogy of this run.
        log_evidence_increments: estimates of log p(y_t | y_0, ..., y_{t-1}), shape (T,).
        ess: effective sample size after weighting at each time, between 1 and n, shape (T,).
        resampled: whether the step to time t began with resampling, shape (T,).
        states: the last population, a pytree with leading axis n.
        log_weights: its normalised log weights, shape (n,).
        collapsed_at: first time at which all weights were zero, -1 if none. From there on the log evidence is -inf and
            the population goes on unweighted, so that nothing is NaN, but means nothing.
        invalid_at: first time at which a log density was NaN or +inf, -1 if none; such a weight counts as zero.
        history: every population, if it was asked for.
    """

    means: PyTree
    quantiles: PyTree
    log_evidence: Float[Array, ""]
    log_evidence_se: Float[Array, ""]
    log_evidence_increments: Float[Array, " T"]
    ess: Float[Array, " T"]
    resampled: Bool[Array, " T"]
    states: PyTree
    log_weights: Float[Array, " n"]
    collapsed_at: Int[Array, ""]
    invalid_at: Int[Array, ""]
    history: FilterHistory | None


def particle_filter(
    key: Array,
    model: StateSpaceModel,
    observations: PyTree,
    parameters: PyTree = None,
    inputs: PyTree = None,
    *,
    n_particles: int = 1000,
    proposal: Proposal | None = None,
    lookahead: Callable[[PyTree, PyTree, PyTree, PyTree], Float[Array, ""]] | None = None,
    resampling: Literal["systematic", "stratified", "multinomial", "residual"] = "systematic",
    ess_fraction: float = 0.5,
    missing: Missing = "error",
    statistics: Callable[[PyTree], PyTree] | None = None,
    quantiles: Sequence[float] = (),
    keep_history: bool = False,
    collapse: Literal["raise", "flag"] = "raise",
) -> FilterResult:
    """Filter a series: bootstrap by default, guided with a `proposal`, auxiliary with a `lookahead`.

    One `lax.scan`, compiled once for a model and its shapes, in the precision JAX is set to. It may be called inside
    `jit` and under `vmap` over keys, parameters or series; there problems are flagged, not raised.

    Args:
        key: random key, typed or legacy.
        model: the state-space model.
        observations: array or pytree of arrays with leading axis T.
        parameters: passed to the model's functions.
        inputs: exogenous inputs with leading axis T, or None.
        n_particles: population size n, at least 2.
        proposal: where to draw states from instead of the transition; may look at the observation.
        lookahead: `lookahead(parameters, state, inputs, observation)`, log of a guess of p(y_t | x_{t-1}), up to a
            constant, by which particles are resampled before they move.
        resampling: "systematic", "stratified", "multinomial" or "residual".
        ess_fraction: resample when the effective sample size falls below this fraction of n; 1 resamples at every
            step, 0 never.
        missing: "error" refuses NaN; "skip" takes rows that are NaN throughout as not observed.
        statistics: `statistics(state)`, a pytree of numbers of one particle whose means and quantiles are wanted; the
            state itself by default. For a discrete state `lambda k: jax.nn.one_hot(k, 3)` gives probabilities.
        quantiles: probabilities in (0, 1). Each needs the particles sorted, which costs more than the step itself.
        keep_history: keep every population, T n states; `smooth` needs it.
        collapse: "raise" an error when all weights are zero or a log density is NaN, or "flag" it in the result.

    Returns:
        A `FilterResult`.

    Raises:
        ValueError: an argument is out of range; shapes do not fit; all weights are zero at some time, for instance
            because an observation lies outside its support; a log density is NaN or +inf.

    Source: Chopin & Papaspiliopoulos (2020), An introduction to sequential Monte Carlo, algorithms 10.1 to 10.3.

    >>> import numpyro.distributions as dist
    >>> walk = StateSpaceModel(
    ...     initial=lambda parameters, inputs: dist.Normal(0.0, 1.0),
    ...     transition=lambda parameters, state, inputs: dist.Normal(state, 0.1),
    ...     observation=lambda parameters, state, inputs: dist.Normal(state, 0.5),
    ... )
    >>> result = particle_filter(jax.random.key(0), walk, jnp.array([0.1, -0.2, 0.3]))
    >>> result.means.shape, bool(result.log_evidence_se < 0.1)
    ((3,), True)
    """
    settings = check_filter(n_particles, resampling, ess_fraction, proposal, lookahead)
    probabilities = check_quantiles(quantiles)
    if collapse not in ("raise", "flag"):
        raise ValueError(f"collapse must be 'raise' or 'flag', got {collapse!r}")
    series = prepare_series(observations, inputs, missing)
    arguments = (typed(key), model, jax.tree.map(jnp.asarray, parameters), series, settings, statistics, probabilities)
    # A model may close over NumPy arrays, and have been run in the other precision before.
    result = retry_after_precision_clash(lambda: _run(*arguments, keep_history))
    if collapse == "raise" and not isinstance(result.collapsed_at, Tracer):
        error = failure(int(result.invalid_at), int(result.collapsed_at), observations)
        if error is not None:
            raise error
    return result


@eqx.filter_jit
def _run(key, model, parameters, series, settings, statistics, probabilities, keep_history) -> FilterResult:
    return run_filter(key, model, parameters, series, settings, statistics, probabilities, keep_history)


def run_filter(
    key: Array,
    model: StateSpaceModel,
    parameters: PyTree,
    series: Series,
    settings: FilterSettings,
    statistics: Callable[[PyTree], PyTree] | None = None,
    probabilities: tuple[float, ...] = (),
    keep_history: bool = False,
) -> FilterResult:
    """The filter as a traceable function, for use inside other programs; arguments are not checked."""
    n = settings.n_particles
    rows = Row(series.observations, series.missing, series.inputs)
    key_first, key_rest = jax.random.split(key)

    first = row(rows, 0)
    population, move = start_population(
        model, parameters, first, settings, draw_sources(key_first, plan_start(model, parameters, first, settings), n)
    )
    require_fitting_rows(model, parameters, row(population.states, 0), series)
    plan = plan_step(model, parameters, row(population.states, 0), first, settings)

    def summarise(population: Population, move: Move):
        values = population.states if statistics is None else jax.vmap(statistics)(population.states)
        means = jax.tree.map(lambda x: jnp.tensordot(population.weights, x.astype(float), 1), values)
        bands = None
        if probabilities:
            bands = population_quantiles(values, population.weights, probabilities)
        kept = None
        if keep_history:
            kept = FilterHistory(population.states, population.log_weights, move.ancestors)
        return means, bands, kept, (move.increment, move.ess, move.resampled, move.is_valid)

    def supply(key):
        key_resample, key_move = jax.random.split(key)
        return uniform(key_resample, settings.scheme.uniforms(n)), draw_sources(key_move, plan, n)

    def body(carry, x):
        population, lineage, (uniforms, sources) = carry
        t, next_key, now = x
        before = population.weights
        population, move = filter_step(model, parameters, population, now, settings, uniforms, sources)
        lineage = extend_lineage(lineage, t, before, move.ancestors, move.resampled, population.weights, settings)
        # One step ahead: carried noise is not fused with the step, whose lookups would keep its loop from vectorising.
        return (population, lineage, supply(next_key)), summarise(population, move)

    later = jax.tree.map(lambda x: x[1:], rows)
    keys = jax.random.split(key_rest, series.n_steps)
    steps = (jnp.arange(1, series.n_steps), keys[1:], later)
    start = (population, start_lineage(n), supply(keys[0]))
    (last, lineage, _), rest = jax.lax.scan(body, start, steps)
    means, bands, kept, record = jax.tree.map(
        lambda x, xs: jnp.concatenate([x[None], xs]), summarise(population, move), rest
    )
    increments, ess, resampled, is_valid = record
    return FilterResult(
        means=means,
        quantiles=bands,
        log_evidence=jnp.sum(increments),
        log_evidence_se=jnp.sqrt(close_lineage(lineage, last.weights)),
        log_evidence_increments=increments,
        ess=ess,
        resampled=resampled,
        states=last.states,
        log_weights=last.log_weights,
        collapsed_at=_first(increments == -jnp.inf),
        invalid_at=_first(~is_valid),
        history=kept,
    )


def population_quantiles(values: PyTree, weights: Float[Array, " n"], probabilities: tuple[float, ...]) -> PyTree:
    """Quantiles of each number of a population, a pytree with leading axis n; the result's is that of probabilities."""
    wanted = jnp.asarray(probabilities)

    def each(x):
        flat = x.astype(float).reshape(x.shape[0], -1)
        found = jax.vmap(weighted_quantile, (1, None, None), 1)(flat, weights, wanted)
        return found.reshape(len(probabilities), *x.shape[1:])

    return jax.tree.map(each, values)


def _first(flags):
    return jnp.where(jnp.any(flags), jnp.argmax(flags), -1)


def failure(invalid_at: int, collapsed_at: int, observations: PyTree) -> ValueError | None:
    """The error of a run that collapsed or met a log density that is no number, naming time and observation."""

    def describe(t: int) -> str:
        return f"t = {t}, observation {row(jax.tree.map(np.asarray, observations), t)}"

    if invalid_at >= 0:
        return ValueError(f"a log density is NaN or +inf at {describe(invalid_at)}: check the model's parameters there")
    if collapsed_at >= 0:
        return ValueError(
            f"all weights are zero at {describe(collapsed_at)}: it lies outside the support of every particle's "
            "observation distribution, or too far from all of them; check it, raise n_particles or use a proposal"
        )
    return None
