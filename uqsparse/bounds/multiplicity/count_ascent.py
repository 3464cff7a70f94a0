"""Models that move many persons at once, by gradient ascent on a smoothed count; no proof, only good candidates."""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit

# How soft the thresholds are, and how long the steps, from first to last iteration; the set's radius is about 1.
_SOFTNESS = (0.2, 0.01)
_STEPS = (0.3, 0.01)


def climb_counts(
    rows: Float[np.ndarray, "n d"],
    rise: Float[np.ndarray, " n"],
    fall: Float[np.ndarray, " n"],
    counts: Int[np.ndarray, " n"],
    starts: Float[np.ndarray, "c d"],
    *,
    n_iter: int = 80,
) -> Float[np.ndarray, "c d"]:
    """Unit vectors z with many persons beyond their thresholds: rows z >= rise or rows z <= -fall.

    Args:
        rows: the persons in coordinates in which the set is nearly the unit ball, shape (n, d).
        rise: how far each score has to rise, positive, +inf where it cannot, shape (n,).
        fall: how far it has to fall, positive, +inf where it cannot, shape (n,).
        counts: persons of each row, shape (n,).
        starts: directions to start from, not 0, shape (c, d).
        n_iter: steps.

    Returns:
        One vector for each start, shape (c, d).
    """
    size = np.maximum(np.linalg.norm(rows, axis=1), 1e-300)
    rows, rise, fall = rows / size[:, None], rise / size, fall / size
    used = np.isfinite(rise) | np.isfinite(fall)
    rows, rise, fall, weights = rows[used], rise[used], fall[used], counts[used].astype(np.float64)
    z = starts / np.linalg.norm(starts, axis=1, keepdims=True)
    for softness, step in zip(np.geomspace(*_SOFTNESS, n_iter), np.geomspace(*_STEPS, n_iter), strict=True):
        scores = z @ rows.T
        up, down = expit((scores - rise) / softness), expit((-scores - fall) / softness)
        gradient = ((up * (1 - up) - down * (1 - down)) * weights) @ rows
        gradient -= (gradient * z).sum(1, keepdims=True) * z
        length = np.linalg.norm(gradient, axis=1, keepdims=True)
        z = z + step * gradient / np.maximum(length, 1e-300)
        z /= np.linalg.norm(z, axis=1, keepdims=True)
    return z
