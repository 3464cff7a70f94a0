"""Predictive distributions made of calibration scores: probabilities, quantiles, draws and how well they score."""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Num

from uqsparse.bounds.conformal import Alpha, checked_alpha, level_of
from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.monotone_maps import LocationScale, MonotoneMap
from uqsparse.bounds.regions import Intervals
from uqsparse.bounds.scores.score import as_array, require_same_length
from uqsparse.kernels import array_namespace, conformal_rank, is_traced
from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.namespaces import AnyArray

# How many atoms at once are turned into targets where that takes a table of atoms and test points.
_BLOCK = 128


class ConformalDistribution(eqx.Module):
    """Calibrated predictive distributions of n test points, one each; they serve as predictions for scores too.

    With n calibration scores a system pins a distribution function down to a band of height 1 / (n + 1), (ties
    aside): `band` gives it, `cdf` a function inside, and `quantile` keeps to its safe side. `mean`, `sd`, `sample` and
    `crps` are those of the atoms alone, the targets with the calibration scores: the mass of 1 / (n + 1) for which no
    target is known, and which makes outer quantiles infinite, is there shared out among them.

    Args:
        mapping: between targets and scores.
        scores: calibration scores in ascending order, one array for each group.
        place: which of them counts for each test point, shape (n,), -1 for none; None where there is one.
        guarantee: what the interval between the outermost atoms promises; `interval` states its own.
    """

    mapping: MonotoneMap
    scores: tuple[Float[AnyArray, " n"], ...]
    place: Any
    guarantee: Guarantee = eqx.field(static=True)

    @property
    def n(self) -> int:
        """The number of test points."""
        return self.mapping.n

    def band(self, y: Num[AnyArray, "... n"]) -> tuple[Float[AnyArray, "... n"], Float[AnyArray, "... n"]]:
        """The least and the greatest probability of a target of at most y.

        Args:
            y: targets, one for each test point along the last axis.

        Returns:
            #{s_i < s} / (n + 1) and (#{s_i <= s} + 1) / (n + 1) for the score s of y.
        """
        score = self.mapping.score(self._targets(y))
        xp = array_namespace(score, self.scores)

        def both(part: Any) -> Any:
            below, upto = (xp.searchsorted(part, score, side=side) for side in ("left", "right"))
            return xp.stack([below, upto + 1]) / xp.asarray(part.shape[0] + 1, dtype=float)

        unseen = xp.asarray([0.0, 1.0]).reshape(2, *[1] * score.ndim)
        low, high = self._own(both, unseen)
        return low, high

    def cdf(self, y: Num[AnyArray, "... n"], tau: Float[AnyArray, "..."] | float = 0.5) -> Float[AnyArray, "... n"]:
        """The probability of a target of at most y.

        Args:
            y: targets, one for each test point along the last axis.
            tau: where in the band, from 0 (its lower edge) to 1; for uniform draws see `pit`.
        """
        low, high = self.band(y)
        return low + tau * (high - low)

    def pit(self, key: Array, y: Num[AnyArray, " n"]) -> Float[AnyArray, " n"]:
        """Randomised probability integral transforms: exactly uniform on (0, 1) for exchangeable observations.

        Args:
            key: random key, which breaks ties and places values inside the band.
            y: observed values, shape (n,).
        """
        return self.cdf(y, self._like(jax.random.uniform(key, (self.n,))))

    def quantile(self, p: Alpha, side: Literal["upper", "lower"] = "upper") -> Float[AnyArray, "... n"]:
        """Predictive quantiles.

        Args:
            p: probability, in (0, 1); several give several quantiles along a first axis.
            side: "upper" gives the ceil(p (n + 1))-th atom, which a target exceeds with probability at most 1 - p;
                "lower" the floor(p (n + 1))-th, which a target falls below with probability at most p. Where that atom
                is none of the n, the quantile is infinite, with a warning.
        """
        if side not in ("upper", "lower"):
            raise ValueError(f"side must be 'upper' or 'lower', got {side!r}")
        p = checked_alpha(p)
        several = p if isinstance(p, tuple) else (p,)
        found = [self._bound(1 - one if side == "upper" else one, side) for one in several]
        self._warn_infinite(found)
        return array_namespace(*found).stack(found) if isinstance(p, tuple) else found[0]

    def ppf(self, p: Alpha) -> Float[AnyArray, "... n"]:
        """`quantile` by the name it has in SciPy."""
        return self.quantile(p)

    def interval(self, alpha: Alpha = 0.1) -> Intervals:
        """Central prediction intervals, with at most alpha / 2 of new observations on either side.

        Args:
            alpha: miscoverage allowed, in (0, 1); several give intervals at several levels along a first axis.

        Returns:
            The intervals; ends are infinite, with a warning, where calibration observations are too few.
        """
        alpha = checked_alpha(alpha)
        several = alpha if isinstance(alpha, tuple) else (alpha,)
        lower, upper = ([self._bound(one / 2, side) for one in several] for side in ("lower", "upper"))
        self._warn_infinite(lower + upper)
        xp = array_namespace(lower, upper)
        ends = (xp.stack(lower), xp.stack(upper)) if isinstance(alpha, tuple) else (lower[0], upper[0])
        kind, n, assumptions = self.guarantee.kind, self.guarantee.n, self.guarantee.assumptions
        guarantee = Guarantee(kind, level_of(alpha), n, assumptions)
        return Intervals(lower=ends[0], upper=ends[1], guarantee=guarantee)

    def sample(self, key: Array, m: int) -> Float[AnyArray, "m n"]:
        """Independent draws from the atoms of each test point, shape (m, n)."""
        require_count("m", m, 1)
        u = self._like(jax.random.uniform(key, (m, self.n)))

        def drawn(part: Any) -> Any:
            # A product of a float just below 1 may round up to n.
            return part[array_namespace(u).minimum((u * part.shape[0]).astype(int), part.shape[0] - 1)]

        return self.mapping.typical(self._own(drawn))

    def mean(self) -> Float[AnyArray, " n"]:
        """Means of the atoms."""
        if isinstance(self.mapping, LocationScale):
            return self.mapping.typical(self._own(lambda part: part.mean()))
        return self._own(lambda part: self._over_atoms(part, lambda atoms, _: atoms))

    def sd(self) -> Float[AnyArray, " n"]:
        """Standard deviations of the atoms."""
        xp = array_namespace(self.scores, self.mapping)
        if isinstance(self.mapping, LocationScale):
            scale = xp.ones(self.n) if self.mapping.scale is None else self.mapping.scale
            return scale * self._own(lambda part: part.std())
        mean = self.mean()
        return xp.sqrt(self._own(lambda part: self._over_atoms(part, lambda atoms, _: (atoms - mean) ** 2)))

    def crps(self, y: Num[AnyArray, " n"]) -> Float[AnyArray, " n"]:
        """Continuous ranked probability scores, in the unit of y, of the atoms with equal mass; smaller is better.

        The integral of (F(t) - 1{y <= t})^2 is mean|a_i - y| - mean|a_i - a_j| / 2. For residuals and normalised
        residuals it takes one sort of the scores and one search a test point.

        Args:
            y: observed values, shape (n,).

        Source: Gneiting & Raftery (2007), Strictly proper scoring rules, prediction, and estimation, equation 21.
        """
        y = self._targets(y)
        require_same_length("y", y, self.n, "predictions")
        if isinstance(self.mapping, LocationScale):
            score = self.mapping.score(y)
            unit = self._own(lambda part: _crps(part, score))
            return unit if self.mapping.scale is None else unit * self.mapping.scale

        def of_group(part: Any) -> Any:
            n = part.shape[0]
            return self._over_atoms(part, lambda atoms, rank: abs(atoms - y) - (2 * rank - n - 1) / n * atoms)

        return self._own(of_group)

    def _own(self, of_group: Callable[[Any], Any], unseen: Any = None) -> Any:
        """For each test point a function of its own group's scores, and `unseen` where there are none."""
        if self.place is None:
            return of_group(self.scores[0])
        if unseen is None:
            if not is_traced(self.place) and (np.asarray(self.place) < 0).any():
                raise ValueError("test points of groups without calibration observations have no atoms")
            unseen = np.nan
        found = unseen
        for i, part in enumerate(self.scores):
            found = array_namespace(part, self.place).where(self.place == i, of_group(part), found)
        return found

    def _bound(self, tail: float, side: str) -> Any:
        """The end of a one-sided interval that a target lies beyond with probability at most `tail`."""
        beyond = np.inf if side == "upper" else -np.inf

        def of_group(part: Any) -> Any:
            n = part.shape[0]
            rank = conformal_rank(n, tail) if side == "upper" else n + 1 - conformal_rank(n, tail)
            return part[rank - 1] if 1 <= rank <= n else array_namespace(part).asarray(beyond, dtype=part.dtype)

        xp = array_namespace(self.scores, self.mapping)
        score = xp.broadcast_to(self._own(of_group, beyond), (self.n,))
        return self.mapping.highest(score) if side == "upper" else self.mapping.lowest(score)

    def _over_atoms(self, part: Any, of_atoms: Callable[[Any, Any], Any]) -> Any:
        """The mean over atoms of a function of them and their ranks, in blocks: memory is a block times n."""
        n, total = part.shape[0], 0.0
        for start in range(0, n, _BLOCK):
            block = part[start : start + _BLOCK, None]
            rank = array_namespace(part).arange(start + 1, start + 1 + block.shape[0])[:, None]
            total = total + of_atoms(self.mapping.typical(block), rank).sum(0)
        return total / n

    def _targets(self, y: Any) -> Any:
        y = as_array("y", y)
        if y.ndim < 1 or y.shape[-1] != self.n:
            raise ValueError(f"y has shape {y.shape}; there are {self.n} test points, along its last axis")
        if not is_traced(y) and (bad := np.count_nonzero(np.isnan(np.asarray(y)))):
            raise ValueError(f"y has {bad} NaN values")
        return y

    def _like(self, draws: Array) -> Any:
        """Random draws as arrays of the library that the distribution lives in."""
        return np.asarray(draws, dtype=float) if array_namespace(self.scores, self.mapping) is np else draws

    def _warn_infinite(self, ends: list[Any]) -> None:
        if any(not is_traced(one) and np.isinf(np.asarray(one)).any() for one in ends):
            least = min(part.shape[0] for part in self.scores)
            reason = f"{least} calibration observations are too few for these levels"
            if not isinstance(self.mapping, LocationScale):
                reason += ", or too many of them lie beyond all of their draws"
            warnings.warn(f"quantiles are infinite: {reason}", stacklevel=3)


def _crps(ordered: Float[AnyArray, " n"], score: Float[AnyArray, " k"]) -> Float[AnyArray, " k"]:
    """Ranked probability scores of an empirical distribution, in ascending order."""
    xp = array_namespace(ordered, score)
    n = ordered.shape[0]
    centre = ordered.mean()  # so that sums do not cancel
    ordered, score = ordered - centre, score - centre
    sums = xp.append(xp.zeros(1, dtype=ordered.dtype), xp.cumsum(ordered))
    below = xp.searchsorted(ordered, score, side="right")
    distance = (score * (2 * below - n) + sums[-1] - 2 * sums[below]) / n
    spread = (ordered * (2 * xp.arange(1, n + 1) - n - 1)).sum() / n**2
    return distance - spread
