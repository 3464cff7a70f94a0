"""Refusals of plain arguments, at the door, that name the argument, what it got and what it wants."""

from typing import Any

import numpy as np
from jaxtyping import Float


def require_count(name: str, value: Any, least: int) -> None:
    """Raise ValueError unless a value is an integer of at least `least`.

    >>> require_count("n_chains", 0, 1)
    Traceback (most recent call last):
    ValueError: n_chains must be an integer of at least 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def require_fraction(name: str, value: Any) -> None:
    """Raise ValueError unless a value lies strictly between 0 and 1, as levels and acceptance rates do.

    >>> require_fraction("alpha", 1.5)
    Traceback (most recent call last):
    ValueError: alpha must lie strictly between 0 and 1, got 1.5
    """
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value!r}")


def require_finite_matrix(name: str, array: Any) -> Float[np.ndarray, "n d"]:
    """The array as a finite matrix with a row and a column, float32 if it is that and float64 otherwise.

    Raises:
        ValueError: it holds no real numbers, is no matrix or an empty one, or has NaN or infinite values.

    >>> require_finite_matrix("A", [1.0, 2.0])
    Traceback (most recent call last):
    ValueError: A must be a matrix with at least one row and column, got shape (2,)
    """
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must be a matrix with at least one row and column, got shape {array.shape}")
    if not np.isfinite(array).all():
        bad = np.count_nonzero(~np.isfinite(array))
        raise ValueError(f"{name} must be finite, got {bad} values that are NaN or infinite")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
