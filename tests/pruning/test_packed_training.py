"""Moves of packed inputs: against enumeration in NumPy, and against dense training with masks."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.kernels.group_sparsity import from_arrays, project_group
from uqsparse.nn.group_convolution import GroupConv
from uqsparse.nn.linear import GroupLinear, SparseLinear
from uqsparse.pruning.allocation import uniform
from uqsparse.pruning.criteria import gradient
from uqsparse.pruning.hook import sparsify
from uqsparse.pruning.masks import apply_mask
from uqsparse.pruning.packed_training import dense_gradients, move_groups
from uqsparse.pruning.packing import pack_model
from uqsparse.pruning.rules import DropGrow
from uqsparse.pruning.schedules import Constant, CosineChurn
from uqsparse.pruning.structures import Group

SGD = optax.sgd(0.1, momentum=0.9)


def parameters(network):
    return eqx.filter(network, eqx.is_inexact_array)


def moved_by_hand(packed, moments, gradient, churn, allow_regrow=False):
    """One move with loops, in NumPy: {(group, input): (values, moments)}."""
    ptr, idx, val = np.asarray(packed.ptr), np.asarray(packed.idx), np.asarray(packed.val)
    (n_inputs, n_outputs), size = packed.shape, packed.group
    padded = np.pad(np.abs(np.asarray(gradient)), ((0, 0), (0, -n_outputs % size)))
    found = {}
    for group in range(packed.n_groups):
        rows = {int(idx[j]): j for j in range(ptr[group], ptr[group + 1])}
        r = min(int(np.floor(churn * len(rows) + 1e-9)), n_inputs - len(rows))
        by_worth = sorted(rows, key=lambda k: (-np.abs(val[rows[k]]).sum(), k))
        stay = by_worth[: len(rows) - r]
        outside = [k for k in range(n_inputs) if k not in (stay if allow_regrow else rows)]
        gain = {k: padded[k, group * size : (group + 1) * size].sum() for k in outside}
        for k in sorted([*stay, *sorted(outside, key=lambda k: (-gain[k], k))[:r]]):
            nothing = np.zeros(size, np.float32)
            found[group, k] = (val[rows[k]], moments[rows[k]]) if k in rows else (nothing, nothing)
    return found


def with_arrays(layer, rng, levels):
    """The layer with few different weights, so that there are ties; its moments and a gradient likewise."""
    n, n_outputs = layer.packed.val.shape[0], layer.packed.shape[1]
    val = rng.integers(-levels, levels + 1, size=layer.packed.val.shape).astype(np.float32)
    val[:, :] = np.where(np.asarray(layer.packed.val) == 0, 0, val)
    last = -n_outputs % layer.packed.group
    if last:
        val[int(layer.packed.ptr[-2]) :, -last:] = 0
    moments = rng.normal(size=(n, layer.packed.group)).astype(np.float32)
    gradient = rng.integers(-levels, levels + 1, size=layer.packed.shape).astype(np.float32)
    return eqx.tree_at(lambda one: one.packed.val, layer, jnp.asarray(val)), moments, gradient


# Inputs, outputs, outputs in a group, density, allow_regrow.
CASES = [
    (12, 10, 4, 0.3, False),
    (12, 10, 4, 0.3, True),
    (6, 4, 1, 0.5, False),
    (5, 4, 2, 1.0, True),
    (5, 4, 2, 0.0, False),
]


@given(st.sampled_from(CASES), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_a_move_is_the_one_that_enumeration_finds(case, churn, seed):
    n_inputs, n_outputs, group, density, allow_regrow = case
    layer = GroupLinear(n_inputs, n_outputs, density=density, group=group, key=jax.random.key(seed))
    layer, moments, gradient = with_arrays(layer, np.random.default_rng(seed), 3)
    state = SGD.init(parameters(layer))
    state = eqx.tree_at(lambda one: one[0].trace.packed.val, state, jnp.asarray(moments))
    expected = moved_by_hand(layer.packed, moments, gradient, churn, allow_regrow)

    gradients = eqx.tree_at(lambda one: one.packed, layer, jnp.asarray(gradient))
    moved, state, n_new = move_groups(layer, state, gradients, churn, inner=SGD, allow_regrow=allow_regrow)
    packed = moved.packed
    groups = np.repeat(np.arange(packed.n_groups), np.diff(packed.ptr))
    assert list(zip(groups.tolist(), packed.idx.tolist(), strict=True)) == list(expected)
    for row, (values, momentum) in enumerate(expected.values()):
        np.testing.assert_array_equal(packed.val[row], values)
        np.testing.assert_array_equal(state[0].trace.packed.val[row], momentum)
    # all positions, those of the transposed matrix too, are what the host computes and checks
    assert eqx.tree_equal(packed, from_arrays(packed.ptr, packed.idx, packed.val, packed.shape, packed.group))
    before = set(zip(groups.tolist(), np.asarray(layer.packed.idx).tolist(), strict=True))
    assert int(n_new) == len(set(expected) - before)
    np.testing.assert_array_equal(moved.bias, layer.bias)


def test_groups_may_keep_different_numbers_of_inputs():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 16)).astype(np.float32)
    mask = project_group(np.abs(weight).T, 4, group=2, fixed_fan_in=False).T
    linear = eqx.tree_at(lambda one: one.weight, eqx.nn.Linear(16, 8, key=jax.random.key(0)), jnp.asarray(weight))
    layer = GroupLinear.from_linear(linear, mask=mask, group=2)
    assert len(set(np.diff(layer.packed.ptr).tolist())) > 1
    layer, moments, gradient = with_arrays(layer, rng, 100)
    gradients = eqx.tree_at(lambda one: one.packed, layer, jnp.asarray(gradient))
    moved, _, _ = move_groups(layer, SGD.init(parameters(layer)), gradients, 0.5, inner=SGD)
    expected = moved_by_hand(layer.packed, moments, gradient, 0.5)
    np.testing.assert_array_equal(moved.packed.idx, [k for _, k in expected])
    np.testing.assert_array_equal(moved.packed.ptr, layer.packed.ptr)


@pytest.fixture(scope="module")
def network():
    """A convolution, a layer in groups of which the last is not full, one without groups, and a dense one."""
    keys = jax.random.split(jax.random.key(0), 4)
    conv = eqx.nn.Conv1d(2, 8, 3, padding=1, key=keys[0])
    return eqx.nn.Sequential(
        [
            GroupConv.from_conv(conv, density=0.5, group=4),
            eqx.nn.Lambda(jnp.ravel),
            GroupLinear(8 * 6, 20, density=0.25, group=8, key=keys[1]),
            eqx.nn.Lambda(jnp.tanh),
            SparseLinear(20, 12, density=0.3, key=keys[2]),
            eqx.nn.Linear(12, 3, key=keys[3]),
        ]
    )


@pytest.fixture(scope="module")
def small():
    """A packed layer and a dense one."""
    packed = GroupLinear(12, 10, density=0.25, group=4, key=jax.random.key(0))
    return eqx.nn.Sequential([eqx.nn.Lambda(jnp.ravel), packed, eqx.nn.Linear(10, 3, key=jax.random.key(1))])


@pytest.fixture(scope="module")
def batch():
    return jax.random.normal(jax.random.key(1), (10, 2, 6)), jnp.arange(10) % 3


def loss(network, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(network)(x), y).mean()


def test_gradients_are_those_of_the_dense_network(network, batch):
    conv = eqx.nn.Conv1d(2, 8, 3, padding=1, key=jax.random.key(0))
    conv = eqx.tree_at(lambda one: (one.weight, one.bias), conv, (network[0].weight, network[0].bias))
    dense = eqx.tree_at(
        lambda one: (one.layers[0], one.layers[2], one.layers[4]),
        network,
        (conv, network[2].to_linear(), network[4].to_linear()),
    )
    expected = eqx.filter_jit(eqx.filter_grad(loss))(dense, *batch)
    found = dense_gradients(loss, network, *batch)
    for i in (0, 2, 4):
        ours, theirs = np.asarray(found[i].packed), np.asarray(expected[i].weight)
        np.testing.assert_allclose(ours, theirs.reshape(len(theirs), -1).T, rtol=1e-4, atol=1e-6)
    assert found[5].weight is None
    assert found[2].bias is None


def stepped(network, state, inner, x, y):
    """One step of an optimiser."""
    value, slopes = eqx.filter_value_and_grad(loss)(network, x, y)
    updates, state = inner.update(slopes, state, parameters(network))
    return eqx.apply_updates(network, updates), state, value


def rows_of(packed):
    """{(group, input): row of the values}."""
    groups = np.repeat(np.arange(packed.n_groups), np.diff(packed.ptr)).tolist()
    return {place: row for row, place in enumerate(zip(groups, packed.idx.tolist(), strict=True))}


@pytest.mark.parametrize(
    "inner",
    [
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2)),
        optax.inject_hyperparams(optax.adam)(learning_rate=optax.cosine_decay_schedule(1e-2, 10)),
        optax.lion(1e-3),
    ],
    ids=["clipped adamw", "injected adam", "lion"],
)
def test_moments_move_with_their_inputs_under_any_optimiser(small, inner):
    state = jax.tree.map(
        lambda leaf: (leaf + 1 + np.arange(leaf.size).reshape(leaf.shape)).astype(leaf.dtype),
        inner.init(parameters(small)),
    )
    moved, after, _ = move_groups(small, state, None, 0.5, inner=inner, key=jax.random.key(0))
    old, new, n_checked = rows_of(small[1].packed), rows_of(moved[1].packed), 0
    assert old.keys() != new.keys()
    for before, later in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        expected = np.asarray(before)
        if expected.shape == small[1].packed.val.shape:
            expected = np.array([expected[old[place]] if place in old else np.zeros(4) for place in new])
            n_checked += 1
        np.testing.assert_array_equal(later, expected)
        assert later.dtype == before.dtype
    assert n_checked >= 1


def test_part_of_the_network_may_have_its_own_optimiser(small):
    layers = small.layers  # Optax takes a tree of labels for a function if it can be called
    labels = jax.tree.map(lambda leaf: "weights" if leaf.ndim > 1 else "rest", parameters(layers))
    inner = optax.multi_transform({"weights": optax.adam(1e-3), "rest": optax.sgd(0.1)}, labels)
    state = jax.tree.map(jnp.ones_like, inner.init(parameters(layers)))
    _, after, n_new = move_groups(layers, state, None, 0.5, inner=inner, key=jax.random.key(0))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    zeros = sum(int((leaf == 0).sum()) for leaf in jax.tree.leaves(after))
    assert zeros == 2 * 4 * int(n_new) > 0  # two moments for each of the four outputs


def test_moves_inside_jit_are_the_same_and_compile_once(small, batch):
    inner, traced = optax.adam(1e-2), 0

    @eqx.filter_jit
    def step(network, state, churn, x, y):
        nonlocal traced
        traced += 1
        network, state, n_new = move_groups(network, state, dense_gradients(loss, network, x, y), churn, inner=inner)
        return *stepped(network, state, inner, x, y)[:2], n_new

    state = inner.init(parameters(small))
    expected = move_groups(small, state, dense_gradients(loss, small, *batch), 0.4, inner=inner)
    one, state, n_new = step(small, state, jnp.asarray(0.4), *batch)
    assert int(n_new) == int(expected[2]) == 3
    assert eqx.tree_equal(one[1].packed.idx, expected[0][1].packed.idx)
    two, _, n_new = step(one, state, jnp.asarray(0.0), *batch)
    assert (traced, int(n_new)) == (1, 0)
    assert eqx.tree_equal(two[1].packed.idx, one[1].packed.idx)
    broken = eqx.tree_at(lambda one: one[2].weight, one, jnp.nan * one[2].weight)  # so that every gradient is NaN
    kept, _, n_new = step(broken, state, jnp.asarray(0.4), *batch)
    assert (traced, int(n_new)) == (1, 0)
    assert eqx.tree_equal(kept[1].packed.idx, one[1].packed.idx)


def test_training_is_that_of_a_masked_dense_network():
    """RigL in groups of 4 on 50 steps of Adam, through `sparsify` and packed: equal masks, equal losses."""
    every, n_steps, inner = 10, 50, optax.adam(1e-2)
    x = jax.random.normal(jax.random.key(3), (64, 24))
    y = jnp.argmax(x[:, :3] + x[:, 3:6] ** 2, axis=1)
    churn = CosineChurn(0.5, 2 * n_steps)
    mlp = eqx.nn.MLP(24, 4, 32, 1, key=jax.random.key(4))
    params, static = eqx.partition(mlp, eqx.is_inexact_array)
    hook = sparsify(
        inner,
        schedule=Constant(0.25, every),
        rule=DropGrow(),
        grow=gradient(),
        churn=churn,
        allocation=uniform(),
        structure=Group(4),
        key=jax.random.key(5),
        automatic=False,
    )
    slopes = jax.value_and_grad(lambda params: loss(eqx.combine(params, static), x, y))

    @jax.jit
    def dense_step(params, sparse):
        value, slope = slopes(params)
        updates, sparse = hook.update(slope, sparse, params)
        return optax.apply_updates(params, updates), sparse, value

    change = jax.jit(lambda params, sparse: hook.update_mask(sparse, params, slopes(params)[1]))
    packed_step = eqx.filter_jit(lambda network, state: stepped(network, state, inner, x, y))

    sparse = hook.init(params)
    params = apply_mask(sparse.mask, params)
    network = pack_model(eqx.combine(params, static), sparse.mask, backend="dense")
    state = inner.init(parameters(network))
    losses, masks = [], [np.asarray(network.layers[0].mask)]
    for step in range(n_steps):
        if step and step % every == 0:
            params, sparse = change(params, sparse)
            gradients = dense_gradients(loss, network, x, y)
            network, state, _ = move_groups(network, state, gradients, churn.rate(step), inner=inner)
            for ours, theirs in zip(network.layers, sparse.mask.layers, strict=True):
                np.testing.assert_array_equal(ours.mask, theirs.weight)
            masks.append(np.asarray(network.layers[0].mask))
        params, sparse, value = dense_step(params, sparse)
        network, state, packed_value = packed_step(network, state)
        losses.append((value, packed_value))
    ours, theirs = np.array(losses).T
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    assert ours[-1] < 0.5 * ours[0]
    assert sum((one != other).any() for one, other in itertools.pairwise(masks)) >= 3


def test_random_growth_is_uniform_over_what_was_off():
    # of 64 groups with 1 of 9 inputs exchanged, each of the 8 others is hit 8 times on average
    layer = GroupLinear(9, 64, density=1 / 9, group=1, key=jax.random.key(2))
    packed = from_arrays(np.arange(65), np.zeros(64, int), layer.packed.val, (9, 64), 1)
    layer = eqx.tree_at(lambda one: one.packed, layer, packed)
    state = SGD.init(parameters(layer))
    grown = [move_groups(layer, state, None, 1.0, inner=SGD, key=jax.random.key(seed))[0] for seed in (3, 3, 4)]
    assert eqx.tree_equal(grown[0], grown[1])
    hits, other = (np.bincount(one.packed.idx, minlength=9) for one in grown[1:])
    assert hits[0] == other[0] == 0
    assert (hits != other).any()
    assert ((hits[1:] - 8) ** 2 / 8).sum() < 29.9  # chi-squared, 7 degrees of freedom: 1e-4


def test_what_does_not_fit_is_refused_by_name(network, batch):
    state, gradients = SGD.init(parameters(network)), dense_gradients(loss, network, *batch)
    for churn in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"churn must lie in \[0, 1\]"):
            move_groups(network, state, gradients, churn, inner=SGD)
    for wrong in ({"gradients": None}, {"gradients": gradients, "key": jax.random.key(0)}):
        with pytest.raises(ValueError, match="either gradients, or a key"):
            move_groups(network, state, wrong.pop("gradients"), 0.1, inner=SGD, **wrong)
    dense = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    for refused in (
        lambda: dense_gradients(jnp.sum, dense),
        lambda: move_groups(dense, state, None, 0.1, inner=SGD, key=jax.random.key(0)),
    ):
        with pytest.raises(ValueError, match="must have packed layers"):
            refused()
    broken = eqx.tree_at(lambda one: one[2].packed, gradients, jnp.full((48, 20), jnp.nan))
    with pytest.raises(ValueError, match=r"gradients of 'layers\.2\.packed' are NaN"):
        move_groups(network, state, broken, 0.1, inner=SGD)
    broken = eqx.tree_at(lambda one: one[4].packed, gradients, jnp.ones((12, 20)))
    with pytest.raises(ValueError, match=r"a matrix \(20, 12\) for 'layers\.4\.packed', got \(12, 20\)"):
        move_groups(network, state, broken, 0.1, inner=SGD)
    broken = eqx.tree_at(lambda one: one[0].packed.val, network, jnp.inf * network[0].packed.val)
    with pytest.raises(ValueError, match=r"'layers\.0\.packed' has weights that are NaN or infinite"):
        move_groups(broken, state, gradients, 0.1, inner=SGD)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]) if eqx.is_array(leaf) else leaf, network)
    with pytest.raises(ValueError, match=r"'layers\.0\.packed' holds several weights"):
        move_groups(stacked, state, gradients, 0.1, inner=SGD)
