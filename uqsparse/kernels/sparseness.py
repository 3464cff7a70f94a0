"""How sparse a code is: the share of active units, and the Treves-Rolls measure over units or over patterns."""

from typing import Any

from jaxtyping import Float

from uqsparse.kernels.namespaces import AnyArray, array_namespace


def treves_rolls(responses: Float[AnyArray, "..."], axis: int = -1) -> Float[AnyArray, "..."]:
    """Sparseness along one axis: `(1 - (mean |r|)^2 / mean r^2) n / (n - 1)`, 0 for equal |r|, 1 for a single nonzero.

    It does not depend on the scale of the responses. Where all of them are zero the ratio is undefined; 1 is returned,
    since such a response is no denser than one with a single nonzero. Leave silent rows or units out of a mean by
    `responses.any(axis)`.

    Args:
        responses: real, with n >= 2 entries along the axis; signs are ignored.
        axis: the axis that is reduced.

    Returns:
        Values in [0, 1], in the shape of the responses without the axis.

    Raises:
        ValueError: the axis has fewer than two entries.

    Source: Treves & Rolls (1991), What determines the capacity of autoassociative memories in the brain?; the
    normalised form of Vinje & Gallant (2000), Sparse coding and decorrelation in primary visual cortex.

    >>> import numpy as np
    >>> treves_rolls(np.array([[0.0, -3.0, 0.0], [2.0, -2.0, 2.0]])).tolist()
    [1.0, 0.0]
    """
    xp = array_namespace(responses)
    size = xp.abs(responses)
    n = size.shape[axis]
    if n < 2:
        raise ValueError(f"responses must have at least 2 entries along axis {axis}, got {n}")
    # Scaled by the largest, so that squares neither overflow nor vanish; where all are zero the scale does not matter.
    largest = size.max(axis=axis, keepdims=True)
    silent = largest == 0
    size = size / xp.where(silent, 1.0, largest)
    square = xp.where(silent, 1.0, (size**2).mean(axis=axis, keepdims=True))
    value = (1 - size.mean(axis=axis, keepdims=True) ** 2 / square) * (n / (n - 1))
    return xp.squeeze(xp.clip(xp.where(silent, 1.0, value), 0.0, 1.0), axis=axis)


def population_sparseness(codes: Float[AnyArray, "n M"]) -> Float[AnyArray, " n"]:
    """Treves-Rolls sparseness of each pattern over the units: near 1 if few units respond to it.

    Args:
        codes: responses of M >= 2 units to n patterns.

    Source: Willmore & Tolhurst (2001), Characterizing the sparseness of neural codes.

    >>> import numpy as np
    >>> population_sparseness(np.array([[0.0, 5.0], [1.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    return treves_rolls(codes, axis=1)


def lifetime_sparseness(codes: Float[AnyArray, "n M"]) -> Float[AnyArray, " M"]:
    """Treves-Rolls sparseness of each unit over the patterns: near 1 if it responds to few of them.

    Args:
        codes: responses of M units to n >= 2 patterns.

    Source: Willmore & Tolhurst (2001), Characterizing the sparseness of neural codes.

    >>> import numpy as np
    >>> lifetime_sparseness(np.array([[0.0, 5.0], [1.0, 5.0]])).tolist()
    [1.0, 0.0]
    """
    return treves_rolls(codes, axis=0)


def active_fraction(codes: Float[AnyArray, "..."], axis: Any = None) -> Float[AnyArray, "..."]:
    """The share of entries that are not exactly zero, over all of them or along an axis.

    Args:
        codes: real, any shape with at least one entry.
        axis: an axis or a tuple of axes; all if left out.

    >>> import numpy as np
    >>> float(active_fraction(np.array([[0.0, 5.0], [0.0, 0.0]])))
    0.25
    """
    xp = array_namespace(codes)
    return (xp.asarray(codes) != 0).mean(axis=axis)
