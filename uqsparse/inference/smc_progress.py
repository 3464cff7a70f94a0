"""A progress bar that a compiled loop can move."""

from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_bar: Progress | None = None


@contextmanager
def progress_bar(enabled: bool, n_replicates: int):
    """Show a bar while the block runs; `advance_bar`, called from compiled code, moves it."""
    global _bar
    if not enabled:
        yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as _bar:
        _bar.add_task("tempered SMC", total=float(n_replicates), note="compiling")
        try:
            yield
        finally:
            _bar = None


def advance_bar(replicate, temperature) -> None:
    """Host side of the callback: report that a replicate has reached a temperature."""
    if _bar is not None:
        note = f"replicate {int(replicate) + 1}, temperature {float(temperature):.3g}"
        _bar.update(_bar.task_ids[0], completed=float(replicate) + float(temperature), note=note)
