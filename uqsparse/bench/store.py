"""Finished entries on disk, so that an interrupted run continues where it stopped."""

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uqsparse.bench.results import EntryResult, write_json


def slug(entry_id: str) -> str:
    """A file name for an entry: readable, and unique through a hash of the id.

    >>> slug("score/diabetes/ridge")
    'score-diabetes-ridge-761a92a4'
    """
    readable = re.sub(r"[^a-z0-9]+", "-", entry_id.lower()).strip("-")[:70]
    return f"{readable}-{hashlib.sha256(entry_id.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Store:
    """The folder of one run: `run.json` says what is run, `entries/` holds one file a finished entry."""

    folder: Path

    @property
    def _manifest(self) -> Path:
        return self.folder / "run.json"

    def _entry_file(self, entry_id: str) -> Path:
        return self.folder / "entries" / f"{slug(entry_id)}.json"

    def begin(self, what: dict[str, Any], ids: list[str], fresh: bool) -> dict[str, EntryResult]:
        """Start a run, or continue the same run if it was interrupted.

        Args:
            what: seed, mode and fingerprint; a run is the same run if these and the entries agree.
            ids: the entries of the run.
            fresh: start anew in any case.

        Returns:
            The entries that are finished already, by id.

        Raises:
            ValueError: the folder cannot be written.
        """
        manifest = {**what, "entries": ids}
        old = _read(self._manifest)
        finished: dict[str, EntryResult] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not fresh and old is not None and old == {**manifest, "completed": False}:
                finished = self.finished(ids)
            elif old is not None:
                for entry_id in old.get("entries", []):
                    self._entry_file(entry_id).unlink(missing_ok=True)
            write_json(self._manifest, {**manifest, "completed": False})
        except OSError as error:
            raise ValueError(f"out: cannot write to {self.folder}: {error.strerror or error}") from None
        return finished

    def finished(self, ids: list[str]) -> dict[str, EntryResult]:
        """Those of the entries that are on disk, by id."""
        finished = {}
        for entry_id in ids:
            # A damaged file counts as missing: its entry is measured again.
            with contextlib.suppress(TypeError, KeyError, ValueError, AttributeError):
                data = _read(self._entry_file(entry_id))
                if data is not None and data["id"] == entry_id:
                    finished[entry_id] = EntryResult.from_json(data)
        return finished

    def keep(self, result: EntryResult) -> None:
        """Write one finished entry."""
        write_json(self._entry_file(result.id), result.to_json())

    def complete(self) -> None:
        """Note that the run is complete, so that the next one starts anew."""
        manifest = _read(self._manifest)
        if manifest is not None:
            write_json(self._manifest, {**manifest, "completed": True})


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
