"""What all recalibrators share: fit on held-out predictions, then map new ones."""

import abc
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int, Num
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from uqsparse.bounds.calibration.binary_outcomes import as_event_probabilities, as_outcomes
from uqsparse.bounds.calibration.class_scores import as_probabilities, probabilities_and_labels
from uqsparse.kernels.namespaces import AnyArray


class Recalibrator(ClassifierMixin, BaseEstimator, abc.ABC):
    """A map of predicted probabilities, learned from outcomes.

    Predictions are probabilities of y = 1, shape (n,), or class probabilities, shape (n, c). Fit on predictions of
    rows that the model was not trained on: on training rows they look better than they are, and so would the map.

    A recalibrator is a scikit-learn classifier whose input are predictions: `clone`, `cross_val_score` and search over
    its settings work.
    """

    classes_: Int[np.ndarray, " c"]

    def fit(self, q: Float[AnyArray, "n ..."], y: Num[AnyArray, " n"]) -> Self:
        """Learn the map.

        Args:
            q: probabilities of y = 1 in [0, 1], shape (n,), or of the classes, shape (n, c) with rows that sum to one.
            y: outcomes 0 or 1, or labels 0, ..., c - 1, shape (n,); more than one class.

        Returns:
            Itself, fitted.

        Raises:
            ValueError: a shape does not fit, q leaves [0, 1] or has NaN, y has one class only, or the map cannot be
                learned from these points, with the reason.
        """
        self._require_settings()
        if np.ndim(q) == 1:
            events = as_event_probabilities("q", q)
            probabilities = np.stack([1 - events, events], axis=1)
            labels = as_outcomes(y, len(events), both=True).astype(np.int64)
        else:
            probabilities, labels = probabilities_and_labels(q, y)
            if len(np.unique(labels)) < 2:
                raise ValueError("y holds one class only; expected outcomes of more than one")
            events = probabilities[:, -1]
        self._require_classes(probabilities.shape[1])
        self._fit(events, probabilities, labels)
        self.classes_ = np.arange(probabilities.shape[1])
        return self

    def __call__(self, q: Float[AnyArray, "n ..."]) -> Float[np.ndarray, "n ..."]:
        """Recalibrated probabilities in the shape of the predictions, (n,) or (n, c).

        Args:
            q: predictions, in either form `fit` takes, of as many classes.

        Raises:
            ValueError: a shape does not fit, or q leaves [0, 1] or has NaN.
        """
        found = self.predict_proba(q)
        return found[:, 1] if np.ndim(q) == 1 else found

    def predict_proba(self, q: Float[AnyArray, "n ..."]) -> Float[np.ndarray, "n c"]:
        """Recalibrated class probabilities, shape (n, c), for both forms of predictions.

        Args:
            q: predictions, in either form `fit` takes, of as many classes.

        Raises:
            ValueError: a shape does not fit, or q leaves [0, 1] or has NaN.
        """
        check_is_fitted(self, "classes_")
        if np.ndim(q) == 1:
            events = as_event_probabilities("q", q)
            probabilities = np.stack([1 - events, events], axis=1)
        else:
            probabilities = as_probabilities(q, len(q), np.shape(q)[-1])
            events = probabilities[:, -1]
        if probabilities.shape[1] != len(self.classes_):
            raise ValueError(f"q is for {probabilities.shape[1]} classes; fitted for {len(self.classes_)}")
        return self._map(events, probabilities)

    def predict(self, q: Float[AnyArray, "n ..."]) -> Int[np.ndarray, " n"]:
        """The most probable class after recalibration.

        Args:
            q: predictions, in either form `fit` takes.
        """
        return self.predict_proba(q).argmax(axis=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        return tags

    @abc.abstractmethod
    def _fit(self, events: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Learn from checked predictions, given both as probabilities of the last class and of all."""

    @abc.abstractmethod
    def _map(self, events: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Class probabilities (n, c) of checked predictions."""

    def _require_settings(self) -> None:
        """Raise unless the settings are in range."""

    def _require_classes(self, n_classes: int) -> None:
        """Raise unless the map is defined for so many classes."""
        if n_classes < 2:
            raise ValueError(f"q has shape (n, {n_classes}); expected (n,) or (n, c) with c >= 2")


class EventRecalibrator(Recalibrator):
    """A map of the probability of one event."""

    def _require_classes(self, n_classes: int) -> None:
        if n_classes != 2:
            raise ValueError(
                f"q is for {n_classes} classes; {type(self).__name__} is defined for two. Temperature, Dirichlet and "
                "MixNMatch take more"
            )

    def _map(self, events: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        mapped = self._map_events(events)
        return np.stack([1 - mapped, mapped], axis=1)

    @abc.abstractmethod
    def _map_events(self, q: np.ndarray) -> np.ndarray:
        """Recalibrated probabilities of the event."""


def log_probabilities(probabilities: np.ndarray, clip: float) -> tuple[np.ndarray, int]:
    """Logarithms of class probabilities kept at or above `clip`, and how many rows that changed."""
    low = probabilities < clip
    return np.log(np.where(low, clip, probabilities)), int(low.any(axis=1).sum())


def require_clip(clip: Any) -> None:
    """Raise ValueError unless a clip lies in (0, 0.1]."""
    if not 0 < clip <= 0.1:
        raise ValueError(f"clip must lie in (0, 0.1], got {clip!r}")
