"""Exact simulation of predators and prey, against the generator of its Markov chain."""

import numpy as np
import pytest
from scipy import stats

from uqsparse.data.lotka_volterra import lotka_volterra_populations, lotka_volterra_tasks


@pytest.fixture(scope="module")
def found():
    return lotka_volterra_populations(3, 100, n_events=600)


def test_events_have_the_rates_of_the_source(found):
    """Kinds by a chi-squared test of their probabilities, waiting times by Kolmogorov-Smirnov; level 1e-5 each."""
    X, Y = found.counts[:, :-1, 0].astype(float), found.counts[:, :-1, 1].astype(float)
    rates = np.stack([0.01 * X * Y, 0.5 * X, Y, 0.01 * X * Y])
    step = np.diff(found.counts, axis=1)
    kinds = np.stack([(step == change).all(-1) for change in ([1, 0], [-1, 0], [0, 1], [0, -1])])
    assert (kinds.sum(0) == 1).all()
    p = rates / rates.sum(0)
    deviation = kinds.sum((1, 2)) - p.sum((1, 2))
    # Increments are martingale differences: a z-score a kind, at 4.9 standard errors (1e-6 each).
    assert (np.abs(deviation) < 4.9 * np.sqrt((p * (1 - p)).sum((1, 2)))).all()
    waits = np.diff(found.times.astype(float), axis=1) * rates.sum(0)
    assert abs(waits.mean() - 1) < 5 / np.sqrt(waits.size)
    assert stats.kstest(waits[:, ::20].ravel(), "expon").pvalue > 1e-5


def test_the_start_is_the_stated_one(found):
    start = found.counts[:, 0]
    assert set(start[:, 0]) <= set(range(45, 56))
    assert set(start[:, 1]) <= set(range(95, 106))
    # Truncation of 50 + N(0, 1) takes half a unit off.
    assert (np.abs(start.mean(0) - [49.5, 99.5]) < 5 * 1.1 / 10).all()
    assert (found.times[:, 0] == 0).all()


def test_a_simulation_ends_when_a_population_has_died_out():
    found = lotka_volterra_populations(0, 12, n_events=6000)
    assert (found.lengths < 6000).any()
    for times, counts, length in zip(*found, strict=True):
        assert (counts[: length - 1] > 0).all()
        if length < 6000:
            assert counts[length - 1].min() == 0
            assert (counts[length - 1 :] == counts[length - 1]).all()
            assert (times[length - 1 :] == times[length - 1]).all()


def test_tasks_hold_events_of_one_simulation():
    tasks = lotka_volterra_tasks(0, 6, n_events=300)
    n_context, n_target = tasks.context_mask.sum(1), tasks.target_mask.sum(1)
    assert n_context.min() >= 15
    assert n_target.min() >= 15
    assert (n_context + n_target).max() <= 100
    assert tasks.context_x.shape == (6, 85, 1)
    assert tasks.context_y.shape == (6, 85, 2)
    for i in range(6):
        x = np.concatenate([tasks.context_x[i][tasks.context_mask[i]], tasks.target_x[i][tasks.target_mask[i]]])
        y = np.concatenate([tasks.context_y[i][tasks.context_mask[i]], tasks.target_y[i][tasks.target_mask[i]]])
        order = np.argsort(x[:, 0])
        assert len(np.unique(x)) == len(x)
        assert (y == np.round(y)).all()
        # Populations change by one an event, and all 300 events are shared among the gaps.
        assert np.abs(np.diff(y[order], axis=0)).sum(1).sum() <= 300
        assert (np.diff(order) < 0).any()
    again = lotka_volterra_tasks(0, 6, n_events=300)
    assert all((a == b).all() for a, b in zip(tasks, again, strict=True))


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"seed": -1}, "seed"),
        ({"n_tasks": 0}, "n_tasks"),
        ({"n_events": 99}, "n_events"),
        ({"max_points": 20}, "max_points"),
        ({"min_target": 0}, "min_target"),
        ({"min_context": -1}, "min_context"),
    ],
)
def test_bad_arguments_are_named(changed, name):
    with pytest.raises(ValueError, match=name):
        lotka_volterra_tasks(**({"seed": 0, "n_tasks": 2} | changed))


def test_bad_populations_are_refused():
    with pytest.raises(ValueError, match="n_events"):
        lotka_volterra_populations(0, 2, n_events=1)
