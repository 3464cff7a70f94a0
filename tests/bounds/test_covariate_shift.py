"""Weighted conformal prediction against exact fractions, against split conformal, and under known shifts."""

import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeClassifier

from uqsparse.bounds import SplitConformal
from uqsparse.bounds.covariate_shift import DensityRatio, WeightedConformal, density_ratio
from uqsparse.bounds.scores import AbsoluteResidual, NormalisedResidual

SCORE = AbsoluteResidual()

alphas = st.integers(1, 19).map(lambda i: i / 20)
# Values with ties, weights with zeros.
weighted = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=12).filter(
    lambda pairs: any(weight for _, weight in pairs)
)


def quiet(function, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


def exact_threshold(pairs, test_weight, alpha):
    """The least score whose cumulative share reaches 1 - alpha, the test point's weight at infinity, in fractions."""
    total = sum(Fraction(weight) for _, weight in pairs) + Fraction(test_weight)
    for candidate in sorted({score for score, _ in pairs}):
        below = sum(Fraction(weight) for score, weight in pairs if score <= candidate)
        if below / total >= 1 - Fraction(alpha) - Fraction(1, 10**9):
            return float(candidate)
    return np.inf


def exact_pvalue(pairs, test_weight, score):
    total = sum(Fraction(weight) for _, weight in pairs) + Fraction(test_weight)
    return (sum(Fraction(weight) for other, weight in pairs if other >= score) + Fraction(test_weight)) / total


def calibrated_on(pairs, alpha, unit=1.0):
    scores, weights = np.array(pairs, dtype=float).T
    return WeightedConformal(SCORE, alpha).calibrate(np.zeros(len(pairs)), scores, unit * weights)


@given(pairs=weighted, test_weights=st.lists(st.integers(0, 9), min_size=1, max_size=4), alpha=alphas)
def test_thresholds_are_those_of_exact_fractions(pairs, test_weights, alpha):
    calibrated = calibrated_on(pairs, alpha)
    sets = quiet(calibrated.predict, np.zeros(len(test_weights)), np.array(test_weights, dtype=float))
    assert sets.threshold.tolist() == [exact_threshold(pairs, weight, alpha) for weight in test_weights]


@given(pairs=weighted, test_weight=st.integers(0, 9), alpha=alphas, unit=st.sampled_from([1e-300, 0.1, 1 / 3, 1e300]))
def test_weights_have_no_common_scale(pairs, test_weight, alpha, unit):
    sets = quiet(calibrated_on(pairs, alpha, unit).predict, np.zeros(1), unit * np.array([test_weight], dtype=float))
    assert sets.threshold.tolist() == [exact_threshold(pairs, test_weight, alpha)]


@given(pairs=weighted, test_weight=st.integers(0, 9), score=st.integers(0, 7), alpha=alphas)
def test_pvalues_are_exact_and_decide_membership(pairs, test_weight, score, alpha):
    calibrated = calibrated_on(pairs, alpha)
    y, extra = np.array([float(score)]), np.array([float(test_weight)])
    pvalue = calibrated.pvalue(np.zeros(1), y, extra)[0]
    exact = exact_pvalue(pairs, test_weight, score)
    assert pvalue == pytest.approx(float(exact), abs=1e-14)
    inside = quiet(calibrated.predict, np.zeros(1), extra).contains(y)[0]
    assert inside == (exact > Fraction(alpha) + Fraction(1, 10**9))


@given(
    y=st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=60),
    weight=st.floats(1e-30, 1e30),
    alpha=st.floats(0.002, 0.998),
    precision=st.sampled_from([np.float32, np.float64]),
)
def test_equal_weights_are_split_conformal(y, weight, alpha, precision):
    y = np.array(y, dtype=precision)
    predictions = np.array([0.0, 1.0, -2.5], dtype=precision)
    plain = quiet(SplitConformal(SCORE, alpha).calibrate, np.zeros_like(y), y)
    calibrated = WeightedConformal(SCORE, alpha).calibrate(np.zeros_like(y), y, np.full(len(y), weight))
    test_weights = np.full(3, weight)
    ours, theirs = quiet(calibrated.predict, predictions, test_weights), plain.predict(predictions)
    assert ours.threshold.tolist() == [plain.threshold] * 3
    assert ours.lower.tolist() == theirs.lower.tolist()
    assert ours.upper.tolist() == theirs.upper.tolist()
    for u in (1.0, 0.25):
        p = calibrated.pvalue(predictions, predictions + y[0], test_weights, u)
        assert p.tolist() == plain.pvalue(predictions, predictions + y[0], u).tolist()
    assert calibrated.effective_sample_size == len(y)


