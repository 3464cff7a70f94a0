"""Certified worst-case errors of a pose over all poses that the image regions of its keypoints allow.

Source: Yang & Pavone (2023), Object pose estimation with statistical guarantees: conformal keypoint detection and
geometric uncertainty propagation, CVPR, section 5, which relaxes the problem in the twelve entries of a pose. Here it
is posed in a quaternion around the centre (`pose_levels`), which keeps the guarantee and makes the programs small.
"""

import dataclasses
import time
from typing import Any, Literal

import numpy as np
from jaxtyping import ArrayLike, Float

from uqsparse.bounds.pose_ascent import Objective, objective_weights
from uqsparse.bounds.pose_box import PoseBox, PoseFrame, first_box
from uqsparse.bounds.pose_constraints import PoseConstraints
from uqsparse.bounds.pose_levels import LEVELS, Level, PoseLevel, pose_level
from uqsparse.solvers.conic import ConicProblem, ConicSolution, Status, solve_conic
from uqsparse.solvers.dual_polish import polished_duals, search_emptiness
from uqsparse.solvers.safe_bound import DualCertificate, EmptinessCertificate, dual_certificate

Pose = tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]
Samples = tuple[Float[ArrayLike, "m 3 3"], Float[ArrayLike, "m 3"]]

_PASSES = 3
# A correction beyond this share of a bound is worth half a second for a bound of the rotation, and so a smaller box.
_LOOSE = 1e-3


@dataclasses.dataclass(frozen=True)
class CertifiedBound:
    """A proved bound on the error of a pose over the whole pose set.

    Args:
        objective: "rotation", "translation" or the weight of the rotation in a mixture.
        level: the relaxation that gave it; "none" if the set may be unbounded and nothing can be proved.
        bound: no pose of the set has a larger `|R - Rbar|_F^2` (rotation), `|t - tbar|^2` (translation), or mixture of
            the two; -inf if the set is empty.
        size: the same as an angle in radians (pi if the bound is vacuous) or as a distance; for a mixture, the bound
            itself; 0 if the set is empty.
        solver_value: the solver's value of the same quantity, not a bound.
        correction: `bound - solver_value`; NaN if the solver gave no value.
        lower: error of `candidate` if that pose lies in the set, otherwise None.
        candidate: the pose read off the moments; the worst one if the relaxation is tight. None if the solver failed.
        status: how the solver stopped.
        seconds: CPU time of this thread.
        iterations: of the solver.
        empty: proof that the pose set is empty, if it was found to be.
        box: what is proved of all poses, in the frame in which the bound was computed.
    """

    objective: Objective
    level: Level | Literal["none"]
    bound: float
    size: float
    solver_value: float
    correction: float
    lower: float | None
    candidate: Pose | None = dataclasses.field(repr=False)
    status: Status
    seconds: float
    iterations: int
    empty: EmptinessCertificate | None
    box: PoseBox = dataclasses.field(repr=False)

    @property
    def gap(self) -> float | None:
        """`1 - lower / bound`, or None if there is no lower value."""
        if self.lower is None or not np.isfinite(self.bound):
            return None
        return 1 - self.lower / self.bound if self.bound > 0 else 0.0

    @property
    def angle_degrees(self) -> float | None:
        """The certified angle in degrees, for a rotation bound."""
        return float(np.degrees(self.size)) if self.objective == "rotation" else None


@dataclasses.dataclass(frozen=True)
class PoseProblem:
    """A pose set seen from a centre, with scales and a first box: what all bounds at this centre share.

    Make it with `pose_problem`.
    """

    constraints: PoseConstraints
    frame: PoseFrame
    box: PoseBox
    seconds: float


