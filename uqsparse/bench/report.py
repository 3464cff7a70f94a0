"""The report: `index.html`, one self-contained page, and `results.json`, everything as data."""

import math
import re
from importlib.resources import files
from typing import Any, NamedTuple

from uqsparse.bench import formatting, plots
from uqsparse.bench.records import FEW_SHOT
from uqsparse.bench.results import EntryResult, RunResult, write_json
from uqsparse.bench.scores import ABOUT_SETS, COLUMNS, HEADLINE, LEVEL, Column, best_rows, competing
from uqsparse.whole_file import whole_file

try:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
except ImportError as error:
    raise ImportError("the report needs Jinja; pip install 'uqsparse[bench]'") from error


class Drawn(NamedTuple):
    """A plot with its caption; a wide one takes the whole width of the page."""

    svg: Markup
    caption: str
    wide: bool = False


def write_report(result: RunResult) -> None:
    """Write both files of a run, at the paths that the result names.

    Args:
        result: a complete run.
    """
    write_json(
        result.results,
        {
            **result.about,
            "summary": formatting.summary(result),
            "all_hold": result.all_hold,
            "entries": [entry.to_json() for entry in result.entries],
        },
    )
    with whole_file(result.report) as draft:
        draft.write_text(render(result), encoding="utf-8")


def render(result: RunResult) -> str:
    """The report's page as text."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters.update(
        number=formatting.number,
        seconds=formatting.seconds,
        times=formatting.times,
        relation=formatting.RELATIONS.__getitem__,
    )
    environment.globals.update(
        sign=formatting.SIGNS.__getitem__, words=formatting.status_words, count_words=formatting.count_words
    )
    template = environment.from_string(files("uqsparse.bench").joinpath("report.html.j2").read_text(encoding="utf-8"))
    boards = [_board(task, rows) for task, rows in result.leaderboards().items()]
    return template.render(
        result=result,
        about=result.about,
        summary=formatting.summary(result),
        tiles=_tiles(result),
        claims=[(entry, _claim_pictures(place, entry)) for place, entry in enumerate(result.of_kind("claim"))],
        boards=boards,
        contests=result.of_kind("speed"),
        ratio_plot=_ratio_plot(result.of_kind("speed")),
        failures=[entry for entry in result.entries if entry.status == "failed"],
        machines=_machines(result),
        columns=COLUMNS,
        meanings=_meanings({board["kind"] for board in boards}),
    )


def _tiles(result: RunResult) -> list[tuple[str, int, str]]:
    """The figures at the top: a tone, a count and its words."""
    claims, contests = result.of_kind("claim"), result.of_kind("speed")
    missed = sum(entry.status == "missed" for entry in claims)
    slow = sum(entry.status == "missed" for entry in contests)
    tiles = []
    if claims:
        tiles.append(("good", sum(entry.status == "holds" for entry in claims), "claims hold"))
        tiles.append(("bad" if missed else "quiet", missed, "claims do not hold"))
    if contests:
        tiles.append(("good", sum(entry.status == "holds" for entry in contests), "speed bars reached"))
        tiles.append(("bad" if slow else "quiet", slow, "speed bars missed"))
    if result.of_kind("score"):
        measured = sum(entry.status == "measured" for entry in result.of_kind("score"))
        tiles.append(("good", measured, "leaderboard rows measured"))
    failed = result.count("failed")
    tiles.append(("bad" if failed else "quiet", failed, "entries failed"))
    if result.count("not measured"):
        tiles.append(("quiet", result.count("not measured"), "not measured here"))
    return tiles


def _claim_pictures(place: int, entry: EntryResult) -> list[Drawn]:
    """A claim's pictures, with ids that no other picture of the page has."""
    drawn = []
    for number, one in enumerate(entry.details.get("pictures", [])):
        svg = one["svg"]
        for found in sorted(set(re.findall(r'\bid="([^"]+)"', svg)), key=len, reverse=True):
            svg = re.sub(rf'(\bid="|#){re.escape(found)}(?=["\s)])', rf"\g<1>claim-{place}-{number}-{found}", svg)
        drawn.append(Drawn(Markup(svg), one["caption"], one["wide"]))
    return drawn


def _board(task: str, rows: list[EntryResult]) -> dict[str, Any]:
    kind = rows[0].details["kind"]
    headline = HEADLINE[kind]
    measured = [row for row in rows if row.status == "measured"]
    conformal = ["conformal" in row.details for row in measured]
    cells = {}
    for name, score in COLUMNS[kind].items():
        values = [row.details["scores"][name] for row in measured]
        best = best_rows(score, competing(name, values, conformal))
        cells[name] = [(text, place in best) for place, text in enumerate(formatting.column(values))]
    errors = [formatting.number(row.details["errors"].get(headline), 2) for row in measured]
    labels = formatting.method_labels(measured)
    return {
        "task": task,
        "kind": kind,
        "headline": headline,
        "about": measured[0].details if measured else {},
        "rows": [
            {
                "entry": row,
                "label": labels[place],
                "conformal": conformal[place],
                # Numbers that a conformal version has from its method stand back.
                "cells": [
                    (name, *cells[name][place], conformal[place] and name not in ABOUT_SETS) for name in COLUMNS[kind]
                ],
                "error": errors[place],
            }
            for place, row in enumerate(measured)
        ],
        "others": [row for row in rows if row.status != "measured"],
        "conformal": next((row.details["conformal"] for row in measured if "conformal" in row.details), None),
        "plots": _board_plots(task, kind, measured),
    }


