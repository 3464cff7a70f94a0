"""Smallest and largest scores x^T w over a level set, equal rows solved once."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from uqsparse.solvers.support_function import support_function


class ScoreRanges(NamedTuple):
    """Ranges of the scores of m different rows, and which row each of n persons has.

    Args:
        rows: different rows x, shape (m, d).
        back: row of each person, shape (n,).
        counts: persons of each row, shape (m,).
        best: scores under the best model, shape (m,).
        lower: smallest score attained, by `lower_models`, shape (m,).
        upper: largest score attained, by `upper_models`, shape (m,).
        lower_bound: no model of the set has less; -inf where none is proved, shape (m,).
        upper_bound: no model of the set has more; +inf where none is proved, shape (m,).
        lower_models: shape (m, d).
        upper_models: shape (m, d).
        converged: whether both programs were solved to their tolerance, shape (m,).
    """

    rows: Float[np.ndarray, "m d"]
    back: Int[np.ndarray, " n"]
    counts: Int[np.ndarray, " m"]
    best: Float[np.ndarray, " m"]
    lower: Float[np.ndarray, " m"]
    upper: Float[np.ndarray, " m"]
    lower_bound: Float[np.ndarray, " m"]
    upper_bound: Float[np.ndarray, " m"]
    lower_models: Float[np.ndarray, "m d"]
    upper_models: Float[np.ndarray, "m d"]
    converged: Bool[np.ndarray, " m"]


def score_ranges(loss: Any, minimum: Any, level: float, directions: Float[np.ndarray, "n d"]) -> ScoreRanges:
    """Ranges of the scores of n rows over all w with L(w) <= level.

    Args:
        loss: a `RegularisedLoss`.
        minimum: its `Minimum`.
        level: above the minimum.
        directions: the rows, shape (n, d).
    """
    rows, back, counts = np.unique(directions, axis=0, return_inverse=True, return_counts=True)
    m = len(rows)
    both = np.concatenate([rows, -rows])
    solved = support_function(loss, level, both, minimum=minimum)
    # the best model is one of the set, and by rounding it may be the better one
    best = both @ minimum.w
    value = np.maximum(solved.value, best)
    points = np.where((solved.value < best)[:, None], minimum.w, solved.points)
    bound = np.where(solved.has_certificate, np.maximum(solved.upper, value), np.inf)
    converged = np.broadcast_to(solved.converged, (2 * m,))
    return ScoreRanges(
        rows=rows,
        back=back.reshape(-1),
        counts=counts,
        best=best[:m],
        lower=-value[m:],
        upper=value[:m],
        lower_bound=-bound[m:],
        upper_bound=bound[:m],
        lower_models=points[m:],
        upper_models=points[:m],
        converged=converged[:m] & converged[m:],
    )
