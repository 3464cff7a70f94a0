"""A nonparametric predictive density that learns by Gaussian copulas, for density estimation with uncertainty.

It is a Dirichlet process mixture of normals made recursive: no kernels, no clusters and no sampler, only the density
and the distribution functions at the points of interest. A draw is not needed to look ahead: the ranks of the next
observation, its conditional distribution functions, are uniform on (0, 1)^d, and the update needs nothing else.

Source: Fong, Holmes & Walker (2023), Martingale posterior distributions; Hahn, Martin & Walker (2018), On recursive
Bayesian predictive distributions.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, ArrayLike, Float

from uqsparse.inference.copula_fit import best_bandwidth, check_bandwidth, random_orders, standardised
from uqsparse.inference.copula_regression import CopulaRegression
from uqsparse.inference.precision import retry_after_precision_clash
from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.gaussian_copula import copula_update, learning_weight
from uqsparse.kernels.namespaces import AnyArray

# Points of the grid that one column of data gets by default, and how far it reaches beyond them.
_GRID = 200
_REACH = 2.0


class CopulaState(NamedTuple):
    """A predictive density at m points of d coordinates.

    Args:
        log_prefix: log p(y_1, ..., y_j) in column j, of standardised coordinates, (m, d).
        ranks: P(y_j | y_1, ..., y_{j-1}) in column j, (m, d).
        n: number of observations learned.
        bandwidth: correlation of the copula in each coordinate, (d,).
        points: where the density is known, in the data's units, (m, d).
        log_unit: log of the product of the data's standard deviations.
        score: mean log predictive density of one observation given those before it, in the data's units.
    """

    log_prefix: Float[AnyArray, "m d"]
    ranks: Float[AnyArray, "m d"]
    n: Float[AnyArray, ""]
    bandwidth: Float[AnyArray, " d"]
    points: Float[AnyArray, "m d"]
    log_unit: Float[AnyArray, ""]
    score: Float[AnyArray, ""]

    @property
    def density(self) -> Float[Array, " m"]:
        """Density at the points, in the data's units."""
        return jnp.exp(self.log_prefix[..., -1] - self.log_unit)

    @property
    def cdf(self) -> Float[Array, " m"]:
        """Distribution function of the first coordinate at the points."""
        return self.ranks[..., 0]


class CopulaPredictive(eqx.Module):
    """Predictive density of rows of d numbers, by copula updates; `CopulaPredictive.regression` for p(y | x).

    `functional` gets a `CopulaState`: its `density`, `cdf` and `points`. Draws are ranks, so that `law="empirical"` is
    not to be had.

    Args:
        points: where to evaluate the density, in the data's units, (m,) or (m, d). Left out: a grid of 200 over one
            column of data and two standard deviations beyond, the data themselves for more columns.
        bandwidth: correlation of the copula, in (0, 1), one number or one a coordinate; near 1 the density follows
            every observation. Left out, the one that predicts best, for one column from 0.5 on.
        n_permutations: random orders of the data that are averaged over, at least 1.
        seed: of these orders.

    Raises:
        ValueError: `n_permutations` is below 1, or `points` are not finite.

    Source: Fong, Holmes & Walker (2023), copula updates for multivariate densities.

    >>> y = np.random.default_rng(0).normal(size=40)
    >>> state = CopulaPredictive(np.linspace(-6, 6, 201), bandwidth=0.8).init(y)
    >>> round(float(np.trapezoid(state.density, state.points[:, 0])), 3)
    1.0
    """

    points: Float[np.ndarray, "m d"] | None = eqx.field(default=None, converter=lambda x: _as_points("points", x))
    bandwidth: ArrayLike | None = None
    n_permutations: int = 10
    seed: int = 0
    draws_are_data: ClassVar[bool] = False

    def __check_init__(self) -> None:
        require_count("n_permutations", self.n_permutations, 1)

    @staticmethod
    def regression(
        inputs: ArrayLike,
        targets: ArrayLike,
        bandwidth: ArrayLike | None = None,
        n_permutations: int = 10,
        seed: int = 0,
    ) -> CopulaRegression:
        """The predictive of y given x: see `CopulaRegression`."""
        return CopulaRegression(inputs, targets, bandwidth, n_permutations, seed)

    def init(self, data: Float[ArrayLike, "n d"]) -> CopulaState:
        """Learn from data (n,) or (n, d); in double precision, NumPy arrays out.

        Raises:
            ValueError: fewer than two rows, a value that is not finite, a constant column, ties in a column, or points
                or a bandwidth that do not fit the data.
        """
        columns = standardised("data", data, is_density=True)
        n, d = columns.values.shape
        points = self.points
        if points is None:
            low, high = columns.values.min(axis=0) - _REACH, columns.values.max(axis=0) + _REACH
            units = np.linspace(low, high, _GRID) if d == 1 else columns.values
            points = columns.centre + columns.scale * units
        elif points.shape[1] != d:
            raise ValueError(f"points must have the data's {d} columns, got {points.shape[1]}")
        given = check_bandwidth(self.bandwidth, d)
        orders = random_orders(n, self.n_permutations, self.seed)
        at = (points - columns.centre) / columns.scale

        def learn():
            ordered = columns.values[orders]
            bandwidth = given
            if bandwidth is None:
                bandwidth = best_bandwidth(_score, (ordered,), d, d)
            return bandwidth, jax.device_get(_replayed(bandwidth, ordered, at))

        with jax.enable_x64(True):
            bandwidth, (log_prefix, ranks, score) = retry_after_precision_clash(learn)
        log_unit = np.log(columns.scale).sum()
        return CopulaState(log_prefix, ranks, np.asarray(float(n)), bandwidth, points, log_unit, score - log_unit)

    def sample(self, key: Array, state: CopulaState) -> Float[Array, " d"]:
        """Ranks of the next observation: its conditional distribution functions, uniform and independent."""
        return jax.random.uniform(key, jnp.shape(state.bandwidth), jnp.asarray(state.ranks).dtype)

    def update(self, state: CopulaState, y: Float[Array, " d"]) -> CopulaState:
        """The density after an observation of ranks y."""
        weight = learning_weight(state.n + 1)
        log_prefix, ranks = copula_update(state.log_prefix, state.ranks, y, state.bandwidth, weight)
        return state._replace(log_prefix=log_prefix, ranks=ranks, n=state.n + 1)


