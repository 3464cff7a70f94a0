"""Weighted samples of rows that keep l_p norms, and how well they do."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Int

from uqsparse.kernels.arguments import require_count, require_finite_matrix, require_fraction
from uqsparse.solvers.row_scores import Scheme, exponent, lewis_weights, sensitivity_brackets, whiten


class RowSample(NamedTuple):
    """Rows and what each counts for.

    Args:
        rows: indices, in ascending order, shape (m,).
        weights: 1 / probability, shape (m,): a sum over all rows of nonnegative terms is the mean, over samples, of the
            weighted sum over these. Multiply rows by weights^(1/p) to keep l_p norms.
        probabilities: of being in the sample, of all rows, shape (n,).
    """

    rows: Int[np.ndarray, " m"]
    weights: Float[np.ndarray, " m"]
    probabilities: Float[np.ndarray, " n"]


class Distortion(NamedTuple):
    """The largest relative error of |S A x|_p^p over all x.

    Args:
        value: of the direction that was found; the distortion itself if exact, else a lower bound.
        direction: x, in the coordinates of A, shape (d,).
        exact: whether it is proved to be the largest (p = 2).
    """

    value: float
    direction: Float[np.ndarray, " d"]
    exact: bool


class TotalSensitivity(NamedTuple):
    """An estimate of the sum of all sensitivities from some of them.

    Args:
        lower: from the lower ends of the brackets.
        upper: from the upper ends.
        standard_error: of either, by chance.
        n_rows: rows drawn.
    """

    lower: float
    upper: float
    standard_error: float
    n_rows: int


def sampling_probabilities(scores: Float[np.ndarray, " n"], size: float) -> Float[np.ndarray, " n"]:
    """Probabilities min(1, alpha score) that sum to a size.

    Args:
        scores: nonnegative and finite, not all 0, shape (n,).
        size: expected number of rows, positive. At least as many as there are positive scores: all of these for sure.

    Raises:
        ValueError: scores or size are out of range.

    >>> sampling_probabilities(np.array([8.0, 1.0, 1.0, 0.0]), 2.0)
    array([1. , 0.5, 0.5, 0. ])
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not (np.isfinite(scores) & (scores >= 0)).all() or not (scores > 0).any():
        raise ValueError("scores must be finite, nonnegative and not all 0, in one dimension")
    if isinstance(size, bool) or not 0 < size < math.inf:
        raise ValueError(f"size must be positive and finite, got {size!r}")
    if size >= np.count_nonzero(scores):
        return (scores > 0).astype(float)
    # the k largest are certain for the smallest k at which the others need not be
    ordered = np.sort(scores)[::-1]
    tail = np.cumsum(ordered[::-1])[::-1]
    k = np.arange(min(len(ordered), math.ceil(size)))
    fits = (size - k) * ordered[k] <= tail[k] * (1 + 1e-12)
    certain = int(np.argmax(fits))
    return np.minimum(1.0, (size - certain) / tail[certain] * scores)


def sample_rows(key: Array, scores: Float[np.ndarray, " n"], size: float) -> RowSample:
    """Draw rows independently of each other, each with a probability in proportion to its score.

    Args:
        key: random key.
        scores: nonnegative, shape (n,), for example of `row_scores`. Rows of score 0 are never drawn.
        size: expected number of rows. As many as there are positive scores or more: all of them, with weight 1.

    Raises:
        ValueError: scores or size are out of range.

    Source: Woodruff & Yasuda (2023), Sharper bounds for l_p sensitivity sampling, definition 1.2 (sampling matrix).

    >>> sample = sample_rows(jax.random.key(0), np.array([1.0, 0.0, 1.0]), 5)
    >>> sample.rows, sample.weights
    (array([0, 2]), array([1., 1.]))
    """
    probabilities = sampling_probabilities(scores, size)
    with jax.enable_x64(True):
        uniforms = np.asarray(jax.random.uniform(key, probabilities.shape, dtype=np.float64))
    rows = np.flatnonzero(uniforms < probabilities)
    return RowSample(rows, 1 / probabilities[rows], probabilities)


def sample_size(
    p: float, d: int, epsilon: float, scheme: Scheme, *, total: float | None = None, c: float = 1.0
) -> float:
    """Rows that suffice for a distortion epsilon, as a rate: logarithms are dropped and the constant is yours.

    Args:
        p: exponent, at least 1.
        d: columns, or the rank.
        epsilon: distortion, in (0, 1).
        scheme: "sensitivity", "mixed", "lewis" or "root-leverage" (p < 2, applied recursively).
        total: total sensitivity, for "sensitivity" and "mixed"; its largest value d^max(1, p/2) if left out.
        c: the constant.

    Raises:
        ValueError: an argument is out of range, or no rate is known for the scheme.

    Sources: Woodruff & Yasuda (2023), Sharper bounds for l_p sensitivity sampling, theorems 1.3 to 1.5; its second
    version says that for p < 2 the result of Chen & Derezinski (2021), d^(1 - p/2) S / epsilon^2, is the better one: it
    is the one here. Munteanu & Omlor (2024) for "mixed" with p <= 2; Cohen & Peng (2015) for "lewis".
    """
    p = exponent(p)
    require_count("d", d, 1)
    require_fraction("epsilon", epsilon)
    if not 0 < c < math.inf:
        raise ValueError(f"c must be positive and finite, got {c!r}")
    S = float(d) ** max(1.0, p / 2) if total is None else float(total)
    if not 0 < S < math.inf:
        raise ValueError(f"total must be positive and finite, got {total!r}")
    if scheme == "sensitivity":
        rows = d ** (1 - p / 2) * S if p < 2 else S ** (2 - 2 / p)
    elif scheme == "mixed":
        rows = S + d if p <= 2 else d ** (2 / p) * S ** (2 - 4 / p)
    elif scheme == "lewis":
        rows = float(d) ** max(1.0, p / 2)
    elif scheme == "root-leverage" and p < 2:
        rows = float(d)
    else:
        raise ValueError(f"no rate is known here for scheme {scheme!r} with p = {p:g}")
    return c * rows / epsilon**2


