"""Split conformal prediction: thresholds that cover new observations at a stated rate, whatever the model is."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Num, Shaped

from uqsparse.bounds.guarantee import EXCHANGEABLE, NOT_TUNED, Guarantee
from uqsparse.bounds.regions import Region
from uqsparse.bounds.scores.score import Score, as_array, require_same_length
from uqsparse.kernels import (
    array_namespace,
    conformal_rank,
    is_traced,
    order_statistic,
    rank_pvalue,
    weighted_order_statistic,
)
from uqsparse.kernels.arguments import require_fraction
from uqsparse.kernels.namespaces import AnyArray

Alpha = float | Sequence[float]


def checked_alpha(alpha: Alpha) -> float | tuple[float, ...]:
    """One alpha, or several as a tuple.

    Raises:
        ValueError: one of them does not lie strictly between 0 and 1, or there is none.
    """
    several = tuple(float(one) for one in np.atleast_1d(np.asarray(alpha, dtype=float)))
    if not several or np.ndim(alpha) > 1:
        raise ValueError(f"alpha must be a number or a sequence of numbers, got {alpha!r}")
    for one in several:
        require_fraction("alpha", one)
    return several if np.ndim(alpha) else several[0]


def level_of(alpha: float | tuple[float, ...]) -> float | tuple[float, ...]:
    """One minus alpha, free of binary crumbs."""
    return tuple(round(1 - one, 12) for one in alpha) if isinstance(alpha, tuple) else round(1 - alpha, 12)


def checked_scores(scores: Num[AnyArray, " n"]) -> Any:
    """Calibration scores fit to be ranked: one axis, at least one, no NaN; +inf is a score like any other.

    Raises:
        ValueError: otherwise; rows with NaN are named.
    """
    scores = as_array("scores", scores)
    if scores.ndim != 1 or not scores.shape[0]:
        raise ValueError(f"scores have shape {scores.shape}; expected (n,) with n >= 1")
    if not is_traced(scores) and (bad := np.flatnonzero(np.isnan(np.asarray(scores)))).size:
        named = ", ".join(map(str, bad[:5])) + (", …" if bad.size > 5 else "")
        raise ValueError(f"scores are NaN in {bad.size} of {scores.shape[0]} rows: {named}")
    # Whole numbers have no infinity, which a threshold may be.
    return scores.astype(float) if scores.dtype.kind in "iub" else scores


def warn_infinite(threshold: Any, reason: str, stacklevel: int = 3) -> None:
    """Say that sets are unbounded, and why."""
    if not is_traced(threshold) and np.isposinf(np.asarray(threshold)).any():
        warnings.warn(f"a threshold is infinite, and its sets hold every value: {reason}", stacklevel=stacklevel + 1)


def conformal_quantile(
    scores: Num[AnyArray, " n"],
    alpha: Alpha,
    weights: Num[AnyArray, " n"] | None = None,
    *,
    test_weight: Num[AnyArray, "..."] | None = None,
) -> Float[AnyArray, "..."]:
    """The threshold that a new score exceeds with probability at most alpha.

    Without weights it is the ceil((n + 1)(1 - alpha))-th smallest score, of which a new exchangeable score is at most
    with a probability between 1 - alpha and, without ties, 1 - alpha + 1 / (n + 1).

    Args:
        scores: calibration scores, larger is stranger, shape (n,). Works inside `jit` too.
        alpha: miscoverage allowed, in (0, 1); several give several thresholds along a first axis.
        weights: importance weights of the calibration points, shape (n,), nonnegative and not all zero.
        test_weight: with weights, those of the test points, any shape: each gets its threshold.

    Returns:
        The threshold, shape () or (len(alpha),), followed by the shape of `test_weight`. It is +inf, with a warning,
        where no finite threshold has the guarantee: too few scores, or a test point that outweighs them.

    Raises:
        ValueError: scores are empty or NaN, alpha is outside (0, 1), or weights are negative, all zero, of another
            length or without the test point's.

    Source: Papadopoulos, Proedrou, Vovk & Gammerman (2002), Inductive confidence machines for regression; weighted:
    Tibshirani, Barber, Candès & Ramdas (2019), Conformal prediction under covariate shift, equation 7.

    >>> float(conformal_quantile(np.arange(1.0, 10.0), alpha=0.2))
    8.0
    """
    scores, alpha = checked_scores(scores), checked_alpha(alpha)
    n = scores.shape[0]
    several = alpha if isinstance(alpha, tuple) else (alpha,)
    if weights is None:
        if test_weight is not None:
            raise ValueError("test_weight is given without weights")
        ranks = [conformal_rank(n, one) for one in several]
        found = [order_statistic(scores, rank) for rank in ranks]
        few = [f"alpha = {a:g} needs {_least_n(a)}" for a, rank in zip(several, ranks, strict=True) if rank > n]
        reason = f"{n} calibration scores are too few, {'; '.join(few)}" if few else "calibration scores are infinite"
    else:
        mass = checked_weights("weights", weights, n)
        if test_weight is None:
            raise ValueError("test_weight is missing: a weighted threshold depends on the test point's own weight")
        test_weight = as_array("test_weight", test_weight)
        xp = array_namespace(scores, mass, test_weight)
        order = xp.argsort(scores)
        cumulative = xp.cumsum(mass[order], dtype=float)
        found = [weighted_order_statistic(scores[order], cumulative, test_weight, 1 - one) for one in several]
        reason = "the test point weighs too much beside the calibration points"
    xp = array_namespace(*found)
    threshold = xp.stack(found) if isinstance(alpha, tuple) else found[0]
    warn_infinite(threshold, reason)
    return threshold


def _least_n(alpha: float) -> int:
    """The fewest scores with a finite threshold at this alpha."""
    n = max(1, int(1 / alpha) - 2)
    while conformal_rank(n, alpha) > n:
        n += 1
    return n


def checked_weights(name: str, weights: Any, n: int) -> Any:
    """Importance weights of n points: finite, nonnegative, not all zero.

    Raises:
        ValueError: otherwise.
    """
    weights = as_array(name, weights)
    if weights.shape != (n,):
        raise ValueError(f"{name} have shape {weights.shape}; expected ({n},)")
    if not is_traced(weights):
        plain = np.asarray(weights)
        if not np.isfinite(plain).all() or (plain < 0).any() or not plain.any():
            raise ValueError(f"{name} must be finite, nonnegative and not all zero")
    return weights


class Calibrated(eqx.Module):
    """A score with its threshold, ready to predict; a pytree, so that `predict` can be called inside `jit`.

    Args:
        score: the score.
        threshold: shape (), or (len(alpha),).
        scores: the calibration scores, shape (n,): what the guarantee rests on.
        guarantee: what its sets promise.
    """

    score: Score
    threshold: Float[AnyArray, "..."]
    scores: Float[AnyArray, " n"]
    guarantee: Guarantee = eqx.field(static=True)

    def predict(self, predictions: Any) -> Region:
        """The prediction set of each test point, with the guarantee; with an axis of levels in front if asked for."""
        return sets_of(self.score, predictions, self.threshold, self.guarantee, several=self.threshold.ndim == 1)

    def pvalue(self, predictions: Any, y: Num[AnyArray, " n"], u: Any = 1.0) -> Float[AnyArray, " n"]:
        """Conformal p-values of observations: y lies in the set at alpha exactly where its p-value exceeds alpha.

        Args:
            predictions: what `predict` takes.
            y: observed values, shape (n,).
            u: which part of the ties counts, see `kernels.rank_pvalue`.
        """
        return rank_pvalue(array_namespace(self.scores).sort(self.scores), self.score(predictions, y), u)


def sets_of(score: Score, predictions: Any, threshold: Any, guarantee: Guarantee, *, several: bool) -> Region:
    """The regions of a score with their guarantee; where several, one for each entry of the first axis, stacked."""
    if several:
        parts = [score.region(predictions, one) for one in threshold]
        region = jax.tree.map(lambda *leaves: array_namespace(*leaves).stack(leaves), *parts)
    else:
        region = score.region(predictions, threshold)
    return dataclasses.replace(region, guarantee=guarantee)


class SplitConformal:
    """Split conformal prediction: calibrate once on held-out observations, then predict sets.

    Args:
        score: the nonconformity score, see `scores`.
        alpha: miscoverage allowed, in (0, 1); several give sets at several levels.
        within_group: where `calibrate` is given groups of dependent observations, such as images of one video, each
            group gives one score: "max" covers all observations of a new group at once, "one" takes one at random and
            covers one random observation of a new group.

    Raises:
        ValueError: alpha is outside (0, 1), or `within_group` is unknown.

    Source: Papadopoulos, Proedrou, Vovk & Gammerman (2002), Inductive confidence machines for regression; Lei,
    G'Sell, Rinaldo, Tibshirani & Wasserman (2018), Distribution-free predictive inference for regression. Groups:
    Dunn, Wasserman & Ramdas (2023), Distribution-free prediction sets for two-layer hierarchical models.

    >>> from uqsparse.bounds.scores import AbsoluteResidual
    >>> calibrated = SplitConformal(AbsoluteResidual(), alpha=0.1).calibrate(np.zeros(99), np.arange(99.0))
    >>> sets = calibrated.predict(np.array([0.0]))
    >>> float(sets.upper[0]), sets.guarantee.kind, sets.guarantee.level
    (89.0, 'marginal', 0.9)
    """

    def __init__(self, score: Score, alpha: Alpha = 0.1, *, within_group: Literal["max", "one"] = "max"):
        if not isinstance(score, Score):
            raise TypeError(f"score must be a Score, got {type(score).__name__}")
        if within_group not in ("max", "one"):
            raise ValueError(f"within_group must be 'max' or 'one', got {within_group!r}")
        self.score = score
        self.alpha = checked_alpha(alpha)
        self.within_group = within_group

    def calibrate(
        self,
        predictions: Any,
        y: Num[AnyArray, " n"],
        *,
        groups: Shaped[AnyArray, " n"] | None = None,
        key: Array | None = None,
    ) -> Calibrated:
        """Find the threshold from held-out observations.

        Args:
            predictions: predictions of observations that the model was not fitted to, in the form the score takes.
            y: their observed values, shape (n,).
            groups: which group each observation belongs to, shape (n,); observations of one group may depend.
            key: random key, for `within_group="one"`.

        Raises:
            ValueError: shapes do not fit, or a score is NaN.
        """
        scores = checked_scores(self.score(predictions, as_array("y", y)))
        assumptions = (EXCHANGEABLE, NOT_TUNED)
        if groups is not None:
            scores = np.asarray(scores)
            scores = scores[row_of_each_group(scores, np.asarray(groups), self.within_group, key)]
            what = (
                "all of a new group at once" if self.within_group == "max" else "one random observation of a new group"
            )
            assumptions = (f"groups are exchangeable, and coverage is of {what}", NOT_TUNED)
        threshold = conformal_quantile(scores, self.alpha)
        guarantee = Guarantee("marginal", level_of(self.alpha), scores.shape[0], assumptions)
        return Calibrated(self.score, threshold, scores, guarantee)


def row_of_each_group(scores: np.ndarray, groups: np.ndarray, how: str, key: Array | None) -> np.ndarray:
    """The row of the largest score of each group ("max"), or of one member drawn at random ("one"); groups sorted."""
    require_same_length("groups", groups, len(scores), "y")
    if how == "max":
        order = np.lexsort((-scores, groups))
    elif key is None:
        raise ValueError("key is missing: within_group='one' draws a member of each group")
    else:
        order = np.asarray(jax.random.permutation(key, len(scores)))
    _, first = np.unique(groups[order], return_index=True)
    return order[first]
