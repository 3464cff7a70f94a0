"""Discrepancy with few coefficients: branch and bound over the directions in which a model leaves the best one.

A person is moved by the model w_0 + s v if s reaches a threshold that depends on v alone. So along every ray from the
best model the farthest model in the level set moves the most persons, and only directions have to be searched: cells of
the faces of a cube around w_0.

A tangent of the level set cuts a cell's cone to a pyramid, and a person's largest score over the pyramid is at one of
its corners. Persons whose score reaches the threshold at no corner are not moved by any model of the cell; the others
are counted, which bounds the cell. The tangent is taken where the cell's middle ray leaves the set, which also gives a
model.
"""

import itertools
import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from uqsparse.kernels.glm_losses import glm_terms

# With more coefficients the cells are too many, and integer programs do no worse.
MOST_COEFFICIENTS = 8
# Cells that are bounded at once, and at most kept.
_BATCH = 512
_MOST_CELLS = 2_000_000
# Cells this narrow are left undecided: their persons differ by rounding.
_NARROWEST = 1e-9
# Scores closer than this to a threshold count as reaching it, in the bound.
_SLACK = 1e-10


class DirectionSearch(NamedTuple):
    """What a search over directions found.

    Args:
        upper: no model moves more.
        model: coefficients of a model whose persons were counted, shape (d,), or None.
        moved: how many persons it moves.
        n_cells: cells that were bounded.
    """

    upper: int
    model: Float[np.ndarray, " d"] | None
    moved: int
    n_cells: int


def can_search(loss: Any) -> bool:
    """Whether the search applies: few coefficients and one linear predictor a row."""
    kind = getattr(loss, "kind", "ordinal")
    return kind != "ordinal" and 2 <= loss.X.shape[1] <= MOST_COEFFICIENTS


def search_directions(
    loss: Any,
    level: float,
    centre: Float[np.ndarray, " d"],
    basis: Float[np.ndarray, "d d"],
    rows: Float[np.ndarray, "n d"],
    rise: Float[np.ndarray, " n"],
    fall: Float[np.ndarray, " n"],
    counts: Int[np.ndarray, " n"],
    lower: int,
    upper: int,
    time_limit: float,
) -> DirectionSearch:
    """The most persons with rows z >= rise or rows z <= -fall over all z with L(centre + basis z) <= level.

    Args:
        loss: a `RegularisedLoss` with one linear predictor a row.
        level: level of the set.
        centre: the minimiser.
        basis: the map from z to coefficients.
        rows: the persons in the coordinates z, shape (n, d).
        rise: how far each score has to rise, positive, +inf where it cannot, shape (n,).
        fall: how far it has to fall, positive, +inf where it cannot, shape (n,).
        counts: persons of each row, shape (n,).
        lower: a number that some model is known to move; cells that cannot beat it are dropped.
        upper: a bound that is known.
        time_limit: seconds.
    """
    d = rows.shape[1]
    end = time.monotonic() + time_limit
    reachable = np.isfinite(rise) | np.isfinite(fall)
    rows, rise, fall, counts = rows[reachable], rise[reachable], fall[reachable], counts[reachable]
    rays = _Rays(loss, level, centre, basis)
    corners = np.array(list(itertools.product((0.0, 1.0), repeat=d - 1)))
    # cells: low and high ends on a face of the cube, the face's axis and sign
    low = np.full((2 * d, d - 1), -1.0)
    high = np.full((2 * d, d - 1), 1.0)
    axis, sign = np.repeat(np.arange(d), 2), np.tile([-1.0, 1.0], d)
    bound = np.full(2 * d, upper)
    best, model, n_cells, stuck = lower, None, 0, 0
    while len(bound) and time.monotonic() < end and len(bound) < _MOST_CELLS:
        # the most promising cells; among equals the last made, which are the smallest
        order = np.argsort(bound, kind="stable")
        chosen, rest = order[-_BATCH:], order[:-_BATCH]
        low_c, high_c, axis_c, sign_c = low[chosen], high[chosen], axis[chosen], sign[chosen]
        vertices = _on_cube(low_c[:, None] + corners * (high_c - low_c)[:, None], axis_c, sign_c)
        middle = _on_cube((low_c + high_c)[:, None] / 2, axis_c, sign_c)[:, 0]
        length, normal, offset = rays.leave(middle)
        n_cells += len(chosen)

        inner = middle * (length * (1 - 1e-12))[:, None]
        scores = inner @ rows.T
        moved = ((scores >= rise) | (scores <= -fall)) @ counts
        for k in np.flatnonzero(moved > best):
            w = centre + basis @ inner[k]
            if moved[k] > best and loss.value(w) <= level:
                best, model = int(moved[k]), w

        slope = np.einsum("cd,cvd->cv", normal, vertices)
        is_cut = (slope > 0).all(1)
        pushed = vertices * (offset[:, None] / np.where(slope > 0, slope, 1.0))[:, :, None]
        at_corners = pushed @ rows.T
        reach = (at_corners.max(1) >= rise - _SLACK) | (at_corners.min(1) <= -fall + _SLACK)
        new = np.where(is_cut, np.minimum(reach @ counts, bound[chosen]), bound[chosen])

        is_narrow = (high_c - low_c).max(1) < _NARROWEST
        stuck = max([stuck, *new[is_narrow & (new > best)]])
        split = (new > best) & ~is_narrow
        halves = _halves(low_c[split], high_c[split])
        keep = rest[bound[rest] > best]
        low, high = np.concatenate([low[keep], halves[0]]), np.concatenate([high[keep], halves[1]])
        axis = np.concatenate([axis[keep], np.tile(axis_c[split], 2)])
        sign = np.concatenate([sign[keep], np.tile(sign_c[split], 2)])
        bound = np.concatenate([bound[keep], np.tile(new[split], 2)])
    upper = min(upper, max([best, stuck, *([int(bound.max())] if len(bound) else [])]))
    return DirectionSearch(int(upper), model, best, n_cells)


