"""The picture of a pose set: its regions and draws in the image, and how far the draws are from their average."""

from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from uqsparse.bounds.keypoint_regions import KeypointRegions
from uqsparse.bounds.pose_relaxation import CertifiedBound
from uqsparse.cli.pose_errors import PoseErrors, lower_size, upper_size
from uqsparse.cli.pose_images import PoseImages, project

_GREY, _PALE, _RED, _GREEN, _SALMON = "#666666", "#9fc3e0", "#c23b22", "#1b7f3b", "#f0a090"
_MOST_DRAWN = 300


class PoseView(NamedTuple):
    """An image as it is shown.

    Args:
        title: its name.
        unit: of length.
        regions: of this one image.
        image: this one image.
    """

    title: str
    unit: str
    regions: KeypointRegions
    image: PoseImages


def pose_figure(view: PoseView, errors: PoseErrors) -> Figure:
    """The image plane on the left, the distances of the draws from their average on the right."""
    figure = Figure(figsize=(11.0, 5.4), dpi=120, layout="constrained")
    panels = figure.subplot_mosaic([["image", "rotation"], ["image", "translation"]], width_ratios=[1.25, 1])
    for axes in panels.values():
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    _draw_image(panels["image"], view, errors)
    truth = errors.truth
    if errors.average is None:
        for name in ("rotation", "translation"):
            panels[name].remove()
        known = "no pose fits all regions (proved)" if errors.is_empty else "no pose that fits all regions was found"
        figure.text(0.78, 0.55, known, ha="center", color=_GREY)
        return figure
    _draw_distances(
        panels["rotation"], errors.degrees, errors.rotation, None if truth is None else truth.degrees, "rotation", "°"
    )
    _draw_distances(
        panels["translation"],
        errors.distances,
        errors.translation,
        None if truth is None else truth.distance,
        "translation",
        f" {view.unit}" if view.unit else "",
    )
    return figure


def _draw_image(axes: Axes, view: PoseView, errors: PoseErrors) -> None:
    regions, image = view.regions, view.image
    assert image.points3d is not None
    assert image.intrinsics is not None
    centres, seen, camera = regions.centre[0], regions.seen[0], image.intrinsics[0]
    colours = colormaps["tab10"](np.arange(len(seen)) % 10)
    n = len(errors.samples.R)
    some = np.linspace(0, n - 1, min(n, _MOST_DRAWN)).round().astype(int)
    cloud = project(camera, image.points3d, errors.samples.R[some], errors.samples.t[some])
    corners = [centres[seen]]
    for k in np.flatnonzero(seen):
        values, vectors = np.linalg.eigh(regions.information[0, k])
        axis = 1 / np.sqrt(values)
        turn = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
        corners += [centres[k] - axis.max(), centres[k] + axis.max()]
        for face, edge, width in (((*colours[k][:3], 0.07), "none", 0.0), ("none", colours[k], 1.3)):
            axes.add_patch(
                Ellipse(
                    (centres[k][0], centres[k][1]),
                    2 * axis[0],
                    2 * axis[1],
                    angle=turn,
                    facecolor=face,
                    edgecolor=edge,
                    linewidth=width,
                    zorder=1,
                )
            )
        axes.plot(cloud[:, k, 0], cloud[:, k, 1], ".", color=colours[k], markersize=2, alpha=0.5, zorder=2)
    handles: list[Artist] = [
        Line2D([], [], color=_GREY, marker="o", markersize=9, markerfacecolor="none", linestyle="", label="region"),
        Line2D([], [], color=_GREY, marker=".", markersize=4, linestyle="", label="keypoints of the draws"),
    ]
    axes.plot(*centres[seen].T, "+", color="black", markersize=8, markeredgewidth=1.4, zorder=4)
    handles.append(Line2D([], [], color="black", marker="+", markersize=8, linestyle="", label="detected"))
    if errors.average is not None:
        mean = project(camera, image.points3d, errors.average.R[None], errors.average.t[None])[0][seen]
        axes.plot(*mean.T, "s", markerfacecolor="white", markeredgecolor="black", markersize=5, zorder=4)
        inside = "average pose" if errors.average.is_inside else "average pose (outside the set)"
        handles.append(
            Line2D(
                [],
                [],
                color="black",
                marker="s",
                markersize=5,
                markerfacecolor="white",
                linestyle="",
                label=inside,
            )
        )
    true = _true_keypoints(image, errors)
    if true is not None:
        inside = "" if errors.truth is None else ", in the set" if errors.truth.is_inside else ", OUTSIDE the set"
        axes.plot(*true[seen].T, "x", color=_RED, markersize=7, markeredgewidth=1.8, zorder=5)
        handles.append(
            Line2D(
                [], [], color=_RED, marker="x", markersize=7, markeredgewidth=1.8, linestyle="", label=f"true{inside}"
            )
        )
        corners.append(true[seen])
    corners = np.concatenate([np.atleast_2d(one) for one in corners])
    low, high = corners.min(0), corners.max(0)
    margin = 0.04 * max(high - low)
    axes.set(xlim=(low[0] - margin, high[0] + margin), ylim=(high[1] + margin, low[1] - margin))
    axes.set_aspect("equal")
    axes.set(xlabel="x, pixels", ylabel="y, pixels")
    level = "" if view.regions.guarantee is None else f": regions at level {view.regions.guarantee.level:.6g}"
    axes.set_title(view.title + level, loc="left", size=11, parse_math=False)
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=3, frameon=False, fontsize=8.5)


