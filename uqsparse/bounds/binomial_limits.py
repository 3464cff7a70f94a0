"""Exact confidence limits of probabilities, from how often something happened."""

import numpy as np
from jaxtyping import Float, Num
from scipy.special import betainccinv, betaincinv

from uqsparse.kernels.namespaces import AnyArray


def clopper_pearson(
    hits: Num[AnyArray, " b"], n: Num[AnyArray, " b"], tail: float
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"]]:
    """Exact limits of a probability, each of which fails with probability at most `tail`.

    The interval between them holds the mean of n probabilities that differ with probability at least 1 - 2 tail, too:
    the number of hits is then less spread than a binomial one (Hoeffding). Only next to 0 and 1 may one limit miss a
    little more often than `tail`, up to -ln(1 - tail), and there the other one never misses.

    Args:
        hits: how often it happened, shape (b,).
        n: in how many independent trials, shape (b,), at least 1.
        tail: probability of each miss, in (0, 0.25].

    Returns:
        Lower and upper limits, shape (b,).

    Source: Clopper & Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the binomial;
    Hoeffding (1956), On the distribution of the number of successes in independent trials, theorem 5.

    >>> [round(float(one[0]), 3) for one in clopper_pearson(np.array([0]), np.array([10]), 0.025)]
    [0.0, 0.308]
    """
    hits, n = np.asarray(hits, dtype=np.float64), np.asarray(n, dtype=np.float64)
    low = np.where(hits > 0, betaincinv(np.maximum(hits, 0.5), n - hits + 1, tail), 0.0)
    high = np.where(hits < n, betainccinv(hits + 1, np.maximum(n - hits, 0.5), tail), 1.0)
    return low, high
