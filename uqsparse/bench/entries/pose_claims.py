"""Pose uncertainty sets: exact membership, certified bounds that no pose exceeds, their tightness and their cost."""

import functools
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy.spatial.transform import Rotation

from uqsparse import bench
from uqsparse.bench.entries.keypoint_claims import SYSTEM, chosen, lmo_estimates, lmo_keypoints
from uqsparse.bench.plots import picture
from uqsparse.bounds import pose_relaxation
from uqsparse.bounds.keypoints import KeypointConformal
from uqsparse.bounds.pose import PoseUncertaintySet
from uqsparse.bounds.pose_ascent import farthest_pose, pose_objective
from uqsparse.bounds.pose_levels import pose_level
from uqsparse.data.pose_problems import PoseProblem, pose_problem
from uqsparse.solvers.moments import MomentSDP
from uqsparse.solvers.polynomials import variables

KINDS = ("rotation", "translation")
SEEDS, SEEDS_O2, N_RANDOM = range(10), range(2), 500


def _size(kind: str, squared: Any) -> Any:
    """Squared errors as angles in radians, or as distances."""
    return 2 * np.arcsin(np.sqrt(np.minimum(squared, 8) / 8)) if kind == "rotation" else np.sqrt(squared)


def _poses(problem: PoseProblem) -> PoseUncertaintySet:
    return PoseUncertaintySet.of(problem.centres, problem.points3d, problem.intrinsics, information=problem.information)


class _Sandwich(NamedTuple):
    """Bounds at the average pose: sizes and CPU seconds by level, what a pose of the set reaches, and poses beyond."""

    seed: int
    kind: str
    sizes: dict[str, float]
    seconds: dict[str, float]
    lower: float
    beyond: int


@functools.cache
def _sampled(seed: int) -> tuple[PoseUncertaintySet, Any, Any]:
    poses = _poses(pose_problem(seed))
    samples = poses.sample(jax.random.key(seed), 1280)
    return poses, samples, poses.average(samples)


@functools.cache
def _sandwich(seed: int, kind: Any, levels: tuple[Any, ...]) -> _Sandwich:
    poses, samples, estimate = _sampled(seed)
    given = samples.R, samples.t
    climbed = farthest_pose(poses.constraints, estimate.R, estimate.t, *given, objective=kind)
    bounds = {
        level: pose_relaxation.certified_bound(poses.constraints, estimate.R, estimate.t, level, kind, samples=given)
        for level in levels
    }
    lower = max([climbed.value, *(one.lower for one in bounds.values() if one.lower is not None)])
    reached = np.append(pose_objective(kind, estimate.R, estimate.t, *given), lower)
    beyond = sum(int((reached > one.bound).sum()) for one in bounds.values())
    sizes = {level: one.size for level, one in bounds.items()}
    return _Sandwich(seed, kind, sizes, {k: one.seconds for k, one in bounds.items()}, _size(kind, lower), beyond)


def _sandwiches() -> list[_Sandwich]:
    return [_sandwich(seed, kind, ("order1", "q2", "r2")) for seed in SEEDS for kind in KINDS]


def _ratios(level: str) -> dict[str, np.ndarray]:
    return {k: np.array([s.sizes[level] / s.lower for s in _sandwiches() if s.kind == k]) for k in KINDS}


