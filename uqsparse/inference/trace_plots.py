"""Pictures of a posterior: what each chain did, and bands of hidden states over time, one picture a variable."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uqsparse.inference.arviz_io import arviz_major, dataset

# Of a state with more components the first ones are shown.
_MOST_PANELS = 8


def save_trace_plots(data: Any, directory: str | os.PathLike) -> list[Path]:
    """Save a picture of each variable of the posterior: bands over time for paths of states, traces for the others.

    Args:
        data: ArviZ data with a `posterior`.
        directory: where the pictures go; made if missing.

    Returns:
        The files, `trace-<variable>.png` and `bands-<variable>.png`.

    Raises:
        OSError: if the directory cannot be made or written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for variable in map(str, dataset(data, "posterior").data_vars):
        is_path = variable == "states" or variable.startswith("states_")
        figure = _bands(data, variable) if is_path else _figure(data, variable)
        kind = "bands" if is_path else "trace"
        path = directory / f"{kind}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', variable)}.png"
        figure.savefig(path, dpi=120, bbox_inches="tight")
        pyplot.close(figure)
        written.append(path)
    return written


def plot_bands(axes: Axes, times: np.ndarray, draws: np.ndarray, label: str = "median") -> None:
    """Draw the median of paths and bands of 50 and 90 %.

    Args:
        axes: where to draw.
        times: shape (T,).
        draws: paths, shape (n, T).
        label: of the median in a legend.
    """
    low, quarter, median, three_quarters, high = np.quantile(draws, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    axes.fill_between(times, low, high, alpha=0.2, color="C0", linewidth=0, label="90 %")
    axes.fill_between(times, quarter, three_quarters, alpha=0.35, color="C0", linewidth=0, label="50 %")
    axes.plot(times, median, color="C0", linewidth=1, label=label)


def _bands(data: Any, variable: str) -> Figure:
    """One panel for each component of the state."""
    values = dataset(data, "posterior")[variable].values
    draws = values.reshape(-1, values.shape[2], int(np.prod(values.shape[3:])))
    n_panels = min(draws.shape[2], _MOST_PANELS)
    figure, panels = pyplot.subplots(n_panels, 1, figsize=(9, 1.2 + 2 * n_panels), sharex=True, squeeze=False)
    for k, axes in enumerate(panels[:, 0]):
        plot_bands(axes, np.arange(draws.shape[1]), draws[:, :, k])
        axes.set_ylabel(variable if n_panels == 1 else f"{variable}[{k}]")
    panels[0, 0].legend(loc="upper right", frameon=False, ncols=3)
    panels[-1, 0].set_xlabel("time step")
    return figure


def _figure(data: Any, variable: str) -> Figure:
    """Let ArviZ draw densities beside traces, the entries of an array in one picture."""
    import arviz

    if arviz_major() >= 1:
        # Not in the ArviZ that type checkers may see here.
        plot_trace_dist = getattr(arviz, "plot_trace_dist")  # noqa: B009
        plots = plot_trace_dist(data, var_names=[variable], compact=True, backend="matplotlib")
        return plots.get_viz("figure")
    return arviz.plot_trace(data, var_names=[variable], compact=True)[0, 0].figure
