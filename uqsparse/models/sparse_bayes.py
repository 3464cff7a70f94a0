"""Sparse Bayesian regression: a scikit-learn estimator by maximum evidence, and the same prior as a NumPyro model."""

import math
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Num
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from uqsparse.kernels.namespaces import is_traced
from uqsparse.solvers.sparse_bayes import Update, sparse_bayes


class SparseBayesianRegression(RegressorMixin, BaseEstimator):
    """Linear regression whose coefficients have a prior variance each, chosen by maximum evidence; most end at zero.

    Also known as automatic relevance determination and as the linear relevance vector machine. There is no penalty to
    tune. Columns are standardised inside, so that units do not matter; all results are in the units of `X` and `y`.

    Args:
        update: "fast" (Tipping & Faul) adds and removes columns and costs what the columns in the model cost; "em" and
            "mm" update all columns and never lower the evidence; "mackay" does so faster, without that promise.
        fit_intercept: whether there is an intercept, with a flat prior.
        noise_variance: known variance of the noise, in squared units of `y`, positive; None learns it.
        tol: "fast" stops when an iteration raises the log evidence by less than `tol` for each observation; the others
            when prior variances and noise variance change by a smaller share.
        max_iter: most iterations; reaching it is warned about.
        prune: "em", "mackay" and "mm" drop a column when its prior variance, in standard units, falls below this share
            of the largest, in [0, 1). With 0 none is dropped, and the evidence never falls under "em" and "mm"; then
            a noise variance that is learned tends to 0 where there are more columns than rows.

    Attributes:
        coef_: posterior means, shape (p,), zero outside of the support.
        coef_std_: posterior standard deviations, shape (p,), given prior and noise variances; 0 outside of the support.
        intercept_: intercept.
        noise_variance_: variance of the noise.
        gammas_: prior variances of the coefficients, shape (p,).
        support_: indices of the columns in the model.
        log_evidence_: log density of `y` given prior and noise variances. With an intercept it is that of the n - 1
            contrasts of `y` that do not depend on it (the restricted likelihood).
        cost_trace_: -2 log evidence without its constant, at the start and after each iteration.
        n_iter_: number of iterations.
        posterior_: the `SparsePosterior` in standard units, with the record of how it was found.

    Source: Tipping (2001), Sparse Bayesian learning and the relevance vector machine, JMLR 1; Tipping & Faul (2003),
    Fast marginal likelihood maximisation for sparse Bayesian models, AISTATS.

    >>> X = np.random.default_rng(0).normal(size=(50, 10))
    >>> SparseBayesianRegression(noise_variance=0.01).fit(X, 3 * X[:, 2] + 0.1 * np.cos(range(50))).coef_[2].round(1)
    np.float64(3.0)
    """

    def __init__(
        self,
        update: Update = "fast",
        *,
        fit_intercept: bool = True,
        noise_variance: float | None = None,
        tol: float = 2e-3,
        max_iter: int = 300,
        prune: float = 1e-4,
    ):
        self.update = update
        self.fit_intercept = fit_intercept
        self.noise_variance = noise_variance
        self.tol = tol
        self.max_iter = max_iter
        self.prune = prune

    def fit(self, X: Num[Any, "n p"], y: Num[Any, " n"]) -> "SparseBayesianRegression":
        """Find the prior variances of largest evidence.

        Args:
            X: features, real, shape (n, p); no column may be zero, or constant if there is an intercept.
            y: targets, real, shape (n,), not all zero, or all equal if there is an intercept.

        Raises:
            ValueError: a value is NaN or infinite, shapes do not fit, `y` or a column carries nothing, or a parameter
                is out of range.

        Warns:
            ConvergenceWarning: `max_iter` iterations did not suffice.
            UserWarning: the columns explain `y` exactly, so that the learned noise variance went to its lower limit.
        """
        minimum = 2 if self.fit_intercept else 1
        checked: Any = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=minimum)
        X_checked, y_checked = checked[0], np.asarray(checked[1], dtype=np.float64)
        if not (isinstance(self.tol, (int, float)) and 0 < self.tol < math.inf):
            raise ValueError(f"tol must be a positive number, got {self.tol!r}")
        n = len(y_checked)
        means, middle = np.zeros(X_checked.shape[1]), 0.0
        if self.fit_intercept:
            means, middle = X_checked.mean(axis=0), float(y_checked.mean())
        columns, target = X_checked - means, y_checked - middle
        scales = np.sqrt(np.einsum("ij,ij->j", columns, columns) / n)
        _refuse_empty(scales, means, target, middle, self.fit_intercept)
        columns /= scales
        if self.fit_intercept:
            columns, target = _contrasts_in_place(columns), _contrasts_in_place(target)
        found = sparse_bayes(
            columns,
            target,
            update=self.update,  # pyright: ignore[reportArgumentType]
            noise_variance=self.noise_variance,
            tolerance=2 * self.tol * n if self.update == "fast" else self.tol,
            max_iter=self.max_iter,
            prune=self.prune,
        )
        if not found.converged:
            warnings.warn(f"not converged in max_iter={self.max_iter} iterations", ConvergenceWarning, stacklevel=2)
        if found.noise_is_at_floor:
            warnings.warn(
                "the noise variance went to its lower limit: the columns explain y exactly, and the predicted spread "
                "means nothing; give noise_variance",
                stacklevel=2,
            )
        self.posterior_ = found
        self.coef_ = found.mean / scales
        self.coef_std_ = np.sqrt(found.variance) / scales
        self.gammas_ = found.gammas / scales**2
        self.intercept_ = middle - float(means @ self.coef_)
        self.noise_variance_ = found.noise_variance
        self.support_ = found.support
        self.log_evidence_ = found.log_evidence
        self.cost_trace_ = found.cost_trace
        self.n_iter_ = found.n_iter
        self._means, self._scales, self._n_rows = means, scales, n
        return self

    def predict(self, X: Num[Any, "n p"], return_std: bool = False) -> Any:
        """Predictive means of new targets, and their standard deviations.

        Args:
            X: features, shape (n, p).
            return_std: whether to return also the standard deviation of each new target: noise, coefficients and
                intercept, with prior variances and noise variance taken as known.

        Returns:
            Means, shape (n,); or the pair of means and standard deviations.
        """
        check_is_fitted(self)
        checked: Any = validate_data(self, X, dtype=np.float64, reset=False)
        mean = checked @ self.coef_ + self.intercept_
        if not return_std:
            return mean
        variance = self.posterior_.variance_of((checked - self._means) / self._scales)
        noise = self.noise_variance_ * (1 + 1 / self._n_rows if self.fit_intercept else 1)
        return mean, np.sqrt(variance + noise)