def _listed(values: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{kind} median {np.median(v):.4f}, largest {v.max():.4f}" for kind, v in values.items())


@bench.claim("three ways to decide whether a pose lies in the set agree on every pose", system=SYSTEM)
def membership(context: bench.Context) -> bench.Measured:
    """Cones, the paper's quadratic forms, and projections in their regions and in front of the camera."""
    n, disagree, inside = 1000, 0, 0
    rng = np.random.default_rng(context.seed)
    for seed in SEEDS:
        problem = pose_problem(seed)
        poses = _poses(problem)
        spread = 0.02 * rng.exponential(size=(n, 1))
        R = Rotation.from_rotvec(spread * rng.normal(size=(n, 3))).as_matrix() @ problem.R
        t = problem.t + 0.3 * spread * rng.normal(size=(n, 3)) * problem.t[2] * np.array([0.1, 0.1, 1])
        t[::50] *= -1  # behind the camera, where the squares alone hold as well
        seen = (problem.points3d @ R.swapaxes(1, 2) + t[:, None]) @ problem.intrinsics.T
        away = seen[..., :2] / seen[..., 2:] - problem.centres
        distance = np.einsum("nki,kij,nkj->nk", away, problem.information, away)
        direct = ((distance <= 1) & (seen[..., 2] > 0)).all(-1)
        cones = np.asarray(poses.contains(R, t))
        disagree += int(((cones != direct) | (cones != poses.constraints.paper_form().contains(R, t))).sum())
        inside += int(cones.sum())
    detail = f"{n * len(SEEDS)} poses near the truths of {len(SEEDS)} problems, {inside} of them inside"
    return bench.Measured(disagree, "==", 0, "poses on which they differ", detail)


@bench.claim("no sample or local optimum exceeds the pose bounds of level q2, two problems", system=SYSTEM)
def quick_bounds(context: bench.Context) -> bench.Measured:
    """Sampled poses, the truth and climbs from the samples against the certified bound."""
    found = [_sandwich(seed, kind, ("q2",)) for seed in SEEDS_O2 for kind in KINDS]
    listed = ", ".join(f"{s.sizes['q2'] / s.lower:.3f} ({s.kind})" for s in found)
    detail = f"1280 samples and a climb each; bound over the worst pose found: {listed}"
    return bench.Measured(sum(s.beyond for s in found), "==", 0, "poses beyond a bound", detail)


@bench.claim("no sample or local optimum exceeds a pose bound, any level, ten problems", system=SYSTEM, quick=False)
def no_pose_beyond(context: bench.Context) -> bench.Measured:
    """The hard one: a bound that one pose exceeds is no bound."""
    found = _sandwiches()
    detail = f"{len(found)} bounds a level at order 1, q2 and r2; 1280 samples and climbs from the farthest of them"
    return bench.Measured(sum(s.beyond for s in found), "==", 0, "poses beyond a bound", detail)


@bench.claim("pose bounds of level r2 lie within 0.5% of what a pose reaches, median", system=SYSTEM, quick=False)
def r2_is_tight(context: bench.Context) -> bench.Measured:
    """Bound over the worst pose found, as angles and distances, ten problems of 8 keypoints."""
    ratios = _ratios("r2")
    figure = Figure(figsize=(6.4, 2.6), dpi=72, layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), KINDS, strict=True):
        for level, mark, colour in (("q2", "o", "#808080"), ("r2", "D", "#1f77b4")):
            axes.plot(list(SEEDS), _ratios(level)[kind], mark, color=colour, label=level, markersize=5)
        axes.axhline(1, color="#000000", linewidth=1)
        axes.set(title=kind, xlabel="problem", xticks=list(SEEDS))
    figure.axes[0].set_ylabel("bound / worst pose found")
    figure.axes[0].legend(frameon=False)
    caption = "Certified bounds over the error that a pose of the set is known to have: 1 is exact"
    worst = max(float(np.median(v)) for v in ratios.values())
    return bench.Measured(
        worst, "<=", 1.005, "the larger of the two medians", _listed(ratios), (picture(figure, caption),)
    )


@bench.claim("pose bounds of level r2 are never more than 6% above what a pose reaches", system=SYSTEM, quick=False)
def r2_at_worst(context: bench.Context) -> bench.Measured:
    """The same ratios, the largest of them."""
    ratios = _ratios("r2")
    return bench.Measured(max(v.max() for v in ratios.values()), "<=", 1.06, "largest ratio", _listed(ratios))


@bench.claim("pose bounds of level q2 lie within 6% of what a pose reaches, median", system=SYSTEM, quick=False)
def q2_is_close(context: bench.Context) -> bench.Measured:
    """The same ratios for the fast level."""
    ratios = _ratios("q2")
    worst = max(float(np.median(v)) for v in ratios.values())
    return bench.Measured(worst, "<=", 1.06, "the larger of the two medians", _listed(ratios))


@bench.claim("pose bounds of order 1 are at least twice as loose as those of q2", system=SYSTEM, quick=False)
def order_one_is_loose(context: bench.Context) -> bench.Measured:
    """Why the relaxation needs products of constraints."""
    found = {k: np.array([s.sizes["order1"] / s.sizes["q2"] for s in _sandwiches() if s.kind == k]) for k in KINDS}
    least = min(float(np.median(v)) for v in found.values())
    detail = f"{_listed(found)}, smallest {min(v.min() for v in found.values()):.2f}"
    return bench.Measured(least, ">=", 2, "order 1 over q2, the smaller of the two medians", detail)


def _seconds(level: str) -> tuple[float, str]:
    spent = np.array([s.seconds[level] for s in _sandwiches()])
    return float(np.median(spent)), f"{len(spent)} bounds, {spent.min():.2f} to {spent.max():.2f} s of one thread"


@bench.claim("a pose bound of level q2 takes at most a CPU second, median", system=SYSTEM, quick=False)
def q2_seconds(context: bench.Context) -> bench.Measured:
    """8 keypoints; assembly, solver and certificate."""
    value, detail = _seconds("q2")
    return bench.Measured(value, "<=", 1, "CPU seconds", detail)


