"""One sweep of tempered SMC: every chosen particle makes its Markov steps under the new tempered density."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from uqsparse.inference.batches import in_batches
from uqsparse.inference.moves import Move, MoveInfo, MoveParams, MoveState, unspread
from uqsparse.inference.smc_settings import Settings
from uqsparse.inference.targets import TemperedTarget, temper


class Particles(NamedTuple):
    """An equally weighted population: positions (n, d) with their log prior (n,) and log likelihood (n,)."""

    position: Float[Array, "n d"]
    log_prior: Float[Array, " n"]
    log_likelihood: Float[Array, " n"]


class Sweep(NamedTuple):
    """Summary of a sweep."""

    acceptance: Float[Array, ""]
    n_moves: Array
    jump: Float[Array, ""]
    has_nan: Array
    nan_at: Float[Array, " d"]


def sweep(
    key: Array,
    chosen: Particles,
    target: TemperedTarget,
    temperature: Float[Array, ""],
    move: Move,
    params: MoveParams,
    n_moves: Array,
    settings: Settings,
) -> tuple[Particles, Sweep]:
    """Move every chosen particle; return the next population and what the sweep did.

    The number of steps is fixed before the sweep, except by the rule "displacement", which looks at the mean distance
    of the whole population. Waste-free sweeps keep all states of the chains: element p n_chains + m of the
    population is state p of chain m.
    """

    def log_density(u):
        log_prior, log_likelihood = jax.vmap(target.split)(u)
        return temper(log_prior, log_likelihood, temperature), (log_prior, log_likelihood)

    def start(_, chosen: Particles):
        known = (
            temper(chosen.log_prior, chosen.log_likelihood, temperature),
            (chosen.log_prior, chosen.log_likelihood),
        )
        return move.start(chosen.position, log_density, known), ()

    def step(key, state: MoveState) -> tuple[MoveState, MoveInfo]:
        state, infos = in_batches(
            lambda key, batch: move.step(key, batch, log_density, params), key, state, settings.batch_size
        )
        worst = jnp.argmax(infos.has_nan)
        return state, MoveInfo(jnp.mean(infos.acceptance), infos.has_nan[worst], infos.nan_at[worst])

    def distance(position):
        """Mean squared Mahalanobis distance from the start, in the coordinates of the moves."""
        return jnp.mean(jnp.sum(unspread(params.spread, position - chosen.position) ** 2, axis=-1))

    key, key_start = jax.random.split(key)
    state, _ = in_batches(start, key_start, chosen, settings.batch_size)

    if settings.waste_free:
        first = Particles(state.position, *state.extras)

        def link(state, key):
            state, info = step(key, state)
            return state, (Particles(state.position, *state.extras), info)

        state, (links, infos) = jax.lax.scan(link, state, jax.random.split(key, settings.chain_length - 1))
        population = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]).reshape(-1, *a.shape[1:]), first, links)
        worst = jnp.argmax(infos.has_nan)
        return population, Sweep(
            jnp.mean(infos.acceptance),
            n_moves,
            distance(state.position),
            infos.has_nan[worst],
            infos.nan_at[worst],
        )

    def goes_on(carry):
        _, sweep, previous = carry
        ok = (sweep.n_moves < n_moves) & ~sweep.has_nan
        if settings.n_moves == "displacement":
            # Compared on the root mean square distance; the first step has nothing to be compared with.
            ok &= (sweep.n_moves < 2) | (sweep.jump > 1.05**2 * previous)
        return ok

    def one_step(carry):
        state, sweep, _ = carry
        state, info = step(jax.random.fold_in(key, sweep.n_moves), state)
        # Distances cost a triangular solve, so the fixed rules compute only the last one, below.
        jump = distance(state.position) if settings.n_moves == "displacement" else sweep.jump
        done = Sweep(sweep.acceptance + info.acceptance, sweep.n_moves + 1, jump, info.has_nan, info.nan_at)
        return state, done, sweep.jump

    zero = jnp.zeros(())
    nothing = Sweep(zero, jnp.zeros((), int), zero, jnp.asarray(False), jnp.zeros_like(params.mean))
    state, sweep, _ = jax.lax.while_loop(goes_on, one_step, (state, nothing, zero))
    sweep = sweep._replace(acceptance=sweep.acceptance / sweep.n_moves, jump=distance(state.position))
    return Particles(state.position, *state.extras), sweep
