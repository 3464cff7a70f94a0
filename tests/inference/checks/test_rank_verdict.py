"""Evidence of ranks: an e-value by enumeration, ties broken evenly, and a verdict that stops where it should."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.inference.checks.rank_verdict import (
    describe_ranks,
    judge_ranks,
    log_evidence_of_ranks,
    rank_among,
)

RNG = np.random.default_rng


def judged(ranks, n_ranks, alpha=1e-5, names=None):
    names = names or [f"s{i}" for i in range(ranks.shape[1])]
    return judge_ranks(ranks, n_ranks, names, alpha, subject="it", assumptions=("a",), blame="blame")


@pytest.mark.parametrize("n_ranks", [2, 3, 4, 6])
def test_the_mean_e_value_of_uniform_ranks_is_one(n_ranks):
    for n in (1, 2, 3):
        every = np.array(list(itertools.product(range(n_ranks), repeat=n))).T
        values = np.exp([log_evidence_of_ranks(one[:, None], n_ranks)[-1, 0] for one in every.T])
        assert values.mean() == pytest.approx(1, abs=1e-12)


def test_bets_on_coarser_ranks_see_a_tilt_early():
    # A tilt of 0.3 standard deviations among 64 ranks, which bets on single ranks alone take 2900 simulations to see.
    from scipy.stats import norm

    shares = norm.cdf(RNG(0).normal(0.3, 1, 1500))
    found = judged((shares * 64).astype(int)[:, None], 64)
    assert not found.ok
    assert found.n < 1200


@given(st.integers(0, 2**32 - 1))
def test_rank_is_the_number_of_smaller_draws(seed):
    rng = RNG(seed)
    values, draws = rng.normal(size=(4, 3)), rng.normal(size=(4, 7, 3))
    expected = [[sorted([*draws[i, :, j], values[i, j]]).index(values[i, j]) for j in range(3)] for i in range(4)]
    np.testing.assert_array_equal(rank_among(rng, values, draws), expected)


def test_ties_are_broken_evenly():
    ranks = rank_among(RNG(0), np.zeros((5000, 1)), np.zeros((5000, 4, 1)))[:, 0]
    counts = np.bincount(ranks, minlength=5)
    # Chi-squared with 4 degrees of freedom exceeds 30 with probability 5e-6.
    assert len(counts) == 5
    assert np.sum((counts - 1000) ** 2 / 1000) < 30


def test_verdict_stops_at_the_first_rejection_and_names_the_statistic():
    ranks = np.stack([RNG(0).integers(0, 16, 400), np.full(400, 15)], axis=1)
    found = judged(ranks, 16, names=["good", "stuck"])
    assert not found
    assert found.n == len(found.ranks) < 20
    assert found.evidence >= math.log(1e5)
    assert judged(ranks[: found.n - 1], 16).ok
    assert found.counterexample.where == "rank of stuck"
    assert "ranks too high" in str(found)
    assert "blame" in str(found)
    assert found.bias_bound is None
    assert found.log_e_values[1] > found.log_e_values[0]


def test_what_passes_bounds_the_bias():
    ranks = RNG(1).integers(0, 8, (500, 2))
    found = judged(ranks, 8, alpha=0.01)
    assert found.ok
    seen = max(abs(np.mean(ranks[:, j] < k) - k / 8) for j in range(2) for k in range(1, 8))
    assert found.bias_bound == pytest.approx(seen + math.sqrt(math.log(2 * 2 / 0.01) / 1000))


def test_false_alarms_are_as_rare_as_promised():
    # 400 tests at level 0.1: more than 65 rejections have probability 5e-5 even at exactly that level.
    found = [judged(RNG(i).integers(0, 12, (200, 3)), 12, alpha=0.1).ok for i in range(400)]
    assert 400 - sum(found) <= 65


@pytest.mark.parametrize(
    ("ranks", "words"),
    [([0, 0, 0, 1], "too low"), ([3, 3, 2, 3], "too high"), ([0, 3, 0, 3], "too many"), ([1, 2, 1, 2], "too few")],
)
def test_words_for_ranks(ranks, words):
    assert words in describe_ranks(np.array(ranks * 20), 4)
