"""Paths of the ordinal model whose boundaries' weights are shrunk towards one another (PRESTO), as plain arrays.

    P(y <= k | x) = sigmoid(alpha_k + beta_k x),   beta_k = psi_0 + ... + psi_k,   k = 0 .. K-2

minimises the weighted mean negative log-likelihood plus `lambda sum_k c_k (rho |psi_k|_1 + (1 - rho)/2 |psi_k|^2)`,
on features standardised to mean 0 and standard deviation 1.
"""

import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning

from uqsparse.kernels.arguments import require_count, require_fraction
from uqsparse.solvers.ordinal_loss import OrdinalLoss, null_point, ordinal_loss
from uqsparse.solvers.ordinal_working_set import working_set_path
from uqsparse.solvers.proximal_newton import PenalisedPath, largest_penalty, proximal_newton_path

# With two classes there is nothing to fuse: that is a logistic regression.
LEAST_CLASSES = 3
# Differences beyond which the path is solved on working sets of columns.
MOST_DENSE = 300
# A penalty under which nothing that is penalised is other than zero.
HUGE = 1e8
# Numbers of rows up to which tables are filled up: compiling takes far longer than solving for these.
_SHARED_SIZES = (512, 1024)
# The l1 share that sets the largest penalty of a (nearly) pure ridge, which has none of its own.
_LEAST_L1 = 1e-3


class OrdinalPath(NamedTuple):
    """Fits along a path of penalties, in the units of the features as given.

    Args:
        lambdas: penalties from large to small, shape (L,).
        intercepts: alpha, shape (L, K-1).
        differences: psi, shape (L, K-1, p); the first is the weight vector of the first boundary.
        coefs: beta, their sums, shape (L, K-1, p).
        objective: mean negative log-likelihood plus penalty (of the standardised problem), shape (L,).
        gap: duality gap: the objective is at most this far from its minimum, shape (L,).
        n_nonzero: how many entries of psi are not zero, shape (L,).
        converged: shape (L,).
        n_iter: Newton steps, shape (L,).
    """

    lambdas: Float[np.ndarray, " L"]
    intercepts: Float[np.ndarray, "L k"]
    differences: Float[np.ndarray, "L k p"]
    coefs: Float[np.ndarray, "L k p"]
    objective: Float[np.ndarray, " L"]
    gap: Float[np.ndarray, " L"]
    n_nonzero: Int[np.ndarray, " L"]
    converged: Bool[np.ndarray, " L"]
    n_iter: Int[np.ndarray, " L"]


class OrdinalProblem(NamedTuple):
    """A standardised data set with its penalty; not yet in any precision.

    Args:
        X: standardised features, shape (n, p), NumPy float64.
        y: classes, 0 .. K-1, shape (n,).
        weights: summing to 1, shape (n,).
        n_classes: K.
        l1_factors: shape ((K-1)(p+1),), 0 at the intercepts.
        l2_factors: the same.
        centre: means of the features, shape (p,).
        scale: their standard deviations, 1 for constant ones, shape (p,).
    """

    X: Float[np.ndarray, "n p"]
    y: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]
    n_classes: int
    l1_factors: Float[np.ndarray, " q"]
    l2_factors: Float[np.ndarray, " q"]
    centre: Float[np.ndarray, " p"]
    scale: Float[np.ndarray, " p"]

    @property
    def is_wide(self) -> bool:
        return self.X.shape[1] * (self.n_classes - 1) > MOST_DENSE


