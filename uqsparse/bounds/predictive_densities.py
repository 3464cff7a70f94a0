"""Predictive distributions with a density: Gaussian mixtures over posterior draws, and any log density."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Float, Num

from uqsparse.bounds.scores.score import as_array
from uqsparse.kernels import array_namespace, is_traced
from uqsparse.kernels.namespaces import AnyArray

_BLOCK = 2**18  # numbers held at once: two megabytes, which stay in a processor's cache
_HALVINGS = {8: 56, 4: 28}  # enough to reach neighbouring numbers from any bracket that is not far wider than they are


class GaussianMixture(eqx.Module):
    """For each of n observations an even mixture of m Gaussians, one a posterior draw of mean and sd.

    It is the predictive distribution of a model with Gaussian noise. It serves every score of real targets; build it
    by `of`, which checks its input.

    Args:
        means: shape (m, n), NumPy or JAX.
        sds: shape (m, n), positive.
    """

    means: Float[AnyArray, "m n"]
    sds: Float[AnyArray, "m n"]

    @classmethod
    def of(cls, means: Num[AnyArray, "m n"], sds: Num[AnyArray, "..."]) -> "GaussianMixture":
        """Take posterior draws of the mean and of the standard deviation of each observation.

        Args:
            means: draws of the means, shape (m, n).
            sds: draws of the standard deviations, shape (m, n), or (m,) where a draw has one for all observations.

        Raises:
            ValueError: shapes do not fit, a number is NaN or infinite, or an sd is not positive.

        >>> GaussianMixture.of(np.zeros((1, 3)), np.ones(1)).quantile(0.5).tolist()
        [0.0, 0.0, 0.0]
        """
        means, sds = as_array("means", means), as_array("sds", sds)
        if means.ndim != 2 or not means.size:
            raise ValueError(f"means have shape {means.shape}; expected (draws, observations)")
        if sds.shape not in (means.shape, means.shape[:1]):
            raise ValueError(f"sds have shape {sds.shape}; expected {means.shape} or {means.shape[:1]}")
        if not is_traced(means, sds):
            if not np.isfinite(np.asarray(means)).all():
                raise ValueError(
                    f"means have {np.count_nonzero(~np.isfinite(np.asarray(means)))} NaN or infinite values"
                )
            plain = np.asarray(sds)
            if bad := np.count_nonzero(~(np.isfinite(plain) & (plain > 0))):
                raise ValueError(f"sds have {bad} values that are not positive and finite")
        xp = array_namespace(means, sds)
        kind = xp.result_type(means, sds, xp.float32)
        return cls(
            xp.asarray(means, kind), xp.broadcast_to(sds.reshape(*sds.shape, *[1] * (2 - sds.ndim)), means.shape)
        )

    @property
    def n(self) -> int:
        """The number of observations."""
        return self.means.shape[1]

    def mean(self) -> Float[AnyArray, " n"]:
        """Predictive means."""
        return self.means.mean(0)

    def sd(self) -> Float[AnyArray, " n"]:
        """Predictive standard deviations."""
        xp = array_namespace(self.means)
        return xp.sqrt((self.sds**2).mean(0) + self.means.var(0))

    def log_density(self, y: Num[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        """The log of the mean of the component densities."""
        xp = array_namespace(self.means, y)
        constant, over_sd = -xp.log(self.sds) - 0.5 * math.log(2 * math.pi), 1 / self.sds

        def of_rows(rows: Any) -> Any:
            with np.errstate(over="ignore", divide="ignore"):
                logs = constant - 0.5 * ((rows[..., None, :] - self.means) * over_sd) ** 2
                top = logs.max(-2)
                top = xp.where(xp.isfinite(top), top, 0)
                return top + xp.log(xp.exp(logs - top[..., None, :]).mean(-2))

        return _in_blocks(of_rows, y, self.means.size)

    def cdf(self, y: Num[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        """The mean of the component distribution functions."""
        xp = array_namespace(self.means, y)
        ndtr: Callable[[Any], Any] = scipy.special.ndtr if xp is np else jax.scipy.special.ndtr

        def of_rows(rows: Any) -> Any:
            return ndtr((rows[..., None, :] - self.means) / self.sds).mean(-2)

        return _in_blocks(of_rows, y, self.means.size)

    def quantile(self, probability: Float[AnyArray, "..."] | float) -> Float[AnyArray, " n"]:
        """The least value (up to rounding) whose distribution function reaches the probability.

        Args:
            probability: in (0, 1), a scalar or one for each observation, shape (n,).
        """
        xp = array_namespace(self.means, probability)
        ndtri: Callable[[Any], Any] = scipy.special.ndtri if xp is np else jax.scipy.special.ndtri
        # A mixture's quantile lies between those of its components.
        ends = self.means + self.sds * ndtri(xp.asarray(probability, self.means.dtype))
        return bisect(lambda y: self.cdf(y) >= probability, ends.max(0), ends.min(0))

    def grid(self, n_points: int) -> Float[AnyArray, "g n"]:
        """Values among which the modes show: evenly spaced ones out to 8 sd, and means, of many a quarter of that."""
        xp = array_namespace(self.means)
        low, high = (self.means - 8 * self.sds).min(0), (self.means + 8 * self.sds).max(0)
        even = low + xp.linspace(0, 1, n_points, dtype=self.means.dtype)[:, None] * (high - low)
        m = len(self.means)
        chosen = np.linspace(0, m - 1, min(m, max(n_points // 4, 16))).round().astype(int)
        return xp.sort(xp.concatenate([even, xp.sort(self.means, axis=0)[chosen]]), axis=0)


class GridDensity(eqx.Module):
    """Any log density, with values of each observation among which its modes show; build it by `of`.

    Args:
        function: the log density, taking y of shape (..., n) to shape (..., n); -inf outside the support. It need not
            be normalised the same way for all observations, but then its sets are not of highest density.
        points: shape (g, n), ascending along the first axis.
    """

    function: Callable[[Any], Any] = eqx.field(static=True)
    points: Float[AnyArray, "g n"]

    @classmethod
    def of(cls, function: Callable[[Any], Any], points: Num[AnyArray, "g ..."], n: int | None = None) -> "GridDensity":
        """Take a log density and its grid.

        Args:
            function: see the class.
            points: shape (g, n), or (g,) for one grid for all of n observations.
            n: the number of observations, where one grid is for all.

        Raises:
            TypeError: `function` cannot be called.
            ValueError: the grid has another shape, or is not finite and ascending.

        >>> GridDensity.of(lambda y: -abs(y), np.linspace(-5, 5, 101), n=2).n
        2
        """
        if not callable(function):
            raise TypeError(f"function must be callable, got {type(function).__name__}")
        points = as_array("points", points)
        xp = array_namespace(points)
        if points.ndim == 1 and n is not None:
            points = xp.broadcast_to(points[:, None], (points.shape[0], n))
        if points.ndim != 2 or points.shape[0] < 2 or (n is not None and points.shape[1] != n):
            raise ValueError(f"points have shape {points.shape}; expected (g, n), or (g,) with n, and g >= 2")
        if not is_traced(points):
            plain = np.asarray(points)
            if not np.isfinite(plain).all() or not (np.diff(plain, axis=0) > 0).all():
                raise ValueError("points must be finite and ascend along the first axis")
        return cls(function, points * 1.0)

    @property
    def n(self) -> int:
        """The number of observations."""
        return self.points.shape[1]

    def log_density(self, y: Num[AnyArray, "... n"]) -> Float[AnyArray, "... n"]:
        """The function's own values."""
        return self.function(y)

    def grid(self, n_points: int) -> Float[AnyArray, "g n"]:
        """The grid given, however many points it has."""
        return self.points


