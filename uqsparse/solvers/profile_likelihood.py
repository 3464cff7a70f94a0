"""Exact profile-likelihood intervals of linear functionals of a generalised linear model.

All values theta of x^T w that a likelihood-ratio test of level 1 - confidence does not reject form the interval
{x^T w : 2 n (L(w) - min L) <= chi^2_1 quantile}: the range of a linear functional over a sublevel set, which
`support_function` gives with a proof. No profile has to be traced.
"""

import dataclasses

import numpy as np
import scipy.stats
from jaxtyping import ArrayLike, Bool, Float

from uqsparse.kernels.arguments import require_fraction
from uqsparse.solvers.regularised_loss import Minimum, RegularisedLoss, minimise
from uqsparse.solvers.support_function import support_function


@dataclasses.dataclass(frozen=True, eq=False)
class ProfileInterval:
    """Profile-likelihood intervals, one for each direction.

    Args:
        estimate: x^T w at the maximum likelihood, shape (b,).
        lower: attained lower ends, shape (b,).
        upper: attained upper ends, shape (b,).
        lower_certificate: proved: the lower end is not below this, shape (b,).
        upper_certificate: proved: the upper end is not above this, shape (b,).
        converged: whether both ends are known to the tolerance, shape (b,).
    """

    estimate: Float[np.ndarray, " b"]
    lower: Float[np.ndarray, " b"]
    upper: Float[np.ndarray, " b"]
    lower_certificate: Float[np.ndarray, " b"]
    upper_certificate: Float[np.ndarray, " b"]
    converged: Bool[np.ndarray, " b"]


def profile_likelihood_interval(
    loss: RegularisedLoss,
    directions: Float[ArrayLike, "b d"],
    confidence: float = 0.95,
    *,
    n_observations: float | None = None,
    minimum: Minimum | None = None,
    tolerance: float = 1e-9,
) -> ProfileInterval:
    """Profile-likelihood intervals of x^T w for every row x of `directions`.

    For the squared loss the variance of the noise is unknown and profiled out too. With a ridge the likelihood is a
    penalised one, and the intervals lose their asymptotic coverage.

    Args:
        loss: minus the mean log-likelihood, up to a constant.
        directions: shape (b, d); unit vectors for coefficients.
        confidence: between 0 and 1.
        n_observations: how many observations the weights stand for; None where they are equal: the number of rows.
        minimum: `minimise(loss)`, if it is known.
        tolerance: as of `support_function`.

    Raises:
        ValueError: a number is out of range; unequal weights without `n_observations`; a squared loss with a ridge or
            with a perfect fit; no maximum of the likelihood (separable or collinear data).

    Source: Venzon & Moolgavkar (1988), A Method for Computing Profile-Likelihood-Based Confidence Intervals.

    >>> loss = RegularisedLoss(np.ones((4, 1)), [0.0, 0.0, 0.0, 1.0], np.full(4, 0.25), [0.0])
    >>> found = profile_likelihood_interval(loss, [[1.0]])
    >>> [round(float(one[0]), 3) for one in (found.lower, found.estimate, found.upper)]
    [-4.105, -1.099, 0.956]
    """
    require_fraction("confidence", confidence)
    used = loss.weights[loss.weights > 0]
    if n_observations is None:
        if used.max() - used.min() > 1e-9 * used.max():
            raise ValueError("n_observations must be given where the weights of the rows are not equal")
        n_observations = len(used)
    if not 0 < n_observations < np.inf:
        raise ValueError(f"n_observations must be positive, got {n_observations}")
    if minimum is None:
        minimum = minimise(loss)
    half_quantile = float(scipy.stats.chi2.ppf(confidence, 1)) / 2
    if loss.kind == "squared":
        if loss.l2.any():
            raise ValueError("the squared loss must have no ridge: the likelihood of an unknown variance has none")
        if minimum.value <= 0:
            raise ValueError("the fit is perfect, so that the variance of the noise cannot be estimated")
        # Maximised over the variance, minus the log-likelihood is n / 2 log L plus a constant.
        level = minimum.value * float(np.exp(2 * half_quantile / n_observations))
    else:
        level = minimum.value + half_quantile / n_observations
    x = np.array(directions, dtype=np.float64)
    found = support_function(loss, level, np.concatenate([x, -x]), minimum=minimum, tolerance=tolerance)
    b = len(x)
    return ProfileInterval(
        x @ minimum.w,
        -found.value[b:],
        found.value[:b],
        -found.upper[b:],
        found.upper[:b],
        found.converged[:b] & found.converged[b:],
    )
