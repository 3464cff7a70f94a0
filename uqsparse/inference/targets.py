"""Targets that can be tempered: a normalised prior and a likelihood on unconstrained space.

A NumPyro model is split in one trace. Its unconstrained log joint is a sum over sites; the observed sites (and factors)
are the likelihood, the latent sites with the Jacobians of their transforms are the prior. Reading both from the same
trace keeps them apart even where the likelihood is zero, which a difference of totals would turn into NaN.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, PyTree
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import _unconstrain_reparam, compute_log_probs

from uqsparse.inference.model_sites import named_arguments, require_finite_data, trace_model

Reference = tuple[Callable, Callable]


class TemperedTarget(eqx.Module):
    """A family of densities `prior(u) * likelihood(u) ** temperature` on R^d, from prior (0) to posterior (1).

    Args:
        log_prior: maps u of shape (d,) to the log density of the *normalised* prior, a scalar.
        log_likelihood: maps u of shape (d,) to the log likelihood, a scalar; -inf is allowed, NaN is not.
        sample_prior: maps (key, n) to n independent prior draws, shape (n, d).
        dim: the dimension d, at least 1.
        constrain: maps u of shape (d,) to a dict of named arrays, the form in which draws are reported.
            Default: one site `u`.

    Raises:
        ValueError: if `dim` is not a positive integer.

    Source: Del Moral, Doucet & Jasra (2006), Sequential Monte Carlo samplers, section 2.3.

    >>> from jax.scipy.stats import norm
    >>> target = TemperedTarget(lambda u: norm.logpdf(u[0]), lambda u: norm.logpdf(1.0, u[0]),
    ...                         lambda key, n: jax.random.normal(key, (n, 1)), dim=1)
    >>> round(float(target.log_density(jnp.array([0.0]), temperature=0.5)), 4)
    -1.6284
    """

    _parts: "_Functions | _Model"
    dim: int = eqx.field(static=True)

    def __init__(
        self,
        log_prior: Callable,
        log_likelihood: Callable,
        sample_prior: Callable,
        dim: int,
        constrain: Callable | None = None,
    ):
        if not isinstance(dim, int | np.integer) or dim < 1:
            raise ValueError(f"dim must be a positive integer, got {dim!r}")
        self._parts = _Functions(log_prior, log_likelihood, sample_prior, constrain)
        self.dim = int(dim)

    @classmethod
    def from_numpyro(cls, model: Callable, *args, reference: Reference | None = None, **kwargs) -> "TemperedTarget":
        """Split a NumPyro model, called as `model(*args, **kwargs)`, into prior and likelihood.

        Observed sites and `numpyro.factor` form the likelihood; everything else is the prior. Arrays among the
        arguments may change between runs without recompilation, as long as their shapes stay.

        Args:
            model: a NumPyro model with continuous latent sites.
            reference: `(sample, log_prob)` for models whose prior is not a distribution one can draw from (improper,
                scaled or masked): `sample(key, n)` gives draws (n, d) in unconstrained space and `log_prob(u)` their
                normalised log density at u (d,). Tempering then bridges from it to the model's joint density.
            *args: positional arguments of the model.
            **kwargs: keyword arguments of the model.

        Raises:
            ValueError: naming the argument with NaN or infinite data, or the site that is discrete, improper,
                subsampled, or (without `reference`) scaled or masked as a latent site.
            TypeError: naming an argument that is not made of arrays, numbers, strings or None.
        """
        require_finite_data(model, args, kwargs)
        _refuse_other_types(model, args, kwargs)
        with jax.enable_x64(True):
            parts = _Model(model, args, kwargs, reference)
        target = object.__new__(cls)
        object.__setattr__(target, "_parts", parts)
        object.__setattr__(target, "dim", parts.dim)
        return target

    def split(self, u: Float[Array, " d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Log prior and log likelihood at u, from one evaluation of the model."""
        return self._parts.split(u)

    def log_prior(self, u: Float[Array, " d"]) -> Float[Array, ""]:
        """Log density of the normalised prior at u, in unconstrained space (Jacobians included)."""
        return self.split(u)[0]

    def log_likelihood(self, u: Float[Array, " d"]) -> Float[Array, ""]:
        """Log likelihood at u."""
        return self.split(u)[1]

    def log_density(self, u: Float[Array, " d"], temperature: float | Array = 1.0) -> Float[Array, ""]:
        """Log of the unnormalised tempered density at u; at temperature 1 the log joint."""
        return temper(*self.split(u), temperature)

    def sample_prior(self, key: Array, n: int) -> Float[Array, "n d"]:
        """Draw n independent points from the prior, in unconstrained space."""
        return self._parts.sample_prior(key, n)

    def constrain(self, u: Float[Array, " d"]) -> dict[str, Array]:
        """Named values of the model at u: latent sites in their own space, and deterministic sites."""
        return self._parts.constrain(u)

    def explain_nan(self, u: Float[Array, " d"]) -> str:
        """Say in words which part of the target is NaN at u."""
        return self._parts.explain_nan(u)

    @property
    def model(self) -> tuple[Callable, tuple, dict] | None:
        """The NumPyro model with its arguments, if the target came from one."""
        if isinstance(self._parts, _Model):
            return self._parts.model, *self._parts.arguments()
        return None


