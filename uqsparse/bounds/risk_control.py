"""Conformal risk control: the least threshold whose expected loss on new observations stays below a level."""

import math
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Num

from uqsparse.bounds.guarantee import EXCHANGEABLE, NOT_TUNED, Guarantee
from uqsparse.bounds.regions import LabelSets
from uqsparse.bounds.scores.score import as_array
from uqsparse.kernels import array_namespace, is_traced
from uqsparse.kernels.namespaces import AnyArray

Loss = Callable[[Any], Num[AnyArray, " n"]]

# Alpha is read generously by this times the bound, as in `conformal_rank`, so that 1 - 0.9 counts as 0.1.
_GENEROSITY = Fraction(1, 10**9)


class RiskControlled(eqx.Module):
    """A threshold that controls an expected loss, with what it was chosen from.

    Args:
        threshold: the least lambda that qualifies; +inf where none does.
        lambdas: the values that were looked at, in ascending order, shape (n_lambdas,).
        risk_curve: the mean calibration loss at each, shape (n_lambdas,).
        adjusted_curve: (n risk + bound) / (n + 1), which is held against alpha, shape (n_lambdas,).
        index: the place of the threshold among `lambdas`, n_lambdas if it is +inf.
        guarantee: of kind "risk".
    """

    threshold: Any
    lambdas: Float[AnyArray, " m"]
    risk_curve: Float[AnyArray, " m"]
    adjusted_curve: Float[AnyArray, " m"]
    index: Any
    guarantee: Guarantee = eqx.field(static=True)

    def predict(self, scores: Float[AnyArray, "n k"]) -> LabelSets:
        """The labels, or pixels of a mask, with a score of at least 1 - threshold.

        Only for a threshold on that scale, such as one found from `false_negative_rate`.

        Args:
            scores: how likely each of k labels is to be true, shape (n, k).
        """
        scores = as_array("scores", scores)
        if scores.ndim != 2:
            raise ValueError(f"scores have shape {scores.shape}; expected (n, n_labels)")
        return LabelSets(member=1 - scores <= self.threshold, threshold=self.threshold, guarantee=self.guarantee)


def conformal_risk_control(
    losses: Float[AnyArray, "n m"] | Loss,
    lambdas: Float[AnyArray, " m"] | Sequence[float],
    alpha: float,
    bound: float = 1.0,
) -> RiskControlled:
    """The least lambda that keeps the expected loss of a new observation at or below alpha.

    It is inf{lambda: (n risk(lambda) + bound) / (n + 1) <= alpha} with the mean loss `risk` of n calibration
    observations. A loss may be any that does not grow with lambda: the share of true labels that a set misses, or of
    the pixels of a mask; with the loss "y lies outside" this is split conformal prediction.

    Args:
        losses: the loss of each calibration observation at each lambda, shape (n, m); or a function of one lambda that
            gives the n losses there.
        lambdas: for an array of losses, where they were evaluated, ascending, shape (m,); the threshold is one of
            them. For a function, the interval (lowest, highest) to search, infinite ends allowed: the threshold is
            the least floating-point number of the interval's precision that qualifies, found by bisection over these
            numbers in at most 64 evaluations. That is the exact jump of a loss with jumps, provided it takes its lower
            value at the jump itself (is continuous from the right).
        alpha: the expected loss allowed, in (0, bound).
        bound: the largest value a loss can take.

    Returns:
        The threshold with its evidence. It is +inf, with a warning, where no lambda qualifies, as with nonnegative
        losses if bound > alpha (n + 1); use then what loses at most alpha, such as the set of all labels.

    Raises:
        ValueError: a loss grows with lambda, exceeds the bound or is not finite (rows are named), lambdas do not
            ascend, or shapes do not fit. A function is held to this where it is evaluated.

    Source: Angelopoulos, Bates, Fisch, Lei & Schuster (2024), Conformal risk control, equation 4 and theorem 1. If the
    losses are nonnegative and a jump at any given lambda has probability zero, the expected loss is also at least
    alpha - 2 bound / (n + 1) (theorem 2).

    >>> losses = np.arange(9)[:, None] >= np.arange(10.0)  # missed, unless lambda exceeds 0, ..., 8
    >>> found = conformal_risk_control(losses, np.arange(10.0), alpha=0.2)
    >>> float(found.threshold), round(float(found.adjusted_curve[found.index]), 3)
    (8.0, 0.2)
    """
    alpha, bound = _checked_levels(alpha, bound)
    if callable(losses):
        lambdas, sums, n = _bisect(losses, _checked_interval(lambdas), alpha, bound)
    else:
        losses, lambdas = _checked_curves(as_array("losses", losses), as_array("lambdas", lambdas), bound)
        n = losses.shape[0]
        sums = losses.sum(0, dtype=float if array_namespace(losses) is np else None)
    return _controlled(lambdas, sums, n, alpha, bound)


