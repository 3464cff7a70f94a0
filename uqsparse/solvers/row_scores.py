"""How much each row of a matrix matters to l_p norms of its products: leverage scores, Lewis weights, sensitivities.

All scores are invariant under A -> A R with R invertible, so they are computed in whitened coordinates, where columns
are orthonormal. They do depend on what is done to the columns before: on centring, and on a column of ones.
"""

import math
import warnings
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from uqsparse.kernels.arguments import require_count, require_finite_matrix

# Rows times weights held at once, in numbers: 64 MB.
_CHUNK = 8_000_000
# Pivots of the simplex method at a time, and the condition number at which a basis is singular.
_MOST_PIVOTS = 20
_SINGULAR = 1e10
# Exponents that are told apart: below, a p counts as 1 or 2.
_CLOSE = 1e-12

Scheme = Literal["uniform", "leverage", "root-leverage", "lewis", "sensitivity", "mixed"]
SCHEMES: tuple[str, ...] = ("uniform", "leverage", "root-leverage", "lewis", "sensitivity", "mixed")


class LewisWeights(NamedTuple):
    """l_p Lewis weights.

    Args:
        weights: shape (n,), nonnegative; they sum to the rank.
        residual: largest relative violation of the defining equation.
        converged: whether it is below the tolerance.
        n_iter: fixed-point iterations.
    """

    weights: Float[np.ndarray, " n"]
    residual: float
    converged: bool
    n_iter: int


class SensitivityBrackets(NamedTuple):
    """Two-sided bounds of l_p sensitivities.

    Args:
        lower: attained by a vector x, shape (m,).
        upper: proved by a dual vector, its rounding included, shape (m,).
        rows: which rows of the matrix, shape (m,).
        converged: whether upper <= (1 + tolerance) lower, shape (m,).
        n_iter: iterations.
    """

    lower: Float[np.ndarray, " m"]
    upper: Float[np.ndarray, " m"]
    rows: Int[np.ndarray, " m"]
    converged: Bool[np.ndarray, " m"]
    n_iter: int

    @property
    def gap(self) -> float:
        """Largest upper / lower - 1 over rows that are not zero."""
        some = self.upper > 0
        return float((self.upper[some] / self.lower[some]).max() - 1) if some.any() else 0.0


class Whitened(NamedTuple):
    """Orthonormal columns with the range of A, and which rows are (numerically) not all in them."""

    basis: Float[np.ndarray, "n r"]
    outside: Bool[np.ndarray, " n"]


