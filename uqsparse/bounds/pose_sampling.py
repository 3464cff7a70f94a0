"""Draws from a pose set: by perspective from three random points, and by hit-and-run chains from there on.

Everything runs in double precision, whatever JAX's default. Poses are in the user's frame.

Source: Yang & Pavone (2023), Object pose estimation with statistical guarantees: conformal keypoint detection and
geometric uncertainty propagation, CVPR, algorithm 1 (random sample averaging, RANSAG).
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from uqsparse.bounds.pose_ascent import find_pose
from uqsparse.bounds.pose_constraints import PoseConstraints
from uqsparse.inference.hit_and_run import HitAndRunResult, hit_and_run
from uqsparse.inference.precision import copy_arrays, retry_after_precision_clash
from uqsparse.inference.smc_settings import typed
from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.p3p import p3p
from uqsparse.kernels.rotations import nearest_rotation, rotation_exp, rotation_log

# Draws stay this far inside, relative to the depth, so that a membership test in other rounding agrees.
_MARGIN = 1e-12
# How many of the poses that RANSAG found outside the set are kept, as starts of a search for one inside.
_N_NEAR = 16
# First guess of the chains' steps: radians, and shares of the mean depth. Too large costs a few rejections.
_TURN, _SHIFT = 0.5, 0.2


class RansagResult(NamedTuple):
    """Poses in the set, from triples of keypoints.

    Args:
        R: rotations of the poses in the set, shape (m, 3, 3); m may be 0.
        t: their translations, shape (m, 3).
        n_trials: triples tried.
        n_poses: poses that the triples gave, in the set or not.
        near_R: rotations of the poses outside the set whose worst keypoint is nearest to its region, (n, 3, 3).
        near_t: their translations, shape (n, 3).
    """

    R: Float[np.ndarray, "m 3 3"]
    t: Float[np.ndarray, "m 3"]
    n_trials: int
    n_poses: int
    near_R: Float[np.ndarray, "n 3 3"]
    near_t: Float[np.ndarray, "n 3"]


class PoseSamples(NamedTuple):
    """Draws from a pose set.

    Args:
        R: rotations, shape (n, 3, 3); n is 0 if no pose of the set was found.
        t: translations, shape (n, 3). The draws of one chain follow one another.
        chains: what the chains say of themselves, in the centred frame; None if there was none.
        n_starts: number of different poses that the chains started from.
    """

    R: Float[np.ndarray, "n 3 3"]
    t: Float[np.ndarray, "n 3"]
    chains: HitAndRunResult | None
    n_starts: int


class AveragePose(NamedTuple):
    """The mean of poses, as a pose.

    Args:
        R: rotation, shape (3, 3).
        t: translation, shape (3,).
        is_inside: whether it is in the pose set. It may well not be: the set is not convex.
        slack: the least slack of any keypoint, as a length; negative outside.
    """

    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]
    is_inside: bool
    slack: float


def ransag(key: Array, constraints: PoseConstraints, n_trials: int = 5000) -> RansagResult:
    """Look for poses of the set: three keypoints, a random point in the region of each, the poses that fit those.

    Args:
        key: random key, typed or legacy.
        constraints: the pose set.
        n_trials: triples to try, at least 1. Of the poses found, a few in a thousand lie in the set with 8 keypoints.

    Returns:
        The poses in the set, in the order of the trials, and the best of the others. The poses do not follow the
        uniform law.

    Source: Yang & Pavone (2023), algorithm 1, lines 1-8.
    """
    require_count("n_trials", n_trials, 1)
    with jax.enable_x64(True):
        arrays, widths = _on_device(constraints), jnp.asarray(np.linalg.inv(constraints.factors))
        found = retry_after_precision_clash(lambda: _trials(typed(key), arrays, widths, n_trials))
        R, t, ratios, n_poses = found
        R, t, ratios = np.asarray(R), np.asarray(t), np.asarray(ratios)
    # the few that pass are looked at again where the user will
    hits = np.flatnonzero(ratios <= 1)
    hits = hits[_centred(constraints).contains(R[hits], t[hits])]
    order = np.argsort(ratios, kind="stable")
    near = order[(ratios[order] > 1) & np.isfinite(ratios[order])][:_N_NEAR]
    back = partial(_to_user, constraints)
    return RansagResult(*back(R[hits], t[hits]), n_trials, int(n_poses), *back(R[near], t[near]))


@eqx.filter_jit
def _trials(key, constraints: PoseConstraints, widths: Float[Array, "K 2 2"], n_trials: int):
    """All poses of all triples in the centred frame, the worst ratio |v| / p of each (inf: none), and their number."""
    uniforms = jax.random.uniform(key, (9, n_trials))
    triples = _triples(uniforms[:3], constraints.n_keypoints)
    radius, around = uniforms[3:6].T, 2 * jnp.pi * uniforms[6:].T
    inside = jnp.stack([radius * jnp.cos(around), radius * jnp.sin(around)], -1)
    seen = constraints.centres[triples] + (widths[triples] @ inside[..., None])[..., 0]
    rays = jnp.concatenate([seen, jnp.ones_like(seen[..., :1])], -1)
    found = jax.vmap(p3p)(rays, constraints.points[triples])
    R, t, valid = found.R.reshape(-1, 3, 3), found.t.reshape(-1, 3), found.valid.reshape(-1)
    ratios = jnp.where(valid, constraints.worst_ratio(R, t), jnp.inf)
    return R, t, ratios, jnp.sum(valid)


def _triples(uniforms: Float[Array, "3 n"], K: int) -> Int[Array, "n 3"]:
    """Three different numbers below K, all triples equally likely."""
    sizes = K - jnp.arange(3)
    first, second, third = jnp.minimum((uniforms * sizes[:, None]).astype(int), sizes[:, None] - 1)
    # numbers among those left, counted past the ones taken
    second = second + (second >= first)
    low, high = jnp.minimum(first, second), jnp.maximum(first, second)
    third = third + (third >= low)
    return jnp.stack([first, second, third + (third >= high)], 1)


def sample_poses(
    key: Array,
    constraints: PoseConstraints,
    n: int = 1000,
    *,
    starts: RansagResult | None = None,
    n_chains: int = 128,
    n_warmup: int = 200,
    thinning: int = 10,
    n_trials: int = 5000,
) -> PoseSamples:
    """Draw poses of the set by hit-and-run chains, whose law is uniform on the part of the set they can reach.

    If the set has several parts, how often each is visited follows from how many chains RANSAG starts in it, not from
    its volume. If RANSAG finds nothing, a local search from its best poses looks for a start.

    Args:
        key: random key, typed or legacy.
        constraints: the pose set.
        n: number of draws, at least 1.
        starts: poses to start from, from `ransag`; looked for if left out.
        n_chains: number of chains, at least 1.
        n_warmup: steps of each chain that are dropped, in which the directions adapt, at least 0.
        thinning: steps from one draw of a chain to the next, at least 1.
        n_trials: triples to try in the search for starts.

    Returns:
        The draws; none if no pose of the set was found, which does not prove it empty.

    Raises:
        ValueError: if an argument is out of range.

    Source: Smith (1984); Neal (2003); left-invariant directions as in the module `hit_and_run`.
    """
    require_count("n", n, 1)
    require_count("n_chains", n_chains, 1)
    key_starts, key_choice, key_chains = jax.random.split(typed(key), 3)
    if starts is None:
        starts = ransag(key_starts, constraints, n_trials)
    R, t = starts.R, starts.t
    if not len(R):
        found = find_pose(constraints, starts.near_R, starts.near_t)
        if found is None:
            return PoseSamples(np.empty((0, 3, 3)), np.empty((0, 3)), None, 0)
        R, t = found[0][None], found[1][None]
    # every start once before any starts twice
    order = np.argsort(jax.random.uniform(key_choice, (len(R),)))
    chosen = np.resize(order, n_chains)
    R, t = _to_centred(constraints, R[chosen], t[chosen])
    scale = np.append(np.full(3, _TURN), np.full(3, _SHIFT * t[:, 2].mean()))
    with jax.enable_x64(True):
        chains = hit_and_run(
            key_chains,
            _Inside(_on_device(constraints)),
            (R, t),
            n_samples=-(-n // n_chains),
            n_warmup=n_warmup,
            thinning=thinning,
            retract=move_pose,
            difference=pose_difference,
            scale=scale,
        )
        chains = jax.tree.map(np.asarray, chains)
    R, t = (x.reshape(-1, *x.shape[2:])[:n] for x in chains.samples)
    return PoseSamples(*_to_user(constraints, R, t), chains, len(np.unique(chosen)))


def move_pose(pose: tuple[Array, Array], step: Float[Array, " 6"]) -> tuple[Array, Array]:
    """Turn a pose by the rotation vector `step[:3]`, radians, and shift it by `step[3:]`."""
    R, t = pose
    return rotation_exp(step[:3]) @ R, t + step[3:]


def pose_difference(pose: tuple[Array, Array], reference: tuple[Array, Array]) -> Float[Array, " 6"]:
    """The step that takes a reference pose to a pose."""
    return jnp.concatenate([rotation_log(pose[0] @ reference[0].T), pose[1] - reference[1]])


def average_pose(
    constraints: PoseConstraints, R: Float[np.ndarray, "m 3 3"], t: Float[np.ndarray, "m 3"]
) -> AveragePose:
    """The mean of poses: the rotation nearest to the mean matrix, and the mean place of the keypoints' centroid.

    Args:
        constraints: the pose set, for the flag.
        R: rotations, shape (m, 3, 3), m at least 1.
        t: translations, shape (m, 3).

    Raises:
        ValueError: if there is no pose.

    Source: Yang & Pavone (2023), algorithm 1, line 9; Hartley, Trumpf, Dai & Li (2013), Rotation averaging, section 5.3
    (chordal mean). Averaging the centroid makes the mean independent of the origin of the object's frame.
    """
    if not len(R):
        raise ValueError("R must hold at least one pose to average, got none")
    R, t = _to_centred(constraints, R, t)
    with jax.enable_x64(True):
        mean = np.asarray(nearest_rotation(jnp.asarray(R.mean(0))))
    mean, centre = _to_user(constraints, mean, t.mean(0))
    slack = float(constraints.slacks(mean, centre).min())
    return AveragePose(mean, centre, bool(constraints.contains(mean, centre)), slack)


class _Inside(eqx.Module):
    """Membership of a pose in the centred frame, with the margin."""

    constraints: PoseConstraints

    def __call__(self, pose: tuple[Array, Array]) -> Bool[Array, ""]:
        return self.constraints.worst_ratio(*pose) <= 1 - _MARGIN


def _centred(constraints: PoseConstraints) -> PoseConstraints:
    return eqx.tree_at(lambda c: c.offset, constraints, np.zeros(3))


def _on_device(constraints: PoseConstraints) -> PoseConstraints:
    """The constraints of centred poses, as JAX arrays."""
    return jax.tree.map(jnp.asarray, copy_arrays(_centred(constraints)))


def _to_centred(constraints, R, t):
    return R, t + R @ constraints.offset


def _to_user(constraints, R, t):
    return R, t - R @ constraints.offset
