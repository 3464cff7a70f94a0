"""Prediction sets as a group of ArviZ data."""

from typing import Any

import arviz
import numpy as np
import xarray

from uqsparse.bounds.regions import Boxes, IntervalUnions, LabelSets, Region
from uqsparse.inference.arviz_io import arviz_major

GROUP = "conformal"


def conformal_dataset(region: Region, pvalue: Any = None) -> xarray.Dataset:
    """The sets, thresholds and p-values as an `xarray.Dataset` with the guarantee in its attributes.

    Its variables are `lower` and `upper` (`member` for label sets), `threshold` and `pvalue`, over the dimension
    `observation`; and `level` in front where several were asked for.
    """
    last = {IntervalUnions: ("part",), Boxes: ("output",), LabelSets: ("label",)}.get(type(region), ())
    variables = {
        name: np.asarray(getattr(region, name)) for name in ("lower", "upper", "member") if hasattr(region, name)
    }
    first = next(iter(variables.values()))
    front = ("level",) if first.ndim > 1 + len(last) else ()
    dims = (*front, "observation", *last)
    contents: dict[str, Any] = {name: (dims, value) for name, value in variables.items()}
    if region.threshold is not None:
        threshold = np.asarray(region.threshold)
        wide = threshold.reshape(*threshold.shape, *[1] * (len(front) + 1 - threshold.ndim))
        contents["threshold"] = (dims[: len(front) + 1], np.broadcast_to(wide, first.shape[: len(front) + 1]))
    if pvalue is not None:
        pvalue = np.asarray(pvalue)
        if pvalue.shape != (first.shape[len(front)],):
            raise ValueError(f"pvalue has shape {pvalue.shape}; the sets are for {first.shape[len(front)]} points")
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
