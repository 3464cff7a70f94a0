"""Finding functions that draw random numbers on the host.

Compiled, they repeat the numbers that were drawn while they were traced. No check of a compiled function says anything
about such code, so the checkers refuse it.
"""

import inspect
import random
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun


def refuse_host_randomness(name: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Check that a JAX function draws its random numbers from its key alone.

    It is traced twice. A function that uses NumPy's or Python's global generator changes their state; one with a
    generator of its own leaves other constants in the second trace; and one that calls back to the host gives another
    result from the same arguments.

    Args:
        name: what to call it in an error.
        function: the function, traceable.
        *arguments: arguments of the shapes it is used with.

    Raises:
        ValueError: it draws random numbers on the host.
    """
    before = _states()
    first = _trace(function, arguments)
    if _states() != before:
        _refuse(name)
    second = _trace(function, arguments)
    text = str(first)
    if "callback" in text or _fingerprint(first) != _fingerprint(second):
        flat = jax.tree.leaves(arguments)
        results = [jax.jit(jaxpr_as_fun(program))(*flat) for program in (first, second)]
        pairs = zip(*results, strict=True) if len(results[0]) == len(results[1]) else [(0, 1)]
        if not all(_same(a, b) for a, b in pairs):
            _refuse(name)


def _refuse(name: str) -> None:
    raise ValueError(
        f"{name} draws random numbers on the host (np.random, random, or a generator it closes over): compiled by JAX "
        "it repeats them, and no check would mean anything. Draw them with jax.random from the key it is given"
    )


def _trace(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    # Unwrapped and under a new name, so that JAX does not recall an earlier trace, with its numbers.
    bare = inspect.unwrap(function) if hasattr(function, "__wrapped__") else function
    return jax.make_jaxpr(lambda *given: bare(*given))(*arguments)


def _states() -> tuple[Any, ...]:
    # The global generator is the one to look for.
    kind, numbers, *rest = np.random.get_state()  # noqa: NPY002
    return kind, np.asarray(numbers).tobytes(), *rest, random.getstate()


def _fingerprint(program: Any) -> tuple[str, ...]:
    constants = [np.asarray(c).tobytes() if isinstance(c, jax.Array | np.ndarray) else str(c) for c in _plain(program)]
    return re.sub(r"0x[0-9a-f]+", "", str(program)), *map(str, constants)


def _plain(program: Any) -> list[Any]:
    return [jax.random.key_data(c) if _is_key(c) else c for c in program.consts]


def _is_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)


def _same(a: Any, b: Any) -> bool:
    a, b = (np.asarray(jax.random.key_data(x) if _is_key(x) else x) for x in (a, b))
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
