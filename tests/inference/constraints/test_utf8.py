"""Byte ranges of sets of characters, against Python's own UTF-8 codec."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from uqsparse.inference.constraints.utf8 import LAST, byte_ranges, complement, intervals

# Both sides of every place where the length or the leading byte of an encoding changes.
EDGES = [
    0,
    0x7F,
    0x80,
    0xBF,
    0x7FF,
    0x800,
    0xFFF,
    0x1000,
    0xD7FF,
    0xD800,
    0xDFFF,
    0xE000,
    0xFFFF,
    0x10000,
    0x3FFFF,
    LAST,
]
code_points = st.sampled_from(EDGES) | st.integers(0, LAST)
pairs = st.lists(st.tuples(code_points, code_points).map(lambda p: (min(p), max(p))), max_size=4)


def size(ranges):
    total = 1
    for low, high in ranges:
        total *= high - low + 1
    return total


def spells(sequences, text):
    return sum(
        len(text) == len(ranges) and all(low <= b <= high for b, (low, high) in zip(text, ranges, strict=True))
        for ranges in sequences
    )


@given(pairs, st.lists(code_points, max_size=20))
def test_every_character_is_in_exactly_one_sequence_and_nothing_else_is(chosen, others):
    sequences = list(byte_ranges(intervals(chosen)))
    members = {c for low, high in chosen for c in (low, high, (low + high) // 2)}
    for c in {*members, *others, *(e for e in EDGES)}:
        if 0xD800 <= c <= 0xDFFF:
            continue
        inside = any(low <= c <= high for low, high in chosen)
        assert spells(sequences, chr(c).encode()) == inside
    # As many byte strings as characters: none is there that is no character.
    n_surrogates = sum(max(0, min(high, 0xDFFF) - max(low, 0xD800) + 1) for low, high in intervals(chosen))
    assert sum(map(size, sequences)) == sum(high - low + 1 for low, high in intervals(chosen)) - n_surrogates


@given(pairs)
def test_a_set_and_its_complement_share_all_code_points_between_them(chosen):
    inside = intervals(chosen)
    outside = complement(inside)
    together = sorted([*inside, *outside])
    assert [low for low, _ in together] == [0, *(high + 1 for _, high in together[:-1])]
    assert together[-1][1] == LAST
    assert complement(outside) == inside
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(inside))
