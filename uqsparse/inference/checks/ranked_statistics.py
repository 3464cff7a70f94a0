"""Numbers that simulation-based calibration ranks: scalars of parameters, and functions of them and the data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from uqsparse.inference.checks.simulated_model import SimulatedModel, Values

LOG_LIKELIHOOD = "log likelihood"


class RankedStatistics:
    """Statistics of a model's latent values and observations.

    Args:
        model: the model.
        parameters: latent sites whose scalars count; all if None.
        log_likelihood: whether the log likelihood counts.
        extra: further functions of (latent values, data), by name, each to a scalar.

    Raises:
        ValueError: a parameter is no latent site, or nothing is left.
    """

    def __init__(
        self,
        model: SimulatedModel,
        parameters: Sequence[str] | None,
        log_likelihood: bool,
        extra: Mapping[str, Callable[[Values, Values], Any]] | None,
    ) -> None:
        unknown = [name for name in parameters or () if name not in model.latent]
        if unknown or isinstance(parameters, str):
            raise ValueError(f"parameters must be a tuple of latent sites, {model.latent}, got {parameters!r}")
        self._model, self._log_likelihood, self._extra = model, log_likelihood, dict(extra or {})
        self._sites = model.latent if parameters is None else tuple(parameters)
        if not self._sites and not self._extra and not log_likelihood:
            raise ValueError("there is nothing to rank: parameters and statistics are empty, log_likelihood is False")

    def __call__(self, latent: Values, data: Values) -> Float[Array, " s"]:
        """The statistics at one set of latent values and data; traceable."""
        parts = [jnp.ravel(latent[name]) for name in self._sites]
        for name, function in self._extra.items():
            value = jnp.asarray(function(latent, data))
            if value.ndim:
                raise ValueError(f"statistics[{name!r}] returned shape {value.shape}; expected a scalar")
            parts.append(value[None])
        if self._log_likelihood:
            parts.append(self._model.log_likelihood(latent, data)[None])
        return jnp.concatenate([part.astype(float) for part in parts])

    def names(self, latent: Values) -> tuple[str, ...]:
        """Names of the statistics, in the same order, for latent values with a leading axis."""
        names = []
        for site in self._sites:
            names += [f"{site}{list(place) if place else ''}" for place in np.ndindex(np.shape(latent[site])[1:])]
        return (*names, *self._extra, *((LOG_LIKELIHOOD,) if self._log_likelihood else ()))
