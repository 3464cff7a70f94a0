"""The sequential rule for p-values: its level by simulation, its stages by scripted p-values."""

import jax
import numpy as np
import pytest

from uqsparse.inference.checks.sequential import sequential_pvalues

KEY = jax.random.key(0)


def scripted(*stages):
    """Hands out the given p-values stage by stage, and notes how many draws were asked for."""
    left, sizes = list(stages), []

    def p_values(key, n):
        sizes.append(n)
        return left.pop(0)

    return p_values, sizes


@pytest.mark.parametrize("n_p", [1, 4])
def test_it_rejects_at_its_level(n_p):
    """Uniform p-values, level 0.3 in three stages: a p-value alone is rejected with probability 0.3 exactly. 1000 runs
    are within 0.07 of it except with probability 1e-6."""
    rng = np.random.default_rng(n_p)
    runs = [sequential_pvalues(KEY, lambda key, n: rng.uniform(size=n_p), n_stages=3, alpha=0.3) for _ in range(1000)]
    share = np.mean([not verdict.ok for verdict in runs])
    assert share < 0.37
    if n_p == 1:
        assert share > 0.23


def test_a_clear_case_takes_one_stage():
    p_values, sizes = scripted(0.5)
    verdict = sequential_pvalues(KEY, p_values, n=100, alpha=1e-5)
    assert verdict.ok
    assert verdict.n == 100
    assert sizes == [100]
    assert "stage 1" in verdict.notes[0]


def test_a_suspicious_one_gets_more_draws_once_more():
    """With alpha = 3e-3 and k = 3: limits 1e-3, then 1e-2, then 1e-1, in between whenever q <= 0.1 + limit."""
    p_values, sizes = scripted(0.05, 0.1, 0.09)
    verdict = sequential_pvalues(KEY, p_values, n=100, n_stages=3, alpha=3e-3)
    assert sizes == [100, 200, 200]
    assert verdict.n == 500
    assert not verdict.ok
    assert verdict.evidence >= -np.log(3e-3)
    p_values, sizes = scripted(0.05, 0.1, 0.101)
    assert sequential_pvalues(KEY, p_values, n=100, n_stages=3, alpha=3e-3).ok


def test_the_smallest_counts_times_their_number():
    just_right, just_wrong = [0.6e-3, 0.9, 0.4], [0.3e-3, 0.9, 0.4]
    verdict = sequential_pvalues(KEY, scripted(just_wrong)[0], n_stages=3, alpha=3e-3)
    assert not verdict.ok
    assert verdict.counterexample.obtained == pytest.approx(0.9e-3)
    assert "p-value 0 of 3" in verdict.counterexample.where
    assert sequential_pvalues(KEY, scripted(just_right, [0.9])[0], n_stages=3, alpha=3e-3).ok


def test_the_evidence_reaches_its_limit_exactly_when_it_rejects():
    for p, ok in ((0.99e-3, False), (1.01e-3, True)):
        verdict = sequential_pvalues(KEY, scripted(p, 0.5)[0], n_stages=3, alpha=3e-3)
        assert verdict.ok is ok
        assert bool(verdict.evidence < -np.log(3e-3)) is ok
    assert sequential_pvalues(KEY, scripted(0.0)[0]).evidence == np.inf


def test_each_stage_has_a_key_of_its_own():
    keys = set()

    def p_values(key, n):
        keys.add(tuple(jax.random.key_data(key).tolist()))
        return 0.05

    sequential_pvalues(KEY, p_values, n_stages=3, alpha=3e-3)
    assert len(keys) == 3


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.5, []])
def test_what_is_no_p_value_is_refused(bad):
    with pytest.raises(ValueError, match="p_values must return"):
        sequential_pvalues(KEY, lambda key, n: bad)


@pytest.mark.parametrize(("option", "value"), [("n", 0), ("n_stages", 0), ("alpha", 1.0), ("growth", 0.5)])
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(ValueError, match=option):
        sequential_pvalues(KEY, lambda key, n: 0.5, **{option: value})