def pose_problem(
    constraints: PoseConstraints,
    R: Float[ArrayLike, "3 3"],
    t: Float[ArrayLike, " 3"],
    samples: Samples | None = None,
) -> PoseProblem:
    """Choose scales around a pose and bound the set coarsely.

    Args:
        constraints: the pose set.
        R: rotation of the centre, shape (3, 3); it need not be in the set.
        t: translation of the centre in the user's frame, shape (3,).
        samples: poses of the set, R (m, 3, 3) and t (m, 3), from which the scales are taken. They only affect the
            conditioning. Without them the scales come from the first box.

    Raises:
        ValueError: R is no rotation, or a shape is wrong, or a number is not finite.
    """
    start = time.thread_time()
    R, t = _checked_pose(R, t)
    offset = np.asarray(constraints.offset, dtype=np.float64)
    centre = t + R @ offset
    depth = float(np.linalg.norm(centre)) or float(np.linalg.norm(np.asarray(constraints.points), axis=1).max())
    scales = None if samples is None else _scales_of(R, centre, offset, samples)
    if scales is not None:
        frame = PoseFrame(R, centre, scales[0], scales[1], depth)
        return PoseProblem(constraints, frame, first_box(constraints, frame), time.thread_time() - start)
    # axes along and across the line of sight, as long as the box is wide
    axes = np.linalg.svd(np.outer(centre, centre) + 1e-9 * depth**2 * np.eye(3))[0] * depth
    frame = PoseFrame(R, centre, 1.0, axes, depth)
    box = first_box(constraints, frame)
    if box.bounded and box.empty is None:
        rho, halves = max(box.sine, 1e-4), np.clip(box.widths, 1e-6, None)
        frame = PoseFrame(R, centre, rho, axes * halves, depth)
        box = PoseBox(box.sine, box.widths / halves * (1 + 1e-14))
    return PoseProblem(constraints, frame, box, time.thread_time() - start)


def certified_bound(
    constraints: PoseConstraints | PoseProblem,
    R: Float[ArrayLike, "3 3"] | None = None,
    t: Float[ArrayLike, " 3"] | None = None,
    level: Level = "r2",
    objective: Objective = "rotation",
    *,
    samples: Samples | None = None,
    shape: Float[ArrayLike, "3 3"] | None = None,
    split: bool = False,
    tolerance: float = 1e-6,
    **options: Any,
) -> CertifiedBound:
    """Bound the error of a pose over every pose of the set, with a proof.

    Args:
        constraints: the pose set, or what `pose_problem` made of it.
        R: rotation whose error is bounded, shape (3, 3). With a `PoseProblem` its centre is used.
        t: translation, in the user's frame and unit of length, shape (3,).
        level: "order1" (loose), "q2" (fast), "q2p", "r2" (usually exact) or "o2" (the source's order two; slow).
        objective: "rotation", "translation", or a weight in [0, 1] for
            `weight |R - Rbar|_F^2 + (1 - weight) |t - tbar|^2`.
        samples: poses of the set that set the scales, R (m, 3, 3) and t (m, 3).
        shape: for a translation, bounds `|shape (t - tbar)|^2` instead.
        split: solve two programs, one for each side of the longest axis of translation, and keep the worse bound,
            which is tighter at twice the cost.
        tolerance: asked of the solver; the bound holds for any.
        **options: of `solve_conic`, such as `solver`, `max_iterations` and `time_limit`.

    Raises:
        ValueError: the level or objective is unknown, R is no rotation, or a number is not finite.

    Source: Yang & Pavone (2023), section 5; certificate: Jansson, Chaykin & Keil (2008), Rigorous error bounds for the
    optimal value in semidefinite programming.
    """
    start = time.thread_time()
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    weights = objective_weights(objective)
    transform = np.eye(3) if shape is None else np.asarray(shape, dtype=np.float64)
    if transform.shape != (3, 3) or not np.isfinite(transform).all():
        raise ValueError(f"shape must be a finite matrix of shape (3, 3), got shape {transform.shape}")
    spent = 0.0
    if isinstance(constraints, PoseProblem):
        problem = constraints
    else:
        if R is None or t is None:
            raise ValueError("R and t must be given with a pose set")
        problem = pose_problem(constraints, R, t, samples)
    spent += time.thread_time() - start
    if problem.box.empty is not None:
        return _empty(objective, level, problem.box, problem.box.empty, spent, 0)
    if not problem.box.bounded:
        top = 8.0 if objective == "rotation" else np.inf
        size = np.pi if objective == "rotation" else np.inf
        nan = float("nan")
        return CertifiedBound(
            objective, "none", top, size, nan, nan, None, None, "unbounded", spent, 0, None, problem.box
        )
    structure = pose_level(level)
    moved = transform @ problem.frame.displacement(np.asarray(problem.constraints.offset, dtype=np.float64))
    target, unit = _target(structure, problem.frame, moved, weights)
    keypoints = problem.frame.keypoints(problem.constraints)
    start = time.thread_time()
    pieces = []
    for sign in (-1, 1) if split else (0,):
        conic = ConicProblem(target[1:], structure.cones(keypoints, problem.frame.rho, sign), float(target[0]))
        pieces.append((conic, solve_conic(conic, tolerance=tolerance, **options)))
    box, top, proofs = _evaluated(structure, problem, pieces, objective, unit, transform)
    solved = max(solution.value for _, solution in pieces) * unit
    if objective != "rotation" and top - solved > _LOOSE * top and not any(proofs):
        # moments that mix the two are bounded by the box of rotations, which no translation bound makes smaller
        turned = certified_bound(problem, level="q2", tolerance=tolerance, **options)
        if turned.empty is None:
            smaller = dataclasses.replace(problem, box=_meet(box, turned.box))
            box, again, proofs = _evaluated(structure, smaller, pieces, objective, unit, transform)
            top = min(top, again)
    spent += time.thread_time() - start
    iterations = sum(solution.iterations for _, solution in pieces)
    if all(proof is not None for proof in proofs):
        return _empty(objective, level, box, proofs[0], spent, iterations)
    live = [solution for (_, solution), proof in zip(pieces, proofs, strict=True) if proof is None]
    worst = max(live, key=lambda one: one.value if np.isfinite(one.value) else -np.inf)
    candidate, lower = _candidate(problem, structure, worst, weights, transform)
    value = worst.value * unit
    size = top
    if objective == "rotation":
        size = 2 * float(np.arcsin(np.sqrt(min(1.0, top / 8)))) if top < 8 else float(np.pi)
    elif objective == "translation":
        size = float(np.sqrt(top))
    return CertifiedBound(
        objective, level, top, size, value, top - value if np.isfinite(value) else float("nan"), lower, candidate,
        worst.status, spent, iterations, None, box,
    )  # fmt: skip


