"""Certified balls and ellipsoids around a pose set, centred where they are nearly smallest."""

import dataclasses
from typing import Any, Literal

import numpy as np
from jaxtyping import ArrayLike, Float

from uqsparse.bounds.pose_constraints import PoseConstraints
from uqsparse.bounds.pose_levels import TURNS, Level, pose_level
from uqsparse.bounds.pose_relaxation import CertifiedBound, PoseProblem, Samples, certified_bound, pose_problem
from uqsparse.solvers.conic import Status
from uqsparse.solvers.moments import ball_of_moments
from uqsparse.solvers.safe_bound import EmptinessCertificate


@dataclasses.dataclass(frozen=True)
class PoseBall:
    """A centre, and how far from it any pose of the set can be, proved.

    Args:
        kind: "rotation" or "translation".
        centre: a rotation (3, 3), or a translation (3,) in the user's frame.
        radius: angle in radians, or distance; 0 if the set is empty.
        bound: its value as `|R - centre|_F^2` or `|t - centre|^2`; -inf if the set is empty.
        solver_value: the solver's value of the bound, not a bound.
        correction: `bound - solver_value`.
        status: how the solver stopped.
        seconds: CPU time of this thread.
        empty: proof that the set is empty, if it was found to be.
    """

    kind: Literal["rotation", "translation"]
    centre: Float[np.ndarray, "..."]
    radius: float
    bound: float
    solver_value: float
    correction: float
    status: Status
    seconds: float
    empty: EmptinessCertificate | None


@dataclasses.dataclass(frozen=True)
class PoseEllipsoid:
    """An ellipsoid `(t - centre)^T shape (t - centre) <= 1` proved to hold all translations of the set.

    Args:
        centre: shape (3,), in the user's frame.
        shape: symmetric, shape (3, 3), per squared unit of length.
        certified: the bound that scaled it.
    """

    centre: Float[np.ndarray, " 3"]
    shape: Float[np.ndarray, "3 3"]
    certified: CertifiedBound

    @property
    def volume(self) -> float:
        """Its volume, in cubed units of length; inf if it is unbounded."""
        root = float(np.sqrt(max(0.0, np.linalg.det(self.shape))))
        return 4 / 3 * np.pi / root if root > 0 else np.inf


def enclosing_ball(
    constraints: PoseConstraints | PoseProblem,
    R: Float[ArrayLike, "3 3"] | None = None,
    t: Float[ArrayLike, " 3"] | None = None,
    kind: Literal["rotation", "translation"] = "translation",
    *,
    level: Level = "q2p",
    samples: Samples | None = None,
    tolerance: float = 1e-6,
    **options: Any,
) -> PoseBall:
    """A centre whose largest error over the pose set is nearly the least possible, with a proof of that error.

    Args:
        constraints: the pose set, or what `pose_problem` made of it.
        R: rotation of some pose in the middle of the set; needed with a pose set.
        t: its translation, in the user's frame.
        kind: whether rotations or translations are enclosed.
        level: relaxation, see `certified_bound`.
        samples: poses of the set that set the scales.
        tolerance: asked of the solver.
        **options: of `solve_conic`.

    Raises:
        ValueError: the kind is unknown, or as `certified_bound`.

    Source: Tang, Lasserre & Yang (2023), Uncertainty quantification of set-membership estimation in control and
    perception: revisiting the minimum enclosing ellipsoid.
    """
    if kind not in ("rotation", "translation"):
        raise ValueError(f"kind must be 'rotation' or 'translation', got {kind!r}")
    problem = constraints
    if not isinstance(problem, PoseProblem):
        if R is None or t is None:
            raise ValueError("R and t must be given with a pose set")
        problem = pose_problem(problem, R, t, samples)
    frame, box = problem.frame, problem.box
    offset = np.asarray(problem.constraints.offset, dtype=np.float64)
    middle = frame.translation - frame.rotation @ offset
    if box.empty is not None or not box.bounded:
        found = certified_bound(problem, level=level, objective=kind)
        centre = frame.rotation if kind == "rotation" else middle
        return _ball(kind, centre, found, found.seconds)
    structure = pose_level(level)
    if kind == "rotation":
        image = TURNS.copy()
        image[:, :, 0] -= np.eye(3)
        image = image.reshape(9, -1)
        unit = float(np.sqrt(8.0)) * frame.rho
    else:
        image = frame.displacement(offset)
        unit = float(np.linalg.norm(frame.axes, axis=0).max())
    image = image / unit
    found = ball_of_moments(
        structure.cones(frame.keypoints(problem.constraints), frame.rho),
        structure.quadratic(image.T @ image, frame.rho),
        structure.linear(image, frame.rho),
        structure.largest_moments(box.sine, frame.rho, box.widths),
        {"tolerance": tolerance, **options},
    )
    seconds = problem.seconds + found.solution.seconds
    if kind == "rotation":
        left, _, right = np.linalg.svd(np.eye(3) + unit * found.centre.reshape(3, 3))
        turn = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
        centre = turn @ frame.rotation
        # the ball was one of matrices: its centre is no rotation, so the angle around the nearest one is bounded anew
        bound = certified_bound(
            problem.constraints, centre, middle, level, "rotation", samples=samples, tolerance=tolerance, **options
        )
        return _ball(kind, centre, bound, seconds + bound.seconds)
    if found.empty is not None:
        nan = float("nan")
        return PoseBall(kind, middle, 0.0, -np.inf, -np.inf, nan, found.status, seconds, found.empty)
    # the centre's own rounding, well within this allowance, moves the radius by as much
    radius = found.radius * unit * (1 + 1e-12) + 1e-14 * float(np.linalg.norm(frame.translation))
    value = found.solver_value * unit**2
    bound = radius**2
    return PoseBall(
        kind, middle + unit * found.centre, radius, bound, value, bound - value, found.status, seconds, None
    )


