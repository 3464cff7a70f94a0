"""Particle Gibbs: states by conditional SMC and parameters given the states, in turns.

Each sweep draws a new path of states with the present one pinned (`conditional_smc`), then moves the parameters under
their density given that path. Both steps leave the joint posterior invariant at any number of particles; that number
only decides how fast the path is renewed.

Sources: Andrieu, Doucet & Holenstein (2010), Particle Markov chain Monte Carlo methods, section 4.5; Lindsten, Jordan &
Schön (2014), Particle Gibbs with ancestor sampling.
"""

import functools
import inspect
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from numpyro.infer.hmc import hmc as numpyro_hmc

from uqsparse.inference.conditional_smc import run_conditional
from uqsparse.inference.filter_settings import FilterSettings, Proposal, check_filter
from uqsparse.inference.moves import Move, MoveParams, fit_params
from uqsparse.inference.parameter_prior import choose_starts, parameter_target
from uqsparse.inference.particle_mcmc_io import draws_to_arviz
from uqsparse.inference.precision import copy_arrays, retry_after_precision_clash
from uqsparse.inference.progress import advance_bar, progress_bar
from uqsparse.inference.smc_settings import typed
from uqsparse.inference.state_space import (
    Missing,
    Series,
    StateSpaceModel,
    complete_log_density,
    prepare_series,
    row,
)
from uqsparse.inference.targets import TemperedTarget
from uqsparse.kernels.arguments import require_count, require_fraction

# Sweeps of one compiled call: the bar moves and a user's move adapts between calls.
CHUNK = 50
# A state renewed less often than this is warned about.
LEAST_UPDATE_RATE = 0.05

GibbsUpdate = Callable[[Array, dict[str, Array], PyTree], dict[str, Array]]


def particle_gibbs(
    key: Array,
    model: StateSpaceModel,
    observations: PyTree,
    inputs: PyTree = None,
    *,
    n_particles: int = 50,
    n_warmup: int = 500,
    n_samples: int = 1000,
    n_chains: int = 4,
    parameter_update: Literal["nuts"] | Move | GibbsUpdate = "nuts",
    target_accept: float = 0.8,
    ancestor_sampling: bool = True,
    proposal: Proposal | None = None,
    missing: Missing = "error",
    keep_states: bool = True,
    progress: bool = False,
) -> Any:
    """Sample states and parameters of a state-space model by particle Gibbs, the chains as one vectorised program.

    Runs in double precision whatever JAX's flag says.

    Args:
        key: random key, typed or legacy.
        model: the model, with a `prior`. Transitions and initial states need log densities.
        observations: array or pytree of arrays with leading axis T.
        inputs: exogenous inputs with leading axis T, or None.
        n_particles: population size of the conditional filter, at least 2. Raise it if early times are rarely renewed
            (`update_rate` in the attributes); 20 to 100 is usual with ancestor sampling, of the order of T without.
        n_warmup: sweeps for adaptation, at least 1; not kept.
        n_samples: sweeps kept per chain, at least 1.
        n_chains: chains, at least 1.
        parameter_update: how parameters move given the path: "nuts", one draw of NumPyro's no-U-turn sampler; a move
            such as `RandomWalk()` or `HMC()`, tuned between chunks of the warm-up; or a function
            `update(key, parameters, path)` that draws them from their conditional distribution, where that is known.
        target_accept: mean acceptance probability that NUTS adapts its step size to, in (0, 1).
        ancestor_sampling: see `conditional_smc`.
        proposal: where to draw states from instead of the transition.
        missing: "error" refuses NaN; "skip" takes rows that are NaN throughout as not observed.
        keep_states: keep the path of every draw, chains * draws * T states.
        progress: show a bar.

    Returns:
        ArviZ data: `posterior` with the parameters and `states` (chain, draw, T, ...), `sample_stats` with `renewed`
        (share of the times at which the path left the reference), `acceptance_rate` and, for NUTS, `diverging`;
        `observed_data`. The attributes hold `update_rate`, the share of draws that renewed each time, and its minimum.

    Raises:
        ValueError: an argument is out of range, the model has no prior, shapes do not fit, or no parameters drawn from
            the prior give the observations a positive likelihood.

    Source: Lindsten, Jordan & Schön (2014), algorithm 3.
    """
    started = time.perf_counter()
    settings = check_filter(n_particles, "multinomial", 1, proposal)
    for name, value in (("n_warmup", n_warmup), ("n_samples", n_samples), ("n_chains", n_chains)):
        require_count(name, value, 1)
    require_fraction("target_accept", target_accept)
    target = parameter_target(model)
    key = typed(key)

    def sample() -> dict[str, Any]:
        series = prepare_series(*copy_arrays((observations, inputs)), missing)
        key_start, key_update, key_warm, key_run = jax.random.split(key, 4)
        problem = _Problem(model, target, series, settings, ancestor_sampling)
        starts = choose_starts(key_start, model, target, series, settings, n_chains)
        update = _make_update(parameter_update, problem, n_warmup, target_accept)
        state, paths = update.start(key_update, starts.position, starts.estimate.path), starts.estimate.path
        sweeps = _Sweeps(problem, update)
        with progress_bar(progress, "particle Gibbs", n_warmup + n_samples):
            state, paths, _ = sweeps.run(key_warm, state, paths, n_warmup, 0, warming=True)
            return sweeps.run(key_run, state, paths, n_samples, n_warmup, warming=False)[2]

    with jax.enable_x64(True):
        record = retry_after_precision_clash(sample)
    # From (draw, chain, ...) to (chain, draw, ...).
    record = jax.tree.map(lambda x: np.swapaxes(x, 0, 1), record)
    update_rate = record["renewed"].mean(axis=(0, 1))
    stats = {name: record[name] for name in ("acceptance_rate", "diverging", "n_steps", "lp") if name in record}
    stats |= {"renewed": record["renewed"].mean(axis=2), "collapsed": record["collapsed"]}
    attributes = {
        "algorithm": "particle Gibbs",
        "n_particles": n_particles,
        "n_warmup": n_warmup,
        "ancestor_sampling": ancestor_sampling,
        "update_rate": update_rate,
        "least_update_rate": update_rate.min(),
        "seconds": time.perf_counter() - started,
    }
    _warn_about(update_rate)
    return draws_to_arviz(
        record["parameters"], record["path"] if keep_states else None, stats, observations, attributes
    )


