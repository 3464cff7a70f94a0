"""Simulation-based calibration: does a sampler return the posterior of data that were simulated from the model?

Parameters are drawn from the prior and data given them. If the sampler is right the parameters are one more draw from
the posterior that it returns, so their rank among its draws is uniform. Ranks of parameters cannot tell a sampler that
ignores the data, and returns the prior, from a right one; the rank of the log likelihood can, and is always taken too.

Posterior calibration asks the same about the data at hand: parameters are drawn from their posterior, a replicate of
the data given them, and the sampler is asked for the posterior given both.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpyro.diagnostics import effective_sample_size
from rich.progress import Progress

from uqsparse.inference.checks.posterior_fits import Fitter, NutsFitter, SamplerFitter, excerpt
from uqsparse.inference.checks.rank_verdict import RankVerdict, judge_ranks, rank_among
from uqsparse.inference.checks.ranked_statistics import RankedStatistics
from uqsparse.inference.checks.simulated_model import SimulatedModel, Values
from uqsparse.inference.model_sites import model_name, unwrap
from uqsparse.inference.precision import copy_arrays, retry_after_precision_clash
from uqsparse.kernels.arguments import require_count, require_fraction

# Draws whose autocorrelation time is at most this count as independent: even a time of 2 would take thousands of
# simulations to be seen in the ranks.
_SHORT_TIME = 1.25
_MOST_PILOTS = 3


def sbc(
    key: Array,
    model: Callable[..., Any],
    /,
    *args: Any,
    observed: Sequence[str] | None = None,
    data: Mapping[str, Any] | None = None,
    sampler: Callable[..., Mapping[str, Any]] | None = None,
    vectorized: bool = False,
    n_simulations: int = 300,
    n_ranks: int = 64,
    parameters: Sequence[str] | None = None,
    log_likelihood: bool = True,
    statistics: Mapping[str, Callable[[Values, Values], Any]] | None = None,
    n_warmup: int = 500,
    thin: int | None = None,
    max_thin: int = 32,
    nuts_options: Mapping[str, Any] | None = None,
    batch_size: int = 50,
    alpha: float = 1e-5,
    progress: bool = False,
    **kwargs: Any,
) -> RankVerdict:
    """Check a sampler by simulation-based calibration of a NumPyro model; stops as soon as it has found a fault.

    Everything but a `sampler` that is not vectorised runs in double precision. By default the sampler is NumPyro's
    NUTS, with one short chain for each simulated data set, a batch of them at once. It starts where NUTS does, not at
    the true values, so that a warm-up too short is found too.

    Args:
        key: typed key.
        model: NumPyro model function, called as `model(*args, **kwargs)`. Call it as for sampling, with its data, which
            are then replaced by simulated ones; or leave the observed sites open (`obs=None`) and name them.
        *args: positional arguments of the model.
        observed: names of the sites to simulate; by default those that the model observes when called so, or the
            keys of `data`. Other sites that it observes stay as they are.
        data: real data, by site, to condition on (posterior calibration); None to draw from the prior. A site that the
            arguments give a value need not be repeated: `data={}` takes all from there.
        sampler: `sampler(key, data)` to be checked, which returns a dict of draws, by latent site, with a leading axis
            of at least `n_ranks - 1` draws, as independent as it can make them; evenly spaced ones are taken. For
            posterior calibration it is `sampler(key, data, replicate)`, where `replicate` has the sites of `data`, or
            is None to ask for the posterior of `data` alone. Default: NUTS.
        vectorized: whether `sampler` is a JAX function that may be mapped over and compiled; otherwise it is called
            once for each simulation, with NumPy arrays.
        n_simulations: at most so many simulated data sets, at least 2.
        n_ranks: values that a rank may take, one more than the draws that are used, at least 2. The more divisors it
            has the better: bets are placed on coarser ranks as well.
        parameters: names of the latent sites whose scalars are ranked; all if None.
        log_likelihood: rank the log likelihood too. Without it a sampler that ignores the data passes. For posterior
            calibration it is that of the replicate.
        statistics: further functions of (latent values, data), by name, each to a scalar; for JAX to trace. For
            posterior calibration the data are the replicate.
        n_warmup: adaptation steps of each chain, at least 1; of the default sampler, as the next three.
        thin: keep one draw in so many; None to find the least that makes draws about independent, by pilot runs.
        max_thin: most thinning that is tried.
        nuts_options: further options of `numpyro.infer.NUTS`, for example `{"target_accept_prob": 0.95}`.
        batch_size: simulations at a time, at least 1.
        alpha: most probability of rejecting a right sampler.
        progress: show a bar.
        **kwargs: keyword arguments of the model.

    Returns:
        The verdict with the ranks, of each scalar and of the log likelihood, and the effective sample sizes. Draw it
        with its `plot()`. A failure blames the sampler or its thinning: draws that depend on each other are not uniform
        in rank either.

    Raises:
        ValueError: an argument is out of range, the model cannot be simulated, or the simulated data, a draw or a
            statistic is NaN or infinite.
        TypeError: the arguments do not fit the model, or the sampler returns no dict of draws.

    Source: Talts, Betancourt, Simpson, Vehtari & Gelman (2018), Validating Bayesian inference algorithms with
    simulation-based calibration, algorithm 1; Modrák et al. (2023), Simulation-based calibration checking for Bayesian
    computation: the choice of test quantities shapes sensitivity (the log likelihood); Säilynoja, Schmitt, Bürkner &
    Vehtari (2025), Posterior SBC: simulation-based calibration checking conditional on data.

    >>> import numpyro, numpyro.distributions as dist
    >>> def coin(heads=None):
    ...     bias = numpyro.sample("bias", dist.Beta(1.0, 1.0))
    ...     numpyro.sample("heads", dist.Binomial(10, bias), obs=heads)
    >>> def exact(key, data):
    ...     return {"bias": jax.random.beta(key, 1 + data["heads"], 11 - data["heads"], (15,))}
    >>> bool(sbc(jax.random.key(0), coin, observed=("heads",), sampler=exact, vectorized=True, n_ranks=16))
    True
    """
    require_count("n_simulations", n_simulations, 2)
    require_count("n_ranks", n_ranks, 2)
    require_count("n_warmup", n_warmup, 1)
    require_count("thin", 1 if thin is None else thin, 1)
    require_count("max_thin", max_thin, 1)
    require_count("batch_size", batch_size, 1)
    require_fraction("alpha", alpha)
    if data is not None and not isinstance(data, Mapping):
        raise TypeError(f"data must be a dict of real data by site, got {type(data).__name__}")
    _refuse_collisions(model, args)
    if observed is None and data:
        observed = tuple(data)
    double_precision = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]

    def run() -> RankVerdict:
        with jax.enable_x64(True):
            copied_args, copied_kwargs = copy_arrays((tuple(args), dict(kwargs)))
            simulated = SimulatedModel(model, copied_args, copied_kwargs, observed)
            real = None if data is None else _real_data(simulated, data)
            if real is None:
                simulated.require_proper_prior()
            ranked = RankedStatistics(simulated, parameters, log_likelihood, statistics)
            fitter: Fitter
            if sampler is None:
                fitter = NutsFitter(simulated, ranked, n_ranks - 1, real, n_warmup, nuts_options or {})
            else:
                fitter = SamplerFitter(simulated, ranked, n_ranks - 1, real, sampler, vectorized, double_precision)
            study = _Study(simulated, fitter, ranked, real, min(batch_size, n_simulations))
            return study.run(key, n_simulations, n_ranks, alpha, thin, max_thin, progress)

    return retry_after_precision_clash(run)


class _Study:
    """Simulate, fit and rank, batch by batch."""

    def __init__(
        self, model: SimulatedModel, fitter: Fitter, ranked: RankedStatistics, real: Values | None, batch: int
    ) -> None:
        self._model, self._fitter, self._ranked, self._real, self._batch = model, fitter, ranked, real, batch

        def simulate(key: Array, latent: Values | None) -> tuple[Values, Values, Array]:
            latent, data = model.simulate(key, latent)
            return latent, data, ranked(latent, data)

        self._simulate = jax.jit(jax.vmap(simulate))

    def run(
        self, key: Array, n: int, n_ranks: int, alpha: float, thin: int | None, max_thin: int, progress: bool
    ) -> RankVerdict:
        n_batches = -(-n // self._batch)
        keys = jax.random.split(key, (_MOST_PILOTS + n_batches, 3, self._batch))
        notes = []
        if not self._fitter.can_thin:
            thin = 1
        elif thin is None:
            thin, pilots = self._find_thin(keys[:_MOST_PILOTS], max_thin)
            notes.append(f"pilot runs: {pilots}")
        # The ties get numbers of their own, derived from a key that is used for nothing else.
        rng = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.fold_in(key, 1))))
        ranks: list[Int[np.ndarray, "n s"]] = []
        times: list[Float[np.ndarray, " s"]] = []
        n_divergent, names, ess, verdict = 0, (), np.zeros(0), None
        with Progress(disable=not progress, transient=True) as bar:
            for one in bar.track(keys[_MOST_PILOTS:], n_batches, description="calibration"):
                truth, draws, names, divergent = self._simulate_and_fit(one, thin)
                ranks.append(rank_among(rng, truth, draws))
                times.append(_autocorrelation_time(draws))
                n_divergent += divergent
                ess = (n_ranks - 1) / np.mean(times, axis=0)
                least = int(np.argmin(ess))
                kept = f"one draw in {thin} kept" if self._fitter.can_thin else "evenly spaced draws taken"
                sizes = f"{kept}: effective sample size {ess[least]:.0f} of {n_ranks - 1} ({names[least]}, the least)"
                verdict = judge_ranks(
                    np.concatenate(ranks)[:n],
                    n_ranks,
                    names,
                    alpha,
                    subject=f"{self._fitter.name} on model {self._model.name!r}"
                    + ("" if self._real is None else ", given its data"),
                    assumptions=self._assumptions(),
                    notes=(sizes, *notes, *([f"{n_divergent} divergent transitions"] if n_divergent else [])),
                    ess=ess,
                    blame="the sampler is wrong, or its thinning too slight",
                )
                if not verdict.ok:
                    break
        assert verdict is not None
        return verdict

    def _assumptions(self) -> tuple[str, ...]:
        simulations = "simulations are independent and come from the model as it is written"
        if self._real is None:
            return (simulations,)
        return (simulations, "the posterior of the data alone, where the true values come from, is the sampler's own")

    def _simulate_and_fit(
        self, keys: Array, thin: int
    ) -> tuple[Float[np.ndarray, "n s"], Float[np.ndarray, "n d s"], tuple[str, ...], int]:
        latent = None
        if self._real is not None:
            # Each true value is the end of a chain of its own. Replicates are ignored there: any values will do.
            stand_in = {name: np.broadcast_to(x, (self._batch, *np.shape(x))) for name, x in self._real.items()}
            latent = self._fitter(keys[2], stand_in, thin, use_replicate=False).last
        latent, data, truth = self._simulate(keys[0], latent)
        self._require_finite({**latent, **data})
        fits = self._fitter(keys[1], data, thin)
        names, truth = self._ranked.names(latent), np.asarray(truth)
        for what, values in (("true value", truth), ("draw", fits.statistics)):
            bad = np.argwhere(np.isnan(values))
            if len(bad):
                place = bad[0]
                raise ValueError(f"{names[place[-1]]} is NaN at a {what}, with simulated {excerpt(data, place[0])}")
        return truth, fits.statistics, names, fits.n_divergent

    def _require_finite(self, simulated: Values) -> None:
        for name, values in simulated.items():
            values = np.asarray(values)
            bad = values[~np.isfinite(values)]
            if bad.size:
                raise ValueError(
                    f"site {name!r} of model {self._model.name!r} was simulated as {bad[0]}: is its prior too wide?"
                )

    def _find_thin(self, keys: Array, most: int) -> tuple[int, str]:
        """Lengthen the thinning until draws are about independent, on simulations that are used for nothing else."""
        thin, seen = 1, []
        for one in keys:
            draws = self._simulate_and_fit(one, thin)[1]
            time = float(np.max(_autocorrelation_time(draws)))
            seen.append(f"autocorrelation time {time:.2f} with one draw in {thin}")
            if time <= _SHORT_TIME or thin >= most:
                break
            thin = min(most, math.ceil(thin * time))
        return thin, ", ".join(seen)


def _autocorrelation_time(draws: Float[np.ndarray, "n d s"]) -> Float[np.ndarray, " s"]:
    """Draws for each effective one, at least 1, from the autocorrelations averaged over simulations."""
    if draws.shape[1] < 4:
        return np.ones(draws.shape[2])
    with np.errstate(invalid="ignore", divide="ignore"):
        # Every posterior has a mean and a spread of its own, which are not the chains' disagreement.
        scaled = (draws - draws.mean(axis=1, keepdims=True)) / draws.std(axis=1, keepdims=True)
        scaled = np.where(np.isfinite(scaled), scaled, 0.0)
        times = scaled.shape[0] * scaled.shape[1] / effective_sample_size(scaled, bias=False)
    return np.where(np.isfinite(times), np.maximum(times, 1.0), 1.0)


def _real_data(model: SimulatedModel, data: Mapping[str, Any]) -> Values:
    real = {**model.values, **data}
    missing = [name for name in model.observed if name not in real]
    unknown = [name for name in data if name not in model.observed]
    if missing or unknown:
        raise ValueError(f"data must hold the observed sites {model.observed}, got {sorted(data)}")
    arrays = {}
    for name in model.observed:
        value = np.array(real[name])
        if value.dtype.kind not in "fiub" or not np.isfinite(value).all():
            raise ValueError(f"data[{name!r}] must hold finite numbers")
        if value.shape != model.shapes[name]:
            raise ValueError(f"data[{name!r}] has shape {value.shape}; its site has shape {model.shapes[name]}")
        arrays[name] = jnp.asarray(value)
    return arrays


def _refuse_collisions(model: Callable[..., Any], args: Sequence[Any]) -> None:
    """Refuse a model with a parameter that is named like an option, which would keep the value from it."""
    function, args, bound = unwrap(model, args, {})
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return
    options = {name for name, one in inspect.signature(sbc).parameters.items() if one.kind is one.KEYWORD_ONLY}
    for name in parameters[len(args) :]:
        if name in options and name not in bound:
            raise ValueError(
                f"model {model_name(model)!r} has a parameter {name!r}, an option of sbc(); give it by position or "
                f"bind it first: functools.partial(model, {name}=...)"
            )
