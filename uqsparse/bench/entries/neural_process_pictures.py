"""Pictures of neural processes: predictive bands, leads, regrets, completed digits, populations."""

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uqsparse.bench.entries import neural_process_study as study
from uqsparse.bench.entries import neural_process_uses as uses
from uqsparse.bench.entries.v1_pictures import draw_fields
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Picture
from uqsparse.data.tasks import gp_covariance

_COLOURS = {"MPNP": "#1f77b4", "CNP": "#808080", "NP": "#7a5ccc", "BNP": "#d9730d"}
_X = np.linspace(-2, 2, 101)[:, None].astype(np.float32)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_facecolor("none")


def bands_picture() -> Picture:
    """What each network says of one function from 4 and from 12 of its points, beside the true process."""
    rng = np.random.default_rng(3)
    length, scale = 0.45, 0.8
    covariance = np.asarray(gp_covariance("rbf", _X, _X, length, scale), float)  # type: ignore[arg-type]
    truth = np.linalg.cholesky(covariance + 1e-6 * np.eye(len(_X))) @ rng.standard_normal(len(_X))
    order = rng.permutation(len(_X))
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    panels = figure.subplots(2, 5, sharex=True, sharey=True)
    for line, n_seen in zip(panels, (4, 12), strict=True):
        seen = order[:n_seen]
        x, y = _X[seen], truth[seen] + 0.02 * rng.standard_normal(n_seen)
        for axes, name in zip(line, ("CNP", "NP", "BNP", "MPNP"), strict=False):
            found = study.trained(name, 0).model.predict(x, y[:, None], _X, jax.random.key(0), study.N_SAMPLES)
            for curve in np.asarray(found.means[: 12 if len(found.means) > 1 else 0, :, 0]):
                axes.plot(_X[:, 0], curve, color=_COLOURS[name], linewidth=0.6, alpha=0.6)
            mean, deviation = np.asarray(found.mean[:, 0]), np.asarray(found.standard_deviation[:, 0])
            _band(axes, _X[:, 0], mean, deviation, _COLOURS[name])
            axes.set_title(f"{name}, {n_seen} points", size=11)
        cross = covariance[:, seen]
        known = covariance[np.ix_(seen, seen)] + 0.02**2 * np.eye(n_seen)
        mean = cross @ np.linalg.solve(known, y)
        variance = np.diag(covariance) - (cross * np.linalg.solve(known, cross.T).T).sum(1) + 0.02**2
        _band(line[4], _X[:, 0], mean, np.sqrt(variance), "#2a9d57")
        line[4].set_title(f"true process, {n_seen} points", size=11)
        for axes in line:
            axes.plot(_X[:, 0], truth, color="#000000", linewidth=0.9, linestyle=(0, (4, 2)))
            axes.plot(x[:, 0], y, "o", color="#000000", markersize=4)
            axes.set_ylim(truth.min() - 1.1, truth.max() + 1.1)
            _plain(axes)
    return picture(
        figure,
        "One function (dashed) from 4 and 12 of its points: mean, two standard deviations, and for networks that draw"
        " functions twelve of these",
    )


def _band(axes: Axes, x, mean, deviation, colour: str, label: str | None = None) -> None:
    axes.fill_between(x, mean - 2 * deviation, mean + 2 * deviation, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, mean, color=colour, linewidth=1.8, label=label)


