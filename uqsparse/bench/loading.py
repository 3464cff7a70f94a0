"""Importing the modules that register entries: the built-in ones, and the files of users."""

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path

from uqsparse.bench import registry

_loaded: dict[Path, str] = {}


def discover() -> None:
    """Import every module of `uqsparse.bench.entries`, so that the built-in entries register."""
    package = importlib.import_module("uqsparse.bench.entries")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)


def load(path: str | Path) -> Path:
    """Import a user's Python file, so that its decorators register; a changed file is imported anew.

    Modules that stand beside the file can be imported by it.

    Args:
        path: the file, ending in ".py".

    Returns:
        The absolute path.

    Raises:
        ValueError: the file is missing, is no Python file, raises at import or registers nothing.
    """
    path = Path(path).expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"load: there is no file {path}")
    if path.suffix != ".py":
        raise ValueError(f"load: {path.name} is not a Python file (its name must end in .py)")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with registry.lock:
        if _loaded.get(path) == digest:
            return path
        before = registry.registered()
        if path in _loaded:
            registry.forget(path)
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        name = f"uqsparse_bench_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None  # true of every ".py" file
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
            if not any(one.file == path for one in registry.registered().values()):
                raise ValueError("registers no claim, task, method or speed contest")
        except (Exception, SystemExit) as error:
            registry.restore(before)
            del sys.modules[name]
            reason = str(error) or "no message"
            if type(error) is not ValueError:
                reason = f"{type(error).__name__}: {reason}"
            raise ValueError(f"load: {path.name}: {' '.join(reason.split())}") from error
        _loaded[path] = digest
    return path


def load_only(paths: Iterable[str | Path]) -> list[Path]:
    """Import users' files and forget what others have registered that were loaded before.

    A process may live longer than a run: a worker of a cluster, a notebook. Another run's files must not mix
    in.

    Args:
        paths: the files.

    Returns:
        Their absolute paths, each once.

    Raises:
        ValueError: as `load`.
    """
    with registry.lock:
        wanted = {Path(path).expanduser().resolve() for path in paths}
        for path in [path for path in _loaded if path not in wanted]:
            registry.forget(path)
            del _loaded[path]
        return [load(path) for path in dict.fromkeys(paths)]


def find(entry_id: str, paths: Iterable[str | Path]) -> registry.Entry:
    """One entry by its id, from users' files or else the built-in entries, which are imported only then.

    Args:
        entry_id: the entry's id.
        paths: users' files.

    Returns:
        The entry.

    Raises:
        LookupError: there is none with this id.
        ValueError: as `load`.
    """
    with registry.lock:
        load_only(paths)
        for prepare in (lambda: None, discover):
            prepare()
            for entry in registry.entries():
                if entry.id == entry_id:
                    return entry
    raise LookupError(f"this process knows no entry {entry_id!r}")


def user_files() -> list[Path]:
    """Files outside the built-in entries whose functions have registered, such as a script that calls `run`.

    Raises:
        ValueError: an entry was typed in at a prompt, where a worker process cannot find it.
    """
    files: dict[Path, None] = {}
    for one in registry.registered().values():
        if one.module.startswith("uqsparse.bench.entries."):
            continue
        if not one.file.is_file():
            raise ValueError(f"{one.sort} {one.name!r} was defined interactively; put it in a file for workers to find")
        files[one.file] = None
    return list(files)
