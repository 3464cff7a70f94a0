"""NUTS and HMC: NumPyro's own samplers, with ArviZ data out and bad input stopped at the door."""

import contextlib
import functools
import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array, Key, UInt32
from numpyro import handlers
from numpyro.infer import init_to_uniform
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from uqsparse.inference.arviz_io import posterior_to_arviz
from uqsparse.inference.model_sites import (
    ModelSites,
    inspect_model,
    model_name,
    require_finite_data,
    require_finite_observations,
    unwrap,
)
from uqsparse.inference.precision import copy_arrays, retry_after_precision_clash
from uqsparse.kernels.arguments import require_count, require_fraction

PRNGKey = Key[Array, ""] | UInt32[Array, "2"]

# NumPyro's names of what is recorded at each draw, and ArviZ's.
_STATISTICS = {
    "potential_energy": "lp",
    "energy": "energy",
    "num_steps": "n_steps",
    "accept_prob": "acceptance_rate",
    "adapt_state.step_size": "step_size",
    "diverging": "diverging",
}

# Keywords that `numpyro.infer.MCMC.run` keeps for itself.
_TAKEN_BY_NUMPYRO = ("rng_key", "extra_fields", "init_params")


def nuts(
    key: PRNGKey,
    model: Callable,
    /,
    *args: Any,
    n_warmup: int = 1000,
    n_samples: int = 1000,
    n_chains: int = 4,
    target_accept: float = 0.8,
    dense_mass: bool = False,
    max_tree_depth: int = 10,
    log_likelihood: bool = True,
    progress: bool = False,
    **kwargs: Any,
) -> Any:
    """Sample a NumPyro model with the no-U-turn sampler, all chains as one vectorised program.

    The draws are, bit for bit, those of `numpyro.infer.MCMC(NUTS(model), chain_method="vectorized")`
    with the same key, in the precision that JAX is set to (`jax_enable_x64`).

    The named options below belong to the sampler. A model with a parameter of the same name gets it
    positionally or through `functools.partial`; passing such a model otherwise is refused, because the value
    would not reach it.

    Args:
        key: typed key or legacy `PRNGKey`.
        model: NumPyro model function with continuous latent sites (improper priors are fine).
        *args: positional arguments of the model.
        n_warmup: adaptation steps per chain, at least 1; not kept.
        n_samples: draws kept per chain, at least 1.
        n_chains: chains, at least 1; 4 or more make R-hat trustworthy.
        target_accept: mean acceptance probability that the step size aims at, in (0, 1). Raise it against
            divergences.
        dense_mass: adapt a full covariance of the posterior instead of its diagonal.
        max_tree_depth: at most `2 ** max_tree_depth - 1` leapfrog steps per draw.
        log_likelihood: add the log likelihood of each observation at each draw, chains * draws * observations
            numbers.
        progress: show a bar.
        **kwargs: keyword arguments of the model.

    Returns:
        ArviZ data with the groups `posterior`, `sample_stats` (`diverging`, `energy`, `acceptance_rate`,
        `tree_depth`, `reached_max_treedepth`, `n_steps`, `step_size`, `lp`) and, if the model observes
        something, `log_likelihood` and `observed_data`. The attributes hold the sampler, its settings, the
        key, `n_divergent` and `seconds`.

    Raises:
        ValueError: if the data hold NaN or infinities, a latent site is discrete, a plate subsamples, the
            likelihood is zero wherever a chain could start, or an option is out of range.
        TypeError: if the arguments do not fit the model.

    Source: Hoffman & Gelman (2014), The No-U-Turn Sampler, JMLR 15, Algorithm 6; implemented by NumPyro.

    >>> import numpyro.distributions as dist
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0, 10))
    ...     numpyro.sample("y", dist.Normal(mu, 1), obs=y)
    >>> data = nuts(jax.random.key(0), model, np.array([1.0, 2.0]), n_warmup=100, n_samples=50, n_chains=2)
    >>> data.posterior["mu"].shape
    (2, 50)
    """
    options = {
        "n_warmup": n_warmup,
        "n_samples": n_samples,
        "n_chains": n_chains,
        "target_accept": target_accept,
        "dense_mass": dense_mass,
        "max_tree_depth": max_tree_depth,
        "log_likelihood": log_likelihood,
        "progress": progress,
    }
    require_count("max_tree_depth", max_tree_depth, 1)
    build = functools.partial(_TickingNUTS, max_tree_depth=max_tree_depth)
    return retry_after_precision_clash(lambda: _sample("nuts", build, key, model, args, kwargs, options))


