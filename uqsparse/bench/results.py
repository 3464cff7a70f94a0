"""What a run hands back: one record an entry, and one for the whole run."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from uqsparse.whole_file import whole_file

Status = Literal["holds", "missed", "measured", "not measured", "failed"]


@dataclass(frozen=True)
class EntryResult:
    """The outcome of one entry.

    `status` is "holds" or "missed" for a claim or a speed bar, "measured" for a leaderboard row, "not
    measured" where the entry says why it cannot run here, and "failed" where it raised or its process died.
    `reason` is the one-line message of the last two. `details` holds the numbers, with the fields that the
    entry's kind has.
    """

    id: str
    kind: str
    name: str
    status: Status
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    traceback: str = ""
    machine: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The record as plain data that JSON can hold; infinite numbers become the text "inf" or "-inf"."""
        return _plain(asdict(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "EntryResult":
        """The inverse of `to_json`."""
        return cls(**{**data, "details": _numbers(data["details"])})


@dataclass(frozen=True)
class RunResult:
    """The outcome of a run of the suite.

    `entries` are the outcomes in the order of the suite, `about` says how and where they were measured, and
    the two paths are the files that were written.
    """

    entries: tuple[EntryResult, ...]
    about: dict[str, Any]
    report: Path
    results: Path

    @property
    def all_hold(self) -> bool:
        """Whether no claim was missed, no speed bar was missed and no entry failed."""
        return not any(entry.status in ("missed", "failed") for entry in self.entries)

    def of_kind(self, kind: str) -> list[EntryResult]:
        """The entries of one kind: "claim", "score" or "speed"."""
        return [entry for entry in self.entries if entry.kind == kind]

    def count(self, *statuses: str) -> int:
        """How many entries ended with one of these statuses."""
        return sum(entry.status in statuses for entry in self.entries)

    def leaderboards(self) -> dict[str, list[EntryResult]]:
        """The leaderboard rows of each task, best first; rows without a score come last.

        A conformal version follows the method it is of.
        """
        from uqsparse.bench.scores import HEADLINE

        boards: dict[str, list[EntryResult]] = {}
        for entry in self.of_kind("score"):
            boards.setdefault(entry.details["task"], []).append(entry)

        def order(rows: list[EntryResult]) -> list[EntryResult]:
            places = {}
            for entry in rows:
                score = entry.details.get("scores", {}).get(HEADLINE[entry.details["kind"]])
                places[entry.details["method"]] = math.inf if score is None else score

            def place(entry: EntryResult) -> tuple[bool, float, str, bool]:
                method, base = entry.details["method"], entry.details.get("base")
                shown = base if base is not None and math.isfinite(places.get(base, math.inf)) else method
                return entry.status != "measured", places[shown], shown, base is not None

            return sorted(rows, key=place)

        return {task: order(rows) for task, rows in boards.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    value = float(value)
    return value if math.isfinite(value) else str(value)


def _numbers(details: dict[str, Any]) -> dict[str, Any]:
    """Turn "inf" back into a number, in the two places where an infinite number is a legal outcome."""
    for group in ("scores", "errors"):
        if details.get(group):
            one = {key: float(value) if isinstance(value, str) else value for key, value in details[group].items()}
            details = {**details, group: one}
    return details


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader sees the whole old file or the whole new one, whenever we are stopped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        draft.write_text(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
