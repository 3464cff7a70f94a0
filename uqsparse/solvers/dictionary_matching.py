"""How well a learned dictionary matches the true one, when order (and sign, and scale) mean nothing."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment


class Matching(NamedTuple):
    """Which found column stands for which true one, and how close it is.

    Args:
        assignment: index of the found column matched to each true one, shape (n_true,).
        factor: what the found column is multiplied by before it is compared: 1, or a sign, or the best scale, shape
            (n_true,).
        relative_error: `|factor * found - true| / |true|` per true column, shape (n_true,).
        cosine: cosine of the angle between the two, its absolute value where the sign means nothing, shape (n_true,).
    """

    assignment: Int[np.ndarray, " n_true"]
    factor: Float[np.ndarray, " n_true"]
    relative_error: Float[np.ndarray, " n_true"]
    cosine: Float[np.ndarray, " n_true"]


def match_dictionaries(
    found: Float[np.ndarray, "d n_found"],
    truth: Float[np.ndarray, "d n_true"],
    *,
    sign: bool = False,
    scale: bool = False,
) -> Matching:
    """Pair each true column with a found one of its own, so that the sum of squared relative errors is least.

    Args:
        found: columns that were learned, as many as the true ones or more.
        truth: true columns, none of them zero.
        sign: whether a column and its negative count as the same.
        scale: whether columns that differ by a positive factor count as the same (any factor but 0 with `sign`). The
            relative error is then the sine of the angle, and 1 where it is obtuse.

    Returns:
        The pairing. A found column of zeros has cosine 0 and relative error 1.

    Raises:
        ValueError: the shapes do not fit, a value is not finite, or a true column is zero.

    Source: Kuhn (1955), The Hungarian method for the assignment problem.

    >>> truth = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> match_dictionaries(-truth[:, ::-1], truth, sign=True).assignment.tolist()
    [1, 0]
    """
    found, truth = np.asarray(found, float), np.asarray(truth, float)
    if found.ndim != 2 or truth.ndim != 2 or len(found) != len(truth) or not truth.size:
        raise ValueError(f"found has shape {found.shape} and truth {truth.shape}; expected two (d, columns) of one d")
    if found.shape[1] < truth.shape[1]:
        raise ValueError(f"found has {found.shape[1]} columns; expected at least the {truth.shape[1]} of truth")
    for name, array in (("found", found), ("truth", truth)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are NaN or infinite")
    length = np.linalg.norm(truth, axis=0)
    if not length.all():
        raise ValueError(f"truth has a column of zeros, number {int(np.argmin(length))}")
    unit, size = truth / length, np.linalg.norm(found, axis=0)
    # Found columns in the units of the true ones: relative[h, k] = factor |found_k| / |true_h|.
    relative = size[None, :] / length[:, None]
    cosine = unit.T @ (found / np.where(size > 0, size, 1.0))
    sense = np.where(cosine < 0, -1.0, 1.0) if sign else np.ones_like(cosine)
    agreement = np.clip(sense * cosine, -1.0, 1.0)
    factor = sense
    if scale:
        factor = sense * np.maximum(agreement, 0.0) / np.where(relative > 0, relative, 1.0)
        squared = 1 - np.maximum(agreement, 0.0) ** 2
    else:
        squared = 1 + relative**2 - 2 * relative * agreement
    rows, columns = linear_sum_assignment(squared)
    factor = factor[rows, columns]
    # The difference itself, rather than the expanded square, which cancels where the match is good.
    difference = factor * found[:, columns] - truth
    return Matching(columns, factor, np.linalg.norm(difference, axis=0) / length, agreement[rows, columns])
