"""A nonparametric predictive of y given x that learns by Gaussian copulas, for regression with uncertainty.

An observation (x', y') moves the law of y at x by a copula update whose weight falls with the distance of x' from x: a
Gaussian copula in every coordinate of the inputs. Future inputs are drawn from those seen (a Polya urn), and the rank
of y at them is uniform.

Source: Fong, Holmes & Walker (2023), Martingale posterior distributions, the conditional method of regression.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp, ndtr
from jax.scipy.stats import norm
from jaxtyping import Array, ArrayLike, Float, Int

from uqsparse.inference.copula_fit import best_bandwidth, check_bandwidth, random_orders, standardised
from uqsparse.inference.precision import retry_after_precision_clash
from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.gaussian_copula import copula_update, learning_weight, log_gaussian_copula
from uqsparse.kernels.namespaces import AnyArray


class CopulaRegressionState(NamedTuple):
    """Predictive laws of y at k inputs, each at m values of y.

    Args:
        log_density: log p(y | x), of standardised y, (k, m).
        cdf: P(y | x), (k, m).
        n: number of observations learned.
        counts: how often each input of the data is in the urn, (n,).
        atoms: inputs of the data, standardised, (n, d).
        inputs: where the laws are known, standardised, (k, d).
        targets: values of y, in the data's units, (m,).
        bandwidth: of y first, then of each coordinate of x, (1 + d,).
        log_unit: log of the standard deviation of y.
        score: mean log predictive density of one y given its x and the observations before, in the data's units.
    """

    log_density: Float[AnyArray, "k m"]
    cdf: Float[AnyArray, "k m"]
    n: Float[AnyArray, ""]
    counts: Float[AnyArray, " n"]
    atoms: Float[AnyArray, "n d"]
    inputs: Float[AnyArray, "k d"]
    targets: Float[AnyArray, " m"]
    bandwidth: Float[AnyArray, " e"]
    log_unit: Float[AnyArray, ""]
    score: Float[AnyArray, ""]

    @property
    def density(self) -> Float[Array, "k m"]:
        """p(y | x) in the data's units."""
        return jnp.exp(self.log_density - self.log_unit)

    @property
    def mean(self) -> Float[Array, " k"]:
        """E[y | x], by the trapezium rule over the values of y."""
        targets = jnp.asarray(self.targets)
        mass = jnp.trapezoid(self.density, targets, axis=-1)
        return jnp.trapezoid(self.density * targets, targets, axis=-1) / mass

    def quantile(self, level: float) -> Float[Array, " k"]:
        """Quantile of y given x, between the values of y by interpolation.

        Args:
            level: in (0, 1).
        """
        return jax.vmap(lambda cdf: jnp.interp(level, cdf, self.targets))(jnp.asarray(self.cdf))


class RegressionRanks(NamedTuple):
    """A draw: which input of the data comes again, and the rank of y there."""

    atom: Int[Array, ""]
    rank: Float[Array, ""]


