"""Checks of this library's own inference code, as it runs: resamplers, filters, conditional SMC, tempered SMC, PMMH.

The code is driven by keys that carry explicit numbers, so that all it can do on a small finite problem is enumerated.
Every function returns a verdict. The mutation score is what these checks find of planted faults.
"""

import itertools
import math
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import scipy.stats

from uqsparse.inference import Proposal, RandomWalk, StateSpaceModel, TemperedTarget, forward_backward
from uqsparse.inference.checks import Counterexample, Verdict, check_invariance, check_valid, key_kernel, key_law
from uqsparse.inference.checks.drift import drift_test
from uqsparse.inference.checks.explicit_keys import find_layout
from uqsparse.inference.conditional_smc import run_conditional
from uqsparse.inference.filter_settings import check_filter
from uqsparse.inference.moves import MoveParams, MoveState
from uqsparse.inference.parameter_prior import Estimate, estimate
from uqsparse.inference.particle_filter import run_filter
from uqsparse.inference.pmmh import PMMHProblem, step
from uqsparse.inference.smc_result import FrozenLadder
from uqsparse.inference.smc_settings import Schedule, Settings
from uqsparse.inference.state_space import complete_log_density, prepare_series
from uqsparse.kernels import systematic

# The function of this name shadows its module in the package.
tempered = sys.modules["uqsparse.inference.tempered_smc"]

# A hidden chain on two states, seen through two symbols; no two numbers alike, so that nothing cancels by symmetry.
FIRST = np.array([0.3, 0.7])
MOVES = np.array([[0.8, 0.2], [0.35, 0.65]])
EMITS = np.array([[0.9, 0.1], [0.25, 0.75]])
# Where a guided filter draws from: first by the symbol, then by state and symbol.
GUIDE_FIRST = np.array([[0.6, 0.4], [0.2, 0.8]])
GUIDE = np.array([[[0.85, 0.15], [0.5, 0.5]], [[0.55, 0.45], [0.3, 0.7]]])
GUESS = np.array([[0.7, 0.4], [0.3, 0.9]])  # what a lookahead makes of state and next symbol
TOLERANCE = 1e-8  # the filters' uniform numbers have 32 bits


def two_states(moves: Any = MOVES) -> StateSpaceModel:
    return StateSpaceModel(
        initial=lambda p, u: dist.Categorical(jnp.asarray(FIRST)),
        transition=lambda p, x, u: dist.Categorical(jnp.asarray(moves)[x]),
        observation=lambda p, x, u: dist.Categorical(jnp.asarray(EMITS)[x]),
    )


GUIDED = Proposal(
    initial=lambda p, u, y: dist.Categorical(jnp.asarray(GUIDE_FIRST)[y]),
    transition=lambda p, x, u, y: dist.Categorical(jnp.asarray(GUIDE)[x, y]),
)


def lookahead(p, x, u, y):
    return jnp.log(jnp.asarray(GUESS)[x, y])


def joint(path: tuple[int, ...], symbols: tuple[int, ...], first: Any = FIRST, moves: Any = MOVES) -> float:
    """Probability of a path and its symbols."""
    steps = math.prod(moves[a, b] for a, b in itertools.pairwise(path))
    return first[path[0]] * steps * math.prod(EMITS[x, y] for x, y in zip(path, symbols, strict=True))


class Filtered(NamedTuple):
    """What a filter ends with."""

    states: Any
    log_weights: Any
    log_evidence: Any


