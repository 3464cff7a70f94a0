"""Updates of all hyper-parameters of sparse Bayesian learning at once: EM, MacKay's fixed point, and MM.

All three look at the same posterior. With `C = sigma^2 I + H Gamma H^H`, `q = H^H C^-1 y` and `s_j = h_j^H C^-1 h_j`,
the posterior mean is `gamma q` and its variances are `gamma (1 - gamma s)`.
"""

from typing import Literal, NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float, Inexact, Int

from uqsparse.solvers.evidence import Step, relative_change
from uqsparse.solvers.regression_problem import RegressionProblem, restricted, squares

DenseUpdate = Literal["em", "mackay", "mm"]


class DenseState(NamedTuple):
    """Hyper-parameters of the columns that are kept.

    Args:
        active: indices of these columns, increasing, shape (k,).
        problem: the regression on them.
        gammas: their prior variances, shape (k,).
        noise_variance: sigma^2.
    """

    active: Int[np.ndarray, " k"]
    problem: RegressionProblem
    gammas: Float[np.ndarray, " k"]
    noise_variance: float


class _Expectations(NamedTuple):
    cost: float
    q: Inexact[np.ndarray, " k"]  # h_j^H C^-1 y
    s: Float[np.ndarray, " k"]  # h_j^H C^-1 h_j
    variance: Float[np.ndarray, " k"]  # posterior variances
    residual: float  # |y - H mean|^2
    free: float  # sigma^2 tr C^-1: rows less the number of coefficients that the data determine


def dense_start(problem: RegressionProblem, noise_variance: float | None) -> DenseState:
    """Equal gammas under which the signal would be as large as y, and a tenth of that as noise if it is learned."""
    p = problem.dictionary.shape[1]
    gamma = problem.n_rows * problem.mean_square / squares(problem.dictionary).sum()
    noise = 0.1 * problem.mean_square if noise_variance is None else noise_variance
    return DenseState(np.arange(p), problem, np.full(p, gamma), noise)


def dense_step(state: DenseState, update: DenseUpdate, learn_noise: bool) -> Step[DenseState]:
    """One update of all gammas, and of the noise variance.

    Args:
        state: where to start.
        update: "em" and "mm" never raise the cost; "mackay" is faster and may.
        learn_noise: whether the noise variance is updated too.

    Source: EM and the fixed point: Tipping (2001), Sparse Bayesian learning and the relevance vector machine, eqs. 16
    to 18; MM: Wipf & Nagarajan (2007), A new view of automatic relevance determination.
    """
    seen = _expectations(state)
    gammas, noise = state.gammas, state.noise_variance
    determined = gammas * seen.s  # how much of each coefficient the data determine, in [0, 1]
    size = gammas**2 * abs(seen.q) ** 2  # |mean|^2
    if update == "em":
        new = size + seen.variance
        new_noise = (seen.residual + noise * determined.sum()) / state.problem.n_rows
    elif update == "mackay":
        new = gammas * abs(seen.q) ** 2 / seen.s
        new_noise = seen.residual / seen.free
    else:
        new = np.sqrt(size / seen.s)
        new_noise = np.sqrt(seen.residual * noise / seen.free)
    new_noise = max(float(new_noise), state.problem.noise_floor) if learn_noise else noise
    change = max(relative_change(gammas, new), abs(new_noise - noise) / noise)
    return Step(seen.cost, state._replace(gammas=new, noise_variance=new_noise), change)


def prune_dense(state: DenseState, threshold: float) -> DenseState:
    """Drop the columns whose gamma is below this share of the largest."""
    kept = np.flatnonzero(state.gammas >= threshold * state.gammas.max())
    if len(kept) == len(state.gammas):
        return state
    return DenseState(state.active[kept], restricted(state.problem, kept), state.gammas[kept], state.noise_variance)


def _expectations(state: DenseState) -> _Expectations:
    problem, gammas, noise = state.problem, state.gammas, state.noise_variance
    columns = problem.dictionary
    m = len(columns)
    scaled = columns * np.sqrt(gammas)
    covariance = scaled @ scaled.conj().T
    covariance[np.diag_indices(m)] += noise
    root = scipy.linalg.cholesky(covariance, lower=True, check_finite=False, overwrite_a=True)
    whitened = scipy.linalg.solve_triangular(
        root, np.column_stack([columns, problem.y]), lower=True, check_finite=False
    )
    directions, target = whitened[:, :-1], whitened[:, -1]
    s = squares(directions)
    left = noise * scipy.linalg.solve_triangular(root, target, lower=True, trans=2, check_finite=False)
    determined = gammas * s
    # Exact bounds that rounding must not undercut: as if all other coefficients were known, or all signal in one row.
    size = gammas * squares(columns)
    floor = noise / (noise + size)
    least_free = problem.n_rows * noise / (noise + float(size.sum()))
    return _Expectations(
        cost=float(
            2 * np.log(np.real(np.diag(root))).sum()
            + (problem.n_rows - m) * np.log(noise)
            + float(np.vdot(target, target).real)
            + problem.energy / noise
        ),
        q=directions.conj().T @ target,
        s=s,
        variance=gammas * np.maximum(1 - determined, floor),
        residual=float(np.vdot(left, left).real) + problem.energy,
        free=max(problem.n_rows - float(np.minimum(determined, 1 - floor).sum()), least_free),
    )
