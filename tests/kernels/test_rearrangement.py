"""Orders of outputs against enumeration, and networks that stay what they are when their units move."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.kernels.output_order import rearrange_outputs
from uqsparse.kernels.rearrangement import Place, Stream, rearrange, reorder


def kept_by_loops(scores, order, fan_in, group):
    total = 0.0
    for start in range(0, len(order), group):
        by_input = sorted((sum(row[n] for n in order[start : start + group]) for row in scores), reverse=True)
        total += sum(by_input[:fan_in])
    return total


def test_small_cases_reach_the_optimum():
    hits = 0
    for seed in range(50):
        scores = np.abs(np.random.default_rng(seed).normal(size=(6, 4)))
        best = max(kept_by_loops(scores, order, 2, 2) for order in itertools.permutations(range(4)))
        found = rearrange_outputs(scores, 2, 2)
        assert found.kept <= best + 1e-9
        hits += found.kept >= best - 1e-9
    assert hits >= 45


@given(
    k=st.integers(1, 7),
    n=st.integers(1, 14),
    group=st.sampled_from([1, 2, 3, 5]),
    seed=st.integers(0, 999),
    share=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_what_is_kept_is_counted_right_and_never_less_than_before(k, n, group, seed, share):
    scores = np.abs(np.random.default_rng(seed).normal(size=(k, n)))
    fan_in = round(share * k)
    found = rearrange_outputs(scores, fan_in, group, n_starts=2)
    assert sorted(found.order) == list(range(n))
    assert found.natural == pytest.approx(kept_by_loops(scores, range(n), fan_in, group), abs=1e-12)
    assert found.kept == pytest.approx(kept_by_loops(scores, found.order, fan_in, group), abs=1e-12)
    assert found.kept >= found.natural


def test_a_hidden_order_is_found():
    rng = np.random.default_rng(0)
    kept = np.repeat(np.array([rng.permutation(24) < 6 for _ in range(4)]).T, 8, axis=1)
    scores = np.where(kept, 1.0, 0.0)[:, rng.permutation(32)]
    found = rearrange_outputs(scores, 6, 8)
    assert found.natural < 0.7 * scores.sum()
    assert found.kept == scores.sum()


def test_several_matrices_share_an_order_and_keep_their_own_inputs():
    rng = np.random.default_rng(1)
    pair = [np.abs(rng.normal(size=(5, 4))), np.abs(rng.normal(size=(3, 4)))]
    found = rearrange_outputs(pair, [2, 1], 2)

    def kept(order):
        return kept_by_loops(pair[0], order, 2, 2) + kept_by_loops(pair[1], order, 1, 2)

    assert found.kept == pytest.approx(kept(found.order))
    assert found.kept == pytest.approx(max(map(kept, itertools.permutations(range(4)))))
    by_density = rearrange_outputs(pair, density=0.4, group=2)
    assert by_density.kept == pytest.approx(found.kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.ones(3)}, "scores must be matrices with as many columns"),
        ({"scores": [np.ones((2, 3)), np.ones((2, 4))]}, "scores must be matrices with as many columns"),
        ({"scores": -np.ones((2, 3))}, "scores must be nonnegative and finite"),
        ({"scores": np.full((2, 3), np.nan)}, "scores must be nonnegative and finite"),
        ({"fan_in": [1, 2]}, "fan_in must be one number for each of 1 matrices"),
        ({"fan_in": 3}, "fan_in must be at most"),
        ({"fan_in": None}, "give either fan_in or density"),
        ({"group": 0}, "group must be an integer"),
        ({"n_starts": 0}, "n_starts must be an integer"),
    ],
)
def test_bad_scores_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        rearrange_outputs(**({"scores": np.ones((2, 3)), "fan_in": 1, "group": 2} | changes))


WIDTH, HEADS, SHARED, SIZE, HIDDEN = 16, 2, 3, 8, 24


def place(name, axis, tile=1, run=1):
    return Place(lambda weights: weights[name], axis, tile, run)


def residual_weights(seed=0):
    """Attention with shared value heads, a normalised feed-forward part with batch statistics, and an output."""
    rng = np.random.default_rng(seed)
    shapes = {
        "in": (WIDTH, 5),
        "query": (HEADS * SHARED * SIZE, WIDTH),
        "key": (HEADS * SIZE, WIDTH),
        "value": (HEADS * SIZE, WIDTH),
        "value_bias": (HEADS * SIZE,),
        "output": (WIDTH, HEADS * SHARED * SIZE),
        "gain": (WIDTH,),
        "shift": (WIDTH,),
        "up": (HIDDEN, WIDTH),
        "up_bias": (HIDDEN,),
        "mean": (HIDDEN,),
        "scale": (HIDDEN,),
        "down": (WIDTH, HIDDEN),
        "out": (3, WIDTH),
    }
    return {name: rng.normal(size=shape) / np.sqrt(shape[-1]) for name, shape in shapes.items()}


def residual_network(weights, x):
    w = weights
    h = x @ w["in"].T
    heads = [(h @ w[name].T).reshape(len(x), HEADS, -1, SIZE) for name in ("query", "key", "value")]
    heads[2] = heads[2] + w["value_bias"].reshape(HEADS, 1, SIZE)
    scores = np.einsum("qhgc,khc->hgqk", heads[0], heads[1][:, :, 0])
    mixed = np.einsum("hgqk,khc->qhgc", np.exp(scores) / np.exp(scores).sum(-1, keepdims=True), heads[2][:, :, 0])
    h = h + mixed.reshape(len(x), -1) @ w["output"].T
    normed = (h - h.mean(-1, keepdims=True)) / h.std(-1, keepdims=True) * w["gain"] + w["shift"]
    up = np.tanh((normed @ w["up"].T + w["up_bias"] - w["mean"]) * w["scale"])
    return (h + up @ w["down"].T) @ w["out"].T


STREAMS = {
    "residual": Stream(
        [place("in", 0), place("output", 0), place("down", 0)],
        [place(name, 1) for name in ("query", "key", "value", "up", "out")] + [place("gain", 0), place("shift", 0)],
    ),
    "values": Stream([place("value", 0)], [place("value_bias", 0), place("output", 1, tile=SHARED)], HEADS),
    "queries": Stream([place("key", 0)], [place("query", 0, tile=SHARED)], HEADS),
    "hidden": Stream([place("up", 0)], [place(name, 0) for name in ("up_bias", "mean", "scale")] + [place("down", 1)]),
}


def test_residual_streams_heads_and_norms_move_together():
    weights, x = residual_weights(), np.random.default_rng(9).normal(size=(7, 5))
    found = rearrange(weights, list(STREAMS.values()), group=4, density=0.25, n_starts=2)
    np.testing.assert_allclose(residual_network(found.network, x), residual_network(weights, x), rtol=1e-10, atol=1e-12)
    for order, kept, natural in zip(found.orders, found.kept, found.natural, strict=True):
        assert (order != np.arange(len(order))).any()
        assert kept > natural
    inside = found.orders[1].reshape(HEADS, SIZE) // SIZE
    assert (inside == np.arange(HEADS)[:, None]).all()


@pytest.mark.parametrize("name", STREAMS)
def test_leaving_a_place_out_changes_the_function(name):
    weights, x = residual_weights(), np.random.default_rng(9).normal(size=(7, 5))
    stream = STREAMS[name]
    order = np.arange(len(weights[{"residual": "gain", "values": "value", "queries": "key", "hidden": "mean"}[name]]))
    order = np.concatenate([part[::-1] for part in np.split(order, stream.n_blocks)])
    before = residual_network(weights, x)
    np.testing.assert_allclose(residual_network(reorder(weights, stream, order), x), before, atol=1e-12)
    for left_out in stream.others:
        rest = stream._replace(others=[one for one in stream.others if one is not left_out])
        assert np.abs(residual_network(reorder(weights, rest, order), x) - before).max() > 1e-6


def test_jax_arrays_stay_jax_arrays_and_channels_carry_their_pixels():
    weights = {"conv": jnp.arange(24.0).reshape(4, 2, 3), "flat": jnp.arange(40.0).reshape(2, 20)}
    stream = Stream([place("conv", 0)], [place("flat", 1, run=5)])
    found = reorder(weights, stream, np.array([2, 0, 3, 1]))
    assert isinstance(found["flat"], jax.Array)
    assert found["conv"][:, 0, 0].tolist() == [12, 0, 18, 6]
    assert found["flat"][0].tolist() == [10, 11, 12, 13, 14, 0, 1, 2, 3, 4, 15, 16, 17, 18, 19, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (Stream([], [place("in", 0)]), "stream 0 has no writer"),
        (Stream([place("in", 0)], [place("up", 0)]), r"stream 0: its places hold different numbers of units: \[16, 24"),
        (Stream([place("in", 5)], []), "an array of shape .* has no axis 5"),
        (Stream([place("in", 0), place("in", -2)], []), "is in two places"),
        (Stream([place("in", 0)], [], 3), "16 units in 3 blocks cannot be cut into groups of 4"),
        (Stream([place("in", 0)], [], 8), "16 units in 8 blocks cannot be cut into groups of 4"),
        (Stream([place("in", 0, run=2)], []), "run of a writer must be 1"),
        (Stream([Place(lambda weights: 1.0, 0)], []), "a place holds float, not an array"),
    ],
)
def test_streams_that_do_not_fit_are_refused(stream, message):
    with pytest.raises(ValueError, match=message):
        rearrange(residual_weights(), [stream], group=4)


def test_an_order_that_leaves_its_block_is_refused():
    with pytest.raises(ValueError, match=r"order must be a permutation inside 2 block\(s\) of 8 units"):
        reorder(residual_weights(), STREAMS["values"], np.arange(16)[::-1])
    with pytest.raises(ValueError, match="nonnegative and finite"):
        rearrange(residual_weights() | {"in": np.full((WIDTH, 5), np.nan)}, [STREAMS["residual"]], group=4)
