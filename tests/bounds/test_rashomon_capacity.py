"""Rashomon capacity: closed form against Blahut-Arimoto and against direct maximisation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from uqsparse.bounds.multiplicity.capacity import binary_capacity, capacity_of_models


def entropy(p):
    return -sum(x * np.log2(x) for x in (p, 1 - p) if x > 0)


def direct(a, b):
    """Largest mutual information over the weight of the first of two risks."""
    found = minimize_scalar(
        lambda w: w * entropy(a) + (1 - w) * entropy(b) - entropy(w * a + (1 - w) * b),
        bounds=(0, 1),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return -found.fun


@given(st.floats(0, 1), st.floats(0, 1))
def test_closed_form_is_the_largest_mutual_information(p, q):
    a, b = min(p, q), max(p, q)
    assert float(binary_capacity(a, b)) == pytest.approx(direct(a, b), abs=1e-7)


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4).map(sorted))
def test_wider_ranges_have_more_capacity(ends):
    outer, inner = binary_capacity(ends[0], ends[3]), binary_capacity(ends[1], ends[2])
    assert 0 <= inner <= outer + 1e-12 <= 1 + 1e-12


def test_extremes():
    lower = [0.0, 0.25, 0.0, 0.0, 1 - 1e-9]
    upper = [1.0, 0.25, 5e-324, 1e-10, 1.0]
    found = binary_capacity(lower, upper)
    assert np.isfinite(found).all()
    assert found[:2].tolist() == [1.0, 0.0]
    # near each other: width^2 / (8 p (1 - p)) nats
    assert float(binary_capacity(0.3, 0.3 + 1e-4)) * np.log(2) == pytest.approx(1e-8 / (8 * 0.21), rel=1e-3)


def test_blahut_arimoto_on_two_extremes_and_what_lies_between():
    rng = np.random.default_rng(0)
    ends = np.sort(rng.random((2, 6)), axis=0)
    risks = np.concatenate([ends, ends.mean(0, keepdims=True)])
    found = capacity_of_models(np.stack([1 - risks, risks], -1))
    expected = binary_capacity(*ends)
    assert (found.lower <= expected + 1e-12).all()
    assert (found.upper >= expected - 1e-12).all()
    # the iteration is slow where the risks are close; its bounds say so
    assert found.converged.sum() >= 4
    assert found.lower[found.converged] == pytest.approx(expected[found.converged], abs=1e-6)


def test_models_without_a_distribution_are_left_out():
    models = np.array([[[0.2, 0.3, 0.5]], [[0.2, 0.3, 0.5]], [[1.1, -0.1, 0.0]]])
    assert capacity_of_models(models).lower == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("lower", "upper"), [(0.6, 0.5), (-0.1, 0.5), (0.5, 1.1), (np.nan, 0.5), (0.5, np.nan)], ids=str
)
def test_intervals_that_are_refused(lower, upper):
    with pytest.raises(ValueError, match="0 <= lower <= upper <= 1"):
        binary_capacity(lower, upper)


def test_probabilities_that_are_refused():
    with pytest.raises(ValueError, match="shape"):
        capacity_of_models(np.ones((2, 3)))
    with pytest.raises(ValueError, match="sum to 1"):
        capacity_of_models(np.ones((2, 3, 2)))
    with pytest.raises(ValueError, match="sum to 1"):
        capacity_of_models(np.full((2, 3, 2), np.nan))