def temper(log_prior, log_likelihood, temperature):
    """`log_prior + temperature * log_likelihood`, where a zero temperature also forgives a zero likelihood."""
    return log_prior + jnp.where(temperature == 0, 0.0, temperature * log_likelihood)


class _Functions(eqx.Module):
    log_prior: Callable
    log_likelihood: Callable
    sampler: Callable
    constrainer: Callable | None

    def split(self, u):
        return self.log_prior(u), self.log_likelihood(u)

    def sample_prior(self, key, n):
        return self.sampler(key, n)

    def constrain(self, u):
        return {"u": u} if self.constrainer is None else self.constrainer(u)

    def explain_nan(self, u):
        log_prior, _ = self.split(u)
        return f"{'log_prior' if jnp.isnan(log_prior) else 'log_likelihood'} returned NaN"


class _Site(NamedTuple):
    name: str
    shape: tuple[int, ...]  # in unconstrained space

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))


class _Model(eqx.Module):
    """A NumPyro model: arrays among its arguments are leaves, everything else is static."""

    arrays: PyTree
    static: PyTree = eqx.field(static=True)
    model: Callable = eqx.field(static=True)
    sites: tuple[_Site, ...] = eqx.field(static=True)
    reference: Reference | None

    def __init__(self, model, args, kwargs, reference):
        leaves, structure = jax.tree.flatten((args, kwargs))
        self.arrays = [leaf if eqx.is_array_like(leaf) and np.ndim(leaf) else None for leaf in leaves]
        rest = tuple(None if array is not None else leaf for array, leaf in zip(self.arrays, leaves, strict=True))
        self.static = (structure, rest)
        self.model = model
        self.reference = reference
        self.sites = ()
        trace = trace_model(model, *self.arguments())
        self.sites = _latent_sites(trace, has_reference=reference is not None)

    def arguments(self) -> tuple[tuple, dict]:
        structure, rest = self.static
        leaves = [s if a is None else a for a, s in zip(self.arrays, rest, strict=True)]
        return jax.tree.unflatten(structure, [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in leaves])

    @property
    def dim(self) -> int:
        return sum(site.size for site in self.sites)

    def _prior_trace(self, key):
        args, kwargs = self.arguments()
        return handlers.trace(handlers.seed(self.model, key)).get_trace(*args, **kwargs)

    def _unravel(self, u):
        pieces = jnp.split(u, np.cumsum([site.size for site in self.sites])[:-1])
        return {s.name: piece.reshape(s.shape) for s, piece in zip(self.sites, pieces, strict=True)}

    def _site_log_probs(self, u):
        """Log density of every site at u, log-determinants as sites of their own, and which sites are observed."""
        args, kwargs = self.arguments()
        # NumPyro's own substitution rebuilds each transform from the parents' values at u, inside plates and scans.
        unconstrained = handlers.substitute(self.model, substitute_fn=partial(_unconstrain_reparam, self._unravel(u)))
        # No latent site is left to draw; the seed serves models that ask for a key themselves.
        seeded = handlers.seed(unconstrained, jax.random.key(0))
        log_probs, trace = compute_log_probs(seeded, args, kwargs, {})
        jacobians = {f"_{site.name}_log_det" for site in self.sites}
        observed = {name for name in log_probs if trace[name]["is_observed"] and name not in jacobians}
        return log_probs, observed

    def split(self, u):
        log_probs, observed = self._site_log_probs(u)
        zero = jnp.zeros((), u.dtype)
        log_likelihood = sum((log_probs[name] for name in log_probs if name in observed), zero)
        log_prior = sum((log_probs[name] for name in log_probs if name not in observed), zero)
        if self.reference is None:
            return log_prior, log_likelihood
        log_reference = self.reference[1](u)
        return log_reference, log_prior + log_likelihood - log_reference

    def sample_prior(self, key, n):
        if self.reference is not None:
            return self.reference[0](key, n)

        def draw(key):
            trace = self._prior_trace(key)
            values = [biject_to(trace[s.name]["fn"].support).inv(trace[s.name]["value"]) for s in self.sites]
            return jnp.concatenate([value.reshape(-1) for value in values])

        return jax.vmap(draw)(jax.random.split(key, n))

    def constrain(self, u):
        args, kwargs = self.arguments()
        unconstrained = handlers.substitute(self.model, substitute_fn=partial(_unconstrain_reparam, self._unravel(u)))
        trace = handlers.trace(handlers.seed(unconstrained, jax.random.key(0))).get_trace(*args, **kwargs)
        names = [site.name for site in self.sites]
        names += [name for name, site in trace.items() if site["type"] == "deterministic"]
        return {name: jnp.asarray(trace[name]["value"]) for name in names}

    def explain_nan(self, u):
        log_probs, _ = self._site_log_probs(u)
        bad = [name for name, value in log_probs.items() if bool(jnp.isnan(value))]
        return f"the log density of site {', '.join(repr(name) for name in bad)} is NaN"


