"""Constraint tests of one prefix: cached, counted, and held to Booleans."""

import numpy as np
import pytest

from uqsparse.inference.constrained.constraint_tests import ConstraintTests


def test_answers_are_asked_for_once_and_counted():
    asked = []
    tests = ConstraintTests(lambda token: asked.append(token) or token % 2 == 0, prefix=(1,))
    assert [tests(t) for t in (0, 1, 0, 1, 4)] == [True, False, True, False, True]
    assert (asked, tests.requested, tests.evaluated) == ([0, 1, 4], 5, 3)
    assert tests.of_all(5).tolist() == [True, False, True, False, True]
    assert (asked, tests.requested, tests.evaluated) == ([0, 1, 4, 2, 3], 10, 5)
    assert tests.of_all(5) is tests.of_all(5)
    assert tests(3) is False
    assert (tests.requested, tests.evaluated) == (21, 5)


def test_a_vectorised_mask_counts_as_one_test_a_token():
    tests = ConstraintTests(lambda token: True)
    tests(2)
    assert tests.of_all(3, lambda: np.array([True, False, True])).tolist() == [True, False, True]
    assert (tests.requested, tests.evaluated) == (4, 3)
    assert tests(1) is False


def test_numpy_booleans_are_booleans():
    assert ConstraintTests(lambda token: np.True_)(0) is True


@pytest.mark.parametrize("answer", [1, 0.0, None, "yes", np.array([True])], ids=str)
def test_other_answers_are_refused_naming_prefix_and_token(answer):
    with pytest.raises(ValueError, match=r"to token 7 after the prefix \(3, 4\); expected True or False"):
        ConstraintTests(lambda token: answer, prefix=(3, 4))(7)


@pytest.mark.parametrize("mask", [np.ones(2, bool), np.ones(3), np.ones((3, 1), bool)], ids=["short", "floats", "2-D"])
def test_a_wrong_mask_is_refused(mask):
    with pytest.raises(ValueError, match=r"after the prefix \(\); expected 3 Booleans"):
        ConstraintTests(lambda token: True, prefix=()).of_all(3, lambda: mask)


def test_an_error_of_the_constraint_comes_through_and_is_not_counted():
    tests = ConstraintTests(lambda token: 1 // token > 0)
    with pytest.raises(ZeroDivisionError):
        tests(0)
    assert tests.evaluated == 0
