"""What a tempered SMC run returns, and what can be made of it: ArviZ data, and a frozen ladder for unbiased runs."""

import warnings
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from uqsparse.inference.arviz_io import posterior_to_arviz, to_arviz
from uqsparse.inference.moves import MoveParams
from uqsparse.inference.precision import retry_after_precision_clash
from uqsparse.inference.targets import TemperedTarget


class FrozenLadder(eqx.Module):
    """Temperatures and move parameters fixed in advance, round by round.

    With them no step of a run depends on its own particles beyond resampling and moving, so `exp(log_evidence)` is an
    unbiased estimate of the evidence, as pseudo-marginal methods need.

    Attributes:
        temperatures: increasing, the last one 1, shape (steps,).
        params: move parameters, each with a leading axis of steps.
        n_moves: Markov steps of each sweep, shape (steps,).
    """

    temperatures: Float[Array, " steps"]
    params: MoveParams
    n_moves: Int[Array, " steps"]

    def check_fits(self, dim: int, spread_is_full: bool) -> None:
        """Raise if the ladder was made for another dimension or another form of covariance."""
        expected = (len(self.temperatures), dim, dim) if spread_is_full else (len(self.temperatures), dim)
        if self.params.spread.shape != expected:
            raise ValueError(
                f"ladder was frozen with a spread of shape {self.params.spread.shape}, this run wants {expected}: "
                "use the same model, and n_particles on the same side of 5 d as the pilot run"
            )


@dataclass(frozen=True)
class SMCResult:
    """Posterior draws and evidence from tempered SMC, with the record that supports them.

    With one replicate the per-round arrays have shape (rounds,); with R replicates (R, rounds), padded by NaN.

    Attributes:
        particles: equally weighted draws in unconstrained space, shape (R n, d), replicate after replicate.
        log_evidence: log of the mean of the replicates' evidence estimates.
        log_evidence_se: its standard error: from the spread of the replicates if R > 1, else from the genealogy
            (standard) or the chains (waste-free) of the single run.
        temperatures: the ladder, without its start at 0.
        ess: conditional effective sample size of each reweighting, between 0 and n.
        acceptance: mean acceptance of each sweep.
        n_moves: Markov steps of each sweep.
        n_unique: distinct ancestors after each resampling.
        jump: mean squared Mahalanobis distance that each sweep moved a particle; about 2 d when it forgets its start.
        log_evidence_replicates: the estimate of each replicate, shape (R,).
        params: move parameters of each round of the first replicate.
        converged: whether every replicate reached temperature 1.
        n_iter: rounds of the longest replicate.
        n_replicates: R.
        target: the target that was sampled.
    """

    particles: Float[np.ndarray, "m d"]
    log_evidence: float
    log_evidence_se: float
    temperatures: np.ndarray
    ess: np.ndarray
    acceptance: np.ndarray
    n_moves: np.ndarray
    n_unique: np.ndarray
    jump: np.ndarray
    log_evidence_replicates: Float[np.ndarray, " R"]
    params: MoveParams
    converged: bool
    n_iter: int
    n_replicates: int
    target: TemperedTarget

    @property
    def samples(self) -> dict[str, np.ndarray]:
        """The draws by site name, in the space of the model, deterministic sites included; leading axis R n."""
        with jax.enable_x64(True):
            return jax.device_get(retry_after_precision_clash(lambda: _constrain(self.target, self.particles)))

    def to_arviz(self, log_likelihood: bool = True) -> Any:
        """ArviZ data with the replicates as chains and the evidence in the attributes.

        Args:
            log_likelihood: add the log likelihood of each observation at each draw, R n times observations numbers.

        Groups: `posterior`, and for NumPyro models `log_likelihood` and `observed_data`.
        """
        chains = (self.n_replicates, -1)
        posterior = {name: x.reshape(*chains, *x.shape[1:]) for name, x in self.samples.items()}
        attributes = {
            "algorithm": "tempered SMC",
            "inference_library": "uqsparse",
            "log_evidence": self.log_evidence,
            "log_evidence_se": self.log_evidence_se,
            "log_evidence_replicates": self.log_evidence_replicates,
            "converged": int(self.converged),
            "temperatures": self.temperatures.ravel(),
        }
        if self.target.model is None:
            return to_arviz({"posterior": posterior}, attributes)
        with jax.enable_x64(True):
            return posterior_to_arviz(*self.target.model, posterior, {}, attributes, log_likelihood=log_likelihood)


