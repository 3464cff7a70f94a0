"""Prediction sets as a group of ArviZ data."""

from typing import Any

import numpy as np
import xarray

from uqsparse.bounds.conformal_bayes_sets import ReweightedLabels, ReweightedUnions
from uqsparse.bounds.keypoint_regions import KeypointRegions
from uqsparse.bounds.regions import Boxes, Intervals, IntervalUnions, LabelSets, Region
from uqsparse.inference.arviz_io import arviz_major

GROUP = "conformal"

# The variables of a region, each with the dimensions that follow the observations.
_TRAILING: dict[type[Region], dict[str, tuple[str, ...]]] = {
    Intervals: {"lower": (), "upper": ()},
    IntervalUnions: {"lower": ("part",), "upper": ("part",)},
    Boxes: {"lower": ("output",), "upper": ("output",)},
    LabelSets: {"member": ("label",)},
    ReweightedUnions: {"lower": ("part",), "upper": ("part",), "ess": ()},
    ReweightedLabels: {"member": ("label",), "ess": ()},
    KeypointRegions: {
        "centre": ("keypoint", "coordinate"),
        "information": ("keypoint", "coordinate", "other_coordinate"),
        "seen": ("keypoint",),
    },
}


def conformal_dataset(region: Region, pvalue: Any = None) -> xarray.Dataset:
    """The sets, thresholds and p-values as an `xarray.Dataset` with the guarantee in its attributes.

    Its variables are `lower` and `upper` (`member` for label sets; `centre`, `information` and `seen` for keypoints),
    `threshold`, `pvalue` and, for sets by weights, `ess`, over the dimension `observation`; and `level` in front where
    several were asked for.

    Raises:
        TypeError: the region is of another kind.
        ValueError: the p-values are for another number of points.
    """
    if type(region) not in _TRAILING:
        known = ", ".join(kind.__name__ for kind in _TRAILING)
        raise TypeError(f"region is a {type(region).__name__}; those that become ArviZ data are {known}")
    trailing = _TRAILING[type(region)]
    name, last = next(iter(trailing.items()))
    first = np.shape(getattr(region, name))
    front = ("level",) if len(first) > 1 + len(last) else ()
    dims = (*front, "observation")
    contents: dict[str, Any] = {
        name: ((*dims, *last), np.asarray(getattr(region, name))) for name, last in trailing.items()
    }
    if region.threshold is not None:
        threshold = np.asarray(region.threshold)
        if threshold.ndim > len(dims):  # one threshold a label, for all observations or for each
            over = (*dims, *last)
            if threshold.shape[-2] == 1:
                threshold, over = threshold[..., 0, :], (*front, *last)
            contents["threshold"] = (over, threshold)
        else:
            wide = threshold.reshape(*threshold.shape, *[1] * (len(dims) - threshold.ndim))
            contents["threshold"] = (dims, np.broadcast_to(wide, first[: len(dims)]))
    if pvalue is not None:
        pvalue = np.asarray(pvalue)
        if pvalue.shape != (first[len(front)],):
            raise ValueError(f"pvalue has shape {pvalue.shape}; the sets are for {first[len(front)]} points")
        contents["pvalue"] = ("observation", pvalue)
    attributes: dict[str, Any] = {}
    if (guarantee := region.guarantee) is not None:
        level = np.asarray(guarantee.level)
        alpha = 1 - level if guarantee.alpha is None else np.asarray(guarantee.alpha)
        attributes = {
            "guarantee": guarantee.kind,
            "level": level.tolist(),
            "alpha": alpha.tolist(),
            "n": guarantee.n,
            "assumptions": list(guarantee.assumptions),
        }
    return xarray.Dataset(contents, attrs=attributes)


def add_conformal_group(data: Any, region: Region, pvalue: Any = None) -> Any:
    """Add the group `conformal` to ArviZ data, in place, or make new data of it; see `Region.to_arviz`.

    Raises:
        TypeError: `data` is no ArviZ data.
        ValueError: it has such a group already, or the p-values are for another number of points.
    """
    import arviz

    group = conformal_dataset(region, pvalue)
    if arviz_major() >= 1:
        data = xarray.DataTree() if data is None else data
        if not isinstance(data, xarray.DataTree):
            raise TypeError(f"data must be an xarray DataTree, got {type(data).__name__}")
        if GROUP in data.children:
            raise ValueError(f"data has a group {GROUP!r} already")
        data[GROUP] = xarray.DataTree(group)
        return data
    data = arviz.InferenceData() if data is None else data
    if not isinstance(data, arviz.InferenceData):
        raise TypeError(f"data must be ArviZ InferenceData, got {type(data).__name__}")
    if GROUP in data.groups():
        raise ValueError(f"data has a group {GROUP!r} already")
    data.add_groups({GROUP: group}, warn_on_custom_groups=False)
    return data