def sparse_bayesian_model(
    X: Float[Any, "n p"],
    y: Float[Any, " n"] | None = None,
    *,
    gammas: Float[Any, " p"] | None = None,
    noise_variance: float | None = None,
    shape: float = 0.5,
    scale: float = 1.0,
    noise_scale: float = 1.0,
) -> None:
    """NumPyro model of sparse Bayesian regression, without an intercept: to sample what evidence maximisation fixes.

    `y ~ N(X coef, noise_variance)` and `coef_j ~ N(0, gamma_j)`, with `gamma_j ~ InverseGamma(shape, shape scale^2)`
    (a gamma prior on the precision) and a half-normal prior on the noise's standard deviation. Integrated over gamma_j,
    a coefficient has a Student t prior with `2 shape` degrees of freedom and scale `scale`. Hyper-parameters that are
    given are not sampled: with both of them the model is Gaussian, and its evidence is `log_evidence_`.

    Sites: `coef_z` (standard normal), `gamma`, `noise_sd`, `y`; `coef` is deterministic.

    Args:
        X: features, shape (n, p); standardise them, or set `scale` to the size of the coefficients.
        y: targets, shape (n,); None draws them from the prior.
        gammas: prior variances, nonnegative, shape (p,); None samples them.
        noise_variance: variance of the noise, positive; None samples it.
        shape: shape of the gamma prior on the precisions, positive; small values make the prior sparse.
        scale: scale of the coefficients, positive.
        noise_scale: scale of the half-normal prior on the noise's standard deviation, positive.

    Raises:
        ValueError: a scale or shape is not positive, or `gammas` has another shape than (p,) or a negative entry.

    Source: Tipping (2001), Sparse Bayesian learning and the relevance vector machine, section 2.
    """
    for name, value in (("shape", shape), ("scale", scale), ("noise_scale", noise_scale)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value!r}")
    if not (noise_variance is None or is_traced(noise_variance) or noise_variance > 0):
        raise ValueError(f"noise_variance must be positive, got {noise_variance!r}")
    n, p = X.shape
    if gammas is None:
        prior = dist.InverseGamma(shape * jnp.ones(p), shape * scale**2).to_event(1)
        variances: Any = numpyro.sample("gamma", prior)
    else:
        variances = jnp.asarray(gammas)
        if variances.shape != (p,):
            raise ValueError(f"gammas has shape {variances.shape}; X of shape {X.shape} wants ({p},)")
        if not is_traced(variances) and not (np.asarray(variances) >= 0).all():
            raise ValueError(f"gammas must be nonnegative, got {variances.min()}")
    if noise_variance is None:
        noise: Any = numpyro.sample("noise_sd", dist.HalfNormal(noise_scale))
    else:
        noise = jnp.sqrt(noise_variance)
    standard: Any = numpyro.sample("coef_z", dist.Normal(jnp.zeros(p), 1.0).to_event(1))
    coef: Array = numpyro.deterministic("coef", jnp.sqrt(variances) * standard)  # pyright: ignore[reportAssignmentType]
    with numpyro.plate("observations", n):
        numpyro.sample("y", dist.Normal(X @ coef, noise), obs=y)


def _refuse_empty(
    scales: Float[np.ndarray, " p"],
    means: Float[np.ndarray, " p"],
    target: Float[np.ndarray, " n"],
    middle: float,
    fit_intercept: bool,
) -> None:
    """Columns and targets that carry nothing beside rounding."""
    what = "constant" if fit_intercept else "zero"
    rounding = 16 * np.finfo(float).eps
    empty = np.flatnonzero(scales <= rounding * abs(means))
    if empty.size:
        raise ValueError(f"X has {what} columns, the first at index {empty[0]}: remove them")
    if math.sqrt(np.mean(target**2)) <= rounding * abs(middle):
        raise ValueError(f"y is {what}: there is nothing to explain")


def _contrasts_in_place(centred: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n_less_1 ..."]:
    """Coordinates in an orthonormal basis of the space without means: rows 2 to n of a Householder reflection."""
    centred[1:] += centred[0] / (math.sqrt(len(centred)) - 1)
    return centred[1:]
