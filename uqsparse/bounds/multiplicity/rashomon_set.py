"""Predictive multiplicity: what all near-optimal models of a class say about each person, with certificates.

The near-optimal models are those whose regularised training loss is within a tolerance of the least one. For convex
losses of linear scores this set is convex, and the smallest and largest score of a person are convex programs, solved
for all persons at once with a bound from duality (`uqsparse.solvers.support_function`).
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, ArrayLike, Float
from scipy import stats
from scipy.special import expit
from sklearn.exceptions import NotFittedError

from uqsparse.bounds.multiplicity.capacity import binary_capacity, capacity_of_models
from uqsparse.bounds.multiplicity.discrepancy import Status, discrepancy_bounds
from uqsparse.bounds.multiplicity.loss_level import TOLERANCES, Tolerance, loss_level
from uqsparse.bounds.multiplicity.moved_search import moved_counts
from uqsparse.bounds.multiplicity.results import (
    Ambiguity,
    Discrepancy,
    EpsilonForMass,
    RashomonCapacity,
    RashomonSample,
    ViableRange,
)
from uqsparse.bounds.multiplicity.risk_scales import RISK_SCALES
from uqsparse.bounds.multiplicity.sampling import posterior_models, restricted_posterior_models, uniform_models
from uqsparse.bounds.multiplicity.score_ranges import ScoreRanges, score_ranges
from uqsparse.bounds.multiplicity.training_data import checked_features, encoded_response, make_loss
from uqsparse.kernels.arguments import require_count, require_fraction
from uqsparse.kernels.glm_losses import LossKind
from uqsparse.solvers.regularised_loss import minimise, ordinal_directions

# Models that the capacity of several classes is computed from.
_CAPACITY_MODELS = 200


Deltas = float | Sequence[float] | Float[ArrayLike, " m"]


class RashomonSet:
    """All models of a class whose training loss is within a tolerance of the least.

    It is about the training loss with its penalty, not about held-out data. Standardise the features first: the
    penalty is the same for all of them.

    Args:
        loss: "logistic" (two classes), "squared", "poisson" (half the deviance of counts), or "ordinal" (classes in
            order, the last one rare; the loss of `PrestoClassifier` with a ridge).
        l2: ridge coefficient mu >= 0 in (1/n) sum of losses + mu/2 |w|^2; one number, or one a feature; the intercept
            is free. For "ordinal" on the difference vectors psi.
        epsilon: tolerance, positive.
        tolerance: "relative": loss at most (1 + epsilon) times the least; "absolute": at most the least plus epsilon.
            The two differ much where the least loss is small.
        fit_intercept: whether there is an intercept ("ordinal" always has its own).

    Attributes:
        coef_: coefficients of the best model, the intercept first, shape (d,). For "ordinal" the K - 1 intercepts,
            then the difference vectors.
        level_: which models count, a `LossLevel`.
        classes_: classes in order, for "logistic" and "ordinal"; risks are of the last one.
        n_features_in_: number of features.

    Raises:
        ValueError: an argument is out of range.

    Source: Watson-Daniels, Parkes & Ustun (2023), Predictive multiplicity in probabilistic classification. There the
    ranges come from a grid of constrained fits; here each is one convex program with a certificate.

    >>> x = np.linspace(-2, 2, 40)[:, None]
    >>> models = RashomonSet(epsilon=0.05).fit(x, np.sin(9 * x[:, 0]) + x[:, 0] > 0)
    >>> found = models.viable_range([[0.0]])
    >>> bool(found.lower[0] < found.risk[0] < found.upper[0]), float(found.certificate_width[0]) < 1e-6
    (True, True)
    """

    def __init__(
        self,
        loss: LossKind = "logistic",
        l2: float | Float[ArrayLike, "..."] = 1e-3,
        epsilon: float = 0.01,
        tolerance: Tolerance = "relative",
        *,
        fit_intercept: bool = True,
    ):
        if loss not in RISK_SCALES:
            raise ValueError(f"loss must be one of {', '.join(map(repr, RISK_SCALES))}, got {loss!r}")
        if tolerance not in TOLERANCES:
            raise ValueError(f"tolerance must be 'relative' or 'absolute', got {tolerance!r}")
        if isinstance(epsilon, bool) or not (np.ndim(epsilon) == 0 and 0 < epsilon < math.inf):
            raise ValueError(f"epsilon must be positive and finite, got {epsilon!r}")
        penalties = np.asarray(l2, dtype=np.float64)
        if not (np.isfinite(penalties) & (penalties >= 0)).all():
            raise ValueError(f"l2 must be at least 0 and finite, got {l2!r}")
        self.loss: LossKind = loss
        self.l2 = l2
        self.epsilon = float(epsilon)
        self.tolerance: Tolerance = tolerance
        self.fit_intercept = bool(fit_intercept)
        self._scale = RISK_SCALES[loss]

    def fit(self, X: Float[ArrayLike, "n p"], y: Any) -> "RashomonSet":
        """Find the best model and the level.

        Args:
            X: features, shape (n, p), finite.
            y: responses, shape (n,): two classes of any kind ("logistic"), at least three numbered classes
                ("ordinal"), numbers ("squared"), counts ("poisson").

        Raises:
            ValueError: shapes or values do not fit, there are too few classes, or no best model exists: separable data
                or collinear features without a penalty.
        """
        X = checked_features(X)
        if len(X) < 2:
            raise ValueError(f"X must have at least 2 rows, got {len(X)}")
        response, classes = encoded_response(self.loss, y, len(X))
        self._loss = make_loss(self.loss, X, response, self.l2, self.fit_intercept)
        self._minimum = minimise(self._loss)
        if not self._minimum.converged:
            raise ValueError("the best model was not found: the loss has no well-determined minimum; use a larger l2")
        self.coef_ = self._minimum.w
        self.n_features_in_ = X.shape[1]
        if classes is not None:
            self.classes_ = classes
        self.level_ = loss_level(self.loss, self.tolerance, self.epsilon, self._minimum.value, len(X))
        self._X = X
        self._training: ScoreRanges | None = None
        return self

    def risk(self, X: Float[ArrayLike, "n p"], models: Any = None) -> Float[np.ndarray, "..."]:
        """Risks under the best model, shape (n,), or under others.

        Args:
            X: features, shape (n, p).
            models: coefficients, shape (..., d).

        Returns:
            Probabilities of the last class, or means, shape (..., n).
        """
        directions = self._directions(X)
        models = self.coef_ if models is None else np.asarray(models, dtype=np.float64)
        if models.shape[-1:] != self.coef_.shape:
            raise ValueError(f"models must have {len(self.coef_)} coefficients each, got shape {models.shape}")
        return self._scale.to_risk(models @ directions.T)

    def training_loss(self, models: Float[ArrayLike, "... d"]) -> Float[np.ndarray, "..."]:
        """Regularised training loss of models, shape (...); those in the set have at most `level_.level`."""
        self._require_fit()
        models = np.asarray(models, dtype=np.float64)
        flat = models.reshape(-1, models.shape[-1])
        return np.array([self._loss.value(w) for w in flat]).reshape(models.shape[:-1])

    def viable_range(self, X: Any = None) -> ViableRange:
        """Smallest and largest risk of each person over all models of the set.

        Args:
            X: features of the persons, who need not be among the training rows, shape (n, p); the training rows if left
                out.
        """
        found = self._training_scores() if X is None else self._scores(self._directions(X))
        to_risk, back = self._scale.to_risk, found.back
        gap = np.maximum(found.upper_bound - found.upper, found.lower - found.lower_bound)
        return ViableRange(
            risk=to_risk(found.best)[back],
            lower=to_risk(found.lower)[back],
            upper=to_risk(found.upper)[back],
            lower_certificate=to_risk(found.lower_bound)[back],
            upper_certificate=to_risk(found.upper_bound)[back],
            lower_models=found.lower_models[back],
            upper_models=found.upper_models[back],
            score_gap=gap[back],
            has_certificate=np.isfinite(gap)[back],
            converged=found.converged[back],
            level=self.level_,
        )

    def ambiguity(self, delta: Deltas) -> Ambiguity:
        """Share of the training persons whose risk some model of the set moves by delta or more.

        Args:
            delta: one shift of the risk, or several: in (0, 1) for probabilities, positive for means.

        Raises:
            ValueError: a delta is out of range.
        """
        deltas, is_single = self._deltas(delta)
        found = self._training_scores()
        risk, n = self._scale.to_risk(found.best), found.counts.sum()
        lower, upper = [], []
        for one in deltas:
            above, below = self._scale.thresholds(risk, one)
            lower.append(found.counts[(found.upper >= above) | (found.lower <= below)].sum() / n)
            upper.append(found.counts[(found.upper_bound >= above) | (found.lower_bound <= below)].sum() / n)
        return Ambiguity(
            _one_or_all(deltas, is_single), _one_or_all(lower, is_single), _one_or_all(upper, is_single), self.level_
        )

    def discrepancy(self, delta: Deltas, time_limit: float = 60.0) -> Discrepancy:
        """Largest share of the training persons whose risk one model of the set moves by delta or more, bounded.

        The bounds of several deltas are monotone, as the discrepancies are: models and proofs are shared.

        Args:
            delta: one shift of the risk, or several, as for `ambiguity`.
            time_limit: seconds for each delta. The bounds hold however short it is.

        Raises:
            ValueError: a delta or the time limit is out of range.
            RuntimeError: the solver's bound contradicts a model that was found.
        """
        deltas, is_single = self._deltas(delta)
        found = self._training_scores()
        risk = self._scale.to_risk(found.best)
        thresholds = [self._scale.thresholds(risk, one) for one in deltas]
        results: list[Any] = [None] * len(deltas)
        pool = np.concatenate([found.upper_models, found.lower_models])
        for i in np.argsort(-np.asarray(deltas), kind="stable"):
            results[i] = discrepancy_bounds(
                self._loss,
                self.level_.level,
                self._minimum,
                found.rows,
                thresholds[i][0],
                thresholds[i][1],
                score_lower=found.lower_bound,
                score_upper=found.upper_bound,
                models=pool,
                counts=found.counts,
                time_limit=time_limit,
            )
            pool = np.concatenate([results[i].model[None], pool])
        return self._gathered(deltas, is_single, results, found, thresholds)

    def capacity(self, X: Any = None) -> RashomonCapacity:
        """Two to the power of the Rashomon capacity of each person.

        In closed form from the range of risks for two classes; by Blahut-Arimoto on models that attain ranges for more,
        where it is a lower bound and the number of classes is the upper one.

        Args:
            X: features of the persons, shape (n, p); the training rows if left out.

        Raises:
            ValueError: the risks are means.
        """
        self._require_fit()
        if self.loss == "logistic":
            found = self.viable_range(X)
            inner = 2 ** binary_capacity(found.lower, found.upper)
            outer = 2 ** binary_capacity(found.lower_certificate, found.upper_certificate)
            return RashomonCapacity(inner, np.maximum(inner, outer), self.level_)
        if self.loss != "ordinal":
            raise ValueError(f"capacity is about probabilities of classes, and the {self.loss} loss has none")
        X = self._X if X is None else checked_features(X, self.n_features_in_)
        models = self._spread_models()
        k = len(self.classes_)
        below = np.stack([expit(models @ ordinal_directions(X, j, k).T) for j in range(k - 1)], axis=-1)
        ends = np.concatenate([np.zeros((*below.shape[:-1], 1)), below, np.ones((*below.shape[:-1], 1))], axis=-1)
        bits = capacity_of_models(np.diff(ends, axis=-1)).lower
        return RashomonCapacity(2**bits, np.full(len(X), float(k)), self.level_)

    def sample(
        self,
        key: Array,
        n: int,
        method: Literal["hit-and-run", "nuts"] = "hit-and-run",
        *,
        n_warmup: int = 500,
        thinning: int = 5,
    ) -> RashomonSample:
        """Draw models of the set; what they say about a person is always inside `viable_range`.

        Args:
            key: random key.
            n: how many, rounded up to a multiple of 4.
            method: "hit-and-run": uniform over the coefficients in the set. "nuts": the posterior under the prior
                N(0, 1 / (n l2)), restricted to the set by rejection, which needs a set that holds some of it.
            n_warmup: steps of each of four chains that are dropped first.
            thinning: hit-and-run steps from one draw to the next.

        Raises:
            ValueError: an argument is out of range, or the set holds too little of the posterior.
        """
        self._require_fit()
        require_count("n", n, 1)
        require_count("n_warmup", n_warmup, 0)
        require_count("thinning", thinning, 1)
        level = self.level_.level
        n = 4 * math.ceil(n / 4)
        if method == "hit-and-run":
            models, share = uniform_models(
                key, self._loss, self._minimum, level, n, n_warmup=n_warmup, thinning=thinning
            )
        elif method == "nuts":
            models, share = restricted_posterior_models(
                key, self._loss, self._minimum, level, n, n_warmup=max(n_warmup, 1)
            )
        else:
            raise ValueError(f"method must be 'hit-and-run' or 'nuts', got {method!r}")
        losses = self.training_loss(models)
        for shrink in (1e-12, 1e-9, 1e-6):  # at the boundary two ways of rounding differ
            outside = losses > level
            models = np.where(outside[..., None], self.coef_ + (1 - shrink) * (models - self.coef_), models)
            losses = np.where(outside, self.training_loss(models), losses)
        if (losses > level).any():
            raise RuntimeError(f"{(losses > level).sum()} of the models drawn lie outside the set")
        return RashomonSample(models, losses, method, share, self.level_)

    def epsilon_for_mass(
        self,
        mass: float,
        how: Literal["laplace", "mcmc"] = "laplace",
        *,
        key: Array | None = None,
        n_draws: int = 2000,
        n_warmup: int = 500,
    ) -> EpsilonForMass:
        """The tolerance at which the set is a highest-density region of given posterior probability.

        Under the prior N(0, 1 / (n l2)), flat on what is not penalised, n times the loss is minus the log posterior.
        The ranges are then a band that holds for all persons at once, wider than intervals for one person each. For
        the squared loss the noise has variance 1: scale y by its noise first.

        Args:
            mass: posterior probability, in (0, 1).
            how: "laplace": the chi-squared quantile over 2 n; "mcmc": the quantile of NUTS draws.
            key: random key, for "mcmc".
            n_draws: posterior draws, for "mcmc".
            n_warmup: warm-up steps, for "mcmc".

        Raises:
            ValueError: an argument is out of range or the key is missing.
        """
        self._require_fit()
        require_fraction("mass", mass)
        if how == "laplace":
            epsilon, error = float(stats.chi2(len(self.coef_)).ppf(mass)) / (2 * len(self._X)), 0.0
        elif how == "mcmc":
            if key is None:
                raise ValueError("key is missing: how='mcmc' draws from the posterior")
            require_count("n_draws", n_draws, 100)
            _, heights = posterior_models(key, self._loss, self._minimum, n_draws, n_warmup=n_warmup)
            epsilon, error = float(np.quantile(heights, mass)), _quantile_error(heights, mass)
        else:
            raise ValueError(f"how must be 'laplace' or 'mcmc', got {how!r}")
        least = self.level_.minimum
        return EpsilonForMass(epsilon, epsilon / least if least > 0 else math.inf, mass, how, error)

    def _directions(self, X: Any) -> np.ndarray:
        """Rows whose products with a model are the persons' scores."""
        self._require_fit()
        X = checked_features(X, self.n_features_in_)
        if self.loss == "ordinal":
            k = len(self.classes_)
            return -ordinal_directions(X, k - 2, k)
        return np.column_stack([np.ones(len(X)), X]) if self.fit_intercept else X

    def _scores(self, directions: np.ndarray) -> ScoreRanges:
        return score_ranges(self._loss, self._minimum, self.level_.level, directions)

    def _training_scores(self) -> ScoreRanges:
        self._require_fit()
        if self._training is None:
            self._training = self._scores(self._directions(self._X))
        return self._training

    def _spread_models(self) -> np.ndarray:
        found = self._training_scores()
        models = np.unique(np.concatenate([found.lower_models, found.upper_models]), axis=0)
        chosen = np.linspace(0, len(models) - 1, min(_CAPACITY_MODELS, len(models))).round().astype(int)
        return np.concatenate([self.coef_[None], models[chosen]])

    def _deltas(self, delta: Any) -> tuple[list[float], bool]:
        self._require_fit()
        several = np.asarray(delta, dtype=np.float64)
        if several.ndim > 1 or not several.size:
            raise ValueError(f"delta must be a number or a sequence of numbers, got {delta!r}")
        for one in np.atleast_1d(several):
            self._scale.check_delta(float(one))
        return [float(one) for one in np.atleast_1d(several)], several.ndim == 0

    def _gathered(self, deltas, is_single, results, found: ScoreRanges, thresholds) -> Discrepancy:
        """The bounds of all deltas, each improved by what the others found."""
        n = found.counts.sum()
        pool = np.stack([one.model for one in results])
        lower, upper, models, status = [], [], [], []
        for i, delta in enumerate(deltas):
            moved = moved_counts(pool, found.rows, thresholds[i][0], thresholds[i][1], found.counts)
            best = int(np.argmax(moved)) if moved.max() > results[i].lower else i
            lower.append(max(int(moved.max()), results[i].lower))
            models.append(pool[best])
            upper.append(min(r.upper for r, other in zip(results, deltas, strict=True) if other <= delta))
            closed: Status = "proved" if lower[-1] == upper[-1] else results[i].status
            status.append(closed)
        return Discrepancy(
            _one_or_all(deltas, is_single),
            _one_or_all(np.array(lower) / n, is_single),
            _one_or_all(np.array(upper) / n, is_single),
            models[0] if is_single else np.stack(models),
            status[0] if is_single else tuple(status),
            sum(r.n_rounds for r in results),
            sum(r.n_cuts for r in results),
            self.level_,
        )

    def _require_fit(self) -> None:
        if not hasattr(self, "level_"):
            raise NotFittedError("this RashomonSet is not fitted yet: call fit(X, y) first")


def _one_or_all(values: Any, is_single: bool) -> Any:
    return float(values[0]) if is_single else np.asarray(values, dtype=np.float64)


def _quantile_error(heights: Float[np.ndarray, "chain draw"], mass: float) -> float:
    import arviz

    return float(np.asarray(arviz.mcse(heights, method="quantile", prob=mass)))
