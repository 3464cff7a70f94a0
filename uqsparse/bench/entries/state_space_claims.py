"""What the particle methods claim about themselves, measured against exact recursions and NUTS."""

import functools
import itertools
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from uqsparse import bench
from uqsparse.bench.entries.state_space_problems import (
    LEARNED,
    VOLATILITY,
    autoregression,
    joint_volatility,
    linear_gaussian,
    look_ahead,
    marginal_autoregression,
    rate_changes,
)
from uqsparse.inference import (
    StateSpaceModel,
    TemperedTarget,
    convergence,
    forward_backward,
    kalman_smoother,
    nuts,
    particle_filter,
    particle_gibbs,
    pmmh,
    smc2,
    smooth,
    tempered_smc,
)

SYSTEM = "particle filters"
PARAMETERS = "particle MCMC"
N_RUNS = 2000
# A normal number exceeds 4 with probability 6e-5, and 4.5 with 7e-6: false-alarm rates of a claim on one number and of
# one on up to thirty.
ONE, MANY = 4.0, 4.5


def _runs(seed: int, n_steps: int, n_particles: int, n_runs: int = N_RUNS, **options):
    """Log evidence over the truth and its claimed error, from independent runs, in double precision."""
    problem = autoregression(n_steps)

    def run(key):
        result = particle_filter(key, problem.model, problem.y, n_particles=n_particles, **options)
        return result.log_evidence - problem.log_evidence, result.log_evidence_se

    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(seed), n_runs))
        return tuple(np.asarray(x) for x in found)


def _bias(log_ratio: np.ndarray) -> float:
    """Distance of the mean evidence from the truth, in standard errors."""
    ratio = np.exp(log_ratio)
    return float(abs(ratio.mean() - 1) / (ratio.std(ddof=1) / np.sqrt(len(ratio))))


@functools.cache
def _bootstrap_runs(seed: int):
    return _runs(seed, n_steps=30, n_particles=400)


@bench.claim("bootstrap filter: mean evidence over the truth, in standard errors", system=SYSTEM)
def bootstrap_is_unbiased(context: bench.Context) -> bench.Measured:
    log_ratio, _ = _bootstrap_runs(context.seed)
    detail = f"{N_RUNS} runs, T = 30, N = 400, systematic resampling below half; sd of a run {log_ratio.std():.2f}"
    return bench.Measured(_bias(log_ratio), "<=", ONE, "Kalman filter", detail)


@bench.claim("bootstrap filter: error bar of one run over the spread of runs, minus 1", system=SYSTEM)
def error_bar_of_one_run(context: bench.Context) -> bench.Measured:
    log_ratio, claimed = _bootstrap_runs(0)
    ratio = np.sqrt(np.mean(claimed**2)) / log_ratio.std(ddof=1)
    return bench.Measured(abs(ratio - 1), "<=", 0.25, f"sd of {N_RUNS} runs", f"T = 30, N = 400; ratio {ratio:.2f}")


@bench.claim(
    "every filter, resampler and trigger: largest bias of the evidence, in standard errors", system=SYSTEM, quick=False
)
def all_are_unbiased(context: bench.Context) -> bench.Measured:
    problem = autoregression(30)
    kinds = {
        "bootstrap": {},
        "guided": {"proposal": problem.proposal},
        "auxiliary": {"proposal": problem.proposal, "lookahead": look_ahead},
    }
    schemes = ("systematic", "stratified", "multinomial", "residual")
    found = {}
    for (kind, options), resampling, ess_fraction in itertools.product(kinds.items(), schemes, (0.5, 1.0)):
        runs = _runs(context.seed, 30, 100, resampling=resampling, ess_fraction=ess_fraction, **options)
        found[f"{kind}, {resampling}, {ess_fraction:g}"] = _bias(runs[0])
    worst = max(found, key=lambda name: found[name])
    detail = f"{len(found)} combinations, {N_RUNS} runs each, T = 30, N = 100; worst: {worst}"
    return bench.Measured(found[worst], "<=", MANY, "Kalman filter", detail)


@bench.claim("filter of a finite chain: mean evidence over the truth, in standard errors", system=SYSTEM, quick=False)
def finite_chain_is_unbiased(context: bench.Context) -> bench.Measured:
    first, moves = np.array([0.3, 0.7]), np.array([[0.8, 0.2], [0.4, 0.6]])
    emits, y = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]), np.array([0, 2, 1, 0, 2])
    chain = StateSpaceModel(
        initial=lambda p, u: dist.Categorical(jnp.asarray(first)),
        transition=lambda p, k, u: dist.Categorical(jnp.asarray(moves)[k]),
        observation=lambda p, k, u: dist.Categorical(jnp.asarray(emits)[k]),
    )
    with jax.enable_x64(True):
        exact = forward_backward(*(jnp.asarray(x) for x in (first, moves, np.log(emits[:, y].T)))).log_evidence

        def run(key):
            return particle_filter(key, chain, y, n_particles=20).log_evidence - exact

        log_ratio = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(context.seed), 20_000)))
    return bench.Measured(_bias(log_ratio), "<=", ONE, "forward-backward", "20000 runs, two states, T = 5, N = 20")


