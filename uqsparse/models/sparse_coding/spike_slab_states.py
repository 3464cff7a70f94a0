"""Gaussian posteriors of the active slabs for many states at once, each state from the one with a cause fewer.

Given which causes are active the coefficients z are Gaussian a priori and given y, with precision G_ss + diag(1 / psi)
and natural parameter eta_s = b_s + (mu / psi)_s, where G = W^T W and b = W^T y in units of the noise. Adding a cause h
to a state adds a row to this system; the Schur complement d^2 of the row gives the new evidence, mean and covariance
in O(g^2), and all states with up to gamma of H' candidates are a tree in which nothing is computed twice.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Level(NamedTuple):
    """The states with g active candidates, ordered by their last candidate, then by the one before, and so on.

    In this order the states whose last candidate is h are those with g - 1 candidates below h, with h added; and these
    come first among the states with g - 1. So parents are slices, which is faster than looking them up.

    Args:
        active: the active candidates of each state, ascending, shape (n_states, g).
        n_parents: for each last candidate that occurs, how many of the states with g - 1 candidates it is added to.
    """

    active: Int[np.ndarray, "n_states g"]
    n_parents: tuple[int, ...]

    def of_parents(self, x: Float[Array, "*g n_parent_states n"]) -> Float[Array, "*g n_states n"]:
        """What each state's parent, the same state without its last candidate, has."""
        return jnp.concatenate([x[..., :n, :] for n in self.n_parents], axis=-2)


class Slabs(NamedTuple):
    """The posterior of the active coefficients, for the states of one level and many data.

    Args:
        log_ratio: log of the state's weight less that of no active cause, shape (n_states, n).
        mean: posterior means of the coefficients, shape (g, n_states, n).
        covariance: their posterior covariance, shape (g, g, n_states, n).
    """

    log_ratio: Float[Array, "n_states n"]
    mean: Float[Array, "g n_states n"]
    covariance: Float[Array, "g g n_states n"]


@functools.lru_cache(maxsize=32)
def state_levels(n_candidates: int, gamma: int) -> tuple[Level, ...]:
    """The states with 1, 2, ..., gamma active candidates.

    >>> state_levels(3, 2)[1].active.tolist(), state_levels(3, 2)[1].n_parents
    ([[0, 1], [0, 2], [1, 2]], (1, 2))
    """
    return tuple(
        Level(
            np.array(sorted(itertools.combinations(range(n_candidates), g), key=lambda state: state[::-1])),
            tuple(math.comb(last, g - 1) for last in range(g - 1, n_candidates)),
        )
        for g in range(1, gamma + 1)
    )


def single_slabs(
    gram: Float[Array, " H"],
    projection: Float[Array, "H n"],
    slab_mean: Float[Array, " H"],
    slab_variance: Float[Array, " H"],
) -> Slabs:
    """Posteriors for the states with one active cause, with the log ratio of their likelihoods.

    Args:
        gram: squared norm of each column of the dictionary, in units of the noise.
        projection: inner products of columns and data, in units of the noise.
        slab_mean: prior mean of each coefficient.
        slab_variance: its prior variance, positive.
    """
    precision = (gram + 1 / slab_variance)[:, None]
    natural = projection + (slab_mean / slab_variance)[:, None]
    mean = natural / precision
    constant = -0.5 * (jnp.log(slab_variance) + slab_mean**2 / slab_variance)
    log_ratio = constant[:, None] + 0.5 * (natural * mean - jnp.log(precision))
    covariance = jnp.broadcast_to(1 / precision, mean.shape)
    return Slabs(log_ratio, mean[None], covariance[None, None])