def check_filter_exactly(
    kind: str = "bootstrap", resampling: str = "systematic", ess_fraction: float = 1.0, symbols=(0, 1, 1)
) -> Verdict:
    """E[Z_hat sum_i W_i f(x_i)] over all that a particle filter of two particles can do, for every f: p(x_T, y)."""
    proposal = GUIDED if kind == "guided" else None
    settings = check_filter(2, resampling, ess_fraction, proposal, lookahead if kind == "auxiliary" else None)

    def run(key):
        series = prepare_series(np.asarray(symbols), None, "error")
        result = run_filter(key, two_states(), None, series, settings, lambda x: ())
        return Filtered(result.states, result.log_weights, result.log_evidence)

    obtained: dict[int, float] = {}
    for outcome, mass in key_law(run).items():
        for state, log_weight in zip(outcome.states, outcome.log_weights, strict=True):
            weight = mass * math.exp(outcome.log_evidence + log_weight)
            obtained[state] = obtained.get(state, 0.0) + weight
    expected = dict.fromkeys((0, 1), 0.0)
    for path in itertools.product((0, 1), repeat=len(symbols)):
        expected[path[-1]] += joint(path, symbols)
    subject = f"{kind} filter, {resampling}, resampling below {ess_fraction:g} n"
    return check_valid(obtained, expected, subject=subject, tolerance=TOLERANCE)


def check_conditional_exactly(ancestor_sampling: bool = True, guided: bool = False, symbols=(0, 1)) -> Verdict:
    """Conditional SMC of two particles leaves the distribution of paths given the symbols invariant."""
    settings = check_filter(2, "multinomial", 1, GUIDED if guided else None)

    def kernel(key, path):
        series = prepare_series(np.asarray(symbols), None, "error")
        return run_conditional(key, two_states(), None, path, series, settings, ancestor_sampling).path

    target = {path: joint(path, symbols) for path in itertools.product((0, 1), repeat=len(symbols))}
    how = "ancestor sampling" if ancestor_sampling else "no ancestor sampling"
    subject = f"conditional SMC, {how}{', guided' if guided else ''}"
    return check_invariance(target, key_kernel(kernel), subject=subject, tolerance=TOLERANCE)


# The normal draws of a random walk take two symmetric values, so that it walks on the integers.
QUARTERS = (0.25, 0.75)
STEP = 1 / 0.6744897501960817  # the upper quartile of the normal


def _on_lattice(run: Any) -> dict[int, tuple[float, ...]]:
    """The random walks' draws, by number: those of single precision."""
    with jax.enable_x64(True):
        draws = find_layout(run, [()]).draws
    return {i: QUARTERS for i, draw in enumerate(draws) if draw.width == 32}


def _walk(dim: int = 1) -> MoveParams:
    return MoveParams(jnp.log(STEP), jnp.zeros(dim), jnp.ones(dim))


LATTICE_PRIOR = np.array([0.6, 0.4])
LATTICE_LIKELIHOOD = np.array([0.5, 2.3])


def _lattice(log_masses: np.ndarray) -> Any:
    """Log masses of the integers 0, 1, ..., and nothing elsewhere."""

    def log_mass(u):
        i = jnp.round(u[0]).astype(int)
        inside = (i >= 0) & (i < len(log_masses))
        return jnp.where(inside, jnp.asarray(log_masses)[jnp.clip(i, 0, len(log_masses) - 1)], -jnp.inf)

    return log_mass


class Sampled(NamedTuple):
    """What tempered SMC ends with."""

    positions: Any
    log_evidence: Any


