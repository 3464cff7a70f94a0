"""What Kronecker-structured sparse Bayesian learning is compared with: pursuits, the Lasso, least squares, plain SBL.

All take complex data. Those that need to know something that nobody knows (the support, or which penalty errs least)
are called oracles.
"""

from collections.abc import Sequence

import numpy as np

from uqsparse.kernels.kronecker import KroneckerOperator
from uqsparse.kernels.thresholding import soft_threshold
from uqsparse.solvers.sparse_bayes import sparse_bayes


def minimum_norm(H: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The least squares solution of least norm."""
    return np.linalg.lstsq(H, y, rcond=None)[0]


def oracle_least_squares(H: np.ndarray, y: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Least squares on the true support."""
    x = np.zeros(H.shape[1], H.dtype)
    x[support] = minimum_norm(H[:, support], y)
    return x


def matching_pursuit(H: np.ndarray, y: np.ndarray, noise_variance: float) -> np.ndarray:
    """Orthogonal matching pursuit on normalised columns, until the residual is as large as the noise.

    Source: Pati, Rezaiifar & Krishnaprasad (1993), Orthogonal matching pursuit.
    """
    norms = np.linalg.norm(H, axis=0)
    chosen: list[int] = []
    basis = np.zeros((len(y), 0), H.dtype)
    residual = y
    while len(chosen) < min(H.shape) and np.linalg.norm(residual) > np.sqrt(noise_variance * len(y)):
        score = abs(H.conj().T @ residual) / norms
        score[chosen] = -1.0
        chosen.append(int(np.argmax(score)))
        new = H[:, chosen[-1]]
        for _ in range(2):
            new = new - basis @ (basis.conj().T @ new)
        if (length := np.linalg.norm(new)) < 1e-10 * norms[chosen[-1]]:
            chosen.pop()
            break
        basis = np.column_stack([basis, new / length])
        residual = y - basis @ (basis.conj().T @ y)
    return oracle_least_squares(H, y, np.array(chosen, dtype=int))


def kronecker_matching_pursuit(
    factors: Sequence[np.ndarray], y: np.ndarray, sparsity: Sequence[int], noise_variance: float
) -> np.ndarray:
    """Pursuit of a product support: each step adds the best atom's index to every mode that is not full.

    Args:
        factors: of the dictionary.
        y: observations.
        sparsity: nonzeros of each mode, which an oracle knows.
        noise_variance: when to stop.

    Source: Caiafa & Cichocki (2013), Computing sparse representations of multidimensional signals using Kronecker
    bases.
    """
    operator = KroneckerOperator(tuple(factors))
    scaled = KroneckerOperator(tuple(factor / np.linalg.norm(factor, axis=0) for factor in factors))
    chosen: list[list[int]] = [[] for _ in factors]
    x, residual = np.zeros(operator.shape[1], y.dtype), y
    for _ in range(sum(sparsity)):
        full = [len(one) >= most for one, most in zip(chosen, sparsity, strict=True)]
        if all(full) or np.linalg.norm(residual) <= np.sqrt(noise_variance * y.size):
            break
        score = abs(scaled.rmatvec(residual)).reshape(operator.column_shape)
        # a full mode offers what it holds
        offered = [
            np.array(one) if is_full else np.arange(n)
            for one, is_full, n in zip(chosen, full, score.shape, strict=True)
        ]
        score = score[np.ix_(*offered)]
        best = np.unravel_index(int(np.argmax(score)), score.shape)
        for one, indices, place in zip(chosen, offered, best, strict=True):
            if (index := int(indices[place])) not in one:
                one.append(index)
        kept = [np.array(sorted(one)) for one in chosen]
        part = operator.restrict(kept)
        inverse = KroneckerOperator(tuple(np.linalg.pinv(factor) for factor in part.factors))
        values = inverse.matvec(y)
        residual = y - part.matvec(values)
        x = np.zeros(operator.column_shape, y.dtype)
        x[np.ix_(*kept)] = values.reshape([one.size for one in kept])
    return x.reshape(-1)


def oracle_lasso(
    H: np.ndarray, y: np.ndarray, truth: np.ndarray, n_penalties: int = 16, n_steps: int = 100, tolerance: float = 1e-4
) -> np.ndarray:
    """The Lasso along a path of penalties, of which the one that errs least is taken.

    Accelerated proximal gradient steps, each penalty starting where the last one ended.

    Source: Beck & Teboulle (2009), A fast iterative shrinkage-thresholding algorithm.
    """
    step = 1 / np.linalg.norm(H, 2) ** 2
    correlation = H.conj().T @ y
    x, best = np.zeros(H.shape[1], H.dtype), np.zeros(H.shape[1], H.dtype)
    for penalty in abs(correlation).max() * np.geomspace(0.3, 1e-3, n_penalties):
        ahead, momentum = x, 1.0
        for _ in range(n_steps):
            new = _shrunk(ahead - step * (H.conj().T @ (H @ ahead) - correlation), step * penalty)
            following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            ahead = new + (momentum - 1) / following * (new - x)
            done = np.linalg.norm(new - x) <= tolerance * np.linalg.norm(new)
            x, momentum = new, following
            if done:
                break
        if np.linalg.norm(x - truth) < np.linalg.norm(best - truth):
            best = x
    return best


def plain_sbl(H: np.ndarray, y: np.ndarray, noise_variance: float) -> np.ndarray:
    """Sparse Bayesian learning with one variance for each column, by EM, with the settings of He & Joseph (2024)."""
    return sparse_bayes(H, y, update="em", noise_variance=noise_variance, prune=1e-3).mean


def _shrunk(x: np.ndarray, threshold: float) -> np.ndarray:
    """The Lasso's proximal map, which for complex numbers keeps the phase."""
    size = abs(x)
    return np.where(size > 0, x / np.maximum(size, 1e-300), 0.0) * soft_threshold(size, threshold)
