"""Attention against Equinox's own and against a loop, and what it does where no key is left."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from uqsparse.nn.attention import MultiHeadAttention, apply_linear, masked_attention

RNG = np.random.default_rng(0)
Q, K, V = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 3, 4), (2, 5, 4), (2, 5, 6)))
MASK = np.array([[True, False, True, True, False], [False] * 5])


attend = jax.jit(masked_attention, static_argnames="scale")


@eqx.filter_jit
def applied(block, *arrays):
    return block(*arrays)


@eqx.filter_jit  # one program for all the weights
def built(heads):
    return MultiHeadAttention(4, 4, 6, 8, heads=heads, key=jax.random.key(1))


def test_masked_attention_is_a_softmax_over_what_is_there():
    found = attend(Q, K, V, MASK, scale=0.7)
    there = MASK[0]
    expected = softmax(0.7 * Q[0] @ K[0][there].T, axis=-1) @ V[0][there]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[1], 0)
    everything = attend(Q, K, V, scale=0.7)
    np.testing.assert_allclose(everything[1], softmax(0.7 * Q[1] @ K[1].T, axis=-1) @ V[1], rtol=1e-5, atol=1e-6)


def test_slopes_are_finite_and_blind_to_what_is_masked():
    slopes = jax.jit(jax.grad(lambda *a: masked_attention(*a, scale=50.0).sum(), argnums=(0, 1, 2)))(Q, K, V, MASK)
    assert all(np.isfinite(slope).all() for slope in slopes)
    for slope in slopes[1:]:
        np.testing.assert_array_equal(np.asarray(slope)[~MASK], 0)


def test_no_keys_at_all():
    found = attend(Q, np.zeros((2, 0, 4)), np.zeros((2, 0, 6)), scale=1.0)
    np.testing.assert_array_equal(found, np.zeros((2, 3, 6)))


def test_heads_are_those_of_equinox():
    """Equinox divides by the root of the size of a head, we by that of all heads together."""
    mask = np.broadcast_to(MASK[0], (2, 5))

    @jax.jit
    def both(key):
        theirs = eqx.nn.MultiheadAttention(
            2, 4, value_size=6, output_size=8, qk_size=4, vo_size=4, use_output_bias=True, key=key
        )
        ours = eqx.tree_at(
            lambda block: (block.query.weight, block.key.weight, block.value.weight, block.output),
            built(2),
            (theirs.query_proj.weight * 2**0.5, theirs.key_proj.weight, theirs.value_proj.weight, theirs.output_proj),
        )
        one_by_one = jnp.stack([ours(Q[i], K[i], V[i], mask[i]) for i in range(2)])
        return jax.vmap(theirs)(Q, K, V, np.broadcast_to(mask[:, None], (2, 3, 5))), ours(Q, K, V, mask), one_by_one

    expected, found, one_by_one = both(jax.random.key(0))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, one_by_one, rtol=1e-5, atol=1e-6)


def test_leading_axes_are_broadcast():
    block = built(2)
    many = RNG.normal(size=(3, 2, 3, 4)).astype(np.float32)
    found = applied(block, many, K, V, MASK)
    assert found.shape == (3, 2, 3, 8)
    np.testing.assert_allclose(found[1], applied(block, many[1], K, V, MASK), rtol=1e-5, atol=1e-6)
    bias = np.broadcast_to(block.output.bias, (3, 3, 8))
    np.testing.assert_allclose(np.asarray(found)[:, 1], bias, rtol=1e-6)


def test_linear_is_that_of_equinox():
    @eqx.filter_jit
    def both(use_bias):
        linear = eqx.nn.Linear(4, 3, use_bias=use_bias, key=jax.random.key(2))
        return jax.vmap(jax.vmap(linear))(Q), apply_linear(linear, Q)

    for use_bias in (True, False):
        np.testing.assert_allclose(*both(use_bias), rtol=1e-5, atol=1e-6)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="heads must divide the size 6, got 4"):
        MultiHeadAttention(3, 3, 3, 6, heads=4, key=jax.random.key(0))
    with pytest.raises(ValueError, match="query_size must be an integer of at least 1, got 0"):
        MultiHeadAttention(0, 3, 3, 4, key=jax.random.key(0))
