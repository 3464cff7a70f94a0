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
KEEPS_ROWS = ("sab", "isab")


@eqx.filter_jit  # one program for all the weights
def _blocks(key):
    keys = jax.random.split(key, 6)
    return {
        "deep sets": DeepSets(3, 4, width=8, key=keys[0]),
        "sab": SAB(3, 8, heads=2, key=keys[1]),
        "isab": ISAB(3, 8, 5, heads=2, key=keys[2]),
        "pma": PMA(3, 8, 2, heads=2, key=keys[3]),
        "mab": MAB(3, 2, 4, heads=2, key=keys[4]),
        "without points": ISAB(3, 8, 0, heads=2, key=keys[5]),
    }


BUILT = _blocks(jax.random.key(0))
BLOCKS = {name: BUILT[name] for name in ("deep sets", "sab", "isab", "pma")}


@eqx.filter_jit
def applied(block, x, *rest, **more):
    return block(x, *rest, **more)


pooled = jax.jit(pool, static_argnames="how")


@pytest.mark.parametrize("how", ["mean", "sum", "max"])
@settings(max_examples=25, deadline=None)
@given(mask=st.lists(st.booleans(), min_size=6, max_size=6))
def test_pooling_is_numpy_on_the_rows_that_are_there(how, mask):
    there = X[0][np.array(mask)]
    expected = getattr(there, how)(0) if len(there) else np.zeros(3)
    poisoned = np.where(np.array(mask)[:, None], X[0], np.nan)
    np.testing.assert_allclose(pooled(poisoned, np.array(mask), how), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BLOCKS)
def test_order_and_padding_do_not_matter(name):
    block = BLOCKS[name]
    found = np.asarray(applied(block, X, MASK))
    assert np.isfinite(found).all()
    order = RNG.permutation(6)
    shuffled = applied(block, X[:, order], MASK[:, order])
    other = np.asarray(applied(block, np.where(MASK[..., None], X, np.float32(7)), MASK))
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
        change = np.abs(np.asarray(applied(block, moved, MASK)) - np.asarray(applied(block, X, MASK)))
        assert (change[0, 1] if name in KEEPS_ROWS else change[0]).max() > 1e-4, name


def test_attention_block_by_hand():
    """Lee et al. (2019), eq. 6-7, head by head."""
    block = jax.device_get(BUILT["mab"])
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
    np.testing.assert_allclose(applied(BUILT["mab"], X[0], y), expected, rtol=1e-4, atol=1e-5)


def test_induced_block_takes_other_points():
    block = BUILT["without points"]
    with pytest.raises(ValueError, match="points must be given"):
        block(X)
    points = RNG.normal(size=(2, 4, 8)).astype(np.float32)
    there = np.array([[True, True, False, False], [False] * 4])
    moved = points.copy()
    moved[0, 2:] = 9
    found, other = (applied(block, X, points=p, points_mask=there) for p in (points, moved))
    np.testing.assert_array_equal(found, other)
    np.testing.assert_allclose(found[0], applied(block, X[0], points=points[0, :2]), rtol=1e-4, atol=1e-5)
    assert np.isfinite(found).all()


def test_norm_and_perceptron_are_those_of_equinox():
    @jax.jit
    def both(key):
        norm = eqx.nn.LayerNorm(3)
        norm = eqx.tree_at(lambda n: (n.weight, n.bias), norm, (jnp.array([1.0, 2, 3]), jnp.array([0.0, 1, -1])))
        ours, theirs = RowMLP(3, 2, 5, 3, key=key), eqx.nn.MLP(3, 2, 5, 2, key=key)
        theirs = eqx.tree_at(lambda m: m.layers, theirs, ours.layers)
        every = lambda function: jax.vmap(jax.vmap(function))(X)  # noqa: E731
        return (apply_norm(norm, X), every(norm)), (ours(X), every(theirs))

    for found, expected in both(jax.random.key(6)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"how must be one of .*, got 'median'"):
        pool(jnp.ones((2, 1)), None, "median")
    with pytest.raises(ValueError, match=r"pooling must be one of .*, got 'median'"):
        DeepSets(1, 1, pooling="median", key=jax.random.key(0))
    with pytest.raises(ValueError, match="n_seeds must be an integer of at least 1, got 0"):
        PMA(1, 4, 0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="depth must be an integer of at least 1, got 0"):
        RowMLP(1, 1, 1, 0, key=jax.random.key(0))
