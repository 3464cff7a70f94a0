"""E-processes: fair bets by enumeration, against plain products, and time-uniform bounds by simulation."""

import itertools
import math
from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.inference.checks.eprocess import (
    BETS,
    bet,
    combine,
    log_mean,
    mean_radius,
    no_bets,
    rank_eprocess,
    stop_at_crossing,
)


def draws(seed, n=600, s=2, drift=0.0):
    return np.clip(np.random.default_rng(seed).uniform(-1, 1, (n, s)) + drift, -1, 1)


def plain_wealth(differences):
    """Product over draws, for each statistic, bet and sign."""
    table = [[sign * share for share in BETS for sign in (1, -1)]]
    return np.array([[np.prod(1 + stake * column) for stake in table[0]] for column in differences.T])


@given(st.integers(0, 2**31), st.sampled_from([0, 1, 511, 512, 513, 600]))
def test_the_first_rows_of_a_batch_are_betted_on(seed, count):
    with jax.enable_x64(True):
        state = combine(no_bets(2), bet(draws(seed), np.asarray(count)))
    used = draws(seed)[:count]
    np.testing.assert_allclose(state.log_wealth, np.log(plain_wealth(used)), atol=1e-9)
    np.testing.assert_allclose(state.total, used.sum(axis=0), atol=1e-9)
    np.testing.assert_allclose(state.squares, (used**2).sum(axis=0), atol=1e-9)
    assert state.n == count


def test_the_mean_e_value_is_one_at_every_time():
    """Three draws from {-1/2 with probability 2/3, 1 with 1/3}, whose mean is zero, all paths enumerated."""
    law = {-0.5: 2 / 3, 1.0: 1 / 3}
    for n in (1, 2, 3):
        total = 0.0
        for path in itertools.product(law, repeat=n):
            with jax.enable_x64(True):
                state = combine(no_bets(1), bet(np.array(path)[:, None]))
            total += math.prod(law[x] for x in path) * math.exp(log_mean(state.log_wealth))
        assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("batch", [50, 600])
def test_it_stops_at_the_first_draw_that_rejects(batch):
    differences = draws(3, drift=0.15)
    wealth = [np.exp(log_mean(np.log(plain_wealth(differences[:n])))) for n in range(1, 601)]
    first = 1 + int(np.argmax(np.array(wealth) >= 1e3))
    assert 50 < first < 600
    state = no_bets(2)
    for start in range(0, 600, batch):
        state = stop_at_crossing(state, differences[start : start + batch], 1e-3)
        if log_mean(state.log_wealth) >= math.log(1e3):
            break
    assert state.n == first
    assert log_mean(state.log_wealth) == pytest.approx(math.log(wealth[first - 1]))
    np.testing.assert_allclose(state.total, differences[:first].sum(axis=0))


def test_without_a_crossing_it_goes_to_the_end():
    state = stop_at_crossing(no_bets(2), draws(4), 1e-9)
    assert state.n == 600
    np.testing.assert_allclose(state.log_wealth, np.log(plain_wealth(draws(4))), atol=1e-9)


def test_means_leave_their_bounds_no_more_often_than_stated_at_any_time():
    """Skewed draws of mean zero, 2000 paths looked at after every one of 300 draws; level 0.2, both sides. The share of
    paths that ever leave is at most 0.2 on each side; 0.25 is more than 5 standard errors above."""
    x = np.random.default_rng(0).choice([-0.25, 1.0], p=[0.8, 0.2], size=(2000, 300))
    for signed in (x, -x):
        averages = signed.cumsum(axis=1) / np.arange(1, 301)
        squares = (signed**2).cumsum(axis=1)
        radius = np.stack([mean_radius(squares[:, n - 1], n, 0.2) for n in range(1, 301)], axis=1)
        assert np.mean((averages > radius).any(axis=1)) <= 0.25


def test_the_bound_is_not_much_wider_than_the_central_limit_theorem_has_it():
    n, variance = 400_000, 0.01
    assert 1.0 < mean_radius([n * variance], n, 1e-5)[0] / (4.26 * math.sqrt(variance / n)) < 1.6


def test_the_bound_rests_on_an_inequality():
    """exp(t x - (-log(1 - t) - t) x^2) <= 1 + t x for x >= -1: what one draw can add is at most a fair bet."""
    t, x = np.meshgrid(np.linspace(0, 0.95, 96), np.linspace(-1, 3, 401))
    assert (np.exp(t * x + (np.log1p(-t) + t) * x**2) <= 1 + t * x + 1e-12).all()


@given(st.lists(st.integers(0, 3), min_size=0, max_size=12))
def test_bets_on_ranks_are_those_of_krichevsky_and_trofimov(ranks):
    counts, value, path = [0] * 4, Fraction(1), []
    for i, rank in enumerate(ranks):
        value *= 4 * (counts[rank] + Fraction(1, 2)) / (i + 2)
        counts[rank] += 1
        path.append(math.log(value))
    np.testing.assert_allclose(rank_eprocess(np.array(ranks, int), 4), path, atol=1e-12)


def test_bets_on_uniform_ranks_are_fair():
    sequences = np.array(list(itertools.product(range(3), repeat=5))).T
    np.testing.assert_allclose(np.exp(rank_eprocess(sequences, 3)).mean(axis=1), 1.0, atol=1e-12)


def test_each_column_of_ranks_is_betted_on_alone():
    table = np.random.default_rng(1).integers(0, 5, (40, 2, 3))
    paths = rank_eprocess(table, 5)
    for i, j in itertools.product(range(2), range(3)):
        np.testing.assert_allclose(paths[:, i, j], rank_eprocess(table[:, i, j], 5))


@pytest.mark.parametrize(
    ("ranks", "n_bins", "message"),
    [([0, 4], 4, "ranks must lie in 0, ..., 3"), ([-1], 4, "ranks"), ([0.5], 4, "integers"), ([0], 1, "n_bins")],
)
def test_ranks_that_are_none_are_refused(ranks, n_bins, message):
    with pytest.raises(ValueError, match=message):
        rank_eprocess(ranks, n_bins)


def test_a_mean_of_e_values_is_taken_in_logs():
    assert log_mean([1000.0, -np.inf]) == pytest.approx(1000 - math.log(2))
    np.testing.assert_allclose(log_mean([[0.0, 0.0], [math.log(3), 0.0]], axis=1), [0.0, math.log(2)])