def total_sensitivity(
    key: Array, A: Float[np.ndarray, "n d"], p: float, n_rows: int, *, tolerance: float = 1e-3
) -> TotalSensitivity:
    """Estimate the sum of all sensitivities from those of some rows, drawn in proportion to Lewis weights.

    Args:
        key: random key.
        A: finite matrix, shape (n, d).
        p: exponent, at least 1.
        n_rows: rows to draw, with replacement; at least 2.
        tolerance: of their brackets.

    Raises:
        ValueError: an argument is out of range.

    Source: Padmanabhan, Woodruff & Zhang (2023), Computing approximate l_p sensitivities.
    """
    require_count("n_rows", n_rows, 2)
    weights = lewis_weights(A, p).weights
    rank = weights.sum()
    with jax.enable_x64(True):
        uniforms = np.asarray(jax.random.uniform(key, (n_rows,), dtype=np.float64))
    edges = np.cumsum(weights)
    drawn = np.searchsorted(edges, uniforms * edges[-1], side="right")
    found, back = np.unique(np.minimum(drawn, len(weights) - 1), return_inverse=True)
    brackets = sensitivity_brackets(A, p, rows=found, tolerance=tolerance)
    lower, upper = (rank * s[back] / weights[found][back] for s in (brackets.lower, brackets.upper))
    return TotalSensitivity(
        float(lower.mean()), float(upper.mean()), float(upper.std(ddof=1) / math.sqrt(n_rows)), int(n_rows)
    )


def embedding_distortion(
    A: Float[np.ndarray, "n d"],
    sample: RowSample,
    p: float,
    *,
    n_starts: int = 64,
    n_steps: int = 100,
    seed: int = 0,
) -> Distortion:
    """The largest relative error of |S A x|_p^p, where S takes a sample: exact for p = 2, else a lower estimate.

    Otherwise by gradient ascent, up and down, from random directions and from those of the rows with most leverage,
    whether they are in the sample or not. The truth may be larger.

    Args:
        A: finite matrix, shape (n, d).
        sample: of its rows.
        p: exponent, at least 1.
        n_starts: directions to start from.
        n_steps: steps of ascent.
        seed: of the random ones.

    Raises:
        ValueError: an argument is out of range, or the sample is of another matrix.
    """
    A = require_finite_matrix("A", A).astype(np.float64, copy=False)
    p = exponent(p)
    if sample.probabilities.shape != (len(A),):
        raise ValueError(f"sample is of {len(sample.probabilities)} rows; A has {len(A)}")
    white = whiten(A)
    basis, counts = white.basis, np.zeros(len(A))
    counts[sample.rows] = sample.weights

    def original(z: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(A, basis @ z, rcond=None)[0]

    if p == 2:
        values, vectors = scipy.linalg.eigh((basis * counts[:, None]).T @ basis)
        worst = int(np.argmax(np.abs(values - 1)))
        return Distortion(float(abs(values[worst] - 1)), original(vectors[:, worst]), True)
    rng = np.random.default_rng(seed)
    heavy = np.argsort(-(basis**2).sum(axis=1))[: n_starts // 2]
    starts = np.concatenate([basis[heavy], rng.normal(size=(n_starts - len(heavy), basis.shape[1]))])
    # a direction that hardly any sampled row sees
    thin = scipy.linalg.eigh((basis * counts[:, None]).T @ basis)[1][:, :2].T
    starts = np.concatenate([starts, thin])
    starts = starts[np.linalg.norm(starts, axis=1) > 0]
    found = [_ascend(basis, counts, p, starts, sign, n_steps) for sign in (1.0, -1.0)]
    value, z = max(found, key=lambda one: one[0])
    return Distortion(value, original(z), False)


def _ascend(
    basis: np.ndarray, counts: np.ndarray, p: float, starts: np.ndarray, sign: float, n_steps: int
) -> tuple[float, Any]:
    """The largest sign (ratio - 1) over all starts, and where. Steps shrink where they do not help."""
    z = starts / np.linalg.norm(starts, axis=1, keepdims=True)
    step = np.full(len(z), 0.5)

    def evaluate(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        products = z @ basis.T
        powers = np.abs(products) ** p
        full, part = powers.sum(axis=1), powers @ counts
        slopes = p * np.sign(products) * np.abs(products) ** (p - 1)
        ratio = part / full
        gradient = ((slopes * counts) @ basis - ratio[:, None] * (slopes @ basis)) / full[:, None]
        return sign * (ratio - 1), sign * gradient

    value, gradient = evaluate(z)
    for _ in range(n_steps):
        size = np.linalg.norm(gradient, axis=1, keepdims=True)
        new = z + step[:, None] * gradient / np.where(size > 0, size, 1.0)
        new /= np.linalg.norm(new, axis=1, keepdims=True)
        new_value, new_gradient = evaluate(new)
        better = new_value > value
        z[better], value[better], gradient[better] = new[better], new_value[better], new_gradient[better]
        step = np.where(better, step * 1.2, step * 0.5)
    best = int(np.argmax(value))
    return float(value[best]), z[best]