def _latent_sites(trace: dict[str, Any], has_reference: bool) -> tuple[_Site, ...]:
    """The continuous latent sites of a model, refusing those that cannot be tempered."""
    sites = []
    for name, site in trace.items():
        if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
            raise ValueError(
                f"plate {name!r} is subsampled ({site['args'][1]} of {site['args'][0]}): its likelihood is an estimate "
                "that changes at every call; use the full data"
            )
        if site["type"] != "sample" or site["is_observed"]:
            continue
        fn = site["fn"]
        if fn.support.is_discrete:
            raise ValueError(f"latent site {name!r} is discrete ({type(fn).__name__}): sum it out of the model")
        if not has_reference:
            _refuse_unnormalised(name, site)
        unconstrained = jnp.shape(biject_to(fn.support).inv(site["value"]))
        sites.append(_Site(name, unconstrained))
    if not sites:
        raise ValueError("the model has no latent site: there is nothing to sample")
    return tuple(sites)


def _refuse_unnormalised(name: str, site: dict[str, Any]) -> None:
    fn = site["fn"]
    while fn is not None:
        if isinstance(fn, dist.ImproperUniform):
            raise ValueError(
                f"latent site {name!r} has an improper prior, which has no draws and no evidence: give it a proper "
                "prior, or pass reference=(sample, log_prob)"
            )
        if isinstance(fn, dist.MaskedDistribution):
            break
        fn = getattr(fn, "base_dist", None)
    scale = site["scale"]
    if fn is not None or (scale is not None and not np.all(np.asarray(scale) == 1)):
        raise ValueError(
            f"latent site {name!r} is {'masked' if fn is not None else 'scaled'}, so its prior is not normalised: "
            "remove the handler, or pass reference=(sample, log_prob)"
        )


def _refuse_other_types(model: Callable, args: tuple, kwargs: dict) -> None:
    """Raise if an argument holds something that is neither an array nor a plain value, such as a data frame."""
    for name, value in named_arguments(model, args, kwargs).items():
        for leaf in jax.tree.leaves(value):
            plain = isinstance(leaf, str | bool | int | float | complex) or callable(leaf)
            if not plain and (hasattr(leaf, "to_numpy") or not eqx.is_array_like(leaf)):
                raise TypeError(f"argument {name!r} holds a {type(leaf).__name__}; pass arrays or plain Python values")