def _true_keypoints(image: PoseImages, errors: PoseErrors) -> np.ndarray | None:
    """True keypoints in the image; of a true pose if they are not given themselves."""
    if image.keypoints is not None and image.keypoints.ndim == 3:
        return image.keypoints[0]
    if errors.truth is None or image.points3d is None or image.intrinsics is None:
        return None
    return project(image.intrinsics[0], image.points3d, errors.truth.R[None], errors.truth.t[None])[0]


def _draw_distances(
    axes: Axes, distances: np.ndarray, bound: CertifiedBound | None, true: float | None, name: str, mark: str
) -> None:
    axes.set_title(f"{name} error", loc="left", size=11)
    unit = {"°": " degrees", "": " in units of points3d"}.get(mark, mark)
    axes.set(xlabel=f"distance from the average pose,{unit}", ylabel="draws")
    assert bound is not None
    lower, upper = lower_size(bound), upper_size(bound)
    finite = np.isfinite(upper)
    known = [float(distances.max()), *([upper] if finite else []), *(one for one in (lower, true) if one is not None)]
    right = 1.06 * max(known)
    axes.hist(distances, bins=np.linspace(0, right, 49).tolist(), color=_PALE, label="draws from the pose set")
    # The lines end below the legend. The known pose's is drawn wider, since a tight bound lies upon it.
    top = 0.72
    if true is not None:
        style = (0, (1, 1.2))
        axes.axvline(true, ymax=top, color=_GREEN, linewidth=1.6, linestyle=style, label=f"true pose: {true:.3g}{mark}")
    if lower is not None:
        axes.axvline(lower, ymax=top, color=_SALMON, linewidth=5, label=f"farthest pose known: {lower:.4g}{mark}")
    if finite:
        words = f"certified bound: {upper:.4g}{mark} ({bound.level})"
        axes.axvline(upper, ymax=top, color=_RED, linewidth=1.6, label=words)
    else:
        axes.plot([], [], color=_RED, linewidth=1.6, label="no bound: the set may be unbounded")
    axes.set_xlim(0, right)
    axes.set_ylim(0, axes.dataLim.y1 / (top - 0.04))
    axes.grid(axis="y", color="#eeeeee")
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", ncols=2)
