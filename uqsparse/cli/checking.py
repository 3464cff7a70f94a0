"""`uqsparse check`: a verdict on inference code in a file."""

from pathlib import Path
from typing import Annotated

import typer

from uqsparse.cli.application import app, fail, in_a_thread


@app.command()
def check(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py:NAME",
            help="A Markov kernel, resampler, involution, NumPyro transform, NumPyro model, or a function of no "
            "arguments that returns a verdict.",
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What to check against, in the same file: masses ('target') of a kernel(key, state), the simulator "
            "('simulate') of a kernel(key, theta, y), a sampler ('points') of an involution.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="JSON, NPZ or CSV for a NumPyro model, by name of parameter or site.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same verdict.")] = 0,
    alpha: Annotated[float | None, typer.Option(help="Level of statistical checks (1e-5).", show_default=False)] = None,
    budget: Annotated[
        int | None, typer.Option(min=2, help="Most simulations of statistical checks.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save the picture of ranks of a NumPyro model there.")
    ] = None,
) -> None:
    """Check that inference code is right: exactly where it can be enumerated, else by simulation.

    Prints a verdict with its evidence, and a counter-example if it is wrong.
    """
    if plot is not None and not plot.parent.is_dir():
        fail(f"--plot: directory {str(plot.parent)!r} does not exist")
    try:
        from uqsparse.data.files import read_arrays
        from uqsparse.inference.checks.from_file import Options, check_from_file

        entries = None if data is None else read_arrays(data)
        options = Options(against, seed, alpha, budget, entries, plot)
        verdicts, notes = in_a_thread(lambda: check_from_file(subject, options))
    except (ValueError, TypeError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        typer.echo("interrupted: no verdict", err=True)
        raise typer.Exit(130) from None
    for verdict in verdicts:
        typer.echo(verdict)
    for text in notes:
        typer.echo(f"warning: {text}")
    raise typer.Exit(0 if all(verdicts) else 1)
