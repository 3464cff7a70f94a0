"""Pictures of contestable risks: ranges in the order of the risk, the curve of ambiguity, who is affected."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from uqsparse.cli.contestable_risks import ContestableRisks
from uqsparse.cli.report_figures import BLUE, GREY, PALE, RED, percent, report_figure

_MOST_PERSONS = 400
_MOST_GROUPS = 12


def ranges_figure(found: ContestableRisks) -> Figure:
    """The range of each person, by the risk of the best model; contestable ones stand out."""
    ranges = found.ranges
    figure, (axes,) = report_figure(8.5, 4.4)
    order = np.argsort(ranges.risk, kind="stable")
    if len(order) > _MOST_PERSONS:
        order = order[np.linspace(0, len(order) - 1, _MOST_PERSONS).round().astype(int)]
    place = np.arange(len(order))
    contestable = found.contestable[order]
    wide = max(0.8, min(4, 420 / len(order)))
    for some, colour in ((~contestable, "#9fc3e0"), (contestable, RED)):
        rows = order[some]
        axes.vlines(place[some], ranges.lower[rows], ranges.upper[rows], color=colour, linewidth=wide, alpha=0.8)
    axes.plot(place, ranges.risk[order], color="black", linewidth=1.3)
    axes.axhline(found.decision, color=GREY, linewidth=1, linestyle=(0, (5, 3)))
    axes.legend(
        handles=[
            Line2D([], [], color="black", linewidth=1.3, label="best model"),
            Line2D([], [], color=RED, linewidth=4, alpha=0.8, label=f"range, moves by {found.delta:g} or more"),
            Line2D([], [], color="#9fc3e0", linewidth=4, label="range, moves less"),
            Line2D([], [], color=GREY, linewidth=1, linestyle=(0, (5, 3)), label=f"decision at {found.decision:g}"),
        ],
        loc="upper left",
        frameon=False,
        fontsize=9,
    )
    axes.set(ylim=(-0.02, 1.02), xticks=[], ylabel=f"risk of {_short(found.table.positive)}")
    some = "" if len(order) == len(found.table) else f" ({len(order)} of {len(found.table)})"
    axes.set_xlabel(f"persons by their risk{some}")
    return figure


def ambiguity_figure(found: ContestableRisks) -> Figure:
    """Share of persons whose risk moves by delta or more, by any model and by one."""
    figure, (axes,) = report_figure(6.5, 4.0)
    curve = found.curve
    axes.plot(curve.delta, curve.lower, color=BLUE, linewidth=1.8, label="by some model (ambiguity)")
    one = found.discrepancy
    if one is not None:
        where = [found.delta, found.delta]
        axes.plot(where, [one.lower, one.upper], color=RED, linewidth=2)
        label = "by one model (discrepancy)" if one.lower == one.upper else "by one model (discrepancy), bounds"
        axes.plot(where, [one.lower, one.upper], "o", color=RED, markersize=5, label=label)
    axes.legend(frameon=False, fontsize=9)
    axes.grid(color="#eeeeee")
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="risk moves by this much or more", ylabel="persons")
    return figure


def groups_figure(found: ContestableRisks) -> Figure:
    """Share of contestable risks in each group, one panel a column, three at most; the largest groups."""
    names = list(found.table.groups)[:3]
    groups = [sorted(found.groups(by), key=lambda one: -one.n)[:_MOST_GROUPS] for by in names]
    most = max(map(len, groups))
    figure, panels = report_figure(max(6.5, 3.6 * len(names)), 1.4 + 0.36 * most, len(names))
    everyone = float(found.contestable.mean())
    for axes, by, some in zip(panels, names, groups, strict=True):
        place = np.arange(len(some))
        axes.barh(place, [one.contestable for one in some], height=0.6, color=PALE)
        axes.plot([one.either for one in some], place, "D", color=RED, markersize=5)
        axes.axvline(everyone, color=BLUE, linewidth=1.2, linestyle=(0, (5, 3)))
        for row, one in enumerate(some):
            axes.text(1.02, row, f"{one.n}", transform=axes.get_yaxis_transform(), va="center", size=8, color=GREY)
        axes.set_yticks(place, [_short(one.name) for one in some], size=9, parse_math=False)
        axes.set_ylim(most - 0.4, -0.6)
        axes.set_xlim(0, None)
        axes.tick_params(axis="y", length=0)
        axes.set_title(f"by {_short(by)}", loc="left", size=10, parse_math=False)
        axes.set_title("persons", loc="right", size=8, color=GREY)
        axes.xaxis.set_major_formatter(FuncFormatter(percent))
        axes.grid(axis="x", color="#eeeeee")
    figure.legend(
        handles=[
            Line2D([], [], color=PALE, linewidth=7, label="contestable risk"),
            Line2D([], [], color=RED, marker="D", markersize=5, linestyle="", label="either decision"),
            Line2D([], [], color=BLUE, linewidth=1.2, linestyle=(0, (5, 3)), label="contestable, all persons"),
        ],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
    )
    return figure


def _short(name: str) -> str:
    return name if len(name) < 24 else name[:22] + "…"