def cascade(
    constraints: PoseConstraints | PoseProblem,
    R: Float[ArrayLike, "3 3"] | None = None,
    t: Float[ArrayLike, " 3"] | None = None,
    objective: Objective = "rotation",
    *,
    lower: float | None = None,
    gap: float = 0.01,
    levels: tuple[Level, ...] = ("q2", "r2", "o2"),
    samples: Samples | None = None,
    **options: Any,
) -> CertifiedBound:
    """Go up the levels until the bound is within a gap of a value that some pose reaches.

    Args:
        constraints: as for `certified_bound`.
        R: as for `certified_bound`.
        t: as for `certified_bound`.
        objective: as for `certified_bound`.
        lower: an error that a pose of the set is known to have: `|R - Rbar|_F^2`, `|t - tbar|^2` or the mixture. The
            candidates of the levels add to it.
        gap: stop where the bound as `size` (angle, distance) is at most `1 + gap` times that of `lower`.
        levels: to go through, cheap ones first.
        samples: as for `certified_bound`.
        **options: as for `certified_bound`.

    Returns:
        The best bound found, with `lower` the best lower value, and the seconds and iterations of all levels.

    Raises:
        ValueError: as `certified_bound`.
    """
    start = time.thread_time()
    if not isinstance(constraints, PoseProblem):
        if R is None or t is None:
            raise ValueError("R and t must be given with a pose set")
        constraints = pose_problem(constraints, R, t, samples)
    best, iterations = None, 0
    for level in levels:
        found = certified_bound(constraints, level=level, objective=objective, **options)
        iterations += found.iterations
        lower = max((one for one in (lower, found.lower) if one is not None), default=None)
        if best is None or found.empty is not None or found.bound < best.bound:
            best = found
        if best.empty is not None or best.level == "none":
            break
        if lower is not None and best.size <= (1 + gap) * _size(objective, lower):
            break
        constraints = dataclasses.replace(constraints, box=_meet(constraints.box, best.box))
    if best is None:
        raise ValueError("levels must name at least one level")
    return dataclasses.replace(
        best, lower=lower if best.empty is None else None, seconds=time.thread_time() - start, iterations=iterations
    )


