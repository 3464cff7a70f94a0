"""Ordered outcomes with a rare last class, drawn from a known model whose weights change from boundary to boundary."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_SOURCE = "Faletto & Bien (2023), Predicting rare events by shrinking towards proportional odds, ICML, simulations"
_MAX_TRIES = 2000


class OrdinalDraw(NamedTuple):
    """A draw from `P(y <= k | x) = sigmoid(intercepts[k] + coefs[k] x)`, with its truth.

    Args:
        X: inputs, uniform on [-1, 1], shape (n, p).
        y: classes 0, ..., K - 1, shape (n,); every one is there.
        intercepts: one for each boundary, shape (K - 1,).
        coefs: the weights of each boundary, shape (K - 1, p).
        probabilities: true probability of each class, shape (n, K), positive.
        n_refused: draws that were thrown away before this one, because a probability was not positive or a class
            missing.
        source: where the construction comes from.
        licence: under which terms the data may be used.
    """

    X: Float[np.ndarray, "n p"]
    y: Int[np.ndarray, " n"]
    intercepts: Float[np.ndarray, " boundaries"]
    coefs: Float[np.ndarray, "boundaries p"]
    probabilities: Float[np.ndarray, "n classes"]
    n_refused: int
    source: str
    licence: str


def sparse_differences(
    seed: int,
    n: int = 2500,
    p: int = 10,
    intercepts: Sequence[float] = (0.0, 3.0, 5.0),
    share: float = 0.5,
) -> OrdinalDraw:
    """Draw a model in which most weights stay what they were from one boundary to the next.

    A weight of the first boundary is 0.5 with probability `share` and 0 otherwise; from each boundary to the next a
    weight changes by 0.5 up or down, with probability `share`.

    Args:
        seed: seed of the generator, at least 0; the same seed gives the same data.
        n: number of rows, at least K.
        p: number of features, at least 1.
        intercepts: increasing, at least two; K = their number + 1. The larger the last, the rarer the last class.
        share: probability that a weight is there, and that it changes, in [0, 1].

    Raises:
        ValueError: if an argument is out of range, or no draw in 2000 has positive probabilities and every class.

    Source: Faletto & Bien (2023), sparse differences, with share 1/3 or 1/2.

    >>> draw = sparse_differences(seed=0)
    >>> draw.coefs.shape, bool((draw.probabilities > 0).all())
    ((3, 10), True)
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share!r}")

    def coefficients(rng: np.random.Generator, shape: tuple[int, int]) -> Float[np.ndarray, "boundaries p"]:
        steps = 0.5 * (rng.random(shape) < share)
        steps[1:] *= rng.choice([-1.0, 1.0], size=(shape[0] - 1, shape[1]))
        return steps.cumsum(axis=0)

    return _draw(seed, n, p, intercepts, coefficients)


def dense_differences(
    seed: int, n: int = 2500, p: int = 10, intercepts: Sequence[float] = (0.0, 3.0, 5.0)
) -> OrdinalDraw:
    """Draw a model in which every weight changes a little: first weights and changes are uniform on [-0.5, 0.5].

    Args:
        seed: seed of the generator, at least 0; the same seed gives the same data.
        n: number of rows, at least K.
        p: number of features, at least 1.
        intercepts: increasing, at least two; K = their number + 1.

    Raises:
        ValueError: if an argument is out of range, or no draw in 2000 has positive probabilities and every class.

    Source: Faletto & Bien (2023), dense differences.

    >>> dense_differences(seed=0).X.shape
    (2500, 10)
    """

    def coefficients(rng: np.random.Generator, shape: tuple[int, int]) -> Float[np.ndarray, "boundaries p"]:
        return rng.uniform(-0.5, 0.5, size=shape).cumsum(axis=0)

    return _draw(seed, n, p, intercepts, coefficients)


def _draw(
    seed: int,
    n: int,
    p: int,
    intercepts: Sequence[float],
    coefficients: Callable[[np.random.Generator, tuple[int, int]], np.ndarray],
) -> OrdinalDraw:
    alpha = np.asarray(intercepts, dtype=np.float64)
    if alpha.ndim != 1 or len(alpha) < 2 or not np.isfinite(alpha).all() or not (np.diff(alpha) > 0).all():
        raise ValueError(f"intercepts must be at least two increasing numbers, got {intercepts!r}")
    n_classes = len(alpha) + 1
    if n < n_classes:
        raise ValueError(f"n must be at least {n_classes}, the number of classes, got {n}")
    if p < 1:
        raise ValueError(f"p must be at least 1, got {p}")
    rng = np.random.default_rng(seed)
    for refused in range(_MAX_TRIES):
        beta = coefficients(rng, (len(alpha), p))
        X = rng.uniform(-1.0, 1.0, size=(n, p))
        below = 1.0 / (1.0 + np.exp(-(alpha + X @ beta.T)))
        probabilities = np.diff(below, axis=1, prepend=0.0, append=1.0)
        if not (probabilities > 0).all():
            continue
        y = (rng.random((n, 1)) > below).sum(axis=1)
        if len(np.unique(y)) == n_classes:
            return OrdinalDraw(X, y, alpha, beta, probabilities, refused, _SOURCE, "generated, free to use")
    raise ValueError(
        f"none of {_MAX_TRIES} draws had positive probabilities and every class: "
        "set intercepts further apart, or n higher"
    )