def hmc(
    key: PRNGKey,
    model: Callable,
    /,
    *args: Any,
    n_warmup: int = 1000,
    n_samples: int = 1000,
    n_chains: int = 4,
    target_accept: float = 0.8,
    dense_mass: bool = False,
    trajectory_length: float = 2 * math.pi,
    log_likelihood: bool = True,
    progress: bool = False,
    **kwargs: Any,
) -> Any:
    """Sample a NumPyro model with Hamiltonian Monte Carlo of fixed trajectory length.

    Prefer `nuts`, which finds the length itself. See there for everything not listed.

    Args:
        key: typed key or legacy `PRNGKey`.
        model: NumPyro model function with continuous latent sites.
        *args: positional arguments of the model.
        n_warmup: adaptation steps per chain, at least 1; not kept.
        n_samples: draws kept per chain, at least 1.
        n_chains: chains, at least 1.
        target_accept: mean acceptance probability that the step size aims at, in (0, 1).
        dense_mass: adapt a full covariance of the posterior instead of its diagonal.
        trajectory_length: integration time of a trajectory, positive; posterior standard deviations are its
            unit.
        log_likelihood: add the log likelihood of each observation at each draw.
        progress: show a bar.
        **kwargs: keyword arguments of the model.

    Returns:
        ArviZ data as from `nuts`, without tree depths.

    Raises:
        ValueError: see `nuts`.
        TypeError: see `nuts`.

    Source: Neal (2011), MCMC using Hamiltonian dynamics; implemented by NumPyro.
    """
    options = {
        "n_warmup": n_warmup,
        "n_samples": n_samples,
        "n_chains": n_chains,
        "target_accept": target_accept,
        "dense_mass": dense_mass,
        "trajectory_length": trajectory_length,
        "log_likelihood": log_likelihood,
        "progress": progress,
    }
    if not trajectory_length > 0 or math.isinf(trajectory_length):
        raise ValueError(f"trajectory_length must be positive and finite, got {trajectory_length!r}")
    build = functools.partial(_TickingHMC, trajectory_length=float(trajectory_length))
    return retry_after_precision_clash(lambda: _sample("hmc", build, key, model, args, kwargs, options))


