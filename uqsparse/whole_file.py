"""Files that appear whole or not at all: whoever is interrupted leaves what was there before."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A draft to write, which takes the place of a file when the block ends, and is removed when it raises.

    Args:
        path: the file; its folder exists, and its permissions will be those that `open` gives a new file.

    Yields:
        An empty file beside it.

    Raises:
        OSError: the folder cannot be written.

    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name, "answer.txt")
    >>> with whole_file(path) as draft:
    ...     _ = draft.write_text("42")
    >>> path.read_text(), len(os.listdir(folder.name))
    ('42', 1)
    """
    handle, name = tempfile.mkstemp(prefix=".unfinished-", dir=path.absolute().parent)
    os.close(handle)
    draft = Path(name)
    try:
        mask = os.umask(0)
        os.umask(mask)
        draft.chmod(0o666 & ~mask)
        yield draft
        with draft.open("rb") as file:  # or a crash of the machine may leave the name without the content
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
