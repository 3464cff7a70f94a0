"""Dictionary learning with any thresholding penalty: code a mini-batch, add it to what the dictionary is fitted to."""

import dataclasses
import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from uqsparse.kernels.arguments import require_count, require_fraction
from uqsparse.kernels.penalties import Penalty, penalty_named
from uqsparse.solvers.iterative_thresholding import STEP_SHARE, iterative_thresholding, solve_rows, squared_norm_bound

# The n rows of a batch, N with all before, leave (1 - n / N) to this power of what is remembered: the dictionary is
# fitted to about the last eleventh of the rows. For two passes over photographs 2 to 10 do as well, for eight a larger
# power is better than a small one.
_FORGETTING = 10.0
# The strength moves by this power of active fraction over target after each batch, by at most this factor.
_STRENGTH_POWER, _STRENGTH_FACTOR = 0.5, 2.0


class DictionaryLearner(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Learn an overcomplete dictionary, and code signals with few of its units, for any penalty of `penalty_named`.

    Minimises the mean over rows of `1/2 |x - dictionary r|^2 + sum value(r)` over codes and dictionaries with unit
    columns, by mini-batches. Second moments of codes and rows are added up over batches, and old ones forgotten little
    by little; after each batch every unit in turn is fitted to them. There is no intercept: centre or whiten the data
    first. Strengths of different penalties mean different things; to compare penalties give `active_target`, or use
    `matched_sparsity`.

    Args:
        n_components: units in the dictionary, at least 1; twice the number of features if None.
        penalty: a name ("l1", "l0", "l1/2", "l2/3", "log", "scad", "mcp", "cel0"), or a record, which carries its own
            strength.
        strength: strength of a penalty given by name, nonnegative; its unit is that of the penalty.
        active_target: if given, the strength is moved after each batch until this share of the numbers in the codes is
            active, in (0, 1), or, from 1 on, this number of units per row.
        max_iter: most passes over the data, at least 1.
        tol: stop when a pass lowers the mean objective (with `active_target`: the mean squared error) by less than this
            share; None makes all passes and says nothing of convergence.
        batch_size: rows per batch, at least 1.
        reseed_after: a unit that was not active for this many batches starts anew from a badly explained row, at least
            1; None never does that.
        fit_tolerance: of the codes while learning, see `iterative_thresholding`.
        transform_tolerance: of the codes in `transform`.
        code_max_iter: most iterations of a row.
        dictionary_init: where to start, shape (n_components, n_features), no row zero; None draws normal numbers.
        random_state: seed of the start, of the order of rows and of new units.

    Attributes:
        components_: units in rows, of norm 1, shape (n_components, n_features).
        strength_: the strength in the end: `strength`, unless there was an `active_target`.
        penalty_: the penalty record at that strength.
        objective_trace_: mean objective of each batch, before the dictionary moved.
        active_fraction_trace_: share of active numbers in the codes of each batch.
        n_reseeded_: units that started anew.
        n_dropped_: rows that were zero, from which nothing can be learned; they are left out of all batches.
        converged_: whether `tol` was met; None if it is None or only `partial_fit` was called.
        n_iter_: passes over the data.
        n_steps_: batches.

    Source: Mairal, Bach, Ponce & Sapiro (2010), Online learning for matrix factorization and sparse coding, algorithms
    1 and 2 and section 3.4 (forgetting), with units on the sphere instead of in the ball, since penalties other than l1
    want columns of norm 1; penalties: Rentzeperis, Calatroni, Perrinet & Prandi (2023), Beyond l1 sparse coding in V1.

    >>> X = np.random.default_rng(0).normal(size=(64, 4))
    >>> learner = DictionaryLearner(6, penalty="l1", strength=0.5, max_iter=2, tol=None, random_state=0).fit(X)
    >>> learner.components_.shape, learner.transform(X).shape
    ((6, 4), (64, 6))
    """

    def __init__(
        self,
        n_components: int | None = None,
        penalty: str | Penalty = "cel0",
        strength: float = 0.2,
        *,
        active_target: float | None = None,
        max_iter: int = 50,
        tol: float | None = 1e-3,
        batch_size: int = 256,
        reseed_after: int | None = 10,
        fit_tolerance: float = 1e-2,
        transform_tolerance: float = 1e-4,
        code_max_iter: int = 5000,
        dictionary_init: Num[Any, "M D"] | None = None,
        random_state: Any = None,
    ):
        self.n_components = n_components
        self.penalty = penalty
        self.strength = strength
        self.active_target = active_target
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.reseed_after = reseed_after
        self.fit_tolerance = fit_tolerance
        self.transform_tolerance = transform_tolerance
        self.code_max_iter = code_max_iter
        self.dictionary_init = dictionary_init
        self.random_state = random_state

    def fit(self, X: Num[Any, "n D"], y: Any = None) -> "DictionaryLearner":
        """Learn the dictionary.

        Args:
            X: signals, finite, shape (n, D); float32 stays float32.
            y: ignored.

        Raises:
            ValueError: a value is NaN or infinite, all rows are zero, or a parameter is out of range.
            TypeError: the penalty is neither a name nor a record.

        Warns:
            ConvergenceWarning: `max_iter` passes did not meet `tol`.
            UserWarning: no unit was active in the last pass.
        """
        checked: Any = validate_data(self, X, dtype=[np.float64, np.float32])
        rows = self._started(checked)
        best, self.converged_ = math.inf, None if self.tol is None else False
        for _ in range(self.max_iter):
            order = self._random.permutation(len(rows))
            costs, first = [], self.n_steps_
            for here in range(0, len(rows), self.batch_size):
                batch = rows[order[here : here + self.batch_size]]
                costs.append((self._learn(batch), len(batch)))
            self.n_iter_ += 1
            cost = sum(value * n for value, n in costs) / len(rows)
            if self.tol is not None and cost >= (1 - self.tol) * best:
                self.converged_ = True
                break
            best = min(best, cost)
        if not any(self._active[first:]):
            warnings.warn(f"no unit is active: the strength {self.strength_:g} is too large", stacklevel=2)
        if self.converged_ is False:
            warnings.warn(f"not converged in max_iter={self.max_iter} passes", ConvergenceWarning, stacklevel=2)
        return self

    def partial_fit(self, X: Num[Any, "n D"], y: Any = None) -> "DictionaryLearner":
        """Go on learning from more rows: one pass over them in the order given, earlier ones remembered.

        Args:
            X: signals, finite, shape (n, D).
            y: ignored.

        Raises:
            ValueError: as `fit`.
        """
        begun = hasattr(self, "components_")
        checked: Any = validate_data(self, X, dtype=[np.float64, np.float32], reset=not begun)
        if begun:
            rows = self._without_zeros(checked.astype(self.components_.dtype))
        else:
            rows, self.converged_ = self._started(checked), None
        for here in range(0, len(rows), self.batch_size):
            self._learn(rows[here : here + self.batch_size])
        self.n_iter_ += 1
        return self

    def transform(self, X: Num[Any, "n D"]) -> Float[np.ndarray, "n M"]:
        """Codes of signals, from a start at zero; a zero row has a zero code.

        Args:
            X: signals, finite, shape (n, D).

        Returns:
            Codes with exact zeros, shape (n, n_components).

        Warns:
            RuntimeWarning: a row did not converge in `code_max_iter` iterations.
        """
        check_is_fitted(self)
        checked: Any = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return iterative_thresholding(
            checked,
            self.components_.T,
            self.penalty_,
            tolerance=self.transform_tolerance,
            max_iter=self.code_max_iter,
        ).codes

    def inverse_transform(self, codes: Num[Any, "n M"]) -> Float[np.ndarray, "n D"]:
        """Signals of codes: their sums of units.

        Args:
            codes: shape (n, n_components).

        Raises:
            ValueError: the shape does not fit.
        """
        check_is_fitted(self)
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.shape[1] != len(self.components_):
            raise ValueError(f"codes has shape {codes.shape}; expected (n, {len(self.components_)})")
        return codes @ self.components_

    def score(self, X: Num[Any, "n D"], y: Any = None) -> float:
        """Share of the signals' energy that codes explain: `1 - |X - reconstruction|^2 / |X|^2`.

        At most 1; comparable between penalties at equal sparsity. 1 if X is zero.
        """
        reconstruction = self.inverse_transform(self.transform(X))
        rows = np.asarray(X, dtype=np.float64)
        energy = float(np.sum(rows**2))
        return 1.0 - float(np.sum((rows - reconstruction) ** 2)) / energy if energy > 0 else 1.0

    @property
    def dictionary_(self) -> Float[np.ndarray, "D M"]:
        """Units in columns: `components_.T`."""
        return self.components_.T

    @property
    def objective_trace_(self) -> Float[np.ndarray, " n_steps"]:
        """Mean objective of each batch, before the dictionary moved."""
        return np.array(self._objectives)

    @property
    def active_fraction_trace_(self) -> Float[np.ndarray, " n_steps"]:
        """Share of active numbers in the codes of each batch."""
        return np.array(self._active)

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _started(self, X: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "kept D"]:
        """Check parameters, set the state before the first batch, and return the rows to learn from."""
        for name in ("max_iter", "batch_size", "code_max_iter"):
            require_count(name, getattr(self, name), 1)
        for name in ("fit_tolerance", "transform_tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)!r}")
        if self.tol is not None:
            require_fraction("tol", self.tol)
        if self.reseed_after is not None:
            require_count("reseed_after", self.reseed_after, 1)
        n_units = 2 * X.shape[1] if self.n_components is None else self.n_components
        require_count("n_components", n_units, 1)
        if isinstance(self.penalty, Penalty):
            penalty = self.penalty
            if np.ndim(penalty.lambda_):
                raise ValueError(f"penalty must have one strength for all units, got {penalty!r}")
        elif isinstance(self.penalty, str):
            penalty = penalty_named(self.penalty, self.strength)
        else:
            raise TypeError(f"penalty must be a name or a record of uqsparse.kernels.penalties, got {self.penalty!r}")
        if self.active_target is not None and not 0 < self.active_target < n_units:
            raise ValueError(
                f"active_target must be a share in (0, 1) or a count in [1, {n_units}), got {self.active_target!r}"
            )
        self._random = check_random_state(self.random_state)
        self.penalty_, self.strength_ = penalty, float(penalty.lambda_)
        self.n_dropped_ = self.n_reseeded_ = self.n_steps_ = self.n_iter_ = 0
        self._objectives, self._active = [], []
        self._unused, self._n_learned = np.zeros(n_units, int), 0
        self._moments = Moments(np.zeros((n_units, n_units), X.dtype), np.zeros((n_units, X.shape[1]), X.dtype))
        rows = self._without_zeros(X)
        if not len(rows):
            raise ValueError("X is zero: there is nothing to learn")
        if self.dictionary_init is None:
            start = self._random.normal(size=(n_units, X.shape[1]))
        else:
            start = np.array(self.dictionary_init, dtype=np.float64)
            if start.shape != (n_units, X.shape[1]) or not np.isfinite(start).all() or not start.any(axis=1).all():
                raise ValueError(
                    f"dictionary_init must be finite, without zero rows and of shape {(n_units, X.shape[1])}, got "
                    f"shape {start.shape}"
                )
        self.components_ = (start / np.linalg.norm(start, axis=1, keepdims=True)).astype(X.dtype)
        return rows

    def _without_zeros(self, X: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "kept D"]:
        kept = X[X.any(axis=1)]
        self.n_dropped_ += len(X) - len(kept)
        return kept

    def _learn(self, batch: Float[np.ndarray, "b D"]) -> float:
        """Code a batch, move the dictionary; returns what `tol` looks at."""
        dictionary = self.components_.T
        step = STEP_SHARE / squared_norm_bound(dictionary)
        self.penalty_.require_step(step)
        found = solve_rows(
            batch, dictionary, self.penalty_, step, tolerance=self.fit_tolerance, max_iter=self.code_max_iter
        )
        codes, left = found.codes, batch - found.codes @ self.components_
        active = codes != 0
        self._objectives.append(float(found.objective.mean()))
        self._active.append(float(active.mean()))
        self.n_steps_ += 1
        self._n_learned += len(batch)
        kept = (1 - len(batch) / self._n_learned) ** _FORGETTING
        components, self._moments = dictionary_step(self.components_, self._moments, codes, batch, kept)
        self._unused = np.where(active.any(axis=0), 0, self._unused + 1)
        if self.reseed_after is not None and (dead := np.flatnonzero(self._unused >= self.reseed_after)).size:
            components = self._reseeded(components, dead, batch, left)
        self.components_ = components
        if self.active_target is None:
            return self._objectives[-1]
        self._move_strength(codes.shape[1])
        return float(np.mean(left**2))

    def _reseeded(
        self,
        components: Float[np.ndarray, "M D"],
        dead: Int[np.ndarray, " k"],
        batch: Float[np.ndarray, "b D"],
        left: Float[np.ndarray, "b D"],
    ) -> Float[np.ndarray, "M D"]:
        """Units at `dead` become rows of the batch, drawn in proportion to what is left of them, without a past."""
        badness = np.sum(left.astype(np.float64) ** 2, axis=1)
        count = min(len(dead), int(np.count_nonzero(badness)))
        if count == 0:
            return components
        rows = self._random.choice(len(batch), size=count, replace=False, p=badness / badness.sum())
        new, moments = dead[:count], self._moments
        # The others are not to make up for what these explained of earlier rows.
        moments.rows[:] -= moments.codes[:, new] @ components[new]
        moments.codes[new] = moments.codes[:, new] = moments.rows[new] = 0
        components[new] = batch[rows] / np.linalg.norm(batch[rows], axis=1, keepdims=True)
        self._unused[new] = 0
        self.n_reseeded_ += count
        return components

    def _move_strength(self, n_units: int) -> None:
        assert self.active_target is not None
        target = self.active_target if self.active_target < 1 else self.active_target / n_units
        factor = (self._active[-1] / target) ** _STRENGTH_POWER
        # A strength of 0 could not move.
        self.strength_ = max(self.strength_, 1e-12) * min(max(factor, 1 / _STRENGTH_FACTOR), _STRENGTH_FACTOR)
        self.penalty_ = dataclasses.replace(self.penalty_, lambda_=self.strength_)  # pyright: ignore[reportArgumentType]


class Moments(NamedTuple):
    """Weighted sums over rows x with codes r.

    Args:
        codes: sum of `r r'`, shape (M, M).
        rows: sum of `r x'`, shape (M, D).
    """

    codes: Float[np.ndarray, "M M"]
    rows: Float[np.ndarray, "M D"]


def dictionary_step(
    components: Float[np.ndarray, "M D"],
    moments: Moments,
    codes: Float[np.ndarray, "b M"],
    batch: Float[np.ndarray, "b D"],
    kept: float,
) -> tuple[Float[np.ndarray, "M D"], Moments]:
    """Add a batch to the moments, and fit each unit to them in turn, given the others; free of the scale of the codes.

    On the sphere the best unit is the direction of `rows_j - sum over k != j of codes_jk unit_k`: no step length.

    Args:
        components: units in rows, of norm 1.
        moments: of earlier batches.
        codes: shape (b, M).
        batch: rows, shape (b, D).
        kept: weight of the earlier moments, in [0, 1].

    Returns:
        Units of norm 1, and the new moments, as arrays that may be written to. A unit that no row uses stays as it is.

    >>> nothing = Moments(np.zeros((1, 1)), np.zeros((1, 2)))
    >>> dictionary_step(np.array([[1.0, 0.0]]), nothing, np.array([[2.0]]), np.array([[0.0, 3.0]]), 0.0)[0].tolist()
    [[0.0, 1.0]]
    """
    kind = components.dtype
    # Rows of zeros change nothing; with them few programs are compiled.
    size = 1 << (len(codes) - 1).bit_length()
    padded = [np.concatenate([each, np.zeros((size - len(each), each.shape[1]), kind)]) for each in (codes, batch)]
    with jax.enable_x64(True):
        moved, *added = _fitted(components, *moments, *padded, np.asarray(kept, kind))
    return np.array(moved), Moments(*(np.array(each) for each in added))


@jax.jit
def _fitted(
    components: Float[Array, "M D"],
    among: Float[Array, "M M"],
    rows: Float[Array, "M D"],
    codes: Float[Array, "b M"],
    batch: Float[Array, "b D"],
    kept: Float[Array, ""],
) -> tuple[Float[Array, "M D"], Float[Array, "M M"], Float[Array, "M D"]]:
    among = kept * among + codes.T @ codes
    rows = kept * rows + codes.T @ batch
    energy = jnp.diagonal(among)
    # What is nearly forgotten is rounding.
    used = energy > jnp.finfo(energy.dtype).eps * energy.max()

    def fit_one(j: Int[Array, ""], units: Float[Array, "M D"]) -> Float[Array, "M D"]:
        towards = rows[j] - among[j] @ units + energy[j] * units[j]
        norm = jnp.linalg.norm(towards)
        usable = used[j] & (norm > 0)
        return units.at[j].set(jnp.where(usable, towards / jnp.where(usable, norm, 1), units[j]))

    return jax.lax.fori_loop(0, len(components), fit_one, components), among, rows