@bench.claim("error bar over a long series: ratio to the spread of runs, minus 1", system=SYSTEM, quick=False)
def error_bar_over_a_long_series(context: bench.Context) -> bench.Measured:
    log_ratio, claimed = _runs(context.seed, 1000, 10_000, n_runs=100)
    ratio = np.sqrt(np.mean(claimed**2)) / log_ratio.std(ddof=1)
    detail = f"T = 1000, N = 10 000; sd of a run {log_ratio.std(ddof=1):.2f}, ratio {ratio:.2f}"
    return bench.Measured(abs(ratio - 1), "<=", 0.35, "sd of 100 runs", detail)


@bench.claim(
    "smoothed means by backward simulation: largest error, in standard errors", system="smoothing", quick=False
)
def smoothing_against_rts(context: bench.Context) -> bench.Measured:
    problem, n_runs = autoregression(30), 50

    def run(key):
        key_filter, key_smooth = jax.random.split(key)
        result = particle_filter(key_filter, problem.model, problem.y, n_particles=1000, keep_history=True)
        return smooth(key_smooth, problem.model, result, n_paths=500).means

    with jax.enable_x64(True):
        means = np.asarray(jax.lax.map(run, jax.random.split(jax.random.key(context.seed), n_runs)))
        exact = np.asarray(kalman_smoother(linear_gaussian(), jnp.asarray(problem.y)[:, None]).means)[:, 0]
    errors = np.abs(means.mean(axis=0) - exact) / (means.std(axis=0, ddof=1) / np.sqrt(n_runs))
    # Fifty runs make a t distribution of 49 degrees: 5.5 leaves a false-alarm rate of 4e-5 for thirty times.
    return bench.Measured(errors.max(), "<=", 5.5, "RTS smoother", f"{n_runs} runs, T = 30, N = 1000, 500 paths")


@functools.cache
def _kalman_marginal():
    """Posterior of the two parameters with the states integrated out exactly, by NUTS; and its evidence."""
    y = autoregression(100).y
    with jax.enable_x64(True):
        draws = nuts(jax.random.key(0), marginal_autoregression, y, n_warmup=500, n_samples=2000, log_likelihood=False)
        target = TemperedTarget.from_numpyro(marginal_autoregression, y)
        evidence = tempered_smc(jax.random.key(1), target, 1000, n_moves=20, n_replicates=8)
    return _summary(draws, ("persistence", "step")), evidence


def _summary(draws, names) -> dict[str, tuple[float, float]]:
    """Posterior mean of each parameter with its Monte Carlo standard error."""
    rows = {row.name: row for row in convergence(draws).scalars}
    return {name: (rows[name].mean, rows[name].mcse_mean) for name in names}


def _largest_difference(one, other) -> float:
    """Largest difference of two sets of means, in combined standard errors."""
    return max(abs(one[name][0] - other[name][0]) / np.hypot(one[name][1], other[name][1]) for name in one)


@bench.claim("PMMH: largest error of a posterior mean, in standard errors", system=PARAMETERS, quick=False)
def pmmh_against_kalman(context: bench.Context) -> bench.Measured:
    draws = pmmh(jax.random.key(context.seed), LEARNED, autoregression(100).y, n_particles=200, n_samples=3000)
    error = _largest_difference(_summary(draws, ("persistence", "step")), _kalman_marginal()[0])
    return bench.Measured(error, "<=", ONE, "NUTS on the Kalman-marginal posterior", "T = 100, N = 200, 4 x 3000 draws")


@bench.claim("particle Gibbs: largest error of a posterior mean, in standard errors", system=PARAMETERS, quick=False)
def particle_gibbs_against_kalman(context: bench.Context) -> bench.Measured:
    draws = particle_gibbs(jax.random.key(context.seed), LEARNED, autoregression(100).y, n_particles=20, n_samples=3000)
    error = _largest_difference(_summary(draws, ("persistence", "step")), _kalman_marginal()[0])
    return bench.Measured(error, "<=", ONE, "NUTS on the Kalman-marginal posterior", "T = 100, N = 20, 4 x 3000 sweeps")


