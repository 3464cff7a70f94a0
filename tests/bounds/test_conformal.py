"""Split conformal prediction: thresholds, sets, p-values and the door."""

import math
import warnings
from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uqsparse.bounds import Guarantee, PredictiveDraws, SplitConformal, conformal_quantile
from uqsparse.bounds.scores import AbsoluteResidual, NormalisedResidual, QuantileResidual

ALPHAS = [0.01, 0.05, 0.1, 0.2, 0.3]
rng = np.random.default_rng(0)


def exact_threshold(scores, alpha):
    rank = math.ceil((len(scores) + 1) * (1 - Fraction(str(alpha))))
    return sorted(scores)[rank - 1] if rank <= len(scores) else math.inf


@pytest.mark.filterwarnings("ignore:a threshold is infinite")
def test_thresholds_are_the_order_statistics_of_exact_arithmetic():
    for n in range(1, 401, 3):
        scores = rng.normal(size=n)
        for alpha in ALPHAS:
            assert conformal_quantile(scores, alpha) == exact_threshold(scores, alpha)


def test_thresholds_equal_those_of_mapie():
    regression = pytest.importorskip("mapie.regression", reason="needs the extra bench")
    from sklearn.dummy import DummyRegressor

    model = DummyRegressor(strategy="constant", constant=0.0).fit([[0.0]], [0.0])
    compared = 0
    for n in range(5, 401, 7):
        y = rng.normal(size=n)
        for alpha in ALPHAS:
            if n * alpha < 1 or not math.isfinite(expected := exact_threshold(abs(y), alpha)):
                continue  # the peer refuses fewer than 1 / alpha scores
            peer = regression.SplitConformalRegressor(model, confidence_level=1 - alpha, prefit=True)
            _, intervals = peer.conformalize(np.zeros((n, 1)), y).predict_interval(np.zeros((1, 1)))
            sets = SplitConformal(AbsoluteResidual(), alpha).calibrate(np.zeros(n), y).predict(np.zeros(1))
            assert sets.upper[0] == intervals[0, 1, 0] == expected
            compared += 1
    assert compared > 200


def test_crepes_truncates_the_rank_in_binary_and_we_do_not():
    """At n = 119 and 90% the bound is the 12th largest score; (1 - 0.9) * 120 is a little below 12 in binary."""
    scores = rng.permutation(np.arange(1.0, 120.0))
    assert conformal_quantile(scores, 0.1) == 108.0 == exact_threshold(scores, 0.1)
    crepes = pytest.importorskip("crepes", reason="needs the extra dev")
    peer = crepes.ConformalRegressor().fit(residuals=scores).predict_int(y_hat=np.zeros(1), confidence=0.9)
    assert peer[0, 1] == 109.0


@given(st.integers(1, 60), st.sampled_from(ALPHAS), st.integers(0, 2**31))
def test_a_value_lies_in_the_set_exactly_where_its_pvalue_exceeds_alpha(n, alpha, seed):
    generator = np.random.default_rng(seed)
    y, mean = generator.integers(-5, 6, size=(2, n)).astype(float)  # many ties
    new_y, new_mean = generator.integers(-7, 8, size=(2, 20)).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calibrated = SplitConformal(AbsoluteResidual(), alpha).calibrate(mean, y)
    inside = calibrated.predict(new_mean).contains(new_y)
    # (n + 1) p is a whole number, so alpha is compared in exact arithmetic
    ranks = np.round(calibrated.pvalue(new_mean, new_y) * (n + 1)).astype(int)
    assert inside.tolist() == [int(rank) > (n + 1) * Fraction(str(alpha)) for rank in ranks]


@given(st.integers(0, 2**31))
def test_sets_at_a_smaller_alpha_hold_those_at_a_larger_one(seed):
    generator = np.random.default_rng(seed)
    sets = (
        SplitConformal(AbsoluteResidual(), [0.05, 0.1, 0.5])
        .calibrate(*generator.normal(size=(2, 40)))
        .predict(generator.normal(size=7))
    )
    assert sets.lower.shape == sets.size().shape == (3, 7)
    assert sets.threshold.shape == (3,)
    assert sets.guarantee.level == (0.95, 0.9, 0.5)
    assert (np.diff(sets.lower, axis=0) >= 0).all()
    assert (np.diff(sets.upper, axis=0) <= 0).all()


