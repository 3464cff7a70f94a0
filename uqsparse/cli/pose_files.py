"""How `uqsparse pose` writes: regions and bounds as JSON, and pictures, whole or not at all."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.keypoint_regions import KeypointRegions
from uqsparse.cli.conformal_files import check_folder


def guarantee_record(guarantee: Guarantee) -> dict[str, Any]:
    """A guarantee as plain data."""
    return {
        "kind": guarantee.kind,
        "level": guarantee.level,
        "n": guarantee.n,
        "assumptions": guarantee.assumptions,
        "sentence": str(guarantee),
    }


def region_record(regions: KeypointRegions, row: int) -> list[dict[str, Any]]:
    """The regions of one image, one entry a keypoint; a keypoint that was not seen has none."""
    records = []
    for k in range(regions.centre.shape[1]):
        record: dict[str, Any] = {"keypoint": k, "seen": bool(regions.seen[row, k])}
        if record["seen"]:
            record |= {
                "centre": regions.centre[row, k].tolist(),
                "information": regions.information[row, k].tolist(),
            }
        records.append(record)
    return records


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
    handle, draft = tempfile.mkstemp(prefix=".unfinished-", dir=out.absolute().parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        # as open() would have made it, and not private to the owner
        mask = os.umask(0)
        os.umask(mask)
        Path(draft).chmod(0o666 & ~mask)
        os.replace(draft, out)
    finally:
        Path(draft).unlink(missing_ok=True)


def write_together(out: Path, writers: Mapping[str, Callable[[Path], Any]]) -> list[str]:
    """Write files into a folder, all or none: they are made apart and moved there when all are complete."""
    beside = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=out if out.is_dir() else out.absolute().parent))
    try:
        draft = beside / "draft"
        draft.mkdir()
        for name, write in writers.items():
            write(draft / name)
        out.mkdir(exist_ok=True)
        for name in writers:
            os.replace(draft / name, out / name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return list(writers)


def json_text(record: Any) -> str:
    """Plain data as JSON; infinite numbers become the text "inf"."""
    return json.dumps(_plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


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
