"""The largest values of linear functionals over a convex sublevel set, all at once and each with a proof.

    max x^T w  subject to  L(w) <= c,     L a regularised loss, one program for each row x of `directions`.

`uqsparse.solvers.sublevel_ascent` says how the maximum is found, `uqsparse.solvers.sublevel_certificate` how the bound
is proved and what it accounts for. The set is bounded, or `minimise` refuses.
"""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import ArrayLike, Bool, Float, Int

from uqsparse.kernels.arguments import require_count, require_fraction
from uqsparse.kernels.glm_losses import LossKind
from uqsparse.solvers.regularised_loss import Minimum, RegularisedLoss, minimise
from uqsparse.solvers.sublevel_ascent import ascend
from uqsparse.solvers.sublevel_certificate import CertifiedScores, certify, coordinate_bounds
from uqsparse.solvers.sublevel_set import sublevel_set

# A batch holds about this many predictors: larger ones leave the caches, smaller ones waste the matrix products.
_BATCH_SIZE = 2_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class SupportFunction:
    """Largest values of linear functionals over {w : L(w) <= level}, one for each direction x.

    Args:
        value: x^T points, attained, rounded down, shape (b,).
        upper: proved upper bounds, +inf without a certificate, shape (b,).
        points: points of the set that attain the values, shape (b, d).
        gap: `upper - value`, at least 0, shape (b,). The maximum lies between.
        has_certificate: whether `upper` is finite, shape (b,).
        converged: whether the gap is within the tolerance, shape (b,).
        n_iter: iterations, shape (b,).
    """

    value: Float[np.ndarray, " b"]
    upper: Float[np.ndarray, " b"]
    points: Float[np.ndarray, "b d"] = dataclasses.field(repr=False)
    gap: Float[np.ndarray, " b"] = dataclasses.field(repr=False)
    has_certificate: Bool[np.ndarray, " b"] = dataclasses.field(repr=False)
    converged: Bool[np.ndarray, " b"] = dataclasses.field(repr=False)
    n_iter: Int[np.ndarray, " b"] = dataclasses.field(repr=False)


