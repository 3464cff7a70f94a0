"""What the pictures of the reports share: plain panels, colours, percentages."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, GREY, PALE, RED = "#1f77b4", "#666666", "#d6e4f0", "#c23b22"


def report_figure(width: float, height: float, n_panels: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """A figure of so many inches with panels side by side."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    panels = figure.subplots(1, n_panels, squeeze=False)[0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    return figure, panels


def percent(value: float, _: object = None) -> str:
    """A share as text, for axes and titles.

    >>> percent(0.125)
    '12.5%'
    """
    return f"{100 * value:.4g}%"
