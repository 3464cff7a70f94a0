"""Sets of characters, and the sequences of byte ranges that their UTF-8 forms make up."""

from collections.abc import Iterable, Iterator

Intervals = tuple[tuple[int, int], ...]  # code points, both ends included; sorted, disjoint, not touching
ByteRanges = tuple[tuple[int, int], ...]  # one range of bytes after the other

LAST = 0x10FFFF
# The last code point of each length of encoding; U+D800 to U+DFFF (surrogates) have none.
_SAME_LENGTH = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, LAST))
_FIRST_TAIL, _LAST_TAIL = 0x80, 0xBF  # bytes that continue a character


def intervals(pairs: Iterable[tuple[int, int]]) -> Intervals:
    """Join intervals of code points that overlap or touch.

    >>> intervals([(5, 9), (1, 2), (3, 4)])
    ((1, 9),)
    """
    joined: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


def complement(characters: Intervals) -> Intervals:
    """All code points that are not in a set."""
    edges = [-1, *(edge for interval in characters for edge in interval), LAST + 1]
    gaps = zip(edges[::2], edges[1::2], strict=True)
    return tuple((before + 1, after - 1) for before, after in gaps if before + 1 <= after - 1)


def byte_ranges(characters: Intervals) -> Iterator[ByteRanges]:
    """Spell a set of characters in UTF-8: each character is in exactly one of the sequences, and nothing else is.

    Source: RFC 3629, sections 3 and 4.

    >>> list(byte_ranges(((0x41, 0x42), (0xE9, 0xE9))))
    [((65, 66),), ((195, 195), (169, 169))]
    """
    for low, high in characters:
        for first, last in _SAME_LENGTH:
            start, stop = max(low, first), min(high, last)
            if start <= stop:
                yield from _between(chr(start).encode(), chr(stop).encode())


def _between(low: bytes, high: bytes) -> Iterator[ByteRanges]:
    """Sequences for all byte strings from low to high (same length) whose later bytes are tails."""
    if len(low) == 1:
        yield ((low[0], high[0]),)
        return
    lowest, highest = bytes([_FIRST_TAIL]) * (len(low) - 1), bytes([_LAST_TAIL]) * (len(low) - 1)
    if low[0] == high[0]:
        for rest in _between(low[1:], high[1:]):
            yield ((low[0], low[0]), *rest)
        return
    first, last = low[0], high[0]
    if low[1:] != lowest:
        for rest in _between(low[1:], highest):
            yield ((first, first), *rest)
        first += 1
    if high[1:] != highest:
        last -= 1
    if first <= last:
        yield ((first, last), *(((_FIRST_TAIL, _LAST_TAIL),) * (len(low) - 1)))
    if high[1:] != highest:
        for rest in _between(lowest, high[1:]):
            yield ((high[0], high[0]), *rest)
