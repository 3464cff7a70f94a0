"""Performance against sparsity: how much can go for free, and where the fall begins."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.optimize import isotonic_regression

from uqsparse.kernels.arguments import require_count, require_fraction

_STEP = 1e-3  # between the breakpoints that are tried


class Knee(NamedTuple):
    """Where performance starts to drop faster.

    Args:
        sparsity: the breakpoint; the last sparsity if the curve never bends down.
        slope_ratio: slope to its right over slope to its left, in absolute value; may be infinite, and is 1 if the
            curve never bends down.
        left, right: these slopes, in performance per unit of sparsity.
        interval: bootstrap interval of the breakpoint, None without a key.
    """

    sparsity: float
    slope_ratio: float
    left: float
    right: float
    interval: tuple[float, float] | None


class Curve(eqx.Module):
    """Performance of a network at several sparsities.

    Args:
        sparsities: shares of the prunable weights that are off, as they came out, increasing from 0, shape (n,).
        performances: higher is better, shape (n,).
        examples: performance of each evaluation example, whose mean the above is, shape (n, m); None if not known.
    """

    sparsities: Float[np.ndarray, " n"]
    performances: Float[np.ndarray, " n"]
    examples: Float[np.ndarray, "n m"] | None = None

    def __check_init__(self) -> None:
        s, values = self.sparsities, self.performances
        if s.ndim != 1 or s.shape != values.shape or len(s) < 2 or s[0] != 0 or (np.diff(s) <= 0).any():
            raise ValueError(f"sparsities must increase from 0, one a performance, and be two or more; got {s}")
        if not np.isfinite(values).all():
            raise ValueError(f"performances must be finite, got {values}")
        if self.examples is not None and (self.examples.ndim != 2 or len(self.examples) != len(s)):
            raise ValueError(f"examples must have shape ({len(s)}, m), got {self.examples.shape}")

    def essential(self, tolerance: float = 0.01) -> float:
        """The largest sparsity at which no more than a share of the dense performance is lost.

        Performances are made to decrease first (isotonic regression) and joined by lines. Where performance is
        negative, such as minus a loss, the share is of its absolute value.

        Args:
            tolerance: the share, at least 0.
        """
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0, got {tolerance!r}")
        falling = isotonic_regression(self.performances, increasing=False).x
        least = falling[0] - tolerance * abs(falling[0])
        below = np.flatnonzero(falling < least)
        if not len(below):
            return float(self.sparsities[-1])
        i = below[0]
        share = (falling[i - 1] - least) / (falling[i - 1] - falling[i])
        return float(self.sparsities[i - 1] + share * (self.sparsities[i] - self.sparsities[i - 1]))

    def knee(self, key: Key[Array, ""] | None = None, *, level: float = 0.95, n_bootstrap: int = 400) -> Knee:
        """The breakpoint of the best two segments, least squares over all continuous fits that bend down.

        Args:
            key: for the interval, which resamples evaluation examples; None leaves it out.
            level: of the interval, in (0, 1).
            n_bootstrap: resamplings, at least 20.

        Raises:
            ValueError: there are fewer than five sparsities, or an interval is asked for without `examples`.
        """
        if len(self.sparsities) < 5:
            raise ValueError(f"a knee needs five sparsities or more, got {len(self.sparsities)}")
        at, left, right = (float(found[0]) for found in _two_segments(self.sparsities, self.performances[None]))
        bent = right != left
        ratio = (abs(right) / abs(left) if left else math.inf) if bent else 1.0
        return Knee(at, ratio, left, right, None if key is None else self._interval(key, level, n_bootstrap))

    def _interval(self, key: Key[Array, ""], level: float, n_bootstrap: int) -> tuple[float, float]:
        if self.examples is None:
            raise ValueError("an interval needs the performance of each example: let evaluate return an array")
        require_fraction("level", level)
        require_count("n_bootstrap", n_bootstrap, 20)
        m = self.examples.shape[1]
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
        # In one precision for all of them, a resampling at a time: there may be many examples.
        means = np.stack([self.examples @ (rng.multinomial(m, np.full(m, 1 / m)) / m) for _ in range(n_bootstrap)])
        at = _two_segments(self.sparsities, means)[0]
        low, high = np.quantile(at, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def plot(self, ax: Any = None, *, label: str | None = None, knee: bool = True) -> Any:
        """Draw the curve and its knee.

        Args:
            ax: Matplotlib axes; new ones if not given.
            label: for the legend.
            knee: whether to mark it; curves of fewer than five points have none.

        Returns:
            The axes.
        """
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(layout="constrained").subplots()
        (line,) = ax.plot(self.sparsities, self.performances, "o-", markersize=3.5, linewidth=1.4, label=label)
        if knee and len(self.sparsities) >= 5:
            ax.axvline(self.knee().sparsity, color=line.get_color(), linewidth=1, linestyle=(0, (3, 2)))
        ax.set_xlabel("share of weights removed")
        ax.set_ylabel("performance")
        return ax


def _two_segments(
    s: Float[np.ndarray, " n"], values: Float[np.ndarray, "curves n"]
) -> tuple[Float[np.ndarray, " curves"], Float[np.ndarray, " curves"], Float[np.ndarray, " curves"]]:
    """Breakpoint, left and right slope of a + b s + c (s - k)+ with c < 0, by least squares over all k, curve by curve.

    For a fixed k the fit is linear. Its gain over one line is (r . u)^2 / (u . u), with the residuals r and u that one
    line leaves of the values and of (s - k)+; c is (r . u) / (u . u).
    """
    k = np.arange(s[1], s[-2] + _STEP / 2, _STEP)
    line = np.stack([np.ones_like(s), s], axis=1)
    q = np.linalg.qr(line)[0]
    hinge = np.maximum(s - k[:, None], 0)
    u = hinge - (hinge @ q) @ q.T
    r = values - (values @ q) @ q.T
    c = r @ u.T / (u * u).sum(axis=1)
    gain = np.where(c < 0, -c, 0) * -(r @ u.T)
    # A straight line bends by rounding errors, and those are no knee.
    scale = (values**2).sum(axis=1) * 1e-24
    best = gain.argmax(axis=1)
    rows = np.arange(len(values))
    bent = gain[rows, best] > scale
    change = np.where(bent, c[rows, best], 0)
    left = np.linalg.lstsq(line, (values - change[:, None] * hinge[best]).T, rcond=None)[0][1]
    return np.where(bent, k[best], s[-1]), left, left + change
