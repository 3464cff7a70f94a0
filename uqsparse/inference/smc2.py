"""SMC^2: parameters and states of a state-space model learned together, one observation after the other.

A cloud of weighted parameters, each with a particle filter of its own. Every observation weighs the parameters by what
their filters say of it; when few of them are left, they are resampled with their filters and moved by PMMH steps. On
the way come the evidence of the series and what was known of the parameters at each time.

Source: Chopin, Jacob & Papaspiliopoulos (2013), SMC^2: an efficient algorithm for sequential analysis of state space
models.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from uqsparse.inference.filter_settings import Proposal, check_filter
from uqsparse.inference.likelihood_noise import MOST_NOISE, ideal_acceptance
from uqsparse.inference.moves import MoveParams, RandomWalk, fit_params
from uqsparse.inference.parameter_prior import parameter_target
from uqsparse.inference.particle_filter import failure
from uqsparse.inference.precision import copy_arrays, retry_after_precision_clash
from uqsparse.inference.progress import advance_bar, progress_bar
from uqsparse.inference.smc2_cloud import Cloud, Problem, Reading, absorb, constrained, start
from uqsparse.inference.smc2_moves import exchange, paired_runs, rejuvenate
from uqsparse.inference.smc2_result import SMC2Result
from uqsparse.inference.smc_settings import typed
from uqsparse.inference.state_space import Missing, StateSpaceModel, prepare_series, row
from uqsparse.kernels import effective_sample_size
from uqsparse.kernels.arguments import require_count, require_fraction

# Standard deviation of the filters' log evidence above which they get more particles. Lower than what PMMH bears, since
# the weights of the exchange scatter by old and new noise together.
EXCHANGE_NOISE = 1.0


def smc2(
    key: Array,
    model: StateSpaceModel,
    observations: PyTree,
    inputs: PyTree = None,
    *,
    n_parameters: int = 500,
    n_particles: int = 100,
    parameter_ess_fraction: float = 0.5,
    n_moves: int = 5,
    max_particles: int | None = None,
    proposal: Proposal | None = None,
    lookahead: Callable[[PyTree, PyTree, PyTree, PyTree], Float[Array, ""]] | None = None,
    resampling: Literal["systematic", "stratified", "multinomial", "residual"] = "systematic",
    ess_fraction: float = 0.5,
    missing: Missing = "error",
    progress: bool = False,
) -> SMC2Result:
    """Learn parameters and states of a state-space model online, with the evidence of the series.

    Runs in double precision whatever JAX's flag says. The filters get more particles when their log evidence has become
    so noisy that moves would stick: that noise is measured before each sweep of moves, at parameters of the cloud.

    Args:
        key: random key, typed or legacy.
        model: the model, with a `prior`. Transitions need no density unless a `proposal` is given.
        observations: array or pytree of arrays with leading axis T.
        inputs: exogenous inputs with leading axis T, or None.
        n_parameters: parameters m in the cloud, at least 2. Many times their dimension.
        n_particles: population size of each filter at the start, at least 2.
        parameter_ess_fraction: move the parameters when their effective sample size falls below this fraction of m, in
            (0, 1).
        n_moves: PMMH steps of a sweep, at least 1. Each runs m filters through all observations so far.
        max_particles: most particles a filter may get; 16 times `n_particles` by default. Each doubling recompiles.
        proposal: where to draw states from instead of the transition.
        lookahead: see `particle_filter`.
        resampling: "systematic", "stratified", "multinomial" or "residual", of the filters.
        ess_fraction: a filter resamples when its effective sample size falls below this fraction of n_particles.
        missing: "error" refuses NaN; "skip" takes rows that are NaN throughout as not observed.
        progress: show a bar.

    Returns:
        An `SMC2Result`: equally weighted draws given the whole series, the log evidence with its standard error, and
        means and standard deviations of parameters and states after each observation.

    Raises:
        ValueError: an argument is out of range, the model has no prior, shapes do not fit, no parameters of the cloud
            explain an observation, or a log density is NaN or +inf.

    Warns:
        UserWarning: if the parameters became too few to be moved, or the filters too noisy at `max_particles`.

    Source: Chopin, Jacob & Papaspiliopoulos (2013), section 3.2 and, for the number of particles, section 3.6.
    """
    settings = check_filter(n_particles, resampling, ess_fraction, proposal, lookahead)
    require_count("n_parameters", n_parameters, 2)
    require_count("n_moves", n_moves, 1)
    require_fraction("parameter_ess_fraction", parameter_ess_fraction)
    max_particles = 16 * n_particles if max_particles is None else max_particles
    require_count("max_particles", max_particles, n_particles)
    target = parameter_target(model)
    key = typed(key)
    choices = _Choices(n_parameters, parameter_ess_fraction * n_parameters, n_moves, int(max_particles))

    def learn() -> SMC2Result:
        series = prepare_series(*copy_arrays((observations, inputs)), missing)
        with progress_bar(progress, "SMC^2", series.n_steps):
            return _learn(key, Problem(model, target, series, settings), choices, observations)

    with jax.enable_x64(True):
        result = retry_after_precision_clash(learn)
    _warn_about(result, target.dim)
    return result


class _Choices(NamedTuple):
    """How a run goes about its parameters."""

    n_parameters: int
    least_ess: float
    n_moves: int
    max_particles: int


class _Sweep(NamedTuple):
    """A sweep of moves after the observation at `t`: what led to it and how it went."""

    t: int
    log_evidence_sd: float
    ess: float
    acceptance: float


def _learn(key: Array, problem: Problem, choices: _Choices, observations: PyTree) -> SMC2Result:
    """Absorb stretches of observations and rejuvenate the parameters, in turns."""
    key, key_start = jax.random.split(key)
    n_steps, dim = problem.series.n_steps, problem.target.dim
    cloud, first = start(key_start, problem, choices.n_parameters)
    record = [jax.tree.map(lambda x: np.asarray(x)[None], first)]
    n_particles, sweeps = [problem.settings.n_particles], []
    log_scale = jnp.asarray(RandomWalk().initial_log_scale(dim), float)
    t = 0
    while True:
        _raise_on_failure(record[-1], t, problem, observations)
        is_last = t == n_steps - 1
        if is_last:
            variance = _evidence_variance(cloud)
        if is_last or record[-1].ess[-1] < choices.least_ess:
            key, key_size, key_move = jax.random.split(key, 3)
            problem, cloud, noise = _suit_filters(key_size, problem, cloud, t, choices.max_particles, is_last)
            ess = float(effective_sample_size(jnp.exp(cloud.log_weights)))
            params = _fit(cloud, log_scale)
            cloud, info = rejuvenate(key_move, problem, cloud, jnp.asarray(t), params, choices.n_moves)
            if info.has_nan:
                raise _not_a_number(problem, info.nan_at, f"y_0, ..., y_{t}")
            log_scale = RandomWalk(ideal_acceptance(dim, noise)).tune(params, info.acceptance).log_scale
            sweeps.append(_Sweep(t, noise, ess, float(info.acceptance)))
        note = f"{problem.settings.n_particles} particles"
        advance_bar(t + 1, f"{note}, acceptance {sweeps[-1].acceptance:.2f}" if sweeps else note)
        if is_last:
            break
        key, key_step = jax.random.split(key)
        cloud, rows, n_done = absorb(key_step, problem, cloud, jnp.asarray(t + 1), jnp.asarray(choices.least_ess))
        record.append(row(jax.device_get(rows), slice(int(n_done))))
        n_particles += int(n_done) * [problem.settings.n_particles]
        t += int(n_done)

    samples = jax.device_get(constrained(problem, cloud))
    return _collect(samples, record, n_particles, sweeps, variance, dim, observations)


def _fit(cloud: Cloud, log_scale: Array) -> MoveParams:
    """The random walk with the shape of the cloud: standard deviations only where parameters are few."""
    m, dim = cloud.position.shape
    spread = jnp.eye(dim) if m >= 5 * dim else jnp.ones(dim)
    return fit_params(MoveParams(log_scale, jnp.zeros(dim), spread), cloud.position, jnp.exp(cloud.log_weights))


def _suit_filters(
    key: Array, problem: Problem, cloud: Cloud, t: int, max_particles: int, is_last: bool
) -> tuple[Problem, Cloud, float]:
    """Measure the noise of the filters' log evidence, and give them more particles if it is high.

    Returns:
        Problem and cloud, and the noise: measured, or what more particles should have left of it.
    """
    key_pairs, key_exchange = jax.random.split(key)
    now = jnp.asarray(t)
    pairs = np.asarray(paired_runs(key_pairs, problem, cloud, now))
    # A pair of which both collapsed tells nothing less than that the noise is infinite.
    gaps = np.where(np.isfinite(pairs).all(axis=1), np.abs(np.diff(np.nan_to_num(pairs), axis=1)[:, 0]), np.inf)
    noise = float(np.median(gaps)) / (0.6745 * math.sqrt(2))
    n = problem.settings.n_particles
    # No weights to come will scatter after the last observation; moves alone bear more.
    if noise <= (MOST_NOISE if is_last else EXCHANGE_NOISE) or n == max_particles:
        return problem, cloud, noise
    doublings = math.ceil(2 * math.log2(noise / EXCHANGE_NOISE)) if math.isfinite(noise) else 2
    larger = min(n * 2**doublings, max_particles)
    problem = Problem(problem.model, problem.target, problem.series, problem.settings._replace(n_particles=larger))
    cloud, is_valid = exchange(key_exchange, problem, cloud, now)
    if not is_valid:
        raise ValueError(
            f"no filter of {larger} particles explains y_0, ..., y_{t}: raise n_particles or use a proposal"
        )
    return problem, cloud, noise * math.sqrt(n / larger)


def _evidence_variance(cloud: Cloud) -> float:
    """Relative variance of the evidence: spread of the mass that descends from each of the first parameters.

    Source: Lee & Whiteley (2018), Variance estimation in the particle filter, eq. 10.
    """
    weights, roots = np.exp(np.asarray(cloud.log_weights)), np.asarray(cloud.roots)
    m = len(weights)
    mass = np.bincount(roots, weights, m)
    own = np.sum(weights**2) - 1 / m
    return float(max(np.sum(mass**2) - 1 / m - float(cloud.rounding), own, 0.0))


def _raise_on_failure(record: Reading, t: int, problem: Problem, observations: PyTree) -> None:
    if record.has_nan[-1]:
        raise _not_a_number(problem, record.nan_at[-1], f"t = {t}")
    if record.increment[-1] == -np.inf:
        error = failure(-1, t, observations)
        assert error is not None
        raise error


def _not_a_number(problem: Problem, position: Array, where: str) -> ValueError:
    values = jax.tree.map(lambda x: np.asarray(x).tolist(), problem.target.constrain(jnp.asarray(position)))
    return ValueError(f"a log density is NaN or +inf at {where} for parameters {values}: check the model there")


def _collect(
    samples: dict[str, np.ndarray],
    record: list[Reading],
    n_particles: list[int],
    sweeps: list[_Sweep],
    variance: float,
    dim: int,
    observations: PyTree,
) -> SMC2Result:
    whole: Any = jax.tree.map(lambda *xs: np.concatenate(xs), *record)
    t, noise, ess, acceptance = (np.array(column) for column in zip(*sweeps, strict=True))
    return SMC2Result(
        samples=samples,
        log_evidence=float(np.sum(whole.increment)),
        log_evidence_se=math.sqrt(variance),
        log_evidence_increments=whole.increment,
        parameter_means=whole.parameter_means,
        parameter_sds=whole.parameter_sds,
        state_means=whole.state_means,
        state_sds=whole.state_sds,
        ess=whole.ess,
        n_particles=np.array(n_particles),
        moved_at=t,
        acceptance=acceptance,
        log_evidence_sd=noise,
        ess_moved=ess,
        converged=bool(ess.min() >= _fewest(dim) and noise[-1] <= MOST_NOISE),
        observations=observations,
    )


def _fewest(dim: int) -> int:
    """Effective parameters that a covariance of moves wants at the least."""
    return max(10, 2 * dim)


def _warn_about(result: SMC2Result, dim: int) -> None:
    worst = int(np.argmin(result.ess_moved))
    if result.ess_moved[worst] < _fewest(dim):
        warnings.warn(
            f"only {result.ess_moved[worst]:.1f} effective parameters were left after t = {result.moved_at[worst]}: "
            "raise n_parameters, tighten the prior, or begin with more n_particles",
            stacklevel=3,
        )
    if result.log_evidence_sd[-1] > MOST_NOISE:
        warnings.warn(
            f"the filters' log evidence has a standard deviation of {result.log_evidence_sd[-1]:.2g} even with "
            "max_particles: moves stick; raise it or use a proposal",
            stacklevel=3,
        )
