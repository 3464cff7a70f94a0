"""Predictives of conjugate Bayesian models, whose martingale posterior is the posterior that textbooks give.

States hold the parameters of the posterior in a form that has a limit: means, and a strength that counts observations,
the prior's included. At infinite strength the predictive is the model at one parameter.

Sources: Bernardo & Smith (1994), Bayesian theory; Fong, Holmes & Walker (2023), Martingale posterior distributions.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, xlog1py, xlogy
from jax.scipy.stats import norm, t
from jaxtyping import Array, ArrayLike, Float

from uqsparse.inference.predictive_rules import count_observations
from uqsparse.kernels.namespaces import AnyArray


class ConjugatePredictive(eqx.Module):
    """The posterior predictive of a conjugate model; made by one of its four constructors.

    `init` takes an array of observations, and with None or an array of length zero it gives the prior.

    >>> coin = ConjugatePredictive.beta_bernoulli(1.0, 1.0)
    >>> state = coin.init(np.array([1, 1, 0]))
    >>> round(float(state.mean), 3), round(float(coin.update(state, 1).mean), 3)
    (0.6, 0.667)
    """

    @staticmethod
    def normal_normal(
        prior_mean: Float[ArrayLike, " d"] | float = 0.0,
        prior_scale: Float[ArrayLike, " d"] | float = 1.0,
        noise_scale: Float[ArrayLike, " d"] | float = 1.0,
    ) -> "NormalNormal":
        """Normal observations (n,) or (n, d) with known scale, and a normal prior of their mean.

        Args:
            prior_mean: mean of the prior, one number or one a coordinate.
            prior_scale: its standard deviation, positive.
            noise_scale: standard deviation of the observations, positive.

        Raises:
            ValueError: a number is not finite, or a scale not positive.
        """
        mean, prior, noise = np.broadcast_arrays(
            _finite("prior_mean", prior_mean),
            _positive("prior_scale", prior_scale),
            _positive("noise_scale", noise_scale),
        )
        return NormalNormal(mean, (noise / prior) ** 2, noise)

    @staticmethod
    def beta_bernoulli(a: float = 1.0, b: float = 1.0) -> "BetaBernoulli":
        """Observations 0 or 1, and a Beta(a, b) prior of the probability of 1.

        Args:
            a: prior count of ones, positive.
            b: prior count of zeros, positive.

        Raises:
            ValueError: a count is not positive and finite.
        """
        a_, b_ = _positive("a", a), _positive("b", b)
        return BetaBernoulli(a_ / (a_ + b_), a_ + b_)

    @staticmethod
    def dirichlet_categorical(concentration: Float[ArrayLike, " k"]) -> "DirichletCategorical":
        """Observations 0, ..., k - 1, and a Dirichlet prior of their probabilities.

        Args:
            concentration: prior counts (k,), positive, k at least 2.

        Raises:
            ValueError: a count is not positive and finite, or there are fewer than two.
        """
        counts = _positive("concentration", concentration)
        if counts.ndim != 1 or len(counts) < 2:
            raise ValueError(f"concentration must have shape (k,) with k at least 2, got shape {counts.shape}")
        return DirichletCategorical(counts / counts.sum(), counts.sum())

    @staticmethod
    def normal_inverse_gamma(
        mean: float = 0.0, strength: float = 1.0, shape: float = 1.0, rate: float = 1.0
    ) -> "NormalInverseGamma":
        """Normal observations (n,) of unknown mean and variance: variance ~ InverseGamma(shape, rate), and the mean
        given it ~ N(mean, variance / strength).

        Args:
            mean: prior mean.
            strength: number of observations that the prior mean counts for, positive.
            shape: shape of the inverse gamma law, positive.
            rate: its scale parameter, in squared units of the data, positive.

        Raises:
            ValueError: a number is not finite, or not positive where it has to be.
        """
        shape_ = _positive("shape", shape)
        return NormalInverseGamma(
            _finite("mean", mean), _positive("strength", strength), shape_, _positive("rate", rate) / shape_
        )

    def init(self, data: Any) -> Any:
        """The posterior given the data."""
        raise NotImplementedError

    def sample(self, key: Array, state: Any) -> Any:
        """A draw of the next observation."""
        raise NotImplementedError

    def update(self, state: Any, y: Any) -> Any:
        """The posterior after one more observation."""
        raise NotImplementedError

    def limit(self, key: Array, state: Any) -> Any:
        """The state after infinitely many observations: the parameter drawn from the posterior."""
        raise NotImplementedError

    def log_prob(self, state: Any, y: Any) -> Any:
        """Log density, or log probability, of the next observation."""
        raise NotImplementedError

    def cdf(self, state: Any, y: Any) -> Any:
        """Probability that the next observation is at most y."""
        raise NotImplementedError


class MeanState(NamedTuple):
    """Posterior mean of what the model's parameter is, and the number of observations that it rests on."""

    mean: Float[AnyArray, "*d"]
    strength: Float[AnyArray, "*#d"]


