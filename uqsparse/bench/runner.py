"""Running the suite: selection, resumption, progress, and the report at the end."""

import difflib
import fnmatch
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from uqsparse.bench import loading, registry
from uqsparse.bench.dispatch import Watch, dispatch
from uqsparse.bench.formatting import seconds, status_words
from uqsparse.bench.machine import describe_machine, fingerprint, versions
from uqsparse.bench.registry import Entry
from uqsparse.bench.results import EntryResult, RunResult
from uqsparse.bench.store import Store
from uqsparse.bench.workers import DaskWorkers, LocalWorkers


class RunInterrupted(KeyboardInterrupt):
    """The run was interrupted; what had finished is kept, and the same call continues."""

    def __init__(self, finished: int, total: int, folder: Path) -> None:
        super().__init__(
            f"interrupted: {finished} of {total} entries are finished and kept in {folder}; the same command continues"
        )
        self.finished, self.total, self.folder = finished, total, folder


def select(entries: Sequence[Entry], only: str | Sequence[str] | None, quick: bool) -> list[Entry]:
    """The entries that a run consists of.

    Args:
        entries: all entries.
        only: patterns, or one; an entry is taken if any pattern matches its id, its name or a name in it,
            such as its task, method, system or peer. Case does not matter. A pattern with `*`, `?` or `[` has
            to match a whole name or id; one without matches a part of a name or the start of an id.
        quick: leave out what only the full suite runs.

    Returns:
        The selected entries, in the order given.

    Raises:
        ValueError: a pattern matches nothing, or nothing is left.
    """
    patterns = [only] if isinstance(only, str) else list(only or [])
    allowed = [entry for entry in entries if entry.quick or not quick]
    for pattern in patterns:
        if any(_matches(entry, pattern) for entry in allowed):
            continue
        if any(_matches(entry, pattern) for entry in entries):
            raise ValueError(f"only: {pattern!r} matches entries of the full suite only; ask for the full suite")
        names = {label.lower(): label for entry in entries for label in (*entry.labels, entry.id)}
        near = difflib.get_close_matches(pattern.lower(), names, n=3, cutoff=0.5)
        hint = f"; near matches: {', '.join(repr(names[name]) for name in near)}" if near else ""
        raise ValueError(f"only: {pattern!r} matches no entry{hint}")
    chosen = [entry for entry in allowed if not patterns or any(_matches(entry, one) for one in patterns)]
    if not chosen:
        raise ValueError("there are no entries to run")
    return chosen


def _matches(entry: Entry, pattern: str) -> bool:
    pattern = pattern.lower()
    names = [name.lower() for name in (entry.id, entry.name, *entry.labels)]
    if any(mark in pattern for mark in "*?["):
        return any(fnmatch.fnmatchcase(name, pattern) for name in names)
    return names[0].startswith(pattern) or any(pattern in name for name in names[1:])


