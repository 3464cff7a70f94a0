"""What a NumPyro model contains: its latent and observed sites, and whether its data are fit to be used."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import init_to_uniform
from numpyro.primitives import Messenger


class ModelSites(NamedTuple):
    """The sites of one run of a NumPyro model.

    Args:
        latent: names of the continuous latent sites, in order of appearance.
        discrete: names of the latent sites with discrete support.
        observed: value of each observed site; factor sites observe nothing and are not among them.
        factors: names of the `numpyro.factor` sites.
        deterministic: names of the `numpyro.deterministic` sites.
        subsampled: names of the plates that show only part of the data.
        shapes: shape of each sample site, as its distribution states it.
    """

    latent: tuple[str, ...]
    discrete: tuple[str, ...]
    observed: dict[str, np.ndarray]
    factors: tuple[str, ...]
    deterministic: tuple[str, ...]
    subsampled: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]


def model_name(model: Callable) -> str:
    """Name a model as its author would: the function's name, also inside `functools.partial` and handlers."""
    function, _, _ = unwrap(model, (), {})
    return getattr(function, "__name__", type(function).__name__)


def trace_model(model: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Run a NumPyro model once, with latent values near the middle of their supports, and return its trace.

    Raises:
        ValueError: if the model itself fails on these arguments; the message carries the model's own error.
    """
    # The same handlers as NumPyro's own initialisation, so that the little programs compiled here are reused
    # there.
    seeded = handlers.substitute(handlers.seed(model, jax.random.key(0)), substitute_fn=init_to_uniform)
    try:
        return handlers.trace(seeded).get_trace(*args, **kwargs)
    except Exception as error:
        first_line = (str(error).strip() or "no message").splitlines()[0]
        raise ValueError(
            f"model {model_name(model)!r} failed on its arguments: {type(error).__name__}: {first_line}"
        ) from error


def inspect_model(model: Callable, args: Sequence = (), kwargs: Mapping[str, Any] | None = None) -> ModelSites:
    """Run a NumPyro model once and list its sites.

    Args:
        model: a NumPyro model function.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Returns:
        The sites by kind.

    Raises:
        ValueError: if the model itself fails on these arguments (the message carries the model's own error), or
            observed values do not fit their distribution.

    >>> import numpyro, numpyro.distributions as dist
    >>> def coin(heads):
    ...     p = numpyro.sample("p", dist.Beta(1, 1))
    ...     numpyro.sample("heads", dist.Binomial(10, p), obs=heads)
    >>> sites = inspect_model(coin, (7,))
    >>> sites.latent, sorted(sites.observed)
    (('p',), ['heads'])
    """
    trace = trace_model(model, args, kwargs or {})
    samples = {name: site for name, site in trace.items() if site["type"] == "sample"}
    latent = {name: site for name, site in samples.items() if not site["is_observed"]}
    discrete = tuple(name for name, site in latent.items() if site["fn"].support.is_discrete)
    factors = tuple(name for name, site in samples.items() if is_factor(site))
    for name, site in samples.items():
        if site["is_observed"] and name not in factors:
            _require_fitting_shape(model, name, np.shape(site["value"]), site["fn"].shape())
    return ModelSites(
        latent=tuple(name for name in latent if name not in discrete),
        discrete=discrete,
        observed={
            name: np.asarray(site["value"])
            for name, site in samples.items()
            if site["is_observed"] and name not in factors
        },
        factors=factors,
        deterministic=tuple(name for name, site in trace.items() if site["type"] == "deterministic"),
        subsampled=tuple(
            name
            for name, site in trace.items()
            if site["type"] == "plate" and site["args"][1] is not None and site["args"][1] < site["args"][0]
        ),
        shapes={name: tuple(site["fn"].shape()) for name, site in samples.items()},
    )


def _require_fitting_shape(model: Callable, name: str, value: tuple[int, ...], expected: tuple[int, ...]) -> None:
    try:
        np.broadcast_shapes(value, expected)
    except ValueError:
        raise ValueError(
            f"observed site {name!r} of model {model_name(model)!r} has values of shape {value}, "
            f"its distribution has shape {expected}"
        ) from None


def is_factor(site: Mapping[str, Any]) -> bool:
    """Tell whether a trace's sample site came from `numpyro.factor`, also when a handler has wrapped it."""
    fn = site["fn"]
    while not isinstance(fn, dist.Unit) and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Unit)


def require_finite_data(model: Callable, args: Sequence = (), kwargs: Mapping[str, Any] | None = None) -> None:
    """Refuse model arguments that hold NaN or infinite numbers.

    Args:
        model: the model the arguments are for; its signature gives them their names.
        args: positional arguments, any pytrees.
        kwargs: keyword arguments, any pytrees.

    Raises:
        TypeError: if the arguments do not fit the model's signature.
        ValueError: if one holds NaN or an infinite number; the message names the argument.
    """
    for name, value in named_arguments(model, args, kwargs or {}).items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(value):
            _require_finite(f"argument {name + jax.tree_util.keystr(path)!r} of model {model_name(model)!r}", leaf)


def require_finite_observations(model: Callable, observed: Mapping[str, np.ndarray]) -> None:
    """Refuse observed sites that hold NaN or infinite numbers (data that the model did not get as an
    argument).

    Raises:
        ValueError: naming the site.
    """
    for name, value in observed.items():
        _require_finite(f"observed site {name!r} of model {model_name(model)!r}", value)


def unwrap(model: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> tuple[Callable, Sequence, Mapping[str, Any]]:
    """Take a model out of `functools.partial` and NumPyro's handlers, with the arguments bound there."""
    while True:
        if isinstance(model, functools.partial):
            args, kwargs, model = (*model.args, *args), {**model.keywords, **kwargs}, model.func
        elif isinstance(model, Messenger) and model.fn is not None:
            model = model.fn
        else:
            return model, args, kwargs


def named_arguments(model: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Pair each argument of a model with its parameter's name, those bound by `functools.partial` included.

    Raises:
        TypeError: if the arguments do not fit the model's signature.
    """
    model, args, kwargs = unwrap(model, args, kwargs)
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):
        # Some callables have no signature; positions then stand in for names.
        return {**{f"args[{i}]": value for i, value in enumerate(args)}, **kwargs}
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"model {model_name(model)!r} cannot be called with these arguments: {error}") from None
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}[{i}]": item for i, item in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


def _require_finite(what: str, value: Any) -> None:
    if not isinstance(value, np.ndarray | np.generic | jax.Array | float | complex):
        return
    if isinstance(value, jax.Array) and not jnp.issubdtype(value.dtype, jnp.inexact):
        return
    array = np.asarray(value)
    if array.dtype.kind not in "fc" and array.dtype.name != "bfloat16":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        where = f", first at index {list(first)}" if first else ""
        raise ValueError(
            f"{what} has {int(bad.sum())} NaN or infinite value(s) out of {array.size}{where}; "
            "remove, impute or mask them before sampling"
        )
