"""Checkpoints of a training run: one file, written whole or not at all, and checked before it is used."""

import io
import json
import zlib
from pathlib import Path

import equinox as eqx
import numpy as np
from jaxtyping import Float, PyTree

from uqsparse.whole_file import whole_file

_KIND = "uqsparse training checkpoint 1"


def require_checkpoint_path(path: str | Path) -> Path:
    """The path, if a file can stand there.

    Raises:
        ValueError: it is a folder, or its folder does not exist.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"checkpoint must be a file, got the folder {str(path)!r}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"checkpoint {str(path)!r} is in a folder that does not exist")
    return path


def save_checkpoint(path: Path, identity: str, state: PyTree, losses: Float[np.ndarray, " steps"]) -> None:
    """Write a run to a file, which is replaced as a whole.

    Args:
        path: of the file.
        identity: what the run is; loading asks for the same.
        state: any structure of arrays.
        losses: of the steps done so far.
    """
    buffer = io.BytesIO()
    eqx.tree_serialise_leaves(buffer, (np.asarray(losses, np.float64), state))
    content = buffer.getvalue()
    header = {"kind": _KIND, "identity": identity, "n_steps": len(losses), "checksum": zlib.crc32(content)}
    with whole_file(path) as draft:
        draft.write_bytes(json.dumps(header).encode() + b"\n" + content)


def load_checkpoint(path: Path, identity: str, state: PyTree) -> tuple[PyTree, Float[np.ndarray, " steps"]]:
    """Read a run from a file.

    Args:
        path: of the file.
        identity: as it was saved with.
        state: arrays of the same shapes and types, in the same structure.

    Returns:
        The state that was saved, and the losses.

    Raises:
        ValueError: the file is no checkpoint, is damaged, or belongs to another run.
    """
    line, _, content = path.read_bytes().partition(b"\n")
    try:
        header = json.loads(line)
        is_one = header["kind"] == _KIND
    except (ValueError, KeyError, TypeError):
        is_one = False
    if not is_one:
        raise ValueError(f"{str(path)!r} is not a checkpoint of a training run")
    if header["checksum"] != zlib.crc32(content):
        raise ValueError(f"the checkpoint {str(path)!r} is damaged")
    if header["identity"] != identity:
        raise ValueError(f"the checkpoint {str(path)!r} is of another run: {header['identity']}; this one: {identity}")
    try:
        losses, loaded = eqx.tree_deserialise_leaves(io.BytesIO(content), (np.empty(header["n_steps"]), state))
    except Exception as error:  # Equinox raises what NumPy or its own comparison of shapes does
        raise ValueError(f"the checkpoint {str(path)!r} is of another network or optimiser: {error}") from error
    return loaded, losses
