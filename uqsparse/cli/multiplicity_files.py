"""What `uqsparse multiplicity` leaves behind: tables of persons, a report as JSON and as Markdown, and pictures."""

import csv
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from uqsparse.cli.contestable_risks import ContestableRisks
from uqsparse.cli.output_files import json_text, markdown_table, write_together

_MOST_LISTED = 20


def write_folder(out: Path, found: ContestableRisks, notes: list[str]) -> list[str]:
    """Write everything, or nothing.

    Args:
        out: the folder; files of these names in it are replaced.
        found: what was found.
        notes: warnings of the run.

    Returns:
        The names of the files.

    Raises:
        OSError: the folder cannot be written.
    """
    from uqsparse.cli.multiplicity_plots import ambiguity_figure, groups_figure, ranges_figure

    contestable = np.flatnonzero(found.contestable)
    by_change = contestable[np.argsort(-found.change[contestable], kind="stable")]
    writers: dict[str, Callable[[Path], Any]] = {
        "persons.csv": lambda path: _write_persons(path, found, np.arange(len(found.table))),
        "contestable.csv": lambda path: _write_persons(path, found, by_change),
        "report.json": lambda path: path.write_text(json_text(report_record(found, notes)), encoding="utf-8"),
        "ranges.png": lambda path: ranges_figure(found).savefig(path),
        "ambiguity.png": lambda path: ambiguity_figure(found).savefig(path),
    }
    if found.table.groups:
        writers["groups.png"] = lambda path: groups_figure(found).savefig(path)
    pictures = [name for name in writers if name.endswith(".png")]
    text = report_text(found, notes, by_change[:_MOST_LISTED], pictures)
    writers["report.md"] = lambda path: path.write_text(text, encoding="utf-8")
    return write_together(out, writers, outdated=("groups.png",))


_HEADS = ("person", "row", "y", "risk", "lowest", "highest", "proved_lowest", "proved_highest", "change")


def _write_persons(path: Path, found: ContestableRisks, order: np.ndarray) -> None:
    table, ranges = found.table, found.ranges
    columns = (ranges.risk, ranges.lower, ranges.upper, ranges.lower_certificate, ranges.upper_certificate)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*_HEADS, "contestable", "decision", "capacity", *table.groups])
        for i in order:
            risks = [f"{column[i]:.6g}" for column in (*columns, found.change)]
            y = table.positive if table.y[i] else table.negative
            groups = [members[i] for members in table.groups.values()]
            capacity = f"{found.capacity[i]:.4f}"
            marks = [int(found.contestable[i]), _decision(found, i), capacity]
            writer.writerow([table.names[i], table.rows[i], y, *risks, *marks, *groups])


def _decision(found: ContestableRisks, i: int) -> str:
    """What the models decide about a person: "above" or "below" the threshold, or "either"."""
    if found.either[i]:
        return "either"
    return "above" if found.ranges.lower[i] >= found.decision else "below"


def report_record(found: ContestableRisks, notes: list[str]) -> dict[str, Any]:
    """The report as plain data."""
    table = found.table
    return {
        "data": str(table.path),
        "persons": len(table),
        "features": list(table.features),
        "positive": table.positive,
        "positive_rate": float(table.y.mean()),
        "level": found.ranges.level.to_dict(),
        "l2": found.l2,
        "mass": found.mass,
        "delta": found.delta,
        "decision": found.decision,
        "contestable": int(found.contestable.sum()),
        "either": int(found.either.sum()),
        "mean_width": float(found.ranges.width.mean()),
        "largest_score_gap": float(found.ranges.score_gap.max()),
        "largest_certificate_width": float(found.ranges.certificate_width.max()),
        "converged": bool(found.ranges.converged.all()),
        "ambiguity": found.ambiguity.to_dict(),
        "ambiguity_curve": found.curve.to_dict(),
        "discrepancy": None if found.discrepancy is None else found.discrepancy.to_dict(),
        "groups": {by: [asdict(one) for one in found.groups(by)] for by in table.groups},
        "notes": [*table.notes, *notes],
    }


def _contested(found: ContestableRisks) -> str:
    share = found.contestable.mean()
    return (
        f"{found.contestable.sum()} of {len(found.table)} persons ({share:.1%}) have a contestable risk of "
        f"{found.table.positive!r}: some of these models move it by {found.delta:g} or more."
    )


def _undecided(found: ContestableRisks) -> str:
    return (
        f"For {found.either.sum()} persons ({found.either.mean():.1%}) some models give a risk of {found.decision:g} "
        "or more and others less."
    )


def _widths(found: ContestableRisks) -> str:
    width = found.ranges.width
    return (
        f"Ranges are {width.mean():.3f} wide on average, {width.max():.3f} at most; the proved ones are wider by "
        f"{found.ranges.certificate_width.max():.1e} at most."
    )


def _one_model(found: ContestableRisks) -> str | None:
    one = found.discrepancy
    if one is None:
        return None
    share = f"{one.lower:.1%}" if one.lower == one.upper else f"between {one.lower:.1%} and {one.upper:.1%}"
    return f"The most that one single model moves by {found.delta:g} or more: {share} of the persons ({one.status})."


# What there is to say, in order.
SENTENCES: tuple[Callable[[ContestableRisks], str | None], ...] = (_contested, _undecided, _one_model, _widths)


def group_heads(by: str) -> list[str]:
    """Headings of `group_rows`."""
    return [by, "persons", "mean risk", "mean width", "contestable", "either decision"]


def group_rows(found: ContestableRisks, by: str) -> list[list[str]]:
    """One line a group, as text."""
    return [
        [one.name, str(one.n), f"{one.risk:.3f}", f"{one.width:.3f}", f"{one.contestable:.1%}", f"{one.either:.1%}"]
        for one in found.groups(by)
    ]


def report_text(found: ContestableRisks, notes: list[str], listed: np.ndarray, pictures: list[str]) -> str:
    """The report as Markdown."""
    table, ranges = found.table, found.ranges
    how = (
        f" The tolerance holds {found.mass:g} of the posterior probability (Laplace)." if found.mass is not None else ""
    )
    lines = [
        f"# Contestable risks in {table.path.name}",
        "",
        f"The models: all {ranges.level}, with {len(table.features)} standardised features and a ridge penalty of "
        f"{found.l2:g}.{how} The ranges are over these models; they say nothing about models of other kinds, and the "
        "loss is that on these rows.",
        "",
        *(f"- {text}" for sentence in SENTENCES if (text := sentence(found)) is not None),
    ]
    if len(listed):
        heads = ["person", "risk", "lowest", "highest", "decision"]
        rows = [
            [table.names[i], *(f"{v[i]:.3f}" for v in (ranges.risk, ranges.lower, ranges.upper)), _decision(found, i)]
            for i in listed
        ]
        all_of_them = len(listed) == found.contestable.sum()
        title = "Contestable risks" if all_of_them else f"The {len(listed)} most contestable risks"
        lines += ["", f"## {title}", "", *markdown_table(heads, rows)]
    for by in table.groups:
        lines += ["", f"## By {by}", "", *markdown_table(group_heads(by), group_rows(found, by))]
    if said := [*table.notes, *notes]:
        lines += ["", "## Notes", "", *(f"- {note}" for note in said)]
    lines += ["", *(f"![{name.removesuffix('.png')}]({name})" for name in pictures)]
    return "\n".join(lines) + "\n"