def check_tempered_exactly(waste_free: bool = False, temperatures=(0.4, 1.0)) -> Verdict:
    """E[Z_hat / n sum_i f(x_i)] of tempered SMC with a fixed ladder, for every f: prior times likelihood."""
    n_particles, n_moves = (4, 2) if waste_free else (2, 1)
    settings = Settings(n_particles, n_moves, waste_free, 1, len(temperatures), 4096, False, False)
    target = TemperedTarget(
        _lattice(np.log(LATTICE_PRIOR)),
        _lattice(np.log(LATTICE_LIKELIHOOD)),
        lambda key, n: (jax.random.uniform(key, (n, 1)) > LATTICE_PRIOR[0]).astype(float),
        dim=1,
    )

    def run(key):
        steps = len(temperatures)
        params = jax.tree.map(lambda x: jnp.stack([x] * steps), _walk())
        ladder = FrozenLadder(jnp.array(temperatures), params, jnp.full(steps, n_moves))
        schedule = Schedule(jnp.asarray(0.5), ladder.temperatures, ladder)
        state = tempered._run(key, 0, target, RandomWalk(), schedule, settings)
        return Sampled(jnp.round(state.particles.position[:, 0]).astype(int), state.log_evidence)

    obtained: dict[int, float] = {}
    for outcome, mass in key_law(run, points=_on_lattice(run)).items():
        for x in outcome.positions:
            obtained[x] = obtained.get(x, 0.0) + mass * math.exp(outcome.log_evidence) / n_particles
    expected = dict(enumerate(LATTICE_PRIOR * LATTICE_LIKELIHOOD))
    subject = f"{'waste-free' if waste_free else 'tempered'} SMC, {n_particles} particles, fixed ladder"
    return check_valid(obtained, expected, subject=subject, tolerance=TOLERANCE)


class Chain(NamedTuple):
    """State of a PMMH chain: the parameter, its estimate, and a path."""

    theta: Any
    log_evidence: Any
    path: Any


THETA_PRIOR = np.array([0.45, 0.55])
# The chain's laws for each parameter.
FIRST_BY_THETA = np.array([FIRST, [0.55, 0.45]])
MOVES_BY_THETA = np.array([MOVES, [[0.4, 0.6], [0.1, 0.9]]])


def check_pmmh_exactly(symbols=(0, 1)) -> Verdict:
    """PMMH leaves the distribution of parameter, estimate and path invariant, and its margin is the posterior."""
    model = StateSpaceModel(
        initial=lambda p, u: dist.Categorical(jnp.asarray(FIRST_BY_THETA)[p["theta"]]),
        transition=lambda p, x, u: dist.Categorical(jnp.asarray(MOVES_BY_THETA)[p["theta"], x]),
        observation=lambda p, x, u: dist.Categorical(jnp.asarray(EMITS)[x]),
    )
    target = TemperedTarget(
        _lattice(np.log(THETA_PRIOR)),
        lambda u: jnp.zeros(()),
        lambda key, n: jnp.zeros((n, 1)),
        dim=1,
        constrain=lambda u: {"theta": jnp.clip(jnp.round(u[0]).astype(int), 0, 1)},
    )
    settings = check_filter(2, "systematic", 1)

    def problem():
        return PMMHProblem(model, target, prepare_series(np.asarray(symbols), None, "error"), settings, True)

    def start(key, theta):
        p = problem()
        found = estimate(key, model, target, jnp.asarray(theta, float)[None], p.series, settings)
        return Chain(theta, found.log_evidence, found.path)

    def kernel(key, chain):
        p = problem()
        position = jnp.asarray(chain.theta, float).reshape(1, 1)
        extras = Estimate(chain.log_evidence[None], chain.path[None], jnp.full(1, -1))
        state = MoveState(position, p.combine(position, extras), extras, ())
        after, _ = step(key, p, state, _walk())
        theta = jnp.round(after.position[0, 0]).astype(int)
        return Chain(theta, after.extras.log_evidence[0], after.extras.path[0])

    starts = key_kernel(start)
    extended: dict[Chain, float] = {}
    for theta, prior in enumerate(THETA_PRIOR):
        for chain, mass in starts.of(theta).items():
            extended[chain] = prior * mass * math.exp(chain.log_evidence)
    posterior: dict[Any, float] = {}
    for chain, mass in extended.items():
        posterior[chain.theta, chain.path] = posterior.get((chain.theta, chain.path), 0.0) + mass
    expected = {
        (theta, path): THETA_PRIOR[theta] * joint(path, symbols, FIRST_BY_THETA[theta], MOVES_BY_THETA[theta])
        for theta in (0, 1)
        for path in itertools.product((0, 1), repeat=len(symbols))
    }
    margin = check_valid(posterior, expected, subject="PMMH: margin of the extended target", tolerance=TOLERANCE)
    if not margin.ok:
        return margin
    # The random walk's draw comes first; those of the filter have 32 bits too.
    moves = key_kernel(kernel, points={0: QUARTERS})
    return check_invariance(extended, moves, subject="PMMH: extended target", tolerance=TOLERANCE)


