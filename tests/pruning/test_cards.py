"""Recorded runs, the labels they deserve, and cards that say otherwise."""

import dataclasses
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.pruning.cards import CARDS, SparsityCard, classify, violations
from uqsparse.pruning.run_trace import RunTrace
from uqsparse.pruning.structures import NM


def record(rows, steps=None, n_steps=100, params=None):
    """A run of one leaf with these masks."""
    trace = RunTrace()
    for i, row in enumerate(rows):
        trace.append(10 * i if steps is None else steps[i], {"w": np.array([row], bool)}, params)
    trace.finish(n_steps)
    return trace


RUNS = {
    "static": [[1, 0, 1, 0]] * 3,
    "snip": [[1, 1, 0, 0]],
    "set": [[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, 1]],
    "rigl": [[1, 0, 1, 0], [0, 0, 1, 1]],
    "gmp": [[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 0]],
    "granet": [[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 1]],
    "granet from sparse": [[1, 1, 1, 0], [1, 0, 0, 1]],
    "one_shot": [[1, 1, 1, 1], [0, 1, 1, 0]],
    "imp": [[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0]],
    "ssvi": [[1, 0, 1, 0], [1, 1, 0, 0]],
}


@pytest.mark.parametrize("name", RUNS)
def test_runs_agree_with_the_card_of_their_method_and_with_no_other_topology(name):
    trace = record(RUNS[name])
    assert violations(CARDS[name], trace) == ()
    for topology in {"static", "growing sparsity", "dynamic"} - {CARDS[name].topology}:
        wrong = dataclasses.replace(CARDS[name], topology=topology)
        assert violations(wrong, trace) == (f"topology: declared {topology}, actual {CARDS[name].topology}",)


def test_pruning_after_the_last_step_is_after_training():
    trace = record([[1, 1, 1, 1], [1, 0, 0, 1]], [0, 100])
    assert violations(CARDS["essential_sparsity"], trace) == ()
    assert classify(trace).when == "after training"
    retrained = record([[1, 1, 1, 1], [1, 0, 0, 1]], [0, 100], n_steps=101)
    assert violations(CARDS["essential_sparsity"], retrained) == (
        "when: declared after training, actual during training",
    )


def test_kinds_and_explored_shares():
    assert classify(record(RUNS["rigl"]))[3:] == ("sparse to sparse", 0.75)
    assert classify(record(RUNS["static"]))[3:] == ("sparse to sparse", 0.5)
    assert classify(record(RUNS["gmp"]))[3:] == ("dense to sparse", 1.0)
    assert classify(record([[1, 1, 1, 1]])).kind == "dense"
    through_dense = record([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])  # begins sparse, and stores everything later
    assert classify(through_dense)[:4] == ("during training", "sparse", "dynamic", "dense to sparse")


def test_masks_of_another_structure_are_found():
    card = dataclasses.replace(CARDS["static"], structure=NM(1, 2))
    assert violations(card, record([[1, 0, 0, 1]])) == ()
    assert "structure of w" in violations(card, record([[1, 1, 0, 0]]))[0]


def test_training_that_forgets_its_mask_is_found():
    """As with a wrapper that masks gradients and updates but never the parameters."""
    rng = np.random.default_rng(0)
    mask = {"w": rng.permutation(np.arange(400) < 20).reshape(20, 20)}
    params = {"w": jnp.asarray(rng.normal(size=(20, 20)), jnp.float32)}
    optimiser, traces = optax.sgd(0.1), (RunTrace(), RunTrace())
    state = optimiser.init(params)
    for step in range(3):
        traces[0].append(step, mask, params)
        traces[1].append(step, mask, jax.tree.map(lambda w, m: w * m, params, mask))
        grads = jax.tree.map(lambda w, m: w * m, params, mask)
        updates, state = optimiser.update(grads, state)
        params = optax.apply_updates(params, updates)
    for trace in traces:
        trace.finish(3)
    assert violations(CARDS["static"], traces[0]) == ("density: declared 0.05, actual 1: weights are not masked",)
    assert violations(CARDS["static"], traces[1]) == ()


def test_active_weights_that_are_zero_by_chance_are_not_pruned():
    trace = record([[1, 1, 0, 0]], params={"w": jnp.zeros((1, 4))})
    assert trace.actual_density == 0.5
    assert violations(CARDS["static"], trace) == ()


@given(st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=6), st.integers(0, 20))
def test_counts_agree_with_the_masks(rows, extra):
    steps = np.cumsum([0, *np.arange(1, len(rows))]).tolist()
    n_steps = steps[-1] + extra
    trace, masks = record(rows, steps, n_steps), np.array(rows)
    assert trace.explored == masks.any(axis=0).mean()
    changes = [(old, new) for old, new in pairwise(masks) if (old != new).any()]
    assert trace.n_changes == len(changes) == len(trace.entries) - 1
    assert trace.came == sum((new & ~old).sum() for old, new in changes)
    assert trace.left == sum((old & ~new).sum() for old, new in changes)
    if n_steps:
        lengths = np.diff([*steps, n_steps])
        assert trace.densities()["w"] == pytest.approx((masks.mean(axis=1) * lengths).sum() / n_steps)
    assert (trace.final_mask("w") == masks[-1]).all()


def test_long_runs_keep_their_totals_and_few_entries():
    trace = RunTrace(capacity=3)
    for step in range(50):
        trace.append(step, {"w": np.arange(8).reshape(2, 4) == step % 8})
    trace.finish(50)
    assert (len(trace.entries), trace.n_changes, trace.explored) == (3, 49, 1.0)
    assert trace.densities() == {"w": 1 / 8}
    assert classify(trace).topology == "dynamic"


def test_empty_unfinished_and_backward_traces_are_refused():
    trace = RunTrace()
    with pytest.raises(ValueError, match="empty"):
        classify(trace)
    with pytest.raises(ValueError, match="empty"):
        trace.finish(3)
    mask = {"w": np.ones((1, 2), bool)}
    trace.append(5, mask)
    with pytest.raises(ValueError, match="go back"):
        trace.append(4, mask)
    with pytest.raises(ValueError, match="leaves"):
        trace.append(6, {"w": np.ones((2, 2), bool)})
    with pytest.raises(ValueError, match="not finished"):
        violations(CARDS["static"], trace)
    with pytest.raises(ValueError, match="n_steps"):
        trace.finish(4)
    trace.finish(6)
    with pytest.raises(ValueError, match="finished"):
        trace.append(7, mask)
    with pytest.raises(ValueError, match="'w' must be boolean"):
        RunTrace().append(0, {"w": np.ones((1, 2))})


def test_cards_refuse_unknown_words():
    with pytest.raises(ValueError, match="topology must be one of"):
        dataclasses.replace(CARDS["rigl"], topology="changing")  # pyright: ignore
    with pytest.raises(TypeError, match="retraining"):
        SparsityCard("before training", "dense", "static", NM(1, 2), "random", "none", True)  # pyright: ignore
