"""Causes that hide each other: in every pixel the cause with the largest entry is seen.

The maximum has no derivative where two causes are equal, and with it the M-step would have to know which cause a pixel
belongs to. Both are done with a soft maximum: W_bar_d(s) = (sum_h s_h W_dh^rho)^(1/rho), whose derivative
A_dh(s) = s_h (W_dh / W_bar_d(s))^(rho - 1) says how much of the pixel is cause h's. The sharpness rho grows as the
temperature falls. All powers are taken relative to the pixel's largest entry.
"""

import abc
import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from uqsparse.kernels.namespaces import AnyArray, is_traced
from uqsparse.models.sparse_coding.activity_prior import covered_share, next_probability
from uqsparse.models.sparse_coding.selection import kept_states, spread_vectors, top_candidates
from uqsparse.models.sparse_coding.states import multi_cause_states, state_count
from uqsparse.solvers.truncated_model import EStep, TruncatedModel, TruncatedPosterior

# Entries of the dictionary stay this far from 0, in the data's units: their logs are taken.
DICTIONARY_FLOOR = 1e-4
# A temperature below this one counts as this one in the sharpness, which is then 21.
COLDEST = 1.05
# A cause that is active in a smaller share of the data than this times the mean of all causes counts as dead.
STARVED_SHARE = 0.25

# The learned noise variance stays above this share of the data's mean square, by precision.
_NOISE_FLOOR = {"float64": 1e-9, "float32": 1e-5}
_LEAST_VARIANCE = 1e-20
# States of all causes are tabulated if they are at most this many times those of a datum: a state in a table costs a
# product of a datum with it, and else a logarithm and an exponential in every pixel.
_TABLE_FACTOR = 16


class MaxParameters(NamedTuple):
    """Parameters of a model whose causes hide each other.

    Args:
        dictionary: W, a column for each cause, shape (D, H).
        noise_scale: standard deviation of the noise.
        prior_probability: probability that a cause is active.
    """

    dictionary: Float[AnyArray, "D H"]
    noise_scale: Float[AnyArray, ""]
    prior_probability: Float[AnyArray, ""]


class MaxStatistics(NamedTuple):
    """Sums over rows, weighted.

    Args:
        n_rows: sum of the weights.
        square_norm: sum of |y|^2.
        squared_error: sum of <|y - W_bar(s)|^2>.
        attributed: sum of <A_dh(s)> y_d, shape (H, D).
        attribution: sum of <A_dh(s)>, shape (H, D).
        counts: expected number of rows in which each cause is active, shape (H,).
    """

    n_rows: Float[Array, ""]
    square_norm: Float[Array, ""]
    squared_error: Float[Array, ""]
    attributed: Float[Array, "H D"]
    attribution: Float[Array, "H D"]
    counts: Float[Array, " H"]


class Powers(NamedTuple):
    """Powers of the dictionary relative to each pixel's largest entry.

    Args:
        raised: sgn(W) |W / u|^rho, shape (H, D).
        lowered: |W / u|^(rho - 1), shape (H, D).
        unit: u, shape (D,).
    """

    raised: Float[Array, "H D"]
    lowered: Float[Array, "H D"]
    unit: Float[Array, " D"]


class _Joints(NamedTuple):
    """Kept states of each row: none active, each cause alone, and several of the `candidates`.

    `falloff` is |W_bar / u|^(1 - rho) of the states with several causes, and `lowered` the powers of the candidates;
    both have a leading axis n only if states are not tabulated.
    """

    log_joint: Float[Array, "n n_kept"]
    squared_error: Float[Array, "n n_kept"]
    candidates: Int[Array, "n n_places"]
    falloff: Float[Array, "*rows n_states D"]
    lowered: Float[Array, "*rows n_places D"]