@bench.claim("a pose bound of level r2 takes at most 4 CPU seconds, median", system=SYSTEM, quick=False)
def r2_seconds(context: bench.Context) -> bench.Measured:
    """8 keypoints; assembly, solver and certificate."""
    value, detail = _seconds("r2")
    return bench.Measured(value, "<=", 4, "CPU seconds", detail)


def _order_two() -> list[_Sandwich]:
    return [_sandwich(seed, kind, ("o2",)) for seed in SEEDS_O2 for kind in KINDS]


@bench.claim("the published order-2 pose bound is met within 0.2% on two problems", system=SYSTEM, quick=False)
def order_two_is_exact(context: bench.Context) -> bench.Measured:
    """Level o2 against the worst pose found."""
    found = _order_two()
    listed = ", ".join(f"{s.sizes['o2'] / s.lower:.5f} ({s.kind}, {s.seconds['o2']:.0f} s)" for s in found)
    return bench.Measured(max(s.sizes["o2"] / s.lower for s in found), "<=", 1.002, "largest ratio", listed)


@bench.claim("the order-2 pose bound never exceeds that of r2 by more than 1e-4", system=SYSTEM, quick=False)
def order_two_below_r2(context: bench.Context) -> bench.Measured:
    """The larger relaxation holds the smaller one's constraints; what is left is the solver's accuracy."""
    pairs = [(s, _sandwich(s.seed, s.kind, ("order1", "q2", "r2"))) for s in _order_two()]
    above = [o2.sizes["o2"] / r2.sizes["r2"] - 1 for o2, r2 in pairs]
    listed = ", ".join(f"{value:+.1e} ({o2.kind})" for value, (o2, _) in zip(above, pairs, strict=True))
    return bench.Measured(max(above), "<=", 1e-4, "relative, as angles and distances", listed)


@functools.cache
def _cascades() -> list[tuple[str, float, float]]:
    """Level reached, CPU seconds with the climb for the lower value, and bound over the worst pose known."""
    rows = []
    for seed in SEEDS:
        poses, samples, estimate = _sampled(seed)
        for kind in KINDS:
            start = time.thread_time()
            found = poses.bound(estimate.R, estimate.t, "cascade", kind, samples=samples)
            spent = time.thread_time() - start
            assert found.lower is not None  # the samples give one
            rows.append((found.level, spent, found.size / _size(kind, found.lower)))
    return rows


@bench.claim(
    "the cascade of pose bounds is at least 10x faster than the order-2 relaxation", system=SYSTEM, quick=False
)
def cascade_is_fast(context: bench.Context) -> bench.Measured:
    """Medians of CPU seconds: the cascade on ten problems, order 2 on two of them, same solver."""
    cascades, order_two = _cascades(), [s.seconds["o2"] for s in _order_two()]
    spent = np.array([row[1] for row in cascades])
    levels = [row[0] for row in cascades]
    reached = ", ".join(f"{levels.count(level)} {level}" for level in ("q2", "r2", "o2") if level in levels)
    detail = (
        f"cascade: median {np.median(spent):.2f} s, mean {spent.mean():.2f}, {spent.min():.2f} to {spent.max():.2f}, "
        f"ended at {reached}; order 2: median {np.median(order_two):.1f} s, mean {np.mean(order_two):.1f}"
    )
    return bench.Measured(float(np.median(order_two) / np.median(spent)), ">=", 10, "ratio of medians", detail)


@bench.claim("the cascade of pose bounds ends within 1% of what a pose reaches", system=SYSTEM, quick=False)
def cascade_is_tight(context: bench.Context) -> bench.Measured:
    """Ten problems, both errors."""
    ratios = np.array([row[2] for row in _cascades()])
    detail = f"{len(ratios)} bounds; median {np.median(ratios):.4f}"
    return bench.Measured(ratios.max(), "<=", 1.01, "largest ratio", detail)


@bench.claim(
    "500 random poses: no truth or sample beyond a bound, solver stopped early or not", system=SYSTEM, quick=False
)
def five_hundred_poses(context: bench.Context) -> bench.Measured:
    """Level q2, rotation and translation in turn, solved and stopped after 5 iterations."""
    beyond = early = n_poses = 0
    loosened = []
    for number in range(N_RANDOM):
        problem, kind = pose_problem(1000 + number), KINDS[number % 2]
        poses = _poses(problem)
        hits = poses.ransag(jax.random.key(number), 2000)
        R, t = np.concatenate([problem.R[None], hits.R]), np.concatenate([problem.t[None], hits.t])
        estimate = poses.average(hits._replace(R=R, t=t))
        shared = pose_relaxation.pose_problem(poses.constraints, estimate.R, estimate.t, (R, t))
        errors = pose_objective(kind, estimate.R, estimate.t, R, t)
        solved = pose_relaxation.certified_bound(shared, level="q2", objective=kind)
        stopped = pose_relaxation.certified_bound(shared, level="q2", objective=kind, max_iterations=5)
        n_poses += len(R)
        beyond += int((errors > solved.bound).sum())
        early += int((errors > stopped.bound).sum())
        loosened.append(stopped.size / solved.size)
    detail = (
        f"{n_poses} poses in {N_RANDOM} sets; {beyond} beyond the bound, {early} beyond that of a solver stopped "
        f"after 5 iterations, which is {np.median(loosened):.2f} times as large (median)"
    )
    return bench.Measured(beyond + early, "==", 0, "poses beyond a bound", detail)


