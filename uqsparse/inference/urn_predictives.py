"""Predictives that repeat what they have seen: the Bayesian bootstrap and the Dirichlet process.

The next observation is one of those so far, each with the same chance (Polya's urn), or with the Dirichlet process now
and then a new one from a base law. Nothing is assumed about the law of the data but that what was seen may come again.

Sources: Rubin (1981), The Bayesian bootstrap; Blackwell & MacQueen (1973), Ferguson distributions via Polya urn
schemes; Sethuraman (1994), A constructive definition of Dirichlet priors.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from uqsparse.inference.predictive_rules import count_observations

# Slots for draws from the base law are provided for futures of this length.
_LONGEST_FUTURE = 10**6


class UrnState(NamedTuple):
    """An urn: observations and how often each was drawn.

    Args:
        atoms: observations, leading axis m; those given first, then slots for new ones.
        counts: how often each is in the urn, zero for empty slots, (m,).
        base_count: observations that the base law counts for; 0 in the Bayesian bootstrap.
    """

    atoms: PyTree
    counts: Float[Array, " m"]
    base_count: Float[Array, ""]

    @property
    def weights(self) -> Float[Array, " m"]:
        """The empirical law: weights of the atoms, which add up to one."""
        return self.counts / self.counts.sum()

    @property
    def mean(self) -> PyTree:
        """Mean of the empirical law."""
        return jax.tree.map(lambda atoms: jnp.tensordot(self.weights, atoms, 1), self.atoms)


class UrnDraw(NamedTuple):
    """An observation drawn from an urn, and the slot that it lies in."""

    slot: Int[Array, ""]
    value: PyTree


class BayesianBootstrap(eqx.Module):
    """The predictive that draws from the observations so far. In the limit their weights are Dirichlet(1, ..., 1).

    Observations are arrays of any kind, or pytrees of them, such as pairs (x, y): with `functional` a weighted
    estimator, this is inference for whatever that estimator estimates. `n_forward=math.inf` draws the Dirichlet
    weights at once, and is exact.

    Source: Rubin (1981); Fong, Holmes & Walker (2023), Martingale posterior distributions.

    >>> import math
    >>> from uqsparse.inference.predictive_resampling import martingale_posterior
    >>> y = np.array([1.0, 2.0, 4.0, 7.0])
    >>> found = martingale_posterior(jax.random.key(0), BayesianBootstrap(), y, lambda urn: urn.mean, math.inf)
    >>> found.samples.shape, bool(abs(found.samples.mean() - 3.5) < 0.2)
    ((1000,), True)
    """

    def init(self, data: PyTree) -> UrnState:
        """An urn with every observation once.

        Raises:
            ValueError: there are none, or they are not finite.
        """
        n = count_observations(data)
        if n == 0:
            raise ValueError("data must hold at least one observation for the Bayesian bootstrap, got none")
        return _urn(data, np.ones(n), 0.0)

    def sample(self, key: Array, state: UrnState) -> UrnDraw:
        """One of the observations in the urn."""
        return _drawn(state, _slot(key, state.counts))

    def update(self, state: UrnState, y: UrnDraw) -> UrnState:
        """The urn with that observation once more."""
        return state._replace(counts=state.counts.at[y.slot].add(1))

    def limit(self, key: Array, state: UrnState) -> UrnState:
        """The urn after infinitely many draws: Dirichlet weights for counts."""
        return state._replace(counts=jax.random.dirichlet(key, state.counts))

    def empirical(self, state: UrnState) -> tuple[PyTree, Float[Array, " m"]]:
        """Atoms and weights of all observations."""
        return state.atoms, state.weights

    def observation(self, y: UrnDraw) -> PyTree:
        """The observation in a draw."""
        return y.value


class DirichletProcess(eqx.Module):
    """The predictive of a Dirichlet process: the base law counts for some observations, and so do those seen.

    Args:
        base: function of a key to one draw from the base law, of the form of one observation.
        concentration: number of observations that the base law counts for, positive.
        n_slots: most draws from the base law that a future can keep. Left out, enough for a million draws with
            probability 1 - 1e-9; when they are full no more draws come from the base law.

    Raises:
        TypeError: `base` is no function.
        ValueError: `concentration` is not positive and finite, or `n_slots` is below 1.

    Source: Blackwell & MacQueen (1973); the limit by Sethuraman (1994), with the sticks beyond the slots
    given to the last one.

    >>> normal = DirichletProcess(lambda key: jax.random.normal(key), concentration=2.0)
    >>> urn = normal.init(np.array([0.5, 1.5]))
    >>> int(urn.counts.sum()), float(urn.base_count)
    (2, 2.0)
    """

    base: Callable[[Array], PyTree]
    concentration: float
    n_slots: int | None = None

    def __check_init__(self) -> None:
        if not callable(self.base):
            raise TypeError(f"base must be a function of a key, got {type(self.base).__name__}")
        if not (math.isfinite(self.concentration) and self.concentration > 0):
            raise ValueError(f"concentration must be positive, got {self.concentration}")
        if self.n_slots is not None and self.n_slots < 1:
            raise ValueError(f"n_slots must be at least 1, got {self.n_slots}")

    def init(self, data: PyTree = None) -> UrnState:
        """The urn of the data; None or no observations for the base law alone.

        Raises:
            ValueError: the observations are not finite, or of another form than draws from the base law.
        """
        n = count_observations(data)
        draw = jax.eval_shape(self.base, jax.random.key(0))
        if data is None:
            data = jax.tree.map(lambda one: np.zeros((0, *one.shape), one.dtype), draw)
        same = jax.tree.structure(data) == jax.tree.structure(draw) and all(
            np.shape(all_)[1:] == one.shape
            for all_, one in zip(jax.tree.leaves(data), jax.tree.leaves(draw), strict=True)
        )
        if not same:
            raise ValueError("base must draw something of the form of one observation of the data")
        n_slots = self.n_slots or _slots(self.concentration, n)

        def room(one, all_):
            dtype = jnp.promote_types(one.dtype, np.asarray(all_).dtype)
            return np.concatenate([np.asarray(all_, dtype), np.zeros((n_slots, *one.shape), dtype)])

        return _urn(jax.tree.map(room, draw, data), np.r_[np.ones(n), np.zeros(n_slots)], self.concentration)

    def sample(self, key: Array, state: UrnState) -> UrnDraw:
        """An observation of the urn, or a new one that will take the first empty slot."""
        slot_key, base_key = jax.random.split(key)
        is_empty = state.counts == 0
        first = jnp.argmax(is_empty)
        offered = state.counts.at[first].add(jnp.where(is_empty[first], state.base_count, 0.0))
        slot = _slot(slot_key, offered)
        is_new = is_empty[first] & (slot == first)
        new = self.base(base_key)
        old = _drawn(state, slot).value
        return UrnDraw(slot, jax.tree.map(lambda a, b: jnp.where(is_new, a.astype(b.dtype), b), new, old))

    def update(self, state: UrnState, y: UrnDraw) -> UrnState:
        """The urn with that observation once more."""
        atoms = jax.tree.map(lambda all_, one: all_.at[y.slot].set(one), state.atoms, y.value)
        return state._replace(atoms=atoms, counts=state.counts.at[y.slot].add(1))

    def limit(self, key: Array, state: UrnState) -> UrnState:
        """A draw from the posterior Dirichlet process: weights of the observations, and sticks for the empty slots."""
        share_key, stick_key, base_key = jax.random.split(key, 3)
        is_empty = state.counts == 0
        # Gamma draws in place of a Dirichlet: empty slots share one draw for the base law.
        gammas = jnp.where(is_empty, 0.0, jax.random.gamma(share_key, jnp.where(is_empty, 1.0, state.counts)))
        base_gamma = jax.random.gamma(jax.random.fold_in(share_key, 1), state.base_count)
        # 1 - U^(1/a) is Beta(1, a)
        uniforms = jax.random.uniform(stick_key, state.counts.shape, state.counts.dtype)
        breaks = -jnp.expm1(jnp.log1p(-uniforms) / state.base_count)
        last = state.counts.size - 1 - jnp.argmax(is_empty[::-1])
        breaks = jnp.where(jnp.arange(state.counts.size) == last, 1.0, jnp.where(is_empty, breaks, 0.0))
        left = jnp.concatenate([jnp.ones(1), jnp.cumprod(1 - breaks)[:-1]])
        counts = gammas + base_gamma * breaks * left
        new = jax.vmap(self.base)(jax.random.split(base_key, state.counts.size))

        def fill(all_, drawn):
            mask = is_empty.reshape(-1, *[1] * (all_.ndim - 1))
            return jnp.where(mask, drawn.astype(all_.dtype), all_)

        return UrnState(jax.tree.map(fill, state.atoms, new), counts / counts.sum(), jnp.zeros_like(state.base_count))

    def empirical(self, state: UrnState) -> tuple[PyTree, Float[Array, " m"]]:
        """Atoms and weights of all observations."""
        return state.atoms, state.weights

    def observation(self, y: UrnDraw) -> PyTree:
        """The observation in a draw."""
        return y.value


def _urn(atoms: PyTree, counts: Float[np.ndarray, " m"], base_count: float) -> UrnState:
    # made by NumPy: each shape of an array made by JAX is compiled
    return UrnState(jax.tree.map(jnp.asarray, atoms), jnp.asarray(counts), jnp.asarray(base_count, float))


def _slot(key: Array, counts: Float[Array, " m"]) -> Int[Array, ""]:
    """A slot with probability in proportion to its count; never one whose count is zero."""
    ends = jnp.cumsum(counts)
    # counted rather than searched: faster in a batch
    return jnp.sum(ends <= jax.random.uniform(key, dtype=ends.dtype) * ends[-1])


def _drawn(state: UrnState, slot: Any) -> UrnDraw:
    return UrnDraw(slot, jax.tree.map(lambda atoms: atoms[slot], state.atoms))


def _slots(concentration: float, n: int) -> int:
    """Draws from the base law in the longest future: their mean, and six standard deviations and a few more."""
    mean = concentration * math.log1p(_LONGEST_FUTURE / (n + concentration)) + 1
    return math.ceil(mean + 6.5 * math.sqrt(mean) + 12)


def urn_quantile(state: UrnState, level: float) -> Float[Array, "..."]:
    """Quantile of an urn of numbers: the smallest atom at which the empirical distribution function reaches the level.

    Args:
        state: state of a `BayesianBootstrap` or a `DirichletProcess` whose atoms are numbers (m,).
        level: in [0, 1].

    >>> urn = UrnState(jnp.array([3.0, 1.0, 2.0]), jnp.array([1.0, 1.0, 2.0]), jnp.zeros(()))
    >>> float(urn_quantile(urn, 0.5))
    2.0
    """
    order = jnp.argsort(state.atoms)
    weights = state.weights[order]
    place = jnp.searchsorted(jnp.cumsum(weights), level * (1 - 1e-12))
    # rounding may leave the sum of the weights below the level 1: the largest atom of positive weight then
    last = weights.size - 1 - jnp.argmax((weights > 0)[::-1])
    return state.atoms[order][jnp.minimum(place, last)]
