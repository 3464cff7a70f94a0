"""Data of a Rashomon set at the door: features, responses, and the loss they make."""

from typing import Any

import numpy as np
from jaxtyping import Float

from uqsparse.kernels.glm_losses import LossKind
from uqsparse.solvers.regularised_loss import RegularisedLoss, ordinal_loss


def checked_features(X: Any, n_features: int | None = None) -> Float[np.ndarray, "n p"]:
    """Features as finite float64 of shape (n, p).

    Raises:
        ValueError: they are not, or not `n_features` of them.
    """
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"X must have rows and columns, got shape {X.shape}")
    if n_features is not None and X.shape[1] != n_features:
        raise ValueError(f"X must have {n_features} features as in fit, got {X.shape[1]}")
    if not np.isfinite(X).all():
        raise ValueError("X must be finite, got NaN or infinity")
    return X


def encoded_response(kind: LossKind, y: Any, n: int) -> tuple[Float[np.ndarray, " n"], np.ndarray | None]:
    """Responses as numbers, and the classes that 0, 1, ... stand for where there are classes.

    Args:
        kind: of loss.
        y: responses.
        n: how many there should be.

    Raises:
        ValueError: a shape or a value does not fit, or there are too few or too many classes.
    """
    y = np.asarray(y)
    if y.shape != (n,):
        raise ValueError(f"y must have shape ({n},) as X has {n} rows, got {y.shape}")
    if kind == "ordinal" and y.dtype.kind not in "biuf":
        raise ValueError("y must be numbers for the ordinal loss, whose classes have an order: code them 0, 1, ...")
    if kind in ("squared", "poisson"):
        y = y.astype(np.float64)
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError("y must be finite, got NaN or infinity")
    if kind in ("squared", "poisson"):
        return y, None
    classes, codes = np.unique(y, return_inverse=True)
    k = len(classes)
    if kind == "logistic" and k != 2:
        raise ValueError(f"y must have exactly 2 classes for the logistic loss, got {k}")
    if kind == "ordinal" and k < 3:
        raise ValueError(f"y must have at least 3 classes for the ordinal loss, got {k}; use 'logistic' for 2")
    return codes.reshape(-1).astype(np.float64), classes


def make_loss(
    kind: LossKind, X: Float[np.ndarray, "n p"], y: Float[np.ndarray, " n"], l2: Any, fit_intercept: bool
) -> RegularisedLoss:
    """The training loss: the mean over the rows plus the ridge, with the intercept first and free.

    Args:
        kind: of loss.
        X: checked features.
        y: encoded responses.
        l2: ridge coefficient, one number or one a feature; for "ordinal" one number or (boundaries, features).
        fit_intercept: whether to add a column of ones; "ordinal" has its own intercepts.

    Raises:
        ValueError: the shape of `l2` or a value of `y` does not fit.
    """
    n, p = X.shape
    penalties = np.asarray(l2, dtype=np.float64)
    if kind == "ordinal":
        k = int(y.max()) + 1
        if penalties.shape not in ((), (p,), (k - 1, p)):
            raise ValueError(f"l2 must be one number or have shape ({p},) or {(k - 1, p)}, got {penalties.shape}")
        return ordinal_loss(X, y.astype(np.int64), n_classes=k, l2=penalties)
    if penalties.shape not in ((), (p,)):
        raise ValueError(f"l2 must be one number or have shape ({p},), got shape {penalties.shape}")
    penalties = np.broadcast_to(penalties, (p,))
    if fit_intercept:
        X, penalties = np.column_stack([np.ones(n), X]), np.append(0.0, penalties)
    return RegularisedLoss(X, y, np.full(n, 1 / n), penalties, kind)
