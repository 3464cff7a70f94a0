"""The sets that conformal methods return: intervals, unions of intervals, boxes and label sets.

A region holds one set for each of n test points. Where several levels were asked for at once there is one more axis in
front.
"""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Bool, Float, Int, Num

from uqsparse.bounds.guarantee import Guarantee
from uqsparse.kernels import array_namespace
from uqsparse.kernels.namespaces import AnyArray


class Region(eqx.Module):
    """One set a test point, with its evidence.

    Args:
        threshold: the score up to which values belong to the set: one for all test points, or one each; None where no
            single threshold stands behind the sets.
        guarantee: what the sets promise; None for a bare region of a score.
    """

    threshold: eqx.AbstractVar[Any]
    guarantee: eqx.AbstractVar[Guarantee | None]

    @abc.abstractmethod
    def contains(self, y: Num[AnyArray, " n"]) -> Bool[AnyArray, "... n"]:
        """Whether each set holds the value y of its test point."""

    @abc.abstractmethod
    def size(self) -> Num[AnyArray, "... n"]:
        """How large each set is: its length, its volume, or its number of labels."""

    def to_arviz(self, data: Any = None, *, pvalue: Float[AnyArray, " n"] | None = None) -> Any:
        """The sets as group `conformal` of ArviZ data.

        Args:
            data: ArviZ data the group is added to, in place; new data if None.
            pvalue: conformal p-values of the observed values, shape (n,), if there are any.

        Returns:
            `arviz.InferenceData` (ArviZ 0.x) or `xarray.DataTree` (ArviZ 1.x); the guarantee stands in the attributes.
        """
        from uqsparse.bounds.conformal_io import add_conformal_group

        return add_conformal_group(data, self, pvalue)


class Intervals(Region):
    """Closed intervals.

    Args:
        lower: lower ends, shape (n,), -inf where there is no bound; above `upper` where the set is empty.
        upper: upper ends, shape (n,).
        threshold: see `Region`.
        guarantee: see `Region`.
    """

    lower: Float[AnyArray, "... n"]
    upper: Float[AnyArray, "... n"]
    threshold: Any = None
    guarantee: Guarantee | None = eqx.field(static=True, default=None)

    def contains(self, y: Num[AnyArray, " n"]) -> Bool[AnyArray, "... n"]:
        return (self.lower <= y) & (y <= self.upper)

    def size(self) -> Float[AnyArray, "... n"]:
        """Lengths in the unit of y, 0 for empty sets."""
        xp = array_namespace(self.lower)
        return xp.where(self.lower <= self.upper, self.upper - self.lower, 0.0)


class IntervalUnions(Region):
    """Unions of disjoint closed intervals, as sets of highest density are.

    Args:
        lower: lower ends of up to m intervals a test point, ascending, shape (n, m); NaN where there are fewer.
        upper: upper ends, shape (n, m).
        threshold: see `Region`.
        guarantee: see `Region`.
    """

    lower: Float[AnyArray, "... n m"]
    upper: Float[AnyArray, "... n m"]
    threshold: Any = None
    guarantee: Guarantee | None = eqx.field(static=True, default=None)

    def contains(self, y: Num[AnyArray, " n"]) -> Bool[AnyArray, "... n"]:
        return ((self.lower <= y[..., None]) & (y[..., None] <= self.upper)).any(-1)

    def size(self) -> Float[AnyArray, "... n"]:
        """Total lengths in the unit of y."""
        xp = array_namespace(self.lower)
        return xp.where(self.lower <= self.upper, self.upper - self.lower, 0.0).sum(-1)


class Boxes(Region):
    """Axis-parallel boxes for targets of several outputs.

    Args:
        lower: lower corners, shape (n, d).
        upper: upper corners, shape (n, d).
        threshold: see `Region`.
        guarantee: see `Region`.
    """

    lower: Float[AnyArray, "... n d"]
    upper: Float[AnyArray, "... n d"]
    threshold: Any = None
    guarantee: Guarantee | None = eqx.field(static=True, default=None)

    def contains(self, y: Num[AnyArray, "n d"]) -> Bool[AnyArray, "... n"]:
        return ((self.lower <= y) & (y <= self.upper)).all(-1)

    def size(self) -> Float[AnyArray, "... n"]:
        """Volumes in the product of the units of the outputs, 0 for empty sets."""
        xp = array_namespace(self.lower)
        return xp.maximum(self.upper - self.lower, 0.0).prod(-1)


class LabelSets(Region):
    """Sets of class labels.

    Args:
        member: whether class k is in the set, shape (n, n_classes).
        threshold: see `Region`.
        guarantee: see `Region`.
    """

    member: Bool[AnyArray, "... n k"]
    threshold: Any = None
    guarantee: Guarantee | None = eqx.field(static=True, default=None)

    def contains(self, y: Int[AnyArray, " n"]) -> Bool[AnyArray, "... n"]:
        xp = array_namespace(self.member, y)
        return self.member[..., xp.arange(self.member.shape[-2]), y]

    def size(self) -> Int[AnyArray, "... n"]:
        """Numbers of labels."""
        return self.member.sum(-1)
