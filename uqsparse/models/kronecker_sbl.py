"""Sparse Bayesian learning with a Kronecker dictionary and a support that is a Kronecker product too."""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.kronecker import KroneckerOperator, kronecker_vector
from uqsparse.models.kronecker_sbl_result import KroneckerSBLResult
from uqsparse.solvers.evidence import EvidenceRun, Step, maximise_evidence, relative_change
from uqsparse.solvers.kronecker_evidence import (
    KroneckerModel,
    KroneckerPosterior,
    decompose,
    determined_shares,
    kronecker_posterior,
)
from uqsparse.solvers.kronecker_variances import (
    alternating_variances,
    balanced,
    majorised_variances,
    nearest_kronecker_variances,
    neighbour_coupling,
)
from uqsparse.solvers.regression_problem import NOISE_FLOOR, check_noise_variance

Update = Literal["am", "svd", "sweep", "mm"]
Field = Literal["auto", "real", "complex"]

# Share of a mode's largest variance below which an index is dropped if `prune=True`, as in the source's experiments.
_THRESHOLDS = {"am": 1e-2, "sweep": 1e-2, "svd": 1e-3, "mm": 1e-3}
_COUPLED_THRESHOLD, _BESIDE_COUPLED_THRESHOLD = 1e-2, 1e-1
# Cycles of an M-step with coupled modes, which has no minimum to reach.
_COUPLED_CYCLES = 10
# A learned noise variance starts at this share of the mean |y|^2.
_FIRST_NOISE = 0.1


class _State(NamedTuple):
    """Hyper-parameters: variances of the indices that are kept, which these are, and the noise variance."""

    gammas: tuple[Float[np.ndarray, " kept_i"], ...]
    kept: tuple[Int[np.ndarray, " kept_i"], ...]
    noise_variance: float


