"""Maximal causes analysis: nonnegative causes of which every pixel shows the largest."""

import math
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array, Float

from uqsparse.models.sparse_coding.estimator import SparseCodingEstimator
from uqsparse.models.sparse_coding.max_superposition import DICTIONARY_FLOOR, MaxSuperpositionModel
from uqsparse.solvers.truncated_model import Parameters

# Data are refused if their being positive but for noise is less probable than this.
_LEVEL = 1e-6


class MaximalModel(MaxSuperpositionModel):
    """Data `y_d = max_h s_h W_dh + noise` with W >= 0 and causes that are 1 with probability pi, and else 0.

    Args:
        n_causes: number of causes H.
        n_candidates: number of candidates H'.
        gamma: most active causes in a state with several.

    Source: Lücke & Sahani (2008), Maximal causes for non-linear component extraction, JMLR 9; Puertas, Bornschein &
    Lücke (2010), The maximal causes of natural scenes are edge filters, NIPS 23.

    >>> MaximalModel(n_causes=10, n_candidates=7, gamma=4).n_values
    1
    """

    signed: ClassVar[bool] = False

    def candidate_scores(self, dictionary: Float[Array, "D H"], Y: Float[Array, "n D"]) -> Float[Array, "n H"]:
        """Minus how far the cause stands out above the datum, summed over pixels."""
        return -jnp.sum(jnp.maximum(dictionary.T - Y[:, None], 0), axis=2)

    def restricted(self, dictionary: Float[Array, "D H"]) -> Float[Array, "D H"]:
        """The dictionary with its entries at least `DICTIONARY_FLOOR`."""
        return jnp.maximum(dictionary, DICTIONARY_FLOOR)

    def check_dictionary(self, dictionary: Float[Array, "D H"]) -> None:
        """Refuse negative entries."""
        lowest = np.min(dictionary)
        if lowest < 0:
            raise ValueError(f"dictionary must be at least 0 where the largest cause is seen, got {lowest:.4g}")

    def first_dictionary(
        self, noise: Float[Array, "D H"], mean: Float[Array, " D"], scale: Float[Array, ""]
    ) -> Float[Array, "D H"]:
        """The data's mean with noise for every cause."""
        return jnp.abs(mean[:, None] + noise * scale / 4)


class MaximalCauses(SparseCodingEstimator):
    """Maximal causes analysis: learns nonnegative causes that hide each other, with noise, activity and posteriors.

    `y_d = max_h s_h W_dh + noise`, where each cause is on with probability pi and the noise is normal. Use it where
    things that are present cover each other and the strongest is seen or heard: objects in an image, sources in a
    spectrogram. The posterior of each datum is kept on the states with no, one, or up to gamma causes among its H'
    most promising ones (expectation truncation), and the maximum is a soft one that sharpens as the fit cools.

    Data may be negative by noise, but not on average: a column whose mean is below 0 by more than chance is refused.

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
        dictionary_: W, at least 1e-4, shape (D, H).
        noise_scale_: standard deviation of the noise.
        prior_probability_: probability pi that a cause is on.
        free_energy_trace_: free energy of all data before each M-step, in nats, at that iteration's temperature. The
            M-step is exact for a sharp maximum only, so that it may fall a little.
        n_iter_: number of iterations.
        restarts_: the `TruncatedEM` records of all runs, best first.
        model_: the model, with H' and gamma as they were used.
        parameters_: the parameters as the model wants them.

    Source: Lücke & Sahani (2008), Maximal causes for non-linear component extraction, JMLR 9; Lücke & Eggert (2010),
    Expectation truncation and the benefits of preselection in training generative models, JMLR 11.

    >>> rng = np.random.default_rng(0)
    >>> bars = np.array([[5.0, 0, 5], [0, 5, 5]])
    >>> X = ((rng.random((200, 2, 1)) < 0.4) * bars).max(axis=1) + rng.normal(size=(200, 3))
    >>> MaximalCauses(n_causes=2, n_iter=20, random_state=0).fit(X).prior_probability_.round(1)
    np.float64(0.4)
    """

    _default_truncation = (7, 4)
    _default_temperature = 4.0
    _default_parameter_noise = 0.1

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags

    def _build_model(self, n_candidates: int, gamma: int) -> MaximalModel:
        return MaximalModel(self.n_causes, n_candidates, gamma)  # pyright: ignore[reportCallIssue]

    def _set_prior(self, parameters: Parameters) -> None:
        self.prior_probability_ = parameters.prior_probability[()]

    def _check_data(self, X: Float[np.ndarray, "n D"]) -> None:
        """Refuse data with a column whose mean is negative by more than noise, in a t test at level 1e-6 for all."""
        n, n_features = X.shape
        if n < 2:
            return
        mean, error = X.mean(axis=0), X.std(axis=0, ddof=1) / math.sqrt(n)
        limit = scipy.stats.t.isf(_LEVEL / n_features, n - 1)
        low = np.flatnonzero(mean < -limit * error - 8 * np.finfo(X.dtype).eps * np.abs(X).max(axis=0))
        if low.size:
            worst = low[np.argmin(mean[low])]
            raise ValueError(
                f"Negative values in data passed to MaximalCauses: X must be at least 0 but for noise, and the mean "
                f"of column {worst} is {mean[worst]:.4g} with standard error {error[worst]:.2g}; "
                "MaximumMagnitudeCauses takes signed data"
            )
