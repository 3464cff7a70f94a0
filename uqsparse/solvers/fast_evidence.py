"""Fast marginal likelihood maximisation: columns enter and leave the model one gain in evidence at a time.

All gammas but one fixed, the cost `log det C + y^H C^-1 y` has a closed-form minimum in that one (Tipping & Faul,
2003), which is zero for most columns; so only the k columns in the model need matrices. Two things are added, each of
which is accepted only if the cost falls.

- Moves are made in batches: all those whose gain is a fair share of the best one's, halved until the batch together
  gains at least half of what its best move alone would gain. A batch of one is the move of the paper.
- Between batches the gammas in the model and a learned noise variance take a Newton step.

It stops where neither a move nor a Newton step gains more than the tolerance.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float, Inexact, Int

from uqsparse.solvers.evidence import Step
from uqsparse.solvers.regression_problem import RegressionProblem, squares, triangular_inverse

# A move joins a batch if its gain is this share of the best one's.
_SHARE = 0.12
# Longest Newton step in a logarithm.
_LONGEST = 3.0
# A column whose gamma would shrink below this share of what it was leaves.
_GONE = 1e-6
# Least share of a coefficient that counts as determined by the data; divides.
_DETERMINED = 1e-12


class FastState(NamedTuple):
    """The model: columns with positive gamma, and the noise variance.

    Args:
        active: indices of the columns in the model, increasing, shape (k,).
        gammas: their prior variances, shape (k,).
        noise_variance: sigma^2.
        share: share of the candidate moves that the next batch starts with, in (0, 1].
    """

    active: Int[np.ndarray, " k"]
    gammas: Float[np.ndarray, " k"]
    noise_variance: float
    share: float = 1.0


class _Point(NamedTuple):
    """A model and what its cost took; the scaled matrix is I + Gamma^1/2 H^H H Gamma^1/2 / sigma^2."""

    state: FastState
    scale: Float[np.ndarray, " k"]  # square roots of the gammas
    root: Inexact[np.ndarray, "k k"]  # lower Cholesky factor of the scaled matrix
    whitened: Inexact[np.ndarray, " k"]  # posterior mean over `scale`
    residual: float  # |y - H mean|^2 over all rows
    cost: float


class FastMarginalLikelihood:
    """One problem's cached inner products, and the update that `maximise_evidence` repeats.

    Args:
        problem: the regression.
        noise_variance: known sigma^2, or None to learn it.
        least_gain: fall of the cost below which a move is not taken, positive.

    Source: Tipping & Faul (2003), Fast marginal likelihood maximisation for sparse Bayesian models, eqs. 18 to 24.
    """

    def __init__(self, problem: RegressionProblem, noise_variance: float | None, least_gain: float = 1e-6):
        self._problem, self._learns_noise, self._least_gain = problem, noise_variance is None, least_gain
        self._rows = np.ascontiguousarray(problem.dictionary.conj().T)  # h_j^H, one a row
        self._size = squares(problem.dictionary)
        self._correlation = self._rows @ problem.y
        self._gram = _GramRows(self._rows, problem.dictionary)
        self._noise = 0.1 * problem.mean_square if noise_variance is None else noise_variance
        self._last: _Point | None = None

    def start(self) -> FastState:
        """The column that explains y best, alone."""
        fit = abs(self._correlation) ** 2 / self._size
        best = int(fit.argmax())
        # its own optimum, or a little where no column pays at this noise level
        gamma = max(fit[best] - self._noise, 1e-3 * self._noise) / self._size[best]
        return FastState(np.array([best]), np.array([gamma]), self._noise)

    def cost(self, state: FastState) -> float:
        """`log det C + y^H C^-1 y` at a state."""
        return self._seen(state).cost

    def step(self, state: FastState) -> Step[FastState]:
        """A batch of moves and a Newton step; `change` is what they gained."""
        before = self._seen(state)
        point = self._newton(self._moves(before))
        self._last = point
        return Step(before.cost, point.state, before.cost - point.cost)

    def _seen(self, state: FastState) -> _Point:
        return self._last if self._last is not None and self._last.state is state else self._evaluate(state)

    def _evaluate(self, state: FastState) -> _Point:
        problem, noise = self._problem, state.noise_variance
        scale = np.sqrt(state.gammas)
        scaled = self._gram.block(state.active) * (scale[:, None] * (scale / noise))
        scaled[np.diag_indices(len(scale))] += 1.0
        root = scipy.linalg.cholesky(scaled, lower=True, check_finite=False, overwrite_a=True)
        whitened = scipy.linalg.cho_solve(
            (root, True), scale * self._correlation[state.active] / noise, check_finite=False
        )
        left = problem.y - ((scale * whitened).conj() @ self._rows[state.active]).conj()
        residual = float(np.vdot(left, left).real) + problem.energy
        cost = (
            problem.n_rows * np.log(noise)
            + 2 * np.log(np.real(np.diag(root))).sum()
            + residual / noise
            + float(np.vdot(whitened, whitened).real)
        )
        return _Point(state, scale, root, whitened, residual, float(cost))

    def _moves(self, point: _Point) -> _Point:
        """The best add, re-estimate or delete, and others beside it."""
        state = point.state
        s, q = self._cavity(point)
        wanted = np.maximum(q - s, 0.0) / s**2
        present = np.zeros_like(s)
        present[state.active] = state.gammas
        gain = _single_cost(present, s, q) - _single_cost(wanted, s, q)
        best = float(gain.max())
        if not best > self._least_gain:
            return point
        # A column that wants to leave does so however little that gains: Newton steps are shorter without it.
        order = np.flatnonzero((gain >= _SHARE * best) | ((present > 0) & (wanted == 0)))
        order = order[np.argsort(-gain[order])]
        size = max(1, int(np.ceil(state.share * len(order))))
        while True:
            changed = present.copy()
            changed[order[:size]] = wanted[order[:size]]
            active = np.flatnonzero(changed)
            share = min(1.0, 2 * size / len(order))
            tried = self._evaluate(FastState(active, changed[active], state.noise_variance, share))
            if tried.cost <= point.cost - 0.5 * best:
                return tried
            if size == 1:  # exact in theory: what is missing is rounding
                return tried if tried.cost < point.cost else point
            size = max(1, size // 4)

    def _cavity(self, point: _Point) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
        """s_j = h_j^H C_-j^-1 h_j and |q_j|^2 = |h_j^H C_-j^-1 y|^2, with column j taken out of C."""
        active, gammas, noise = point.state.active, point.state.gammas, point.state.noise_variance
        inverse_root = triangular_inverse(point.root)
        gram = self._gram.of(active)
        mean = point.scale * point.whitened
        q = abs(self._correlation - (mean.conj() @ gram).conj()) ** 2 / noise**2
        s = self._size / noise - squares(_triangular_product(inverse_root, gram * (point.scale / noise)[:, None]))
        s = np.maximum(s, np.finfo(float).eps * self._size / noise)
        # Columns of the model: what is left of the prior variance tells more precisely where it is little.
        left = squares(inverse_root)
        s[active] = np.where(left < 0.5, (1 - left) / gammas, s[active]) / left
        q[active] = abs(point.whitened) ** 2 / (gammas * left**2)
        return s, q

    def _newton(self, point: _Point) -> _Point:
        """A Newton step in the model's gammas and the noise variance, or none if none gains.

        Coordinates are phi_j = log(1 + gamma_j s_j), in which the cost of one column is phi + q/s exp(-phi), a convex
        function, and the log noise variance. A column whose phi would be negative leaves.
        """
        state, k = point.state, len(point.scale)
        if not (k or self._learns_noise):
            return point
        inverse_root = triangular_inverse(point.root)
        inverse = inverse_root.conj().T @ inverse_root
        left = np.real(np.diag(inverse))  # 1 / (1 + gamma_j s_j)
        step = self._newton_direction(point, inverse)
        for _ in range(4):
            # gamma = (exp(phi) - 1) / s, and gamma s = (1 - left) / left
            ratio = (np.exp(step[:k] - np.log(left)) - 1) * left / np.maximum(1 - left, _DETERMINED)
            kept = ratio > _GONE
            noise = state.noise_variance
            if self._learns_noise:
                noise = max(noise * float(np.exp(step[k])), self._problem.noise_floor)
            tried = self._evaluate(
                state._replace(
                    active=state.active if kept.all() else state.active[kept],
                    gammas=(state.gammas * ratio)[kept],
                    noise_variance=noise,
                )
            )
            if tried.cost < point.cost:
                return tried
            step /= 4
        return point

    def _newton_direction(self, point: _Point, inverse: Inexact[np.ndarray, "k k"]) -> Float[np.ndarray, " k_or_more"]:
        k, noise, white = len(point.scale), point.state.noise_variance, point.whitened
        left = np.real(np.diag(inverse))
        share = -inverse  # Gamma^1/2 H^H C^-1 H Gamma^1/2
        share[np.diag_indices(k)] += 1.0
        size = np.maximum(np.real(np.diag(share)), _DETERMINED)
        gradient = 1 - abs(white) ** 2 / size
        curvature = (2 * np.real(white.conj()[:, None] * share * white) - abs(share) ** 2) / (size[:, None] * size)
        curvature[np.diag_indices(k)] += gradient
        if self._learns_noise:
            square = squares(inverse)  # diagonal of the inverse's square
            pulled = inverse @ white
            free, misfit = self._problem.n_rows - k, point.residual / noise
            slope = free + left.sum() - misfit
            bend = slope - free - square.sum() + 2 * (misfit - float(np.vdot(white, pulled).real))
            cross = (2 * np.real(white.conj() * pulled) - left + square) / size
            curvature = np.block([[curvature, cross[:, None]], [cross[None, :], np.array([[bend]])]])
            gradient = np.append(gradient, slope)
        diagonal = abs(np.diag(curvature)) + 1e-3
        for damping in (1e-9, 0.1, 1.0, 10.0):
            try:
                factor = scipy.linalg.cho_factor(curvature + np.diag(damping * diagonal), check_finite=False)
            except np.linalg.LinAlgError:
                continue
            step = -np.asarray(scipy.linalg.cho_solve(factor, gradient, check_finite=False))
            return np.clip(step, -_LONGEST, _LONGEST)
        return np.clip(-gradient / diagonal, -_LONGEST, _LONGEST)


class _GramRows:
    """Rows of H^H H, each computed once, when its column first enters the model."""

    def __init__(self, rows: Inexact[np.ndarray, "p m"], dictionary: Inexact[np.ndarray, "m p"]):
        self._factors = rows, dictionary
        self._place = np.full(len(rows), -1)
        self._rows = np.empty((16, len(rows)), rows.dtype)
        self._used = 0
        self._last: tuple[Int[np.ndarray, " k"], Inexact[np.ndarray, "k k"]] | None = None

    def of(self, columns: Int[np.ndarray, " k"]) -> Inexact[np.ndarray, "k p"]:
        """The rows of these columns."""
        self._fill(columns)
        return self._rows[self._place[columns]]

    def block(self, columns: Int[np.ndarray, " k"]) -> Inexact[np.ndarray, "k k"]:
        """Inner products among these columns."""
        if self._last is None or self._last[0] is not columns:
            self._fill(columns)
            self._last = columns, self._rows[self._place[columns][:, None], columns]
        return self._last[1]

    def _fill(self, columns: Int[np.ndarray, " k"]) -> None:
        rows, dictionary = self._factors
        missing = columns[self._place[columns] < 0]
        if missing.size:
            end = self._used + missing.size
            if end > len(self._rows):
                grown = np.empty((max(end, 2 * len(self._rows)), self._rows.shape[1]), self._rows.dtype)
                grown[: self._used] = self._rows[: self._used]
                self._rows = grown
            self._rows[self._used : end] = rows[missing] @ dictionary
            self._place[missing] = np.arange(self._used, end)
            self._used = end


def _single_cost(
    gamma: Float[np.ndarray, " p"], s: Float[np.ndarray, " p"], q: Float[np.ndarray, " p"]
) -> Float[np.ndarray, " p"]:
    """The part of the cost that one gamma adds, all others fixed; q is |q_j|^2."""
    return np.log1p(gamma * s) - gamma * q / (1 + gamma * s)


def _triangular_product(
    lower: Inexact[np.ndarray, "k k"], rows: Inexact[np.ndarray, "k p"]
) -> Inexact[np.ndarray, "k p"]:
    """`lower @ rows`, where the first is lower triangular, in half the time. Overwrites `rows`."""
    if not rows.size:
        return rows
    multiply: Any = scipy.linalg.get_blas_funcs(("trmm",), (lower, rows))[0]
    return multiply(1.0, lower, rows.T, side=1, lower=1, trans_a=1, overwrite_b=1).T
