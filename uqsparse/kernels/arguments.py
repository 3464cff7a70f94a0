"""Refusals of plain arguments, at the door, that name the argument, what it got and what it wants."""

from typing import Any

import numpy as np


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