def leverage_scores(A: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Leverage scores a_i^T (A^T A)^+ a_i, which are the l_2 sensitivities; they sum to the rank.

    Args:
        A: finite matrix, shape (n, d).

    Returns:
        Scores in [0, 1], shape (n,).

    Raises:
        ValueError: A is no finite matrix with a row and a column.

    >>> leverage_scores(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 3.0]]))
    array([0.5, 0.5, 1. ])
    """
    white = whiten(require_finite_matrix("A", A).astype(np.float64, copy=False))
    return np.where(white.outside, 1.0, np.minimum((white.basis**2).sum(axis=1), 1.0))


def lewis_weights(
    A: Float[np.ndarray, "n d"], p: float, *, tolerance: float = 1e-12, max_iterations: int = 500
) -> LewisWeights:
    """l_p Lewis weights: w_i is the leverage of row i of W^(1/2 - 1/p) A.

    Args:
        A: finite matrix, shape (n, d).
        p: exponent, at least 1 and finite.
        tolerance: relative change at which the iteration stops.
        max_iterations: at which it stops anyway, with a warning.

    Raises:
        ValueError: A is no finite matrix, or p is out of range.

    Source: Lewis (1978), Finite dimensional subspaces of L_p; Cohen & Peng (2015), l_p row sampling by Lewis weights,
    section 3: the fixed point is a contraction for p < 4. From 4 on the geometric mean with the old weights is taken.
    """
    basis = whiten(require_finite_matrix("A", A).astype(np.float64, copy=False)).basis
    p = exponent(p)
    n, rank = basis.shape
    some = (basis != 0).any(axis=1)
    rows, weights = basis[some], np.full(some.sum(), rank / max(n, 1))
    change, n_iter = math.inf, 0
    while change > tolerance and n_iter < max_iterations:
        new = _lewis_map(rows, weights, p)
        if p >= 4:
            new = np.sqrt(new * weights)
        change = float(np.max(np.abs(new / weights - 1), initial=0.0))
        weights, n_iter = new, n_iter + 1
    residual = float(np.max(np.abs(_lewis_map(rows, weights, p) / weights - 1), initial=0.0))
    if change > tolerance:
        warnings.warn(f"Lewis weights: a change of {change:.1e} is left after {n_iter} iterations", stacklevel=2)
    full = np.zeros(n)
    full[some] = weights
    return LewisWeights(full, residual, change <= tolerance, n_iter)


def _lewis_map(rows: np.ndarray, weights: np.ndarray, p: float) -> np.ndarray:
    gram = (rows * weights[:, None] ** (1 - 2 / p)).T @ rows
    return np.einsum("nd,nd->n", rows, np.linalg.solve(gram, rows.T).T) ** (p / 2)


def sensitivity_brackets(
    A: Float[np.ndarray, "n d"],
    p: float,
    *,
    rows: Int[np.ndarray, " m"] | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 200,
) -> SensitivityBrackets:
    """l_p sensitivities sup_x |a_i x|^p / |A x|_p^p, each between an attained value and a proved one.

    By duality s_i^(1/p) = min {|y|_q : A^T y = a_i} with 1/p + 1/q = 1. Iteratively reweighted least squares gives an x
    for the lower and a y for the upper bound at once; for p = 1 both are rounded to the vertices of the linear program
    they belong to. What A^T y misses of a_i by rounding is added to the bound.

    Args:
        A: finite matrix, shape (n, d).
        p: exponent, at least 1 and finite.
        rows: indices of the rows that are asked for; all if left out. All of them cost about iterations n^2 d^2 / 2.
        tolerance: a row is done when upper <= (1 + tolerance) lower.
        max_iterations: at which the others are left as they are, which `converged` says and a warning tells.

    Raises:
        ValueError: A is no finite matrix, p is out of range, or a row does not exist.

    Source: Woodruff & Yasuda (2023), Sharper bounds for l_p sensitivity sampling, definition 1.1 (sensitivities).

    >>> found = sensitivity_brackets(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 3.0]]), 1.0)
    >>> found.upper.round(6)
    array([0.5, 0.5, 1. ])
    """
    A = require_finite_matrix("A", A).astype(np.float64, copy=False)
    p = exponent(p)
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance must be positive and finite, got {tolerance!r}")
    require_count("max_iterations", max_iterations, 1)
    wanted = np.arange(len(A)) if rows is None else np.atleast_1d(np.asarray(rows))
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu" or ((wanted < 0) | (wanted >= len(A))).any():
        raise ValueError(f"rows must be indices from 0 to {len(A) - 1}")
    white = whiten(A)
    lower, upper, n_iter = np.zeros(len(wanted)), np.zeros(len(wanted)), 0
    if abs(p - 2) < _CLOSE:
        lower[:] = upper[:] = np.minimum((white.basis[wanted] ** 2).sum(axis=1), 1.0)
    else:
        chunk = max(1, _CHUNK // max(len(A), 1))
        todo = np.flatnonzero((white.basis[wanted] != 0).any(axis=1))
        for start in range(0, len(todo), chunk):
            some = todo[start : start + chunk]
            lower[some], upper[some], used = _reweighted(white.basis, wanted[some], p, tolerance, max_iterations)
            n_iter = max(n_iter, used)
    # such a row may be the only one with some direction, however short it is
    upper[white.outside[wanted]] = 1.0
    converged = upper <= (1 + tolerance) * lower
    if not converged.all():
        worst = float((upper / np.maximum(lower, 1e-300)).max() - 1)
        warnings.warn(
            f"sensitivities of {np.count_nonzero(~converged)} of {len(wanted)} rows are known to {worst:.1e} only; the "
            "bounds hold all the same",
            stacklevel=2,
        )
    return SensitivityBrackets(lower, upper, wanted, converged, n_iter)


def _reweighted(
    basis: np.ndarray, rows: np.ndarray, p: float, tolerance: float, max_iterations: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Brackets of some rows; `basis` has orthonormal columns."""
    n, d = basis.shape
    outer = (basis[:, :, None] * basis[:, None, :]).reshape(n, d * d)
    lower, upper = np.zeros(len(rows)), np.ones(len(rows))
    active, targets = np.arange(len(rows)), basis[rows]
    weights = np.ones((len(rows), n))
    damping = 1.0 if p < 2 else 0.5 if p <= 3 else 1 / (p - 1)
    for step in range(max_iterations):
        a = targets[active]
        grams = (weights @ outer).reshape(-1, d, d)
        h = np.linalg.solve(grams, a[:, :, None])[:, :, 0]
        products = h @ basis.T
        residuals = products / np.einsum("cd,cd->c", a, h)[:, None]
        lower[active] = np.maximum(lower[active], 1 / (np.abs(residuals) ** p).sum(axis=1))
        upper[active] = np.minimum(upper[active], _dual_bound(basis, a, weights * products, p))
        if abs(p - 1) < _CLOSE and (step % 10 == 9 or step == max_iterations - 1):
            low, high = _vertices(basis, a, residuals)
            lower[active], upper[active] = np.maximum(lower[active], low), np.minimum(upper[active], high)
        left = upper[active] > (1 + tolerance) * lower[active]
        if not left.any():
            return lower, upper, step + 1
        smoothing = 10.0 ** -(1 + 7 * min(1.0, 2 * step / max_iterations))
        scaled = residuals[left] / np.abs(residuals[left]).max(axis=1, keepdims=True)
        new = (scaled**2 + smoothing**2) ** (p / 2 - 1)
        weights = weights[left] ** (1 - damping) * np.maximum(new, 1e-12 * new.max(axis=1, keepdims=True)) ** damping
        active = active[left]
    return lower, upper, max_iterations