@pytest.mark.parametrize("n", [9, 19, 119])
def test_equal_weights_are_split_conformal_in_single_precision_too(n):
    y, alphas = jnp.arange(float(n)), [0.01, 0.05, 0.1, 0.2, 0.3, 1 / 3]
    calibrated = WeightedConformal(SCORE, alphas).calibrate(jnp.zeros(n), y, jnp.full(n, 0.3))
    ours = quiet(calibrated.predict, jnp.zeros(1), jnp.array([0.3]))
    plain = quiet(SplitConformal(SCORE, alphas).calibrate, jnp.zeros(n), y)
    assert ours.threshold[:, 0].tolist() == plain.threshold.tolist()


def test_whole_numbers_may_have_an_infinite_threshold():
    calibrated = WeightedConformal(SCORE, 0.1).calibrate(np.zeros(3, int), np.arange(3), np.ones(3, int))
    assert quiet(calibrated.predict, np.zeros(1, int), np.ones(1, int)).upper.tolist() == [np.inf]
    assert quiet(SplitConformal(SCORE, 0.1).calibrate, np.zeros(3, int), np.arange(3)).threshold == np.inf


def test_predict_works_inside_jit_and_at_several_levels():
    rng = np.random.default_rng(0)
    sd, y, weights = rng.uniform(1, 2, 80), rng.normal(size=80), rng.exponential(size=80)
    mean, test_sd, test_weights = rng.normal(size=5), rng.uniform(1, 2, 5), rng.exponential(size=5)
    calibrated = WeightedConformal(NormalisedResidual(), [0.1, 0.4]).calibrate((np.zeros(80), sd), y, weights)
    sets = calibrated.predict((mean, test_sd), test_weights)
    assert sets.lower.shape == sets.threshold.shape == (2, 5)
    for i, alpha in enumerate([0.1, 0.4]):
        alone = WeightedConformal(NormalisedResidual(), alpha).calibrate((np.zeros(80), sd), y, weights)
        assert (alone.predict((mean, test_sd), test_weights).upper == sets.upper[i]).all()
    jitted = jax.jit(lambda one, predictions, extra: one.predict(predictions, extra))
    with jax.enable_x64(True):
        inside = jitted(calibrated, (mean, test_sd), test_weights)
        np.testing.assert_allclose(inside.lower, sets.lower, rtol=1e-12)
    assert inside.guarantee == sets.guarantee


def test_a_point_that_outweighs_the_calibration_has_an_infinite_set_and_a_warning():
    calibrated = WeightedConformal(SCORE, 0.1).calibrate(np.zeros(30), np.arange(30.0), np.ones(30))
    with pytest.warns(UserWarning, match="2 of 3 thresholds are infinite"):
        sets = calibrated.predict(np.zeros(3), np.array([4.0, 1.0, 1e9]))
    assert np.isinf(sets.upper).tolist() == [True, False, True]
    assert sets.contains(np.array([1e12, 1e12, 1e12])).tolist() == [True, False, True]


