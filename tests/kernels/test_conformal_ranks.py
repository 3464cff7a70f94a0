"""Ranks, order statistics and p-values of conformal prediction, against exact arithmetic."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.kernels import conformal_rank, order_statistic, rank_pvalue, weighted_order_statistic


@pytest.mark.parametrize("alpha", ["0.01", "0.05", "0.1", "0.2", "0.3", "0.5", "0.9"])
def test_the_rank_is_that_of_exact_arithmetic_on_the_decimal_that_was_typed(alpha):
    for n in range(0, 2000):
        assert conformal_rank(n, float(alpha)) == math.ceil((n + 1) * (1 - Fraction(alpha)))


@pytest.mark.parametrize("alpha", ["0.01", "0.05", "0.1", "0.2", "0.3"])
def test_the_rank_does_not_depend_on_how_alpha_was_rounded(alpha):
    rounded = 1 - float(1 - Fraction(alpha))  # 1 - 0.9 is not 0.1
    for n in range(0, 2000):
        assert conformal_rank(n, rounded) == conformal_rank(n, float(alpha))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.integers(-1, 32))
def test_order_statistics_are_those_of_a_sorted_list_in_numpy_in_jax_and_inside_jit(values, rank):
    values = np.array(values, dtype=np.float32)
    expected = -np.inf if rank < 1 else np.inf if rank > len(values) else sorted(values)[rank - 1]
    assert order_statistic(values, rank) == expected
    assert order_statistic(jnp.asarray(values), rank) == expected
    assert order_statistic(np.stack([values, values + 1]), rank).tolist() == [expected, expected + 1]


def test_order_statistics_work_inside_jit_and_keep_the_precision_of_numpy_arrays():
    values = np.random.default_rng(0).normal(size=50)
    assert order_statistic(values, 7) == np.sort(values)[6]
    assert jax.jit(lambda v: order_statistic(v, 7))(values.astype(np.float32)) == np.sort(values.astype(np.float32))[6]


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5)), min_size=1, max_size=12).filter(
        lambda pairs: any(weight for _, weight in pairs)
    ),
    st.integers(0, 8),
    st.sampled_from([Fraction(1, 10), Fraction(1, 5), Fraction(1, 2), Fraction(9, 10)]),
)
def test_weighted_order_statistics_are_those_of_exact_arithmetic(pairs, extra, alpha):
    total = sum(Fraction(weight) for _, weight in pairs) + extra
    reached = [
        value
        for value in sorted({value for value, _ in pairs})
        if sum(Fraction(weight) for other, weight in pairs if other <= value) >= (1 - alpha) * total
    ]
    expected = float(reached[0]) if reached else math.inf
    values, weights = np.array(pairs, dtype=float).T
    order = np.argsort(values, kind="stable")
    found = weighted_order_statistic(values[order], np.cumsum(weights[order]), np.array([extra]), 1 - float(alpha))
    assert found.tolist() == [expected]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=15), st.integers(-4, 4), st.sampled_from([0.0, 0.25, 1.0]))
def test_pvalues_count_the_scores_at_least_as_large(scores, new, u):
    expected = (sum(s > new for s in scores) + u * (1 + sum(s == new for s in scores))) / (len(scores) + 1)
    ordered = np.sort(np.array(scores, dtype=float))
    assert rank_pvalue(ordered, np.array([float(new)]), u) == pytest.approx(expected, abs=1e-15)
    assert rank_pvalue(jnp.asarray(ordered), jnp.array([float(new)]), u) == pytest.approx(expected, abs=1e-6)
