"""`uqsparse pose`: regions that hold all keypoints of an object, and proved bounds on the error of its pose."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uqsparse.cli.application import app, fail, in_a_thread

if TYPE_CHECKING:
    from uqsparse.bounds.pose import PoseUncertaintySet
    from uqsparse.cli.pose_calibration import PoseCalibration
    from uqsparse.cli.pose_images import PoseImages

pose = typer.Typer(help="Regions that hold an object's keypoints, and proved bounds on the error of its pose.")
app.add_typer(pose, name="pose")

# Images of `bound` unless some are named: each takes seconds to a minute.
_FEW = 3


class ScoreName(StrEnum):
    """Shapes of the regions."""

    ball = "ball"
    ellipse = "ellipse"


class LevelName(StrEnum):
    """Relaxations."""

    cascade = "cascade"
    q2 = "q2"
    r2 = "r2"
    o2 = "o2"


File = Annotated[
    Path | None, typer.Argument(metavar="[FILE.npz]", help="Images: heatmaps, or detected points.", show_default=False)
]
CalibrationFile = Annotated[
    Path, typer.Argument(metavar="CALIBRATION.json", help="What 'pose calibrate' has written.", show_default=False)
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Instead of a file: a folder in the BOP format (or the environment variable UQSPARSE_LMO).",
        show_default=False,
    ),
]
Objects = Annotated[
    list[int] | None,
    typer.Option("--object", metavar="ID", help="Object of the folder (all); may be given several times."),
]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]


@pose.callback(invoke_without_command=True)
def _show_help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@pose.command()
def calibrate(
    out: Annotated[Path, typer.Option(metavar="CALIBRATION.json", help="File for the thresholds.")],
    file: File = None,
    eps: Annotated[float, typer.Option(help="Share of images whose keypoints may leave their regions.")] = 0.1,
    score: Annotated[
        ScoreName, typer.Option(help="ball: discs; ellipse: ellipses shaped as the heatmaps or covariances are.")
    ] = ScoreName.ball,
    top: Annotated[int, typer.Option(min=1, help="Pixels of a heatmap that count, for ellipses.")] = 100,
    data_dir: DataDir = None,
    object_: Objects = None,
    seed: Seed = 0,
) -> None:
    """Find how large regions must be to hold all keypoints of a new image at once.

    FILE.npz has the true keypoints (n, K, 2) and either heatmaps (n, K, h, w) or points (n, K, 2) with a confidence
    (n, K) or a covariance (n, K, 2, 2), and, as you like, seen (n, K) and groups (n,), each group getting its own
    threshold. Pixel (row r, column c) has its centre at (c + 0.5, r + 0.5). The detector must not have been trained
    on these images.

    Of a BOP folder, the detections are the keypoints of the estimated poses. Half of the images of each object
    calibrate, drawn at random; the others are left for 'predict' and 'bound'.
    """
    try:
        from uqsparse.cli.output_files import check_file, write_json
        from uqsparse.cli.pose_calibration import calibrated, calibration_record

        check_file(out)
        parts = _read(file, data_dir, object_, score.value, top, ("keypoints",))
        source = _source(file, data_dir)
        found = calibrated(parts, source, score.value, eps, top, half=file is None, seed=seed)
        write_json(out, calibration_record(found))
    except (ValueError, TypeError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        _interrupted()
    for one in found.thresholds:
        name = "" if one.group is None else f"{'group' if file else 'object'} {one.group}: "
        typer.echo(f"{name}threshold {one.threshold:.4g} from {one.guarantee.n} images of {one.n_keypoints} keypoints")
        if one.threshold == float("inf"):
            typer.echo("  too few images for this eps: the regions are the whole plane")
    guarantee = found.thresholds[0].guarantee
    typer.echo(f"The regions of an image hold all its keypoints with probability at least {guarantee.level:.6g}")
    typer.echo(f"Written to {out}")


@pose.command()
def predict(
    calibration: CalibrationFile,
    out: Annotated[Path, typer.Option(metavar="FILE.json|DIR", help="File for the regions, or folder for it.")],
    file: File = None,
    data_dir: DataDir = None,
    object_: Objects = None,
) -> None:
    """Give the regions of the keypoints in new images.

    FILE.npz is as for 'calibrate'; with keypoints, it is counted how many images have them all in their regions. A
    point y lies in a region where (y - centre)^T information (y - centre) <= 1.
    """
    try:
        from uqsparse.cli.output_files import check_file, write_json
        from uqsparse.cli.pose_calibration import read_calibration, region_record
        from uqsparse.cli.pose_images import in_order

        path = out / "regions.json" if out.is_dir() else out
        check_file(path)
        found = read_calibration(calibration)
        parts = _new_images(found, file, data_dir, object_, ())
        regions = {id(part): found.regions(part) for part in parts}
        inside = {
            id(part): None if part.keypoints is None else regions[id(part)].contains(part.keypoints) for part in parts
        }
        images: list[dict[str, Any]] = []
        for part, row in in_order(parts):
            hit = inside[id(part)]
            record = {"image": int(part.images[row]), "group": part.group, "threshold": regions[id(part)].threshold}
            if hit is not None:
                record["holds_keypoints"] = bool(hit[row])
            images.append({**record, "regions": region_record(regions[id(part)], row)})
        labelled = [one["holds_keypoints"] for one in images if "holds_keypoints" in one]
        record = {
            "calibration": str(calibration),
            "source": _source(file, data_dir),
            "score": found.score,
            "eps": found.eps,
            "labelled_images": len(labelled),
            "images_that_hold_their_keypoints": sum(labelled),
            "guarantees": [{"group": part.group, **found.threshold_of(part).guarantee.to_dict()} for part in parts],
            "images": images,
        }
        write_json(path, record)
    except (ValueError, TypeError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        _interrupted()
    typer.echo(f"{len(images)} images at level {1 - found.eps:.6g}")
    if labelled:
        share = sum(labelled) / len(labelled)
        typer.echo(f"{sum(labelled)} of {len(labelled)} have all keypoints in their regions ({share:.3f})")
    typer.echo(f"Written to {path}")


@pose.command()
def bound(
    calibration: CalibrationFile,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for bounds.json and pictures; made if missing.")],
    file: File = None,
    image: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            metavar="I",
            help=f"Image (the first {_FEW}); may be given several times. Counted from 0 in a file.",
            show_default=False,
        ),
    ] = None,
    level: Annotated[
        LevelName, typer.Option(help="q2: fast; r2: usually exact; o2: slow; cascade: as far up as it pays.")
    ] = LevelName.cascade,
    samples: Annotated[int, typer.Option(min=1, help="Draws from the pose set.")] = 1000,
    data_dir: DataDir = None,
    object_: Objects = None,
    seed: Seed = 0,
) -> None:
    """Bound how wrong the pose of an object can be, whatever pose puts its keypoints into their regions.

    FILE.npz is as for 'predict', with points3d (K, 3) in the object's frame and intrinsics (3, 3) or (n, 3, 3) of the
    camera, in pixels of the heatmaps or points; with true poses R_true (n, 3, 3) and t_true (n, 3), their errors are
    shown. A pose takes a point Y of the object to R Y + t.
    """
    try:
        from uqsparse.cli.output_files import check_folder, json_text, write_together
        from uqsparse.cli.pose_calibration import read_calibration
        from uqsparse.cli.pose_errors import errors_record, errors_sentence, key_of, pose_errors
        from uqsparse.cli.pose_plots import PoseView, pose_figure

        check_folder(out)
        found = read_calibration(calibration)
        parts = _new_images(found, file, data_dir, object_, ("points3d", "intrinsics"))
        chosen = _chosen(parts, image, found)
        # Everything that can be refused is, before the first image takes its time.
        views = [_view(found, part, row) for part, row in chosen]
        records, figures = [], {}
        for (part, row), (poses, truth) in zip(chosen, views, strict=True):
            number = int(part.images[row])
            key = key_of(seed, found.thresholds.index(found.threshold_of(part)), number)

            def work(key: Any = key, poses: Any = poses, truth: Any = truth) -> Any:
                return pose_errors(key, poses, samples, level.value, truth)

            errors, notes = in_a_thread(work)
            title = f"image {number}" + ("" if part.group is None else f", {_kind(file)} {part.group}")
            name = ("" if part.group is None else f"{_kind(file)}_{_safe(part.group)}_") + f"image_{number}.png"
            view = PoseView(title, part.unit, found.regions(part.rows([row])), part.rows([row]))
            figures[name] = pose_figure(view, errors)
            records.append(
                {"image": number, "group": part.group, "picture": name, **errors_record(errors), "notes": notes}
            )
            typer.echo(f"{title}: {errors_sentence(errors, part.unit)}")
            for note in notes:
                typer.echo(f"  warning: {note}")
        record = {
            "calibration": str(calibration),
            "source": _source(file, data_dir),
            "score": found.score,
            "eps": found.eps,
            "level": level.value,
            "seed": seed,
            "unit": parts[0].unit or "that of points3d",
            "images": records,
        }
        text = json_text(record)
        writers: dict[str, Any] = {"bounds.json": lambda path: path.write_text(text, encoding="utf-8")}
        writers |= {name: figure.savefig for name, figure in figures.items()}
        write_together(out, writers)
    except (ValueError, TypeError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        _interrupted()
    if any(one["average"] is not None for one in records):
        typer.echo(f"No error exceeds its bound, with probability at least {1 - found.eps:.6g} for a new image")
    typer.echo(f"Written to {out}: {', '.join(writers)}")


def _interrupted() -> None:
    typer.echo("interrupted: nothing was written", err=True)
    raise typer.Exit(130) from None


def _kind(file: Path | None) -> str:
    return "group" if file else "object"


def _safe(name: str) -> str:
    return "".join(one if one.isalnum() or one in "-._" else "-" for one in name)


def _source(file: Path | None, data_dir: Path | None) -> str:
    from uqsparse.data.bop import bop_folder

    return str(file if file is not None else bop_folder(data_dir))


def _read(
    file: Path | None, data_dir: Path | None, objects: list[int] | None, score: str, top: int, needed: tuple[str, ...]
) -> list["PoseImages"]:
    """Images from the file, or from the folder if there is no file."""
    from uqsparse.cli.pose_images import read_bop, read_npz

    if file is not None:
        given = {"--data-dir": data_dir is not None, "--object": bool(objects)}
        if clash := [name for name, is_given in given.items() if is_given]:
            raise ValueError(f"{' and '.join(clash)} and a file are given: the images come from a file or a folder")
        return read_npz(file, score, top, needed)
    if score != "ball":
        raise ValueError("the poses of a BOP folder come without covariances: its regions are balls (--score ball)")
    return read_bop(data_dir, objects)


def _new_images(
    found: "PoseCalibration",
    file: Path | None,
    data_dir: Path | None,
    objects: list[int] | None,
    needed: tuple[str, ...],
) -> list["PoseImages"]:
    """Images that the calibration does not rest on."""
    import numpy as np

    if file is None and not objects:
        # the objects that were calibrated
        objects = [int(one.group) for one in found.thresholds if one.group is not None and one.group.isdigit()]
    parts = []
    for part in _read(file, data_dir, objects, found.score, found.top, needed):
        used = found.threshold_of(part).images
        part = part.rows(np.flatnonzero(~np.isin(part.images, used))) if used else part
        if len(part.images):
            parts.append(part)
    if not parts:
        raise ValueError("every image was used to calibrate: none is left")
    return parts


def _chosen(
    parts: list["PoseImages"], images: list[int] | None, found: "PoseCalibration"
) -> list[tuple["PoseImages", int]]:
    """The images asked for, as part and row; the first few of all if none are."""
    from uqsparse.cli.pose_images import in_order

    if not images:
        return list(in_order(parts))[:_FEW]
    places = [(part, row) for part, row in in_order(parts) if part.images[row] in images]
    there = {int(part.images[row]) for part, row in places}
    for one in images:
        if one not in there:
            used = any(one in threshold.images for threshold in found.thresholds)
            why = "it was used to calibrate" if used else "there is no such image"
            left = [int(part.images[row]) for part, row in in_order(parts)]
            some = ", ".join(map(str, dict.fromkeys(left[:8]))) + (", ..." if len(left) > 8 else "")
            raise ValueError(f"--image {one}: {why}; the images to choose from are {some}")
    return places


def _view(found: "PoseCalibration", part: "PoseImages", row: int) -> tuple["PoseUncertaintySet", Any]:
    """The pose set of an image, and its true pose if that is known."""
    from uqsparse.bounds.pose import PoseUncertaintySet

    assert part.points3d is not None
    assert part.intrinsics is not None
    try:
        poses = PoseUncertaintySet.from_regions(found.regions(part), part.points3d, part.intrinsics[row], row)
        if part.R_true is None or part.t_true is None:
            return poses, None
        poses.contains(part.R_true[row], part.t_true[row])  # refuses what is no pose
        return poses, (part.R_true[row], part.t_true[row])
    except ValueError as error:
        raise ValueError(f"image {int(part.images[row])}: {error}") from None
