"""Finding, choosing and registering the compiled kernels."""

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax

# Names kernels to use in place of the best that the machine can run: "avx2", "avx512" or "neon"; "none" uses none.
VARIABLE = "UQSPARSE_KERNELS"
TARGETS = ("uqsparse_forward", "uqsparse_input_gradient", "uqsparse_value_gradient", "uqsparse_rows_product")
_FILE = "uqsparse_kernels.so"


class Library(NamedTuple):
    """What was found: `kernels` names the instruction set, empty if there are none, and then `reason` says why."""

    kernels: str
    reason: str = ""


@cache
def library() -> Library:
    """Load the compiled kernels and register them with XLA, once; where that cannot be done, say why.

    >>> bool(library().kernels) != bool(library().reason)
    True
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "none":
        return Library("", f"{VARIABLE} is 'none'")
    path = next((path for path in _candidates() if path.is_file()), None)
    if path is None:
        return Library("", "the package was installed without compiled kernels")
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.uqsparse_choose.restype = ctypes.c_char_p
        chosen = loaded.uqsparse_choose(wanted.encode()).decode()
        if not chosen:
            what = f"the kernels {wanted!r} that {VARIABLE} names" if wanted else "the compiled kernels"
            return Library("", f"this machine cannot run {what}")
        # Kernels built against a newer XLA are refused when they are registered, but only once JAX has set up its
        # processors. Before that they are put by, and then keep JAX from setting them up.
        jax.devices("cpu")
        for target in TARGETS:
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(loaded, target)), platform="cpu")
    except (OSError, AttributeError, RuntimeError) as error:  # for another XLA or another machine
        return Library("", f"the compiled kernels do not load: {error}")
    return Library(chosen)


def _candidates() -> list[Path]:
    """Beside this file, or where an editable installation puts what it has built."""
    import uqsparse.kernels.native as package

    return [Path(folder) / _FILE for folder in dict.fromkeys([str(Path(__file__).parent), *package.__path__])]
