"""Fixtures of the bench's tests: an empty registry, and small entry files written where a test wants them."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uqsparse.bench import loading, registry

WriteFile = Callable[..., Path]


@pytest.fixture
def empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No entries, and none of the built-in ones imported, so that nothing heavy runs."""
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(loading, "_loaded", {})
    monkeypatch.setattr(loading, "discover", lambda: None)


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    """Write a Python file with the usual imports on top."""

    def write_file(source: str, name: str = "entries.py") -> Path:
        path = tmp_path / name
        head = "import os, pathlib, signal, time\nimport numpy as np\nfrom uqsparse import bench\n"
        path.write_text(head + textwrap.dedent(source), encoding="utf-8")
        return path

    return write_file


@pytest.fixture
def about() -> dict[str, Any]:
    """What a result says about its run."""
    found = {"versions": {"uqsparse": "0"}, "date": "2025-01-02T03:04:05+00:00", "suite": "quick", "seed": 0}
    found |= {"seconds": 1.0, "only": [], "workers": "1", "loaded": [], "resumed": 0, "fingerprint": "0" * 64}
    return found | {"machine": {"processor": "p", "cores": 2, "system": "s", "architecture": "a"}}