def test_coverage_given_the_calibration_set_follows_its_beta_law():
    """Kolmogorov-Smirnov of 1,000 conditional coverages; false-alarm rate 1e-4, and 1e-4 for each wrong law to pass."""
    n, alpha, repeats = 50, 0.1, 1000
    y = rng.standard_t(df=3, size=(repeats, n))
    thresholds = [SplitConformal(AbsoluteResidual(), alpha).calibrate(np.zeros(n), one).threshold for one in y]
    coverage = 1 - 2 * stats.t(3).sf(thresholds)
    rank = math.ceil((n + 1) * 0.9)
    assert stats.kstest(coverage, stats.beta(rank, n + 1 - rank).cdf).pvalue > 1e-4
    assert stats.kstest(coverage, stats.beta(rank - 1, n + 2 - rank).cdf).pvalue < 1e-4


def test_predict_and_thresholds_work_inside_jit_and_under_vmap():
    mean, y, new = rng.normal(size=(3, 30)).astype(np.float32)
    calibrated = SplitConformal(AbsoluteResidual(), 0.1).calibrate(jnp.asarray(mean), jnp.asarray(y))
    plain = SplitConformal(AbsoluteResidual(), 0.1).calibrate(mean, y).predict(new)
    compiled = eqx.filter_jit(lambda c, p: c.predict(p))(calibrated, jnp.asarray(new))
    assert isinstance(compiled.lower, jax.Array)
    assert isinstance(plain.lower, np.ndarray)
    np.testing.assert_array_equal(compiled.lower, plain.lower)
    assert compiled.guarantee == plain.guarantee
    batch = rng.normal(size=(4, 30)).astype(np.float32)
    thresholds = jax.jit(jax.vmap(lambda s: conformal_quantile(s, 0.1)))(batch)
    assert thresholds.tolist() == [conformal_quantile(row, 0.1) for row in batch]


def test_numpy_arrays_keep_their_precision_and_jax_arrays_theirs():
    y = rng.normal(size=30)
    calibrated = SplitConformal(AbsoluteResidual(), 0.1).calibrate(np.zeros(30), y)
    assert calibrated.threshold.dtype == np.float64
    assert calibrated.threshold in abs(y)
    single = SplitConformal(AbsoluteResidual(), 0.1).calibrate(jnp.zeros(30), jnp.asarray(y))
    assert single.threshold.dtype == np.float32


@pytest.mark.parametrize(
    ("score", "predictions"),
    [
        (AbsoluteResidual(), lambda n: rng.normal(size=n)),
        (NormalisedResidual(), lambda n: (rng.normal(size=n), rng.gamma(2.0, size=n))),
        (QuantileResidual(), lambda n: (rng.normal(size=n) - 1, rng.normal(size=n) + 3)),
        (NormalisedResidual(), lambda n: PredictiveDraws.of(rng.normal(size=(50, n)))),
        (QuantileResidual((0.1, 0.9)), lambda n: PredictiveDraws.of(rng.normal(size=(2, 25, n)))),
    ],
    ids=["absolute", "normalised", "quantile", "normalised-draws", "quantile-draws"],
)
@pytest.mark.filterwarnings("ignore:.*predicted quantiles cross")
def test_regions_hold_the_values_whose_score_is_at_most_the_threshold(score, predictions):
    held_out, y = predictions(40), 3 * rng.normal(size=40)
    scores = score(held_out, y)
    for threshold in np.quantile(scores, [0.1, 0.5, 0.9]):
        inside = score.region(held_out, threshold).contains(y)
        clear = abs(scores - threshold) > 1e-9
        assert (inside == (scores <= threshold))[clear].all()
    each = score.region(held_out, scores + 1e-9)  # a threshold a point
    assert each.contains(y).all()


def test_too_few_scores_give_infinite_sets_and_a_warning_that_says_how_many_are_needed():
    with pytest.warns(UserWarning, match=r"8 calibration scores are too few, alpha = 0.1 needs 9"):
        assert conformal_quantile(np.arange(8.0), 0.1) == np.inf
    with pytest.warns(UserWarning, match="infinite"):
        sets = SplitConformal(AbsoluteResidual(), 0.1).calibrate(np.zeros(8), np.ones(8)).predict(np.zeros(2))
    assert sets.lower.tolist() == [-np.inf] * 2
    assert sets.contains(np.array([1e300, -5.0])).all()


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.03, 0.1, 0.3, 0.7])
def test_the_warning_names_the_least_number_of_scores(alpha):
    from uqsparse.bounds.conformal import _least_n

    least = _least_n(alpha)
    assert math.isfinite(conformal_quantile(np.zeros(least), alpha))
    if least > 1:
        with pytest.warns(UserWarning, match="infinite"):
            assert conformal_quantile(np.zeros(least - 1), alpha) == np.inf