def _size(objective: Objective, value: float) -> float:
    if objective == "rotation":
        return 2 * float(np.arcsin(np.sqrt(min(1.0, max(value, 0.0) / 8))))
    return float(np.sqrt(max(value, 0.0))) if objective == "translation" else value


def _meet(one: PoseBox, other: PoseBox) -> PoseBox:
    return PoseBox(min(one.sine, other.sine), np.minimum(one.widths, other.widths), one.empty or other.empty)


def _target(structure: PoseLevel, frame: PoseFrame, moved: np.ndarray, weights: tuple[float, float]):
    """The objective on the moments in units that keep it near one, and the unit."""
    square = np.zeros((13, 13))
    for i in (1, 4, 6):
        square[0, i] += weights[0] * 8.0
    square += weights[1] * moved.T @ moved
    vector = structure.quadratic(square, frame.rho)
    unit = float(abs(vector).max()) or 1.0
    return vector / unit, unit


def _evaluated(
    structure: PoseLevel,
    problem: PoseProblem,
    pieces: list[tuple[ConicProblem, ConicSolution]],
    objective: Objective,
    unit: float,
    transform: np.ndarray,
) -> tuple[PoseBox, float, list[EmptinessCertificate | None]]:
    """The certified value; each pass shrinks the box by what the one before has proved, and evaluates again."""
    frame, box = problem.frame, problem.box
    largest = structure.largest_moments(box.sine, frame.rho, box.widths)
    proofs: list[EmptinessCertificate | None] = []
    certificates: list[list[DualCertificate]] = []
    for conic, solution in pieces:
        nothing = [np.zeros_like(dual) for dual in solution.duals]
        proof = None
        kept = [nothing]
        if solution.status not in ("solved", "inaccurate"):
            proof = search_emptiness(conic, solution.duals, largest)
        if proof is None and solution.status != "infeasible":
            kept.append(list(solution.duals))
            if (polished := polished_duals(conic, solution.duals, largest)) is not None:
                kept.append(list(polished))
        proofs.append(proof)
        certificates.append([dual_certificate(conic, duals) for duals in kept] if proof is None else [])
    inverse = np.linalg.norm(np.linalg.inv(frame.axes), axis=1) * (1 + 1e-12)
    arm = 2 * float(np.linalg.norm(np.asarray(problem.constraints.offset)))
    # |t - tbar| <= |transform (t - tbar)| / squeeze
    squeeze = float(np.linalg.svd(transform, compute_uv=False)[-1]) * (1 - 1e-12) - 1e-15 * float(abs(transform).max())
    top = np.inf
    for _ in range(_PASSES):
        values = [min(one.bound(largest) for one in several) for several in certificates if several]
        if not values:
            break
        top = min(top, max(0.0, max(values) * unit * (1 + 1e-12)))
        sine, widths = box.sine, box.widths
        if objective == "rotation":
            top = min(top, 8 * box.sine**2 * (1 + 1e-12), 8.0)
            sine = min(sine, float(np.sqrt(top / 8)) * (1 + 1e-12))
        elif objective == "translation" and squeeze > 0:
            widths = np.minimum(widths, inverse * (np.sqrt(top) / squeeze + arm * sine) * (1 + 1e-12))
        box = PoseBox(sine, widths)
        largest = structure.largest_moments(box.sine, frame.rho, box.widths)
    return box, float(top), proofs


