"""Full conformal prediction from posterior draws, without refitting: conformal Bayes by add-one-in weights."""

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num, Shaped

from uqsparse.bounds.conformal import Alpha, checked_alpha, level_of
from uqsparse.bounds.conformal_bayes_edges import Unions, locate, unions, unions_on
from uqsparse.bounds.conformal_bayes_input import (
    checked_draws,
    checked_grid,
    checked_rows,
    checked_targets,
    n_rows_of,
    require_likelihood,
)
from uqsparse.bounds.conformal_bayes_likelihoods import ModelLikelihood, PerObservation
from uqsparse.bounds.conformal_bayes_ranks import (
    Reweighted,
    add_one_in_ranks,
    log_predictive_densities,
    training_likelihoods,
)
from uqsparse.bounds.conformal_bayes_sets import ReweightedLabels, ReweightedUnions
from uqsparse.bounds.guarantee import Guarantee
from uqsparse.bounds.scores.score import require_same_length
from uqsparse.inference.precision import copy_arrays, retry_after_precision_clash
from uqsparse.kernels import conformal_rank
from uqsparse.kernels.arguments import require_count

# Below this effective sample size a predictive density is uncertain by more than 1 / sqrt(50) = 14 %.
LEAST_ESS = 50.0

_TOGETHER = "the observations the model was fitted to and the new one are exchangeable"
_WITHIN_GROUPS = "in each group the observations the model was fitted to and the new one are exchangeable"
_SYMMETRIC = "the posterior does not depend on the order of observations, which are independent given its parameters"


