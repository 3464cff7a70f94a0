"""Conformal predictive systems against crepes, SciPy, brute-force integration and one-sided split conformal bounds."""

import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uqsparse.bounds.conformal import SplitConformal, conformal_quantile
from uqsparse.bounds.predictive_draws import PredictiveDraws
from uqsparse.bounds.predictive_systems import PredictiveSystem
from uqsparse.bounds.scores import AbsoluteResidual, NormalisedResidual, QuantileResidual

SCORES = ("residual", "normalised", "probability")


def observations(seed, n, m=40):
    """Skewed heteroscedastic targets, with predictive draws that are too narrow."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.5, 2.0, size=n)
    y = 1.0 + scale * rng.standard_exponential(n)
    return PredictiveDraws.of(1.2 + 0.6 * scale * rng.standard_normal((m, n))), y


def system_and_test(score, seed=0, n=99, n_test=7, **changes):
    draws, y = observations(seed, n)
    new, y_new = observations(seed + 1, n_test)
    system = PredictiveSystem.calibrate(draws, y, score=score, **changes)
    return system.predict(new), y_new, draws, y, new


def atoms_of(cal, y, new, score):
    """All atoms, from the definition of the score; (n, n_test)."""
    if score == "residual":
        return new.mean() + (y - cal.mean())[:, None]
    return new.mean() + new.sd() * ((y - cal.mean()) / cal.sd())[:, None]


@pytest.mark.parametrize("score", SCORES[:2])
def test_distribution_function_is_that_of_the_atoms(score):
    """SciPy's empirical distribution function counts what lies at or below."""
    system, y_new, cal, y, new = system_and_test(score)
    atoms = atoms_of(cal, y, new, score)
    grid = np.linspace(y_new - 3, y_new + 3, 50)
    low, high = system.band(grid)
    for j in range(7):
        share = stats.ecdf(atoms[:, j]).cdf.evaluate(grid[:, j])
        np.testing.assert_allclose(low[:, j], 99 * share / 100, atol=1e-12)
        np.testing.assert_allclose(high[:, j], (99 * share + 1) / 100, atol=1e-12)
    np.testing.assert_allclose(system.cdf(grid), (low + high) / 2)
    np.testing.assert_allclose(system.cdf(grid, 0.25), low + 0.25 / 100)


def test_ties_widen_the_band():
    system = PredictiveSystem.calibrate(np.zeros(5), np.array([1.0, 2.0, 2.0, 2.0, 3.0])).predict(np.zeros(4))
    low, high = system.band(np.array([0.0, 2.0, 2.5, np.inf]))
    np.testing.assert_allclose(low, np.array([0, 1, 4, 5]) / 6)
    np.testing.assert_allclose(high, np.array([1, 5, 5, 6]) / 6)


