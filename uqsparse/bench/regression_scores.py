"""Scores of predictive distributions of real targets, as plain NumPy functions.

Each score is one value per test point, so that a mean comes with its standard error.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp, ndtr, ndtri

from uqsparse.bench.records import GaussianMixture

_LOG_SQRT_2PI = 0.5 * np.log(2 * np.pi)
# How much memory one block of a pairwise computation may take, in numbers.
_BLOCK = 4_000_000

Draws = Float[np.ndarray, "m n"]


def _targets(y: np.ndarray, n: int) -> np.ndarray:
    y = np.asarray(y, dtype=np.float64)
    if y.shape != (n,):
        raise ValueError(f"y has shape {y.shape}; the predictions are for {n} points, so ({n},) is expected")
    if not np.isfinite(y).all():
        raise ValueError("y has NaN or infinite values")
    return y


def as_draws(draws: np.ndarray, n: int) -> Draws:
    """Check an array of predictive draws.

    Args:
        draws: (m, n) finite numbers with m >= 2.
        n: the number of test points.

    Returns:
        The array as float64.

    Raises:
        ValueError: the shape is wrong, or a value is not finite.
    """
    draws = np.asarray(draws, dtype=np.float64)
    if draws.ndim != 2 or draws.shape[1] != n or len(draws) < 2:
        raise ValueError(f"draws have shape {draws.shape}; expected (n_draws, {n}) with at least 2 draws")
    if not np.isfinite(draws).all():
        raise ValueError(f"draws have {np.count_nonzero(~np.isfinite(draws))} NaN or infinite values")
    return draws


def mixture_quantile(mixture: GaussianMixture, probability: float) -> Float[np.ndarray, " n"]:
    """Quantile of each predictive mixture, by bisection to the last bit.

    Args:
        mixture: n predictive mixtures.
        probability: in (0, 1).

    Returns:
        (n,) quantiles in the target's unit.

    Raises:
        ValueError: the probability is not inside (0, 1).

    >>> float(np.round(mixture_quantile(GaussianMixture([0.0], [1.0]), 0.975)[0], 6))
    1.959964
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability is {probability}; expected a number inside (0, 1)")
    mean, sd = mixture.mean, mixture.sd
    # The quantile lies between the smallest and the largest quantile of the components.
    z = ndtri(probability)
    low, high = (mean + z * sd).min(axis=0), (mean + z * sd).max(axis=0)
    for _ in range(200):
        middle = 0.5 * (low + high)
        if np.all((middle == low) | (middle == high)):
            break
        below = ndtr((middle - mean) / sd).mean(axis=0) < probability
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return 0.5 * (low + high)


