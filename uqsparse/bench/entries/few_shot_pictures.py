"""Pictures of the few-shot study: predictive bands on a wave and a line, and accuracy with calibration of classes."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from uqsparse.bench.entries.few_shot_study import trained_regressor
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Picture

_SHOWN = ("NIW head", "MAML", "Reptile")
_N_SHOT = 5


def _examples() -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """A wave and a line: name, support inputs and targets, grid and truth."""
    rng = np.random.default_rng(3)
    grid = np.linspace(-5, 5, 161)
    found = []
    for name, truth in (("a wave", lambda x: 3 * np.sin(x + 1)), ("a line", lambda x: -1.2 * x + 1)):
        x = np.sort(rng.uniform(-5, 5, _N_SHOT))
        found.append((name, x, truth(x) + 0.3 * rng.normal(size=_N_SHOT), grid, truth(grid)))
    return found


def bands(seed: int) -> Picture:
    """Predictive mean and central 90% band after five points, of learners that were trained on five."""
    examples = _examples()
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    grid_of_axes = figure.subplots(len(examples), len(_SHOWN), sharex=True, sharey="row", squeeze=False)
    for column, name in enumerate(_SHOWN):
        model = trained_regressor(name, _N_SHOT, seed)
        for axes, (title, x, y, grid, truth) in zip(grid_of_axes[:, column], examples, strict=True):
            local = model.adapt(x[:, None], y[:, None])
            mixture = model.predict(local, jnp.asarray(grid[:, None]), jax.random.key(0), 100)
            mean, spread = (np.asarray(a)[:, 0] for a in (mixture.mean, mixture.standard_deviation))
            axes.fill_between(grid, mean - 1.645 * spread, mean + 1.645 * spread, color="#bbbbbb", alpha=0.6, lw=0)
            axes.plot(grid, truth, color="#808080", lw=1.2, ls="--")
            axes.plot(grid, mean, color="#1f77b4", lw=1.6)
            axes.plot(x, y, "o", color="#000000", ms=4)
            axes.set_title(f"{name}, {title}", fontsize=10)
            axes.set_ylim(-9, 9)
            axes.spines[["top", "right"]].set_visible(False)
    return picture(
        figure,
        "Five points (black) of a wave and of a line, the truth (dashed), predictive means and central 90% bands: "
        "Bayesian heads are unsure away from the points, gradient learners have one width everywhere",
    )


def class_bars(data: str, n_shot: int, found: Mapping[str, Mapping[str, np.ndarray]]) -> Picture:
    """Accuracy, and calibration error with and without temperature, of every learner; dots are splits of classes."""
    names = list(found)
    figure = Figure(figsize=(11, 0.9 + 0.42 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(names))
    left.barh(rows, [found[n]["accuracy"].mean() for n in names], 0.55, color="#1f77b4")
    right.barh(rows - 0.2, [found[n]["ece"].mean() for n in names], 0.36, color="#1f77b4", label="as learned")
    right.barh(
        rows + 0.2, [found[n]["ece_after"].mean() for n in names], 0.36, color="#bbbbbb", label="with temperature"
    )
    for row, name in enumerate(names):
        for axes, key, at in ((left, "accuracy", 0.0), (right, "ece", -0.2), (right, "ece_after", 0.2)):
            values = found[name][key]
            axes.plot(values, np.full(len(values), row + at), "o", color="#000000", ms=3)
    left.set_yticks(rows, names)
    left.invert_yaxis()
    left.set_xlabel("accuracy")
    right.set_xlabel("calibration error (15 bins)")
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return picture(figure, f"{data}, {n_shot}-shot: accuracy and calibration error on classes not seen in training")