class ConformalBayes:
    """Prediction sets of a Bayesian model that cover whether or not the model is right, from its posterior draws alone.

    Each candidate value y of a new observation is added to the data by weighting the draws with f(y | x, theta).
    It belongs to the set if its predictive density is not among the lowest of all n + 1. No data are set aside and
    nothing is fitted again. `calibrate` therefore takes the very observations that the draws were fitted to.

    Args:
        log_lik_fn: maps (draw, predictors of one observation, its y) to log f(y | x, theta), a scalar, in JAX; -inf
            where y is impossible.
        draws: posterior draws, a pytree of arrays with a first axis of length T. Their precision is that of all
            computations: float64 draws are taken in double precision whatever JAX is set to.
        alpha: miscoverage allowed, in (0, 1); several give sets at several levels.
        n_labels: the number of classes for labels 0, ..., n_labels - 1, or of the values of a count; None for real
            targets.
        n_grid: candidates on the first grid of each test point. Parts of a set that are narrower than its spacing,
            about 7 predictive standard deviations over `n_grid`, can be missed.

    Raises:
        ValueError: alpha is outside (0, 1), draws are not finite or fewer than 2, or a number is out of range.

    Source: Fong & Holmes (2021), Conformal Bayesian computation, NeurIPS 34, algorithm 1; groups: section 4.

    >>> y = np.array([0.1, -0.4, 0.9, 0.3, -1.2, 0.5, 0.0, 1.1, -0.7])
    >>> key, sd = jax.random.key(0), 1 / np.sqrt(10)
    >>> draws = y.mean() * 0.9 + sd * np.asarray(jax.random.normal(key, (1000,)))
    >>> def log_lik(mean, x, y):
    ...     return -0.5 * (y - mean) ** 2
    >>> sets = ConformalBayes(log_lik, draws, alpha=0.2).calibrate(np.zeros(9), y).predict(np.zeros(1))
    >>> sets.contains(np.array([0.0])).tolist(), sets.contains(np.array([2.0])).tolist()
    ([True], [False])
    """

    def __init__(
        self,
        log_lik_fn: Callable[[Any, Any, Any], Any],
        draws: Any,
        alpha: Alpha = 0.1,
        *,
        n_labels: int | None = None,
        n_grid: int = 48,
    ):
        self.likelihood = log_lik_fn if isinstance(log_lik_fn, ModelLikelihood) else PerObservation(log_lik_fn)
        self.draws = draws
        self.alpha = checked_alpha(alpha)
        if n_labels is not None:
            require_count("n_labels", n_labels, 2)
        require_count("n_grid", n_grid, 8)
        self.n_labels = n_labels
        self.n_grid = n_grid

    @classmethod
    def from_numpyro(
        cls,
        model: Callable,
        posterior: Any,
        alpha: Alpha = 0.1,
        *,
        observed: str = "y",
        site: str | None = None,
        n_labels: int | None = None,
        n_grid: int = 48,
    ) -> "ConformalBayes":
        """Take the likelihood from a NumPyro model.

        Args:
            model: a model that takes predictors and observed values, `model(x, y=None)`, has one observed site with
                a log density for each row, and no latent variables that belong to rows. Predictors may be one array,
                a tuple for several positional arguments, or a dictionary for keywords; constants belong into
                `functools.partial`.
            posterior: draws by site, with axes (draw, ...) or (chain, draw, ...), a NumPyro `MCMC` that has run, or
                ArviZ data, as `inference.nuts` returns it.
            alpha: see `ConformalBayes`.
            observed: the name of the model's argument for the observed values.
            site: the observed site, if there are several.
            n_labels: see `ConformalBayes`.
            n_grid: see `ConformalBayes`.
        """
        likelihood: Any = ModelLikelihood(model, observed, site)
        return cls(likelihood, posterior, alpha, n_labels=n_labels, n_grid=n_grid)

    def calibrate(
        self, x: Any, y: Num[np.ndarray, " n"], *, groups: Shaped[np.ndarray, " n"] | None = None
    ) -> "CalibratedBayes":
        """Compute how likely each draw makes the observations that the draws were fitted to.

        Args:
            x: their predictors, an array or pytree of arrays with a first axis of length n.
            y: their values, shape (n,): all observations of the fit, and no others.
            groups: the group of each, shape (n,), of any type that sorts. Ranks are then taken within the new
                observation's group, and coverage holds within each.

        Raises:
            ValueError: shapes do not fit, data are not finite, labels are out of range, or the likelihood of a row is
                NaN, zero under all draws, or depends on other rows.
        """
        y = checked_targets(y, self.n_labels)
        x = checked_rows("x", x, len(y))
        codes, names = np.zeros(len(y), dtype=np.int32), None
        if groups is not None:
            groups = np.asarray(groups)
            require_same_length("groups", groups, len(y), "y")
            names, codes = np.unique(groups, return_inverse=True)
        draws, discrete = self.likelihood.prepare(self.draws, x, y)
        if discrete and self.n_labels is None:
            raise ValueError("the model's observed site is discrete; say how many values there are by n_labels")
        draws, dtype = checked_draws(draws)

        def compute() -> Reweighted:
            with _precision(dtype):
                rows, values = _cast(x, dtype), _cast(y, dtype)
                log_f = training_likelihoods(self.likelihood, draws, rows, values)
                require_likelihood(log_f)
                self._require_separate_rows(draws, rows, values, log_f)
                largest = log_f.max(axis=0)
                scaled = jnp.asarray(np.exp(log_f - largest).T)
                on_device = jax.tree.map(jnp.asarray, draws)
                return Reweighted(
                    self.likelihood, on_device, scaled, jnp.asarray(largest), jnp.asarray(codes.astype(np.int32))
                )

        posterior = retry_after_precision_clash(compute)
        counts = np.bincount(codes)
        return CalibratedBayes(posterior, self.alpha, self.n_labels, self.n_grid, y, names, counts)

    def _require_separate_rows(self, draws: Any, x: Any, y: np.ndarray, log_f: np.ndarray) -> None:
        """Refuse models in which the density of one row changes with the others, as where they are centred inside."""
        n = len(y)
        doubled = np.arange(n) // 2
        few = jax.tree.map(lambda a: a[: min(len(a), 4)], draws)
        found = training_likelihoods(self.likelihood, few, jax.tree.map(lambda a: a[doubled], x), y[doubled])
        expected = log_f[: len(found), doubled]
        same = np.isclose(found, expected, rtol=1e-3, atol=1e-3) | (found == expected)
        if not same.all():
            row = int(doubled[np.flatnonzero(~same.all(axis=0))[0]])
            raise ValueError(
                f"the log likelihood of row {row} depends on the other rows; given its parameters the model must take "
                "each observation by itself"
            )


