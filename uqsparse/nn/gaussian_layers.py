"""Layers whose weights are independent Gaussians, in place of those of Equinox: mean-field variational networks."""

import abc
import math
from collections.abc import Callable
from typing import Any, Self, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from uqsparse.kernels.namespaces import is_traced
from uqsparse.nn.tree_paths import path_name
from uqsparse.nn.weight_units import WeightUnit

OFF = -200.0
"""The rho of a weight that is off."""
FLOOR = 1e-6
"""The least standard deviation of a weight that is not off."""

Model = TypeVar("Model")


class GaussianWeight(WeightUnit):
    """Weights with distributions N(mu, sigma^2), sigma = softplus(rho) + 1e-6, and the prior N(0, prior_std^2).

    A weight that is off is exactly zero: mu = 0 and rho = -200, for which sigma and its gradient are exactly zero, so
    that no forward pass needs the mask. Which weights are off is the mask's to say; the encoding only repeats it.
    The floor is added, rather than a maximum taken, so that the gradient with respect to rho never dies.

    Args:
        mu: means.
        rho: standard deviations before the softplus, of the same shape.
        prior_std: standard deviation of the prior, positive.

    >>> weight = GaussianWeight.from_sigma(jnp.array([0.5, -2.0]), 0.1)
    >>> weight.masked(jnp.array([True, False])).sigma.round(3)
    Array([0.1, 0. ], dtype=float32)
    """

    mu: Float[Array, "..."]
    rho: Float[Array, "..."]
    prior_std: float = eqx.field(static=True, default=0.1)

    @classmethod
    def from_sigma(
        cls, mu: Float[Array, "..."], sigma: Float[Array, "..."] | float, prior_std: float = 0.1
    ) -> "GaussianWeight":
        """Weights of given standard deviations, one for all or one each.

        Raises:
            ValueError: sigma is not finite or not above 1e-6, or prior_std is not positive and finite.
        """
        if not (isinstance(prior_std, int | float) and 0 < prior_std < math.inf):
            raise ValueError(f"prior_std must be positive and finite, got {prior_std!r}")
        above = jnp.broadcast_to(jnp.asarray(sigma, mu.dtype), mu.shape) - FLOOR
        if not is_traced(above) and not (np.isfinite(above) & (np.asarray(above) > 0)).all():
            raise ValueError(f"sigma must be finite and above {FLOOR}, got {sigma}")
        return cls(mu, jnp.where(above > 20, above, jnp.log(jnp.expm1(jnp.minimum(above, 20)))), prior_std)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight, outputs first."""
        return self.mu.shape

    @property
    def active(self) -> Bool[Array, "..."]:
        """Which weights are not off."""
        return self.rho > OFF / 2

    @property
    def sigma(self) -> Float[Array, "..."]:
        """Standard deviations, exactly zero where off."""
        return jnp.where(self.active, jax.nn.softplus(self.rho) + FLOOR, 0.0)

    @property
    def score_array(self) -> Float[Array, "..."]:
        """The means, or their gradients."""
        return self.mu

    def masked(self, mask: Bool[Array, "..."]) -> Self:
        """The weights, exactly zero where the mask is off."""
        return self._with(jnp.where(mask, self.mu, 0.0), jnp.where(mask, self.rho, OFF))

    def grown(self, new: Bool[Array, "..."], kept: Bool[Array, "..."]) -> Self:
        """New weights have mean zero and the average rho of those kept; if none are kept, that of sigma = 0.01."""
        average = jnp.where(kept, self.rho, 0.0).sum() / jnp.maximum(kept.sum(), 1)
        rho = jnp.where(kept.any(), average, math.log(math.expm1(0.01)))
        return self._with(jnp.where(new, 0.0, self.mu), jnp.where(new, rho, self.rho))

    def sample(self, key: Key[Array, ""]) -> Float[Array, "..."]:
        """One draw of the weights."""
        return self.mu + self.sigma * jax.random.normal(key, self.shape, self.mu.dtype)

    def kl(self) -> Float[Array, ""]:
        """Divergence of the weights that are not off from their prior, in nats."""
        active, tau = self.active, self.prior_std
        ratio = jnp.where(active, self.sigma / tau, 1.0)
        return jnp.where(active, -jnp.log(ratio) + 0.5 * (ratio**2 + (self.mu / tau) ** 2 - 1), 0.0).sum()

    def _with(self, mu: Array, rho: Array) -> Self:
        return eqx.tree_at(
            lambda unit: (unit.mu, unit.rho), self, (mu.astype(self.mu.dtype), rho.astype(self.rho.dtype))
        )


class _GaussianLayer(eqx.Module):
    """What layers with Gaussian weights have in common: a product that is linear in the weight."""

    weight: GaussianWeight
    bias: Float[Array, "..."] | None
    key: Key[Array, ""] | None

    def __init__(self, layer: Any, *, sigma_init: float = 0.01, prior_std: float = 0.1):
        self.weight = GaussianWeight.from_sigma(layer.weight, sigma_init, prior_std)
        self.bias, self.key = layer.bias, None

    def __call__(
        self, x: Float[Array, "..."], *, key: Key[Array, ""] | None = None, same_noise: bool = False
    ) -> Float[Array, "..."]:
        """Apply the layer to one example, as the layer of Equinox that it stands for.

        Without `same_noise` the outputs are drawn given x, independent Gaussians of mean `product(mu, x)` and variance
        `product(sigma^2, x^2)`: gradients vary less than with drawn weights. In a linear layer the outputs have the
        same distribution either way; in a convolution, drawn weights make outputs at different places dependent.

        Args:
            x: one example; use `jax.vmap` for several, with a key each or, for `same_noise`, one for all.
            key: of the noise. None: the key that `with_noise` has set; without one, the posterior mean.
            same_noise: draw the weights instead of the outputs.

        Source: Kingma, Salimans & Welling (2015), Variational dropout and the local reparameterization trick, eq. 6.
        """
        key = self.key if key is None else key
        if key is None:
            y = self._product(self.weight.mu, x)
        elif same_noise:
            y = self._product(self.weight.sample(key), x)
        else:
            mean, variance = self._product(self.weight.mu, x), self._product(self.weight.sigma**2, x**2)
            noisy = variance > 0  # the root has no slope at zero
            sd = jnp.where(noisy, jnp.sqrt(jnp.where(noisy, variance, 1.0)), 0.0)
            y = mean + sd * jax.random.normal(key, mean.shape, mean.dtype)
        return y if self.bias is None else y + self.bias

    @abc.abstractmethod
    def _product(self, weight: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The output without bias, at a weight."""


