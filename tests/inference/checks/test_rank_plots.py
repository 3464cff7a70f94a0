"""Pictures of ranks: bands that hold what they promise, bars that count every simulation."""

import numpy as np
import pytest
from scipy.stats import norm

from uqsparse.inference.checks.rank_plots import plot_ranks, simultaneous_band
from uqsparse.inference.checks.rank_verdict import judge_ranks


def judged(ranks, n_ranks, names=None):
    names = names or [f"s{i}" for i in range(ranks.shape[1])]
    return judge_ranks(ranks, n_ranks, names, 1e-300, subject="it")


@pytest.mark.parametrize(("n", "n_ranks"), [(100, 10), (300, 64), (37, 5)])
def test_the_band_holds_the_whole_line_as_often_as_it_says(n, n_ranks):
    low, high = simultaneous_band(n, n_ranks, 0.9)
    ranks = np.random.default_rng(5).integers(0, n_ranks, (4000, n))
    seen = np.stack([np.mean(ranks < k, axis=1) for k in range(1, n_ranks)], axis=1)
    held = np.mean(np.all((seen >= low - 1e-12) & (seen <= high + 1e-12), axis=1))
    # Counts are discrete, so a few per cent more may be held; 0.02 is four standard errors.
    assert 0.88 < held < 0.97


def test_every_statistic_has_a_histogram_and_a_difference():
    rng = np.random.default_rng(0)
    wrong = (norm.cdf(rng.normal(1.0, 1.0, 200)) * 16).astype(int)
    result = judged(np.stack([rng.integers(0, 16, 200), wrong], axis=1), 16, ["right", "$wrong$"])
    figure = result.plot()
    upper, lower = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title().splitlines()[0] for axes in upper] == ["right", "$wrong$"]
    for j, axes in enumerate(upper):
        bars = [patch.get_height() for patch in axes.patches if patch.get_width() < 0.5]
        assert sum(bars) == 200
        assert len(bars) == 16
        line = lower[j].lines[-1].get_ydata()
        assert line[0] == line[-1] == 0
        assert line[8] == pytest.approx(np.mean(result.ranks[:, j] < 8) - 0.5)
    figure.canvas.draw()


def test_of_many_statistics_the_worst_are_shown():
    rng = np.random.default_rng(1)
    ranks = rng.integers(0, 4, (60, 12))
    ranks[:, 7] = 3
    figure = plot_ranks(judged(ranks, 4), most=5)
    titles = [axes.get_title().splitlines()[0] for axes in figure.axes if axes.get_title()]
    assert len(titles) == 5
    assert "s7" in titles


def test_bad_options_are_refused():
    result = judged(np.zeros((3, 1), int), 2)
    with pytest.raises(ValueError, match="level"):
        plot_ranks(result, level=1.0)
    with pytest.raises(ValueError, match="most"):
        plot_ranks(result, most=0)