def check_random_walk_exactly() -> Verdict:
    """One step of two chains of random-walk Metropolis leaves four masses invariant, chain by chain."""
    masses = np.array([1.0, 2.0, 3.5, 0.7])
    log_mass = _lattice(np.log(masses))

    def density(position):
        return jax.vmap(log_mass)(position), ()

    def kernel(key, place):
        # The other chain starts one further on, so that a mix-up of the chains is seen.
        position = jnp.stack([(place + 1) % 4, place]).astype(float)[:, None]
        move = RandomWalk()
        after, _ = move.step(key, move.start(position, density), density, _walk())
        return jnp.round(after.position[1, 0]).astype(int)

    points = {0: QUARTERS, 1: QUARTERS}
    target = dict(enumerate(masses))
    return check_invariance(target, key_kernel(kernel, points=points), subject="random walk", tolerance=1e-6)


def _normal_model(key):
    """A mean with prior N(0, 1) and an observation with standard deviation 1/2."""
    noise = jax.random.normal(key, (2,))
    return noise[:1], noise[0] + 0.5 * noise[1]


def check_move_by_drift(move: Any, budget: int = 100_000) -> Verdict:
    """The drift test of a move for a population, with settings away from the best so that rejections count."""

    def kernel(key, theta, y):
        def density(position):
            return -0.5 * position[:, 0] ** 2 - 2.0 * (y - position[:, 0]) ** 2, ()

        params = MoveParams(jnp.log(1.1), jnp.array([0.4]), jnp.array([0.5]))
        after, _ = move.step(key, move.start(theta[None], density), density, params)
        return after.position[0]

    def log_likelihood(theta, y):
        return -2.0 * (y - theta[0]) ** 2

    return drift_test(
        jax.random.key(1),
        _normal_model,
        kernel,
        log_likelihood=log_likelihood,
        budget=budget,
        subject=f"drift of {type(move).__name__}",
    )


def check_ladder() -> Verdict:
    """An adaptive run keeps the effective sample size it was asked for, at every temperature but the last."""
    target = TemperedTarget(
        lambda u: -0.5 * jnp.sum(u**2) - jnp.log(2 * jnp.pi) / 2,
        lambda u: -3.0 * jnp.sum((u - 1.5) ** 2),
        lambda key, n: jax.random.normal(key, (n, 1)),
        dim=1,
    )
    settings = Settings(64, 2, False, 2, 40, 4096, False, True)
    with jax.enable_x64(True):
        run = tempered._run_replicates(
            jax.random.key(0)[None], target, RandomWalk(), Schedule(jnp.asarray(0.6), None, None), settings
        )
    n_rounds = int(run.n_rounds[0])
    kept = np.asarray(run.history.ess[0])[:n_rounds] / 64
    error = float(np.max(np.abs(kept[:-1] - 0.6))) if n_rounds > 1 else 1.0
    if kept[-1] < 0.6 - 1e-6:
        error = max(error, float(0.6 - kept[-1]))
    return _equal("effective sample size kept at each temperature, over n", error, 1e-6, n_rounds, 0.6, kept.tolist())


def check_trigger() -> Verdict:
    """A filter resamples exactly when the effective sample size of its cumulative weights has fallen below half."""
    settings = check_filter(8, "systematic", 0.5)
    symbols = np.array([0, 1, 1, 0, 1, 1, 1, 0, 0, 1])

    def run(key):
        series = prepare_series(symbols, None, "error")
        result = run_filter(key, two_states(), None, series, settings, lambda x: (), (), True)
        assert result.history is not None
        return result.resampled, result.history.log_weights

    with jax.enable_x64(True):
        resampled, log_weights = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 50))
    weights = np.exp(np.asarray(log_weights))
    is_low = 1 / (weights**2).sum(axis=-1) < 4
    wrong = int((is_low[:, :-1] != np.asarray(resampled)[:, 1:]).sum())
    return _equal("steps that resample when they should not, or fail to", float(wrong), 0.0, wrong + 1, 0, wrong)


