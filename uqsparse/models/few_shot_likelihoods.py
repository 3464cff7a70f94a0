"""What the outputs of a network say of targets: a normal distribution of learned width, or class probabilities.

Both likelihoods hand out what the learners need: losses, predictions, and curvature in the form of whitened rows.
"""

import math
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from uqsparse.kernels.arguments import require_count

LikelihoodName = Literal["gaussian", "categorical"]
# Probabilities are kept away from zero by so much where something is divided by their root.
_LEAST_PROBABILITY = 1e-6

# Of one task: numbers (n, c), or classes (n,).
Targets = Num[Array, "n ..."]


class Gaussian(eqx.Module):
    """Targets are outputs plus independent normal noise.

    Args:
        log_noise: logarithm of the noise's standard deviation, in the targets' unit.
        learned: whether training changes it.
    """

    log_noise: Float[Array, ""]
    learned: bool = eqx.field(static=True)

    @property
    def noise(self) -> Float[Array, ""]:
        """Standard deviation of the noise."""
        return jnp.exp(self.log_noise if self.learned else jax.lax.stop_gradient(self.log_noise))

    def nll(self, outputs: Float[Array, "n c"], y: Float[Array, "n c"]) -> Float[Array, " n"]:
        """Negative log density of each row."""
        return self.expected_nll(outputs, jnp.zeros_like(outputs), y)

    def expected_nll(
        self, mean: Float[Array, "n c"], variance: Float[Array, "n c"], y: Float[Array, "n c"]
    ) -> Float[Array, " n"]:
        """Mean negative log density of each row where the outputs are uncertain, with this mean and variance."""
        noise = self.noise
        return (((y - mean) ** 2 + variance) / (2 * noise**2) + jnp.log(noise) + math.log(2 * math.pi) / 2).sum(-1)

    def inner_loss(self, outputs: Float[Array, "n c"], y: Float[Array, "n c"]) -> Float[Array, ""]:
        """What gradient steps on a task lower: the mean squared error, which does not depend on the noise."""
        return ((outputs - y) ** 2).sum(-1).mean()

    def whiten(
        self, outputs: Float[Array, "n c"], y: Float[Array, "n c"]
    ) -> tuple[Float[Array, "n c c"], Float[Array, "n c"]]:
        """Factors L and residuals z: of the loss in the outputs, L L' is the curvature and -L z the slope."""
        factor = jnp.broadcast_to(jnp.eye(outputs.shape[-1], dtype=outputs.dtype), (*outputs.shape, outputs.shape[-1]))
        return factor / self.noise, (y - outputs) / self.noise


class Categorical(eqx.Module):
    """Targets are classes, outputs are their logits.

    Args:
        n_way: how many classes a task has.
    """

    n_way: int = eqx.field(static=True)

    def nll(self, outputs: Float[Array, "n c"], y: Int[Array, " n"]) -> Float[Array, " n"]:
        """Negative log probability of each row."""
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], axis=-1)[:, 0]

    def inner_loss(self, outputs: Float[Array, "n c"], y: Int[Array, " n"]) -> Float[Array, ""]:
        """What gradient steps on a task lower: the mean negative log probability."""
        return self.nll(outputs, y).mean()

    def whiten(
        self, outputs: Float[Array, "n c"], y: Int[Array, " n"]
    ) -> tuple[Float[Array, "n c c"], Float[Array, "n c"]]:
        """Factors L and residuals z: of the loss in the outputs, L L' is the curvature and -L z the slope."""
        p = jnp.maximum(jax.nn.softmax(outputs), _LEAST_PROBABILITY)
        root = jnp.sqrt(p)
        # L = diag(sqrt p) - p sqrt(p)' has L L' = diag(p) - p p', and L (y - p) / sqrt(p) = y - p.
        factor = root[:, :, None] * jnp.eye(p.shape[-1], dtype=p.dtype) - p[:, :, None] * root[:, None, :]
        return factor, (jax.nn.one_hot(y, p.shape[-1], dtype=p.dtype) - p) / root


Likelihood = Gaussian | Categorical


def make_likelihood(name: LikelihoodName, n_way: int | None, noise: float, learn_noise: bool) -> Likelihood:
    """A likelihood by its name.

    Args:
        name: "gaussian" or "categorical".
        n_way: classes of a task, for "categorical" alone.
        noise: standard deviation of the targets' noise at the start, positive.
        learn_noise: whether training changes it.

    Raises:
        ValueError: the name is unknown, or an argument is out of range.
    """
    if name not in get_args(LikelihoodName):
        raise ValueError(f"likelihood must be one of {', '.join(map(repr, get_args(LikelihoodName)))}, got {name!r}")
    if not (isinstance(noise, int | float) and 0 < noise < math.inf):
        raise ValueError(f"noise must be a positive number, got {noise!r}")
    if name == "gaussian":
        if n_way is not None:
            raise ValueError(f"n_way is for likelihood='categorical', got n_way={n_way!r}")
        return Gaussian(jnp.log(jnp.asarray(noise, float)), learn_noise)
    require_count("n_way", n_way, 2)
    return Categorical(int(n_way or 0))


def mean_field_probabilities(
    mean: Float[Array, "*batch c"], variance: Float[Array, "*batch c"]
) -> Float[Array, "*batch c"]:
    """Class probabilities where logits are uncertain: `softmax(mean_c / sqrt(1 + pi variance_c / 8))`.

    Source: MacKay (1992), The evidence framework applied to classification networks, section 2; for several classes
    Lu, Ie & Sha (2020), Mean-field approximation to Gaussian-softmax integral, equation 7.

    >>> mean_field_probabilities(jnp.array([2.0, 0.0]), jnp.array([1e6, 1e6])).round(2).tolist()
    [0.5, 0.5]
    """
    return jax.nn.softmax(mean / jnp.sqrt(1 + math.pi / 8 * variance))
