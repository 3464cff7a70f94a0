"""The Brier score as a sum of terms: by bins (Murphy), and without bins by isotonic regression (CORP)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num
from sklearn.isotonic import IsotonicRegression

from uqsparse.bounds.calibration.binary_outcomes import predictions_and_outcomes
from uqsparse.bounds.calibration.binning import Binning, bin_means, bin_of
from uqsparse.kernels.namespaces import AnyArray


class BrierDecomposition(NamedTuple):
    """brier = reliability - resolution + uncertainty + within_bin_variance - within_bin_covariance, exactly.

    Args:
        brier: the score.
        reliability: mean squared distance of a bin's mean prediction from its share of events; 0 is calibrated.
        resolution: spread of the bins' shares of events around the base rate; large is good.
        uncertainty: base rate times its complement.
        within_bin_variance: spread of predictions around their bin's mean.
        within_bin_covariance: twice the covariance of predictions and outcomes within bins.
        binning: "mass" or "width".
        n_bins: how many bins were asked for.
    """

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bin_variance: float
    within_bin_covariance: float
    binning: Binning
    n_bins: int

    def total(self) -> float:
        """The sum of the terms, which is `brier` up to rounding."""
        within = self.within_bin_variance - self.within_bin_covariance
        return self.reliability - self.resolution + self.uncertainty + within


class IsotonicDecomposition(NamedTuple):
    """brier = miscalibration - discrimination + uncertainty, with the isotonic fit in place of bins.

    Args:
        brier: the score.
        miscalibration: how much the score falls when predictions are replaced by their isotonic fit, at least 0.
        discrimination: how much better that fit is than the base rate, at least 0.
        uncertainty: the score of the base rate.
        predicted: the distinct predictions, ascending.
        recalibrated: the isotonic fit at each: the curve of the reliability diagram.
        count: how many rows have each.
    """

    brier: float
    miscalibration: float
    discrimination: float
    uncertainty: float
    predicted: Float[np.ndarray, " m"]
    recalibrated: Float[np.ndarray, " m"]
    count: Num[np.ndarray, " m"]


def brier_decomposition(
    q: Float[AnyArray, " n"], y: Num[AnyArray, " n"], n_bins: int = 15, binning: Binning = "mass"
) -> BrierDecomposition:
    """Murphy's decomposition of the Brier score, with the terms that make it exact for predictions that vary in a bin.

    Args:
        q: probabilities of y = 1 in [0, 1], shape (n,).
        y: outcomes 0 or 1, shape (n,).
        n_bins: the number of bins.
        binning: "mass" or "width".

    Raises:
        ValueError: shapes, predictions or outcomes are not as stated, or there are fewer predictions than bins of equal
            mass.

    Source: Murphy (1973), A new vector partition of the probability score; the terms within bins: Stephenson, Coelho &
    Jolliffe (2008), Two extra components in the Brier score decomposition, Eq. 9.

    >>> found = brier_decomposition(np.array([0.1, 0.3, 0.6, 0.8]), np.array([0, 0, 1, 1]), n_bins=2)
    >>> round(found.brier, 12), round(found.total(), 12)
    (0.075, 0.075)
    """
    q, y = predictions_and_outcomes(q, y)
    place = bin_of(q, n_bins, binning)
    predicted, observed, count = bin_means(place, n_bins, q, y)
    share = count / len(q)
    full = count > 0
    around_q, around_y = q - predicted[place], y - observed[place]
    base = y.mean()
    return BrierDecomposition(
        brier=float(np.mean((q - y) ** 2)),
        reliability=float(share[full] @ (predicted[full] - observed[full]) ** 2),
        resolution=float(share[full] @ (observed[full] - base) ** 2),
        uncertainty=float(base * (1 - base)),
        within_bin_variance=float(np.mean(around_q**2)),
        within_bin_covariance=float(2 * np.mean(around_q * around_y)),
        binning=binning,
        n_bins=n_bins,
    )


def isotonic_decomposition(q: Float[AnyArray, " n"], y: Num[AnyArray, " n"]) -> IsotonicDecomposition:
    """CORP: the reliability curve by isotonic regression, which needs no choice of bins, and its decomposition.

    Args:
        q: probabilities of y = 1 in [0, 1], shape (n,).
        y: outcomes 0 or 1, shape (n,).

    Raises:
        ValueError: shapes, predictions or outcomes are not as stated.

    Source: Dimitriadis, Gneiting & Jordan (2021), Stable reliability diagrams for probabilistic classifiers, Eq. 5.

    >>> found = isotonic_decomposition(np.array([0.1, 0.3, 0.6, 0.8]), np.array([0, 1, 0, 1]))
    >>> found.recalibrated.tolist(), round(found.discrimination, 12)
    ([0.0, 0.5, 0.5, 1.0], 0.125)
    """
    q, y = predictions_and_outcomes(q, y)
    fitted = IsotonicRegression(y_min=0, y_max=1).fit_transform(q, y)
    predicted, first, count = np.unique(q, return_index=True, return_counts=True)
    base = y.mean()
    score, at_best, at_base = (float(np.mean((one - y) ** 2)) for one in (q, fitted, base))
    return IsotonicDecomposition(
        brier=score,
        miscalibration=score - at_best,
        discrimination=at_base - at_best,
        uncertainty=at_base,
        predicted=predicted,
        recalibrated=fitted[first],
        count=count,
    )
