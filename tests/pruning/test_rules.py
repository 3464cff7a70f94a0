"""Rules, against a few lines of NumPy."""

import math

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.pruning.rules import DropGrow, Prune, PruneRegrow, Reselect, RestrictedSwap, Static

N = 24
cases = st.tuples(
    st.integers(0, 2**32 - 1), st.integers(1, N), st.integers(1, N), st.sampled_from([0.0, 0.25, 0.5, 0.9])
)


def _case(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = np.zeros((1, N), bool)
    mask[0, rng.choice(N, n, replace=False)] = True
    keep, grow = rng.exponential(size=(2, 1, N)).round(1).astype(np.float32)  # with ties
    return mask, keep * mask, grow


def _first(score: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """The best of some positions, ties to the first."""
    order = sorted(np.flatnonzero(among), key=lambda i: (-score[i], i))[:count]
    return np.isin(np.arange(N), order)


def _apply(rule, mask, keep, grow, count, churn) -> np.ndarray:
    return np.asarray(rule(jnp.asarray(mask), jnp.asarray(keep), jnp.asarray(grow), count, jnp.float32(churn)))[0]


@settings(max_examples=60, deadline=None)
@given(cases)
def test_pruning_keeps_the_best_of_the_old_mask(case) -> None:
    seed, n, count, _ = case
    mask, keep, grow = _case(seed, n)
    new = _apply(Prune(), mask, keep, grow, count, 0.0)
    assert (new == _first(keep[0], mask[0], count)).all()
    assert not (new & ~mask[0]).any()
    assert (_apply(Static(), mask, keep, grow, count, 0.5) == mask[0]).all()


@settings(max_examples=60, deadline=None)
@given(cases)
def test_trades_at_a_constant_count(case) -> None:
    seed, n, _, churn = case
    mask, keep, grow = _case(seed, n)
    trades = min(math.floor(churn * n + 1e-9), N - n)
    kept = _first(keep[0], mask[0], n - trades)
    assert (_apply(DropGrow(), mask, keep, grow, n, churn) == (kept | _first(grow[0], ~mask[0], trades))).all()
    again = _apply(DropGrow(allow_regrow=True), mask, keep, grow, n, churn)
    assert (again == (kept | _first(grow[0], ~kept, trades))).all()
    assert again.sum() == n


@settings(max_examples=60, deadline=None)
@given(cases)
def test_pruning_and_regrowing_is_one_after_the_other(case) -> None:
    seed, n, count, churn = case
    mask, keep, grow = _case(seed, n)
    count = min(n, count)
    pruned = _first(keep[0], mask[0], count)
    trades = min(math.ceil(churn * count - 1e-9), N - count)
    expected = _first(keep[0], pruned, count - trades) | _first(grow[0], ~pruned, trades)
    assert (_apply(PruneRegrow(), mask, keep, grow, count, churn) == expected).all()
    assert (_apply(PruneRegrow(), mask, keep, grow, count, 0.0) == _apply(Prune(), mask, keep, grow, count, 0.0)).all()


def test_no_more_trades_than_allowed() -> None:
    mask, keep, grow = _case(0, 12)
    for most in (0, 2, 99):
        new = np.asarray(DropGrow()(mask, keep, grow, 12, jnp.float32(0.5), jnp.array([most])))[0]
        assert (mask[0] & ~new).sum() == min(most, 6)


@settings(max_examples=40, deadline=None)
@given(cases)
def test_swaps_go_to_the_target_in_order(case) -> None:
    seed, n, _, _ = case
    rng = np.random.default_rng(seed)
    mask, _, _ = _case(seed, n)
    score = rng.permutation(N).astype(np.float32)[None]
    target = _apply(Reselect(), mask, score, score, n, 0.0)
    assert (target == _first(score[0], np.ones(N, bool), n)).all()
    away = (target & ~mask[0]).sum()
    new = _apply(RestrictedSwap(3), mask, score, score, n, 0.0)
    assert new.sum() == n
    assert (target & ~new).sum() == max(0, away - 3)
    came = new & ~mask[0]
    assert (came == _first(score[0], target & ~mask[0], 3)).all()
    assert ((mask[0] & ~new) == _first(-score[0], mask[0] & ~target, 3)).all()


def test_rows_are_apart() -> None:
    mask = np.array([[True, True, False, False], [False, False, True, True]])
    keep = np.array([[1.0, 2, 9, 9], [9, 9, 2, 1]], np.float32)
    grow = np.array([[0.0, 0, 1, 2], [2, 1, 0, 0]], np.float32)
    new = np.asarray(DropGrow()(mask, keep, grow, 2, jnp.float32(0.5)))
    assert new.tolist() == [[False, True, False, True], [True, False, True, False]]
