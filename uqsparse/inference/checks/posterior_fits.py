"""Posteriors of a batch of simulated data sets, by NUTS or by the sampler that is to be checked."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from uqsparse.inference.checks.ranked_statistics import RankedStatistics
from uqsparse.inference.checks.short_chains import short_chain
from uqsparse.inference.checks.simulated_model import SimulatedModel, Values


class Fits(NamedTuple):
    """Draws from n posteriors.

    Args:
        statistics: of each draw, shape (n, n_draws, s).
        last: latent values of the last draw of each, leading axis n.
        n_divergent: divergent transitions in all.
    """

    statistics: Float[np.ndarray, "n d s"]
    last: Values
    n_divergent: int


class Fitter(Protocol):
    """Fits a batch of data sets; with `use_replicate=False` the real data alone, as often as the batch is large."""

    name: str
    can_thin: bool

    def __call__(self, keys: Array, data: Values, thin: int, use_replicate: bool = True) -> Fits: ...


class NutsFitter:
    """NumPyro's NUTS, one short chain for each data set.

    Args:
        model: the model.
        statistics: what is wanted of the draws.
        n_draws: draws of each posterior.
        real: real data; None unless replicates are fitted together with them.
        n_warmup: adaptation steps.
        options: of `numpyro.infer.NUTS`.

    Raises:
        ValueError: the model has discrete latent sites; or, when called, a chain found no finite density.
    """

    can_thin = True

    def __init__(
        self,
        model: SimulatedModel,
        statistics: RankedStatistics,
        n_draws: int,
        real: Values | None,
        n_warmup: int,
        options: Mapping[str, Any],
    ) -> None:
        if model.discrete:
            raise ValueError(
                f"model {model.name!r} has discrete latent site(s) {', '.join(model.discrete)}, which NUTS cannot "
                "sample: sum them out or pass a sampler"
            )
        self.name = f"NUTS ({n_warmup} steps of warm-up)"

        def fit(key: Array, data: Values, use_replicate: Array, thin: Array) -> Any:
            given = model.given(data) if real is None else model.given_both(real, data, use_replicate)
            chain = short_chain(key, given, model.latent, n_warmup, n_draws, thin, **options)
            of_draws = jax.vmap(statistics, (0, None))(chain.draws, data)
            return of_draws, jax.tree.map(lambda x: x[-1], chain.draws), chain.n_divergent, chain.is_finite

        self._fit = jax.jit(jax.vmap(fit, (0, 0, None, None)))

    def __call__(self, keys: Array, data: Values, thin: int, use_replicate: bool = True) -> Fits:
        statistics, last, n_divergent, is_finite = self._fit(keys, data, np.asarray(use_replicate), np.asarray(thin))
        bad = np.flatnonzero(~np.asarray(is_finite))
        if bad.size:
            raise ValueError(
                "NUTS found no finite log density to start from, or lost it, with simulated data "
                f"{excerpt(data, bad[0])}"
            )
        return Fits(np.asarray(statistics), last, int(np.sum(n_divergent)))


class SamplerFitter:
    """A sampler of the user; see `uqsparse.inference.checks.sbc` for its contract.

    Args:
        model: the model.
        statistics: what is wanted of the draws.
        n_draws: draws of each posterior.
        real: real data; None unless replicates are fitted together with them.
        sampler: what is to be checked.
        vectorized: whether it may be mapped over and compiled.
        double_precision: whether JAX is to be in double precision while a sampler that is not vectorised runs.

    Raises:
        TypeError: when called, the sampler returns no dict of draws of all latent sites.
        ValueError: when called, it returns too few draws.
    """

    can_thin = False

    def __init__(
        self,
        model: SimulatedModel,
        statistics: RankedStatistics,
        n_draws: int,
        real: Values | None,
        sampler: Callable[..., Mapping[str, Any]],
        vectorized: bool,
        double_precision: bool,
    ) -> None:
        self._model, self._n_draws, self._real, self._sampler = model, n_draws, real, sampler
        self._vectorized, self._double_precision = vectorized, double_precision
        self.name = getattr(sampler, "__name__", type(sampler).__name__)

        def fit(key: Array, data: Values, use_replicate: bool) -> tuple[Any, Values]:
            draws = self._evenly_spaced(self._ask(key, data, use_replicate), jnp.asarray)
            return jax.vmap(statistics, (0, None))(draws, data), jax.tree.map(lambda x: x[-1], draws)

        self._fit = jax.jit(jax.vmap(fit, (0, 0, None)), static_argnums=2)
        self._statistics = jax.jit(jax.vmap(jax.vmap(statistics, (0, None))))

    def _ask(self, key: Array, data: Values, use_replicate: bool) -> Mapping[str, Any]:
        if self._real is None:
            return self._sampler(key, data)
        real = self._real if self._vectorized else jax.tree.map(np.asarray, self._real)
        return self._sampler(key, real, data if use_replicate else None)

    def _evenly_spaced(self, draws: Any, as_array: Callable[[Any], Any]) -> Values:
        if not isinstance(draws, Mapping):
            raise TypeError(f"sampler returned {type(draws).__name__}; expected a dict of draws by latent site")
        missing = [name for name in self._model.latent if name not in draws]
        if missing:
            raise TypeError(f"sampler returned no draws of {', '.join(missing)}")
        taken = {}
        for name in self._model.latent:
            values = as_array(draws[name])
            n = values.shape[0] if values.ndim else 0
            if n < self._n_draws:
                raise ValueError(
                    f"sampler returned {n} draws of {name!r}; n_ranks = {self._n_draws + 1} needs {self._n_draws}"
                )
            taken[name] = values[(np.arange(1, self._n_draws + 1) * n) // self._n_draws - 1]
        return taken

    def __call__(self, keys: Array, data: Values, thin: int, use_replicate: bool = True) -> Fits:
        if self._vectorized:
            statistics, last = self._fit(keys, data, use_replicate)
            return Fits(np.asarray(statistics), last, 0)
        shown = jax.tree.map(np.asarray, data)
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.enable_x64(self._double_precision))
            each = [
                self._evenly_spaced(
                    self._ask(key, {name: x[i] for name, x in shown.items()}, use_replicate), np.asarray
                )
                for i, key in enumerate(keys)
            ]
        draws = jax.tree.map(lambda *x: _wide(np.stack(x)), *each)
        return Fits(np.asarray(self._statistics(draws, data)), jax.tree.map(lambda x: x[:, -1], draws), 0)


def excerpt(data: Values, place: Any) -> str:
    """One data set of a batch, shortened."""
    shown = {name: np.array2string(np.asarray(x)[place], threshold=6, precision=4) for name, x in data.items()}
    return ", ".join(f"{name} = {text}" for name, text in shown.items())


def _wide(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64) if values.dtype.kind == "f" else values
