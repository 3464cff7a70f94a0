"""Stein's identities as a verdict, on Gaussians, where gradients and z-scores are known in closed form."""

import math

import numpy as np
import pytest
from scipy import stats

from uqsparse.inference.checks.stein import stein

DRAWS = np.random.default_rng(0).normal(size=(2000, 2)) * [1.0, 2.0] + [0.0, 3.0]


def gaussian(u, mean=(0.0, 3.0), sd=(1.0, 2.0)):
    return -0.5 * sum(((u[i] - mean[i]) / sd[i]) ** 2 for i in range(2))


def test_right_draws_pass_and_their_evidence_is_a_corrected_p_value():
    """The z-scores are recomputed by hand; false alarms once in 10^5."""
    verdict = stein(gaussian, DRAWS)
    assert verdict.ok
    assert verdict.n == 2000
    slopes = -(DRAWS - [0.0, 3.0]) / [1.0, 4.0]
    identity = (DRAWS - DRAWS.mean(axis=0)) * slopes * 2000 / 1999 + 1
    z = [x.mean(axis=0) / x.std(axis=0, ddof=1) * math.sqrt(2000) for x in (slopes, identity)]
    p = min(1.0, 4 * 2 * stats.norm.sf(np.abs(z).max()))
    assert verdict.evidence == pytest.approx(-math.log(p), abs=1e-6)


@pytest.mark.parametrize(
    ("mean", "sd", "where"),
    [
        ((0.0, 3.5), (1.0, 2.0), "du_1] = 0"),
        ((0.4, 3.0), (1.0, 2.0), "du_0] = 0"),
        ((0.0, 3.0), (1.4, 2.0), "(u_0 - mean)"),
    ],
)
def test_a_wrong_density_is_found_where_it_is_wrong(mean, sd, where):
    verdict = stein(lambda u: gaussian(u, mean, sd), DRAWS, subject="draws")
    assert not verdict.ok
    assert where in verdict.counterexample.where
    assert verdict.evidence >= math.log(1e5)
    assert verdict.subject == "draws"


def test_a_missing_jacobian_is_found():
    """Draws of log tau for tau ~ Gamma(3, 1): the density of tau at exp(u) lacks the factor exp(u)."""
    log_tau = np.log(np.random.default_rng(1).gamma(3.0, size=(3000, 1)))
    with_jacobian = lambda u: (3.0 * u - np.e**u).sum()  # noqa: E731
    without = lambda u: (2.0 * u - np.e**u).sum()  # noqa: E731
    assert stein(with_jacobian, log_tau).ok
    assert not stein(without, log_tau).ok


def test_the_level_decides():
    wrong = lambda u: gaussian(u, (0.08, 3.0))  # noqa: E731
    evidence = stein(wrong, DRAWS).evidence
    assert 1 < evidence < 15
    assert stein(wrong, DRAWS, alpha=math.exp(-evidence) / 1.01).ok
    assert not stein(wrong, DRAWS, alpha=math.exp(-evidence) * 1.01).ok


def test_it_says_that_it_is_an_approximation():
    assert any("approximation" in sentence for sentence in stein(gaussian, DRAWS).assumptions)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="alpha"):
        stein(gaussian, DRAWS, alpha=0.0)
    with pytest.raises(ValueError, match="draws"):
        stein(gaussian, DRAWS[:3])