def dictionary_powers(dictionary: Float[Array, "D H"], sharpness: Float[Array, ""]) -> Powers:
    """Powers of a dictionary without zeros, in the range of its precision.

    What is smaller than the pixel's largest entry by more than that range allows counts as at its end: a factor
    e^(1100 / rho) in double precision, e^(140 / rho) in single.
    """
    log_size = jnp.log(jnp.abs(dictionary)).T
    reach = 0.8 * jnp.log(jnp.finfo(dictionary.dtype).max) / sharpness
    peak = jnp.max(log_size, axis=0)
    relative = jnp.maximum(log_size - peak, -2 * reach) + reach
    raised = jnp.sign(dictionary.T) * jnp.exp(sharpness * relative)
    return Powers(raised, jnp.exp((sharpness - 1) * relative), jnp.exp(peak - reach))


def soft_maxima(
    raised: Float[Array, "*rows n_places D"], states: Float[Array, "n_states n_places"], sharpness: Float[Array, ""]
) -> tuple[Float[Array, "*rows n_states D"], Float[Array, "*rows n_states D"]]:
    """Soft maxima W_bar / u of states over their causes, and |W_bar / u|^(1 - rho).

    Args:
        raised: signed powers sgn(W) |W / u|^rho of the causes.
        states: which causes are active, 0 or 1.
        sharpness: rho, at least 1; the maximum proper is its limit at infinity.

    Source: Lücke & Sahani (2008), Maximal causes for non-linear component extraction, JMLR 9, eq. 17.

    >>> powers = dictionary_powers(jnp.array([[3.0, 4.0]]), jnp.array(2.0))
    >>> (soft_maxima(powers.raised, jnp.ones((1, 2)), jnp.array(2.0))[0] * powers.unit).round(3).tolist()
    [[5.0]]
    """
    total = jnp.einsum("sc,...cd->...sd", states, raised)
    size = jnp.maximum(jnp.abs(total), jnp.finfo(total.dtype).tiny)
    relative = jnp.exp(jnp.log(size) / sharpness)
    return jnp.sign(total) * relative, relative / size


