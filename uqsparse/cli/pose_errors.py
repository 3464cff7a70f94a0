"""How wrong the pose of an object in one image can be: draws from its pose set, their mean, and proved bounds."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from uqsparse.bounds.pose import PoseUncertaintySet
from uqsparse.bounds.pose_relaxation import CertifiedBound
from uqsparse.bounds.pose_sampling import AveragePose, PoseSamples


@dataclasses.dataclass(frozen=True)
class TruePose:
    """A true pose beside a pose set.

    Args:
        R: rotation, shape (3, 3).
        t: translation, shape (3,).
        is_inside: whether the set holds it.
        degrees: how far the average's rotation is from it; None without an average.
        distance: how far the average's translation is.
    """

    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]
    is_inside: bool
    degrees: float | None
    distance: float | None


@dataclasses.dataclass(frozen=True)
class PoseErrors:
    """What is known of the pose in one image.

    Args:
        poses: the pose set.
        samples: draws from it; none if no pose was found.
        average: their mean; None without draws.
        rotation: bound on the rotation error of the average; None without one.
        translation: the same of the translation.
        is_empty: True if the set is proved empty, False if a pose of it is known, None if neither.
        degrees: rotation distances of the draws from the average, shape (n,).
        distances: translation distances of the draws from the average, shape (n,).
        truth: the true pose, if it is known.
    """

    poses: PoseUncertaintySet
    samples: PoseSamples
    average: AveragePose | None
    rotation: CertifiedBound | None
    translation: CertifiedBound | None
    is_empty: bool | None
    degrees: Float[np.ndarray, " n"]
    distances: Float[np.ndarray, " n"]
    truth: TruePose | None


def pose_errors(
    key: Array, poses: PoseUncertaintySet, n: int, level: Any, truth: tuple[np.ndarray, np.ndarray] | None
) -> PoseErrors:
    """Draw from a pose set and bound the errors of the mean of the draws.

    Args:
        key: random key.
        poses: the set.
        n: number of draws.
        level: of the relaxation, or "cascade".
        truth: the true pose, if it is known.
    """
    samples = poses.sample(key, n)
    average = rotation = translation = is_empty = None
    degrees = distances = np.empty(0)
    if len(samples.R):
        is_empty = False
        average = poses.average(samples)
        rotation = poses.bound(average.R, average.t, level, "rotation", samples=samples)
        translation = poses.bound(average.R, average.t, level, "translation", samples=samples)
        degrees = angle_degrees(samples.R, average.R)
        distances = np.linalg.norm(samples.t - average.t, axis=-1)
    elif poses.emptiness() is not None:
        is_empty = True
    known = None
    if truth is not None:
        R, t = truth
        known = TruePose(
            R,
            t,
            bool(poses.contains(R, t)),
            None if average is None else float(angle_degrees(R, average.R)),
            None if average is None else float(np.linalg.norm(t - average.t)),
        )
    return PoseErrors(poses, samples, average, rotation, translation, is_empty, degrees, distances, known)


def angle_degrees(R: Float[np.ndarray, "*m 3 3"], centre: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "*m"]:
    """Angles between rotations and one rotation."""
    return np.degrees(2 * np.arcsin(np.minimum(1.0, np.linalg.norm(R - centre, axis=(-2, -1)) / np.sqrt(8))))


def lower_size(found: CertifiedBound) -> float | None:
    """An error that a pose of the set is known to have, in degrees or as a length."""
    if found.lower is None:
        return None
    if found.objective == "rotation":
        return float(np.degrees(2 * np.arcsin(np.sqrt(min(1.0, max(found.lower, 0.0) / 8)))))
    return float(np.sqrt(max(found.lower, 0.0)))


def upper_size(found: CertifiedBound) -> float:
    """The bound in degrees or as a length; inf for a translation without a bound."""
    return float(np.degrees(found.size)) if found.objective == "rotation" else float(found.size)


def errors_record(found: PoseErrors) -> dict[str, Any]:
    """What is known of one image, as plain data."""
    truth, average = found.truth, found.average
    return {
        "samples": len(found.samples.R),
        "empty": found.is_empty,
        "average": None if average is None else {"R": average.R, "t": average.t, "is_inside": average.is_inside},
        "rotation_degrees": _bound_record(found.rotation, found.degrees),
        "translation": _bound_record(found.translation, found.distances),
        "truth": None
        if truth is None
        else {
            "R": truth.R,
            "t": truth.t,
            "is_inside": truth.is_inside,
            "rotation_error_degrees": truth.degrees,
            "translation_error": truth.distance,
        },
        "guarantee": None if found.poses.guarantee is None else found.poses.guarantee.to_dict(),
    }


def _bound_record(found: CertifiedBound | None, sampled: np.ndarray) -> dict[str, Any] | None:
    if found is None:
        return None
    lower, upper = lower_size(found), upper_size(found)
    return {
        "bound": upper,
        "lower": lower,
        "gap": None if lower is None or not np.isfinite(upper) else 1 - lower / upper if upper > 0 else 0.0,
        "largest_sampled": float(sampled.max()),
        "level": found.level,
        "status": found.status,
        "seconds": found.seconds,
    }


def errors_sentence(found: PoseErrors, unit: str) -> str:
    """What is known of one image, in words."""
    if found.average is None or found.rotation is None or found.translation is None:
        known = (
            "no pose fits all regions (proved), so a keypoint has left its region"
            if found.is_empty
            else "no pose that fits all regions was found, and none is proved not to exist"
        )
        inside = "" if found.truth is None or not found.truth.is_inside else "; the true pose is in the set"
        return known + inside
    length = f" {unit}" if unit else ""
    parts = []
    for bound, name, mark in ((found.rotation, "rotation", "°"), (found.translation, "translation", length)):
        lower, upper = lower_size(bound), upper_size(bound)
        if not np.isfinite(upper):
            parts.append(f"{name} error without a bound")
            continue
        reached = "" if lower is None else f" (a pose of the set reaches {lower:.4g})"
        parts.append(f"{name} error at most {upper:.4g}{mark}{reached}")
    words = ", ".join(parts)
    if found.truth is not None:
        place = "in the set" if found.truth.is_inside else "OUTSIDE the set"
        words += f"; true error {found.truth.degrees:.3g}° and {found.truth.distance:.3g}{length}, true pose {place}"
    return words


def key_of(seed: int, group: int, image: int) -> Array:
    """The random key of an image of a group, whichever others are chosen."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), group), image)
