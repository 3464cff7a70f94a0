"""Persons and a yes-or-no outcome from a CSV file, as the features of a risk model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from uqsparse.cli.table_cells import as_number, as_numbers, has_columns
from uqsparse.data.files import read_fields

# A column of text with more values than this is a name or a date rather than a category.
_MOST_CATEGORIES = 50


@dataclass(frozen=True)
class PersonTable:
    """Standardised features and outcomes.

    Args:
        path: the file.
        rows: the row of the file of each person, the header being row 1.
        names: what identifies each person: the row, or the column that was asked for.
        X: features with mean 0 and standard deviation 1, shape (n, d); a category is a column of its own.
        features: d names.
        y: outcomes; True where the positive one.
        positive: the name of the outcome whose probability is the risk.
        negative: the name of the other.
        groups: column to the group of each person, for each column that was asked for.
        notes: what the reader should know.
    """

    path: Path
    rows: Int[np.ndarray, " n"]
    names: tuple[str, ...]
    X: Float[np.ndarray, "n d"]
    features: tuple[str, ...]
    y: Bool[np.ndarray, " n"]
    positive: str
    negative: str
    groups: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)


def read_persons(
    path: Path,
    target: str,
    *,
    positive: str | None = None,
    groups: Sequence[str] = (),
    ignored: Sequence[str] = (),
    identity: str | None = None,
    drop_incomplete: bool = False,
    drop_reference: bool = False,
) -> PersonTable:
    """Read a table whose every column is a feature, but for those with another role.

    Columns of numbers are standardised; a column of texts is a category, one standardised column a value; a mixture of
    both is refused.

    Args:
        path: comma-separated values with a header line, one row a person.
        target: the column of the outcome, with two values.
        positive: the value whose probability is the risk; by default the larger of two numbers, else the rarer value.
        groups: columns by which persons are compared; they are features too, unless ignored.
        ignored: columns that are no features.
        identity: a column that names the persons; it is no feature.
        drop_incomplete: leave out rows with an empty field in a column that is used, instead of refusing them.
        drop_reference: leave out the column of the first value of each category, which models without a penalty need.

    Raises:
        FileNotFoundError, ValueError: the file cannot be read, a column is missing, or a field is not what its column
            wants, with its row.
    """
    fields = read_fields(path)
    roles = [target, *groups, *ignored, *([identity] if identity is not None else [])]
    for name in roles:
        if name not in fields:
            raise ValueError(f"{str(path)!r} has no column {name!r}{has_columns(fields)}")
    features = [name for name in fields if name not in {target, identity, *ignored}]
    if not features:
        raise ValueError(f"{str(path)!r} has no column left that is a feature")
    # missing values often have a name in text tables
    missing = {
        name: np.array([field.lower() in ("", "na", "nan", "null") for field in fields[name]])
        for name in {target, *features, *groups}
    }
    notes = []
    incomplete = np.any(list(missing.values()), axis=0)
    if incomplete.any() and not drop_incomplete:
        first = int(np.flatnonzero(incomplete)[0])
        column = next(name for name in fields if name in missing and missing[name][first])
        raise ValueError(
            f"column {column!r} of {str(path)!r} has no value in row {first + 2} ({np.count_nonzero(incomplete)} rows "
            "lack one): fill them in, or leave such rows out with --drop-incomplete"
        )
    kept = np.flatnonzero(~incomplete)
    if incomplete.any():
        notes.append(f"{np.count_nonzero(incomplete)} of {len(incomplete)} rows lack a value and were left out")
    if len(kept) < 2:
        raise ValueError(f"{str(path)!r} has {len(kept)} complete row(s); two are the least")
    columns = {name: [values[i] for i in kept] for name, values in fields.items()}
    y, positive, negative = _outcome(path, target, columns[target], positive)
    X, names, more = _features(path, columns, features, drop_reference)
    return PersonTable(
        path=path,
        rows=kept + 2,
        names=tuple(columns[identity]) if identity is not None else tuple(str(row + 2) for row in kept),
        X=X,
        features=names,
        y=y,
        positive=positive,
        negative=negative,
        groups={name: tuple(columns[name]) for name in dict.fromkeys(groups)},
        notes=(*notes, *more),
    )


def _outcome(
    path: Path, target: str, fields: list[str], positive: str | None
) -> tuple[Bool[np.ndarray, " n"], str, str]:
    values = sorted(set(fields))
    if len(values) != 2:
        few = ", ".join(map(repr, values[:5])) + (", ..." if len(values) > 5 else "")
        raise ValueError(
            f"target {target!r} of {str(path)!r} has {len(values)} value(s), {few}; "
            "a risk is the probability of one of two"
        )
    if positive is None:
        numbers = [as_number(value) for value in values]
        rarer = min(values, key=fields.count)
        positive = rarer if np.isnan(numbers).any() else values[int(np.argmax(numbers))]
    if positive not in values:
        raise ValueError(
            f"--positive is {positive!r}; the target {target!r} has the values {values[0]!r}, {values[1]!r}"
        )
    negative = values[1 - values.index(positive)]
    return np.array([field == positive for field in fields]), positive, negative


def _features(
    path: Path, columns: dict[str, list[str]], features: list[str], drop_reference: bool
) -> tuple[Float[np.ndarray, "n d"], tuple[str, ...], list[str]]:
    """Standardised columns, their names, and notes."""
    made: dict[str, np.ndarray] = {}
    constant = []
    for name in features:
        fields = columns[name]
        values = list(dict.fromkeys(fields))
        if all(np.isnan(as_number(value)) for value in values):
            if len(values) > _MOST_CATEGORIES:
                raise ValueError(
                    f"column {name!r} of {str(path)!r} has {len(values)} different texts: is it a name? "
                    f"leave it out with --ignore {name} (or --id {name})"
                )
            kinds = {
                f"{name}={value}": np.array([field == value for field in fields], float) for value in sorted(values)
            }
            # of two values one column says it all
            made |= dict(list(kinds.items())[1:]) if drop_reference or len(kinds) == 2 else kinds
        else:
            made[name] = as_numbers(path, name, fields)
    for name in [name for name, column in made.items() if np.ptp(column) == 0]:
        constant.append(name)
        del made[name]
    if not made:
        raise ValueError(f"every feature of {str(path)!r} is constant: there is nothing to tell persons apart by")
    X = np.column_stack(list(made.values()))
    notes = [f"constant, and so no features: {', '.join(constant)}"] if constant else []
    return (X - X.mean(axis=0)) / X.std(axis=0), tuple(made), notes
