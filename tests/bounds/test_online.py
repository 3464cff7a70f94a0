"""Adaptive conformal inference against plain Python, MAPIE, and its bound on adversarial series."""

import math
import warnings
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqsparse.bounds.adaptive_levels import dtaci_rates, error_bound, follow_levels, rank_at, start_levels
from uqsparse.bounds.online import AdaptiveConformal
from uqsparse.bounds.scores.labels import LAC
from uqsparse.bounds.scores.residuals import AbsoluteResidual, NormalisedResidual, QuantileResidual
from uqsparse.kernels import conformal_rank

ABSOLUTE = AbsoluteResidual()
pytestmark = pytest.mark.filterwarnings("ignore:.*hold.* every value")


def quantile(scores, alpha):
    """The threshold as the papers define it, from a sorted list."""
    n = len(scores)
    if alpha <= 0:
        return math.inf
    if alpha >= 1:
        return -math.inf
    rank = math.ceil((n + 1) * (1 - Fraction(alpha) - Fraction(1, 10**9)))
    return -math.inf if rank < 1 else math.inf if rank > n else sorted(scores)[rank - 1]


def kept(scores, window, n_start):
    if window == "fixed":
        return scores[:n_start]
    return scores if window == "expanding" else scores[-window:]


def plain_aci(before, scores, alpha, gamma, window):
    level, past, rows = alpha, list(before), []
    for score in scores:
        calibration = kept(past, window, len(before))
        threshold = quantile(calibration, level)
        rows.append((level, threshold, score > threshold))
        level = level + gamma * (alpha - (score > threshold))
        past.append(score)
    return rows


def plain_dtaci(before, scores, alpha, gammas, window, horizon=500):
    """Algorithm 1 of Gibbs & Candès (2024), with the mean of the experts, as the paper's figures use it."""
    k = len(gammas)
    eta = math.sqrt(3 / horizon) * math.sqrt(
        (math.log(2 * k * horizon) + 1) / ((1 - alpha) ** 2 * alpha**3 + (1 - alpha) ** 3 * alpha**2)
    )
    sigma = 1 / (2 * horizon)
    levels, weights, past, rows = [alpha] * k, [1.0] * k, list(before), []
    for score in scores:
        calibration = kept(past, window, len(before))
        shares = [w / sum(weights) for w in weights]
        level = sum(p * a for p, a in zip(shares, levels, strict=True))
        threshold = quantile(calibration, level)
        rows.append((level, threshold, score > threshold))
        beta = (1 + sum(one >= score for one in calibration)) / (len(calibration) + 1)
        losses = [alpha * (beta - a) - min(0.0, beta - a) for a in levels]
        tilted = [w * math.exp(-eta * loss) for w, loss in zip(weights, losses, strict=True)]
        weights = [(1 - sigma) * w + sigma * sum(tilted) / k for w in tilted]
        misses = [score > quantile(calibration, a) for a in levels]
        levels = [a + g * (alpha - miss) for a, g, miss in zip(levels, gammas, misses, strict=True)]
        past.append(score)
    return rows


def shifting(n, seed=0, growth=8.0):
    return np.random.default_rng(seed).normal(size=n) * np.linspace(1, growth, n)


@pytest.mark.parametrize("window", ["expanding", "fixed", 20])
@pytest.mark.parametrize("method", ["aci", "dtaci"])
def test_it_is_the_papers_algorithm(method, window):
    before, y = np.random.default_rng(1).normal(size=30), shifting(200).round(1)  # rounded: there are ties
    gamma = 0.05 if method == "aci" else (0.005, 0.02, 0.08)
    found = AdaptiveConformal(ABSOLUTE, 0.2, method=method, gamma=gamma, window=window).run(
        np.zeros(200), y, calibration=(np.zeros(30), before)
    )
    plain = plain_aci if method == "aci" else plain_dtaci
    rows = plain(abs(before).tolist(), abs(y).tolist(), 0.2, gamma, window)
    levels, thresholds, err = (np.array(one) for one in zip(*rows, strict=True))
    np.testing.assert_allclose(found.alpha_t, levels, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.sets.threshold, thresholds)
    np.testing.assert_array_equal(found.err, err)
    np.testing.assert_array_equal(found.sets.upper, thresholds)
    np.testing.assert_array_equal(found.sets.contains(y), ~err)
    assert 0.1 < found.mean_error < 0.4