def _dual_bound(basis: np.ndarray, a: np.ndarray, y: np.ndarray, p: float) -> np.ndarray:
    """Upper bounds |y|_q^p after one step that brings A^T y to a, with what is then left of the difference added.

    a x = y^T A x + r x, and |x|_2 = |A x|_2 <= n^max(0, 1/2 - 1/p) |A x|_p.
    """
    n = len(basis)
    y = y + (a - y @ basis) @ basis.T
    r = np.linalg.norm(a - y @ basis, axis=1) + 4 * n * np.finfo(float).eps * np.linalg.norm(y, axis=1)
    q = math.inf if abs(p - 1) < _CLOSE else p / (p - 1)
    return (np.linalg.norm(y, ord=q, axis=1) + r * n ** max(0.0, 0.5 - 1 / p)) ** p


def _vertices(basis: np.ndarray, a: np.ndarray, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds for p = 1 by the simplex method, started where the residuals point; singular bases give up.

    An optimal x has A x = 0 in d - 1 rows B; the dual y is then t sign(A x) elsewhere, with y_B and t solving
    A^T y = a. Where some |y_j| exceeds t, row j leaves B, and along the edge that opens a weighted median finds the row
    that enters.
    """
    d = basis.shape[1]
    low, high = np.zeros(len(a)), np.ones(len(a))
    # no more than a row each: ties beyond the d - 1 nearest are left to the pivots
    zeros = np.argpartition(np.abs(residuals), d - 2, axis=1)[:, : d - 1] if d > 1 else np.zeros((len(a), 0), int)
    active = np.arange(len(a))
    for _ in range(_MOST_PIVOTS):
        crossing = basis[zeros]
        system = np.concatenate([crossing, a[active][:, None, :]], axis=1)
        regular = np.linalg.cond(system) < _SINGULAR
        active, zeros, crossing, system = active[regular], zeros[regular], crossing[regular], system[regular]
        if not active.size:
            break
        edges = np.linalg.inv(system)  # column j < d - 1 moves row j only, the last is x itself
        exact = edges[:, :, -1] @ basis.T
        np.put_along_axis(exact, zeros, 0.0, axis=1)
        low[active] = np.maximum(low[active], 1 / np.abs(edges[:, :, -1] @ basis.T).sum(axis=1))
        signs = np.sign(exact)
        # A^T y = a, multiplied by the edges: y_B = -t (signs A) edge_j, and t |A x|_1 = 1
        t = 1 / np.abs(exact).sum(axis=1)
        inside = -t[:, None] * np.einsum("cd,cdj->cj", signs @ basis, edges[:, :, :-1])
        y = signs * t[:, None]
        np.put_along_axis(y, zeros, inside, axis=1)
        high[active] = np.minimum(high[active], _dual_bound(basis, a[active], y, 1.0))
        excess = np.abs(inside) / t[:, None] if d > 1 else np.zeros((len(active), 1))
        left = excess.max(axis=1) > 1 + 1e-9
        if not left.any():
            break
        active, zeros, exact, edges = active[left], zeros[left], exact[left], edges[left]
        place = excess[left].argmax(axis=1)
        slope = np.take_along_axis(edges, place[:, None, None], axis=2)[:, :, 0] @ basis.T
        entering = _weighted_median(exact, slope, np.take_along_axis(zeros, place[:, None], axis=1)[:, 0])
        np.put_along_axis(zeros, place[:, None], entering[:, None], axis=1)
    return low, high


def _weighted_median(values: np.ndarray, slopes: np.ndarray, leaving: np.ndarray) -> np.ndarray:
    """The row at whose zero `sum |values + s slopes|` is least over s, for each line; not the one that leaves."""
    sizes = np.abs(slopes)
    sizes[sizes < 1e-12 * sizes.max(axis=1, keepdims=True)] = 0.0
    steps = np.where(sizes > 0, -values / np.where(sizes > 0, slopes, 1.0), np.inf)
    order = np.argsort(steps, axis=1)
    heavy = np.cumsum(np.take_along_axis(sizes, order, axis=1), axis=1)
    middle = (heavy < heavy[:, -1:] / 2).sum(axis=1)
    found = np.take_along_axis(order, middle[:, None], axis=1)[:, 0]
    return np.where(
        found == leaving,
        np.take_along_axis(order, np.minimum(middle + 1, order.shape[1] - 1)[:, None], axis=1)[:, 0],
        found,
    )


def row_scores(A: Float[np.ndarray, "n d"], p: float, scheme: Scheme = "lewis") -> Float[np.ndarray, " n"]:
    """Scores to sample rows by, such that l_p norms are kept.

    Args:
        A: finite matrix, shape (n, d). For the regression of b on A take the scores of [A b].
        p: exponent, at least 1 and finite.
        scheme: "lewis": Lewis weights; "sensitivity": their upper bounds, n^2 work; "leverage"; "root-leverage":
            leverage^(p/2), for p <= 2, cheap and at least the sensitivities; "mixed": sensitivity + leverage for
            p <= 2 (Munteanu & Omlor, 2024), the larger of the two for p > 2; "uniform": ones, for comparison.

    Returns:
        Nonnegative scores, shape (n,); 0 for zero rows, except "uniform".

    Raises:
        ValueError: an argument is out of range.
    """
    A = require_finite_matrix("A", A).astype(np.float64, copy=False)
    p = exponent(p)
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(map(repr, SCHEMES))}, got {scheme!r}")
    if scheme == "root-leverage" and p > 2:
        raise ValueError(f"scheme 'root-leverage' is for p <= 2, got p = {p:g}")
    if scheme == "uniform":
        return np.ones(len(A))
    if scheme == "lewis":
        return lewis_weights(A, p, tolerance=1e-6).weights  # far below what chance does to a sample
    if scheme in ("leverage", "root-leverage"):
        return leverage_scores(A) ** (p / 2 if scheme == "root-leverage" else 1.0)
    sensitivities = sensitivity_brackets(A, p, tolerance=0.02).upper
    if scheme == "sensitivity":
        return sensitivities
    leverage = leverage_scores(A)
    return np.maximum(sensitivities, leverage) if p > 2 else sensitivities + leverage


def exponent(p: float) -> float:
    if isinstance(p, bool) or not (np.ndim(p) == 0 and 1 <= p < math.inf):
        raise ValueError(f"p must be at least 1 and finite, got {p!r}")
    return float(p)


def whiten(A: np.ndarray) -> Whitened:
    """A basis of the range by singular values; units of the columns do not matter."""
    norms = np.linalg.norm(A, axis=0)
    scaled = A / np.where(norms > 0, norms, 1.0)
    left, values, right = np.linalg.svd(scaled, full_matrices=False)
    rank = int(np.count_nonzero(values > max(A.shape) * np.finfo(float).eps * values[0])) if values[0] > 0 else 0
    lengths = np.linalg.norm(scaled, axis=1)
    missed = np.linalg.norm(scaled - (scaled @ right[:rank].T) @ right[:rank], axis=1)
    basis = np.where(lengths[:, None] > 0, left[:, :rank], 0.0)
    return Whitened(basis, missed > 1e-6 * lengths)
