"""Regularised convex losses of linear predictors, and their minimum.

    L(w) = sum_i omega_i f(y_i, x_i^T w) + 1/2 sum_j mu_j w_j^2,     omega_i >= 0, sum_i omega_i = 1, mu_j >= 0.

The ordinal loss has two predictors a row, a_i^T w <= b_i^T w; everything else is the same.

A minimum exists, and all sublevel sets are bounded, unless some direction costs nothing: columns that are collinear,
or classes that a hyperplane separates, in coordinates without a penalty. `minimise` refuses these with the reason.
"""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
from jaxtyping import ArrayLike, Float, Int

from uqsparse.kernels.glm_losses import LOSS_KINDS, LossKind, RowTerms, row_terms

# Below this share of the largest eigenvalue, of matrices scaled to a unit diagonal, a direction counts as free.
_RANK_TOLERANCE = 1e-13


@dataclasses.dataclass(frozen=True, eq=False)
class RegularisedLoss:
    """A weighted mean of convex losses of linear predictors plus a ridge.

    Args:
        X: design, shape (n, d); a column of ones where an intercept is wanted. For "ordinal": the design of the upper
            boundaries (see `ordinal_loss`).
        y: responses, shape (n,): 0 or 1 ("logistic"), real ("squared"), at least 0 ("poisson"). For "ordinal" what a
            row has: 0 an upper boundary, 1 both, 2 a lower boundary.
        weights: weights of the rows, at least 0, summing to 1, shape (n,).
        l2: ridge coefficient mu_j of each coordinate, at least 0, shape (d,); 0 leaves it free.
        kind: one of "logistic", "squared", "poisson", "ordinal".
        X_lower: for "ordinal": the design of the lower boundaries, shape (n, d); otherwise None.

    Raises:
        ValueError: an entry is not finite, a shape or a value is not as above.
    """

    X: Float[np.ndarray, "n d"] = dataclasses.field(repr=False)
    y: Float[np.ndarray, " n"] = dataclasses.field(repr=False)
    weights: Float[np.ndarray, " n"] = dataclasses.field(repr=False)
    l2: Float[np.ndarray, " d"] = dataclasses.field(repr=False)
    kind: LossKind = "logistic"
    X_lower: Float[np.ndarray, "n d"] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in LOSS_KINDS:
            raise ValueError(f"kind must be one of {LOSS_KINDS}, got {self.kind!r}")
        X = _finite("X", self.X, 2)
        n, d = X.shape
        if n == 0 or d == 0:
            raise ValueError(f"X must have rows and columns, got shape {X.shape}")
        y, weights, l2 = _finite("y", self.y, 1), _finite("weights", self.weights, 1), _finite("l2", self.l2, 1)
        for name, found, wanted in (("y", y, n), ("weights", weights, n), ("l2", l2, d)):
            if len(found) != wanted:
                raise ValueError(f"{name} must have {wanted} entries for X of shape {X.shape}, got {len(found)}")
        if (weights < 0).any() or abs(weights.sum() - 1) > 1e-9:
            raise ValueError(f"weights must be at least 0 and sum to 1, got sum {weights.sum():.10g}")
        if (l2 < 0).any():
            raise ValueError(f"l2 must be at least 0, got {l2.min():g}")
        if self.kind == "logistic" and not np.isin(y, (0.0, 1.0)).all():
            raise ValueError("y must be 0 or 1 for the logistic loss")
        if self.kind == "poisson" and (y < 0).any():
            raise ValueError(f"y must be at least 0 for the Poisson loss, got {y.min():g}")
        if self.kind == "ordinal" and not np.isin(y, (0.0, 1.0, 2.0)).all():
            raise ValueError("y must be 0, 1 or 2 for the ordinal loss: which boundaries a row has")
        if (self.kind == "ordinal") != (self.X_lower is not None):
            raise ValueError("X_lower must be given for the ordinal loss and for no other")
        X_lower = None
        if self.X_lower is not None:
            X_lower = _finite("X_lower", self.X_lower, 2)
            if X_lower.shape != X.shape:
                raise ValueError(f"X_lower must have the shape of X, {X.shape}, got {X_lower.shape}")
            # A boundary that a row does not have costs nothing.
            X, X_lower = X * (y != 2)[:, None], X_lower * (y != 0)[:, None]
        for name, value in (("X", X), ("y", y), ("weights", weights), ("l2", l2), ("X_lower", X_lower)):
            object.__setattr__(self, name, value)

    @property
    def design(self) -> Float[np.ndarray, "m_n d"]:
        """The rows of all predictors: X, or the lower boundaries' rows and then the upper boundaries'."""
        return self.X if self.X_lower is None else np.concatenate([self.X_lower, self.X])

    def value(self, w: Float[ArrayLike, " d"]) -> float:
        """L(w); +inf outside the domain."""
        w = np.asarray(w, dtype=np.float64)
        return self._value(w, self.row_terms(w).value)

    def gradient(self, w: Float[ArrayLike, " d"]) -> Float[np.ndarray, " d"]:
        """The gradient of L at w."""
        w = np.asarray(w, dtype=np.float64)
        return self._gradient(w, self.row_terms(w))

    def hessian(self, w: Float[ArrayLike, " d"]) -> Float[np.ndarray, "d d"]:
        """The Hessian of L at w."""
        return self._hessian(self.row_terms(np.asarray(w, dtype=np.float64)))

    def row_terms(self, w: Float[np.ndarray, " d"]) -> RowTerms:
        """The losses of all rows at w with their derivatives in the predictors."""
        margins = self.design @ w
        if self.kind != "ordinal":
            with np.errstate(over="ignore", invalid="ignore"):
                return row_terms(self.kind, self.y, margins)
        with jax.enable_x64(True):
            terms = _ordinal_terms(self.y.astype(np.int32), margins)
        return RowTerms(*(np.asarray(one) for one in terms))

    def _value(self, w: np.ndarray, values: np.ndarray) -> float:
        total = np.sum(np.where(self.weights > 0, values, 0.0) * self.weights) + 0.5 * np.sum(self.l2 * w * w)
        return float(total) if not np.isnan(total) else np.inf

    def _gradient(self, w: np.ndarray, terms: RowTerms) -> np.ndarray:
        weights = np.tile(self.weights, 1 if self.X_lower is None else 2)
        return self.design.T @ (weights * terms.slopes) + self.l2 * w

    def _hessian(self, terms: RowTerms) -> np.ndarray:
        return self._gram(*np.split(terms.curvatures, 1 if self.X_lower is None else 3))

    def _gram(self, first: np.ndarray, *others: np.ndarray) -> np.ndarray:
        """The Hessian from the second derivatives of the rows: one array, or lower-lower, lower-upper, upper-upper."""
        lower = self.X if self.X_lower is None else self.X_lower
        gram = (lower.T * (self.weights * first)) @ lower
        if others:
            mixed = (lower.T * (self.weights * others[0])) @ self.X
            gram = gram + mixed + mixed.T + (self.X.T * (self.weights * others[1])) @ self.X
        return gram + np.diag(self.l2)


