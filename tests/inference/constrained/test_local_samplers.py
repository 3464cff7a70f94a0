"""The samplers of one token: exact weights by enumeration, planted faults, production by Monte Carlo, and the door."""

import math

import jax
import numpy as np
import pytest
import scipy.stats

from uqsparse.bench.entries.local_sampler_checks import (
    ESTIMATORS,
    FLOAT_TOLERANCE,
    Case,
    F,
    cases,
    check_estimators,
    check_geometric_by_integral,
    check_local_weights,
    closed_form_of_tests,
    expected_rejects_of_search,
    expected_tests_of_search,
    run,
)
from uqsparse.bench.entries.local_sampler_claims import false_alarms, fault_outcomes
from uqsparse.inference.checks.exact import meaning
from uqsparse.inference.constrained.constraint_tests import ConstraintTests
from uqsparse.inference.constrained.local_samplers import LocalSettings, local_sample, local_settings, sample_locally
from uqsparse.inference.constrained.pools import SampledPool

P = np.array([0.35, 0.05, 0.25, 0.0, 0.2, 0.15])
ACCEPTED = np.array([False, True, False, True, True, True])
# A normal number exceeds 4.75 with probability 2e-6.
LIMIT = 4.75


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_weights_are_exact(estimator):
    """E[w 1{v = u}] = p_u 1[u in A], 200 cases of at most 5 tokens; as fractions but for the untruncated geometric
    estimator, whose infinitely many numbers of repeats are summed by a series and by an integral, to 1e-9."""
    verdicts = list(check_estimators(200, (estimator,)))
    assert len(verdicts) >= 200
    assert next((str(verdict) for verdict in verdicts if not verdict.ok), "") == ""
    assert max(verdict.evidence for verdict in verdicts) <= (FLOAT_TOLERANCE if estimator == "geometric" else 0)


@pytest.mark.parametrize("method", ["mask", "twist"])
def test_weights_of_the_unbiased_baselines_are_exact(method):
    assert all(check_local_weights(case, LocalSettings(method)).ok for case in cases(200))


def test_masking_without_weight_is_biased_and_the_check_says_so():
    """Its tokens have the law p(. | A), each with the weight of all of p."""
    case = Case((F(1, 2), F(1, 4), F(1, 4)), frozenset({1, 2}))
    verdict = check_local_weights(case, LocalSettings("lcd"))
    assert not verdict.ok
    assert verdict.evidence == pytest.approx((1 - 1 / 2) / (2 * (1 + 1 / 2)))