def run(
    quick: bool = True,
    only: str | Sequence[str] | None = None,
    jobs: int = 1,
    seed: int = 0,
    load: Iterable[str | Path] = (),
    scheduler: str | None = None,
    out: str | Path = "report",
    progress: bool = False,
    fresh: bool = False,
) -> RunResult:
    """Run the benchmark suite and write its report.

    Entries run in worker processes: a script that calls this needs the usual `if __name__ == "__main__":`
    guard. Entries that the script itself registers are found there by the workers; its file is loaded like
    those of `load`. What entries print goes to `workers.log` in the output folder (with a cluster, to the
    workers' own output).

    Args:
        quick: the quick suite (minutes) or the full one.
        only: run only what matches these patterns; see `select`.
        jobs: worker processes on this machine, at least 1. A cluster uses the threads it has instead.
        seed: at least 0. Results depend on it, and neither on the order of the entries nor on `jobs`.
        load: Python files of yours that register more entries.
        scheduler: the address of a Dask scheduler, such as "tcp://host:port", whose workers run the entries.
        out: the folder for `index.html`, `results.json` and the finished entries.
        progress: show on stderr a progress bar that names the running entries.
        fresh: discard what an interrupted run has finished.

    Returns:
        The results and where the report is.

    Raises:
        ValueError: an argument is wrong, a file cannot be loaded, a pattern matches nothing, or the scheduler
            cannot be reached.
        ImportError: the report's template engine is not installed.
        RunInterrupted: Ctrl-C; a `KeyboardInterrupt` that says how far the run got.
        ConnectionError: a cluster lost all its workers for good; the same call continues.
    """
    from uqsparse.bench.report import write_report  # asks for Jinja before the work, not after it

    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise ValueError(f"jobs is {jobs!r}; expected a whole number of at least 1")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}; expected a whole number of at least 0")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out: {folder} is a file; expected a folder")

    loading.discover()
    paths = loading.load_only([load] if isinstance(load, str | Path) else load)
    paths = list(dict.fromkeys([*paths, *loading.user_files()]))
    entries = select(registry.entries(), only, quick)
    program = fingerprint(paths)
    store = Store(folder)
    log = folder.absolute() / "workers.log"
    # The scheduler is tried first: a wrong address must not cost the finished entries of another run.
    workers = DaskWorkers(scheduler) if scheduler else LocalWorkers(jobs, log)
    interrupted = True
    started = time.monotonic()
    try:
        finished = store.begin(
            {"seed": seed, "quick": quick, "fingerprint": program}, [entry.id for entry in entries], fresh
        )
        resumed = len(finished)
        if not resumed:
            log.unlink(missing_ok=True)
        with _watched(len(entries), resumed, progress) as (advance, watch):

            def keep(result: EntryResult) -> None:
                store.keep(result)
                finished[result.id] = result
                advance(result)

            ids = [entry.id for entry in entries]
            missing = [entry for entry in entries if entry.id not in finished]
            try:
                dispatch(workers, missing, [str(path) for path in paths], seed, quick, keep, watch)
            except KeyboardInterrupt:
                raise RunInterrupted(len(store.finished(ids)), len(ids), folder) from None
            except ConnectionError as error:
                raise ConnectionError(
                    f"{error}: {len(store.finished(ids))} of {len(ids)} entries are finished; "
                    "the same command continues"
                ) from None
        interrupted = False
    finally:
        workers.close(interrupted)

    result = RunResult(
        entries=tuple(finished[entry.id] for entry in entries),
        about={
            "versions": versions(),
            "machine": describe_machine(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": seed,
            "suite": "quick" if quick else "full",
            "only": [only] if isinstance(only, str) else list(only or []),
            "workers": "Dask cluster" if scheduler else f"{jobs} local process{'es' if jobs > 1 else ''}",
            "loaded": [path.name for path in paths],
            "fingerprint": program,
            "resumed": resumed,
            "seconds": time.monotonic() - started,
        },
        report=folder / "index.html",
        results=folder / "results.json",
    )
    write_report(result)
    store.complete()
    return result


@contextmanager
def _watched(total: int, finished: int, show: bool) -> Iterator[tuple[Callable[[EntryResult], None], Watch]]:
    """A bar over all entries and a line for each running one; in a log file, a line for each finished one."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),  # tables on stdout stay clean
        disable=not show,
        transient=True,
    )
    lines: dict[str, TaskID] = {}
    with bar:
        overall = bar.add_task("benchmarks", total=total, completed=finished)

        def watch(running: list[Entry]) -> None:
            names = {entry.id: entry.name for entry in running}
            for entry_id in [one for one in lines if one not in names]:
                bar.remove_task(lines.pop(entry_id))
            for entry_id, name in names.items():
                if entry_id not in lines:
                    short = name if len(name) <= 60 else name[:59] + "…"
                    lines[entry_id] = bar.add_task(escape(f"  {short}"), total=None)

        def advance(result: EntryResult) -> None:
            bar.advance(overall)
            if show and not bar.console.is_terminal:
                outcome = f"{status_words(result.kind, result.status)}, {seconds(result.seconds)}"
                bar.console.print(escape(f"{result.name}: {outcome}"), highlight=False)

        yield advance, watch
