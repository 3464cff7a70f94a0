"""The parts that neural processes are built from: the decoder, and the attention of targets to the context."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from uqsparse.nn.attention import MultiHeadAttention, apply_linear
from uqsparse.nn.sets import RowMLP, apply_norm, rectifier_linear


class Decoder(eqx.Module):
    """Mean and standard deviation at an input, from vectors that represent the context.

    Its first layer is a sum of one linear map of the input and one of each vector, so that a vector that is the same
    for all targets is mapped once; each map starts from the variance that belongs to its own number of inputs.

    Args:
        x_size: entries of an input.
        y_size: entries of an output.
        representation_sizes: entries of each vector.
        width: of the hidden layers.
        depth: number of linear layers, at least 2.
        min_scale: `scale = min_scale + (1 - min_scale) softplus(s)`.
        key: for the weights.
    """

    from_x: eqx.nn.Linear
    from_representations: tuple[eqx.nn.Linear, ...]
    rest: RowMLP
    min_scale: float = eqx.field(static=True)

    def __init__(
        self,
        x_size: int,
        y_size: int,
        representation_sizes: Sequence[int],
        *,
        width: int,
        depth: int = 3,
        min_scale: float,
        key: Key[Array, ""],
    ):
        key_x, key_rest, *keys = jax.random.split(key, 2 + len(representation_sizes))
        self.from_x = rectifier_linear(key_x, x_size, width)
        self.from_representations = tuple(
            rectifier_linear(k, size, width, use_bias=False) for k, size in zip(keys, representation_sizes, strict=True)
        )
        rest = RowMLP(width, 2 * y_size, width, depth - 1, key=key_rest)
        # The last layer starts small: means near 0 and scales near softplus(0). A start far off is a plateau to leave.
        self.rest = eqx.tree_at(lambda mlp: mlp.layers[-1].weight, rest, replace_fn=lambda weight: 0.1 * weight)
        self.min_scale = min_scale

    def __call__(
        self,
        representations: Sequence[Float[Array, "*batch M size"]],
        x: Float[Array, "*tasks M dx"],
        shift: Float[Array, "*batch M width"] | None = None,
    ) -> tuple[Float[Array, "*batch M dy"], Float[Array, "*batch M dy"]]:
        """Means and scales at each input.

        Args:
            representations: the vectors, each of shape (..., M, size) or (..., 1, size).
            x: inputs.
            shift: added before the first activation.
        """
        h = apply_linear(self.from_x, x)
        for layer, representation in zip(self.from_representations, representations, strict=True):
            h = h + apply_linear(layer, representation)
        h = h if shift is None else h + shift
        mean, raw = jnp.split(self.rest(jax.nn.relu(h)), 2, axis=-1)
        return mean, self.min_scale + (1 - self.min_scale) * jax.nn.softplus(raw)


class CrossAttention(eqx.Module):
    """What each target gathers from the context: targets and context inputs are queries and keys.

    `h = LN(q + attention(q, k, v))`, result `LN(h + relu(W h))`.

    Args:
        x_size: entries of an input.
        width: entries of queries, keys, values and results, divisible by the number of heads.
        heads: of the attention.
        key: for the weights.

    Source: Kim et al. (2019), Attentive neural processes, ICLR, section 3.
    """

    to_query: RowMLP
    to_key: RowMLP
    attention: MultiHeadAttention
    residual: eqx.nn.Linear
    first_norm: eqx.nn.LayerNorm
    second_norm: eqx.nn.LayerNorm

    def __init__(self, x_size: int, width: int, *, heads: int, key: Key[Array, ""]):
        keys = jax.random.split(key, 4)
        self.to_query = RowMLP(x_size, width, width, 2, key=keys[0])
        self.to_key = RowMLP(x_size, width, width, 2, key=keys[1])
        self.attention = MultiHeadAttention(width, width, width, width, heads=heads, key=keys[2])
        self.residual = eqx.nn.Linear(width, width, key=keys[3])
        self.first_norm, self.second_norm = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)

    def __call__(
        self,
        target_x: Float[Array, "*batch M dx"],
        keys: Float[Array, "*batch N width"],
        values: Float[Array, "*batch N width"],
        mask: Bool[Array, "*batch N"],
    ) -> Float[Array, "*batch M width"]:
        """One vector for each target."""
        queries = self.to_query(target_x)
        h = apply_norm(self.first_norm, queries + self.attention(queries, keys, values, mask))
        return apply_norm(self.second_norm, h + jax.nn.relu(apply_linear(self.residual, h)))


def count_parameters(model: eqx.Module) -> int:
    """Numbers that training changes; also of a model whose arrays are shapes, from `eqx.filter_eval_shape`.

    >>> count_parameters(eqx.nn.Linear(3, 2, key=jax.random.key(0)))
    8
    """
    arrays = [leaf for leaf in jax.tree.leaves(model) if hasattr(leaf, "dtype")]
    return sum(array.size for array in arrays if jnp.issubdtype(array.dtype, jnp.inexact))
