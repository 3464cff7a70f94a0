"""Sparse Bayesian learning on a dense dictionary, real or complex: hyper-parameters of largest evidence, posterior."""

import dataclasses
import math
from typing import Literal, get_args

import numpy as np
from jaxtyping import ArrayLike, Float, Inexact, Int, Num

from uqsparse.solvers.dense_evidence import DenseState, dense_start, dense_step, prune_dense
from uqsparse.solvers.evidence import EvidenceRun, Step, maximise_evidence
from uqsparse.solvers.fast_evidence import FastMarginalLikelihood, FastState
from uqsparse.solvers.regression_problem import (
    RegressionProblem,
    check_noise_variance,
    regression_problem,
    squares,
    triangular_inverse,
)

Update = Literal["em", "mackay", "mm", "fast"]


@dataclasses.dataclass(frozen=True)
class SparsePosterior:
    """Coefficients given the hyper-parameters of largest evidence, and how these were found.

    Args:
        mean: posterior mean of the coefficients, shape (p,).
        variance: posterior variances, real, shape (p,); 0 where gamma is 0.
        gammas: prior variances, shape (p,); 0 for columns outside of the model.
        noise_variance: sigma^2 (of a complex entry: E|n|^2).
        log_evidence: log density of y under these hyper-parameters.
        cost_trace: -2 log evidence (complex: -log evidence) without its constant, at the start and after each
            iteration.
        is_monotone: whether no iteration raised the cost by more than rounding.
        largest_rise: the largest rise, as a share of the cost.
        noise_is_at_floor: whether the learned noise variance ended at the smallest value allowed, 1e-10 of the mean
            |y|^2: the dictionary explains y exactly, and the evidence has no maximum.
        converged: whether the last iteration changed less than the tolerance.
        n_iter: number of iterations.
    """

    mean: Inexact[np.ndarray, " p"]
    variance: Float[np.ndarray, " p"]
    gammas: Float[np.ndarray, " p"]
    noise_variance: float
    log_evidence: float
    cost_trace: Float[np.ndarray, " n_iter_plus_1"] = dataclasses.field(repr=False)
    is_monotone: bool
    largest_rise: float
    noise_is_at_floor: bool
    converged: bool
    n_iter: int
    _root: Inexact[np.ndarray, "r k"] = dataclasses.field(repr=False)
    _is_deficit: bool = dataclasses.field(repr=False)

    @property
    def support(self) -> Int[np.ndarray, " k"]:
        """Indices of the columns in the model, those with positive gamma."""
        return np.flatnonzero(self.gammas)

    def variance_of(self, rows: Inexact[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        """Posterior variance of `rows @ coefficients`, without noise."""
        rows = np.asarray(rows)[:, self.support]
        spread = squares(self._root @ rows.conj().T)
        if not self._is_deficit:
            return spread
        return np.maximum(abs(rows) ** 2 @ self.gammas[self.support] - spread, 0.0)


def sparse_bayes(
    dictionary: Num[ArrayLike, "n p"],
    y: Num[ArrayLike, " n"],
    *,
    update: Update = "fast",
    noise_variance: float | None = None,
    tolerance: float | None = None,
    max_iter: int = 150,
    prune: float = 0.0,
) -> SparsePosterior:
    """Fit `y = dictionary x + noise` with `x_j ~ N(0, gamma_j)`, the gammas by maximum evidence.

    Complex data get circular complex Gaussians. The evidence has many local maxima, and the updates may end in
    different ones.

    Args:
        dictionary: shape (n, p), no zero columns.
        y: shape (n,), not zero.
        update: "fast" adds and removes columns one gain at a time, "em" and "mm" update all of them and never raise
            the cost, "mackay" does so faster without that promise.
        noise_variance: sigma^2, positive; None learns it.
        tolerance: stop when an iteration changes gammas and noise variance by less than this share (default 1e-4);
            for "fast", when it lowers the cost by less than this (default 1e-6).
        max_iter: most iterations.
        prune: drop a column when its gamma falls below this share of the largest, in [0, 1); 0 keeps all, which the
            promise of a cost that never rises needs. "fast" does not use it.

    Returns:
        A `SparsePosterior`. Stopping at `max_iter` is reported there.

    Raises:
        ValueError: an argument is out of range, a shape does not fit, a value is NaN or infinite, y or a column is
            zero.
        TypeError: entries are not numbers.
        FloatingPointError: a covariance is singular in double precision.

    Source: Tipping (2001), Sparse Bayesian learning and the relevance vector machine; Tipping & Faul (2003), Fast
    marginal likelihood maximisation for sparse Bayesian models.

    >>> rng = np.random.default_rng(0)
    >>> columns = rng.normal(size=(40, 100))
    >>> found = sparse_bayes(columns, columns[:, [3, 50]] @ [1.0, -2.0], noise_variance=1e-6)
    >>> found.mean[[3, 50]].round(3)
    array([ 1., -2.])
    """
    if update not in get_args(Update):
        raise ValueError(f"update must be one of {', '.join(map(repr, get_args(Update)))}, got {update!r}")
    if not (isinstance(prune, (int, float)) and 0 <= prune < 1):
        raise ValueError(f"prune must be a number in [0, 1), got {prune!r}")
    problem = regression_problem(dictionary, y)
    noise = check_noise_variance(noise_variance, problem.mean_square)
    try:
        return _posterior(problem, _run(problem, update, noise, tolerance, max_iter, prune), noise is None)
    except np.linalg.LinAlgError as error:
        raise FloatingPointError(
            f"a covariance is singular in double precision ({error}); is noise_variance={noise_variance!r} too small?"
        ) from error


def _run(
    problem: RegressionProblem,
    update: Update,
    noise: float | None,
    tolerance: float | None,
    max_iter: int,
    prune: float,
) -> EvidenceRun[DenseState] | EvidenceRun[FastState]:
    if update == "fast":
        learner = FastMarginalLikelihood(problem, noise)
        least = 1e-6 if tolerance is None else tolerance
        return maximise_evidence(learner.start(), learner.step, tolerance=least, max_iter=max_iter, cost=learner.cost)

    def step(state: DenseState) -> Step[DenseState]:
        return dense_step(state, update, noise is None)

    return maximise_evidence(
        dense_start(problem, noise),
        step,
        tolerance=1e-4 if tolerance is None else tolerance,
        max_iter=max_iter,
        prune=(lambda state: prune_dense(state, prune)) if prune else None,
    )


def _posterior(
    problem: RegressionProblem, run: EvidenceRun[DenseState] | EvidenceRun[FastState], learned: bool
) -> SparsePosterior:
    state, p, n = run.state, problem.dictionary.shape[1], problem.n_rows
    positive = state.gammas > 0
    active, gammas, noise = state.active[positive], state.gammas[positive], state.noise_variance
    columns = problem.dictionary[:, active] * np.sqrt(gammas)
    is_deficit = len(columns) < len(active)
    # The smaller of I + G^H G / sigma^2 and I + G G^H / sigma^2, with G the scaled columns.
    gram = (columns @ columns.conj().T if is_deficit else columns.conj().T @ columns) / noise
    gram[np.diag_indices(len(gram))] += 1.0
    half = triangular_inverse(np.linalg.cholesky(gram))
    if is_deficit:
        root = half @ columns * np.sqrt(gammas / noise)
        mean = np.sqrt(gammas) * (columns.conj().T @ (half.conj().T @ (half @ problem.y))) / noise
        variance = gammas * np.maximum(1 - squares(root) / gammas, noise / (noise + squares(columns)))
    else:
        root = half * np.sqrt(gammas)
        mean = root.conj().T @ (half @ (columns.conj().T @ problem.y)) / noise
        variance = squares(root)
    constant = math.pi if problem.is_complex else 2 * math.pi
    log_evidence = -(run.cost + n * math.log(constant)) / (1 if problem.is_complex else 2)
    return SparsePosterior(
        mean=_spread(mean, active, p),
        variance=_spread(variance, active, p),
        gammas=_spread(gammas, active, p),
        noise_variance=noise,
        log_evidence=log_evidence,
        cost_trace=run.cost_trace,
        is_monotone=run.is_monotone,
        largest_rise=run.largest_rise,
        noise_is_at_floor=learned and noise <= problem.noise_floor,
        converged=run.converged,
        n_iter=run.n_iter,
        _root=root,
        _is_deficit=is_deficit,
    )


def _spread(values: Inexact[np.ndarray, " k"], active: Int[np.ndarray, " k"], p: int) -> Inexact[np.ndarray, " p"]:
    full = np.zeros(p, values.dtype)
    full[active] = values
    return full