def _warn_about(update_rate: np.ndarray) -> None:
    worst = int(np.argmin(update_rate))
    if update_rate[worst] < LEAST_UPDATE_RATE:
        warnings.warn(
            f"the state at t = {worst} was renewed in {100 * update_rate[worst]:.1f} % of the sweeps: its draws hardly "
            "mix; raise n_particles or use a proposal",
            stacklevel=3,
        )


class _Problem(eqx.Module):
    """The model with its data, and the density of parameters and path together."""

    model: StateSpaceModel
    target: TemperedTarget
    series: Series
    settings: FilterSettings = eqx.field(static=True)
    ancestor_sampling: bool = eqx.field(static=True)

    def log_density(self, position: Array, path: PyTree) -> Array:
        parameters = self.target.constrain(position)
        return self.target.log_density(position) + complete_log_density(self.model, parameters, path, self.series)

    def renew(self, key: Array, parameters: PyTree, path: PyTree):
        return run_conditional(key, self.model, parameters, path, self.series, self.settings, self.ancestor_sampling)


class _Update(NamedTuple):
    """How parameters move given paths: all three work on the chains together.

    `start(key, position, paths)` makes a state, `step(key, state, paths)` moves it and reports, `parameters(state)`
    reads the values off it, and `adapt(state, record)` tunes it between chunks of the warm-up.
    """

    start: Callable[[Array, Array, PyTree], Any]
    step: Callable[[Array, Any, PyTree], tuple[Any, dict[str, Array]]]
    parameters: Callable[[Any], dict[str, Array]]
    adapt: Callable[[Any, dict[str, Array]], Any] = lambda state, record: state


def _make_update(parameter_update: Any, problem: _Problem, n_warmup: int, target_accept: float) -> _Update:
    if parameter_update == "nuts":
        return _by_nuts(problem, n_warmup, target_accept)
    if hasattr(parameter_update, "tune"):
        return _by_move(parameter_update, problem)
    if inspect.isroutine(parameter_update) or isinstance(parameter_update, functools.partial):
        return _by_function(parameter_update, problem)
    raise TypeError(
        f"parameter_update must be 'nuts', a move or a function of (key, parameters, path), got {parameter_update!r}"
    )


def _by_nuts(problem: _Problem, n_warmup: int, target_accept: float) -> _Update:
    """One draw of NumPyro's NUTS a sweep, its potential taken at the new path."""

    def potential(path):
        return lambda position: -problem.log_density(position, path)

    init, sample = numpyro_hmc(potential_fn_gen=potential, algo="NUTS")

    def start(key, position, paths):
        def one(key, position, path):
            return init(
                position, n_warmup, step_size=0.5, target_accept_prob=target_accept, model_args=(path,), rng_key=key
            )

        return jax.vmap(one)(jax.random.split(key, position.shape[0]), position, paths)

    def step(key, state, paths):
        def one(state, path):
            # The path has changed since the energy and gradient in the state were computed.
            energy, gradient = jax.value_and_grad(potential(path))(state.z)
            state = sample(state._replace(potential_energy=energy, z_grad=gradient), (path,))
            return state, {
                "acceptance_rate": state.accept_prob,
                "diverging": state.diverging,
                "n_steps": state.num_steps,
                "lp": -state.potential_energy,
            }

        return jax.vmap(one)(state, paths)

    return _Update(start, step, lambda state: jax.vmap(problem.target.constrain)(state.z))


