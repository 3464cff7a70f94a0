"""Checks as assertions, for test suites: they raise with the whole report."""

from typing import Any

from uqsparse.inference.checks.exact import Images, Kernel, Measure, Program, check_invariance, check_valid
from uqsparse.inference.checks.verdict import Verdict


def assert_ok(verdict: Verdict) -> None:
    """Raise an AssertionError that holds the report of a verdict, unless it is good.

    >>> from uqsparse.inference.checks import check_resampler
    >>> from uqsparse.kernels import systematic
    >>> assert_ok(check_resampler(systematic, n_ancestors=[2]))
    """
    __tracebackhide__ = True  # pytest then points at the caller's line
    if not verdict.ok:
        raise AssertionError(str(verdict))


def assert_valid(obtained: Program | Measure, expected: Program | Measure, **options: Any) -> None:
    """Assert that a transformed program denotes the measure it was made from; arguments of `check_valid`.

    Raises:
        AssertionError: it does not, with the counter-example.

    >>> from fractions import Fraction as F
    >>> assert_valid(lambda chance: chance.choose([F(1, 3), F(2, 3)]), {0: F(1, 3), 1: F(2, 3)})
    """
    __tracebackhide__ = True
    assert_ok(check_valid(obtained, expected, **options))


def assert_invariant(target: Measure, kernel: Kernel | Images, **options: Any) -> None:
    """Assert that a Markov kernel leaves a distribution invariant; arguments of `check_invariance`.

    Raises:
        AssertionError: it does not, with the counter-example.

    >>> assert_invariant({0: 1, 1: 1}, lambda chance, state: 1 - state)
    """
    __tracebackhide__ = True
    assert_ok(check_invariance(target, kernel, **options))
