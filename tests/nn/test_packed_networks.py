"""Networks packed, written and read again; and moved, as their streams say."""

import io
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_llama import TINY, some_tokens, tiny_llama

from uqsparse.kernels.rearrangement import rearrange
from uqsparse.nn.compiled_blocks import compile_blocks
from uqsparse.nn.group_convolution import GroupConv
from uqsparse.nn.linear import GroupLinear, SparseLinear
from uqsparse.nn.packed_networks import load_packed, network_bytes, pack_network, save_packed
from uqsparse.nn.streams import chain_streams, llama_streams

safetensors_numpy = pytest.importorskip("safetensors.numpy")


def chain(key=0):
    """Convolutions, a pool, a flattened image, norms and linear layers."""
    keys = jax.random.split(jax.random.key(key), 4)
    return eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(2, 16, 3, padding=1, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Conv2d(16, 32, 1, key=keys[1]),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.RMSNorm(32 * 9),
            eqx.nn.Linear(32 * 9, 48, key=keys[2]),
            eqx.nn.LayerNorm(48),
            eqx.nn.Dropout(0.5, inference=True),
            eqx.nn.Lambda(jax.nn.gelu),
            eqx.nn.Linear(48, 5, use_bias=False, key=keys[3]),
        ]
    )


@pytest.fixture(scope="module")
def network():
    gains = jax.random.uniform(jax.random.key(7), (3, 288))
    where = [lambda one: one.layers[5].weight, lambda one: one.layers[7].weight, lambda one: one.layers[7].bias]
    found = chain()
    for place, values in zip(where, (gains[0], gains[1, :48], gains[2, :48]), strict=True):
        found = eqx.tree_at(place, found, values)
    return found


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(8), (3, 2, 6, 6))


@eqx.filter_jit
def apply(network, images):
    return jax.vmap(network)(images)


def test_a_chain_keeps_its_function_when_its_units_move(network, images):
    streams = chain_streams(network)
    assert [len(stream.others) for stream in streams] == [2, 4, 4]
    found = rearrange(network, streams, group=16, density=0.25, n_starts=2)
    # the first stream is one group, whose order does not matter
    assert found.kept[1] > found.natural[1]
    assert found.kept[2] > found.natural[2]
    before, after = (np.asarray(apply(one, images)) for one in (network, found.network))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_an_mlp_keeps_its_function_when_its_units_move():
    mlp = eqx.nn.MLP(6, 3, 32, 2, activation=jax.nn.tanh, key=jax.random.key(0))
    found = rearrange(mlp, chain_streams(mlp), group=8, density=0.5, n_starts=2)
    x = jax.random.normal(jax.random.key(1), (9, 6))
    assert not jnp.array_equal(found.network.layers[0].weight, mlp.layers[0].weight)
    np.testing.assert_allclose(apply(found.network, x), apply(mlp, x), rtol=1e-5, atol=1e-6)
    assert chain_streams(eqx.nn.MLP("scalar", "scalar", 4, 0, key=jax.random.key(0))) == []


def test_a_decoder_keeps_its_function_when_its_units_move():
    llama, tokens = tiny_llama(replace(TINY, tied=False), seed=1), some_tokens(6)
    group = 4
    streams = llama_streams(llama, group)
    assert len(streams) == 1 + 2 * TINY.n_blocks
    found = rearrange(llama, streams, group=group, density=0.5, n_starts=2)
    assert all((order != np.arange(len(order))).any() for order in found.orders)
    before, after = (np.asarray(compile_blocks(one)(tokens)) for one in (llama, found.network))
    np.testing.assert_allclose(after, before, rtol=2e-4, atol=2e-5)
    assert len(llama_streams(llama, 64)) == 1 + TINY.n_blocks


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([eqx.nn.Lambda(jax.nn.softmax)], "layer 0: .* is not known to act elementwise"),
        ([eqx.nn.GroupNorm(2, 4)], "layer 0: GroupNorm is not supported"),
        ([eqx.nn.Conv2d(4, 4, 1, groups=2, key=jax.random.key(0))], "a convolution in groups"),
        ([eqx.nn.Linear(3, 4, key=jax.random.key(0)), eqx.nn.Linear(6, 4, key=jax.random.key(0))], "layer 1 reads 6"),
    ],
)
def test_chains_whose_streams_are_not_known_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        chain_streams(eqx.nn.Sequential(layers))


def test_other_networks_are_refused_and_functions_can_be_named():
    with pytest.raises(ValueError, match=r"must be an equinox\.nn\.MLP or Sequential, got Linear"):
        chain_streams(eqx.nn.Linear(2, 2, key=jax.random.key(0)))
    with pytest.raises(ValueError, match="the activation of the MLP holds arrays"):
        chain_streams(eqx.nn.MLP(2, 2, 4, 2, activation=eqx.nn.PReLU(), key=jax.random.key(0)))
    assert chain_streams(eqx.nn.Sequential([eqx.nn.Lambda(abs)]), elementwise=[abs]) == []


@pytest.fixture(scope="module")
def packed(network):
    return pack_network(network, density=0.25, which=lambda layer: layer.bias is not None)


def test_packing_replaces_the_layers_that_are_asked_for(network, packed):
    kinds = [type(layer) for layer in packed.layers]
    assert kinds[0] is kinds[3] is GroupConv
    assert kinds[6] is GroupLinear
    assert kinds[10] is eqx.nn.Linear
    assert isinstance(pack_network(network, density=0.25, group=1).layers[6], SparseLinear)
    conv = eqx.nn.Conv2d(4, 4, 1, groups=2, key=jax.random.key(0))
    assert pack_network([conv, eqx.nn.Linear("scalar", 2, key=jax.random.key(0))])[0] is conv
    assert network_bytes(packed) < 0.45 * network_bytes(network)
    weight = packed.layers[6].packed
    assert network_bytes(packed.layers[6]) == weight.n_bytes + 4 * 48


