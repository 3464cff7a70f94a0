"""What the driver of truncated expectation maximisation asks of a model, and the records a model answers with."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from uqsparse.kernels.arguments import require_count

# Parameters and statistics are NamedTuples of arrays that only their model knows.
Parameters = Any
Statistics = Any


class EStep(NamedTuple):
    """What one pass over some rows yields.

    Args:
        log_evidence: log of the sum over the kept states of exp(log joint), at the pass's temperature and without the
            row's weight, shape (n,).
        statistics: a NamedTuple of arrays, each a sum over rows times their weights, so that chunks and shards add.
    """

    log_evidence: Float[Array, " n"]
    statistics: Statistics


class TruncatedPosterior(NamedTuple):
    """Posteriors of some rows over their kept states, at temperature 1.

    Args:
        states: the k most probable effective states of each row, best first, shape (n, k, H).
        probabilities: their probabilities, shape (n, k).
        marginals: probabilities that each cause is active, shape (n, H).
        mean: posterior mean of the effective state, shape (n, H).
        log_evidence: log of the sum over the kept states of exp(log joint), shape (n,).
    """

    states: Float[Any, "n k H"]
    probabilities: Float[Any, "n k"]
    marginals: Float[Any, "n H"]
    mean: Float[Any, "n H"]
    log_evidence: Float[Any, " n"]


class TruncatedModel(eqx.Module):
    """A generative model with discrete latent states whose posterior is cut down to few of them.

    Args:
        n_causes: number of causes H.
        n_candidates: number of candidates H' of each datum, in [1, H].
        gamma: most active causes in a state with several, in [1, H'].
    """

    n_causes: int = eqx.field(static=True)
    n_candidates: int = eqx.field(static=True)
    gamma: int = eqx.field(static=True)

    def __check_init__(self):
        for name in ("n_causes", "n_candidates", "gamma"):
            require_count(name, getattr(self, name), 1)
        if self.n_candidates > self.n_causes:
            raise ValueError(f"n_candidates must be at most n_causes={self.n_causes}, got {self.n_candidates}")
        if self.gamma > self.n_candidates:
            raise ValueError(f"gamma must be at most n_candidates={self.n_candidates}, got {self.gamma}")

    @property
    def n_values(self) -> int:
        """How many values other than 0 a cause may have; models with more than one must say so."""
        return 1

    @abc.abstractmethod
    def e_step(
        self,
        parameters: Parameters,
        Y: Float[Array, "n D"],
        weights: Float[Array, " n"],
        temperature: Float[Array, ""],
    ) -> EStep:
        """Log evidence of each row, and statistics summed over rows times `weights` (0 for padding)."""

    @abc.abstractmethod
    def m_step(self, parameters: Parameters, statistics: Statistics, temperature: Float[Array, ""]) -> Parameters:
        """Next parameters; floors and clips are applied here."""

    @abc.abstractmethod
    def activity(self, statistics: Statistics) -> Float[Array, " H"]:
        """Expected number of rows in which each cause is active: small for a dead cause."""

    @abc.abstractmethod
    def covered_share(self, parameters: Parameters) -> Float[Array, ""]:
        """Prior probability that a datum has at most gamma active causes: the share of data that a cut keeps."""

    @abc.abstractmethod
    def initial(self, key: Array, mean: Float[Any, " D"], scale: Float[Any, ""]) -> Parameters:
        """Parameters to start from, given the data's mean (D,) and their mean standard deviation over columns."""

    @abc.abstractmethod
    def revive(self, parameters: Parameters, index: Any, datum: Float[Array, " D"]) -> Parameters:
        """Start a dead cause again from a datum that is explained badly."""

    @abc.abstractmethod
    def posterior(self, parameters: Parameters, Y: Float[Array, "n D"], top_k: int) -> TruncatedPosterior:
        """Posteriors of rows over the kept states."""

    @abc.abstractmethod
    def reconstruct(self, parameters: Parameters, codes: Float[Array, "n H"]) -> Float[Array, "n D"]:
        """Mean of the data given effective states."""

    @abc.abstractmethod
    def sample(self, parameters: Parameters, key: Array, n: int) -> tuple[Float[Array, "n D"], Float[Array, "n H"]]:
        """Draw n data with their effective states from the model."""

    def perturb(self, parameters: Parameters, key: Array, scale: Float[Array, ""]) -> Parameters:
        """Add Gaussian noise to the dictionary, of standard deviation `scale` times its root mean square entry.

        Models that restrict the dictionary must override this and keep their restriction.
        """
        dictionary = parameters.dictionary
        size = scale * jnp.sqrt(jnp.mean(dictionary**2))
        noise = jax.random.normal(key, dictionary.shape, dictionary.dtype)
        return parameters._replace(dictionary=dictionary + size * noise)

    def floats_per_row(self, n_features: int) -> int:
        """About how many numbers of scratch space an E-step needs for a row; models with more must say so."""
        return 8 * self.n_causes + 2 * n_features
