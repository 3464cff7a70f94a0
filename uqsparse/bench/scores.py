"""The scores of one leaderboard row, and which way each of them is good."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from uqsparse.bench.classification_scores import (
    as_labels,
    as_probabilities,
    brier,
    highest_probability_sets,
    nll_class,
    reliability,
)
from uqsparse.bench.records import GaussianMixture
from uqsparse.bench.regression_scores import (
    as_draws,
    central_interval,
    crps_draws,
    crps_mixture,
    nll_mixture,
)

LEVEL = 0.9


class Column(NamedTuple):
    """How a score is shown: title, what is best ("low", "high", the nominal "level" or None), and meaning."""

    title: str
    best: str | None
    meaning: str


COLUMNS: dict[str, dict[str, Column]] = {
    "regression": {
        "crps": Column("CRPS", "low", "continuous ranked probability score, in the target's unit"),
        "nll": Column("NLL", "low", "negative log predictive density, nats per test point"),
        "rmse": Column("RMSE", "low", "root mean squared error of the predictive mean"),
        "coverage": Column("cover 90%", "level", "share of test targets inside the central 90% interval"),
        "width": Column("width", None, "mean width of that interval; narrow is good only where it covers"),
    },
    "classification": {
        "brier": Column("Brier", "low", "squared distance of the probabilities to the outcome, 0 to 2"),
        "nll": Column("NLL", "low", "negative log probability of the outcome, nats per test point"),
        "accuracy": Column("accuracy", "high", "share of test points whose most probable class is right"),
        "ece": Column("ECE", "low", "expected calibration error, top label, 15 bins of equal width"),
        "coverage": Column("cover 90%", None, "share of outcomes inside the smallest set of probability 90%"),
        "size": Column("set size", None, "mean number of classes in that set"),
    },
}
# Forecasts are predictive distributions of real targets too.
COLUMNS["forecast"] = COLUMNS["few-shot regression"] = COLUMNS["regression"]
COLUMNS["few-shot classification"] = COLUMNS["classification"]
# The columns that are about sets; the others are about probabilities.
ABOUT_SETS = frozenset({"coverage", "width", "size"})
# The score by which a leaderboard is sorted.
HEADLINE = {kind: "brier" if scores is COLUMNS["classification"] else "crps" for kind, scores in COLUMNS.items()}


def _mean_and_error(per_point: np.ndarray, group: int) -> tuple[float, float | None]:
    mean = float(np.mean(per_point))
    per_point = np.reshape(per_point, (-1, group)).mean(axis=1)
    if not np.isfinite(mean) or len(per_point) < 2:
        return mean, None
    return mean, float(np.std(per_point, ddof=1) / np.sqrt(len(per_point)))


def regression_scores(
    prediction: GaussianMixture | Float[np.ndarray, "m n"],
    y: Float[np.ndarray, " n"],
    level: float = LEVEL,
    interval: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]] | None = None,
    group: int = 1,
) -> dict[str, Any]:
    """Score predictive distributions of real targets.

    Args:
        prediction: n predictive mixtures, or draws (m, n).
        y: (n,) observed targets.
        level: nominal coverage of the central interval, in (0, 1).
        interval: lower and upper ends of other intervals, (n,) each, to be scored in place of the central ones; they
            may be infinite.
        group: so many points in a row belong together, and standard errors are over the means of such groups.

    Returns:
        `scores` (`crps`, `nll`, `rmse`, `coverage`, `width`; `nll` is None for draws, which have no density)
        and `errors`, the standard errors over test points of those that are means.

    Raises:
        ValueError: a shape is wrong, a value is not finite, or the level is not inside (0, 1).
    """
    y = np.asarray(y, dtype=np.float64)
    if isinstance(prediction, GaussianMixture):
        crps, nll = crps_mixture(prediction, y), nll_mixture(prediction, y)
        centre = prediction.mean.mean(axis=0)
    else:
        prediction = as_draws(prediction, len(y))
        crps, nll = crps_draws(prediction, y), None
        centre = prediction.mean(axis=0)
    low, high = central_interval(prediction, level) if interval is None else interval
    width = np.where(low <= high, high - low, 0.0)
    per_point = {"crps": crps, "coverage": (low <= y) & (y <= high), "width": width}
    if nll is not None:
        per_point["nll"] = nll
    scores: dict[str, float | None] = {"nll": None, "rmse": float(np.sqrt(np.mean((centre - y) ** 2)))}
    errors: dict[str, float | None] = {}
    for name, values in per_point.items():
        scores[name], errors[name] = _mean_and_error(values, group)
    return {"scores": scores, "errors": errors}


def classification_scores(
    probabilities: Float[np.ndarray, "n c"],
    y: Int[np.ndarray, " n"],
    n_classes: int,
    level: float = LEVEL,
    sets: Bool[np.ndarray, "n c"] | None = None,
    group: int = 1,
) -> dict[str, Any]:
    """Score class probabilities.

    Args:
        probabilities: (n, n_classes), rows summing to one.
        y: (n,) labels in 0, ..., n_classes - 1.
        n_classes: the number of classes.
        level: nominal coverage of the highest-probability sets, in (0, 1).
        sets: membership in other sets, (n, n_classes), to be scored in place of those.
        group: so many points in a row belong together, and standard errors are over the means of such groups.

    Returns:
        `scores` (`brier`, `nll`, `accuracy`, `ece`, `coverage`, `size`), `errors`, the standard errors over
        test points of those that are means, and `bins`, the reliability diagram.

    Raises:
        ValueError: shapes, labels or probabilities are not as stated.
    """
    labels = as_labels(y)
    p = as_probabilities(probabilities, len(labels), n_classes)
    sets = highest_probability_sets(p, level) if sets is None else sets
    bins = reliability(p, labels, n_bins=15)
    per_point = {
        "brier": brier(p, labels),
        "nll": nll_class(p, labels),
        "accuracy": p.argmax(axis=1) == labels,
        "coverage": sets[np.arange(len(labels)), labels],
        "size": sets.sum(axis=1),
    }
    scores: dict[str, float | None] = {"ece": bins.expected_calibration_error}
    errors: dict[str, float | None] = {}
    for name, values in per_point.items():
        scores[name], errors[name] = _mean_and_error(values, group)
    full = bins.count > 0
    return {
        "scores": scores,
        "errors": errors,
        "bins": {name: values[full].tolist() for name, values in bins._asdict().items()},
    }


def competing(name: str, values: list[float | None], conformal: list[bool]) -> list[float | None]:
    """The values of a column that compete to be its best.

    Conformal versions compete by their sets. Their predictive distributions are those of the methods themselves, fitted
    to fewer rows.
    """
    return [None if one and name not in ABOUT_SETS else value for value, one in zip(values, conformal, strict=True)]


def best_rows(column: Column, values: list[float | None]) -> set[int]:
    """Which rows hold the best value of a column; several on a tie, none where a column has no best.

    Args:
        column: the score's column.
        values: one value a row, None where there is none.

    Returns:
        Row numbers.

    >>> sorted(best_rows(COLUMNS["regression"]["crps"], [0.3, None, 0.2]))
    [2]
    """
    if column.best is None:
        return set()
    goal = {"low": lambda v: v, "high": lambda v: -v, "level": lambda v: abs(v - LEVEL)}[column.best]
    costs = {row: goal(value) for row, value in enumerate(values) if value is not None}
    if len(costs) < 2:
        return set()
    least = min(costs.values())
    return {row for row, cost in costs.items() if cost <= least + 1e-12 * abs(least)}
