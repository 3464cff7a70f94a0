"""Structures: legal positions, exact counts and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.kernels.group_sparsity import project_group
from uqsparse.pruning.structures import NM, Block, Channel, Group, PerRow, Unstructured

SHAPE = (6, 8)
scores = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).exponential(size=SHAPE).round(1))


@settings(max_examples=25, deadline=None)
@given(scores, st.integers(0, 48))
def test_unstructured_keeps_exactly_the_best(score: np.ndarray, count: int) -> None:
    mask = np.asarray(Unstructured().project(score, count)).ravel()
    best = np.argsort(-score.astype(np.float32).ravel(), kind="stable")[:count]
    assert mask.sum() == count
    assert mask[best].all()
    assert (np.asarray(jax.jit(Unstructured().project)(score, jnp.asarray(count))).ravel() == mask).all()


@settings(max_examples=25, deadline=None)
@given(scores, st.sampled_from([(1, 2), (2, 4), (1, 4), (4, 8)]), st.sampled_from([0, 1]))
def test_n_of_each_m(score: np.ndarray, nm: tuple[int, int], axis: int) -> None:
    n, m = nm
    if SHAPE[axis] % m:
        with pytest.raises(ValueError, match=r"'w' of shape \(6, 8\) cannot be cut in runs of"):
            NM(n, m, axis).check("w", SHAPE)
        return
    mask = np.asarray(NM(n, m, axis).project(score, SHAPE[0] * SHAPE[1] * n // m))
    runs = np.moveaxis(mask, axis, -1).reshape(-1, m)
    assert (runs.sum(axis=1) == n).all()
    values = np.moveaxis(score.astype(np.float32), axis, -1).reshape(-1, m)
    assert (np.where(runs, values, 0).sum(axis=1) >= np.sort(values, axis=1)[:, m - n :].sum(axis=1) - 1e-6).all()


def test_n_of_m_along_the_inputs_of_a_convolution() -> None:
    score = np.random.default_rng(0).random((3, 8, 2, 2))
    mask = np.asarray(NM(2, 4).project(score, 48))
    assert (mask.reshape(3, 2, 4, 2, 2).sum(axis=2) == 2).all()


def test_more_than_n_of_m_while_the_density_is_higher() -> None:
    score = np.random.default_rng(0).random(SHAPE)
    assert (np.asarray(NM(1, 4).project(score, 36)).reshape(-1, 4).sum(axis=1) == 3).all()


@settings(max_examples=25, deadline=None)
@given(scores, st.integers(1, 8))
def test_groups_are_those_of_the_compiled_products(score: np.ndarray, fan_in: int) -> None:
    mask = np.asarray(Group(4).project(score, fan_in * SHAPE[0]))
    # Means of whole groups rank as their sums do; the last group here has two outputs of four.
    expected = project_group(score.astype(np.float32).T, fan_in, 4).T
    assert (mask.sum(axis=1) == fan_in).all()
    kept = [np.where(m, score, 0).sum() for m in (mask, expected)]
    np.testing.assert_allclose(kept[0], kept[1], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(scores, st.integers(1, 12))
def test_blocks_are_whole_and_the_best_by_their_mean(score: np.ndarray, n_blocks: int) -> None:
    mask = np.asarray(Block(4, 3).project(score, n_blocks * 8))  # 2 x 3 blocks: of 12, 12, 8, 6, 6, 4 weights
    means = {}
    for i in range(0, 6, 4):
        for j in range(0, 8, 3):
            block = mask[i : i + 4, j : j + 3]
            assert block.all() or not block.any()
            means[score[i : i + 4, j : j + 3].mean()] = bool(block.all())
    kept = sum(means.values())
    assert kept == min(n_blocks, 6) or len(means) < 6
    worst_kept = min((mean for mean, k in means.items() if k), default=np.inf)
    assert worst_kept >= max((mean for mean, k in means.items() if not k), default=-np.inf) - 1e-6


@pytest.mark.parametrize("axis", [0, 1])
def test_channels_are_whole(axis: int) -> None:
    score = np.random.default_rng(1).random((4, 6, 2))
    mask = np.asarray(Channel(axis).project(score, 24))
    whole = mask.any(axis=tuple(a for a in range(3) if a != axis))
    assert (mask == np.expand_dims(whole, [a for a in range(3) if a != axis])).all()
    means = score.mean(axis=tuple(a for a in range(3) if a != axis))
    assert set(np.flatnonzero(whole)) == set(np.argsort(-means)[: len(means) // 2])


def test_the_same_number_for_every_output() -> None:
    mask = np.asarray(PerRow().project(np.random.default_rng(2).random((5, 3, 2)), 10))
    assert (mask.sum(axis=(1, 2)) == 2).all()


def test_minus_infinity_is_never_kept() -> None:
    score = np.full(SHAPE, -np.inf)
    score[0] = 1.0
    for structure in (Unstructured(), NM(2, 4), PerRow(), Group(1)):
        assert not np.asarray(structure.project(score, 24))[1:].any()


def test_refusals_name_the_argument_or_the_leaf() -> None:
    with pytest.raises(ValueError, match="n must be at most m = 4, got 5"):
        NM(5, 4)
    with pytest.raises(ValueError, match="m must be an integer of at least 2"):
        NM(1, 1)
    with pytest.raises(ValueError, match="h must be"):
        Block(0, 2)
    with pytest.raises(ValueError, match="size must be"):
        Group(0)
    with pytest.raises(ValueError, match=r"'layers.0.scale' must have two axes"):
        Group(4).check("layers.0.scale", (7,))
    with pytest.raises(ValueError, match=r"'w' of shape \(3, 4\) has no axis 2"):
        Channel(2).check("w", (3, 4))
