"""From images to certified pose errors with a keypoint detector of our own: rendered, trained, calibrated, bounded.

A small network learns on renders of a coloured solid to draw a heatmap of each of its eight corners. Held-out renders
turn its heatmaps into regions that hold all eight corners at once in nine images of ten, however good or bad the
network is. All poses that put the corners into their regions make up a pose set, which holds the true pose whenever the
regions hold the corners; the semidefinite bounds then say how wrong the average pose can be. How far away a small solid
is shows least in an image, and most of the error in translation is along the line of sight. Writes a picture to
pose_end_to_end.png.
"""

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from scipy import stats

from uqsparse.bounds import KeypointConformal, PoseUncertaintySet
from uqsparse.data.renders import rendered_poses
from uqsparse.nn.heatmap_network import SCALE, heatmaps, train_heatmap_network

EPS = 0.1
N_TRAIN, N_CALIBRATION, N_TEST = 1500, 500, 500
TURN = 45.0  # degrees: the solid is seen from one side
N_SHOWN = 3


def main() -> None:
    train, calibration, test = (
        rendered_poses(seed, n, turn=TURN) for seed, n in enumerate((N_TRAIN, N_CALIBRATION, N_TEST))
    )
    training = train_heatmap_network(jax.random.key(0), train.images, train.keypoints)
    print(
        f"Trained on {N_TRAIN} renders of {train.images.shape[1]} by {train.images.shape[2]} pixels: "
        f"cross-entropy {training.losses[0]:.2f} in the first epoch, {training.losses[-1]:.2f} in the last"
    )

    regions = calibrated_regions(training.network, calibration, test)
    chosen = min(regions, key=lambda score: np.mean(regions[score].size()))
    print(f"\nPose sets of the first {N_SHOWN} test images, from the {chosen} regions")
    print(f"{'':7s}{'rotation, degrees':>24s}{'translation, mm':>24s}{'true pose':>12s}")
    print(f"{'image':7s}{'error':>12s}{'certified':>12s}{'error':>12s}{'certified':>12s}{'in the set':>12s}")
    samples = [bounded_error(index, regions[chosen], test) for index in range(N_SHOWN)]
    print("error: of the average of the samples; certified: what no pose in the set exceeds")
    draw(regions[chosen], test, samples, "pose_end_to_end.png")


def calibrated_regions(network, calibration, test):
    """Regions of the test images in pixels of the image, by score, with a table of how they do."""
    seen, new = heatmaps(network, calibration.images), heatmaps(network, test.images)
    # Coverage varies with the calibration images (beta) and with the test images (binomial).
    rank = int(np.ceil((N_CALIBRATION + 1) * (1 - EPS)))
    low, high = np.array(stats.betabinom(N_TEST, rank, N_CALIBRATION + 1 - rank).interval(0.95)) / N_TEST
    print(f"\nRegions for all eight corners at once, eps = {EPS}; coverage should be within {low:.3f} to {high:.3f}")
    print(f"{'score':10s}{'coverage':>10s}{'mean area, pixels^2':>22s}")
    regions = {}
    for score in ("ball", "ellipse"):
        # The network's maps have half the image's side.
        calibrated = KeypointConformal(score, EPS).calibrate(seen, SCALE * calibration.keypoints)
        regions[score] = calibrated.predict(new).to_image(np.eye(2), np.zeros(2), SCALE)
        covered = regions[score].contains(test.keypoints)
        print(f"{score:10s}{np.mean(covered):10.3f}{np.mean(regions[score].size()):22.1f}")
    return regions


def bounded_error(index, regions, test):
    """One line of the table; returns samples of the pose set."""
    poses = PoseUncertaintySet.from_regions(regions, test.points3d, test.intrinsics, index)
    is_inside = bool(poses.contains(test.R[index], test.t[index]))
    samples = poses.sample(jax.random.key(index), 500)
    if not len(samples.R):
        print(f"{index:<7d}{'no pose was found that fits all regions':>48s}{'yes' if is_inside else 'no':>12s}")
        return samples
    average = poses.average(samples)
    cosine = (np.trace(average.R.T @ test.R[index]) - 1) / 2
    errors = np.degrees(np.arccos(np.clip(cosine, -1, 1))), 1e3 * np.linalg.norm(average.t - test.t[index])
    certified = []
    for objective in ("rotation", "translation"):
        bound = poses.bound(
            average.R, average.t, objective=objective, samples=samples, levels=("q2", "r2")
        )  # the third level, "o2", takes twenty seconds and is seldom needed
        certified.append(np.degrees(bound.size) if objective == "rotation" else 1e3 * bound.size)
    print(
        f"{index:<7d}{errors[0]:12.1f}{certified[0]:12.1f}{errors[1]:12.1f}{certified[1]:12.1f}"
        f"{'yes' if is_inside else 'no':>12s}"
    )
    return samples


def draw(regions, test, samples, path):
    """The images with regions, true corners and the corners of sampled poses."""
    figure = Figure(figsize=(4.2 * len(samples), 4.5), layout="constrained")
    size = test.images.shape[1]
    for index, axes in enumerate(figure.subplots(1, len(samples), squeeze=False)[0]):
        axes.imshow(test.images[index], extent=(0, size, size, 0))
        R, t = samples[index].R[::5], samples[index].t[::5]
        seen = (test.points3d @ R.swapaxes(1, 2) + t[:, None]) @ test.intrinsics.T
        pixels = seen[..., :2] / seen[..., 2:]
        for k in range(len(test.points3d)):
            axes.plot(*pixels[:, k].T, ".", markersize=2, color=f"C{k}")
            values, vectors = np.linalg.eigh(regions.information[index, k])
            turn = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
            width, height = 2 / np.sqrt(values)
            region = Ellipse(regions.centre[index, k], width, height, angle=turn, fill=False, color=f"C{k}")
            axes.add_patch(region)
        axes.plot(*test.keypoints[index].T, "w+", markersize=8)
        axes.set(xlim=(0, size), ylim=(size, 0), title=f"image {index}", xticks=(), yticks=())
    figure.suptitle("regions, true corners (+), corners of poses from the set (dots)")
    figure.savefig(path, dpi=110)
    print(f"\nPicture: {path}")


if __name__ == "__main__":
    main()