class _Moving(NamedTuple):
    position: Array
    params: MoveParams


def _by_move(move: Move, problem: _Problem) -> _Update:
    """One step of a move a sweep; location, spread and step size are fitted to the chunks of the warm-up."""

    def log_density(paths):
        return lambda positions: (jax.vmap(problem.log_density)(positions, paths), ())

    def start(key, position, paths):
        dim = position.shape[1]
        params = MoveParams(jnp.asarray(move.initial_log_scale(dim), float), jnp.zeros(dim), jnp.ones(dim))
        return _Moving(position, fit_params(params, position, jnp.ones(position.shape[0])))

    def step(key, state, paths):
        density = log_density(paths)
        moved, info = move.step(key, move.start(state.position, density), density, state.params)
        n_chains = state.position.shape[0]
        record = {
            "acceptance_rate": jnp.full(n_chains, info.acceptance),
            "lp": moved.log_density,
            "position": moved.position,
        }
        return _Moving(moved.position, state.params), record

    def adapt(state, record):
        draws = record["position"].reshape(-1, state.position.shape[1])
        params = fit_params(state.params, draws, jnp.ones(draws.shape[0]))
        return state._replace(params=move.tune(params, jnp.mean(record["acceptance_rate"])))

    return _Update(start, step, lambda state: jax.vmap(problem.target.constrain)(state.position), adapt)


def _by_function(draw: GibbsUpdate, problem: _Problem) -> _Update:
    """Parameters drawn by the user from their conditional distribution."""

    def start(key, position, paths):
        return jax.vmap(problem.target.constrain)(position)

    def step(key, state, paths):
        new = jax.vmap(draw)(jax.random.split(key, jax.tree.leaves(state)[0].shape[0]), state, paths)
        if jax.tree.structure(new) != jax.tree.structure(state):
            raise ValueError(f"parameter_update must return the parameters {sorted(state)}, got {new}")
        return jax.tree.map(lambda a, b: a.astype(b.dtype), new, state), {}

    return _Update(start, step, lambda state: state)


class _Sweeps(NamedTuple):
    """The compiled part: a chunk of sweeps of all chains, whose length may vary below CHUNK without recompilation."""

    problem: _Problem
    update: _Update

    def run(
        self, key: Array, state: Any, paths: PyTree, n_sweeps: int, done: int, warming: bool
    ) -> tuple[Any, PyTree, dict[str, Any]]:
        """Run the sweeps chunk by chunk; the record has leading axes (sweep, chain)."""
        records = []
        for begin in range(0, n_sweeps, CHUNK):
            length = min(CHUNK, n_sweeps - begin)
            state, paths, record = _chunk(
                jax.random.fold_in(key, begin), self.problem, self.update, state, paths, jnp.asarray(length)
            )
            record = row(record, slice(length))
            if warming:
                state = self.update.adapt(state, record)
            else:
                records.append(jax.device_get(record))
            advance_bar(done + begin + length, "warm-up" if warming else "sampling")
        if warming:
            return state, paths, {}
        return state, paths, jax.tree.map(lambda *xs: np.concatenate(xs), *records)


@eqx.filter_jit
def _chunk(key, problem: _Problem, update: _Update, state, paths, length):
    n_chains = jax.tree.leaves(paths)[0].shape[0]

    def sweep(key, state, paths):
        key_path, key_update = jax.random.split(key)
        keys = jax.random.split(key_path, n_chains)
        renewal = jax.vmap(problem.renew)(keys, update.parameters(state), paths)
        state, stats = update.step(key_update, state, renewal.path)
        record = {
            "parameters": update.parameters(state),
            "path": renewal.path,
            "renewed": renewal.renewed,
            "collapsed": renewal.collapsed_at >= 0,
            **stats,
        }
        return state, renewal.path, record

    shapes = jax.eval_shape(sweep, key, state, paths)[2]
    kept = jax.tree.map(lambda x: jnp.zeros((CHUNK, *x.shape), x.dtype), shapes)

    def body(i, carry):
        state, paths, kept = carry
        state, paths, record = sweep(jax.random.fold_in(key, i), state, paths)
        return state, paths, jax.tree.map(lambda rows, x: rows.at[i].set(x), kept, record)

    return jax.lax.fori_loop(0, length, body, (state, paths, kept))
