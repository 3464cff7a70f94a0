"""Causes with few values that add linearly: what binary, ternary and discrete sparse coding share.

With G = W'W and b = W'y a state's squared error is |y|^2 - 2 s'b + s'Gs, so that only products of a datum with the
dictionary touch the data's dimension, and a state costs the square of its number of candidates.
"""

import abc
import functools
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from uqsparse.models.sparse_coding.selection import kept_states, largest, spread_vectors, top_candidates
from uqsparse.models.sparse_coding.states import multi_cause_states
from uqsparse.solvers.truncated_model import EStep, Parameters, TruncatedModel, TruncatedPosterior

# The learned noise variance stays above this share of the data's mean square, by precision.
_NOISE_FLOOR = {"float64": 1e-9, "float32": 1e-5}
# Weight of the last dictionary in the least squares, as a share of the mean second moment of a cause.
_RIDGE = {"float64": 1e-10, "float32": 1e-5}


class LinearStatistics(NamedTuple):
    """Sums over rows, weighted.

    Args:
        n_rows: sum of the weights.
        square_norm: sum of |y|^2.
        cross: sum of y <s>', shape (D, H).
        second: sum of <ss'>, shape (H, H).
        counts: expected number of rows in which each cause has each value, shape (v, H).
    """

    n_rows: Float[Array, ""]
    square_norm: Float[Array, ""]
    cross: Float[Array, "D H"]
    second: Float[Array, "H H"]
    counts: Float[Array, "v H"]


class _Joints(NamedTuple):
    """Log joints of the kept states, relative to that of the state without causes."""

    nothing: Float[Array, " n"]
    single: Float[Array, "v n H"]
    several: Float[Array, "n n_states"]
    candidates: Int[Array, "n n_candidates"]