class _Ticking:
    """Calls `tick` every few steps from inside the one compiled loop, which NumPyro's bar would break up."""

    tick: Callable[[], None] | None = None
    tick_every: int = 1

    def sample(self, state: Any, model_args: Any, model_kwargs: Any) -> Any:
        state = super().sample(state, model_args, model_kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if self.tick is not None:
            tick, due = self.tick, jnp.ravel(state.i)[0] % self.tick_every == 0
            jax.lax.cond(due, lambda: jax.debug.callback(tick), lambda: None)
        return state


class _TickingNUTS(_Ticking, numpyro.infer.NUTS):
    pass


class _TickingHMC(_Ticking, numpyro.infer.HMC):
    pass


def _sample(
    name: str,
    build: Callable[..., Any],
    key: PRNGKey,
    model: Callable,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Any:
    start = time.perf_counter()
    _require_key(key)
    for option in ("n_warmup", "n_samples", "n_chains"):
        require_count(option, options[option], 1)
    require_fraction("target_accept", options["target_accept"])
    _refuse_collisions(name, model, args, options)
    require_finite_data(model, args, kwargs)
    args, kwargs = copy_arrays((tuple(args), dict(kwargs)))
    sites = inspect_model(model, args, kwargs)
    _require_sampleable(name, model, sites)
    require_finite_observations(model, sites.observed)

    sampler = build(
        _keep_from_numpyro(model, kwargs),
        target_accept_prob=options["target_accept"],
        dense_mass=options["dense_mass"],
    )
    mcmc = numpyro.infer.MCMC(
        sampler,
        num_warmup=options["n_warmup"],
        num_samples=options["n_samples"],
        num_chains=options["n_chains"],
        chain_method="vectorized",
        progress_bar=False,
    )
    passed = {keyword: value for keyword, value in kwargs.items() if keyword not in _TAKEN_BY_NUMPYRO}
    with _progress_bar(name, sampler, options):
        try:
            mcmc.run(key, *args, extra_fields=tuple(_STATISTICS), **passed)
        except RuntimeError as error:
            if "valid initial parameters" not in str(error):
                raise
            raise ValueError(_why_no_start(model, args, kwargs, sites)) from error
        draws, fields = jax.device_get((mcmc.get_samples(group_by_chain=True), mcmc.get_extra_fields(True)))
    stats = {_STATISTICS[field]: value for field, value in fields.items()}
    stats["lp"] = -stats["lp"]
    if name == "nuts":
        # A full tree of depth k has 2^k - 1 steps; a trajectory that stops inside its last doubling has
        # fewer.
        stats["tree_depth"] = np.log2(stats["n_steps"]).astype(int) + 1
        stats["reached_max_treedepth"] = stats["n_steps"] >= 2 ** options["max_tree_depth"] - 1
    attributes = {
        "inference_library": "numpyro",
        "inference_library_version": numpyro.__version__,
        "creation_library": "uqsparse",
        "algorithm": name.upper(),
        "key": _key_data(key).tolist(),
        "n_divergent": int(stats["diverging"].sum()),
        **{option: value for option, value in options.items() if option not in ("log_likelihood", "progress")},
    }
    attributes["seconds"] = time.perf_counter() - start
    return posterior_to_arviz(
        model, args, kwargs, draws, stats, attributes, log_likelihood=options["log_likelihood"], sites=sites
    )


def _keep_from_numpyro(model: Callable, kwargs: Mapping[str, Any]) -> Callable:
    """Bind those keyword arguments of the model that `MCMC.run` would take for its own."""
    taken = {keyword: kwargs[keyword] for keyword in _TAKEN_BY_NUMPYRO if keyword in kwargs}
    return functools.partial(model, **taken) if taken else model


@contextlib.contextmanager
def _progress_bar(name: str, sampler: _Ticking, options: Mapping[str, Any]) -> Iterator[None]:
    if not options["progress"]:
        yield
        return
    total = options["n_warmup"] + options["n_samples"]
    columns = (TextColumn(f"{name.upper()}, {options['n_chains']} chains"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), transient=True) as bar:
        task = bar.add_task(name, total=total)
        sampler.tick_every = max(1, total // 100)
        sampler.tick = lambda: bar.advance(task, sampler.tick_every)
        try:
            yield
            # Callbacks may still be on their way when the draws have arrived.
            jax.effects_barrier()
        finally:
            sampler.tick = None


def _why_no_start(model: Callable, args: Sequence, kwargs: Mapping[str, Any], sites: ModelSites) -> str:
    """Say which sites have no finite density at any of a few starting points."""

    def densities(key: Array) -> dict[str, Array]:
        seeded = handlers.substitute(handlers.seed(model, key), substitute_fn=init_to_uniform)
        trace = handlers.trace(seeded).get_trace(*args, **kwargs)
        return {
            name: jnp.sum(site["fn"].log_prob(site["value"]))
            for name, site in trace.items()
            if site["type"] == "sample"
        }

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what NumPyro would warn about is what is being reported
        found = jax.vmap(densities)(jax.random.split(jax.random.key(0), 20))
    bad = [
        f"{_kind(sites, name)} site {name!r} ({'NaN' if np.isnan(values).any() else 'zero density'})"
        for name, values in found.items()
        if not np.isfinite(values).any()
    ]
    where = f": no finite log density at {', '.join(bad)}" if bad else " (the gradient may not be finite)"
    return (
        f"model {model_name(model)!r} cannot be started{where}. "
        "Check that the data lie in the support of what they are said to follow"
    )


def _kind(sites: ModelSites, name: str) -> str:
    return "factor" if name in sites.factors else "observed" if name in sites.observed else "latent"


def _require_sampleable(name: str, model: Callable, sites: ModelSites) -> None:
    if sites.discrete:
        raise ValueError(
            f"model {model_name(model)!r} has discrete latent site(s) {', '.join(sites.discrete)}; "
            f"{name} needs continuous ones: sum the discrete ones out of the model"
        )
    if sites.subsampled:
        raise ValueError(
            f"plate(s) {', '.join(sites.subsampled)} of model {model_name(model)!r} subsample the data; "
            f"{name} would then target the posterior of one fixed subset: remove subsample_size"
        )
    if not sites.latent:
        raise ValueError(f"model {model_name(model)!r} has no latent sites to sample")


def _refuse_collisions(name: str, model: Callable, args: Sequence, options: Mapping[str, Any]) -> None:
    function, args, bound = unwrap(model, args, {})
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return
    by_position = {p.name for p in parameters[: len(args)] if p.kind is not inspect.Parameter.KEYWORD_ONLY}
    for parameter in parameters:
        named = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if named and parameter.name in options and parameter.name not in {*bound, *by_position}:
            raise ValueError(
                f"model {model_name(model)!r} has a parameter {parameter.name!r}, an option of {name}(); "
                f"bind it first: functools.partial(model, {parameter.name}=...)"
            )


def _require_key(key: Any) -> None:
    typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    legacy = getattr(key, "dtype", None) == np.uint32 and getattr(key, "shape", None) == (2,)
    if not (typed and key.shape == ()) and not legacy:
        raise TypeError(f"key must be one jax.random.key(seed) or jax.random.PRNGKey(seed), got {key!r}")


def _key_data(key: Any) -> np.ndarray:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(key) if typed else key)
