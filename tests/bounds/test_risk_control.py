"""Conformal risk control against rational arithmetic, split conformal prediction and simulated risks."""

import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqsparse.bounds.conformal import conformal_quantile
from uqsparse.bounds.risk_control import conformal_risk_control, false_negative_rate, miscoverage

EVERYWHERE = (-np.inf, np.inf)
ALPHAS = (0.01, 0.05, 0.1, 1 - 0.9, 0.2, 1 - 0.8, 0.3, 0.5, 0.9)


def first_by_fractions(losses, alpha: Fraction, bound: int) -> int:
    """The first column of integer losses with (sum + bound) / (n + 1) <= alpha, their number if there is none."""
    n, m = losses.shape
    within = [Fraction(int(losses[:, j].sum()) + bound, n + 1) <= alpha for j in range(m)]
    return within.index(True) if True in within else m


@given(
    n=st.integers(1, 60),
    bound=st.integers(1, 3),
    alpha=st.fractions(Fraction(1, 50), Fraction(49, 50), max_denominator=50),
    seed=st.integers(0, 1000),
)
def test_threshold_is_the_first_that_qualifies_in_rational_arithmetic(n, bound, alpha, seed):
    rng = np.random.default_rng(seed)
    losses = -np.sort(-rng.integers(0, bound + 1, (n, 12)), axis=1)
    lambdas = np.linspace(0.0, 1.1, 12)
    index = first_by_fractions(losses, alpha * bound, bound)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = conformal_risk_control(losses, lambdas, float(alpha * bound), bound)
    assert found.index == index
    assert found.threshold == (lambdas[index] if index < 12 else np.inf)
    assert len(seen) == (index == 12)
    np.testing.assert_allclose(found.risk_curve, losses.mean(0))
    np.testing.assert_allclose(found.adjusted_curve, n / (n + 1) * losses.mean(0) + bound / (n + 1))


@pytest.mark.filterwarnings("ignore:.*threshold is infinite.*", "ignore:a threshold is infinite.*")
@given(st.integers(1, 300), st.sampled_from(ALPHAS), st.sampled_from([np.float32, np.float64]), st.integers(0, 1000))
def test_miscoverage_gives_the_threshold_of_split_conformal_prediction(n, alpha, dtype, seed):
    scores = np.random.default_rng(seed).standard_normal(n).round(1).astype(dtype)
    split = conformal_quantile(scores, alpha)
    assert conformal_risk_control(miscoverage(scores), EVERYWHERE, alpha).threshold == split
    grid = np.unique(scores)
    losses = scores[:, None] > grid
    assert conformal_risk_control(losses, grid, alpha).threshold == split


def test_alpha_is_read_as_meant():
    """1 - 0.9 is a little less than 0.1 in binary, which nine observations just allow; also for another bound."""
    losses = np.tile([1.0, 0.0], (9, 1))
    assert conformal_risk_control(losses, [0.0, 1.0], 1 - 0.9).threshold == 1.0
    assert conformal_risk_control(losses * 1000, [0.0, 1.0], 1000 * (1 - 0.9), 1000.0).threshold == 1.0
    assert conformal_risk_control(losses.astype(np.float32), [0.0, 1.0], 1 - 0.9).threshold == 1.0
    assert conformal_risk_control(jnp.asarray(losses), jnp.arange(2.0), 1 - 0.9).threshold == 1.0
    assert conformal_risk_control(lambda lam: losses[:, int(lam >= 0.3)], (0.0, 1.0), 1 - 0.9).threshold == 0.3


def test_miscoverage_allows_infinite_scores():
    scores = np.array([np.inf] * 3 + [1.0, 2.0] * 20)
    assert conformal_risk_control(miscoverage(scores), EVERYWHERE, 0.2).threshold == conformal_quantile(scores, 0.2)
    with pytest.warns(UserWarning, match="infinite"):
        assert np.isposinf(conformal_risk_control(miscoverage(scores), EVERYWHERE, 0.05).threshold)


@given(st.integers(1, 80), st.integers(1, 6), st.sampled_from(ALPHAS), st.integers(0, 1000))
def test_bisection_finds_the_exact_jump_of_false_negative_rates(n, k, alpha, seed):
    """Brute force over all jumps in rational arithmetic; at the number just below the threshold the risk is too high.

    Shares of up to 6 labels have denominators that divide 60.
    """
    rng = np.random.default_rng(seed)
    scores, truth = rng.uniform(size=(n, k)), rng.uniform(size=(n, k)) < 0.5
    loss = false_negative_rate(scores, truth)
    jumps = np.unique(np.append(1 - scores[truth], 0.0))
    sixtieths = np.rint(60 * np.stack([loss(one) for one in jumps], axis=1)).astype(int)
    exact = Fraction(alpha).limit_denominator(1000)
    index = first_by_fractions(sixtieths, exact * 60, 60)
    if index == len(jumps):
        with pytest.warns(UserWarning, match="too few"):
            assert np.isposinf(conformal_risk_control(loss, (0.0, 1.0), alpha).threshold)
        return
    found = conformal_risk_control(loss, (0.0, 1.0), alpha)
    assert found.threshold == jumps[index]
    assert found.lambdas[found.index] == found.threshold
    assert found.adjusted_curve[found.index] <= alpha + 2e-9
    assert len(found.lambdas) <= 66
    if index:
        below = np.nextafter(found.threshold, -1)
        assert (loss(below).sum() + 1) / (n + 1) > alpha


