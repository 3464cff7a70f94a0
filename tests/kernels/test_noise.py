"""Fused noise against JAX's own generator and SciPy's quantile function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uqsparse.kernels import random_bits, standard_normal, uniform
from uqsparse.kernels.noise import normal_from_bits

SHAPES = [(), (5,), (4, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@given(seed=st.integers(0, 2**32 - 1))
def test_bits_are_those_of_jax(shape, seed):
    key = jax.random.key(seed)
    np.testing.assert_array_equal(random_bits(key, shape), jax.random.bits(key, shape))
    np.testing.assert_array_equal(random_bits(jax.random.PRNGKey(seed), shape), jax.random.bits(key, shape))


def normals_of(bits):
    """What the documented reading of the bits gives, by SciPy: a sign and a tail probability."""
    tail = ((bits >> np.uint32(1)).astype(float) + 0.5) * 2.0**-31
    return np.where(bits & np.uint32(1) == 1, -1.0, 1.0) * stats.norm.isf(tail / 2)


@pytest.mark.parametrize("is_double", [False, True])
def test_normals_are_the_quantiles_of_their_bits(is_double):
    key, n = jax.random.key(3), 1_000_000
    with jax.enable_x64(is_double):
        z = np.asarray(standard_normal(key, (n,)))
    assert z.dtype == (np.float64 if is_double else np.float32)
    expected = normals_of(np.asarray(random_bits(key, (n,))))
    assert np.all(np.abs(z - expected) < 1e-6 + 4e-4 * np.abs(expected) * (np.abs(expected) > 5))
    assert stats.kstest(z, stats.norm.cdf).pvalue > 1e-5  # the false-alarm rate; the key is fixed
    assert np.abs(z[1:] @ z[:-1] / n) < 5 / np.sqrt(n)


def test_the_tail_reaches_to_the_last_bit():
    """The largest tail probability to the smallest, through the formula itself: 2**-32 is 6.3 standard deviations."""
    bits = np.array([0, 1, 2, 3, 2**10, 2**20, 2**31, 2**32 - 1], np.uint32)
    found = np.asarray(normal_from_bits(jnp.asarray(bits)), float)
    np.testing.assert_allclose(found, normals_of(bits), rtol=4e-4, atol=1e-6)


@pytest.mark.parametrize("is_double", [False, True])
def test_uniforms_lie_in_the_half_open_interval(is_double):
    with jax.enable_x64(is_double):
        u = np.asarray(uniform(jax.random.key(1), (1_000_000,)))
    assert u.dtype == (np.float64 if is_double else np.float32)
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u, stats.uniform.cdf).pvalue > 1e-5


def test_they_work_under_jit_and_vmap():
    keys = jax.random.split(jax.random.key(0), 3)
    batch = jax.jit(jax.vmap(lambda key: standard_normal(key, (4,))))(keys)
    np.testing.assert_allclose(batch[1], standard_normal(keys[1], (4,)), rtol=1e-6)


def test_other_kinds_of_keys_give_the_bits_of_jax():
    key = jax.random.key(0, impl="rbg")
    assert jnp.array_equal(random_bits(key, (3,)), jax.random.bits(key, (3,)))


def test_what_is_no_single_key_is_refused():
    with pytest.raises(ValueError, match="expected one threefry key"):
        random_bits(jnp.zeros((2, 2), jnp.uint32), (3,))
    with pytest.raises(ValueError, match="fewer than"):
        random_bits(jax.random.key(0), (2**16, 2**16))