class GaussianLinear(_GaussianLayer):
    """A linear layer whose weights are Gaussian; called as `equinox.nn.Linear`. The bias is a plain parameter.

    Args:
        linear: the layer whose weights are the means at first.
        sigma_init: the standard deviations at first, above 1e-6.
        prior_std: standard deviation of the prior N(0, prior_std^2), positive.

    Raises:
        ValueError: the layer is not one between vectors, or an argument is out of its range.

    >>> layer = GaussianLinear(eqx.nn.Linear(3, 2, key=jax.random.key(0)))
    >>> layer(jnp.ones(3)).shape, layer(jnp.ones(3), key=jax.random.key(1)).shape
    ((2,), (2,))
    """

    def __init__(self, linear: eqx.nn.Linear, *, sigma_init: float = 0.01, prior_std: float = 0.1):
        if not isinstance(linear, eqx.nn.Linear) or "scalar" in (linear.in_features, linear.out_features):
            raise ValueError(f"linear must be an equinox.nn.Linear between vectors, got {linear!r}")
        super().__init__(linear, sigma_init=sigma_init, prior_std=prior_std)

    def _product(self, weight: Array, x: Array) -> Array:
        return weight @ x


class GaussianConv(_GaussianLayer):
    """A convolution whose weights are Gaussian; called as `equinox.nn.Conv`. The bias is a plain parameter.

    Args:
        conv: the convolution whose weights are the means at first.
        sigma_init: the standard deviations at first, above 1e-6.
        prior_std: standard deviation of the prior N(0, prior_std^2), positive.

    Raises:
        ValueError: `conv` is no convolution, or an argument is out of its range.
    """

    plan: eqx.nn.Conv  # the convolution without its arrays

    def __init__(self, conv: eqx.nn.Conv, *, sigma_init: float = 0.01, prior_std: float = 0.1):
        if not isinstance(conv, eqx.nn.Conv):
            raise ValueError(f"conv must be an equinox.nn.Conv, got {conv!r}")
        super().__init__(conv, sigma_init=sigma_init, prior_std=prior_std)
        self.plan = _swap(conv, lambda c: (c.weight, c.bias), (None, None))

    def _product(self, weight: Array, x: Array) -> Array:
        bias = None if self.bias is None else jnp.zeros_like(self.bias)
        return _swap(self.plan, lambda plan: (plan.weight, plan.bias), (weight, bias))(x)


