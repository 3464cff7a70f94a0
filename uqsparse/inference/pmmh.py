"""Particle marginal Metropolis-Hastings: parameters by a random walk whose likelihood a particle filter estimates.

The chain moves on parameters together with their estimate: a proposal brings its own, and the estimate of the present
state is kept until a proposal is accepted, never computed anew. Because the estimates are unbiased, the parameters
follow their exact posterior at any number of particles; that number only decides how well the chain moves.

Source: Andrieu, Doucet & Holenstein (2010), Particle Markov chain Monte Carlo methods, section 4.4.
"""

import itertools
import math
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from uqsparse.inference.filter_settings import FilterSettings, Proposal, check_filter
from uqsparse.inference.likelihood_noise import MOST_NOISE, advised_n_particles, describe_noise, ideal_acceptance
from uqsparse.inference.moves import MoveInfo, MoveParams, MoveState, RandomWalk, fit_params
from uqsparse.inference.parameter_prior import N_FILTERS, Starts, choose_starts, estimate, parameter_target, run_filters
from uqsparse.inference.particle_mcmc_io import draws_to_arviz
from uqsparse.inference.precision import copy_arrays, retry_after_precision_clash
from uqsparse.inference.progress import advance_bar, progress_bar
from uqsparse.inference.smc_settings import typed
from uqsparse.inference.state_space import Missing, Series, StateSpaceModel, prepare_series, row
from uqsparse.inference.targets import TemperedTarget
from uqsparse.kernels.arguments import require_count

# Draws of one compiled call: the bar moves between calls, and the warm-up adapts between them.
CHUNK = 50
# Ends of the windows of the warm-up, as fractions of it.
WINDOWS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
# A chain that stays at one state for this share of its draws is warned about.
LONGEST_STAY = 0.25


def pmmh(
    key: Array,
    model: StateSpaceModel,
    observations: PyTree,
    inputs: PyTree = None,
    *,
    n_particles: int = 200,
    n_warmup: int = 500,
    n_samples: int = 1000,
    n_chains: int = 4,
    proposal: Proposal | None = None,
    lookahead: Callable[[PyTree, PyTree, PyTree, PyTree], Float[Array, ""]] | None = None,
    resampling: Literal["systematic", "stratified", "multinomial", "residual"] = "systematic",
    ess_fraction: float = 0.5,
    missing: Missing = "error",
    keep_states: bool = True,
    progress: bool = False,
) -> Any:
    """Sample parameters and states of a state-space model by PMMH, the chains as one vectorised program.

    Runs in double precision whatever JAX's flag says. Transitions need no density unless a `proposal` is given. The
    warm-up fits the random walk to the draws of all chains, in windows of growing length, and then leaves it alone.

    Args:
        key: random key, typed or legacy.
        model: the model, with a `prior`.
        observations: array or pytree of arrays with leading axis T.
        inputs: exogenous inputs with leading axis T, or None.
        n_particles: population size of the filters, at least 2. The result says what would suit.
        n_warmup: draws for adaptation, at least 1; not kept.
        n_samples: draws kept per chain, at least 1.
        n_chains: chains, at least 1.
        proposal: where to draw states from instead of the transition.
        lookahead: see `particle_filter`.
        resampling: "systematic", "stratified", "multinomial" or "residual".
        ess_fraction: resample when the effective sample size falls below this fraction of n_particles.
        missing: "error" refuses NaN; "skip" takes rows that are NaN throughout as not observed.
        keep_states: keep the path of every draw, chains * draws * T states.
        progress: show a bar.

    Returns:
        ArviZ data: `posterior` with the parameters and `states` (chain, draw, T, ...); `sample_stats` with `accepted`,
        `acceptance_rate` (mean over the chains), `log_evidence` (the estimate that belongs to the draw) and `lp` (with
        the prior, in unconstrained coordinates); `observed_data`. The attributes hold `log_evidence_sd`, the standard
        deviation of the estimate at the posterior mean, `advised_n_particles` and `advice`, what follows from it, and
        `longest_stay`, the most draws in a row that a chain stayed where it was.

    Raises:
        ValueError: an argument is out of range, the model has no prior, shapes do not fit, no parameters drawn from
            the prior give the observations a positive likelihood, or a log density is NaN or +inf. A filter that
            collapses is no error: its parameters are rejected.

    Warns:
        UserWarning: if that standard deviation is above 1.7, or a chain stuck for a quarter of its draws.

    Source: Andrieu, Doucet & Holenstein (2010), section 2.4.2.
    """
    started = time.perf_counter()
    settings = check_filter(n_particles, resampling, ess_fraction, proposal, lookahead)
    for name, value in (("n_warmup", n_warmup), ("n_samples", n_samples), ("n_chains", n_chains)):
        require_count(name, value, 1)
    target = parameter_target(model)
    key = typed(key)

    def sample() -> tuple["_Draws", float]:
        series = prepare_series(*copy_arrays((observations, inputs)), missing)
        key_start, key_warm, key_run, key_noise = jax.random.split(key, 4)
        problem = PMMHProblem(model, target, series, settings, keep_states)
        starts = choose_starts(key_start, model, target, series, settings, n_chains, keep_states)
        with progress_bar(progress, "PMMH", n_warmup + n_samples):
            state, params = _warm_up(key_warm, problem, starts, n_warmup)
            _, draws = _run(key_run, problem, state, params, n_samples, n_warmup, "sampling")
            centre = draws.position.mean(axis=(0, 1))
            return draws, _noise(key_noise, problem, centre)

    with jax.enable_x64(True):
        draws, noise = retry_after_precision_clash(sample)
    # From (draw, chain, ...) to (chain, draw, ...).
    draws = jax.tree.map(lambda x: np.swapaxes(x, 0, 1), draws)
    stay = _longest_stay(draws.accepted)
    attributes = {
        "algorithm": "PMMH",
        "n_particles": n_particles,
        "n_warmup": n_warmup,
        "log_evidence_sd": noise,
        "advised_n_particles": advised_n_particles(n_particles, noise),
        "advice": describe_noise(n_particles, noise),
        "longest_stay": stay,
        "seconds": time.perf_counter() - started,
    }
    _warn_about(n_particles, noise, stay, n_samples)
    names = ("accepted", "acceptance_rate", "log_evidence", "lp")
    stats = {name: getattr(draws, name) for name in names}
    return draws_to_arviz(draws.parameters, draws.path, stats, observations, attributes)


