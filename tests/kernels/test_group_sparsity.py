"""Packing by groups of outputs, against masks written as loops, and projections against enumeration."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.kernels.group_sparsity import from_arrays, group_scores, pack, project_group, unpack

# Ragged groups, whole ones, one that is wider than the matrix, single outputs.
CASES = st.sampled_from([((7, 5), 2), ((5, 32), 16), ((3, 5), 8), ((9, 4), 1)])


def random_case(shape, group, density, seed):
    """A matrix and a mask of whole groups, written without the code under test."""
    rng = np.random.default_rng(seed)
    kept = rng.uniform(size=(shape[0], shape[1])) < density
    for column in range(shape[1]):
        kept[:, column] = kept[:, column - column % group]
    return rng.normal(size=shape).astype(np.float32), kept


def densified(gs):
    """The matrix, by loops."""
    dense = np.zeros((gs.shape[0], gs.n_groups * gs.group), np.float32)
    ptr, idx, val = np.asarray(gs.ptr), np.asarray(gs.idx), np.asarray(gs.val)
    for g in range(gs.n_groups):
        for j in range(ptr[g], ptr[g + 1]):
            dense[idx[j], g * gs.group : (g + 1) * gs.group] = val[j]
    assert not dense[:, gs.shape[1] :].any()
    return dense[:, : gs.shape[1]]


@given(case=CASES, seed=st.integers(0, 99))
def test_packed_arrays_hold_the_matrix_bit_by_bit(case, seed):
    shape, group = case
    W, mask = random_case(shape, group, 0.3, seed)
    masked = np.where(mask, W, np.float32(0))
    for gs in (pack(W, mask, group), pack(masked, group=group)):
        assert gs.val.dtype == jnp.float32
        assert gs.val.shape == (gs.idx.shape[0], group)
        np.testing.assert_array_equal(densified(gs).view(np.int32), masked.view(np.int32))


@given(case=CASES, seed=st.integers(0, 99))
def test_the_transposed_positions_list_the_groups_of_each_input(case, seed):
    shape, group = case
    W, mask = random_case(shape, group, 0.4, seed)
    gs = jax.tree.map(np.asarray, pack(W, mask, group))
    for k in range(shape[0]):
        own = slice(int(gs.ptr_t[k]), int(gs.ptr_t[k + 1]))
        groups = [g for g in range(gs.n_groups) if mask[k, g * group]]
        assert gs.group_t[own].tolist() == groups
        for g, row in zip(groups, gs.pos_t[own], strict=True):
            assert gs.ptr[g] <= row < gs.ptr[g + 1]
            assert gs.idx[row] == k


@pytest.mark.parametrize(("case", "density"), [(((7, 5), 2), 0.0), (((7, 5), 2), 0.4), (((9, 4), 1), 1.0)])
def test_round_trips_are_bit_exact(case, density):
    shape, group = case
    W, mask = random_case(shape, group, density, 0)
    dense = np.asarray(unpack(pack(W, mask, group)))
    np.testing.assert_array_equal(dense.view(np.int32), np.where(mask, W, np.float32(0)).view(np.int32))


def test_zeros_of_either_sign_are_dropped_and_kept_ones_stay():
    W = np.array([[-0.0, 0.0, 1.0, -0.0], [2.0, 0.0, 0.0, -0.0]], np.float32)
    gs = pack(W, group=2)
    assert gs.idx.tolist() == [1, 0]
    assert gs.val.tolist() == [[2.0, 0.0], [1.0, -0.0]]


def test_a_mask_that_splits_a_group_stores_zeros():
    gs = pack(np.ones((2, 4)), np.array([[1, 0, 0, 0], [0, 0, 0, 0]], bool), group=2)
    assert gs.val.tolist() == [[1.0, 0.0]]


def test_types_stay_and_integers_become_floats():
    assert pack(jnp.ones((2, 2), jnp.bfloat16)).val.dtype == jnp.bfloat16
    assert pack(np.ones((2, 2), int)).val.dtype == jnp.float32
    assert pack(np.ones((2, 2))).val.dtype == jnp.float32
    with jax.enable_x64(True):
        assert pack(np.ones((2, 2))).val.dtype == jnp.float64


def test_it_is_a_pytree_of_arrays_that_compiles_once_for_masks_of_one_fan_in():
    W = np.random.default_rng(0).normal(size=(12, 32)).astype(np.float32)
    traces = []

    @eqx.filter_jit
    def total(gs, W):
        traces.append(1)
        return unpack(gs.with_weight(W)).sum(axis=0)

    for seed in range(3):
        mask = project_group(np.random.default_rng(seed).normal(size=W.shape), 4, 16)
        np.testing.assert_allclose(total(pack(W, mask), 2 * W), (2 * W * mask).sum(axis=0), rtol=1e-5, atol=1e-5)
    assert len(traces) == 1
    gs = pack(W, mask)
    slope = eqx.filter_grad(lambda gs: (unpack(gs) * W).sum())(gs)
    np.testing.assert_array_equal(slope.val, gs.val)
    assert [leaf is None for leaf in (slope.idx, slope.ptr, slope.pos_t)] == [True] * 3
    compiled = jax.jit(lambda W: pack(W, mask).val)(W)
    np.testing.assert_array_equal(compiled, gs.val)
    assert gs.density == pytest.approx(1 / 3)
    assert gs.n_bytes == 4 * (8 * 16 + 8 + 3)


@given(
    shape=st.sampled_from([(4, 6), (3, 5), (5, 3)]),
    fixed=st.booleans(),
    seed=st.integers(0, 99),
    fan_in=st.integers(0, 3),
)
def test_no_mask_of_groups_keeps_more(shape, fixed, seed, fan_in):
    score = np.random.default_rng(seed).normal(size=shape)
    mask = project_group(score, fan_in, 2, fixed_fan_in=fixed)
    k, n_groups = shape[0], -(-shape[1] // 2)
    summed = np.array([[score[i, 2 * g : 2 * g + 2].sum() for g in range(n_groups)] for i in range(k)])
    if fixed:
        best = sum(max(sum(c) for c in itertools.combinations(summed[:, g], fan_in)) for g in range(n_groups))
    else:
        best = max(sum(c) for c in itertools.combinations(summed.ravel(), fan_in * n_groups))
    assert score[mask].sum() == pytest.approx(best)
    assert all(len(set(mask[i, 2 * g : 2 * g + 2])) == 1 for i in range(k) for g in range(n_groups))
    counts = mask[:, ::2].sum(axis=0)
    assert (counts == fan_in).all() if fixed else counts.sum() == fan_in * n_groups


@pytest.mark.parametrize("fixed", [True, False])
def test_ties_go_to_the_first_inputs_also_when_compiled(fixed):
    score = np.zeros((5, 4), np.float32)
    mask = project_group(score, 2, 2, fixed_fan_in=fixed)
    assert mask.tolist() == [[True] * 4] * 2 + [[False] * 4] * 3
    compiled = jax.jit(lambda score, count: project_group(score, count, 2, fixed_fan_in=fixed))(score, 2)
    np.testing.assert_array_equal(compiled, mask)
    stacked = jax.vmap(lambda score: project_group(score, 2, 2, fixed_fan_in=fixed))(jnp.stack([score, score]))
    np.testing.assert_array_equal(stacked[1], mask)


def test_minus_infinity_is_never_kept_and_density_rounds():
    score = np.array([[1.0, 2.0], [-np.inf, 3.0], [0.0, 0.0]])
    assert project_group(score, 2, 2).tolist() == [[True] * 2, [False] * 2, [True] * 2]
    with pytest.raises(ValueError, match="score allows fewer inputs than the 3"):
        project_group(score, 3, 2)
    assert project_group(np.ones((10, 3)), density=0.26, group=2)[:, 0].sum() == 3
    assert group_scores(np.ones((2, 3)), 2).tolist() == [[2, 1], [2, 1]]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"W": np.ones(3)}, ValueError, "W must be a matrix with rows and columns"),
        ({"W": np.ones((0, 3))}, ValueError, "W must be a matrix"),
        ({"W": np.full((2, 3), np.nan)}, ValueError, "W must be finite where it is kept"),
        ({"W": np.ones((2, 3), complex)}, TypeError, "W must hold real numbers"),
        ({"group": 0}, ValueError, "group must be an integer of at least 1"),
        ({"mask": np.ones((3, 2), bool)}, ValueError, r"mask must have the shape of W, \(2, 3\)"),
        ({"mask": np.ones((2, 3))}, TypeError, "mask must be boolean"),
    ],
)
def test_what_cannot_be_packed_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        pack(**({"W": np.ones((2, 3)), "mask": None, "group": 2} | changes))


def test_a_dropped_weight_may_be_nan():
    W = np.array([[1.0, np.nan]])
    assert unpack(pack(W, np.array([[True, False]]), 1)).tolist() == [[1.0, 0.0]]
    with pytest.raises(TypeError, match="mask is needed where W is traced"):
        jax.jit(lambda W: pack(W).val)(W)
    with pytest.raises(TypeError, match="mask must not be traced"):
        jax.jit(lambda mask: pack(W, mask).val)(W > 0)
    with pytest.raises(ValueError, match=r"W must have shape \(1, 2\), got \(2, 2\)"):
        pack(np.ones((1, 2))).with_weight(jnp.ones((2, 2)))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"ptr": [0, 2]}, ValueError, "ptr must ascend from 0 to 3 in 3 entries"),
        ({"ptr": [0, 4, 3]}, ValueError, "ptr must ascend"),
        ({"ptr": [1, 1, 3]}, ValueError, "ptr must ascend"),
        ({"ptr": [0, 1, 2]}, ValueError, "ptr must ascend"),
        ({"ptr": [0, np.nan, 3]}, TypeError, "ptr must be one row of integers, got float64"),
        ({"idx": [0, 4, 2]}, ValueError, r"idx must lie in \[0, 4\), got 0 to 4"),
        ({"idx": [0, -1, 2]}, ValueError, r"idx must lie in \[0, 4\)"),
        ({"idx": [0, 2, 1]}, ValueError, "idx must ascend within each group"),
        ({"idx": [0, 2, 2]}, ValueError, "idx must ascend within each group"),
        ({"val": np.ones((3, 3))}, ValueError, r"val must have shape \(3, 2\)"),
        ({"val": np.ones((3, 2), complex)}, TypeError, "val must hold real numbers"),
        ({"shape": (0, 4)}, ValueError, "K must be an integer of at least 1"),
    ],
)
def test_arrays_that_are_no_packed_matrix_are_refused(changes, error, message):
    arrays = {"ptr": [0, 1, 3], "idx": [3, 0, 2], "val": np.ones((3, 2)), "shape": (4, 4), "group": 2}
    assert unpack(from_arrays(**arrays)).shape == (4, 4)
    with pytest.raises(error, match=message):
        from_arrays(**(arrays | changes))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either fan_in or density"),
        ({"fan_in": 1, "density": 0.5}, "give either fan_in or density"),
        ({"fan_in": 3}, "fan_in must be at most the number of inputs, 2"),
        ({"fan_in": -1}, "fan_in must be an integer of at least 0"),
        ({"density": 1.5}, r"density must lie in \[0, 1\], got 1.5"),
        ({"density": np.nan}, r"density must lie in \[0, 1\]"),
        ({"fan_in": 1, "score": np.array([[np.nan], [1.0]])}, "score must be finite or -inf"),
        ({"fan_in": 1, "score": np.array([[np.inf], [1.0]])}, "score must be finite or -inf"),
    ],
)
def test_what_cannot_be_projected_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        project_group(**({"score": np.ones((2, 3)), "group": 2} | arguments))
