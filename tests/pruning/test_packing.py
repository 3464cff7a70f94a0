"""Networks packed by the masks they were trained with."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uqsparse.nn.group_convolution import GroupConv
from uqsparse.nn.linear import GroupLinear, SparseLinear
from uqsparse.nn.packed_networks import network_bytes, pack_network
from uqsparse.pruning.allocation import uniform
from uqsparse.pruning.hook import sparsify
from uqsparse.pruning.masks import apply_mask, full_mask
from uqsparse.pruning.packing import pack_model
from uqsparse.pruning.rules import Prune
from uqsparse.pruning.schedules import OneShot
from uqsparse.pruning.structures import Group


def network_of():
    """A convolution, two linear layers, and a table that is no layer's."""
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "conv": eqx.nn.Conv1d(2, 32, 3, padding=1, key=keys[0]),
        "first": eqx.nn.Linear(32 * 4, 40, key=keys[1]),
        "last": eqx.nn.Linear(40, 6, use_bias=False, key=keys[2]),
        "table": jnp.ones((3, 4)),
    }


@jax.jit
def apply(network, images):
    def one(x):
        hidden = jax.nn.tanh(network["conv"](x)).reshape(-1)
        return network["last"](jnp.tanh(network["first"](hidden)))

    return jax.vmap(one)(images)


def grouped(rng, shape, group, density=0.25):
    """A mask of whole groups of outputs, and of no larger ones."""
    n_groups, inputs = -(-shape[0] // group), shape[1:]
    kept = rng.random((n_groups, *inputs)) < density
    kept[0] = True
    kept[1::2, ..., 0], kept[0::2, ..., 0] = False, True  # neighbours differ
    return kept.repeat(group, axis=0)[: shape[0]]


def masked(groups):
    network = network_of()
    mask, rng = full_mask(network), np.random.default_rng(0)
    for name, group in groups.items():
        shape = network[name].weight.shape
        mask[name] = eqx.tree_at(lambda one: one.weight, mask[name], grouped(rng, shape, group))
    return apply_mask(mask, network), mask


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (5, 2, 4))


def test_each_layer_is_packed_in_the_largest_groups_that_its_mask_keeps_whole(images):
    model, mask = masked({"conv": 8, "first": 16, "last": 1})
    packed = pack_model(model, mask, backend="jax")
    assert (type(packed["conv"]), packed["conv"].packed.group) == (GroupConv, 8)
    assert (type(packed["first"]), packed["first"].group) == (GroupLinear, 16)  # 40 outputs: the last group has 8
    assert (type(packed["last"]), packed["last"].group) == (SparseLinear, 1)
    for name in ("first", "last"):
        np.testing.assert_array_equal(packed[name].mask, mask[name].weight)
    for name in ("conv", "first", "last"):
        np.testing.assert_array_equal(packed[name].weight, model[name].weight)
    np.testing.assert_allclose(apply(packed, images), apply(model, images), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(packed["table"], model["table"])


def test_weights_that_happen_to_be_zero_stay_with_the_mask():
    model, mask = masked({"first": 16})
    grown = eqx.tree_at(lambda one: one["first"].weight, model, 0 * model["first"].weight)
    np.testing.assert_array_equal(pack_model(grown, mask)["first"].mask, mask["first"].weight)


def test_layers_that_would_not_gain_stay_dense_unless_a_program_is_asked_for():
    model, mask = masked({"first": 4, "conv": 1})
    mask["last"] = eqx.tree_at(lambda one: one.weight, mask["last"], None)
    packed = pack_model(model, mask)
    assert isinstance(packed["conv"], eqx.nn.Conv1d)  # most of it is kept, one by one
    assert packed["first"].group == 4
    assert pack_model(model, mask, group=1, backend="jax")["conv"].packed.group == 1
    mask["conv"] = eqx.tree_at(lambda one: one.weight, mask["conv"], None)
    assert pack_model(model, mask, group=2)["first"].group == 2
    assert isinstance(packed["last"], eqx.nn.Linear)  # not in the mask
    assert network_bytes(packed["first"]) < 0.5 * network_bytes(model["first"])
    # the same without a mask, from the zeros
    assert pack_network(model, group=None)["first"].group == 4
    with pytest.raises(ValueError, match="group must be a number where a density is given"):
        pack_network(model, group=None, density=0.5)


def test_a_network_is_packed_right_from_the_state_of_its_training():
    mlp = eqx.nn.MLP(24, 3, 32, 2, key=jax.random.key(0))
    params, static = eqx.partition(mlp, eqx.is_inexact_array)
    kind = {"schedule": OneShot(2, 0.25), "rule": Prune(), "structure": Group(16), "allocation": uniform()}
    hook = sparsify(optax.adam(1e-2), key=jax.random.key(1), **kind)

    @jax.jit
    def train(params, state, x):
        slope = jax.grad(lambda params: (jax.vmap(eqx.combine(params, static))(x) ** 2).mean())(params)
        updates, state = hook.update(slope, state, params)
        return optax.apply_updates(params, updates), state

    state, x = hook.init(params), jax.random.normal(jax.random.key(2), (16, 24))
    for _ in range(4):
        params, state = train(params, state, x)
    trained = eqx.combine(params, static)
    packed = pack_model(trained, state.mask)
    assert {layer.group for layer in packed.layers} == {16}
    np.testing.assert_allclose(jax.vmap(packed)(x), jax.vmap(trained)(x), rtol=1e-4, atol=1e-6)


def test_what_does_not_fit_is_refused_by_name():
    model, mask = masked({"first": 4})
    off = eqx.tree_at(lambda one: one["first"].weight, model, model["first"].weight + 1e-20)
    with pytest.raises(ValueError, match=r"'first\.weight' has weights that are not zero off the mask"):
        pack_model(off, mask)
    with pytest.raises(ValueError, match=r"'first\.weight': mask must keep or drop whole groups of 8"):
        pack_model(model, mask, group=8)
    with pytest.raises(ValueError, match="group must be an integer of at least 1, got 0"):
        pack_model(model, mask, group=0)
    broken = eqx.tree_at(lambda one: one["first"].weight, model, model["first"].weight / 0.0)
    with pytest.raises(ValueError, match=r"'first\.weight'"):
        pack_model(broken, mask)
    broken = jax.tree.map(lambda leaf: jnp.where(leaf != 0, jnp.nan, leaf), model)
    with pytest.raises(ValueError, match=r"'conv\.weight': W must be finite where it is kept"):
        pack_model(broken, mask)
    wrong = mask | {"first": eqx.tree_at(lambda one: one.weight, mask["first"], jnp.ones((3, 3), bool))}
    with pytest.raises(ValueError, match=r"'first\.weight' must be boolean of shape \(40, 128\), got .*\(3, 3\)"):
        pack_model(model, wrong)
    with pytest.raises(ValueError, match="must have the structure of the parameters"):
        pack_model(model, {"first": mask["first"]})