def _controlled(lambdas: Any, sums: Any, n: int, alpha: float, bound: float) -> RiskControlled:
    """The first lambda whose sum of losses is within the budget."""
    xp = array_namespace(lambdas, sums)
    qualifies = sums <= _budget(n, alpha, bound, xp.result_type(sums, xp.float32))
    index = xp.where(qualifies.any(), qualifies.argmax(), lambdas.shape[0])[()]
    threshold = xp.append(lambdas, xp.asarray([xp.inf], dtype=lambdas.dtype))[index]
    if not is_traced(threshold) and np.isposinf(np.asarray(threshold)):
        reason = (
            f"{n} observations are too few for alpha = {alpha:g}; at least {math.ceil(bound / alpha) - 1} are needed"
            if _budget(n, alpha, bound, np.dtype(float)) < 0
            else f"the risk is too high at the largest lambda: {float(sums[-1]) / n:.6g}"
        )
        warnings.warn(f"the threshold is infinite: {reason}", stacklevel=3)
    assumptions = (
        EXCHANGEABLE,
        NOT_TUNED,
        f"losses never grow with the threshold, never exceed {bound:g}, and are at most {alpha:g} at an infinite one",
    )
    guarantee = Guarantee("risk", alpha, n, assumptions, alpha=alpha)
    return RiskControlled(threshold, lambdas, sums / n, (sums + bound) / (n + 1), index, guarantee)


def _budget(n: int, alpha: float, bound: float, dtype: Any) -> Any:
    """The largest number of a precision that a sum of n losses may be: alpha (n + 1) - bound, rounded down."""
    exact = (Fraction(alpha) + _GENEROSITY * Fraction(bound)) * (n + 1) - Fraction(bound)
    kind = np.dtype(dtype).type
    near = kind(float(exact))
    return near if Fraction(float(near)) <= exact else np.nextafter(near, kind(-np.inf))


def _bisect(loss: Loss, interval: tuple[Any, Any], alpha: float, bound: float) -> tuple[np.ndarray, np.ndarray, int]:
    """The lambdas that a search for the first qualifying one looks at, and the sums of losses there."""
    low, high = interval
    at_low, at_high = (_checked_losses(np.asarray(loss(end)), end, bound) for end in interval)
    _require_no_growth(at_low, at_high, low, high, bound)
    sums = {low: at_low.sum(dtype=float), high: at_high.sum(dtype=float)}
    budget = _budget(len(at_low), alpha, bound, np.dtype(float))
    if sums[low] > budget >= sums[high]:
        # Low does not qualify and high does, throughout. It ends when no floating-point number lies between them.
        while (middle := _halfway(low, high)) not in (low, high):
            found = _checked_losses(np.asarray(loss(middle)), middle, bound)
            _require_no_growth(at_low, found, low, middle, bound)
            _require_no_growth(found, at_high, middle, high, bound)
            sums[middle] = found.sum(dtype=float)
            if sums[middle] <= budget:
                high, at_high = middle, found
            else:
                low, at_low = middle, found
    lambdas = sorted(sums)
    return np.array(lambdas, dtype=type(low)), np.array([sums[one] for one in lambdas]), len(at_low)


def _halfway(low: Any, high: Any) -> Any:
    """The floating-point number with as many others on either side between two, rounded towards the lower one."""
    whole = {2: np.int16, 4: np.int32, 8: np.int64}[low.itemsize]

    def place(number: Any) -> int:
        bits = int((number + 0).view(whole))  # + 0 makes 0 of -0
        return bits if bits >= 0 else int(np.iinfo(whole).min) - bits

    middle = (place(low) + place(high)) // 2
    bits = middle if middle >= 0 else int(np.iinfo(whole).min) - middle
    return whole(bits).view(type(low)) + type(low)(0)


def _checked_levels(alpha: float, bound: float) -> tuple[float, float]:
    if not 0 < bound < math.inf:
        raise ValueError(f"bound must be a finite positive number, got {bound!r}")
    if not 0 < alpha < bound:
        raise ValueError(f"alpha must lie strictly between 0 and the bound {bound:g}, got {alpha!r}")
    return float(alpha), float(bound)


def _checked_interval(lambdas: Any) -> tuple[Any, Any]:
    """The two ends as scalars of their precision: they do not give way to that of the losses' scores."""
    ends = np.asarray(lambdas)
    if ends.shape != (2,) or not ends[0] < ends[1]:
        raise ValueError(f"lambdas must be an interval (lowest, highest) for a loss function, got {lambdas!r}")
    ends = ends if ends.dtype.kind == "f" else ends.astype(float)
    return ends[0], ends[1]


def _checked_losses(losses: np.ndarray, at: Any, bound: float) -> np.ndarray:
    """What a loss function gave at one lambda."""
    if losses.ndim != 1 or not losses.size or losses.dtype.kind not in "fiub":
        raise ValueError(f"losses({at:g}) gave shape {losses.shape} and dtype {losses.dtype}; expected (n,) numbers")
    _refuse_rows(~np.isfinite(losses), f"losses at lambda = {at:g} are not finite")
    _refuse_rows(losses > bound + _rounding(losses, bound), f"losses at lambda = {at:g} exceed the bound {bound:g}")
    return losses


