"""Sparse codes by iterative thresholding, for any penalty with a proximal map: many signals, one dictionary."""

import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num

from uqsparse.kernels.arguments import require_count, require_finite_matrix
from uqsparse.kernels.penalties import CEL0, Penalty
from uqsparse.solvers.thresholding_loop import LoopResult, threshold_rows

# Share of 1 / |dictionary|^2 that the default step is.
STEP_SHARE = 0.995
# Squarings of the Gram matrix: the bound on its norm is then at most d^(1 / 2^10) times too large, 0.5 % for d = 150.
_SQUARINGS = 9
# Rows in work at a time on a processor and on an accelerator, and most rows of one compiled call.
_SLOTS, _ACCELERATOR_SLOTS, _MOST_ROWS = 64, 8192, 65_536
# Lengths of the objective trace come in powers of two from here, so that few programs are compiled.
_LEAST_TRACE = 8192
# Column norms may differ from those of the penalty by this share.
_NORM_TOLERANCE = 1e-4


class Codes(NamedTuple):
    """Sparse codes, with their evidence.

    Args:
        codes: shape (n, M), exact zeros where a unit is not active.
        objective: `1/2 |x - dictionary r|^2 + sum value(r)` of each row, shape (n,).
        objective_trace: sum over rows of the objective at the start and after each iteration; a row that is done counts
            with its last value. Shape (most iterations + 1,); it never rises where the step is below `1 / L`.
        residual: fixed-point residual `|r - prox(r + step dictionary^T (x - dictionary r))|` of each row; 0 at a
            stationary point.
        gap: duality gap of each row, in units of the objective: a proof of how far from the minimum it is at most.
            None for penalties that are not convex.
        step: length of the steps.
        lipschitz: upper bound of `L = |dictionary|_2^2`.
        converged: whether the stopping rule was met, for each row.
        n_iter: iterations of each row.
    """

    codes: Float[np.ndarray, "n M"]
    objective: Float[np.ndarray, " n"]
    objective_trace: Float[np.ndarray, " k"]
    residual: Float[np.ndarray, " n"]
    gap: Float[np.ndarray, " n"] | None
    step: float
    lipschitz: float
    converged: Bool[np.ndarray, " n"]
    n_iter: Int[np.ndarray, " n"]

    @property
    def active_fraction(self) -> float:
        """Share of the numbers in the codes that are not zero."""
        return float(np.count_nonzero(self.codes) / self.codes.size)


