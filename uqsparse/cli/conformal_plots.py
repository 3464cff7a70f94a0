"""Pictures of prediction sets: coverage with its bands, intervals in order, sizes of label sets."""

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from uqsparse.bounds.regions import Intervals, LabelSets
from uqsparse.cli.calibrated_rows import Level, Outcome, Slice
from uqsparse.cli.report_figures import BLUE, GREY, PALE, RED, percent, report_figure

_MOST_ROWS = 200
_MOST_SLICES = 16
_LEAST_ROWS = 10
_TITLES = {"group": "by group", "label": "by label", "size": "by size of set", "width": "by width, in fifths"}


def coverage_figure(outcome: Outcome) -> Figure:
    """Coverage of the labelled test rows and of parts of them, one panel a level, three at most."""
    levels = outcome.levels[:3]
    rows = [_rows(level) for level in levels]
    n = max(map(len, rows))
    figure, panels = report_figure(max(6.5, 2.0 + 3.4 * len(levels)), 1.5 + 0.27 * n, len(levels))
    for axes, level, found in zip(panels, levels, rows, strict=True):
        _draw_coverage(axes, level, found)
        axes.set_ylim(n - 0.4, -0.7)
    handles: list[Artist] = [
        Line2D([], [], color=BLUE, linewidth=1.2, linestyle=(0, (5, 3)), label="level asked for"),
        Line2D([], [], color="black", marker="o", markersize=5, linewidth=1.2, label="measured, 95% interval"),
        Line2D([], [], color=RED, marker="o", markersize=5, linewidth=1.2, label="the same, below the level"),
    ]
    if any(one is not None and one.coverage.expected is not None for found in rows for _, one in found):
        handles.append(Patch(color=PALE, label="expected of exchangeable rows, 95%"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=4 if len(levels) > 1 else 2, frameon=False, fontsize=8
    )
    return figure


def _rows(level: Level) -> list[tuple[str, Slice | None]]:
    """The lines of a panel from above: a title, or a slice. The report holds the slices that are left out here."""
    assert level.coverage is not None
    rows: list[tuple[str, Slice | None]] = [("all test rows", Slice("all", level.coverage, level.sizes.mean))]
    for breakdown in level.breakdowns:
        title, shown = _TITLES[breakdown.by], list(breakdown.slices)
        if breakdown.by == "size":
            # Empty sets miss by definition, and a few sets say nothing.
            shown = [one for one in shown if one.name != "0" and one.coverage.n >= _LEAST_ROWS]
        if len(shown) > _MOST_SLICES:
            title = f"{title}, the {_MOST_SLICES} least covered"
            shown = sorted(shown, key=lambda one: one.coverage.value)[:_MOST_SLICES]
        rows.append((title, None))
        rows += [(one.name if len(one.name) < 24 else one.name[:22] + "…", one) for one in shown]
    return rows


def _draw_coverage(axes: Axes, level: Level, rows: list[tuple[str, Slice | None]]) -> None:
    nominal = 1 - level.alpha
    axes.axvline(nominal, color=BLUE, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
    least = nominal
    for place, (_, one) in enumerate(rows):
        if one is None:
            continue
        found = one.coverage
        if (expected := found.expected) is not None:
            axes.barh(place, expected.high - expected.low, left=expected.low, height=0.8, color=PALE, zorder=0)
            least = min(least, expected.low)
        colour = RED if found.high < nominal else "black"
        axes.plot([found.low, found.high], [place, place], color=colour, linewidth=1.2)
        axes.plot(found.value, place, "o", color=colour, markersize=5, clip_on=False)
        axes.text(1.02, place, f"{found.n}", transform=axes.get_yaxis_transform(), va="center", size=8, color=GREY)
        least = min(least, found.low)
    axes.set_title(f"level {percent(nominal)}", loc="left", size=10)
    axes.set_title("rows", loc="right", size=8, color=GREY)
    axes.set_xlim(max(0.0, least - 0.02), 1.0)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], size=9, parse_math=False)
    for tick, (_, one) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set(color="black" if one is not None else GREY, style="normal" if one is not None else "italic")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#eeeeee")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(percent))
    axes.set_xlabel("coverage")


def intervals_figure(outcome: Outcome) -> Figure:
    """Intervals of the first level in the order of their middles, with labels inside and outside."""
    level = outcome.levels[0]
    assert isinstance(level.region, Intervals)
    lower, upper = np.asarray(level.region.lower), np.asarray(level.region.upper)
    finite = np.isfinite(lower) & np.isfinite(upper)
    figure, (axes,) = report_figure(8.5, 4.2)
    rows = np.flatnonzero(finite)
    rows = rows[np.argsort(lower[rows] + upper[rows], kind="stable")]
    if len(rows) > _MOST_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, _MOST_ROWS).round().astype(int)]
    place = np.arange(len(rows))
    axes.vlines(place, lower[rows], upper[rows], color="#9fc3e0", linewidth=max(0.8, min(4, 420 / max(len(rows), 1))))
    y = outcome.table.y[outcome.parts.test][rows]
    has_y = outcome.labelled[rows]
    inside = has_y & level.covered[rows]
    axes.plot(place[inside], y[inside], "o", color="#24425c", markersize=2.5, label="y inside its interval")
    missed = has_y & ~level.covered[rows]
    axes.plot(place[missed], y[missed], "X", color=RED, markersize=5, label="y outside")
    if has_y.any():
        axes.legend(loc="upper left", frameon=False, fontsize=9)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_xticks([])
    some = "" if len(rows) == finite.sum() else f", {len(rows)} of {finite.sum()}"
    unbounded = f"; {np.count_nonzero(~finite)} unbounded ones are left out" if not finite.all() else ""
    axes.set_xlabel(f"test rows by the middle of their {percent(1 - level.alpha)} interval{some}{unbounded}")
    axes.set_ylabel("y")
    return figure


def sizes_figure(outcome: Outcome) -> Figure:
    """How many test rows have sets of each size, one colour a level."""
    figure, (axes,) = report_figure(6.5, 3.6)
    sizes = [np.asarray(level.region.size()) for level in outcome.levels if isinstance(level.region, LabelSets)]
    most = max(int(one.max()) for one in sizes)
    width = 0.8 / len(sizes)
    colours = [BLUE, "#7fb2d9", "#24425c", "#a0a0a0", PALE]
    for i, (level, one) in enumerate(zip(outcome.levels, sizes, strict=True)):
        share = np.bincount(one, minlength=most + 1) / len(one)
        left = np.arange(most + 1) + (i - (len(sizes) - 1) / 2) * width
        label = f"level {percent(1 - level.alpha)}, mean {one.mean():.3g}"
        axes.bar(left, share, width=0.92 * width, color=colours[i % len(colours)], label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.grid(axis="y", color="#eeeeee")
    axes.set_xlabel("labels in the set")
    axes.set_ylabel("test rows")
    axes.legend(frameon=False, fontsize=9)
    return figure
