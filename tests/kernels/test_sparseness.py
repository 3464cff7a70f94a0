"""Sparseness against its definition, its extremes and its invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.kernels.sparseness import active_fraction, lifetime_sparseness, population_sparseness, treves_rolls

codes = st.lists(
    st.lists(st.floats(-1e3, 1e3).map(lambda r: 0.0 if abs(r) < 0.1 else r), min_size=6, max_size=6),
    min_size=2,
    max_size=5,
).map(np.array)


def by_hand(r):
    """The definition with a loop, in the order of its words."""
    if not r.any():
        return 1.0
    mean, mean_square = sum(abs(one) for one in r) / len(r), sum(one * one for one in r) / len(r)
    return (1 - mean * mean / mean_square) * len(r) / (len(r) - 1)


@given(codes)
def test_it_is_the_definition_in_both_directions(r):
    np.testing.assert_allclose(population_sparseness(r), [by_hand(row) for row in r], atol=1e-12)
    np.testing.assert_allclose(lifetime_sparseness(r), [by_hand(column) for column in r.T], atol=1e-12)
    assert active_fraction(r) == pytest.approx(sum(one != 0 for one in r.ravel()) / r.size)


@given(codes, st.sampled_from([1e-200, -1.0, 1e200]))
def test_neither_scale_nor_sign_matters(r, factor):
    np.testing.assert_allclose(population_sparseness(factor * r), population_sparseness(r), atol=1e-12)


def test_the_extremes():
    assert population_sparseness(np.diag([3.0, -2.0, 1.0])).tolist() == [1, 1, 1]
    assert population_sparseness(np.full((2, 5), -7.0)).tolist() == pytest.approx([0, 0], abs=1e-15)
    k_of_m = np.r_[np.ones(3), np.zeros(9)]
    assert treves_rolls(k_of_m) == pytest.approx((1 - 3 / 12) * 12 / 11)


def test_silence_is_sparse_and_never_nan():
    r = np.zeros((2, 3))
    r[0, 0] = 4.0
    assert population_sparseness(r).tolist() == [1, 1]
    assert lifetime_sparseness(r).tolist() == [1, 1, 1]
    assert active_fraction(r, axis=1).tolist() == pytest.approx([1 / 3, 0])


def test_inside_jit_vmap_and_grad():
    r = np.array([[0.0, 2.0, -1.0, 0.5], [0.0, 0.0, 0.0, 0.0]], np.float32)
    expected = population_sparseness(r)
    np.testing.assert_allclose(jax.jit(population_sparseness)(r), expected, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(treves_rolls)(jnp.asarray(r)), expected, atol=1e-6)
    slope = jax.grad(lambda x: population_sparseness(x).sum())(jnp.asarray(r))
    assert np.isfinite(slope).all()
    h = 1e-6
    for j in range(1, 4):
        up, down = r[0].astype(float), r[0].astype(float)
        up[j] += h
        down[j] -= h
        assert float(slope[0, j]) == pytest.approx((by_hand(up) - by_hand(down)) / (2 * h), abs=1e-4)


def test_one_unit_has_no_sparseness():
    with pytest.raises(ValueError, match="responses must have at least 2 entries along axis 1, got 1"):
        population_sparseness(np.ones((4, 1)))
