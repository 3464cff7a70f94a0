"""Networks on sets: pooling under masks, Deep Sets, and the attention blocks of the Set Transformer.

A set is an array of shape (..., n, size) and a mask of shape (..., n) that says which of its rows there are. Every
block treats the rows alike: permute them and its rows are permuted, or its result stays as it is.
"""

from collections.abc import Callable
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from uqsparse.kernels.arguments import require_count
from uqsparse.nn.attention import MultiHeadAttention, apply_linear

Pooling = Literal["mean", "sum", "max"]


def pool(
    x: Float[Array, "*batch n size"], mask: Bool[Array, "*batch n"] | None = None, how: Pooling = "mean"
) -> Float[Array, "*batch size"]:
    """Mean, sum or largest entries over the rows that there are; zero where there are none.

    >>> pool(jnp.array([[1.0], [3.0], [100.0]]), jnp.array([True, True, False]))
    Array([2.], dtype=float32)
    """
    if how not in get_args(Pooling):
        raise ValueError(f"how must be one of {get_args(Pooling)}, got {how!r}")
    if mask is None:
        mask = jnp.ones(x.shape[:-1], bool)
    present = mask[..., None]
    if how == "max":
        top = jnp.max(jnp.where(present, x, -jnp.inf), axis=-2, initial=-jnp.inf)
        return jnp.where(mask.any(axis=-1, keepdims=True), top, 0.0)
    total = jnp.where(present, x, 0.0).sum(axis=-2)
    return total if how == "sum" else total / jnp.maximum(present.sum(axis=-2), 1)


def rectifier_linear(key: Key[Array, ""], in_size: int, out_size: int, *, use_bias: bool = True) -> eqx.nn.Linear:
    """A linear layer to stand beside rectifiers: weights from N(0, 2 / in_size), biases zero."""
    shapes = eqx.filter_eval_shape(eqx.nn.Linear, in_size, out_size, use_bias, key=key)
    weight = (2 / in_size) ** 0.5 * jax.random.normal(key, (out_size, in_size))
    bias = jnp.zeros(out_size) if use_bias else None
    return eqx.tree_at(lambda linear: (linear.weight, linear.bias), shapes, (weight, bias), is_leaf=lambda x: x is None)


class RowMLP(eqx.Module):
    """A multilayer perceptron on the last axis, for any leading axes.

    Its weights start from N(0, 2 / inputs of the layer) and its biases from zero. Equinox's own start, of a sixth of
    that variance, makes deep networks on sets nearly constant, a plateau that training is slow to leave.

    Args:
        in_size: entries of an input.
        out_size: entries of an output.
        width: of the hidden layers.
        depth: number of linear layers, at least 1.
        key: for the weights.
        activation: between layers.

    Source: He, Zhang, Ren & Sun (2015), Delving deep into rectifiers, ICCV, eq. 10.
    """

    layers: tuple[eqx.nn.Linear, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        width: int,
        depth: int,
        *,
        key: Key[Array, ""],
        activation: Callable[[Array], Array] = jax.nn.relu,
    ):
        for name, value in (("in_size", in_size), ("out_size", out_size), ("width", width), ("depth", depth)):
            require_count(name, value, 1)
        sizes = [in_size, *[width] * (depth - 1), out_size]
        keys = jax.random.split(key, depth)
        self.layers = tuple(rectifier_linear(k, a, b) for a, b, k in zip(sizes[:-1], sizes[1:], keys, strict=True))
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        """Apply the layers."""
        for layer in self.layers[:-1]:
            x = self.activation(apply_linear(layer, x))
        return apply_linear(self.layers[-1], x)


class DeepSets(eqx.Module):
    """A function of a set: one network on each row, a pooled vector, another network.

    Args:
        in_size: entries of a row.
        out_size: entries of the result.
        width: of both networks, and of the pooled vector.
        encoder_depth: linear layers before pooling.
        decoder_depth: linear layers after it.
        pooling: "mean", "sum" or "max".
        key: for the weights.

    Source: Zaheer et al. (2017), Deep sets, theorem 2.
    """

    encoder: RowMLP
    decoder: RowMLP
    pooling: Pooling = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        width: int = 64,
        encoder_depth: int = 3,
        decoder_depth: int = 2,
        pooling: Pooling = "mean",
        key: Key[Array, ""],
    ):
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {get_args(Pooling)}, got {pooling!r}")
        key_encoder, key_decoder = jax.random.split(key)
        self.encoder = RowMLP(in_size, width, width, encoder_depth, key=key_encoder)
        self.decoder = RowMLP(width, out_size, width, decoder_depth, key=key_decoder)
        self.pooling = pooling

    def __call__(
        self, x: Float[Array, "*batch n in"], mask: Bool[Array, "*batch n"] | None = None
    ) -> Float[Array, "*batch out"]:
        """The function's value; of a set without rows it is the decoder's at zero."""
        return self.decoder(pool(self.encoder(x), mask, self.pooling))


