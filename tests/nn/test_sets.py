"""Set blocks do not know the order of their rows, nor what is in the rows that are masked."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.nn.sets import ISAB, MAB, PMA, SAB, DeepSets, RowMLP, apply_norm, pool

RNG = np.random.default_rng(1)
X = RNG.normal(size=(2, 6, 3)).astype(np.float32)
MASK = np.array([[True, True, False, True, True, False], [False] * 6])
BLOCKS = {
    "deep sets": DeepSets(3, 4, width=8, key=jax.random.key(0)),
    "sab": SAB(3, 8, heads=2, key=jax.random.key(1)),
    "isab": ISAB(3, 8, 5, heads=2, key=jax.random.key(2)),
    "pma": PMA(3, 8, 2, heads=2, key=jax.random.key(3)),
}
KEEPS_ROWS = ("sab", "isab")


@eqx.filter_jit
def applied(block, x, mask):
    return block(x, mask)


@pytest.mark.parametrize("how", ["mean", "sum", "max"])
@settings(max_examples=25, deadline=None)
@given(mask=st.lists(st.booleans(), min_size=6, max_size=6))
def test_pooling_is_numpy_on_the_rows_that_are_there(how, mask):
    there = X[0][np.array(mask)]
    expected = getattr(there, how)(0) if len(there) else np.zeros(3)
    poisoned = np.where(np.array(mask)[:, None], X[0], np.nan)
    np.testing.assert_allclose(pool(jnp.asarray(poisoned), jnp.array(mask), how), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BLOCKS)
def test_order_and_padding_do_not_matter(name):
    block = BLOCKS[name]
    found = applied(block, jnp.asarray(X), jnp.asarray(MASK))
    assert np.isfinite(found).all()
    order = RNG.permutation(6)
    shuffled = applied(block, jnp.asarray(X[:, order]), jnp.asarray(MASK[:, order]))
    other = applied(block, jnp.asarray(np.where(MASK[..., None], X, 7.0)), jnp.asarray(MASK))
    if name in KEEPS_ROWS:
        np.testing.assert_allclose(shuffled, found[:, order], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(other[0][MASK[0]], found[0][MASK[0]], rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_allclose(shuffled, found, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(other, found, rtol=1e-4, atol=1e-5)


def test_rows_of_a_set_see_each_other():
    """A block that mapped rows one by one would pass the test above."""
    moved = X.copy()
    moved[0, 0] += 1
    for name, block in BLOCKS.items():
        change = np.abs(
            applied(block, jnp.asarray(moved), jnp.asarray(MASK)) - applied(block, jnp.asarray(X), jnp.asarray(MASK))
        )
        assert (change[0, 1] if name in KEEPS_ROWS else change[0]).max() > 1e-4, name


def test_attention_block_by_hand():
    """Lee et al. (2019), eq. 6-7, head by head."""
    block = MAB(3, 2, 4, heads=2, key=jax.random.key(4))
    y = RNG.normal(size=(5, 2)).astype(np.float32)
    q, k, v = (
        X[0] @ block.attention.query.weight.T,
        y @ block.attention.key.weight.T,
        y @ block.attention.value.weight.T,
    )
    heads = []
    for at in (slice(0, 2), slice(2, 4)):
        weights = np.exp(q[:, at] @ k[:, at].T / 2)
        heads.append(weights / weights.sum(1, keepdims=True) @ v[:, at])

    def norm(a):
        return (a - a.mean(1, keepdims=True)) / np.sqrt(a.var(1, keepdims=True) + 1e-5)

    h = norm(q + np.concatenate(heads, 1))
    expected = norm(h + np.maximum(h @ block.residual.weight.T + block.residual.bias, 0))
    np.testing.assert_allclose(block(jnp.asarray(X[0]), jnp.asarray(y)), expected, rtol=1e-4, atol=1e-5)


def test_induced_block_takes_other_points():
    block = ISAB(3, 8, 0, heads=2, key=jax.random.key(5))
    with pytest.raises(ValueError, match="points must be given"):
        block(jnp.asarray(X))
    points = jnp.asarray(RNG.normal(size=(2, 4, 8)), jnp.float32)
    there = jnp.array([[True, True, False, False], [False] * 4])
    found = block(jnp.asarray(X), points=points, points_mask=there)
    other = block(jnp.asarray(X), points=points.at[0, 2:].set(9.0), points_mask=there)
    np.testing.assert_array_equal(found, other)
    np.testing.assert_allclose(found[0], block(jnp.asarray(X[0]), points=points[0, :2]), rtol=1e-4, atol=1e-5)
    assert np.isfinite(found).all()


def test_norm_and_perceptron_are_those_of_equinox():
    norm = eqx.nn.LayerNorm(3)
    norm = eqx.tree_at(lambda n: (n.weight, n.bias), norm, (jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 1.0, -1.0])))
    np.testing.assert_allclose(
        apply_norm(norm, jnp.asarray(X)), jax.vmap(jax.vmap(norm))(jnp.asarray(X)), rtol=1e-4, atol=1e-5
    )
    ours, theirs = RowMLP(3, 2, 5, 3, key=jax.random.key(6)), eqx.nn.MLP(3, 2, 5, 2, key=jax.random.key(7))
    theirs = eqx.tree_at(lambda m: m.layers, theirs, ours.layers)
    np.testing.assert_allclose(ours(jnp.asarray(X)), jax.vmap(jax.vmap(theirs))(jnp.asarray(X)), rtol=1e-5, atol=1e-6)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"how must be one of .*, got 'median'"):
        pool(jnp.ones((2, 1)), None, "median")
    with pytest.raises(ValueError, match=r"pooling must be one of .*, got 'median'"):
        DeepSets(1, 1, pooling="median", key=jax.random.key(0))
    with pytest.raises(ValueError, match="n_seeds must be an integer of at least 1, got 0"):
        PMA(1, 4, 0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="depth must be an integer of at least 1, got 0"):
        RowMLP(1, 1, 1, 0, key=jax.random.key(0))