class LinearDiscreteModel(TruncatedModel):
    """Data `y = W s + noise` with causes of finitely many values and equal priors.

    Args:
        n_causes: number of causes H.
        n_candidates: number of candidates H'.
        gamma: most active causes in a state with several.

    A subclass has `values`: what an active cause may be, distinct numbers, none 0.
    """

    values: eqx.AbstractVar[tuple[float, ...]]

    def __check_init__(self):
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"values must be distinct numbers, at least one, got {self.values}")
        if any(value == 0 or not math.isfinite(value) for value in self.values):
            raise ValueError(f"values must be finite and not 0 (which is always among them), got {self.values}")

    @property
    def n_values(self) -> int:
        """How many values other than 0 a cause may have."""
        return len(self.values)

    @abc.abstractmethod
    def log_prior(self, parameters: Parameters) -> tuple[Float[Array, ""], Float[Array, " v"]]:
        """Log probabilities that a cause is 0, and that it has each of the other values."""

    @abc.abstractmethod
    def with_prior(self, parameters: Parameters, counts: Float[Array, " v"], n_rows: Float[Array, ""]) -> Parameters:
        """Replace the prior, given how many causes of all rows are expected to have each value."""

    @abc.abstractmethod
    def first_parameters(self, dictionary: Float[Array, "D H"], noise_scale: Float[Array, ""]) -> Parameters:
        """Parameters with this dictionary and noise, and with one cause in 1 / H active."""

    def candidate_scores(
        self, correlation: Float[Array, "n H"], norms: Float[Array, " H"], single: Float[Array, "v n H"]
    ) -> Float[Array, "n H"]:
        """How promising each cause is: the best log joint of a state with this cause alone."""
        return jnp.max(single, axis=0)

    def e_step(
        self,
        parameters: Parameters,
        Y: Float[Array, "n D"],
        weights: Float[Array, " n"],
        temperature: Float[Array, ""],
    ) -> EStep:
        """Log evidence of each row, and sums over rows; only the likelihood is tempered."""
        joints = self._joints(parameters, Y, temperature)
        log_total, single, several = _normalised(joints, weights)
        table = _state_table(self.n_candidates, self.gamma, self.values)
        shares = self._value_shares(joints.candidates, single, several)
        first, second = joints.candidates[:, table.first], joints.candidates[:, table.second]
        pairs = several @ jnp.asarray(table.products, Y.dtype)
        upper = jnp.zeros((self.n_causes, self.n_causes), Y.dtype).at[first, second].add(pairs)
        # a pair (i, i) fills the diagonal once, a pair of two causes both of its places by half
        moment = (upper + upper.T) / 2 + jnp.diag(self._squares(Y.dtype) @ jnp.sum(single, axis=1))
        statistics = LinearStatistics(
            n_rows=jnp.sum(weights),
            square_norm=weights @ jnp.sum(jnp.square(Y), axis=1),
            cross=Y.T @ self._means(shares),
            second=moment,
            counts=jnp.sum(shares, axis=1),
        )
        return EStep(joints.nothing + log_total, statistics)

    def m_step(self, parameters: Parameters, statistics: LinearStatistics, temperature: Float[Array, ""]) -> Parameters:
        """Least squares for the dictionary, then the noise left by it, then the prior.

        A small weight on the last dictionary keeps the least squares regular where causes are dead or always together,
        and the free energy still never falls.
        """
        n_features, precision = statistics.cross.shape[0], str(statistics.cross.dtype)
        ridge = _RIDGE[precision] * jnp.trace(statistics.second) / self.n_causes + jnp.finfo(precision).tiny
        regular = statistics.second + ridge * jnp.eye(self.n_causes, dtype=precision)
        target = statistics.cross + ridge * parameters.dictionary
        dictionary = jax.scipy.linalg.solve(regular, target.T, assume_a="pos").T
        left = (
            statistics.square_norm
            - 2 * jnp.sum(dictionary * statistics.cross)
            + jnp.sum((dictionary.T @ dictionary) * statistics.second)
        )
        floor = _NOISE_FLOOR[precision] * statistics.square_norm
        variance = jnp.maximum(left, floor) / (statistics.n_rows * n_features)
        parameters = parameters._replace(dictionary=dictionary, noise_scale=jnp.sqrt(variance))
        return self.with_prior(parameters, jnp.sum(statistics.counts, axis=1), statistics.n_rows)

    def activity(self, statistics: LinearStatistics) -> Float[Array, " H"]:
        """Expected number of rows in which each cause is active."""
        return jnp.sum(statistics.counts, axis=0)

    def initial(self, key: Array, mean: Float[Any, " D"], scale: Float[Any, ""]) -> Parameters:
        """The data's mean with noise for every cause, or noise alone if values have both signs."""
        mean = jnp.asarray(mean)
        noise = jax.random.normal(key, (mean.size, self.n_causes), mean.dtype)
        signed = min(self.values) < 0 < max(self.values)
        dictionary = noise * scale / 2 if signed else mean[:, None] / self.values[0] + noise * scale / 4
        return self.first_parameters(dictionary, jnp.asarray(scale, mean.dtype))

    def revive(self, parameters: Parameters, index: Any, datum: Float[Array, " D"]) -> Parameters:
        """Let a cause be the datum, at the value that is most probable."""
        likely = jnp.asarray(self.values, parameters.dictionary.dtype)[jnp.argmax(self.log_prior(parameters)[1])]
        column = jnp.asarray(datum) / likely
        return parameters._replace(dictionary=jnp.asarray(parameters.dictionary).at[:, index].set(column))

    def posterior(self, parameters: Parameters, Y: Float[Array, "n D"], top_k: int) -> TruncatedPosterior:
        """Posteriors of rows over the kept states."""
        joints = self._joints(parameters, Y, jnp.ones((), Y.dtype))
        log_total, single, several = _normalised(joints, jnp.ones(len(Y), Y.dtype))
        states = jnp.asarray(_state_table(self.n_candidates, self.gamma, self.values).states, Y.dtype)
        shares = self._value_shares(joints.candidates, single, several)
        every = jnp.concatenate([jnp.exp(-log_total)[:, None], *single, several], axis=1)
        probabilities, places = largest(every, top_k)
        return TruncatedPosterior(
            states=kept_states(places, joints.candidates, states, jnp.asarray(self.values, Y.dtype), self.n_causes),
            probabilities=probabilities,
            marginals=jnp.sum(shares, axis=0),
            mean=self._means(shares),
            log_evidence=joints.nothing + log_total,
        )

    def reconstruct(self, parameters: Parameters, codes: Float[Array, "n H"]) -> Float[Array, "n D"]:
        """Mean of the data: the sum of the causes' columns times their values."""
        return codes @ parameters.dictionary.T

    def sample(self, parameters: Parameters, key: Array, n: int) -> tuple[Float[Array, "n D"], Float[Array, "n H"]]:
        """Draw n data with their states."""
        dictionary = jnp.asarray(parameters.dictionary)
        of_states, of_noise = jax.random.split(key)
        log_zero, log_values = self.log_prior(parameters)
        logits = jnp.concatenate([log_zero[None], log_values])
        drawn = jax.random.categorical(of_states, logits, shape=(n, self.n_causes))
        states = jnp.asarray([0.0, *self.values], dictionary.dtype)[drawn]
        noise = jax.random.normal(of_noise, (n, dictionary.shape[0]), dictionary.dtype)
        return self.reconstruct(parameters, states) + parameters.noise_scale * noise, states

    def floats_per_row(self, n_features: int) -> int:
        """About how many numbers of scratch space an E-step needs for a row."""
        n_states = multi_cause_states(self.n_candidates, self.gamma, self.values).shape[0]
        return (2 * self.n_values + 5) * self.n_causes + 2 * n_features + 3 * n_states + 2 * self.n_candidates**2

    def _value_shares(
        self,
        candidates: Int[Array, "n n_candidates"],
        single: Float[Array, "v n H"],
        several: Float[Array, "n n_states"],
    ) -> Float[Array, "v n H"]:
        """Probabilities that each cause has each value, from those of the states."""
        table = _state_table(self.n_candidates, self.gamma, self.values)
        among = jnp.einsum("ns,vsk->vnk", several, jnp.asarray(table.has_value, several.dtype))
        return single + jax.vmap(lambda part: spread_vectors(candidates, part, self.n_causes))(among)

    def _means(self, shares: Float[Array, "v n H"]) -> Float[Array, "n H"]:
        return jnp.einsum("v,vnh->nh", jnp.asarray(self.values, shares.dtype), shares)

    def _squares(self, dtype: Any) -> Float[Array, " v"]:
        return jnp.square(jnp.asarray(self.values, dtype))

    def _joints(self, parameters: Parameters, Y: Float[Array, "n D"], temperature: Float[Array, ""]) -> _Joints:
        dictionary = jnp.asarray(parameters.dictionary)
        table = _state_table(self.n_candidates, self.gamma, self.values)
        variance = jnp.square(parameters.noise_scale)
        sharpness = 1 / (variance * temperature)
        log_zero, log_values = self.log_prior(parameters)
        odds = log_values - log_zero
        gram = dictionary.T @ dictionary
        norms = jnp.diag(gram)
        correlation = Y @ dictionary
        values = jnp.asarray(self.values, Y.dtype)[:, None, None]
        gain = values * correlation - 0.5 * jnp.square(values) * norms
        single = odds[:, None, None] + sharpness * gain
        candidates = top_candidates(self.candidate_scores(correlation, norms, single), self.n_candidates)
        several_gain = jnp.take_along_axis(correlation, candidates, axis=1) @ jnp.asarray(table.states.T, Y.dtype)
        among = gram[candidates[:, table.first], candidates[:, table.second]]
        several_gain -= 0.5 * among @ jnp.asarray(table.products.T, Y.dtype)
        several = jnp.asarray(table.has_value.sum(axis=2).T, Y.dtype) @ odds + sharpness * several_gain
        square_norm = jnp.sum(jnp.square(Y), axis=1)
        log_density = -0.5 * (Y.shape[1] * jnp.log(2 * math.pi * variance) + square_norm / variance)
        return _Joints(self.n_causes * log_zero + log_density / temperature, single, several, candidates)


