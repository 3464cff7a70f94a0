"""Pictures of ranks: their histograms, and how far their distribution functions are from that of uniform ranks."""

import functools
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.stats import binom

from uqsparse.inference.checks.rank_verdict import RankVerdict
from uqsparse.kernels.arguments import require_fraction

_COLUMNS = 4
MOST_PANELS = 8
_MOST_BARS = 20
# Matplotlib's first colour and a grey; whoever draws the figure elsewhere may replace them.
_LINE, _BAND = "#1f77b4", "#bbbbbb"


def plot_ranks(result: RankVerdict, *, level: float = 0.95, most: int = MOST_PANELS) -> Figure:
    """Draw, for each statistic, the histogram of its ranks above the difference of distribution functions.

    Grey is what uniform ranks do: each bar lies in its band with probability `level`, and so does the whole line of
    the difference in its own (a simultaneous band). A slope in the histogram means draws too high or low, a hump draws
    too wide, a bowl draws too narrow or too dependent.

    Args:
        result: of `rank_test` or `sbc`.
        level: probability of the bands, in (0, 1).
        most: statistics to show, at least 1; those with most evidence against them come first if there are more.

    Returns:
        The figure.

    Raises:
        ValueError: an option is out of range, or there are no ranks.

    Source: Talts, Betancourt, Simpson, Vehtari & Gelman (2018), Validating Bayesian inference algorithms with
    simulation-based calibration (histograms); Säilynoja, Bürkner & Vehtari (2022), Graphical test for discrete
    uniformity and its applications in goodness of fit evaluation and multiple sample comparison (differences).
    """
    require_fraction("level", level)
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most!r}")
    n, n_statistics = result.ranks.shape
    if not n or not n_statistics:
        raise ValueError("result has no ranks to draw")
    shown = np.arange(n_statistics)
    if n_statistics > most:
        shown = np.sort(np.argsort(-result.log_e_values, kind="stable")[:most])
    n_blocks = -(-len(shown) // _COLUMNS)
    n_columns = -(-len(shown) // n_blocks)
    figure = Figure(figsize=(1.0 + 2.9 * n_columns, 4.3 * n_blocks), layout="constrained")
    axes: Any = figure.subplots(2 * n_blocks, n_columns, squeeze=False)
    for place in range(n_blocks * n_columns):
        block, column = divmod(place, n_columns)
        above, below = axes[2 * block, column], axes[2 * block + 1, column]
        if place >= len(shown):
            above.set_axis_off()
            below.set_axis_off()
            continue
        i = int(shown[place])
        _histogram(above, result.ranks[:, i], result.n_ranks, level)
        _difference(below, result.ranks[:, i], result.n_ranks, level)
        above.set_title(f"{result.names[i]}\nlog e-value {result.log_e_values[i]:.1f}", size=10, parse_math=False)
        below.set_xlabel("rank, as a share of its range")
        if not column:
            above.set_ylabel(f"simulations of {n}")
            below.set_ylabel("distribution function,\nminus uniform")
    return figure


def simultaneous_band(
    n: int, n_ranks: int, level: float = 0.95
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Band that holds the whole empirical distribution function of uniform ranks with some probability.

    Args:
        n: number of ranks, at least 1.
        n_ranks: number L of values, at least 2.
        level: probability of the band, in (0, 1).

    Returns:
        Lower and upper limits of the share of ranks below k, for k = 1, ..., L - 1.

    Source: Säilynoja, Bürkner & Vehtari (2022), see `plot_ranks`: pointwise limits are binomial quantiles, all at the
    one level that makes the band simultaneous, which is found by simulation.

    >>> low, high = simultaneous_band(100, 4)
    >>> bool(low[1] < 0.4), bool(high[1] > 0.6)
    (True, True)
    """
    tail = _pointwise_tail(n, n_ranks, level)
    shares = np.arange(1, n_ranks) / n_ranks
    return binom.ppf(tail, n, shares) / n, binom.isf(tail, n, shares) / n


@functools.lru_cache(maxsize=64)
def _pointwise_tail(n: int, n_ranks: int, level: float, n_samples: int = 4000) -> float:
    """Tail probability on either side at each point, such that no point is outside with probability `level`."""
    counts = np.random.default_rng(0).multinomial(n, np.full(n_ranks, 1 / n_ranks), size=n_samples)
    below, shares = np.cumsum(counts, axis=1)[:, :-1], np.arange(1, n_ranks) / n_ranks
    tails = np.minimum(binom.cdf(below, n, shares), binom.sf(below - 1, n, shares))
    return float(np.quantile(tails.min(axis=1), 1 - level))


def _histogram(axes: Axes, ranks: Int[np.ndarray, " n"], n_ranks: int, level: float) -> None:
    """Neighbouring ranks share a bar: as many bars as divide their number and hold ten simulations each."""
    n = len(ranks)
    most = max(4, min(_MOST_BARS, n // 10))
    n_bars = max((k for k in range(2, most + 1) if n_ranks % k == 0), default=n_ranks)
    counts = np.bincount(ranks * n_bars // n_ranks, minlength=n_bars)
    low, high = binom.ppf([(1 - level) / 2, (1 + level) / 2], n, 1 / n_bars)
    axes.axhspan(low, high, color=_BAND, alpha=0.5, linewidth=0)
    axes.axhline(n / n_bars, color="#808080", linewidth=1)
    edges = np.arange(n_bars) / n_bars
    axes.bar(edges, counts, 1 / n_bars, align="edge", color=_LINE, alpha=0.75, edgecolor="#ffffff", linewidth=0.6)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, max(1.15 * counts.max(), 1.15 * high))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _share_axis(axes)


def _difference(axes: Axes, ranks: Int[np.ndarray, " n"], n_ranks: int, level: float) -> None:
    shares = np.arange(n_ranks + 1) / n_ranks
    seen = np.concatenate([[0.0], np.cumsum(np.bincount(ranks, minlength=n_ranks)) / len(ranks)])
    low, high = simultaneous_band(len(ranks), n_ranks, level)
    pad = np.zeros(1)
    low, high = np.concatenate([pad, low, pad + 1]) - shares, np.concatenate([pad, high, pad + 1]) - shares
    axes.fill_between(shares, low, high, color=_BAND, alpha=0.5, linewidth=0)
    axes.axhline(0, color="#808080", linewidth=1)
    axes.plot(shares, seen - shares, color=_LINE, linewidth=1.6)
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    _share_axis(axes)


def _share_axis(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xticks([0, 0.5, 1])
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
