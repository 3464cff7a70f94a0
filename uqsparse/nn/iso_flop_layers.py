"""Layers that are bigger than a dense one and, once sparse, cost as much: parallel, factorised and doped.

Each takes the place of an `equinox.nn.Linear` or `equinox.nn.Conv`; convolutions keep stride, padding and dilation.

Source: Thangarasa, Saxena, Gupta & Lie (2024), Sparse iso-FLOP transformations for maximizing training efficiency,
ICML.
"""

import math
from collections.abc import Callable
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from uqsparse.kernels.arguments import require_count

Dense = eqx.nn.Linear | eqx.nn.Conv
Activation = Callable[[Array], Array]


class SparseParallel(eqx.Module):
    """A sum of branches, each normalised on its own: y = sum_j norm_j(W_j x).

    Without a norm and an activation the branches would add up to one matrix, with nothing gained.

    Args:
        branches: the layers W_j, without biases where norms have them; each is to be masked.
        norms: one a branch, over all outputs; None for none.
        activation: of each branch, after its norm, or None.
    """

    branches: tuple[Dense, ...]
    norms: tuple[eqx.nn.LayerNorm | eqx.nn.GroupNorm, ...] | None
    activation: Activation | None = eqx.field(static=True)

    @classmethod
    def in_place_of(
        cls,
        layer: Dense,
        n_branches: int,
        *,
        norm: bool = True,
        activation: Activation | None = None,
        key: Key[Array, ""],
    ) -> Self:
        """Branches with new weights.

        Args:
            layer: the dense layer.
            n_branches: p.
            norm: whether each branch is normalised; published networks do so over the batch, these over the outputs.
            activation: of each branch; the network's own follows the sum.
            key: for the weights.

        Raises:
            ValueError: the layer is of another kind, or there are several branches with neither norm nor activation.

        >>> linear = eqx.nn.Linear(8, 6, key=jax.random.key(0))
        >>> SparseParallel.in_place_of(linear, 2, key=jax.random.key(1))(jnp.ones(8)).shape
        (6,)
        """
        require_replaceable("layer", layer)
        require_count("n_branches", n_branches, 1)
        if n_branches > 1 and not norm and activation is None:
            raise ValueError(f"{n_branches} branches need a norm or an activation: without, they are one matrix")
        keys = jax.random.split(key, n_branches)
        branches = tuple(like(layer, layer.weight.shape, layer.use_bias and not norm, one) for one in keys)
        norms = tuple(norm_of(layer, layer.weight.shape[0]) for _ in keys) if norm else None
        return cls(branches, norms, activation)

    def __call__(self, x: Array, *, key: Any = None) -> Array:
        """Apply the layer to a vector or an image; `key` is ignored, as in Equinox."""
        total = jnp.zeros(())
        for j, branch in enumerate(self.branches):
            y = branch(x) if self.norms is None else self.norms[j](branch(x))
            total = total + (y if self.activation is None else self.activation(y))
        return total


class SparseFactorized(eqx.Module):
    """Two sparse factors with a nonlinearity between them: y = V f(norm(U x)).

    Args:
        first: U, from the inputs to r; a convolution keeps its kernel. To be masked.
        norm: of the r values, or None.
        activation: f, or None.
        second: V, from r to the outputs, on single pixels of images. To be masked.
    """

    first: Dense
    norm: eqx.nn.LayerNorm | eqx.nn.GroupNorm | None
    activation: Activation | None = eqx.field(static=True)
    second: Dense

    @classmethod
    def in_place_of(
        cls,
        layer: Dense,
        rank: int,
        *,
        norm: bool = True,
        activation: Activation | None = jax.nn.relu,
        key: Key[Array, ""],
    ) -> Self:
        """Factors with new weights.

        Args:
            layer: the dense layer.
            rank: r.
            norm: whether the r values are normalised.
            activation: between the factors; None with `norm=False` leaves the product V U.
            key: for the weights.

        Raises:
            ValueError: the layer is of another kind.
        """
        require_replaceable("layer", layer)
        require_count("rank", rank, 1)
        for_first, for_second = jax.random.split(key)
        n_out, n_in, *kernel = layer.weight.shape
        first = like(layer, (rank, n_in, *kernel), layer.use_bias and not norm and activation is not None, for_first)
        second = pointwise(layer, rank, n_out, layer.use_bias, for_second)
        return cls(first, norm_of(layer, rank) if norm else None, activation, second)

    def __call__(self, x: Array, *, key: Any = None) -> Array:
        """Apply the layer to a vector or an image; `key` is ignored, as in Equinox."""
        y = self.first(x)
        y = y if self.norm is None else self.norm(y)
        return self.second(y if self.activation is None else self.activation(y))


