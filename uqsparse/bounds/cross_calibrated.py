"""Leave-out residuals with the intervals that follow from them: what CV+ and jackknife+ have in common."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Num

from uqsparse.bounds.conformal import warn_infinite
from uqsparse.bounds.guarantee import Guarantee, Kind
from uqsparse.bounds.regions import Intervals
from uqsparse.bounds.scores.score import as_array
from uqsparse.kernels import array_namespace, conformal_rank, is_traced
from uqsparse.kernels.merged_order_statistics import BLOCK, merged_order_statistic
from uqsparse.kernels.namespaces import AnyArray


class CrossCalibrated(eqx.Module):
    """Leave-out residuals, ready to predict from arrays; a pytree, so that `predict` can be called inside `jit`.

    Args:
        residuals: |y_i - mu_i(x_i)|, fold after fold, ascending within each, shape (n,).
        starts: where each fold starts.
        alpha: the alpha asked for.
        guarantee: what its intervals promise.
    """

    residuals: Float[AnyArray, " n"]
    starts: tuple[int, ...] = eqx.field(static=True)
    alpha: float | tuple[float, ...] = eqx.field(static=True)
    guarantee: Guarantee = eqx.field(static=True)

    def predict(self, predictions: Num[AnyArray, "k b"]) -> Intervals:
        """The interval of each test point; with an axis of levels in front if several were asked for.

        Its lower end is the floor(alpha (n + 1))-th smallest of mu_i(x) - r_i, its upper end the
        ceil((1 - alpha)(n + 1))-th smallest of mu_i(x) + r_i, where mu_i is the model that has not seen observation i,
        and r_i its residual.

        Args:
            predictions: of each of the k models, in the order of their folds, at b test points, shape (k, b).

        Raises:
            ValueError: there are not as many rows as folds, or a prediction is not finite.
        """
        predictions = as_array("predictions", predictions)
        if predictions.ndim != 2 or predictions.shape[0] != len(self.starts):
            raise ValueError(f"predictions have shape {predictions.shape}; expected ({len(self.starts)}, n_test)")
        require_finite("predictions", predictions)
        several = self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)
        ranks = [conformal_rank(self.residuals.shape[0], one) for one in several]
        # floor(alpha (n + 1)) = n + 1 - rank, so that the lower end is the upper end of the mirror image.
        upper = [merged_order_statistic(self.residuals, self.starts, predictions, rank) for rank in ranks]
        lower = [-merged_order_statistic(self.residuals, self.starts, -predictions, rank) for rank in ranks]
        if isinstance(self.alpha, tuple):
            xp = array_namespace(*upper)
            return Intervals(lower=xp.stack(lower), upper=xp.stack(upper), guarantee=self.guarantee)
        return Intervals(lower=lower[0], upper=upper[0], guarantee=self.guarantee)


def cross_calibrated(
    residuals: Float[AnyArray, " n"],
    folds: np.ndarray,
    alpha: float | tuple[float, ...],
    kind: Kind,
    assumptions: Sequence[str],
) -> CrossCalibrated:
    """Sort residuals into their folds, state the guarantee, and warn if the intervals will be infinite.

    Args:
        residuals: shape (n,), NumPy or JAX.
        folds: the fold of each, 0 to k - 1, none empty.
        alpha: one or several, checked.
        kind: of the guarantee.
        assumptions: of the guarantee.
    """
    order = np.lexsort((np.asarray(residuals), folds))
    sizes = np.bincount(folds)
    starts = tuple((np.cumsum(sizes) - sizes).tolist())
    several = np.atleast_1d(alpha).tolist()
    few = [f"{one:g}" for one in several if conformal_rank(len(order), one) > len(order)]
    if few:
        warn_infinite(np.inf, f"{len(order)} residuals are too few for alpha = {', '.join(few)}", stacklevel=4)
    levels = tuple(cross_level(one, sizes) for one in several)
    level = levels if isinstance(alpha, tuple) else levels[0]
    guarantee = Guarantee(kind, level, len(order), tuple(assumptions), alpha)
    return CrossCalibrated(residuals[order], starts, alpha, guarantee)


def cross_level(alpha: float, sizes: np.ndarray) -> float:
    """The coverage proved of CV+: 1 - 2 alpha, less what folds of more than one observation cost.

    Of the two bounds on that cost the first averages the p-values of the folds, which may have any sizes; the second
    compares as many test folds, which takes folds of one size. It vanishes for folds of one observation.

    Args:
        alpha: in (0, 1).
        sizes: how many observations each fold has.

    Source: Barber, Candès, Ramdas & Tibshirani (2021), Predictive inference with the jackknife+, theorems 1 and 4.

    >>> cross_level(0.1, np.ones(50)), cross_level(0.1, np.array([20, 20]))
    (0.8, 0.752380952381)
    """
    n, k = int(np.sum(sizes)), len(sizes)
    cost = 2 * (k - 1) / (n + k)
    if (sizes == sizes[0]).all():
        cost = min(cost, (1 - k / n) / (k + 1))
    return max(0.0, round(1 - 2 * alpha - cost, 12))


def in_blocks(n_test: int, n_rows: int, intervals_of: Callable[[slice], Intervals]) -> Intervals:
    """Intervals of all test points from those of blocks of them, of which n_rows numbers each are held at once."""
    at_once = max(1, BLOCK // n_rows)
    parts = [intervals_of(slice(first, first + at_once)) for first in range(0, max(1, n_test), at_once)]
    if len(parts) == 1:
        return parts[0]
    xp = array_namespace(parts[0].lower)
    lower, upper = (xp.concatenate([getattr(part, name) for part in parts], axis=-1) for name in ("lower", "upper"))
    return Intervals(lower=lower, upper=upper, guarantee=parts[0].guarantee)


def targets(y: Any) -> Any:
    """Observed values fit for residuals: one axis, at least one, finite, floating-point.

    Raises:
        ValueError: otherwise.
    """
    y = as_array("y", y)
    if y.ndim != 1 or not y.shape[0]:
        raise ValueError(f"y has shape {y.shape}; expected (n,) with n >= 1")
    require_finite("y", y)
    return y if y.dtype.kind == "f" else array_namespace(y).asarray(y, dtype=float)


def require_finite(name: str, array: Any) -> None:
    """Refuse NaN and infinite numbers, unless they are traced."""
    if not is_traced(array) and (bad := np.count_nonzero(~np.isfinite(np.asarray(array)))):
        raise ValueError(f"{name}: {bad} of {np.size(array)} numbers are NaN or infinite")


def rows_of(X: Any, part: Any) -> Any:
    """Some rows of an array, a sparse matrix or a data frame."""
    return X.iloc[part] if hasattr(X, "iloc") else X[part]