def to_bayesian(
    model: Model,
    *,
    prior_std: float = 0.1,
    sigma_init: float = 0.01,
    where: Callable[[str, eqx.nn.Linear | eqx.nn.Conv], bool] | None = None,
    key: Key[Array, ""] | None = None,
) -> Model:
    """The model with Gaussian layers in place of its linear layers and convolutions.

    Args:
        model: any pytree; layers `equinox.nn.Linear` between vectors and `equinox.nn.Conv` are replaced.
        prior_std: standard deviation of the prior, positive.
        sigma_init: the standard deviations at first, above 1e-6; small next to the weights, else nothing is learned.
        where: says of a path such as "layers.0" and the layer there whether to replace it; None: all.
        key: to draw the means from N(0, 2 / inputs of an output), for rectifiers, and set the replaced layers' biases
            to zero; None: the model's own weights are the means.

    Returns:
        The model; called without keys it is the posterior mean.

    Raises:
        ValueError: no layer is replaced, or an argument is out of its range.

    >>> model = to_bayesian(eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0)))
    >>> model.layers[0].weight.sigma.shape
    (8, 4)
    """

    def is_layer(leaf: Any) -> bool:
        return isinstance(leaf, eqx.nn.Linear | eqx.nn.Conv)

    leaves, structure = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_layer)
    n_replaced, new_leaves = 0, []
    for path, leaf in leaves:
        name = path_name(path)
        if is_layer(leaf) and (where is None or where(name, leaf)):
            layer = leaf if key is None else _rectifier_start(jax.random.fold_in(key, n_replaced), leaf)
            kind = GaussianLinear if isinstance(leaf, eqx.nn.Linear) else GaussianConv
            leaf = kind(layer, sigma_init=sigma_init, prior_std=prior_std)
            n_replaced += 1
        new_leaves.append(leaf)
    if not n_replaced:
        raise ValueError("model must hold a layer equinox.nn.Linear or equinox.nn.Conv to replace, found none")
    return jax.tree.unflatten(structure, new_leaves)


def with_noise(model: Model, key: Key[Array, ""]) -> Model:
    """The model with a key in every Gaussian layer, so that calls without keys draw the layers' outputs.

    For models that do not hand keys to their layers, such as `equinox.nn.MLP`. The model is for one example, under
    `jax.vmap` with a key each: `jax.vmap(lambda x, key: with_noise(model, key)(x))(xs, keys)`.
    """
    return _replaced(model, _GaussianLayer, lambda layer, k: _swap(layer, lambda unit: unit.key, k), key)


def sample_weights(model: Model, key: Key[Array, ""]) -> Model:
    """The model at one draw of its weights: a function, as its spread is zero, of the same tree structure."""

    def draw(unit: GaussianWeight, key: Key[Array, ""]) -> GaussianWeight:
        return eqx.tree_at(lambda u: (u.mu, u.rho), unit, (unit.sample(key), jnp.full_like(unit.rho, OFF)))

    return _replaced(model, GaussianWeight, draw, key)


def kl_divergence(model: Any) -> Float[Array, ""]:
    """Divergence of all Gaussian weights that are not off from their priors, in nats.

    `sum of log(tau / sigma) + (sigma^2 + mu^2) / (2 tau^2) - 1/2`: the prior of a sparse posterior is that of its
    support.
    """
    units = jax.tree.leaves(model, is_leaf=lambda leaf: isinstance(leaf, GaussianWeight))
    return sum((unit.kl() for unit in units if isinstance(unit, GaussianWeight)), jnp.zeros(()))


def _replaced(model: Model, kind: type, function: Callable[[Any, Key[Array, ""]], Any], key: Key[Array, ""]) -> Model:
    """Apply a function to all parts of a kind, with a key each."""
    leaves, structure = jax.tree.flatten(model, is_leaf=lambda leaf: isinstance(leaf, kind))
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure, [function(leaf, k) if isinstance(leaf, kind) else leaf for leaf, k in zip(leaves, keys, strict=True)]
    )


def _rectifier_start(key: Key[Array, ""], layer: Any) -> Any:
    """A layer of Equinox with weights from N(0, 2 / inputs of an output) and biases zero (He et al., 2015, eq. 10)."""
    weight = math.sqrt(2 / math.prod(layer.weight.shape[1:])) * jax.random.normal(key, layer.weight.shape)
    bias = None if layer.bias is None else jnp.zeros_like(layer.bias)
    return _swap(layer, lambda part: (part.weight, part.bias), (weight.astype(layer.weight.dtype), bias))


def _swap(tree: Model, where: Callable[[Model], Any], new: Any) -> Model:
    """`equinox.tree_at`, also where there is nothing or nothing is put."""
    return eqx.tree_at(where, tree, new, is_leaf=lambda leaf: leaf is None)
