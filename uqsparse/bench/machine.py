"""What a measurement was made on: processor, memory and versions, without names or paths of the machine."""

import functools
import hashlib
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Packages whose version can change a result; those not installed are left out.
_PACKAGES = (
    *("uqsparse", "jax", "jaxlib", "numpy", "scipy", "numpyro", "scikit-learn", "arviz"),
    *("blackjax", "particles", "pymc", "distributed"),
)


@functools.cache
def _describe() -> tuple[tuple[str, Any], ...]:
    processor = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass  # not Linux: the platform's own name for the processor has to do
    description: dict[str, Any] = {
        "system": platform.system(),
        "processor": processor,
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
    }
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        description["memory_gib"] = round(memory / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        pass  # this system does not say
    return tuple(description.items())


def describe_machine() -> dict[str, Any]:
    """Operating system, processor, number of cores and memory of this machine."""
    return dict(_describe())


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a result can depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def fingerprint(user_files: Iterable[Path] = ()) -> str:
    """SHA-256 over the package's source and the loaded user files: same fingerprint, same program."""
    import uqsparse

    digest = hashlib.sha256()
    root = Path(uqsparse.__file__).parent
    sources = [(str(path.relative_to(root)), path) for path in root.rglob("*.py")]
    sources += [(f"user/{path.name}", path) for path in user_files]
    for name, path in sorted(sources):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
