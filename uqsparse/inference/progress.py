"""A progress bar that a compiled loop, or the host between compiled calls, can move."""

from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_bar: Progress | None = None


@contextmanager
def progress_bar(enabled: bool, title: str, total: float):
    """Show a bar while the block runs; `advance_bar` moves it, and does nothing where there is no bar."""
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
        _bar.add_task(title, total=float(total), note="compiling")
        try:
            yield
        finally:
            _bar = None


def advance_bar(completed: float, note: str) -> None:
    """Move the bar to a point between 0 and its total, and say what has been reached."""
    if _bar is not None:
        _bar.update(_bar.task_ids[0], completed=float(completed), note=note)
