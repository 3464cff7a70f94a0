"""An incremental scikit-learn model as a predictive: inputs come again, and the model answers them.

The next input is one of those so far. A classifier draws its class from `predict_proba`; a regressor adds to its
prediction a residual of the fit. `partial_fit` learns from the pair. With a loss whose gradient has mean zero under the
model's own predictions (squared error, log loss) and no penalty, the coefficients are a martingale; a penalty that
shrinks them in every step is not, which `check_martingale` shows.

Sources: Fong, Holmes & Walker (2023), Martingale posterior distributions; Holmes & Walker (2023), Statistical inference
with exchangeability and martingales.
"""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Shaped
from sklearn import config_context
from sklearn.base import clone, is_classifier

from uqsparse.inference.predictive_rules import count_observations
from uqsparse.kernels.arguments import require_count


@dataclass
class IncrementalState:
    """A model and what it has seen. Updates change it in place.

    Args:
        model: the fitted estimator.
        inputs: all inputs so far, rows of shape (features,).
        residuals: residuals of the fit, of mean zero, that a regressor's draws add; None for classifiers.
    """

    model: Any
    inputs: list[Float[np.ndarray, " features"]]
    residuals: Float[np.ndarray, " n"] | None

    def __deepcopy__(self, memo: dict[int, Any]) -> "IncrementalState":
        """A model and a list of its own; the rows, which never change, are shared."""
        return IncrementalState(copy.deepcopy(self.model, memo), list(self.inputs), self.residuals)


@dataclass(frozen=True)
class IncrementalPredictive:
    """The predictive of an estimator with `partial_fit`; runs in Python, one draw at a time.

    Args:
        model: scikit-learn estimator with `partial_fit`: a classifier with `predict_proba`, or a regressor of one
            target. It is cloned, not changed.
        n_passes: how often `init` goes through the data, at least 1.
        shuffle_seed: seed of the order in which it does, a new one in each pass.

    Raises:
        TypeError: the model lacks a method.
        ValueError: `n_passes` is below 1.

    Source: see the module.

    >>> from sklearn.naive_bayes import GaussianNB
    >>> rule = IncrementalPredictive(GaussianNB())
    >>> state = rule.init((np.array([[0.0], [1.0], [4.0], [5.0]]), np.array([0, 0, 1, 1])))
    >>> x, y = rule.sample(np.random.default_rng(0), state)
    >>> len(rule.update(state, (x, y)).inputs)
    5
    """

    model: Any
    n_passes: int = 1
    shuffle_seed: int = 0
    compiled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        needed = ("partial_fit", "predict_proba") if is_classifier(self.model) else ("partial_fit", "predict")
        if missing := [name for name in needed if not hasattr(self.model, name)]:
            raise TypeError(f"model must have {' and '.join(missing)}; {type(self.model).__name__} has not")
        require_count("n_passes", self.n_passes, 1)

    def init(self, data: tuple[Shaped[np.ndarray, "n features"], Shaped[np.ndarray, " n"]]) -> IncrementalState:
        """The model after some passes through the data (X, y).

        Raises:
            ValueError: the data are no pair (X, y) of shapes (n, features) and (n,), are empty or not finite.
        """
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise ValueError(f"data must be a pair (X, y), got {type(data).__name__}")
        X, y = (np.asarray(part) for part in data)
        n = count_observations((X, y))
        if X.ndim != 2 or y.ndim != 1 or n == 0:
            raise ValueError(f"data must be X (n, features) and y (n,) with n at least 1, got {X.shape} and {y.shape}")
        model: Any = clone(self.model)
        rng = np.random.default_rng(self.shuffle_seed)
        known = {"classes": np.unique(y)} if is_classifier(model) else {}
        for _ in range(self.n_passes):
            order = rng.permutation(n)
            model.partial_fit(X[order], y[order], **known)
        residuals = None
        if not known:
            residuals = y - model.predict(X)
            residuals = residuals - residuals.mean()
        return IncrementalState(model, list(X), residuals)

    def sample(self, key: np.random.Generator, state: IncrementalState) -> tuple[Any, Any]:
        """An input of those so far, and an answer to it. `key` is a NumPy generator."""
        x = state.inputs[key.integers(len(state.inputs))]
        with config_context(assume_finite=True, skip_parameter_validation=True):
            if state.residuals is None:
                chances = state.model.predict_proba(x[None])[0]
                return x, state.model.classes_[int(np.searchsorted(np.cumsum(chances), key.uniform() * chances.sum()))]
            return x, state.model.predict(x[None])[0] + state.residuals[key.integers(len(state.residuals))]

    def update(self, state: IncrementalState, y: tuple[Any, Any]) -> IncrementalState:
        """The model after `partial_fit` on one pair; changes the state."""
        x, target = y
        with config_context(assume_finite=True, skip_parameter_validation=True):
            state.model.partial_fit(x[None], [target])
        state.inputs.append(x)
        return state
