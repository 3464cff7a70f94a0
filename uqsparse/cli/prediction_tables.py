"""Predictions and labels from a CSV file, checked cell by cell, and the rows that calibrate."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uqsparse.cli.table_cells import as_number, as_numbers, has_columns, refuse_rows
from uqsparse.data.files import read_fields

# Columns that have a meaning beside the predictions.
_ROLES = ("y", "group", "weight", "split")
_PARTS = ("calibration", "test")
# Written probabilities are rounded, and their sums with them; more than this is no rounding.
_ROUNDING = 0.005


@dataclass(frozen=True)
class PredictionTable:
    """The content of a file of predictions.

    Args:
        path: the file.
        numbers: the predicted numbers by column, each of shape (n,), for intervals.
        probabilities: shape (n, n_labels), for label sets.
        labels: the names of the labels, one a column of `probabilities`.
        y: shape (n,), numbers or positions of labels; NaN or -1 where a row has none.
        has_y: which rows have a label.
        groups: shape (n,), names; None if there is no such column.
        weights: shape (n,), nonnegative; None if there is no such column.
        split: shape (n,), "calibration" or "test"; None if there is no such column.
        notes: what the reader should know: columns that were not used, probabilities that were rounded.
    """

    path: Path
    numbers: dict[str, np.ndarray]
    probabilities: np.ndarray | None
    labels: tuple[str, ...]
    y: np.ndarray
    has_y: np.ndarray
    groups: np.ndarray | None
    weights: np.ndarray | None
    split: np.ndarray | None
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Parts:
    """Which rows calibrate and which get sets, as indices in ascending order.

    Args:
        calibration: rows whose labels find the thresholds.
        test: rows whose sets are wanted, labelled or not.
        random: whether chance has chosen among the labelled rows.
    """

    calibration: np.ndarray
    test: np.ndarray
    random: bool


def read_intervals(path: Path) -> PredictionTable:
    """Read `y` and any of `mean` (or `prediction`), `sd`, `lower` and `upper`.

    Raises:
        FileNotFoundError, ValueError: the file cannot be read, or a cell is not what its column wants, with its row.
    """
    fields = read_fields(path)
    if "prediction" in fields:
        if "mean" in fields:
            raise ValueError(f"{str(path)!r} has a column 'mean' and a column 'prediction', which mean the same")
        fields["mean"] = fields.pop("prediction")
    known = [name for name in ("mean", "sd", "lower", "upper") if name in fields]
    if not {"mean", "lower", "upper"} & set(known):
        raise ValueError(f"{str(path)!r} has no column 'mean' and no columns 'lower' and 'upper'{has_columns(fields)}")
    numbers = {name: as_numbers(path, name, fields[name]) for name in known}
    if "sd" in numbers:
        refuse_rows(path, "sd", fields["sd"], ~(numbers["sd"] > 0), "a positive number")
    text = _labelled(path, fields)
    has_y = np.array([field != "" for field in text])
    y = np.full(len(text), np.nan)
    y[has_y] = as_numbers(path, "y", text, has_y)[has_y]
    return _table(path, fields, known, [], y=y, has_y=has_y, numbers=numbers, probabilities=None, labels=())


def read_label_sets(path: Path) -> PredictionTable:
    """Read `y` and probabilities, the columns `p_<label>`.

    Raises:
        FileNotFoundError, ValueError: the file cannot be read, or a cell is not what its column wants, with its row.
    """
    fields = read_fields(path)
    columns = [name for name in fields if name.startswith("p_") and len(name) > 2]
    if len(columns) < 2:
        raise ValueError(f"{str(path)!r} has {len(columns)} columns of probabilities 'p_<label>'{has_columns(fields)}")
    labels = tuple(name.removeprefix("p_") for name in columns)
    for label in labels:
        if "|" in label:
            raise ValueError(f"label {label!r} of {str(path)!r} holds '|', which separates the labels of a set")
    probabilities = np.column_stack([as_numbers(path, name, fields[name]) for name in columns])
    for name, column in zip(columns, probabilities.T, strict=True):
        refuse_rows(path, name, fields[name], column < 0, "a probability")
    sums = probabilities.sum(axis=1)
    for i in np.flatnonzero(abs(sums - 1) > _ROUNDING)[:1]:
        raise ValueError(f"probabilities of {str(path)!r} sum to {sums[i]:.6g} in row {i + 2}; they must sum to 1")
    notes = []
    if rounded := np.count_nonzero(abs(sums - 1) > 1e-6):
        notes.append(f"probabilities of {rounded} rows sum to 1 only after rounding; they were divided by their sum")
    text = _labelled(path, fields)
    has_y = np.array([field != "" for field in text])
    y = np.array([_position(path, labels, field, row) for row, field in enumerate(text, start=2)])
    probabilities = probabilities / sums[:, None]
    return _table(
        path, fields, columns, notes, y=y, has_y=has_y, numbers={}, probabilities=probabilities, labels=labels
    )


def _table(
    path: Path, fields: dict[str, list[str]], known: list[str], notes: list[str], **content: Any
) -> PredictionTable:
    groups = np.array(fields["group"]) if "group" in fields else None
    if groups is not None:
        refuse_rows(path, "group", fields["group"], groups == "", "a name")
    weights = as_numbers(path, "weight", fields["weight"]) if "weight" in fields else None
    if weights is not None:
        refuse_rows(path, "weight", fields["weight"], weights < 0, "a nonnegative number")
    split = np.array([field.lower() for field in fields["split"]]) if "split" in fields else None
    if split is not None:
        refuse_rows(path, "split", fields["split"], ~np.isin(split, _PARTS), "calibration or test")
        missing = np.flatnonzero((split == "calibration") & ~content["has_y"])
        if missing.size:
            raise ValueError(f"row {missing[0] + 2} of {str(path)!r} is to calibrate and has no y")
    if unused := [name for name in fields if name not in (*_ROLES, *known)]:
        notes.append(f"columns without a meaning here: {', '.join(unused)}")
    return PredictionTable(path=path, groups=groups, weights=weights, split=split, notes=tuple(notes), **content)


def _labelled(path: Path, fields: dict[str, list[str]]) -> list[str]:
    if "y" not in fields:
        raise ValueError(f"{str(path)!r} has no column 'y'{has_columns(fields)}")
    return fields["y"]


def _position(path: Path, labels: tuple[str, ...], field: str, row: int) -> int:
    """Which label a field names: by its name, as a number that equals it, or by its place where no name is a number."""
    if field == "":
        return -1
    if field in labels:
        return labels.index(field)
    value = as_number(field)
    if value.is_integer():
        # A column of whole numbers with gaps is often written with decimals: 3.0 for 3.
        numbers = [as_number(label) for label in labels]
        if value in numbers:
            return numbers.index(value)
        if all(math.isnan(number) for number in numbers) and 0 <= value < len(labels):
            return int(value)
    few = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
    raise ValueError(f"column 'y' of {str(path)!r} holds {field!r} in row {row}; the labels are {few}")


def split_rows(table: PredictionTable, evaluate: float | None, seed: int) -> Parts:
    """Decide which rows calibrate.

    Args:
        table: the table. A column `split` decides; without it the rows with a label calibrate, and the others get sets.
        evaluate: the share of the labelled rows that is held out, at random, to measure coverage on; None holds out
            half where every row has a label, and none else.
        seed: of the random choice.

    Raises:
        ValueError: nothing is left to calibrate on or to predict, or a share is asked for where it has no meaning.
    """
    import jax

    labelled = np.flatnonzero(table.has_y)
    if table.split is not None:
        if evaluate is not None:
            raise ValueError("--evaluate draws the rows that the column 'split' names already: give one of them")
        calibration, test = (np.flatnonzero(table.split == part) for part in _PARTS)
        if not len(calibration):
            raise ValueError(f"no row of {str(table.path)!r} is to calibrate: 'split' says 'test' everywhere")
        if not len(test):
            raise ValueError(f"no row of {str(table.path)!r} is to be predicted: 'split' says 'calibration' everywhere")
        return Parts(calibration, test, random=False)
    if not len(labelled):
        raise ValueError(f"no row of {str(table.path)!r} has a label: there is nothing to calibrate on")
    if evaluate is None:
        if len(labelled) < len(table):
            return Parts(labelled, np.flatnonzero(~table.has_y), random=False)
        evaluate = 0.5
    if table.weights is not None:
        raise ValueError(
            "with a column 'weight' test rows follow another law than calibration rows: name them in a column 'split', "
            "or leave their y empty"
        )
    if not 0 < evaluate < 1:
        raise ValueError(f"--evaluate must lie strictly between 0 and 1, got {evaluate:g}")
    n_held_out = round(evaluate * len(labelled))
    if not 0 < n_held_out < len(labelled):
        raise ValueError(
            f"{len(labelled)} labelled row(s) cannot be split into a share of {evaluate:g} to evaluate on and a rest"
        )
    shuffled = labelled[np.asarray(jax.random.permutation(jax.random.key(seed), len(labelled)))]
    test = np.concatenate([shuffled[:n_held_out], np.flatnonzero(~table.has_y)])
    return Parts(np.sort(shuffled[n_held_out:]), np.sort(test), random=True)
