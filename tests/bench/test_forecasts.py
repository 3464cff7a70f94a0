"""Forecasts one step ahead: who may see what, and the built-in forecasters on series with a known best one."""

import numpy as np
import pytest

from uqsparse import bench
from uqsparse.bench.entries import forecast_methods, forecast_tasks
from uqsparse.bench.forecasts import one_step_forecasts

CONTEXT = bench.Context(seed=3, quick=True)


def walk(n=120, seed=0):
    y = np.cumsum(np.random.default_rng(seed).normal(size=n))
    times = np.arange(n, dtype=float)[:, None]
    return bench.Split(times[:80], y[:80], times[80:], y[80:])


def test_a_causal_forecast_is_scored_as_it_came():
    split = walk()
    prediction, seconds = one_step_forecasts(forecast_methods.random_walk, CONTEXT, split)
    np.testing.assert_array_equal(prediction.mean[0], np.r_[split.y_train[-1], split.y_test[:-1]])
    assert seconds >= 0


@pytest.mark.parametrize("shift", [0, 1])
def test_a_forecast_that_peeks_is_refused(shift):
    """At its own target, and one beyond."""

    def peek(context, X_train, y_train):
        return lambda X_test, y_test: bench.GaussianMixture(np.r_[y_test[shift:], y_test[:shift]], 1.0)

    with pytest.raises(ValueError, match="must depend on earlier targets only"):
        one_step_forecasts(peek, CONTEXT, walk())


def test_a_spread_that_peeks_is_refused():
    def peek(context, X_train, y_train):
        return lambda X_test, y_test: bench.GaussianMixture(np.zeros(len(y_test)), np.std(y_test))

    with pytest.raises(ValueError, match="forecast 0 changed"):
        one_step_forecasts(peek, CONTEXT, walk())


def test_chance_outside_the_seed_is_refused():
    rng = np.random.default_rng()

    def noisy(context, X_train, y_train):
        return lambda X_test, y_test: rng.normal(size=(10, len(y_test)))

    with pytest.raises(ValueError, match=r"its chance on context\.seed only"):
        one_step_forecasts(noisy, CONTEXT, walk())


def test_unusable_forecasts_are_named():
    with pytest.raises(TypeError, match="returns a function of"):
        one_step_forecasts(lambda context, X, y: y, CONTEXT, walk())
    with pytest.raises(ValueError, match=r"expected \(k, 40\)"):
        one_step_forecasts(lambda c, X, y: lambda X, y: bench.GaussianMixture(y[1:], 1.0), CONTEXT, walk())
    split = walk()
    backwards = bench.Split(split.X_train[::-1], split.y_train, split.X_test, split.y_test)
    with pytest.raises(ValueError, match="time in a forecast task"):
        one_step_forecasts(forecast_methods.random_walk, CONTEXT, backwards)


@pytest.mark.parametrize("task", [forecast_tasks.inflation, forecast_tasks.treasury_bill, forecast_tasks.nile])
def test_tasks_forecast_the_last_third(task):
    split = task(CONTEXT)
    assert len(split.y_test) == pytest.approx(len(split.y_train) / 2, abs=1)
    assert split.X_test[0, 0] > split.X_train[-1, 0]
    assert split.source
    assert split.licence


def test_autoregression_finds_its_coefficients():
    rng = np.random.default_rng(0)
    y = np.zeros(4000)
    for t in range(2, 4000):
        y[t] = 0.6 * y[t - 1] - 0.3 * y[t - 2] + rng.normal()
    times = np.arange(4000.0)[:, None]
    split = bench.Split(times[:3900], y[:3900], times[3900:], y[3900:])
    prediction, _ = one_step_forecasts(forecast_methods.autoregression, CONTEXT, split)
    best = 0.6 * y[3899:-1] - 0.3 * y[3898:-2]
    np.testing.assert_allclose(prediction.mean[0], best, atol=0.2)  # four coefficients, each to 0.016
    np.testing.assert_allclose(prediction.sd, 1.0, atol=0.06)  # five standard errors of 0.011


def test_local_level_is_the_best_forecast_of_a_level_under_noise():
    """Within 5 % of the root mean square error of the filter that knows both variances, on 300 forecasts."""
    rng = np.random.default_rng(1)
    level = np.cumsum(0.5 * rng.normal(size=900))
    y, times = level + rng.normal(size=900), np.arange(900.0)[:, None]
    split = bench.Split(times[:600], y[:600], times[600:], y[600:])
    prediction, _ = one_step_forecasts(forecast_methods.local_level, CONTEXT, split)
    mean, variance, best = 0.0, 10.0, []
    for value in y:
        best.append(mean)
        gain = variance / (variance + 1)
        mean, variance = mean + gain * (value - mean), (1 - gain) * variance + 0.25
    ours, known = (np.sqrt(np.mean((split.y_test - m) ** 2)) for m in (prediction.mean[0], np.array(best)[600:]))
    assert ours < 1.05 * known


@pytest.mark.slow
def test_stochastic_volatility_sees_a_change_of_volatility():
    """Calm for 100 steps, then five times as wild: intervals widen, and the fixed spread of a random walk does not."""
    rng = np.random.default_rng(2)
    sds = np.r_[np.full(60, 0.3), np.full(30, 1.5), np.full(30, 0.3), np.full(30, 1.5)]
    y, times = sds * rng.normal(size=150), np.arange(150.0)[:, None]
    split = bench.Split(times[:90], y[:90], times[90:], y[90:])
    prediction, _ = one_step_forecasts(forecast_methods.stochastic_volatility, CONTEXT, split)
    calm, wild = prediction.sd[:, 15:30].mean(), prediction.sd[:, 45:].mean()
    assert wild > 1.5 * calm
