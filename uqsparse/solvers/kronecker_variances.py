"""Prior variances of Kronecker form: the M-steps of Kronecker-structured sparse Bayesian learning.

Given the second moments `T` of the coefficients, a tensor (N_1, ..., N_I), minimise over nonnegative vectors gamma_i

    Q = sum_j log gamma_j + T_j / gamma_j,     gamma = gamma_1 x ... x gamma_I.

Q is convex in the logarithms, and it is stationary where the mean of `T / gamma` over every slice of every mode is 1.
Alternating minimisation sets these means to 1 one mode after the other, as Sinkhorn's scaling of a matrix does, and
reaches the global minimum. It works here on `T / gamma` at the present gamma, which stays near 1 where both T and gamma
have all but vanished, and where dividing one by the other would not do.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
from jaxtyping import Float

# Keeps the scaling finite if a whole slice of second moments has underflowed.
_TINY = np.finfo(np.float64).tiny


class Variances(NamedTuple):
    """An M-step's answer.

    Args:
        gammas: prior variances of each mode, (N_i,). All but the last have Euclidean norm 1: only the product of
            their scales means something.
        stationarity: largest `|log|` of a factor that the last cycle applied, 0 at the minimum.
        n_cycles: cycles over all modes.
    """

    gammas: tuple[Float[np.ndarray, " N_i"], ...]
    stationarity: float
    n_cycles: int


def alternating_variances(
    moment_ratio: Float[np.ndarray, "*N"],
    gammas: Sequence[Float[np.ndarray, " N_i"]],
    *,
    tolerance: float = 1e-10,
    max_cycles: int = 50,
    couplings: Mapping[int, Float[np.ndarray, "N_i N_i"]] | None = None,
    floor: float = 0.0,
) -> Variances:
    """Minimise Q over one mode after the other, starting from given variances.

    Without `couplings` every cycle lowers Q, so that one cycle makes a generalised EM step and many make an EM step.

    Args:
        moment_ratio: `T / gamma` at the given variances, positive, shape (N_1, ..., N_I).
        gammas: the variances to start from, (N_i,).
        tolerance: stop when no factor of a cycle is further from 1.
        max_cycles: most cycles, at least 1.
        couplings: for modes with runs of nonzeros, matrices C_i with nonnegative entries: the minimiser b_i is then
            replaced by C_i u_i with u_i the nonnegative least squares solution of `C_i u_i = b_i`. A surrogate of the
            minimum: Q may rise.
        floor: what coupled variances are raised by, as a share of the mode's largest, so that none is 0.

    Source: He & Joseph (2024), Bayesian algorithms for Kronecker-structured sparse vector recovery, AM-KroSBL and
    PC-KroSBL.

    >>> found = alternating_variances(np.array([[2.0, 6.0], [4.0, 12.0]]), [np.ones(2), np.ones(2)])
    >>> np.round(np.outer(*found.gammas), 10).tolist()
    [[2.0, 6.0], [4.0, 12.0]]
    """
    ratio = np.array(moment_ratio, dtype=np.float64)
    new = [np.array(gamma, dtype=np.float64) for gamma in gammas]
    couplings = couplings or {}
    stationarity, n_cycles = math.inf, 0
    while stationarity > tolerance and n_cycles < max_cycles:
        stationarity = 0.0
        for mode in range(ratio.ndim):
            others = tuple(axis for axis in range(ratio.ndim) if axis != mode)
            factor = np.maximum(ratio.mean(axis=others), _TINY)
            if mode in couplings:
                wanted = _coupled(new[mode] * factor, couplings[mode], floor)
                # a variance that has underflowed to 0 stays there
                factor = np.divide(wanted, new[mode], out=np.ones_like(wanted), where=new[mode] > 0)
            new[mode] = new[mode] * factor
            ratio /= factor.reshape([-1 if axis == mode else 1 for axis in range(ratio.ndim)])
            stationarity = max(stationarity, float(abs(np.log(factor)).max()))
        new = list(balanced(new))
        n_cycles += 1
    return Variances(tuple(new), stationarity, n_cycles)


def majorised_variances(
    mean_ratio: Float[np.ndarray, "*N"],
    determined: Float[np.ndarray, "*N"],
    gammas: Sequence[Float[np.ndarray, " N_i"]],
    *,
    tolerance: float = 1e-10,
    max_cycles: int = 1,
) -> Variances:
    """Minimise an upper bound of the cost that is tight at the given variances, over one mode after the other.

    The cost is a concave function of gamma plus one that the mean bounds: with s_j the slope of the first,

        L(gamma) <= constant + sum_j s_j gamma_j + |mean_j|^2 / gamma_j.

    The bound is convex in the logarithms of the gamma_i; every cycle lowers it, and with it the cost. Variances that
    are not needed fall by a constant factor in each step, where those of an EM step fall like 1 / (number of steps).

    Args:
        mean_ratio: |mean|^2 / gamma at the given variances, nonnegative, shape (N_1, ..., N_I).
        determined: gamma times s, which is `1 - variance / gamma`, nonnegative, same shape.
        gammas: the given variances, (N_i,).
        tolerance: stop when no factor of a cycle is further from 1.
        max_cycles: most cycles, at least 1; more than one gains little.

    Source: Wipf & Nagarajan (2010), Iterative reweighted l1 and l2 methods for finding sparse solutions, the bound for
    a free gamma; with Kronecker structure it is ours.
    """
    up, down = np.array(mean_ratio, dtype=np.float64), np.array(determined, dtype=np.float64)
    new = [np.array(gamma, dtype=np.float64) for gamma in gammas]
    stationarity, n_cycles = math.inf, 0
    while stationarity > tolerance and n_cycles < max_cycles:
        stationarity = 0.0
        for mode in range(up.ndim):
            others = tuple(axis for axis in range(up.ndim) if axis != mode)
            factor = np.sqrt(np.maximum(up.sum(axis=others), _TINY) / np.maximum(down.sum(axis=others), _TINY))
            new[mode] = new[mode] * factor
            along = factor.reshape([-1 if axis == mode else 1 for axis in range(up.ndim)])
            up, down = up / along, down * along
            stationarity = max(stationarity, float(abs(np.log(factor)).max()))
        new = list(balanced(new))
        n_cycles += 1
    return Variances(tuple(new), stationarity, n_cycles)


def nearest_kronecker_variances(second_moment: Float[np.ndarray, "*N"]) -> tuple[Float[np.ndarray, " N_i"], ...]:
    """Vectors whose Kronecker product is near a nonnegative tensor in the Euclidean norm, peeled off mode by mode.

    For two modes this is the nearest such product. The product minimises no upper bound of the cost: evidence
    maximisation with it is not monotone.

    Args:
        second_moment: T, nonnegative, shape (N_1, ..., N_I).

    Returns:
        Nonnegative vectors, all but the last of Euclidean norm 1.

    Source: He & Joseph (2024), SVD-KroSBL; Van Loan & Pitsianis (1993), Approximation with Kronecker products.

    >>> [gamma.round(10).tolist() for gamma in nearest_kronecker_variances(np.outer([3.0, 4.0], [1.0, 2.0]))]
    [[0.6, 0.8], [5.0, 10.0]]
    """
    gammas = []
    rest = np.asarray(second_moment, dtype=np.float64)
    for _ in range(rest.ndim - 1):
        matrix = rest.reshape(len(rest), -1)
        scale = matrix.max() or 1.0
        # The leading left singular vector of a nonnegative matrix has no entries of both signs.
        _, vectors = np.linalg.eigh((matrix / scale) @ (matrix / scale).T)
        leading = abs(vectors[:, -1])
        gammas.append(leading)
        rest = (leading @ matrix).reshape(rest.shape[1:])
    return (*gammas, rest)


def balanced(gammas: Sequence[Float[np.ndarray, " N_i"]]) -> tuple[Float[np.ndarray, " N_i"], ...]:
    """The same Kronecker product, with all but the last vector of Euclidean norm 1."""
    *first, last = gammas
    norms = [float(np.linalg.norm(gamma)) or 1.0 for gamma in first]
    return (*(gamma / norm for gamma, norm in zip(first, norms, strict=True)), last * math.prod(norms))


def neighbour_coupling(n: int, beta: float) -> Float[np.ndarray, "n n"]:
    """Each entry shares in its neighbours: the tridiagonal matrix (beta, 1, beta).

    >>> neighbour_coupling(3, 0.5).tolist()
    [[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]]
    """
    return np.eye(n) + beta * (np.eye(n, k=1) + np.eye(n, k=-1))


def _coupled(
    wanted: Float[np.ndarray, " n"], coupling: Float[np.ndarray, "n n"], floor: float
) -> Float[np.ndarray, " n"]:
    scale = wanted.max() or 1.0
    solution, _ = scipy.optimize.nnls(coupling, wanted / scale)
    near = scale * (coupling @ solution)
    return near + floor * near.max()
