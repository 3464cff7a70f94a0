"""`uqsparse multiplicity`: whose risk is contestable, since models that fit about as well disagree about it."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from uqsparse.cli.application import app, fail, in_a_thread

if TYPE_CHECKING:
    from uqsparse.cli.contestable_risks import ContestableRisks


class ToleranceName(StrEnum):
    """What the tolerance is relative to."""

    relative = "relative"
    absolute = "absolute"


@app.command()
def multiplicity(
    data: Annotated[Path, typer.Argument(metavar="DATA.csv", help="One row a person, with a header line.")],
    target: Annotated[str, typer.Option(metavar="COLUMN", help="The outcome, a column with two values.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for tables, report and pictures; made if missing.")],
    positive: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE",
            help="The outcome whose probability is the risk: by default the larger number, or the rarer text.",
            show_default=False,
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Compare persons by this column; may be given several times."),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="A column that is no feature; may be given several times."),
    ] = None,
    identity: Annotated[
        str | None, typer.Option("--id", metavar="COLUMN", help="A column that names the persons.", show_default=False)
    ] = None,
    drop_incomplete: Annotated[
        bool, typer.Option("--drop-incomplete", help="Leave out rows that lack a value, instead of refusing them.")
    ] = False,
    epsilon: Annotated[
        float | None,
        typer.Option(help="How much more training loss a model may have (0.01).", show_default=False),
    ] = None,
    tolerance: Annotated[
        ToleranceName, typer.Option(help="Whether epsilon is a share of the least loss, or a difference from it.")
    ] = ToleranceName.relative,
    mass: Annotated[
        float | None,
        typer.Option(
            help="Instead of epsilon: the posterior probability that the models are to hold, such as 0.95.",
            show_default=False,
        ),
    ] = None,
    l2: Annotated[float, typer.Option(min=0, help="Ridge penalty on the standardised features.")] = 1e-3,
    delta: Annotated[float, typer.Option(help="A risk is contestable if a model moves it by this much.")] = 0.1,
    decision: Annotated[float, typer.Option(help="The risk from which on something is decided.")] = 0.5,
    time_limit: Annotated[
        float, typer.Option(min=0, help="Seconds for the most that one model moves (discrepancy); 0: not computed.")
    ] = 10.0,
) -> None:
    """Ranges of risk over all logistic models that fit about as well, person by person, with certificates.

    Every other column is a feature: numbers are standardised, texts become categories.
    """
    try:
        from uqsparse.cli.contestable_risks import contestable_risks
        from uqsparse.cli.multiplicity_files import write_folder
        from uqsparse.cli.output_files import check_folder
        from uqsparse.cli.person_tables import read_persons
        from uqsparse.kernels.arguments import require_fraction

        check_folder(out)
        require_fraction("--delta", delta)
        require_fraction("--decision", decision)
        if mass is not None:
            if epsilon is not None:
                raise ValueError("--mass finds the epsilon: give one of the two")
            require_fraction("--mass", mass)
        table = read_persons(
            data,
            target,
            positive=positive,
            groups=group or (),
            ignored=ignore or (),
            identity=identity,
            drop_incomplete=drop_incomplete,
            drop_reference=l2 == 0,
        )

        def find() -> "ContestableRisks":
            return contestable_risks(
                table,
                epsilon=0.01 if epsilon is None else epsilon,
                tolerance=tolerance.value,
                mass=mass,
                l2=l2,
                delta=delta,
                decision=decision,
                time_limit=time_limit,
            )

        found, notes = in_a_thread(find)
        files = write_folder(out, found, notes)
    except (ValueError, TypeError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        typer.echo("interrupted: nothing was written", err=True)
        raise typer.Exit(130) from None
    _print(found, notes, Console())
    typer.echo(f"Written to {out}: {', '.join(files)}")
    if not found.ranges.converged.all():
        raise typer.Exit(1)


def _print(found: "ContestableRisks", notes: list[str], console: Console) -> None:
    from uqsparse.cli.multiplicity_files import SENTENCES, group_heads, group_rows

    console.print(f"{escape(str(found.ranges.level))}.", highlight=False)
    for sentence in SENTENCES:
        if (text := sentence(found)) is not None:
            console.print(escape(text), highlight=False)
    for by in found.table.groups:
        shown = Table(title=f"by {escape(by)}", title_justify="left")
        for i, head in enumerate(group_heads(by)):
            shown.add_column(escape(head), justify="left" if i == 0 else "right")
        for row in group_rows(found, by):
            shown.add_row(*map(escape, row))
        console.print(shown)
    for note in (*found.table.notes, *notes):
        console.print(f"note: {escape(note)}", highlight=False)