class _Rays:
    """Where rays from the minimum leave the level set."""

    def __init__(self, loss, level, centre, basis):
        self.kind, self.y, self.weights, self.l2 = loss.kind, loss.y, loss.weights, loss.l2
        self.level, self.centre, self.basis = level, centre, basis
        self.start = loss.X @ centre
        self.design = loss.X @ basis

    def leave(self, directions: Float[np.ndarray, "c d"]):
        """Length of each ray at, or a little beyond, the boundary; the tangent there, normal z <= offset."""
        # Newton on a convex increasing function: from the first step on, it comes from outside
        margins, steps = directions @ self.design.T, directions @ self.basis.T
        at = length = 1 / np.linalg.norm(directions, axis=1)
        value = slope = np.zeros(len(directions))
        gradient = np.zeros_like(directions)
        for _ in range(40):
            at = length
            value, gradient = self._value_and_gradient(at, margins, steps)
            slope = np.einsum("cd,cd->c", gradient, directions)
            with np.errstate(invalid="ignore", over="ignore"):
                change = (self.level - value) / np.maximum(slope, 1e-300)
            # a tangent may be flat near the centre, and a loss infinite far out
            length = np.where(np.isfinite(change), np.clip(at + change, at / 2, 2 * at), at / 2)
            if (abs(length - at) <= 1e-13 * at).all():
                break
        # the tangent at the last point that was looked at, which holds for all of the set wherever that point is
        return at, gradient, self.level - value + slope * at

    def _value_and_gradient(self, length, margins, steps):
        with np.errstate(over="ignore", invalid="ignore"):
            terms: Any = glm_terms(self.kind, self.y, self.start + length[:, None] * margins)
        w = self.centre + length[:, None] * steps
        value = terms.value @ self.weights + 0.5 * (w * w) @ self.l2
        gradient = (terms.slope * self.weights) @ self.design + (self.l2 * w) @ self.basis
        return value, gradient


def _on_cube(face: Float[np.ndarray, "c v e"], axis: np.ndarray, sign: np.ndarray) -> Float[np.ndarray, "c v d"]:
    """Points of the cube from their coordinates on its faces."""
    c, v, e = face.shape
    others = np.arange(e) + (np.arange(e) >= axis[:, None])
    full = np.empty((c, v, e + 1))
    np.put_along_axis(full, np.broadcast_to(others[:, None], (c, v, e)), face, axis=2)
    full[np.arange(c), :, axis] = sign[:, None]
    return full


def _halves(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells cut in two across their longest side."""
    side = (high - low).argmax(1)
    at = np.arange(len(low))
    middle = (low[at, side] + high[at, side]) / 2
    left_high, right_low = high.copy(), low.copy()
    left_high[at, side] = middle
    right_low[at, side] = middle
    return np.concatenate([low, right_low]), np.concatenate([left_high, high])
