"""Pictures of calibration: reliability diagrams with confidence bands above the histogram of predictions.

Import it by its own name: the room does not, so that Matplotlib is loaded where something is drawn.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from uqsparse.bounds.calibration.binary_outcomes import predictions_and_outcomes
from uqsparse.bounds.calibration.binning import Binning
from uqsparse.bounds.calibration.decompositions import isotonic_decomposition
from uqsparse.bounds.calibration.metrics import brier
from uqsparse.bounds.calibration.reliability import isotonic_band, reliability_curve
from uqsparse.kernels.namespaces import AnyArray

# Colours that the benchmark report replaces by those of its page; see `uqsparse.bench.plots.picture`.
_BLUE, _GREY, _PALE = "#1f77b4", "#808080", "#bbbbbb"
_TICKS = [0, 0.25, 0.5, 0.75, 1]


def reliability_diagram(
    predictions: Float[AnyArray, " n"] | Mapping[str, Float[AnyArray, " n"]],
    y: Num[AnyArray, " n"],
    *,
    n_bins: int = 15,
    binning: Binning = "mass",
    level: float = 0.95,
) -> Figure:
    """How often events happen by predicted probability, one panel a set of predictions.

    Each panel shows the diagonal of calibrated predictions; the share of events of each bin with its own confidence
    interval; the isotonic fit with its band, which holds at all predictions at once; and below how predictions are
    spread.

    Args:
        predictions: probabilities of y = 1 in [0, 1], shape (n,), or several sets by name, at least one.
        y: outcomes 0 or 1, shape (n,).
        n_bins: the number of bins.
        binning: "mass" or "width".
        level: confidence of intervals and bands, in (0, 1).

    Returns:
        A figure that belongs to no window: `figure.savefig("reliability.png")`.

    Raises:
        ValueError: shapes, predictions or outcomes are not as stated, or there is no set of predictions.

    Source: Dimitriadis, Dümbgen, Henzi, Puke & Ziegel (2023), Honest calibration assessment for binary outcome
    predictions; Dimitriadis, Gneiting & Jordan (2021), Stable reliability diagrams for probabilistic classifiers.

    >>> figure = reliability_diagram({"model": np.linspace(0.1, 0.9, 60)}, np.arange(60) % 2)
    >>> len(figure.axes)
    2
    """
    several = predictions if isinstance(predictions, Mapping) else {"": predictions}
    if not several:
        raise ValueError("predictions are an empty mapping; expected at least one set")
    columns = min(4, len(several))
    rows = -(-len(several) // columns)
    figure = Figure(figsize=(max(3.2 * columns, 4.2), 4.3 * rows + 0.4), dpi=120, layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[4, 1] * rows)
    for place, (name, q) in enumerate(several.items()):
        row, column = divmod(place, columns)
        _draw(grid[2 * row, column], grid[2 * row + 1, column], name, q, y, n_bins, binning, level)
    for place in range(len(several), rows * columns):
        row, column = divmod(place, columns)
        grid[2 * row, column].set_axis_off()
        grid[2 * row + 1, column].set_axis_off()
    for row in range(rows):
        grid[2 * row, 0].set_ylabel("share of events")
        grid[2 * row + 1, 0].set_ylabel("rows")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 if columns < 3 else 4, frameon=False, fontsize=8)
    return figure


def _draw(
    axes: Axes, below: Axes, name: str, q: AnyArray, y: AnyArray, n_bins: int, binning: Binning, level: float
) -> None:
    q, y = predictions_and_outcomes(q, y)
    curve = reliability_curve(q, y, n_bins, binning, level)
    fit, band = isotonic_decomposition(q, y), isotonic_band(q, y, level)
    # The band steps at single predictions; drawn where there are predictions.
    at = np.linspace(q.min(), q.max(), 801)
    low, high = band.at(at)
    axes.fill_between(at, low, high, color=_PALE, alpha=0.4, linewidth=0, label=f"{100 * level:.4g}% band, all at once")
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=(0, (4, 3)), label="calibrated")
    axes.step(fit.predicted, fit.recalibrated, where="mid", color=_BLUE, linewidth=1, label="isotonic fit")
    errors = np.stack([curve.observed - curve.pointwise.low, curve.pointwise.high - curve.observed])
    axes.errorbar(
        curve.predicted,
        curve.observed,
        np.maximum(errors, 0),
        fmt="o",
        color="black",
        markersize=3.5,
        linewidth=0.9,
        label=f"{curve.n_bins} bins of equal {binning}, {100 * level:.4g}% each",
    )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), box_aspect=1)
    axes.set_xticks(_TICKS, [])
    axes.set_yticks(_TICKS, ["0", "", "½", "", "1"])
    axes.grid(color=_PALE, linewidth=0.5, alpha=0.6)
    axes.set_title(f"{name}\nBrier {brier(q, y):.4f}".strip(), size=9, parse_math=False)
    below.hist(q, bins=np.linspace(0, 1, 41).tolist(), color=_GREY, linewidth=0)
    below.set(xlim=(-0.02, 1.02), box_aspect=0.25, xlabel="predicted probability")
    below.set_xticks(_TICKS, ["0", "", "½", "", "1"])
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for one in (axes, below):
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
