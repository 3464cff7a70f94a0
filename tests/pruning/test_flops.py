"""Multiply-adds against XLA's own count, a loop over the kept weights, and closed forms."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from uqsparse.nn.packed_networks import pack_network
from uqsparse.nn.weight_units import WeightUnit
from uqsparse.pruning.flops import Phase, flops, training_flops

KEY = jax.random.key(0)


def xla_flops(model, shape):
    """What the compiler says; some versions return a list, some leave the key out."""
    params, static = eqx.partition(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    run = jax.jit(lambda params, x: eqx.combine(params, static)(x))
    analysis = run.lower(params, jax.ShapeDtypeStruct(shape, jnp.float32)).compile().cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list | tuple) else analysis
    if not analysis or "flops" not in analysis:
        pytest.skip("XLA gives no count of operations here")
    return analysis["flops"]


@pytest.mark.parametrize("sizes", [(40, 10, 256, 2), (8, 3, 16, 1), (5, 5, 7, 3), (30, 4, 20, 2), (3, 2, 0, 0)])
def test_dense_networks_cost_what_xla_says(sizes):
    mlp = eqx.filter_eval_shape(eqx.nn.MLP, *sizes, key=KEY)
    found = flops(mlp, (sizes[0],))
    assert found.flops + found.other == xla_flops(mlp, (sizes[0],))
    assert found.uncounted == ()


@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 3}, {"kernel_size": 5, "stride": 2, "groups": 2}, {"kernel_size": 3, "padding": 1, "dilation": 1}],
)
def test_convolutions_cost_what_xla_says_up_to_their_borders(options):
    conv = eqx.filter_eval_shape(eqx.nn.Conv2d, 4, 8, **options, key=KEY)
    found = flops(conv, (4, 80, 80))
    ratio = xla_flops(conv, (4, 80, 80)) / (found.flops + found.other)
    assert 0.98 <= ratio <= 1
    assert ("padding" in options) == (ratio < 1)


def random_masks(params, seed, density=0.3):
    rng = np.random.default_rng(seed)
    params = eqx.filter(params, lambda leaf: hasattr(leaf, "dtype"))
    return jax.tree.map(lambda leaf: rng.random(leaf.shape) < density if leaf.ndim > 1 else None, params)


def test_sparse_linear_layers_cost_a_loop_over_their_weights():
    mlp = eqx.filter_eval_shape(eqx.nn.MLP, 6, 4, 9, 2, key=KEY)
    mask = random_masks(mlp, 1)
    brute = {}
    for i, layer in enumerate(mask.layers):
        brute[f"layers.{i}.weight"] = sum(1 for entry in layer.weight.ravel() if entry)
    found = flops(mlp, (6,), mask)
    assert found.active == brute
    assert found.flops == 2 * sum(brute.values())
    assert found.dense_macs == 6 * 9 + 9 * 9 + 9 * 4


def test_sparse_convolutions_cost_a_loop_over_their_weights():
    conv = eqx.filter_eval_shape(eqx.nn.Conv2d, 4, 6, (3, 2), stride=2, padding=1, groups=2, key=KEY)
    mask = random_masks(conv, 2)
    _, high, wide = eqx.filter_eval_shape(conv, jnp.zeros((4, 9, 7))).shape
    brute = 0
    for place in np.ndindex(mask.weight.shape):
        brute += sum(1 for _ in itertools.product(range(high), range(wide)) if mask.weight[place])
    assert flops(conv, (4, 9, 7), mask).active == {"weight": brute}


def test_packed_layers_count_what_they_store():
    net = pack_network(eqx.nn.Sequential([eqx.nn.Linear(32, 16, key=KEY)]), density=0.25)
    found = flops(net, (32,))
    assert (found.dense, found.active) == ({"layers.0.weight": 512}, {"layers.0.weight": 128})
    assert flops(net, (5, 32), call=lambda net, x: net.layers[0](x)).macs == 5 * 128  # packed layers take batches
    conv = pack_network(eqx.nn.Conv2d(4, 16, 3, key=KEY), density=0.25)
    assert flops(conv, (4, 5, 5)).active == {"weight": 9 * 9 * 16}


def test_weights_used_twice_count_twice_and_loops_count_each_turn():
    layer = eqx.filter_eval_shape(eqx.nn.Linear, 5, 5, use_bias=False, key=KEY)
    assert flops(layer, (5,), call=lambda net, x: net(net(x))).macs == 50

    def looped(net, x):
        return lax.scan(lambda carry, _: (net(carry), None), x, length=7)[0]

    assert flops(layer, (5,), call=looped).active == {"weight": 175}
    stacked = jnp.ones((3, 5, 5))
    assert flops(stacked, (5,), call=lambda w, x: lax.scan(lambda h, one: (one @ h, None), x, w)[0]).macs == 75
    branches = (lambda net, x: net(x), lambda net, x: net(net(x)))
    assert flops(layer, (5,), call=lambda net, x: lax.cond(x[0] > 0, *branches, net, x)).macs == 50


def test_attention_norms_and_embeddings():
    attention = eqx.filter_eval_shape(eqx.nn.MultiheadAttention, 2, 8, key=KEY)
    found = flops(attention, (5, 8), call=lambda net, x: net(x, x, x))
    assert sum(found.dense.values()) == 4 * 5 * 8 * 8
    assert found.products == 2 * 2 * 5 * 5 * 4  # two heads of four, scores and averages
    norm = flops(eqx.nn.LayerNorm((3, 4)), (3, 4))
    assert norm.macs == 0
    assert norm.uncounted == ()
    assert norm.other > 24
    embedding = eqx.filter_eval_shape(eqx.nn.Embedding, 10, 4, key=KEY)
    looked_up = flops(embedding, jax.ShapeDtypeStruct((), jnp.int32))
    assert (looked_up.macs, looked_up.uncounted) == (0, ())
    tied = flops(embedding, jax.ShapeDtypeStruct((), jnp.int32), call=lambda net, i: net.weight @ net(i))
    assert tied.macs == 40


def test_what_cannot_be_counted_is_listed_and_not_taken_for_free():
    weight = jnp.ones((4, 4))
    by_hand = flops(weight, (4,), jnp.ones((4, 4), bool), call=lambda w, x: (w * x).sum(1))
    assert by_hand.uncounted == (": in no matrix product",)
    assert "cholesky" in flops(weight, (4,), call=lambda w, x: jnp.linalg.cholesky(w) @ x).uncounted[0]
    idle = flops({"a": weight, "b": weight}, (4,), call=lambda w, x: w["a"] @ x)
    assert idle.uncounted == ("b: in no matrix product",)
    endless = flops(weight, (4,), call=lambda w, x: lax.while_loop(lambda h: h[0] < 9, lambda h: w @ h, x))
    assert any("while" in one for one in endless.uncounted)


class Twofold(WeightUnit):
    """A mean and a spread, each multiplied on its own."""

    mean: jax.Array
    spread: jax.Array

    @property
    def shape(self):
        return self.mean.shape

    @property
    def score_array(self):
        return self.mean

    def masked(self, mask):
        return Twofold(jnp.where(mask, self.mean, 0), jnp.where(mask, self.spread, 0))

    def grown(self, new, kept):
        return self


def test_units_of_two_arrays_share_a_mask():
    unit = {"w": Twofold(jnp.ones((3, 4)), jnp.ones((3, 4)))}
    mask = {"w": np.arange(12).reshape(3, 4) < 5}
    found = flops(unit, (4,), mask, call=lambda w, x: w["w"].mean @ x + jnp.exp(w["w"].spread) ** 2 @ x**2)
    assert (found.dense, found.active) == ({"w": 24}, {"w": 10})


def test_masks_that_do_not_fit_are_refused_by_path():
    mlp = eqx.filter_eval_shape(eqx.nn.MLP, 3, 2, 4, 1, key=KEY)
    mask = random_masks(mlp, 0)
    wrong = eqx.tree_at(lambda m: m.layers[1].weight, mask, np.ones((2, 2), bool))
    with pytest.raises(ValueError, match=r"layers\.1\.weight"):
        flops(mlp, (3,), wrong)
    with pytest.raises(ValueError, match="structure"):
        flops(mlp, (3,), {"w": np.ones((2, 2), bool)})


def test_training_costs_the_published_formulas():
    f_s, f_d, period = 10.0, 100.0, 50
    dense = training_flops([Phase(7, f_d)], f_d, batch_size=4)
    assert dense.sparse == dense.masked == 3 * f_d * 7 * 4
    assert training_flops([Phase(7, f_s)], f_d).sparse == 3 * f_s * 7
    average = training_flops([Phase(period + 1, f_s, 1)], f_d).sparse / (period + 1)
    assert math.isclose(average, (3 * f_s * period + 2 * f_s + f_d) / (period + 1))
    search = training_flops([Phase(9, f_d)], f_d, selections=[1024, 1024])  # frozen weights, dense mask gradients
    assert (search.sparse, search.selection, search.steps) == (3 * f_d * 9, 2 * 1024 * 10, 9)
    rounds = training_flops([Phase(5, f_d), Phase(5, f_d / 2), Phase(5, f_d / 4)], f_d, factor=2)
    assert rounds.sparse == 2 * 15 * f_d * 1.75
    assert rounds.masked == 2 * 45 * f_d


@pytest.mark.parametrize("phase", [Phase(-1, 1.0), Phase(5, 1.0, 6), Phase(5, 11.0), Phase(5, math.nan)])
def test_impossible_phases_are_refused(phase):
    with pytest.raises(ValueError, match="phases"):
        training_flops([phase], 10.0)