def test_the_guarantee_says_what_the_weights_must_be():
    y, weights = np.arange(30.0), np.linspace(0.1, 1, 30)
    known = WeightedConformal(SCORE, 0.2).calibrate(np.zeros(30), y, weights)
    assert known.guarantee.kind == "marginal"
    assert (known.guarantee.level, known.guarantee.n) == (0.8, 30)
    assert "weights are the true density ratio up to a constant" in known.guarantee.assumptions
    assert known.effective_sample_size == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert WeightedConformal(SCORE).calibrate(np.zeros(30), y, weights, estimated=True).guarantee.kind == "approximate"
    record = DensityRatio(weights, np.ones(2), 1.0, 0.5)
    estimated = WeightedConformal(SCORE, 0.2).calibrate(np.zeros(30), y, record)
    assert estimated.guarantee.kind == "approximate"
    assert (estimated.predict(np.zeros(2), record).upper == known.predict(np.zeros(2), np.ones(2)).upper).all()


@pytest.mark.parametrize(
    ("weights", "test_weights", "message"),
    [
        ([1.0, -1.0, 1.0], [1.0, 1.0], "weights must be finite, nonnegative"),
        ([0.0, 0.0, 0.0], [1.0, 1.0], "not all zero"),
        ([1.0, np.nan, 1.0], [1.0, 1.0], "weights must be finite"),
        ([1.0, 1.0], [1.0, 1.0], r"weights have shape \(2,\)"),
        ([1.0, 1.0, 1.0], [1.0, -1.0], "test_weights have 1 values that are negative or not finite"),
        ([1.0, 1.0, 1.0], [np.inf, np.nan], "test_weights have 2 values"),
        ([1.0, 1.0, 1.0], [1.0], r"test_weights has shape \(1,\); predictions has 2 entries"),
        ([1.0, 1.0, 1.0], 1.0, r"test_weights has shape \(\)"),
    ],
)
def test_bad_weights_are_refused(weights, test_weights, message):
    with pytest.raises(ValueError, match=message):
        WeightedConformal(SCORE, 0.5).calibrate(np.zeros(3), np.arange(3.0), weights).predict(np.zeros(2), test_weights)


def test_other_bad_input_is_refused():
    with pytest.raises(ValueError, match="alpha must lie strictly between 0 and 1"):
        WeightedConformal(SCORE, 1.0)
    with pytest.raises(TypeError, match="score must be a Score"):
        WeightedConformal(abs)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="scores are NaN in 1 of 2 rows: 1"):
        WeightedConformal(SCORE).calibrate(np.zeros(2), np.array([0.0, np.nan]), np.ones(2))
    calibrated = WeightedConformal(SCORE, 0.5).calibrate(np.zeros(3), np.arange(3.0), np.ones(3))
    with pytest.raises(ValueError, match="test_weights has shape"):
        calibrated.pvalue(np.zeros(2), np.zeros(2), np.ones(3))


def test_coverage_holds_under_a_known_shift():
    """Inputs move by 1.5 sd to where the noise is larger; 600 repeats of 50 points: to 4 se, false-alarm rate 1e-4."""
    rng = np.random.default_rng(1)
    weighted, plain = np.zeros(600), np.zeros(600)
    for i in range(600):
        x, x_new = rng.normal(size=50), rng.normal(1.5, 1.0, size=20)
        y, y_new = (np.exp(0.5 * at) * rng.standard_t(3, size=len(at)) for at in (x, x_new))
        calibrated = WeightedConformal(SCORE, 0.1).calibrate(np.zeros(50), y, np.exp(1.5 * x))
        weighted[i] = quiet(calibrated.predict, np.zeros(20), np.exp(1.5 * x_new)).contains(y_new).mean()
        plain[i] = SplitConformal(SCORE, 0.1).calibrate(np.zeros(50), y).predict(np.zeros(20)).contains(y_new).mean()
    assert weighted.mean() >= 0.9 - 4 * weighted.std() / np.sqrt(600)
    assert plain.mean() < 0.82


