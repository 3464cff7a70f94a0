"""Penalties at equal sparsity: the strength that leaves a wanted share of units active, and codes without shrinkage."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from uqsparse.kernels.arguments import require_count, require_finite_matrix
from uqsparse.kernels.penalties import Penalty, penalty_named
from uqsparse.solvers.iterative_thresholding import Codes, iterative_thresholding

# Entries of the Gram matrices of supports held at once: 64 MB.
_CHUNK = 8_000_000
# Normal equations solved worse than this, or of a worse condition, are solved again by orthogonal factors.
_NORMAL_TOLERANCE = 1e-9
_MOST_CONDITION = 1e9


class MatchedSparsity(NamedTuple):
    """A strength, and what it does.

    Args:
        penalty: the penalty at the strength found.
        strength: its `lambda_`.
        codes: `Codes` of all rows at that strength, from a start at zero.
        active_fraction: share of nonzeros in them.
        target: the share asked for.
        converged: whether the two agree within the tolerance.
        n_iter: strengths tried.
    """

    penalty: Penalty
    strength: float
    codes: Codes
    active_fraction: float
    target: float
    converged: bool
    n_iter: int


def matched_sparsity(
    X: Num[Any, "n D"],
    dictionary: Num[Any, "D M"],
    penalty: str,
    target: float,
    *,
    relative_tolerance: float = 0.02,
    max_solves: int = 40,
    first: float | None = None,
    tolerance: float = 1e-4,
    max_iter: int = 5000,
    acceleration: bool = True,
    **options: Any,
) -> MatchedSparsity:
    """Find the strength at which a penalty leaves a given share of the numbers in the codes active, by bisection.

    Penalties cannot be compared at equal strength, whose meaning differs; they can be at equal measured sparsity. Each
    strength is tried from a start at zero, so that the answer does not depend on the path. The active fraction falls
    with the strength (for certain only for `l1`'s path as a whole, and nearly so for the others); it moves in steps of
    1 / (n M), and a tolerance finer than that cannot be met.

    Args:
        X: signals, finite, shape (n, D).
        dictionary: units in columns, shape (D, M).
        penalty: a name for `penalty_named`, such as "cel0".
        target: below 1 the share of active numbers, above 0; from 1 on the mean number of active units per row, below
            M.
        relative_tolerance: how close the share must come, as a share of it, in (0, 1).
        max_solves: most strengths to try, at least 2; not meeting the tolerance is warned about.
        first: strength to start from, positive; chosen from the data if left out.
        tolerance: of each solve, see `iterative_thresholding`.
        max_iter: of each solve.
        acceleration: of each solve.
        **options: other parameters of the penalty: `epsilon`, `b`, `gamma`, `column_norm`.

    Raises:
        ValueError: an argument is out of range, not finite, or the signals are all zero.

    >>> rng = np.random.default_rng(0)
    >>> found = matched_sparsity(rng.normal(size=(50, 8)), np.linalg.qr(rng.normal(size=(8, 8)))[0], "l1", 0.25)
    >>> found.converged, abs(found.active_fraction - 0.25) < 0.005
    (True, True)
    """
    X, dictionary = require_finite_matrix("X", X), require_finite_matrix("dictionary", dictionary)
    n_units = dictionary.shape[1]
    if isinstance(target, bool) or not isinstance(target, int | float | np.number) or not 0 < target < n_units:
        raise ValueError(f"target must be a share in (0, 1) or a count in [1, {n_units}), got {target!r}")
    share = float(target if target < 1 else target / n_units)
    if not 0 < relative_tolerance < 1:
        raise ValueError(f"relative_tolerance must lie strictly between 0 and 1, got {relative_tolerance!r}")
    require_count("max_solves", max_solves, 2)
    if first is not None and not 0 < first < math.inf:
        raise ValueError(f"first must be a positive number, got {first!r}")
    if not X.any():
        raise ValueError("X is zero: no strength leaves a unit active")
    made = penalty_named(penalty, 1.0, **options)
    settings = {"tolerance": tolerance, "max_iter": max_iter, "acceleration": acceleration}
    low, high = 0.0, math.inf
    strength = _first_strength(made, X, dictionary) if first is None else float(first)
    best: tuple[float, float, Codes] | None = None
    factor, tried = 4.0, 0
    while tried < max_solves:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # told of below, for the codes that are returned
            codes = iterative_thresholding(X, dictionary, penalty_named(penalty, strength, **options), **settings)
        tried += 1
        miss = abs(math.log(max(codes.active_fraction, 1e-300) / share))
        if best is None or miss < best[0]:
            best = miss, strength, codes
        if abs(codes.active_fraction - share) <= relative_tolerance * share:
            break
        low, high = (strength, high) if codes.active_fraction > share else (low, strength)
        if low == 0.0:
            strength, factor = high / factor, factor * 1.5
        elif high == math.inf:
            strength, factor = low * factor, factor * 1.5
        else:
            strength = math.sqrt(low * high)
            if not low < strength < high:
                break
    assert best is not None
    _, strength, codes = best
    converged = abs(codes.active_fraction - share) <= relative_tolerance * share
    if not converged:
        warnings.warn(
            f"the closest active fraction to {share:.4g} is {codes.active_fraction:.4g} after {tried} strengths",
            RuntimeWarning,
            stacklevel=2,
        )
    if missing := int(np.count_nonzero(~codes.converged)):
        warnings.warn(
            f"{missing} of {len(X)} rows did not converge in max_iter={max_iter} iterations at the strength found",
            RuntimeWarning,
            stacklevel=2,
        )
    made = penalty_named(penalty, strength, **options)
    return MatchedSparsity(made, strength, codes, codes.active_fraction, share, converged, tried)


def debias(X: Num[Any, "n D"], dictionary: Num[Any, "D M"], codes: Num[Any, "n M"]) -> Float[np.ndarray, "n M"]:
    """Fit each row again by least squares on the units that are active in its code: what shrinkage took is put back.

    Args:
        X: signals, finite, shape (n, D).
        dictionary: units in columns, finite, shape (D, M).
        codes: sparse codes, finite, shape (n, M); only where they are zero matters.

    Returns:
        Codes with the same zeros, in the precision of X. Where active units are linearly dependent, the fit of least
        norm.

    Raises:
        ValueError: an argument is not finite, or shapes do not fit.

    >>> debias(np.array([[3.0, 0.2]]), np.eye(2), np.array([[2.0, 0.0]])).round(6).tolist()
    [[3.0, 0.0]]
    """
    X, dictionary = require_finite_matrix("X", X), require_finite_matrix("dictionary", dictionary)
    active = require_finite_matrix("codes", codes) != 0
    if dictionary.shape[0] != X.shape[1] or active.shape != (len(X), dictionary.shape[1]):
        raise ValueError(
            f"shapes do not fit: X {X.shape}, dictionary {dictionary.shape}, codes {active.shape}; "
            "expected (n, D), (D, M), (n, M)"
        )
    wide = dictionary.astype(np.float64)
    gram, target = wide.T @ wide, X.astype(np.float64) @ wide
    counts = active.sum(axis=1)
    refit = np.zeros(active.shape)
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    while order.size:
        # Rows with like counts together, fewest first; padding is an identity block.
        rows = order[: max(1, _CHUNK // int(counts[order[-1]]) ** 2)][:1024]
        order = order[len(rows) :]
        _refit_rows(rows, int(counts[rows[-1]]), active, gram, target, refit)
    wrong = abs((refit @ gram - target) * active).max(axis=1) > _NORMAL_TOLERANCE * abs(target).max(axis=1)
    for row in np.flatnonzero(wrong | ~np.isfinite(refit).all(axis=1)):
        refit[row] = 0.0
        refit[row, active[row]] = np.linalg.lstsq(wide[:, active[row]], X[row].astype(np.float64), rcond=None)[0]
    return refit.astype(X.dtype)


def _refit_rows(
    rows: np.ndarray, width: int, active: np.ndarray, gram: np.ndarray, target: np.ndarray, refit: np.ndarray
) -> None:
    """Normal equations of each row on its support, padded to `width` unknowns; written into `refit`."""
    # Active units first, in their order.
    support = np.argsort(~active[rows], axis=1, kind="stable")[:, :width]
    real = np.take_along_axis(active[rows], support, axis=1)
    system = gram[support[:, :, None], support[:, None, :]] * (real[:, :, None] & real[:, None, :])
    system[:, np.arange(width), np.arange(width)] += ~real
    side = np.take_along_axis(target[rows], support, axis=1) * real
    try:
        inverse = np.linalg.inv(system)
    except np.linalg.LinAlgError:
        inverse = np.full(system.shape, np.nan)  # a singular one among them: all of these rows go the slow way
    # With one step of refinement; a dependent support is left to the slow way too.
    found = inverse @ side[:, :, None]
    found = (found + inverse @ (side[:, :, None] - system @ found))[:, :, 0]
    condition = abs(system).sum(axis=1).max(axis=1) * abs(inverse).sum(axis=1).max(axis=1)
    found = np.where(condition[:, None] < _MOST_CONDITION, found, np.nan)
    refit[rows[:, None], support] = np.where(real, found, 0.0)


def _first_strength(penalty: Penalty, X: Float[np.ndarray, "n D"], dictionary: Float[np.ndarray, "D M"]) -> float:
    """A strength whose threshold is about a typical large correlation."""
    typical = float(np.median(np.max(abs(X @ dictionary), axis=1)))
    typical = (typical if typical > 0 else float(abs(X @ dictionary).max())) / 3
    return max(typical**2 / 2 if penalty.name in ("l0", "cel0", "l1/2", "l2/3") else typical, 1e-12)
