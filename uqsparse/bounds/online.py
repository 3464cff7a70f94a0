"""Adaptive conformal inference: prediction sets along a series, whose share of misses is held at alpha."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Num

from uqsparse.bounds.adaptive_levels import (
    AdaptiveLevels,
    Observed,
    dtaci_rates,
    error_bound,
    follow_levels,
    levels_step,
    rank_at,
    start_levels,
)
from uqsparse.bounds.conformal import checked_scores, level_of
from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.regions import Region
from uqsparse.bounds.scores.score import Score, as_array
from uqsparse.kernels import array_namespace, is_traced
from uqsparse.kernels.arguments import require_count, require_fraction
from uqsparse.kernels.namespaces import AnyArray
from uqsparse.kernels.window_ranks import count_in_window, order_statistic_in_window, window_ranks

SEEN_IN_TIME = "each observation is seen before the next set is predicted"
ONE_SUITS = "one of the step sizes suits the shifts of the series"
DEFAULT_GAMMA = {"aci": (0.005,), "dtaci": (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)}

Window = int | Literal["expanding", "fixed"]


class AdaptiveState(NamedTuple):
    """Where a series stands, before its next observation.

    Args:
        levels: the level in force, and what it is made of.
        scores: the calibration scores in force, in the order of time, shape (n,).
    """

    levels: AdaptiveLevels
    scores: Float[AnyArray, " n"]

    @property
    def alpha_t(self) -> Float[AnyArray, ""]:
        """The level of the next set: at most 0 for the whole line, at least 1 for the empty set."""
        return self.levels.alpha_t


class AdaptiveRun(eqx.Module):
    """The sets along a series, each predicted before its observation was seen.

    Args:
        sets: the prediction sets, with the guarantee; unbounded where `alpha_t` had fallen too low for the number of
            calibration scores, empty where it had reached 1.
        err: whether each missed, shape (t,): whether the score of y was above the threshold.
        alpha_t: the level each was predicted at, shape (t,).
        pvalue: the conformal p-value of each observation among its calibration scores, shape (t,).
        state: where the series stands afterwards, to go on from.
        bound: how far the share of misses can be from alpha at most; None where no such bound holds.
    """

    sets: Region
    err: Bool[AnyArray, " t"]
    alpha_t: Float[AnyArray, " t"]
    pvalue: Float[AnyArray, " t"]
    state: AdaptiveState
    bound: float | None = eqx.field(static=True)

    @property
    def mean_error(self) -> Float[AnyArray, ""]:
        """The share of misses."""
        return self.err.mean(-1)

    @property
    def guarantee(self) -> Guarantee | None:
        """What the sets promise."""
        return self.sets.guarantee

    def to_arviz(self, data: Any = None) -> Any:
        """The sets, thresholds and p-values as group `conformal` of ArviZ data; see `Region.to_arviz`."""
        return self.sets.to_arviz(data, pvalue=self.pvalue)


class AdaptiveConformal:
    """Adaptive conformal inference, along a whole series or step by step.

    The level alpha_t falls after a miss and rises after a hit, and the next threshold is the conformal quantile of the
    calibration scores at that level. With one step size ("aci") the share of misses tends to alpha along any series,
    whatever shifts it has, within `AdaptiveRun.bound`. Several step sizes ("dtaci") are weighed by how well each has
    followed the series; that adapts to the size of the shifts and has no such bound.

    Args:
        score: the nonconformity score, see `scores`.
        alpha: miscoverage aimed at, in (0, 1).
        method: "aci", or "dtaci".
        gamma: the step size for "aci", 0.005 by default; several for "dtaci", 0.001 to 0.128 by default. Large steps
            follow fast, and at times give the whole line or the empty set.
        window: which scores calibrate: "expanding" takes those given at the start and all since, a number the latest
            so many of them, "fixed" only those given at the start.
        initial: the level of the first set; alpha by default.
        horizon: for "dtaci", the number of steps over which it is to do as well as the best step size.

    Raises:
        ValueError: an argument is out of range, or there are several step sizes for "aci".

    Source: Gibbs & Candès (2021), Adaptive conformal inference under distribution shift; Gibbs & Candès (2024),
    Conformal inference for online prediction with arbitrary distribution shifts.

    >>> from uqsparse.bounds.scores import AbsoluteResidual
    >>> y = np.random.default_rng(0).normal(size=1000) * np.linspace(1, 9, 1000)
    >>> method = AdaptiveConformal(AbsoluteResidual(), alpha=0.1, gamma=0.005)
    >>> found = method.run(np.zeros(900), y[100:], calibration=(np.zeros(100), y[:100]))
    >>> abs(float(found.mean_error) - 0.1) <= found.bound
    True
    """

    def __init__(
        self,
        score: Score,
        alpha: float = 0.1,
        *,
        method: Literal["aci", "dtaci"] = "aci",
        gamma: float | Sequence[float] | None = None,
        window: Window = "expanding",
        initial: float | None = None,
        horizon: int = 500,
    ):
        if not isinstance(score, Score):
            raise TypeError(f"score must be a Score, got {type(score).__name__}")
        require_fraction("alpha", alpha)
        if method not in DEFAULT_GAMMA:
            raise ValueError(f"method must be 'aci' or 'dtaci', got {method!r}")
        given = DEFAULT_GAMMA[method] if gamma is None else gamma
        steps = tuple(np.atleast_1d(np.asarray(given, dtype=float)).tolist())
        if not steps or not all(0 < one < np.inf for one in steps):
            raise ValueError(f"gamma must be positive, got {gamma!r}")
        if (method == "aci") != (len(steps) == 1):
            wanted = "one step size for method 'aci'" if method == "aci" else "several step sizes for method 'dtaci'"
            raise ValueError(f"gamma must be {wanted}, got {gamma!r}")
        if window not in ("expanding", "fixed"):
            require_count("window", window, 1)
        if initial is not None:
            require_fraction("initial", initial)
        require_count("horizon", horizon, 1)
        self.score = score
        self.alpha = float(alpha)
        self.method = method
        self.gamma = steps
        self.window = window
        self.initial = self.alpha if initial is None else float(initial)
        self.rates = (0.0, 0.0) if method == "aci" else dtaci_rates(self.alpha, len(steps), horizon)

    def init(self, scores: Num[AnyArray, " n"] | None = None) -> AdaptiveState:
        """Start from calibration scores.

        Args:
            scores: scores of observations before the series, in the order of time, shape (n,); with none, the first
                sets are the whole line.

        Raises:
            ValueError: scores are NaN, of another shape, or none with a fixed window.
        """
        if scores is None:
            if self.window == "fixed":
                raise ValueError("scores are missing: with window='fixed' nothing else calibrates")
            scores = np.zeros(0)
        else:
            scores = checked_scores(scores)
        eta, sigma = self.rates
        levels = start_levels(self.alpha, np.asarray(self.gamma), eta=eta, sigma=sigma, initial=self.initial)
        return AdaptiveState(levels, self._kept(scores))

    def predict(self, state: AdaptiveState, predictions: Any) -> Region:
        """The sets of the next observation, or of several candidates for it.

        Args:
            state: where the series stands.
            predictions: in the form the score takes; one test point may come without its axis.
        """
        xp = array_namespace(state)
        n = state.scores.shape[0]
        rank = rank_at(xp.asarray(n), state.alpha_t)
        # With an empty calibration set the rank says all, and the one value that is looked at counts for nothing.
        ordered = xp.sort(state.scores) if n else xp.zeros(1)
        finite = ordered[xp.clip(rank - 1, 0, max(n - 1, 0))]
        threshold = xp.where(rank < 1, -xp.inf, xp.where(rank > n, xp.inf, finite))
        self._warn_unbounded(threshold)
        region = self.score.region(_with_axis(predictions), threshold)
        return dataclasses.replace(region, guarantee=self._guarantee(1))

    def update(self, state: AdaptiveState, predictions: Any, y: Any) -> AdaptiveState:
        """See the observation that was predicted.

        Args:
            state: where the series stood when it was predicted.
            predictions: its prediction, as `predict` took it.
            y: its value.
        """
        return self.step(state, self.score(_with_axis(predictions), _with_axis(y)))[0]

    def step(self, state: AdaptiveState, score: Float[AnyArray, " 1"]) -> tuple[AdaptiveState, Observed]:
        """See the score of one observation; the next state, and what was seen.

        An expanding window grows the state; inside `jax.lax.scan` use another.

        Raises:
            ValueError: there are several scores, or it is NaN.
        """
        score = checked_scores(score)
        if score.shape[0] != 1:
            raise ValueError(f"one observation is seen at a time, got {score.shape[0]}")
        xp = array_namespace(state, score)
        below = (state.scores < score).sum().astype("int32")
        levels, seen = levels_step(state.levels, (below, xp.asarray(state.scores.shape[0], dtype="int32")))
        scores = state.scores if self.window == "fixed" else self._kept(xp.concatenate([state.scores, score]))
        return AdaptiveState(levels, scores), seen

    def run(self, predictions: Any, y: Num[AnyArray, " t"], calibration: tuple[Any, Any] | None = None) -> AdaptiveRun:
        """Predict each observation of a series, and see it before the next.

        It costs O(n log n). Over several series of one length use `jax.vmap`, on JAX arrays.

        Args:
            predictions: predictions of the series, in the form the score takes; that of y_t must not have used y_t or
                what came after it.
            y: the series, shape (t,).
            calibration: predictions and values of observations before it, of the same forms.

        Raises:
            ValueError: shapes do not fit, a score is NaN, or there is no calibration with a fixed window.
        """
        scores = checked_scores(self.score(predictions, as_array("y", y)))
        before = None if calibration is None else self.score(calibration[0], as_array("calibration[1]", calibration[1]))
        start = self.init(before)
        xp = array_namespace(scores, start.scores)
        n, t = start.scores.shape[0], scores.shape[0]
        everything = xp.concatenate([start.scores.astype(scores.dtype), scores])
        index = window_ranks(everything)
        stop = np.full(t, n) if self.window == "fixed" else n + np.arange(t)
        first = np.maximum(stop - self.window, 0) if isinstance(self.window, int) else np.zeros(t, int)
        first, stop = (xp.asarray(one, dtype="int32") for one in (first, stop))
        below, _ = count_in_window(index, first, stop, index.codes[n:])
        levels, seen = follow_levels(start.levels, below, stop - first)
        threshold = order_statistic_in_window(index, first, stop, seen.rank)
        self._warn_unbounded(threshold)
        region = self.score.region(predictions, threshold)
        kept = start.scores if self.window == "fixed" else self._kept(everything)
        return AdaptiveRun(
            sets=dataclasses.replace(region, guarantee=self._guarantee(t)),
            err=seen.err,
            alpha_t=seen.alpha_t,
            pvalue=seen.pvalue,
            state=AdaptiveState(levels, kept),
            bound=error_bound(self.gamma[0], self.initial, t) if self.method == "aci" else None,
        )

    def _kept(self, scores: Any) -> Any:
        return scores[-self.window :] if isinstance(self.window, int) else scores

    def _guarantee(self, n_steps: int) -> Guarantee:
        if self.method == "aci":
            return Guarantee("long-run", level_of(self.alpha), n_steps, (SEEN_IN_TIME,))
        return Guarantee("approximate", level_of(self.alpha), n_steps, (SEEN_IN_TIME, ONE_SUITS))

    def _warn_unbounded(self, threshold: Any) -> None:
        if is_traced(threshold) or not (unbounded := np.isposinf(np.asarray(threshold))).any():
            return
        which = f"{unbounded.sum()} of {unbounded.size} sets hold" if unbounded.ndim else "the set holds"
        warnings.warn(
            f"{which} every value: alpha_t had fallen below what the calibration scores can tell, which is 1 / (n + 1) "
            "of n scores",
            stacklevel=3,
        )


def _with_axis(values: Any) -> Any:
    """Arrays with an axis of test points where a single one came without."""
    return jax.tree.map(lambda leaf: array_namespace(leaf).atleast_1d(leaf), values)