class MAB(eqx.Module):
    """Multihead attention block: rows of x attend to the set y, and pass a residual layer.

    `A = LN(x W_q + attention(x, y))`, `MAB(x, y) = LN(A + relu(W A))`.

    Args:
        x_size: entries of a row of x.
        y_size: entries of a row of y.
        size: entries of a row of the result, divisible by the number of heads.
        heads: of the attention.
        key: for the weights.

    Source: Lee et al. (2019), Set Transformer, ICML, eq. 6-7.
    """

    attention: MultiHeadAttention
    residual: eqx.nn.Linear
    first_norm: eqx.nn.LayerNorm
    second_norm: eqx.nn.LayerNorm

    def __init__(self, x_size: int, y_size: int, size: int, *, heads: int = 4, key: Key[Array, ""]):
        key_attention, key_residual = jax.random.split(key)
        self.attention = MultiHeadAttention(
            x_size, y_size, y_size, size, heads=heads, use_output=False, key=key_attention
        )
        self.residual = eqx.nn.Linear(size, size, key=key_residual)
        self.first_norm, self.second_norm = eqx.nn.LayerNorm(size), eqx.nn.LayerNorm(size)

    def __call__(
        self,
        x: Float[Array, "*batch m x_size"],
        y: Float[Array, "*batch n y_size"],
        mask: Bool[Array, "*batch n"] | None = None,
    ) -> Float[Array, "*batch m size"]:
        """One row for each row of x.

        Args:
            x: shape (..., m, x_size).
            y: shape (..., n, y_size), finite also where masked.
            mask: which rows of y there are; all if not given. There may be none.
        """
        h = apply_norm(self.first_norm, apply_linear(self.attention.query, x) + self.attention(x, y, y, mask))
        return apply_norm(self.second_norm, h + jax.nn.relu(apply_linear(self.residual, h)))


class SAB(eqx.Module):
    """Set attention block: the rows of a set attend to each other, `MAB(x, x)`.

    Args:
        in_size: entries of a row.
        size: entries of a row of the result, divisible by the number of heads.
        heads: of the attention.
        key: for the weights.

    Source: Lee et al. (2019), Set Transformer, ICML, eq. 8.
    """

    block: MAB

    def __init__(self, in_size: int, size: int, *, heads: int = 4, key: Key[Array, ""]):
        self.block = MAB(in_size, in_size, size, heads=heads, key=key)

    def __call__(
        self, x: Float[Array, "*batch n in"], mask: Bool[Array, "*batch n"] | None = None
    ) -> Float[Array, "*batch n size"]:
        """One row for each row; those that the mask leaves out mean nothing."""
        return self.block(x, x, mask)


class ISAB(eqx.Module):
    """Induced set attention block: `MAB(x, MAB(points, x))`, linear in the size of the set.

    Args:
        in_size: entries of a row.
        size: entries of a row of the result, divisible by the number of heads.
        n_points: inducing points, which are learned. With 0 there are none, and the caller hands in a set in their
            place, of rows of `size` entries.
        heads: of the attention.
        key: for the weights.

    Source: Lee et al. (2019), Set Transformer, ICML, eq. 9-10.
    """

    points: Float[Array, "p size"] | None
    inward: MAB
    outward: MAB

    def __init__(self, in_size: int, size: int, n_points: int, *, heads: int = 4, key: Key[Array, ""]):
        require_count("n_points", n_points, 0)
        keys = jax.random.split(key, 3)
        self.inward = MAB(size, in_size, size, heads=heads, key=keys[0])
        self.outward = MAB(in_size, size, size, heads=heads, key=keys[1])
        scale = (6 / (n_points + size)) ** 0.5  # Glorot
        self.points = jax.random.uniform(keys[2], (n_points, size), minval=-scale, maxval=scale) if n_points else None

    def __call__(
        self,
        x: Float[Array, "*batch n in"],
        mask: Bool[Array, "*batch n"] | None = None,
        *,
        points: Float[Array, "*batch p size"] | None = None,
        points_mask: Bool[Array, "*batch p"] | None = None,
    ) -> Float[Array, "*batch n size"]:
        """One row for each row of x.

        Args:
            x: shape (..., n, in_size), finite also where masked.
            mask: which rows of x there are; all if not given.
            points: set that stands in for the learned points, shape (..., p, size).
            points_mask: which of them there are.

        Raises:
            ValueError: there are neither learned points nor others.
        """
        if points is None:
            points = self.points
        if points is None:
            raise ValueError("points must be given: the block was built with n_points = 0")
        return self.outward(x, self.inward(points, x, mask), points_mask)


class PMA(eqx.Module):
    """Pooling by multihead attention: learned seeds attend to the set, `MAB(seeds, x)`.

    Args:
        in_size: entries of a row.
        size: entries of a row of the result, divisible by the number of heads.
        n_seeds: rows of the result, at least 1.
        heads: of the attention.
        key: for the weights.

    Source: Lee et al. (2019), Set Transformer, ICML, eq. 11, without its layer before the attention.
    """

    seeds: Float[Array, "k size"]
    block: MAB

    def __init__(self, in_size: int, size: int, n_seeds: int = 1, *, heads: int = 4, key: Key[Array, ""]):
        require_count("n_seeds", n_seeds, 1)
        key_seeds, key_block = jax.random.split(key)
        scale = (6 / (n_seeds + size)) ** 0.5  # Glorot
        self.seeds = jax.random.uniform(key_seeds, (n_seeds, size), minval=-scale, maxval=scale)
        self.block = MAB(size, in_size, size, heads=heads, key=key_block)

    def __call__(
        self, x: Float[Array, "*batch n in"], mask: Bool[Array, "*batch n"] | None = None
    ) -> Float[Array, "*batch k size"]:
        """One row for each seed."""
        return self.block(self.seeds, x, mask)


def apply_norm(norm: eqx.nn.LayerNorm, x: Float[Array, "*batch size"]) -> Float[Array, "*batch size"]:
    """Apply layer normalisation to the last axis, for any leading axes."""
    centred = x - x.mean(axis=-1, keepdims=True)
    y = centred * jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + norm.eps)
    y = y if norm.weight is None else y * norm.weight
    return y if norm.bias is None else y + norm.bias
