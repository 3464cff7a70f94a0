"""Probabilities of rare events from all ordered classes: proportional odds, with boundaries that may differ a little.

The rare event is the last of K ordered classes. Each boundary between classes has weights of its own, and the change
from one boundary to the next is penalised, so that the rare boundary borrows from the others what they share.
"""

import warnings
from typing import Any, Literal, Self

import jax
import numpy as np
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import check_cv
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.ordinal import ordinal_probabilities
from uqsparse.models.ordinal_box_path import box_path, training_box
from uqsparse.models.ordinal_folds import fold_paths, held_out_scores, one_fold
from uqsparse.models.ordinal_labels import coded, ordered_classes
from uqsparse.models.ordinal_path import (
    LEAST_CLASSES,
    OrdinalPath,
    fit_ordinal_path,
    in_given_units,
    null_fit,
    ordinal_problem,
    penalties,
    solve_path,
    warn_unless_converged,
)

__all__ = ["OrdinalPath", "PrestoClassifier", "fit_ordinal_path"]

# A class with fewer rows than this is warned about.
_FEW_ROWS = 5
_POLICIES = ("ignore", "raise", "sort", "box")
_SCORINGS = ("brier", "log_loss")


class PrestoClassifier(ClassifierMixin, BaseEstimator):
    """Ordered classes, at least 3, the last one rare: `P(y <= k | x) = sigmoid(alpha_k + beta_k x)`, with
    `beta_k = psi_1 + ... + psi_k` and a lasso on the psi.

    Features are standardised inside; coefficients are those of the features as given. The order of the classes
    matters, and so does its direction: psi_1 is special, so that reversing the classes changes a penalised fit.

    Args:
        first_penalty: how much psi_1, the first boundary's own weights, is penalised relative to the changes, at least
            0. With 1 a large penalty leaves intercepts only, with 0 it leaves proportional odds.
        lambdas: penalties to try, nonnegative; by default `n_lambdas` of them from the least one under which all that
            is penalised is zero.
        n_lambdas: how many penalties, at least 1.
        lambda_min_ratio: the smallest of them relative to the largest, in (0, 1).
        cv: how the penalty is chosen: a number of stratified folds, a splitter or an iterable of splits, as in
            scikit-learn. None asks for exactly one penalty. With one penalty nothing is chosen.
        scoring: what the folds are scored by, "brier" (all classes) or "log_loss". Ties go to the larger penalty.
        monotone: what happens where boundaries cross, so that a class gets a negative probability. "ignore" returns
            it; "raise" raises a ValueError at prediction; "sort" sorts the logits of the row; "box" constrains the fit
            so that boundaries do not cross anywhere in the box that the training rows span (and sorts outside it).
            Probabilities of the first and of the last class are in (0, 1) under any of them.
        l1_ratio: the share of the lasso in the penalty, in [0, 1]; the rest is a ridge.
        classes: the labels in their order, for labels that have none of their own. Numbers are ordered by value, an
            ordered categorical of pandas by its categories.

    Attributes:
        classes_: labels in their order, shape (K,).
        coef_: beta, shape (K-1, p).
        intercept_: alpha, shape (K-1,).
        best_lambda_: the penalty chosen.
        best_index_: its place on the path.
        path_: all fits, see `OrdinalPath`: `lambdas`, `coefs`, `objective`, `gap`, `n_nonzero` and more.
        cv_scores_: mean score of the held-out rows for each penalty, shape (L,); None if nothing was chosen.
        n_features_in_: p.

    Source: Faletto & Bien (2023), Predicting rare events by shrinking towards proportional odds.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 3))
    >>> y = np.digitize(X[:, 0] + rng.logistic(size=400), [0.0, 3.0])
    >>> model = PrestoClassifier(n_lambdas=5, cv=3).fit(X, y)
    >>> model.predict_proba(X[:2]).shape, bool((model.path_.gap < 1e-8).all())
    ((2, 3), True)
    """

    def __init__(
        self,
        first_penalty: float = 1.0,
        lambdas: Any = None,
        n_lambdas: int = 20,
        lambda_min_ratio: float = 1e-2,
        cv: Any = 5,
        scoring: Literal["brier", "log_loss"] = "brier",
        monotone: Literal["ignore", "raise", "sort", "box"] = "sort",
        l1_ratio: float = 1.0,
        classes: Any = None,
    ):
        self.first_penalty = first_penalty
        self.lambdas = lambdas
        self.n_lambdas = n_lambdas
        self.lambda_min_ratio = lambda_min_ratio
        self.cv = cv
        self.scoring = scoring
        self.monotone = monotone
        self.l1_ratio = l1_ratio
        self.classes = classes

    def fit(
        self,
        X: Float[Any, "n p"],
        y: Shaped[Any, " n"],
        sample_weight: Float[Any, " n"] | None = None,
    ) -> Self:
        """Fit the path, choose a penalty by cross-validation, and keep its fit to all rows.

        Args:
            X: features, shape (n, p).
            y: labels with an order, shape (n,), at least 3 classes, each with a row.
            sample_weight: nonnegative, shape (n,); rows of weight 0 take no part.

        Raises:
            ValueError: input is not finite, an argument is out of its range, the labels have no order, there are fewer
                than 3 classes, or a class has no row, in all or in a fold.
        """
        self._check_arguments()
        labels = y
        checked: Any = validate_data(self, X, y, dtype=np.float64)
        X, y = checked
        check_classification_targets(y)
        classes = ordered_classes(labels, self.classes)
        if len(classes) < LEAST_CLASSES:
            raise ValueError(
                f"y has {len(classes)} class(es); an ordinal model takes at least {LEAST_CLASSES} classes, in order"
            )
        y = coded(column_or_1d(y), classes)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        self._check_counts(np.bincount(y[weights > 0], minlength=len(classes)), classes)
        factors = np.ones(len(classes) - 1)
        factors[0] = self.first_penalty
        problem = ordinal_problem(X, y, len(classes), factors, weights, self.l1_ratio)
        start = null_fit(problem)
        lambdas = penalties(problem, start, self.lambdas, self.n_lambdas, self.lambda_min_ratio, self.l1_ratio)
        if self.cv is None and len(lambdas) > 1:
            raise ValueError(f"cv=None leaves nothing to choose among {len(lambdas)} penalties by: give one in lambdas")
        path = solve_path(problem, lambdas, start)
        box = training_box(problem) if self.monotone == "box" else None
        if box is not None:
            path = box_path(problem, path, box)
        warn_unless_converged(path)
        self.cv_scores_ = None
        if len(lambdas) > 1:
            # The splitter sees all rows: splits given as row numbers mean those of X.
            folds: Any = self.cv
            splitter: Any = check_cv(folds, y, classifier=True)
            splits = splitter.split(X, y)
            held_out = np.array([np.isin(np.arange(len(y)), rows) for _, rows in splits])[:, weights > 0]
            self.cv_scores_ = self._scores(problem, lambdas, held_out, box)
        # Penalties descend, and argmin takes the first of equals: ties go to the larger penalty.
        self.best_index_ = 0 if self.cv_scores_ is None else int(np.argmin(self.cv_scores_))
        self.path_ = in_given_units(problem, path)
        self.classes_ = classes
        self.best_lambda_ = float(lambdas[self.best_index_])
        self.coef_ = self.path_.coefs[self.best_index_]
        self.intercept_ = self.path_.intercepts[self.best_index_]
        return self

    def predict_proba(self, X: Float[Any, "n p"]) -> Float[np.ndarray, "n k"]:
        """Probability of each class, in the order of `classes_`; the last column is the rare event's.

        Args:
            X: features, shape (n, p).

        Returns:
            Shape (n, K), rows summing to 1; nonnegative unless `monotone` is "ignore".

        Raises:
            ValueError: boundaries cross and `monotone` is "raise".
        """
        check_is_fitted(self)
        checked: Any = validate_data(self, X, dtype=np.float64, reset=False)
        X = checked
        eta = self.intercept_ + X @ self.coef_.T
        if self.monotone in ("sort", "box"):
            eta = np.sort(eta, axis=1)
        probabilities = ordinal_probabilities(eta)
        if self.monotone == "raise" and (probabilities < 0).any():
            rows = np.flatnonzero((probabilities < 0).any(axis=1))
            raise ValueError(
                f"boundaries cross in {len(rows)} of {len(X)} rows, the first being row {rows[0]}: a class would get a "
                "negative probability; monotone='sort' or 'box' avoids it"
            )
        return probabilities

    def predict(self, X: Float[Any, "n p"]) -> Shaped[np.ndarray, " n"]:
        """The most probable class of each row. A rare class seldom is: threshold `predict_proba` for decisions."""
        best = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[best]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # Scikit-learn's checks ask for accuracy on clusters whose labels have no order along any direction.
        tags.classifier_tags.poor_score = True
        return tags

    def _check_arguments(self):
        if not (np.isscalar(self.first_penalty) and 0 <= self.first_penalty < np.inf):  # pyright: ignore
            raise ValueError(f"first_penalty must be a finite nonnegative number, got {self.first_penalty!r}")
        require_count("n_lambdas", self.n_lambdas, 1)
        for name, value, known in (("scoring", self.scoring, _SCORINGS), ("monotone", self.monotone, _POLICIES)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")

    def _check_counts(self, counts, classes):
        rarest = classes.tolist()[np.argmin(counts)]
        if not counts.all():
            raise ValueError(f"class {rarest!r} has no row of positive weight; leave it out")
        if counts.min() < _FEW_ROWS:
            warnings.warn(
                f"class {rarest!r} has {counts.min()} rows: too few to tell its probability apart "
                "from those of its neighbours",
                UserWarning,
                stacklevel=3,
            )

    def _scores(self, problem, lambdas, held_out, box):
        scoring: Any = self.scoring
        folds, paths = fold_paths(problem, lambdas, held_out)
        points = np.asarray(paths.w)
        if box is not None:
            parts = [jax.tree.map(lambda leaf, at=at: leaf[at], paths) for at in range(len(held_out))]
            points = np.stack([box_path(one_fold(folds, at), part, box).w for at, part in enumerate(parts)])
        return held_out_scores(problem, points, held_out, scoring)
