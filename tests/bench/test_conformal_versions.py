"""Conformal versions of the leaderboards' methods: what they are fitted to, what their sets are, how they are shown."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from uqsparse import bench
from uqsparse.bench import loading, registry
from uqsparse.bench.conformal_versions import (
    _shares,
    conformal_classification,
    conformal_forecast,
    conformal_regression,
)
from uqsparse.bench.formatting import method_labels
from uqsparse.bench.measure import run_entry
from uqsparse.bench.report import render
from uqsparse.bench.results import EntryResult, RunResult
from uqsparse.bounds.online import AdaptiveConformal
from uqsparse.bounds.scores.residuals import QuantileResidual

CONTEXT = bench.Context(seed=3, quick=True)
ENTRIES = """
@bench.task("line", kind="regression")
def line(context):
    rng = np.random.default_rng(context.seed)
    x = rng.normal(size=(120, 1))
    y = x[:, 0] + rng.normal(size=120)
    return bench.Split(x[:60], y[:60], x[60:], y[60:])

@bench.task("coin", kind="classification")
def coin(context):
    rng = np.random.default_rng(context.seed)
    return bench.Split(np.zeros((90, 1)), rng.integers(2, size=90), np.zeros((40, 1)), rng.integers(2, size=40))

@bench.task("walk", kind="forecast")
def walk(context):
    y = np.cumsum(np.random.default_rng(context.seed).normal(size=90))
    t = np.arange(90.0)[:, None]
    return bench.Split(t[:60], y[:60], t[60:], y[60:])

@bench.method("narrow", kind="regression")
def narrow(context, X_train, y_train, X_test):
    return bench.GaussianMixture(X_test[:, 0], 0.1)

@bench.method("even", kind="classification", conformal="full")
def even(context, X_train, y_train, X_test):
    return np.full((len(X_test), 2), 0.5)

@bench.method("last", kind="forecast")
def last(context, X_train, y_train):
    return lambda X, y: bench.GaussianMixture(np.r_[y_train[-1], y[:-1]], 0.1)

@bench.method("alone", kind="forecast", conformal=None)
def alone(context, X_train, y_train):
    return last(context, X_train, y_train)