def leads_picture() -> Picture:
    """Lead of MPNP over the others by kernel, with two standard errors."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    others = ("CNP", "NP", "BNP")
    for shift, other in zip((-0.22, 0.0, 0.22), others, strict=True):
        found = np.array([study.differences("MPNP", other, kernel) for kernel in study.KERNELS])
        axes.errorbar(
            np.arange(4) + shift,
            found[:, 0],
            2 * found[:, 1],
            fmt="o",
            color=_COLOURS[other],
            capsize=3,
            label=f"over {other}",
        )
    axes.axhline(0, color="#bbbbbb", linewidth=0.8)
    axes.set_xticks(range(4), ["RBF", "Matérn 5/2", "periodic", "t-noise"])
    axes.set_ylabel("nats a point")
    axes.legend(frameon=False, ncols=3)
    _plain(axes)
    return picture(figure, "Lead of MPNP in target log likelihood, with two standard errors", wide=False)


def regret_picture() -> Picture:
    """Mean normalised regret by step."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    colours = _COLOURS | {"true process": "#2a9d57", "random": "#bbbbbb"}
    for name, found in uses.regrets().items():
        mean = np.maximum(found.mean(0), 1e-3)
        axes.plot(range(len(mean)), mean, color=colours[name], linewidth=2.2 if name == "MPNP" else 1.4, label=name)
    axes.set(xlabel="steps after three points", ylabel="regret / range", yscale="log", xticks=range(0, 21, 5))
    axes.legend(frameon=False, ncols=2)
    _plain(axes)
    return picture(figure, "Mean regret of 30 searches by expected improvement, cut off at 0.001", wide=False)


def completion_picture(n: int = 12) -> Picture:
    """Digits: what is shown, what is predicted, how unsure, and the truth."""
    tasks, order = uses.completion_problems()
    mean, deviation = uses.completions()
    _, images = uses.digit_images()
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    rows = {"shown": [], "mean": [], "deviation": [], "truth": []}
    for i in range(n):
        shown, hidden = order[i, : uses.N_PIXELS], order[i, uses.N_PIXELS :]
        seen = np.asarray(tasks.context_y[i, :, 0])
        blank, full, unsure = np.zeros(64), np.zeros(64), np.zeros(64)
        # Fields are drawn from -1 to 1 with grey at 0: pixels that are not shown stay grey.
        blank[shown], full[shown], full[hidden], unsure[hidden] = 2 * seen, 2 * seen, 2 * mean[i], deviation[i]
        rows["shown"].append(blank)
        rows["mean"].append(np.clip(full, -1, 1))
        rows["deviation"].append(unsure)
        rows["truth"].append(2 * (images[i].ravel() - 0.5))
    for axes, (name, fields) in zip(figure.subplots(4, 1), rows.items(), strict=True):
        draw_fields(axes, np.array(fields).T, 8, n)
        axes.text(-1.5, 4, name, ha="right", va="center", size=11)
    return picture(figure, f"Digits completed from {uses.N_PIXELS} of 64 pixels by MPANP")


def populations_picture() -> Picture:
    """Two fresh simulations, and what the network makes of the points it is shown."""
    tasks, model = uses.population_problems(), uses.population_model()
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, i in zip(figure.subplots(1, 2, sharey=True), (0, 1), strict=True):
        seen, there = np.asarray(tasks.context_mask[i]), np.asarray(tasks.target_mask[i])
        x, y = np.asarray(tasks.context_x[i])[seen], np.asarray(tasks.context_y[i])[seen]
        at = np.linspace(x.min(), x.max(), 150)[:, None].astype(np.float32)
        found = model.predict(x, y, at, jax.random.key(0), 1)
        for j, (name, colour) in enumerate((("predators", "#d9730d"), ("prey", "#1f77b4"))):
            mean, deviation = np.asarray(found.mean[:, j]), np.asarray(found.standard_deviation[:, j])
            _band(axes, at[:, 0], mean, deviation, colour, name)
            axes.plot(x[:, 0], y[:, j], "o", color=colour, markersize=4)
            target = np.asarray(tasks.target_x[i])[there], np.asarray(tasks.target_y[i])[there, j]
            axes.plot(target[0][:, 0], target[1], "x", color=colour, markersize=4)
        axes.set_xlabel("time, standardised")
        _plain(axes)
    figure.axes[0].legend(frameon=False)
    return picture(figure, "Two fresh simulations: shown (dots), held out (crosses), two standard deviations")
