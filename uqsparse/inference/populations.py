"""Drawing whole populations from distributions written for one particle, out of explicit sources of randomness.

A *distribution* is anything with `sample(key)` and `log_prob(value)`: NumPyro's, or a `Density` of two functions. A
pytree of distributions is their product, and its values have the same structure.

What a draw needs is planned once (`plan_draws`), supplied for a population at once (`draw_sources`) and turned into a
value particle by particle (`draw`), a deterministic map. Normal-like distributions take standard normals and finite
ones take uniforms, both from one key for all particles; every other distribution takes a key a particle.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, PyTree
from numpyro.distributions import constraints
from numpyro.distributions.discrete import BernoulliLogits, BernoulliProbs, CategoricalLogits, CategoricalProbs

from uqsparse.kernels import standard_normal, uniform


class Density(NamedTuple):
    """A distribution given by plain functions.

    Args:
        sample: maps a random key to one value, an array or a pytree of arrays.
        log_prob: maps a value to its log density, a scalar. None if it is not known: then the bootstrap filter works,
            and everything that weighs transitions does not.

    >>> standard = Density(jax.random.normal, lambda x: -0.5 * (x**2 + jnp.log(2 * jnp.pi)))
    >>> round(float(standard.log_prob(0.0)), 4)
    -0.9189
    """

    sample: Callable[[Array], PyTree]
    log_prob: Callable[[PyTree], Float[Array, ""]] | None = None


class Source(NamedTuple):
    """What one draw from one distribution consumes."""

    kind: Literal["normal", "uniform", "key", "nothing"]
    shape: tuple[int, ...]


def is_distribution(node: Any) -> bool:
    """Tell a distribution from the containers of a pytree of distributions."""
    return hasattr(node, "sample") and hasattr(node, "log_prob")


def distributions_in(tree: PyTree) -> list[Any]:
    """List the distributions of a pytree of distributions, in the order of its leaves.

    Raises:
        TypeError: if a leaf is no distribution.
    """
    leaves = jax.tree.leaves(tree, is_leaf=is_distribution)
    for leaf in leaves:
        if not is_distribution(leaf):
            raise TypeError(
                f"expected a NumPyro distribution, a Density, or a pytree of them, got a {type(leaf).__name__}"
            )
    return leaves


def plan_draws(build: Callable[..., PyTree], *args: Any) -> tuple[Source, ...]:
    """Find out what a draw from `build(*args)` consumes, without computing anything.

    Args:
        build: returns a pytree of distributions for one particle.
        *args: its arguments, arrays or shapes.
    """
    found: list[Source] = []

    def probe(*args: Any) -> int:
        found.extend(_source(one) for one in distributions_in(build(*args)))
        return 0

    jax.eval_shape(probe, *args)
    return tuple(found)


def draw_sources(key: Array, plan: Sequence[Source], n: int) -> list[Array]:
    """Supply the randomness of n draws, each array with the leading axis n."""
    supplied = []
    for one_key, source in zip(jax.random.split(key, max(len(plan), 1)), plan, strict=False):
        shape = (n, *source.shape)
        if source.kind == "normal":
            supplied.append(standard_normal(one_key, shape))
        elif source.kind == "uniform":
            supplied.append(uniform(one_key, shape))
        elif source.kind == "key":
            supplied.append(jax.random.split(one_key, n))
        else:
            supplied.append(jnp.zeros((n, 0)))
    return supplied


def draw(tree: PyTree, sources: Sequence[Array]) -> PyTree:
    """Turn the sources of one particle into its value: a deterministic map."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_distribution)
    values = [_transform(one, source) for one, source in zip(leaves, sources, strict=True)]
    # A Density may itself draw a pytree, which then stands in place of its leaf.
    return jax.tree.unflatten(structure, values)


def log_prob(tree: PyTree, value: PyTree, skip: PyTree | None = None) -> Float[Array, ""]:
    """Log density of one value, summed over the leaves and over their batch axes.

    Args:
        tree: pytree of distributions.
        value: a value of the same structure.
        skip: for each distribution a boolean scalar, true if its part is not to be counted.
    """
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_distribution)
    terms = [jnp.sum(_log_prob_of(one)(part)) for one, part in zip(leaves, structure.flatten_up_to(value), strict=True)]
    if skip is not None:
        terms = [jnp.where(flag, 0.0, term) for flag, term in zip(jax.tree.leaves(skip), terms, strict=True)]
    return jnp.sum(jnp.stack(terms)) if len(terms) > 1 else terms[0]


def _log_prob_of(distribution: Any) -> Callable[[Any], Array]:
    if distribution.log_prob is None:
        raise ValueError("this Density has no log_prob, which is needed here: give it one, or use the bootstrap filter")
    support: Any = getattr(distribution, "support", None)
    while hasattr(support, "base_constraint"):  # independent components
        support = support.base_constraint
    if support is None or support is constraints.real:
        return distribution.log_prob
    # NumPyro's densities are only right inside the support.
    return lambda value: jnp.where(distribution.support(value), distribution.log_prob(value), -jnp.inf)


def _source(distribution: Any) -> Source:
    if _is_normal(distribution):
        return Source("normal", tuple(distribution.shape()))
    finite = (CategoricalProbs, CategoricalLogits, BernoulliProbs, BernoulliLogits, dist.Uniform)
    if type(distribution) in finite:
        return Source("uniform", tuple(distribution.shape()))
    if type(distribution) is dist.Delta:
        return Source("nothing", (0,))
    return Source("key", ())


def _is_normal(distribution: Any) -> bool:
    """Whether a draw is an elementwise or affine map of as many standard normals; exact types, since a subclass may
    draw in its own way."""
    if type(distribution) in (dist.Normal, dist.MultivariateNormal):
        return True
    if type(distribution) in (dist.Independent, dist.ExpandedDistribution):
        return _is_normal(distribution.base_dist)
    # Transformed distributions, LogNormal among them, unless a subclass has its own way of drawing.
    if getattr(type(distribution), "sample", None) is dist.TransformedDistribution.sample:
        base = distribution.base_dist
        return _is_normal(base) and base.shape() == distribution.shape()
    return False


def _transform(distribution: Any, source: Array) -> Any:
    kind = _source(distribution).kind
    if kind == "normal":
        return _from_normal(distribution, source)
    if kind == "nothing":
        return distribution.v
    if kind == "key":
        return distribution.sample(source)
    if isinstance(distribution, dist.Uniform):
        low, high = jnp.asarray(distribution.low), jnp.asarray(distribution.high)
        return low + (high - low) * source
    if type(distribution) in (BernoulliProbs, BernoulliLogits):
        return (source < distribution.probs).astype(jnp.int32)
    cumulative = jnp.cumsum(distribution.probs, axis=-1)
    # Relative to the last sum, so that rounding never leads to a category of probability zero.
    below = cumulative / cumulative[..., -1:] <= source[..., None]
    return jnp.sum(below, axis=-1, dtype=jnp.int32)


def _from_normal(distribution: Any, z: Array) -> Array:
    if isinstance(distribution, dist.Normal):
        return jnp.asarray(distribution.loc) + jnp.asarray(distribution.scale) * z
    if isinstance(distribution, dist.MultivariateNormal):
        scaled = jnp.asarray(distribution.scale_tril) @ z[..., None]
        return jnp.asarray(distribution.loc) + jnp.squeeze(scaled, axis=-1)
    if type(distribution) in (dist.Independent, dist.ExpandedDistribution):
        return _from_normal(distribution.base_dist, z)
    value = _from_normal(distribution.base_dist, z)
    for transform in distribution.transforms:
        value = transform(value)
    return value
