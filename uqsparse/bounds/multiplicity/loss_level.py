"""Which models count as near-optimal: the level of the training loss, and how it was chosen."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

Tolerance = Literal["relative", "absolute"]
TOLERANCES = ("relative", "absolute")


@dataclass(frozen=True)
class LossLevel:
    """The models w with L(w) <= level, where L is the regularised loss on the training rows.

    Args:
        loss: "logistic", "squared", "poisson" (half the deviance) or "ordinal".
        tolerance: "relative": level = (1 + epsilon) minimum; "absolute": level = minimum + epsilon.
        epsilon: as given.
        minimum: the smallest loss.
        level: the largest loss that counts.
        n: training rows.

    >>> print(LossLevel("logistic", "relative", 0.05, 0.2, 0.21, 100))
    logistic models whose training loss, penalty included, is at most 0.21 = (1 + 0.05) x the least loss 0.2
    (relative tolerance; n = 100)
    """

    loss: str
    tolerance: Tolerance
    epsilon: float
    minimum: float
    level: float
    n: int

    @property
    def height(self) -> float:
        """How far the level lies above the minimum."""
        return self.level - self.minimum

    def __str__(self) -> str:
        how = (
            f"(1 + {self.epsilon:g}) x the least loss {self.minimum:.6g}"
            if self.tolerance == "relative"
            else f"the least loss {self.minimum:.6g} + {self.epsilon:g}"
        )
        return (
            f"{self.loss} models whose training loss, penalty included, is at most {self.level:.6g} = {how} "
            f"({self.tolerance} tolerance; n = {self.n})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The level as plain data, for JSON, with its sentence."""
        return {**asdict(self), "sentence": str(self)}


def loss_level(loss: str, tolerance: Tolerance, epsilon: float, minimum: float, n: int) -> LossLevel:
    """The level of a tolerance.

    Raises:
        ValueError: the level is the minimum up to rounding, as with a relative tolerance where the least loss is 0.
    """
    level = (1 + epsilon) * minimum if tolerance == "relative" else minimum + epsilon
    if not (math.isfinite(level) and level - minimum > 1e-12 * (1e-3 + abs(minimum))):
        raise ValueError(
            f"epsilon = {epsilon:g} ({tolerance}) gives no level above the least loss {minimum:g}: use a larger one"
            + (", or tolerance='absolute'" if tolerance == "relative" else "")
        )
    return LossLevel(loss, tolerance, float(epsilon), float(minimum), float(level), n)
