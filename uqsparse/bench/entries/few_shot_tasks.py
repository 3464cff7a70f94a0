"""Few-shot tasks of the leaderboards: functions from ten points, and digits from five examples of each."""

from functools import partial
from typing import Any

import jax

from uqsparse import bench, data

_N_QUERY = 20


def _sizes(context: bench.Context) -> int:
    """Test tasks."""
    return 50 if context.quick else 400


@bench.task("sines and lines", kind="few-shot regression")
def sines_and_lines(context: bench.Context) -> bench.Episodes:
    """Sine waves of any phase and straight lines, ten points under noise of 0.3."""
    sample = partial(data.sine_line_tasks, n_support=10, n_query=_N_QUERY)
    return bench.Episodes(sample, sample(jax.random.key(context.seed), _sizes(context)), "simulated")


def _smooth_functions(key: Any, n_tasks: int) -> data.FewShotTasks:
    """Functions of a Gaussian process, whose ten points of context are the support."""
    tasks = data.gp_tasks(key, n_tasks, min_context=10, min_target=_N_QUERY, max_points=10 + _N_QUERY)
    return data.FewShotTasks(tasks.context_x, tasks.context_y, tasks.target_x, tasks.target_y)


@bench.task("smooth functions", kind="few-shot regression", quick=False)
def smooth_functions(context: bench.Context) -> bench.Episodes:
    """Gaussian processes of many lengths and scales, ten points nearly without noise."""
    return bench.Episodes(
        _smooth_functions, _smooth_functions(jax.random.key(context.seed), _sizes(context)), "simulated"
    )


@bench.task("new digits", kind="few-shot classification")
def new_digits(context: bench.Context) -> bench.Episodes:
    """Three digits told apart from five examples of each; the four digits of the tests were never trained on."""
    table = data.digits()
    new = table.y >= 6
    sample = partial(_episodes, table.X[~new] / 16, table.y[~new])
    test = _episodes(table.X[new] / 16, table.y[new], jax.random.key(context.seed), _sizes(context))
    return bench.Episodes(sample, test, table.source, table.licence)


def _episodes(X: Any, y: Any, key: Any, n_tasks: int) -> data.FewShotTasks:
    return data.classification_tasks(key, X, y, n_tasks, n_way=3, n_shot=5, n_query=7)
