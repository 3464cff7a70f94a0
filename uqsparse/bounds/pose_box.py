"""First bounds on a pose set, cheap and proved: where the object can be before any relaxation is solved."""

import dataclasses

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from uqsparse.bounds.pose_constraints import PoseConstraints
from uqsparse.bounds.pose_levels import SUPPORT, TURNS
from uqsparse.solvers.conic import Cone, ConicProblem, solve_conic
from uqsparse.solvers.safe_bound import DualCertificate, EmptinessCertificate, dual_certificate, prove_empty

_N_DIRECTIONS = 32


@dataclasses.dataclass(frozen=True)
class PoseFrame:
    """A centre and scales: R = dR(rho z) Rbar and t' = tbar' + S w, for the centred keypoints.

    Args:
        rotation: Rbar, shape (3, 3).
        translation: tbar' = tbar + Rbar offset, shape (3,).
        rho: scale of the vector part of the quaternion.
        axes: S, shape (3, 3), columns orthogonal.
        depth: unit of length by which the cones are divided.
    """

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, " 3"]
    rho: float
    axes: Float[np.ndarray, "3 3"]
    depth: float

    def keypoints(self, constraints: PoseConstraints) -> Float[np.ndarray, "K 3 13"]:
        """p, v1 and v2 of each keypoint on the monomials of SUPPORT, in units of `depth`."""
        turned = np.asarray(constraints.points) @ self.rotation.T
        positions = np.einsum("abs,kb->kas", TURNS, turned)
        positions[:, :, 0] += self.translation
        positions[:, :, -3:] += self.axes
        positions /= self.depth
        depths = positions[:, 2]
        offsets = positions[:, :2] - np.asarray(constraints.centres)[:, :, None] * depths[:, None]
        return np.concatenate([depths[:, None], np.asarray(constraints.factors) @ offsets], axis=1)

    def displacement(self, offset: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 13"]:
        """t - tbar in the user's frame, on SUPPORT: S w - (R - Rbar) offset."""
        turned = TURNS.copy()
        turned[:, :, 0] -= np.eye(3)
        moved = -np.einsum("abs,b->as", turned, self.rotation @ offset)
        moved[:, -3:] += self.axes
        return moved


@dataclasses.dataclass(frozen=True)
class PoseBox:
    """What is proved of every pose of the set, relative to a frame.

    Args:
        sine: bound on |v| = sin(angle / 2), at most 1.
        widths: bounds on |w_j|, shape (3,).
        empty: proof that the set is empty.
        bounded: False if the set may reach to infinity, in which case the widths are infinite.
    """

    sine: float
    widths: Float[np.ndarray, " 3"]
    empty: EmptinessCertificate | None = None

    @property
    def bounded(self) -> bool:
        return bool(np.isfinite(self.widths).all())


def farthest_translation(constraints: PoseConstraints) -> float:
    """A bound on |t'| over the pose set, from pairs of keypoints whose regions do not touch; inf if there is none.

    Let u be a direction of the image and h_k the half-width of region k along it. Keypoint k is seen at depth p_k
    with u x_k = (u mu_k + e_k) p_k, |e_k| <= h_k. Two keypoints at distance l, with depths p_i and p_i + D, satisfy

        (u (mu_i - mu_j) - h_i - h_j) p_i <= u (x_i - x_j) + (|u mu_j| + h_j) |D| <= l sqrt(1 + (|u mu_j| + h_j)^2),

    which bounds p_i, and by the distances all other depths.
    """
    points, centres = np.asarray(constraints.points), np.asarray(constraints.centres)
    inverses = np.linalg.inv(np.asarray(constraints.factors))
    angles = np.arange(_N_DIRECTIONS) * (2 * np.pi / _N_DIRECTIONS)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # |u| is 1 up to rounding: the inequality holds for any u if the right side carries its length
    along = centres @ directions.T
    halves = np.linalg.norm(np.einsum("kab,ub->kua", inverses.swapaxes(1, 2), directions), axis=2) * (1 + 1e-12)
    apart = along[:, None] - along[None] - halves[:, None] - halves[None] - 1e-12
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    tops = distances[..., None] * np.sqrt(1 + (abs(along) + halves)[None] ** 2) * (1 + 1e-12)
    depths = np.where(apart > 0, tops / np.where(apart > 0, apart, 1.0), np.inf).min(axis=(1, 2))
    depths = (depths[None] + distances).min(axis=1)
    widest = np.linalg.norm(inverses, 2, axis=(1, 2))
    # |(R Y + t')| <= p sqrt(1 + (|mu| + r)^2) for every keypoint
    rays = depths * np.sqrt(1 + (np.linalg.norm(centres, axis=1) + widest) ** 2) + np.linalg.norm(points, axis=1)
    return float(rays.min()) * (1 + 1e-12)


def first_box(constraints: PoseConstraints, frame: PoseFrame, farthest: float | None = None) -> PoseBox:
    """Bounds on a pose set from the convex hull of the rotations, by seven small semidefinite programs.

    The pose's entries are linear in E[q q^T], which is positive semidefinite with trace 1, and in E[w]; the keypoints'
    cones are linear in the entries.

    Args:
        constraints: the pose set.
        frame: centre and scales to which the bounds refer.
        farthest: `farthest_translation(constraints)`, if known.

    Source: Sanyal, Sottile & Sturmfels (2011), Orbitopes, section 4.4 (the hull of the rotations).
    """
    farthest = farthest_translation(constraints) if farthest is None else farthest
    if not np.isfinite(farthest):
        return PoseBox(1.0, np.full(3, np.inf))
    lengths = np.linalg.norm(np.linalg.inv(frame.axes), axis=1)
    coarse = lengths * (farthest + np.linalg.norm(frame.translation)) * (1 + 1e-12)
    # Unknowns as in SUPPORT: v v^T, q0 v, w; each of the first nine is at most 1 in absolute value.
    scale = np.concatenate([np.ones(10), np.maximum(coarse, 1e-300)])
    largest = np.concatenate([np.full(9, 1.0), coarse]) / scale[1:]
    maps = [one * scale for one in frame.keypoints(constraints)]
    cones = (*(Cone("second_order", sp.csr_array(one / abs(one[0]).max())) for one in maps), _unit_quaternion())
    objectives = np.zeros((7, 12))
    objectives[0, [SUPPORT.index(m) - 1 for m in SUPPORT if max(m[1:4]) == 2]] = 1.0
    objectives[1:4, 9:], objectives[4:, 9:] = np.eye(3), -np.eye(3)
    found = np.empty(7)
    trivial = np.concatenate([[1.0], np.ones(6)])
    for row, objective in enumerate(objectives):
        problem = ConicProblem(objective, cones)
        solution = solve_conic(problem, tolerance=1e-9)
        if solution.status == "infeasible":
            empty = prove_empty(problem, solution.duals, largest)
            if empty is not None:
                return PoseBox(1.0, coarse, empty)
            found[row] = trivial[row]
            continue
        certificate: DualCertificate = dual_certificate(problem, solution.duals)
        found[row] = min(certificate.bound(largest), trivial[row])
    sine = float(np.sqrt(np.clip(found[0], 0.0, 1.0))) * (1 + 1e-12)
    widths = np.maximum(np.maximum(found[1:4], found[4:]), 0.0) * coarse * (1 + 1e-12)
    return PoseBox(min(sine, 1.0), widths)


def _unit_quaternion() -> Cone:
    """E[q q^T] >= 0 with trace 1, on SUPPORT."""
    at = {monomial: i for i, monomial in enumerate(SUPPORT)}
    maps = np.zeros((10, len(SUPPORT)))
    row = 0
    for b in range(4):
        for a in range(b + 1):
            if a == b == 0:
                maps[row, 0] = 1.0
                for monomial, column in at.items():
                    maps[row, column] -= max(monomial[1:4]) == 2
            else:
                monomial = tuple((i == a) + (i == b) for i in range(7))
                maps[row, at[monomial]] = 1.0
            row += 1
    return Cone("semidefinite", sp.csr_array(maps))
