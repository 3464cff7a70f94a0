"""ArviZ data out: one adapter for ArviZ 0.22+ (`InferenceData`) and 1.x (`DataTree`).

The two differ in how data are built and read. ArviZ 0.23 accepts the nested dictionary of 1.x without an
error and files it under the wrong groups, so the version number decides here, never a `try`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray
from numpyro import handlers

from uqsparse.inference.model_sites import ModelSites, inspect_model
from uqsparse.inference.precision import retry_after_precision_clash
from uqsparse.whole_file import whole_file

Groups = Mapping[str, Mapping[str, Any]]

# Pointwise log likelihoods are computed in batches of draws that hold about this many numbers.
_BATCH_NUMBERS = 2**22
# ArviZ is imported where it is used, in all of the package: it takes seconds, and most runs do without it.


def arviz_major() -> int:
    """Return the installed ArviZ's major version: 0 for `InferenceData`, 1 or more for `DataTree`."""
    import arviz

    return int(arviz.__version__.split(".")[0])


def to_arviz(groups: Groups, attributes: Mapping[str, Any] | None = None) -> Any:
    """Build ArviZ data from arrays.

    Args:
        groups: group name to variable name to array. Arrays of `posterior`, `sample_stats` and
            `log_likelihood` start with the axes (chain, draw); those of `observed_data` and `constant_data`
            have no such axes. Empty groups are left out.
        attributes: what is known about the run, as numbers, strings or flat lists of them, so that netCDF can
            hold it. They are written at the root and on the posterior.

    Returns:
        `arviz.InferenceData` (ArviZ 0.x) or `xarray.DataTree` (ArviZ 1.x).

    Raises:
        ValueError: if there is no posterior, or arrays disagree on the numbers of chains and draws.

    >>> data = to_arviz({"posterior": {"mu": np.zeros((2, 5))}}, {"algorithm": "NUTS"})
    >>> dict(dataset(data, "posterior").sizes), attributes(data)["algorithm"]
    ({'chain': 2, 'draw': 5}, 'NUTS')
    """
    import arviz

    arrays = {
        group: {name: np.asarray(value) for name, value in variables.items()}
        for group, variables in groups.items()
        if variables
    }
    _check_shapes(arrays)
    notes = _netcdf_attributes(attributes or {})
    if arviz_major() >= 1:
        data = arviz.from_dict(arrays, attrs={"/": dict(notes), "posterior": dict(notes)})
    else:
        # ArviZ 0.x takes keys out of the attributes it is given, hence the copies.
        keywords: dict[str, Any] = {**arrays, "attrs": dict(notes), "posterior_attrs": dict(notes)}
        data = arviz.from_dict(**keywords)
    return data


def dataset(data: Any, group: str = "posterior") -> xarray.Dataset:
    """Read one group of ArviZ data as an `xarray.Dataset`, whichever ArviZ made it.

    Args:
        data: `InferenceData` or `DataTree`.
        group: the group's name.

    Raises:
        TypeError: if `data` is neither.
        KeyError: if there is no such group; the message lists those there are.
    """
    names = group_names(data)
    if group not in names:
        raise KeyError(f"no group {group!r}; there are {', '.join(names) or 'none'}")
    found = data[group]
    return found.to_dataset() if isinstance(found, xarray.DataTree) else found


def group_names(data: Any) -> tuple[str, ...]:
    """List the groups of ArviZ data, without leading slashes.

    Raises:
        TypeError: if `data` is neither `InferenceData` nor `DataTree`.
    """
    import arviz

    if isinstance(data, xarray.DataTree):
        return tuple(data.children)
    if arviz_major() < 1 and isinstance(data, arviz.InferenceData):
        return tuple(name.lstrip("/") for name in data.groups())
    raise TypeError(f"data must be ArviZ InferenceData or an xarray DataTree, got {type(data).__name__}")


def attributes(data: Any) -> dict[str, Any]:
    """Read the attributes of the run that `to_arviz` wrote."""
    return dict(dataset(data, "posterior").attrs) if "posterior" in group_names(data) else dict(data.attrs)


