"""Ranks and order statistics within many windows of one series at once, by a wavelet matrix.

All windows are answered together in O(log n) array operations, so that a whole series costs O(n log n), windows that
grow or slide included, without a loop over time.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Num

from uqsparse.kernels.namespaces import AnyArray, array_namespace
from uqsparse.kernels.recursions import recursion


class WindowRanks(NamedTuple):
    """A series prepared for questions about its windows; made by `window_ranks`.

    Args:
        ordered: the values in ascending order, shape (n,).
        codes: for each time the place of its value in `ordered`, the first of equal ones, shape (n,).
        zeros: for each bit of the codes, from the highest, how many of the first i entries have a zero there, the
            entries in the order that the bits above sort them into, shape (bits, n + 1).
    """

    ordered: Num[AnyArray, " n"]
    codes: Int[AnyArray, " n"]
    zeros: Int[AnyArray, "b n_plus_1"]


def window_ranks(values: Num[AnyArray, " n"]) -> WindowRanks:
    """Prepare a series, in O(n log n).

    Args:
        values: shape (n,), n >= 1, NumPy or JAX, without NaN; infinite values have their place.

    Source: Claude, Navarro & Ordóñez (2015), The wavelet matrix: an efficient wavelet tree for large alphabets.

    >>> index = window_ranks(np.array([3.0, 1.0, 2.0, 1.0]))
    >>> [one.tolist() for one in count_in_window(index, np.array([0, 1]), np.array([3, 4]), index.codes[2:])]
    [[1, 0], [1, 2]]
    >>> order_statistic_in_window(index, 0, 3, np.array([0, 1, 3, 4])).tolist()
    [-inf, 1.0, 3.0, inf]
    """
    xp = array_namespace(values)
    n = values.shape[0]
    ordered = xp.sort(values)
    codes = xp.searchsorted(ordered, values, side="left").astype("int32")
    places = xp.arange(n, dtype="int32")

    def partition(sequence: Any, bit: Any) -> tuple[Any, Any]:
        zero = 1 - ((sequence >> bit) & 1)
        count = xp.concatenate([xp.zeros(1, dtype="int32"), xp.cumsum(zero, dtype="int32")])
        # Stable: entries with a zero first, each part in its old order.
        target = xp.where(zero == 1, count[:-1], count[-1] + places - count[:-1])
        if xp is not np:
            return sequence.at[target].set(sequence, unique_indices=True), count
        moved = np.empty_like(sequence)
        moved[target] = sequence
        return moved, count

    _, zeros = recursion(partition, codes, _bits(xp, max(1, (n - 1).bit_length())))
    return WindowRanks(ordered, codes, zeros)


def _bits(xp: Any, n_bits: int) -> Int[AnyArray, " b"]:
    """The numbers of the bits, from the highest."""
    return xp.arange(n_bits, dtype="int32")[::-1]


def count_in_window(
    index: WindowRanks, start: Int[AnyArray, " m"], stop: Int[AnyArray, " m"], code: Int[AnyArray, " m"]
) -> tuple[Int[AnyArray, " m"], Int[AnyArray, " m"]]:
    """How many values of a window are below a value of the series, and how many equal it.

    Args:
        index: the series.
        start: first time of each window, shape (m,).
        stop: the time after its last, shape (m,); `start <= stop <= n`.
        code: which value each window is compared with, as `index.codes` names it, shape (m,).

    Returns:
        The two counts, shape (m,) each.
    """
    xp = array_namespace(index, start, stop, code)

    def descend(carry: tuple[Any, Any, Any], x: tuple[Any, Any]) -> tuple[Any, None]:
        (below, start, stop), (row, bit) = carry, x
        one = ((code >> bit) & 1) == 1
        first, last = row[start], row[stop]
        below = below + xp.where(one, last - first, 0)
        start = xp.where(one, row[-1] + start - first, first)
        return (below, start, xp.where(one, row[-1] + stop - last, last)), None

    ends = tuple(xp.broadcast_to(xp.asarray(one, dtype="int32"), code.shape) for one in (start, stop))
    (below, start, stop), _ = recursion(
        descend, (xp.zeros_like(code), *ends), (index.zeros, _bits(xp, len(index.zeros)))
    )
    return below, stop - start


def order_statistic_in_window(index: WindowRanks, start: Any, stop: Any, rank: Int[AnyArray, " m"]) -> Any:
    """The value of a rank within a window, -inf for ranks below 1 and +inf for ranks beyond the window's length.

    Args:
        index: the series, of floats.
        start: first time of each window, shape (m,) or one for all.
        stop: the time after its last; `start <= stop <= n`.
        rank: 1 for the least value of the window, shape (m,).

    Returns:
        Shape (m,), in the dtype of the series.
    """
    xp = array_namespace(index, start, stop, rank)
    start, stop = (xp.broadcast_to(xp.asarray(one, dtype="int32"), rank.shape) for one in (start, stop))
    length = stop - start
    left = xp.clip(rank - 1, 0, xp.maximum(length - 1, 0)).astype("int32")

    def descend(carry: tuple[Any, Any, Any, Any], row: Any) -> tuple[Any, None]:
        left, code, start, stop = carry
        first, last = row[start], row[stop]
        one = left >= last - first
        start = xp.where(one, row[-1] + start - first, first)
        stop = xp.where(one, row[-1] + stop - last, last)
        return (left - xp.where(one, last - first, 0), 2 * code + one, start, stop), None

    (_, code, _, _), _ = recursion(descend, (left, xp.zeros_like(left), start, stop), index.zeros)
    found = index.ordered[xp.minimum(code, len(index.ordered) - 1)]
    return xp.where(rank < 1, -xp.inf, xp.where(rank > length, xp.inf, found)).astype(index.ordered.dtype)
