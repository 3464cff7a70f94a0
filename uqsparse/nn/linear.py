"""Linear layers whose weights are stored and multiplied without their zeros, in place of `equinox.nn.Linear`."""

import math
from collections.abc import Callable
from typing import Any, Self, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.group_sparsity import (
    GroupSparse,
    from_arrays,
    group_scores,
    pack,
    project_group,
    require_fan_in,
    unpack,
)
from uqsparse.kernels.namespaces import AnyArray
from uqsparse.kernels.sparse_products import Backend, matmul

Layer = TypeVar("Layer", bound="_PackedLinear")


class _PackedLinear(eqx.Module):
    """What layers with packed weights have in common."""

    packed: GroupSparse
    bias: Float[Array, " out"] | None
    in_features: int = eqx.field(static=True)
    out_features: int = eqx.field(static=True)
    backend: Backend = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*batch in"], *, key: Any = None) -> Float[Array, "*batch out"]:
        """Apply the layer to a vector, or to the vectors of a batch without `vmap`.

        Args:
            x: shape (in_features,), or (..., in_features).
            key: ignored, as in Equinox.

        Raises:
            ValueError: the last axis is not `in_features` long.
        """
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(f"x must have {self.in_features} entries in its last axis, got shape {x.shape}")
        y = matmul(x, self.packed, backend=self.backend)
        return y if self.bias is None else y + self.bias

    @property
    def weight(self) -> Float[Array, "out in"]:
        """The dense weight, computed anew; as in Equinox outputs are its rows."""
        return unpack(self.packed).T

    @property
    def mask(self) -> Bool[Array, "out in"]:
        """Which weights are stored."""
        ones = eqx.tree_at(lambda gs: gs.val, self.packed, jnp.ones_like(self.packed.val))
        return unpack(ones).T > 0

    @property
    def use_bias(self) -> bool:
        """Whether a bias is added."""
        return self.bias is not None

    @property
    def group(self) -> int:
        """Outputs that share their inputs."""
        return self.packed.group

    def with_weight(self, weight: Float[AnyArray, "out in"]) -> Self:
        """The layer with values of another weight at the same positions; works inside `jit` and `grad`."""
        return eqx.tree_at(lambda layer: layer.packed, self, self.packed.with_weight(jnp.asarray(weight).T))

    def with_mask(self, mask: Bool[AnyArray, "out in"]) -> Self:
        """The layer with other positions: weights that stay keep their values, new ones are zero.

        A mask with as many inputs a group has arrays of the same shapes, so that compiled programs are used again.

        Args:
            mask: as the weight, not traced; it keeps or drops whole groups.

        Raises:
            ValueError: the mask has another shape, or splits a group.
        """
        packed = _pack_weight(self.weight, mask, self.group)
        return eqx.tree_at(lambda layer: layer.packed, self, packed)

    def to_linear(self) -> eqx.nn.Linear:
        """The dense layer of the same function."""
        linear = eqx.nn.Linear(self.in_features, self.out_features, self.use_bias, key=jax.random.key(0))
        return eqx.tree_at(
            lambda dense: (dense.weight, dense.bias), linear, (self.weight, self.bias), is_leaf=lambda x: x is None
        )


class GroupLinear(_PackedLinear):
    """A linear layer in which groups of consecutive outputs share their inputs, as `equinox.nn.Linear`.

    Of its arrays only `packed.val` and `bias` are of floating type, so that an optimiser trains just them.

    >>> layer = GroupLinear(64, 32, density=0.25, key=jax.random.key(0))
    >>> layer.packed.val.shape, layer.weight.shape, layer(jnp.ones(64)).shape
    ((32, 16), (32, 64), (32,))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        use_bias: bool = True,
        dtype: Any = None,
        *,
        density: float = 0.1,
        group: int = 16,
        backend: Backend = "auto",
        key: Key[Array, ""],
    ):
        """Make a layer with random weights at random positions.

        Each group of outputs gets its own random inputs, the same number everywhere. Weights are uniform within
        1 / sqrt(inputs kept), as those of `equinox.nn.Linear` are for a dense layer.

        Args:
            in_features: length of the input, at least 1.
            out_features: length of the output, at least 1.
            use_bias: whether to add a bias.
            dtype: type of the weights; None: JAX's default. The compiled product is for float32.
            density: share of the inputs that a group keeps, in [0, 1].
            group: outputs that share their inputs.
            backend: of the product, see `uqsparse.kernels.matmul`.
            key: for the weights and their positions.

        Raises:
            ValueError: an argument is out of its range.
        """
        self.packed = _random_weight(key, in_features, out_features, dtype, density, group)
        self.bias = _random_bias(key, self.packed) if use_bias else None
        self.in_features, self.out_features = in_features, out_features
        self.backend = backend

    @classmethod
    def from_linear(
        cls,
        linear: eqx.nn.Linear,
        *,
        mask: Bool[AnyArray, "out in"] | None = None,
        density: float | None = None,
        group: int = 16,
        backend: Backend = "auto",
    ) -> "GroupLinear":
        """Pack a dense layer, however much of it is kept; `pack_network` leaves layers dense that would not gain.

        Args:
            linear: the layer.
            mask: which of its weights to keep, in whole groups.
            density: or the share of the inputs that each group keeps, those with the largest sum of |weight|.
                With neither, all weights that are not zero are kept, and the zeros that share a group with them.
            group: outputs that share their inputs.
            backend: of the product, see `uqsparse.kernels.matmul`.

        Raises:
            ValueError: a mask and a density are given, the mask splits a group, the weights are not finite, or an
                argument is out of its range.
        """
        return in_place_of(linear, pack_dense_weight(linear.weight, mask, density, group), cls, backend)


class SparseLinear(_PackedLinear):
    """A linear layer with weights anywhere, as `equinox.nn.Linear`: for masks that know no groups.

    Without groups the compiled product gains less, and only at high sparsity: use `GroupLinear` if you can choose.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        use_bias: bool = True,
        dtype: Any = None,
        *,
        density: float = 0.1,
        backend: Backend = "auto",
        key: Key[Array, ""],
    ):
        """Make a layer with random weights at random positions, as many for each output; see `GroupLinear`."""
        self.packed = _random_weight(key, in_features, out_features, dtype, density, 1)
        self.bias = _random_bias(key, self.packed) if use_bias else None
        self.in_features, self.out_features = in_features, out_features
        self.backend = backend

    @classmethod
    def from_linear(
        cls,
        linear: eqx.nn.Linear,
        *,
        mask: Bool[AnyArray, "out in"] | None = None,
        density: float | None = None,
        backend: Backend = "auto",
    ) -> "SparseLinear":
        """Pack a dense layer; arguments as those of `GroupLinear.from_linear`.

        >>> linear = eqx.nn.Linear(8, 4, key=jax.random.key(0))
        >>> int(SparseLinear.from_linear(linear, density=0.25).mask.sum())
        8
        """
        return in_place_of(linear, pack_dense_weight(linear.weight, mask, density, 1), cls, backend)


