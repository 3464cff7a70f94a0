"""The search for a model that moves many persons: the level set, its tangents, and the best model so far.

Works in the coordinates z of w = w_0 + R z, in which the level set {L <= c} is nearly the unit ball.
"""

import math
import time
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from uqsparse.bounds.multiplicity.constrained_minimum import constrained_minimum
from uqsparse.bounds.multiplicity.count_ascent import climb_counts
from uqsparse.bounds.multiplicity.direction_search import search_directions

# Tangents at models that are known from the start.
_N_FIRST_CUTS = 100
# Models from which the smoothed count is climbed, and how many of the best ends are looked at.
_N_CLIMBS = 200
_N_VISITS = 20
# A set of persons is out of reach if its least loss exceeds the level by this share of the level's height.
_BEYOND = 1e-8


class Conflict(NamedTuple):
    """Persons whom no model of the set moves together.

    Args:
        rising: those moved upwards, shape (k,).
        falling: those moved downwards, shape (l,).
    """

    rising: Int[np.ndarray, " k"]
    falling: Int[np.ndarray, " l"]


def ball_coordinates(minimum: Any, level: float) -> Float[np.ndarray, "d d"]:
    """The map R such that w = w_0 + R z turns the level set's quadratic approximation into the unit ball."""
    lower = scipy.linalg.cholesky(np.asarray(minimum.hessian, dtype=np.float64), lower=True)
    inverse = scipy.linalg.solve_triangular(lower, np.eye(len(lower)), lower=True)
    return math.sqrt(2 * (level - minimum.value)) * inverse.T


def moved_counts(
    models: Float[np.ndarray, "m d"],
    directions: Float[np.ndarray, "n d"],
    above: Float[np.ndarray, " n"],
    below: Float[np.ndarray, " n"],
    counts: Int[np.ndarray, " n"],
) -> Int[np.ndarray, " m"]:
    """How many persons each model moves."""
    scores = models @ directions.T
    return ((scores >= above) | (scores <= below)) @ counts


