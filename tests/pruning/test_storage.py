"""Predicted bytes against arrays that are really packed."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from uqsparse.kernels.group_sparsity import pack
from uqsparse.pruning.storage import fits, index_bits, storage_bits
from uqsparse.pruning.structures import NM, Block, Channel, Group, PerRow, Unstructured

MASKS = [np.random.default_rng(seed).random((24, 40)) < 0.02 * 1.22**seed for seed in range(20)]


@pytest.mark.parametrize("mask", MASKS)
def test_bytes_are_those_of_packed_arrays(mask):
    weight = np.where(mask, np.random.default_rng(0).normal(size=mask.shape), 0).astype(np.float32)
    values = weight[mask].nbytes
    assert storage_bits(mask, "bitmask") == 8 * (np.packbits(mask).nbytes + values)
    csr = sparse.csr_matrix(weight)
    actual = csr.data.nbytes + csr.indices.nbytes + csr.indptr.nbytes
    assert storage_bits(mask, "csr") == 8 * actual
    coo = sparse.coo_matrix(weight)
    assert storage_bits(mask, "coo") == 8 * (coo.data.nbytes + coo.row.nbytes + coo.col.nbytes)
    assert storage_bits(mask, "dense") == 8 * weight.nbytes


def pack_runs(mask, weight, n, m):
    """N:M runs along axis 1 as values and the number of each run's pattern among the combinations, bit by bit."""
    patterns = {chosen: i for i, chosen in enumerate(itertools.combinations(range(m), n))}
    width = math.ceil(math.log2(len(patterns)))
    bits, values = [], []
    for run, numbers in zip(mask.reshape(-1, m), weight.reshape(-1, m), strict=True):
        chosen = tuple(np.flatnonzero(run))
        bits += [patterns[chosen] >> i & 1 for i in range(width)]
        values += list(numbers[list(chosen)])
    return np.packbits(np.array(bits, bool)).nbytes + np.array(values, np.float32).nbytes


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (3, 5)])
def test_runs_take_the_bits_of_their_patterns(n, m):
    rng = np.random.default_rng(n)
    for _ in range(5):
        mask = rng.random((6, 4, m)).argsort(axis=2).reshape(6, 4 * m) % m < 0  # all off
        for run in mask.reshape(-1, m):
            run[rng.choice(m, n, replace=False)] = True
        assert storage_bits(mask, NM(n, m)) == 8 * pack_runs(mask, rng.normal(size=mask.shape), n, m)
    assert index_bits(np.tile([True, True, False, False], (8, 2)), NM(2, 4)) == 16 * 3


def test_blocks_and_groups_store_whole_units():
    mask = np.zeros((6, 8), bool)
    mask[:2, 4:] = True  # one block
    mask[4:, :2] = True  # part of another, at the edge below
    assert storage_bits(mask, Block(4, 4)) == 2 * 32 + 32 * (16 + 8)
    grouped = Group(4).spread(np.random.default_rng(0).random((2, 8)) < 0.5, (6, 8))
    packed = pack(np.where(grouped, 1.0, 0.0).T.astype(np.float32), np.asarray(grouped).T, 4)
    assert storage_bits(np.asarray(grouped), Group(4)) == 8 * packed.n_bytes


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.12))
def test_bitmask_beats_csr_where_the_formula_says(seed, density):
    mask = np.random.default_rng(seed).random((16, 64)) < density
    n, rows = int(mask.sum()), 16
    formula = 32 * n + 32 * (rows + 1) > mask.size
    weight = sparse.csr_matrix(mask.astype(np.float32))
    csr = weight.data.nbytes + weight.indices.nbytes + weight.indptr.nbytes
    assert formula == (np.packbits(mask).nbytes + 4 * n < csr)
    assert formula == (storage_bits(mask, "bitmask") < storage_bits(mask, "csr"))


def test_masks_of_structures_fit_them():
    rng = np.random.default_rng(0)
    score = rng.random((8, 16)).astype(np.float32)
    for structure in (NM(2, 4), Block(2, 4), Group(4), Unstructured()):
        assert fits(np.asarray(structure.project(score, 64)), structure), structure
    scattered = rng.random((8, 16)) < 0.5
    for structure in (NM(1, 4), Block(2, 4), Group(4), Channel(0), Channel(1), PerRow()):
        assert not fits(scattered, structure), structure
    assert not fits(np.ones((8, 6), bool), NM(2, 4))


def test_bad_masks_and_formats_are_refused():
    with pytest.raises(ValueError, match="not 2:4"):
        index_bits(np.ones((2, 8), bool), NM(2, 4))
    with pytest.raises(ValueError, match="format must be"):
        index_bits(np.ones((2, 8), bool), "ell")  # pyright: ignore
    with pytest.raises(ValueError, match="boolean"):
        storage_bits(np.ones((2, 8)), "csr")
    with pytest.raises(ValueError, match="value_bits"):
        storage_bits(np.ones((2, 8), bool), "csr", 0)


def test_counts_do_not_overflow_small_types():
    assert storage_bits(np.ones((300, 300), bool), "coo") == 96 * 90_000
