"""A NumPyro model as a simulator of parameters and observations, and as the posterior of what it simulated."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro import handlers
from numpyro.infer import init_to_uniform
from numpyro.primitives import Messenger

from uqsparse.inference.model_sites import is_factor, model_name, named_arguments

Values = dict[str, Any]


class SimulatedModel:
    """A model whose observed sites are drawn anew.

    Args:
        model: a NumPyro model function.
        args: its positional arguments. They may hold the data or leave the observed sites open (`obs=None`).
        kwargs: its keyword arguments.
        observed: names of the sites to simulate; None for those that the model observes when it is called so. Other
            sites that it observes stay as they are.

    Attributes:
        latent: names of the latent sites.
        observed: names of the sites that are simulated.
        values: values of those of them that the arguments hold.

    Raises:
        ValueError: naming the site that cannot be simulated, or that `observed` names in vain.
    """

    def __init__(
        self, model: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], observed: Sequence[str] | None
    ) -> None:
        named_arguments(model, args, kwargs)  # raises if they do not fit
        self.name = model_name(model)
        self._call = lambda: model(*args, **kwargs)
        trace = self._first_trace()
        seen = {name for name, site in trace.items() if site["is_observed"] and not is_factor(site)}
        if observed is None:
            observed = [name for name in trace if name in seen]
            if not observed:
                raise ValueError(
                    f"model {self.name!r} observes nothing when called with these arguments: pass its data, or name "
                    "the sites to simulate in observed=(...)"
                )
        missing = [name for name in observed if name not in trace or is_factor(trace[name])]
        if missing or isinstance(observed, str):
            raise ValueError(f"observed must be a tuple of sites among {sorted(trace)}, got {observed!r}")
        self.observed = tuple(observed)
        self.values = {name: trace[name]["value"] for name in self.observed if name in seen}
        self.shapes = {name: tuple(trace[name]["fn"].shape()) for name in self.observed}
        self.latent = tuple(name for name, site in trace.items() if not site["is_observed"] and name not in observed)
        if not self.latent:
            raise ValueError(f"model {self.name!r} has no latent sites: there is nothing to infer")
        self.discrete = tuple(name for name in self.latent if trace[name]["fn"].support.is_discrete)
        self.factors = tuple(name for name, site in trace.items() if is_factor(site))
        self.unnormalised = tuple(name for name in self.latent if _is_unnormalised(trace[name]))
        for name in self.observed:
            if _is_unnormalised(trace[name]):
                raise ValueError(
                    f"observed site {name!r} of model {self.name!r} is masked, scaled or improper: it cannot be "
                    "simulated"
                )

    def _first_trace(self) -> dict[str, Any]:
        seeded = handlers.substitute(handlers.seed(self._call, jax.random.key(0)), substitute_fn=_some_value)
        try:
            trace = handlers.trace(seeded).get_trace()
        except Exception as error:
            first_line = (str(error).strip() or "no message").splitlines()[0]
            raise ValueError(
                f"model {self.name!r} failed on its arguments: {type(error).__name__}: {first_line}"
            ) from error
        for name, site in trace.items():
            if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
                raise ValueError(f"plate {name!r} of model {self.name!r} subsamples: remove subsample_size")
        return {name: site for name, site in trace.items() if site["type"] == "sample"}

    def require_proper_prior(self) -> None:
        """Raise ValueError if the prior cannot be drawn from."""
        if self.factors or self.unnormalised:
            raise ValueError(
                f"site(s) {', '.join(self.unnormalised + self.factors)} of model {self.name!r} have no distribution "
                "to draw from (a factor, a mask, a scale or an improper prior): check it by posterior SBC, data=..."
            )

    def simulate(self, key: Array, latent: Values | None = None) -> tuple[Values, Values]:
        """Draw latent values, unless they are given, and observations given them; traceable."""
        model = self._call if latent is None else handlers.substitute(self._call, data=latent)
        trace = handlers.trace(handlers.seed(_Open(model, self.observed), key)).get_trace()
        drawn = {name: {site: trace[site]["value"] for site in getattr(self, name)} for name in ("latent", "observed")}
        return drawn["latent"], drawn["observed"]

    def log_likelihood(self, latent: Values, data: Values) -> Array:
        """Log density of the observed sites, `observed`, at `data`; traceable."""
        known = handlers.condition(handlers.substitute(self._call, data=latent), data=data)
        # The seed serves sites that are drawn without being asked about, such as the missing part of an `obs_mask`.
        trace = handlers.trace(handlers.seed(known, jax.random.key(0))).get_trace()
        terms = [jnp.sum(trace[name]["fn"].log_prob(trace[name]["value"])) for name in self.observed]
        return jnp.sum(jnp.stack(terms))

    def given(self, data: Values) -> Callable[[], Any]:
        """The model as one of its latent sites alone, given data."""
        return handlers.condition(self._call, data=data)

    def given_both(self, data: Values, replicate: Values, use_replicate: Array) -> Callable[[], Any]:
        """The model given data and a replicate, both drawn from the same latent values.

        Args:
            data: values of the observed sites.
            replicate: values of the observed sites, independent of `data` given the latent values.
            use_replicate: a boolean, which may be traced; if False the replicate is left out.
        """

        def both() -> None:
            with handlers.trace() as trace:
                self.given(data)()
            latent = {name: trace[name]["value"] for name in self.latent}
            with handlers.block():
                more = self.log_likelihood(latent, replicate)
            numpyro.factor("_replicate", jnp.where(use_replicate, more, 0.0))

        return both


class _Open(Messenger):
    """Takes the values from observed sites of some names, so that they are drawn."""

    def __init__(self, fn: Callable, names: Sequence[str]) -> None:
        self.names = frozenset(names)
        super().__init__(fn)

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.names:
            msg["value"], msg["is_observed"] = None, False


def _some_value(site: dict[str, Any]) -> Any:
    """A latent value near the middle; discrete sites are drawn, which the seed sees to."""
    if site["type"] == "sample" and not site["is_observed"] and not site["fn"].support.is_discrete:
        return init_to_uniform(site)
    return None


def _is_unnormalised(site: dict[str, Any]) -> bool:
    scale, fn = site["scale"], site["fn"]
    if scale is not None and not np.all(np.asarray(scale) == 1):
        return True
    while fn is not None:
        if isinstance(fn, dist.ImproperUniform | dist.MaskedDistribution):
            return True
        fn = getattr(fn, "base_dist", None)
    return False
