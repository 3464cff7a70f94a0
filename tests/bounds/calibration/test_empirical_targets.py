"""Empirical probabilities against sums over all pairs, and what they must not depend on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from uqsparse.bounds.calibration.empirical_targets import empirical_targets


def problem(seed, n=60):
    rng = np.random.default_rng(seed)
    q = rng.uniform(size=n)
    y = (rng.uniform(size=n) < q).astype(int)
    y[:2] = 0, 1
    return q, y


def brute_force(q, y, bandwidth, window):
    """All pairs, with ranks by counting."""
    rank = (q[:, None] > q).sum(1)
    near = abs(rank[:, None] - rank) <= window
    weight = near * norm.pdf(q[None, :], loc=q[:, None], scale=bandwidth)
    return (weight * y).sum(1) / weight.sum(1)


@pytest.mark.parametrize(("bandwidth", "window"), [(0.1, 500), (0.1, 7), (0.02, 25), (2.0, 59), (0.3, 1)])
def test_kernel_targets_are_weighted_means_over_all_pairs(bandwidth, window):
    q, y = problem(3)
    found = empirical_targets(q, y, "kernel", bandwidth=bandwidth, window=window)
    np.testing.assert_allclose(found, brute_force(q, y, bandwidth, window), rtol=1e-12)


def test_bin_targets_are_group_means_in_the_order_given():
    q = np.array([0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.4])
    y = np.array([1, 0, 1, 1, 0, 0, 0])
    # Sorted: .1 .2 .3 | .4 .5 | .7 .9
    expected = [0.5, 1 / 3, 0.5, 1 / 3, 0.5, 1 / 3, 0.5]
    np.testing.assert_array_equal(empirical_targets(q, y, "bin", n_bins=3), expected)


@given(
    st.integers(0, 10_000),
    st.sampled_from(["kernel", "bin"]),
    st.sampled_from([None, 1, 2]),
)
def test_order_of_the_rows_does_not_matter(seed, targets, decimals):
    """With and without ties: rows with equal predictions have equal targets."""
    q, y = problem(seed)
    q = q if decimals is None else q.round(decimals)
    order = np.random.default_rng(seed + 1).permutation(len(q))
    settings = {"n_bins": 7, "window": 9}
    found = empirical_targets(q, y, targets, **settings)
    np.testing.assert_allclose(found[order], empirical_targets(q[order], y[order], targets, **settings), rtol=1e-10)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()
    for value in np.unique(q):
        assert np.ptp(found[q == value]) == 0


@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([None, 1]))
def test_mean_of_bin_targets_is_the_mean_label(seed, n_bins, decimals):
    q, y = problem(seed)
    q = q if decimals is None else q.round(decimals)
    assert empirical_targets(q, y, "bin", n_bins=n_bins).mean() == pytest.approx(y.mean(), rel=1e-12)


def test_bin_targets_depend_on_ranks_and_kernel_targets_on_more():
    q, y = problem(0)
    squeezed = q**3 / 2
    np.testing.assert_array_equal(empirical_targets(squeezed, y, "bin"), empirical_targets(q, y, "bin"))
    assert abs(empirical_targets(squeezed, y) - empirical_targets(q, y)).max() > 0.05


def test_limits():
    q, y = problem(1)
    np.testing.assert_array_equal(empirical_targets(q, y, "bin", n_bins=1), np.full(60, y.mean()))
    np.testing.assert_array_equal(empirical_targets(q, y, "bin", n_bins=60), y)
    # A narrow kernel leaves the own label, without 0 / 0, and a wide one the mean of the window.
    np.testing.assert_array_equal(empirical_targets(q, y, bandwidth=1e-200), y)
    np.testing.assert_allclose(empirical_targets(q, y, bandwidth=1e9), y.mean(), rtol=1e-12)
    # A network that always says the same learns the base rate.
    for targets in ("bin", "kernel"):
        np.testing.assert_allclose(empirical_targets(np.full(60, 0.3), y, targets, window=3), y.mean(), rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": [0.1, np.nan, 0.3]}, "q has 1 values that are NaN"),
        ({"q": [0.1, 0.2, 1.3]}, r"expected probabilities in \[0, 1\]"),
        ({"q": [0.1, 0.2]}, "y has shape"),
        ({"y": [0, 1, 2]}, "outcomes 0 and 1 only"),
        ({"y": [0, 0, 0]}, "outcomes of both classes"),
        ({"targets": "bins"}, "targets must be 'kernel' or 'bin', got 'bins'"),
        ({"n_bins": 4}, "n_bins must be at most the number of rows, 3, got 4"),
        ({"n_bins": 0}, "n_bins must be an integer of at least 1, got 0"),
        ({"bandwidth": 0.0}, "bandwidth must be positive and finite, got 0.0"),
        ({"bandwidth": -0.1}, "bandwidth must be positive"),
        ({"window": 0}, "window must be an integer of at least 1, got 0"),
    ],
)
def test_bad_input(change, message):
    given = {"q": [0.1, 0.2, 0.3], "y": [0, 1, 1], "targets": "bin", "n_bins": 2} | change
    with pytest.raises(ValueError, match=message):
        empirical_targets(given.pop("q"), given.pop("y"), given.pop("targets"), **given)
