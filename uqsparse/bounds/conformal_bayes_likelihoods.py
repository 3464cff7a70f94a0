"""Log likelihoods of single observations, from a function or from a NumPyro model, and the draws they take."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from numpyro import handlers

from uqsparse.inference.arviz_io import arviz_major, dataset
from uqsparse.inference.model_sites import ModelSites, inspect_model, model_name


@dataclass(frozen=True)
class PerObservation:
    """The likelihood that a function of one observation gives.

    Args:
        log_lik_fn: maps (draw, predictors of one row, its y) to the log density of y, a scalar.
    """

    log_lik_fn: Callable[[Any, Any, Any], Any]

    def __call__(self, draw: Any, x: Any, y: Any) -> Any:
        """Log densities (R, K) of candidates y (R, K) under one draw."""
        over_candidates = jax.vmap(self.log_lik_fn, (None, None, 0))
        return jax.vmap(over_candidates, (None, 0, 0))(draw, x, y)

    def prepare(self, draws: Any, x: Any, y: np.ndarray) -> tuple[Any, bool]:
        """Draws with one first axis, and whether y is known to be discrete.

        Raises:
            ValueError: draws have no common first axis, or the function returns no scalar.
        """
        leaves = jax.tree.leaves(draws)
        lengths = {np.shape(leaf)[:1] for leaf in leaves}
        if len(lengths) != 1 or lengths == {()}:
            raise ValueError(f"draws must share a first axis of draws; their shapes are {list(map(np.shape, leaves))}")
        one = jax.eval_shape(self.log_lik_fn, *jax.tree.map(lambda a: jnp.asarray(a)[0], (draws, x, y)))
        if jax.tree.leaves(one)[0].shape != ():
            raise ValueError(
                f"log_lik_fn returns shape {jax.tree.leaves(one)[0].shape} for one observation; expected a scalar"
            )
        return draws, False


@dataclass(frozen=True)
class ModelLikelihood:
    """The likelihood that a NumPyro model gives: the distribution at its observed site, given a draw.

    Args:
        model: the model function, `model(x, y=None)` as users write it.
        observed: the name of its argument for observed values.
        site: its observed site; None if there is one only.
    """

    model: Callable
    observed: str
    site: str | None

    def __call__(self, draw: Any, x: Any, y: Any) -> Any:
        """Log densities (R, K) of candidates y (R, K) under one draw; -inf outside the support."""
        trace = self._trace(draw, x, y[:, 0])
        fn = trace[self._only_site(trace)]["fn"]
        # One run of the model for all candidates: values broadcast over the rows' distributions.
        log_f = fn.log_prob(y.T)
        if fn.event_shape or log_f.shape != y.T.shape:
            raise ValueError(
                f"observed site of model {model_name(self.model)!r} has batch shape {fn.batch_shape} and event shape "
                f"{fn.event_shape} for {len(y)} rows; each row needs a log density of its own"
            )
        return jnp.where(fn.support(y.T), log_f, -jnp.inf).T

    def prepare(self, draws: Any, x: Any, y: np.ndarray) -> tuple[Any, bool]:
        """Draws of the latent sites with one axis of draws, and whether the observed site is discrete.

        Raises:
            ValueError: the model has factors, subsampling, no or several observed sites, or latent variables that
                belong to single rows; or draws are missing or do not fit.
        """
        args, kwargs = self._arguments(x, y)
        sites = inspect_model(self.model, args, kwargs)
        name = model_name(self.model)
        if sites.factors or sites.subsampled:
            raise ValueError(
                f"model {name!r} has factors or subsampled plates ({', '.join(sites.factors + sites.subsampled)}): its "
                "likelihood is not a product over its observations; pass ConformalBayes a log_lik_fn instead"
            )
        self._only_site(dict.fromkeys(sites.observed))
        half = max(1, len(y) // 2)
        first = jax.tree.map(lambda a: a[:half], x)
        fewer = inspect_model(self.model, *self._arguments(first, y[:half]))
        latent = sites.latent + sites.discrete
        grown = [site for site in latent if sites.shapes[site] != fewer.shapes.get(site)]
        if grown:
            raise ValueError(
                f"latent site(s) {', '.join(grown)} of model {name!r} change shape with the number of rows: given the "
                "other parameters, observations must be independent"
            )
        kept = _latent_draws(draws, sites, latent)
        trace = self._trace({site: value[0] for site, value in kept.items()}, x, y)
        return kept, bool(trace[self._only_site(trace)]["fn"].support.is_discrete)

    def _trace(self, draw: Any, x: Any, y: Any) -> dict[str, Any]:
        args, kwargs = self._arguments(x, y)
        given = handlers.seed(handlers.substitute(self.model, draw), jax.random.key(0))
        return handlers.trace(given).get_trace(*args, **kwargs)

    def _arguments(self, x: Any, y: Any) -> tuple[tuple, dict[str, Any]]:
        if isinstance(x, Mapping):
            return (), {**x, self.observed: y}
        return (tuple(x) if isinstance(x, tuple | list) else (x,)), {self.observed: y}

    def _only_site(self, observed: Mapping[str, Any]) -> str:
        names = [n for n, s in observed.items() if s is None or (s["type"] == "sample" and s["is_observed"])]
        if self.site in names:
            return self.site
        if self.site is not None or len(names) != 1:
            raise ValueError(
                f"model {model_name(self.model)!r} observes {', '.join(names) or 'nothing'} when given "
                f"{self.observed}=...; name the one site of interest by `site`, got {self.site!r}"
            )
        return names[0]


def _latent_draws(draws: Any, sites: ModelSites, latent: tuple[str, ...]) -> dict[str, Any]:
    """Draws by latent site with one axis of draws, from a mapping, an `MCMC` that has run, or ArviZ data."""
    if hasattr(draws, "get_samples"):
        draws = draws.get_samples()
    elif isinstance(draws, xarray.DataTree) or (arviz_major() < 1 and hasattr(draws, "groups")):
        draws = {str(name): variable.values for name, variable in dataset(draws, "posterior").items()}
    if not isinstance(draws, Mapping):
        raise TypeError(f"posterior must be draws by site, a NumPyro MCMC or ArviZ data, got {type(draws).__name__}")
    missing = [name for name in latent if name not in draws]
    if missing:
        raise ValueError(f"posterior lacks draws of the latent site(s) {', '.join(missing)}")
    kept = {}
    for name in latent:
        value, shape = draws[name], sites.shapes[name]
        front = np.ndim(value) - len(shape)
        if front not in (1, 2) or np.shape(value)[front:] != shape:
            raise ValueError(
                f"draws of {name!r} have shape {np.shape(value)}; expected (draw, *{shape}) or (chain, draw, *{shape})"
            )
        kept[name] = value.reshape(-1, *shape)
    if len({len(value) for value in kept.values()}) != 1:
        raise ValueError(f"numbers of draws differ: { ({name: len(value) for name, value in kept.items()}) }")
    return kept
