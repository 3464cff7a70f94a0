"""Order statistics of shifted and merged lists, against sorting all sums."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.kernels import merged_order_statistics
from uqsparse.kernels.merged_order_statistics import merged_order_statistic

MAGNITUDES = st.sampled_from([0.0, 1e-9, 0.25, 1.0, 3.0, 1e6, 1e17])


@st.composite
def _lists(draw):
    """Lists with many ties and shifts of all sizes, so that sums round, collapse and cancel."""
    entries = st.builds(lambda step, scale: step * scale, st.integers(-6, 6), MAGNITUDES)
    lists = draw(st.lists(st.lists(entries, min_size=1, max_size=40), min_size=1, max_size=5))
    width = draw(st.integers(1, 4))
    shifts = draw(st.lists(st.lists(entries, min_size=width, max_size=width), min_size=len(lists), max_size=len(lists)))
    return [sorted(one) for one in lists], shifts


def _flat(lists, dtype: type = float):
    starts = np.cumsum([0, *map(len, lists)])[:-1].tolist()
    return np.concatenate([np.asarray(one, dtype=dtype) for one in lists]), tuple(starts)


@pytest.fixture(params=["searching", "merging"])
def way(request, monkeypatch):
    """Each of the two ways, whatever the sizes."""
    monkeypatch.setattr(merged_order_statistics, "_WORTH_SEARCHING", {"searching": 0, "merging": 10**9}[request.param])


@pytest.mark.usefixtures("way")
class TestEitherWay:
    @given(_lists(), st.data())
    def test_equals_sorting_in_plain_python(self, problem, data):
        lists, shifts = problem
        rank = data.draw(st.integers(1, sum(map(len, lists))))
        found = merged_order_statistic(*_flat(lists), np.array(shifts), rank)
        for column in range(len(shifts[0])):
            sums = sorted(entry + shift[column] for one, shift in zip(lists, shifts, strict=True) for entry in one)
            assert found[column] == sums[rank - 1]

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("decimals", [None, 1])
    @pytest.mark.parametrize("spread", [0.0, 0.3, 30.0])
    def test_long_lists(self, dtype, decimals, spread):
        rng = np.random.default_rng(0)
        sizes = (700, 1000, 50)
        lists = [np.sort(rng.standard_t(3, size)) for size in sizes]
        lists = [one if decimals is None else one.round(decimals) for one in lists]
        ordered, starts = _flat(lists, dtype)
        shifts = (rng.standard_normal(60) + spread * rng.standard_normal((3, 60))).astype(dtype)
        sums = np.sort(np.repeat(shifts, sizes, axis=0).T + ordered, axis=1)
        for rank in (1, 2, 175, 900, 1749, 1750):
            found = merged_order_statistic(ordered, starts, shifts, rank)
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, sums[:, rank - 1])

    def test_blocks_change_nothing(self, monkeypatch):
        rng = np.random.default_rng(1)
        ordered, starts = _flat([np.sort(rng.standard_normal(80)), np.sort(rng.standard_normal(90))])
        shifts = rng.standard_normal((2, 101))
        whole = merged_order_statistic(ordered, starts, shifts, 60)
        monkeypatch.setattr(merged_order_statistics, "BLOCK", 500)
        np.testing.assert_array_equal(merged_order_statistic(ordered, starts, shifts, 60), whole)

    def test_no_columns(self):
        assert merged_order_statistic(np.arange(4.0), (0, 2), np.zeros((2, 0)), 2).shape == (0,)


def test_rank_out_of_range_is_infinite():
    shifts = np.zeros((1, 2))
    assert merged_order_statistic(np.arange(3.0), (0,), shifts, 0).tolist() == [-np.inf, -np.inf]
    assert merged_order_statistic(np.arange(3.0), (0,), shifts, 4).tolist() == [np.inf, np.inf]


@pytest.mark.parametrize("decimals", [15, 1])
def test_ordinary_lists_are_never_merged(decimals):
    """A search that loses the answer would not be wrong, only slow."""
    rng = np.random.default_rng(6)
    lists = [np.sort(rng.standard_normal(400).round(decimals)) for _ in range(3)]
    shifts = rng.standard_normal((3, 2000))
    unshifted = np.sort(np.concatenate(lists))[899]
    proved = merged_order_statistics._by_searching(np.empty(2000), lists, shifts, unshifted, 900)
    assert proved.all()


def test_windows_beside_the_answer_are_not_believed():
    """The proof, not the search, decides: a search that ends anywhere gives no wrong answer that counts as proved."""
    rng = np.random.default_rng(2)
    lists = [np.sort(rng.standard_normal(300)) for _ in range(2)]
    shifts = rng.standard_normal((2, 500))
    distinct, below = zip(*map(merged_order_statistics._distinct, lists), strict=True)
    start = rng.integers(0, 300, (2, 500))
    answer, proved = merged_order_statistics._select(distinct, below, shifts, start, 300)
    sums = np.sort(np.repeat(shifts, 300, axis=0).T + np.concatenate(lists), axis=1)[:, 299]
    assert not proved.all()
    np.testing.assert_array_equal(answer[proved], sums[proved])


def test_jax_gives_the_same_inside_and_outside_jit():
    rng = np.random.default_rng(3)
    lists = [np.sort(rng.standard_normal(200)).astype(np.float32) for _ in range(2)]
    ordered, starts = _flat(lists, np.float32)
    shifts = rng.standard_normal((2, 30)).astype(np.float32)
    expected = merged_order_statistic(ordered, starts, shifts, 350)
    outside = merged_order_statistic(jnp.asarray(ordered), starts, jnp.asarray(shifts), 350)
    inside = jax.jit(lambda o, s: merged_order_statistic(o, starts, s, 350))(ordered, shifts)
    assert isinstance(outside, jax.Array)
    np.testing.assert_array_equal(outside, expected)
    np.testing.assert_array_equal(inside, expected)


def test_memory_stays_far_below_all_sums():
    """All sums would take 1.4 GB."""
    rng = np.random.default_rng(4)
    ordered = np.sort(rng.standard_normal((5, 3000)), axis=1).reshape(-1)
    shifts = rng.standard_normal((5, 12_000))
    tracemalloc.start()
    merged_order_statistic(ordered, tuple(range(0, 15_000, 3000)), shifts, 7500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
