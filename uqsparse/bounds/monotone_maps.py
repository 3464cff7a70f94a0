"""Monotone maps between targets and scores, one for each test point, that conformal predictive systems rank by."""

import abc
from typing import Any, Literal

import equinox as eqx
from jaxtyping import Float, Num

from uqsparse.bounds.predictive_draws import PredictiveDraws
from uqsparse.bounds.scores.residuals import location_and_scale, point_prediction
from uqsparse.kernels import array_namespace
from uqsparse.kernels.namespaces import AnyArray

ScoreName = Literal["residual", "normalised", "probability"]


class MonotoneMap(eqx.Module):
    """For each of n test points a score that never falls with y, and the way back.

    Leading axes of y and of scores broadcast; their last axis is that of the test points.
    """

    @property
    @abc.abstractmethod
    def n(self) -> int:
        """The number of test points."""

    @abc.abstractmethod
    def score(self, y: Num[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        """Scores of targets."""

    @abc.abstractmethod
    def lowest(self, score: Float[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        """inf{y: score(y) >= score}, or less."""

    @abc.abstractmethod
    def highest(self, score: Float[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        """sup{y: score(y) <= score}, or more."""

    @abc.abstractmethod
    def typical(self, score: Float[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        """A finite target with about this score."""


class LocationScale(MonotoneMap):
    """(y - location) / scale.

    Args:
        location: shape (n,).
        scale: positive, shape (n,); None for 1.
    """

    location: Float[AnyArray, " n"]
    scale: Float[AnyArray, " n"] | None = None

    @property
    def n(self) -> int:
        return self.location.shape[0]

    def score(self, y: Num[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        residual = y - self.location
        return residual if self.scale is None else residual / self.scale

    def typical(self, score: Float[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        return self.location + (score if self.scale is None else score * self.scale)

    def lowest(self, score: Float[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        return self.typical(score)

    def highest(self, score: Float[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        return self.typical(score)


class DrawnDistribution(MonotoneMap):
    """The distribution function of predictive draws, ties counted half.

    Args:
        ordered: m draws for each of n test points in ascending order along the first axis, shape (m, n).
    """

    ordered: Float[AnyArray, "m n"]

    @property
    def n(self) -> int:
        return self.ordered.shape[1]

    def score(self, y: Num[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        xp = array_namespace(self.ordered, y)
        flat = y.reshape(-1, self.n)
        counts = [(self.ordered < one).sum(0) + (self.ordered <= one).sum(0) for one in flat]
        return (xp.stack(counts) / (2 * self.ordered.shape[0])).reshape(y.shape)

    def lowest(self, score: Float[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        return self._draw(array_namespace(score).ceil(self._count(score) - 1e-3))

    def highest(self, score: Float[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        return self._draw(array_namespace(score).floor(self._count(score) + 1e-3) + 1)

    def typical(self, score: Float[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        """The middle between the draws on either side; beyond the outermost ones, these."""
        xp = array_namespace(self.ordered, score)
        low = xp.maximum(self.lowest(score), self.ordered[0])
        return (low + xp.minimum(self.highest(score), self.ordered[-1])) / 2

    def _count(self, score: Any) -> Any:
        """How many draws lie below, as a real number; callers widen it by more than its rounding error."""
        return score * self.ordered.shape[0]

    def _draw(self, place: Any) -> Any:
        """The draw of a place from 1 to m, and -inf or +inf beyond."""
        xp = array_namespace(self.ordered, place)
        m = self.ordered.shape[0]
        place = xp.broadcast_to(place, xp.broadcast_shapes(place.shape, (self.n,)))
        inside = xp.clip(place, 1, m).astype(int) - 1
        found = self.ordered[inside, xp.arange(self.n)]
        return xp.where(place < 1, -xp.inf, xp.where(place > m, xp.inf, found))


def monotone_map(predictions: Any, score: ScoreName | None) -> MonotoneMap:
    """The map of a score by its name, for one set of predictions.

    Raises:
        ValueError: the name is unknown, or predictions are for targets of several outputs.
        TypeError: the score needs other predictions.
    """
    if score is None:
        score = "normalised" if hasattr(predictions, "sd") or isinstance(predictions, tuple | list) else "residual"
    if score in ("residual", "normalised"):
        mapping = (
            LocationScale(point_prediction(predictions))
            if score == "residual"
            else LocationScale(*location_and_scale(predictions))
        )
        for name, array in (("means", mapping.location), ("standard deviations", mapping.scale)):
            if array is not None and array.ndim != 1:
                raise ValueError(f"predicted {name} have shape {array.shape}; expected (n,)")
        return mapping
    if score == "probability":
        if not isinstance(predictions, PredictiveDraws):
            raise TypeError(f"score='probability' takes PredictiveDraws, got {type(predictions).__name__}")
        if predictions.values.ndim != 2:
            raise ValueError(f"draws have shape {predictions.values.shape}; expected (m, n), for targets of one output")
        return DrawnDistribution(array_namespace(predictions.values).sort(predictions.values, axis=0))
    raise ValueError(f"score must be 'residual', 'normalised' or 'probability', got {score!r}")
