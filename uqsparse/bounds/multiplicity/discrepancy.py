"""Discrepancy: the largest number of persons that one near-optimal model moves, bounded from both sides.

Person i is moved by the model w if x_i^T w >= above_i or x_i^T w <= below_i. Over the convex level set
S = {w : L(w) <= c} the most persons moved is a mixed-integer program once L(w) <= c is replaced by tangents. Tangents
are valid for all of S, so the program's bound is an upper bound; a model that lies in S gives a lower one. Both are
kept, and tangents added where the program's solution leaves S, until they meet or time is up.

A program's solution fixes which persons are moved. Whether one model in S moves all of them is a convex question: it
does if the least loss under these linear inequalities is at most c. If it is more, the inequalities that bind are a
conflict, persons whom no model moves together, and the next program knows it.

The program has a binary for each person and closes slowly. With few coefficients a search over directions
(`uqsparse.bounds.multiplicity.direction_search`) is far quicker and comes first.

Sources: Watson-Daniels, Parkes & Ustun (2023), Predictive multiplicity in probabilistic classification, definition 4;
Duran & Grossmann (1986), An outer-approximation algorithm for a class of mixed-integer nonlinear programs.
"""

import math
import time
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from uqsparse.bounds.multiplicity.direction_search import can_search
from uqsparse.bounds.multiplicity.moved_program import MovedProgram
from uqsparse.bounds.multiplicity.moved_search import MovedSearch

Method = Literal["auto", "integer program"]
Status = Literal["proved", "time limit", "tolerance"]

# Share of the time for the search over directions, where it applies.
_SEARCH_SHARE = 0.8
# A count this far below a whole number is that number: the solver's feasibility tolerance.
_WHOLE = 1e-6


class DiscrepancyBounds(NamedTuple):
    """The largest number of persons, counted with multiplicity, that a model of the set moves.

    Args:
        lower: moved by `model`, which lies in the set.
        upper: no model of the set moves more.
        model: coefficients, shape (d,).
        status: "proved" if the two are equal, "time limit", or "tolerance" if what is left hangs on differences below
            the solver's tolerance.
        n_rounds: mixed-integer programs solved.
        n_cuts: tangents and conflicts used.
    """

    lower: int
    upper: int
    model: Float[np.ndarray, " d"]
    status: Status
    n_rounds: int
    n_cuts: int


def discrepancy_bounds(
    loss: Any,
    level: float,
    minimum: Any,
    directions: Float[ArrayLike, "n d"],
    above: Float[ArrayLike, " n"],
    below: Float[ArrayLike, " n"],
    *,
    score_lower: Float[ArrayLike, " n"],
    score_upper: Float[ArrayLike, " n"],
    models: Float[ArrayLike, "m d"],
    counts: Int[ArrayLike, " n"] | None = None,
    time_limit: float = 60.0,
    method: Method = "auto",
) -> DiscrepancyBounds:
    """Bound the most persons with x_i^T w >= above_i or x_i^T w <= below_i over all w with L(w) <= level.

    Args:
        loss: a `RegularisedLoss`.
        level: c, above the minimum.
        minimum: its minimiser: `w`, `value` and `hessian` there.
        directions: x_i, one row a person, shape (n, d).
        above: score at which a person is moved upwards, +inf where that cannot be, shape (n,).
        below: the same downwards, -inf where that cannot be, shape (n,).
        score_lower: lower bounds of x_i^T w over the set, shape (n,); -inf where none is known.
        score_upper: upper bounds, shape (n,).
        models: some models of the set, such as those that attain the ranges, shape (m, d). Those outside are ignored.
        counts: how many persons each row stands for, shape (n,); one each if left out.
        time_limit: seconds, positive. The bounds hold whatever it is.
        method: "integer program", or "auto": with few coefficients, a search over directions comes first.

    Returns:
        A `DiscrepancyBounds`.

    Raises:
        ValueError: shapes do not fit, or an argument is out of range.
        RuntimeError: a bound, of the solver or of the scores, contradicts a model of the set. It cannot be trusted.
    """
    directions = np.asarray(directions, dtype=np.float64)
    n, _ = directions.shape
    above, below, score_lower, score_upper = (
        np.broadcast_to(np.asarray(a, dtype=np.float64), (n,)) for a in (above, below, score_lower, score_upper)
    )
    counts = np.ones(n, dtype=np.int64) if counts is None else np.asarray(counts)
    if not (math.isfinite(time_limit) and time_limit > 0):
        raise ValueError(f"time_limit must be a positive number of seconds, got {time_limit!r}")
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(map(repr, get_args(Method)))}, got {method!r}")
    if not level > minimum.value:
        raise ValueError(f"level must exceed the loss's minimum {minimum.value:g}, got {level!r}")
    search = MovedSearch(loss, level, minimum, directions, above, below, counts)
    search.try_models(np.asarray(models, dtype=np.float64))

    can_rise, can_fall = score_upper >= above, score_lower <= below
    reachable = int(counts[can_rise | can_fall].sum())
    upper = _tightened(reachable, reachable, search.lower)
    end = time.monotonic() + time_limit
    if search.lower < upper:
        search.climb(can_rise, can_fall)
    if search.lower < upper and method == "auto" and can_search(loss):
        found = search.search_directions(can_rise, can_fall, upper, _SEARCH_SHARE * time_limit)
        upper = _tightened(upper, found, search.lower)
    status: Status = "time limit"
    n_rounds = 0
    program = MovedProgram(search, np.flatnonzero(can_rise), np.flatnonzero(can_fall), score_lower, score_upper)
    while search.lower < upper and (left := end - time.monotonic()) > 0:
        answer = program.solve(left if n_rounds > 3 else left / 2)
        n_rounds += 1
        upper = _tightened(upper, answer.bound, search.lower)
        if answer.rising is None or search.lower == upper:
            continue
        has_learnt = search.refine(answer.rising, answer.falling, end)
        if not has_learnt and answer.was_solved and time.monotonic() < end:
            status = "tolerance"
            break
    status = "proved" if search.lower == upper else status
    n_cuts = len(search.cuts) + len(search.conflicts)
    return DiscrepancyBounds(search.lower, upper, search.model, status, n_rounds, n_cuts)


def _tightened(upper: int, bound: float, lower: int) -> int:
    """The better upper bound, rounded down, and checked against what a model attains."""
    if math.isfinite(bound):
        upper = min(upper, math.floor(bound + _WHOLE))
    if upper < lower:
        raise RuntimeError(
            f"no model is said to move more than {upper} persons, but one moves {lower}: the solver's bound, or the "
            "bounds of the scores, cannot be trusted here"
        )
    return upper
