"""Coverage where it is worst: on the slab of inputs that hides most misses."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from uqsparse.bounds.coverage import Coverage, coverage_of, covered_by
from uqsparse.bounds.regions import Region
from uqsparse.bounds.scores.score import as_array, require_same_length
from uqsparse.kernels.arguments import require_count, require_fraction
from uqsparse.kernels.namespaces import AnyArray


class SlabCoverage(NamedTuple):
    """Coverage on the slab of inputs where it was worst.

    Args:
        coverage: on observations that did not choose the slab.
        selected: on the observations that chose it, which is too low by the choice.
        direction: unit vector v in inputs divided by `scale`, shape (p,).
        scale: standard deviation of each input, shape (p,).
        low: the slab is {x: low <= v . (x / scale) <= high}.
        high: see `low`.
    """

    coverage: Coverage
    selected: float
    direction: Float[np.ndarray, " p"]
    scale: Float[np.ndarray, " p"]
    low: float
    high: float


def worst_slab_coverage(
    key: Array,
    region: Region,
    y: Num[AnyArray, "n ..."],
    X: Num[AnyArray, "n p"],
    *,
    least_mass: float = 0.1,
    n_directions: int = 1000,
    band: float = 0.95,
) -> SlabCoverage:
    """Coverage on the slab of inputs where it is worst: how far marginal coverage hides a failure somewhere.

    A slab holds the observations whose projection on a direction lies in an interval. On one random half of the
    observations the slab of least coverage is found, exactly for each of many random directions; on the other half its
    coverage is measured.

    Args:
        key: random key, for halves and directions.
        region: sets at one level.
        y: observed values.
        X: inputs, shape (n, p). Directions are uniform once each input is divided by its standard deviation.
        least_mass: the least share of observations that a slab holds, in (0, 1).
        n_directions: the number of directions.
        band: confidence of the interval of the coverage.

    Raises:
        ValueError: shapes do not fit, X is not finite, or a half has fewer than 2 observations.

    Source: Cauchois, Gupta & Duchi (2021), Knowing what you know: valid and validated confidence sets in multiclass and
    multilabel prediction, section 4.1.
    """
    covered, X = covered_by(region, y), np.asarray(as_array("X", X), dtype=float)
    require_same_length("X", X, len(covered), "y")
    require_fraction("least_mass", least_mass)
    require_count("n_directions", n_directions, 1)
    if X.ndim != 2 or not np.isfinite(X).all():
        raise ValueError(f"X has shape {X.shape} and must be finite; expected ({len(covered)}, p)")
    n = len(covered)
    if n < 4:
        raise ValueError(f"there are {n} observations; expected at least 4")
    scale = X.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    for_halves, for_directions = jax.random.split(key)
    order = np.asarray(jax.random.permutation(for_halves, n))
    chosen, held_out = order[: n // 2], order[n // 2 :]
    normals = np.asarray(jax.random.normal(for_directions, (n_directions, X.shape[1])), dtype=float)
    directions = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    projected = directions @ (X / scale).T
    least = max(1, int(np.ceil(least_mass * len(chosen) - 1e-9)))
    found = [worst_interval(row[chosen], covered[chosen], least) for row in projected]
    best = min(range(n_directions), key=lambda i: found[i][0])
    selected, low, high = found[best]
    inside = held_out[(low <= projected[best][held_out]) & (projected[best][held_out] <= high)]
    if not len(inside):
        raise ValueError("no held-out observation lies in the worst slab: there are too few observations")
    return SlabCoverage(coverage_of(covered[inside], band), selected, directions[best], scale, low, high)


def worst_interval(
    position: Float[np.ndarray, " n"], covered: Bool[np.ndarray, " n"], least: int
) -> tuple[float, float, float]:
    """The closed interval that holds at least so many points and covers the least share of them.

    Args:
        position: shape (n,), in any order; points at one place are in or out together.
        covered: shape (n,).
        least: the least number of points, 1 to n.

    Returns:
        The share covered, and the ends of an interval that attains it.

    Source: the fractional programme is solved exactly by the iteration of Dinkelbach (1967), On nonlinear fractional
    programming: for a guess of the share, the best interval is a difference of prefix sums.

    >>> worst_interval(np.arange(6.0), np.array([True, False, True, False, False, True]), least=2)
    (0.0, 3.0, 4.0)
    """
    order = np.argsort(position, kind="stable")
    places = position[order]
    n = len(places)
    hits = np.concatenate([[0], np.cumsum(covered[order])])
    # An interval may begin or end only between different places.
    cut = np.concatenate([[True], places[1:] != places[:-1], [True]])
    share, first, last = hits[-1] / n, 0, n
    while True:
        excess = hits - share * np.arange(n + 1)
        starts = np.where(cut, excess, -np.inf)[: n + 1 - least]
        running = np.maximum.accumulate(starts)
        ends = np.where(cut, excess, np.inf)[least:]
        end = int(np.argmin(ends - running))
        start = int(np.argmax(starts[: end + 1]))
        end += least
        better = (hits[end] - hits[start]) / (end - start)
        if better >= share:
            return float(share), float(places[first]), float(places[last - 1])
        share, first, last = better, start, end