@pytest.mark.parametrize("limit", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("max_accepts", [2, 3])
def test_truncated_geometric_weights_are_exact_at_every_limit(limit, max_accepts):
    for case in [one for one in cases(40) if sum(map(bool, one.masses)) <= 3][:12]:
        assert check_local_weights(case, LocalSettings("geometric", limit, max_accepts)).ok


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_planted_faults_are_found(estimator):
    survivors = [str(outcome.mutant) for outcome in fault_outcomes(estimator) if not outcome.killed]
    assert survivors == []
    assert false_alarms(estimator) == []
    assert check_geometric_by_integral(cases(13)[-1]).ok  # the code is restored


def test_expected_tests_of_the_search_are_bounded_and_have_a_closed_form():
    """At most min(|rejected| + 1, 1 / p(A)); equal to what exponential clocks give."""
    for case in cases(200):
        mean = expected_tests_of_search(case)
        assert mean == closed_form_of_tests(case.masses, case.accepted)
        assert mean <= len(case.rejected) + 1
        assert mean * case.accepted_mass <= sum(case.masses)
        assert mean == expected_rejects_of_search(case) + (1 if case.accepted_mass else 0)


def test_rejects_of_two_loops_have_a_closed_form():
    """With clocks that ring again and again, two loops end at the second ring of A: a rejected token is tested if it
    rings before, with probability 1 - (p(A) / (p(A) + p_v))^2."""
    for case in cases(60):
        inside = case.accepted_mass
        if not inside:
            continue

        def n_rejected(chance, case=case):
            return int(1 / run(case, LocalSettings("two-loop"), chance).factor) - 1

        mean = sum(n * mass for n, mass in meaning(n_rejected).items())
        assert mean == sum(1 - (inside / (inside + case.masses[v])) ** 2 for v in case.rejected)


def test_recursive_has_no_variance_with_one_accepted_token_and_takes_one_test_more():
    case = Case((F(1, 2), F(1, 8), F(1, 4), F(1, 8)), frozenset({1}))

    def weight(chance):
        estimate = run(case, LocalSettings("recursive"), chance)
        return estimate.mass * estimate.factor

    assert set(meaning(weight)) == {F(1, 8)}


@pytest.mark.parametrize(
    "options",
    [
        {"method": "two-loop"},
        {"method": "two-loop", "max_rejects": 2},
        {"method": "recursive"},
        {"method": "recursive", "max_rejects": 2},
        {"method": "geometric"},
        {"method": "geometric", "max_accepts": 4},
        {"method": "geometric", "max_accepts": 3, "max_rejects": 3},
        {"method": "mask"},
        {"method": "twist"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_production_is_unbiased_for_every_token(options):
    """Mean of w 1{v = u} over 4000 draws against p_u 1[u in A], in standard errors. Four tokens, nine samplers:
    false-alarm rate 36 x 2e-6."""
    settings, rng, n = local_settings(**options), np.random.default_rng(11), 4000
    values = np.zeros((n, len(P)))
    with np.errstate(divide="ignore"):
        log_p = np.log(P)
    for i in range(n):
        estimate = sample_locally(SampledPool(log_p, rng), ConstraintTests(lambda v: bool(ACCEPTED[v])), settings)
        values[i, estimate.token] = math.exp(estimate.log_weight)
    error = values.mean(axis=0) - P * ACCEPTED
    assert np.all(error[~ACCEPTED | (P == 0)] == 0)
    alive = ACCEPTED & (P > 0)
    assert np.all(abs(error[alive]) <= LIMIT * values.std(axis=0)[alive] / math.sqrt(n))


def test_a_proposal_and_masses_of_any_sum_keep_the_weights_unbiased():
    """p of total 3 drawn by q of total 1/2; 1500 draws, four tokens: false-alarm rate 4 x 2e-6."""
    with np.errstate(divide="ignore"):
        log_p = np.log(3 * P)
    log_q, n = np.log(np.array([0.1, 0.1, 0.05, 0.05, 0.1, 0.1])), 1500
    values = np.zeros((n, len(P)))
    for i, key in enumerate(jax.random.split(jax.random.key(2), n)):
        sample = local_sample(key, log_p, lambda v: bool(ACCEPTED[v]), proposal=log_q)
        values[i, sample.token] = math.exp(sample.log_weight)
    error, se = values.mean(axis=0) - 3 * P * ACCEPTED, values.std(axis=0) / math.sqrt(n)
    assert np.all(abs(error) <= LIMIT * se)
    assert np.count_nonzero(se) == 3


def test_the_token_has_the_law_of_p_on_the_accepted_tokens():
    """Independently of the weight; chi-square at level 1e-6."""
    log_p, rng, counts = np.log(P + 1e-3), np.random.default_rng(3), np.zeros(len(P))
    for _ in range(4000):
        tests = ConstraintTests(lambda v: bool(ACCEPTED[v]))
        counts[sample_locally(SampledPool(log_p, rng), tests, LocalSettings("two-loop")).token] += 1
    expected = (P + 1e-3)[ACCEPTED]
    assert scipy.stats.chisquare(counts[ACCEPTED], 4000 * expected / expected.sum()).pvalue > 1e-6


METHODS = [
    {"method": "two-loop"},
    {"method": "recursive"},
    {"method": "geometric"},
    {"method": "two-loop", "max_rejects": 3},
    {"method": "recursive", "max_rejects": 3},
    {"method": "geometric", "max_rejects": 3},
    {"method": "mask"},
]


@pytest.mark.parametrize("options", METHODS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize(
    "log_p",
    [
        np.log([0.999999999999999, *[1e-16] * 10]),
        np.array([0.0, -800.0, -801.0, -1600.0]),
        np.array([-1e5, -1e5 - 900, -3e5, -math.inf]),
        np.array([-math.inf, -5e-324, -740.0, 0.0]),
    ],
    ids=["one and ten of 1e-16", "masses of e^-800", "masses of e^-100000", "next to zero"],
)
def test_extreme_masses_end_and_give_a_weight_that_is_no_nan(options, log_p):
    """All but the largest, all but the smallest, and none are accepted; no weight exceeds p(A)'s bounds."""
    for accepted in ({int(np.argmax(log_p))}, set(range(1, len(log_p))), {len(log_p) - 1}, set()):
        for seed in range(5):
            sample = local_sample(jax.random.key(seed), log_p, lambda v, a=accepted: v in a, **options)
            assert not math.isnan(sample.log_weight)
            assert sample.log_weight <= np.logaddexp.reduce(log_p) + 1e-9
            assert (sample.log_weight > -math.inf) <= (sample.token in accepted)
            assert (sample.log_weight > -math.inf) or sample.token not in accepted or log_p[sample.token] == -math.inf


def test_one_tiny_accepted_token_has_its_own_mass_as_weight():
    """The recursive sampler has no variance there: the remaining mass must not cancel against the spike."""
    log_p = np.log([0.999999999999999, *[1e-16] * 10])
    sample = local_sample(jax.random.key(1), log_p, lambda v: v == 10, "recursive")
    assert sample.log_weight == pytest.approx(math.log(1e-16), abs=1e-9)
    log_p = np.array([0.0, -1.0, -800.0])
    assert local_sample(jax.random.key(1), log_p, lambda v: v == 2, "two-loop").log_weight == pytest.approx(
        -800 - math.log(3), abs=1e-9
    )


def test_the_same_key_gives_the_same_draw_and_tests_are_counted_once():
    asked = []

    def accept(token):
        asked.append(token)
        return bool(ACCEPTED[token])

    log_p = np.log(P + 0.01)
    first = local_sample(jax.random.key(9), log_p, accept, "geometric", max_accepts=30)
    assert first.info.n_tests == len(asked) == len(set(asked))
    assert first.info.n_tests_requested >= 30
    assert first == local_sample(jax.random.key(9), log_p, accept, "geometric", max_accepts=30)


@pytest.mark.parametrize(("method", "n_tests"), [("mask", 6), ("lcd", 6), ("twist", 1), ("none", 0)])
def test_costs_of_the_baselines(method, n_tests):
    sample = local_sample(jax.random.key(0), np.log(P + 0.01), lambda v: bool(ACCEPTED[v]), method)
    assert sample.info.n_tests == n_tests


def test_a_vectorised_mask_gives_the_same_token_and_weight():
    log_p = np.log(P + 0.01)
    first, second = (
        sample_locally(
            SampledPool(log_p, np.random.default_rng(4)),
            ConstraintTests(lambda v: bool(ACCEPTED[v])),
            LocalSettings("mask"),
            allowed,
        )
        for allowed in (None, lambda: ACCEPTED)
    )
    assert first == second
    assert first.log_weight == pytest.approx(math.log((P + 0.01)[ACCEPTED].sum()))


def test_auto_is_two_loop():
    assert local_settings().method == "two-loop"
    assert local_settings(max_rejects=5) == LocalSettings("two-loop", 5, 2)


def test_bad_settings_are_refused_by_name():
    with pytest.raises(ValueError, match="method must be one of auto, two-loop"):
        local_settings("three-loop")
    with pytest.raises(ValueError, match=r"max_rejects is for .* not for 'twist'"):
        local_settings("twist", max_rejects=5)
    with pytest.raises(ValueError, match="max_rejects must be an integer of at least 2, got 1"):
        local_settings(max_rejects=1)
    with pytest.raises(ValueError, match="max_accepts must be an integer of at least 2, got 1"):
        local_settings("geometric", max_accepts=1)
    with pytest.raises(ValueError, match=r"max_accepts is for .* not for 'recursive'"):
        local_settings("recursive", max_accepts=3)


def test_bad_input_of_a_draw_is_refused_by_name():
    key, log_p = jax.random.key(0), np.log([0.5, 0.25, 0.25])
    with pytest.raises(ValueError, match="log_p is nan at token 1"):
        local_sample(key, np.array([0.0, math.nan, 0.0]), lambda v: True)
    with pytest.raises(ValueError, match="log_p is inf at token 2"):
        local_sample(key, np.array([0.0, 0.0, math.inf]), lambda v: True)
    with pytest.raises(ValueError, match="log_p is -inf at every token"):
        local_sample(key, np.full(3, -math.inf), lambda v: True)
    with pytest.raises(ValueError, match=r"log_p must be a vector.*\(1, 3\)"):
        local_sample(key, log_p[None], lambda v: True)
    with pytest.raises(ValueError, match="proposal is zero at token 2, where p is positive"):
        local_sample(key, log_p, lambda v: True, proposal=np.array([0.0, 0.0, -math.inf]))
    with pytest.raises(ValueError, match=r"proposal has shape \(2,\); expected \(3,\)"):
        local_sample(key, log_p, lambda v: True, proposal=np.zeros(2))
    with pytest.raises(ValueError, match=r"answered 1 to token \d; expected True or False"):
        local_sample(key, log_p, lambda v: 1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="key must be a JAX random key"):
        local_sample(0, log_p, lambda v: True)  # pyright: ignore[reportArgumentType]
