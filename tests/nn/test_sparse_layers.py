"""Packed layers against the dense layers of Equinox that they stand for."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uqsparse.kernels.group_sparsity import project_group
from uqsparse.nn.group_convolution import GroupConv
from uqsparse.nn.linear import GroupLinear, SparseLinear

CLOSE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def linear():
    return eqx.nn.Linear(24, 40, key=jax.random.key(0))


@pytest.fixture(scope="module")
def mask():
    return project_group(np.random.default_rng(0).normal(size=(24, 40)), 6).T


@pytest.fixture(scope="module")
def X():
    return jax.random.normal(jax.random.key(1), (5, 24))


def dense_output(linear, mask, X):
    weight = np.where(mask, linear.weight, 0).astype(np.float64)
    return np.asarray(X, np.float64) @ weight.T + (0 if linear.bias is None else np.asarray(linear.bias))


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_group_layer_is_the_masked_dense_one(linear, mask, X, use_bias):
    linear = linear if use_bias else eqx.tree_at(lambda layer: layer.bias, linear, None)
    layer = GroupLinear.from_linear(linear, mask=mask)

    @eqx.filter_jit
    def outputs(layer, X):
        return jax.vmap(layer)(X), layer(X), layer(X[None])[0], jnp.stack([layer(X[0], key=jax.random.key(2))] * 5)

    expected = dense_output(linear, mask, X)
    for computed in outputs(layer, X)[:3]:
        np.testing.assert_allclose(computed, expected, **CLOSE)
    np.testing.assert_allclose(outputs(layer, X)[3][0], expected[0], **CLOSE)
    np.testing.assert_array_equal(layer.weight, np.where(mask, linear.weight, 0))
    np.testing.assert_array_equal(layer.mask, mask)
    assert (layer.in_features, layer.out_features, layer.use_bias, layer.group) == (24, 40, use_bias, 16)
    if use_bias:
        back = layer.to_linear()
        np.testing.assert_array_equal(back.weight, layer.weight)
        assert eqx.tree_equal(back.bias, linear.bias)
        assert (back.in_features, back.use_bias) == (24, True)


def test_a_sparse_layer_takes_any_mask(linear, X):
    scattered = np.random.default_rng(3).uniform(size=(40, 24)) < 0.2
    layer = SparseLinear.from_linear(linear, mask=scattered)
    np.testing.assert_allclose(eqx.filter_jit(layer)(X), dense_output(linear, scattered, X), **CLOSE)
    np.testing.assert_array_equal(layer.mask, scattered)
    assert layer.group == 1
    largest = np.asarray(SparseLinear.from_linear(linear, density=0.25).mask)
    magnitude = np.abs(np.asarray(linear.weight))
    assert (largest.sum(axis=1) == 6).all()
    assert (np.where(largest, 0, magnitude).max(axis=1) <= np.where(largest, magnitude, np.inf).min(axis=1)).all()


def test_without_mask_or_density_the_zeros_are_left_out(linear, mask):
    dense = eqx.tree_at(lambda one: one.weight, linear, np.where(mask, linear.weight, 0))
    layer = GroupLinear.from_linear(dense)
    np.testing.assert_array_equal(layer.weight, dense.weight)
    assert layer.packed.density == 0.25


def test_gradients_and_steps_are_those_of_the_masked_layer(linear, mask, X):
    optimiser = optax.sgd(1.0, momentum=0.9)
    target = jax.random.normal(jax.random.key(4), (5, 40))

    def losses(layer, forward):
        state = optimiser.init(eqx.filter(layer, eqx.is_inexact_array))

        @eqx.filter_jit
        def step(layer, state):
            value, slope = eqx.filter_value_and_grad(lambda layer: ((forward(layer) - target) ** 2).mean())(layer)
            updates, state = optimiser.update(slope, state)
            return eqx.apply_updates(layer, updates), state, value

        found = []
        for _ in range(5):
            layer, state, value = step(layer, state)
            found.append(value)
        return layer, np.array(found)

    layer, ours = losses(GroupLinear.from_linear(linear, mask=mask), lambda layer: layer(X))
    dense, theirs = losses(linear, lambda layer: X @ jnp.where(mask, layer.weight, 0).T + layer.bias)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(layer.weight, np.where(mask, dense.weight, 0), rtol=1e-4, atol=1e-6)


def test_a_new_mask_keeps_what_stays_and_compiles_nothing(linear, mask, X):
    layer = GroupLinear.from_linear(linear, mask=mask)
    other = project_group(np.random.default_rng(5).normal(size=(24, 40)), 6).T
    traces = []

    @eqx.filter_jit
    def apply(layer, X):
        traces.append(1)
        return layer(X)

    apply(layer, X)
    moved = layer.with_mask(other)
    apply(moved, X)
    assert len(traces) == 1
    np.testing.assert_array_equal(moved.mask, other)
    np.testing.assert_array_equal(moved.weight, np.where(mask & other, linear.weight, 0))
    filled = moved.with_weight(linear.weight)
    np.testing.assert_array_equal(filled.weight, np.where(other, linear.weight, 0))


def test_random_layers_have_one_fan_in_and_bounded_weights():
    layer = GroupLinear(100, 40, density=0.1, group=8, key=jax.random.key(0))
    assert (np.asarray(layer.mask).sum(axis=1) == 10).all()
    assert np.abs(layer.packed.val).max() <= 1 / np.sqrt(10) < 1.1 * np.abs(layer.packed.val).max()
    assert not (np.asarray(layer.mask)[0] == np.asarray(layer.mask)[8]).all()
    assert np.abs(layer.bias).max() <= 1 / np.sqrt(10)
    assert eqx.tree_equal(layer, GroupLinear(100, 40, density=0.1, group=8, key=jax.random.key(0)))
    sparse = SparseLinear(100, 8, False, jnp.bfloat16, density=0.1, key=jax.random.key(1))
    assert (np.asarray(sparse.mask).sum(axis=1) == 10).all()
    assert sparse.bias is None
    assert sparse.packed.val.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda linear, mask: GroupLinear.from_linear(linear, mask=mask, density=0.5), "a mask or a density, not both"),
        (
            lambda linear, mask: GroupLinear.from_linear(linear, mask=mask.T),
            r"mask must be boolean of shape \(40, 24\)",
        ),
        (lambda linear, mask: GroupLinear.from_linear(linear, mask=mask * 1), "mask must be boolean"),
        (
            lambda linear, mask: GroupLinear.from_linear(linear, mask=np.arange(960).reshape(40, 24) % 7 > 0),
            "keep or drop whole groups of 16",
        ),
        (lambda linear, mask: GroupLinear.from_linear(linear, density=2.0), "density must lie in"),
        (lambda linear, mask: GroupLinear.from_linear(linear, density=0.5, group=0), "group must be an integer"),
        (lambda linear, mask: GroupLinear(0, 3, key=jax.random.key(0)), "in_features must be an integer of at least 1"),
        (lambda linear, mask: SparseLinear(3, 3, density=-1.0, key=jax.random.key(0)), "density must lie in"),
        (
            lambda linear, mask: GroupLinear.from_linear(linear, backend="jax")(jnp.ones(23)),
            "x must have 24 entries in its last axis",
        ),
        (
            lambda linear, mask: GroupLinear.from_linear(eqx.nn.Linear("scalar", 4, key=jax.random.key(0))),
            "linear must be an equinox.nn.Linear between vectors",
        ),
        (
            lambda linear, mask: GroupLinear.from_linear(
                eqx.tree_at(lambda layer: layer.weight, linear, linear.weight.at[3, 4].set(jnp.nan)), density=1.0
            ),
            "finite",
        ),
    ],
)
def test_bad_arguments_are_refused(linear, mask, make, message):
    with pytest.raises(ValueError, match=message):
        make(linear, mask)


@pytest.mark.parametrize(
    ("n_dims", "options"),
    [
        (2, {"kernel_size": 1}),
        (2, {"kernel_size": (3, 2), "stride": 2, "dilation": (2, 1), "padding": "SAME", "use_bias": False}),
        (2, {"kernel_size": 1, "stride": 2, "padding": ((0, 1), (2, 0)), "padding_mode": "CIRCULAR"}),
        (1, {"kernel_size": 4, "padding": 2, "padding_mode": "REFLECT"}),
    ],
    ids=["pixels", "strided", "circular", "one-dimensional"],
)
def test_convolutions_are_those_of_equinox(n_dims, options):
    conv = eqx.nn.Conv(n_dims, 6, 20, key=jax.random.key(0), **options)
    image = jax.random.normal(jax.random.key(1), (6, 9, 8)[: n_dims + 1])
    weight = np.asarray(conv.weight)
    mask = project_group(np.abs(weight.reshape(20, -1)).T, density=0.4, group=8).T.reshape(weight.shape)
    packed = GroupConv.from_conv(conv, mask=mask, group=8)
    np.testing.assert_array_equal(packed.weight, np.where(mask, weight, 0))
    assert eqx.tree_equal(packed, GroupConv.from_conv(conv, density=0.4, group=8))

    @eqx.filter_jit
    def outputs(packed, conv, image):
        pruned = eqx.tree_at(lambda one: one.weight, conv, jnp.where(mask, conv.weight, 0))
        batch = jnp.stack([image, 2 * image])
        return jax.vmap(packed)(batch), jax.vmap(pruned)(batch)

    together, expected = outputs(packed, conv, image)
    np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-5)


def test_a_convolution_has_gradients_for_image_and_values():
    conv = eqx.nn.Conv2d(3, 8, 2, key=jax.random.key(0))
    image = jax.random.normal(jax.random.key(1), (3, 4, 5))
    packed = GroupConv.from_conv(conv, density=1.0, group=8, backend="jax")

    def energy(pair):
        return (pair[0](pair[1]) ** 2).sum()

    ours, theirs = (eqx.filter_jit(eqx.filter_grad(energy))((one, image)) for one in (packed, conv))
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-5)
    by_weight = eqx.tree_at(lambda gs: gs.val, packed.packed, ours[0].packed.val)
    dense = eqx.tree_at(lambda one: one.packed, packed, by_weight).weight
    np.testing.assert_allclose(dense, theirs[0].weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours[0].bias, theirs[0].bias, rtol=1e-4)


def test_bad_convolutions_are_refused():
    with pytest.raises(ValueError, match="groups = 1"):
        GroupConv.from_conv(eqx.nn.Conv2d(4, 8, 1, groups=2, key=jax.random.key(0)))
    conv = eqx.nn.Conv2d(3, 8, 1, key=jax.random.key(0))
    with pytest.raises(ValueError, match="mask must have shape"):
        GroupConv.from_conv(conv, mask=np.ones((8, 3), bool))
    with pytest.raises(ValueError, match="x must have 3 channels and 2 dimensions"):
        GroupConv.from_conv(conv, backend="jax")(jnp.ones((4, 2, 2)))