class _StateTable(NamedTuple):
    """The multi-cause states and what is computed from them once.

    `products` are s_i s_j of the pairs i <= j, those of two different causes twice, shape (n_states, n_pairs); `first`
    and `second` are the pairs; `has_value` says which causes have each value, shape (v, n_states, n_candidates).
    """

    states: np.ndarray
    products: np.ndarray
    first: np.ndarray
    second: np.ndarray
    has_value: np.ndarray


@functools.lru_cache(maxsize=32)
def _state_table(n_candidates: int, gamma: int, values: tuple[float, ...]) -> _StateTable:
    states = multi_cause_states(n_candidates, gamma, values)
    first, second = (places.astype(np.int32) for places in np.triu_indices(n_candidates))
    products = states[:, first] * states[:, second] * np.where(first == second, 1, 2)
    return _StateTable(states, products, first, second, np.stack([states == value for value in values]))


def _normalised(
    joints: _Joints, weights: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, "v n H"], Float[Array, "n n_states"]]:
    """Log of the sum over states relative to none, and the posterior probabilities of the others times weights."""
    peak = jnp.maximum(0, jnp.max(joints.single, axis=(0, 2)))
    if joints.several.shape[1]:
        peak = jnp.maximum(peak, jnp.max(joints.several, axis=1))
    single = jnp.exp(joints.single - peak[:, None])
    several = jnp.exp(joints.several - peak[:, None])
    total = jnp.exp(-peak) + jnp.sum(single, axis=(0, 2)) + jnp.sum(several, axis=1)
    share = (weights / total)[:, None]
    return peak + jnp.log(total), single * share, several * share