def _ball(kind: Literal["rotation", "translation"], centre, found: CertifiedBound, seconds: float) -> PoseBall:
    return PoseBall(
        kind, centre, found.size, found.bound, found.solver_value, found.correction, found.status, seconds, found.empty
    )


def enclosing_ellipsoid(
    constraints: PoseConstraints,
    R: Float[ArrayLike, "3 3"],
    t: Float[ArrayLike, " 3"],
    samples: Samples,
    *,
    shape: Float[ArrayLike, "3 3"] | None = None,
    level: Level = "r2",
    **options: Any,
) -> PoseEllipsoid:
    """An ellipsoid that holds all translations of the pose set, of the shape of the least one around samples.

    Args:
        constraints: the pose set.
        R: rotation of some pose in the middle of the set, shape (3, 3).
        t: centre of the ellipsoid if `shape` is given, otherwise unused but for its units, shape (3,).
        samples: poses of the set, R (m, 3, 3) and t (m, 3), at least 8 whose translations do not lie in a plane.
        shape: symmetric and positive definite, to be used instead of the samples' shape.
        level: relaxation, see `certified_bound`.
        **options: as for `certified_bound`.

    Raises:
        ValueError: there are too few samples, they lie in a plane, or the shape is not positive definite.

    Source: shape: Todd & Yildirim (2007), On Khachiyan's algorithm for the computation of minimum-volume enclosing
    ellipsoids.
    """
    if shape is None:
        centre, matrix = minimum_volume_ellipsoid(np.asarray(samples[1], dtype=np.float64))
    else:
        centre, matrix = np.asarray(t, dtype=np.float64), np.asarray(shape, dtype=np.float64)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T):
            raise ValueError(f"shape must be a symmetric finite matrix of shape (3, 3), got shape {matrix.shape}")
    values, vectors = np.linalg.eigh(matrix)
    if values[0] <= 1e-14 * values[-1]:
        raise ValueError(f"shape must be positive definite, got eigenvalues {values.tolist()}")
    root = np.sqrt(values)[:, None] * vectors.T
    found = certified_bound(constraints, R, centre, level, "translation", samples=samples, shape=root, **options)
    scaled = root.T @ root / max(found.bound, 1e-300) if np.isfinite(found.bound) else np.zeros((3, 3))
    return PoseEllipsoid(centre, scaled * (1 - 1e-12), found)


def minimum_volume_ellipsoid(
    points: Float[ArrayLike, "m d"], tolerance: float = 1e-4, max_iterations: int = 10000
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Centre and shape of nearly the least ellipsoid `(x - c)^T Q (x - c) <= 1` around points.

    Args:
        points: shape (m, d), not in one hyperplane.
        tolerance: how far out a point may stay, relative.
        max_iterations: where to stop.

    Raises:
        ValueError: the points lie in a hyperplane, or one is not finite.

    Source: Todd & Yildirim (2007), On Khachiyan's algorithm for the computation of minimum-volume enclosing
    ellipsoids, algorithm 3.1 (without away steps).

    >>> centre, shape = minimum_volume_ellipsoid([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> bool(np.allclose(shape, np.eye(2), atol=1e-3))
    True
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(f"points must be finite and of shape (m, d), got shape {points.shape}")
    m, d = points.shape
    shift = points.mean(axis=0)
    spread = np.linalg.svd(points - shift, compute_uv=False)
    if m <= d or spread[-1] <= 1e-9 * spread[0]:
        raise ValueError(f"points must not lie in a hyperplane, got {m} points with spreads {spread.tolist()}")
    lifted = np.concatenate([(points - shift) / spread[0], np.ones((m, 1))], axis=1)
    weights = np.full(m, 1.0 / m)
    for _ in range(max_iterations):
        inverse = np.linalg.inv((lifted * weights[:, None]).T @ lifted)
        outness = np.einsum("ni,ij,nj->n", lifted, inverse, lifted)
        worst = int(outness.argmax())
        if outness[worst] <= (d + 1) * (1 + tolerance):
            break
        step = (outness[worst] - d - 1) / ((d + 1) * (outness[worst] - 1))
        weights *= 1 - step
        weights[worst] += step
    local = lifted[:, :d]
    centre = weights @ local
    covariance = (local * weights[:, None]).T @ local - np.outer(centre, centre)
    shape = np.linalg.inv(covariance) / d
    shape /= max(1.0, float(np.einsum("ni,ij,nj->n", local - centre, shape, local - centre).max()))
    return shift + spread[0] * centre, shape / spread[0] ** 2