def _as_points(name: str, points: Any) -> Float[np.ndarray, "m d"] | None:
    if points is None:
        return None
    array = np.asarray(points, float)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite and of shape (m,) or (m, d), got shape {array.shape}")
    return array


def _prior(at: Float[Array, "m d"]) -> tuple[Float[Array, "m d"], Float[Array, "m d"]]:
    """Independent standard normal coordinates."""
    return jnp.cumsum(jax.scipy.stats.norm.logpdf(at), axis=-1), jax.scipy.special.ndtr(at)


def _pass(rho: Float[Array, " d"], rows: Float[Array, "n d"]) -> tuple[Float[Array, " n"], Float[Array, "n d"]]:
    """Log predictive density and ranks of every row, given those before it."""

    @jax.checkpoint
    def learn(state, i):
        log_prefix, cdf = state
        seen = log_prefix[i, -1], cdf[i]
        return copula_update(log_prefix, cdf, cdf[i], rho, learning_weight(i + 1.0)), seen

    _, found = jax.lax.scan(learn, _prior(rows), jnp.arange(rows.shape[0]))
    return found


def _score(rho: Float[Array, " d"], ordered: Float[Array, "p n d"]) -> Float[Array, ""]:
    """Mean log predictive density of an observation, over all orders."""
    return jnp.mean(jax.lax.map(lambda rows: jnp.mean(_pass(rho, rows)[0]), ordered))


@jax.jit
def _replayed(
    rho: Float[Array, " d"], ordered: Float[Array, "p n d"], at: Float[Array, "m d"]
) -> tuple[Float[Array, "m d"], Float[Array, "m d"], Float[Array, ""]]:
    """Densities and conditional distribution functions at points, of the average over the orders; and their score."""

    def replay(rows):
        seen, ranks = _pass(rho, rows)

        def learn(state, now):
            v, i = now
            log_prefix, cdf = state
            return copula_update(log_prefix, cdf, v, rho, learning_weight(i + 1.0)), None

        after, _ = jax.lax.scan(learn, _prior(at), (ranks, jnp.arange(rows.shape[0])))
        return *after, jnp.mean(seen)

    log_prefix, cdf, scores = jax.lax.map(replay, ordered)
    # A conditional law of a mixture of orders weighs each by its density of the coordinates before.
    earlier = jnp.pad(log_prefix[..., :-1], ((0, 0), (0, 0), (1, 0)))
    weights = jax.nn.softmax(earlier, axis=0)
    density = logsumexp(log_prefix, axis=0) - jnp.log(ordered.shape[0])
    return density, jnp.sum(weights * cdf, axis=0), jnp.mean(scores)