def candidate_slabs(
    levels: tuple[Level, ...],
    singles: Slabs,
    gram: Float[Array, "n_candidates n_candidates n"],
    projection: Float[Array, "n_candidates n"],
    slab_mean: Float[Array, "n_candidates n"],
    slab_variance: Float[Array, "n_candidates n"],
    log_odds: Float[Array, "n_candidates n"],
    temperature: Any,
) -> tuple[Slabs, ...]:
    """Posteriors for all states of two or more candidates, level by level.

    Args:
        levels: from `state_levels`.
        singles: posteriors with one active candidate each, with the log ratio of their tempered joints.
        gram: Gram matrix of each datum's candidates, in units of the noise.
        projection: inner products of candidates and datum, in units of the noise.
        slab_mean: prior means of the candidates' coefficients.
        slab_variance: their prior variances.
        log_odds: their prior log odds.
        temperature: what the log likelihood is divided by.

    Returns:
        One entry a level, from two active candidates on; empty if there is one level only.
    """
    found = []
    before = singles
    natural = projection + slab_mean / slab_variance
    constant = -0.5 * (jnp.log(slab_variance) + slab_mean**2 / slab_variance)
    diagonal = jnp.diagonal(gram).T + 1 / slab_variance
    for level in levels[1:]:
        last, others = level.active[:, -1], level.active[:, :-1].T
        parent = jax.tree.map(level.of_parents, before)
        mean, covariance = parent.mean, parent.covariance
        coupling = gram[others, last]
        # Sums written out: XLA's reductions over a leading axis are slow on a CPU.
        gain = _dot(jnp.swapaxes(covariance, 0, 1), coupling)
        # The Schur complement of G + 1 / psi is at least that of 1 / psi, whatever rounding does to duplicate columns.
        schur = jnp.maximum(diagonal[last] - _dot(coupling, gain), (1 / slab_variance)[last])
        surprise = (natural[last] - _dot(coupling, mean)) / schur
        likelihood = schur * surprise**2 - jnp.log(schur)
        change = jnp.concatenate([-gain, jnp.ones_like(gain[:1])])
        wider = ((0, 1), (0, 0), (0, 0))
        before = Slabs(
            parent.log_ratio + log_odds[last] + (constant[last] + 0.5 * likelihood) / temperature,
            jnp.pad(mean, wider) + change * surprise,
            jnp.pad(covariance, (wider[0], *wider)) + change[:, None] * change / schur,
        )
        found.append(before)
    return tuple(found)


def add_moments(
    levels: tuple[Level, ...], slabs: tuple[Slabs, ...], weights: tuple[Float[Array, "n_states n"], ...]
) -> tuple[Float[Array, "n_candidates n"], Float[Array, "n_candidates n"], Float[Array, "n_candidates n_candidates n"]]:
    """Moments of the candidates under the states of two or more, each state with a weight.

    Args:
        levels: from `state_levels`.
        slabs: from `candidate_slabs`.
        weights: posterior probabilities of the states, one array a level.

    Returns:
        For each candidate and datum: the weight of the states in which it is active, the mean of its coefficient (0
        where it is not active), and the second moments of all pairs.
    """
    n_candidates, n = len(levels[0].active), weights[0].shape[-1] if weights else 0
    dtype = weights[0].dtype
    active, first = (jnp.zeros((n_candidates, n), dtype) for _ in range(2))
    second = jnp.zeros((n_candidates, n_candidates, n), dtype)
    for level, slab, weight in zip(levels[1:], slabs, weights, strict=True):
        places = level.active.T
        row, column = np.triu_indices(len(places))
        active = active.at[places].add(jnp.broadcast_to(weight, slab.mean.shape))
        first = first.at[places].add(weight * slab.mean)
        pairs = weight * (slab.mean[row] * slab.mean[column] + slab.covariance[row, column])
        second = second.at[places[row], places[column]].add(pairs)
    # Places ascend, so only the upper triangle was filled.
    diagonal = np.eye(n_candidates)[:, :, None]
    return active, first, second + jnp.swapaxes(second, 0, 1) * (1 - diagonal)


def _dot(one: Float[Array, "g n_states n"], other: Float[Array, "g n_states n"]) -> Float[Array, "n_states n"]:
    return functools.reduce(jnp.add, (one[j] * other[j] for j in range(len(one))))
