"""What a GGUF file says about itself before its tensors: names and values, the tokeniser's tables among them.

The package gguf reads the same, but needs seconds for it, because it makes arrays of every string.
"""

import mmap
import os
import struct
from pathlib import Path
from typing import Any

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)


def read_gguf_header(path: str | os.PathLike) -> dict[str, Any]:
    """Read the names and values at the head of a GGUF file.

    Args:
        path: little-endian GGUF file, version 2 or 3.

    Returns:
        Numbers, Booleans, strings, and lists of them, by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no GGUF file, of another version, or its head is damaged or cut off; the place is named.

    Source: ggml-org, GGUF (file format description, version 3), https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{str(path)!r} is no GGUF file: it does not begin with 'GGUF'")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            reader = _Reader(content)
            try:
                version, _, n_fields = reader.number(4), reader.number(10), reader.number(10)
                if version not in _VERSIONS:
                    raise ValueError(f"its version is {version}, supported are 2 and 3")
                return dict(reader.field() for _ in range(n_fields))
            except (struct.error, ValueError, RecursionError) as error:
                raise ValueError(f"{str(path)!r} is not readable as GGUF, at byte {reader.place}: {error}") from None


class _Reader:
    def __init__(self, content: Any):
        self._content = content
        self.place = 4

    def field(self) -> tuple[str, Any]:
        name = self.string()
        return name, self._value(self.number(4))

    def number(self, kind: int) -> Any:
        (value,) = struct.unpack_from(_NUMBERS[kind], self._content, self.place)
        self.place += struct.calcsize(_NUMBERS[kind])
        return value

    def string(self) -> str:
        length = self.number(10)
        if length > len(self._content) - self.place:
            raise ValueError(f"a string of {length} bytes is longer than the rest of the file")
        text = self._content[self.place : self.place + length].decode()
        self.place += length
        return text

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            kind, length = self.number(4), self.number(10)
            if length > len(self._content) - self.place:
                raise ValueError(f"a list of {length} values is longer than the rest of the file")
            return [self._value(kind) for _ in range(length)]
        if kind not in _NUMBERS:
            raise ValueError(f"there is no type {kind}")
        return self.number(kind)
