"""The order of class labels: given, by value, or that of an ordered categorical; never guessed from strings."""

from typing import Any

import numpy as np
from jaxtyping import Int


def ordered_classes(y: Any, classes: Any = None) -> np.ndarray:
    """The distinct labels from first to last.

    Args:
        y: labels, shape (n,): numbers, an ordered categorical of pandas, or anything if `classes` is given.
        classes: the labels in their order.

    Returns:
        Labels, shape (K,).

    Raises:
        ValueError: the labels have no order, or `classes` repeats one.

    >>> ordered_classes([3, 1, 2, 1]).tolist(), ordered_classes(["b", "a"], classes=["b", "a"]).tolist()
    ([1, 2, 3], ['b', 'a'])
    """
    if classes is not None:
        found = np.asarray(classes)
        if found.ndim != 1 or len(set(found.tolist())) != len(found):
            raise ValueError(f"classes must be a list of distinct labels from first to last, got {classes!r}")
        return found
    dtype = getattr(y, "dtype", None)
    categories = getattr(dtype, "categories", None)
    if categories is not None and getattr(dtype, "ordered", False):
        return np.asarray(categories)
    labels = np.asarray(y)
    if categories is not None or labels.dtype.kind not in "biuf":
        raise ValueError(
            f"y has labels without an order, such as {labels.ravel()[0]!r}: pass classes=[...] from the first to the "
            "last, numbers, or an ordered categorical"
        )
    return np.unique(labels)


def coded(y: np.ndarray, classes: np.ndarray) -> Int[np.ndarray, " n"]:
    """Positions of labels in the list of classes.

    Args:
        y: labels, shape (n,).
        classes: distinct labels, shape (K,).

    Raises:
        ValueError: a label is not in the list.

    >>> coded(np.array(["b", "a", "b"]), np.array(["b", "a"])).tolist()
    [0, 1, 0]
    """
    position = {label: at for at, label in enumerate(classes.tolist())}
    unknown = sorted({str(label) for label in y.tolist() if label not in position})
    if unknown:
        raise ValueError(f"y has labels that are not in classes: {', '.join(unknown[:5])}")
    return np.array([position[label] for label in y.tolist()], dtype=np.int64)
