"""Ternary sparse coding: causes that are -1, 0 or 1 and add linearly."""

from uqsparse.models.sparse_coding.bsc import ActivityModel
from uqsparse.models.sparse_coding.estimator import SparseCodingEstimator
from uqsparse.solvers.truncated_model import Parameters


class TernaryModel(ActivityModel):
    """Data `y = W s + noise` with causes that are 0 with probability 1 - pi, and -1 or 1 with pi / 2 each.

    Args:
        n_causes: number of causes H.
        n_candidates: number of candidates H'.
        gamma: most active causes in a state with several.

    Source: Exarchakis, Henniges, Eggert & Lücke (2012), Ternary sparse coding, LVA/ICA.

    >>> TernaryModel(n_causes=10, n_candidates=6, gamma=3).n_values
    2
    """

    @property
    def values(self) -> tuple[float, ...]:
        """What an active cause may be."""
        return (-1.0, 1.0)


class TernarySparseCoding(SparseCodingEstimator):
    """Ternary sparse coding: causes that are absent, or present with either sign.

    `y = sum_h s_h W_h + noise`, where each cause is 0 with probability 1 - pi, and -1 or 1 with pi / 2 each. Use it
    where a pattern and its negative are the same thing, and strengths hardly vary. Columns are learned up to sign.

    Args:
        n_causes: number of causes H.
        n_candidates: number of candidates H' of each datum, in [1, H]; None is 6, or H if that is less.
        gamma: most active causes in a state, in [1, H']; None is 3, or H' if that is less. A state with g active
            causes comes with 2^g signs.
        n_iter, temperature, cut, parameter_noise, n_restarts, adaptive, tol, max_states, chunk_size, dtype, progress,
            random_state: as in `BinarySparseCoding`, with 2 for a temperature of None.

    Attributes:
        dictionary_, noise_scale_, free_energy_trace_, n_iter_, restarts_, model_, parameters_: as in
            `BinarySparseCoding`.
        prior_probability_: probability pi that a cause is not 0.

    Source: Exarchakis, Henniges, Eggert & Lücke (2012), Ternary sparse coding, LVA/ICA.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> states = rng.choice([-1, 0, 1], p=[0.2, 0.6, 0.2], size=(200, 2))
    >>> X = states @ np.array([[9.0, 0, 9], [0, 9, -9]]) + rng.normal(size=(200, 3))
    >>> TernarySparseCoding(n_causes=2, n_iter=50, random_state=0).fit(X).noise_scale_.round(0)
    np.float64(1.0)
    """

    _default_truncation = (6, 3)
    _default_temperature = 2.0

    def _build_model(self, n_candidates: int, gamma: int) -> TernaryModel:
        return TernaryModel(self.n_causes, n_candidates, gamma)  # pyright: ignore[reportCallIssue]

    def _set_prior(self, parameters: Parameters) -> None:
        self.prior_probability_ = parameters.prior_probability
