"""Posteriors of many data sets at once: NumPyro's NUTS, one short chain for each, in one compiled program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int
from numpyro.infer import NUTS


class Chains(NamedTuple):
    """One chain for each of n data sets.

    Args:
        draws: values of the latent sites, a dict of arrays with leading axes (n, n_draws).
        n_divergent: divergent transitions among those kept or thinned away.
        is_finite: whether the chain had a starting point, and the density stayed finite.
    """

    draws: dict[str, Array]
    n_divergent: Int[Array, " n"]
    is_finite: Bool[Array, " n"]


def short_chain(
    key: Array,
    model: Callable[[], Any],
    latent: tuple[str, ...],
    n_warmup: int,
    n_draws: int,
    thin: Int[Array, ""],
    **options: Any,
) -> Chains:
    """Sample one posterior by NUTS; to be mapped over and compiled by the caller.

    Args:
        key: typed key.
        model: a NumPyro model without arguments. What it closes over may be traced.
        latent: names of the sites to keep.
        n_warmup: adaptation steps, at least 1; not kept.
        n_draws: draws to keep, at least 1.
        thin: of so many draws one is kept; may be traced.
        **options: of `numpyro.infer.NUTS`.

    Returns:
        The draws, without the leading axis n.

    Source: Hoffman & Gelman (2014), The No-U-Turn Sampler, JMLR 15; implemented by NumPyro.
    """
    kernel: Any = NUTS(model, **options)
    state = kernel.init(key, n_warmup, None, (), {})
    kept = jax.tree.map(lambda z: jnp.zeros((n_draws, *z.shape), z.dtype), state.z)

    # One loop for warm-up and sampling: the transition, which takes seconds to compile, stands in the program once.
    def step(i: Array, carry: tuple[Any, Any, Array]) -> tuple[Any, Any, Array]:
        state, kept, n_divergent = carry
        state = kernel.sample(state, (), {})
        # During warm-up the index is below the first place, where writing is dropped.
        place = jnp.where(i >= n_warmup, (i - n_warmup) // thin, n_draws)
        kept = jax.tree.map(lambda all_, z: all_.at[place].set(z, mode="drop"), kept, state.z)
        return state, kept, n_divergent + jnp.where(i >= n_warmup, state.diverging, 0)

    carry = (state, kept, jnp.zeros((), int))
    state, kept, n_divergent = jax.lax.fori_loop(0, n_warmup + n_draws * thin, step, carry)
    sites = jax.vmap(kernel.postprocess_fn((), {}))(kept)
    return Chains({name: sites[name] for name in latent}, n_divergent, jnp.isfinite(state.potential_energy))
