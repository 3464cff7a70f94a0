"""Spike-and-slab sparse coding: causes that are absent, or present with a Gaussian strength, and add up."""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from uqsparse.kernels.namespaces import AnyArray
from uqsparse.models.sparse_coding.activity_prior import PROBABILITY_FLOOR
from uqsparse.models.sparse_coding.estimator import SparseCodingEstimator
from uqsparse.models.sparse_coding.selection import spread_vectors, sum_matrices, top_candidates
from uqsparse.models.sparse_coding.spike_slab_states import (
    Slabs,
    add_moments,
    candidate_slabs,
    single_slabs,
    state_levels,
)
from uqsparse.models.sparse_coding.states import MAX_STATES
from uqsparse.solvers.truncated_model import EStep, TruncatedModel, TruncatedPosterior

# The noise stays above this share of the data's root mean square, and the variance of a slab above this share of its
# mean square: noise-free data would drive both to 0.
_NOISE_FLOOR = 1e-4
_SLAB_FLOOR = 1e-6


class SpikeSlabParameters(NamedTuple):
    """Parameters of spike-and-slab sparse coding.

    Args:
        dictionary: one cause a column, shape (D, H).
        noise_scale: standard deviation of the noise, a scalar, or one a column of the data, shape (D,).
        prior_probability: probability that each cause is active, shape (H,).
        slab_mean: mean of its coefficient when active, shape (H,).
        slab_variance: variance of its coefficient when active, shape (H,).
    """

    dictionary: Float[AnyArray, "D H"]
    noise_scale: Float[AnyArray, "*D"]
    prior_probability: Float[AnyArray, " H"]
    slab_mean: Float[AnyArray, " H"]
    slab_variance: Float[AnyArray, " H"]


class SpikeSlabStatistics(NamedTuple):
    """Sums over rows that the M-step needs.

    Args:
        n_rows: number of rows (sum of weights).
        active: expected number of rows in which each cause is active, shape (H,).
        code: sum of the posterior means of the effective state, shape (H,).
        code_code: sum of its posterior second moments, shape (H, H).
        data_code: sum of data times posterior means, shape (D, H).
        data_squares: sum of squares of each column of the data, shape (D,).
    """

    n_rows: Float[Array, ""]
    active: Float[Array, " H"]
    code: Float[Array, " H"]
    code_code: Float[Array, "H H"]
    data_code: Float[Array, "D H"]
    data_squares: Float[Array, " D"]


class _Joint(NamedTuple):
    """Log joint of no active cause, and slabs with log joints relative to it: of single causes, of several."""

    none: Float[Array, " n"]
    candidates: Int[Array, "n n_candidates"]
    singles: Slabs
    several: tuple[Slabs, ...]


def normalise_slabs(parameters: SpikeSlabParameters) -> SpikeSlabParameters:
    """Move the scale of each slab into its column of the dictionary, which changes no probability of data.

    Columns, means and variances share a scale: (c W_h, mu_h / c, psi_h / c^2) is the same model for every c. Here
    mu_h^2 + psi_h = 1 and mu_h >= 0, so that the norm of a column is the root mean square of what its cause adds.

    >>> one = jnp.ones(1)
    >>> parameters = SpikeSlabParameters(jnp.ones((2, 1)), jnp.ones(()), 0.1 * one, -3.0 * one, 16.0 * one)
    >>> normalise_slabs(parameters).dictionary.tolist()
    [[-5.0], [-5.0]]
    """
    scale = jnp.sqrt(parameters.slab_mean**2 + parameters.slab_variance)
    scale = jnp.where(parameters.slab_mean < 0, -scale, scale)
    return parameters._replace(
        dictionary=parameters.dictionary * scale,
        slab_mean=parameters.slab_mean / scale,
        slab_variance=parameters.slab_variance / scale**2,
    )