@dataclasses.dataclass(frozen=True)
class KroneckerSBL:
    """Recover x from `y = (A_1 x ... x A_I) x + noise`, where the support of x is nearly a product of supports by mode.

    The prior is `x ~ N(0, diag(gamma_1 x ... x gamma_I))` (circular complex for complex data); the gammas, and the
    noise variance if it is not given, maximise the evidence. The dictionary is never formed: an iteration takes
    O(sum M_i^2 N_i + N sum N_i) time and O(M + N) memory.

    Args:
        update: "am" minimises the expected cost over one mode after the other to the end, an EM step, which never
            lowers the evidence. "sweep" does one cycle of that. "mm" minimises an upper bound of the cost instead;
            it never lowers the evidence either, and without pruning it needs far fewer iterations. "svd" takes a
            nearby Kronecker product of the second moments: fast, often ahead of the others where the values of x are
            a Kronecker product too, and the evidence may fall on the way.
        block: couples neighbours in the modes where nonzeros come in runs: {mode: strength beta}, in [0, 1], such as
            {0: 0.5}. Needs "am" or "sweep", and makes no promise about the evidence.
        prune: drop an index of a mode when its variance falls below this share of the mode's largest: a number in
            [0, 1), True for the thresholds of the source (1e-2, "svd" and "mm" 1e-3; with `block` 1e-2 in the coupled
            modes and 1e-1 in the others), or False. Fits faster, without the promise about the evidence. One index
            of each mode always stays.
        tolerance: stop when the variances, and a learned noise variance, change by a smaller share.
        max_iter: most iterations.
        inner_tolerance: relative accuracy of the variances in each M-step of "am".
        max_cycles: most cycles in each M-step of "am"; with `block` at most 10 are made.
        floor: what the variances of coupled modes are raised by, as a share of the mode's largest.
        field: "real" refuses complex data, "complex" treats real data as complex, "auto" follows the data.

    Source: He & Joseph (2024), Bayesian algorithms for Kronecker-structured sparse vector recovery with application
    to IRS-MIMO channel estimation, IEEE Transactions on Signal Processing: AM-KroSBL, SVD-KroSBL, PC-KroSBL.

    >>> rng = np.random.default_rng(0)
    >>> factors = [rng.normal(size=(6, 8)), rng.normal(size=(7, 8))]
    >>> x = np.zeros((8, 8))
    >>> x[np.ix_([1, 4], [2, 7])] = [[2.0, -1.0], [1.5, 3.0]]
    >>> fit = KroneckerSBL(update="mm").fit(np.kron(*factors) @ x.ravel(), factors, noise_variance=1e-4)
    >>> fit.support(0.1).tolist() == np.flatnonzero(x).tolist()
    True
    """

    update: Update = "am"
    block: Mapping[int, float] | None = None
    prune: bool | float = False
    tolerance: float = 1e-4
    max_iter: int = 150
    inner_tolerance: float = 1e-5
    max_cycles: int = 50
    floor: float = 1e-5
    field: Field = "auto"

    def __post_init__(self):
        if self.update not in get_args(Update):
            raise ValueError(f"update must be one of {', '.join(map(repr, get_args(Update)))}, got {self.update!r}")
        if self.field not in get_args(Field):
            raise ValueError(f"field must be one of {', '.join(map(repr, get_args(Field)))}, got {self.field!r}")
        for name in ("tolerance", "inner_tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)!r}")
        for name in ("max_iter", "max_cycles"):
            require_count(name, getattr(self, name), 1)
        if not 0 <= self.prune <= 1 or (self.prune == 1 and self.prune is not True):
            raise ValueError(f"prune must be True, False or a number in [0, 1), got {self.prune!r}")
        if not 0 <= self.floor < 1:
            raise ValueError(f"floor must lie in [0, 1), got {self.floor!r}")
        if self.block is None:
            return
        if self.update not in ("am", "sweep"):
            raise ValueError(f"block needs update='am' or 'sweep', got update={self.update!r}")
        for mode, beta in self.block.items():
            if not 0 <= beta <= 1:
                raise ValueError(f"block[{mode}] must lie in [0, 1], got {beta!r}")
            if beta > 0 and self.floor == 0:
                raise ValueError(f"floor must be positive where modes are coupled, got 0 with block[{mode}]={beta!r}")

    def fit(
        self,
        y: Shaped[Any, " M"],
        factors: Sequence[Shaped[Any, "M_i N_i"]] | KroneckerOperator,
        noise_variance: float | None = None,
    ) -> KroneckerSBLResult:
        """Maximise the evidence, and return the posterior.

        Args:
            y: observations, shape (M,), M = prod M_i; real or complex.
            factors: the dictionary's factors A_i, (M_i, N_i), real or complex; or the operator that holds them.
            noise_variance: variance of each entry of the noise (of a complex one, E|n|^2), positive; learned if left
                out.

        Returns:
            A `KroneckerSBLResult`. Reaching `max_iter` is reported there, with a warning.

        Raises:
            ValueError: an argument holds NaN or infinite values, the shapes do not fit, y or a column is zero, data
                are complex with `field="real"`, the noise variance is not positive, or `block` names no mode.
        """
        operator, y = self._checked_data(y, factors)
        power = float(np.mean(abs(y) ** 2))
        given = check_noise_variance(noise_variance, power)
        noise = _FIRST_NOISE * power if given is None else given
        floor = NOISE_FLOOR * power
        couplings = self._couplings(operator)

        def step(state: _State) -> Step[_State]:
            part = operator.restrict(state.kept)
            model = decompose(part, state.gammas, state.noise_variance)
            posterior = kronecker_posterior(model, y)
            used = {mode: coupling[np.ix_(state.kept[mode], state.kept[mode])] for mode, coupling in couplings.items()}
            gammas = self._next_variances(model, posterior, used)
            change = relative_change(kronecker_vector(state.gammas), kronecker_vector(gammas))
            noise = state.noise_variance
            if given is None:
                noise = max(self._next_noise(posterior, noise, y.size), floor)
                change = max(change, abs(noise / state.noise_variance - 1))
            return Step(float(posterior.cost), _State(gammas, state.kept, noise), change)

        run = maximise_evidence(
            _State(_first_variances(operator, power), tuple(map(np.arange, operator.column_shape)), noise),
            step,
            tolerance=self.tolerance,
            max_iter=self.max_iter,
            prune=self._prune if self.prune else None,
        )
        if not run.converged:
            warnings.warn(
                f"KroneckerSBL has not settled after {run.n_iter} iterations: the last one changed the variances by "
                f"{run.change:.2g}, tolerance {self.tolerance:g}. More max_iter may help, or 'mm', or prune=True.",
                RuntimeWarning,
                stacklevel=2,
            )
        return _result(operator, y, run, given is None and run.state.noise_variance <= floor)

    def _checked_data(self, y: Any, factors: Any) -> tuple[KroneckerOperator, np.ndarray]:
        given = factors.factors if isinstance(factors, KroneckerOperator) else factors
        if isinstance(given, np.ndarray | jax.Array) or not isinstance(given, Sequence) or not given:
            raise ValueError(f"factors must be a sequence of matrices, got {type(given).__name__}")
        arrays = [_finite(f"factors[{mode}]", factor, 2) for mode, factor in enumerate(given)]
        y = _finite("y", y, 1)
        for mode, factor in enumerate(arrays):
            if not factor.size:
                raise ValueError(f"factors[{mode}] must have rows and columns, got shape {factor.shape}")
            if (empty := np.flatnonzero(~factor.any(axis=0))).size:
                raise ValueError(f"factors[{mode}] must have no zero column, got {empty.size}, first {empty[0]}")
        n_rows = math.prod(len(factor) for factor in arrays)
        if y.size != n_rows:
            sizes = " x ".join(str(len(factor)) for factor in arrays)
            raise ValueError(f"y must have {n_rows} entries ({sizes} rows of the factors), got {y.size}")
        if not y.any():
            raise ValueError("y must not be zero throughout: nothing can be learned from it")
        complex_valued = any(np.iscomplexobj(array) for array in [y, *arrays])
        if self.field == "real" and complex_valued:
            name = "y" if np.iscomplexobj(y) else "factors"
            raise ValueError(f"{name} must be real with field='real', got complex numbers")
        dtype = np.complex128 if complex_valued or self.field == "complex" else np.float64
        return KroneckerOperator(tuple(array.astype(dtype) for array in arrays)), y.astype(dtype)

    def _couplings(self, operator: KroneckerOperator) -> dict[int, np.ndarray]:
        couplings = {}
        for mode, beta in (self.block or {}).items():
            if mode not in range(len(operator.factors)):
                raise ValueError(f"block must name modes in [0, {len(operator.factors)}), got {mode!r}")
            couplings[int(mode)] = neighbour_coupling(operator.column_shape[mode], beta)
        return couplings

    def _next_variances(
        self, model: KroneckerModel, posterior: KroneckerPosterior, couplings: dict[int, np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        gammas = model.gammas
        shape = [gamma.size for gamma in gammas]
        if self.update == "svd":
            second_moment = posterior.variance + abs(posterior.mean) ** 2
            return nearest_kronecker_variances(second_moment.reshape(shape))
        if self.update == "mm":
            determined = determined_shares(model).reshape(shape)
            return majorised_variances(posterior.mean_ratio.reshape(shape), determined, gammas).gammas
        cycles = 1 if self.update == "sweep" else self.max_cycles
        return alternating_variances(
            posterior.moment_ratio.reshape(shape),
            gammas,
            tolerance=self.inner_tolerance,
            max_cycles=min(cycles, _COUPLED_CYCLES) if couplings else cycles,
            couplings=couplings,
            floor=self.floor,
        ).gammas

    def _next_noise(self, posterior: KroneckerPosterior, noise_variance: float, n: int) -> float:
        if self.update == "mm":
            # the same upper bound, minimised over the noise variance
            return math.sqrt(float(posterior.residual / posterior.precision))
        return float(posterior.residual + noise_variance * posterior.effective) / n

    def _prune(self, state: _State) -> _State:
        gammas, kept = [], []
        for mode, (gamma, indices) in enumerate(zip(state.gammas, state.kept, strict=True)):
            threshold = float(self.prune)
            if self.prune is True:
                threshold = _THRESHOLDS[self.update]
                if self.block:
                    threshold = _COUPLED_THRESHOLD if mode in self.block else _BESIDE_COUPLED_THRESHOLD
            # the largest always stays
            stays = gamma >= threshold * gamma.max()
            gammas.append(gamma[stays])
            kept.append(indices[stays])
        return _State(tuple(gammas), tuple(kept), state.noise_variance)


def _first_variances(operator: KroneckerOperator, power: float) -> tuple[np.ndarray, ...]:
    """Equal variances under which the signal has the power of y."""
    square_norm = math.prod(float(np.linalg.norm(factor)) ** 2 for factor in operator.factors)
    flat = [np.ones(n) for n in operator.column_shape]
    flat[-1] *= operator.shape[0] / square_norm * power
    return balanced(flat)


def _result(
    operator: KroneckerOperator, y: np.ndarray, run: EvidenceRun[_State], noise_is_at_floor: bool
) -> KroneckerSBLResult:
    """The posterior at the last hyper-parameters, with pruned coefficients back in their places as zeros."""
    state = run.state
    posterior = kronecker_posterior(decompose(operator.restrict(state.kept), state.gammas, state.noise_variance), y)
    places = np.ix_(*state.kept)
    mean, variance = np.zeros(operator.column_shape, y.dtype), np.zeros(operator.column_shape)
    mean[places] = posterior.mean.reshape([indices.size for indices in state.kept])
    variance[places] = posterior.variance.reshape([indices.size for indices in state.kept])
    gammas = tuple(np.zeros(n) for n in operator.column_shape)
    for full, gamma, indices in zip(gammas, state.gammas, state.kept, strict=True):
        full[indices] = gamma
    if np.iscomplexobj(y):
        log_evidence = -(y.size * math.log(math.pi) + run.cost)
    else:
        log_evidence = -0.5 * (y.size * math.log(2 * math.pi) + run.cost)
    return KroneckerSBLResult(
        mean=mean.ravel(),
        variance=variance.ravel(),
        gammas=gammas,
        noise_variance=state.noise_variance,
        shape=operator.column_shape,
        log_evidence=log_evidence,
        cost_trace=run.cost_trace,
        largest_rise=run.largest_rise,
        is_monotone=run.is_monotone,
        noise_is_at_floor=noise_is_at_floor,
        converged=run.converged,
        n_iter=run.n_iter,
        _operator=operator,
        _y=y,
    )


def _finite(name: str, array: Any, n_axes: int) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "fiubc":
        raise ValueError(f"{name} must hold numbers, got dtype {array.dtype}")
    if array.ndim != n_axes:
        raise ValueError(f"{name} must have {n_axes} {'axis' if n_axes == 1 else 'axes'}, got shape {array.shape}")
    if bad := np.count_nonzero(~np.isfinite(array)):
        raise ValueError(f"{name} must be finite, got {bad} values that are NaN or infinite")
    return array
