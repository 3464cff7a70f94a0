"""Weights that go quiet during training: what share of them is negligible, and whether that came at once."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, PyTree

from uqsparse.pruning.masks import Prunable, is_unit, prunable_leaves

_ABRUPT = 5.0  # jumps this many times as large as the other changes are abrupt


class ChangePoint(NamedTuple):
    """Where a series changes its mean.

    Args:
        at: index of the first checkpoint after the change.
        jump: change from the checkpoint before to this one.
        noise: root mean square of the changes between all other neighbours.
        abrupt: whether the jump is more than five times as large as the noise.
    """

    at: int
    jump: float
    noise: float
    abrupt: bool


class QuietWeights(NamedTuple):
    """Shares of negligible weights over training.

    Args:
        absolute: share of the prunable weights below the threshold, shape (t,).
        relative: share below a fraction of their layer's standard deviation at the time, shape (t,).
        kurtosis: excess kurtosis of weights over their layer's standard deviation, 0 for Gaussian ones, shape (t,).
        absolute_change: change point of the first.
        relative_change: change point of the second.
    """

    absolute: Float[np.ndarray, " t"]
    relative: Float[np.ndarray, " t"]
    kurtosis: Float[np.ndarray, " t"]
    absolute_change: ChangePoint
    relative_change: ChangePoint


def quiet_weight_trace(
    checkpoints: Iterable[PyTree],
    *,
    threshold: float = 1e-3,
    fraction: float = 0.1,
    prunable: Prunable | None = None,
) -> QuietWeights:
    """How many weights are negligible at each checkpoint.

    The absolute share depends on weight decay and on the scale of the layers; the relative one does not.

    Args:
        checkpoints: parameters at four or more times, in order; read one after the other.
        threshold: weights below it count as negligible, positive.
        fraction: of a layer's standard deviation, positive.
        prunable: see `full_mask`.

    Raises:
        ValueError: there are fewer than four checkpoints, a threshold is not positive, weights are not finite, or all
            weights of a layer are equal; the path is named.

    Source: Jaiswal, Liu, Chen & Wang (2023), The emergence of essential sparsity in large pre-trained models, section
    4, where the threshold is "near zero".
    """
    for name, value in (("threshold", threshold), ("fraction", fraction)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value!r}")
    rows = []
    for number, params in enumerate(checkpoints):
        quiet, small, fourth, n = 0, 0, 0.0, 0
        for path, leaf in prunable_leaves(params, prunable):
            w = np.asarray(leaf.score_array if is_unit(leaf) else leaf, np.float64)
            deviation = w.std()
            if not 0 < deviation < np.inf:
                raise ValueError(f"weights of {path!r} must be finite and differ, at checkpoint {number}")
            quiet += int((abs(w) < threshold).sum())
            small += int((abs(w) < fraction * deviation).sum())
            fourth += float((((w - w.mean()) / deviation) ** 4).sum())
            n += w.size
        rows.append((quiet / n, small / n, fourth / n - 3))
    if len(rows) < 4:
        raise ValueError(f"checkpoints must be four or more, got {len(rows)}")
    absolute, relative, kurtosis = np.array(rows).T
    return QuietWeights(absolute, relative, kurtosis, change_point(absolute), change_point(relative))


def change_point(series: Float[np.ndarray, " t"]) -> ChangePoint:
    """Split a series in two parts with a mean each, by least squares.

    Whether the change is abrupt compares its jump with the changes between all other neighbours, by their root mean
    square. Their standard deviation would not do: along a straight line it is zero.

    Args:
        series: four values or more, finite.

    >>> found = change_point(np.array([0.0, 0.1, 0.0, 0.9, 1.0, 0.9]))
    >>> found.at, found.abrupt
    (3, True)
    """
    series = np.asarray(series, float)
    if series.ndim != 1 or len(series) < 4 or not np.isfinite(series).all():
        raise ValueError(f"series must be four finite numbers or more, got {series}")
    cuts = np.arange(1, len(series))
    total = np.cumsum(series - series.mean())[:-1]
    # What the split takes off the sum of squares; total is minus the sum of the second part.
    gain = total**2 * (1 / cuts + 1 / (len(series) - cuts))
    at = int(cuts[gain.argmax()])
    changes = np.diff(series)
    noise = float(np.sqrt(np.mean(np.delete(changes, at - 1) ** 2)))
    jump = float(changes[at - 1])
    return ChangePoint(at, jump, noise, bool(abs(jump) > _ABRUPT * noise * (1 + 1e-9)))