@dataclasses.dataclass(frozen=True, eq=False)
class Minimum:
    """The minimiser of a regularised loss.

    Args:
        w: the minimiser, shape (d,).
        value: L(w).
        gradient_norm: the largest absolute entry of the gradient there.
        hessian: the Hessian there, shape (d, d), positive definite.
        converged: whether the Newton decrement is at the level of rounding, and so small that a minimum is known to
            exist near w.
        n_iter: Newton steps taken.
    """

    w: Float[np.ndarray, " d"]
    value: float
    gradient_norm: float
    hessian: Float[np.ndarray, "d d"] = dataclasses.field(repr=False)
    converged: bool
    n_iter: int


def ordinal_loss(
    X: Float[ArrayLike, "n p"],
    y: Int[ArrayLike, " n"],
    *,
    n_classes: int,
    weights: Float[ArrayLike, " n"] | None = None,
    l2: float | Float[ArrayLike, "boundaries p"] = 0.0,
) -> RegularisedLoss:
    """The ordinal loss of PRESTO: K-1 intercepts alpha and K-1 difference vectors psi, beta_k = psi_1 + ... + psi_k.

    The coordinates are (alpha_1 .. alpha_(K-1), psi_1, .., psi_(K-1)), of which `ordinal_directions` picks logits.

    Args:
        X: features without an intercept, shape (n, p).
        y: classes, 0 .. K-1, shape (n,).
        n_classes: K, at least 2.
        weights: weights of the rows, summing to 1, shape (n,); equal ones if None.
        l2: ridge coefficient of the psi, one number or shape (K-1, p). The intercepts are free.

    Raises:
        ValueError: a shape or a value is not as above.

    Source: Faletto & Bien (2023), Predicting Rare Events by Shrinking Towards Proportional Odds.
    """
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, got {n_classes}")
    X = _finite("X", X, 2)
    labels = np.asarray(y)
    if labels.shape != (len(X),) or not np.isin(labels, np.arange(n_classes)).all():
        raise ValueError(f"y must hold {len(X)} classes out of 0 .. {n_classes - 1}, got shape {labels.shape}")
    labels = labels.astype(np.int64)
    if weights is None:
        weights = np.full(len(X), 1 / len(X))
    ridge = np.broadcast_to(np.asarray(l2, dtype=np.float64), (n_classes - 1, X.shape[1]))
    upper = ordinal_directions(X, np.minimum(labels, n_classes - 2), n_classes)
    lower = ordinal_directions(X, np.maximum(labels - 1, 0), n_classes)
    sides = np.where(labels == 0, 0.0, np.where(labels == n_classes - 1, 2.0, 1.0))
    coefficients = np.concatenate([np.zeros(n_classes - 1), ridge.ravel()])
    return RegularisedLoss(upper, sides, np.asarray(weights, dtype=np.float64), coefficients, "ordinal", lower)