def test_a_packed_network_is_the_masked_one(network, packed, images):
    dense = network
    for i in (0, 3, 6):
        dense = eqx.tree_at(lambda one, i=i: one.layers[i].weight, dense, np.asarray(packed.layers[i].weight))
    expected = apply(dense, images)
    np.testing.assert_allclose(apply(packed, images), expected, rtol=1e-4, atol=1e-5)
    mask = jax.tree.map(lambda leaf: None, eqx.filter(network, eqx.is_inexact_array))
    for i in (0, 6):
        mask = eqx.tree_at(
            lambda one, i=i: one.layers[i].weight,
            mask,
            np.asarray(packed.layers[i].weight) != 0,
            is_leaf=lambda leaf: leaf is None,
        )
    by_mask = pack_network(network, mask=mask)
    assert isinstance(by_mask.layers[3], eqx.nn.Conv2d)
    assert eqx.tree_equal(by_mask.layers[6], packed.layers[6])
    assert eqx.tree_equal(by_mask.layers[0], packed.layers[0])
    with pytest.raises(ValueError, match="a mask or a density, not both"):
        pack_network(network, mask=mask, density=0.5)


def test_layers_that_keep_nearly_everything_stay_dense_but_for_their_zeros():
    layers = [eqx.nn.Linear(20, 32, key=jax.random.key(0)), eqx.nn.Conv2d(20, 32, 1, key=jax.random.key(1))]
    kept = pack_network(layers, density=0.8)
    asked_for = pack_network(layers, density=0.8, backend="jax")
    assert [type(layer) for layer in kept] == [type(layer) for layer in layers]
    assert [type(layer) for layer in asked_for] == [GroupLinear, GroupConv]
    for one, other in zip(kept, asked_for, strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
        assert (np.asarray(one.weight) == 0).mean() == 0.2
        np.testing.assert_array_equal(one.bias, other.bias)
    assert isinstance(pack_network(layers, density=0.6)[0], GroupLinear)
    assert isinstance(pack_network(layers, density=0.5, group=1)[0], eqx.nn.Linear)


def same_bits(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        not eqx.is_array(a) or (a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes())
        for a, b in pairs
    )


def test_equinox_writes_and_reads_packed_networks_bit_by_bit(network, packed):
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, packed)
    file.seek(0)
    other = pack_network(chain(3), density=0.25, which=lambda layer: layer.bias is not None)
    assert not same_bits(other, packed)
    assert same_bits(eqx.tree_deserialise_leaves(file, other), packed)


def test_safetensors_write_and_read_packed_networks_bit_by_bit(packed, tmp_path):
    save_packed(tmp_path / "network.safetensors", packed)
    dense = chain(3)
    assert same_bits(load_packed(tmp_path / "network.safetensors", dense), packed)
    assert same_bits(load_packed(tmp_path / "network.safetensors", packed), packed)
    stored = safetensors_numpy.load_file(tmp_path / "network.safetensors")
    np.testing.assert_array_equal(stored["layers.6.packed.val"], packed.layers[6].packed.val)
    assert "layers.6.packed.ptr_t" not in stored


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_single_layers_and_their_types_survive_a_file(tmp_path, dtype):
    layer = SparseLinear(6, 5, density=0.5, dtype=dtype, key=jax.random.key(0))
    save_packed(tmp_path / "layer.safetensors", layer)
    like = SparseLinear(6, 5, density=0.1, dtype=dtype, key=jax.random.key(1))
    assert same_bits(load_packed(tmp_path / "layer.safetensors", like), layer)


def test_files_that_do_not_fit_are_refused(network, packed, tmp_path):
    path = tmp_path / "network.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_packed(path, network)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is damaged, or not written by save_packed"):
        load_packed(path, network)
    save_packed(path, packed)
    tensors = safetensors_numpy.load_file(path)

    def rewrite(changes, metadata=None):
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as file:
            kept = metadata if metadata is not None else file.metadata()
        other = tmp_path / "other.safetensors"
        left = {name: array for name, array in (tensors | changes).items() if array is not None}
        safetensors_numpy.save_file(left, other, metadata=kept)
        return other

    index = tensors["layers.6.packed.idx"].copy()
    index[3] = 288
    for changes, message in (
        ({"layers.6.packed.idx": index}, r"is damaged.*idx must lie in \[0, 288\)"),
        ({"layers.6.packed.val": tensors["layers.6.packed.val"][1:]}, "is damaged.*val must have shape"),
        ({"layers.6.packed.ptr": None}, r"layers.6.packed.ptr' is missing"),
        ({"layers.6.bias": None}, r"tensor 'layers.6.bias' must be float32 of shape \(48,\), got nothing"),
        ({"layers.6.bias": np.ones(48)}, r"tensor 'layers.6.bias' must be float32 .* got float64 of shape \(48,\)"),
        ({"layers.6.other": np.ones(2)}, r"tensor 'layers.6.other' has no place in the network"),
    ):
        with pytest.raises(ValueError, match=message):
            load_packed(rewrite(changes), network)
    with pytest.raises(ValueError, match="is damaged, or not written by save_packed"):
        load_packed(rewrite({}, {}), network)
    narrower = pack_network(eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0)), backend="jax")
    with pytest.raises(ValueError, match=r"no packed weight 'layers.0.packed' of shape \(2, 4\)"):
        load_packed(path, narrower)
