"""The largest entries of each row, against a stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.kernels.selection import top_mask

N = 40


def _by_sorting(score: np.ndarray, count: int) -> np.ndarray:
    kept = np.zeros(len(score), bool)
    kept[np.argsort(-score, kind="stable")[:count]] = True
    return kept & (score > -np.inf)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2), st.lists(st.integers(-1, N + 1), min_size=2, max_size=2))
def test_rows_hold_what_a_stable_sort_puts_first(seed: int, decimals: int, counts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    score = rng.normal(size=(2, N)).round(decimals).astype(np.float32)  # rounded: ties, and zeros of both signs
    score[rng.random(score.shape) < 0.15] = -np.inf
    score[rng.random(score.shape) < 0.05] = np.inf
    found = np.asarray(top_mask(jnp.asarray(score), jnp.asarray(counts)))
    for row, kept, count in zip(score, found, counts, strict=True):
        assert (kept == _by_sorting(row, max(count, 0))).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions(dtype: str) -> None:
    score = np.random.default_rng(0).normal(size=(1, N))
    with jax.enable_x64(dtype == "float64"):
        array = jnp.asarray(score, dtype)
        assert array.dtype == dtype
        found = np.asarray(top_mask(array, 7))[0]
        assert (found == _by_sorting(np.asarray(array, np.float64)[0], 7)).all()


def test_doubles_that_differ_in_the_last_bit() -> None:
    with jax.enable_x64(True):
        score = jnp.array([1.0, np.nextafter(1.0, 2.0), -1.0, np.nextafter(-1.0, 0.0)])
        assert top_mask(score, 1).tolist() == [False, True, False, False]
        assert top_mask(score, 3).tolist() == [True, True, False, True]


def test_one_count_for_all_rows() -> None:
    assert top_mask(jnp.array([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0]]), 2).tolist() == [
        [True, False, True],
        [True, True, False],
    ]