"""


def tagged_split(n_train=30, n_test=10, seed=0):
    """Inputs that say which row they are."""
    rng = np.random.default_rng(seed)
    inputs = np.arange(n_train + n_test, dtype=float)[:, None]
    y = rng.normal(size=n_train + n_test)
    return bench.Split(inputs[:n_train], y[:n_train], inputs[n_train:], y[n_train:])


def test_a_regression_method_sees_two_thirds_and_is_calibrated_on_the_rest():
    split, seen = tagged_split(), {}

    def method(context, X_train, y_train, X_test):
        seen.update(fit=X_train[:, 0], y=y_train, wanted=X_test[:, 0])
        return bench.GaussianMixture(np.zeros(len(X_test)), 1.0 + 0.1 * X_test[:, 0])

    found = conformal_regression(method, CONTEXT, split, seed=5)
    held_out = seen["wanted"][:10].astype(int)
    assert sorted(np.r_[seen["fit"], held_out]) == list(range(30))
    np.testing.assert_array_equal(seen["y"], split.y_train[seen["fit"].astype(int)])
    np.testing.assert_array_equal(seen["wanted"][10:], split.X_test[:, 0])
    half = 1.6448536269514722 * (1.0 + 0.1 * seen["wanted"])
    scores = sorted(abs(split.y_train[held_out]) - half[:10])
    assert found.sets.threshold == pytest.approx(scores[9])  # the 10th of ten: ceil(11 * 0.9)
    np.testing.assert_allclose(found.sets.upper, half[10:] + scores[9])
    np.testing.assert_allclose(found.sets.lower, -half[10:] - scores[9])
    np.testing.assert_allclose(found.prediction.sd[0], 1.0 + 0.1 * split.X_test[:, 0])
    assert (found.n_fit, found.n_calibration) == (20, 10)
    again = conformal_regression(method, CONTEXT, split, seed=5)
    np.testing.assert_array_equal(again.sets.upper, found.sets.upper)
    other = conformal_regression(method, CONTEXT, split, seed=6)
    assert not np.array_equal(other.sets.upper, found.sets.upper)


def test_draws_are_calibrated_as_mixtures_are():
    split = tagged_split()
    draws = np.random.default_rng(1).normal(size=(400, 20))
    found = conformal_regression(lambda c, X, y, X_test: draws[:, : len(X_test)], CONTEXT, split, seed=0)
    assert found.prediction.shape == (400, 10)
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    np.testing.assert_allclose(found.sets.size(), (high - low)[10:] + 2 * found.sets.threshold)


def test_coverage_of_overconfident_methods_is_repaired():
    """300 splits: the mean coverage of 31 calibration rows is 29/32; six standard errors of it are 0.02."""

    def method(context, X_train, y_train, X_test):
        return bench.GaussianMixture(np.zeros(len(X_test)), 0.2)

    def cover(seed):
        found = conformal_regression(method, CONTEXT, tagged_split(93, 200, seed), seed)
        return found.sets.contains(tagged_split(93, 200, seed).y_test).mean()

    assert np.mean([cover(seed) for seed in range(300)]) == pytest.approx(29 / 32, abs=0.02)


def test_a_classification_method_gets_sets_of_its_probabilities():
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(80, 3)), rng.integers(3, size=80)
    split = bench.Split(inputs[:60], labels[:60], inputs[60:], labels[60:])
    seen = {}

    def method(context, X_train, y_train, X_test):
        seen.update(wanted=X_test)
        weights = np.exp(X_test)
        return weights / weights.sum(axis=1, keepdims=True)

    found = conformal_classification(method, CONTEXT, split, 3, seed=1)
    rows = [int(np.flatnonzero((inputs == one).all(axis=1))[0]) for one in seen["wanted"][:20]]
    assert all(row < 60 for row in rows)
    assert len(set(rows)) == 20
    weights = np.exp(seen["wanted"])
    p = weights / weights.sum(axis=1, keepdims=True)
    scores = sorted(1 - p[np.arange(20), labels[rows]])
    expected = 1 - p[20:] <= scores[18]  # the 19th of 20: ceil(21 * 0.9)
    expected[np.arange(20), p[20:].argmax(axis=1)] = True
    np.testing.assert_array_equal(found.sets.member, expected)
    np.testing.assert_allclose(found.prediction, p[20:])


def test_a_class_that_only_calibrates_is_a_reason():
    labels = np.r_[np.zeros(29, int), 1]
    split = bench.Split(np.zeros((30, 1)), labels, np.zeros((5, 1)), np.zeros(5, int))

    def run(seed):
        return conformal_classification(lambda c, X, y, T: np.full((len(T), 2), 0.5), CONTEXT, split, 2, seed)

    calibrates = [29 in _shares(30, seed)[1] for seed in range(20)]
    with pytest.raises(bench.NotMeasured, match="class 1 has no training rows"):
        run(calibrates.index(True))
    assert run(calibrates.index(False)).n_calibration == 10


def test_a_forecast_learns_from_the_first_rows_and_adapts_over_the_rest():
    rng = np.random.default_rng(0)
    y = rng.normal(size=90) * np.linspace(1, 4, 90)
    times = np.arange(90.0)[:, None]
    split, seen = bench.Split(times[:60], y[:60], times[60:], y[60:]), []

    def method(context, X_train, y_train):
        seen.append(len(y_train))
        return lambda X, y: bench.GaussianMixture(np.r_[y_train[-1], y[:-1]], 1.0)

    found = conformal_forecast(method, CONTEXT, split)
    assert set(seen) == {40}
    centre, half = np.r_[y[39:89]], 1.6448536269514722
    low, high = centre - half, centre + half
    expected = AdaptiveConformal(QuantileResidual(), 0.1, gamma=0.01).run(
        (low[20:], high[20:]), y[60:], ((low[:20], high[:20]), y[40:60])
    )
    np.testing.assert_allclose(found.sets.upper, expected.sets.upper)
    assert found.sets.guarantee.kind == "long-run"
    np.testing.assert_array_equal(found.prediction.mean[0], y[59:89])


def test_a_forecast_that_peeks_is_refused_here_too():
    y = np.random.default_rng(0).normal(size=60)
    times = np.arange(60.0)[:, None]
    split = bench.Split(times[:40], y[:40], times[40:], y[40:])
    with pytest.raises(ValueError, match="must depend on earlier targets only"):
        conformal_forecast(lambda c, X, y: lambda X, y: bench.GaussianMixture(y, 1.0), CONTEXT, split)


def test_too_few_rows_are_a_reason():
    with pytest.raises(bench.NotMeasured, match="2 training rows are too few"):
        conformal_regression(lambda c, X, y, T: bench.GaussianMixture(T[:, 0], 1.0), CONTEXT, tagged_split(2), 0)


@pytest.mark.usefixtures("empty_registry")
def test_every_method_has_its_version_a_users_too(write):
    loading.load(write(ENTRIES))
    quick = {entry.id: entry.quick for entry in registry.entries()}
    assert quick == {
        "score/line/narrow": True,
        "score/line/narrow + conformal": True,
        "score/coin/even": True,
        "score/coin/even + conformal": False,
        "score/walk/last": True,
        "score/walk/last + conformal": True,
        "score/walk/alone": True,
    }


@pytest.mark.usefixtures("empty_registry")
def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="conformal is True; expected 'quick', 'full' or None"):
        bench.method("m", kind="regression", conformal=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"names that end in ' \+ conformal'"):
        bench.method("m + conformal", kind="regression")


@pytest.fixture
def measured(empty_registry, write, tmp_path, about) -> RunResult:
    path = write(ENTRIES)
    loading.load(path)
    found = [EntryResult.from_json(run_entry(one.id, [str(path)], 0, True)) for one in registry.entries()]
    return RunResult(tuple(found), about, tmp_path / "index.html", tmp_path / "results.json")


def test_it_is_measured_and_shown_below_its_method(measured):
    assert all(entry.status == "measured" for entry in measured.entries)
    boards = measured.leaderboards()
    base, version = boards["line"]
    assert version.details["method"] == "narrow + conformal"
    assert version.details["scores"]["crps"] == base.details["scores"]["crps"]  # it does not look at the data
    assert base.details["scores"]["coverage"] < 0.4 < 0.8 < version.details["scores"]["coverage"]
    assert version.details["conformal"]["n_fit"] == 40
    assert method_labels(boards["line"]) == ["narrow", "↳ + conformal"]
    assert method_labels([version]) == ["narrow + conformal"]
    kept = json.loads(json.dumps(version.to_json()))
    assert EntryResult.from_json(kept).details["scores"] == version.details["scores"]

    page = render(measured)
    assert page.count("↳ + conformal") == 3
    assert "fitted to 40 of the 60 rows, calibrated on the other 20" in page
    assert "covers at least 0.9 of new observations" in page
    # The 19th of 20: coverage over all new rows has the law Beta(19, 2).
    assert "lies between 75% and 99% in 95 of 100 cases" in page
    assert "misses so often that the share of hits tends to 0.9" in page
    assert "arrows lead to the conformal versions" in page
    from uqsparse.bench import print_results

    console = Console(file=io.StringIO(), width=120)
    print_results(measured, console)
    assert console.file.getvalue().count("↳ + conformal") == 3


def test_it_competes_by_its_sets_only(measured):
    """Its distribution is as good as its method's here, and no star says so; its coverage is better."""
    from uqsparse.bench.report import _board

    rows = _board("line", measured.leaderboards()["line"])["rows"]
    starred = {name: [row["cells"][i][2] for row in rows] for i, name in enumerate(r[0] for r in rows[0]["cells"])}
    assert starred["crps"] == [False, False]  # one competes alone
    assert starred["coverage"] == [False, True]
    assert [cell[3] for cell in rows[1]["cells"]] == [True, True, True, False, False]


@pytest.mark.usefixtures("empty_registry")
def test_too_few_calibration_rows_give_unbounded_sets_that_are_shown_as_such(write, tmp_path):
    path = write(ENTRIES.replace("x[:60], y[:60], x[60:], y[60:]", "x[:12], y[:12], x[60:], y[60:]"))
    with pytest.warns(UserWarning, match="4 calibration scores are too few"):
        found = EntryResult.from_json(run_entry("score/line/narrow + conformal", [str(path)], 0, True))
    assert found.details["scores"]["width"] == math.inf
    assert found.details["scores"]["coverage"] == 1.0
    again = EntryResult.from_json(json.loads(json.dumps(found.to_json())))
    assert again.details["scores"]["width"] == math.inf