class SpikeSlabModel(TruncatedModel):
    """Gaussian spike-and-slab sparse coding with a truncated posterior over which causes are active.

    A datum is W (s * z) plus Gaussian noise; cause h is active (s_h = 1) with probability pi_h, and its coefficient
    z_h is Gaussian with mean mu_h and variance psi_h. Given s the posterior of z is exact. Annealing tempers the
    likelihood p(y | s), in which z is integrated out, and not the prior.

    Args:
        n_causes: number of causes H.
        n_candidates: number of candidates H' of each datum, in [1, H].
        gamma: most active causes in a state with several, in [1, H'].
        noise_per_column: whether every column of the data has a noise scale of its own.

    Source: Sheikh, Shelton & Lücke (2014), A truncated EM approach for spike-and-slab sparse coding, JMLR 15, eqs. 8 to
    27, with a diagonal covariance of the slab.
    """

    noise_per_column: bool = eqx.field(static=True, default=False)

    def e_step(
        self,
        parameters: SpikeSlabParameters,
        Y: Float[Array, "n D"],
        weights: Float[Array, " n"],
        temperature: Float[Array, ""],
    ) -> EStep:
        """Log evidence of each row, and statistics summed over rows times `weights`."""
        joint = self._joint(parameters, Y, temperature)
        log_evidence, single, several = _probabilities(joint)
        active, code, second, pairs = self._moments(joint, single, several)
        statistics = SpikeSlabStatistics(
            n_rows=jnp.sum(weights),
            active=active @ weights,
            code=code @ weights,
            code_code=sum_matrices(joint.candidates, jnp.moveaxis(pairs * weights, 2, 0), self.n_causes)
            + jnp.diag(second @ weights),
            data_code=(Y * weights[:, None]).T @ code.T,
            data_squares=weights @ Y**2,
        )
        return EStep(log_evidence, statistics)

    def m_step(
        self, parameters: SpikeSlabParameters, statistics: SpikeSlabStatistics, temperature: Float[Array, ""]
    ) -> SpikeSlabParameters:
        """Next parameters, with normalised slabs. The free energy of the posteriors at hand does not fall.

        Causes that no datum uses keep their column and slab.
        """
        n, active, second = statistics.n_rows, statistics.active, jnp.diagonal(statistics.code_code)
        eps = jnp.finfo(active.dtype).eps
        # A pull towards the old columns instead of an inverse: it decides what the data leave open, and since it
        # is 0 at the old columns the error cannot rise above theirs.
        pull = jnp.sqrt(eps) * jnp.maximum(jnp.mean(second), eps) * jnp.eye(self.n_causes, dtype=active.dtype)
        dictionary = jax.scipy.linalg.solve(
            statistics.code_code + pull, (statistics.data_code + parameters.dictionary @ pull).T, assume_a="pos"
        ).T
        squares = (
            statistics.data_squares
            - 2 * jnp.sum(dictionary * statistics.data_code, axis=1)
            + jnp.sum((dictionary @ statistics.code_code) * dictionary, axis=1)
        ) / n
        mean_square = jnp.mean(statistics.data_squares) / n
        variance = jnp.maximum(
            squares if self.noise_per_column else jnp.mean(squares), _NOISE_FLOOR**2 * jnp.maximum(mean_square, eps)
        )
        used = active > eps * n
        count = jnp.where(used, active, 1)
        slab_mean = jnp.where(used, statistics.code / count, parameters.slab_mean)
        slab_square = jnp.where(used, second / count, parameters.slab_mean**2 + parameters.slab_variance)
        return normalise_slabs(
            SpikeSlabParameters(
                dictionary=dictionary,
                noise_scale=jnp.sqrt(variance),
                prior_probability=jnp.clip(active / n, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR),
                slab_mean=slab_mean,
                slab_variance=jnp.maximum(slab_square - slab_mean**2, _SLAB_FLOOR * slab_square),
            )
        )

    def activity(self, statistics: SpikeSlabStatistics) -> Float[Array, " H"]:
        """Expected number of rows in which each cause is active."""
        return statistics.active

    def covered_share(self, parameters: SpikeSlabParameters) -> Float[Array, ""]:
        """Prior probability that at most gamma causes are active, each with a probability of its own."""
        start = jnp.zeros(self.gamma + 1, parameters.prior_probability.dtype).at[0].set(1)

        def add(counts: Float[Array, " g"], p: Float[Array, ""]) -> tuple[Float[Array, " g"], None]:
            return counts * (1 - p) + jnp.pad(counts[:-1], (1, 0)) * p, None

        return jnp.sum(jax.lax.scan(add, start, parameters.prior_probability)[0])

    def initial(self, key: Array, mean: Float[Array, " D"], scale: Float[Array, ""]) -> SpikeSlabParameters:
        """Columns near the mean of the data, one active cause a datum, slabs with mean 1 and variance 1/2."""
        scale = jnp.where(scale > 0, scale, 1.0)
        noise = jax.random.normal(key, (len(mean), self.n_causes), mean.dtype)
        ones = jnp.ones(self.n_causes, mean.dtype)
        probability = jnp.clip(ones / self.n_causes, PROBABILITY_FLOOR, 0.5)
        noise_scale = jnp.full(mean.shape if self.noise_per_column else (), scale)
        return SpikeSlabParameters(mean[:, None] + scale / 4 * noise, noise_scale, probability, ones, 0.5 * ones)

    def revive(self, parameters: SpikeSlabParameters, index: Any, datum: Float[Array, " D"]) -> SpikeSlabParameters:
        """Start a dead cause again at a datum, with the slab of the start and the mean probability of the others."""
        dictionary, _, probability, mean, variance = map(jnp.asarray, parameters)
        return parameters._replace(
            dictionary=dictionary.at[:, index].set(datum),
            prior_probability=probability.at[index].set(jnp.mean(probability)),
            slab_mean=mean.at[index].set(1.0),
            slab_variance=variance.at[index].set(0.5),
        )

    def posterior(self, parameters: SpikeSlabParameters, Y: Float[Array, "n D"], top_k: int) -> TruncatedPosterior:
        """Posteriors of rows; a state holds the posterior means of the coefficients that are active in it."""
        joint = self._joint(parameters, Y, 1.0)
        log_evidence, single, several = _probabilities(joint)
        active, code, _, _ = self._moments(joint, single, several)
        none = jnp.exp(joint.none - log_evidence)
        probabilities, places = jax.lax.top_k(jnp.concatenate([none[None], single, *several]).T, top_k)
        return TruncatedPosterior(
            states=self._states(joint, places),
            probabilities=probabilities,
            marginals=jnp.minimum(active.T, 1.0),
            mean=code.T,
            log_evidence=log_evidence,
        )

    def reconstruct(self, parameters: SpikeSlabParameters, codes: Float[Array, "n H"]) -> Float[Array, "n D"]:
        """Mean of the data given effective states."""
        return codes @ parameters.dictionary.T

    def sample(
        self, parameters: SpikeSlabParameters, key: Array, n: int
    ) -> tuple[Float[Array, "n D"], Float[Array, "n H"]]:
        """Draw n data with their effective states from the model."""
        keys = jax.random.split(key, 3)
        shape, dtype = (n, self.n_causes), parameters.dictionary.dtype
        active = jax.random.bernoulli(keys[0], parameters.prior_probability, shape)
        slab = jax.random.normal(keys[1], shape, dtype) * jnp.sqrt(parameters.slab_variance) + parameters.slab_mean
        codes = jnp.where(active, slab, 0)
        noise = jax.random.normal(keys[2], (n, len(parameters.dictionary)), dtype) * parameters.noise_scale
        return self.reconstruct(parameters, codes) + noise, codes

    def floats_per_row(self, n_features: int) -> int:
        """About how many numbers of scratch space an E-step needs for a row."""
        levels = state_levels(self.n_candidates, self.gamma)
        states = sum(len(level.active) * (2 * g * g + 3 * g + 4) for g, level in enumerate(levels, 1))
        return 8 * self.n_causes + 2 * n_features + 3 * self.n_candidates**2 + states

    def _joint(self, parameters: SpikeSlabParameters, Y: Float[Array, "n D"], temperature: Any) -> _Joint:
        probability = parameters.prior_probability
        noise = jnp.broadcast_to(parameters.noise_scale, Y.shape[1:])
        dictionary, data = parameters.dictionary / noise[:, None], Y / noise
        gram, projection = dictionary.T @ dictionary, dictionary.T @ data.T
        log_odds = jnp.log(probability) - jnp.log1p(-probability)
        singles = single_slabs(jnp.diagonal(gram), projection, parameters.slab_mean, parameters.slab_variance)
        log_density = -0.5 * jnp.sum(data**2, axis=1) - jnp.sum(jnp.log(noise)) - 0.5 * len(noise) * jnp.log(2 * jnp.pi)
        none = jnp.sum(jnp.log1p(-probability)) + log_density / temperature
        candidates = top_candidates(singles.log_ratio.T, self.n_candidates)
        chosen = candidates.T
        singles = singles._replace(log_ratio=log_odds[:, None] + singles.log_ratio / temperature)
        several = candidate_slabs(
            state_levels(self.n_candidates, self.gamma),
            jax.tree.map(lambda x: jnp.take_along_axis(x, chosen[(None,) * (x.ndim - 2)], axis=-2), singles),
            gram[chosen[:, None], chosen[None, :]],
            jnp.take_along_axis(projection, chosen, axis=0),
            parameters.slab_mean[chosen],
            parameters.slab_variance[chosen],
            log_odds[chosen],
            temperature,
        )
        return _Joint(none, candidates, singles, several)

    def _moments(
        self, joint: _Joint, single: Float[Array, "H n"], several: tuple[Float[Array, "n_states n"], ...]
    ) -> tuple[
        Float[Array, "H n"], Float[Array, "H n"], Float[Array, "H n"], Float[Array, "n_candidates n_candidates n"]
    ]:
        """Marginals, means, second moments from single states, and second moments of candidates from the others."""
        mean, variance = joint.singles.mean[0], joint.singles.covariance[0, 0]
        active, code, second = single, single * mean, single * (mean**2 + variance)
        if not several:
            return active, code, second, jnp.zeros((self.n_candidates, self.n_candidates, single.shape[1]), mean.dtype)
        levels = state_levels(self.n_candidates, self.gamma)
        some_active, some_code, pairs = add_moments(levels, joint.several, several)
        active = active + spread_vectors(joint.candidates, some_active.T, self.n_causes).T
        code = code + spread_vectors(joint.candidates, some_code.T, self.n_causes).T
        return active, code, second, pairs

    def _states(self, joint: _Joint, places: Int[Array, "n k"]) -> Float[Array, "n k H"]:
        """Posterior means of the coefficients in the states at some places of the list: none, singles, several."""
        n, k = places.shape
        rows, columns = np.ogrid[:n, :k]
        is_single = (places >= 1) & (places <= self.n_causes)
        cause = jnp.where(is_single, places - 1, 0)
        states = jnp.zeros((n, k, self.n_causes), joint.none.dtype)
        states = states.at[rows, columns, cause].set(jnp.where(is_single, joint.singles.mean[0][cause, rows], 0))
        passed = 1 + self.n_causes
        for level, slabs in zip(state_levels(self.n_candidates, self.gamma)[1:], joint.several, strict=True):
            n_states, g = level.active.shape
            inside = (places >= passed) & (places < passed + n_states)
            state = jnp.where(inside, places - passed, 0)
            for j in range(g):
                cause = joint.candidates[rows, jnp.asarray(level.active)[state, j]]
                states = states.at[rows, columns, cause].add(jnp.where(inside, slabs.mean[j][state, rows], 0))
            passed += n_states
        return states


