"""Ranks in windows against counting, and the recursion's three ways against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.kernels import recursions
from uqsparse.kernels.recursions import recursion
from uqsparse.kernels.window_ranks import count_in_window, order_statistic_in_window, window_ranks

series = st.lists(st.sampled_from([-np.inf, -1.5, 0.0, 0.5, 2.0, 3.0, np.inf]), min_size=1, max_size=40)


@settings(max_examples=80)
@given(values=series, data=st.data())
def test_counts_and_order_statistics_are_those_of_a_sorted_window(values, data):
    n = len(values)
    bounds = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for _ in range(5)]
    start, stop = np.array(bounds).T
    at = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=5, max_size=5)))
    rank = np.array(data.draw(st.lists(st.integers(-1, n + 2), min_size=5, max_size=5)))
    values = np.array(values)
    index = window_ranks(values)
    below, equal = count_in_window(index, start, stop, index.codes[at])
    found = order_statistic_in_window(index, start, stop, rank)
    for i in range(5):
        window = sorted(values[start[i] : stop[i]])
        assert below[i] == sum(one < values[at[i]] for one in window)
        assert equal[i] == sum(one == values[at[i]] for one in window)
        expected = -np.inf if rank[i] < 1 else np.inf if rank[i] > len(window) else window[rank[i] - 1]
        assert found[i] == expected


def test_jax_and_numpy_agree_inside_jit_and_vmap():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 30, size=(3, 100)).astype(np.float32)
    start, stop = np.zeros(100, np.int32), np.arange(100, dtype=np.int32)
    rank = rng.integers(0, 60, size=100)

    def both(values):
        index = window_ranks(values)
        counts = count_in_window(index, start, stop, index.codes)
        return *counts, order_statistic_in_window(index, start, stop, rank)

    compiled = jax.jit(jax.vmap(both))(jnp.asarray(values))
    for row in range(3):
        for ours, theirs in zip(both(values[row]), compiled, strict=True):
            np.testing.assert_array_equal(ours, theirs[row])
    assert both(values[0])[2].dtype == np.float32


def _decay(carry, x):
    a, b = x
    carry = 0.5 * carry + a * b
    return carry, {"now": carry, "sign": carry > 0}


@pytest.mark.parametrize("most", [0, 10**6], ids=["compiled", "plain"])
def test_a_recursion_is_the_same_compiled_and_plain(monkeypatch, most):
    monkeypatch.setattr(recursions, "MOST_PLAIN_STEPS", most)
    a, b = np.random.default_rng(1).normal(size=(2, 50))
    last, outputs = recursion(_decay, np.array(1.0), (a, b))
    carry = 1.0
    for t in range(50):
        carry = 0.5 * carry + a[t] * b[t]
        assert outputs["now"][t] == pytest.approx(carry, rel=1e-12)
    assert isinstance(outputs["sign"], np.ndarray)
    assert last == outputs["now"][-1]
    assert last.dtype == np.float64
    single = recursion(_decay, jnp.array(1.0), (jnp.asarray(a), jnp.asarray(b)))[0]
    assert isinstance(single, jax.Array)
    assert float(single) == pytest.approx(carry, rel=1e-4)