def iterative_thresholding(
    X: Num[Any, "n D"],
    dictionary: Num[Any, "D M"],
    penalty: Penalty,
    *,
    start: Num[Any, "n M"] | None = None,
    step: float | None = None,
    tolerance: float = 1e-4,
    max_iter: int = 5000,
    acceleration: bool = True,
    n_slots: int | None = None,
) -> Codes:
    """Code each row x as the r that minimises `1/2 |x - dictionary r|^2 + sum_j value(r_j)`, or a stationary point.

    With an `L1` penalty it is the minimum, with a duality gap as proof. With other penalties it is a stationary point
    that depends on the start; warm starts along a path of strengths make it depend on the path. The computation is in
    the precision of X.

    Args:
        X: signals, finite, shape (n, D); float32 or float64 (anything else is made float64).
        dictionary: units in columns, finite, shape (D, M), usually of norm 1.
        penalty: a record of `uqsparse.kernels.penalties`; its parameters are numbers or of shape (M,).
        start: codes to start from, shape (n, M); zeros if left out.
        step: length of the steps; just below 1 / L if left out. From 1 / L on the objective may rise, with a warning.
        tolerance: a row stops when `|r - r_old| / (0.01 + |r_old|)` is below it, positive.
        max_iter: most iterations of a row, at least 1; reaching it is warned about.
        acceleration: extrapolate, with restarts, and take an extrapolated step only if it does not raise the objective.
            Without it the iteration is the plain one.
        n_slots: rows in work at a time, at least 1; chosen for the device if left out. Changes speed only.

    Returns:
        `Codes`.

    Raises:
        ValueError: an argument is not finite, shapes do not fit, the dictionary is zero, the step is not positive or
            too large for the penalty's curvature, or a setting is out of range.
        TypeError: the penalty is no penalty.

    Source: Daubechies, Defrise & De Mol (2004), An iterative thresholding algorithm for linear inverse problems with a
    sparsity constraint; Beck & Teboulle (2009), A fast iterative shrinkage-thresholding algorithm; restarts: O'Donoghue
    & Candes (2015), Adaptive restart for accelerated gradient schemes; refusal of steps that rise: Li & Lin (2015),
    Accelerated proximal gradient methods for nonconvex programming, algorithm 2.

    >>> from uqsparse.kernels.penalties import L1
    >>> iterative_thresholding(np.array([[3.0, 0.2]]), np.eye(2), L1(1.0)).codes.round(3).tolist()
    [[2.0, 0.0]]
    """
    X = require_finite_matrix("X", X)
    dictionary = require_finite_matrix("dictionary", dictionary).astype(X.dtype)
    if dictionary.shape[0] != X.shape[1]:
        raise ValueError(f"dictionary has shape {dictionary.shape}; X of shape {X.shape} wants ({X.shape[1]}, M)")
    if not isinstance(penalty, Penalty):
        raise TypeError(f"penalty must be a record of uqsparse.kernels.penalties, got {penalty!r}")
    if start is not None:
        start = require_finite_matrix("start", start).astype(X.dtype)
        if start.shape != (len(X), dictionary.shape[1]):
            raise ValueError(f"start has shape {start.shape}; expected {(len(X), dictionary.shape[1])}")
    if not (isinstance(tolerance, int | float) and 0 < tolerance < math.inf):
        raise ValueError(f"tolerance must be a positive number, got {tolerance!r}")
    require_count("max_iter", max_iter, 1)
    if n_slots is not None:
        require_count("n_slots", n_slots, 1)
    lipschitz = squared_norm_bound(dictionary)
    if lipschitz == 0:
        raise ValueError("dictionary is zero")
    if step is None:
        step = STEP_SHARE / lipschitz
    elif step * float(np.linalg.norm(dictionary.astype(np.float64), 2)) ** 2 >= 1:
        warnings.warn(
            f"step={step:g} is not below 1 / L = {1 / lipschitz:g}: the objective may rise, and the iteration diverge",
            stacklevel=2,
        )
    penalty.require_step(step)
    _warn_of_norms(penalty, dictionary)
    result = solve_rows(
        X, dictionary, penalty, step, start=start, tolerance=tolerance, max_iter=max_iter,
        accelerate=acceleration, n_slots=n_slots,
    )  # fmt: skip
    if not np.isfinite(result.objective).all():
        raise FloatingPointError(f"the iteration diverged with step={step:g}; 1 / L = {1 / lipschitz:g}")
    if missing := int(np.count_nonzero(~result.converged)):
        warnings.warn(
            f"{missing} of {len(X)} rows did not converge in max_iter={max_iter} iterations; the largest fixed-point "
            f"residual is {result.residual.max():.1e}",
            RuntimeWarning,
            stacklevel=2,
        )
    gap = result.gap if penalty.convex else None
    trace = result.trace[: int(result.n_iter.max()) + 1]
    return Codes(
        result.codes, result.objective, trace, result.residual, gap, step, lipschitz, result.converged, result.n_iter
    )


