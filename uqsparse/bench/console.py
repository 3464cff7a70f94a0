"""The results as tables on the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from uqsparse.bench import formatting
from uqsparse.bench.results import EntryResult, RunResult
from uqsparse.bench.scores import COLUMNS, HEADLINE, best_rows, competing

_STYLES = {
    "holds": "green",
    "missed": "bold red",
    "failed": "bold red",
    "not measured": "dim",
    "measured": "",
}


def print_results(result: RunResult, console: Console) -> None:
    """Print the claims, the leaderboards, the speed contests and a closing summary.

    Args:
        result: a complete run.
        console: where to print; the tables are laid out for 100 columns and more.
    """
    if claims := result.of_kind("claim"):
        console.print(claims_table(claims), "")
    for task, rows in result.leaderboards().items():
        console.print(leaderboard_table(task, rows), "")
    if contests := result.of_kind("speed"):
        console.print(speed_table(contests), "")
    for entry in result.entries:
        if entry.status in ("failed", "not measured"):
            console.print(_verdict(entry), escape(f"{entry.name}: {entry.reason}"), highlight=False)
    console.print(formatting.summary(result), style="bold", highlight=False)
    console.print(f"Report: {escape(str(result.report))}", highlight=False, soft_wrap=True)


def _verdict(entry: EntryResult) -> str:
    text = f"{formatting.SIGNS[entry.status]} {formatting.status_words(entry.kind, entry.status)}"
    style = _STYLES[entry.status]
    return f"[{style}]{text}[/]" if style else text


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))


def claims_table(claims: Sequence[EntryResult]) -> Table:
    """One row a claim: the statement, the measured number, what was asked for, and the verdict."""
    table = _table("Claims")
    table.add_column("statement", ratio=1, overflow="fold")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("asked for", no_wrap=True)
    table.add_column("compared with", max_width=22)
    table.add_column("verdict", no_wrap=True)
    for entry in claims:
        d = entry.details
        numbers = ("–", "", "")
        if "value" in d:
            asked = f"{formatting.RELATIONS[d['relation']]} {formatting.number(d['bound'])}"
            numbers = (formatting.number(d["value"]), asked, escape(d["comparator"]))
        table.add_row(f"{escape(entry.name)} [dim]({escape(d['system'])})[/]", *numbers, _verdict(entry))
    return table


def leaderboard_table(task: str, rows: Sequence[EntryResult]) -> Table:
    """One row a method, best first, its conformal version below; the best value of a column is bold and starred."""
    kind = rows[0].details["kind"]
    table = _table(escape(f"{task} ({kind})"))
    table.add_column("method", min_width=12, overflow="fold")
    measured = [row for row in rows if row.status == "measured"]
    conformal = ["conformal" in row.details for row in measured]
    texts = []
    for name, column in COLUMNS[kind].items():
        table.add_column(column.title, justify="right", no_wrap=True)
        values = [row.details["scores"][name] for row in measured]
        best = best_rows(column, competing(name, values, conformal))
        texts.append([f"[bold]*{t}[/]" if i in best else t for i, t in enumerate(formatting.column(values))])
        if name == HEADLINE[kind]:
            table.add_column("±", justify="right", no_wrap=True, style="dim")
            texts.append([formatting.number(row.details["errors"].get(name), 2) for row in measured])
    table.add_column("time", justify="right", no_wrap=True)
    for place, (row, label) in enumerate(zip(measured, formatting.method_labels(measured), strict=True)):
        cells = [column[place] for column in texts]
        table.add_row(escape(label), *cells, formatting.seconds(row.details["method_seconds"]))
    for row in rows:
        if row.status != "measured":
            table.add_row(escape(row.details["method"]), *["–"] * len(texts), row.status, style="dim")
    return table


def speed_table(contests: Sequence[EntryResult]) -> Table:
    """One row a contest: the ratio with its quartiles, the ratio asked for, the seconds, and the verdict."""
    table = _table("Speed (ratio above 1: ours is faster)")
    table.add_column("contest", ratio=1, overflow="fold")
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("quartiles", no_wrap=True)
    table.add_column("asked for", no_wrap=True)
    table.add_column("ours / peer", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for entry in contests:
        d = entry.details
        cells = ["–", "", f"≥ {formatting.times(d['at_least'])}", ""]
        if "ratio" in d:
            work = d["work"] or {"ours": 1.0, "peer": 1.0}
            sides = [formatting.seconds(d["seconds"][side] / work[side]) for side in ("ours", "peer")]
            quartiles = f"{formatting.times(d['ratio_low'])} to {formatting.times(d['ratio_high'])}"
            cells = [formatting.times(d["ratio"]), quartiles, cells[2], " / ".join(sides)]
        name = f"{escape(entry.name)} [dim](per {escape(d['unit'])})[/]"
        table.add_row(name, *cells, _verdict(entry))
    return table