class CopulaRegression(eqx.Module):
    """Predictive law of y given x, by copula updates; data are a pair (X, y) of shapes (n, d) or (n,), and (n,).

    `functional` gets a `CopulaRegressionState`: its `density`, `cdf`, `mean` and `quantile(level)` at the inputs.

    Args:
        inputs: where to predict, in the data's units, (k,) or (k, d).
        targets: increasing values of y to evaluate the law at, in the data's units, (m,), m at least 2; they should
            reach beyond the data.
        bandwidth: correlations of the copulas in (0, 1), of y first and then of each input (1 + d,), or one number.
            Left out, those that predict best, with that of y from 0.5 on.
        n_permutations: random orders of the data that are averaged over, at least 1.
        seed: of these orders.

    Raises:
        ValueError: an argument has another shape or is out of range.

    Source: Fong, Holmes & Walker (2023), the conditional method of regression.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(-1, 1, 40)
    >>> y = 2 * x + 0.3 * rng.normal(size=40)
    >>> rule = CopulaRegression([-0.8, 0.8], np.linspace(-5, 5, 101), n_permutations=2)
    >>> low, high = rule.init((x, y)).mean
    >>> bool(low < -1 < 1 < high)
    True
    """

    inputs: Float[np.ndarray, "k d"]
    targets: Float[np.ndarray, " m"]
    bandwidth: ArrayLike | None
    n_permutations: int
    seed: int
    draws_are_data: ClassVar[bool] = False

    def __init__(
        self,
        inputs: ArrayLike,
        targets: ArrayLike,
        bandwidth: ArrayLike | None = None,
        n_permutations: int = 10,
        seed: int = 0,
    ):
        inputs, targets = np.asarray(inputs, float), np.asarray(targets, float)
        inputs = inputs[:, None] if inputs.ndim == 1 else inputs
        if inputs.ndim != 2 or not inputs.size or not np.isfinite(inputs).all():
            raise ValueError(f"inputs must be finite and of shape (k,) or (k, d), got shape {inputs.shape}")
        if targets.ndim != 1 or len(targets) < 2 or not np.isfinite(targets).all() or not (np.diff(targets) > 0).all():
            raise ValueError("targets must be a grid (m,) of at least two finite, increasing values")
        require_count("n_permutations", n_permutations, 1)
        self.inputs, self.targets, self.bandwidth = inputs, targets, bandwidth
        self.n_permutations, self.seed = n_permutations, seed

    def init(self, data: tuple[Float[ArrayLike, "n d"], Float[ArrayLike, " n"]]) -> CopulaRegressionState:
        """Learn from (X, y); in double precision, NumPy arrays out.

        Raises:
            ValueError: the data are no pair of fitting shapes, fewer than two rows, not finite, constant in a column,
                or have ties in y.
        """
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise ValueError(f"data must be a pair (X, y), got {type(data).__name__}")
        x, y = standardised("X", data[0], is_density=False), standardised("y", data[1], is_density=True)
        (n, d), width = x.values.shape, y.values.shape[1]
        if width != 1 or len(y.values) != n or self.inputs.shape[1] != d:
            raise ValueError(
                f"X, y and inputs must have shapes (n, d), (n,) and (k, d), got {x.values.shape}, "
                f"{np.shape(data[1])} and {self.inputs.shape}"
            )
        given = check_bandwidth(self.bandwidth, 1 + d)
        orders = random_orders(n, self.n_permutations, self.seed)
        inputs, targets = (self.inputs - x.centre) / x.scale, (self.targets - y.centre) / y.scale

        def learn():
            rows = x.values[orders], y.values[orders, 0]
            bandwidth = given
            if bandwidth is None:
                bandwidth = best_bandwidth(_score, rows, 1 + d, 1)
            return bandwidth, jax.device_get(_replayed(bandwidth, *rows, inputs, targets))

        with jax.enable_x64(True):
            bandwidth, (log_density, cdf, score) = retry_after_precision_clash(learn)
        log_unit = np.log(y.scale[0])
        return CopulaRegressionState(
            log_density,
            cdf,
            np.asarray(float(n)),
            np.ones(n),
            x.values,
            inputs,
            self.targets,
            bandwidth,
            log_unit,
            score - log_unit,
        )

    def sample(self, key: Array, state: CopulaRegressionState) -> RegressionRanks:
        """An input of the urn, and a uniform rank."""
        atom_key, rank_key = jax.random.split(key)
        ends = jnp.cumsum(state.counts)
        atom = jnp.sum(ends <= jax.random.uniform(atom_key, dtype=ends.dtype) * ends[-1])
        return RegressionRanks(atom, jax.random.uniform(rank_key, dtype=ends.dtype))

    def update(self, state: CopulaRegressionState, y: RegressionRanks) -> CopulaRegressionState:
        """The laws after an observation at one of the inputs, of a given rank."""
        log_density, cdf, n, counts, atoms, inputs, _, rho, *_ = map(jnp.asarray, state)
        weight = _input_weight(inputs, atoms[y.atom], rho[1:], learning_weight(n + 1))
        log_density, cdf = _learned(log_density, cdf, y.rank, rho[0], weight)
        counts = counts.at[y.atom].add(1)
        return state._replace(log_density=log_density, cdf=cdf, n=n + 1, counts=counts)


