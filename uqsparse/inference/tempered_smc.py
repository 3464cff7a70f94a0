"""Tempered sequential Monte Carlo: from prior draws to posterior draws, with the evidence on the way.

The whole run is one compiled loop. Each round picks the next temperature, reweights, resamples and moves:

    temperature  the largest step that keeps the conditional effective sample size above a fraction of n
    reweight     the evidence gains the mean of likelihood ** step
    resample     systematically, to equal weights
    move         a sweep of Markov steps that leave the new tempered density invariant

Sources: Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers; Jasra, Stephens, Doucet & Tsagaris (2011),
Inference for Levy-driven stochastic volatility models via adaptive SMC; Zhou, Johansen & Aston (2016), Toward automatic
model comparison (conditional ESS); Dau & Chopin (2022), Waste-free sequential Monte Carlo.
"""

import math
import warnings
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from uqsparse.inference.batches import in_batches
from uqsparse.inference.moves import Move, MoveParams, RandomWalk, fit_params
from uqsparse.inference.precision import retry_after_precision_clash
from uqsparse.inference.progress import advance_bar, progress_bar
from uqsparse.inference.smc_result import FrozenLadder, SMCResult, collect_result
from uqsparse.inference.smc_settings import Moves, Schedule, Settings, check_ladder, check_settings, typed
from uqsparse.inference.smc_sweep import Particles, sweep
from uqsparse.inference.targets import TemperedTarget
from uqsparse.kernels import conditional_effective_sample_size, effective_sample_size, systematic

FIRST_MOVES = 10  # of the "acceptance" rule, before any acceptance is known


def tempered_smc(
    key: Array,
    target: TemperedTarget,
    n_particles: int = 1000,
    move: Move = RandomWalk(),  # noqa: B008 - frozen record
    ess_fraction: float = 0.5,
    n_moves: Moves = 10,
    waste_free: bool = False,
    ladder: Float[Array, " steps"] | FrozenLadder | None = None,
    progress: bool = False,
    n_replicates: int = 1,
    max_moves: int = 100,
    max_temperatures: int = 200,
    batch_size: int = 4096,
) -> SMCResult:
    """Sample a posterior by tempered sequential Monte Carlo and estimate its evidence.

    Runs in double precision whatever JAX's flag says, compiles once for a model and its shapes, and returns NumPy
    arrays. With the same key the result is the same.

    Args:
        key: random key, typed or legacy.
        target: prior and likelihood, e.g. `TemperedTarget.from_numpyro(model, *args)`.
        n_particles: population size n, at least 2.
        move: `RandomWalk()`, `IndependentProposal()`, `HMC()` or any other move.
        ess_fraction: conditional effective sample size to keep at each temperature step, relative to the particles
            of positive likelihood, in (0, 1).
        n_moves: Markov steps in a sweep. `"acceptance"` takes as many as the previous sweep's acceptance makes
            necessary for 99 % of the particles to have moved; `"displacement"` goes on until a step adds less than
            5 % to the mean Mahalanobis distance from the start. Both stop at `max_moves`.
        waste_free: resample n / n_moves particles and keep every state of their chains of length `n_moves` (Dau &
            Chopin 2022). Pays where the moves mix well.
        ladder: temperatures to use instead of adapting them, increasing, the last one 1; or `freeze_ladder(result)`,
            which fixes the moves' parameters too and makes the evidence estimate unbiased.
        progress: show a bar.
        n_replicates: independent runs; their spread gives the error of the evidence, and they become the chains of
            `to_arviz()`. Four or more are advised when they are affordable.
        max_moves: limit of the two adaptive rules for `n_moves`.
        max_temperatures: limit on the number of rounds; reaching it is reported as not converged. The parameters of
            the moves are kept for each round, which takes 8 d^2 max_temperatures bytes.
        batch_size: most particles whose density is evaluated at once; bounds memory.

    Returns:
        An `SMCResult`: equally weighted particles moved under the posterior, the log evidence with its standard
        error, and the record of every round.

    Raises:
        ValueError: if an argument is out of range, if no particle has positive likelihood, or if a log density is
            NaN (naming the site).

    Warns:
        UserWarning: if the run did not reach temperature 1, or if the particles were too few for a full covariance.

    Source: Del Moral, Doucet & Jasra (2006), algorithm of section 3.1.1 with the backward kernel of section 3.3.2.3.

    >>> from jax.scipy.stats import norm
    >>> target = TemperedTarget(lambda u: norm.logpdf(u[0]), lambda u: norm.logpdf(1.0, u[0]),
    ...                         lambda key, n: jax.random.normal(key, (n, 1)), dim=1)
    >>> result = tempered_smc(jax.random.key(0), target, n_particles=500)
    >>> abs(result.log_evidence - float(norm.logpdf(1.0, 0.0, 2**0.5))) < 0.2
    True
    """
    key = typed(key)
    frozen = ladder if isinstance(ladder, FrozenLadder) else None
    settings = Settings(
        n_particles,
        n_moves,
        waste_free,
        max_moves,
        max_temperatures,
        batch_size,
        progress,
        spread_is_full=True,
    )
    check_settings(settings, ess_fraction, n_replicates)
    dim = target.dim
    if n_particles < 5 * dim:
        settings = settings._replace(spread_is_full=False)
        warnings.warn(
            f"{n_particles} particles are too few for a covariance in {dim} dimensions; the moves use standard "
            f"deviations only (a full covariance wants at least {5 * dim})",
            stacklevel=2,
        )
    temperatures = None if ladder is None else check_ladder(frozen.temperatures if frozen else ladder)
    if temperatures is not None:
        settings = settings._replace(max_temperatures=len(temperatures))
    if frozen is not None:
        frozen.check_fits(dim, settings.spread_is_full)

    with jax.enable_x64(True), progress_bar(progress, "tempered SMC", n_replicates):
        schedule = Schedule(
            jnp.asarray(ess_fraction), None if temperatures is None else jnp.asarray(temperatures), frozen
        )
        keys = jax.random.split(key, n_replicates)
        history = jax.device_get(
            retry_after_precision_clash(lambda: _run_replicates(keys, target, move, schedule, settings))
        )
        _raise_on_failure(history, target)
    return collect_result(history, target)