class _Draws(NamedTuple):
    """Draws with leading axes (draw, chain)."""

    position: Float[Array, "draw chain d"]
    parameters: dict[str, Array]
    path: PyTree
    log_evidence: Float[Array, "draw chain"]
    lp: Float[Array, "draw chain"]
    accepted: Array
    acceptance_rate: Float[Array, "draw chain"]
    has_nan: Array
    nan_at: Float[Array, "draw chain d"]


class PMMHProblem(eqx.Module):
    """The model with its data, and the estimated density of its parameters."""

    model: StateSpaceModel
    target: TemperedTarget
    series: Series
    settings: FilterSettings = eqx.field(static=True)
    keep_states: bool = eqx.field(static=True)

    def log_density(self, key: Array, position: Array):
        """Log prior plus estimated log evidence of each chain, with the estimates as what travels along."""

        def one(key, position):
            return estimate(key, self.model, self.target, position, self.series, self.settings, self.keep_states)

        found = jax.vmap(one)(jax.random.split(key, position.shape[0]), position)
        return self.combine(position, found), found

    def combine(self, position: Array, found) -> Array:
        log_prior = jax.vmap(self.target.log_density)(position)
        total = jnp.where(found.invalid_at >= 0, jnp.nan, log_prior + found.log_evidence)
        # Where the prior is zero nothing else matters.
        return jnp.where(log_prior == -jnp.inf, -jnp.inf, total)


def step(key: Array, problem: PMMHProblem, before: MoveState, params: MoveParams) -> tuple[MoveState, MoveInfo]:
    """Move every chain once; a proposal brings its own estimate, in the extras of the state."""
    key_move, key_filter = jax.random.split(key)
    return RandomWalk().step(key_move, before, lambda position: problem.log_density(key_filter, position), params)


@eqx.filter_jit
def _chunk(key, problem: PMMHProblem, state: MoveState, params: MoveParams, length):
    """Make `length` steps, at most CHUNK; other lengths need no other program."""

    def describe(before: MoveState, after: MoveState, info: MoveInfo) -> _Draws:
        n_chains = after.position.shape[0]
        return _Draws(
            position=after.position,
            parameters=jax.vmap(problem.target.constrain)(after.position),
            path=after.extras.path,
            log_evidence=after.extras.log_evidence,
            lp=after.log_density,
            accepted=jnp.any(after.position != before.position, axis=-1),
            acceptance_rate=jnp.full(n_chains, info.acceptance),
            has_nan=jnp.full(n_chains, info.has_nan),
            nan_at=jnp.broadcast_to(info.nan_at, after.position.shape),
        )

    no_info = MoveInfo(jnp.zeros(()), jnp.zeros((), bool), state.position[0])
    shapes = jax.eval_shape(describe, state, state, no_info)
    kept = jax.tree.map(lambda x: jnp.zeros((CHUNK, *x.shape), x.dtype), shapes)

    def body(i, carry):
        state, kept = carry
        after, info = step(jax.random.fold_in(key, i), problem, state, params)
        one = describe(state, after, info)
        return after, jax.tree.map(lambda rows, x: rows.at[i].set(x), kept, one)

    return jax.lax.fori_loop(0, length, body, (state, kept))