def _meanings(shown: set[str]) -> list[tuple[Column, list[str]]]:
    """The scores of some kinds of task, each once with the kinds that it belongs to."""
    kinds: dict[Column, list[str]] = {}
    for kind, scores in COLUMNS.items():
        for score in scores.values():
            if kind in shown:
                kinds.setdefault(score, []).append(kind)
    return list(kinds.items())


def _drawn_bars(rows: list[EntryResult], kind: str, score: str, task: str) -> Drawn | None:
    title = COLUMNS[kind][score].title
    bars, left_out = [], []
    for row in rows:
        name, value = row.details["method"], row.details["scores"][score]
        if value is not None and math.isfinite(value):
            bars.append(plots.Bar(name, value, row.details["errors"].get(score)))
        else:
            left_out.append(name)
    if not bars:
        return None
    svg = plots.bar_plot(sorted(bars, key=lambda bar: bar.value), f"{title} (lower is better)", f"{task} {score}")
    caption = f"{title}, with the standard error over test {'tasks' if kind in FEW_SHOT else 'points'}"
    if left_out:
        caption += f"; without a finite value: {', '.join(left_out)}"
    return Drawn(Markup(svg), caption)


def _board_plots(task: str, kind: str, rows: list[EntryResult]) -> list[Drawn]:
    if not rows:
        return []
    # A conformal version's distribution is that of its method from fewer rows: it is drawn where its sets count.
    own = [row for row in rows if "conformal" not in row.details] or rows
    scores = ("brier", "nll") if HEADLINE[kind] == "brier" else ("crps",)
    drawn = [one for score in scores if (one := _drawn_bars(own, kind, score, task)) is not None]
    if kind in FEW_SHOT:  # the bands of the other drawings take test points for independent
        return drawn
    if kind != "classification" or len(own) < len(rows):
        drawn += _drawn_coverage(rows, own, task, "size" if kind == "classification" else "width")
    if kind != "classification":
        return drawn
    bins = [plots.Bins(row.details["method"], **row.details["bins"]) for row in own]
    svg = plots.reliability_plot(bins, f"{task} reliability")
    caption = "Reliability: how often the predicted class is right; areas are shares of the test points, bars exact "
    caption += "95% confidence intervals, in red where they leave out the diagonal"
    return [*drawn, Drawn(Markup(svg), caption, wide=True)]


def _drawn_coverage(rows: list[EntryResult], own: list[EntryResult], task: str, size: str) -> list[Drawn]:
    places = {
        row.details["method"]: (row.details["scores"][size], row.details["scores"]["coverage"])
        for row in rows
        if math.isfinite(row.details["scores"][size])
    }
    versions = {row.details.get("base"): places.get(row.details["method"]) for row in rows if row not in own}
    points = [
        plots.Point(name, *places[name], versions.get(name)) for row in own if (name := row.details["method"]) in places
    ]
    if not points:
        return []
    what = "mean number of classes in a set" if size == "size" else "mean interval width"
    svg = plots.coverage_plot(points, LEVEL, rows[0].details["n_test"], f"{task} coverage", what)
    caption = f"Coverage against {'set size' if size == 'size' else 'width'}; "
    caption += "a calibrated method lies in the band 95 times in 100"
    if any(point.conformal is not None for point in points):
        caption += "; arrows lead to the conformal versions, drawn as rings"
    if left_out := [name for row in rows if (name := row.details["method"]) not in places]:
        caption += f"; unbounded: {', '.join(left_out)}"
    return [Drawn(Markup(svg), caption)]


def _ratio_plot(contests: list[EntryResult]) -> Markup | None:
    ratios = [
        plots.Ratio(
            entry.name,
            entry.details["ratios"],
            entry.details["ratio_low"],
            entry.details["ratio"],
            entry.details["ratio_high"],
            entry.details["at_least"],
        )
        for entry in contests
        if "ratio" in entry.details
    ]
    return Markup(plots.ratio_plot(ratios, "speed ratios")) if ratios else None


def _machines(result: RunResult) -> list[dict[str, Any]]:
    """The distinct machines that entries ran on."""
    distinct: list[dict[str, Any]] = []
    for entry in result.entries:
        if entry.machine and entry.machine not in distinct:
            distinct.append(entry.machine)
    return distinct or [result.about["machine"]]