def check_smoothing_sums() -> Verdict:
    """Forward-backward, and the complete density of a path, against the sum over all paths."""
    symbols = (0, 1, 1, 0)
    paths = list(itertools.product((0, 1), repeat=len(symbols)))
    masses = np.array([joint(path, symbols) for path in paths])
    with jax.enable_x64(True):
        series = prepare_series(np.asarray(symbols), None, "error")
        density = jax.jit(jax.vmap(lambda path: complete_log_density(two_states(), None, path, series)))
        found = np.exp(np.asarray(density(jnp.asarray(paths))))
        result = forward_backward(*map(jnp.asarray, (FIRST, MOVES, np.log(EMITS[:, symbols]).T)))
    smoothed = np.array([[masses[[p[t] == k for p in paths]].sum() for k in (0, 1)] for t in range(4)]) / masses.sum()
    errors = [
        np.max(np.abs(found - masses)),
        abs(math.exp(float(result.log_evidence)) - masses.sum()),
        np.max(np.abs(np.asarray(result.smoothed) - smoothed)),
    ]
    return _equal(
        "path densities, evidence and smoothed probabilities", max(errors), 1e-10, 16, "sums over paths", errors
    )


def check_prior_density() -> Verdict:
    """The density of a NumPyro model's prior on the real line integrates to one, and tempering keeps it."""

    def model():
        scale = numpyro.sample("scale", dist.HalfNormal(2.0))
        numpyro.sample("y", dist.Normal(0.0, scale), obs=1.5)

    grid = np.linspace(-30, 12, 6001)
    with jax.enable_x64(True):
        target = TemperedTarget.from_numpyro(model)
        log_prior, log_likelihood = jax.jit(jax.vmap(target.split))(jnp.asarray(grid)[:, None])
        half = jax.jit(jax.vmap(lambda u: target.log_density(u, 0.5)))(jnp.asarray(grid)[:, None])
    prior, step = np.exp(np.asarray(log_prior)), grid[1] - grid[0]
    scale = np.exp(grid)
    likelihood = scipy.stats.norm.logpdf(1.5, 0, scale)
    inside = grid > -3  # further out the likelihood is zero to rounding
    errors = [
        abs(prior.sum() * step - 1),
        np.max(np.abs(np.asarray(log_likelihood) - likelihood)[inside]),
        np.max(np.abs(np.asarray(half) - np.asarray(log_prior) - 0.5 * likelihood)[inside]),
    ]
    return _equal("prior and likelihood of a NumPyro model", max(errors), 1e-6, len(grid), "quadrature", errors)


def check_many_weights() -> Verdict:
    """Expected counts of 40 weights, by a fine grid of the single number of systematic resampling, and by its sum."""
    weights = np.arange(1.0, 41.0)
    n, cells = 41, 820  # n c_j - i are multiples of 1/20
    with jax.enable_x64(True):
        middles = jnp.asarray((np.arange(cells) + 0.5) / cells)
        chosen = np.asarray(jax.jit(jax.vmap(lambda u: systematic(jnp.asarray(weights), u, n)))(middles))
    counts = np.bincount(chosen.reshape(-1), minlength=40) / cells
    error = float(np.max(np.abs(counts - n * weights / weights.sum())))
    return _equal("systematic resampling of 40 weights", error, 1e-9, cells, "n w", counts[:5].tolist())


def _equal(subject: str, error: float, tolerance: float, n: int, expected: Any, obtained: Any) -> Verdict:
    ok = bool(error <= tolerance)
    return Verdict(
        ok, subject, "exact", error, n, counterexample=None if ok else Counterexample(subject, expected, obtained)
    )
