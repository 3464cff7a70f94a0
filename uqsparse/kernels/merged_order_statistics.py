"""Order statistics of sorted lists that are shifted and merged, for many shifts at once."""

import itertools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from uqsparse.kernels.namespaces import AnyArray, array_namespace, is_traced
from uqsparse.kernels.quantiles import order_statistic

# A block of work holds about this many numbers, 32 MiB of doubles.
BLOCK = 2**22

# From this many entries a list on, looking numbers up costs less than merging them all.
_WORTH_SEARCHING = 50

# Distinct entries of a list between which the search leaves the answer. Fewer cost more steps, more cost more sorting.
_WINDOW = 4


def merged_order_statistic(
    ordered: Float[AnyArray, " n"], starts: Sequence[int], shifts: Float[AnyArray, "k b"], rank: int
) -> Float[AnyArray, " b"]:
    """The value of a rank in ascending order among k lists, each with a shift of its own added; for b sets of shifts.

    The n x b sums are never held at once. Long lists are not merged at all: bisection finds a few neighbours of the
    answer in each, and the answer among them is taken only if it is proved by the entries beside them.

    Args:
        ordered: the lists one after the other, each ascending, shape (n,).
        starts: where each list starts, ascending from 0; none is empty.
        shifts: what is added to each list, shape (k, b).
        rank: 1 for the least; -inf is returned for ranks below 1 and +inf for ranks beyond n.

    Returns:
        For each of the b, exactly the sum that has the rank, ties counted as often as they occur.

    >>> merged_order_statistic(np.array([1.0, 5.0, 2.0]), (0, 2), np.array([[0.0, 9.0], [10.0, 0.0]]), 2).tolist()
    [5.0, 10.0]
    """
    xp = array_namespace(ordered, shifts)
    n, n_lists, width = ordered.shape[0], len(starts), shifts.shape[1]
    dtype = xp.result_type(ordered, shifts)
    if not 1 <= rank <= n:
        return xp.full(width, xp.inf if rank > n else -xp.inf, dtype=dtype)
    list_of = np.repeat(np.arange(n_lists), np.diff([*starts, n]))
    if is_traced(ordered, shifts):
        at_once = max(1, BLOCK // n)
        return jax.lax.map(lambda one: order_statistic(one[list_of] + ordered, rank), shifts.T, batch_size=at_once)
    plain, shifts = np.asarray(ordered), np.asarray(shifts)
    found = np.empty(width, dtype=dtype)
    if n < _WORTH_SEARCHING * n_lists:
        _by_merging(found, np.arange(width), plain, list_of, shifts, rank)
    else:
        lists = [plain[start:end] for start, end in itertools.pairwise([*starts, n])]
        proved = _by_searching(found, lists, shifts, order_statistic(plain, rank), rank)
        _by_merging(found, np.flatnonzero(~proved), plain, list_of, shifts, rank)
    return xp.asarray(found)


def _by_merging(
    found: np.ndarray, columns: np.ndarray, ordered: np.ndarray, list_of: np.ndarray, shifts: np.ndarray, rank: int
) -> None:
    """Fill in the answers of some columns from all n sums."""
    at_once = max(1, BLOCK // ordered.size)
    for first in range(0, columns.size, at_once):
        block = columns[first : first + at_once]
        found[block] = order_statistic(shifts[:, block].T[:, list_of] + ordered, rank)


def _by_searching(
    found: np.ndarray, lists: list[np.ndarray], shifts: np.ndarray, unshifted: np.ndarray, rank: int
) -> np.ndarray:
    """Fill in the answers of all columns, and tell which of them are proved.

    `unshifted` is the answer for shifts of zero: the least and the largest shift added to it bracket the others.
    """
    distinct, below = zip(*map(_distinct, lists), strict=True)
    at_once = max(1, BLOCK // (len(lists) * (_WINDOW + 2)))
    proved = np.empty(shifts.shape[1], dtype=bool)
    for first in range(0, shifts.shape[1], at_once):
        block = slice(first, first + at_once)
        start = _window_starts(distinct, below, shifts[:, block], unshifted, rank)
        found[block], proved[block] = _select(distinct, below, shifts[:, block], start, rank)
    return proved


def _distinct(ascending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct entries of an ascending list, and how many entries lie below each, the whole number last."""
    new = np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1]))
    return ascending[new], np.append(new, ascending.size)


def _window_starts(
    distinct: Sequence[np.ndarray],
    below: Sequence[np.ndarray],
    shifts: np.ndarray,
    unshifted: np.ndarray,
    rank: int,
) -> np.ndarray:
    """Bisect on the answer until few entries of any list are left for it; the index of the first of them.

    Rounding may put it one off; `_select` finds out.
    """
    low, high = shifts.min(axis=0) + unshifted, shifts.max(axis=0) + unshifted
    start, end = np.zeros(shifts.shape, dtype=np.intp), np.empty(shifts.shape, dtype=np.intp)
    for k, values in enumerate(distinct):
        start[k] = np.searchsorted(values, low - shifts[k], side="left")
        end[k] = np.searchsorted(values, high - shifts[k], side="right")
    # Each step halves the distance; past the bits of a double there is nothing to halve.
    for _ in range(64):
        (active,) = np.nonzero((end - start > _WINDOW).any(axis=0))
        if not active.size:
            break
        middle = low[active] + (high[active] - low[active]) / 2
        place = np.empty((len(distinct), active.size), dtype=np.intp)
        count = np.zeros(active.size, dtype=np.intp)
        for k, values in enumerate(distinct):
            place[k] = np.searchsorted(values, middle - shifts[k, active], side="right")
            count += below[k][place[k]]
        enough = count >= rank
        high[active] = np.where(enough, middle, high[active])
        low[active] = np.where(enough, low[active], middle)
        end[:, active] = np.where(enough, place, end[:, active])
        start[:, active] = np.where(enough, start[:, active], place)
    return start


def _select(
    distinct: Sequence[np.ndarray],
    below: Sequence[np.ndarray],
    shifts: np.ndarray,
    start: np.ndarray,
    rank: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The answer among a few entries of each list, and whether it is the answer among all.

    It is if no entry before the windows is larger and none after them is smaller; adding a shift keeps a list
    ascending, whatever the rounding, so that the entries next to the windows decide.
    """
    width = _WINDOW + 2
    values = np.full((shifts.shape[1], len(distinct), width), np.inf, dtype=np.result_type(shifts, distinct[0]))
    weights = np.zeros(values.shape, dtype=np.intp)
    before = np.zeros(shifts.shape[1], dtype=np.intp)
    floor, ceiling = np.full((2, shifts.shape[1]), [[-np.inf], [np.inf]], dtype=values.dtype)
    for k, entries in enumerate(distinct):
        first = np.clip(start[k] - 1, 0, max(entries.size - width, 0))
        index = first[:, None] + np.arange(min(width, entries.size))
        values[:, k, : index.shape[1]] = entries[index] + shifts[k, :, None]
        weights[:, k, : index.shape[1]] = below[k][index + 1] - below[k][index]
        before += below[k][first]
        left, right = first - 1, first + index.shape[1]
        floor = np.maximum(floor, np.where(left < 0, -np.inf, entries[left] + shifts[k]))
        inside = right < entries.size
        ceiling = np.minimum(ceiling, np.where(inside, entries[np.where(inside, right, 0)] + shifts[k], np.inf))
    values, weights = values.reshape(before.size, -1), weights.reshape(before.size, -1)
    order = np.argsort(values, axis=1)
    reached = np.take_along_axis(weights, order, axis=1).cumsum(axis=1) >= (rank - before)[:, None]
    place = np.argmax(reached, axis=1)
    answer = np.take_along_axis(values, np.take_along_axis(order, place[:, None], axis=1), axis=1)[:, 0]
    proved = (before < rank) & reached[:, -1] & (floor <= answer) & (answer <= ceiling)
    return answer, proved
