"""Maximum magnitude causes analysis: signed causes of which every pixel shows the one of largest magnitude."""

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from uqsparse.models.sparse_coding.estimator import SparseCodingEstimator
from uqsparse.models.sparse_coding.max_superposition import DICTIONARY_FLOOR, MaxSuperpositionModel
from uqsparse.solvers.truncated_model import Parameters

# Where causes of opposite sign cross, a full step to the new value overshoots, and the next one back: the update's
# slope at its fixed point is below -1. This share of a step brings it to about -1/4.
_STEP = 0.4


class MaximumMagnitudeModel(MaxSuperpositionModel):
    """Data that show in every pixel the s_h W_dh of largest magnitude, with noise; s_h is 1 with probability pi.

    Args:
        n_causes: number of causes H.
        n_candidates: number of candidates H'.
        gamma: most active causes in a state with several.

    Source: Bornschein, Henniges & Lücke (2013), Are V1 simple cells optimized for visual occlusions? A comparative
    study, PLOS Computational Biology 9.

    >>> MaximumMagnitudeModel(n_causes=10, n_candidates=7, gamma=4).n_values
    1
    """

    signed: ClassVar[bool] = True

    def candidate_scores(self, dictionary: Float[Array, "D H"], Y: Float[Array, "n D"]) -> Float[Array, "n H"]:
        """Minus the squared distance between datum and cause, but for the datum's own length."""
        return 2 * Y @ dictionary - jnp.sum(jnp.square(dictionary), axis=0)

    def restricted(self, dictionary: Float[Array, "D H"]) -> Float[Array, "D H"]:
        """The dictionary with its entries at least `DICTIONARY_FLOOR` from 0."""
        floor = jnp.where(dictionary < 0, -DICTIONARY_FLOOR, DICTIONARY_FLOOR)
        return jnp.where(jnp.abs(dictionary) < DICTIONARY_FLOOR, floor, dictionary)

    def first_dictionary(
        self, noise: Float[Array, "D H"], mean: Float[Array, " D"], scale: Float[Array, ""]
    ) -> Float[Array, "D H"]:
        """Noise around the data's mean."""
        return mean[:, None] + noise * scale / 4

    def step_size(self, attribution: Float[Array, "D H"]) -> Float[Array, "D H"] | float:
        """A fraction of a step, less for entries to which few data are attributed."""
        return _STEP * jnp.maximum(-jnp.expm1(-attribution / 2.5), 0.2)


class MaximumMagnitudeCauses(SparseCodingEstimator):
    """Maximum magnitude causes: learns signed causes that hide each other, with noise, activity and posteriors.

    Each datum is, pixel by pixel, the s_h W_dh of largest magnitude plus normal noise, and each cause is on with
    probability pi. Use it where things that are present cover each other, and light and dark, or above and below, count
    alike: image patches after whitening. The posterior of each datum is kept on the states with no, one, or up to gamma
    causes among its H' most promising ones (expectation truncation), and the maximum is a soft one that sharpens as
    the fit cools.

    Args:
        n_causes: number of causes H.
        n_candidates: number of candidates H' of each datum, in [1, H]; None is 7, or H if that is less.
        gamma: most active causes in a state, in [1, H']; None is 4, or H' if that is less.
        n_iter: number of iterations.
        temperature: temperature of the first iteration, at least 1; it falls to 1 over the first 80 %, and tempers
            prior and likelihood. None is 4.
        cut: whether M-steps leave out the data that the prior expects to have more than gamma active causes: those
            that are explained worst. The cut grows over the first two thirds of the iterations. None is True.
        parameter_noise: noise on the dictionary while it cools, falling to 0, as a share of its root mean square. None
            is 0.1.
        n_restarts: number of runs from different starts; that of the largest free energy is kept.
        adaptive: whether posteriors grow: as long as the most probable state of a datum has gamma active causes, both
            gamma and H' are raised for it.
        tol: relative change of the free energy in the last iteration that counts as converged.
        max_states: most states of a datum; more are refused before any work.
        chunk_size: rows handled at a time; None chooses.
        dtype: precision. In "float32" a fit takes about half the time and memory, and squared errors lose digits where
            the noise is small.
        progress: whether to show a bar.
        random_state: seed of the starts, the parameter noise and samples.

    Attributes:
        dictionary_: W, at least 1e-4 from 0, shape (D, H).
        noise_scale_: standard deviation of the noise.
        prior_probability_: probability pi that a cause is on.
        free_energy_trace_: free energy of all data before each M-step, in nats, at that iteration's temperature. The
            M-step is exact for a sharp maximum only, so that it may fall a little.
        n_iter_: number of iterations.
        restarts_: the `TruncatedEM` records of all runs, best first.
        model_: the model, with H' and gamma as they were used.
        parameters_: the parameters as the model wants them.

    Source: Bornschein, Henniges & Lücke (2013), Are V1 simple cells optimized for visual occlusions? A comparative
    study, PLOS Computational Biology 9; Lücke & Eggert (2010), Expectation truncation and the benefits of preselection
    in training generative models, JMLR 11.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> on = rng.random((200, 2)) < 0.4
    >>> X = np.where(on[:, :1], [5.0, 0, 3], np.where(on[:, 1:], [0, -4.0, 0], 0)) + rng.normal(size=(200, 3))
    >>> MaximumMagnitudeCauses(n_causes=2, random_state=0).fit(X).noise_scale_ < 1.1
    np.True_
    """

    _default_truncation = (7, 4)
    _default_temperature = 4.0
    _default_parameter_noise = 0.1

    def _build_model(self, n_candidates: int, gamma: int) -> MaximumMagnitudeModel:
        return MaximumMagnitudeModel(self.n_causes, n_candidates, gamma)  # pyright: ignore[reportCallIssue]

    def _set_prior(self, parameters: Parameters) -> None:
        self.prior_probability_ = parameters.prior_probability[()]
