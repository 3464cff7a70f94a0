"""Costs of the transformed networks over random shapes, and their functions against explicit matrices."""

import math
from functools import partial
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.nn.iso_flop import iso_flop
from uqsparse.nn.iso_flop_layers import SparseDoped, SparseFactorized, SparseParallel, fan_out_normal
from uqsparse.nn.iso_flop_sizes import doped_rank, factorized_rank, log_cardinality, parallel_branches, wide_factor

KEY = jax.random.key(0)
planned = partial(eqx.filter_eval_shape, iso_flop, key=KEY)  # shapes only
SPARSITIES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95)


@given(st.integers(0, 2**32 - 1))
def test_sizes_cost_the_dense_layer_up_to_rounding(seed):
    """Eight random layers an example: 200 in all."""
    rng = np.random.default_rng(seed)
    for _ in range(8):
        n_in, n_out, places = int(rng.integers(2, 300)), int(rng.integers(2, 300)), int(rng.choice([1, 9, 25]))
        s = float(rng.choice(SPARSITIES))
        dense, kept = places * n_in * n_out, 1 - s
        a, p = wide_factor(s), parallel_branches(s)
        wide = kept * places * round(a * n_in) * round(a * n_out)
        assert abs(wide / dense - 1) <= 1 / (a * n_in) + 1 / (a * n_out)
        assert abs(p * kept - 1) <= kept / 2 + 1e-9
        rank = factorized_rank(s, n_in, n_out, places)
        assert -1e-9 <= kept * rank * (places * n_in + n_out) / dense - 1 <= 1 / (rank - 1 + 1e-9)
        first_only = factorized_rank(s, n_in, n_out, places, both=False)
        assert -1e-9 <= first_only * (kept * places * n_in + n_out) / dense - 1 <= 1 / (first_only - 1 + 1e-9)
        rank = doped_rank(s, n_in, n_out, places)
        assert -(places * n_in + n_out) / dense - 1e-9 <= kept + rank * (places * n_in + n_out) / dense - 1 <= 1e-9


def shapes_of(sizes, kernel=None):
    """A chain of layers, as shapes only."""

    def make():
        keys = jax.random.split(KEY, len(sizes) - 1)
        pairs = pairwise(sizes)
        if kernel is None:
            layers = [eqx.nn.Linear(a, b, key=k) for (a, b), k in zip(pairs, keys, strict=False)]
        else:
            layers = [
                eqx.nn.Conv2d(a, b, kernel, padding="SAME", key=k) for (a, b), k in zip(pairs, keys, strict=False)
            ]
        return eqx.nn.Sequential(layers)

    return eqx.filter_eval_shape(make)


@pytest.mark.parametrize("member", ["wide", "parallel", "factorized", "doped"])
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_matched_networks_cost_the_same_to_a_thousandth(member, sparsity):
    rng = np.random.default_rng(round(100 * sparsity))
    for kernel in (None, 3) if sparsity in (0.5, 0.9) else (None,):
        sizes = [3 if kernel else 30, *(int(n) for n in rng.integers(24, 60, 3)), 10]
        model = shapes_of(sizes, kernel)
        options, places = ({"input_shape": (3, 5, 5)}, 225) if kernel else ({}, 1)
        found = planned(model, sparsity, member, **options)
        assert abs(found.macs_after / found.macs_before - 1) <= 1e-3
        assert found.macs_before == places * sum(a * b for a, b in pairwise(sizes))
        assert found.dense_macs >= found.macs_after
        x = jax.ShapeDtypeStruct((3, 5, 5) if kernel else (30,), jnp.float32)
        assert eqx.filter_eval_shape(lambda net, x: net(x), found.model, x).shape[0] == 10
        assert abs(found.sparsity - sparsity) < (0.34 if member == "parallel" else 0.06)


