"""Few-shot leaderboards: what a method sees, how it is scored, and how it is shown."""

import numpy as np
import pytest
from scipy import stats

from uqsparse import bench
from uqsparse.bench import loading, registry
from uqsparse.bench.measure import run_entry
from uqsparse.bench.report import render
from uqsparse.bench.results import EntryResult, RunResult

ENTRIES = """
from uqsparse.data import FewShotTasks

N, S, Q = 30, 4, 6

def sample(key, n):
    level = np.arange(n, dtype=float)[:, None, None]
    return FewShotTasks(np.zeros((n, S, 2)), np.tile(level, (1, S, 1)), np.zeros((n, Q, 2)), np.tile(level, (1, Q, 1)))

@bench.task("levels", kind="few-shot regression")
def levels(context):
    return bench.Episodes(sample, sample(None, N), "made up", "none")

@bench.method("own level", kind="few-shot regression")
def own_level(context, sample, support_x, support_y, query_x):
    assert sample(None, 2).query_y.shape == (2, Q, 1)
    support_x[:], query_x[:] = np.nan, 0.0  # disturbs nobody
    sd = 1.0 + np.arange(N)
    return bench.GaussianMixture(np.repeat(support_y[:, 0, 0], Q), np.repeat(sd, Q))

@bench.task("signs", kind="few-shot classification")
def signs(context):
    y = np.tile([0, 1, 2], (5, 1))
    return bench.Episodes(sample, FewShotTasks(np.zeros((5, 3, 1)), y, np.zeros((5, 3, 1)), y))

@bench.method("own sign", kind="few-shot classification")
def own_sign(context, sample, support_x, support_y, query_x):
    return 0.4 * np.eye(3)[support_y.ravel()] + 0.2

@bench.method("no probabilities", kind="few-shot classification", conformal="full")
def no_probabilities(context, sample, support_x, support_y, query_x):
    return bench.GaussianMixture(np.zeros(15), 1.0)
"""


@pytest.fixture
def measured(empty_registry, write):
    path = write(ENTRIES)
    loading.load(path)
    found = [EntryResult.from_json(run_entry(one.id, [str(path)], 0, True)) for one in registry.entries()]
    return {one.id.removeprefix("score/"): one for one in found}


def test_queries_are_scored_task_by_task(measured):
    found = measured["levels/own level"]
    assert (found.status, found.reason) == ("measured", "")
    sd = 1.0 + np.arange(30)
    nll = -stats.norm.logpdf(0.0, 0.0, sd)
    assert found.details["scores"]["nll"] == pytest.approx(nll.mean())
    assert found.details["errors"]["nll"] == pytest.approx(nll.std(ddof=1) / np.sqrt(30)), "over tasks, not queries"
    assert [found.details[name] for name in ("n_tasks", "n_train", "n_test", "n_features")] == [30, 4, 6, 2]
    signs = measured["signs/own sign"].details
    assert signs["n_classes"] == 3
    assert signs["scores"]["brier"] == pytest.approx(0.4**2 + 2 * 0.2**2)
    assert "probabilities" in measured["signs/no probabilities"].reason


def test_there_are_no_conformal_versions(measured):
    assert sorted(measured) == ["levels/own level", "signs/no probabilities", "signs/own sign"]


def test_the_report_says_how_many_tasks(measured, tmp_path, about):
    page = render(RunResult(tuple(measured.values()), about, tmp_path / "index.html", tmp_path / "results.json"))
    assert "30 new tasks, each 4 to learn from, 6 to test on" in " ".join(page.split())
    assert "standard error over test tasks" in page


def few(**changed):
    from uqsparse.data import FewShotTasks

    arrays = {"support_x": (3, 4, 2), "support_y": (3, 4, 1), "query_x": (3, 5, 2), "query_y": (3, 5, 1)} | changed
    return FewShotTasks(**{name: np.zeros(shape) for name, shape in arrays.items()})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"query_x": (3, 5, 1)}, "supports have shapes"),
        ({"query_y": (2, 5, 1)}, "supports have shapes"),
        ({"support_y": (3, 4, 2), "query_y": (3, 5, 2)}, "one target a point"),
        ({"support_x": (3, 0, 2), "support_y": (3, 0, 1)}, "supports have shapes"),
        ({"query_x": (2, 5, 2), "query_y": (2, 5, 1)}, "one target a point"),
    ],
)
def test_unusable_tasks_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        bench.Episodes(None, few(**changed))