def test_false_negative_rate_counts_missed_labels():
    scores = np.array([[0.9, 0.5, 0.2], [0.3, 0.8, 0.1]])
    truth = np.array([[1, 1, 0], [0, 0, 0]])
    loss = false_negative_rate(scores, truth)
    for threshold in (0.0, 0.1, 0.3, 0.5, 0.9):
        member = 1 - scores <= threshold
        missed = (truth.astype(bool) & ~member).sum(1) / np.array([2, 1])
        np.testing.assert_array_equal(loss(threshold), missed)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("namespace", [np, jnp])
def test_predicted_sets_lose_on_calibration_data_what_the_curve_says(precision, namespace):
    """Also where scores of another precision than the threshold's meet it at the jump itself."""
    rng = np.random.default_rng(3)
    scores = rng.uniform(size=(50, 8)).astype(precision)
    truth = rng.uniform(size=(50, 8)) < 0.4
    given_scores = namespace.asarray(scores)
    found = conformal_risk_control(false_negative_rate(given_scores, truth), (0.0, 1.0), 0.1)
    sets = found.predict(given_scores)
    missed = (truth & ~np.asarray(sets.member)).sum(1) / np.maximum(truth.sum(1), 1)
    assert missed.mean() == pytest.approx(found.risk_curve[found.index], abs=1e-12)
    assert sets.guarantee is not None
    assert sets.guarantee.kind == "risk"
    assert sets.threshold == found.threshold


