"""Recalibrators of the probability of one event: Platt, beta, isotonic, histogram binning."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from uqsparse.bounds.calibration.binning import Binning, bin_means, bin_of, require_binning
from uqsparse.bounds.calibration.recalibrator import EventRecalibrator, require_clip
from uqsparse.kernels.arguments import require_count


class _Logistic(NamedTuple):
    """An unpenalised logistic fit, with the largest entry of the gradient of its mean loss."""

    coef: np.ndarray
    intercept: float
    loss: float
    gradient: float
    covariance: np.ndarray


def _logistic(features: np.ndarray, y: np.ndarray) -> _Logistic:
    """Logistic regression on (n, d) features without a penalty; d may be 0."""
    if features.shape[1]:
        with warnings.catch_warnings():
            # Its own gradient says below whether it converged.
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=200).fit(features, y)
        coef, intercept = model.coef_[0], float(model.intercept_[0])
    else:
        coef, intercept = np.zeros(0), float(np.log(y.mean() / (1 - y.mean())))
    linear = features @ coef + intercept
    chance = expit(linear)
    design = np.column_stack([features, np.ones(len(y))])
    information = design.T @ (design * (chance * (1 - chance))[:, None])
    return _Logistic(
        coef=coef,
        intercept=intercept,
        loss=float(np.mean(np.logaddexp(0, linear) - y * linear)),
        gradient=float(abs(design.T @ (chance - y)).max() / len(y)),
        covariance=np.linalg.pinv(information, hermitian=True),
    )


def _warn_unconverged(name: str, gradient: float) -> bool:
    converged = gradient <= 1e-6
    if not converged:
        warnings.warn(f"{name} did not converge: its largest gradient is {gradient:.2g}", stacklevel=4)
    return converged


def _require_overlap(q: np.ndarray, y: np.ndarray, *, downwards: bool) -> None:
    """Refuse predictions that part the classes, for which the best slope is infinite."""
    event, other = q[y == 1], q[y == 0]
    if event.min() >= other.max() or (downwards and event.max() <= other.min()):
        raise ValueError(
            "q separates the classes: one threshold parts all y = 0 from all y = 1, and the likelihood has no maximum. "
            "Use more held-out points, or HistogramBinning"
        )


def _require_distinct(q: np.ndarray, least: int, name: str) -> None:
    if (found := len(np.unique(q))) < least:
        raise ValueError(f"q has {found} distinct values; {name} needs at least {least}")


class Platt(EventRecalibrator):
    """Platt scaling: sigmoid(slope * logit(q) + intercept), by maximum likelihood.

    A shift of log-odds is what early-stopped networks often need, and temperature scaling cannot make it.

    Args:
        clip: logits are taken of predictions moved into [clip, 1 - clip].

    Attributes:
        slope_: of the log-odds.
        intercept_: their shift.
        covariance_: of (slope, intercept): the inverse Fisher information, shape (2, 2).
        n_clipped_: fitted predictions outside [clip, 1 - clip].
        gradient_norm_: largest entry of the gradient of the mean loss at the fit.
        converged_: whether that is at most 1e-6.

    Source: Platt (1999), Probabilistic outputs for support vector machines, on log-odds and without smoothed targets.

    >>> q = np.linspace(0.1, 0.9, 90)
    >>> map = Platt().fit(q, np.arange(90) % 3 == 0)  # outcomes do not depend on q
    >>> np.round(map(np.array([0.5])), 2)
    array([0.33])
    """

    slope_: float
    intercept_: float
    covariance_: Float[np.ndarray, "2 2"]
    n_clipped_: int
    gradient_norm_: float
    converged_: bool

    def __init__(self, clip: float = 1e-12):
        self.clip = clip

    def _require_settings(self) -> None:
        require_clip(self.clip)

    def _log_odds(self, q: np.ndarray) -> np.ndarray:
        inside = np.clip(q, self.clip, 1 - self.clip)
        return np.log(inside) - np.log1p(-inside)

    def _fit(self, events: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> None:
        _require_distinct(events, 2, "Platt")
        _require_overlap(events, labels, downwards=True)
        found = _logistic(self._log_odds(events)[:, None], labels)
        self.slope_, self.intercept_, self.covariance_ = float(found.coef[0]), found.intercept, found.covariance
        self.n_clipped_ = int(np.count_nonzero((events < self.clip) | (events > 1 - self.clip)))
        self.gradient_norm_ = found.gradient
        self.converged_ = _warn_unconverged("Platt", found.gradient)

    def _map_events(self, q: np.ndarray) -> np.ndarray:
        return expit(self.slope_ * self._log_odds(q) + self.intercept_)


class Beta(EventRecalibrator):
    """Beta calibration: sigmoid(a ln q - b ln(1 - q) + c) with a, b >= 0, by maximum likelihood.

    a = b = 1, c = 0 is the identity, and a = b is Platt scaling.

    Args:
        clip: logarithms are taken of predictions moved into [clip, 1 - clip].

    Attributes:
        slopes_: (a, b), at least 0.
        intercept_: c.
        n_clipped_: fitted predictions outside [clip, 1 - clip].
        gradient_norm_: largest violation of the optimality conditions of the mean loss under a, b >= 0.
        converged_: whether that is at most 1e-6.

    Source: Kull, Silva Filho & Flach (2017), Beyond sigmoids: how to obtain well-calibrated probabilities from binary
    classifiers with beta calibration, section 4.
    """

    slopes_: Float[np.ndarray, " 2"]
    intercept_: float
    n_clipped_: int
    gradient_norm_: float
    converged_: bool

    def __init__(self, clip: float = 1e-12):
        self.clip = clip

    def _require_settings(self) -> None:
        require_clip(self.clip)

    def _features(self, q: np.ndarray) -> np.ndarray:
        inside = np.clip(q, self.clip, 1 - self.clip)
        return np.stack([np.log(inside), -np.log1p(-inside)], axis=1)

    def _fit(self, events: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> None:
        _require_distinct(events, 3, "Beta")
        _require_overlap(events, labels, downwards=False)
        features = self._features(events)
        best: tuple[list[int], _Logistic] | None = None
        # The loss is convex: if the free optimum leaves the quadrant, the constrained one lies on a face of it.
        for faces in ([[0, 1]], [[0], [1], []]):
            for kept in faces:
                found = _logistic(features[:, kept], labels)
                if (found.coef >= 0).all() and (best is None or found.loss < best[1].loss):
                    best = kept, found
            if best is not None:
                break
        assert best is not None  # the face without slopes always qualifies
        kept, found = best
        self.slopes_ = np.zeros(2)
        self.slopes_[kept] = found.coef
        self.intercept_ = found.intercept
        self.n_clipped_ = int(np.count_nonzero((events < self.clip) | (events > 1 - self.clip)))
        error = expit(features @ self.slopes_ + self.intercept_) - labels
        gradient = features.T @ error / len(error)
        # At a slope of 0 the loss may rise away from it.
        violation = np.where(self.slopes_ > 0, abs(gradient), np.maximum(-gradient, 0))
        self.gradient_norm_ = float(max(violation.max(), abs(error.mean())))
        self.converged_ = _warn_unconverged("Beta", self.gradient_norm_)

    def _map_events(self, q: np.ndarray) -> np.ndarray:
        return expit(self._features(q) @ self.slopes_ + self.intercept_)


class Isotonic(EventRecalibrator):
    """Isotonic regression: the best non-decreasing map, from scikit-learn; linear between the fitted points.

    It needs more points than the others (a thousand, say), and may return 0 and 1, whose log loss is infinite when
    they are wrong.

    Attributes:
        x_thresholds_: predictions between which the map is linear.
        y_thresholds_: its values there, ascending.

    Source: Zadrozny & Elkan (2002), Transforming classifier scores into accurate multiclass probability estimates.
    """

    x_thresholds_: Float[np.ndarray, " m"]
    y_thresholds_: Float[np.ndarray, " m"]

    def _fit(self, events: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> None:
        model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(events, labels)
        self.x_thresholds_, self.y_thresholds_ = model.X_thresholds_, model.y_thresholds_

    def _map_events(self, q: np.ndarray) -> np.ndarray:
        return np.interp(q, self.x_thresholds_, self.y_thresholds_)


class HistogramBinning(EventRecalibrator):
    """Histogram binning: the share of events of the prediction's bin.

    Args:
        n_bins: the number of bins; at most as many as points.
        binning: "mass" for bins of equal counts, equal predictions always in one bin; "width" for equal widths, where
            an empty bin maps to its middle.

    Attributes:
        edges_: upper ends of all bins but the last, ascending; a prediction on an edge belongs to the bin below.
        values_: the recalibrated probability of each bin.
        count_: fitted points in each.

    Source: Zadrozny & Elkan (2001), Obtaining calibrated probability estimates from decision trees and naive Bayesian
    classifiers.

    >>> map = HistogramBinning(n_bins=2).fit(np.array([0.1, 0.2, 0.7, 0.8]), np.array([0, 1, 1, 1]))
    >>> map(np.array([0.0, 1.0]))
    array([0.5, 1. ])
    """

    edges_: Float[np.ndarray, " b-1"]
    values_: Float[np.ndarray, " b"]
    count_: Int[np.ndarray, " b"]

    def __init__(self, n_bins: int = 15, binning: Binning = "mass"):
        self.n_bins = n_bins
        self.binning: Binning = binning

    def _require_settings(self) -> None:
        require_count("n_bins", self.n_bins, 1)
        require_binning(self.binning)

    def _fit(self, events: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> None:
        if len(events) < self.n_bins:
            raise ValueError(f"{len(events)} points for n_bins={self.n_bins} bins; expected at least one a bin")
        place = bin_of(events, self.n_bins, self.binning, split_ties=False)
        means = bin_means(place, self.n_bins, events, labels.astype(np.float64))
        if self.binning == "width":
            middle = (np.arange(self.n_bins) + 0.5) / self.n_bins
            self.edges_ = np.arange(1, self.n_bins) / self.n_bins
            self.values_ = np.where(means.count > 0, means.observed, middle)
            self.count_ = means.count
            return
        full = np.flatnonzero(means.count)
        highest = np.array([events[place == b].max() for b in full[:-1]])
        lowest = np.array([events[place == b].min() for b in full[1:]])
        middle = (highest + lowest) / 2
        # Between neighbouring numbers the middle may round to the upper one, which belongs to the bin above.
        self.edges_ = np.where(middle < lowest, middle, highest)
        self.values_, self.count_ = means.observed[full], means.count[full]

    def _map_events(self, q: np.ndarray) -> np.ndarray:
        return self.values_[np.searchsorted(self.edges_, q, side="left")]
