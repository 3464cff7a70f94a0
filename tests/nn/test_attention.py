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


def test_masked_attention_is_a_softmax_over_what_is_there():
    found = masked_attention(*map(jnp.asarray, (Q, K, V, MASK)), scale=0.7)
    there = MASK[0]
    expected = softmax(0.7 * Q[0] @ K[0][there].T, axis=-1) @ V[0][there]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[1], 0)
    everything = masked_attention(*map(jnp.asarray, (Q, K, V)), scale=0.7)
    np.testing.assert_allclose(everything[1], softmax(0.7 * Q[1] @ K[1].T, axis=-1) @ V[1], rtol=1e-5, atol=1e-6)


def test_slopes_are_finite_and_blind_to_what_is_masked():
    slopes = jax.grad(lambda *a: masked_attention(*a, jnp.asarray(MASK), scale=50.0).sum(), argnums=(0, 1, 2))(
        *map(jnp.asarray, (Q, K, V))
    )
    assert all(np.isfinite(slope).all() for slope in slopes)
    for slope in slopes[1:]:
        np.testing.assert_array_equal(slope[~MASK], 0)


def test_no_keys_at_all():
    found = masked_attention(jnp.asarray(Q), jnp.zeros((2, 0, 4)), jnp.zeros((2, 0, 6)), scale=1.0)
    np.testing.assert_array_equal(found, np.zeros((2, 3, 6)))


def test_heads_are_those_of_equinox():
    """Equinox divides by the root of the size of a head, we by that of all heads together."""
    theirs = eqx.nn.MultiheadAttention(
        2, 4, value_size=6, output_size=8, qk_size=4, vo_size=4, use_output_bias=True, key=jax.random.key(0)
    )
    ours = MultiHeadAttention(4, 4, 6, 8, heads=2, key=jax.random.key(1))
    ours = eqx.tree_at(
        lambda block: (
            block.query.weight,
            block.key.weight,
            block.value.weight,
            block.output.weight,
            block.output.bias,
        ),
        ours,
        (
            theirs.query_proj.weight * 2**0.5,
            theirs.key_proj.weight,
            theirs.value_proj.weight,
            theirs.output_proj.weight,
            theirs.output_proj.bias,
        ),
    )
    mask = np.broadcast_to(MASK[0], (2, 5))
    expected = jax.vmap(theirs)(
        jnp.asarray(Q), jnp.asarray(K), jnp.asarray(V), jnp.broadcast_to(mask[:, None], (2, 3, 5))
    )
    found = ours(jnp.asarray(Q), jnp.asarray(K), jnp.asarray(V), jnp.asarray(mask))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    one_by_one = jnp.stack([ours(*map(jnp.asarray, (Q[i], K[i], V[i], mask[i]))) for i in range(2)])
    np.testing.assert_allclose(found, one_by_one, rtol=1e-5, atol=1e-6)


def test_leading_axes_are_broadcast():
    block = MultiHeadAttention(4, 4, 6, 8, heads=2, key=jax.random.key(1))
    many = jnp.asarray(RNG.normal(size=(3, 2, 3, 4)), jnp.float32)
    found = block(many, jnp.asarray(K), jnp.asarray(V), jnp.asarray(MASK))
    assert found.shape == (3, 2, 3, 8)
    np.testing.assert_allclose(
        found[1], block(many[1], jnp.asarray(K), jnp.asarray(V), jnp.asarray(MASK)), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(found[:, 1], jnp.broadcast_to(block.output.bias, (3, 3, 8)), rtol=1e-6)


def test_linear_is_that_of_equinox():
    for use_bias in (True, False):
        linear = eqx.nn.Linear(4, 3, use_bias=use_bias, key=jax.random.key(2))
        expected = jax.vmap(jax.vmap(linear))(jnp.asarray(Q))
        np.testing.assert_allclose(apply_linear(linear, jnp.asarray(Q)), expected, rtol=1e-5, atol=1e-6)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="heads must divide the size 6, got 4"):
        MultiHeadAttention(3, 3, 3, 6, heads=4, key=jax.random.key(0))
    with pytest.raises(ValueError, match="query_size must be an integer of at least 1, got 0"):
        MultiHeadAttention(0, 3, 3, 4, key=jax.random.key(0))
