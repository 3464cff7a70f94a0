"""`uqsparse sample`: the posterior of a model in a file."""

import functools
import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from uqsparse.cli.application import app, fail, in_a_thread

if TYPE_CHECKING:
    from uqsparse.inference.diagnostics import Convergence

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
        fail(f"--out: directory {str(out.parent)!r} does not exist")
    if out.is_dir():
        fail(f"--out: {str(out)!r} is a directory")
    if plot is not None and plot.exists() and not plot.is_dir():
        fail(f"--plot: {str(plot)!r} is a file")

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
        posterior, notes = in_a_thread(run)
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
        fail(error)
    except KeyboardInterrupt:
        kept = f"; {out} from an earlier run is untouched" if out.exists() else ""
        Console().show_cursor(True)
        typer.echo(f"interrupted: {f'{out} is complete' if saved else f'nothing was written{kept}'}", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(0 if report.converged else 1)


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
