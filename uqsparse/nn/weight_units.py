"""Weights made of several arrays that one mask governs."""

import abc
from typing import Self

import equinox as eqx
from jaxtyping import Array, Bool, Float


class WeightUnit(eqx.Module):
    """A weight whose positions hold several numbers, such as a mean and a spread, and are switched together.

    Masks have one boolean array for a unit, of the unit's shape, and tree maps over masks stop at units. Trees of
    gradients and of updates hold units of the same class, so nothing here may be decided from values of the arrays
    but in `masked`, `grown` and `score_array`. Every array has the unit's shape.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight, outputs first."""

    @property
    @abc.abstractmethod
    def score_array(self) -> Float[Array, "..."]:
        """What criteria of plain weights rank; of a unit of gradients, what growth by gradients ranks."""

    @abc.abstractmethod
    def masked(self, mask: Bool[Array, "..."]) -> Self:
        """The unit, off where the mask is: there the weight is exactly zero, and so are the gradients of its spread."""

    @abc.abstractmethod
    def grown(self, new: Bool[Array, "..."], kept: Bool[Array, "..."]) -> Self:
        """The unit with starting values at positions that become active.

        Args:
            new: positions that become active; the others stay as they are.
            kept: positions that were active and stay so, from whose values those of the new ones may be taken.
        """