def test_groups_give_one_score_each():
    y = np.arange(1.0, 41.0)
    groups = np.repeat(np.arange(20), 2)
    largest = SplitConformal(AbsoluteResidual(), 0.1).calibrate(np.zeros(40), y, groups=groups)
    assert largest.scores.tolist() == y[1::2].tolist()
    assert largest.guarantee.n == 20
    one = SplitConformal(AbsoluteResidual(), 0.1, within_group="one")
    drawn = one.calibrate(np.zeros(40), y, groups=groups, key=jax.random.key(0)).scores
    assert all(score in pair for score, pair in zip(drawn, y.reshape(20, 2), strict=True))
    assert 3 < (drawn == y[1::2]).sum() < 17  # false-alarm rate 2 P(Binomial(20, 1/2) <= 3) = 0.26%, and a fixed key
    with pytest.raises(ValueError, match="key is missing"):
        one.calibrate(np.zeros(40), y, groups=groups)


def test_groups_cover_a_new_group_as_a_whole():
    """20 members of a group share an offset. Coverage of all at once, to 4 se of 4,000 groups."""
    offsets, noise = rng.normal(size=4100), 0.3 * rng.normal(size=(4100, 20))
    y = offsets[:, None] + noise
    groups = np.repeat(np.arange(100), 20)
    calibrated = SplitConformal(AbsoluteResidual(), 0.1).calibrate(np.zeros(2000), y[:100].ravel(), groups=groups)
    covered = calibrated.predict(np.zeros(80_000)).contains(y[100:].ravel()).reshape(-1, 20).all(1).mean()
    spread = math.sqrt(0.9 * 0.1 * (1 / 102 + 1 / 4000))
    assert abs(covered - 0.9) < 4 * spread  # false-alarm rate 6e-5
    naive = SplitConformal(AbsoluteResidual(), 0.1).calibrate(np.zeros(2000), y[:100].ravel())
    assert naive.predict(np.zeros(80_000)).contains(y[100:].ravel()).reshape(-1, 20).all(1).mean() < covered


def test_the_guarantee_says_what_holds_and_why():
    guarantee = SplitConformal(AbsoluteResidual(), 0.1).calibrate(np.zeros(99), np.ones(99)).guarantee
    assert (guarantee.kind, guarantee.level, guarantee.n) == ("marginal", 0.9, 99)
    assert "at least 0.9" in str(guarantee)
    assert "exchangeable" in str(guarantee)
    with pytest.raises(ValueError, match="kind must be one of"):
        Guarantee("certain", 0.9, 10)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, float("nan")])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must lie strictly between 0 and 1"):
        conformal_quantile(np.ones(3), alpha)
    with pytest.raises(ValueError, match="alpha"):
        SplitConformal(AbsoluteResidual(), [0.1, alpha])


def test_bad_input_is_refused_with_the_argument_named():
    split = SplitConformal(AbsoluteResidual(), 0.1)
    with pytest.raises(ValueError, match=r"scores are NaN in 2 of 4 rows: 1, 3"):
        conformal_quantile(np.array([0.0, np.nan, 1.0, np.nan]), 0.1)
    with pytest.raises(ValueError, match="n >= 1"):
        conformal_quantile(np.array([]), 0.1)
    with pytest.raises(ValueError, match="n >= 1"):
        conformal_quantile(np.ones((3, 2)), 0.1)
    with pytest.raises(ValueError, match=r"alpha must be a number or a sequence"):
        conformal_quantile(np.ones(3), [])
    with pytest.raises(ValueError, match="predictions has shape \\(1,\\); y has 5 entries"):
        split.calibrate(np.zeros(1), np.zeros(5))
    with pytest.raises(ValueError, match="predictions has shape"):
        split.calibrate(np.zeros((5, 1)), np.zeros(6))
    with pytest.raises(TypeError, match="y has dtype"):
        split.calibrate(np.zeros(2), np.array(["a", "b"]))
    with pytest.raises(ValueError, match="not positive"):
        SplitConformal(NormalisedResidual()).calibrate((np.zeros(3), np.array([1.0, 0.0, 1.0])), np.zeros(3))
    with pytest.raises(TypeError, match="pair"):
        SplitConformal(QuantileResidual()).calibrate(np.zeros(3), np.zeros(3))
    with pytest.raises(TypeError, match="score must be a Score"):
        SplitConformal(lambda p, y: abs(y - p), 0.1)
    with pytest.raises(ValueError, match="within_group"):
        SplitConformal(AbsoluteResidual(), 0.1, within_group="mean")
    with pytest.raises(ValueError, match="groups has shape"):
        split.calibrate(np.zeros(5), np.zeros(5), groups=[1, 2])


