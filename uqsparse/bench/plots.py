"""The report's plots, as inline SVG whose colours follow the page's light or dark theme."""

import io
import re
import textwrap
from collections.abc import Sequence
from typing import Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from uqsparse.bench.formatting import column, number
from uqsparse.bench.records import Picture

# Stand-ins that are replaced by the page's colours when the drawing is done.
INK, MUTED, LINE, ACCENT, SOFT, BAD, CARD = (f"#0{i}0{i}0{i}" for i in range(1, 8))
_THEME = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    SOFT: "var(--soft)",
    BAD: "var(--bad)",
    CARD: "var(--card)",
}
# The colours of a Matplotlib figure that take the page's; others stay as they are.
_PLAIN = {
    "#000000": "var(--ink)",
    "#808080": "var(--muted)",
    "#bbbbbb": "var(--soft)",
    "#1f77b4": "var(--accent)",
    "#ffffff": "var(--card)",
}
_WIDTH = 6.4  # inches at 72 units an inch


class Bar(NamedTuple):
    """One row of a bar plot: a name, its value and standard error, None where there is none."""

    name: str
    value: float
    error: float | None


class Point(NamedTuple):
    """One method's sets: their mean width, the share of targets they cover, and both for its conformal version."""

    name: str
    width: float
    coverage: float
    conformal: tuple[float, float] | None = None


class Ratio(NamedTuple):
    """One speed contest: the ratios of its rounds, the median and quartiles, and the ratio asked for."""

    name: str
    rounds: Sequence[float]
    low: float
    median: float
    high: float
    at_least: float


class Bins(NamedTuple):
    """One method's reliability diagram: mean confidence, accuracy and number of points of each full bin.

    `low` and `high` are the confidence limits of each accuracy.
    """

    name: str
    confidence: Sequence[float]
    accuracy: Sequence[float]
    count: Sequence[int]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def _folded(name: str, width: int = 20) -> str:
    """A name in at most two lines."""
    return "\n".join(textwrap.wrap(name, width, max_lines=2, placeholder=" …"))


