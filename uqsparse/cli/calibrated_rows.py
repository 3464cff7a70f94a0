"""Prediction sets for the rows of a table, and how they do on those of them that have a label."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from uqsparse.bounds.conformal import SplitConformal
from uqsparse.bounds.covariate_shift import WeightedConformal
from uqsparse.bounds.coverage import Coverage, SetSizes, coverage, coverage_of, expected_coverage, set_sizes
from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.mondrian import MondrianConformal
from uqsparse.bounds.regions import LabelSets, Region
from uqsparse.bounds.scores.score import Score
from uqsparse.cli.prediction_tables import Parts, PredictionTable
from uqsparse.kernels import rank_pvalue

Thresholds = Literal["all", "group", "label", "weight"]

# Coverage this far below what exchangeable rows give is not chance: one false alarm in 10,000.
_ALARM = 0.9998
_MOST_BINS = 5


class Slice(NamedTuple):
    """Coverage of some of the labelled test rows: those of one group, one label or one size of set."""

    name: str
    coverage: Coverage
    mean_size: float


class Breakdown(NamedTuple):
    """Coverage by "group", "label", "width" or "size"."""

    by: str
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Level:
    """The sets at one level.

    Args:
        alpha: miscoverage allowed.
        region: the sets of the test rows.
        threshold: one number; one for each group or label by its name; None where each row has its own.
        guarantee: what the sets promise.
        sizes: of all test rows.
        covered: shape (n_test,), meaningful for labelled rows.
        coverage: on the labelled test rows; None if there are none.
        breakdowns: coverage of parts of them.
    """

    alpha: float
    region: Region
    threshold: float | dict[str, float] | None
    guarantee: Guarantee
    sizes: SetSizes
    covered: np.ndarray
    coverage: Coverage | None
    breakdowns: tuple[Breakdown, ...]


@dataclass(frozen=True)
class Outcome:
    """All that a run found.

    Args:
        table: the input.
        parts: which rows calibrated and which got sets.
        thresholds: what has a threshold of its own.
        levels: the sets, one entry an alpha.
        pvalues: of the labels of test rows, shape (n_test,), NaN where there is none.
        effective_sample_size: of the calibration weights; None without weights.
        notes: warnings, each once.
    """

    table: PredictionTable
    parts: Parts
    thresholds: Thresholds
    levels: tuple[Level, ...]
    pvalues: np.ndarray
    effective_sample_size: float | None
    notes: tuple[str, ...]

    @property
    def guarantee(self) -> Guarantee:
        """What the sets promise, at all levels at once."""
        first = self.levels[0].guarantee
        several = tuple(float(np.asarray(level.guarantee.level)) for level in self.levels)
        return first if len(several) == 1 else dataclasses.replace(first, level=several)

    @property
    def labelled(self) -> np.ndarray:
        """Which test rows have a label, shape (n_test,)."""
        return self.table.has_y[self.parts.test]


def calibrate_rows(
    table: PredictionTable,
    parts: Parts,
    score: Score,
    alphas: Sequence[float],
    predictions: Callable[[np.ndarray], Any],
    *,
    thresholds: Thresholds = "all",
    estimated: bool = False,
) -> Outcome:
    """Calibrate on some rows and find the sets of others.

    Args:
        table: the input.
        parts: which rows calibrate and which get sets.
        score: the nonconformity score.
        alphas: miscoverages, each in (0, 1).
        predictions: from rows to what the score takes.
        thresholds: what has a threshold of its own: "all" rows share one, each "group", each "label", or each row by
            its "weight".
        estimated: whether weights were estimated.
    """
    y = table.y if table.probabilities is None else table.y.astype(int)
    known, test = predictions(parts.calibration), predictions(parts.test)
    y_known = y[parts.calibration]
    levels, fitted, ess = [], None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        for alpha in alphas:
            if thresholds == "weight":
                assert table.weights is not None
                weighted = WeightedConformal(score, alpha)
                fitted = weighted.calibrate(known, y_known, table.weights[parts.calibration], estimated=estimated)
                region = fitted.predict(test, table.weights[parts.test])
                threshold, ess = None, float(fitted.effective_sample_size)
            elif thresholds == "group":
                assert table.groups is not None
                by_group = MondrianConformal(score, alpha).calibrate(known, y_known, table.groups[parts.calibration])
                region = by_group.predict(test, table.groups[parts.test])
                threshold = dict(zip(map(str, by_group.groups), by_group.threshold.tolist(), strict=True))
            elif thresholds == "label":
                by_label = MondrianConformal(score, alpha, by="label").calibrate(known, y_known)
                region = by_label.predict(test)
                threshold = dict(zip(table.labels, by_label.threshold.tolist(), strict=True))
            else:
                plain = SplitConformal(score, alpha).calibrate(known, y_known)
                region, threshold = plain.predict(test), float(plain.threshold)
            levels.append(_level(table, parts, y, alpha, region, threshold, thresholds))
        labelled = table.has_y[parts.test]
        rows = parts.test[labelled]
        pvalues = np.full(len(parts.test), np.nan)
        if len(rows) and fitted is not None and table.weights is not None:
            pvalues[labelled] = fitted.pvalue(predictions(rows), y[rows], table.weights[rows])
        elif len(rows):
            own = np.zeros(len(table)) if thresholds == "all" else _members(table, thresholds)
            scores = np.asarray(score(known, y_known)), np.asarray(score(predictions(rows), y[rows]))
            pvalues[labelled] = _pvalues(*scores, own[parts.calibration], own[rows])
    notes = [str(warning.message) for warning in caught if warning.category is UserWarning]
    notes += [note for level in levels for note in _alarms(level)]
    notes = tuple(dict.fromkeys((*table.notes, *notes)))
    return Outcome(table, parts, thresholds, tuple(levels), pvalues, ess, notes)


def _pvalues(known: np.ndarray, new: np.ndarray, known_group: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Conformal p-values of scores among the calibration scores of their own group."""
    found = np.empty(len(new))
    for name in np.unique(group):
        found[group == name] = rank_pvalue(np.sort(known[known_group == name]), new[group == name])
    return found


