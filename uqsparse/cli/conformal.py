"""`uqsparse conformal`: prediction intervals and label sets that cover, from a file of predictions and labels."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from uqsparse.cli.application import app, fail

if TYPE_CHECKING:
    from uqsparse.bounds.scores.score import Score
    from uqsparse.cli.calibrated_rows import Outcome, Thresholds
    from uqsparse.cli.prediction_tables import PredictionTable

conformal = typer.Typer(help="Prediction intervals and label sets that cover at a stated rate, whatever the model is.")
app.add_typer(conformal, name="conformal")


class IntervalScore(StrEnum):
    """Scores of real targets."""

    absolute = "absolute"
    normalised = "normalised"
    quantile = "quantile"


class LabelScoreName(StrEnum):
    """Scores of class labels."""

    lac = "lac"
    aps = "aps"
    raps = "raps"
    saps = "saps"


# What each score is computed from, the first that the file has being the default.
_COLUMNS = {
    IntervalScore.quantile: ("lower", "upper"),
    IntervalScore.normalised: ("mean", "sd"),
    IntervalScore.absolute: ("mean",),
}

Predictions = Annotated[Path, typer.Argument(metavar="PREDICTIONS.csv", help="One row an observation.")]
Alphas = Annotated[
    list[float] | None,
    typer.Option(help="Miscoverage allowed (0.1); give it several times for several levels.", show_default=False),
]
Out = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder for the sets, the report and pictures; made if missing.")
]
Evaluate = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Share of the labelled rows held out at random to measure coverage on (half, if all rows have a label).",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same split and same sets.")]
Marginal = Annotated[
    bool, typer.Option("--marginal", help="One threshold for all: a column 'group' serves the report only.")
]
Estimated = Annotated[
    bool, typer.Option("--estimated-weights", help="The weights are estimates: the guarantee is approximate.")
]


@conformal.callback(invoke_without_command=True)
def _show_help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@conformal.command()
def intervals(
    predictions: Predictions,
    out: Out,
    alpha: Alphas = None,
    score: Annotated[
        IntervalScore | None,
        typer.Option(
            help="By default quantile for lower and upper, normalised for mean and sd, absolute for mean.",
            show_default=False,
        ),
    ] = None,
    evaluate: Evaluate = None,
    marginal: Marginal = False,
    estimated_weights: Estimated = False,
    seed: Seed = 0,
) -> None:
    """Prediction intervals from point predictions, standard deviations or quantiles.

    Columns: y (empty where an interval is wanted), mean (or prediction), sd, lower, upper; and, as you like, group
    (each group gets its own threshold), weight (density of the row at test time over that at calibration) and split
    (calibration or test). The model must not have been fitted to these rows.
    """

    def prepare() -> tuple["PredictionTable", "Score", str, Callable[[Any], Any]]:
        from uqsparse.bounds.scores import AbsoluteResidual, NormalisedResidual, QuantileResidual
        from uqsparse.cli.prediction_tables import read_intervals

        table = read_intervals(predictions)
        fitting = [one for one, columns in _COLUMNS.items() if set(columns) <= set(table.numbers)]
        if not fitting or (score is not None and score not in fitting):
            columns = " and ".join(map(repr, _COLUMNS[score or IntervalScore.quantile]))
            raise ValueError(f"{str(predictions)!r} lacks a column of {columns}, which {score or 'intervals'} need(s)")
        chosen = score or fitting[0]
        classes = {"absolute": AbsoluteResidual, "normalised": NormalisedResidual, "quantile": QuantileResidual}
        columns = [table.numbers[name] for name in _COLUMNS[chosen]]

        def of_rows(rows: Any) -> Any:
            return columns[0][rows] if len(columns) == 1 else tuple(column[rows] for column in columns)

        return table, classes[chosen.value](), chosen.value, of_rows

    _run(prepare, out, alpha, evaluate, seed, marginal=marginal, by_label=False, estimated=estimated_weights)


@conformal.command()
def sets(
    predictions: Predictions,
    out: Out,
    alpha: Alphas = None,
    score: Annotated[
        LabelScoreName, typer.Option(help="lac: smallest sets; aps, raps, saps: larger where unsure.")
    ] = LabelScoreName.lac,
    lam: Annotated[
        float | None, typer.Option(help="Penalty on a rank, of raps (0.01) and saps (0.1).", show_default=False)
    ] = None,
    k_reg: Annotated[
        int | None, typer.Option(help="Rank up to which raps has no penalty (5).", show_default=False)
    ] = None,
    by_label: Annotated[
        bool, typer.Option("--by-label", help="One threshold a label: each class is covered at the level.")
    ] = False,
    evaluate: Evaluate = None,
    marginal: Marginal = False,
    estimated_weights: Estimated = False,
    seed: Seed = 0,
) -> None:
    """Sets of class labels from predicted probabilities.

    Columns: y (a label's name or number, empty where a set is wanted) and one column p_<label> of probabilities a
    label; and, as you like, group (each group gets its own threshold), weight (density of the row at test time over
    that at calibration) and split (calibration or test). The model must not have been fitted to these rows.
    """

    def prepare() -> tuple["PredictionTable", "Score", str, Callable[[Any], Any]]:
        from uqsparse.cli.prediction_tables import read_label_sets

        made = _label_score(score, {"lam": lam, "k_reg": k_reg}, seed)
        table = read_label_sets(predictions)
        probabilities = table.probabilities
        assert probabilities is not None
        return table, made, score.value, lambda rows: probabilities[rows]

    _run(prepare, out, alpha, evaluate, seed, marginal=marginal, by_label=by_label, estimated=estimated_weights)


def _label_score(score: LabelScoreName, options: dict[str, Any], seed: int) -> "Score":
    import jax

    from uqsparse.bounds.scores import APS, LAC, RAPS, SAPS

    given = {name: value for name, value in options.items() if value is not None}
    takes = {"raps": {"lam", "k_reg"}, "saps": {"lam"}}.get(score.value, set())
    for name in given:
        if name not in takes:
            raise ValueError(f"--{name.replace('_', '-')} has no meaning for --score {score.value}")
    if score is LabelScoreName.lac:
        return LAC()
    # Another stream than the one that splits the rows.
    key = jax.random.fold_in(jax.random.key(seed), 1)
    return {"aps": APS, "raps": RAPS, "saps": SAPS}[score.value](key, **given)


def _run(
    prepare: Callable[[], tuple["PredictionTable", "Score", str, Callable[[Any], Any]]],
    out: Path,
    alpha: list[float] | None,
    evaluate: float | None,
    seed: int,
    *,
    marginal: bool,
    by_label: bool,
    estimated: bool,
) -> None:
    """Read, calibrate, write and print."""
    try:
        from uqsparse.bounds.conformal import checked_alpha
        from uqsparse.cli.calibrated_rows import calibrate_rows
        from uqsparse.cli.conformal_files import write_folder
        from uqsparse.cli.output_files import check_folder
        from uqsparse.cli.prediction_tables import split_rows

        check_folder(out)
        alphas = list(dict.fromkeys(alpha or [0.1]))
        checked_alpha(alphas)
        table, score, name, of_rows = prepare()
        thresholds = _thresholds(table, marginal, by_label, estimated)
        parts = split_rows(table, evaluate, seed)
        outcome = calibrate_rows(table, parts, score, alphas, of_rows, thresholds=thresholds, estimated=estimated)
        files = write_folder(out, outcome, name, seed)
    except (ValueError, TypeError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        typer.echo("interrupted: nothing was written", err=True)
        raise typer.Exit(130) from None
    _print_outcome(outcome, Console())
    typer.echo(f"Written to {out}: {', '.join(files)}")


def _thresholds(table: "PredictionTable", marginal: bool, by_label: bool, estimated: bool) -> "Thresholds":
    """What has a threshold of its own."""
    by_group = table.groups is not None and not marginal
    asked = {
        "--by-label": by_label,
        "the column 'weight'": table.weights is not None,
        "the column 'group'": by_group,
    }
    wanted = [name for name, given in asked.items() if given]
    if len(wanted) > 1:
        hint = "; --marginal uses 'group' in the report only" if by_group else ""
        raise ValueError(f"{' and '.join(wanted)} each ask for thresholds of their own: give one of them{hint}")
    if estimated and table.weights is None:
        raise ValueError(f"--estimated-weights is given, and {str(table.path)!r} has no column 'weight'")
    if by_label:
        return "label"
    return "weight" if table.weights is not None else "group" if by_group else "all"


def _print_outcome(outcome: "Outcome", console: Console) -> None:
    from uqsparse.bounds.regions import LabelSets
    from uqsparse.cli.conformal_files import summary, summary_heads

    parts = outcome.parts
    drawn = ", drawn at random" if parts.random else ""
    counts = f"{len(parts.calibration)} calibration rows{drawn}; {len(parts.test)} test rows"
    console.print(f"{counts}, {int(outcome.labelled.sum())} of them labelled", highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("level", *summary_heads(isinstance(outcome.levels[0].region, LabelSets))):
        table.add_column(heading, justify="right", no_wrap=True)
    for level in outcome.levels:
        table.add_row(f"{1 - level.alpha:.6g}", *summary(level))
    console.print(table, highlight=False)
    if (ess := outcome.effective_sample_size) is not None:
        console.print(f"the weights are worth {ess:.1f} equal calibration rows", highlight=False)
    console.print(f"each set {escape(str(outcome.guarantee))}", highlight=False)
    for note in outcome.notes:
        console.print(f"[bold yellow]warning[/] {escape(note)}", highlight=False)