def _input_weight(
    inputs: Float[Array, "k d"], x: Float[Array, " d"], rho: Float[Array, " d"], weight: Float[Array, ""]
) -> Float[Array, " k"]:
    """Weight of an observation at x for the laws at the inputs: w c / (1 - w + w c), with the product c of copulas."""
    log_odds = jnp.log(weight) - jnp.log1p(-weight) + jnp.sum(log_gaussian_copula(inputs, x, rho), axis=-1)
    return jax.nn.sigmoid(log_odds)


def _learned(
    log_density: Float[Array, "k m"],
    cdf: Float[Array, "k m"],
    rank: Float[Array, ""],
    rho: Float[Array, ""],
    weight: Float[Array, " k"],
) -> tuple[Float[Array, "k m"], Float[Array, "k m"]]:
    """Copula updates of one coordinate, with a weight of its own for each input."""
    shape, weights = log_density.shape, jnp.repeat(weight, log_density.shape[1])
    columns = log_density.reshape(-1, 1), cdf.reshape(-1, 1)
    log_density, cdf = copula_update(*columns, rank[None], rho[None], weights)
    return log_density.reshape(shape), cdf.reshape(shape)


def _pass(rho: Float[Array, " e"], X: Float[Array, "n d"], y: Float[Array, " n"]) -> tuple[Any, Any]:
    """Log predictive density and rank of every y, given its x and the pairs before it."""

    @jax.checkpoint
    def learn(state, i):
        log_density, cdf = state
        seen = log_density[i, 0], cdf[i, 0]
        weight = _input_weight(X, X[i], rho[1:], learning_weight(i + 1.0))
        return _learned(log_density, cdf, seen[1], rho[0], weight), seen

    return jax.lax.scan(learn, (norm.logpdf(y)[:, None], ndtr(y)[:, None]), jnp.arange(y.shape[0]))[1]


def _score(rho: Float[Array, " e"], X: Float[Array, "p n d"], y: Float[Array, "p n"]) -> Float[Array, ""]:
    return jnp.mean(jax.lax.map(lambda rows: jnp.mean(_pass(rho, *rows)[0]), (X, y)))


@jax.jit
def _replayed(
    rho: Float[Array, " e"],
    X: Float[Array, "p n d"],
    y: Float[Array, "p n"],
    inputs: Float[Array, "k d"],
    targets: Float[Array, " m"],
) -> tuple[Float[Array, "k m"], Float[Array, "k m"], Float[Array, ""]]:
    """Densities and distribution functions at inputs and targets, of the average over the orders; and their score."""
    k, m = inputs.shape[0], targets.shape[0]

    def replay(rows):
        seen, ranks = _pass(rho, *rows)

        def learn(state, now):
            x, rank, i = now
            weight = _input_weight(inputs, x, rho[1:], learning_weight(i + 1.0))
            log_density, cdf = state
            return _learned(log_density, cdf, rank, rho[0], weight), None

        prior = jnp.broadcast_to(norm.logpdf(targets), (k, m)), jnp.broadcast_to(ndtr(targets), (k, m))
        after, _ = jax.lax.scan(learn, prior, (rows[0], ranks, jnp.arange(ranks.shape[0])))
        return *after, jnp.mean(seen)

    log_density, cdf, scores = jax.lax.map(replay, (X, y))
    return logsumexp(log_density, axis=0) - jnp.log(y.shape[0]), jnp.mean(cdf, axis=0), jnp.mean(scores)
