"""Recalibrators of class probabilities, two or more: temperature, Dirichlet, mix-n-match."""

import warnings
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize, minimize_scalar, root_scalar
from scipy.special import log_softmax, softmax

from uqsparse.bounds.calibration.recalibrator import Recalibrator, log_probabilities, require_clip

Loss = Literal["mse", "ce"]
# The temperatures that are looked at.
_COLDEST, _HOTTEST = 1e-3, 1e3


class Temperature(Recalibrator):
    """Temperature scaling: class probabilities proportional to q^(1/T), by maximum likelihood.

    It sharpens or flattens, and never changes the most probable class. It cannot move probabilities one way: use Platt
    or Beta where the bias is a shift.

    Args:
        clip: logarithms are taken of probabilities at or above this.

    Attributes:
        temperature_: T; above 1 flattens.
        at_limit_: whether the likelihood still rises at the last temperature looked at, 0.001 or 1000: the top class is
            always right, or predictions say nothing. Also warned about.
        n_clipped_: fitted rows with a probability below the clip.

    Source: Guo, Pleiss, Sun & Weinberger (2017), On calibration of modern neural networks, section 4.2.
    """

    temperature_: float
    at_limit_: bool
    n_clipped_: int

    def __init__(self, clip: float = 1e-12):
        self.clip = clip

    def _require_settings(self) -> None:
        require_clip(self.clip)

    def _fit(self, events: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> None:
        logits, self.n_clipped_ = log_probabilities(probabilities, self.clip)
        self.temperature_, self.at_limit_ = _likeliest_temperature(logits, labels)

    def _map(self, events: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        return softmax(log_probabilities(probabilities, self.clip)[0] / self.temperature_, axis=1)


def _likeliest_temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[float, bool]:
    """The root of the loss's slope in 1/T, in which it is convex, and whether there is none in the range."""
    of_outcome = logits[np.arange(len(labels)), labels].mean()

    def slope(log_temperature: float) -> float:
        tempered = softmax(logits * np.exp(-log_temperature), axis=1)
        return float((tempered * logits).sum(axis=1).mean() - of_outcome)

    cold, hot = np.log(_COLDEST), np.log(_HOTTEST)
    if slope(hot) >= 0:
        return _warned_limit(_HOTTEST, "predictions say nothing about the outcomes, or the opposite"), True
    if slope(cold) <= 0:
        return _warned_limit(_COLDEST, "the most probable class is always right"), True
    found = root_scalar(slope, bracket=(cold, hot), method="brentq", xtol=1e-13)
    return float(np.exp(found.root)), False


def _warned_limit(temperature: float, why: str) -> float:
    warnings.warn(f"the temperature is at its limit {temperature:g}: {why}", stacklevel=5)
    return temperature


class Dirichlet(Recalibrator):
    """Dirichlet calibration: softmax(W ln q + b), by maximum likelihood with penalties off the diagonal of W and on b.

    For two classes it is close to Beta, without its limits on the slopes.

    Args:
        l2: penalty on the mean square of the entries of W off its diagonal, at least 0.
        l2_intercept: penalty on the mean square of b, at least 0.
        clip: logarithms are taken of probabilities at or above this.
        max_iter: iterations of L-BFGS.

    Attributes:
        coef_: W, shape (c, c).
        intercept_: b, shape (c,).
        gradient_norm_: largest entry of the gradient of the penalised mean loss at the fit.
        converged_: whether that is at most 1e-5; otherwise also warned about.
        n_iter_: iterations used.
        n_clipped_: fitted rows with a probability below the clip.

    Source: Kull, Perello-Nieto, Kängsepp, Silva Filho, Song & Flach (2019), Beyond temperature scaling: obtaining
    well-calibrated multiclass probabilities with Dirichlet calibration, sections 3 and 4 (ODIR).
    """

    coef_: Float[np.ndarray, "c c"]
    intercept_: Float[np.ndarray, " c"]
    gradient_norm_: float
    converged_: bool
    n_iter_: int
    n_clipped_: int

    def __init__(self, l2: float = 1e-3, l2_intercept: float = 1e-3, clip: float = 1e-12, max_iter: int = 2000):
        self.l2 = l2
        self.l2_intercept = l2_intercept
        self.clip = clip
        self.max_iter = max_iter

    def _require_settings(self) -> None:
        require_clip(self.clip)
        for name in ("l2", "l2_intercept"):
            value = getattr(self, name)
            if not (value >= 0 and np.isfinite(value)):
                raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")

    def _fit(self, events: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> None:
        c = probabilities.shape[1]
        missing = np.setdiff1d(np.arange(c), labels)
        if len(missing):
            raise ValueError(f"y never holds class {missing[0]}; Dirichlet needs every class among the fitted points")
        logits, self.n_clipped_ = log_probabilities(probabilities, self.clip)
        outcome = np.eye(c)[labels]
        off_diagonal = (1 - np.eye(c)) * (self.l2 / (c * (c - 1)))
        on_intercept = self.l2_intercept / c

        def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights, intercept = flat[:-c].reshape(c, c), flat[-c:]
            log_p = log_softmax(logits @ weights.T + intercept, axis=1)
            penalty = (off_diagonal * weights**2).sum() + on_intercept * (intercept**2).sum()
            error = (np.exp(log_p) - outcome) / len(labels)
            slope = error.T @ logits + 2 * off_diagonal * weights
            level = error.sum(axis=0) + 2 * on_intercept * intercept
            return -(outcome * log_p).sum() / len(labels) + penalty, np.concatenate([slope.ravel(), level])

        start = np.concatenate([np.eye(c).ravel(), np.zeros(c)])
        options = {"maxiter": self.max_iter, "maxfun": 4 * self.max_iter, "gtol": 1e-8, "ftol": 0.0, "maxcor": 30}
        found = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
        self.coef_, self.intercept_ = found.x[:-c].reshape(c, c), found.x[-c:]
        self.gradient_norm_ = float(abs(value_and_gradient(found.x)[1]).max())
        self.converged_, self.n_iter_ = self.gradient_norm_ <= 1e-5, int(found.nit)
        if not self.converged_:
            message = f"Dirichlet did not converge: its largest gradient is {self.gradient_norm_:.2g}"
            warnings.warn(f"{message}; raise max_iter or l2", stacklevel=3)

    def _map(self, events: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        return softmax(log_probabilities(probabilities, self.clip)[0] @ self.coef_.T + self.intercept_, axis=1)


class MixNMatch(Recalibrator):
    """Ensemble temperature scaling: a convex mix of q tempered, q itself and equal probabilities.

    The temperature is fitted first, then the weights, both by the same loss. It never changes the most probable class.

    Args:
        loss: "mse" (the Brier score) or "ce" (the log loss).
        clip: logarithms are taken of probabilities at or above this.

    Attributes:
        temperature_: T of the tempered part.
        weights_: of the tempered part, of q and of equal probabilities; they sum to one.
        gap_: how much better other weights could make the loss at most, given T.
        converged_: whether that is at most 1e-6; otherwise also warned about.
        n_clipped_: fitted rows with a probability below the clip.

    Source: Zhang, Kailkhura & Han (2020), Mix-n-Match: ensemble and compositional methods for uncertainty calibration
    in deep learning, section 3.2.
    """

    temperature_: float
    weights_: Float[np.ndarray, " 3"]
    gap_: float
    converged_: bool
    n_clipped_: int

    def __init__(self, loss: Loss = "mse", clip: float = 1e-12):
        self.loss: Loss = loss
        self.clip = clip

    def _require_settings(self) -> None:
        require_clip(self.clip)
        if self.loss not in ("mse", "ce"):
            raise ValueError(f"loss must be 'mse' or 'ce', got {self.loss!r}")

    def _fit(self, events: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> None:
        logits, self.n_clipped_ = log_probabilities(probabilities, self.clip)
        if self.loss == "ce":
            self.temperature_ = _likeliest_temperature(logits, labels)[0]
        else:
            self.temperature_ = _least_squares_temperature(logits, labels)
        parts = self._parts(probabilities)
        self.weights_, self.gap_ = _mixture_weights(parts, labels, self.loss)
        self.converged_ = self.gap_ <= 1e-6
        if not self.converged_:
            warnings.warn(f"the weights of MixNMatch did not converge: their gap is {self.gap_:.2g}", stacklevel=3)

    def _parts(self, probabilities: np.ndarray) -> np.ndarray:
        """The three parts of the mix, shape (3, n, c)."""
        tempered = softmax(log_probabilities(probabilities, self.clip)[0] / self.temperature_, axis=1)
        return np.stack([tempered, probabilities, np.full_like(probabilities, 1 / probabilities.shape[1])])

    def _map(self, events: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        return np.tensordot(self.weights_, self._parts(probabilities), axes=1)


def _least_squares_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of the least Brier score: the best of a grid, refined. The score is not convex in T."""
    outcome = np.eye(logits.shape[1])[labels]

    def score(log_temperature: float) -> float:
        return float(((softmax(logits * np.exp(-log_temperature), axis=1) - outcome) ** 2).mean())

    grid = np.linspace(np.log(_COLDEST), np.log(_HOTTEST), 57)
    best = int(np.argmin([score(one) for one in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(score, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    return float(np.exp(found.x if found.fun <= score(grid[best]) else grid[best]))


def _mixture_weights(parts: np.ndarray, labels: np.ndarray, loss: Loss) -> tuple[np.ndarray, float]:
    """Weights on the simplex of the least loss, which is convex in them, and a bound on how far from least it is."""
    n, c = parts.shape[1:]
    flat = parts.reshape(3, -1)
    outcome = np.eye(c)[labels].ravel()
    of_outcome = parts[:, np.arange(n), labels]

    def value_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        if loss == "mse":
            error = weights @ flat - outcome
            return float(error @ error) / n, 2 * flat @ error / n
        chance = np.maximum(weights @ of_outcome, 1e-300)
        return float(-np.log(chance).mean()), -(of_outcome / chance).mean(axis=1)

    found = minimize(
        value_and_gradient,
        np.full(3, 1 / 3),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(3)},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    weights = np.clip(found.x, 0, 1)
    weights /= weights.sum()
    gradient = value_and_gradient(weights)[1]
    # Convexity: no corner of the simplex, and so no point, lies lower than the tangent plane does at the best corner.
    return weights, max(float(weights @ gradient - gradient.min()), 0.0)
