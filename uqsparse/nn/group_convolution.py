"""Convolutions with packed weights, as products of patches and a group-sparse matrix."""

import math
from itertools import product
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from uqsparse.kernels.group_sparsity import GroupSparse, unpack
from uqsparse.kernels.namespaces import AnyArray, is_traced
from uqsparse.kernels.sparse_products import Backend, matmul
from uqsparse.nn.linear import pack_dense_weight

_PAD_MODES = {"ZEROS": "constant", "REFLECT": "reflect", "REPLICATE": "edge", "CIRCULAR": "wrap"}


class GroupConv(eqx.Module):
    """A convolution in which groups of consecutive output channels share their inputs, as `equinox.nn.Conv`.

    An input is one channel at one place of the kernel. The patches of all positions are laid out as the rows of a
    matrix; for a kernel of size 1 these are the pixels themselves. Made by `GroupConv.from_conv`, for any number of
    spatial dimensions. Patches take `prod(kernel_size)` times the memory of the image.

    Args:
        packed: the weight as a matrix (in_channels * prod(kernel_size), out_channels).
        bias: shape (out_channels, 1, ..., 1), or None.
        in_channels: channels of the input.
        kernel_size, stride, dilation: one number a spatial dimension.
        padding: as in Equinox: pairs of numbers, or a name that XLA knows.
        padding_mode: as in Equinox.
        backend: of the product, see `uqsparse.kernels.matmul`.
    """

    packed: GroupSparse
    bias: Float[Array, "out ..."] | None
    in_channels: int = eqx.field(static=True)
    kernel_size: tuple[int, ...] = eqx.field(static=True)
    stride: tuple[int, ...] = eqx.field(static=True)
    padding: str | tuple[tuple[int, int], ...] = eqx.field(static=True)
    dilation: tuple[int, ...] = eqx.field(static=True)
    padding_mode: str = eqx.field(static=True)
    backend: Backend = eqx.field(static=True)

    @classmethod
    def from_conv(
        cls,
        conv: eqx.nn.Conv,
        *,
        mask: Bool[AnyArray, "out in ..."] | None = None,
        density: float | None = None,
        group: int = 16,
        backend: Backend = "auto",
    ) -> "GroupConv":
        """Pack a dense convolution; arguments as those of `GroupLinear.from_linear`.

        Raises:
            ValueError: the convolution has groups of its own, or as for `GroupLinear.from_linear`.

        >>> conv = eqx.nn.Conv2d(8, 16, 3, padding=1, key=jax.random.key(0))
        >>> GroupConv.from_conv(conv, density=0.25)(jnp.ones((8, 5, 4))).shape
        (16, 5, 4)
        """
        if mask is not None:
            if tuple(mask.shape) != conv.weight.shape:
                raise ValueError(f"mask must have shape {conv.weight.shape}, got {tuple(mask.shape)}")
            mask = mask.reshape(conv.out_channels, -1)
        weight = conv.weight if is_traced(conv.weight) else np.asarray(conv.weight)
        packed = pack_dense_weight(weight.reshape(conv.out_channels, -1), mask, density, group)
        return cls.in_place_of(conv, packed, backend)

    @classmethod
    def in_place_of(cls, conv: eqx.nn.Conv, packed: GroupSparse, backend: Backend = "auto") -> "GroupConv":
        """A convolution with packed weights and everything else from a dense one."""
        if not isinstance(conv, eqx.nn.Conv) or conv.groups != 1:
            raise ValueError(f"conv must be an equinox.nn.Conv with groups = 1, got {conv!r}")
        return cls(
            packed,
            conv.bias,
            conv.in_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.padding_mode,
            backend,
        )

    def __call__(self, x: Float[Array, "in ..."], *, key: Any = None) -> Float[Array, "out ..."]:
        """Convolve one image (in_channels, dim_1, ..., dim_n); `key` is ignored, as in Equinox.

        Raises:
            ValueError: the image has another number of channels or dimensions.
        """
        if x.ndim != len(self.kernel_size) + 1 or x.shape[0] != self.in_channels:
            raise ValueError(
                f"x must have {self.in_channels} channels and {len(self.kernel_size)} dimensions, got shape {x.shape}"
            )
        patches = self._patches(x)
        rows = matmul(patches.reshape(self.packed.shape[0], -1).T, self.packed, backend=self.backend)
        y = rows.T.reshape(-1, *patches.shape[1:])
        return y if self.bias is None else y + self.bias

    @property
    def weight(self) -> Float[Array, "out in ..."]:
        """The dense weight, computed anew, in the shape that Equinox has."""
        return unpack(self.packed).T.reshape(-1, self.in_channels, *self.kernel_size)

    def _patches(self, x: Array) -> Array:
        """What each place of the kernel sees: (in_channels * prod(kernel_size), out_1, ..., out_n)."""
        spans = [d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        padding = self.padding
        if isinstance(padding, str):
            padding = jax.lax.padtype_to_pads(x.shape[1:], spans, self.stride, padding)
        if any(sum(pair) for pair in padding):
            x = jnp.pad(x, [(0, 0), *padding], _PAD_MODES[self.padding_mode])
        if math.prod(self.kernel_size) == 1:
            return x[(slice(None), *(slice(None, None, s) for s in self.stride))]
        n_out = [(size - span) // s + 1 for size, span, s in zip(x.shape[1:], spans, self.stride, strict=True)]
        seen = []
        for offset in product(*map(range, self.kernel_size)):
            starts = [o * d for o, d in zip(offset, self.dilation, strict=True)]
            ends = [a + (n - 1) * s + 1 for a, n, s in zip(starts, n_out, self.stride, strict=True)]
            seen.append(jax.lax.slice(x, [0, *starts], [x.shape[0], *ends], [1, *self.stride]))
        return jnp.stack(seen, axis=1).reshape(-1, *n_out)