def solve_rows(
    X: Float[np.ndarray, "n D"],
    dictionary: Float[np.ndarray, "D M"],
    penalty: Penalty,
    step: float,
    *,
    start: Float[np.ndarray, "n M"] | None = None,
    tolerance: float,
    max_iter: int,
    accelerate: bool = True,
    n_slots: int | None = None,
) -> LoopResult:
    """`iterative_thresholding` without its checks, for callers that have made them; NumPy arrays out.

    Rows are padded to a power of two, so that few programs are compiled.
    """
    n, kind = len(X), X.dtype
    offset = np.zeros(n, kind)
    if dictionary.shape[0] > dictionary.shape[1]:
        # What lies outside of the dictionary's range costs the same whatever the code.
        basis, dictionary = np.linalg.qr(dictionary)
        inside = X @ basis
        offset, X = 0.5 * np.sum((X - inside @ basis.T) ** 2, axis=1), inside
    if n_slots is None:
        n_slots = _SLOTS if jax.default_backend() == "cpu" else _ACCELERATOR_SLOTS
    length = max(_LEAST_TRACE, 1 << max_iter.bit_length())
    # Long rows take the most iterations: they go first, so that few are left over in the end.
    order = np.argsort(-np.einsum("nd,nd->n", X, X), kind="stable")
    parts: list[LoopResult] = []
    with jax.enable_x64(True):
        settings = jax.tree.map(lambda leaf: jnp.asarray(leaf, kind), (dictionary, penalty, step, tolerance))
        for first in range(0, n, _MOST_ROWS):
            here = order[first : first + _MOST_ROWS]
            count = len(here)
            padded = 1 << (count - 1).bit_length()
            signals, codes = np.zeros((padded, X.shape[1]), kind), np.zeros((padded, dictionary.shape[1]), kind)
            signals[:count] = X[here]
            if start is not None:
                codes[:count] = start[here]
            found = jax.tree.map(
                np.asarray,
                threshold_rows(
                    signals, codes, count, *settings, max_iter,
                    n_slots=min(n_slots, padded), accelerate=accelerate, trace_length=length,
                ),
            )  # fmt: skip
            parts.append(
                LoopResult(*(one if name == "trace" else one[:count] for name, one in found._asdict().items()))
            )
    back = np.argsort(order)
    joined = {
        name: sum(part.trace for part in parts)
        if name == "trace"
        else np.concatenate([getattr(part, name) for part in parts])[back]
        for name in LoopResult._fields
    }
    joined["objective"], joined["trace"] = joined["objective"] + offset, np.cumsum(joined["trace"]) + offset.sum()
    return LoopResult(**joined)


def squared_norm_bound(dictionary: Float[np.ndarray, "D M"]) -> float:
    """An upper bound of `|dictionary|_2^2`, above it by well under 1 %; 0 for a zero matrix.

    Power iteration on all vectors at once: the Frobenius norm of the 2^k-th power of the Gram matrix, to the power
    2^-k, falls to the spectral norm from above. (Power iteration on one vector would come from below, and a step from
    it might be too long.)

    >>> bool(4.0 <= squared_norm_bound(np.diag([2.0, 1.0])) < 4.01)
    True
    """
    wide = np.asarray(dictionary, np.float64)
    scale = float(abs(wide).max())
    if scale == 0:
        return 0.0
    wide = wide / scale
    power = wide.T @ wide if wide.shape[0] > wide.shape[1] else wide @ wide.T
    logarithm = 0.0
    for k in range(_SQUARINGS + 1):
        size = float(np.linalg.norm(power))
        logarithm += math.log(size) / 2**k
        power = power / size
        power = power @ power
    # Rounding of the squarings and of the Gram matrix itself.
    return math.exp(logarithm) * (1 + 1e-10) * scale**2


def _warn_of_norms(penalty: Penalty, dictionary: Float[np.ndarray, "D M"]) -> None:
    if isinstance(penalty, CEL0):
        norms = np.linalg.norm(dictionary, axis=0)
        worst = float(np.max(abs(norms - np.asarray(penalty.column_norm))))
        if worst > _NORM_TOLERANCE * float(norms.max()):
            warnings.warn(
                f"norms of the dictionary's columns differ from column_norm of the penalty by up to {worst:.2g}, so "
                "that CEL0 is no exact relaxation: scale the columns, or give column_norm",
                stacklevel=3,
            )
