"""Sampled rows: their number, their mean, the norms they keep, and rates."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.solvers.coresets import (
    RowSample,
    embedding_distortion,
    sample_rows,
    sample_size,
    sampling_probabilities,
    total_sensitivity,
)
from uqsparse.solvers.row_scores import row_scores, sensitivity_brackets


@given(seed=st.integers(0, 10**6), n=st.integers(1, 30), share=st.floats(0.01, 1.5))
def test_probabilities_sum_to_the_size_and_follow_the_scores(seed, n, share):
    rng = np.random.default_rng(seed)
    scores = rng.exponential(size=n) ** 3 * (rng.uniform(size=n) < 0.8)
    scores[0] += 0.1
    size = share * n
    found = sampling_probabilities(scores, size)
    positive = scores > 0
    assert found.sum() == pytest.approx(min(size, positive.sum()))
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[~positive] == 0).all()
    free = positive & (found < 1)
    if free.any():
        alpha = found[free] / scores[free]
        np.testing.assert_allclose(alpha, alpha[0], rtol=1e-9)
        # those that are certain would be so at this alpha
        assert (scores[found == 1] * alpha[0] >= 1 - 1e-9).all()


def test_weighted_sums_are_unbiased_and_rows_as_many_as_asked_for():
    """Five normal tests at 5 standard errors: a false alarm in 350,000."""
    rng = np.random.default_rng(0)
    A = rng.standard_t(2, size=(60, 3))
    values = np.abs(A @ rng.normal(size=(3, 5)))
    scores = row_scores(A, 1.0)
    sums, sizes = [], []
    for key in jax.random.split(jax.random.key(1), 500):
        sample = sample_rows(key, scores, 12)
        np.testing.assert_allclose(sample.weights, 1 / sample.probabilities[sample.rows])
        sums.append(sample.weights @ values[sample.rows])
        sizes.append(len(sample.rows))
    error = np.std(sums, axis=0, ddof=1) / np.sqrt(500)
    assert (np.abs(np.mean(sums, axis=0) - values.sum(axis=0)) < 5 * error).all()
    assert abs(np.mean(sizes) - 12) < 5 * np.sqrt(12 / 500)


def test_same_key_same_rows_and_too_many_are_all():
    scores = np.array([0.0, 1.0, 2.0, 3.0])
    one, again = (sample_rows(jax.random.key(3), scores, 2) for _ in range(2))
    np.testing.assert_array_equal(one.rows, again.rows)
    everything = sample_rows(jax.random.key(3), scores, 4)
    np.testing.assert_array_equal(everything.rows, [1, 2, 3])
    np.testing.assert_array_equal(everything.weights, 1)


def test_distortion_of_order_two_is_the_extreme_eigenvalue():
    rng = np.random.default_rng(2)
    A = rng.normal(size=(50, 3))
    sample = sample_rows(jax.random.key(0), row_scores(A, 2.0, "leverage"), 15)
    found = embedding_distortion(A, sample, 2.0)
    assert found.exact
    ratios = np.linalg.eigvals(np.linalg.inv(A.T @ A) @ (A[sample.rows].T * sample.weights) @ A[sample.rows]).real
    assert found.value == pytest.approx(np.abs(ratios - 1).max())
    reached = (sample.weights @ (A[sample.rows] @ found.direction) ** 2) / ((A @ found.direction) ** 2).sum()
    assert abs(reached - 1) == pytest.approx(found.value)


@pytest.mark.parametrize("p", [1.0, 3.0])
def test_distortion_is_attained_and_beats_a_search_over_the_plane(p):
    rng = np.random.default_rng(4)
    A = rng.standard_t(2, size=(40, 2))
    sample = sample_rows(jax.random.key(1), row_scores(A, p), 12)
    found = embedding_distortion(A, sample, p)
    assert not found.exact

    def error(x):
        part = sample.weights @ np.abs(A[sample.rows] @ x) ** p
        return np.abs(part / (np.abs(A @ x) ** p).sum(axis=0) - 1)

    assert error(found.direction) == pytest.approx(found.value)
    angles = np.linspace(0, np.pi, 20001)
    assert found.value >= error(np.stack([np.cos(angles), np.sin(angles)])).max() * (1 - 1e-3)


def test_everything_has_no_distortion_and_a_lost_direction_all_of_it():
    A = np.random.default_rng(5).normal(size=(30, 3))
    A[:, 2] = 0
    A[4, 2] = 1.0
    everything = sample_rows(jax.random.key(0), np.ones(30), 30)
    assert embedding_distortion(A, everything, 1.0).value < 1e-12
    lost = RowSample(np.delete(np.arange(30), 4), np.ones(29), np.ones(30))
    assert embedding_distortion(A, lost, 1.0).value == pytest.approx(1, abs=1e-3)


def test_total_sensitivity_is_estimated_within_its_error():
    """5 standard errors: a false alarm in 1.7 million."""
    for n in (200, 12):  # with few rows most are drawn several times
        A = np.random.default_rng(6).standard_t(2, size=(n, 3))
        exact = sensitivity_brackets(A, 1.5).upper.sum()
        found = total_sensitivity(jax.random.key(2), A, 1.5, 2000)
        assert found.lower <= found.upper <= found.lower * 1.002
        assert abs(found.upper - exact) < 5 * found.standard_error
        assert found.standard_error < 0.02 * exact


def test_rates():
    assert sample_size(1.0, 9, 0.1, "sensitivity", total=5.0) == pytest.approx(3 * 5 / 0.01)
    assert sample_size(3.0, 8, 0.5, "sensitivity", total=8.0) == pytest.approx(8 ** (4 / 3) / 0.25)
    assert sample_size(4.0, 4, 0.5, "mixed", total=9.0) == pytest.approx(2 * 9 / 0.25)
    assert sample_size(1.0, 4, 0.5, "mixed", total=3.0, c=2.0) == pytest.approx(2 * 7 / 0.25)
    assert sample_size(4.0, 3, 0.5, "lewis") == pytest.approx(9 / 0.25)
    assert sample_size(1.0, 3, 0.5, "root-leverage") == pytest.approx(3 / 0.25)


SAMPLE = RowSample(np.arange(3), np.ones(3), np.ones(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sampling_probabilities(np.array([1.0, -1.0]), 1), "scores must be finite, nonnegative"),
        (lambda: sampling_probabilities(np.zeros(3), 1), "scores must be .* not all 0"),
        (lambda: sample_rows(jax.random.key(0), np.ones(3), 0), "size must be positive"),
        (lambda: sample_size(0.5, 3, 0.1, "lewis"), "p must be at least 1"),
        (lambda: sample_size(1.0, 0, 0.1, "lewis"), "d must be an integer"),
        (lambda: sample_size(1.0, 3, 1.0, "lewis"), "epsilon must lie strictly"),
        (lambda: sample_size(1.0, 3, 0.1, "uniform"), "no rate is known"),
        (lambda: sample_size(1.0, 3, 0.1, "lewis", c=0), "c must be positive"),
        (lambda: total_sensitivity(jax.random.key(0), np.eye(3), 1, 1), "n_rows must be an integer of at least 2"),
        (lambda: embedding_distortion(np.eye(2), SAMPLE, 1.0), "sample is of 3 rows; A has 2"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