def freeze_ladder(result: SMCResult) -> FrozenLadder:
    """Fix the temperatures and move parameters of a pilot run, to be passed as `ladder=` to later runs.

    Args:
        result: a run that reached temperature 1; of several replicates the first is taken.

    Returns:
        The frozen ladder. Runs with another key and this ladder give unbiased evidence estimates.

    Raises:
        ValueError: if the pilot run did not converge.

    Source: Beskos, Jasra, Kantas & Thiery (2016), On the convergence of adaptive sequential Monte Carlo methods.
    """
    if not result.converged:
        raise ValueError("result did not reach temperature 1: there is no whole ladder to freeze")
    temperatures, n_moves = (np.atleast_2d(x)[0] for x in (result.temperatures, result.n_moves))
    steps = int(np.sum(np.isfinite(temperatures)))
    params = jax.tree.map(lambda x: x[:steps], result.params)
    return FrozenLadder(temperatures[:steps], params, n_moves[:steps].astype(int))


def collect_result(state: Any, target: TemperedTarget, stacklevel: int = 3) -> SMCResult:
    """Turn the loop's final state, replicates along the leading axis and on the host, into a result."""
    n_rounds = np.asarray(state.n_rounds)
    n_replicates, longest = len(n_rounds), int(n_rounds.max())
    is_padding = np.arange(longest) >= n_rounds[:, None]

    def per_round(rows):
        rows = np.where(is_padding, np.nan, rows[:, :longest])
        return rows[0] if n_replicates == 1 else rows

    history = state.history
    converged = bool(np.all(state.temperature == 1))
    if not converged:
        warnings.warn(
            f"tempering stopped at temperature {state.temperature.min():.3g} after {longest} rounds: the particles "
            "are not posterior draws; raise max_temperatures or lower ess_fraction",
            stacklevel=stacklevel,
        )
    dim = target.dim
    fewest = int(np.min(np.where(is_padding, np.iinfo(np.int64).max, history.n_unique[:, :longest])))
    is_full = history.params.spread.ndim == 4  # replicates, rounds, d, d
    if is_full and fewest <= dim:
        warnings.warn(
            f"a resampling left only {fewest} distinct particles in {dim} dimensions: the moves' covariance was "
            "singular and had to be lifted; raise n_particles or ess_fraction",
            stacklevel=stacklevel,
        )
    log_z = state.log_evidence
    log_mean = float(np.logaddexp.reduce(log_z) - np.log(n_replicates))
    if n_replicates == 1:
        standard_error = float(np.sqrt(state.variance[0]))
    else:
        standard_error = float(np.std(np.exp(log_z - log_mean), ddof=1) / np.sqrt(n_replicates))
    return SMCResult(
        particles=state.particles.position.reshape(-1, dim),
        log_evidence=log_mean,
        log_evidence_se=standard_error,
        temperatures=per_round(history.temperature),
        ess=per_round(history.ess),
        acceptance=per_round(history.acceptance),
        n_moves=per_round(history.n_moves),
        n_unique=per_round(history.n_unique),
        jump=per_round(history.jump),
        log_evidence_replicates=log_z,
        params=jax.tree.map(lambda x: x[0, : n_rounds[0]], history.params),
        converged=converged,
        n_iter=longest,
        n_replicates=n_replicates,
        target=target,
    )


@eqx.filter_jit
def _constrain(target: TemperedTarget, particles):
    return jax.vmap(target.constrain)(particles)
