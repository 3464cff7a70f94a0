"""`uqsparse bench`: claims, leaderboards and speed, measured."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from uqsparse.cli.application import app, fail, print_error


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick/--full", help="The suite of minutes, or all of it.")] = True,
    only: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Run what matches; repeatable.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same results.")] = 0,
    load: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Your own entries; repeatable.")] = None,
    scheduler: Annotated[str | None, typer.Option(metavar="tcp://HOST:PORT", help="A Dask cluster to run on.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("report"),
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="LineMOD-Occlusion in BOP's form, for the study on real poses.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard what an interrupted run has finished.")] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show a progress bar.")] = True,
) -> None:
    """Measure claims, leaderboards and speed, and write the report."""
    from uqsparse import bench as suite
    from uqsparse.bench.console import print_results

    if data_dir is not None:
        from uqsparse.data.bop import FOLDER_VARIABLE

        if not data_dir.is_dir():
            fail(f"--data-dir {data_dir} is not a folder")
        os.environ[FOLDER_VARIABLE] = str(data_dir.resolve())  # the worker processes inherit it
    try:
        result = suite.run(
            quick=quick,
            only=only or None,
            jobs=jobs,
            seed=seed,
            load=tuple(load or ()),
            scheduler=scheduler,
            out=out,
            progress=progress,
            fresh=fresh,
        )
    except KeyboardInterrupt as stop:
        typer.echo(
            str(stop) or f"interrupted: finished entries are kept in {out}; the same command continues",
            err=True,
        )
        raise typer.Exit(130) from None
    except ConnectionError as error:
        print_error(str(error))
        raise typer.Exit(1) from None
    except (ValueError, TypeError, OSError, ImportError) as error:
        fail(error)
    print_results(result, Console())
    raise typer.Exit(0 if result.all_hold else 1)
