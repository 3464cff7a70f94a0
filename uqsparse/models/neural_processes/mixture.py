"""What a neural process predicts: an equal mixture of functions with Gaussian noise."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from uqsparse.kernels.arguments import require_count


class Mixture(NamedTuple):
    """K equally probable components; each has one Gaussian at every target, independent of the others given it.

    A leading axis of tasks may stand between that of the components and that of the targets.

    Args:
        means: of each component, shape (K, ..., M, dy).
        scales: standard deviations, positive, shape (K, ..., M, dy).
    """

    means: Float[Array, "K *tasks M dy"]
    scales: Float[Array, "K *tasks M dy"]

    @property
    def n_components(self) -> int:
        """K."""
        return self.means.shape[0]

    @property
    def mean(self) -> Float[Array, "*tasks M dy"]:
        """Mean of the mixture."""
        return self.means.mean(axis=0)

    @property
    def variance(self) -> Float[Array, "*tasks M dy"]:
        """Variance of the mixture: of the noise, on average, and of the components' means."""
        return (self.scales**2).mean(axis=0) + self.means.var(axis=0)

    @property
    def standard_deviation(self) -> Float[Array, "*tasks M dy"]:
        """Standard deviation of the mixture."""
        return jnp.sqrt(self.variance)

    def log_prob(self, y: Float[Array, "*tasks M dy"]) -> Float[Array, "*tasks M"]:
        """Log density of each target by itself."""
        return log_mean_exp(self._log_densities(y))

    def joint_log_prob(
        self, y: Float[Array, "*tasks M dy"], mask: Bool[Array, "*tasks M"] | None = None
    ) -> Float[Array, "*tasks"]:
        """Log density of all targets at once: one component must explain them all.

        Args:
            y: the targets.
            mask: which of them there are; all if not given.
        """
        densities = self._log_densities(y)
        return log_mean_exp(densities.sum(-1) if mask is None else jnp.where(mask, densities, 0.0).sum(-1))

    def sample(self, key: Key[Array, ""], n_samples: int) -> Float[Array, "n *tasks M dy"]:
        """Draw targets: a component for each draw, then its noise. The rows of `means` are functions without noise.

        Args:
            key: random key.
            n_samples: draws, at least 1.
        """
        require_count("n_samples", n_samples, 1)
        key_component, key_noise = jax.random.split(key)
        tasks = self.means.shape[1:-2]
        which = jax.random.randint(key_component, (n_samples, *tasks, 1, 1), 0, self.n_components)
        mean, scale = (jnp.take_along_axis(x, which, axis=0) for x in self)
        return mean + scale * jax.random.normal(key_noise, mean.shape)

    def _log_densities(self, y: Array) -> Float[Array, "K *tasks M"]:
        return gaussian_log_density(y, self.means, self.scales)


def gaussian_log_density(y: Array, mean: Array, scale: Array) -> Array:
    """Log density of independent Gaussians, summed over the last axis."""
    return (-0.5 * ((y - mean) / scale) ** 2 - jnp.log(scale) - 0.5 * math.log(2 * math.pi)).sum(-1)


def log_mean_exp(x: Float[Array, "K *rest"]) -> Float[Array, "*rest"]:
    """Log of the mean of exponentials over the first axis.

    >>> log_mean_exp(jnp.log(jnp.array([1.0, 3.0]))).round(4) == jnp.log(2.0).round(4)
    Array(True, dtype=bool)
    """
    return jax.scipy.special.logsumexp(x, axis=0) - math.log(x.shape[0])
