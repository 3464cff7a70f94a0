"""Volumes of the level sets of a function on the unit cube that is constant on boxes.

Thresholds are found by looking at pairs of random points of one box. Where the function differs between them, one walks
from the first to the second a coordinate at a time, and bisects the step at which the function changes. When a round
over all boxes finds no more differences, the boxes are complete, up to thresholds that matter only in a small corner.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

Function = Callable[[Float[np.ndarray, "n k"]], Float[np.ndarray, "n m"]]

MIN_PAIRS = 1024
MAX_PAIRS = 65_536
MAX_THRESHOLDS = 2000
MAX_ROUNDS = 200
# Thresholds closer than this are one; bisection ends at the resolution of doubles.
SAME = 1e-12
BISECTIONS = 54


def level_sets(
    function: Function, k: int, points: Mapping[int, Sequence[float]], max_boxes: int, seed: int
) -> tuple[Float[np.ndarray, "r m"], Float[np.ndarray, " r"], int]:
    """Find the values of a function and the volume on which it takes each.

    Args:
        function: maps rows of k numbers in [0, 1) to rows of results.
        k: number of coordinates.
        points: coordinates that take only the given values, with equal weight.
        max_boxes: most boxes.
        seed: of the random points.

    Returns:
        The distinct results (r, m), their volumes (r,) and the number of boxes.

    Raises:
        ValueError: a coordinate has too many thresholds, or there are too many boxes.
    """
    rng = np.random.default_rng(seed)
    edges = [np.array([0.0, 1.0]) for _ in range(k)]
    free = [j for j in range(k) if j not in points]
    for _ in range(MAX_ROUNDS):
        n_boxes = _count(edges, points)
        if n_boxes > max_boxes:
            raise ValueError(
                f"more than max_outcomes = {max_boxes} combinations of outcomes of {k} random numbers: take fewer "
                "particles, steps or values"
            )
        # Every box once if they are few enough, else some of them first, and all when those show nothing more.
        some = np.arange(n_boxes) if n_boxes <= MAX_PAIRS else rng.integers(0, n_boxes, MAX_PAIRS)
        some = np.resize(some, max(MIN_PAIRS, len(some)))
        if _add_thresholds(function, edges, points, free, some, rng):
            continue
        if n_boxes <= MAX_PAIRS or not _add_thresholds(function, edges, points, free, np.arange(n_boxes), rng):
            break
    else:
        raise ValueError(f"new thresholds appeared in each of {MAX_ROUNDS} rounds: the result is not constant on boxes")
    places = _places(np.arange(_count(edges, points)), edges, points)
    middles = np.stack([_middles(j, edges, points)[places[:, j]] for j in range(k)], axis=1) if k else np.zeros((1, 0))
    volume = np.prod([_lengths(j, edges, points)[places[:, j]] for j in range(k)], axis=0) if k else np.ones(1)
    results, which = np.unique(function(middles), axis=0, return_inverse=True)
    return results, np.bincount(which.reshape(-1), weights=volume, minlength=len(results)), len(middles)


def _add_thresholds(function, edges, points, free, which, rng) -> bool:
    """Compare two random points in each of the boxes `which`; insert a threshold where they differ, in `edges`."""
    places = _places(which, edges, points)
    first, second = _inside(places, edges, points, rng), _inside(places, edges, points, rng)
    start, end = function(first), function(second)
    differ = (start != end).any(axis=1)
    if not differ.any():
        return False
    low, high, at = first[differ], second[differ], start[differ]
    axis = np.full(len(low), -1)
    here = low.copy()
    for j in free:  # walk to the second point, and stop in front of the step that changes the result
        there = here.copy()
        there[:, j] = high[:, j]
        going = axis < 0
        changed = going & (function(there) != at).any(axis=1)
        axis[changed] = j
        here = np.where((going & ~changed)[:, None], there, here)
    rows = np.arange(len(here))
    a, b = here[rows, axis], high[rows, axis]
    for _ in range(BISECTIONS):
        middle = 0.5 * (a + b)
        here[rows, axis] = middle
        same = (function(here) == at).all(axis=1)
        a, b = np.where(same, middle, a), np.where(same, b, middle)
    for j in free:
        found = 0.5 * (a + b)[axis == j]
        merged = np.sort(np.concatenate([edges[j], found]))
        edges[j] = merged[np.concatenate([[True], np.diff(merged) > SAME])]
        edges[j][-1] = 1.0
        if len(edges[j]) > MAX_THRESHOLDS:
            raise ValueError(
                f"the result varies continuously with random number {j} (more than {MAX_THRESHOLDS} thresholds): the "
                "kernel has to have finitely many results; `points` can fix the values of a symmetric draw"
            )
    return True


def _middles(j, edges, points) -> np.ndarray:
    return np.asarray(points[j], float) if j in points else 0.5 * (edges[j][1:] + edges[j][:-1])


def _lengths(j, edges, points) -> np.ndarray:
    return np.full(len(points[j]), 1 / len(points[j])) if j in points else np.diff(edges[j])


def _count(edges, points) -> int:
    return math.prod(len(_middles(j, edges, points)) for j in range(len(edges)))


def _places(which, edges, points) -> np.ndarray:
    """Index of the cell on each axis for boxes given by number, shape (n, k)."""
    if not edges:
        return np.zeros((len(which), 0), int)
    shape = [len(_middles(j, edges, points)) for j in range(len(edges))]
    return np.stack(np.unravel_index(which, shape), axis=1)


def _inside(places, edges, points, rng) -> np.ndarray:
    """A random point in each box."""
    columns = [
        _middles(j, edges, points)[places[:, j]]
        if j in points
        else edges[j][places[:, j]] + rng.random(len(places)) * np.diff(edges[j])[places[:, j]]
        for j in range(len(edges))
    ]
    return np.stack(columns, axis=1) if columns else np.zeros((len(places), 0))