def test_infinite_scores_are_scores_like_any_other():
    scores = np.append(np.arange(1.0, 19.0), [np.inf, np.inf])
    assert conformal_quantile(scores, 0.2) == 17.0
    with pytest.warns(UserWarning, match="calibration scores are infinite"):
        assert conformal_quantile(scores, 0.05) == np.inf


def test_crossing_quantiles_are_swapped_with_a_warning():
    low, high = np.array([0.0, 2.0]), np.array([1.0, 1.0])
    with pytest.warns(UserWarning, match="1 of 2 predicted quantiles cross"):
        sets = QuantileResidual().region((low, high), 0.5)
    assert sets.lower.tolist() == [-0.5, 0.5]
    assert sets.upper.tolist() == [1.5, 2.5]


def test_a_strongly_negative_threshold_gives_empty_intervals_of_length_zero():
    sets = QuantileResidual().region((np.zeros(1), np.ones(1)), -0.7)
    assert not sets.contains(np.array([0.5])).any()
    assert sets.size().tolist() == [0.0]


def test_weights_need_the_test_points_own_and_refuse_what_is_no_weight():
    scores = np.arange(5.0)
    with pytest.raises(ValueError, match="test_weight is missing"):
        conformal_quantile(scores, 0.1, np.ones(5))
    with pytest.raises(ValueError, match="without weights"):
        conformal_quantile(scores, 0.1, test_weight=1.0)
    for bad in (-np.ones(5), np.zeros(5), np.full(5, np.nan)):
        with pytest.raises(ValueError, match="weights must be finite, nonnegative and not all zero"):
            conformal_quantile(scores, 0.1, bad, test_weight=1.0)
    with pytest.raises(ValueError, match="weights have shape"):
        conformal_quantile(scores, 0.1, np.ones(4), test_weight=1.0)


@given(st.integers(9, 60), st.sampled_from([0.1, 0.2, 0.3]), st.integers(0, 2**31))
def test_equal_weights_change_nothing(n, alpha, seed):
    scores = np.random.default_rng(seed).integers(0, 20, size=n).astype(float)
    weighted = conformal_quantile(scores, [alpha, 0.5], np.full(n, 0.3), test_weight=np.full(4, 0.3))
    assert weighted.shape == (2, 4)
    assert (weighted == conformal_quantile(scores, [alpha, 0.5])[:, None]).all()


def test_a_test_point_that_outweighs_the_rest_gets_an_infinite_threshold():
    with pytest.warns(UserWarning, match="weighs too much"):
        found = conformal_quantile(np.arange(20.0), 0.1, np.ones(20), test_weight=np.array([1.0, 100.0]))
    assert found.tolist() == [18.0, np.inf]


def test_sets_become_a_group_of_arviz_data():
    from uqsparse.inference.arviz_io import dataset, group_names, to_arviz

    calibrated = SplitConformal(AbsoluteResidual(), 0.1).calibrate(np.zeros(19), np.arange(19.0))
    sets, y = calibrated.predict(np.zeros(3)), np.arange(3.0)
    alone = dataset(sets.to_arviz(pvalue=calibrated.pvalue(np.zeros(3), y)), "conformal")
    assert alone["upper"].values.tolist() == [17.0] * 3
    assert alone["threshold"].values.tolist() == [17.0] * 3
    assert alone["pvalue"].values.tolist() == [1.0, 0.95, 0.9]
    assert alone.attrs["guarantee"] == "marginal"
    assert (alone.attrs["alpha"], alone.attrs["n"]) == (pytest.approx(0.1), 19)
    data = to_arviz({"posterior": {"mu": np.zeros((2, 5))}})
    assert "conformal" in group_names(sets.to_arviz(data))
    with pytest.raises(ValueError, match="already"):
        sets.to_arviz(data)
    with pytest.raises(TypeError, match="data must be"):
        sets.to_arviz({"posterior": 1})
    with pytest.raises(ValueError, match="pvalue has shape"):
        sets.to_arviz(pvalue=np.ones(2))