def test_smoothed_pvalues_are_uniform_under_the_known_shift():
    """Weighted p-values with uniform u are exactly uniform: mean 1/2 and share below .1, to 4 se each."""
    rng = np.random.default_rng(2)
    p = np.zeros(4000)
    for i in range(len(p)):
        x, x_new = rng.normal(size=25), rng.normal(0.8, 1.0, size=1)
        y, y_new = (np.exp(0.5 * at) * rng.normal(size=len(at)) for at in (x, x_new))
        calibrated = WeightedConformal(SCORE, 0.1).calibrate(np.zeros(25), y, np.exp(0.8 * x))
        p[i] = calibrated.pvalue(np.zeros(1), y_new, np.exp(0.8 * x_new), rng.uniform(size=1))[0]
    assert abs(p.mean() - 0.5) < 4 / np.sqrt(12 * len(p))
    assert abs((p <= 0.1).mean() - 0.1) < 4 * np.sqrt(0.09 / len(p))


def test_the_classifier_finds_a_linear_log_ratio():
    """Two normal laws one sd apart have log ratio x - 1/2, which logistic regression can hold: errors below 0.25."""
    rng = np.random.default_rng(3)
    x, x_test = rng.normal(size=(4000, 1)), rng.normal(1.0, 1.0, size=(2000, 1))
    ratio = density_ratio(x, x_test)
    inner = abs(x[:, 0]) < 2
    assert abs(np.log(ratio.calibration_weights[inner]) - (x[inner, 0] - 0.5)).max() < 0.25
    assert ratio.calibration_weights.mean() == pytest.approx(1, abs=0.15)
    assert ratio.test_weights.shape == (2000,)
    assert ratio.auc == pytest.approx(0.76, abs=0.03)  # Phi(1 / sqrt 2)
    assert ratio.ess == pytest.approx(ratio.calibration_weights.sum() ** 2 / (ratio.calibration_weights**2).sum())
    assert 4000 / np.e * 0.6 < ratio.ess < 4000 / np.e * 1.6  # E w^2 = e


def test_a_point_has_no_say_in_its_own_weight():
    """A tree that remembers every point separates two equal samples wholly, and not at all when cross-fitted."""
    rng = np.random.default_rng(4)
    x, x_test = rng.normal(size=(300, 2)), rng.normal(size=(300, 2))
    remembered = density_ratio(x, x_test, DecisionTreeClassifier(random_state=0), n_folds=0)
    held_out = density_ratio(x, x_test, DecisionTreeClassifier(random_state=0))
    assert remembered.auc == 1
    assert abs(held_out.auc - 0.5) < 4 * np.sqrt(1 / 12 * 2 / 300)
    assert (remembered.calibration_weights == 0.01 / 0.99).all()
    extremes = np.r_[held_out.calibration_weights, held_out.test_weights]
    assert set(extremes.round(3).tolist()) == {0.01, 99.0}


def test_weights_are_per_point_whatever_the_sizes_of_the_samples():
    rng = np.random.default_rng(5)
    ratio = density_ratio(rng.normal(size=(300, 1)), rng.normal(size=(3000, 1)))
    assert ratio.calibration_weights.mean() == pytest.approx(1, abs=0.05)
    assert ratio.test_weights.mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros(3), np.zeros((3, 1))), {}, r"X_calibration has shape \(3,\)"),
        ((np.zeros((9, 2)), np.zeros((9, 1))), {}, "X_test has 1 columns, X_calibration has 2"),
        ((np.zeros((9, 1)), np.full((9, 1), np.nan)), {}, "X_test has 9 NaN or infinite values"),
        ((np.zeros((9, 1)), np.zeros((3, 1))), {}, "n_folds is 5; expected 0, or 2 to 3"),
        ((np.zeros((9, 1)), np.zeros((9, 1))), {"n_folds": 1}, "n_folds is 1"),
        ((np.zeros((9, 1)), np.zeros((9, 1))), {"clip": 0.5}, "clip must lie strictly between 0 and 0.5"),
    ],
)
def test_density_ratio_refuses_bad_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        density_ratio(*arguments, **options)
