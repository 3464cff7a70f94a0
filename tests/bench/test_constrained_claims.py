"""The text models of the claims are the ones that are documented, and the quick claims hold."""

import math

import pytest

from uqsparse.bench import Context
from uqsparse.bench.entries.constrained_claims import (
    word_lengths_of_masked_decoding,
    word_problem,
    word_tests,
)


def test_the_word_problem():
    problem = word_problem()
    # scikit-learn changes its descriptions a little from time to time.
    assert problem.model.n_tokens == pytest.approx(654, abs=30)
    assert math.exp(problem.log_evidence) == pytest.approx(0.133, abs=0.02)
    vocabulary, constraint = problem.constraint.vocabulary, problem.constraint
    number = {text: i for i, text in enumerate(vocabulary.tokens)}
    for text, is_member in (("a ( 1 x )", True), ("a ( x )", False), ("1", False), ("a ( 1", False), ("", True)):
        state = constraint.state_of([number[f" {word}".encode()] for word in text.split()])
        assert (state is not None and constraint.is_complete(state)) is is_member


@pytest.mark.parametrize("claim", [word_tests, word_lengths_of_masked_decoding])
def test_the_quick_claims_hold(claim):
    measured = claim(Context(seed=0, quick=True))
    assert measured.value > measured.bound  # both ask for at least the bound
