"""Where entries run: worker processes of this machine, or a Dask cluster.

Both are used through `concurrent.futures.Executor`, and both outlive a worker that dies.
"""

import contextlib
import faulthandler
import multiprocessing
import multiprocessing.context
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol


class Workers(Protocol):
    """A place to run functions in other processes."""

    @property
    def lost(self) -> tuple[type[BaseException], ...]:
        """The exceptions of a future whose worker died."""
        ...

    def capacity(self) -> int:
        """How many entries may be in flight; raises ConnectionError when there is no hope of a worker."""
        ...

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run a function in a worker."""
        ...

    def obituary(self) -> str:
        """What is known of the last worker that died."""
        ...

    def close(self, interrupt: bool) -> None:
        """Release the workers; `interrupt` ends them in the middle of what they do."""
        ...


class _RecordingContext(multiprocessing.context.SpawnContext):
    """The spawn context with a memory of the processes it started, as the pool tells no exit codes."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[multiprocessing.context.SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> multiprocessing.context.SpawnProcess:
        process = multiprocessing.context.SpawnProcess(*args, **kwargs)
        self.started.append(process)
        return process


def _start_worker(log: str) -> None:
    """Prepare a worker process: output to the log, Ctrl-C left to the parent, no life after the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    faulthandler.enable()
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


class LocalWorkers:
    """A pool of `jobs` spawned processes; it is built anew after a worker has died."""

    lost = (BrokenExecutor,)

    def __init__(self, jobs: int, log: Path) -> None:
        self._jobs, self._log = jobs, log
        self._context = _RecordingContext()
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        self._context.started.clear()
        return ProcessPoolExecutor(
            self._jobs, mp_context=self._context, initializer=_start_worker, initargs=(str(self._log),)
        )

    def capacity(self) -> int:
        """As many as there are worker processes, so that a death is blamed on what was in flight only."""
        return self._jobs

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run a function in a worker, in a new pool if the old one is broken."""
        try:
            return self._pool.submit(function, *args)
        except BrokenExecutor:
            self._pool.shutdown(wait=True)
            self._pool = self._new_pool()
            return self._pool.submit(function, *args)

    def obituary(self) -> str:
        """The exit code or signal of the worker that died first; the pool ends the others with SIGTERM."""
        self._pool.shutdown(wait=True)  # only then are all exit codes known
        codes = [process.exitcode for process in self._context.started]
        for code in codes:
            if code is not None and code not in (0, -signal.SIGTERM):
                if code > 0:
                    return f"the worker process ended with exit code {code}"
                hint = ", perhaps out of memory" if code == -signal.SIGKILL else ""
                return f"the worker process was killed by {signal.Signals(-code).name}{hint}"
        return "the worker process ended"

    def close(self, interrupt: bool) -> None:
        """End the worker processes, at once if interrupted."""
        if interrupt:
            for process in self._context.started:
                if process.is_alive():
                    process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)


class DaskWorkers:
    """The workers of a Dask cluster.

    They import users' files by path, so they share a file system with us. They keep the package as they
    imported it: restart them when its source has changed.
    """

    # Seconds to wait for the scheduler's answer, and for a cluster that answers but has no workers.
    timeout, patience = 10.0, 60.0

    def __init__(self, address: str) -> None:
        try:
            import distributed
            from distributed.scheduler import KilledWorker
        except ImportError:
            raise ValueError(
                "scheduler: a Dask cluster needs the package distributed; pip install 'uqsparse[distributed]'"
            ) from None
        self._address = address
        try:
            self._client: Any = distributed.Client(address, timeout=self.timeout, set_as_default=False)
        except (OSError, ValueError, RuntimeError, TimeoutError) as error:
            text = " ".join(str(error).split())
            raise ValueError(f"scheduler: cannot reach {address!r}: {text}") from None
        # Not pure: Dask would answer a second try, or a second run, with what it remembers of the first.
        self._executor: Executor = self._client.get_executor(pure=False)
        # The cluster gave up on a task after its `allowed-failures`, or the scheduler forgot it.
        self.lost = (KilledWorker, CancelledError)
        self._seen = time.monotonic()

    def capacity(self) -> int:
        """As many as the cluster has threads now; 0 for as long as we are patient."""
        threads = 0
        if self._client.status == "running":
            # An error means that the scheduler is going away; the next look at the status tells.
            with contextlib.suppress(OSError):
                threads = sum(self._client.nthreads().values())
        if threads:
            self._seen = time.monotonic()
        elif self._client.status in ("closing", "closed"):
            raise ConnectionError(f"the scheduler at {self._address} is gone")
        elif time.monotonic() - self._seen > self.patience:
            raise ConnectionError(f"the scheduler at {self._address} has had no worker for {self.patience:.0f} s")
        return threads

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run a function in a worker; Dask starts it again elsewhere if that worker dies."""
        return self._executor.submit(function, *args)

    def obituary(self) -> str:
        """Dask does not tell how a worker ended."""
        return "every Dask worker that ran it died"

    def close(self, interrupt: bool) -> None:
        """Leave the cluster, cancelling what has not started if interrupted."""
        self._executor.shutdown(wait=not interrupt)
        self._client.close()
