"""Sparse subspace variational inference: Bayesian networks that have few weights from the first step to the last.

Source: Li, Miao, Qiu & Zhang (2024), Training Bayesian neural networks with sparse subspace variational inference,
ICLR.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.namespaces import is_traced
from uqsparse.nn.gaussian_layers import GaussianWeight, kl_divergence, sample_weights, with_noise
from uqsparse.pruning.allocation import Allocation, Counts, Shapes, erk
from uqsparse.pruning.criteria import Criterion, gradient
from uqsparse.pruning.gaussian_criteria import snr_mean_abs
from uqsparse.pruning.hook import Sparsifier, sparsify
from uqsparse.pruning.mask_changes import SwapGuard
from uqsparse.pruning.rules import DropGrow
from uqsparse.pruning.schedules import Constant, CosineChurn

Loss = Callable[[Any, Any], Float[Array, ""]]


def ssvi(
    inner: optax.GradientTransformation,
    *,
    density: float,
    steps: int,
    key: Key[Array, ""],
    criterion: Criterion | None = None,
    allocation: Allocation | None = None,
    every: int = 100,
    alpha: float = 0.3,
    end: float = 0.75,
    guard: float | None = None,
    **settings: Any,
) -> Sparsifier:
    """Train the Gaussian weights of a network on a support that moves: a share of the weights, the others exactly zero.

    The posterior is N(mu, sigma^2) on the support and a point mass at zero off it; `elbo_loss` is what to minimise.
    Every `every` steps each layer trades weights: those that the criterion ranks lowest leave, and those off the
    support whose mean has the largest gradient come in, with mean zero and the average rho of the layer.

    Args:
        inner: the optimiser. Without weight decay: the divergence from the prior is in the loss.
        density: share of the Gaussian weights that live, in (0, 1].
        steps: optimiser steps of the whole training.
        key: for the first support.
        criterion: what a weight on the support is worth; see `gaussian_criteria`; `snr_mean_abs` if not given.
        allocation: how many weights each layer keeps; `erk` if not given.
        every: steps between trades.
        alpha: share of a layer's weights in a trade at first, in [0, 1); it falls to 0 along a cosine.
        end: share of `steps` after which the support stays, in (0, 1].
        guard: makes a trade only if it promises to lower the loss: if (f g)^2 times the average sigma^2 of the layer,
            g being the gradient of what comes in, exceeds (mu / sigma)^2 of what leaves. The number is f, by which
            the gradients of the loss become those of the whole data's: n_data / beta for `elbo_loss`. Exact in linear
            regression with orthogonal inputs of equal length, where trades without it never settle. None: no guard.
        settings: of `sparsify`, such as `initial`, `keep_best`, `automatic`.

    Returns:
        The transformation; `init` and `update` take `equinox.filter(model, equinox.is_inexact_array)`.

    Raises:
        ValueError: at once or in `init`: an argument is out of its range, the model has no Gaussian weights, or rho
            is not finite.

    >>> import equinox as eqx
    >>> from uqsparse.nn.gaussian_layers import to_bayesian
    >>> model = to_bayesian(eqx.nn.MLP(8, 3, 16, 1, key=jax.random.key(0)))
    >>> hook = ssvi(optax.adam(1e-3), density=0.25, steps=1000, key=jax.random.key(1))
    >>> state = hook.init(eqx.filter(model, eqx.is_inexact_array))
    >>> int(state.mask.layers[0].weight.sum() + state.mask.layers[1].weight.sum()), hook.change_steps
    (44, (100, 200, 300, 400, 500, 600, 700))
    """
    require_count("steps", steps, 1)
    if not 0 < end <= 1:
        raise ValueError(f"end must lie in (0, 1], got {end!r}")
    if guard is not None and not 0 < guard < math.inf:
        raise ValueError(f"guard must be positive and finite, or None, got {guard!r}")
    return sparsify(
        inner,
        schedule=Constant(value=density, every=every),
        rule=DropGrow(),
        churn=CosineChurn(alpha, max(1, round(end * steps))),
        drop=criterion or snr_mean_abs(),
        grow=gradient(),
        allocation=_warns_of_few(allocation or erk()),
        prunable=_is_gaussian,
        guard=None if guard is None else _guard(guard),
        key=key,
        **settings,
    )


def elbo_loss(
    key: Key[Array, ""],
    model: Any,
    batch: tuple[Any, Any],
    *,
    n_data: int,
    beta: ArrayLike = 1.0,
    loss: Loss = optax.losses.softmax_cross_entropy_with_integer_labels,
) -> Float[Array, ""]:
    """Negative evidence lower bound for each observation: mean loss plus beta / n_data times the divergence.

    The noise is drawn for each example and output (local reparameterisation). With beta below 1 the posterior is a cold
    one. Let beta rise, `optax.linear_schedule(0, beta, steps // 2)`, so that the prior does not empty the network
    before it has learned anything.

    Args:
        key: of the noise.
        model: with Gaussian layers; it takes one example.
        batch: examples and targets, with the examples along the first axis.
        n_data: observations in all, of which the batch is a part.
        beta: weight of the divergence, at least 0.
        loss: `(output, target) -> scalar`, negative log likelihood of one example.

    Source: Li, Miao, Qiu & Zhang (2024), eq. 4; Kingma, Salimans & Welling (2015), eq. 6.
    """
    require_count("n_data", n_data, 1)
    if not is_traced(beta) and not 0 <= np.asarray(beta) < math.inf:
        raise ValueError(f"beta must be at least 0 and finite, got {beta!r}")
    x, y = batch
    keys = jax.random.split(key, jax.tree.leaves(x)[0].shape[0])
    losses = jax.vmap(lambda key, x, y: loss(with_noise(model, key)(x), y))(keys, x, y)
    return losses.mean() + beta / n_data * kl_divergence(model)


def predictive(
    key: Key[Array, ""], model: Any, x: PyTree[Float[Array, "n ..."]], n_samples: int = 32
) -> Float[Array, "samples n ..."]:
    """Outputs of the network for draws of its weights, the same draw for all examples.

    Probabilities are `jax.nn.softmax(draws).mean(0)`. `jax.vmap(model)(x)` is the network at the posterior mean.

    Args:
        key: of the draws.
        model: with Gaussian layers; it takes one example.
        x: examples along the first axis.
        n_samples: draws, at least 1.
    """
    require_count("n_samples", n_samples, 1)
    return jax.lax.map(lambda key: jax.vmap(sample_weights(model, key))(x), jax.random.split(key, n_samples))


def _is_gaussian(path: str, leaf: Any) -> bool:
    """Whether a leaf is a Gaussian weight."""
    if not isinstance(leaf, GaussianWeight):
        return False
    if not is_traced(leaf.rho) and not np.isfinite(leaf.rho).all():
        raise ValueError(f"rho of {path!r} must be finite")
    return True


def _warns_of_few(allocation: Allocation) -> Allocation:
    """The allocation, with a warning where a layer keeps less than a weight for each output."""

    def counts(shapes: Shapes, density: float) -> Counts:
        found = allocation.counts(shapes, density)
        few = [path for path, shape in shapes.items() if found[path] < shape[0]]
        if few:
            warnings.warn(
                f"density {density:g} leaves {', '.join(few)} less than a weight for each output", stacklevel=2
            )
        return found

    return allocation if allocation.by_score else replace(allocation, counts=counts)


def _guard(scale: float) -> SwapGuard:
    """Both sides in nats: half of what the optimum of a quadratic loss gains by a mean, and loses without it."""

    def gain(unit: GaussianWeight, slope: GaussianWeight, mask: Array) -> Array:
        variance = jnp.where(mask, unit.sigma**2, 0.0).sum() / jnp.maximum(mask.sum(), 1)
        return 0.5 * (scale * slope.mu) ** 2 * variance

    def cost(unit: GaussianWeight, mask: Array) -> Array:
        return 0.5 * (unit.mu / jnp.where(mask, unit.sigma, 1.0)) ** 2

    return SwapGuard(gain, cost)
