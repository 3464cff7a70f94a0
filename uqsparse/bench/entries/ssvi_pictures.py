"""Pictures of the study of sparse Bayesian networks."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from uqsparse.bench.entries.ssvi_study import Scores, standard_error
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Picture

_LOOKS = {
    "SSVI": {"color": "#1f77b4", "marker": "o", "label": "sparse, support moves"},
    "static": {"color": "#808080", "marker": "s", "label": "sparse, support stays"},
    "pruned": {"color": "#bbbbbb", "marker": "^", "label": "dense, pruned later"},
}
_TITLES = {"accuracy": "accuracy", "nll": "negative log likelihood", "ece": "calibration error (15 bins)"}


def curves(found: Mapping[str, Mapping[float, Scores]], dense: Scores) -> Picture:
    """Accuracy, negative log likelihood and calibration error against density, with standard errors over seeds."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    first, *_ = panels = figure.subplots(1, 3)
    for axes, (score, title) in zip(panels, _TITLES.items(), strict=True):
        for way, by_density in found.items():
            densities = 100 * np.array(list(by_density))
            values = [getattr(scores, score) for scores in by_density.values()]
            axes.errorbar(
                densities,
                [v.mean() for v in values],
                [standard_error(v) for v in values],
                lw=1.6,
                ms=5,
                capsize=2,
                **_LOOKS[way],
            )
        axes.axhline(getattr(dense, score).mean(), color="#000000", lw=1, ls="--", label="dense")
        axes.set_xscale("log")
        axes.set_xticks(densities, [f"{d:g}%" for d in densities])
        axes.minorticks_off()
        axes.set_xlabel("weights kept")
        axes.set_title(title, fontsize=10)
        if score != "accuracy":
            axes.set_yscale("log")
            ticks = [0.05, 0.1, 0.2, 0.5, 1.0] if score == "ece" else [0.1, 0.2, 0.5, 1.0, 2.0]
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    first.legend(frameon=False, fontsize=9, loc="lower right")
    return picture(
        figure,
        "Digits: a Bayesian network trained sparse from the start keeps accuracy and calibrated probabilities at 2% of "
        "the weights; a dense one that is pruned later loses both",
    )


def criterion_points(found: Mapping[str, Scores]) -> Picture:
    """Mean accuracy by removal criterion with its standard error; small dots are seeds."""
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes = figure.subplots()
    for row, scores in enumerate(found.values()):
        axes.plot(scores.accuracy, np.full(len(scores.accuracy), row), "o", color="#808080", ms=3)
        axes.errorbar(scores.accuracy.mean(), row, xerr=standard_error(scores.accuracy), fmt="o", color="#1f77b4")
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("accuracy")
    axes.spines[["top", "right"]].set_visible(False)
    return picture(figure, "Signals, 5% of the weights: accuracy by what decides which weights leave; dots are seeds")