def central_interval(
    prediction: GaussianMixture | Draws, level: float = 0.9
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Central prediction interval: the quantiles at (1 - level) / 2 and (1 + level) / 2.

    Args:
        prediction: n predictive mixtures, or draws (m, n).
        level: nominal coverage in (0, 1).

    Returns:
        Lower and upper ends, (n,) each.

    Raises:
        ValueError: the level is not inside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a number inside (0, 1)")
    tails = 0.5 * (1 - level), 0.5 * (1 + level)
    if isinstance(prediction, GaussianMixture):
        return mixture_quantile(prediction, tails[0]), mixture_quantile(prediction, tails[1])
    low, high = np.quantile(prediction, tails, axis=0)
    return low, high


def _mean_absolute_normal(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """E|Z| for Z normal with this mean and standard deviation: A(m, s^2) of Grimit et al. (2006)."""
    z = mean / sd
    return 2 * sd * np.exp(-0.5 * z**2 - _LOG_SQRT_2PI) + mean * (2 * ndtr(z) - 1)


def _half_spread_by_pairs(mean: np.ndarray, sd: np.ndarray) -> float:
    """E|X - X'| / 2 of one mixture as the closed-form sum over pairs of components."""
    k, total = len(mean), 0.0
    rows = max(1, _BLOCK // k)
    for start in range(0, k, rows):
        block = slice(start, start + rows)
        spread = np.hypot(sd[block, None], sd[None, :])
        total += float(_mean_absolute_normal(mean[block, None] - mean[None, :], spread).sum())
    return 0.5 * total / k**2


def _grid_size(mean: np.ndarray, sd: np.ndarray) -> int:
    return int(np.ceil((np.ptp(mean) + 18 * sd.max()) / (0.5 * sd.min()))) + 1


def _half_spread_by_grid(mean: np.ndarray, sd: np.ndarray) -> float:
    """E|X - X'| / 2 of one mixture as the integral of F (1 - F), by the trapezoid rule.

    The Fourier transform of F (1 - F) falls like exp(-(w s)^2 / 4) with s the smallest standard deviation,
    so at steps of s / 2 the trapezoid rule is exact to rounding.
    """
    size = _grid_size(mean, sd)
    grid, step = np.linspace(mean.min() - 9 * sd.max(), mean.max() + 9 * sd.max(), size, retstep=True)
    total, rows = 0.0, max(1, _BLOCK // len(mean))
    for start in range(0, size, rows):
        z = (grid[start : start + rows, None] - mean) / sd
        total += float((ndtr(z).mean(axis=1) * ndtr(-z).mean(axis=1)).sum())
    return total * step


def crps_mixture(mixture: GaussianMixture, y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Continuous ranked probability score of Gaussian mixtures; smaller is better.

    Mixtures of many components replace the closed form's sum over pairs, which is quadratic, by a trapezoid
    rule that agrees with it to rounding.

    Args:
        mixture: n predictive mixtures.
        y: (n,) observed targets.

    Returns:
        (n,) scores in the target's unit.

    Raises:
        ValueError: y has the wrong shape or is not finite.

    Source: Grimit, Gneiting, Berrocal, Johnson (2006), "The continuous ranked probability score for circular
    variables and its application to mesoscale forecast ensemble verification", Eq. 5.

    >>> float(np.round(crps_mixture(GaussianMixture([0.0], [1.0]), np.array([0.0]))[0], 4))
    0.2337
    """
    mean, sd = mixture.mean, mixture.sd
    k, n = mean.shape
    y = _targets(y, n)
    first = _mean_absolute_normal(y - mean, sd).mean(axis=0)
    second = np.empty(n)
    for i in range(n):
        by_grid = _grid_size(mean[:, i], sd[:, i]) < k
        second[i] = (_half_spread_by_grid if by_grid else _half_spread_by_pairs)(mean[:, i], sd[:, i])
    return first - second


def crps_draws(draws: Draws, y: Float[np.ndarray, " n"], fair: bool = True) -> Float[np.ndarray, " n"]:
    """Continuous ranked probability score estimated from predictive draws, by sorting, in O(m log m).

    Args:
        draws: (m, n) predictive draws, m >= 2.
        y: (n,) observed targets.
        fair: divide the spread by m (m - 1), which is unbiased for independent draws; otherwise by m^2, which
            scores the empirical distribution of the draws itself.

    Returns:
        (n,) scores in the target's unit. A fair score may be slightly negative.

    Raises:
        ValueError: a shape is wrong, or a value is not finite.

    Source: Ferro (2014), "Fair scores for ensemble forecasts", Eq. 7.
    """
    y = np.asarray(y, dtype=np.float64)
    draws = as_draws(draws, len(np.atleast_1d(y)))
    y = _targets(y, draws.shape[1])
    m = len(draws)
    rank_weight = 2 * np.arange(1, m + 1) - m - 1
    # Centring first keeps the alternating sum free of cancellation.
    ordered = np.sort(draws, axis=0)
    pairs = rank_weight @ (ordered - ordered.mean(axis=0))
    return np.abs(draws - y).mean(axis=0) - pairs / (m * (m - 1) if fair else m**2)


def nll_mixture(mixture: GaussianMixture, y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Negative log predictive density of Gaussian mixtures, in nats; smaller is better.

    Args:
        mixture: n predictive mixtures.
        y: (n,) observed targets.

    Returns:
        (n,) negative log densities.

    Raises:
        ValueError: y has the wrong shape or is not finite.
    """
    mean, sd = mixture.mean, mixture.sd
    y = _targets(y, mean.shape[1])
    log_density = -0.5 * ((y - mean) / sd) ** 2 - np.log(sd) - _LOG_SQRT_2PI
    return np.log(len(mean)) - logsumexp(log_density, axis=0)
