"""The measure of the whole population, enumerated through the production steps, equals p(x) 1[x in L]."""

import pytest

from uqsparse.bench.entries.constrained_exact import CASES, masked_bias, population_verdict

RESAMPLING = [("multinomial", 0.0), ("multinomial", 0.9), ("systematic", 0.9)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("scheme", "threshold"), RESAMPLING)
def test_the_population_is_properly_weighted(case, scheme, threshold):
    assert population_verdict(case, scheme, threshold)


def test_masked_decoding_is_far_off():
    assert 0.05 < masked_bias(2) < 0.5
    assert 0.05 < masked_bias(3) < 0.5