def _run(
    key: Array, problem: PMMHProblem, state: MoveState, params: MoveParams, n_draws: int, done: int, note: str
) -> tuple[MoveState, _Draws]:
    """Draw chunk by chunk.

    Raises:
        ValueError: a log density was NaN or +inf at a proposal.
    """
    records = []
    for begin in range(0, n_draws, CHUNK):
        length = min(CHUNK, n_draws - begin)
        state, record = _chunk(jax.random.fold_in(key, begin), problem, state, params, jnp.asarray(length))
        record = row(jax.device_get(record), slice(length))
        if np.any(record.has_nan):
            worst = record.nan_at[np.nonzero(record.has_nan)][0]
            values = jax.tree.map(lambda x: np.asarray(x).tolist(), problem.target.constrain(jnp.asarray(worst)))
            raise ValueError(f"a log density is NaN or +inf for parameters {values}: check the model there")
        records.append(record)
        advance_bar(done + begin + length, f"{note}, acceptance {record.acceptance_rate.mean():.2f}")
    return state, jax.tree.map(lambda *xs: np.concatenate(xs), *records)


def _warm_up(key: Array, problem: PMMHProblem, starts: Starts, n_warmup: int) -> tuple[MoveState, MoveParams]:
    """Run the windows of the warm-up, fitting the random walk after each."""
    dim = problem.target.dim
    state, params = _start(problem, starts)
    ends = sorted({math.ceil(n_warmup * fraction) for fraction in WINDOWS})
    for i, (begin, end) in enumerate(itertools.pairwise([0, *ends])):
        key_run, key_noise = jax.random.split(jax.random.fold_in(key, i))
        state, draws = _run(key_run, problem, state, params, end - begin, begin, "warm-up")
        noise = _noise(key_noise, problem, draws.position.mean(axis=(0, 1)))
        params = _refit(params, draws, ideal_acceptance(dim, noise))
    return state, params


@eqx.filter_jit
def _start(problem: PMMHProblem, starts: Starts) -> tuple[MoveState, MoveParams]:
    log_scale = jnp.asarray(RandomWalk().initial_log_scale(problem.target.dim), float)
    params = MoveParams(log_scale, jnp.mean(starts.position, axis=0), jnp.diag(starts.spread))
    return MoveState(starts.position, problem.combine(starts.position, starts.estimate), starts.estimate, ()), params


def _refit(params: MoveParams, draws: _Draws, acceptance: float) -> MoveParams:
    """Give the random walk the shape of a window's draws, and the step size that its acceptance asks for."""
    position = draws.position.reshape(-1, draws.position.shape[-1])
    params = RandomWalk(acceptance).tune(params, jnp.asarray(draws.acceptance_rate.mean()))
    if len(np.unique(position, axis=0)) < 5 * position.shape[1]:
        return params
    fitted = fit_params(params, jnp.asarray(position), jnp.ones(len(position)))
    # Acceptance has told about the size that steps had, so that a new shape must not change it.
    growth = np.mean(np.log(np.diagonal(fitted.spread)) - np.log(np.diagonal(params.spread)))
    return fitted._replace(log_scale=params.log_scale - growth)


def _noise(key: Array, problem: PMMHProblem, position: Any) -> float:
    """Standard deviation of the log evidence at one point; infinite if a filter collapses there."""
    positions = jnp.broadcast_to(jnp.asarray(position), (N_FILTERS, position.size))
    p = problem
    found = run_filters(key, p.model, p.target, positions, p.series, p.settings, p.keep_states).log_evidence
    return float(jnp.std(found, ddof=1)) if jnp.all(jnp.isfinite(found)) else math.inf


def _longest_stay(accepted: np.ndarray) -> int:
    """Most draws in a row without a change, over all chains (rows)."""
    longest = 0
    for chain in accepted:
        changes = np.flatnonzero(chain)
        longest = max(longest, int(np.max(np.diff(changes, prepend=-1, append=len(chain)) - 1)))
    return longest


def _warn_about(n_particles: int, noise: float, stay: int, n_samples: int) -> None:
    if noise > MOST_NOISE:
        warnings.warn(f"{describe_noise(n_particles, noise)} or use a proposal", stacklevel=3)
    elif stay > max(LONGEST_STAY * n_samples, CHUNK):
        warnings.warn(
            f"a chain stayed at one state for {stay} of its {n_samples} draws: its log evidence came out too high "
            "there; raise n_particles or use a proposal, and check the prior's tails",
            stacklevel=3,
        )