def test_continuous_loss_meets_alpha_with_equality():
    excess = np.random.default_rng(0).uniform(0.5, 1.5, size=99)
    found = conformal_risk_control(lambda lam: np.clip(excess - lam, 0.0, 1.0), (-10.0, 10.0), 0.2)
    adjusted = (np.clip(excess - found.threshold, 0, 1).sum() + 1) / 100
    assert adjusted == pytest.approx(0.2, abs=3e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("jump", [-3.0, -1e-3, 0.0, 0.1, 5e3])
def test_bisection_ends_at_the_least_number_of_its_precision(dtype, jump):
    """Also across zero and for negative numbers, whose bit patterns run backwards."""
    jump = dtype(jump)
    found = conformal_risk_control(lambda lam: np.full(99, lam < jump, dtype=float), np.array([-1e4, 1e4], dtype), 0.1)
    assert found.threshold == jump
    assert found.threshold.dtype == dtype


def test_ends_of_the_interval():
    losses = conformal_risk_control(lambda lam: np.zeros(20), (2.0, 3.0), 0.1)
    assert losses.threshold == 2.0
    assert losses.index == 0
    with pytest.warns(UserWarning, match="risk is too high at the largest lambda: 0.5"):
        assert np.isposinf(conformal_risk_control(lambda lam: np.full(20, 0.5), (2.0, 3.0), 0.1).threshold)
    with pytest.warns(UserWarning, match="8 observations are too few for alpha = 0.1; at least 9"):
        found = conformal_risk_control(np.zeros((8, 2)), [0.0, 1.0], 0.1)
    assert np.isposinf(found.threshold)
    assert found.index == 2
    assert conformal_risk_control(np.zeros((9, 2)), [0.0, 1.0], 0.1).threshold == 0.0


def test_inside_jit_the_grid_gives_the_same():
    losses = -np.sort(-np.random.default_rng(1).uniform(size=(40, 30)), axis=1).astype(np.float32)
    lambdas = np.linspace(0, 1, 30, dtype=np.float32)
    plain = conformal_risk_control(losses, lambdas, 0.3)
    traced = jax.jit(lambda a, b: conformal_risk_control(a, b, 0.3))(losses, lambdas)
    assert traced.threshold == plain.threshold
    assert traced.index == plain.index
    hopeless = jax.jit(lambda a, b: conformal_risk_control(a, b, 0.01))(losses, lambdas)
    assert jnp.isposinf(hopeless.threshold)
    assert hopeless.index == 30


def test_guarantee_says_what_it_rests_on():
    found = conformal_risk_control(np.zeros((50, 1)), [0.0], 0.4, bound=2.0)
    assert (found.guarantee.kind, found.guarantee.level, found.guarantee.alpha, found.guarantee.n) == (
        "risk",
        0.4,
        0.4,
        50,
    )
    assert "never exceed 2" in str(found.guarantee)
    group = found.predict(np.zeros((3, 4))).to_arviz()["conformal"]
    assert group.attrs["guarantee"] == "risk"
    assert group.attrs["alpha"] == 0.4


def test_grid_refusals():
    losses, lambdas = np.tile([1.0, 0.5, 0.0], (4, 1)), np.arange(3.0)

    def changed(row, column, value):
        other = losses.copy()
        other[row, column] = value
        return other

    refused = pytest.raises
    with refused(ValueError, match="grow with lambda.* 1 of 4 rows: 2"):
        conformal_risk_control(changed(2, 2, 0.6), lambdas, 0.5)
    with refused(ValueError, match="exceed the bound 1, in 1 of 4 rows: 1"):
        conformal_risk_control(changed(1, 0, 1.5), lambdas, 0.5)
    for value in (np.nan, np.inf, -np.inf):
        with refused(ValueError, match="not finite, in 1 of 4 rows: 3"):
            conformal_risk_control(changed(3, 1, value), lambdas, 0.5)
    with refused(ValueError, match="ascend"):
        conformal_risk_control(losses, [0.0, 0.0, 1.0], 0.5)
    with refused(ValueError, match="ascend"):
        conformal_risk_control(losses, [0.0, 1.0, np.nan], 0.5)
    with refused(ValueError, match="shape"):
        conformal_risk_control(losses, [0.0, 1.0], 0.5)
    with refused(ValueError, match="shape"):
        conformal_risk_control(np.zeros((0, 3)), lambdas, 0.5)
    for alpha in (0.0, 1.0, -1.0, np.nan):
        with refused(ValueError, match="alpha"):
            conformal_risk_control(losses, lambdas, alpha)
    for bound in (0.0, -1.0, np.inf, np.nan):
        with refused(ValueError, match="bound"):
            conformal_risk_control(losses, lambdas, 0.1, bound)
    # Rounding is no growth.
    conformal_risk_control(changed(0, 1, 1.0 + 1e-15), lambdas, 0.5)


def test_function_refusals():
    def grows(lam):
        return np.array([0.0, 0.9 if abs(lam) < 1 else 0.0, 1.0 * (lam < 0.5)])

    with pytest.raises(ValueError, match=r"grow from lambda.* rows: 1"):
        conformal_risk_control(grows, (-3.0, 3.0), 0.4)
    with pytest.raises(ValueError, match="exceed the bound"):
        conformal_risk_control(lambda lam: np.full(9, 2.0), (0.0, 1.0), 0.5)
    with pytest.raises(ValueError, match="not finite"):
        conformal_risk_control(lambda lam: np.full(9, np.nan), (0.0, 1.0), 0.5)
    with pytest.raises(ValueError, match="expected \\(n,\\)"):
        conformal_risk_control(lambda lam: 1.0, (0.0, 1.0), 0.5)
    for interval in ((1.0, 0.0), (0.0, np.nan), (0.0, 0.5, 1.0), (1.0, 1.0)):
        with pytest.raises(ValueError, match="interval"):
            conformal_risk_control(lambda lam: np.zeros(9), interval, 0.5)


def test_helper_refusals():
    with pytest.raises(ValueError, match="truth"):
        false_negative_rate(np.zeros((3, 2)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"truth must be 0 or 1.* rows: 1"):
        false_negative_rate(np.zeros((2, 2)), np.array([[0, 1], [2, 0]]))
    with pytest.raises(ValueError, match=r"not finite.* rows: 0"):
        false_negative_rate(np.array([[np.nan, 0.0]]), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="NaN"):
        miscoverage(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="scores"):
        conformal_risk_control(np.zeros((9, 1)), [0.0], 0.5).predict(np.zeros(3))


def test_expected_loss_lies_between_the_two_bounds():
    """Theorems 1 and 2, at n = 19: within four standard errors, a false alarm once in 10^4."""
    rng = np.random.default_rng(7)
    n, alpha, repeats = 19, 0.2, 800
    risks = np.empty(repeats)
    for i in range(repeats):
        scores = rng.beta(3, 2, size=(n + 20, 4))
        truth = rng.uniform(size=scores.shape) < scores
        found = conformal_risk_control(false_negative_rate(scores[:n], truth[:n]), (0.0, 1.0), alpha)
        risks[i] = false_negative_rate(scores[n:], truth[n:])(found.threshold).mean()
    error = 4 * risks.std() / np.sqrt(repeats)
    assert alpha - 2 / (n + 1) - error <= risks.mean() <= alpha + error
