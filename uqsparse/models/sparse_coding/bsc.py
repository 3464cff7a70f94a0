"""Binary sparse coding: causes that are on or off and add linearly."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from uqsparse.kernels.namespaces import AnyArray
from uqsparse.models.sparse_coding.activity_prior import covered_share, next_probability
from uqsparse.models.sparse_coding.estimator import SparseCodingEstimator
from uqsparse.models.sparse_coding.linear_discrete import LinearDiscreteModel
from uqsparse.solvers.truncated_model import Parameters


class ActivityParameters(NamedTuple):
    """Parameters of a linear model in which all causes are active with the same probability.

    Args:
        dictionary: W, a column for each cause, shape (D, H).
        noise_scale: standard deviation of the noise.
        prior_probability: probability that a cause is active.
    """

    dictionary: Float[AnyArray, "D H"]
    noise_scale: Float[AnyArray, ""]
    prior_probability: Float[AnyArray, ""]


class ActivityModel(LinearDiscreteModel):
    """Causes that are active with one probability, and then have each of their values equally often."""

    def log_prior(self, parameters: ActivityParameters) -> tuple[Float[Array, ""], Float[Array, " v"]]:
        """Log probabilities that a cause is 0, and that it has each of the other values."""
        probability = jnp.asarray(parameters.prior_probability)
        each = jnp.log(probability) - jnp.log(float(self.n_values))
        return jnp.log1p(-probability), jnp.full(self.n_values, each, probability.dtype)

    def with_prior(
        self, parameters: ActivityParameters, counts: Float[Array, " v"], n_rows: Float[Array, ""]
    ) -> ActivityParameters:
        """Replace the probability, corrected for the states that are left out."""
        probability = next_probability(
            self.n_causes, self.gamma, parameters.prior_probability, jnp.sum(counts) / n_rows
        )
        return parameters._replace(prior_probability=probability)

    def first_parameters(self, dictionary: Float[Array, "D H"], noise_scale: Float[Array, ""]) -> ActivityParameters:
        """Parameters with this dictionary and noise, and with one cause in H active."""
        return ActivityParameters(dictionary, noise_scale, jnp.full((), min(0.5, 1 / self.n_causes), dictionary.dtype))

    def covered_share(self, parameters: ActivityParameters) -> Float[Array, ""]:
        """Prior probability that a datum has at most gamma active causes."""
        return covered_share(self.n_causes, self.gamma, parameters.prior_probability)


class BinaryModel(ActivityModel):
    """Data `y = W s + noise` with causes that are 1 with probability pi, and else 0.

    Args:
        n_causes: number of causes H.
        n_candidates: number of candidates H'.
        gamma: most active causes in a state with several.

    Source: Henniges, Puertas, Bornschein, Eggert & Lücke (2010), Binary sparse coding, LVA/ICA.

    >>> BinaryModel(n_causes=10, n_candidates=8, gamma=3).n_values
    1
    """

    @property
    def values(self) -> tuple[float, ...]:
        """What an active cause may be."""
        return (1.0,)

    def candidate_scores(
        self, correlation: Float[Array, "n H"], norms: Float[Array, " H"], single: Float[Array, "v n H"]
    ) -> Float[Array, "n H"]:
        """Cosine of the angle between datum and column, times the datum's length; 0 for a column of zeros."""
        return correlation / jnp.sqrt(jnp.where(norms > 0, norms, 1))


class BinarySparseCoding(SparseCodingEstimator):
    """Binary sparse coding: learns causes that are on or off, with noise level, activity and posteriors.

    `y = sum_h s_h W_h + noise`, where each cause is on with probability pi and the noise is normal. Use it where
    things are there or not there, and add. The posterior of each datum is kept on the states with no, one, or up to
    gamma causes among its H' most promising ones (expectation truncation).

    Args:
        n_causes: number of causes H.
        n_candidates: number of candidates H' of each datum, in [1, H]; None is 8, or H if that is less.
        gamma: most active causes in a state, in [1, H']; None is 5, or H' if that is less.
        n_iter: number of iterations.
        temperature: temperature of the first iteration, at least 1; it falls to 1 over the first 80 %, and tempers the
            likelihood alone. None is 5.
        cut: whether M-steps leave out the data that the prior expects to have more than gamma active causes: those
            that are explained worst. The cut grows over the first two thirds of the iterations. None is True.
        parameter_noise: noise on the dictionary in the first iterations, as a share of its root mean square. None is 0.
        n_restarts: number of runs from different starts; that of the largest free energy is kept.
        adaptive: whether posteriors grow: as long as the most probable state of a datum has gamma active causes, both
            gamma and H' are raised for it.
        tol: relative change of the free energy in the last iteration that counts as converged.
        max_states: most states of a datum; more are refused before any work.
        chunk_size: rows handled at a time; None chooses.
        dtype: precision. In "float32" a fit takes about half the time and memory, and squared errors lose digits where
            the noise is small: noise below 1/300 of the data's root mean square cannot be learned.
        progress: whether to show a bar.
        random_state: seed of the starts, the parameter noise and samples.

    Attributes:
        dictionary_: W, shape (D, H).
        noise_scale_: standard deviation of the noise.
        prior_probability_: probability pi that a cause is on.
        free_energy_trace_: free energy of all data before each M-step, in nats, at that iteration's temperature.
        n_iter_: number of iterations.
        restarts_: the `TruncatedEM` records of all runs, best first.
        model_: the model, with H' and gamma as they were used.
        parameters_: the parameters as the model wants them.

    Source: Henniges, Puertas, Bornschein, Eggert & Lücke (2010), Binary sparse coding, LVA/ICA; Lücke & Eggert (2010),
    Expectation truncation and the benefits of preselection in training generative models, JMLR 11.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = (rng.random((200, 2)) < 0.3) @ np.array([[9.0, 0, 9], [0, 9, 9]]) + rng.normal(size=(200, 3))
    >>> coder = BinarySparseCoding(n_causes=2, n_iter=50, temperature=1.0, random_state=0).fit(X)
    >>> coder.prior_probability_.round(1), coder.noise_scale_.round(0)
    (np.float64(0.3), np.float64(1.0))
    """

    def _build_model(self, n_candidates: int, gamma: int) -> BinaryModel:
        return BinaryModel(self.n_causes, n_candidates, gamma)  # pyright: ignore[reportCallIssue]

    def _set_prior(self, parameters: Parameters) -> None:
        self.prior_probability_ = parameters.prior_probability
