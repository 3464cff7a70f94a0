"""The choices of a tempered SMC run, and their checks at the door."""

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from uqsparse.inference.smc_result import FrozenLadder
from uqsparse.kernels.arguments import require_count, require_fraction

Moves = int | Literal["acceptance", "displacement"]


class Settings(NamedTuple):
    """Static choices: a change recompiles."""

    n_particles: int
    n_moves: Moves
    waste_free: bool
    max_moves: int
    max_temperatures: int
    batch_size: int
    progress: bool
    spread_is_full: bool

    @property
    def chain_length(self) -> int:
        """States of a chain that stay in the population: all of a waste-free sweep, else the last one."""
        return int(self.n_moves) if self.waste_free else 1

    @property
    def n_chains(self) -> int:
        return self.n_particles // self.chain_length


class Schedule(eqx.Module):
    """Where the temperatures and the moves' parameters come from."""

    ess_fraction: Float[Array, ""]
    temperatures: Float[Array, " steps"] | None
    frozen: FrozenLadder | None


def typed(key: Array) -> Array:
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"key must be a JAX random key, e.g. jax.random.key(0); got {type(key).__name__}")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(jnp.asarray(key))


def check_settings(settings: Settings, ess_fraction: float, n_replicates: int) -> None:
    require_count("n_particles", settings.n_particles, 2)
    require_count("n_replicates", n_replicates, 1)
    require_count("max_moves", settings.max_moves, 1)
    require_count("max_temperatures", settings.max_temperatures, 1)
    require_count("batch_size", settings.batch_size, 1)
    require_fraction("ess_fraction", ess_fraction)
    if settings.n_moves in ("acceptance", "displacement"):
        if settings.waste_free:
            raise ValueError(f"waste_free needs a fixed chain length, got n_moves={settings.n_moves!r}")
        return
    require_count("n_moves", settings.n_moves, 2 if settings.waste_free else 1)
    if settings.waste_free and (settings.n_particles % settings.n_moves or settings.n_particles < 2 * settings.n_moves):
        raise ValueError(
            f"waste_free keeps n_particles / n_moves chains, at least 2, of n_moves states each: n_moves="
            f"{settings.n_moves} must divide n_particles={settings.n_particles} at least twice"
        )


def check_ladder(ladder) -> np.ndarray:
    temperatures = np.asarray(ladder, dtype=np.float64)
    steps = np.diff(temperatures, prepend=0.0)
    if temperatures.ndim != 1 or temperatures.size == 0 or not np.all(steps > 0) or temperatures[-1] != 1:
        raise ValueError(f"ladder must increase strictly from above 0 to exactly 1, got {temperatures}")
    return temperatures