class MaxSuperpositionModel(TruncatedModel):
    """What maximal causes and maximum magnitude causes share: all but candidates, signs and the M-step's caution.

    The whole log joint is tempered, and the temperature also sets the sharpness of the soft maximum.
    """

    # Whether entries may be negative.
    signed: ClassVar[bool]

    @abc.abstractmethod
    def candidate_scores(self, dictionary: Float[Array, "D H"], Y: Float[Array, "n D"]) -> Float[Array, "n H"]:
        """How promising each cause is for each datum."""

    @abc.abstractmethod
    def restricted(self, dictionary: Float[Array, "D H"]) -> Float[Array, "D H"]:
        """The dictionary with its entries at least `DICTIONARY_FLOOR` from 0, and positive where they have to be."""

    @abc.abstractmethod
    def first_dictionary(
        self, noise: Float[Array, "D H"], mean: Float[Array, " D"], scale: Float[Array, ""]
    ) -> Float[Array, "D H"]:
        """A dictionary to start from, given standard normal noise and the data's mean and standard deviation."""

    def check_dictionary(self, dictionary: Float[Array, "D H"]) -> None:
        """Refuse a dictionary that the model cannot have, outside of compiled code; here any is welcome."""

    def step_size(self, attribution: Float[Array, "D H"]) -> Float[Array, "D H"] | float:
        """Which share of the way to its new value each entry goes in an M-step."""
        return 1.0

    def sharpness(self, temperature: Float[Array, ""]) -> Float[Array, ""]:
        """rho = 1 / (1 - 1 / T) of the soft maximum, 21 at temperature 1."""
        return 1 / (1 - 1 / jnp.maximum(temperature, COLDEST))

    def e_step(
        self,
        parameters: MaxParameters,
        Y: Float[Array, "n D"],
        weights: Float[Array, " n"],
        temperature: Float[Array, ""],
    ) -> EStep:
        """Log evidence of each row, and sums over rows."""
        joints = self._joints(parameters, Y, temperature)
        log_evidence = jax.nn.logsumexp(joints.log_joint, axis=1)
        shares = weights[:, None] * jnp.exp(joints.log_joint - log_evidence[:, None])
        single, several = shares[:, 1 : 1 + self.n_causes], shares[:, 1 + self.n_causes :]
        in_single = jnp.sum(single, axis=0)
        active = spread_vectors(joints.candidates, several @ self._states(Y.dtype), self.n_causes)
        attributed = single.T @ Y
        attribution = jnp.broadcast_to(in_single[:, None], attributed.shape)
        if self._tabulates:
            attributed += self._attributed(joints, several.T @ Y)
            attribution = attribution + self._attributed(joints, jnp.sum(several, axis=0)[:, None])
        else:
            of_rows = self._attributed(joints, several[:, :, None])
            attributed = attributed.at[joints.candidates].add(of_rows * Y[:, None])
            attribution = attribution.at[joints.candidates].add(of_rows)
        statistics = MaxStatistics(
            n_rows=jnp.sum(weights),
            square_norm=weights @ jnp.sum(jnp.square(Y), axis=1),
            squared_error=jnp.sum(shares * joints.squared_error),
            attributed=attributed,
            attribution=attribution,
            counts=in_single + jnp.sum(active, axis=0),
        )
        return EStep(log_evidence, statistics)

    def m_step(self, parameters: MaxParameters, statistics: MaxStatistics, temperature: Float[Array, ""]) -> Any:
        """Each entry becomes the mean of what is attributed to it; then the noise left by the last dictionary.

        The mean takes W_bar for W_h wherever the pixel is cause h's, which is exact for a sharp maximum only: the free
        energy may fall.
        """
        old = jnp.asarray(parameters.dictionary)
        attribution = statistics.attribution.T
        known = attribution > jnp.finfo(old.dtype).tiny * 1e8
        mean = jnp.where(known, statistics.attributed.T / jnp.where(known, attribution, 1), old)
        dictionary = self.restricted(old + self.step_size(attribution) * (mean - old))
        floor = _NOISE_FLOOR[str(old.dtype)] * statistics.square_norm
        variance = jnp.maximum(statistics.squared_error, floor) / (statistics.n_rows * old.shape[0])
        probability = next_probability(
            self.n_causes, self.gamma, parameters.prior_probability, jnp.sum(statistics.counts) / statistics.n_rows
        )
        return MaxParameters(dictionary, jnp.sqrt(jnp.maximum(variance, _LEAST_VARIANCE)), probability)

    def activity(self, statistics: MaxStatistics) -> Float[Array, " H"]:
        """Expected number of rows in which each cause is active, and 0 if it is starved.

        All causes have one prior probability, and one that is active far less often than the others has usually
        settled on a few data with many causes, while two of the others share what was meant for it.
        """
        counts = statistics.counts
        return jnp.where(counts < STARVED_SHARE * jnp.mean(counts), 0, counts)

    def covered_share(self, parameters: MaxParameters) -> Float[Array, ""]:
        """Prior probability that a datum has at most gamma active causes."""
        return covered_share(self.n_causes, self.gamma, parameters.prior_probability)

    def initial(self, key: Array, mean: Float[Array, " D"], scale: Float[Array, ""]) -> MaxParameters:
        """A noisy dictionary, one cause in H active, and noise that explains all of the data."""
        mean = jnp.asarray(mean)
        noise = jax.random.normal(key, (mean.size, self.n_causes), mean.dtype)
        probability = jnp.full((), min(0.5, 1 / self.n_causes), mean.dtype)
        dictionary = self.restricted(self.first_dictionary(noise, mean, scale))
        return MaxParameters(dictionary, jnp.asarray(scale, mean.dtype), probability)

    def revive(self, parameters: MaxParameters, index: Any, datum: Float[Array, " D"]) -> MaxParameters:
        """Let a cause be what the other causes leave unexplained in a datum."""
        column = _unexplained(self, jax.tree.map(jnp.asarray, parameters), jnp.asarray(index), jnp.asarray(datum))
        return parameters._replace(dictionary=jnp.asarray(parameters.dictionary).at[:, index].set(column))

    def perturb(self, parameters: MaxParameters, key: Array, scale: Float[Array, ""]) -> MaxParameters:
        """Add Gaussian noise to the dictionary and keep its restriction."""
        noisy = super().perturb(parameters, key, scale)
        return noisy._replace(dictionary=self.restricted(noisy.dictionary))

    def posterior(self, parameters: MaxParameters, Y: Float[Array, "n D"], top_k: int) -> TruncatedPosterior:
        """Posteriors of rows over the kept states."""
        joints = self._joints(parameters, Y, jnp.ones((), Y.dtype))
        log_evidence = jax.nn.logsumexp(joints.log_joint, axis=1)
        shares = jnp.exp(joints.log_joint - log_evidence[:, None])
        states = self._states(Y.dtype)
        several = spread_vectors(joints.candidates, shares[:, 1 + self.n_causes :] @ states, self.n_causes)
        marginals = shares[:, 1 : 1 + self.n_causes] + several
        probabilities, places = jax.lax.top_k(shares, top_k)
        best = kept_states(places, joints.candidates, states, jnp.ones(1, Y.dtype), self.n_causes)
        return TruncatedPosterior(best, probabilities, marginals, marginals, log_evidence)

    def reconstruct(self, parameters: MaxParameters, codes: Float[Array, "n H"]) -> Float[Array, "n D"]:
        """The entry of largest magnitude in each pixel, of causes times their states."""

        def one(code: Float[Array, " H"]) -> Float[Array, " D"]:
            shown = jnp.asarray(parameters.dictionary) * code
            largest = jnp.argmax(jnp.abs(shown), axis=1)
            return jnp.take_along_axis(shown, largest[:, None], axis=1)[:, 0]

        return jax.lax.map(one, jnp.asarray(codes), batch_size=64)

    def sample(self, parameters: MaxParameters, key: Array, n: int) -> tuple[Float[Array, "n D"], Float[Array, "n H"]]:
        """Draw n data with their states; the maximum is the proper one."""
        dictionary = jnp.asarray(parameters.dictionary)
        of_states, of_noise = jax.random.split(key)
        states = jax.random.bernoulli(of_states, parameters.prior_probability, (n, self.n_causes))
        states = states.astype(dictionary.dtype)
        noise = jax.random.normal(of_noise, (n, dictionary.shape[0]), dictionary.dtype)
        return self.reconstruct(parameters, states) + parameters.noise_scale * noise, states

    def floats_per_row(self, n_features: int) -> int:
        """About how many numbers of scratch space an E-step needs for a row."""
        n_states = self._states_table().shape[0]
        several = 4 * n_states if self._tabulates else 4 * n_states * n_features
        return several + 6 * self.n_causes + (2 * self.n_candidates + 2) * n_features

    @property
    def _tabulates(self) -> bool:
        """Whether states are those of all causes, computed once for all rows."""
        everywhere = state_count(self.n_causes, self.n_causes, self.gamma)
        return everywhere <= _TABLE_FACTOR * state_count(self.n_causes, self.n_candidates, self.gamma)

    def _states_table(self) -> np.ndarray:
        return multi_cause_states(self.n_causes if self._tabulates else self.n_candidates, self.gamma)

    def _states(self, dtype: Any) -> Float[Array, "n_states n_places"]:
        return jnp.asarray(self._states_table(), dtype)

    def _joints(self, parameters: MaxParameters, Y: Float[Array, "n D"], temperature: Float[Array, ""]) -> _Joints:
        if not is_traced(parameters.dictionary):
            self.check_dictionary(parameters.dictionary)
        dictionary = self.restricted(jnp.asarray(parameters.dictionary))
        sharpness = self.sharpness(temperature)
        powers = dictionary_powers(dictionary, sharpness)
        candidates = top_candidates(self.candidate_scores(dictionary, Y), self.n_candidates)
        states = self._states(Y.dtype)
        square_norm = jnp.sum(jnp.square(Y), axis=1, keepdims=True)
        single = square_norm - 2 * Y @ dictionary + jnp.sum(jnp.square(dictionary), axis=0)
        allowed = jnp.ones((1, 1), bool)
        if self._tabulates:
            lowered = powers.lowered
            relative, falloff = soft_maxima(powers.raised, states, sharpness)
            means = relative * powers.unit
            several = square_norm - 2 * Y @ means.T + jnp.sum(jnp.square(means), axis=1)
            chosen = spread_vectors(candidates, jnp.ones(candidates.shape, Y.dtype), self.n_causes)
            if self.n_candidates < self.n_causes:
                allowed = chosen @ states.T > jnp.sum(states, axis=1) - 0.5
            candidates = jnp.broadcast_to(jnp.arange(self.n_causes), (len(Y), self.n_causes))
        else:
            lowered = powers.lowered[candidates]
            relative, falloff = soft_maxima(powers.raised[candidates], states, sharpness)
            several = jnp.sum(jnp.square(Y[:, None] - relative * powers.unit), axis=2)
        n_active = jnp.concatenate([jnp.zeros(1), jnp.ones(self.n_causes), jnp.sum(states, axis=1)]).astype(Y.dtype)
        log_active = jnp.log(jnp.asarray(parameters.prior_probability))
        log_absent = jnp.log1p(-jnp.asarray(parameters.prior_probability))
        log_prior = n_active * log_active + (self.n_causes - n_active) * log_absent
        variance = jnp.square(parameters.noise_scale)
        squared_error = jnp.concatenate([square_norm, single, jnp.broadcast_to(several, (len(Y), len(states)))], axis=1)
        log_density = -0.5 * (Y.shape[1] * jnp.log(2 * math.pi * variance) + squared_error / variance)
        log_joint = (log_prior + log_density) / temperature
        few = jnp.ones((len(Y), 1 + self.n_causes), bool)
        allowed = jnp.concatenate([few, jnp.broadcast_to(allowed, several.shape)], axis=1)
        return _Joints(jnp.where(allowed, log_joint, -jnp.inf), squared_error, candidates, falloff, lowered)

    def _attributed(
        self, joints: _Joints, weights: Float[Array, "*rows n_states #D"]
    ) -> Float[Array, "*rows n_places D"]:
        """Sums over states with several causes of A_dh(s) times weights."""
        states = self._states_table()
        if not self.signed:
            # A factors into a part of the cause and a part of the state
            total = jnp.einsum("...sd,sc->...cd", joints.falloff * weights, jnp.asarray(states, weights.dtype))
            return joints.lowered * total
        # Opposite causes may cancel: then the soft maximum is smaller than either, and A is held at 1.
        shares = []
        for place in range(states.shape[1]):
            has = np.flatnonzero(states[:, place])
            share = jnp.minimum(joints.lowered[..., place, None, :] * joints.falloff[..., has, :], 1)
            shares.append(jnp.sum(share * weights[..., has, :], axis=-2))
        return jnp.stack(shares, axis=-2)


@eqx.filter_jit
def _unexplained(
    model: MaxSuperpositionModel, parameters: MaxParameters, index: Int[Array, ""], datum: Float[Array, " D"]
) -> Float[Array, " D"]:
    """Pixels of a datum that stand out by two standard deviations from the best state without a cause; else 0.

    If no pixel does, all of them.
    """
    others = parameters.dictionary.at[:, index].set(0)
    without = parameters._replace(dictionary=model.restricted(others))
    best = model.posterior(without, datum[None], 1).states[:, 0].at[:, index].set(0)
    shown = model.reconstruct(parameters, best)[0]
    excess = datum - shown
    stands_out = excess > 2 * parameters.noise_scale
    if model.signed:
        stands_out = (jnp.abs(datum) > jnp.abs(shown)) & (jnp.abs(excess) > 2 * parameters.noise_scale)
    column = jnp.where(jnp.any(stands_out), jnp.where(stands_out, datum, 0), datum)
    return model.restricted(column[:, None])[:, 0]