class NormalNormal(ConjugatePredictive):
    """`ConjugatePredictive.normal_normal`; the strength is in units of observations."""

    prior_mean: Float[np.ndarray, "*d"]
    prior_strength: Float[np.ndarray, "*d"]
    noise_scale: Float[np.ndarray, "*d"]

    def init(self, data: Any) -> MeanState:
        y = _numbers(data, self.prior_mean.shape)
        strength = self.prior_strength + len(y)
        return MeanState(jnp.asarray((self.prior_strength * self.prior_mean + y.sum(axis=0)) / strength), strength)

    def predicted_scale(self, state: MeanState) -> Float[Array, "*d"]:
        """Standard deviation of the next observation."""
        return jnp.asarray(self.noise_scale) * jnp.sqrt(1 + 1 / state.strength)

    def sample(self, key: Array, state: MeanState) -> Float[Array, "*d"]:
        return state.mean + self.predicted_scale(state) * jax.random.normal(key, jnp.shape(state.mean), float)

    def update(self, state: MeanState, y: Float[Array, "*d"]) -> MeanState:
        strength = state.strength + 1
        return MeanState(state.mean + (y - state.mean) / strength, strength)

    def limit(self, key: Array, state: MeanState) -> MeanState:
        noise = jax.random.normal(key, jnp.shape(state.mean), float)
        mean = state.mean + self.noise_scale / jnp.sqrt(state.strength) * noise
        return MeanState(mean, jnp.full_like(state.strength, jnp.inf))

    def log_prob(self, state: MeanState, y: Float[Array, "*d"]) -> Float[Array, "*d"]:
        return norm.logpdf(y, state.mean, self.predicted_scale(state))

    def cdf(self, state: MeanState, y: Float[Array, "*d"]) -> Float[Array, "*d"]:
        return norm.cdf(y, state.mean, self.predicted_scale(state))


class BetaBernoulli(ConjugatePredictive):
    """`ConjugatePredictive.beta_bernoulli`."""

    prior_mean: Float[np.ndarray, ""]
    prior_strength: Float[np.ndarray, ""]

    def init(self, data: Any) -> MeanState:
        y = _numbers(data, ())
        if not np.isin(y, (0, 1)).all():
            raise ValueError(f"data must be 0 or 1, got {y[~np.isin(y, (0, 1))][0]:g}")
        strength = self.prior_strength + len(y)
        return MeanState(jnp.asarray((self.prior_strength * self.prior_mean + y.sum()) / strength), strength)

    def sample(self, key: Array, state: MeanState) -> Array:
        return jax.random.bernoulli(key, state.mean).astype(int)

    def update(self, state: MeanState, y: Any) -> MeanState:
        strength = state.strength + 1
        return MeanState(state.mean + (y - state.mean) / strength, strength)

    def limit(self, key: Array, state: MeanState) -> MeanState:
        ones, zeros = state.strength * state.mean, state.strength * (1 - state.mean)
        return MeanState(jax.random.beta(key, ones, zeros), jnp.full_like(state.strength, jnp.inf))

    def log_prob(self, state: MeanState, y: Any) -> Float[Array, ""]:
        return xlogy(y, state.mean) + xlog1py(1 - y, -state.mean)

    def cdf(self, state: MeanState, y: Any) -> Float[Array, ""]:
        return jnp.where(y < 0, 0.0, jnp.where(y < 1, 1 - state.mean, 1.0))


class DirichletCategorical(ConjugatePredictive):
    """`ConjugatePredictive.dirichlet_categorical`; the mean is the vector of probabilities (k,)."""

    prior_mean: Float[np.ndarray, " k"]
    prior_strength: Float[np.ndarray, ""]

    def init(self, data: Any) -> MeanState:
        y, k = _numbers(data, ()), len(self.prior_mean)
        if not np.isin(y, np.arange(k)).all():
            raise ValueError(f"data must be integers from 0 to {k - 1}, got {y[~np.isin(y, np.arange(k))][0]:g}")
        strength = self.prior_strength + len(y)
        counts = np.bincount(y.astype(int), minlength=k)
        return MeanState(jnp.asarray((self.prior_strength * self.prior_mean + counts) / strength), strength)

    def sample(self, key: Array, state: MeanState) -> Array:
        return jax.random.categorical(key, jnp.log(state.mean))

    def update(self, state: MeanState, y: Any) -> MeanState:
        strength = state.strength + 1
        hit = (jnp.arange(state.mean.shape[-1]) == y).astype(state.mean.dtype)
        return MeanState(state.mean + (hit - state.mean) / strength, strength)

    def limit(self, key: Array, state: MeanState) -> MeanState:
        mean = jax.random.dirichlet(key, state.strength * state.mean)
        return MeanState(mean, jnp.full_like(state.strength, jnp.inf))

    def log_prob(self, state: MeanState, y: Any) -> Float[Array, ""]:
        return jnp.log(state.mean[y])

    def cdf(self, state: MeanState, y: Any) -> Float[Array, ""]:
        return jnp.sum(jnp.where(jnp.arange(state.mean.shape[-1]) <= y, state.mean, 0.0))