def test_wider_networks_keep_their_outer_widths_and_count_each_mask():
    mlp = eqx.filter_eval_shape(eqx.nn.MLP, 40, 10, 48, 2, key=KEY)
    found = planned(mlp, 0.75)
    assert [layer.weight.shape for layer in found.model.layers] == [(96, 40), (96, 96), (10, 96)]
    assert found.model.width_size == 96
    assert found.counts == {"layers.0.weight": 1920, "layers.1.weight": 2304, "layers.2.weight": 480}
    assert found.density == 4704 / 14016
    assert found.densities["layers.1.weight"] == 0.25
    inner = planned(mlp, 0.4, where=lambda path, _: path == "layers.1")
    assert list(inner.counts) == ["layers.1.weight"]  # the dense outer layers grow, and the mask pays for them
    assert inner.macs_after == 4704
    assert inner.sparsity > 0.4


def test_without_sparsity_nothing_changes():
    mlp = eqx.nn.MLP(6, 3, 8, 2, key=KEY)
    for member in ("wide", "parallel", "doped"):
        found = iso_flop(mlp, 0.0, member, key=KEY)
        assert eqx.tree_equal(found.model, mlp)
        assert found.density == 1
    trivial = planned(mlp, 0.0, "factorized")
    assert trivial.model.layers[1].first.weight.shape == (4, 8)
    assert trivial.densities == {"layers.1.first.weight": 1.0, "layers.1.second.weight": 1.0}


def test_doped_and_linear_factorised_layers_are_their_matrices():
    n = 7
    layer = eqx.nn.Linear(n, 5, key=KEY)
    x = np.random.default_rng(n).normal(size=n).astype(np.float32)
    doped = SparseDoped.in_place_of(layer, 2, key=KEY)
    doped = eqx.tree_at(lambda net: net.sparse.bias, doped, jnp.arange(5.0))
    matrix = np.asarray(doped.sparse.weight, float) + np.asarray(doped.second.weight, float) @ doped.first.weight
    np.testing.assert_allclose(doped(x), matrix @ x + np.arange(5), atol=1e-5)
    factors = SparseFactorized.in_place_of(layer, 3, norm=False, activation=None, key=KEY)
    np.testing.assert_allclose(
        factors(x), np.asarray(factors.second.weight, float) @ factors.first.weight @ x, atol=1e-5
    )
    gated = SparseFactorized.in_place_of(layer, 3, norm=False, key=KEY)  # V diag(u > 0) U
    inner = np.asarray(gated.first.weight, float) @ x
    np.testing.assert_allclose(gated(x), np.asarray(gated.second.weight, float) @ np.diag(inner > 0) @ inner, atol=1e-5)


def test_doped_convolutions_are_one_convolution_with_the_sum_of_their_kernels():
    conv = eqx.nn.Conv2d(3, 4, 3, stride=2, padding=1, key=KEY)
    doped = SparseDoped.in_place_of(conv, 2, key=KEY)
    kernel = doped.sparse.weight + jnp.einsum("or,rikl->oikl", doped.second.weight[:, :, 0, 0], doped.first.weight)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 6)), jnp.float32)
    one = eqx.tree_at(lambda net: (net.weight, net.bias), conv, (kernel, doped.sparse.bias))
    np.testing.assert_allclose(doped(x), one(x), atol=1e-5)


def test_parallel_branches_are_normalised_one_by_one_and_added():
    layer = eqx.nn.Linear(6, 5, key=KEY)
    parallel = SparseParallel.in_place_of(layer, 3, key=KEY)
    x = np.random.default_rng(0).normal(size=6).astype(np.float32)
    expected = 0
    for branch in parallel.branches:
        assert branch.bias is None
        y = np.asarray(branch.weight, float) @ x
        expected += (y - y.mean()) / np.sqrt(y.var() + 1e-5)
    np.testing.assert_allclose(parallel(x), expected, atol=1e-4)
    bare = SparseParallel.in_place_of(layer, 1, norm=False, key=KEY)
    np.testing.assert_allclose(bare(x), bare.branches[0].weight @ x, atol=1e-5)


