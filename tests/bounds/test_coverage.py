"""Coverage and its bands against SciPy and simulation, set sizes, and the worst slab against enumeration."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uqsparse.bounds import MondrianConformal, SplitConformal
from uqsparse.bounds.covariate_shift import WeightedConformal
from uqsparse.bounds.coverage import (
    coverage,
    coverage_by_group,
    coverage_of,
    expected_coverage,
    set_sizes,
)
from uqsparse.bounds.regions import Boxes, Intervals, IntervalUnions, LabelSets
from uqsparse.bounds.scores import AbsoluteResidual
from uqsparse.bounds.worst_slab import worst_interval, worst_slab_coverage

SCORE = AbsoluteResidual()


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 12), (12, 12), (7, 12), (95, 100)])
@pytest.mark.parametrize("band", [0.5, 0.95])
def test_the_interval_is_scipys_exact_one(hits, n, band):
    found = coverage_of(np.arange(n) < hits, band)
    exact = stats.binomtest(hits, n).proportion_ci(confidence_level=band, method="exact")
    assert found[:2] == (hits / n, n)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_expected_coverage_is_what_recalibration_gives():
    """20,000 calibration sets of uniform scores, whose thresholds are their coverage: quantiles to 4 se."""
    rng, n, alpha, m = np.random.default_rng(0), 40, 0.1, 25
    thresholds = np.sort(rng.uniform(size=(20_000, n)), axis=1)[:, 36]  # k = ceil(41 * 0.9) = 37
    seen = rng.binomial(m, thresholds) / m
    for sample, found in (
        (thresholds, expected_coverage(n, alpha, band=0.8)),
        (seen, expected_coverage(n, alpha, m, band=0.8)),
    ):
        assert found.mean == 37 / 41
        assert abs(sample.mean() - found.mean) < 4 * sample.std() / np.sqrt(20_000)
        assert (sample <= found.low).mean() > 0.1 - 0.01
        assert (sample < found.low).mean() < 0.1 + 0.01
        assert (sample <= found.high).mean() > 0.9 - 0.01
        assert (sample < found.high).mean() < 0.9 + 0.01


def test_expected_coverage_of_an_infinite_threshold_is_one():
    assert expected_coverage(8, 0.1)[:3] == (1.0, 1.0, 1.0)
    assert expected_coverage(9, 0.1).mean == 0.9


def test_split_conformal_sets_come_with_their_expected_band_and_others_do_not():
    rng = np.random.default_rng(1)
    y, new = rng.normal(size=60), rng.normal(size=30)
    sets = SplitConformal(SCORE, 0.1).calibrate(np.zeros(60), y).predict(np.zeros(30))
    found = coverage(sets, new)
    assert found.value == sets.contains(new).mean()
    assert found.expected == expected_coverage(60, 0.1, 30)
    weighted = WeightedConformal(SCORE, 0.1).calibrate(np.zeros(60), y, np.ones(60))
    assert coverage(weighted.predict(np.zeros(30), np.ones(30)), new).expected is None
    mondrian = MondrianConformal(SCORE, 0.1).calibrate(np.zeros(60), y, np.repeat([0, 1], 30))
    assert coverage(mondrian.predict(np.zeros(30), np.repeat([0, 1], 15)), new).expected is None
    assert coverage(Intervals(np.zeros(30), np.ones(30)), new).expected is None


def test_groups_are_covered_apart():
    sets = Intervals(np.zeros(6), np.ones(6))
    y, groups = np.array([0.5, 2, 0.5, 0.5, 2, 2]), np.array(["b", "b", "a", "a", "a", "c"])
    found = coverage_by_group(sets, y, groups)
    assert {name: (one.value, one.n) for name, one in found.items()} == {
        "a": (2 / 3, 3),
        "b": (0.5, 2),
        "c": (0.0, 1),
    }
    assert list(found) == ["a", "b", "c"]


def test_sizes_count_empty_and_infinite_sets():
    intervals = Intervals(np.array([0.0, 0.0, 1.0, 2.0]), np.array([3.0, np.inf, 0.0, 2.0]))
    assert set_sizes(intervals) == (np.inf, 1.5, 4, 1, 1)
    unions = IntervalUnions(np.array([[0.0, 3.0], [np.nan, np.nan]]), np.array([[1.0, 5.0], [np.nan, np.nan]]))
    assert set_sizes(unions) == (1.5, 1.5, 2, 1, 0)
    boxes = Boxes(np.zeros((3, 2)), np.array([[2.0, 3.0], [1.0, -1.0], [1.0, 0.0]]))
    assert set_sizes(boxes) == (2.0, 0.0, 3, 1, 0)
    labels = LabelSets(jnp.array([[True, True, False], [False, False, False]]))
    assert set_sizes(labels) == (1.0, 1.0, 2, 1, 0)


def exact_worst(position, covered, least):
    """The least share over all closed intervals between two places, in fractions."""
    places = sorted(set(position))
    shares = []
    for i, low in enumerate(places):
        for high in places[i:]:
            inside = [hit for at, hit in zip(position, covered, strict=True) if low <= at <= high]
            if len(inside) >= least:
                shares.append(Fraction(sum(inside), len(inside)))
    return min(shares)


@given(
    points=st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=14),
    least=st.integers(1, 14),
)
def test_the_worst_interval_is_that_of_enumeration(points, least):
    position, covered = (np.array(column) for column in zip(*points, strict=True))
    least = min(least, len(points))
    share, low, high = worst_interval(position.astype(float), covered, least)
    assert share == float(exact_worst(position.tolist(), covered.tolist(), least))
    inside = covered[(low <= position) & (position <= high)]
    assert len(inside) >= least
    assert inside.mean() == pytest.approx(share)


def hidden_failure(n):
    """Sets that miss half the time where the first input is high, at 20 % of the points, and hardly elsewhere."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(n, 3)) * np.array([1.0, 100.0, 0.01])
    hit = rng.uniform(size=n) > np.where(X[:, 0] > 0.84, 0.5, 0.02)
    return Intervals(np.zeros(n), np.ones(n)), np.where(hit, 0.5, 2.0), X


