"""What Kronecker-structured sparse Bayesian learning returns: a posterior to look at and to draw from."""

import dataclasses
import math

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.kronecker import KroneckerOperator, kronecker_vector
from uqsparse.solvers.kronecker_evidence import decompose, posterior_mean


@dataclasses.dataclass(frozen=True)
class KroneckerSBLResult:
    """A Gaussian posterior of the coefficients, and the hyper-parameters that maximise the evidence.

    Args:
        mean: posterior mean, shape (N,), real or complex; `mean.reshape(shape)` has an axis for each mode.
        variance: posterior variance of each coefficient (of a complex one, E|x - mean|^2), shape (N,).
        gammas: prior variances of each mode, (N_i,); their Kronecker product is the prior variance. All but the last
            have norm 1 (before pruning). Pruned indices have 0.
        noise_variance: given or learned.
        shape: (N_1, ..., N_I).
        log_evidence: log marginal likelihood of y at these hyper-parameters.
        cost_trace: minus twice the log evidence (real) or minus the log evidence (complex), up to a constant, at the
            start and after every iteration, (n_iter + 1,).
        largest_rise: largest rise of the cost in one iteration, as a share of its size. Without pruning and without
            blocks all updates but "svd" have none but rounding.
        is_monotone: whether the cost never rose by more than rounding.
        noise_is_at_floor: whether the learned noise variance ended at the smallest value allowed, 1e-10 of the mean
            |y|^2: the dictionary explains y exactly, and the evidence has no maximum.
        converged: whether the variances settled.
        n_iter: number of iterations.
    """

    mean: Shaped[np.ndarray, " N"]
    variance: Float[np.ndarray, " N"]
    gammas: tuple[Float[np.ndarray, " N_i"], ...]
    noise_variance: float
    shape: tuple[int, ...]
    log_evidence: float
    cost_trace: Float[np.ndarray, " n_iter_plus_1"] = dataclasses.field(repr=False)
    largest_rise: float
    is_monotone: bool
    noise_is_at_floor: bool
    converged: bool
    n_iter: int
    _operator: KroneckerOperator = dataclasses.field(repr=False)
    _y: Shaped[np.ndarray, " M"] = dataclasses.field(repr=False)

    def support(self, threshold: float = 1e-3) -> Int[np.ndarray, " k"]:
        """Indices whose mean exceeds a share of the largest one in absolute value, increasing.

        Args:
            threshold: the share, in [0, 1).
        """
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must lie in [0, 1), got {threshold!r}")
        size = abs(self.mean)
        return np.flatnonzero(size > threshold * size.max(initial=0.0))

    def sample(self, key: Array, n: int) -> Shaped[np.ndarray, "n N"]:
        """Independent draws from the posterior, exact, by solving for perturbed observations.

        A draw x0 of the prior with its own noisy y0 is moved by what the model infers from y - y0. Takes O(n (M + N))
        memory: ask for draws in several calls, with several keys, where that is too much.

        Args:
            key: random key, typed or legacy.
            n: number of draws, at least 1.

        Returns:
            Shape (n, N). Pruned coefficients are 0.

        Source: Papandreou & Yuille (2010), Gaussian sampling by local perturbations.
        """
        require_count("n", n, 1)
        complex_valued = np.iscomplexobj(self.mean)
        prior_key, noise_key = jax.random.split(key)
        scale = np.sqrt(kronecker_vector(self.gammas))
        x = scale * _standard_normal(prior_key, (n, scale.size), complex_valued)
        noise = _standard_normal(noise_key, (n, self._y.size), complex_valued)
        y = self._operator.matvec(x) + math.sqrt(self.noise_variance) * noise
        return x + posterior_mean(decompose(self._operator, self.gammas, self.noise_variance), self._y - y)


def _standard_normal(key: Array, shape: tuple[int, ...], complex_valued: bool) -> np.ndarray:
    """Normal draws with E|z|^2 = 1, circular if complex."""
    with jax.enable_x64(True):
        if not complex_valued:
            return np.asarray(jax.random.normal(key, shape, np.float64))
        parts = np.asarray(jax.random.normal(key, (2, *shape), np.float64))
    return (parts[0] + 1j * parts[1]) / math.sqrt(2)
