"""The exchangeability martingale against counting, exact arithmetic, and Ville's inequality."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from uqsparse.bounds.exchangeability import (
    exchangeability_martingale,
    jumper_step,
    online_pvalues,
    simple_jumper,
    start_jumper,
)

KEY = jax.random.key(0)


@settings(max_examples=60)
@given(
    scores=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, math.inf]), min_size=1, max_size=50),
    seed=st.integers(0, 1000),
)
def test_pvalues_are_counted_among_the_past(scores, seed):
    u = np.random.default_rng(seed).uniform(size=len(scores))
    found = online_pvalues(np.array(scores), u)
    for i, score in enumerate(scores):
        past = scores[: i + 1]
        expected = (sum(one > score for one in past) + u[i] * sum(one == score for one in past)) / (i + 1)
        assert found[i] == pytest.approx(expected, rel=1e-12)


def exact_capital(pvalues, jump):
    """Algorithm 1 of Vovk et al. (2021) in rational numbers, three gamblers with their own capital."""
    capital = {-1: Fraction(1, 3), 0: Fraction(1, 3), 1: Fraction(1, 3)}
    path = []
    for p in pvalues:
        total = sum(capital.values())
        capital = {e: (1 - jump) * c + jump / 3 * total for e, c in capital.items()}
        capital = {e: c * (1 + e * (p - Fraction(1, 2))) for e, c in capital.items()}
        path.append(sum(capital.values()))
    return path


@settings(max_examples=30, deadline=None)
@given(pvalues=st.lists(st.fractions(0, 1, max_denominator=50), min_size=1, max_size=30))
def test_the_jumper_is_that_of_exact_arithmetic(pvalues):
    jump = Fraction(1, 20)
    found = simple_jumper(np.array([float(p) for p in pvalues]), float(jump))
    np.testing.assert_allclose(np.exp(found), [float(c) for c in exact_capital(pvalues, jump)], rtol=1e-11)


def test_crepes_has_the_same_path():
    martingales = pytest.importorskip("crepes.martingales")
    pvalues = np.random.default_rng(3).beta(0.7, 1.0, size=400)
    bets = martingales.EpsilonBettingFunction(E=[-1, 0, 1])
    theirs = martingales.SimpleJumper(J=0.01, bf=bets).apply(pvalues)
    np.testing.assert_allclose(simple_jumper(pvalues, 0.01), np.log(theirs), atol=1e-9)


@given(pvalue=st.floats(0, 1), shares=st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_a_fair_bet_neither_wins_nor_loses(pvalue, shares):
    """The capital is linear in p, so its mean over uniform p is the mean over p and 1 - p: what it was before."""
    start = start_jumper()._replace(shares=np.array(shares) / sum(shares))
    both = [math.exp(jumper_step(start, np.array(p))[1]) for p in (pvalue, 1 - pvalue)]
    assert np.mean(both) == pytest.approx(1.0, abs=1e-12)


def test_capital_beyond_floating_point_stays_finite():
    path = simple_jumper(np.full(5000, 1e-3))
    assert np.isfinite(path).all()
    assert path[-1] > 1500


def _run_many(scores, delta):
    keys = jax.random.split(jax.random.key(7), len(scores))
    return jax.jit(jax.vmap(lambda key, one: exchangeability_martingale(key, one, delta=delta)))(keys, scores)


def test_false_alarms_are_as_rare_as_ville_says():
    """2000 exchangeable streams with ties, delta 0.1: more alarms than allowed at 0.1 have probability 1e-5."""
    scores = jax.random.randint(KEY, (2000, 300), 0, 40).astype(jnp.float32)
    found = _run_many(scores, 0.1)
    alarms = int((found.alarm >= 0).sum())
    assert alarms <= stats.binom.isf(1e-5, 2000, 0.1)
    assert alarms > 0
    np.testing.assert_array_equal(found.alarm >= 0, found.log_max >= math.log(10))


def test_pvalues_of_exchangeable_scores_are_uniform_and_independent():
    """False alarm rate 1e-4 each, by Kolmogorov and Smirnov, and by the correlation of neighbours."""
    rng = np.random.default_rng(11)
    pvalues = online_pvalues(rng.integers(0, 10, size=4000).astype(float), rng.uniform(size=4000))
    assert stats.kstest(pvalues, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(pvalues[:-1], pvalues[1:])[0, 1]) < stats.norm.isf(5e-5) / math.sqrt(3999)


def test_a_shift_is_found_soon_and_not_before_it():
    rng = np.random.default_rng(1)
    scores = np.r_[rng.normal(size=500), rng.normal(1.5, 1.0, size=300)]
    found = exchangeability_martingale(KEY, scores, delta=0.01)
    assert 500 < found.alarm < 620
    assert found.pvalue <= 0.01
    assert found.log_martingale[found.alarm] >= math.log(100) > found.log_martingale[: found.alarm].max()
    assert found.guarantee.kind == "false alarm"
    assert found.guarantee.level == 0.01
    kept = found.to_arviz()
    assert kept.attrs["alarm"] == found.alarm
    np.testing.assert_array_equal(kept["log_martingale"], found.log_martingale)


def test_without_a_shift_the_pvalue_says_so():
    found = exchangeability_martingale(KEY, np.random.default_rng(2).normal(size=500))
    assert not found.alarmed
    assert found.alarm == -1
    assert 0.01 < found.pvalue <= 1


def test_a_shift_towards_the_ordinary_is_found_too():
    rng = np.random.default_rng(4)
    scores = abs(np.r_[rng.normal(size=500), 0.2 * rng.normal(size=500)])
    assert exchangeability_martingale(KEY, scores).alarm > 500


def test_the_same_key_gives_the_same_path_and_ties_use_it():
    scores = np.zeros(50)
    one, again, other = (exchangeability_martingale(key, scores) for key in (KEY, KEY, jax.random.key(1)))
    np.testing.assert_array_equal(one.pvalues, again.pvalues)
    assert not np.array_equal(one.pvalues, other.pvalues)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="scores are NaN in 1 of 2 rows: 1"):
        exchangeability_martingale(KEY, np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="delta must lie strictly"):
        exchangeability_martingale(KEY, np.zeros(3), delta=0.0)
    with pytest.raises(ValueError, match="jump must lie strictly"):
        exchangeability_martingale(KEY, np.zeros(3), jump=1.0)
    with pytest.raises(ValueError, match=r"u must lie in \[0, 1\]"):
        online_pvalues(np.zeros(2), np.array([0.5, 1.5]))
    with pytest.raises(ValueError, match="u has shape"):
        online_pvalues(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match=r"pvalues must lie in \[0, 1\]"):
        simple_jumper(np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match="pvalues have shape"):
        simple_jumper(np.zeros(0))