class CalibratedBayes:
    """A posterior with the observations behind it, ready to predict; made by `ConformalBayes.calibrate`.

    Args:
        posterior: draws and likelihoods.
        alpha: miscoverage allowed, one or several.
        n_labels: number of labels, None for real targets.
        n_grid: candidates of the first grid.
        y: the observed values, shape (n,).
        groups: the groups' names in ascending order; None without groups.
        counts: how many observations each group has.
    """

    def __init__(
        self,
        posterior: Reweighted,
        alpha: float | tuple[float, ...],
        n_labels: int | None,
        n_grid: int,
        y: np.ndarray,
        groups: np.ndarray | None,
        counts: np.ndarray,
    ):
        self.posterior = posterior
        self.alpha = alpha
        self.n_labels = n_labels
        self.n_grid = n_grid
        self.y = y
        self.groups = groups
        self.counts = counts

    def predict(
        self, x: Any, *, groups: Shaped[np.ndarray, " n"] | None = None, grid: Float[np.ndarray, " g"] | None = None
    ) -> ReweightedUnions | ReweightedLabels:
        """The prediction set of each test point: unions of intervals, or sets of labels.

        Args:
            x: predictors of the test points, in the form that `calibrate` took.
            groups: their groups, shape (n,), if it was given groups.
            grid: candidates for real targets, ascending, shape (g,), instead of a grid around each test point's
                predictive distribution; sets that reach its end are taken to be unbounded.

        Returns:
            Sets with `guarantee` and `ess`, the least effective sample size of the weights over the values kept.
            Ends lie just outside the set, by less than 1/100 of the grid's spacing. A set may be empty.

        Raises:
            ValueError: shapes do not fit, data are not finite, groups are missing, or a likelihood is NaN.
        """
        n_rows = n_rows_of(x)
        x = checked_rows("x", x, n_rows)
        codes, sizes = self._group_of(groups, n_rows)
        needed = self._needed(sizes)
        if self.n_labels is not None:
            if grid is not None:
                raise ValueError("grid is for real targets; the candidates are the labels")
            return self._labels(x, codes, needed)
        grid = None if grid is None else checked_grid(grid)
        found = self._unions(x, codes, needed, n_rows, grid)
        ess = np.where(needed > 0, found.ess, np.nan)
        guarantee = self._guarantee(ess)
        infinite = (np.isinf(found.lower) | np.isinf(found.upper)).any(axis=(0, 2))
        if infinite.any():
            warnings.warn(f"the sets of {infinite.sum()} of {n_rows} test points are unbounded", stacklevel=2)
        return ReweightedUnions(
            lower=self._front(found.lower), upper=self._front(found.upper), guarantee=guarantee,
            ess=self._front(ess),
        )  # fmt: skip

    def pvalue(
        self, x: Any, y: Num[np.ndarray, " n"], *, groups: Shaped[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, " n"]:
        """Conformal p-values of observations: y lies in the set at alpha where its p-value exceeds alpha.

        Args:
            x: predictors, in the form that `calibrate` took.
            y: values, shape (n,).
            groups: their groups, shape (n,), if there are groups.

        Returns:
            (1 + #{i: sigma_i <= sigma_new}) / (n + 1), counted within the group, shape (n,).
        """
        y = checked_targets(y, self.n_labels)
        x = checked_rows("x", x, len(y))
        codes, sizes = self._group_of(groups, len(y))
        counts, _ = self._ranks(x, codes)(np.arange(len(y)), y[:, None])
        return (1 + counts[:, 0]) / (1 + sizes)

    def _labels(self, x: Any, codes: np.ndarray, needed: np.ndarray) -> ReweightedLabels:
        n_labels = self.n_labels or 0
        candidates = np.broadcast_to(np.arange(n_labels, dtype=self.y.dtype), (len(codes), n_labels))
        counts, ess = self._ranks(x, codes)(np.arange(len(codes)), candidates)
        member = counts >= needed[..., None]
        least = np.where(member, ess, np.inf).min(axis=2)
        least = np.where(np.isinf(least) | (needed <= 0), np.nan, least)
        return ReweightedLabels(member=self._front(member), guarantee=self._guarantee(least), ess=self._front(least))

    def _unions(self, x: Any, codes: np.ndarray, needed: np.ndarray, n: int, grid: np.ndarray | None) -> Unions:
        ranks = self._ranks(x, codes)
        if grid is not None:
            y = np.broadcast_to(grid, (n, len(grid)))
            return unions_on(ranks, needed, y, *ranks(np.arange(n), y))
        low, high = float(self.y.min()), float(self.y.max())
        margin = (high - low) / 2 or max(abs(low), 1.0)
        return unions(ranks, needed, *locate(self._log_density(x), n, low - margin, high + margin), self.n_grid)

    def _ranks(self, x: Any, codes: np.ndarray) -> Callable:
        def ranks(rows: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self._run(add_one_in_ranks, jax.tree.map(lambda a: a[rows], x), y, codes[rows])

        return ranks

    def _log_density(self, x: Any) -> Callable:
        return lambda rows, y: self._run(log_predictive_densities, jax.tree.map(lambda a: a[rows], x), y)

    def _run(self, function: Callable, x: Any, y: np.ndarray, *more: Any) -> Any:
        dtype = np.dtype(self.posterior.scaled.dtype)

        def compute() -> Any:
            with _precision(dtype):
                return function(self.posterior, _cast(x, dtype), _cast(y, dtype), *more)

        return retry_after_precision_clash(compute)

    def _group_of(self, groups: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The number of each test point's group, -1 for one that was never seen, and how many observations it has."""
        if (groups is None) != (self.groups is None):
            raise ValueError(
                "groups are missing: each test point is ranked within its own"
                if groups is None
                else "groups are given, and calibrate was given none"
            )
        if groups is None or self.groups is None:
            return np.zeros(n, dtype=np.int32), np.full(n, len(self.y))
        groups = np.asarray(groups)
        require_same_length("groups", groups, n, "x")
        place = np.minimum(np.searchsorted(self.groups, groups), len(self.groups) - 1)
        seen = self.groups[place] == groups
        return np.where(seen, place, -1).astype(np.int32), np.where(seen, self.counts[place], 0)

    def _needed(self, sizes: np.ndarray) -> np.ndarray:
        """How many observations must conform no better than a candidate of the set, by level and test point."""
        several = self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)
        by_size = {size: [size + 1 - conformal_rank(size, alpha) for alpha in several] for size in set(sizes.tolist())}
        return np.array([by_size[size] for size in sizes.tolist()], dtype=int).reshape(len(sizes), -1).T

    def _front(self, values: np.ndarray) -> np.ndarray:
        """Without the axis of levels if one alpha was asked for."""
        return values if isinstance(self.alpha, tuple) else values[0]

    def _guarantee(self, ess: np.ndarray) -> Guarantee:
        least = float(np.nanmin(ess)) if np.isfinite(ess).any() else float("nan")
        low = np.any(ess < LEAST_ESS, axis=0)
        if low.any():
            warnings.warn(
                f"the weights of {low.sum()} of {len(low)} test points have an effective sample size below "
                f"{LEAST_ESS:g} (least {least:.1f}): refitting would move the draws too far; take more of them",
                stacklevel=3,
            )
        n_draws = self.posterior.scaled.shape[1]
        accurate = (
            f"weights of {n_draws} posterior draws stand for refitting with each candidate (exact as their number "
            f"grows; least effective sample size here {least:.0f})"
        )
        exchangeable = _TOGETHER if self.groups is None else _WITHIN_GROUPS
        kind = "marginal" if self.groups is None else "group"
        return Guarantee(kind, level_of(self.alpha), int(self.counts.min()), (exchangeable, _SYMMETRIC, accurate))


def _cast(tree: Any, dtype: np.dtype) -> Any:
    """Floating point arrays in one precision, as copies that no other precision has seen."""
    return copy_arrays(jax.tree.map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a, tree))


def _precision(dtype: np.dtype) -> Any:
    return jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()