def ordinal_directions(
    X: Float[ArrayLike, "n p"], boundary: int | Int[ArrayLike, " n"], n_classes: int
) -> Float[np.ndarray, "n d"]:
    """Rows x with x^T w = logit P(y <= boundary) in the coordinates of `ordinal_loss`.

    Args:
        X: features, shape (n, p).
        boundary: 0 .. K-2, one for all rows or one each. With K-2, the risk of the last class is sigmoid(-x^T w).
        n_classes: K.

    >>> ordinal_directions([[5.0]], 1, n_classes=4).tolist()
    [[0.0, 1.0, 0.0, 5.0, 5.0, 0.0]]
    """
    X = np.asarray(X, dtype=np.float64)
    boundaries = np.broadcast_to(np.asarray(boundary), (len(X),))
    counted = np.arange(n_classes - 1)
    intercepts = (counted == boundaries[:, None]).astype(np.float64)
    summed = (counted <= boundaries[:, None]).astype(np.float64)
    return np.concatenate([intercepts, (summed[:, :, None] * X[:, None, :]).reshape(len(X), -1)], axis=1)


def minimise(loss: RegularisedLoss, *, max_iter: int = 200) -> Minimum:
    """Minimise a regularised loss by damped Newton steps, to rounding.

    Args:
        loss: the loss.
        max_iter: most Newton steps.

    Raises:
        ValueError: there is no minimum, or no unique one: unpenalised columns are collinear, or the data are separable
            in them.

    Warns:
        RuntimeWarning: not converged after `max_iter` steps.

    Source: Boyd & Vandenberghe (2004), Convex Optimization, algorithm 9.5. The test that a minimum exists is that of
    Bach (2010), Self-concordant analysis for logistic regression, proposition 2.
    """
    _refuse_collinear(loss)
    w = _start(loss)
    terms = loss.row_terms(w)
    value = loss._value(w, terms.value)
    last_decrement = decrement = np.inf
    exists, n_iter = False, 0
    for n_iter in range(1, max_iter + 1):
        gradient = loss._gradient(w, terms)
        factor = _factor(loss._hessian(terms))
        step = -_solve(factor, gradient)
        decrement = float(-gradient @ step)  # twice the decrease that Newton expects
        exists = decrement**0.5 * _steepness(loss, w, factor) < 1
        if exists and (decrement <= 1e-30 * (1 + value) or (decrement < 1e-20 and decrement > 0.25 * last_decrement)):
            break
        if n_iter in (30, 60, 120) and not exists:
            _refuse_separable(loss)
        last_decrement = decrement
        size = 1.0
        # Close by, the decrease drowns in rounding, and the full step is safe.
        while size > 1e-12:
            terms = loss.row_terms(w + size * step)
            new = loss._value(w + size * step, terms.value)
            if new <= value - 1e-4 * size * decrement or (exists and decrement < 1e-11 and np.isfinite(new)):
                break
            size /= 2
        w, value = w + size * step, new
    terms = loss.row_terms(w)
    gradient, hessian = loss._gradient(w, terms), loss._hessian(terms)
    if not exists:
        _refuse_separable(loss)
    converged = exists and decrement < 1e-14 * (1 + abs(value))
    if not converged:
        warnings.warn(f"the loss was not minimised in {n_iter} Newton steps", RuntimeWarning, stacklevel=2)
    return Minimum(w, value, float(abs(gradient).max()), hessian, converged, n_iter)


@jax.jit
def _ordinal_terms(y: Any, margins: Any) -> RowTerms:
    return row_terms("ordinal", y, jnp.asarray(margins))


def _finite(name: str, array: ArrayLike, ndim: int) -> np.ndarray:
    array = np.array(array, dtype=np.float64)
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension{'s' if ndim > 1 else ''}, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array


