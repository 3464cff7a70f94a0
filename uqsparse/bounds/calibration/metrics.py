"""How good predicted probabilities of an event are: scores against outcomes, and against the truth where it is known.

Predictions `q` are probabilities of y = 1, shape (n,), and outcomes `y` are 0 or 1. Only logarithms are clipped, and
their records say how often. Where bins are used, the record says which.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num
from scipy.special import rel_entr
from sklearn.metrics import roc_auc_score

from uqsparse.bounds.calibration.binary_outcomes import as_event_probabilities, predictions_and_outcomes
from uqsparse.bounds.calibration.binning import BinMeans, Binning, bin_means, bin_of
from uqsparse.kernels.namespaces import AnyArray

Predicted = Float[AnyArray, " n"]
Observed = Num[AnyArray, " n"]


class ClippedScore(NamedTuple):
    """A mean of logarithms of predictions that were kept away from 0 and 1.

    Args:
        value: the mean, in nats.
        clip: predictions were moved into [clip, 1 - clip] first.
        n_clipped: how many of them were outside.
    """

    value: float
    clip: float
    n_clipped: int

    def __float__(self) -> float:
        return self.value


class CalibrationError(NamedTuple):
    """Distance of mean predictions from shares of events, over bins.

    Args:
        value: the mean (ECE) or the largest (MCE) distance, in [0, 1].
        binning: "mass" for bins of equal counts, "width" for bins of equal width.
        n_bins: how many bins were asked for.
        gap: mean prediction minus share of events of each bin that holds a prediction.
        count: predictions in those bins.
    """

    value: float
    binning: Binning
    n_bins: int
    gap: Float[np.ndarray, " full"]
    count: Int[np.ndarray, " full"]

    def __float__(self) -> float:
        return self.value


class CalibrationMetrics(NamedTuple):
    """Every metric of one set of predictions.

    Args:
        n: the number of predictions.
        brier: mean squared distance to the outcomes.
        log_loss: mean negative log probability of the outcomes, with its clip.
        expected_calibration_error: ECE, with its binning.
        maximum_calibration_error: MCE, with its binning.
        ks_error: largest cumulative gap.
        auc: area under the ROC curve.
        mse_to_truth: mean squared distance to the true probabilities; None where they are not known.
        kl_to_truth: mean divergence from the true probabilities, with its clip; None where they are not known.
    """

    n: int
    brier: float
    log_loss: ClippedScore
    expected_calibration_error: CalibrationError
    maximum_calibration_error: CalibrationError
    ks_error: float
    auc: float
    mse_to_truth: float | None = None
    kl_to_truth: ClippedScore | None = None

    def as_row(self) -> dict[str, float]:
        """Titles and values for a table; the titles state the bins and, where any prediction was clipped, the clip."""
        binned = self.expected_calibration_error
        bins = f"{binned.n_bins} bins of equal {binned.binning}"
        row = {
            "Brier": self.brier,
            _clipped_title("NLL", self.log_loss): self.log_loss.value,
            f"ECE ({bins})": binned.value,
            f"MCE ({bins})": self.maximum_calibration_error.value,
            "KS": self.ks_error,
            "AUC": self.auc,
        }
        if self.mse_to_truth is not None and self.kl_to_truth is not None:
            row["MSE to the truth"] = self.mse_to_truth
            row[_clipped_title("KL to the truth", self.kl_to_truth)] = self.kl_to_truth.value
        return row


def _clipped_title(name: str, score: ClippedScore) -> str:
    return f"{name} ({score.n_clipped} clipped at {score.clip:g})" if score.n_clipped else name


def brier(q: Predicted, y: Observed) -> float:
    """Brier score of an event: mean of (q - y)^2, in [0, 1]; smaller is better.

    Given inputs and true probabilities p its expectation is `mse_to_truth(q, p)` plus the mean of p (1 - p), which no
    prediction can change: it ranks models as the distance to the truth does. The Brier score of two class
    probabilities, `class_scores.brier_of_classes`, is twice this one.

    Args:
        q: probabilities of y = 1 in [0, 1], shape (n,).
        y: outcomes 0 or 1, shape (n,).

    Raises:
        ValueError: a shape does not fit, q leaves [0, 1] or has NaN, or y is not 0 or 1.

    Source: Brier (1950), Verification of forecasts expressed in terms of probability.

    >>> brier(np.array([0.5, 1.0]), np.array([1, 1]))
    0.125
    """
    q, y = predictions_and_outcomes(q, y)
    return float(np.mean((q - y) ** 2))


def log_loss(q: Predicted, y: Observed, clip: float = 1e-12) -> ClippedScore:
    """Mean negative log probability of the outcomes (NLL, cross entropy), in nats.

    Args:
        q: probabilities of y = 1 in [0, 1], shape (n,).
        y: outcomes 0 or 1, shape (n,).
        clip: predictions are moved into [clip, 1 - clip], clip in (0, 0.5): one sure prediction that is wrong would
            make the mean infinite.

    Returns:
        The mean, and how many predictions were clipped.

    Raises:
        ValueError: as for `brier`, or clip is out of range.

    >>> round(log_loss(np.array([0.5, 0.5]), np.array([0, 1])).value, 4)
    0.6931
    """
    q, y = predictions_and_outcomes(q, y)
    inside, n_clipped = _clipped(q, clip)
    # The same probability of the outcome whether it is an event or not, without 1 - (1 - clip).
    chance = np.where(y == 1, inside, 1 - inside)
    return ClippedScore(float(-np.mean(np.log(chance))), float(clip), n_clipped)


def _clipped(q: np.ndarray, clip: float) -> tuple[np.ndarray, int]:
    if not 0 < clip < 0.5:
        raise ValueError(f"clip must lie strictly between 0 and 0.5, got {clip!r}")
    return np.clip(q, clip, 1 - clip), int(np.count_nonzero((q < clip) | (q > 1 - clip)))


def expected_calibration_error(
    q: Predicted, y: Observed, n_bins: int = 15, binning: Binning = "mass"
) -> CalibrationError:
    """ECE: mean distance of the mean prediction from the share of events, over bins.

    Bins of equal mass weigh equally; bins of equal width weigh by their counts. It is biased upwards (finite bins of a
    calibrated model are not exactly on the diagonal) and does not see how well predictions tell events apart: the base
    rate, predicted everywhere, has ECE 0. To rank models use `brier`.

    Args:
        q: probabilities of y = 1 in [0, 1], shape (n,).
        y: outcomes 0 or 1, both present, shape (n,).
        n_bins: the number of bins, at least 1; with equal mass at most n.
        binning: "mass" or "width". With equal mass the edge of a bin may part equal predictions, in the order of their
            rows (the sort is stable): shuffle rows that are sorted by outcome.

    Raises:
        ValueError: as for `brier`, y has one class only, there are fewer predictions than bins of equal mass, or the
            binning is unknown.

    Source: Naeini, Cooper & Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian binning; for
    equal mass Nixon, Dusenberry, Jerfel, Nguyen, Liu, Zhang & Tran (2019), Measuring calibration in deep learning.

    >>> found = expected_calibration_error(np.array([0.2, 0.4, 0.6, 0.8]), np.array([0, 0, 1, 1]), n_bins=2)
    >>> round(found.value, 12), found.binning
    (0.3, 'mass')
    """
    means = _full_bins(q, y, n_bins, binning)
    gap = means.predicted - means.observed
    return CalibrationError(means.mean_distance(binning), binning, n_bins, gap, means.count)


def maximum_calibration_error(
    q: Predicted, y: Observed, n_bins: int = 15, binning: Binning = "mass"
) -> CalibrationError:
    """MCE: largest distance of the mean prediction from the share of events, over bins that hold a prediction.

    Args:
        q: probabilities of y = 1 in [0, 1], shape (n,).
        y: outcomes 0 or 1, both present, shape (n,).
        n_bins: the number of bins.
        binning: "mass" or "width".

    Raises:
        ValueError: as for `expected_calibration_error`.

    Source: Naeini, Cooper & Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian binning.
    """
    means = _full_bins(q, y, n_bins, binning)
    gap = means.predicted - means.observed
    return CalibrationError(float(abs(gap).max()), binning, n_bins, gap, means.count)


def _full_bins(q: Any, y: Any, n_bins: int, binning: Binning) -> BinMeans:
    q, y = predictions_and_outcomes(q, y, both=True)
    return bin_means(bin_of(q, n_bins, binning), n_bins, q, y).full()


def ks_error(q: Predicted, y: Observed) -> float:
    """Kolmogorov-Smirnov calibration error: the largest cumulative gap, without bins.

    max over t of |sum of (q_i - y_i) over q_i <= t| / n. Equal predictions enter together, so that the order of rows is
    of no account.

    Args:
        q: probabilities of y = 1 in [0, 1], shape (n,).
        y: outcomes 0 or 1, shape (n,).

    Raises:
        ValueError: as for `brier`.

    Source: Gupta, Rahimi, Ajanthan, Mensink, Sminchisescu & Hartley (2021), Calibration of neural networks using
    splines, Eq. 7.

    >>> ks_error(np.array([0.25, 0.75]), np.array([0, 0]))
    0.5
    """
    q, y = predictions_and_outcomes(q, y)
    order = np.argsort(q, kind="stable")
    cumulative = np.cumsum((q - y)[order])
    ordered = q[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    return float(abs(cumulative[last]).max() / len(q))


def auc(q: Predicted, y: Observed) -> float:
    """Area under the ROC curve, from scikit-learn: the chance that an event has the larger prediction, ties half.

    Args:
        q: probabilities of y = 1 in [0, 1], shape (n,).
        y: outcomes 0 or 1, both present, shape (n,).

    Raises:
        ValueError: as for `brier`, or y has one class only.
    """
    q, y = predictions_and_outcomes(q, y, both=True)
    return float(roc_auc_score(y, q))


def mse_to_truth(q: Predicted, p: Predicted) -> float:
    """Mean of (q - p)^2, where the true probabilities p are known.

    Args:
        q: predicted probabilities in [0, 1], shape (n,).
        p: true probabilities in [0, 1], shape (n,).

    Raises:
        ValueError: a shape does not fit, or a value is NaN or outside [0, 1].

    >>> mse_to_truth(np.array([0.5]), np.array([0.25]))
    0.0625
    """
    q, p = _both_probabilities(q, p)
    return float(np.mean((q - p) ** 2))


def kl_to_truth(q: Predicted, p: Predicted, clip: float = 1e-12) -> ClippedScore:
    """Mean of p ln(p / q) + (1 - p) ln((1 - p) / (1 - q)), where the true probabilities p are known.

    Args:
        q: predicted probabilities in [0, 1], shape (n,).
        p: true probabilities in [0, 1], shape (n,); not clipped.
        clip: predictions are moved into [clip, 1 - clip], clip in (0, 0.5).

    Returns:
        The mean, and how many predictions were clipped.

    Raises:
        ValueError: as for `mse_to_truth`, or clip is out of range.
    """
    q, p = _both_probabilities(q, p)
    inside, n_clipped = _clipped(q, clip)
    divergence = rel_entr(p, inside) + rel_entr(1 - p, 1 - inside)
    return ClippedScore(float(np.mean(divergence)), float(clip), n_clipped)


def _both_probabilities(q: Any, p: Any) -> tuple[np.ndarray, np.ndarray]:
    q, p = as_event_probabilities("q", q), as_event_probabilities("p", p)
    if len(p) != len(q):
        raise ValueError(f"p has length {len(p)}; expected {len(q)}, the length of q")
    return q, p


def calibration_metrics(
    q: Predicted,
    y: Observed,
    p: Predicted | None = None,
    *,
    n_bins: int = 15,
    binning: Binning = "mass",
    clip: float = 1e-12,
) -> CalibrationMetrics:
    """Every metric at once.

    Args:
        q: probabilities of y = 1 in [0, 1], shape (n,).
        y: outcomes 0 or 1, both present, shape (n,).
        p: the true probabilities, where they are known, shape (n,).
        n_bins: bins of ECE and MCE.
        binning: "mass" or "width".
        clip: of the logarithms.

    Raises:
        ValueError: as for the single metrics.

    >>> found = calibration_metrics(np.array([0.2, 0.4, 0.6, 0.8]), np.array([0, 1, 0, 1]), n_bins=2)
    >>> list(found.as_row())
    ['Brier', 'NLL', 'ECE (2 bins of equal mass)', 'MCE (2 bins of equal mass)', 'KS', 'AUC']
    """
    return CalibrationMetrics(
        n=len(as_event_probabilities("q", q)),
        brier=brier(q, y),
        log_loss=log_loss(q, y, clip),
        expected_calibration_error=expected_calibration_error(q, y, n_bins, binning),
        maximum_calibration_error=maximum_calibration_error(q, y, n_bins, binning),
        ks_error=ks_error(q, y),
        auc=auc(q, y),
        mse_to_truth=None if p is None else mse_to_truth(q, p),
        kl_to_truth=None if p is None else kl_to_truth(q, p, clip),
    )
