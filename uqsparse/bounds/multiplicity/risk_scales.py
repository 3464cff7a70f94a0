"""From scores x^T w to risks and back: what a range of scores says about probabilities or means."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logit

from uqsparse.kernels.arguments import require_fraction


class RiskScale(NamedTuple):
    """An increasing map from scores to risks.

    Args:
        name: what a risk is: "probability" or "mean".
        lowest: smallest risk.
        highest: largest risk, +inf for means.
        to_risk: from scores to risks.
        to_score: its inverse, from risks strictly between `lowest` and `highest`.
    """

    name: str
    lowest: float
    highest: float
    to_risk: Callable[[np.ndarray], np.ndarray]
    to_score: Callable[[np.ndarray], np.ndarray]

    def thresholds(
        self, risk: Float[np.ndarray, " n"], delta: float
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Scores from which upwards, and from which downwards, the risk has moved by delta or more.

        They are +inf and -inf where no risk is that far away.
        """
        above, below = risk + delta, risk - delta
        can_rise, can_fall = above < self.highest, below > self.lowest
        middle = self.to_risk(np.zeros(()))
        return (
            np.where(can_rise, self.to_score(np.where(can_rise, above, middle)), np.inf),
            np.where(can_fall, self.to_score(np.where(can_fall, below, middle)), -np.inf),
        )

    def check_delta(self, delta: float) -> None:
        """Refuse a shift of risk that is not positive, or not below 1 for probabilities.

        Raises:
            ValueError: it is.
        """
        if self.name == "probability":
            require_fraction("delta", delta)
        if not 0 < delta < np.inf:
            raise ValueError(f"delta must be positive and finite, got {delta!r}")


def _identity(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, dtype=np.float64)


def _exp(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.exp(x)


PROBABILITY = RiskScale("probability", 0.0, 1.0, expit, logit)
MEAN = RiskScale("mean", -np.inf, np.inf, _identity, _identity)
POISSON_MEAN = RiskScale("mean", 0.0, np.inf, _exp, np.log)

RISK_SCALES = {"logistic": PROBABILITY, "ordinal": PROBABILITY, "squared": MEAN, "poisson": POISSON_MEAN}