@functools.cache
def _real_bounds(seed: int) -> tuple[int, int, list[tuple[str, float, float]]]:
    """Ten images of object 5: true poses in the set, violations, ratio and size by kind."""
    lmo, rng = lmo_estimates(), np.random.default_rng(seed)
    rows, detections, truth = lmo_keypoints(lmo, 5)
    order = rng.permutation(len(rows))
    half = len(rows) // 2
    calibrated: Any = KeypointConformal("ball", 0.1).calibrate(chosen(detections, order[:half]), truth[order[:half]])
    new = order[half : half + 10]
    regions, inside, beyond, found = calibrated.predict(chosen(detections, new)), 0, 0, []
    for place, row in enumerate(rows[new]):
        poses = PoseUncertaintySet.from_regions(regions, lmo.keypoints[5], lmo.intrinsics[row], place)
        samples = poses.sample(jax.random.key(place), 1280)
        estimate = poses.average(samples)
        held = bool(poses.contains(lmo.R_true[row], lmo.t_true[row]))
        inside += held
        for kind in KINDS:
            bound = poses.bound(estimate.R, estimate.t, "r2", kind, samples=samples)
            assert bound.lower is not None
            error = pose_objective(kind, estimate.R, estimate.t, lmo.R_true[row], lmo.t_true[row])
            beyond += held and bool(error > bound.bound)
            found.append((kind, bound.size / float(_size(kind, bound.lower)), bound.size))
    return inside, beyond, found


@bench.claim("on LineMOD-Occlusion no true pose in its set has an error beyond the bound", system=SYSTEM, quick=False)
def real_bounds(context: bench.Context) -> bench.Measured:
    """10 images of object 5, regions calibrated at eps 0.1 on half of its images."""
    inside, beyond, found = _real_bounds(0)
    degrees = np.degrees([size for kind, _, size in found if kind == "rotation"])
    lengths = [size for kind, _, size in found if kind == "translation"]
    detail = (
        f"{inside} of 10 true poses in their sets; bounds {degrees.min():.0f} to {degrees.max():.0f} degrees, "
        f"{min(lengths):.0f} to {max(lengths):.0f} mm"
    )
    return bench.Measured(beyond, "==", 0, "errors beyond the bound", detail)


@bench.claim(
    "on LineMOD-Occlusion pose bounds lie within 2% of what a pose reaches, median", system=SYSTEM, quick=False
)
def real_tightness(context: bench.Context) -> bench.Measured:
    """The same bounds, level r2."""
    _, _, found = _real_bounds(0)
    ratios = {kind: np.array([ratio for one, ratio, _ in found if one == kind]) for kind in KINDS}
    worst = max(float(np.median(v)) for v in ratios.values())
    return bench.Measured(worst, "<=", 1.02, "the larger of the two medians", _listed(ratios))


@bench.claim("pose relaxations have 149, 513 and 741 free moments at q2, r2 and o2", system=SYSTEM)
def basis_sizes(context: bench.Context) -> bench.Measured:
    """Counted by hand from degrees: the quaternion's square is reduced, odd moments drop out."""
    levels: tuple[Any, ...] = ("q2", "r2", "o2")
    found = [pose_level(level).n_columns - 1 for level in levels]
    wrong = sum(a != b for a, b in zip(found, (149, 513, 741), strict=True))
    return bench.Measured(wrong, "==", 0, "levels with another count", ", ".join(map(str, found)))


@bench.claim("the moment engine behind pose bounds finds the least ball around sum x^4 <= 1", system=SYSTEM)
def quartic_ball(context: bench.Context) -> bench.Measured:
    """Three variables, order 2; the farthest points are (1, 1, 1) / 3^(1/4)."""
    x = variables(3)
    body = MomentSDP(3, order=2, at_least_zero=(1 - sum((one**4 for one in x[1:]), start=x[0] ** 4),))
    radius = body.enclosing_ball(x, box=np.ones(3)).radius
    return bench.Measured(abs(radius - 3**0.25), "<=", 1e-5, "3^(1/4) = 1.31607", f"radius {radius:.7f}")