class Round(NamedTuple):
    """What one round did; in the history each field has a leading axis of rounds."""

    temperature: Float[Array, ""]
    ess: Float[Array, ""]
    acceptance: Float[Array, ""]
    n_moves: Array
    n_unique: Array  # distinct ancestors after resampling
    jump: Float[Array, ""]  # mean squared Mahalanobis distance that a sweep moved a particle
    params: MoveParams


class State(NamedTuple):
    """All that the loop carries."""

    key: Array
    particles: Particles
    temperature: Float[Array, ""]
    log_evidence: Float[Array, ""]
    variance: Float[Array, ""]  # estimate of the relative variance of the evidence
    genealogy: "Genealogy"
    params: MoveParams
    acceptance: Float[Array, ""]
    n_rounds: Array
    history: Round
    has_nan: Array
    nan_at: Float[Array, " d"]


class Genealogy(NamedTuple):
    """Which initial particle each particle descends from, and the part of their spread due to resampling alone."""

    roots: Array
    noise: Float[Array, ""]


@eqx.filter_jit
def _run_replicates(keys, target, move, schedule, settings) -> State:
    def run(key_and_index):
        key, replicate = key_and_index
        return _run(key, replicate, target, move, schedule, settings)

    return jax.lax.map(run, (keys, jnp.arange(keys.shape[0])))


