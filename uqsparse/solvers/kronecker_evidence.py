"""The posterior of a Gaussian linear model whose dictionary and prior variances are Kronecker products.

    y = H x + n,   H = A_1 x ... x A_I,   x ~ N(0, diag gamma),   gamma = gamma_1 x ... x gamma_I,   n ~ N(0, s I)

(circular complex if anything is complex). With singular value decompositions `A_i diag(gamma_i)^(1/2) = U_i S_i V_i^H`
of the small matrices, the marginal covariance of y is `U (s + P) U^H` with P the Kronecker product of the S_i^2, and

    mean      = gamma^(1/2) V (P^(1/2) / (s + P) * U^H y)
    variance  = gamma |V|^2 (s / (s + P))
    cost      = sum log(s + P) + sum |U^H y|^2 / (s + P)

where every product is one of modes. The sum for the variance has positive terms only. Each V_i needs its null space
there, of which only the squared row norms matter, so that it is carried along as one column and never computed.

NumPy arrays are worked on by NumPy, JAX arrays by JAX, under `jit` and `vmap` too. Enter double precision first.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float, Shaped

from uqsparse.kernels.kronecker import KroneckerOperator, kronecker_vector, mode_products
from uqsparse.kernels.namespaces import AnyArray, array_namespace


class KroneckerModel(NamedTuple):
    """The model, decomposed: what the posterior needs for any y.

    Args:
        left: U_i, unitary (M_i, M_i).
        right: the first r_i = min(M_i, N_i) columns of V_i, (N_i, r_i).
        values: squared singular values of each mode, (r_i,).
        gammas: prior variances of each mode, (N_i,).
        noise_variance: of each entry of y.
    """

    left: tuple[Shaped[AnyArray, "M_i M_i"], ...]
    right: tuple[Shaped[AnyArray, "N_i r_i"], ...]
    values: tuple[Float[AnyArray, " r_i"], ...]
    gammas: tuple[Float[AnyArray, " N_i"], ...]
    noise_variance: Float[AnyArray, ""]


class KroneckerPosterior(NamedTuple):
    """Posterior moments of x, and what evidence maximisation needs beside them.

    Args:
        mean: shape (N,).
        variance: shape (N,), never negative.
        variance_ratio: variance / gamma, in (0, 1], shape (N,); with the next one good where gamma underflows too.
        mean_ratio: |mean|^2 / gamma, shape (N,).
        cost: log det of y's covariance plus y^H times its inverse times y: minus twice the log evidence if real,
            minus the log evidence if complex, up to a constant that depends on M only.
        residual: `|y - H mean|^2`.
        effective: `sum(1 - variance / gamma)`, how many parameters the data determine, in [0, min(M, N)].
        precision: trace of the inverse of y's covariance.
    """

    mean: Shaped[AnyArray, " N"]
    variance: Float[AnyArray, " N"]
    variance_ratio: Float[AnyArray, " N"]
    mean_ratio: Float[AnyArray, " N"]
    cost: Float[AnyArray, ""]
    residual: Float[AnyArray, ""]
    effective: Float[AnyArray, ""]
    precision: Float[AnyArray, ""]

    @property
    def moment_ratio(self) -> Float[AnyArray, " N"]:
        """(variance + |mean|^2) / gamma; its mean over every slice of a mode is 1 where the evidence is stationary."""
        return self.variance_ratio + self.mean_ratio


def decompose(
    operator: KroneckerOperator, gammas: Sequence[Float[AnyArray, " N_i"]], noise_variance: Float[AnyArray, ""] | float
) -> KroneckerModel:
    """Decompose the model, mode by mode: O(sum M_i N_i min(M_i, N_i)) time.

    Args:
        operator: the dictionary.
        gammas: prior variances of each mode, nonnegative, (N_i,).
        noise_variance: positive.
    """
    xp = array_namespace(operator, gammas)
    left, right, values = [], [], []
    for factor, gamma in zip(operator.factors, gammas, strict=True):
        rows, columns = factor.shape
        u, s, vh = xp.linalg.svd(factor * xp.sqrt(gamma), full_matrices=rows > columns)
        left.append(u)
        right.append(vh.conj().T)
        values.append(s**2)
    return KroneckerModel(tuple(left), tuple(right), tuple(values), tuple(gammas), xp.asarray(noise_variance))


def posterior_mean(model: KroneckerModel, y: Shaped[AnyArray, "*batch M"]) -> Shaped[AnyArray, "*batch N"]:
    """The posterior mean, for one y or a batch of them: linear in y.

    >>> import numpy as np
    >>> model = decompose(KroneckerOperator((np.eye(2), np.eye(1))), [np.ones(2), np.ones(1)], 1.0)
    >>> posterior_mean(model, np.array([2.0, 4.0])).tolist()
    [1.0, 2.0]
    """
    return _mean(model, _rotated(model, y))


def kronecker_posterior(model: KroneckerModel, y: Shaped[AnyArray, " M"]) -> KroneckerPosterior:
    """Posterior moments and evidence: O(sum M_i^3 + N sum N_i) time and O(M + N) memory.

    Args:
        model: from `decompose`.
        y: observations, (M,).

    Source: He & Joseph (2024), Bayesian algorithms for Kronecker-structured sparse vector recovery with application
    to IRS-MIMO channel estimation, section III; the forms free of cancellation are ours.
    """
    xp = array_namespace(model, y)
    noise = model.noise_variance
    rotated = _rotated(model, y)
    power = abs(rotated) ** 2
    marginal = noise + _padded_values(model, xp)
    mean = _mean(model, rotated, scaled=False)
    squares, values = [], []
    for v, p in zip(model.right, model.values, strict=True):
        square = abs(v) ** 2
        if v.shape[0] > v.shape[1]:
            # all null vectors have the value 0, so they act as one column
            null = xp.maximum(1 - square.sum(axis=1, keepdims=True), 0.0)
            square, p = xp.concatenate([square, null], axis=1), xp.concatenate([p, xp.zeros(1, p.dtype)])
        squares.append(square)
        values.append(p)
    shares = noise / (noise + kronecker_vector(values))
    left_over = mode_products(squares, shares.reshape([p.shape[0] for p in values])).reshape(-1)
    gamma = kronecker_vector(model.gammas)
    signal = kronecker_vector(model.values)
    return KroneckerPosterior(
        mean=xp.sqrt(gamma) * mean,
        variance=gamma * left_over,
        variance_ratio=left_over,
        mean_ratio=abs(mean) ** 2,
        cost=xp.log(marginal).sum() + (power / marginal).sum(),
        residual=noise**2 * (power / marginal**2).sum(),
        effective=(signal / (noise + signal)).sum(),
        precision=(1 / marginal).sum(),
    )


def determined_shares(model: KroneckerModel) -> Float[AnyArray, " N"]:
    """`1 - variance / gamma` of each coefficient, accurate where it is small: gamma times h^H C^-1 h, with h the
    coefficient's column and C the covariance of y.
    """
    signal = kronecker_vector(model.values)
    shares = signal / (model.noise_variance + signal)
    squares = [abs(v) ** 2 for v in model.right]
    return mode_products(squares, shares.reshape([p.shape[0] for p in model.values])).reshape(-1)


def _rotated(model: KroneckerModel, y: AnyArray) -> AnyArray:
    """U^H y."""
    return KroneckerOperator(model.left).rmatvec(y)


def _padded_values(model: KroneckerModel, xp) -> AnyArray:
    """P, with the zeros of directions that no column reaches, shape (M,)."""
    return kronecker_vector(
        [
            xp.concatenate([p, xp.zeros(u.shape[0] - p.shape[0], p.dtype)])
            for u, p in zip(model.left, model.values, strict=True)
        ]
    )


def _mean(model: KroneckerModel, rotated: AnyArray, scaled: bool = True) -> AnyArray:
    """The posterior mean from U^H y, (..., M); `scaled=False` leaves out the factor gamma^(1/2)."""
    xp = array_namespace(model, rotated)
    batch = rotated.shape[:-1]
    tensor = rotated.reshape(*batch, *(u.shape[0] for u in model.left))
    tensor = tensor[(..., *(slice(p.shape[0]) for p in model.values))]
    signal = kronecker_vector(model.values)
    filtered = xp.sqrt(signal) / (model.noise_variance + signal) * tensor.reshape(*batch, -1)
    mean = KroneckerOperator(model.right).matvec(filtered)
    return xp.sqrt(kronecker_vector(model.gammas)) * mean if scaled else mean
