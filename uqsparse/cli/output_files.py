"""What commands write: checked before any work, and there whole or not at all."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uqsparse.whole_file import whole_file


def check_folder(out: Path) -> None:
    """Refuse a folder that cannot be made or written, before any work.

    Raises:
        ValueError: with what is wrong.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: {str(out)!r} is a file")
    parent = out if out.is_dir() else out.absolute().parent
    if not parent.is_dir():
        raise ValueError(f"--out: directory {str(parent)!r} does not exist")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"--out: {str(parent)!r} cannot be written to")


def check_file(out: Path) -> None:
    """Refuse a file that cannot be written, before any work.

    Raises:
        ValueError: with what is wrong.
    """
    if out.is_dir():
        raise ValueError(f"--out: {str(out)!r} is a folder")
    parent = out.absolute().parent
    if not parent.is_dir():
        raise ValueError(f"--out: directory {str(parent)!r} does not exist")
    check_folder(parent)


def write_json(out: Path, record: Any) -> None:
    """Write one file, whole or not at all; infinite numbers become the text "inf"."""
    text = json_text(record)
    with whole_file(out) as draft:
        draft.write_text(text, encoding="utf-8")


def write_together(
    out: Path, writers: Mapping[str, Callable[[Path], Any]], outdated: tuple[str, ...] = ()
) -> list[str]:
    """Write files into a folder, all or none: they are made apart and moved there when all are complete.

    Args:
        out: the folder; made if missing, and files of these names in it are replaced.
        writers: name of each file to what writes it to a path.
        outdated: files that an earlier run may have left and this one does not write; they are removed.

    Returns:
        The names of the files.

    Raises:
        OSError: the folder cannot be written.
    """
    beside = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=out if out.is_dir() else out.absolute().parent))
    try:
        draft = beside / "draft"
        draft.mkdir()
        for name, write in writers.items():
            write(draft / name)
        out.mkdir(exist_ok=True)
        for name in writers:
            os.replace(draft / name, out / name)
        for name in set(outdated) - set(writers):
            (out / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return list(writers)


def json_text(record: Any) -> str:
    """Plain data as JSON; infinite numbers become the text "inf"."""
    return json.dumps(_plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, numbers to the right of a first column of names.

    >>> markdown_table(["who", "age"], [["a|b", "3"]])
    ['| who | age |', '| --- | ---: |', '| a\\\\|b | 3 |']
    """
    safe = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *safe]
    return [f"| {' | '.join(line)} |" for line in lines]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    return float(value) if math.isfinite(value) else str(float(value))
