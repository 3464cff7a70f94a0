"""The command line: `uqsparse sample`, `uqsparse check`, `uqsparse bench`, `uqsparse list`.

Exit codes: 0 good; 1 ran, but did not converge, or a check or claim failed; 2 bad input; 130 interrupted. An error is
one line on stderr. JAX is imported inside the commands, so that `--help` and `list` answer at once.
"""

import functools
import inspect
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from uqsparse import __version__
from uqsparse.systems import SYSTEMS

if TYPE_CHECKING:
    from uqsparse.inference.diagnostics import Convergence

# Typer carries Click under varying module names; its public `BadParameter` leads to the base of all usage
# errors.
_ClickException: Any = typer.BadParameter.__mro__[2]

_MAX_ROWS = 60


class Method(StrEnum):
    """Samplers of `uqsparse sample`."""

    nuts = "nuts"
    smc = "smc"
    particle_gibbs = "particle-gibbs"
    pmmh = "pmmh"
    smc2 = "smc2"


_NUMPYRO_METHODS = (Method.nuts, Method.smc)


class Missing(StrEnum):
    """What to do about missing observations."""

    error = "error"
    skip = "skip"


class MoveName(StrEnum):
    """Markov moves of tempered SMC."""

    rwm = "rwm"
    independent = "independent"
    hmc = "hmc"


class _OneLineErrors(TyperGroup):
    """Reports every error of the command line as one line on stderr, and Ctrl-C as exit code 130."""

    def main(self, args: Any = None, prog_name: str | None = None, **extra: Any) -> NoReturn:
        args = list(sys.argv[1:] if args is None else args) or ["--help"]
        extra["standalone_mode"] = False
        try:
            code = super().main(args, prog_name or "uqsparse", **extra)
        except _ClickException as error:
            _print_error(error.format_message())
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


def _print_error(message: str) -> None:
    typer.echo("error: " + " ".join(str(message).split()), err=True)


def _fail(error: BaseException | str) -> NoReturn:
    """End with exit code 2 and the error's message on one line."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.strerror}: {error.filename}"
    _print_error(message)
    raise typer.Exit(2)


@app.command("list")
def list_systems() -> None:
    """List every system with its purpose and source."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
    table.add_column("system, and its room in uqsparse", min_width=25, overflow="fold")
    table.add_column("purpose", overflow="fold")
    table.add_column("source", overflow="fold")
    for system in SYSTEMS:
        room = system.room.removeprefix("uqsparse.")
        table.add_row(f"[bold]{system.name}[/]\n[dim]{room}[/]", system.purpose, system.source)
    Console().print(table, highlight=False)


