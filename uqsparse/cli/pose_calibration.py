"""The calibration of `uqsparse pose`: thresholds from labelled images, and the file that holds them."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.keypoint_regions import KeypointRegions
from uqsparse.bounds.keypoints import KeypointConformal
from uqsparse.bounds.scores.keypoints import KeypointBall, KeypointEllipse
from uqsparse.cli.pose_images import PoseImages

FORMAT = "uqsparse pose calibration"


@dataclasses.dataclass(frozen=True)
class Threshold:
    """The threshold of a group of images.

    Args:
        group: see `PoseImages`.
        n_keypoints: number of keypoints of the object.
        threshold: of the score; inf where there were too few images.
        guarantee: what the regions promise.
        images: numbers of the images that it rests on, where the file they came from holds others too; else empty.
    """

    group: str | None
    n_keypoints: int
    threshold: float
    guarantee: Guarantee
    images: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class PoseCalibration:
    """A calibrated detector, as the file holds it.

    Args:
        source: the data it rests on.
        score: "ball" or "ellipse".
        eps: share of images whose keypoints may leave their regions.
        top: how many pixels of a heatmap count, for ellipses.
        thresholds: one a group.
    """

    source: str
    score: str
    eps: float
    top: int
    thresholds: tuple[Threshold, ...]

    def threshold_of(self, part: PoseImages) -> Threshold:
        """The threshold that holds for images.

        Raises:
            ValueError: their group or object was not calibrated, or had another number of keypoints.
        """
        for one in self.thresholds:
            if one.group == part.group:
                if one.n_keypoints != (K := part.detections.points.shape[1]):
                    raise ValueError(f"the images have {K} keypoints, and the calibration is of {one.n_keypoints}")
                return one
        known = ", ".join(str(one.group) for one in self.thresholds if one.group is not None)
        if part.group is None:
            raise ValueError(f"the images have no groups, and each group has its own threshold: {known}")
        raise ValueError(
            f"group {part.group} was not calibrated" + (f"; those calibrated are {known}" if known else "")
        )

    def regions(self, part: PoseImages) -> KeypointRegions:
        """Regions of images, with their guarantee."""
        score = KeypointBall() if self.score == "ball" else KeypointEllipse(self.top)
        found = self.threshold_of(part)
        with np.errstate(divide="ignore"):
            region = score.region(part.detections, np.float64(found.threshold))
        return dataclasses.replace(region, guarantee=found.guarantee)


def calibrated(
    parts: list[PoseImages], source: str, score: str, eps: float, top: int, *, half: bool, seed: int
) -> PoseCalibration:
    """Find the threshold of each group.

    Args:
        parts: labelled images, by group.
        source: where they are from.
        score: "ball" or "ellipse".
        eps: share of images whose keypoints may leave their regions.
        top: for ellipses.
        half: leave half of the images of each group, drawn at random, for other uses.
        seed: of that draw.

    Raises:
        ValueError: eps is out of range.
    """
    conformal = KeypointConformal("ball" if score == "ball" else "ellipse", eps, top=top)
    thresholds = []
    for place, part in enumerate(parts):
        images: tuple[int, ...] = ()
        if half:
            # The number of an object, where there is one, so that its half does not depend on which others are there.
            stream = int(part.group) if part.group is not None and part.group.isdigit() else place
            order = np.random.default_rng([seed, stream]).permutation(len(part.images))
            part = part.rows(np.sort(order[: (len(order) + 1) // 2]))
            images = tuple(part.images.tolist())
        if part.keypoints is None:
            raise ValueError("calibration needs the true keypoints")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "a threshold is infinite")  # the command says so in its own words
            found = conformal.calibrate(part.detections, part.keypoints)
        guarantee = found.guarantee if part.group is None else dataclasses.replace(found.guarantee, kind="group")
        n_keypoints = part.detections.points.shape[1]
        thresholds.append(Threshold(part.group, n_keypoints, float(np.asarray(found.threshold)), guarantee, images))
    return PoseCalibration(source, score, eps, top, tuple(thresholds))


def calibration_record(calibration: PoseCalibration) -> dict[str, Any]:
    """The calibration as plain data."""
    thresholds = [
        {
            "group": one.group,
            "n_keypoints": one.n_keypoints,
            "n": one.guarantee.n,
            "threshold": one.threshold,
            "guarantee": one.guarantee.to_dict(),
            "images": one.images,
        }
        for one in calibration.thresholds
    ]
    return {
        "format": FORMAT,
        "source": calibration.source,
        "score": calibration.score,
        "eps": calibration.eps,
        "top": calibration.top,
        "n": sum(one.guarantee.n for one in calibration.thresholds),
        "thresholds": thresholds,
    }


def read_calibration(path: Path) -> PoseCalibration:
    """Read what `calibrate` has written.

    Raises:
        ValueError: the file is none of these.
        OSError: it cannot be read.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT or record["score"] not in ("ball", "ellipse"):
            raise ValueError
        thresholds = tuple(
            Threshold(
                group=one["group"],
                n_keypoints=int(one["n_keypoints"]),
                threshold=float(one["threshold"]),
                guarantee=Guarantee(
                    one["guarantee"]["kind"],
                    float(one["guarantee"]["level"]),
                    int(one["guarantee"]["n"]),
                    tuple(one["guarantee"]["assumptions"]),
                ),
                images=tuple(map(int, one["images"])),
            )
            for one in record["thresholds"]
        )
        if not thresholds or not all(one.threshold >= 0 for one in thresholds):
            raise ValueError
        return PoseCalibration(
            str(record["source"]), record["score"], float(record["eps"]), int(record["top"]), thresholds
        )
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{str(path)!r} is no calibration that 'uqsparse pose calibrate' has written") from None


def region_record(regions: KeypointRegions, row: int) -> list[dict[str, Any]]:
    """The regions of one image, one entry a keypoint; a keypoint that was not seen has none."""
    records = []
    for k in range(regions.centre.shape[1]):
        record: dict[str, Any] = {"keypoint": k, "seen": bool(regions.seen[row, k])}
        if record["seen"]:
            record |= {
                "centre": regions.centre[row, k].tolist(),
                "information": regions.information[row, k].tolist(),
            }
        records.append(record)
    return records