def _empty(objective, level, box, proof, seconds, iterations) -> CertifiedBound:
    return CertifiedBound(
        objective, level, -np.inf, 0.0, -np.inf, float("nan"), None, None, "infeasible", seconds, iterations, proof, box
    )


def pose_of_moments(problem: PoseProblem, structure: PoseLevel, y: Float[np.ndarray, " m"]) -> Pose:
    """The pose to which moments point: top eigenvector of E[q q^T], and E[w]; t in the user's frame."""
    frame = problem.frame
    first = np.concatenate([[1.0], y])[structure.first] * structure.column_scales(frame.rho)[structure.first]
    square = np.zeros((4, 4))
    square[np.triu_indices(3)[0] + 1, np.triu_indices(3)[1] + 1] = first[1:7]
    square[0, 1:] = first[7:10]
    square = square + square.T - np.diag(np.diag(square))
    square[0, 0] = 1 - np.trace(square[1:, 1:])
    q = np.linalg.eigh(square)[1][:, -1]
    v = q[1:]
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    R = (np.eye(3) - 2 * (v @ v * np.eye(3) - np.outer(v, v)) + 2 * q[0] * cross) @ frame.rotation
    centred = frame.translation + frame.axes @ first[10:]
    return R, centred - R @ np.asarray(problem.constraints.offset)


def _candidate(
    problem: PoseProblem,
    structure: PoseLevel,
    solution: ConicSolution,
    weights: tuple[float, float],
    transform: np.ndarray,
) -> tuple[Pose | None, float | None]:
    if solution.status in ("failed", "infeasible", "unbounded") or not solution.y.any():
        return None, None
    R, t = pose_of_moments(problem, structure, solution.y)
    if not (np.isfinite(R).all() and np.isfinite(t).all()):
        return None, None
    if not bool(problem.constraints.contains(R, t)):
        return (R, t), None
    frame = problem.frame
    centre = frame.translation - frame.rotation @ np.asarray(problem.constraints.offset)
    turned, moved = R - frame.rotation, transform @ (t - centre)
    return (R, t), float(weights[0] * (turned**2).sum() + weights[1] * moved @ moved)


def _checked_pose(R: Any, t: Any) -> tuple[np.ndarray, np.ndarray]:
    R, t = np.asarray(R, dtype=np.float64), np.asarray(t, dtype=np.float64)
    if R.shape != (3, 3) or t.shape != (3,):
        raise ValueError(f"R and t must have shapes (3, 3) and (3,), got {R.shape} and {t.shape}")
    if not (np.isfinite(R).all() and np.isfinite(t).all()):
        raise ValueError("R and t must be finite")
    if abs(R @ R.T - np.eye(3)).max() > 1e-5 or np.linalg.det(R) < 0:
        raise ValueError("R must be a rotation, got a matrix that is not orthogonal or has a negative determinant")
    # the nearest rotation: the bounds are about an exact one
    left, _, right = np.linalg.svd(R)
    return left @ right, t


def _scales_of(R: np.ndarray, centre: np.ndarray, offset: np.ndarray, samples: Samples):
    """rho and S from samples, or None if there are too few to tell."""
    turns, moves = (np.asarray(one, dtype=np.float64) for one in samples)
    if turns.shape[1:] != (3, 3) or moves.shape != (len(turns), 3):
        raise ValueError(f"samples must have shapes (m, 3, 3) and (m, 3), got {turns.shape} and {moves.shape}")
    if not (np.isfinite(turns).all() and np.isfinite(moves).all()):
        raise ValueError("samples must be finite")
    if len(turns) < 8:
        return None
    sines = np.sqrt(((turns - R) ** 2).sum(axis=(1, 2)) / 8)
    moved = moves + turns @ offset - centre
    axes = np.linalg.svd(moved - moved.mean(axis=0), full_matrices=False)[2].T
    halves = abs(moved @ axes).max(axis=0)
    halves = np.maximum(halves, 1e-3 * max(float(halves.max()), 1e-6 * float(np.linalg.norm(centre))))
    return max(float(sines.max()), 1e-4), axes * halves
