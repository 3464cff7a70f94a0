"""Converted weights, kept in the user's cache folder and checked before they are used."""

import hashlib
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from uqsparse.whole_file import whole_file

Weights = dict[str, np.ndarray]


def cached_weights(
    source: str | os.PathLike,
    label: str,
    convert: Callable[[], tuple[str, Weights]],
    cache_dir: str | os.PathLike | None = None,
) -> tuple[str, Weights]:
    """What `convert` returns, from the cache if it is there.

    The file in the cache is named by the SHA-256 of the source and the label, written under another name and then
    renamed, and holds a checksum of its content. One that is damaged is written anew, with a warning; so is the case
    that the folder cannot be written, where nothing is kept.

    Args:
        source: the file that is converted.
        label: what else the result depends on: the type of the numbers, the version of the conversion.
        convert: returns a description (a text) and named arrays.
        cache_dir: folder of the cache; None: `default_cache_dir()`.

    Raises:
        ImportError: safetensors is not installed (extra `lm`).
    """
    try:
        import safetensors  # noqa: F401
    except ImportError as error:
        raise ImportError("keeping converted weights needs safetensors; pip install 'uqsparse[lm]'") from error
    with Path(source).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    path = Path(default_cache_dir() if cache_dir is None else cache_dir) / f"{digest}-{label}.safetensors"
    if path.is_file():
        try:
            return _read(path)
        except Exception as error:  # whatever is wrong with it, it can be made anew
            warnings.warn(
                f"the converted weights in {str(path)!r} are damaged ({error}); converting again", stacklevel=3
            )
    description, weights = convert()
    try:
        _write(path, description, weights)
    except OSError as error:
        warnings.warn(f"the converted weights cannot be kept in {str(path.parent)!r}: {error}", stacklevel=3)
    return description, weights


def default_cache_dir() -> Path:
    """`uqsparse/weights` in `$XDG_CACHE_HOME`, or in `~/.cache` where that is not set to an absolute path."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else Path.home() / ".cache") / "uqsparse" / "weights"


def checksum(description: str, weights: Weights) -> str:
    """CRC-32 of a description and of the names, types, shapes and numbers of all arrays. Finds damage, not malice."""
    value = zlib.crc32(description.encode())
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        value = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), value)
        value = zlib.crc32(array.reshape(-1).view(np.uint8).data, value)
    return f"{value:08x}"


def _read(path: Path) -> tuple[str, Weights]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        metadata = file.metadata() or {}
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    description, expected = metadata["description"], metadata["checksum"]
    found = checksum(description, weights)
    if found != expected:
        raise ValueError(f"their checksum is {found}, not {expected}")
    return description, weights


def _write(path: Path, description: str, weights: Weights) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    try:
        with whole_file(path) as draft:
            save_file(contiguous, draft, {"description": description, "checksum": checksum(description, weights)})
    except SafetensorError as error:  # a full disk, say
        raise OSError(str(error)) from error