def test_the_worst_slab_finds_a_failure_that_the_mean_hides():
    sets, y, X = hidden_failure(3000)
    found = worst_slab_coverage(jax.random.key(0), sets, y, X, n_directions=300)
    assert coverage(sets, y).value > 0.85
    assert found.coverage.value < 0.65
    assert found.selected <= found.coverage.value + 0.05
    assert abs(found.direction[0]) > 0.8
    projected = (X / found.scale) @ found.direction
    assert 0.05 < ((found.low <= projected) & (projected <= found.high)).mean() < 0.4
    units = worst_slab_coverage(jax.random.key(0), sets, y, X * np.array([0.25, 1024.0, 1.0]), n_directions=300)
    assert units.coverage == found.coverage
    assert (units.direction == found.direction).all()


def test_the_worst_slab_of_sets_without_a_failure_is_honest():
    """Misses at random: the half that chooses looks bad, the other one does not; to 4 se, false-alarm rate 1e-4."""
    rng = np.random.default_rng(3)
    X, hit = rng.normal(size=(2000, 4)), rng.uniform(size=2000) < 0.9
    sets, y = Intervals(np.zeros(2000), np.ones(2000)), np.where(hit, 0.5, 2.0)
    found = worst_slab_coverage(jax.random.key(1), sets, y, X, n_directions=300)
    assert found.selected < 0.8
    assert abs(found.coverage.value - 0.9) < 4 * np.sqrt(0.09 / found.coverage.n)


def test_bad_input_is_refused():
    sets, y = Intervals(np.zeros(6), np.ones(6)), np.zeros(6)
    with pytest.raises(ValueError, match=r"y has shape \(1,\); region has 6 entries"):
        coverage(sets, np.zeros(1))
    with pytest.raises(ValueError, match="sets are at several levels"):
        coverage(Intervals(np.zeros((2, 6)), np.ones((2, 6))), y)
    with pytest.raises(ValueError, match="band must lie strictly between 0 and 1"):
        coverage(sets, y, band=1.0)
    with pytest.raises(ValueError, match=r"groups has shape \(2,\)"):
        coverage_by_group(sets, y, np.zeros(2))
    with pytest.raises(ValueError, match="covered is float64"):
        coverage_of(np.zeros(3))
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        expected_coverage(0, 0.1)
    with pytest.raises(ValueError, match="alpha must lie strictly between 0 and 1"):
        expected_coverage(5, 0.0)
    with pytest.raises(ValueError, match=r"X has shape \(6,\)"):
        worst_slab_coverage(jax.random.key(0), sets, y, np.zeros(6))
    with pytest.raises(ValueError, match="must be finite"):
        worst_slab_coverage(jax.random.key(0), sets, y, np.full((6, 1), np.nan))
    with pytest.raises(ValueError, match="least_mass must lie strictly"):
        worst_slab_coverage(jax.random.key(0), sets, y, np.zeros((6, 1)), least_mass=0.0)
