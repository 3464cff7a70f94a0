"""Structures: which sets of positions a mask may keep within one weight.

A structure sees a weight as rows of units: of each row the same number of units is kept. Unstructured masks have one
row of single weights, N:M masks have rows of M weights, masks of output groups have a row for each group.

Weights are laid out as in Equinox: (out, in, *kernel).
"""

import math
from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.selection import top_mask


class Structure(eqx.Module):
    """What all structures offer; a subclass says how a weight is cut into rows of units."""

    @abstractmethod
    def rows(self, score: Float[Array, "..."]) -> Float[Array, "rows units"]:
        """The mean score of each unit."""

    @abstractmethod
    def spread(self, kept: Bool[Array, "rows units"], shape: tuple[int, ...]) -> Bool[Array, "..."]:
        """The mask of a weight from the units that are kept."""

    @property
    def density(self) -> float | None:
        """The density that the structure itself fixes, if it does."""
        return None

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """Raise ValueError, naming the path, if a weight cannot have this structure."""
        if len(shape) < 2:
            raise ValueError(f"{path!r} must have two axes or more for {self}, got shape {shape}")

    def units(self, count: Any, shape: tuple[int, ...], n_units: int) -> Any:
        """How many units of a row to keep for `count` weights in all, rounded; may be traced."""
        share = n_units / math.prod(shape)
        return jnp.floor(count * share + 0.5).astype(int) if hasattr(count, "dtype") else int(count * share + 0.5)

    def project(self, score: Float[Array, "..."], count: Any) -> Bool[Array, "..."]:
        """The mask of the best units, with `count` weights or as many as whole units come closest to.

        Args:
            score: what each weight is worth; a unit is worth the mean. -inf is never kept.
            count: weights to keep; may be traced.
        """
        score = jnp.asarray(score)
        ranked = self.rows(score)
        return self.spread(top_mask(ranked, self.units(count, score.shape, ranked.shape[-1])), score.shape)


class Unstructured(Structure):
    """Any positions.

    >>> Unstructured().project(jnp.array([[1.0, 5.0], [3.0, 3.0]]), 2).astype(int).tolist()
    [[0, 1], [1, 0]]
    """

    def rows(self, score: Float[Array, "..."]) -> Float[Array, "1 n"]:
        """One row of all weights."""
        return score.reshape(1, -1)

    def spread(self, kept: Bool[Array, "1 n"], shape: tuple[int, ...]) -> Bool[Array, "..."]:
        """The same positions."""
        return kept.reshape(shape)

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """Every weight will do."""

    def units(self, count: Any, shape: tuple[int, ...], n_units: int) -> Any:
        """The count itself, exactly."""
        return count


class PerRow(Structure):
    """The same number of inputs for every output, each its own."""

    def rows(self, score: Float[Array, "..."]) -> Float[Array, "out inputs"]:
        """A row for each output."""
        return score.reshape(score.shape[0], -1)

    def spread(self, kept: Bool[Array, "out inputs"], shape: tuple[int, ...]) -> Bool[Array, "..."]:
        """The same positions."""
        return kept.reshape(shape)


class NM(Structure):
    """N of each M consecutive weights along an axis, the input by default.

    While a schedule is above the density N / M, more than N of each M are kept.

    Args:
        n: weights kept of each run, 1 to m.
        m: length of a run, at least 2.
        axis: along which runs lie.

    >>> NM(1, 2).project(jnp.array([[1.0, 2.0, 4.0, 3.0]]), 2).astype(int).tolist()
    [[0, 1, 1, 0]]
    """

    n: int = eqx.field(static=True)
    m: int = eqx.field(static=True)
    axis: int = eqx.field(static=True, default=1)

    def __post_init__(self) -> None:
        require_count("m", self.m, 2)
        require_count("n", self.n, 1)
        if self.n > self.m:
            raise ValueError(f"n must be at most m = {self.m}, got {self.n}")

    @property
    def density(self) -> float:
        """N / M."""
        return self.n / self.m

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """The axis must exist and be a multiple of M long."""
        super().check(path, shape)
        if not -len(shape) <= self.axis < len(shape) or shape[self.axis] % self.m:
            raise ValueError(f"{path!r} of shape {shape} cannot be cut in runs of {self.m} along axis {self.axis}")

    def units(self, count: Any, shape: tuple[int, ...], n_units: int) -> Any:
        """At least N."""
        units = super().units(count, shape, n_units)
        return jnp.maximum(units, self.n) if hasattr(units, "dtype") else max(units, self.n)

    def rows(self, score: Float[Array, "..."]) -> Float[Array, "runs m"]:
        """A row for each run."""
        return jnp.moveaxis(score, self.axis, -1).reshape(-1, self.m)

    def spread(self, kept: Bool[Array, "runs m"], shape: tuple[int, ...]) -> Bool[Array, "..."]:
        """The runs put back along the axis."""
        moved = list(shape)
        moved.append(moved.pop(self.axis))
        return jnp.moveaxis(kept.reshape(moved), -1, self.axis)


