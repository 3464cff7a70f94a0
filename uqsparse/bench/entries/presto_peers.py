"""What PRESTO is measured against: the same objective in CVXPY, and the models its paper compares it with."""

import importlib
import warnings
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from uqsparse import bench
from uqsparse.models.presto import PrestoClassifier


def peer_module(name: str, package: str) -> ModuleType:
    """A peer's module.

    Raises:
        NotMeasured: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise bench.NotMeasured(f"{package} is not installed (pip install {package}): {error}") from None


class ConvexFit(NamedTuple):
    """A fit of the penalised ordinal model by CVXPY, in the units of the design it was given."""

    objective: float
    intercepts: np.ndarray
    psi: np.ndarray


class ConvexProgram:
    """PRESTO's objective as CVXPY states it, with the penalty as a parameter; one object solves a whole path."""

    def __init__(self, X: np.ndarray, y: np.ndarray, n_classes: int, factors: np.ndarray):
        cp = self._cp = peer_module("cvxpy", "cvxpy")
        n, p = X.shape
        k = n_classes - 1
        self._alpha, self._psi = cp.Variable(k), cp.Variable((k, p))
        self._penalty = cp.Parameter(nonneg=True)
        logits = [self._alpha[j] + X @ cp.sum(self._psi[: j + 1], axis=0) for j in range(k)]
        loss: Any = 0
        for c in range(n_classes):
            rows = np.flatnonzero(y == c)
            if c < k:
                loss += cp.sum(cp.logistic(-logits[c][rows]))
            if c > 0:
                loss += cp.sum(cp.logistic(logits[c - 1][rows]))
            if 0 < c < k:
                loss -= cp.sum(cp.log(1 - cp.exp(logits[c - 1][rows] - logits[c][rows])))
        shrinkage = cp.sum(cp.multiply(factors, cp.sum(cp.abs(self._psi), axis=1)))
        self._problem = cp.Problem(cp.Minimize(loss / n + self._penalty * shrinkage))

    def solve(self, penalty: float, **settings: float) -> ConvexFit:
        """Solve for one penalty with Clarabel; `settings` are its tolerances."""
        self._penalty.value = penalty
        self._problem.solve(solver="CLARABEL", **settings)
        alpha, psi = np.asarray(self._alpha.value), np.asarray(self._psi.value)
        return ConvexFit(float(self._problem.value), alpha, psi)


def largest_penalty(X: np.ndarray, y: np.ndarray, n_classes: int) -> float:
    """The least penalty at which no feature has a weight, from the gradient where only intercepts are fitted.

    Args:
        X: standardised features.
        y: classes 0, ..., K - 1.
        n_classes: K.
    """
    share = np.bincount(y, minlength=n_classes) / len(y)
    below = share.cumsum()[:-1]
    at = np.arange(n_classes - 1)
    slopes = below * (1 - below) * ((y[:, None] == at + 1) / share[1:] - (y[:, None] == at) / share[:-1])
    of_psi = (slopes.T @ X / len(y))[::-1].cumsum(axis=0)
    return float(abs(of_psi).max())


def presto(X: np.ndarray, y: np.ndarray, X_test: np.ndarray, first_penalty: float = 1.0) -> np.ndarray:
    """Rare probabilities of PRESTO, its penalty by cross-validation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small penalties on few rows are flagged, and not chosen
        fit = PrestoClassifier(first_penalty=first_penalty).fit(X, y)
    return fit.predict_proba(X_test)[:, -1]


def proportional_odds(X: np.ndarray, y: np.ndarray, X_test: np.ndarray) -> np.ndarray:
    """Rare probabilities of proportional odds by maximum likelihood, with statsmodels."""
    ordered = peer_module("statsmodels.miscmodels.ordinal_model", "statsmodels").OrderedModel
    keep = np.ptp(X, axis=0) > 0
    centre, scale = X[:, keep].mean(axis=0), X[:, keep].std(axis=0)
    model = ordered(y, (X[:, keep] - centre) / scale, distr="logit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = model.fit(method="bfgs", maxiter=500, disp=False)
    beta, cuts = fit.params[: keep.sum()], model.transform_threshold_params(fit.params)[1:-1]
    return expit(((X_test[:, keep] - centre) / scale) @ beta - cuts[-1])


def ridge_proportional_odds(X: np.ndarray, y: np.ndarray, X_test: np.ndarray) -> np.ndarray:
    """Rare probabilities of proportional odds with a ridge of strength 1, mord's default."""
    model = peer_module("mord", "mord").LogisticAT(alpha=1.0)
    scale = np.where(np.ptp(X, axis=0) > 0, X.std(axis=0), 1.0)
    centre = X.mean(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit((X - centre) / scale, y)
        return model.predict_proba((X_test - centre) / scale)[:, -1]


def logistic(X: np.ndarray, y: np.ndarray, X_test: np.ndarray) -> np.ndarray:
    """Rare probabilities of logistic regression on "the last class or not", by maximum likelihood."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_pipeline(StandardScaler(), LogisticRegression(C=np.inf, max_iter=2000)).fit(X, y == y.max())
    return model.predict_proba(X_test)[:, 1]


def log_loss(q: np.ndarray, rare: np.ndarray) -> float:
    """Mean negative log-likelihood of the rare event; probabilities are kept 1e-12 away from 0 and 1."""
    q = np.clip(q, 1e-12, 1 - 1e-12)
    return float(-np.where(rare, np.log(q), np.log1p(-q)).mean())


def area_under_curve(q: np.ndarray, rare: np.ndarray) -> float:
    """Probability that a rare case is ranked above another."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(rare, q))


def binned_calibration_error(q: np.ndarray, rare: np.ndarray) -> float:
    """Mean squared difference of predicted and observed shares, over bins of equal frequency.

    There are `max(round(n / 100), 10)` bins. The outcomes are put in the order of the predictions, as the bins are;
    code that accompanies the paper leaves them in the order of the rows.
    """
    order = np.argsort(q, kind="stable")
    bins = np.array_split(order, max(round(len(q) / 100), 10))
    return float(np.average([(q[b].mean() - rare[b].mean()) ** 2 for b in bins], weights=[len(b) for b in bins]))
