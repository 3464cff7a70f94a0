"""What `uqsparse conformal` leaves behind: sets as CSV, a report as JSON and as Markdown, and pictures."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from uqsparse.bounds.coverage import Coverage
from uqsparse.bounds.regions import Intervals, LabelSets
from uqsparse.cli.calibrated_rows import Level, Outcome
from uqsparse.cli.output_files import json_text, markdown_table, write_together

_SHARED = {
    "all": "one threshold for all rows",
    "group": "one threshold a group",
    "label": "one threshold a label",
    "weight": "one threshold a row, by its weight",
}


def write_folder(out: Path, outcome: Outcome, score: str, seed: int) -> list[str]:
    """Write everything, or nothing: files are made apart and moved to the folder when all are complete.

    Args:
        out: the folder; files of these names in it are replaced.
        outcome: what was found.
        score: the name of the score.
        seed: of the random choices, for the report.

    Returns:
        The names of the files.

    Raises:
        OSError: the folder cannot be written.
    """
    from uqsparse.cli.conformal_plots import coverage_figure, intervals_figure, sizes_figure

    is_sets = isinstance(outcome.levels[0].region, LabelSets)
    record = report_record(outcome, score, seed)
    writers: dict[str, Callable[[Path], Any]] = {
        "sets.csv" if is_sets else "intervals.csv": lambda path: _write_rows(path, outcome),
        "report.json": lambda path: path.write_text(json_text(record), encoding="utf-8"),
    }
    if is_sets:
        writers["set_sizes.png"] = lambda path: sizes_figure(outcome).savefig(path)
    else:
        writers["intervals.png"] = lambda path: intervals_figure(outcome).savefig(path)
    if outcome.labelled.any():
        writers["coverage.png"] = lambda path: coverage_figure(outcome).savefig(path)
    pictures = [name for name in writers if name.endswith(".png")]
    writers["report.md"] = lambda path: path.write_text(report_text(outcome, score, pictures), encoding="utf-8")
    # a picture of an earlier run, which this one has not measured
    return write_together(out, writers, outdated=("coverage.png",))


def _write_rows(path: Path, outcome: Outcome) -> None:
    """One line a test row and level."""
    is_sets = isinstance(outcome.levels[0].region, LabelSets)
    table, rows = outcome.table, outcome.parts.test
    group = [] if table.groups is None else ["group"]
    head = ["labels", "size"] if is_sets else ["lower", "upper"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "alpha", *group, *head, "y", "covered", "pvalue"])
        for level in outcome.levels:
            sets = _sets(level, table.labels)
            for i, row in enumerate(rows):
                end: list[Any] = ["", "", ""]
                if table.has_y[row]:
                    y = table.labels[int(table.y[row])] if is_sets else float(table.y[row])
                    end = [y, int(level.covered[i]), f"{outcome.pvalues[i]:.6g}"]
                name = [] if table.groups is None else [table.groups[row]]
                writer.writerow([row + 2, f"{level.alpha:g}", *name, *sets[i], *end])


def _sets(level: Level, labels: tuple[str, ...]) -> list[tuple[Any, Any]]:
    if isinstance(level.region, LabelSets):
        members = np.asarray(level.region.member)
        return [
            ("|".join(label for label, inside in zip(labels, row, strict=True) if inside), row.sum()) for row in members
        ]
    assert isinstance(level.region, Intervals)
    return list(zip(np.asarray(level.region.lower).tolist(), np.asarray(level.region.upper).tolist(), strict=True))


def report_record(outcome: Outcome, score: str, seed: int) -> dict[str, Any]:
    """The report as plain data; infinite numbers are the text "inf"."""
    table, parts = outcome.table, outcome.parts
    return {
        "predictions": str(table.path),
        "score": score,
        "thresholds": outcome.thresholds,
        "calibration_rows": len(parts.calibration),
        "test_rows": len(parts.test),
        "labelled_test_rows": int(outcome.labelled.sum()),
        "seed": seed,
        "random_split": parts.random,
        "effective_sample_size": outcome.effective_sample_size,
        "levels": [_level_record(level) for level in outcome.levels],
        "notes": list(outcome.notes),
    }


def _level_record(level: Level) -> dict[str, Any]:
    guarantee = level.guarantee
    return {
        "alpha": level.alpha,
        "threshold": level.threshold,
        "guarantee": guarantee.to_dict(),
        "size": level.sizes._asdict(),
        "coverage": None if level.coverage is None else _coverage_record(level.coverage),
        "coverage_by": {
            breakdown.by: [
                {"name": one.name, "mean_size": one.mean_size, **_coverage_record(one.coverage)}
                for one in breakdown.slices
            ]
            for breakdown in level.breakdowns
        },
    }


def _coverage_record(found: Coverage) -> dict[str, Any]:
    return {**found._asdict(), "expected": None if found.expected is None else found.expected._asdict()}


def report_text(outcome: Outcome, score: str, pictures: list[str]) -> str:
    """The report as Markdown."""
    parts, is_sets = outcome.parts, isinstance(outcome.levels[0].region, LabelSets)
    drawn = " (drawn at random)" if parts.random else ""
    n_labelled = int(outcome.labelled.sum())
    lines = [
        f"# Prediction {'sets' if is_sets else 'intervals'} for {outcome.table.path.name}",
        "",
        f"Score {score}, {_SHARED[outcome.thresholds]}. {len(parts.calibration)} calibration rows{drawn}; "
        f"{len(parts.test)} test rows, {n_labelled} of them labelled. Row numbers count the header as row 1.",
    ]
    if outcome.effective_sample_size is not None:
        lines += ["", f"The weights are worth {outcome.effective_sample_size:.1f} equal calibration rows."]
    lines += [
        "",
        *markdown_table(
            ["level", *summary_heads(is_sets)], [[f"{1 - one.alpha:.6g}", *summary(one)] for one in outcome.levels]
        ),
    ]
    lines += ["", f"Each set {outcome.guarantee}."]
    for level in outcome.levels:
        for breakdown in level.breakdowns:
            heads = [
                breakdown.by,
                "rows",
                "coverage",
                "95 % interval",
                "expected",
                "mean size" if is_sets else "mean width",
            ]
            rows = [
                [one.name, str(one.coverage.n), *coverage_words(one.coverage), f"{one.mean_size:.4g}"]
                for one in breakdown.slices
            ]
            lines += [
                "",
                f"## Coverage by {breakdown.by} at level {1 - level.alpha:.6g}",
                "",
                *markdown_table(heads, rows),
            ]
    if outcome.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in outcome.notes)]
    lines += ["", *(f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in pictures)]
    return "\n".join(lines) + "\n"


def summary_heads(is_sets: bool) -> list[str]:
    """Headings of `summary`."""
    ends = ["mean size", "empty"] if is_sets else ["mean width", "empty", "unbounded"]
    return ["coverage", "95 % interval", "expected", *ends]


def summary(level: Level) -> list[str]:
    """One line about a level: coverage, its interval, where it was to be expected, and sizes."""
    sizes = level.sizes
    numbers = [f"{sizes.mean:.4g}", str(sizes.n_empty), str(sizes.n_infinite)]
    words = ["–", "–", "–"] if level.coverage is None else coverage_words(level.coverage)
    return [*words, *numbers[: 2 if isinstance(level.region, LabelSets) else 3]]


def coverage_words(found: Coverage) -> list[str]:
    """Coverage, its interval, and the band it was expected in."""
    expected = "–" if found.expected is None else f"{found.expected.low:.3f}–{found.expected.high:.3f}"
    return [f"{found.value:.3f}", f"{found.low:.3f}–{found.high:.3f}", expected]