def support_function(
    loss: RegularisedLoss,
    level: float,
    directions: Float[ArrayLike, "b d"],
    *,
    minimum: Minimum | None = None,
    tolerance: float = 1e-9,
    max_iter: int = 100,
) -> SupportFunction:
    """For each direction x, the largest x^T w over all w with L(w) <= level, with a feasible point and a proved bound.

    Smallest values are those of -x with the sign changed. Equal directions share work.

    Args:
        loss: the loss; its sublevel sets must be bounded.
        level: level of the set, above the minimum of the loss.
        directions: shape (b, d).
        minimum: `minimise(loss)`, if it is known.
        tolerance: gap at which a program counts as solved, as a share of the width `value - x^T w_0`, where w_0
            minimises the loss.
        max_iter: most iterations.

    Returns:
        Values, bounds and points in the order of `directions`. Memory stays bounded: directions are done in batches.

    Raises:
        ValueError: the sublevel sets are unbounded (separable or collinear data without a penalty); `level` is not
            above the minimum by more than rounding; a shape is wrong or a number is not finite.

    Warns:
        RuntimeWarning: some gaps are larger than asked for. They are still proved.

    Source: Watson-Daniels, Parkes & Ustun (2023), Predictive Multiplicity in Probabilistic Classification, definition
    2 (whose ranges these are for the logistic loss); the bound is Fenchel duality, Rockafellar (1970), Convex
    Analysis, section 31.

    >>> loss = RegularisedLoss([[1.0], [1.0]], [0.0, 2.0], [0.5, 0.5], [0.0], "squared")
    >>> found = support_function(loss, 2.5, [[1.0], [-1.0]])  # (w - 1)^2 <= 4
    >>> found.upper.round(6).tolist(), bool(found.gap.max() < 1e-8)
    ([3.0, 1.0], True)
    """
    directions = np.array(directions, dtype=np.float64)
    d = loss.X.shape[1]
    if directions.ndim != 2 or directions.shape[1] != d:
        raise ValueError(f"directions must have shape (b, {d}), got {directions.shape}")
    if not np.isfinite(directions).all():
        raise ValueError("directions must be finite, got NaN or infinity")
    if not np.isfinite(level):
        raise ValueError(f"level must be finite, got {level}")
    require_fraction("tolerance", tolerance)
    require_count("max_iter", max_iter, 1)
    if minimum is None:
        minimum = minimise(loss)
    if not minimum.converged:
        raise ValueError("the loss has no minimum that could be found, so that its sublevel sets are not known")
    if not level - minimum.value > 1e-12 * (1e-3 + abs(minimum.value)):
        raise ValueError(f"level must be above the minimum of the loss, {minimum.value:.10g}, got {level:.10g}")
    distinct, back = np.unique(directions, axis=0, return_inverse=True)
    with jax.enable_x64(True):
        program = _Program(loss, float(level), minimum, tolerance, max_iter)
        program.bound_free_coordinates(distinct)
        found = program.solve(distinct)
    found = SupportFunction(*(getattr(found, field.name)[back.ravel()] for field in dataclasses.fields(found)))
    if not found.converged.all():
        worst = found.gap.max()
        warnings.warn(
            f"{(~found.converged).sum()} of {len(found.gap)} directions did not reach the tolerance; largest gap "
            f"{worst:.2g}",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


class _Program:
    """The programs of one sublevel set: what they share, and the loop over batches."""

    def __init__(self, loss: RegularisedLoss, level: float, minimum: Minimum, tolerance: float, max_iter: int) -> None:
        self.kind: LossKind = loss.kind
        self.free = np.flatnonzero(loss.l2 == 0)
        self.center = minimum.w
        self.tolerance, self.max_iter = tolerance, max_iter
        self.room = level - minimum.value
        scale = 1 / np.sqrt(np.diag(minimum.hessian))
        self.factor = (scipy.linalg.cholesky(minimum.hessian * scale * scale[:, None], lower=True), True)
        self.scale = scale
        self.region = sublevel_set(loss, level, minimum.w, minimum.value)
        rows = max(16, _BATCH_SIZE // len(loss.design))
        self.most = 1 << min(9, rows.bit_length() - 1)

    def bound_free_coordinates(self, directions: np.ndarray) -> None:
        """Bounds on the coordinates without a penalty, where the certificates of these directions need them."""
        free = self.free
        if not free.size or (free.size == 1 and directions[:, free].all()):
            return
        units = np.zeros((2 * free.size, len(self.center)))
        units[np.arange(free.size), free] = 1.0
        units[free.size + np.arange(free.size), free] = -1.0
        # A guess for the ascent to stop by; the bounds that follow do not rest on it.
        guess = 4 * np.sqrt(2 * self.room * (units * self._inverse(units)).sum(axis=1))[: free.size]
        lower, upper = np.full((2, len(self.center)), [[-np.inf], [np.inf]])
        lower[free], upper[free] = self.center[free] - guess, self.center[free] + guess
        self.region = self.region._replace(lower=jnp.array(lower), upper=jnp.array(upper))
        scores, _ = self._solve_all(units)
        bounds = coordinate_bounds(scores, free, self.center)
        lower, upper = np.full((2, len(self.center)), [[-np.inf], [np.inf]]) if bounds is None else bounds
        self.region = self.region._replace(lower=jnp.array(lower), upper=jnp.array(upper))

    def solve(self, directions: np.ndarray) -> SupportFunction:
        moving = directions.any(axis=1)
        n = len(directions)
        value, upper, n_iter = np.zeros(n), np.zeros(n), np.zeros(n, dtype=np.int64)
        points = np.tile(self.center, (n, 1))
        converged = np.asarray(~moving)
        if moving.any():
            scores, iterations = self._solve_all(directions[moving])
            value[moving], upper[moving], points[moving] = scores.value, scores.upper, scores.points
            n_iter[moving] = iterations
            width = value - directions @ self.center
            converged = np.asarray(upper - value <= self.tolerance * np.maximum(width, 0.0))
        return SupportFunction(value, upper, points, upper - value, np.isfinite(upper), converged, n_iter)

    def _inverse(self, rows: np.ndarray) -> np.ndarray:
        return scipy.linalg.cho_solve(self.factor, (rows * self.scale).T).T * self.scale

    def _solve_all(self, directions: np.ndarray) -> tuple[CertifiedScores, np.ndarray]:
        """All directions, none of them zero, in batches; those of similar leverage together, as they take as long."""
        steps = self._inverse(directions)
        leverage = (directions * steps).sum(axis=1)
        starts = self.center + np.sqrt(2 * self.room / leverage)[:, None] * steps
        order = np.argsort(leverage)
        # Few sizes, as every one is compiled for.
        size = min(self.most, max(16, 1 << (len(directions) - 1).bit_length()))
        results = []
        for first in range(0, len(order), size):
            chosen = order[first : first + size]
            padded = np.concatenate([chosen, np.full(size - len(chosen), chosen[-1])])
            x, start = directions[padded], starts[padded]
            found = _ascend(self.kind, self.region, x, start, 0.25 * self.tolerance, self.max_iter)
            results.append((_certify(self.kind, self.region, x, found), found.n_iter))
        results = [jax.tree.map(np.asarray, one) for one in results]
        stacked = jax.tree.map(lambda *parts: np.concatenate(parts)[: len(order)], *results)
        back = np.argsort(order)
        return jax.tree.map(lambda one: one[back], stacked)


# Two programs: of one that does both, XLA 0.10 does not finish compiling the squared loss.
_ascend = jax.jit(ascend, static_argnums=0)
_certify = jax.jit(certify, static_argnums=0)
