"""The account of a sparse network: totals by hand, and what a report must not lack."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
import pytest

from uqsparse.nn.packed_networks import pack_network
from uqsparse.pruning.accounting import report
from uqsparse.pruning.run_trace import RunTrace
from uqsparse.pruning.sparsity_report import BASELINES, Evidence
from uqsparse.pruning.structures import NM, Group

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def mlp():
    return eqx.nn.MLP(8, 4, 16, 1, key=KEY)


@pytest.fixture(scope="module")
def mask(mlp):
    """Two of each four inputs."""
    params = eqx.filter(mlp, eqx.is_inexact_array)
    return jax.tree.map(
        lambda leaf: np.arange(leaf.size).reshape(leaf.shape) % 4 < 2 if leaf.ndim > 1 else None, params
    )


@pytest.fixture(scope="module")
def trace(mask):
    """Ten dense steps, then thirty with the mask."""
    found = RunTrace()
    found.append(0, jax.tree.map(np.ones_like, mask))
    found.append(10, mask)
    found.finish(40)
    return found


def test_totals_of_weights_bits_and_operations(mlp, mask):
    found = report(mlp, mask, input_shape=(8,), structure=NM(2, 4))
    assert (found.size, found.nnz, found.n_parameters) == (192, 96, 212)
    assert (found.density, found.density_of_all) == (0.5, 116 / 212)
    first = found.leaves[0]
    assert (first.path, first.density, first.macs, first.best) == ("layers.0.weight", 0.5, 64, "2:4")
    assert first.bits["2:4"] == 64 * 32 + 32 * 3
    assert found.bits["bitmask"] == 32 * 20 + 96 * 32 + 192
    assert found.bits["best"] == found.bits["2:4"]
    assert (found.inference.macs, found.inference.dense_macs) == (96, 192)


def test_parameters_alone_have_bits_and_no_operations(mlp, mask):
    found = report(eqx.filter(mlp, eqx.is_inexact_array), mask)
    assert found.nnz == 96
    assert found.inference is None


def test_weights_that_happen_to_be_zero_are_not_pruned(mlp, mask):
    zeros = jax.tree.map(np.zeros_like, eqx.filter(mlp, eqx.is_inexact_array))
    assert report(zeros, mask).nnz == 96


def test_packed_networks_need_no_mask(mlp):
    found = report(pack_network(mlp, density=0.5, group=4, backend="jax"), input_shape=(8,), structure=Group(4))
    assert (found.nnz, found.inference.macs) == (96, 96)
    assert found.leaves[0].bits["groups of 4"] == 32 * (4 * 4 * 4 + 4 * 4 + 5)


def test_training_counts_the_whole_run(mlp, mask, trace):
    found = report(mlp, mask, input_shape=(8,), trace=trace, batch_size=2, dense_gradients=1)
    dense, sparse = 2 * 192, 2 * 96
    mean = (10 * dense + 30 * sparse) / 40
    assert found.training.sparse == pytest.approx(2 * (3 * (10 * dense + 30 * sparse) + dense - mean))
    assert found.training.masked == 2 * 3 * dense * 40
    assert found.training.selection == pytest.approx(192 * np.log2(192))
    assert found.training_bits == {"sparse": 4 * 32 * 212 + 192, "masked": 4 * 32 * 212 + 192}  # it began dense
    assert found.explored == 1


def test_memory_of_training_counts_dense_gradients_where_they_are_needed(mlp, mask):
    sparse = RunTrace()
    sparse.append(0, mask)
    sparse.finish(40)
    found = report(mlp, mask, input_shape=(8,), trace=sparse, n_moments=1)
    assert found.training_bits == {"sparse": 32 * (3 * 96 + 3 * 20) + 192, "masked": 32 * 3 * 212 + 192}
    growing = report(mlp, mask, input_shape=(8,), trace=sparse, n_moments=1, dense_gradients=4)
    assert growing.training_bits == {"sparse": 32 * (2 * 96 + 192 + 3 * 20) + 192, "masked": 32 * 3 * 212 + 192}


def complete(mlp, mask, trace):
    scores = dict.fromkeys(BASELINES, (0.5, 0.6, 0.7))
    evidence = Evidence((0.5, 0.6, 0.7), scores, {"ECE": (0.1, 0.1, 0.2)}, speed="masked dense, no speed-up")
    return report(mlp, mask, input_shape=(8,), trace=trace).with_evidence(evidence)


def test_a_complete_report_is_valid_and_says_everything(mlp, mask, trace):
    found = complete(mlp, mask, trace)
    found.validate()
    text = found.to_markdown()
    for part in ("layers.1.weight", "two for each multiply-add", "0.5472 of all", "masked dense", "random mask", "ECE"):
        assert part in text
    assert all(line.count("|") == 10 for line in text.splitlines() if line.startswith("|"))


@pytest.mark.parametrize("name", [*BASELINES, "scores", "metrics", "speed", "inference", "training", "training_bits"])
def test_whatever_is_missing_is_named(mlp, mask, trace, name):
    found = complete(mlp, mask, trace)
    seen = found.evidence
    if name in BASELINES:
        rest = {key: value for key, value in seen.baselines.items() if key != name}
        found, word = found.with_evidence(dataclasses.replace(seen, baselines=rest)), BASELINES[name]
    elif name in ("scores", "metrics", "speed"):
        empty = {"scores": (0.5, 0.6), "metrics": {}, "speed": ""}[name]
        word = {"scores": "3 seeds", "metrics": "metric beside", "speed": "milliseconds"}[name]
        found = found.with_evidence(dataclasses.replace(seen, **{name: empty}))
    else:
        found = dataclasses.replace(found, **{name: None})
        word = {"inference": "inference FLOPs", "training": "training steps", "training_bits": "peak memory"}[name]
    with pytest.raises(ValueError, match=word):
        found.validate()


def test_uncounted_layers_spoil_a_report(mask):
    weight = {"w": np.ones((4, 4), np.float32)}
    found = report(
        weight, {"w": np.ones((4, 4), bool)}, input_shape=(4,), call=lambda net, x: (net["w"] * x).sum(axis=1)
    )
    assert "w: in no matrix product" in " ".join(found.missing)
    assert "at least" in found.to_markdown()


def test_nan_scores_do_not_count(mlp, mask, trace):
    found = complete(mlp, mask, trace)
    found = found.with_evidence(dataclasses.replace(found.evidence, scores=(0.5, float("nan"), 0.6)))
    with pytest.raises(ValueError, match="finite scores"):
        found.validate()


def test_times_are_measured_by_name(mlp, mask):
    x = np.ones(8, np.float32)
    found = report(mlp, mask, timed={"dense": lambda: x @ x, "sparse": lambda: x[:4] @ x[:4]}, machine="a machine")
    assert set(found.milliseconds) == {"dense", "sparse"}
    assert min(found.milliseconds.values()) > 0
    assert "a machine" in found.to_markdown()


def test_traces_that_do_not_belong_are_refused(mlp, mask, trace):
    with pytest.raises(ValueError, match="finished"):
        report(mlp, mask, input_shape=(8,), trace=RunTrace())
    with pytest.raises(ValueError, match="input_shape"):
        report(mlp, mask, trace=trace)
    other = RunTrace()
    other.append(0, {"w": np.ones((2, 2), bool)})
    other.finish(1)
    with pytest.raises(ValueError, match="weights of the mask"):
        report(mlp, mask, input_shape=(8,), trace=other)