def _checked_curves(losses: Any, lambdas: Any, bound: float) -> tuple[Any, Any]:
    if losses.ndim != 2 or not losses.shape[0] or lambdas.shape != losses.shape[1:] or not lambdas.shape[0]:
        raise ValueError(
            f"losses have shape {losses.shape} and lambdas {lambdas.shape}; expected (n, n_lambdas) and (n_lambdas,)"
        )
    if lambdas.dtype.kind != "f":
        lambdas = lambdas.astype(float)
    if not is_traced(lambdas):
        plain = np.asarray(lambdas)
        if np.isnan(plain).any() or not (np.diff(plain) > 0).all():
            raise ValueError("lambdas must ascend strictly")
    if not is_traced(losses):
        plain = np.asarray(losses)
        _refuse_rows(~np.isfinite(plain).all(1), "losses are not finite")
        _refuse_rows((plain > bound + _rounding(plain, bound)).any(1), f"losses exceed the bound {bound:g}")
        grows = plain[:, 1:] > plain[:, :-1] + _rounding(plain, bound)
        _refuse_rows(grows.any(1), "losses grow with lambda, which must not be")
    return losses, lambdas


def _require_no_growth(before: np.ndarray, after: np.ndarray, low: Any, high: Any, bound: float) -> None:
    if before.shape != after.shape:
        raise ValueError(f"losses have shape {before.shape} at lambda = {low:g} and {after.shape} at {high:g}")
    grows = after > before + _rounding(before, bound)
    _refuse_rows(grows, f"losses grow from lambda = {low:g} to {high:g}, which must not be")


def _rounding(losses: np.ndarray, bound: float) -> float:
    """How much of a growth or an excess is put down to rounding."""
    return 8 * bound * float(np.finfo(losses.dtype).eps) if losses.dtype.kind == "f" else 0.0


def _refuse_rows(bad: Any, what: str) -> None:
    if (rows := np.flatnonzero(bad)).size:
        named = ", ".join(map(str, rows[:5])) + (", …" if rows.size > 5 else "")
        raise ValueError(f"{what}, in {rows.size} of {len(bad)} rows: {named}")


def false_negative_rate(scores: Float[AnyArray, "n k"], truth: Bool[AnyArray, "n k"]) -> Loss:
    """The loss of label sets or masks {k: score >= 1 - lambda}: the share of the true labels that they miss.

    It falls in steps from 1 to 0, and is 0 for observations without any true label.

    Args:
        scores: how likely each of k labels, or pixels, is to be true, shape (n, k). For probabilities lambda goes from
            0 to 1; any finite scores will do.
        truth: which labels are true, shape (n, k), True and False or 1 and 0.

    Returns:
        A function of lambda for `conformal_risk_control`, whose `predict` then gives the sets.

    Raises:
        ValueError: shapes differ, scores are not finite, or `truth` holds something else than 0 and 1.

    >>> loss = false_negative_rate(np.array([[0.9, 0.5, 0.2]]), np.array([[True, True, False]]))
    >>> [loss(one).tolist() for one in (0.0, 0.25, 0.5)]
    [[1.0], [0.5], [0.0]]
    """
    # NumPy on purpose: a threshold compared in the scores' own precision is an exact jump, whoever compares later.
    scores, truth = np.asarray(as_array("scores", scores)), np.asarray(as_array("truth", truth))
    if scores.ndim != 2 or truth.shape != scores.shape:
        raise ValueError(f"scores have shape {scores.shape} and truth {truth.shape}; expected (n, n_labels) twice")
    _refuse_rows(~np.isfinite(scores).all(1), "scores are not finite")
    _refuse_rows(~np.isin(truth, (0, 1)).all(1), "truth must be 0 or 1, and is not")
    missing_until = np.where(truth.astype(bool), 1 - scores, -np.inf)
    n_true = np.maximum(truth.astype(bool).sum(1), 1)

    def loss(threshold: Any) -> np.ndarray:
        return (missing_until > threshold).sum(1) / n_true

    return loss


def miscoverage(scores: Num[AnyArray, " n"]) -> Loss:
    """The loss of split conformal prediction: 1 where the nonconformity score exceeds lambda, else 0.

    Controlled at alpha over the interval (-inf, inf) it gives `conformal_quantile(scores, alpha)`.

    Args:
        scores: calibration scores, larger is stranger, shape (n,).

    >>> found = conformal_risk_control(miscoverage(np.arange(1.0, 10.0)), (-np.inf, np.inf), alpha=0.2)
    >>> float(found.threshold)
    8.0
    """
    scores = np.asarray(as_array("scores", scores))
    if scores.ndim != 1:
        raise ValueError(f"scores have shape {scores.shape}; expected (n,)")
    _refuse_rows(np.isnan(scores), "scores are NaN")
    return lambda threshold: (scores > threshold).astype(float)