@given(st.integers(1, 400), st.fractions(Fraction(1, 100), Fraction(99, 100), max_denominator=200))
def test_ranks_of_quantiles_are_exact(n, p):
    system = PredictiveSystem.calibrate(np.zeros(n), np.arange(1.0, n + 1)).predict(np.zeros(1))
    upper, lower = -(-(n + 1) * p // 1), (n + 1) * p // 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert system.quantile(float(p)) == (upper if upper <= n else np.inf)
        assert system.quantile(float(p), "lower") == (lower if lower >= 1 else -np.inf)


@pytest.mark.parametrize("n", [99, 199])
def test_ranks_of_percentiles_are_exact(n):
    """0.29 * 100 is a little less than 29 in binary, and 0.07 * 100 a little more than 7."""
    system = PredictiveSystem.calibrate(np.zeros(n), np.arange(1.0, n + 1)).predict(np.zeros(1))
    ranks = (n + 1) // 100 * np.arange(1, 100)
    percentiles = (np.arange(1, 100) / 100).tolist()
    np.testing.assert_array_equal(system.quantile(percentiles)[:, 0], ranks)
    np.testing.assert_array_equal(system.quantile(percentiles, "lower")[:, 0], ranks)


@pytest.mark.filterwarnings("ignore:quantiles are infinite")
@pytest.mark.parametrize("score", SCORES)
def test_quantiles_invert_the_distribution_function(score):
    """At most 1 - p above the upper quantile, by the band's lower edge there; and the same below the lower one."""
    system, *_ = system_and_test(score)
    p = np.linspace(0.05, 0.95, 19).tolist()
    upper, lower = system.quantile(p), system.quantile(p, "lower")
    tiny = 1e-9
    for q, high, low in zip(p, upper, lower, strict=True):
        assert (np.isposinf(high) | (system.band(high + tiny)[0] >= q - 1e-9)).all()
        assert (np.isneginf(low) | (system.band(low - tiny)[1] <= q + 1e-9)).all()
    assert (upper[1:] >= upper[:-1]).all()
    assert (lower <= upper).all()
    np.testing.assert_array_equal(system.ppf(0.3), system.quantile(0.3))


@pytest.mark.filterwarnings("ignore:a threshold is infinite", "ignore:quantiles are infinite")
@given(st.integers(1, 120), st.sampled_from([0.02, 0.05, 0.1, 1 - 0.9, 0.2, 0.5]), st.integers(0, 100))
def test_intervals_are_two_one_sided_split_conformal_bounds(n, alpha, seed):
    draws, y = observations(seed, n)
    new, _ = observations(seed + 1, 5)
    scores = (y - draws.mean()) / draws.sd()
    sets = PredictiveSystem.calibrate(draws, y).predict(new).interval(alpha)
    upper, lower = conformal_quantile(scores, alpha / 2), conformal_quantile(-scores, alpha / 2)
    np.testing.assert_array_equal(sets.upper, new.mean() + upper * new.sd())
    np.testing.assert_array_equal(sets.lower, new.mean() - lower * new.sd())


def test_intervals_state_their_guarantee():
    system, *_ = system_and_test("normalised")
    sets = system.interval([0.1, 0.2])
    assert sets.lower.shape == sets.upper.shape == (2, 7)
    assert sets.guarantee is not None
    assert (sets.guarantee.kind, sets.guarantee.level, sets.guarantee.n) == ("marginal", (0.9, 0.8), 99)
    assert system.guarantee.level == 0.98
    assert sets.to_arviz()["conformal"].attrs["guarantee"] == "marginal"


def test_too_few_observations_give_infinite_ends():
    system = PredictiveSystem.calibrate(np.zeros(8), np.arange(8.0)).predict(np.zeros(3))
    with pytest.warns(UserWarning, match="8 calibration observations are too few"):
        sets = system.interval(0.2)
    assert np.isneginf(sets.lower).all()
    assert np.isposinf(sets.upper).all()
    with pytest.warns(UserWarning, match="infinite"):
        assert np.isposinf(system.quantile(0.9)).all()


def test_crepes_agrees_on_percentiles_pvalues_and_intervals():
    """At these levels: at confidence 0.9 it takes the 4th of 99 atoms as the lower end, for 0.1 / 2 * 100 < 5."""
    crepes = pytest.importorskip("crepes")
    system, y_new, cal, y, new = system_and_test("normalised")
    theirs = crepes.ConformalPredictiveSystem().fit(y - cal.mean(), sigmas=cal.sd())
    p = [0.05, 0.25, 0.5, 0.75, 0.95]
    percentiles = [100 * one for one in p]
    arguments = {"y_hat": new.mean(), "sigmas": new.sd()}
    higher = theirs.predict_percentiles(**arguments, higher_percentiles=percentiles)
    lower = theirs.predict_percentiles(**arguments, lower_percentiles=percentiles)
    np.testing.assert_allclose(system.quantile(p).T, higher, rtol=1e-12)
    np.testing.assert_allclose(system.quantile(p, "lower").T, lower, rtol=1e-12)
    conservative = theirs.predict_p(**arguments, y=y_new, smoothing=False)
    np.testing.assert_allclose(system.band(y_new)[1], conservative, rtol=1e-12)
    sets = system.interval(0.5)
    np.testing.assert_allclose(
        np.stack([sets.lower, sets.upper], 1), theirs.predict_int(**arguments, confidence=0.5), rtol=1e-12
    )


def test_crepes_agrees_on_crps_of_residuals():
    """Of normalised residuals it scales one of the terms twice, so that only residuals can be compared."""
    crepes = pytest.importorskip("crepes")
    system, y_new, cal, y, new = system_and_test("residual")
    theirs = crepes.ConformalPredictiveSystem().fit(y - cal.mean())
    assert system.crps(y_new).mean() == pytest.approx(theirs.evaluate(new.mean(), y_new, metrics=["CRPS"])["CRPS"])


def test_crepes_agrees_on_groups():
    crepes = pytest.importorskip("crepes")
    cal, y = observations(0, 99 + 49)
    new, y_new = observations(1, 8)
    groups, new_groups = np.array(["b"] * 99 + ["a"] * 49), np.array(["a", "b"] * 4)
    system = PredictiveSystem.calibrate(cal, y, groups=groups).predict(new, new_groups)
    theirs = crepes.ConformalPredictiveSystem().fit(y - cal.mean(), sigmas=cal.sd(), bins=groups)
    arguments = {"y_hat": new.mean(), "sigmas": new.sd(), "bins": new_groups}
    np.testing.assert_allclose(
        system.quantile([0.5, 0.9]).T, theirs.predict_percentiles(**arguments, higher_percentiles=[50, 90]), rtol=1e-12
    )
    conservative = theirs.predict_p(**arguments, y=y_new, smoothing=False)
    np.testing.assert_allclose(system.band(y_new)[1], conservative, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:quantiles are infinite")
@pytest.mark.parametrize("score", SCORES)
def test_groups_are_as_good_as_apart(score):
    cal, y = observations(0, 60)
    new, y_new = observations(1, 10)
    groups, new_groups = np.arange(60) % 3, np.arange(10) % 2
    system = PredictiveSystem.calibrate(cal, y, score=score, groups=groups).predict(new, new_groups)
    assert (system.guarantee.kind, system.guarantee.n) == ("group", 20)
    for group in (0, 1):
        mine, theirs = groups == group, new_groups == group
        alone = PredictiveSystem.calibrate(PredictiveDraws(cal.values[:, mine]), y[mine], score=score)
        alone = alone.predict(PredictiveDraws(new.values[:, theirs]))
        np.testing.assert_allclose(system.quantile(0.7)[theirs], alone.quantile(0.7), rtol=1e-12)
        np.testing.assert_array_equal(system.band(y_new)[0][theirs], alone.band(y_new[theirs])[0])
        for name in ("mean", "sd"):
            np.testing.assert_allclose(getattr(system, name)()[theirs], getattr(alone, name)(), rtol=1e-12)
        np.testing.assert_allclose(system.crps(y_new)[theirs], alone.crps(y_new[theirs]), rtol=1e-10)


def test_unseen_groups_get_infinite_quantiles():
    system = PredictiveSystem.calibrate(np.zeros(40), np.arange(40.0), groups=np.repeat([1, 2], 20))
    with pytest.warns(UserWarning, match=r"no calibration observation in group\(s\) 3"):
        new = system.predict(np.zeros(2), [2, 3])
    with pytest.warns(UserWarning, match="quantiles are infinite"):
        np.testing.assert_array_equal(new.quantile(0.5), [30.0, np.inf])
    low, high = new.band(np.array([25.0, 25.0]))
    np.testing.assert_allclose(low, [5 / 21, 0])
    np.testing.assert_allclose(high, [7 / 21, 1])
    for refused in (new.mean, new.sd, lambda: new.crps(np.zeros(2)), lambda: new.sample(jax.random.key(0), 3)):
        with pytest.raises(ValueError, match="no atoms"):
            refused()


@pytest.mark.parametrize("score", SCORES)
def test_crps_is_the_integral_over_the_atoms(score):
    """The squared distance to the step at y, summed exactly over the intervals between all atoms and y."""
    system, y_new, *_ = system_and_test(score, n=30)
    every = np.sort(system.sample(jax.random.key(0), 4000), axis=0)
    for j in range(7):
        atoms = np.unique(every[:, j])
        assert score == "probability" or len(atoms) == 30
    atoms = system.mapping.typical(system.scores[0][:, None])
    for j in range(7):
        points = np.sort(np.append(atoms[:, j], y_new[j]))
        middle = (points[1:] + points[:-1]) / 2
        share = (atoms[:, j] <= middle[:, None]).mean(1)
        integral = ((share - (middle >= y_new[j])) ** 2 * np.diff(points)).sum()
        assert system.crps(y_new)[j] == pytest.approx(integral, rel=1e-9)
        assert system.mean()[j] == pytest.approx(atoms[:, j].mean(), rel=1e-12)
        assert system.sd()[j] == pytest.approx(atoms[:, j].std(), rel=1e-9)


def test_crps_far_from_zero_does_not_cancel():
    residuals = np.random.default_rng(0).standard_normal(1000)
    near = PredictiveSystem.calibrate(np.zeros(1000), residuals).predict(np.zeros(3)).crps(np.array([-1.0, 0.0, 5.0]))
    far = PredictiveSystem.calibrate(np.zeros(1000), residuals + 1e6).predict(np.zeros(3))
    np.testing.assert_allclose(far.crps(1e6 + np.array([-1.0, 0.0, 5.0])), near, rtol=1e-8)


@pytest.mark.parametrize("score", SCORES)
def test_transforms_are_uniform(score):
    """Of 300 systems of 9 observations and one more, rounded so that ties abound; false-alarm rate 1e-4 each."""
    rng = np.random.default_rng(5)
    values = []
    for i in range(300):
        draws, y = observations(int(rng.integers(2**31)), 10)
        y = y.round(0)
        split = [PredictiveDraws(draws.values[:, part]) for part in (slice(9), slice(9, None))]
        system = PredictiveSystem.calibrate(split[0], y[:9], score=score).predict(split[1])
        values.append(system.pit(jax.random.key(i), y[9:])[0])
    assert stats.kstest(values, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("score", SCORES)
def test_intervals_cover(score):
    """At n = 19 and alpha = 0.2 exactly 0.8 without ties; four standard errors, a false alarm once in 10^4."""
    rng = np.random.default_rng(6)
    covered = []
    for _ in range(200):
        draws, y = observations(int(rng.integers(2**31)), 19 + 50)
        split = [PredictiveDraws(draws.values[:, part]) for part in (slice(19), slice(19, None))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sets = PredictiveSystem.calibrate(split[0], y[:19], score=score).predict(split[1]).interval(0.2)
        covered.append(sets.contains(y[19:]).mean())
    error = 4 * np.std(covered) / np.sqrt(len(covered))
    assert np.mean(covered) >= 0.8 - error
    if score != "probability":
        assert np.mean(covered) <= 0.8 + error


def test_scores_of_probability_widen_to_infinity_beyond_the_draws():
    """Of ten observations three lie above all their draws: nothing above bounds a new one at the 80 % quantile."""
    draws = PredictiveDraws(np.tile(np.arange(1.0, 5.0)[:, None], (1, 10)))
    y = np.array([0.5, 1.5, 1.5, 2.5, 2.5, 3.5, 3.5, 9.0, 9.0, 9.0])
    system = PredictiveSystem.calibrate(draws, y, score="probability")
    new = system.predict(PredictiveDraws(np.array([[10.0], [40.0], [30.0], [20.0]])))
    assert new.quantile(0.6).tolist() == [40.0]  # the 7th of ten scores is 3/4: up to the fourth draw
    assert new.quantile(0.2, "lower").tolist() == [10.0]  # the second is 1/4: from the first draw on
    with pytest.warns(UserWarning, match="beyond all of their draws"):
        assert new.quantile(0.8).tolist() == [np.inf]
    with pytest.warns(UserWarning, match="beyond all of their draws"):
        assert new.quantile(0.1, "lower").tolist() == [-np.inf]
    # Atoms: 10 once, 15 twice, 25 twice, 35 twice, and 40 thrice.
    assert new.mean()[0] == pytest.approx((10 + 2 * 15 + 2 * 25 + 2 * 35 + 3 * 40) / 10)


def test_samples_come_from_the_atoms():
    """Equal frequencies by a chi-square test, false-alarm rate 1e-5; the same key gives the same draws."""
    system = PredictiveSystem.calibrate(np.zeros(20), np.arange(20.0)).predict(np.array([100.0, 200.0]))
    draws = system.sample(jax.random.key(3), 20_000)
    np.testing.assert_array_equal(draws, system.sample(jax.random.key(3), 20_000))
    for j, start in enumerate((100, 200)):
        counts = np.bincount((draws[:, j] - start).astype(int), minlength=20)
        assert len(counts) == 20
        assert stats.chisquare(counts).pvalue > 1e-5
    assert abs(np.corrcoef(draws.T)[0, 1]) < 5 / np.sqrt(20_000)


@pytest.mark.filterwarnings("ignore:quantiles are infinite")
@pytest.mark.parametrize("score", SCORES)
def test_a_system_serves_as_predictions(score):
    """Of `PredictiveDraws`, by its draws, and of scores, by its mean, standard deviation and quantiles."""
    cal, y = observations(0, 99)
    system = PredictiveSystem.calibrate(cal, y, score=score)
    new, y_new = observations(1, 60)
    calibrated = system.predict(new)
    assert PredictiveDraws.of(calibrated.sample(jax.random.key(0), 50)).n == 60
    for one in (AbsoluteResidual(), NormalisedResidual(), QuantileResidual((0.1, 0.9))):
        sets = SplitConformal(one, 0.1).calibrate(calibrated, y_new).predict(calibrated)
        assert sets.contains(y_new).mean() >= 0.9
    again = PredictiveSystem.calibrate(calibrated, y_new).predict(calibrated)
    np.testing.assert_allclose(again.interval(0.1).contains(y_new).mean(), 0.9, atol=0.05)


@pytest.mark.parametrize(("score", "grouped"), [("residual", False), ("normalised", True), ("probability", False)])
def test_inside_jit_it_gives_the_same(score, grouped):
    cal, y = observations(0, 40)
    new, y_new = observations(1, 6)
    groups, new_groups = (np.arange(40) % 2, np.arange(6) % 2) if grouped else (None, None)

    def everything(cal, y, new, y_new, new_groups):
        system = PredictiveSystem.calibrate(PredictiveDraws(cal), y, score=score, groups=groups)
        dist = system.predict(PredictiveDraws(new), new_groups)
        sets = dist.interval([0.2, 0.3])
        return dist.cdf(y_new), dist.quantile(0.6), sets.lower, sets.upper, dist.mean(), dist.sd(), dist.crps(y_new)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = everything(cal.values, y, new.values, y_new, new_groups)
        with jax.enable_x64(True):
            traced = jax.jit(everything)(cal.values, y, new.values, y_new, new_groups)
    assert all(type(one) is np.ndarray for one in plain)
    for one, other in zip(plain, traced, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_jax_arrays_stay_jax_arrays():
    system = PredictiveSystem.calibrate(jnp.zeros(30), jnp.arange(30.0)).predict(jnp.zeros(4))
    for one in (system.cdf(jnp.ones(4)), system.quantile(0.5), system.sample(jax.random.key(0), 2), system.sd()):
        assert isinstance(one, jax.Array)


def test_refusals():
    y = np.arange(5.0)
    draws = PredictiveDraws.of(np.random.default_rng(0).standard_normal((9, 5)))
    calibrate = PredictiveSystem.calibrate
    with pytest.raises(ValueError, match="5"):
        calibrate(np.zeros(4), y)
    with pytest.raises(ValueError, match=r"NaN in 1 of 5 rows: 2"):
        calibrate(np.zeros(5), np.where(y == 2, np.nan, y))
    with pytest.raises(ValueError, match="infinite in 1 of 5 rows, the first is 2"):
        calibrate(np.zeros(5), np.where(y == 2, np.inf, y))
    with pytest.raises(ValueError, match="expected \\(n,\\)"):
        calibrate(np.zeros((5, 5)), y)
    with pytest.raises(ValueError, match="scores have shape"):
        calibrate(np.zeros(5), np.zeros((5, 5)))
    with pytest.raises(ValueError, match="scores have shape"):
        calibrate(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="sd has 5 values that are not positive"):
        calibrate((np.zeros(5), np.zeros(5)), y)
    with pytest.raises(ValueError, match="score must be"):
        calibrate(draws, y, score="pit")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="PredictiveDraws"):
        calibrate(np.zeros(5), y, score="probability")
    with pytest.raises(ValueError, match="groups"):
        calibrate(np.zeros(5), y, groups=np.zeros(4))
    system = calibrate(np.zeros(5), y)
    with pytest.raises(ValueError, match="groups"):
        system.predict(np.zeros(5), np.zeros(5))
    with pytest.raises(ValueError, match="groups"):
        calibrate(np.zeros(5), y, groups=y > 2).predict(np.zeros(5))
    new = system.predict(np.zeros(5))
    for p in (0.0, 1.0, np.nan, [0.5, 2.0]):
        with pytest.raises(ValueError, match=r"alpha|p must"):
            new.quantile(p)
    with pytest.raises(ValueError, match="side"):
        new.quantile(0.5, "left")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="5 test points"):
        new.cdf(np.zeros(1))
    with pytest.raises(ValueError, match="NaN"):
        new.cdf(np.full(5, np.nan))
    with pytest.raises(ValueError, match="m must be"):
        new.sample(jax.random.key(0), 0)