def _probabilities(
    joint: _Joint,
) -> tuple[Float[Array, " n"], Float[Array, "H n"], tuple[Float[Array, "n_states n"], ...]]:
    """Log evidence, and posterior probabilities of single states and of the others, level by level."""
    ratios = [slabs.log_ratio for slabs in (joint.singles, *joint.several)]
    largest = jnp.maximum(jnp.max(jnp.concatenate([jnp.max(r, axis=0)[None] for r in ratios]), axis=0), 0.0)
    weights = [jnp.exp(ratio - largest) for ratio in ratios]
    total = jnp.exp(-largest) + sum(jnp.sum(weight, axis=0) for weight in weights)
    single, *several = (weight / total for weight in weights)
    return joint.none + largest + jnp.log(total), single, tuple(several)


class SpikeSlabSparseCoding(SparseCodingEstimator):
    """Learn causes that are absent or present with a Gaussian strength, and add up: spike-and-slab sparse coding.

    A row of data is W (s * z) plus Gaussian noise: cause h is active with a probability of its own, and its
    coefficient is then Gaussian with mean and variance of its own. Everything is learned by expectation maximisation
    with posteriors over few causes, and nothing about the coefficients is approximated.

    Args:
        n_causes: number of causes H.
        n_candidates: number H' of candidate causes of each row, at most H; None is min(7, H).
        gamma: most causes active together, at most H'; None is min(4, H').
        noise: "scalar" for one noise scale, "per-column" for one a column of the data.
        n_iter: number of iterations.
        temperature: temperature of the first iteration, at least 1; only the likelihood is tempered. None is 4.
        cut: whether badly explained rows are left out of the M-steps, as many as the prior expects to have more than
            gamma active causes. None is False.
        parameter_noise: noise added to the dictionary while the temperature falls, a share of its root mean square.
            None is 0.
        n_restarts: number of runs, of which the one with the largest free energy is kept.
        adaptive: whether posteriors grow H' and gamma for rows whose best state has gamma active causes.
        tol: relative change of the free energy below which the last iteration counts as converged.
        max_states: most states a row may have.
        chunk_size: rows in a chunk; None bounds the scratch space.
        dtype: "float64" or "float32", in which the free energy of data with little noise loses digits.
        progress: whether to show a bar.
        random_state: seed, or a NumPy generator, of the starts.

    Attributes:
        dictionary_: causes, one a column, shape (D, H). Slabs have mean square 1 and a mean of at least 0, so that the
            norm of a column is the root mean square of what its cause adds.
        noise_scale_: standard deviation of the noise, a number, or shape (D,).
        prior_probability_: probability that each cause is active, shape (H,).
        prior_slab_mean_: mean of its coefficient when active, shape (H,).
        prior_slab_variance_: variance of its coefficient when active, shape (H,).

    Raises:
        ValueError: an argument is out of range, or the data hold NaN or infinity.

    Source: Sheikh, Shelton & Lücke (2014), A truncated EM approach for spike-and-slab sparse coding, JMLR 15;
    Exarchakis, Bornschein, Sheikh, Dai, Henniges, Drefs & Lücke (2019), ProSper, arXiv 1908.06843.
    """

    _default_truncation = (7, 4)
    _default_temperature = 4.0
    _default_cut = False

    def __init__(
        self,
        n_causes: int = 10,
        n_candidates: int | None = None,
        gamma: int | None = None,
        *,
        noise: Literal["scalar", "per-column"] = "scalar",
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
        self.noise = noise

    def _build_model(self, n_candidates: int, gamma: int) -> SpikeSlabModel:
        if self.noise not in ("scalar", "per-column"):
            raise ValueError(f"noise must be 'scalar' or 'per-column', got {self.noise!r}")
        return SpikeSlabModel(self.n_causes, n_candidates, gamma, self.noise == "per-column")

    def _set_prior(self, parameters: SpikeSlabParameters) -> None:
        self.prior_probability_ = parameters.prior_probability
        self.prior_slab_mean_ = parameters.slab_mean
        self.prior_slab_variance_ = parameters.slab_variance