@pytest.mark.parametrize("window", ["expanding", "fixed", 20])
@pytest.mark.parametrize("method", ["aci", "dtaci"])
def test_step_by_step_is_the_whole_series(method, window):
    y = shifting(60)
    adaptive = AdaptiveConformal(ABSOLUTE, 0.2, method=method, window=window)
    whole = adaptive.run(np.zeros(60), y, calibration=(np.zeros(25), y[:25]))
    state = adaptive.init(abs(y[:25]))
    for t in range(60):
        region = adaptive.predict(state, 0.0)
        assert region.upper[0] == whole.sets.upper[t]
        state = adaptive.update(state, np.zeros(1), y[t])
    np.testing.assert_array_equal(state.scores, whole.state.scores)
    np.testing.assert_allclose(state.levels.levels, whole.state.levels.levels, atol=1e-12)
    halves = adaptive.run(np.zeros(30), y[:30], calibration=(np.zeros(25), y[:25])).state
    for t in range(30, 60):
        halves, seen = adaptive.step(halves, abs(y[t : t + 1]))
        assert seen.err == whole.err[t]


class Adversary:
    """Chooses each score after it has seen the set: misses whenever it likes."""

    def __init__(self, choices):
        self.choices = choices

    def run(self, adaptive, before):
        state, misses = adaptive.init(before), []
        for choice in self.choices:
            upper = adaptive.predict(state, 0.0).upper[0]
            outside = np.nextafter(upper, np.inf) if np.isfinite(upper) else 0.0
            score = {"miss": max(outside, 0.0), "hit": 0.0, "huge": 1e300, "edge": max(min(upper, 1e300), 0.0)}[choice]
            state, seen = adaptive.step(state, np.array([score]))
            misses.append(bool(seen.err))
            assert seen.err == (score > upper)
        return np.mean(misses)


@settings(max_examples=40, deadline=None)
@given(
    choices=st.lists(st.sampled_from(["miss", "hit", "huge", "edge"]), min_size=1, max_size=120),
    before=st.lists(st.floats(0, 10), min_size=1, max_size=20),
    alpha=st.floats(0.01, 0.99),
    gamma=st.floats(0.001, 2.0),
    initial=st.floats(0.01, 0.99),
    window=st.sampled_from(["expanding", "fixed", 7]),
)
def test_the_share_of_misses_stays_within_the_bound_against_an_adversary(
    choices, before, alpha, gamma, initial, window
):
    adaptive = AdaptiveConformal(ABSOLUTE, alpha, gamma=gamma, initial=initial, window=window)
    share = Adversary(choices).run(adaptive, np.array(before))
    assert abs(share - alpha) <= error_bound(gamma, initial, len(choices)) + 1e-9


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.floats(0, 1e6) | st.just(math.inf), min_size=1, max_size=150),
    alpha=st.floats(0.01, 0.99),
    gamma=st.sampled_from([0.005, 0.05, 0.5]),
)
def test_the_share_of_misses_stays_within_the_bound_on_any_series(scores, alpha, gamma):
    found = AdaptiveConformal(ABSOLUTE, alpha, gamma=gamma).run(np.zeros(len(scores)), np.array(scores))
    assert found.bound == pytest.approx((max(alpha, 1 - alpha) + gamma) / (gamma * len(scores)))
    assert abs(found.mean_error - alpha) <= found.bound + 1e-9


@given(n=st.integers(0, 3000), alpha=st.floats(1e-4, 0.9999) | st.sampled_from([0.1, 1 - 0.9, 0.05, 1 / 3, 0.7]))
def test_ranks_are_the_exact_ones(n, alpha):
    assert rank_at(np.array(n), np.array(alpha)) == conformal_rank(n, alpha)


def test_levels_beyond_zero_and_one_are_the_line_and_the_empty_set():
    assert rank_at(np.array(9), np.array([-0.3, 0.0, 1.0, 1.2])).tolist() == [10, 10, 0, 0]
    adaptive = AdaptiveConformal(ABSOLUTE, 0.1, gamma=0.5)
    state = adaptive.update(adaptive.init(np.ones(50)), 0.0, 100.0)
    assert state.alpha_t < 0
    with pytest.warns(UserWarning, match="the set holds every value"):
        assert adaptive.predict(state, 3.0).upper[0] == np.inf
    hits = AdaptiveConformal(ABSOLUTE, 0.9, gamma=0.5)
    state = hits.update(hits.init(np.ones(50)), 0.0, 0.5)
    assert state.alpha_t > 1
    region = hits.predict(state, 3.0)
    assert region.size()[0] == 0
    assert not region.contains(np.array([3.0]))[0]


