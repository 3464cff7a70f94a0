"""Checkpoints of fits: a file that is always whole, with the finished runs, the one under way, and whose fit it is."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from uqsparse.solvers.truncated_em import EMState, Parameters, TruncatedEM
from uqsparse.whole_file import whole_file


class FitProgress(NamedTuple):
    """How far a fit with restarts has come.

    Args:
        seed: seed of the fit.
        finished: records of the runs that are done.
        state: the run under way after its last iteration, or None before its first.
    """

    seed: int
    finished: tuple[TruncatedEM, ...] = ()
    state: EMState | None = None


def data_digest(Y: Float[np.ndarray, "n D"]) -> str:
    """Digest of the rows of all processes, in their order and with their division among processes."""
    mine = hashlib.blake2b(np.ascontiguousarray(Y).tobytes() + repr((Y.shape, str(Y.dtype))).encode(), digest_size=32)
    if jax.process_count() == 1:
        return mine.hexdigest()
    from jax.experimental.multihost_utils import process_allgather

    digests = np.asarray(process_allgather(np.frombuffer(mine.digest(), np.uint8)))
    return hashlib.blake2b(digests.tobytes(), digest_size=32).hexdigest()


def check_checkpoint(path: Path) -> None:
    """Refuse a place where no checkpoint can be written, before any work.

    Raises:
        ValueError: with what is wrong.
    """
    if path.is_dir():
        raise ValueError(f"checkpoint: {str(path)!r} is a folder")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise ValueError(f"checkpoint: directory {str(parent)!r} does not exist")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"checkpoint: {str(parent)!r} cannot be written to")


def save_checkpoint(path: Path, settings: Mapping[str, Any], progress: FitProgress) -> None:
    """Replace a checkpoint, whole or not at all; where several processes work together, the first one writes.

    Args:
        path: the file.
        settings: what the fit depends on beside its seed, plain data.
        progress: how far the fit has come.

    Raises:
        OSError: the file cannot be written.
    """
    if jax.process_index() != 0:
        return
    header = {"settings": dict(settings), "seed": progress.seed, "finished": len(progress.finished)}
    arrays = {"header": np.array(json.dumps(header))}
    for number, run in enumerate(progress.finished):
        arrays.update(_named(f"run{number}", run))
    if progress.state is not None:
        arrays.update(_named("state", progress.state))
    with whole_file(path) as draft, draft.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def load_checkpoint(
    path: Path, settings: Mapping[str, Any], seed: int | None, parameters_type: type[Parameters]
) -> FitProgress | None:
    """Read a checkpoint back; where several processes work together, the first one reads for all.

    Args:
        path: the file.
        settings: what the fit depends on beside its seed; a checkpoint with other settings is refused.
        seed: seed of the fit; None takes the checkpoint's.
        parameters_type: the NamedTuple of the model's parameters.

    Returns:
        How far the fit had come, or None if there is no file.

    Raises:
        ValueError: the file is no checkpoint, or that of another fit.
    """
    content = _shared_bytes(path)
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(str(arrays.pop("header")))
        runs = [_rebuilt(TruncatedEM, f"run{number}", arrays, parameters_type) for number in range(header["finished"])]
        state = _rebuilt(EMState, "state", arrays, parameters_type) if "state/free_energy" in arrays else None
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"checkpoint: {str(path)!r} is not a checkpoint of this model ({error})") from error
    wanted = json.loads(json.dumps(dict(settings)))
    different = [name for name in wanted if header["settings"].get(name) != wanted[name]]
    if seed is not None and header["seed"] != seed:
        different.append("random_state")
    if different:
        raise ValueError(
            f"checkpoint: {str(path)!r} is that of another fit, with other {', '.join(different)}; remove it or give "
            "another file"
        )
    return FitProgress(header["seed"], tuple(runs), state)


def _named(prefix: str, record: EMState | TruncatedEM) -> dict[str, np.ndarray]:
    arrays = {f"{prefix}/{name}": np.asarray(value) for name, value in record._asdict().items() if name != "parameters"}
    parameters = record.parameters._asdict()
    return arrays | {f"{prefix}/parameters/{name}": np.asarray(value) for name, value in parameters.items()}


def _rebuilt(kind: Any, prefix: str, arrays: Mapping[str, np.ndarray], parameters_type: Any) -> Any:
    fields = {name: arrays[f"{prefix}/{name}"] for name in kind._fields if name != "parameters"}
    fields = {name: value.item() if value.ndim == 0 else value for name, value in fields.items()}
    parameters = {name: arrays[f"{prefix}/parameters/{name}"] for name in parameters_type._fields}
    return kind(parameters=parameters_type(**parameters), **fields)


def _shared_bytes(path: Path) -> bytes | None:
    """The file as the first process sees it, or None."""
    content = None
    if jax.process_index() == 0 and path.exists():
        content = path.read_bytes()
    if jax.process_count() == 1:
        return content
    from jax.experimental.multihost_utils import broadcast_one_to_all

    size = int(broadcast_one_to_all(np.array(-1 if content is None else len(content), np.int32)))
    if size < 0:
        return None
    mine = np.zeros(size, np.uint8) if content is None else np.frombuffer(content, np.uint8)
    return np.asarray(broadcast_one_to_all(mine)).tobytes()
