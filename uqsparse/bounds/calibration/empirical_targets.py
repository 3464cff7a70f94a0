"""Empirical probabilities: what share of the rows with similar predictions have label 1."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num

from uqsparse.bounds.calibration.binary_outcomes import predictions_and_outcomes
from uqsparse.kernels.arguments import require_count

Targets = Literal["kernel", "bin"]


def empirical_targets(
    q: Float[ArrayLike, " n"],
    y: Num[ArrayLike, " n"],
    targets: Targets = "kernel",
    *,
    n_bins: int = 10,
    bandwidth: float = 0.1,
    window: int = 500,
) -> Float[np.ndarray, " n"]:
    """Estimate each row's probability of label 1 by the labels of rows with similar predictions.

    "bin": rows are sorted by prediction and cut into groups of equal size; a target is the mean label of its group. The
    targets depend on the ranks of the predictions only, and their mean is the mean label. "kernel": a target is the
    mean label of the rows up to `window` ranks away, weighted by a normal density in the difference of predictions;
    its own row always counts, so that no weight can vanish.

    Rows with equal predictions get equal targets, the mean of what an arbitrary order among them would give.

    Args:
        q: predicted probabilities of label 1, shape (n,).
        y: labels 0 and 1, both of them present, shape (n,).
        targets: "kernel" or "bin".
        n_bins: number of groups, from 1 to n; sizes differ by at most one.
        bandwidth: standard deviation of the normal density, positive.
        window: furthest difference of ranks, at least 1.

    Returns:
        Targets in [0, 1], in the order of the rows given, shape (n,).

    Raises:
        ValueError: a prediction is not in [0, 1], a label is neither 0 nor 1, only one label is there, there are fewer
            rows than bins, or a setting is out of range.

    Source: Liu, Kaku, Zhu, Leibovich, Mohan et al. (2022), Deep probability estimation, ICML, section 5, algorithm 1.

    >>> empirical_targets([0.1, 0.8, 0.2, 0.9], [0, 1, 1, 1], "bin", n_bins=2)
    array([0.5, 1. , 0.5, 1. ])
    """
    q, y = predictions_and_outcomes(q, y, both=True)
    require_target_settings(len(y), targets, n_bins, bandwidth, window)
    _, rank, count = np.unique(q, return_inverse=True, return_counts=True)

    def shared_by_ties(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return (np.bincount(rank, values) / count)[rank]

    labels = shared_by_ties(y) if len(count) < len(q) else y
    order = np.argsort(q, kind="stable")
    if targets == "bin":
        groups = np.array_split(labels[order], n_bins)
        in_order = np.repeat([group.mean() for group in groups], [len(group) for group in groups])
    else:
        with jax.enable_x64(True):
            in_order = np.asarray(_smoothed(q[order], labels[order], float(bandwidth), min(window, len(q) - 1)))
    found = np.empty_like(in_order)
    found[order] = in_order
    return shared_by_ties(found) if len(count) < len(q) else found


@jax.jit
def _smoothed(q: Float[Array, " n"], y: Float[Array, " n"], bandwidth: Any, window: Any) -> Float[Array, " n"]:
    """Weighted mean of y within a window of ranks, of sorted q: one pass for each difference of ranks, O(n) memory."""
    place = jnp.arange(len(q))

    def step(k, sums):
        weighted, weights = sums
        # The weight of rows i and i + k serves both.
        weight = jnp.where(place + k < len(q), jnp.exp(-0.5 * ((jnp.roll(q, -k) - q) / bandwidth) ** 2), 0.0)
        weighted = weighted + weight * jnp.roll(y, -k) + jnp.roll(weight * y, k)
        return weighted, weights + weight + jnp.roll(weight, k)

    weighted, weights = jax.lax.fori_loop(1, window + 1, step, (y, jnp.ones_like(y)))
    return weighted / weights


def require_target_settings(n: int, targets: Any, n_bins: Any, bandwidth: Any, window: Any) -> None:
    """Raise ValueError unless targets of n rows can be made with these settings."""
    if targets not in ("kernel", "bin"):
        raise ValueError(f"targets must be 'kernel' or 'bin', got {targets!r}")
    require_count("n_bins", n_bins, 1)
    require_count("window", window, 1)
    if targets == "bin" and n_bins > n:
        raise ValueError(f"n_bins must be at most the number of rows, {n}, got {n_bins}")
    if not 0 < bandwidth < np.inf:
        raise ValueError(f"bandwidth must be positive and finite, got {bandwidth!r}")
