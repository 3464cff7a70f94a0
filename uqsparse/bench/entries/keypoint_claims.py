"""Conformal keypoints: coverage of all keypoints at once, on synthetic heatmaps and on LineMOD-Occlusion."""

import functools
from typing import Any, Literal

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from uqsparse import bench
from uqsparse.bench.plots import picture
from uqsparse.bounds.keypoint_regions import Detections
from uqsparse.bounds.keypoints import KeypointConformal
from uqsparse.data.bop import PoseEstimates, linemod_occlusion
from uqsparse.data.heatmaps import keypoint_heatmaps

SYSTEM = "Pose uncertainty sets"
EPS, N_CALIBRATION, N_IMAGES = 0.1, 200, 700
OBJECTS = (1, 5, 6, 8, 9, 11, 12)  # the egg box (10) looks nearly the same after half a turn


@functools.cache
def _detections() -> tuple[Detections, Detections, np.ndarray]:
    """Balls and ellipses of all images, found once, and the truth."""
    made = keypoint_heatmaps(0, N_IMAGES)
    ball, ellipse = (Detections.from_heatmaps(made.heatmaps, ellipse=one) for one in (False, True))
    return ball, ellipse, made.keypoints


def chosen(detections: Detections, rows: np.ndarray) -> Detections:
    """The detections of some images."""
    return jax.tree.map(lambda column: column[rows], detections)


def _splits(
    detections: Detections, keypoints: np.ndarray, score: Literal["ball", "ellipse"], repeats: int, seed: int
) -> tuple[np.ndarray, float]:
    """Joint coverage of the images left after calibration, in each split, and the mean area in square pixels."""
    rng, conformal = np.random.default_rng(seed), KeypointConformal(score, EPS)
    covered, area = [], []
    for _ in range(repeats):
        order = rng.permutation(len(keypoints))
        held_out, new = order[:N_CALIBRATION], order[N_CALIBRATION:]
        calibrated: Any = conformal.calibrate(chosen(detections, held_out), keypoints[held_out])
        regions = calibrated.predict(chosen(detections, new))
        covered.append(np.mean(regions.contains(keypoints[new])))
        area.append(np.mean(regions.size()))
    return np.array(covered), float(np.mean(area))


@bench.claim("conformal keypoints of a pose cover jointly between 0.89 and 0.912, both scores", system=SYSTEM)
def keypoint_coverage(context: bench.Context) -> bench.Measured:
    """8 keypoints, 200 calibration images, 500 new ones, eps 0.1."""
    ball, ellipse, keypoints = _detections()
    repeats = 100 if context.quick else 300
    found = {
        "balls": _splits(ball, keypoints, "ball", repeats, context.seed)[0],
        "ellipses": _splits(ellipse, keypoints, "ellipse", repeats, context.seed)[0],
    }
    law: Any = stats.betabinom(N_IMAGES - N_CALIBRATION, 181, 20)  # k = 181 of 201
    figure = Figure(figsize=(6.4, 2.6), dpi=72, layout="constrained")
    axes = figure.subplots()
    bins = np.arange(0.82, 0.98, 0.01) - 0.001
    axes.hist(found["balls"], bins=list(bins), density=True, color="#bbbbbb", label="balls")
    axes.hist(found["ellipses"], bins=list(bins), density=True, histtype="step", color="#000000", label="ellipses")
    counts = np.arange(410, 490)
    axes.plot(counts / 500, 500 * law.pmf(counts), label="beta-binomial law")
    axes.axvline(1 - EPS, color="#808080", linestyle="--", linewidth=1)
    axes.set(xlabel="share of new images with all 8 keypoints in their regions", yticks=[])
    axes.legend(frameon=False)
    caption = f"Joint coverage in {repeats} splits of {N_IMAGES} images, beside the law that holds for any detector"
    listed = ", ".join(f"{name} {values.mean():.4f} (sd {values.std():.4f})" for name, values in found.items())
    worst = max(abs(values.mean() - 0.901) for values in found.values())
    detail = f"{repeats} splits 200 / 500 of {N_IMAGES} images; {listed}; the law has mean 181/201 = 0.9005"
    return bench.Measured(
        worst, "<=", 0.011, "distance to the middle of [0.89, 0.912]", detail, (picture(figure, caption),)
    )


