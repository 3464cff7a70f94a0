"""Pictures of the V1 study: fields as vector drawings, trade-off curves, orientations and aspects of Gabor fits."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from uqsparse.bench.entries.v1_study import Coded
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Picture
from uqsparse.models.sparse_coding.receptive_fields import GaborFits

# Greys from the most negative to the most positive; none is one of those that the page recolours.
_LEVELS = 9
_GREYS = [f"#{3 * f'{round(20 + 215 * i / (_LEVELS - 1)):02x}'}" for i in range(_LEVELS)]
_COLOURS = {
    "l1": "#808080",
    "l0": "#d9730d",
    "l1/2": "#2a9d57",
    "l2/3": "#7a5ccc",
    "log": "#c2408f",
    "scad": "#a08000",
    "mcp": "#1a9aa8",
    "cel0": "#1f77b4",
}
_NAMES = {
    "l1": "ℓ1",
    "l0": "ℓ0",
    "l1/2": "ℓ1/2",
    "l2/3": "ℓ2/3",
    "log": "log",
    "scad": "SCAD",
    "mcp": "MCP",
    "cel0": "CEL0",
}


def draw_fields(axes: Axes, fields: np.ndarray, side: int, columns: int, gap: float = 1.0) -> None:
    """Draw fields (D, M) as a grid of small grey images, each scaled to its own largest absolute value.

    Runs of equal grey are one rectangle, and all rectangles of a grey one path: an SVG of this stays small, and holds
    no pixel image.
    """
    pitch = side + gap
    rows = -(-fields.shape[1] // columns)
    corners: list[list[tuple[float, float, int]]] = [[] for _ in range(_LEVELS)]
    for j, field in enumerate(fields.T):
        x0, y0 = (j % columns) * pitch, (j // columns) * pitch
        axes.add_patch(Rectangle((x0, y0), side, side, facecolor=_GREYS[_LEVELS // 2], linewidth=0))
        largest = abs(field).max()
        scaled = field / largest if largest > 0 else field
        levels = np.clip(np.round((scaled + 1) / 2 * (_LEVELS - 1)), 0, _LEVELS - 1).astype(int).reshape(side, side)
        for row, line in enumerate(levels):
            ends = np.flatnonzero(np.diff(line)) + 1
            for first, last in zip([0, *ends], [*ends, side], strict=True):
                corners[line[first]].append((x0 + first, y0 + row, last - first))
    for level, runs in enumerate(corners):
        if level == _LEVELS // 2 or not runs:
            continue
        x, y, width = np.array(runs, float).T
        square = np.stack([np.stack([x, y], 1), np.stack([x + width, y], 1), np.stack([x + width, y + 1], 1)], 1)
        square = np.concatenate([square, np.stack([x, y + 1], 1)[:, None], np.stack([x, y], 1)[:, None]], axis=1)
        codes = np.tile([Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], len(runs))
        axes.add_patch(PathPatch(Path(square.reshape(-1, 2), codes), facecolor=_GREYS[level], linewidth=0))
    axes.set(xlim=(0, columns * pitch - gap), ylim=(rows * pitch - gap, 0), aspect="equal")
    axes.set_axis_off()


def fits_picture(dictionary: np.ndarray, fits: GaborFits, caption: str, columns: int = 16, rows: int = 2) -> Picture:
    """Units above, the Gabors fitted to them below, row by row; evenly spaced from the best fit to the worst."""
    order = np.argsort(-fits.r_squared, kind="stable")
    shown = order[np.linspace(0, len(order) - 1, columns * rows).round().astype(int)].reshape(rows, columns)
    figure = Figure(figsize=(11, 11 * rows * 2.45 / columns), layout="constrained")
    for axes, line in zip(figure.subplots(rows, 1, squeeze=False)[:, 0], shown, strict=True):
        draw_fields(axes, np.c_[dictionary[:, line], fits.fields[:, line]], fits.side, columns)
        for k, j in enumerate(line):
            axes.text(
                k * (fits.side + 1) + fits.side / 2, -0.8, f"{fits.r_squared[j]:.2f}", ha="center", va="bottom", size=9
            )
        axes.set_ylim(2 * fits.side + 1, -4)
    return picture(figure, caption)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_facecolor("none")


def trade_off_picture(curves: Mapping[str, Sequence[Coded]], caption: str) -> Picture:
    """Error against active fraction, as coded and after refit, one line a penalty."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, title, field in zip(
        panels, ("as coded", "after least squares on the support"), ("error", "refit_error"), strict=True
    ):
        for name, curve in curves.items():
            axes.plot(
                [100 * one.active_fraction for one in curve],
                [getattr(one, field) for one in curve],
                "-o" if name in ("l1", "cel0") else "-",
                color=_COLOURS[name],
                linewidth=2.4 if name in ("l1", "cel0") else 1.4,
                markersize=4,
                label=_NAMES[name],
            )
        axes.set(xscale="log", yscale="log", title=title, xlabel="active units, %", xlim=(0.9, 28))
        axes.set_xticks([1, 3, 10, 25], ["1", "3", "10", "25"])
        axes.minorticks_off()
        axes.grid(color="#bbbbbb", linewidth=0.4)
        _plain(axes)
    panels[0].set_ylabel("mean squared error / variance")
    ticks = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1]
    panels[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[1].legend(frameon=False, loc="upper right", ncols=2)
    return picture(figure, caption)


def overcomplete_picture(results: Mapping[str, Sequence[Coded]], sizes: Sequence[int], caption: str) -> Picture:
    """Error against the number of units, as coded (solid) and after refit (dashed)."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, line in results.items():
        axes.plot(sizes, [one.error for one in line], "-o", color=_COLOURS[name], label=_NAMES[name])
        axes.plot(
            sizes, [one.refit_error for one in line], "--o", color=_COLOURS[name], label=f"{_NAMES[name]}, refitted"
        )
    axes.set(xscale="log", xlabel="units in the dictionary", ylabel="mean squared error / variance", ylim=(0, None))
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.grid(color="#bbbbbb", linewidth=0.4)
    axes.legend(frameon=False)
    _plain(axes)
    return picture(figure, caption, wide=False)


def orientation_picture(fits: Mapping[str, GaborFits], caption: str) -> Picture:
    """Histograms of the direction of the stripes of oriented units, one panel a penalty."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, (name, one) in zip(figure.subplots(2, 4, sharex=True, sharey=True).flat, fits.items(), strict=True):
        chosen = one.kind == "oriented"
        # Rows count downwards: seen as usual, counterclockwise from horizontal, stripes lie at 90 degrees less theta.
        degrees = (90 - np.degrees(one.orientation[chosen])) % 180
        # Bins are centred on horizontal and vertical.
        axes.hist((degrees + 7.5) % 180 - 7.5, bins=np.arange(-7.5, 180, 15), color=_COLOURS[name], alpha=0.85)
        axes.set_title(f"{_NAMES[name]}: {np.mean(chosen):.0%} oriented", size=11)
        axes.set_xticks([0, 45, 90, 135], ["—", "╱", "│", "╲"])
        _plain(axes)
    figure.supxlabel("direction of the stripes", size=11)
    figure.supylabel("units", size=11)
    return picture(figure, caption)


def aspect_picture(fits: Mapping[str, GaborFits], caption: str) -> Picture:
    """Width and length of the envelope in cycles, of units that a Gabor fits, one panel a penalty."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    for axes, (name, one) in zip(figure.subplots(2, 4, sharex=True, sharey=True).flat, fits.items(), strict=True):
        good = one.kind != "unstructured"
        axes.axhline(0.3, color="#808080", linewidth=0.8, linestyle="--")
        axes.plot(
            np.clip(one.n_x[good], 0.003, 4),
            np.clip(one.n_y[good], 0.01, 4),
            "o",
            color=_COLOURS[name],
            markersize=4,
            alpha=0.6,
            markeredgewidth=0,
        )
        axes.set(xscale="log", yscale="log", xlim=(0.0025, 5), ylim=(0.008, 5))
        axes.set_xticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
        axes.set_yticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
        axes.minorticks_off()
        axes.set_title(_NAMES[name], size=11)
        _plain(axes)
    figure.supxlabel("width of the envelope in cycles, n_x", size=11)
    figure.supylabel("length of the stripes in cycles, n_y", size=11)
    return picture(figure, caption)