def _run(key, replicate, target, move, schedule: Schedule, settings: Settings) -> State:
    """One run from prior to posterior."""

    def is_running(state: State):
        alive = jnp.any(jnp.isfinite(state.particles.log_likelihood))
        return (state.temperature < 1) & (state.n_rounds < settings.max_temperatures) & alive & ~state.has_nan

    def one_round(state: State) -> State:
        key, key_resample, key_move = jax.random.split(state.key, 3)
        particles, i = state.particles, state.n_rounds

        temperature = _next_temperature(state.temperature, particles.log_likelihood, schedule, i)
        log_weights = (temperature - state.temperature) * particles.log_likelihood - math.log(settings.n_particles)
        log_increment = logsumexp(log_weights)
        weights = jnp.exp(log_weights - log_increment)
        variance = _evidence_variance(weights, state, settings)

        params = _params(state.params, particles.position, weights, schedule, i)
        ancestors = systematic(weights, jax.random.uniform(key_resample, ()), settings.n_chains)
        chosen = jax.tree.map(lambda x: x[ancestors], particles)

        n_moves = _n_moves(state.acceptance, schedule, settings, i)
        moved, did = sweep(key_move, chosen, target, temperature, move, params, n_moves, settings)
        if settings.progress:
            jax.debug.callback(_report, replicate, temperature)

        row = Round(
            temperature=temperature,
            ess=effective_sample_size(weights),
            acceptance=did.acceptance,
            n_moves=did.n_moves,
            n_unique=1 + jnp.sum(ancestors[1:] != ancestors[:-1]),  # systematic ancestors come in order
            jump=did.jump,
            params=params,
        )
        return State(
            key=key,
            particles=moved,
            temperature=temperature,
            log_evidence=state.log_evidence + log_increment,
            variance=variance,
            genealogy=_descend(state.genealogy, weights, ancestors, settings),
            params=move.tune(params, did.acceptance),
            acceptance=did.acceptance,
            n_rounds=i + 1,
            history=jax.tree.map(lambda rows, new: rows.at[i].set(new), state.history, row),
            has_nan=did.has_nan,
            nan_at=did.nan_at,
        )

    return jax.lax.while_loop(is_running, one_round, _start(key, target, move, settings))


def _start(key, target: TemperedTarget, move: Move, settings: Settings) -> State:
    """Draw the population from the prior and evaluate it."""
    key, key_prior, key_batch = jax.random.split(key, 3)
    n, dim = settings.n_particles, target.dim
    position = jnp.asarray(target.sample_prior(key_prior, n), float)
    if position.shape != (n, dim):
        raise ValueError(f"sample_prior returned shape {position.shape}, expected {(n, dim)}")

    def evaluate(_, u):
        return jax.vmap(target.split)(u), ()

    (log_prior, log_likelihood), _ = in_batches(evaluate, key_batch, position, settings.batch_size)
    bad = jnp.isnan(log_prior + log_likelihood) | (log_likelihood == jnp.inf)
    zero = jnp.zeros(())
    params = MoveParams(
        log_scale=jnp.asarray(move.initial_log_scale(dim), float),
        mean=jnp.zeros(dim),
        spread=jnp.eye(dim) if settings.spread_is_full else jnp.ones(dim),
    )
    row = Round(zero, zero, zero, jnp.zeros((), int), jnp.zeros((), int), zero, params)
    return State(
        key=key,
        particles=Particles(position, log_prior, log_likelihood),
        temperature=zero,
        log_evidence=zero,
        variance=zero,
        genealogy=Genealogy(jnp.arange(n), zero),
        params=params,
        acceptance=jnp.asarray(jnp.nan),
        n_rounds=jnp.zeros((), int),
        history=jax.tree.map(lambda x: jnp.zeros((settings.max_temperatures, *x.shape), x.dtype), row),
        has_nan=jnp.any(bad),
        nan_at=position[jnp.argmax(bad)],
    )


def _next_temperature(temperature, log_likelihood, schedule: Schedule, i):
    if schedule.temperatures is not None:
        return schedule.temperatures[i]
    equal = jnp.ones_like(log_likelihood)
    n_possible = jnp.sum(jnp.isfinite(log_likelihood))
    wanted = jnp.sqrt(-jnp.log(schedule.ess_fraction))

    def spread(step):
        """Square root of -log(CESS fraction): increases with the step, and is linear in it if l is Gaussian."""
        fraction = conditional_effective_sample_size(equal, step * log_likelihood) / n_possible
        return jnp.sqrt(-jnp.log(jnp.minimum(fraction, 1)))

    def is_rough(bracket):
        low, spread_low, high, _, n_evaluations = bracket
        return (n_evaluations < 100) & (spread_low < wanted * (1 - 1e-9)) & (low < high * (1 - 1e-12))

    def refine(bracket):
        low, spread_low, high, spread_high, n_evaluations = bracket
        line = low + (high - low) * (wanted * (1 - 5e-10) - spread_low) / (spread_high - spread_low)
        # Interpolation lands within a few rounds; the halvings between guard it where the spread bends.
        middle = jnp.where(n_evaluations % 3 == 2, 0.5 * (low + high), line)
        found = spread(middle)
        short = found <= wanted
        return (
            jnp.where(short, middle, low),
            jnp.where(short, found, spread_low),
            jnp.where(short, high, middle),
            jnp.where(short, spread_high, found),
            n_evaluations + 1,
        )

    rest, zero = 1 - temperature, jnp.zeros_like(temperature)
    at_rest = spread(rest)
    low, _, high, _, _ = jax.lax.while_loop(is_rough, refine, (zero, zero, rest, at_rest, jnp.zeros((), int)))
    # The bracket may end at zero for a likelihood of extreme range; its upper end still makes progress.
    step = jnp.where(at_rest <= wanted, rest, jnp.where(low > 0, low, high))
    reached = temperature + step
    return jnp.where(reached > 1 - 1e-12, 1.0, reached)


