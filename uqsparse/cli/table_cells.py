"""Cells of a text table as numbers, refused with their column and row where they are not what is wanted."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def as_number(field: str) -> float:
    """A field as a number; NaN where it is none."""
    try:
        return float(field)
    except ValueError:
        return math.nan


def as_numbers(path: Path, name: str, fields: Sequence[str], wanted: np.ndarray | None = None) -> np.ndarray:
    """A column of finite numbers; fields that are not wanted become NaN.

    Raises:
        ValueError: a wanted field is no finite number, with its row.
    """
    values = np.array([as_number(field) for field in fields])
    bad = ~np.isfinite(values) if wanted is None else wanted & ~np.isfinite(values)
    refuse_rows(path, name, fields, bad, "a finite number")
    return values


def refuse_rows(path: Path, name: str, fields: Sequence[str], bad: np.ndarray, wanted: str) -> None:
    """Refuse a column for its first bad field.

    Raises:
        ValueError: some field is bad.
    """
    for i in np.flatnonzero(bad)[:1]:
        what = f"holds {fields[i]!r}" if fields[i] else "is empty"
        raise ValueError(f"column {name!r} of {str(path)!r} {what} in row {i + 2}; it must be {wanted}")


def has_columns(fields: dict[str, list[str]]) -> str:
    """The end of a message about a missing column."""
    return f"; it has {', '.join(map(repr, fields))}"
