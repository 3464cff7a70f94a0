"""The application that the commands belong to, and how every one of them ends.

Exit codes: 0 good; 1 ran, but did not converge, or a check or claim failed; 2 bad input; 130 interrupted. An error is
one line on stderr. JAX is imported inside the commands, so that `--help` and `list` answer at once.
"""

import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from uqsparse import __version__

# Typer carries Click under varying module names; its public `BadParameter` leads to the base of all usage
# errors.
_ClickException: Any = typer.BadParameter.__mro__[2]


class _OneLineErrors(TyperGroup):
    """Reports every error of the command line as one line on stderr, and Ctrl-C as exit code 130."""

    def main(self, args: Any = None, prog_name: str | None = None, **extra: Any) -> NoReturn:
        args = list(sys.argv[1:] if args is None else args) or ["--help"]
        extra["standalone_mode"] = False
        try:
            code = super().main(args, prog_name or "uqsparse", **extra)
        except _ClickException as error:
            print_error(error.format_message())
            code = error.exit_code
        except typer.Abort:
            code = 130
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=_OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Bayesian inference with checked answers, and benchmarks of uncertainty quantification.",
)


def main() -> None:
    """Run the command line; the console script `uqsparse` starts here."""
    try:
        app()
    except SystemExit as stop:
        if stop.code != 130:
            raise
        # An interrupted sampler still runs in its thread, and compiled code cannot be asked to stop.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit."),
    ] = False,
) -> None:
    """Take the options that belong to no command; they act through their callbacks."""


def print_error(message: str) -> None:
    typer.echo("error: " + " ".join(str(message).split()), err=True)


def fail(error: BaseException | str) -> NoReturn:
    """End with exit code 2 and the error's message on one line."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.strerror}: {error.filename}"
    print_error(message)
    raise typer.Exit(2)


def in_a_thread(run: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Run in a thread, in double precision. Compiled code does not hear Ctrl-C; this waiting for it does.

    Returns the result and the warnings given meanwhile.
    """
    import jax

    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            with jax.enable_x64(True):
                outcome["result"] = run()
        except BaseException as error:
            outcome["error"] = error

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", UserWarning)
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
    if "error" in outcome:
        raise outcome["error"]
    notes = [str(warning.message) for warning in caught if warning.category is UserWarning]
    return outcome["result"], list(dict.fromkeys(notes))