def test_the_recommended_rates_are_those_of_the_authors():
    """Their code has eta = 2.72 and sigma = 1/1000 for eight step sizes at alpha = 0.1 and a horizon of 500."""
    eta, sigma = dtaci_rates(0.1, 8, 500)
    assert eta == pytest.approx(2.72, abs=0.005)
    assert sigma == 1 / 1000


def test_mapie_moves_its_level_and_its_intervals_as_we_do():
    """MAPIE keeps the level inside [0, 1] and counts a value on the edge as a miss: neither happens here."""
    pytest.importorskip("mapie")
    from mapie.conformity_scores import AbsoluteConformityScore
    from mapie.regression import TimeSeriesRegressor
    from sklearn.dummy import DummyRegressor

    rng = np.random.default_rng(5)
    before, y = rng.normal(size=200), 1.6 * rng.normal(size=60)
    inputs = np.zeros((200, 1))
    zero = DummyRegressor(strategy="constant", constant=0.0).fit(inputs, before)
    mapie = TimeSeriesRegressor(zero, "aci", "prefit", conformity_score=AbsoluteConformityScore(sym=True))
    ours = AdaptiveConformal(ABSOLUTE, 0.1, gamma=0.01, window="fixed").run(
        np.zeros(60), y, calibration=(np.zeros(200), before)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapie.fit(inputs, before)
        for t in range(60):
            _, bounds = mapie.predict(inputs[:1], confidence_level=0.9)
            assert mapie.current_alpha[0.1] == pytest.approx(ours.alpha_t[t], abs=1e-12)
            assert bounds[0, 1, 0] == pytest.approx(ours.sets.upper[t], abs=1e-12)
            assert bounds[0, 0, 0] == pytest.approx(ours.sets.lower[t], abs=1e-12)
            mapie.adapt_conformal_inference(inputs[:1], y[t : t + 1], gamma=0.01, confidence_level=0.9)
    assert ours.alpha_t.min() > 0
    assert ours.err.any()


def test_dtaci_prefers_large_steps_where_the_scale_jumps_and_small_ones_where_it_stays():
    calm = np.random.default_rng(0).normal(size=2000)
    jumpy = calm * np.repeat(np.tile([1.0, 6.0], 10), 100)
    sizes = []
    for y in (calm, jumpy):
        adaptive = AdaptiveConformal(ABSOLUTE, 0.1, method="dtaci", gamma=(0.001, 0.128), window=100)
        weights = adaptive.run(np.zeros(1900), y[100:], calibration=(np.zeros(100), y[:100])).state.levels.weights
        sizes.append(weights[1])
    assert sizes[0] < 0.5 < sizes[1]


def test_it_follows_a_growing_scale_which_split_conformal_does_not():
    y = shifting(3000, growth=30.0)
    found = AdaptiveConformal(ABSOLUTE, 0.1, gamma=0.02, window=200).run(
        np.zeros(2800), y[200:], calibration=(np.zeros(200), y[:200])
    )
    assert abs(found.mean_error - 0.1) < 0.01
    split = (abs(y[200:]) > quantile(abs(y[:200]), 0.1)).mean()
    assert split > 0.5


def test_series_and_step_sizes_run_under_vmap_as_they_do_one_by_one():
    y = np.stack([shifting(150, seed) for seed in range(3)])
    adaptive = AdaptiveConformal(ABSOLUTE, 0.1, gamma=0.03)
    zeros = np.zeros(150)
    together = jax.jit(jax.vmap(lambda one: adaptive.run(zeros, one, (zeros[:40], one[:40]))))(jnp.asarray(y))
    for row in range(3):
        alone = adaptive.run(zeros, y[row], (zeros[:40], y[row, :40]))
        np.testing.assert_array_equal(together.err[row], alone.err)
        np.testing.assert_allclose(together.sets.upper[row], alone.sets.upper, rtol=1e-6)
        np.testing.assert_allclose(together.alpha_t[row], alone.alpha_t, atol=1e-5)
    assert together.mean_error.shape == (3,)
    below, n = np.random.default_rng(0).integers(0, 41, size=80), np.full(80, 40)
    gammas = jnp.array([0.01, 0.1])
    counts = jnp.asarray(below), jnp.asarray(n)
    _, seen = jax.vmap(lambda gamma: follow_levels(start_levels(0.1, gamma), *counts))(gammas)
    for row, gamma in enumerate((0.01, 0.1)):
        np.testing.assert_array_equal(seen.err[row], follow_levels(start_levels(0.1, gamma), below, n)[1].err)


def test_a_sliding_window_steps_inside_scan():
    y = shifting(80)
    adaptive = AdaptiveConformal(ABSOLUTE, 0.2, gamma=0.05, window=30)
    whole = adaptive.run(np.zeros(50), y[30:], calibration=(np.zeros(30), y[:30]))
    start = jax.tree.map(jnp.asarray, adaptive.init(abs(y[:30])))
    _, seen = jax.lax.scan(adaptive.step, start, jnp.asarray(abs(y[30:, None])))
    np.testing.assert_array_equal(seen.err, whole.err)


def test_other_scores_give_their_own_sets():
    y = shifting(300)
    scale = np.linspace(1, 8, 300)
    pair = (-scale, scale)
    for score, predictions in ((NormalisedResidual(), (np.zeros(300), scale)), (QuantileResidual(), pair)):
        found = AdaptiveConformal(score, 0.1).run(predictions, y, calibration=(predictions, y[::-1]))
        np.testing.assert_array_equal(found.sets.contains(y), ~found.err)
    width = found.sets.size()
    assert width[-1] > width[0]
    p = np.random.default_rng(0).dirichlet(np.ones(4), size=300)
    labels = np.random.default_rng(1).integers(4, size=300)
    found = AdaptiveConformal(LAC(), 0.3, gamma=0.05).run(p, labels, calibration=(p, labels[::-1]))
    np.testing.assert_array_equal(found.sets.contains(labels), ~found.err)
    assert found.sets.size().shape == (300,)


def test_the_guarantee_says_what_holds():
    y = shifting(100)
    aci = AdaptiveConformal(ABSOLUTE, 0.1).run(np.zeros(100), y)
    assert aci.guarantee.kind == "long-run"
    assert aci.guarantee.level == 0.9
    assert aci.guarantee.n == 100
    dtaci = AdaptiveConformal(ABSOLUTE, 0.1, method="dtaci").run(np.zeros(100), y)
    assert dtaci.guarantee.kind == "approximate"
    assert dtaci.bound is None
    group = aci.to_arviz()["conformal"]
    assert group.attrs["guarantee"] == "long-run"
    np.testing.assert_array_equal(group["pvalue"].values, aci.pvalue)


@pytest.mark.filterwarnings("default")
def test_unbounded_sets_are_infinite_and_announced():
    with pytest.warns(UserWarning, match=r"9 of 20 sets hold every value"):
        found = AdaptiveConformal(ABSOLUTE, 0.1, gamma=1e-6).run(np.zeros(20), np.ones(20))
    assert np.isposinf(found.sets.upper).sum() == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.0}, "alpha must lie strictly"),
        ({"method": "agaci"}, "method must be 'aci' or 'dtaci', got 'agaci'"),
        ({"gamma": 0.0}, "gamma must be positive"),
        ({"gamma": float("nan")}, "gamma must be positive"),
        ({"gamma": (0.1, 0.2)}, "one step size for method 'aci'"),
        ({"method": "dtaci", "gamma": 0.1}, "several step sizes for method 'dtaci'"),
        ({"window": 0}, "window must be an integer of at least 1"),
        ({"window": "sliding"}, "window must be an integer of at least 1, got 'sliding'"),
        ({"initial": 0.0}, "initial must lie strictly"),
        ({"horizon": 0}, "horizon must be an integer"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveConformal(ABSOLUTE, **arguments)


def test_bad_input_is_refused_before_any_work():
    adaptive = AdaptiveConformal(ABSOLUTE)
    with pytest.raises(ValueError, match=r"scores are NaN in 1 of 3 rows: 1"):
        adaptive.run(np.zeros(3), np.array([0.0, np.nan, 1.0]))
    with pytest.raises(ValueError, match="predictions has shape"):
        adaptive.run(np.zeros(4), np.zeros(3))
    with pytest.raises(ValueError, match="window='fixed'"):
        AdaptiveConformal(ABSOLUTE, window="fixed").run(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="one observation is seen at a time, got 2"):
        adaptive.step(adaptive.init(), np.zeros(2))
    with pytest.raises(TypeError, match="score must be a Score"):
        AdaptiveConformal(lambda p, y: y)  # type: ignore[arg-type]