def posterior_to_arviz(
    model: Callable,
    args: Sequence,
    kwargs: Mapping[str, Any],
    posterior: Mapping[str, Any],
    sample_stats: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
    *,
    log_likelihood: bool = True,
    sites: ModelSites | None = None,
) -> Any:
    """Turn posterior draws of a NumPyro model into ArviZ data with `log_likelihood` and `observed_data`.

    Args:
        model: the NumPyro model function.
        args: positional arguments it was sampled with.
        kwargs: keyword arguments it was sampled with.
        posterior: site name to draws of shape (chain, draw, ...), in the constrained space.
        sample_stats: statistic name to array of shape (chain, draw).
        attributes: see `to_arviz`.
        log_likelihood: compute the log likelihood of every observation at every draw. It holds
            chains * draws * observations numbers; turn it off where that is too much.
        sites: what `inspect_model` found, if it has been called already.

    Returns:
        ArviZ data. A model without observed sites has no `log_likelihood` and no `observed_data`.
    """
    sites = inspect_model(model, args, kwargs) if sites is None else sites
    groups: dict[str, Mapping[str, Any]] = {"posterior": posterior, "sample_stats": sample_stats or {}}
    if sites.observed:
        groups["observed_data"] = sites.observed
        if log_likelihood:
            groups["log_likelihood"] = retry_after_precision_clash(
                lambda: pointwise_log_likelihood(model, args, kwargs, posterior, sites=sites)
            )
    notes = {"deterministic_sites": list(sites.deterministic), **(attributes or {})}
    return to_arviz(groups, notes)


def pointwise_log_likelihood(
    model: Callable,
    args: Sequence,
    kwargs: Mapping[str, Any],
    posterior: Mapping[str, Any],
    *,
    sites: ModelSites | None = None,
) -> dict[str, np.ndarray]:
    """Compute the log likelihood of each observation at each draw.

    The numbers are those of the observed distributions themselves: masks count, `handlers.scale` does not,
    because a scaled term is no longer the density of one observation.

    Args:
        model: the NumPyro model function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        posterior: site name to draws of shape (chain, draw, ...); sites the model does not draw are ignored.
        sites: what `inspect_model` found, if it has been called already.

    Returns:
        Observed site to array of shape (chain, draw, *batch shape of the site).

    Raises:
        ValueError: if a latent site of the model has no draws in `posterior`.
    """
    sites = inspect_model(model, args, kwargs) if sites is None else sites
    missing = [name for name in sites.latent if name not in posterior]
    if missing:
        raise ValueError(f"posterior lacks draws of the latent site(s) {', '.join(missing)}")
    latent = {name: np.asarray(posterior[name]) for name in sites.latent}
    if not sites.observed or not latent:
        return {}
    n_chains, n_draws = next(iter(latent.values())).shape[:2]
    flat = {name: value.reshape(n_chains * n_draws, *value.shape[2:]) for name, value in latent.items()}

    def one_draw(draw: dict[str, Any]) -> dict[str, Any]:
        substituted = handlers.seed(handlers.substitute(model, draw), jax.random.key(0))
        trace = handlers.trace(substituted).get_trace(*args, **kwargs)
        return {name: trace[name]["fn"].log_prob(trace[name]["value"]) for name in sites.observed}

    numbers = sum(value.size for value in sites.observed.values())
    batch = max(1, min(n_chains * n_draws, _BATCH_NUMBERS // max(1, numbers)))
    mapped = jax.jit(lambda draws: jax.lax.map(one_draw, draws, batch_size=batch))(flat)
    return {name: np.asarray(v).reshape(n_chains, n_draws, *v.shape[1:]) for name, v in mapped.items()}


def save(data: Any, path: str | os.PathLike) -> None:
    """Write ArviZ data to a netCDF file, whole or not at all.

    The file appears under its name only when it is complete, so an interrupted run never damages an older
    one.

    Args:
        data: `InferenceData` or `DataTree`.
        path: where to write; the directory must exist.

    Raises:
        OSError: if the directory is missing or cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"directory {str(path.parent)!r} does not exist")
    with whole_file(path) as draft:
        data.to_netcdf(str(draft), engine="h5netcdf")


def load(path: str | os.PathLike) -> Any:
    """Read ArviZ data from a netCDF file written by `save` (or by ArviZ)."""
    import arviz

    return arviz.from_netcdf(str(path), engine="h5netcdf")


def _check_shapes(arrays: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    if "posterior" not in arrays:
        raise ValueError("groups must hold a non-empty 'posterior'")
    expected: tuple[int, ...] | None = None
    for group, variables in arrays.items():
        if group.endswith("data"):
            continue
        for name, value in variables.items():
            expected = value.shape[:2] if expected is None else expected
            if value.ndim < 2 or value.shape[:2] != expected:
                raise ValueError(
                    f"{group}[{name!r}] has shape {value.shape}; its first two axes must be (chain, draw) = {expected}"
                )


def _netcdf_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Put attributes into the types netCDF has: no booleans, and nothing for `None` and empty lists."""
    notes: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, bool | np.bool_):
            notes[name] = int(value)
        elif isinstance(value, str):
            notes[name] = value
        elif value is not None and np.size(value):
            notes[name] = np.asarray(value).tolist()
    return notes