@app.command()
def sample(
    model: Annotated[
        str, typer.Argument(metavar="MODEL.py:NAME", help="A NumPyro model function or a StateSpaceModel in a file.")
    ],
    out: Annotated[Path, typer.Option(help="netCDF file for the posterior (ArviZ reads it).")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="JSON, NPZ or CSV; names are parameters of the function or sample sites of the model; "
            "of a state-space model 'observations' and 'inputs'."
        ),
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(
            help="nuts (default) or tempered smc for a function; particle-gibbs (default), pmmh or smc2 for a "
            "state-space model."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same draws.")] = 0,
    samples: Annotated[
        int, typer.Option(min=8, rich_help_panel="Chains (nuts, particle-gibbs, pmmh)", help="Draws kept per chain.")
    ] = 1000,
    warmup: Annotated[
        int,
        typer.Option(min=1, rich_help_panel="Chains (nuts, particle-gibbs, pmmh)", help="Adaptation steps per chain."),
    ] = 1000,
    chains: Annotated[
        int, typer.Option(min=1, rich_help_panel="Chains (nuts, particle-gibbs, pmmh)", help="Chains.")
    ] = 4,
    target_accept: Annotated[float, typer.Option(rich_help_panel="NUTS", help="Raise it against divergences.")] = 0.8,
    particles: Annotated[
        int | None,
        typer.Option(
            min=8,
            rich_help_panel="SMC",
            help="Particles per replicate of smc (1000), or of the filter in a method for state-space models.",
            show_default=False,
        ),
    ] = None,
    move: Annotated[
        MoveName, typer.Option(rich_help_panel="SMC", help="Random walk, independent proposals or HMC.")
    ] = MoveName.rwm,
    moves: Annotated[int, typer.Option(min=1, rich_help_panel="SMC", help="Markov steps per temperature.")] = 10,
    replicates: Annotated[
        int,
        typer.Option(min=1, rich_help_panel="SMC", help="Independent runs, for the error of the evidence."),
    ] = 4,
    waste_free: Annotated[
        bool, typer.Option("--waste-free", rich_help_panel="SMC", help="Keep every state of every move.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(metavar="DIR", help="Save trace plots (PNG) there.")] = None,
    missing: Annotated[
        Missing,
        typer.Option(rich_help_panel="State-space models", help="Refuse missing observations, or skip them."),
    ] = Missing.error,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show a progress bar.")] = True,
) -> None:
    """Sample the posterior of a NumPyro model or a state-space model, print its summary and save it.

    Computes in double precision.
    """
    if not out.parent.is_dir():
        _fail(f"--out: directory {str(out.parent)!r} does not exist")
    if out.is_dir():
        _fail(f"--out: {str(out)!r} is a directory")
    if plot is not None and plot.exists() and not plot.is_dir():
        _fail(f"--plot: {str(plot)!r} is a file")

    saved = False
    try:
        import jax

        from uqsparse.data.files import read_arrays
        from uqsparse.inference import arviz_io, diagnostics
        from uqsparse.inference.model_files import bind_data, bind_series, load_model
        from uqsparse.inference.state_space import StateSpaceModel

        with jax.enable_x64(True):
            loaded = load_model(model)
            entries = {} if data is None else read_arrays(data, allow_missing=isinstance(loaded, StateSpaceModel))
            source = "the model call" if data is None else str(data)
            counts = {"n_warmup": warmup, "n_samples": samples, "n_chains": chains}
            if isinstance(loaded, StateSpaceModel):
                series = bind_series(entries, source)
                method = _require_method(method or Method.particle_gibbs, model, is_series=True)
                options = {"n_particles": particles, "missing": missing.value, "progress": progress}
                run = functools.partial(_run_state_space, seed, loaded, series, method, options, counts)
            else:
                function, kwargs = bind_data(loaded, entries, source)
                if _require_method(method or Method.nuts, model, is_series=False) is Method.nuts:
                    options = {**counts, "target_accept": target_accept, "progress": progress}
                    run = functools.partial(_run_nuts, seed, function, kwargs, options)
                else:
                    counts = {"n_particles": particles or 1000, "n_moves": moves, "n_replicates": replicates}
                    options = {**counts, "waste_free": waste_free, "progress": progress}
                    run = functools.partial(_run_smc, seed, function, kwargs, move, options)
        posterior, notes = _in_a_thread(run)
        report = diagnostics.convergence(posterior)
        arviz_io.save(posterior, out)
        saved = True
        _print_report(report, notes, Console())
        typer.echo(f"Posterior: {out}")
        if plot is not None:
            import matplotlib

            matplotlib.use("Agg")
            from uqsparse.inference.trace_plots import save_trace_plots

            typer.echo(f"Trace plots: {len(save_trace_plots(posterior, plot))} in {plot}")
    except (ValueError, TypeError, OSError) as error:
        _fail(error)
    except KeyboardInterrupt:
        kept = f"; {out} from an earlier run is untouched" if out.exists() else ""
        Console().show_cursor(True)
        typer.echo(f"interrupted: {f'{out} is complete' if saved else f'nothing was written{kept}'}", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(0 if report.converged else 1)


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
        _fail(f"--plot: directory {str(plot.parent)!r} does not exist")
    try:
        from uqsparse.data.files import read_arrays
        from uqsparse.inference.checks.from_file import Options, check_from_file

        entries = None if data is None else read_arrays(data)
        options = Options(against, seed, alpha, budget, entries, plot)
        verdicts, notes = _in_a_thread(lambda: check_from_file(subject, options))
    except (ValueError, TypeError, OSError) as error:
        _fail(error)
    except KeyboardInterrupt:
        typer.echo("interrupted: no verdict", err=True)
        raise typer.Exit(130) from None
    for verdict in verdicts:
        typer.echo(verdict)
    for text in notes:
        typer.echo(f"warning: {text}")
    raise typer.Exit(0 if all(verdicts) else 1)


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick/--full", help="The suite of minutes, or all of it.")] = True,
    only: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Run what matches; repeatable.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same results.")] = 0,
    load: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Your own entries; repeatable.")] = None,
    scheduler: Annotated[str | None, typer.Option(metavar="tcp://HOST:PORT", help="A Dask cluster to run on.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("report"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard what an interrupted run has finished.")] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show a progress bar.")] = True,
) -> None:
    """Measure claims, leaderboards and speed, and write the report."""
    from uqsparse import bench as suite
    from uqsparse.bench.console import print_results

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
        _print_error(str(error))
        raise typer.Exit(1) from None
    except (ValueError, TypeError, OSError, ImportError) as error:
        _fail(error)
    print_results(result, Console())
    raise typer.Exit(0 if result.all_hold else 1)


def _require_method(method: Method, model: str, is_series: bool) -> Method:
    fitting = [one for one in Method if (one not in _NUMPYRO_METHODS) == is_series]
    if method not in fitting:
        kind = "a state-space model" if is_series else "a NumPyro model function"
        raise ValueError(f"--method {method.value} does not fit {model}, {kind}: use {' or '.join(fitting)}")
    return method


def _run_state_space(
    seed: int,
    model: Any,
    series: tuple[Any, Any],
    method: Method,
    options: Mapping[str, Any],
    counts: Mapping[str, Any],
) -> Any:
    import jax

    from uqsparse.inference import particle_gibbs, pmmh, smc2

    options = {name: value for name, value in options.items() if value is not None}
    if method is Method.smc2:
        return smc2(jax.random.key(seed), model, *series, **options).to_arviz()
    sampler = pmmh if method is Method.pmmh else particle_gibbs
    return sampler(jax.random.key(seed), model, *series, **options, **counts)


def _run_nuts(seed: int, model: Callable, kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    import jax

    from uqsparse.inference.nuts import nuts

    model, kwargs = _bind_collisions(nuts, model, kwargs)
    return nuts(jax.random.key(seed), model, **kwargs, **options)


def _run_smc(seed: int, model: Callable, kwargs: Mapping[str, Any], move: MoveName, options: Mapping[str, Any]) -> Any:
    import jax

    from uqsparse.inference import HMC, IndependentProposal, RandomWalk, TemperedTarget, tempered_smc
    from uqsparse.inference.model_sites import inspect_model, require_finite_observations

    moves = {MoveName.rwm: RandomWalk, MoveName.independent: IndependentProposal, MoveName.hmc: HMC}
    require_finite_observations(model, inspect_model(model, (), kwargs).observed)
    model, kwargs = _bind_collisions(TemperedTarget.from_numpyro, model, kwargs)
    target = TemperedTarget.from_numpyro(model, **kwargs)
    return tempered_smc(jax.random.key(seed), target, move=moves[move](), **options).to_arviz()


def _bind_collisions(sampler: Callable, model: Callable, kwargs: Mapping[str, Any]) -> tuple[Callable, dict[str, Any]]:
    """Bind those arguments of the model, defaults included, whose names the sampler's own arguments have."""
    parameters = inspect.signature(model).parameters
    taken = {
        name: kwargs.get(name, parameters[name].default)
        for name in inspect.signature(sampler).parameters
        if name in parameters and (name in kwargs or parameters[name].default is not inspect.Parameter.empty)
    }
    rest = {name: value for name, value in kwargs.items() if name not in taken}
    return (functools.partial(model, **taken) if taken else model), rest


def _in_a_thread(run: Callable[[], Any]) -> tuple[Any, list[str]]:
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


def _print_report(report: "Convergence", notes: list[str], console: Console) -> None:
    half = 50 * (1 - report.interval)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", overflow="fold")
    for heading in ("mean", "sd", f"{half:.3g}%", f"{100 - half:.3g}%", "ESS", "tail ESS", "R-hat", "MCSE"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.scalars[:_MAX_ROWS]:
        digits = functools.partial(_rounded, sd=row.sd)
        ess = ("–", "–", "–") if row.sd == 0 else (f"{row.ess_bulk:.0f}", f"{row.ess_tail:.0f}", f"{row.r_hat:.3f}")
        location = (digits(row.mean), f"{row.sd:.2g}", digits(row.low), digits(row.high))
        table.add_row(escape(row.name), *location, *ess, f"{row.mcse_mean:.1g}")
    console.print(table, highlight=False)
    if len(report.scalars) > _MAX_ROWS:
        console.print(f"... and {len(report.scalars) - _MAX_ROWS} more, all in the file", highlight=False)
    if report.log_evidence is not None:
        value, error = report.log_evidence
        console.print(f"\nlog evidence {value:.2f} ± {error:.2g} (standard error)", highlight=False)
    console.print()
    for text in (*report.warnings, *notes):
        console.print(f"[bold yellow]warning[/] {escape(text)}", highlight=False)
    for text in report.notes:
        console.print(f"note {escape(text)}", highlight=False)
    if report.converged:
        console.print("[green]Converged[/]: nothing speaks against these draws.", highlight=False)


def _rounded(value: float, sd: float) -> str:
    """Show as many digits as the standard deviation justifies: two of its own."""
    if sd == 0 or abs(value) >= 1e6 or not 1e-4 < sd < 1e6:
        return f"{value:.4g}"
    return f"{value:.{max(0, 1 - int(f'{sd:e}'.split('e')[1]))}f}"