@bench.claim("coverage of a pose's keypoints spreads over splits with sd between 0.018 and 0.032", system=SYSTEM)
def keypoint_spread(context: bench.Context) -> bench.Measured:
    """Finite calibration and test sets spread it: sd 0.025 by the beta-binomial law."""
    ball, ellipse, keypoints = _detections()
    repeats = 100 if context.quick else 300
    found = [
        _splits(ball, keypoints, "ball", repeats, context.seed)[0].std(),
        _splits(ellipse, keypoints, "ellipse", repeats, context.seed)[0].std(),
    ]
    worst = max(abs(sd - 0.025) for sd in found)
    detail = f"{repeats} splits; balls {found[0]:.4f}, ellipses {found[1]:.4f}"
    return bench.Measured(worst, "<=", 0.007, "distance to the middle of [0.018, 0.032]", detail)


@bench.claim("regions of a pose's keypoints are at least 20% smaller than discs of one radius", system=SYSTEM)
def keypoint_area(context: bench.Context) -> bench.Measured:
    """Mean area against conformal discs that know nothing of how sure the detector is."""
    ball, ellipse, keypoints = _detections()
    repeats = 100 if context.quick else 300
    _, balls = _splits(ball, keypoints, "ball", repeats, context.seed)
    _, ellipses = _splits(ellipse, keypoints, "ellipse", repeats, context.seed)
    _, constant = _splits(Detections.of(ball.points), keypoints, "ball", repeats, context.seed)
    detail = (
        f"{repeats} splits; mean area {balls:.0f} square pixels for balls, {ellipses:.0f} for ellipses, "
        f"{constant:.0f} for discs of one radius"
    )
    return bench.Measured(balls / constant, "<=", 0.8, "balls over discs of one radius", detail)


def lmo_estimates() -> PoseEstimates:
    """The user's copy of LineMOD-Occlusion.

    Raises:
        NotMeasured: no folder was given.
    """
    try:
        return linemod_occlusion()
    except FileNotFoundError as error:
        raise bench.NotMeasured(f"it needs LineMOD-Occlusion, as --data-dir DIR or UQSPARSE_LMO: {error}") from None


def lmo_keypoints(lmo: PoseEstimates, object_id: int) -> tuple[np.ndarray, Detections, np.ndarray]:
    """Rows of an object that is visible to a tenth or more, its keypoints under estimated poses, and under true ones.

    The published results hold poses and no heatmaps, so the projections under the estimate serve as detections.
    """
    rows = np.flatnonzero((lmo.object_id == object_id) & (lmo.visible >= 0.1))
    points = lmo.keypoints[object_id]
    projected = []
    for R, t in ((lmo.R, lmo.t), (lmo.R_true, lmo.t_true)):
        seen = (points @ R[rows].swapaxes(1, 2) + t[rows, None]) @ lmo.intrinsics[rows].swapaxes(1, 2)
        projected.append(seen[..., :2] / seen[..., 2:])
    return rows, Detections.of(projected[0]), projected[1]


@bench.claim("on LineMOD-Occlusion the keypoints of a pose are covered within 0.02 of 1 - eps", system=SYSTEM)
def real_coverage(context: bench.Context) -> bench.Measured:
    """Seven objects, each calibrated by itself on a random half of its images; eps 0.1 and 0.4."""
    lmo, repeats, levels = lmo_estimates(), 100 if context.quick else 400, (0.1, 0.4)
    rng = np.random.default_rng(context.seed)
    found, n = {}, 0
    for one in OBJECTS:
        rows, detections, truth = lmo_keypoints(lmo, one)
        n, half, covered = n + len(rows), len(rows) // 2, []
        for _ in range(repeats):
            order = rng.permutation(len(rows))
            held_out, new = order[:half], order[half:]
            calibrated: Any = KeypointConformal("ball", list(levels)).calibrate(
                chosen(detections, held_out), truth[held_out]
            )
            covered.append(calibrated.predict(chosen(detections, new)).contains(truth[new]).mean(-1))
        found[one] = np.mean(covered, 0)
    means = np.mean(list(found.values()), 0)
    worst = float(np.abs(means - (1 - np.array(levels))).max())
    listed = ", ".join(f"{one}: {low:.3f} / {high:.3f}" for one, (low, high) in found.items())
    detail = (
        f"{n} instances, {repeats} halves an object; mean {means[0]:.4f} (eps 0.1), {means[1]:.4f} (eps 0.4); {listed}"
    )
    return bench.Measured(worst, "<=", 0.02, "mean over objects and halves", detail)