@bench.claim("SMC²: error of the log evidence, in standard errors", system=PARAMETERS, quick=False)
def smc2_against_kalman(context: bench.Context) -> bench.Measured:
    exact = _kalman_marginal()[1]
    keys = jax.random.split(jax.random.key(context.seed), 4)
    found = np.array([smc2(key, LEARNED, autoregression(100).y, n_particles=100).log_evidence for key in keys])
    spread = np.hypot(found.std(ddof=1) / 2, exact.log_evidence_se)
    error = abs(found.mean() - exact.log_evidence) / spread
    detail = f"4 runs, 500 parameters, T = 100; {found.mean():.2f} +- {spread:.2f} against {exact.log_evidence:.2f}"
    # Four runs make a t distribution of three degrees, whose quantile of 0.999 is 10.
    return bench.Measured(error, "<=", 10.0, "tempered SMC on the Kalman-marginal posterior", detail)


@functools.cache
def _volatility(method: str, seed: int):
    """Posterior means of the stochastic volatility of the treasury bill rate, by one of three methods."""
    y, key = rate_changes(), jax.random.key(seed)
    with warnings.catch_warnings():
        # That a chain mixes slowly shows in its standard error.
        warnings.simplefilter("ignore", UserWarning)
        if method == "NUTS":
            with jax.enable_x64(True):
                draws = nuts(key, joint_volatility, y, n_warmup=1000, n_samples=2000, target_accept=0.95)
        elif method == "PMMH":
            draws = pmmh(key, VOLATILITY, y, n_particles=200, n_warmup=1000, n_samples=5000, keep_states=False)
        else:
            draws = particle_gibbs(key, VOLATILITY, y, n_warmup=1000, n_samples=4000, keep_states=False)
    return _summary(draws, ("level", "persistence", "volatility"))


@bench.claim(
    "stochastic volatility: PMMH against NUTS on the joint model, in standard errors", system=PARAMETERS, quick=False
)
def volatility_by_pmmh(context: bench.Context) -> bench.Measured:
    one, other = _volatility("PMMH", context.seed), _volatility("NUTS", context.seed)
    return bench.Measured(
        _largest_difference(one, other), "<=", ONE, "NUTS, states and parameters", _compare(one, other)
    )


@bench.claim(
    "stochastic volatility: particle Gibbs against NUTS on the joint model, in standard errors",
    system=PARAMETERS,
    quick=False,
)
def volatility_by_particle_gibbs(context: bench.Context) -> bench.Measured:
    one, other = _volatility("particle Gibbs", context.seed), _volatility("NUTS", context.seed)
    return bench.Measured(
        _largest_difference(one, other), "<=", ONE, "NUTS, states and parameters", _compare(one, other)
    )


def _compare(one, other) -> str:
    pairs = [
        f"{name} {one[name][0]:.3f} +- {one[name][1]:.3f} / {other[name][0]:.3f} +- {other[name][1]:.3f}"
        for name in one
    ]
    return "treasury bill, T = 202; " + ", ".join(pairs)


def _seconds(n_particles: int, n_steps: int) -> float:
    """Best of three runs, compiled before."""
    problem = autoregression(n_steps)
    run = jax.jit(lambda key: particle_filter(key, problem.model, problem.y, n_particles=n_particles)[2:4])
    jax.block_until_ready(run(jax.random.key(0)))
    seconds = []
    for i in range(3):
        start = time.perf_counter()
        jax.block_until_ready(run(jax.random.key(i)))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@bench.claim("cost of the bootstrap filter from 10 000 to a million particles: exponent", system=SYSTEM, quick=False)
def cost_in_particles(context: bench.Context) -> bench.Measured:
    sizes = np.array([10_000, 100_000, 1_000_000])
    seconds = np.array([_seconds(int(n), 50) for n in sizes])
    exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    each = ", ".join(f"{1e9 * s / n / 50:.0f}" for s, n in zip(seconds, sizes, strict=True))
    return bench.Measured(exponent, "<=", 1.1, "linear cost", f"T = 50; {each} ns a particle and step")


@bench.claim("cost of the bootstrap filter from 100 to 4000 steps: exponent", system=SYSTEM, quick=False)
def cost_in_steps(context: bench.Context) -> bench.Measured:
    lengths = np.array([100, 1000, 4000])
    seconds = np.array([_seconds(10_000, int(t)) for t in lengths])
    exponent = np.polyfit(np.log(lengths), np.log(seconds), 1)[0]
    each = ", ".join(f"{1e9 * s / t / 10_000:.0f}" for s, t in zip(seconds, lengths, strict=True))
    return bench.Measured(exponent, "<=", 1.1, "linear cost", f"N = 10 000; {each} ns a particle and step")