def fit_ordinal_path(
    X: Float[ArrayLike, "n p"],
    y: Int[ArrayLike, " n"],
    *,
    n_classes: int,
    penalty_factors: Float[ArrayLike, " k"],
    lambdas: Float[ArrayLike, " L"] | None = None,
    n_lambdas: int = 20,
    lambda_min_ratio: float = 1e-2,
    weights: Float[ArrayLike, " n"] | None = None,
    l1_ratio: float = 1.0,
) -> OrdinalPath:
    """Fit the ordinal model with penalised differences of its boundaries' weights, for a path of penalties.

    Args:
        X: features, shape (n, p), p >= 1.
        y: classes in their order, coded 0 .. K-1, each present, shape (n,).
        n_classes: K, at least 3.
        penalty_factors: c, how much the difference at each boundary is penalised, nonnegative, shape (K-1,). The first
            is that of the first boundary's weights themselves: 1 shrinks towards the intercepts, 0 towards proportional
            odds.
        lambdas: penalties, nonnegative; they are solved from large to small. By default `n_lambdas` of them, spaced
            evenly in the logarithm, from the least one under which all penalised differences are zero.
        n_lambdas: how many, at least 1.
        lambda_min_ratio: the least of them, relative to the largest, in (0, 1).
        weights: of the rows, nonnegative, shape (n,); equal by default. Rows of weight 0 take no part.
        l1_ratio: rho, the share of the lasso in the penalty, in [0, 1].

    Returns:
        The path. Points that did not converge are flagged, and warned about.

    Raises:
        ValueError: an argument is out of its range, not finite, or a class has no row.

    Source: Faletto & Bien (2023), Predicting rare events by shrinking towards proportional odds.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2))
    >>> y = np.digitize(X[:, 0] + rng.logistic(size=300), [0.0, 2.0])
    >>> path = fit_ordinal_path(X, y, n_classes=3, penalty_factors=[1.0, 1.0], n_lambdas=3)
    >>> path.n_nonzero[0], path.coefs.shape, bool((path.gap < 1e-8).all())
    (np.int64(0), (3, 2, 2), True)
    """
    require_count("n_lambdas", n_lambdas, 1)
    problem = ordinal_problem(X, y, n_classes, penalty_factors, weights, l1_ratio)
    start = null_fit(problem)
    path = solve_path(problem, penalties(problem, start, lambdas, n_lambdas, lambda_min_ratio, l1_ratio), start)
    warn_unless_converged(path)
    return in_given_units(problem, path)


def ordinal_problem(
    X: Any, y: Any, n_classes: int, penalty_factors: Any, weights: Any, l1_ratio: Any
) -> OrdinalProblem:
    """Check and standardise a data set; rows of weight 0 are dropped.

    Raises:
        ValueError: see `fit_ordinal_path`.
    """
    require_count("n_classes", n_classes, LEAST_CLASSES)
    X, y = np.asarray(X, np.float64), np.asarray(y)
    if X.ndim != 2 or X.shape[1] == 0 or not np.isfinite(X).all():
        raise ValueError(f"X must be a finite table of n rows and at least one feature, got shape {X.shape}")
    if y.shape != (len(X),) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"y must be {len(X)} integers, got shape {y.shape} of {y.dtype}")
    factors = np.asarray(penalty_factors, np.float64)
    if factors.shape != (n_classes - 1,) or not np.isfinite(factors).all() or (factors < 0).any() or not factors.any():
        raise ValueError(f"penalty_factors must be {n_classes - 1} nonnegative numbers, not all 0, got {factors}")
    weights = np.ones(len(X)) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != y.shape or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"weights must be {len(X)} finite nonnegative numbers, got shape {weights.shape}")
    if not 0 <= l1_ratio <= 1:
        raise ValueError(f"l1_ratio must lie in [0, 1], got {l1_ratio!r}")
    keep = weights > 0
    X, y, weights = X[keep], y[keep].astype(np.int64), weights[keep]
    if len(y) and not (y.min() >= 0 and y.max() < n_classes):
        raise ValueError(f"y must be coded 0 .. {n_classes - 1}, got {y.min()} .. {y.max()}")
    missing = np.flatnonzero(np.bincount(y, minlength=n_classes) == 0)
    if len(missing):
        raise ValueError(f"each class needs a row of positive weight; class {missing[0]} of {n_classes} has none")
    weights = weights / weights.sum()
    centre, scale = moments(X, weights)
    l1_factors = np.zeros((n_classes - 1, X.shape[1] + 1))
    l1_factors[:, 1:] = factors[:, None]
    ridge = (1 - l1_ratio) * l1_factors
    return OrdinalProblem(
        (X - centre) / scale, y, weights, n_classes, (l1_ratio * l1_factors).ravel(), ridge.ravel(), centre, scale
    )