@given(st.integers(20, 200), st.integers(20, 200), st.sampled_from([1, 9]))
def test_there_are_more_masks_the_sparser_the_bigger(n_in, n_out, places):
    """The number of active weights stays, what they are chosen from grows; not so for doped layers."""
    wide, parallel, factorised = [], [], []
    for s in (0.0, 0.5, 0.75, 0.9, 0.95):
        a, p, r = wide_factor(s), parallel_branches(s), factorized_rank(s, n_in, n_out, places)
        sizes = (round(a * n_in) * round(a * n_out) * places, p * n_in * n_out * places, r * (places * n_in + n_out))
        for found, size in zip((wide, parallel, factorised), sizes, strict=True):
            found.append(log_cardinality(size, round((1 - s) * size)))
    for found in (wide, parallel, factorised):
        assert (np.diff(found) > 0).all()


def test_numbers_of_masks_are_binomial_coefficients():
    for n, k in ((5, 2), (10, 0), (12, 12), (40, 17)):
        assert math.isclose(log_cardinality(n, k), math.log(math.comb(n, k)), abs_tol=1e-9)
    mlp = eqx.filter_eval_shape(eqx.nn.MLP, 3, 2, 4, 1, key=KEY)
    found = planned(mlp, 0.75)
    total = sum(math.log(math.comb(found.sizes[path], n)) for path, n in found.counts.items())
    assert math.isclose(found.log_cardinality, total)


def test_weights_start_from_their_fan_out():
    weight = fan_out_normal(KEY, (50, 40, 3, 3))
    assert abs(float(weight.std()) * math.sqrt(50 * 9 / 2) - 1) < 0.03  # 6 standard errors


def test_what_cannot_be_done_is_refused():
    mlp = eqx.filter_eval_shape(eqx.nn.MLP, 4, 3, 8, 2, key=KEY)
    for sparsity in (1.0, -0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="sparsity must lie"):
            planned(mlp, sparsity)
    with pytest.raises(ValueError, match="member"):
        planned(mlp, 0.5, "deep")  # pyright: ignore
    with pytest.raises(ValueError, match="where must choose"):
        planned(mlp, 0.5, "doped", where=lambda path, layer: False)
    with pytest.raises(ValueError, match=r"layers\.1\.sparse\.weight keeps none of 64"):
        planned(mlp, 0.995, "doped", match=False)
    with pytest.raises(ValueError, match="whole block"):
        planned(eqx.filter_eval_shape(eqx.nn.MultiheadAttention, 2, 8, key=KEY), 0.5)
    with pytest.raises(ValueError, match="hidden layer"):
        planned(eqx.filter_eval_shape(eqx.nn.MLP, 4, 3, 8, 0, key=KEY), 0.5)
    with pytest.raises(ValueError, match=r"layers\.1 is LayerNorm"):
        planned(eqx.nn.Sequential([mlp.layers[0], eqx.nn.LayerNorm(8), mlp.layers[2]]), 0.5)
    with pytest.raises(ValueError, match="stays dense"):
        planned(mlp, 0.9, where=lambda path, _: path == "layers.0")
    with pytest.raises(ValueError, match="input_shape"):
        planned(shapes_of([3, 8, 8, 4], 3), 0.5)
    grouped = eqx.filter_eval_shape(eqx.nn.Conv2d, 4, 4, 3, groups=2, key=KEY)
    with pytest.raises(ValueError, match="groups = 1"):
        SparseDoped.in_place_of(grouped, 2, key=KEY)
    with pytest.raises(ValueError, match="one matrix"):
        SparseParallel.in_place_of(mlp.layers[1], 2, norm=False, key=KEY)


def test_costs_that_cannot_agree_are_warned_about():
    """Each weight of the convolution costs 25, and what the dense layer after it gained is no multiple of that."""

    def make():
        keys = jax.random.split(KEY)
        flat = [eqx.nn.AdaptiveAvgPool2d(1), eqx.nn.Lambda(jnp.ravel)]
        return eqx.nn.Sequential([eqx.nn.Conv2d(2, 6, 1, key=keys[0]), *flat, eqx.nn.Linear(6, 3, key=keys[1])])

    with pytest.warns(UserWarning, match="agree to"):
        found = planned(
            eqx.filter_eval_shape(make), 0.4, where=lambda path, _: path == "layers.0", input_shape=(2, 5, 5)
        )
    assert (found.macs_before, found.macs_after) == (318, 11 * 25 + 24)
