"""Checkers that prove or refute inference code: a verdict with a counter-example, or with the bias not excluded."""

from uqsparse.inference.checks.asserts import assert_invariant, assert_ok, assert_valid
from uqsparse.inference.checks.bijectors import check_bijector
from uqsparse.inference.checks.drift import drift_test
from uqsparse.inference.checks.evidence import evidence_test
from uqsparse.inference.checks.exact import Chance, check_invariance, check_valid, images, meaning, normalise, push
from uqsparse.inference.checks.geweke import geweke
from uqsparse.inference.checks.involutions import check_involution
from uqsparse.inference.checks.key_kernels import key_kernel, key_law
from uqsparse.inference.checks.martingale import check_martingale
from uqsparse.inference.checks.rank_verdict import RankVerdict
from uqsparse.inference.checks.ranks import rank_test
from uqsparse.inference.checks.resamplers import check_resampler
from uqsparse.inference.checks.sbc import sbc
from uqsparse.inference.checks.sequential import sequential_pvalues
from uqsparse.inference.checks.stein import stein
from uqsparse.inference.checks.verdict import Counterexample, Verdict, worst

__all__ = [
    "Chance",
    "Counterexample",
    "RankVerdict",
    "Verdict",
    "assert_invariant",
    "assert_ok",
    "assert_valid",
    "check_bijector",
    "check_invariance",
    "check_involution",
    "check_martingale",
    "check_resampler",
    "check_valid",
    "drift_test",
    "evidence_test",
    "geweke",
    "images",
    "key_kernel",
    "key_law",
    "meaning",
    "normalise",
    "push",
    "rank_test",
    "sbc",
    "sequential_pvalues",
    "stein",
    "worst",
]
