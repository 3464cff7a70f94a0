"""Masks: which leaves they govern, and what they do to them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.nn.linear import GroupLinear
from uqsparse.pruning.masks import (
    apply_mask,
    full_mask,
    mask_count,
    mask_density,
    masked_map,
    pack_mask,
    prunable_leaves,
    pruned_leaves,
    unpack_mask,
)


class Network(eqx.Module):
    """Leaves of every sort."""

    embedding: eqx.nn.Embedding
    norm: eqx.nn.LayerNorm
    conv: eqx.nn.Conv2d
    linear: eqx.nn.Linear
    packed: GroupLinear
    table: jax.Array
    name: str = "net"

    def __init__(self):
        key = jax.random.key(0)
        self.embedding = eqx.nn.Embedding(5, 4, key=key)
        self.norm = eqx.nn.LayerNorm((4, 3))
        self.conv = eqx.nn.Conv2d(3, 4, 3, key=key)
        self.linear = eqx.nn.Linear(4, 6, key=key)
        self.packed = GroupLinear(6, 16, density=0.5, key=key)
        self.table = jnp.arange(6).reshape(2, 3)


@pytest.fixture(scope="module")
def params() -> Network:
    return eqx.filter(Network(), eqx.is_inexact_array)


def test_weights_are_prunable_and_nothing_else_is(params: Network) -> None:
    # A convolution's bias has three axes, an embedding and a normalisation have two.
    assert [path for path, _ in prunable_leaves(params)] == ["conv.weight", "linear.weight"]


def test_names_decide_where_there_are_no_modules() -> None:
    one = jnp.ones((2, 2))
    tree = {"dense": {"kernel": one, "bias": one}, "Embed_0": {"embedding": one}, "LayerNorm_0": {"scale": one}}
    assert [path for path, _ in prunable_leaves(tree)] == ["dense.kernel"]


def test_a_predicate_decides(params: Network) -> None:
    assert [path for path, _ in prunable_leaves(params, lambda path, leaf: "bias" in path)] == [
        "norm.bias",
        "conv.bias",
        "linear.bias",
        "packed.bias",
    ]
    with pytest.raises(ValueError, match=r"floating type; 'table' is int32"):
        full_mask(Network(), lambda path, leaf: path == "table")
    with pytest.raises(ValueError, match="chooses no leaf"):
        full_mask(params, lambda path, leaf: False)


def test_masked_map_hands_over_none_for_leaves_that_are_never_pruned(params: Network) -> None:
    seen = []
    masked_map(lambda leaf, mask, other: seen.append((mask is None, other is leaf)), params, full_mask(params), params)
    assert [one for one, _ in seen].count(False) == 2
    assert all(same for _, same in seen)


def test_apply_mask_zeroes_and_keeps(params: Network) -> None:
    mask = eqx.tree_at(lambda m: m.linear.weight, full_mask(params), jnp.arange(24).reshape(6, 4) % 3 == 0)
    masked = apply_mask(mask, params)
    assert (np.asarray(masked.linear.weight) == np.where(mask.linear.weight, params.linear.weight, 0)).all()
    assert (masked.conv.weight == params.conv.weight).all()
    assert masked.embedding.weight is params.embedding.weight
    assert mask_count(mask) == 8 + 108
    assert mask_density(mask) == (8 + 108) / (24 + 108)
    assert apply_mask(mask, Network()).name == "net"


def test_a_weight_that_is_zero_by_chance_is_not_pruned() -> None:
    params = {"w": jnp.zeros((2, 2))}
    assert mask_count(full_mask(params)) == 4


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_packing_a_mask_loses_nothing(seed: int, shape: list[int]) -> None:
    mask = {"w": np.random.default_rng(seed).random(shape) < 0.5, "b": None}
    packed = pack_mask(mask)
    assert packed["w"].bits.nbytes == -(-mask["w"].size // 8)
    again = unpack_mask(packed)
    assert again["b"] is None
    assert again["w"].dtype == bool
    assert (np.asarray(again["w"]) == mask["w"]).all()


def test_a_packed_mask_survives_a_checkpoint(tmp_path, params: Network) -> None:
    mask = eqx.tree_at(lambda m: m.linear.weight, full_mask(params), jnp.arange(24).reshape(6, 4) % 2 == 0)
    packed = pack_mask(mask)
    eqx.tree_serialise_leaves(tmp_path / "mask.eqx", packed)
    again = unpack_mask(eqx.tree_deserialise_leaves(tmp_path / "mask.eqx", packed))
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(mask)))


def test_wrong_masks_are_refused_by_name(params: Network) -> None:
    mask = full_mask(params)
    with pytest.raises(ValueError, match=r"'linear.weight' must be boolean of shape \(6, 4\), got bool of shape"):
        apply_mask(eqx.tree_at(lambda m: m.linear.weight, mask, jnp.ones((4, 6), bool)), params)
    with pytest.raises(ValueError, match=r"'linear.weight' must be boolean.*got float32"):
        apply_mask(eqx.tree_at(lambda m: m.linear.weight, mask, jnp.ones((6, 4))), params)
    with pytest.raises(ValueError, match="structure of the parameters"):
        pruned_leaves({"w": jnp.ones((2, 2))}, {"v": jnp.ones((2, 2), bool)})
    packed = pack_mask({"w": np.ones((3, 3), bool)})
    with pytest.raises(ValueError, match="needs 2 bytes, got 1"):
        unpack_mask(eqx.tree_at(lambda p: p["w"].bits, packed, packed["w"].bits[:1]))