class MovedSearch:
    """What is known: tangents of the set, conflicts between persons, and the model that moves the most.

    Args:
        loss: a `RegularisedLoss`, or anything with `value(w)`, `gradient(w)` and `hessian(w)` that is convex.
        level: level of the set.
        minimum: minimiser of the loss.
        directions: rows x_i, shape (n, d).
        above: score at which each is moved upwards, shape (n,).
        below: score at which each is moved downwards, shape (n,).
        counts: persons of each row, shape (n,).
    """

    def __init__(self, loss, level, minimum, directions, above, below, counts):
        self.loss, self.level = loss, level
        self.centre, self.room = np.asarray(minimum.w, dtype=np.float64), level - minimum.value
        self.basis = ball_coordinates(minimum, level)
        self.directions, self.above, self.below, self.counts = directions, above, below, counts
        self.rows, self.offsets = directions @ self.basis, directions @ self.centre
        # tangents row z <= side, in units of the level's height
        self.cuts: list[np.ndarray] = []
        self.sides: list[float] = []
        self.conflicts: list[Conflict] = []
        self.model, self.lower = self.centre, 0
        self.starts = np.eye(len(self.centre))

    def try_models(self, models: np.ndarray) -> None:
        """Take the best model of the set, and tangents where the models touch its boundary."""
        moved = moved_counts(models, self.directions, self.above, self.below, self.counts)
        order = np.argsort(-moved, kind="stable")
        self.starts = np.linalg.solve(self.basis, (models[order[:_N_CLIMBS]] - self.centre).T).T
        best = next((i for i in order if self.loss.value(models[i]) <= self.level), None)
        if best is not None and moved[best] > self.lower:
            self.lower, self.model = int(moved[best]), models[best]
        # those that move the most, and some of all, in the order given
        half = _N_FIRST_CUTS // 2
        chosen = dict.fromkeys([*order[:half], *range(0, len(models), max(1, len(models) // half))])
        for i in list(chosen)[:_N_FIRST_CUTS]:
            self.cut(models[i])
        # both ends of each axis, so that the tangents enclose the set
        for axis in self.basis.T:
            self.touch(self.centre + axis)
            self.touch(self.centre - axis)

    def climb(self, can_rise: np.ndarray, can_fall: np.ndarray) -> None:
        """Look for better models by ascent on a smoothed count."""
        starts = self.starts[np.linalg.norm(self.starts, axis=1) > 0]
        if not len(starts):
            return
        rise, fall = self._distances(can_rise, can_fall)
        models = self.centre + climb_counts(self.rows, rise, fall, self.counts, starts) @ self.basis.T
        moved = moved_counts(models, self.directions, self.above, self.below, self.counts)
        for i in np.argsort(-moved, kind="stable")[:_N_VISITS]:
            self.touch(models[i])

    def search_directions(self, can_rise: np.ndarray, can_fall: np.ndarray, upper: int, seconds: float) -> int:
        """Search over directions; the upper bound it proves."""
        rise, fall = self._distances(can_rise, can_fall)
        found = search_directions(
            self.loss,
            self.level,
            self.centre,
            self.basis,
            self.rows,
            rise,
            fall,
            self.counts,
            self.lower,
            upper,
            seconds,
        )
        if found.model is not None:
            self.try_model(found.model)
        return found.upper

    def refine(self, rising: np.ndarray, falling: np.ndarray, end: float) -> bool:
        """Decide whether one model moves all of these persons; if none does, drop persons until one does.

        Each set that is out of reach leaves a conflict and a tangent, and the last one is moved by a model.

        Returns:
            Whether anything was learnt: whether rounding decided nothing.
        """
        persons = np.concatenate([rising, falling])
        signs = np.concatenate([np.ones(len(rising)), -np.ones(len(falling))])
        has_learnt = False
        while len(persons) and time.monotonic() < end:
            rows = signs[:, None] * self.rows[persons]
            goals = np.where(signs > 0, self.above[persons], self.below[persons])
            sides = signs * (goals - self.offsets[persons])
            found = constrained_minimum(
                self._height, self._height_gradient, self._height_hessian, rows, sides, np.zeros(len(self.centre))
            )
            if found is None:
                return has_learnt
            w = self.centre + self.basis @ found.z
            if found.value <= 1:
                # farther out on the same ray more persons are moved, and these with room to spare
                before = self.lower
                self.touch(w)
                return has_learnt or self.lower > before
            if found.lower <= 1 + _BEYOND:
                return has_learnt
            has_learnt = True
            active = found.active
            self.conflicts.append(Conflict(persons[active[signs[active] > 0]], persons[active[signs[active] < 0]]))
            if np.isfinite(found.value):
                self.cut(w)
            # the fewest persons, and among equals those hardest to reach
            weights = self.counts[persons[active]] - 0.5 * found.multipliers / found.multipliers.max(initial=1e-300)
            keep = np.arange(len(persons)) != active[np.argmin(weights)]
            persons, signs = persons[keep], signs[keep]
        return has_learnt

    def cut(self, w: np.ndarray) -> None:
        """Add the tangent at w."""
        gradient = np.asarray(self.loss.gradient(w), dtype=np.float64)
        row = gradient @ self.basis / self.room
        side = (self.level - self.loss.value(w) + gradient @ (w - self.centre)) / self.room
        if np.isfinite(row).all() and np.isfinite(side):
            self.cuts.append(row)
            self.sides.append(float(side))

    def touch(self, w: np.ndarray) -> None:
        """Count what the model moves where the ray through w leaves the set, and add the tangent there."""
        ray = w - self.centre
        inside, outside = 0.0, 1.0
        while self.loss.value(self.centre + outside * ray) <= self.level and outside < 1e6:
            inside, outside = outside, 2 * outside
        for _ in range(50):
            middle = (inside + outside) / 2
            if self.loss.value(self.centre + middle * ray) <= self.level:
                inside = middle
            else:
                outside = middle
        edge = self.centre + inside * ray
        self.try_model(edge)
        self.cut(edge)

    def try_model(self, w: np.ndarray) -> None:
        """Keep a model of the set if it moves more persons than any before."""
        moved = int(moved_counts(w[None], self.directions, self.above, self.below, self.counts)[0])
        if moved > self.lower and self.loss.value(w) <= self.level:
            self.lower, self.model = moved, w

    def _distances(self, can_rise: np.ndarray, can_fall: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far each score has to rise, and to fall."""
        rise = np.where(can_rise, self.above - self.offsets, np.inf)
        return rise, np.where(can_fall, self.offsets - self.below, np.inf)

    # the loss above its minimum, as a share of the level's height: the set is where it is at most 1

    def _height(self, z: np.ndarray) -> float:
        return 1 + (self.loss.value(self.centre + self.basis @ z) - self.level) / self.room

    def _height_gradient(self, z: np.ndarray) -> np.ndarray:
        return np.asarray(self.loss.gradient(self.centre + self.basis @ z)) @ self.basis / self.room

    def _height_hessian(self, z: np.ndarray) -> np.ndarray:
        return self.basis.T @ np.asarray(self.loss.hessian(self.centre + self.basis @ z)) @ self.basis / self.room