class Channel(Structure):
    """Whole slices along an axis: outputs (0) or inputs (1)."""

    axis: int = eqx.field(static=True, default=0)

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """The axis must exist."""
        super().check(path, shape)
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"{path!r} of shape {shape} has no axis {self.axis}")

    def rows(self, score: Float[Array, "..."]) -> Float[Array, "1 channels"]:
        """One row of all channels."""
        return jnp.moveaxis(score, self.axis, 0).reshape(score.shape[self.axis], -1).mean(axis=1)[None]

    def spread(self, kept: Bool[Array, "1 channels"], shape: tuple[int, ...]) -> Bool[Array, "..."]:
        """Each channel whole."""
        along = [1] * len(shape)
        along[self.axis] = -1
        return jnp.broadcast_to(kept.reshape(along), shape)


class Block(Structure):
    """Blocks of h outputs and w inputs; blocks at the edge may be smaller. Kernels count as inputs."""

    h: int = eqx.field(static=True)
    w: int = eqx.field(static=True)

    def __post_init__(self) -> None:
        require_count("h", self.h, 1)
        require_count("w", self.w, 1)

    def _blocks(self, matrix: Float[Array, "out inputs"]) -> Float[Array, "down across"]:
        padded = jnp.pad(matrix, ((0, -matrix.shape[0] % self.h), (0, -matrix.shape[1] % self.w)))
        return padded.reshape(padded.shape[0] // self.h, self.h, -1, self.w).sum(axis=(1, 3))

    def rows(self, score: Float[Array, "..."]) -> Float[Array, "1 blocks"]:
        """One row of all blocks."""
        matrix = score.reshape(score.shape[0], -1)
        return (self._blocks(matrix) / self._blocks(jnp.ones_like(matrix))).reshape(1, -1)

    def spread(self, kept: Bool[Array, "1 blocks"], shape: tuple[int, ...]) -> Bool[Array, "..."]:
        """Each block whole."""
        out, inputs = shape[0], math.prod(shape[1:])
        blocks = kept.reshape(-(-out // self.h), -1).repeat(self.h, axis=0).repeat(self.w, axis=1)
        return blocks[:out, :inputs].reshape(shape)


class Group(Structure):
    """Groups of consecutive outputs that share their inputs, the same number in each: what compiled products are for.

    Args:
        size: outputs a group; the last group may be smaller.
    """

    size: int = eqx.field(static=True, default=16)

    def __post_init__(self) -> None:
        require_count("size", self.size, 1)

    def rows(self, score: Float[Array, "..."]) -> Float[Array, "groups inputs"]:
        """A row of inputs for each group."""
        matrix = score.reshape(score.shape[0], -1)
        padded = jnp.pad(matrix, ((0, -matrix.shape[0] % self.size), (0, 0)))
        sums = padded.reshape(-1, self.size, matrix.shape[1]).sum(axis=1)
        sizes = jnp.minimum(self.size, matrix.shape[0] - self.size * jnp.arange(sums.shape[0]))
        return sums / sizes[:, None]

    def spread(self, kept: Bool[Array, "groups inputs"], shape: tuple[int, ...]) -> Bool[Array, "..."]:
        """The inputs of a group for each of its outputs."""
        return kept.repeat(self.size, axis=0)[: shape[0]].reshape(shape)
