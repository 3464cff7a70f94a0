"""Linear regression on a dense dictionary, checked, and reduced to the smaller of its two dimensions."""

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import ArrayLike, Float, Inexact, Int, Num

# A learned noise variance stays above this share of mean |y|^2: where the evidence has no maximum (columns that explain
# y exactly) it would go to zero.
NOISE_FLOOR = 1e-10
# A given one must be at least this share, or double precision loses the evidence.
_LEAST_NOISE = 1e-12


class RegressionProblem(NamedTuple):
    """`y = dictionary x + noise`, in a basis in which it has at most p rows.

    With more rows than columns an orthonormal change of basis leaves rows without signal; only their number and the
    energy of y in them matter.

    Args:
        dictionary: real or complex, shape (m, p) with m = min(n, p).
        y: shape (m,).
        n_rows: n, the number of observations.
        energy: squared norm of y in the n - m rows that were left out.
        mean_square: mean of |y|^2 over all n rows, positive.
    """

    dictionary: Inexact[np.ndarray, "m p"]
    y: Inexact[np.ndarray, " m"]
    n_rows: int
    energy: float
    mean_square: float

    @property
    def noise_floor(self) -> float:
        """Smallest noise variance that is learned."""
        return NOISE_FLOOR * self.mean_square

    @property
    def is_complex(self) -> bool:
        """Whether coefficients are complex."""
        return np.iscomplexobj(self.dictionary)


def regression_problem(dictionary: Num[ArrayLike, "n p"], y: Num[ArrayLike, " n"]) -> RegressionProblem:
    """Check a dictionary and observations, and reduce them by a QR factorisation if n > p.

    Args:
        dictionary: columns h_1 ... h_p, real or complex, shape (n, p), none of them zero.
        y: observations, shape (n,), not all zero. Both are taken as complex if one of them is.

    Raises:
        ValueError: a shape does not fit, a value is NaN or infinite, y or a column is zero.
        TypeError: entries are not numbers.

    >>> round(regression_problem([[1.0], [1.0]], [1.0, 3.0]).energy, 6)
    2.0
    """
    columns, observed = _numbers("dictionary", dictionary), _numbers("y", y)
    if columns.ndim != 2 or not columns.size:
        raise ValueError(f"dictionary must have shape (n, p) with n, p >= 1, got {columns.shape}")
    if observed.shape != columns.shape[:1]:
        raise ValueError(
            f"y has shape {observed.shape}; the dictionary of shape {columns.shape} wants ({len(columns)},)"
        )
    kind = np.result_type(columns, observed)
    columns, observed = columns.astype(kind, copy=False), observed.astype(kind, copy=False)
    mean_square = float(np.vdot(observed, observed).real) / len(observed)
    if not 0 < mean_square < np.inf:
        raise ValueError(f"y is {'zero' if mean_square == 0 else 'too large'}: the mean of |y|^2 is {mean_square}")
    zero = np.flatnonzero(~columns.any(axis=0))
    if zero.size:
        raise ValueError(f"dictionary has zero columns, the first at index {zero[0]}: remove them")
    return _reduced(RegressionProblem(columns, observed, len(observed), 0.0, mean_square))


def restricted(problem: RegressionProblem, columns: Int[np.ndarray, " k"]) -> RegressionProblem:
    """The same problem with only these columns, reduced again if they are fewer than the rows."""
    return _reduced(problem._replace(dictionary=problem.dictionary[:, columns]))


def _reduced(problem: RegressionProblem) -> RegressionProblem:
    m, p = problem.dictionary.shape
    if m <= p:
        return problem
    # R of the augmented matrix holds R of the dictionary, Q^H y and the norm of what is left of y.
    augmented = np.column_stack([problem.dictionary, problem.y])
    factors: Any = scipy.linalg.qr(augmented, mode="r", check_finite=False, overwrite_a=True)
    root = factors[0]
    left = float(abs(root[p, p]) ** 2)
    return problem._replace(dictionary=root[:p, :p], y=root[:p, p], energy=problem.energy + left)


def check_noise_variance(noise_variance: float | None, mean_square: float) -> float | None:
    """A given noise variance as a float, or None for one to be learned.

    Raises:
        ValueError: it is not finite or below 1e-12 of `mean_square`. Without noise the evidence is unbounded.
    """
    if noise_variance is None:
        return None
    value = float(noise_variance)
    if not _LEAST_NOISE * mean_square <= value < np.inf:
        raise ValueError(
            f"noise_variance must be positive, finite and no less than {_LEAST_NOISE:g} times the mean of |y|^2, or "
            f"None to learn it; got {noise_variance!r}; "
            f"for data without noise take 1e-8 times the mean of |y|^2, here {1e-8 * mean_square:.3g}"
        )
    return value


def squares(matrix: Inexact[np.ndarray, "n k"]) -> Float[np.ndarray, " k"]:
    """Squared norms of the columns."""
    parts = (np.real(matrix), np.imag(matrix)) if np.iscomplexobj(matrix) else (matrix,)
    return np.sum([np.einsum("ij,ij->j", part, part) for part in parts], axis=0)


def triangular_inverse(root: Inexact[np.ndarray, "k k"]) -> Inexact[np.ndarray, "k k"]:
    """Inverse of a lower triangular matrix, the factor of a positive definite one."""
    if not root.size:
        return root
    invert: Any = scipy.linalg.get_lapack_funcs(("trtri",), (root,))[0]
    inverse, info = invert(root, lower=1)
    if info != 0:
        raise np.linalg.LinAlgError(f"a triangular matrix of side {len(root)} is singular")
    return inverse


def _numbers(name: str, values: Num[ArrayLike, "..."]) -> Inexact[np.ndarray, "..."]:
    array = np.asarray(values)
    if array.dtype.kind not in "fciub":
        raise TypeError(f"{name} has dtype {array.dtype}; expected numbers")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are NaN or infinite")
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64, copy=False)
