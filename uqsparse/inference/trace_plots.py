"""Trace plots: what each chain did, one picture a variable."""

import os
import re
from pathlib import Path
from typing import Any

import arviz
from matplotlib import pyplot
from matplotlib.figure import Figure

from uqsparse.inference.arviz_io import arviz_major, dataset


def save_trace_plots(data: Any, directory: str | os.PathLike) -> list[Path]:
    """Save a trace plot of each variable of the posterior.

    Args:
        data: ArviZ data with a `posterior`.
        directory: where the pictures go; made if missing.

    Returns:
        The files, `trace-<variable>.png`.

    Raises:
        OSError: if the directory cannot be made or written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for variable in map(str, dataset(data, "posterior").data_vars):
        figure = _figure(data, variable)
        path = directory / f"trace-{re.sub(r'[^A-Za-z0-9_.-]+', '_', variable)}.png"
        figure.savefig(path, dpi=120, bbox_inches="tight")
        pyplot.close(figure)
        written.append(path)
    return written


def _figure(data: Any, variable: str) -> Figure:
    """Let ArviZ draw densities beside traces, the entries of an array in one picture."""
    if arviz_major() >= 1:
        # Not in the ArviZ that type checkers may see here.
        plot_trace_dist = getattr(arviz, "plot_trace_dist")  # noqa: B009
        plots = plot_trace_dist(data, var_names=[variable], compact=True, backend="matplotlib")
        return plots.get_viz("figure")
    return arviz.plot_trace(data, var_names=[variable], compact=True)[0, 0].figure