def _plain_axes(axes: Axes, grid: Literal["x", "y", "both"]) -> None:
    axes.set_facecolor("none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.tick_params(colors=MUTED, labelcolor=INK, length=0, labelsize=11)
    axes.grid(axis=grid, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set(color=MUTED, size=11)
    axes.yaxis.label.set(color=MUTED, size=11)


def _svg(figure: Figure, name: str, description: str) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    # Ids that nothing refers to (figure_1, axes_1, ...) would repeat from plot to plot.
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if f"#{found[1]}" in svg else "", svg)
    svg = re.sub(r' width="[\d.]+pt"| height="[\d.]+pt"', "", svg, count=2)
    for colour, variable in _THEME.items():
        svg = svg.replace(colour, variable)
    label = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def picture(figure: Figure, caption: str, wide: bool = True) -> Picture:
    """Make a picture for a claim of a Matplotlib figure.

    Black, white, Matplotlib's first colour, `#808080` and `#bbbbbb` become colours of the page, which follow its light
    or dark theme; other colours stay.

    Args:
        figure: the figure; its background is left out.
        caption: what it shows, in a sentence without its full stop; also read out in place of the picture.
        wide: whether it takes the whole width of the page.
    """
    for text in figure.findobj(Text):
        # Matplotlib leaves black out of a text's style, where the page could not replace it.
        if isinstance(text, Text) and to_hex(text.get_color()) == "#000000":
            text.set_color(INK)
    svg = _svg(figure, caption, caption)
    for colour, variable in _PLAIN.items():
        svg = svg.replace(colour, variable)
    return Picture(svg.strip(), caption, wide)


def bar_plot(bars: Sequence[Bar], label: str, name: str) -> str:
    """Horizontal bars, best first, with standard errors and the values written out.

    Args:
        bars: at least one, in the order to show; the first is marked as the best.
        label: the name of the score, with its unit if it has one.
        name: a name for the plot that is unique in the page.

    Returns:
        An `<svg>` element.
    """
    figure = Figure(figsize=(_WIDTH, 0.75 + 0.46 * len(bars)), dpi=72, layout="constrained")
    axes = figure.subplots()
    _plain_axes(axes, grid="x")
    rows = np.arange(len(bars))
    values = np.array([bar.value for bar in bars])
    axes.barh(rows, values, height=0.56, color=[ACCENT if row == 0 else SOFT for row in rows])
    low, high = min(0.0, values.min()), max(0.0, values.max())
    span = (high - low) or 1.0
    for row, (bar, text) in enumerate(zip(bars, column(list(values)), strict=True)):
        reach = bar.error or 0.0
        if bar.error:
            axes.plot([bar.value - reach, bar.value + reach], [row, row], color=INK, linewidth=1.3)
        right = bar.value >= 0
        edge = bar.value + (reach if right else -reach) + (0.015 if right else -0.015) * span
        axes.text(
            edge,
            row,
            text,
            va="center",
            ha="left" if right else "right",
            size=11,
            color=INK,
            weight="bold" if row == 0 else "normal",
        )
    margins = np.array([bar.error or 0.0 for bar in bars]).max() + 0.16 * span
    axes.set_xlim(low - (margins if low < 0 else 0), high + margins)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_yticks(rows, [_folded(bar.name) for bar in bars], parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(label)
    listed = ", ".join(f"{bar.name} {number(bar.value, 3)}" for bar in bars)
    return _svg(figure, name, f"{label}, best first: {listed}")


def coverage_plot(
    points: Sequence[Point], level: float, n_test: int, name: str, what: str = "mean interval width"
) -> str:
    """Coverage of prediction sets against their mean width, with the nominal level marked.

    An arrow leads from each method to its conformal version.

    The band around the nominal level holds the coverage that a calibrated method has on `n_test` points, 95%
    of the time.

    Args:
        points: at least one.
        level: the nominal level.
        n_test: the number of test points.
        name: a name for the plot that is unique in the page.
        what: what the width is, for the axis.

    Returns:
        An `<svg>` element.
    """
    figure = Figure(figsize=(_WIDTH, 3.3), dpi=72, layout="constrained")
    axes = figure.subplots()
    _plain_axes(axes, grid="y")
    widths = np.array([point.width for point in points])
    covers = np.array([point.coverage for point in points])
    band = 1.96 * np.sqrt(level * (1 - level) / n_test)
    moved = np.array([point.conformal or (point.width, point.coverage) for point in points])
    all_widths, all_covers = np.r_[widths, moved[:, 0]], np.r_[covers, moved[:, 1]]
    bottom, top = min(all_covers.min(), level - band) - 0.03, min(1.02, max(all_covers.max(), level + band) + 0.03)
    span = np.ptp(all_widths) or max(all_widths.max() * 0.2, 1e-12)
    left, right = all_widths.min() - 0.12 * span, all_widths.max() + 0.12 * span
    axes.axhspan(level - band, min(level + band, 1.0), color=SOFT, alpha=0.35, linewidth=0)
    axes.axhline(level, color=ACCENT, linewidth=1.3, linestyle=(0, (5, 3)))
    axes.annotate(
        f"nominal {level:.0%}",
        (left, level),
        (4, 4),
        textcoords="offset points",
        size=10,
        color=ACCENT,
        va="bottom",
    )
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.scatter(widths, covers, s=46, color=ACCENT, edgecolor=CARD, linewidth=1.2, zorder=3)
    for point in points:
        if point.conformal is not None:
            arrow = {"arrowstyle": "-|>", "color": ACCENT, "linewidth": 1.1, "shrinkA": 4, "shrinkB": 4}
            axes.annotate("", point.conformal, (point.width, point.coverage), arrowprops=arrow, zorder=2)
            axes.scatter(*point.conformal, s=42, color=CARD, edgecolor=ACCENT, linewidth=1.5, zorder=3)
    # Names stand in a column at the right, pushed apart, each tied to its point by a hair line.
    order = np.lexsort((-widths, covers))
    gap = min(0.115 * (top - bottom), (top - bottom) / max(len(points), 1))
    heights = covers[order].copy()
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    overshoot = max(0.0, heights[-1] - (top - gap / 2))
    heights -= overshoot
    for i in range(len(heights) - 2, -1, -1):
        heights[i] = min(heights[i], heights[i + 1] - gap)
    transform = axes.get_yaxis_transform()
    for row, height in zip(order, heights, strict=True):
        axes.annotate(
            _folded(points[row].name, 17),
            xy=(widths[row], covers[row]),
            xycoords="data",
            xytext=(1.04, height),
            textcoords=transform,
            size=11,
            color=INK,
            va="center",
            parse_math=False,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": MUTED,
                "linewidth": 0.7,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )
    axes.set_xlabel(what)
    axes.set_ylabel("coverage")
    listed = ", ".join(
        f"{p.name} covers {p.coverage:.0%} at {number(p.width, 3)}"
        + (f", conformal {p.conformal[1]:.0%} at {number(p.conformal[0], 3)}" if p.conformal else "")
        for p in points
    )
    return _svg(figure, name, f"Coverage against {what}, nominal {level:.0%}: {listed}")


def reliability_plot(methods: Sequence[Bins], name: str) -> str:
    """Reliability diagrams, one small panel a method: accuracy against confidence, area by number of points.

    Vertical bars are the confidence limits of each accuracy, in the colour of a miss where they leave out the
    confidence.

    Args:
        methods: at least one.
        name: a name for the plot that is unique in the page.

    Returns:
        An `<svg>` element.
    """
    columns = min(5, max(3, len(methods)))
    rows = -(-len(methods) // columns)
    figure = Figure(figsize=(2.25 * _WIDTH, 2.85 * rows + 0.25), dpi=72, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(methods):
            axes.set_axis_off()
            continue
        one = methods[place]
        _plain_axes(axes, grid="both")
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        share = np.asarray(one.count) / np.sum(one.count)
        axes.plot(one.confidence, one.accuracy, color=ACCENT, linewidth=0.9, alpha=0.6)
        for at, low, high in zip(one.confidence, one.low, one.high, strict=False):
            axes.plot([at, at], [low, high], color=MUTED if low <= at <= high else BAD, linewidth=1.4, zorder=3)
        axes.scatter(one.confidence, one.accuracy, s=14 + 160 * share, color=ACCENT, alpha=0.75, linewidth=0)
        axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
        axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "½", "1"])
        axes.set_title(_folded(one.name, 22), size=11, color=INK, parse_math=False)
    figure.supxlabel("confidence", color=MUTED, size=11)
    figure.supylabel("accuracy", color=MUTED, size=11)
    return _svg(figure, name, "Reliability diagrams of " + ", ".join(one.name for one in methods))


def ratio_plot(ratios: Sequence[Ratio], name: str) -> str:
    """Speed ratios on a logarithmic axis with the line at 1; right of it ours is faster.

    Args:
        ratios: at least one.
        name: a name for the plot that is unique in the page.

    Returns:
        An `<svg>` element.
    """
    figure = Figure(figsize=(2.1 * _WIDTH, 1.1 + 0.5 * len(ratios)), dpi=72, layout="constrained")
    axes = figure.subplots()
    _plain_axes(axes, grid="x")
    axes.set_xscale("log")
    everything = np.array([v for one in ratios for v in (*one.rounds, one.at_least, 1.0)])
    low, high = everything.min() / 1.25, everything.max() * 1.25
    axes.set_xlim(min(low, 0.8), max(high, 1.25))
    axes.axvline(1, color=INK, linewidth=1.2)
    for row, one in enumerate(ratios):
        colour = ACCENT if one.median >= one.at_least else BAD
        axes.plot(one.rounds, [row] * len(one.rounds), "|", color=MUTED, markersize=9, alpha=0.7)
        axes.plot([one.low, one.high], [row, row], color=colour, linewidth=5, alpha=0.45, solid_capstyle="round")
        marker = "o" if one.median >= one.at_least else "X"
        axes.plot(one.median, row, marker, color=colour, markersize=8, markeredgecolor=CARD)
        axes.plot([one.at_least] * 2, [row - 0.33, row + 0.33], color=INK, linewidth=1.4, linestyle=(0, (2, 1.5)))
    axes.set_ylim(len(ratios) - 0.4, -0.6)
    axes.set_yticks(range(len(ratios)), [_folded(one.name, 40) for one in ratios], parse_math=False)
    decades = np.log10(axes.get_xlim()[1] / axes.get_xlim()[0])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.minorticks_off()
    axes.set_xlabel("how many times faster ours is (dashes: the ratio asked for)")
    listed = ", ".join(f"{one.name} {number(one.median, 3)} of {number(one.at_least, 3)} asked for" for one in ratios)
    return _svg(figure, name, f"Speed ratios: {listed}")