def _params(params: MoveParams, position, weights, schedule: Schedule, i) -> MoveParams:
    if schedule.frozen is not None:
        return jax.tree.map(lambda x: x[i], schedule.frozen.params)
    return fit_params(params, position, weights)


def _n_moves(acceptance, schedule: Schedule, settings: Settings, i):
    """Steps of the coming sweep, from what is known before it starts."""
    if schedule.frozen is not None:
        return schedule.frozen.n_moves[i]
    if settings.n_moves == "acceptance":
        needed = jnp.ceil(math.log(0.01) / jnp.log1p(-jnp.clip(acceptance, 1e-9, 1 - 1e-9)))
        return jnp.clip(jnp.where(jnp.isnan(acceptance), FIRST_MOVES, needed), 1, settings.max_moves).astype(int)
    return jnp.asarray(settings.max_moves if settings.n_moves == "displacement" else settings.n_moves)


def _descend(genealogy: Genealogy, weights, ancestors, settings: Settings) -> Genealogy:
    """Pass the roots on, and add the variance that systematic resampling puts into the offspring counts."""
    if settings.waste_free:
        return genealogy  # its variance comes from the chains
    expected = settings.n_particles * weights
    chance = expected - jnp.floor(expected)
    noise = jnp.sum(chance * (1 - chance)) / settings.n_particles**2
    return Genealogy(genealogy.roots[ancestors], genealogy.noise + noise)


def _evidence_variance(weights, state: State, settings: Settings):
    """Estimate of var(Z_hat) / Z^2 from one run, up to and including this reweighting.

    Standard SMC: spread of the mass that descends from each initial particle (Chan & Lai 2013; Lee & Whiteley 2018,
    eq. 10), less the part that resampling noise alone would give. Waste-free: sum over rounds of the variance of the
    chains' means (Dau & Chopin 2022, section 4).
    """
    n = settings.n_particles
    independent = jnp.maximum(jnp.sum(weights**2) - 1 / n, 0)
    if settings.waste_free:
        shape = (settings.chain_length, settings.n_chains)
        masses = settings.n_chains * jnp.sum(weights.reshape(shape), axis=0)  # mean 1
        chained = jnp.var(masses) / (settings.n_chains - 1)
        return state.variance + jnp.where(state.n_rounds == 0, independent, chained)
    mass = jax.ops.segment_sum(weights, state.genealogy.roots, n)
    return jnp.maximum(jnp.sum(mass**2) - 1 / n - state.genealogy.noise, independent)


def _report(replicate, temperature) -> None:
    """Host side of the callback."""
    note = f"replicate {int(replicate) + 1}, temperature {float(temperature):.3g}"
    advance_bar(float(replicate) + float(temperature), note)


def _raise_on_failure(history: State, target: TemperedTarget) -> None:
    for r in range(history.temperature.shape[0]):
        if history.has_nan[r]:
            u = np.asarray(history.nan_at[r])
            raise ValueError(
                f"{target.explain_nan(jnp.asarray(u))} at u = {np.array2string(u, precision=4, threshold=20)}"
            )
        if not np.any(np.isfinite(history.particles.log_likelihood[r])):
            raise ValueError(
                "no particle has positive likelihood: widen the prior or the likelihood, or raise n_particles"
            )