def _start(loss: RegularisedLoss) -> np.ndarray:
    """A point of the domain at which Newton's method starts well."""
    if loss.kind == "poisson":
        # The usual first guess: logarithms of the counts, weighted by the counts.
        counts = loss.y + 0.5
        return _solve(_factor(loss._gram(counts)), loss.X.T @ (loss.weights * counts * np.log(counts)))
    if loss.kind != "ordinal":
        return np.zeros(loss.X.shape[1])
    assert loss.X_lower is not None
    both = (loss.y == 1) & (loss.weights > 0)
    if not both.any():
        return np.zeros(loss.X.shape[1])
    # Spread the boundaries: least squares with distance 1 for every interior row, which intercepts can meet exactly.
    difference = (loss.X - loss.X_lower)[both]
    start = np.linalg.lstsq(difference, np.ones(len(difference)), rcond=None)[0]
    if (difference @ start).min() > 0.1:
        return start
    # Otherwise the point with the largest least distance.
    d = difference.shape[1]
    found = scipy.optimize.linprog(
        np.append(np.zeros(d), -1.0),
        A_ub=np.column_stack([-difference, np.ones(len(difference))]),
        b_ub=np.zeros(len(difference)),
        bounds=[(-1e3, 1e3)] * d + [(None, 1.0)],
    )
    if found.status != 0 or found.x[-1] <= 0:
        raise ValueError("the ordinal loss is infinite everywhere: some row's boundaries cannot be put in order")
    return found.x[:-1]


def _factor(hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cholesky factor of a matrix scaled to a unit diagonal, with the scale; a singular one is shifted slightly."""
    scale = 1 / np.sqrt(np.maximum(np.diag(hessian), 1e-290))
    scaled = hessian * scale * scale[:, None]
    shift = 0.0
    while True:
        try:
            return scipy.linalg.cholesky(scaled + shift * np.eye(len(scaled)), lower=True), scale
        except np.linalg.LinAlgError:
            shift = max(10 * shift, 1e-14)


def _solve(factor: tuple[np.ndarray, np.ndarray], right: np.ndarray) -> np.ndarray:
    lower, scale = factor
    return scipy.linalg.cho_solve((lower, True), right * scale) * scale


def _steepness(loss: RegularisedLoss, w: np.ndarray, factor: tuple[np.ndarray, np.ndarray]) -> float:
    """How fast the curvature can change along a direction of unit length in the Hessian's norm: |f'''| <= that f''."""
    if loss.kind == "squared":
        return 0.0
    rows = loss.design[np.tile(loss.weights > 0, len(loss.design) // len(loss.X))]
    if loss.X_lower is not None:
        # The barrier between two boundaries steepens as 2 over their distance.
        both = (loss.y == 1) & (loss.weights > 0)
        difference = (loss.X - loss.X_lower)[both]
        rows = np.concatenate([rows, 2 * difference / np.maximum(difference @ w, 1e-300)[:, None]])
    lower, scale = factor
    whitened = scipy.linalg.solve_triangular(lower, (rows * scale).T, lower=True)
    return float(np.sqrt((whitened**2).sum(axis=0).max()))


def _refuse_collinear(loss: RegularisedLoss) -> None:
    ones = [np.ones(len(loss.X))]
    gram = loss._gram(*(ones if loss.X_lower is None else [ones[0], 0 * ones[0], ones[0]]))
    scale = np.diag(gram)
    if (scale <= 0).any():
        raise ValueError(f"coordinate {int(np.argmin(scale))} has neither data nor a penalty: its column of X is 0")
    scale = 1 / np.sqrt(scale)
    eigenvalues = np.linalg.eigvalsh(gram * scale * scale[:, None])
    if eigenvalues[0] <= _RANK_TOLERANCE * eigenvalues[-1]:
        raise ValueError(
            "columns of X without a penalty are collinear, so that the loss has no unique minimum and its sublevel "
            "sets are unbounded: drop columns or give l2 > 0"
        )


def _refuse_separable(loss: RegularisedLoss) -> None:
    """Raise if the loss never rises along some direction, found by a linear program over such directions."""
    if loss.kind == "squared":
        return
    free = np.flatnonzero(loss.l2 == 0)
    used = loss.weights > 0
    X, y = loss.X[used][:, free], loss.y[used]
    if not free.size:
        return
    flat = np.zeros((0, free.size))
    if loss.kind == "logistic":
        falling = (2 * y - 1)[:, None] * X
    elif loss.kind == "poisson":
        falling, flat = -X[y == 0], X[y > 0]
    else:
        assert loss.X_lower is not None
        lower = loss.X_lower[used][:, free]
        falling = np.concatenate([X[y != 2], -lower[y != 0]])
    size = np.maximum(abs(falling).max(axis=1, initial=0.0), 1e-300)
    falling = falling / size[:, None]
    found = scipy.optimize.linprog(
        -falling.sum(axis=0),
        A_ub=-falling,
        b_ub=np.zeros(len(falling)),
        A_eq=flat if len(flat) else None,
        b_eq=np.zeros(len(flat)) if len(flat) else None,
        bounds=(-1, 1),
    )
    if found.status == 0 and (falling @ found.x).max(initial=0.0) > 1e-7:
        raise ValueError(
            "the data are separable in coordinates without a penalty: some direction lowers the loss forever, so that "
            "it has no minimum and its sublevel sets are unbounded: give l2 > 0"
        )
