"""Discrete sparse coding: causes with any few values, which add linearly."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from uqsparse.kernels.namespaces import AnyArray
from uqsparse.models.sparse_coding.activity_prior import covered_share, next_probability
from uqsparse.models.sparse_coding.estimator import SparseCodingEstimator
from uqsparse.models.sparse_coding.linear_discrete import LinearDiscreteModel
from uqsparse.models.sparse_coding.states import MAX_STATES
from uqsparse.solvers.truncated_model import Parameters

# Probabilities of values, 0 included, stay above this.
_VALUE_FLOOR = 1e-6


class DiscreteParameters(NamedTuple):
    """Parameters of a linear model with causes of several values.

    Args:
        dictionary: W, a column for each cause, shape (D, H).
        noise_scale: standard deviation of the noise.
        value_probabilities: probabilities of the values other than 0, shape (v,); their sum is below 1.
    """

    dictionary: Float[AnyArray, "D H"]
    noise_scale: Float[AnyArray, ""]
    value_probabilities: Float[AnyArray, " v"]


class DiscreteModel(LinearDiscreteModel):
    """Data `y = W s + noise` with causes that have each of some values with its own probability.

    Args:
        n_causes: number of causes H.
        n_candidates: number of candidates H'.
        gamma: most active causes in a state with several.
        values: what an active cause may be, distinct numbers, none 0.

    Source: Exarchakis & Lücke (2017), Discrete sparse coding, Neural Computation 29.

    >>> DiscreteModel(n_causes=10, n_candidates=6, gamma=3, values=(1, 2)).values
    (1.0, 2.0)
    """

    values: tuple[float, ...] = eqx.field(static=True, converter=lambda values: tuple(map(float, values)))

    def log_prior(self, parameters: DiscreteParameters) -> tuple[Float[Array, ""], Float[Array, " v"]]:
        """Log probabilities that a cause is 0, and that it has each of the other values."""
        probabilities = jnp.asarray(parameters.value_probabilities)
        return jnp.log1p(-jnp.sum(probabilities)), jnp.log(probabilities)

    def with_prior(
        self, parameters: DiscreteParameters, counts: Float[Array, " v"], n_rows: Float[Array, ""]
    ) -> DiscreteParameters:
        """Replace the probabilities by the shares of the values, 0 included, not below 1e-6.

        The share of all values together is corrected for the states that are left out, as in binary sparse coding.
        """
        number = jnp.sum(counts)
        before = jnp.sum(jnp.asarray(parameters.value_probabilities))
        active = next_probability(self.n_causes, self.gamma, before, number / n_rows)
        shares = active * counts / jnp.maximum(number, jnp.finfo(counts.dtype).tiny)
        every = jnp.maximum(jnp.concatenate([1 - active[None], shares]), _VALUE_FLOOR)
        return parameters._replace(value_probabilities=(every / jnp.sum(every))[1:])

    def first_parameters(self, dictionary: Float[Array, "D H"], noise_scale: Float[Array, ""]) -> DiscreteParameters:
        """Parameters with this dictionary and noise, and with one cause in H active."""
        each = min(0.5, 1 / self.n_causes) / self.n_values
        return DiscreteParameters(dictionary, noise_scale, jnp.full(self.n_values, each, dictionary.dtype))

    def covered_share(self, parameters: DiscreteParameters) -> Float[Array, ""]:
        """Prior probability that a datum has at most gamma active causes."""
        return covered_share(self.n_causes, self.gamma, jnp.sum(parameters.value_probabilities))


class DiscreteSparseCoding(SparseCodingEstimator):
    """Discrete sparse coding: causes that come in few strengths, with a learned probability of each.

    `y = sum_h s_h W_h + noise`, where each cause has one of the given values or 0. Use it for counts and levels.

    Args:
        n_causes: number of causes H.
        n_candidates: number of candidates H' of each datum, in [1, H]; None is 6, or H if that is less.
        gamma: most active causes in a state, in [1, H']; None is 3, or H' if that is less. A state with g active
            causes comes with v^g combinations of values.
        values: the values a cause may have beside 0: distinct finite numbers. They fix the scale of the columns.
        n_iter, temperature, cut, parameter_noise, n_restarts, adaptive, tol, max_states, chunk_size, dtype, progress,
            random_state: as in `BinarySparseCoding`, with 2 for a temperature of None.

    Attributes:
        dictionary_, noise_scale_, free_energy_trace_, n_iter_, restarts_, model_, parameters_: as in
            `BinarySparseCoding`.
        prior_probabilities_: probabilities of the values, in their order, shape (v,); 0 has the rest.

    Source: Exarchakis & Lücke (2017), Discrete sparse coding, Neural Computation 29.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.choice(3, p=[0.5, 0.3, 0.2], size=(300, 2)) @ np.array([[5.0, 0, 5], [0, 5, 5]])
    >>> coder = DiscreteSparseCoding(n_causes=2, n_iter=30, random_state=0).fit(X + rng.normal(size=X.shape))
    >>> coder.prior_probabilities_.round(1)
    array([0.3, 0.2])
    """

    _default_truncation = (6, 3)
    _default_temperature = 2.0

    def __init__(
        self,
        n_causes: int = 10,
        n_candidates: int | None = None,
        gamma: int | None = None,
        *,
        values: Sequence[float] = (1.0, 2.0),
        n_iter: int = 100,
        temperature: float | None = None,
        cut: bool | None = None,
        parameter_noise: float | None = None,
        n_restarts: int = 1,
        adaptive: bool = False,
        tol: float = 1e-4,
        max_states: int = MAX_STATES,
        chunk_size: int | None = None,
        dtype: Literal["float64", "float32"] = "float64",
        progress: bool = False,
        random_state: Any = None,
    ):
        super().__init__(
            n_causes,
            n_candidates,
            gamma,
            n_iter=n_iter,
            temperature=temperature,
            cut=cut,
            parameter_noise=parameter_noise,
            n_restarts=n_restarts,
            adaptive=adaptive,
            tol=tol,
            max_states=max_states,
            chunk_size=chunk_size,
            dtype=dtype,
            progress=progress,
            random_state=random_state,
        )
        self.values = values

    def _build_model(self, n_candidates: int, gamma: int) -> DiscreteModel:
        return DiscreteModel(self.n_causes, n_candidates, gamma, tuple(np.asarray(self.values, float).tolist()))

    def _set_prior(self, parameters: Parameters) -> None:
        self.prior_probabilities_ = parameters.value_probabilities
