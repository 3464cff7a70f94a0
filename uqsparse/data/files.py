"""Named arrays from JSON, NPZ and CSV files."""

import csv
import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_INDEXED = re.compile(r"(?P<name>.+)\[(?P<index>\d+)\]")


def read_arrays(path: str | os.PathLike, allow_missing: bool = False) -> dict[str, Any]:
    """Read named arrays from a file.

    Args:
        path: by its suffix one of
            `.json`: one object whose values are numbers or (nested) lists of numbers;
            `.npz`: NumPy arrays; pickled objects are refused;
            `.csv`: comma-separated, a header line, numbers; each column is an array, and the columns
            `x[0]`, `x[1]`, ... are stacked to a matrix `x`.
        allow_missing: let NaN through, and read a `null` of JSON and an empty field of CSV as NaN.

    Returns:
        Name to array. Whole numbers stay integers; single numbers are plain Python numbers.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read as what its suffix says, or an entry is empty, not numeric, or
            holds infinite numbers or (unless allowed) NaN; the message names the file and the entry.
    """
    path = Path(path)
    readers = {".json": _read_json, ".npz": _read_npz, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise ValueError(f"data file {str(path)!r} must end in {', '.join(readers)}")
    if not path.is_file():
        raise FileNotFoundError(f"data file {str(path)!r} does not exist")
    try:
        entries = readers[path.suffix.lower()](path, allow_missing)
    except UnicodeDecodeError:
        raise ValueError(f"data file {str(path)!r} is not UTF-8 text") from None
    if not entries:
        raise ValueError(f"data file {str(path)!r} holds no entries")
    return {name: _checked(path, name, value, allow_missing) for name, value in entries.items()}


def _read_json(path: Path, allow_missing: bool) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"data file {str(path)!r} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f'data file {str(path)!r} must hold one object, {{"name": numbers, ...}}')
    entries = {}
    for name, value in content.items():
        try:
            entries[name] = np.asarray(value)
            if allow_missing and entries[name].dtype.kind == "O":
                entries[name] = _null_as_nan(entries[name])
        except ValueError:
            raise ValueError(f"entry {name!r} of {str(path)!r} is a ragged list: its rows differ in length") from None
    return entries


def _null_as_nan(array: np.ndarray) -> np.ndarray:
    """Numbers and nulls as floats; anything else is left to be refused."""
    numbers = [np.nan if value is None else value for value in array.ravel()]
    plain = all(isinstance(value, int | float) for value in numbers)
    return np.array(numbers, float).reshape(array.shape) if plain else array


def _read_npz(path: Path, allow_missing: bool) -> Mapping[str, Any]:
    entries = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                try:
                    entries[name] = archive[name]
                except ValueError as error:
                    if "pickle" not in str(error):
                        raise
                    raise ValueError(f"entry {name!r} of {str(path)!r} holds Python objects, not numbers") from None
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"data file {str(path)!r} is not a readable NPZ archive: {error}") from None
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"data file {str(path)!r} is not a readable NPZ archive: {error}") from None
    return entries


def read_fields(path: str | os.PathLike) -> dict[str, list[str]]:
    """Read the columns of a CSV file as text, whatever they hold.

    Args:
        path: comma-separated values with a header line; blank lines are skipped.

    Returns:
        Column name to its fields, without the spaces around them. Field i stands in row i + 2, the header being row 1.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no row, a column has no name or that of another, or a row has another length.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"data file {str(path)!r} does not exist")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except UnicodeDecodeError:
        raise ValueError(f"data file {str(path)!r} is not UTF-8 text") from None
    except csv.Error as error:
        raise ValueError(f"data file {str(path)!r} is not readable CSV: {error}") from None
    if len(rows) < 2:
        raise ValueError(f"data file {str(path)!r} must have a header line and at least one row")
    header = [name.strip() for name in rows[0]]
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated or not all(header):
        raise ValueError(f"header of {str(path)!r} has {f'{repeated[0]!r} twice' if repeated else 'an empty name'}")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise ValueError(f"row {number} of {str(path)!r} has {len(row)} fields, the header has {len(header)}")
    return {name: [row[i].strip() for row in rows[1:]] for i, name in enumerate(header)}


def _read_csv(path: Path, allow_missing: bool) -> Mapping[str, Any]:
    empty = "nan" if allow_missing else ""
    fields = {name: [field or empty for field in column] for name, column in read_fields(path).items()}
    return _stack_indexed(path, {name: _csv_column(path, name, column) for name, column in fields.items()})


def _csv_column(path: Path, name: str, fields: list[str]) -> np.ndarray:
    for convert in (int, float):
        try:
            return np.array([convert(field) for field in fields])
        except (ValueError, OverflowError):
            continue
    for number, field in enumerate(fields, start=2):
        try:
            float(field)
        except ValueError:
            what = f"holds {field.strip()!r}" if field.strip() else "is empty"
            raise ValueError(f"column {name!r} of {str(path)!r} {what} in row {number}; it must be a number") from None
    raise ValueError(f"column {name!r} of {str(path)!r} cannot be read as numbers")


def _stack_indexed(path: Path, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    plain: dict[str, np.ndarray] = {}
    stacks: dict[str, dict[int, np.ndarray]] = {}
    for header, column in columns.items():
        if match := _INDEXED.fullmatch(header):
            stacks.setdefault(match["name"], {})[int(match["index"])] = column
        else:
            plain[header] = column
    for name, parts in stacks.items():
        if name in plain:
            raise ValueError(f"{str(path)!r} has both a column {name!r} and columns {name}[...]")
        missing = [i for i in range(len(parts)) if i not in parts]
        if missing:
            raise ValueError(
                f"columns {name}[...] of {str(path)!r} must be numbered from 0; {name}[{missing[0]}] lacks"
            )
        plain[name] = np.column_stack([parts[i] for i in range(len(parts))])
    return plain


def _checked(path: Path, name: str, value: Any, allow_missing: bool) -> Any:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        holds = "null" if array.dtype.kind == "O" else f"values of type {array.dtype}"
        raise ValueError(f"entry {name!r} of {str(path)!r} holds {holds}; it must be numbers")
    if array.size == 0:
        raise ValueError(f"entry {name!r} of {str(path)!r} is empty")
    bad = np.isinf(array) if allow_missing else ~np.isfinite(array)
    if bad.any():
        where = f", first at index {np.argwhere(bad)[0].tolist()}" if array.ndim else ""
        raise ValueError(
            f"entry {name!r} of {str(path)!r} has {int(bad.sum())} NaN or infinite value(s) "
            f"out of {array.size}{where}; remove or impute them"
        )
    return array if array.ndim else array.item()