class NormalInverseGammaState(NamedTuple):
    """Parameters of the posterior of a normal mean and variance.

    `variance` is rate / shape, whose limit is the variance of the observations; the posterior mean of that variance is
    `shape / (shape - 1)` times as large, where the shape is above 1.
    """

    mean: Float[Array, ""]
    strength: Float[Array, ""]
    shape: Float[Array, ""]
    variance: Float[Array, ""]


class NormalInverseGamma(ConjugatePredictive):
    """`ConjugatePredictive.normal_inverse_gamma`: the next observation is Student's t, 2 shape degrees of freedom."""

    prior_mean: Float[np.ndarray, ""]
    prior_strength: Float[np.ndarray, ""]
    prior_shape: Float[np.ndarray, ""]
    prior_variance: Float[np.ndarray, ""]

    def init(self, data: Any) -> NormalInverseGammaState:
        y = _numbers(data, ())
        n, average = len(y), float(y.mean()) if len(y) else 0.0
        strength, shape = self.prior_strength + n, self.prior_shape + n / 2
        mean = (self.prior_strength * self.prior_mean + n * average) / strength
        between = self.prior_strength * n / strength * (average - self.prior_mean) ** 2
        rate = self.prior_shape * self.prior_variance + 0.5 * (np.sum((y - average) ** 2) + between)
        return NormalInverseGammaState(*(jnp.asarray(x, float) for x in (mean, strength, shape, rate / shape)))

    def predicted_scale(self, state: NormalInverseGammaState) -> Float[Array, ""]:
        """Scale of the t law of the next observation."""
        return jnp.sqrt(state.variance * (1 + 1 / state.strength))

    def sample(self, key: Array, state: NormalInverseGammaState) -> Float[Array, ""]:
        # A normal over the root of a gamma draw is Student's t, and cheaper than jax.random.t by its own sampler.
        normal_key, gamma_key = jax.random.split(key)
        chi = jax.random.gamma(gamma_key, state.shape) / state.shape
        return state.mean + self.predicted_scale(state) * jax.random.normal(normal_key, (), float) / jnp.sqrt(chi)

    def update(self, state: NormalInverseGammaState, y: Float[Array, ""]) -> NormalInverseGammaState:
        strength, shape, away = state.strength + 1, state.shape + 0.5, y - state.mean
        gain = state.strength / strength * away**2 - state.variance
        return NormalInverseGammaState(
            state.mean + away / strength, strength, shape, state.variance + 0.5 * gain / shape
        )

    def limit(self, key: Array, state: NormalInverseGammaState) -> NormalInverseGammaState:
        normal_key, gamma_key = jax.random.split(key)
        variance = state.shape * state.variance / jax.random.gamma(gamma_key, state.shape)
        mean = state.mean + jnp.sqrt(variance / state.strength) * jax.random.normal(normal_key, (), float)
        infinite = jnp.full_like(state.mean, jnp.inf)
        return NormalInverseGammaState(mean, infinite, infinite, variance)

    def log_prob(self, state: NormalInverseGammaState, y: Float[Array, "..."]) -> Float[Array, "..."]:
        return t.logpdf(y, 2 * state.shape, state.mean, self.predicted_scale(state))

    def cdf(self, state: NormalInverseGammaState, y: Float[Array, "..."]) -> Float[Array, "..."]:
        z = (y - state.mean) / self.predicted_scale(state)
        tail = 0.5 * betainc(state.shape, 0.5, 2 * state.shape / (2 * state.shape + z**2))
        return jnp.where(z < 0, tail, 1 - tail)


def _numbers(data: Any, shape: tuple[int, ...]) -> Float[np.ndarray, "n *d"]:
    """Observations as an array (n, *shape), of length zero for None."""
    y = np.zeros((0, *shape)) if data is None else np.asarray(data, float)
    count_observations(y)
    if y.shape[1:] != shape:
        raise ValueError(f"data must have shape (n{''.join(f', {k}' for k in shape) or ','}), got {y.shape}")
    return y


def _finite(name: str, value: ArrayLike) -> Float[np.ndarray, "*d"]:
    array = np.asarray(value, float)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {value}")
    return array


def _positive(name: str, value: ArrayLike) -> Float[np.ndarray, "*d"]:
    array = _finite(name, value)
    if not (array > 0).all():
        raise ValueError(f"{name} must be positive, got {value}")
    return array
