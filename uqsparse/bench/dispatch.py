"""Handing entries to workers: who runs when, and what happens when a worker dies."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from uqsparse.bench.measure import known_details, one_line, run_entry, short_traceback
from uqsparse.bench.registry import Entry
from uqsparse.bench.results import EntryResult
from uqsparse.bench.workers import Workers

Watch = Callable[[list[Entry]], None]


def dispatch(
    workers: Workers,
    entries: Iterable[Entry],
    load_paths: list[str],
    seed: int,
    quick: bool,
    keep: Callable[[EntryResult], None],
    watch: Watch,
) -> None:
    """Run all entries; one that fails or kills its worker is reported and the others go on.

    When a worker dies, whatever was in flight with it is suspect. Suspects are tried once more, each alone,
    so that an innocent one succeeds and the guilty one is named. Speed contests run last, each alone.

    Args:
        workers: where the entries run.
        entries: what to run.
        load_paths: users' files that the workers import.
        seed: the run's seed.
        quick: quick or full suite.
        keep: called with each finished entry.
        watch: called with the entries that are running, whenever that changes.

    Raises:
        ConnectionError: no worker is left and none is expected.
    """
    together: deque[Entry] = deque()
    suspects: deque[Entry] = deque()
    alone: deque[Entry] = deque()
    for entry in entries:
        (alone if entry.kind == "speed" else together).append(entry)
    running: dict[Future[Any], Entry] = {}
    tried_again: set[str] = set()

    def start(entry: Entry) -> None:
        running[workers.submit(run_entry, entry.id, load_paths, seed, quick)] = entry
        watch(list(running.values()))

    while together or suspects or alone or running:
        capacity = workers.capacity()
        while together and len(running) < capacity:
            start(together.popleft())
        if not together and not running and capacity:
            start((suspects or alone).popleft())
        if not running:  # a cluster without workers, for now
            time.sleep(0.2)
            continue
        done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in done:
            entry = running.pop(future)
            try:
                keep(EntryResult.from_json(future.result()))
            except workers.lost:
                if entry.id not in tried_again:
                    tried_again.add(entry.id)
                    suspects.append(entry)
                else:
                    keep(_failed(entry, f"{workers.obituary()}, twice"))
            except Exception as error:
                # The worker could not run the entry at all, for example because it lacks the user's file.
                keep(_failed(entry, f"{type(error).__name__}: {one_line(error)}", short_traceback(error)))
        if done:
            watch(list(running.values()))


def _failed(entry: Entry, reason: str, trace: str = "") -> EntryResult:
    return EntryResult(
        entry.id, entry.kind, entry.name, "failed", 0.0, known_details(entry), reason=reason, traceback=trace
    )
