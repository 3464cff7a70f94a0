"""`uqsparse list`: what there is."""

from rich.console import Console
from rich.table import Table

from uqsparse.cli.application import app
from uqsparse.systems import SYSTEMS


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
