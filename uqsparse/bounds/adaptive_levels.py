"""The recursions behind adaptive conformal inference: levels that follow the misses they cause.

They see a series only through ranks: how many calibration scores lie below the new one. So they can be run for any
score, and for many series and step sizes at once by `jax.vmap`.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Bool, Float, Int

from uqsparse.kernels import array_namespace
from uqsparse.kernels.namespaces import AnyArray
from uqsparse.kernels.recursions import recursion


class AdaptiveLevels(eqx.Module):
    """The state of one or several experts, each with a step size of its own.

    Args:
        alpha: the miscoverage aimed at.
        gamma: step sizes, shape (k,).
        eta: how fast the weights of experts learn; 0 for a single one.
        sigma: the share of weight that is spread evenly after each step.
        levels: the level of each expert, shape (k,).
        weights: how much each counts, shape (k,), summing to one.
    """

    alpha: Float[AnyArray, ""]
    gamma: Float[AnyArray, " k"]
    eta: Float[AnyArray, ""]
    sigma: Float[AnyArray, ""]
    levels: Float[AnyArray, " k"]
    weights: Float[AnyArray, " k"]

    @property
    def alpha_t(self) -> Float[AnyArray, ""]:
        """The level in force: the weighted mean of the experts'."""
        return (self.weights * self.levels).sum(-1)


class Observed(NamedTuple):
    """What one observation showed, or each of a series.

    Args:
        alpha_t: the level in force before it was seen.
        rank: the rank among the calibration scores of the threshold at that level; beyond their number for the whole
            line, 0 for the empty set.
        err: whether it was missed.
        pvalue: its conformal p-value: the least level at which it is missed.
    """

    alpha_t: Float[AnyArray, "..."]
    rank: Int[AnyArray, "..."]
    err: Bool[AnyArray, "..."]
    pvalue: Float[AnyArray, "..."]


def start_levels(
    alpha: Any, gamma: Any, *, eta: Any = 0.0, sigma: Any = 0.0, initial: Any | None = None
) -> AdaptiveLevels:
    """Levels before the first observation; traced step sizes and levels are welcome.

    Args:
        alpha: the miscoverage aimed at, in (0, 1).
        gamma: step sizes, shape (k,) or one number.
        eta: see `AdaptiveLevels`.
        sigma: see `AdaptiveLevels`.
        initial: the first level, alpha if None.
    """
    xp = array_namespace(alpha, gamma, eta, sigma, initial)
    gamma = xp.atleast_1d(xp.asarray(gamma, dtype=float))
    first = xp.asarray(alpha if initial is None else initial, dtype=float)
    alpha, eta, sigma = (xp.asarray(one, dtype=float) for one in (alpha, eta, sigma))
    return AdaptiveLevels(alpha, gamma, eta, sigma, xp.full_like(gamma, first), xp.full_like(gamma, 1 / len(gamma)))


def dtaci_rates(alpha: float, n_experts: int, horizon: int) -> tuple[float, float]:
    """The learning rate and the share spread evenly that DtACI is recommended with.

    Args:
        alpha: the miscoverage aimed at.
        n_experts: the number of step sizes.
        horizon: the number of steps over which the regret is to be small.

    Source: Gibbs & Candès (2024), Conformal inference for online prediction with arbitrary distribution shifts,
    section 3.2.

    >>> dtaci_rates(0.1, 8, 500)
    (2.71..., 0.001)
    """
    typical = ((1 - alpha) ** 2 * alpha**3 + alpha**2 * (1 - alpha) ** 3) / 3
    return math.sqrt((math.log(2 * n_experts * horizon) + 1) / (horizon * typical)), 1 / (2 * horizon)


def rank_at(n: Int[AnyArray, "..."], alpha: Float[AnyArray, "..."]) -> Int[AnyArray, "..."]:
    """`kernels.conformal_rank` for levels that are computed, and may leave (0, 1).

    Returns:
        A whole number from 0, for levels of 1 and above, to n + 1, for levels of 0 and below.
    """
    xp = array_namespace(n, alpha)
    # Generous by as much as one number of this precision can be off.
    slack = 1e-9 if xp.finfo(alpha.dtype).bits >= 64 else 1e-6
    rank = xp.ceil((n + 1) * (1 - alpha - slack))
    rank = xp.where(alpha <= 0, n + 1, xp.where(alpha >= 1, 0, xp.clip(rank, 0, n + 1)))
    return rank.astype("int32")


def levels_step(state: AdaptiveLevels, x: tuple[Any, Any]) -> tuple[AdaptiveLevels, Observed]:
    """See one observation.

    Args:
        state: the levels.
        x: how many calibration scores lie below the new one, and how many there are.

    Source: Gibbs & Candès (2021), Adaptive conformal inference under distribution shift, equation 2, for one step
    size; Gibbs & Candès (2024), Conformal inference for online prediction with arbitrary distribution shifts,
    algorithm 1, with the mean of the experts' levels, for several.
    """
    below, n = x
    xp = array_namespace(state, x)
    alpha_t = state.alpha_t
    rank = rank_at(n, alpha_t)
    pvalue = (n - below + 1) / (n + 1)
    weights = state.weights
    if weights.shape[-1] > 1:
        gap = pvalue - state.levels
        loss = state.alpha * gap - xp.minimum(gap, 0)
        weights = weights * xp.exp(state.eta * (loss.min(-1) - loss))
        weights = (1 - state.sigma) * weights / weights.sum(-1) + state.sigma / weights.shape[-1]
    missed = below >= rank_at(n, state.levels)
    levels = state.levels + state.gamma * (state.alpha - missed)
    moved = AdaptiveLevels(state.alpha, state.gamma, state.eta, state.sigma, levels, weights)
    return moved, Observed(alpha_t, rank, below >= rank, pvalue)


def follow_levels(
    state: AdaptiveLevels, below: Int[AnyArray, " t"], n: Int[AnyArray, " t"]
) -> tuple[AdaptiveLevels, Observed]:
    """See a series.

    Args:
        state: the levels before it.
        below: for each observation, how many of its calibration scores lie below its score, shape (t,).
        n: how many it has, shape (t,).

    Returns:
        The levels after it, and what each observation showed.

    >>> import numpy as np
    >>> _, seen = follow_levels(start_levels(0.5, 0.1), np.array([0, 3, 3]), np.array([3, 3, 3]))
    >>> seen.err.tolist(), seen.alpha_t.round(2).tolist()
    ([False, True, True], [0.5, 0.55, 0.5])
    """
    return recursion(levels_step, state, (below, n))


def error_bound(gamma: float, initial: float, n_steps: int) -> float:
    """How far the share of misses can be from alpha after some steps with one step size, whatever the series.

    Source: Gibbs & Candès (2021), Adaptive conformal inference under distribution shift, proposition 4.1.

    >>> round(error_bound(0.05, 0.1, 5000), 6)
    0.0038
    """
    return (max(initial, 1 - initial) + gamma) / (gamma * n_steps)
