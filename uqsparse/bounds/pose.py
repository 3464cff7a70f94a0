"""Pose uncertainty sets: all poses under which the keypoints of an object fall into their image regions."""

import dataclasses
from typing import Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.keypoint_regions import KeypointRegions
from uqsparse.bounds.pose_ascent import farthest_pose
from uqsparse.bounds.pose_constraints import PoseConstraints
from uqsparse.bounds.pose_levels import Level
from uqsparse.bounds.pose_regions import PoseBall, PoseEllipsoid, enclosing_ball, enclosing_ellipsoid
from uqsparse.bounds.pose_relaxation import CertifiedBound, Objective, cascade, certified_bound
from uqsparse.bounds.pose_sampling import AveragePose, PoseSamples, RansagResult, average_pose, ransag, sample_poses
from uqsparse.solvers.safe_bound import EmptinessCertificate


class PoseUncertaintySet(eqx.Module):
    """The poses (R, t) that put every keypoint into its region and in front of the camera.

    It holds the true pose exactly if the regions hold the true keypoints. So if they do with probability 1 - eps, as
    `KeypointConformal` guarantees, then no estimate is farther from the truth than `bound` says, with that probability.
    A pose takes a point Y of the object to the camera's frame as R Y + t.

    Args:
        constraints: one cone a keypoint.
        guarantee: with what probability the set holds the true pose; None for regions without a guarantee.

    Source: Yang & Pavone (2023), Object pose estimation with statistical guarantees: conformal keypoint detection and
    geometric uncertainty propagation, CVPR.

    >>> points = np.array([[0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1], [0.1, 0.1, 0]])
    >>> camera = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    >>> seen = (points + [0, 0, 1.0]) @ camera.T
    >>> poses = PoseUncertaintySet.of(seen[:, :2] / seen[:, 2:], points, camera, radii=4.0)
    >>> bool(poses.contains(np.eye(3), np.array([0, 0, 1.0])))
    True
    >>> poses.bound(np.eye(3), np.array([0, 0, 1.0]), level="q2").angle_degrees < 30
    True
    """

    constraints: PoseConstraints
    guarantee: Guarantee | None = eqx.field(static=True, default=None)

    @classmethod
    def of(
        cls,
        centres: Float[ArrayLike, "K 2"],
        points3d: Float[ArrayLike, "K 3"],
        intrinsics: Float[ArrayLike, "3 3"],
        *,
        information: Float[ArrayLike, "K 2 2"] | None = None,
        radii: Float[ArrayLike, " K"] | None = None,
        seen: Bool[ArrayLike, " K"] | None = None,
    ) -> "PoseUncertaintySet":
        """Build the set from regions in pixels; see `PoseConstraints.of` for arguments and errors."""
        return cls(PoseConstraints.of(centres, points3d, intrinsics, information=information, radii=radii, seen=seen))

    @classmethod
    def from_regions(
        cls,
        regions: KeypointRegions,
        points3d: Float[ArrayLike, "K 3"],
        intrinsics: Float[ArrayLike, "3 3"],
        index: int = 0,
    ) -> "PoseUncertaintySet":
        """Build the set of one image from calibrated keypoint regions, with their guarantee.

        Args:
            regions: in pixels of the image that the intrinsics are of (see `KeypointRegions.to_image`).
            points3d: the keypoints in the object's frame, shape (K, 3), in any one unit of length.
            intrinsics: the camera's matrix, shape (3, 3).
            index: which image.

        Raises:
            ValueError: a region is the whole plane, or as `PoseConstraints.of`.
        """
        information = np.asarray(regions.information[index])
        seen = np.asarray(regions.seen[index])
        if not np.any(information[seen]):
            raise ValueError(
                "regions are the whole plane (too few calibration images): no pose is excluded, and no error bounded"
            )
        constraints = PoseConstraints.of(
            np.asarray(regions.centre[index]), points3d, intrinsics, information=information, seen=seen
        )
        return cls(constraints, regions.guarantee)

    def contains(self, R: Float[ArrayLike, "*m 3 3"], t: Float[ArrayLike, "*m 3"]) -> Bool[Array, "*m"]:
        """Whether poses lie in the set; see `PoseConstraints.contains`."""
        return self.constraints.contains(R, t)

    def ransag(self, key: Array, n_trials: int = 5000) -> RansagResult:
        """Look for poses of the set from triples of keypoints; see `pose_sampling.ransag`."""
        return ransag(key, self.constraints, n_trials)

    def sample(self, key: Array, n: int = 1000, **options: Any) -> PoseSamples:
        """Draw poses uniformly by hit-and-run chains from the hits of `ransag`; see `pose_sampling.sample_poses`."""
        return sample_poses(key, self.constraints, n, **options)

    def average(self, samples: PoseSamples | RansagResult) -> AveragePose:
        """The mean pose of samples, and whether it lies in the set, which it need not."""
        return average_pose(self.constraints, samples.R, samples.t)

    def bound(
        self,
        R: Float[ArrayLike, "3 3"],
        t: Float[ArrayLike, " 3"],
        level: Level | Literal["cascade"] = "cascade",
        objective: Objective = "rotation",
        *,
        samples: PoseSamples | None = None,
        **options: Any,
    ) -> CertifiedBound:
        """A proved bound on the error of an estimate over every pose of the set.

        Args:
            R: rotation of the estimate, shape (3, 3); the estimate need not lie in the set.
            t: its translation, shape (3,).
            level: "q2" (fast), "r2" (usually exact), "o2" (the source's order two; slow), or "cascade", which goes up
                from "q2" and stops where a pose of the set shows that there is at most 1% to gain.
            objective: "rotation", "translation", or the weight of the rotation in a mixture.
            samples: poses of the set, from `sample`: they set the units of the program, and a climb from the farthest
                of them gives `lower`. Without them the bound holds as well, and the cascade may go higher than needed.
            **options: of `pose_relaxation.certified_bound` or `cascade`.

        Returns:
            The bound with its certificate; `lower` is an error that a pose of the set is known to have, and `gap` what
            lies between. An empty set comes back with the proof of it in `empty`.

        Raises:
            ValueError: an argument is out of range.
        """
        given = None if samples is None or not len(samples.R) else (samples.R, samples.t)
        lower = None
        if given is not None:
            found = farthest_pose(self.constraints, np.asarray(R), np.asarray(t), *given, objective=objective)
            lower = found.value
        if level == "cascade":
            return cascade(self.constraints, R, t, objective, lower=lower, samples=given, **options)
        bound = certified_bound(self.constraints, R, t, level, objective, samples=given, **options)
        known = [one for one in (lower, bound.lower) if one is not None and bound.empty is None]
        return dataclasses.replace(bound, lower=max(known, default=None))

    def enclosing_ball(
        self, samples: PoseSamples, kind: Literal["rotation", "translation"] = "translation", **options: Any
    ) -> PoseBall:
        """A centre whose largest error is nearly the least possible, and that error; see `pose_regions`.

        Raises:
            ValueError: there are no samples.
        """
        average = self.average(samples)
        given = (samples.R, samples.t)
        return enclosing_ball(self.constraints, average.R, average.t, kind, samples=given, **options)

    def enclosing_ellipsoid(self, samples: PoseSamples, **options: Any) -> PoseEllipsoid:
        """An ellipsoid proved to hold all translations of the set; see `pose_regions`.

        Raises:
            ValueError: there are too few samples, or they lie in a plane.
        """
        average = self.average(samples)
        return enclosing_ellipsoid(self.constraints, average.R, average.t, (samples.R, samples.t), **options)

    def emptiness(self, **options: Any) -> EmptinessCertificate | None:
        """A proof that no pose fits all regions, or None where none was found, which proves nothing."""
        depth = 10 * float(np.linalg.norm(np.asarray(self.constraints.points), axis=1).max())
        return certified_bound(self.constraints, np.eye(3), np.array([0.0, 0.0, depth]), "q2", **options).empty