class SparseDoped(eqx.Module):
    """A sparse layer plus a dense one of low rank: y = W_s x + V U x.

    Args:
        sparse: W_s, with the bias. To be masked.
        first: U, from the inputs to r.
        second: V, from r to the outputs.
    """

    sparse: Dense
    first: Dense
    second: Dense

    @classmethod
    def in_place_of(cls, layer: Dense, rank: int, *, key: Key[Array, ""]) -> Self:
        """Three layers with new weights.

        Args:
            layer: the dense layer.
            rank: r.
            key: for the weights.

        Raises:
            ValueError: the layer is of another kind.
        """
        require_replaceable("layer", layer)
        require_count("rank", rank, 1)
        keys = jax.random.split(key, 3)
        n_out, n_in, *kernel = layer.weight.shape
        return cls(
            like(layer, layer.weight.shape, layer.use_bias, keys[0]),
            like(layer, (rank, n_in, *kernel), False, keys[1]),
            pointwise(layer, rank, n_out, False, keys[2]),
        )

    def __call__(self, x: Array, *, key: Any = None) -> Array:
        """Apply the layer to a vector or an image; `key` is ignored, as in Equinox."""
        return self.sparse(x) + self.second(self.first(x))


def require_replaceable(name: str, layer: Any) -> None:
    """Raise ValueError unless a layer is linear between vectors, or a convolution without groups."""
    linear = isinstance(layer, eqx.nn.Linear) and "scalar" not in (layer.in_features, layer.out_features)
    if not linear and not (isinstance(layer, eqx.nn.Conv) and layer.groups == 1):
        raise ValueError(f"{name} must be equinox.nn.Linear, or equinox.nn.Conv with groups = 1, got {layer!r}")


def fan_out_normal(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "..."]:
    """Weights from N(0, 2 / fan-out), where the fan-out of a kernel counts all its places.

    Source: He, Zhang, Ren & Sun (2015), Delving deep into rectifiers, equation 14.
    """
    return math.sqrt(2 / (shape[0] * math.prod(shape[2:]))) * jax.random.normal(key, shape, dtype)


def like(layer: Dense, shape: tuple[int, ...], use_bias: bool, key: Key[Array, ""]) -> Any:
    """A layer of the same kind with another shape of weights, from `fan_out_normal`, and biases of zero."""
    n_out, n_in = shape[:2]
    if isinstance(layer, eqx.nn.Linear):
        shapes = eqx.filter_eval_shape(eqx.nn.Linear, n_in, n_out, use_bias, key=key)
        bias = jnp.zeros(n_out, layer.weight.dtype)
    else:
        shapes = eqx.filter_eval_shape(
            eqx.nn.Conv,
            layer.num_spatial_dims,
            n_in,
            n_out,
            shape[2:],
            layer.stride,
            layer.padding,
            layer.dilation,
            use_bias=use_bias,
            padding_mode=layer.padding_mode,
            key=key,
        )
        bias = jnp.zeros((n_out, *(1 for _ in shape[2:])), layer.weight.dtype)
    weight = fan_out_normal(key, shape, layer.weight.dtype)
    return eqx.tree_at(
        lambda new: (new.weight, new.bias), shapes, (weight, bias if use_bias else None), is_leaf=lambda x: x is None
    )


def pointwise(layer: Dense, n_in: int, n_out: int, use_bias: bool, key: Key[Array, ""]) -> Any:
    """A layer without extent: linear, or a convolution with a kernel of one place."""
    if isinstance(layer, eqx.nn.Linear):
        return like(layer, (n_out, n_in), use_bias, key)
    ones = (1,) * layer.num_spatial_dims
    plain = eqx.filter_eval_shape(eqx.nn.Conv, layer.num_spatial_dims, 1, 1, ones, dtype=layer.weight.dtype, key=key)
    return like(plain, (n_out, n_in, *ones), use_bias, key)


def norm_of(layer: Dense, size: int) -> Any:
    """A norm over the outputs of a layer: of vectors, or of the channels of an image together."""
    return eqx.nn.LayerNorm(size) if isinstance(layer, eqx.nn.Linear) else eqx.nn.GroupNorm(1, size)