def bisect(inside: Callable[[Any], Any], inner: Any, outer: Any) -> Any:
    """The last value inside on the way from an inner to an outer point, to neighbouring numbers.

    Args:
        inside: whether values lie inside, shape to same shape.
        inner: points inside.
        outer: points outside, of the same shape; where they are inside too, the result is somewhere between.
    """
    xp = array_namespace(inner, outer)
    halvings = _HALVINGS.get(inner.dtype.itemsize, 56)

    def halve(_: Any, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        inner, outer = ends
        middle = inner + 0.5 * (outer - inner)
        held = inside(middle)
        return xp.where(held, middle, inner), xp.where(held, outer, middle)

    if xp is jnp:
        return jax.lax.fori_loop(0, halvings, halve, (inner, outer))[0]
    for step in range(halvings):
        inner, outer = halve(step, (inner, outer))
    return inner


def _in_blocks(of_rows: Callable[[Any], Any], y: Any, width: int) -> Any:
    """Apply a function of rows (b, n) to values of shape (..., n), with so few rows at once that b times width fits."""
    xp = array_namespace(y)
    rows = xp.asarray(y).reshape(-1, np.shape(y)[-1])
    size = max(1, _BLOCK // max(1, width))
    if len(rows) <= size:
        return of_rows(rows).reshape(np.shape(y))
    if xp is jnp:
        return jax.lax.map(lambda row: of_rows(row[None])[0], rows, batch_size=size).reshape(y.shape)
    return np.concatenate([of_rows(rows[i : i + size]) for i in range(0, len(rows), size)]).reshape(y.shape)