def _level(
    table: PredictionTable,
    parts: Parts,
    y: np.ndarray,
    alpha: float,
    region: Region,
    threshold: float | dict[str, float] | None,
    thresholds: Thresholds,
) -> Level:
    labelled = np.flatnonzero(table.has_y[parts.test])
    guarantee = region.guarantee
    assert guarantee is not None
    covered, found, breakdowns = np.zeros(len(parts.test), dtype=bool), None, ()
    if len(labelled):
        rows = parts.test[labelled]
        some = _rows_of(region, labelled)
        covered[labelled] = np.asarray(some.contains(y[rows]))
        found = coverage(some, y[rows])
        sizes = np.asarray(some.size(), dtype=float)
        kinds = ["group"] if table.groups is not None else []
        if isinstance(region, LabelSets):
            kinds += ["label", "size"]
        elif not np.allclose(sizes, sizes[0]):
            kinds.append("width")
        breakdowns = tuple(
            _breakdown(table, parts, by, rows, covered[labelled], sizes, alpha if by == thresholds else None)
            for by in kinds
        )
    return Level(alpha, region, threshold, guarantee, set_sizes(region), covered, found, breakdowns)


def _rows_of(region: Region, rows: np.ndarray) -> Region:
    """The sets of some test rows; a threshold stays where all share it."""
    if np.ndim(region.threshold):
        region = dataclasses.replace(region, threshold=None)
    return jax.tree.map(lambda leaf: leaf[rows] if np.ndim(leaf) else leaf, region)


def _members(table: PredictionTable, by: str) -> np.ndarray:
    """The group, or the label by its place, of each row of the table."""
    if by == "group" and table.groups is not None:
        return table.groups
    return np.where(table.has_y, table.y, -1).astype(int)


def _breakdown(
    table: PredictionTable,
    parts: Parts,
    by: str,
    rows: np.ndarray,
    covered: np.ndarray,
    sizes: np.ndarray,
    alpha: float | None,
) -> Breakdown:
    """Coverage of parts of the labelled test rows; where alpha is given each part has a threshold of its own."""
    if by in ("width", "size"):
        members = _fifths(sizes) if by == "width" else sizes.astype(int)
    else:
        members = _members(table, by)[rows]
    slices = []
    for member in np.unique(members).tolist():
        inside = members == member
        found = coverage_of(covered[inside])
        if alpha is not None:
            n = int(np.count_nonzero(_members(table, by)[parts.calibration] == member))
            found = found._replace(expected=expected_coverage(n, alpha, found.n)) if n else found
        name = table.labels[member] if by == "label" else str(member)
        if by == "width":
            name = " to ".join(dict.fromkeys(f"{end:.4g}" for end in (sizes[inside].min(), sizes[inside].max())))
        slices.append(Slice(name, found, float(sizes[inside].mean())))
    return Breakdown(by, tuple(slices))


def _fifths(widths: np.ndarray) -> np.ndarray:
    """Which fifth of the widths each belongs to, equal widths together."""
    edges = np.quantile(widths, np.arange(1, _MOST_BINS) / _MOST_BINS, method="inverted_cdf")
    return np.searchsorted(np.unique(edges), widths, side="left")


def _alarms(level: Level) -> list[str]:
    """Say where fewer rows are covered than exchangeable rows would be, beyond chance."""
    found = level.coverage
    if found is None or found.expected is None:
        return []
    least = expected_coverage(level.guarantee.n, level.alpha, found.n, band=_ALARM).low
    if found.value >= least:
        return []
    return [
        f"coverage {found.value:.3f} at alpha = {level.alpha:g} is below {least:.3f}, which exchangeable rows miss "
        "once in 10,000: test rows differ from calibration rows"
    ]