def moments(X: Float[np.ndarray, "n p"], weights: Float[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means and population standard deviations; the latter are 1 where a column is constant."""
    centre = weights @ X
    scale = np.sqrt(weights @ (X - centre) ** 2)
    # A constant column has a standard deviation of rounding errors.
    return centre, np.where(scale <= 1e-12 * np.maximum(np.abs(centre), 1e-300), 1.0, scale)


def null_fit(problem: OrdinalProblem) -> Float[np.ndarray, " q"]:
    """The fit with all penalised differences at zero: closed form, then Newton for what is not penalised."""
    factors = problem.l1_factors + problem.l2_factors
    with jax.enable_x64(True):
        loss = compiled_loss(problem)
        start = null_point(loss)
        if np.count_nonzero(factors == 0) == problem.n_classes - 1:
            return np.asarray(start)
        solve = working_set_path if problem.is_wide else proximal_newton_path
        strength = jnp.asarray([HUGE / factors[factors > 0].min()])
        return np.asarray(solve(loss, start, strength, jnp.asarray(factors), jnp.asarray(0 * factors)).w[0])


def penalties(
    problem: OrdinalProblem,
    start: Float[np.ndarray, " q"],
    lambdas: Any,
    n_lambdas: int,
    lambda_min_ratio: float,
    l1_ratio: float,
) -> Float[np.ndarray, " L"]:
    """The penalties asked for, from large to small, or a sequence from the largest that matters.

    Args:
        problem: the standardised problem.
        start: its `null_fit`.
        lambdas: see `fit_ordinal_path`, as the others.
        n_lambdas: how many.
        lambda_min_ratio: the least relative to the largest.
        l1_ratio: the share of the lasso.

    Raises:
        ValueError: a penalty is negative or not finite, or the ratio is not in (0, 1).
    """
    if lambdas is not None:
        found = np.atleast_1d(np.asarray(lambdas, np.float64))
        if found.ndim != 1 or not found.size or not np.isfinite(found).all() or (found < 0).any():
            raise ValueError(f"lambdas must be finite and nonnegative, got {lambdas!r}")
        return np.sort(found)[::-1]
    require_fraction("lambda_min_ratio", lambda_min_ratio)
    factors = max(l1_ratio, _LEAST_L1) * (problem.l1_factors + problem.l2_factors)
    with jax.enable_x64(True):
        gradient = _gradient(compiled_loss(problem), jnp.asarray(start))
        largest = float(largest_penalty(gradient, jnp.asarray(factors)))
    return largest * np.logspace(0, np.log10(lambda_min_ratio), n_lambdas)


def solve_path(
    problem: OrdinalProblem, lambdas: Float[np.ndarray, " L"], start: Float[np.ndarray, " q"]
) -> PenalisedPath:
    """Solve the standardised problem for penalties from large to small; the arrays of the result are NumPy's."""
    with jax.enable_x64(True):
        arrays = (jnp.asarray(one) for one in (start, lambdas, problem.l1_factors, problem.l2_factors))
        solve = working_set_path if problem.is_wide else proximal_newton_path
        return jax.tree.map(np.asarray, solve(compiled_loss(problem), *arrays))


def compiled_loss(problem: OrdinalProblem) -> OrdinalLoss:
    """The loss, in double precision; small tables are filled up with rows of weight 0 so that programs are shared."""
    n = len(problem.y)
    fill = next((size - n for size in _SHARED_SIZES if n <= size), 0)
    X = np.concatenate([problem.X, np.zeros((fill, problem.X.shape[1]))])
    y, weights = np.append(problem.y, np.zeros(fill, int)), np.append(problem.weights, np.zeros(fill))
    return ordinal_loss(X, y, weights, problem.n_classes)


def in_given_units(problem: OrdinalProblem, path: PenalisedPath) -> OrdinalPath:
    """A path of standardised coefficients, in the units of the features."""
    table = np.asarray(path.w).reshape(len(path.w), problem.n_classes - 1, -1)
    differences = table[:, :, 1:] / problem.scale
    coefs = np.cumsum(differences, axis=1)
    intercepts = table[:, :, 0] - coefs @ problem.centre
    n_nonzero = np.count_nonzero(differences, axis=(1, 2))
    evidence = (np.asarray(path.objective), np.asarray(path.gap), n_nonzero)
    stopped = (np.asarray(path.converged), np.asarray(path.n_iter))
    return OrdinalPath(np.asarray(path.lambdas), intercepts, differences, coefs, *evidence, *stopped)


def warn_unless_converged(path: PenalisedPath) -> None:
    """Warn of the penalties at which the solver stopped short."""
    short = ~np.asarray(path.converged)
    if short.any():
        worst = float(np.max(np.asarray(path.gap)[short]))
        warnings.warn(
            f"{short.sum()} of {len(short)} fits did not converge (duality gaps up to {worst:.1e}), the first at "
            f"lambda = {float(np.asarray(path.lambdas)[short][0]):.3g}; separable classes at a small penalty do this: "
            "use larger penalties",
            ConvergenceWarning,
            stacklevel=3,
        )


@eqx.filter_jit
def _gradient(loss, w):
    return loss.gradient(w)
