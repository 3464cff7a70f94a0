"""How far a particle filter's log evidence may be off, estimated from the genealogy of the one run.

Two particles of the last population that descend from one particle of time s share the chance that was had there.
Summed over pairs, the weight of those that meet at s estimates what time s adds to the relative variance of the
evidence (Chan & Lai 2013; Lee & Whiteley 2018). Over a long series all lineages meet, and nothing is left to count;
but what happened at s has said its word a few steps later. So pairs are counted at a fixed lag (Olsson & Douc 2019), of
one to two windows, by two genealogies that start anew in turns.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from uqsparse.inference.filter_settings import FilterSettings

WINDOW = 20  # steps


class Lineage(NamedTuple):
    """Roots of the particles in the last two windows, and the variance counted so far."""

    older: Int[Array, " n"]
    younger: Int[Array, " n"]
    variance: Float[Array, ""]
    noise: Float[Array, ""]


def start_lineage(n: int) -> Lineage:
    """Every particle of the first population is a root."""
    each = jnp.arange(n, dtype=jnp.int32)
    return Lineage(each, each, jnp.zeros(()), jnp.zeros(()))


def extend_lineage(
    lineage: Lineage, t, weights_before, ancestors, resampled, weights, settings: FilterSettings
) -> Lineage:
    """Follow one step, and close the older window when it is two windows long."""
    n = settings.n_particles

    def follow(lineage: Lineage) -> Lineage:
        noise = lineage.noise
        if settings.scheme.rounds_evenly:
            # Pairs made by rounding alone, n W to a whole number of offspring, do not move the evidence.
            expected = n * weights_before
            chance = expected - jnp.floor(expected)
            noise += jnp.sum(chance * (1 - chance)) / float(n) ** 2
        return lineage._replace(older=lineage.older[ancestors], younger=lineage.younger[ancestors], noise=noise)

    def close(lineage: Lineage) -> Lineage:
        met = _mass(lineage.older, weights) - _mass(lineage.younger, weights)
        return Lineage(lineage.younger, jnp.arange(n, dtype=jnp.int32), lineage.variance + met, lineage.noise)

    lineage = jax.lax.cond(resampled, follow, lambda x: x, lineage)
    return jax.lax.cond(t % WINDOW == 0, close, lambda x: x, lineage)


def close_lineage(lineage: Lineage, weights: Float[Array, " n"]) -> Float[Array, ""]:
    """Estimated relative variance of the evidence, which is the variance of its logarithm when small."""
    n = weights.shape[0]
    own = jnp.sum(weights**2) - 1 / n
    return jnp.maximum(lineage.variance + _mass(lineage.older, weights) - 1 / n - lineage.noise, jnp.maximum(own, 0.0))


def _mass(roots, weights):
    """Sum over roots of the squared weight of their descendants."""
    return jnp.sum(jax.ops.segment_sum(weights, roots, weights.shape[0]) ** 2)
