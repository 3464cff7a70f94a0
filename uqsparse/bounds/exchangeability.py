"""Watching a stream for the moment it stops looking like the calibration data: an exchangeability martingale.

If the observations are exchangeable, smoothed conformal p-values are independent and uniform, and no bet against that
makes money: the capital of a gambler exceeds 1 / delta at any time with probability at most delta.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int, Num

from uqsparse.bounds.conformal import checked_scores
from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.scores.score import as_array
from uqsparse.kernels import array_namespace, is_traced
from uqsparse.kernels.arguments import require_fraction
from uqsparse.kernels.namespaces import AnyArray
from uqsparse.kernels.recursions import recursion
from uqsparse.kernels.window_ranks import count_in_window, window_ranks

FIXED_SCORE = "the score is fixed in advance, or depends on the observations as a set and not on their order"


class JumperState(NamedTuple):
    """The capital of a simple jumper.

    Args:
        shares: how much of it stands on small p-values, on none, and on large ones, shape (3,), summing to one.
        log_capital: its logarithm, 0 at the start.
    """

    shares: Float[AnyArray, " 3"]
    log_capital: Float[AnyArray, ""]


class ExchangeabilityMartingale(eqx.Module):
    """How much a gambler has won against the exchangeability of a stream.

    Args:
        log_martingale: logarithm of the capital after each observation, shape (n,); it starts from 0.
        pvalues: the smoothed conformal p-values it was bet on, shape (n,).
        log_max: the most it ever had, at least 0.
        alarm: the first observation, counted from 0, after which the capital was at least 1 / delta; -1 if none.
        delta: the probability of a false alarm allowed.
        guarantee: what an alarm is worth.
    """

    log_martingale: Float[AnyArray, " n"]
    pvalues: Float[AnyArray, " n"]
    log_max: Float[AnyArray, ""]
    alarm: Int[AnyArray, ""]
    delta: float = eqx.field(static=True)
    guarantee: Guarantee = eqx.field(static=True)

    @property
    def pvalue(self) -> Float[AnyArray, ""]:
        """Against exchangeability, valid at whatever time you look: one over the most the gambler ever had."""
        return array_namespace(self.log_max).exp(-self.log_max)

    @property
    def alarmed(self) -> Any:
        """Whether there was an alarm."""
        return self.alarm >= 0

    def to_arviz(self) -> Any:
        """The p-values and the path as an `xarray.Dataset`, with the guarantee in its attributes."""
        import xarray

        contents = {
            "pvalue": ("observation", np.asarray(self.pvalues)),
            "log_martingale": ("observation", np.asarray(self.log_martingale)),
        }
        attributes = {
            "guarantee": self.guarantee.kind,
            "level": self.guarantee.level,
            "alpha": self.delta,
            "n": self.guarantee.n,
            "assumptions": list(self.guarantee.assumptions),
            "alarm": int(self.alarm),
        }
        return xarray.Dataset(contents, attrs=attributes)


def online_pvalues(scores: Num[AnyArray, " n"], u: Float[AnyArray, " n"]) -> Float[AnyArray, " n"]:
    """The smoothed conformal p-value of each score among itself and those before it, in O(n log n).

    Args:
        scores: shape (n,), larger is stranger.
        u: independent uniform numbers, shape (n,), which part of the ties counts.

    Returns:
        (#{j <= i: s_j > s_i} + u_i #{j <= i: s_j = s_i}) / i. Of exchangeable scores they are independent and uniform.

    Raises:
        ValueError: scores are empty or NaN, or u has another shape or leaves [0, 1].

    Source: Vovk, Gammerman & Shafer (2005), Algorithmic learning in a random world, equation 2.20 and theorem 8.2.

    >>> online_pvalues(np.array([3.0, 1.0, 2.0, 2.0]), np.full(4, 0.5)).tolist()
    [0.5, 0.75, 0.5, 0.5]
    """
    scores, u = checked_scores(scores), as_array("u", u)
    if u.shape != scores.shape:
        raise ValueError(f"u has shape {u.shape}; there are {scores.shape[0]} scores")
    if not is_traced(u) and not ((np.asarray(u) >= 0) & (np.asarray(u) <= 1)).all():
        raise ValueError("u must lie in [0, 1]")
    xp = array_namespace(scores, u)
    stop = xp.arange(1, scores.shape[0] + 1, dtype="int32")
    index = window_ranks(scores)
    below, equal = count_in_window(index, xp.zeros_like(stop), stop, index.codes)
    return (stop - below - equal + u * equal) / stop


def start_jumper() -> JumperState:
    """A capital of 1, a third on each bet."""
    return JumperState(np.full(3, 1 / 3), np.zeros(()))


def jumper_step(
    state: JumperState, pvalue: Float[AnyArray, ""], jump: float = 0.01
) -> tuple[JumperState, Float[AnyArray, ""]]:
    """Bet on one p-value; the next state and the logarithm of its capital.

    Source: Vovk, Petej, Nouretdinov, Ahlberg, Carlsson & Gammerman (2021), Retrain or not retrain: conformal test
    martingales for change-point detection, algorithm 1.
    """
    xp = array_namespace(state, pvalue)
    shares = (1 - jump) * state.shares + jump / 3
    won = shares * (1 + xp.arange(-1, 2) * (pvalue - 0.5))
    factor = won.sum(-1)
    log_capital = state.log_capital + xp.log(factor)
    return JumperState(won / factor, log_capital), log_capital


def _step_with_jump(carry: tuple[JumperState, Any], pvalue: Any) -> tuple[tuple[JumperState, Any], Any]:
    state, jump = carry
    state, log_capital = jumper_step(state, pvalue, jump)
    return (state, jump), log_capital


def simple_jumper(pvalues: Float[AnyArray, " n"], jump: float = 0.01) -> Float[AnyArray, " n"]:
    """The logarithm of the capital along p-values.

    Args:
        pvalues: shape (n,), in [0, 1].
        jump: in (0, 1), the share of the capital that is spread anew over the bets before each one.

    Raises:
        ValueError: there are none, one leaves [0, 1], or jump is out of range.

    >>> bool(simple_jumper(np.full(200, 0.02))[-1] > 50)
    True
    """
    pvalues = as_array("pvalues", pvalues)
    if pvalues.ndim != 1 or not pvalues.shape[0]:
        raise ValueError(f"pvalues have shape {pvalues.shape}; expected (n,) with n >= 1")
    if not is_traced(pvalues) and not ((np.asarray(pvalues) >= 0) & (np.asarray(pvalues) <= 1)).all():
        raise ValueError("pvalues must lie in [0, 1]")
    require_fraction("jump", jump)
    return recursion(_step_with_jump, (start_jumper(), np.asarray(jump)), pvalues)[1]


def exchangeability_martingale(
    key: Array, scores: Num[AnyArray, " n"], *, delta: float = 0.01, jump: float = 0.01
) -> ExchangeabilityMartingale:
    """Bet against the exchangeability of a stream, and say when the winnings are an alarm.

    The capital is a martingale if the observations are exchangeable. By Ville's inequality it then reaches 1 / delta
    at any time with probability at most delta, so that it can be looked at after every observation.

    Args:
        key: random key, for ties.
        scores: nonconformity scores of the observations in the order of time, shape (n,); put those of the calibration
            data first, to be told when the stream leaves them.
        delta: the probability of a false alarm allowed, in (0, 1).
        jump: see `simple_jumper`.

    Raises:
        ValueError: scores are empty or NaN, or delta or jump is out of range.

    Source: Vovk, Petej, Nouretdinov, Ahlberg, Carlsson & Gammerman (2021), Retrain or not retrain: conformal test
    martingales for change-point detection.

    >>> scores = np.r_[np.linspace(0, 1, 200) % 0.1, np.linspace(1, 2, 200)]
    >>> bool(exchangeability_martingale(jax.random.key(0), scores).alarmed)
    True
    """
    require_fraction("delta", delta)
    require_fraction("jump", jump)
    scores = checked_scores(scores)
    xp = array_namespace(scores)
    u = jax.random.uniform(key, scores.shape)
    pvalues = online_pvalues(scores, np.asarray(u, dtype=np.float64) if xp is np else u)
    path = simple_jumper(pvalues, jump)
    high = path >= math.log(1 / delta)
    return ExchangeabilityMartingale(
        log_martingale=path,
        pvalues=pvalues,
        log_max=xp.maximum(path.max(), 0.0),
        alarm=xp.where(high.any(), xp.argmax(high), -1),
        delta=float(delta),
        guarantee=Guarantee("false alarm", float(delta), scores.shape[0], (FIXED_SCORE,)),
    )