def in_place_of(
    linear: eqx.nn.Linear, packed: GroupSparse, kind: Callable[..., Layer], backend: Backend = "auto"
) -> Layer:
    """A layer with packed weights and the bias of a dense one."""
    if not isinstance(linear, eqx.nn.Linear) or "scalar" in (linear.in_features, linear.out_features):
        raise ValueError(f"linear must be an equinox.nn.Linear between vectors, got {linear!r}")
    empty = kind(*packed.shape, False, density=0.0, backend=backend, key=jax.random.key(0))
    return eqx.tree_at(
        lambda layer: (layer.packed, layer.bias), empty, (packed, linear.bias), is_leaf=lambda leaf: leaf is None
    )


def pack_dense_weight(
    weight: Float[AnyArray, "out in"], mask: Bool[AnyArray, "out in"] | None, density: float | None, group: int
) -> GroupSparse:
    """Pack a dense weight, whose rows are outputs, by a mask, by a density, or by its zeros."""
    if mask is not None and density is not None:
        raise ValueError("give a mask or a density, not both")
    if mask is not None:
        return _pack_weight(weight, mask, group)
    W = np.asarray(weight).T
    if density is None:
        return pack(W, group=group)
    return pack(W, project_group(np.abs(W.astype(np.float64)), density=density, group=group), group)


def keeps_whole_groups(mask: Bool[AnyArray, "out in"], group: int) -> bool:
    """Whether a mask keeps or drops every input for all outputs of a group alike.

    >>> keeps_whole_groups(np.array([[True, False], [True, False], [True, True]]), 2)
    True
    """
    mask = np.asarray(mask)
    kept, sizes = group_scores(mask.T.astype(int), group), group_scores(np.ones_like(mask.T, int), group)
    return bool(((kept == 0) | (kept == sizes)).all())


def _pack_weight(weight: AnyArray, mask: Bool[AnyArray, "out in"], group: int) -> GroupSparse:
    mask = np.asarray(mask)
    if mask.shape != tuple(weight.shape) or mask.dtype != bool:
        raise ValueError(f"mask must be boolean of shape {tuple(weight.shape)}, got {mask.dtype} of shape {mask.shape}")
    if not keeps_whole_groups(mask, group):
        raise ValueError(
            f"mask must keep or drop whole groups of {group} outputs; use `project_group`, or SparseLinear"
        )
    return pack(weight.T, mask.T, group)


def _random_weight(
    key: Key[Array, ""], n_inputs: int, n_outputs: int, dtype: Any, density: float, group: int
) -> GroupSparse:
    """Random values at random positions, as many inputs for each group."""
    require_count("in_features", n_inputs, 1)
    require_count("out_features", n_outputs, 1)
    require_count("group", group, 1)
    n_groups, dtype = -(-n_outputs // group), jnp.zeros(()).dtype if dtype is None else dtype
    fan_in = require_fan_in(n_inputs, None, density)
    if fan_in == 0:
        values = jnp.zeros((0, group), dtype)
        return from_arrays(np.zeros(n_groups + 1, int), np.zeros(0, int), values, (n_inputs, n_outputs), group)
    key_kept, key_values, _ = jax.random.split(key, 3)
    kept = project_group(np.asarray(jax.random.uniform(key_kept, (n_inputs, n_groups))), fan_in, 1)
    limit = 1 / math.sqrt(fan_in)
    values = jax.random.uniform(key_values, (fan_in * n_groups, group), dtype, -limit, limit)
    return from_arrays(fan_in * np.arange(n_groups + 1), np.nonzero(kept.T)[1], values, (n_inputs, n_outputs), group)


def _random_bias(key: Key[Array, ""], packed: GroupSparse) -> Array:
    limit = 1 / math.sqrt(max(1, packed.idx.shape[0] // packed.n_groups))
    return jax.random.uniform(jax.random.split(key, 3)[2], (packed.shape[1],), packed.val.dtype, -limit, limit)
