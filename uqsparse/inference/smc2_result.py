"""What SMC^2 returns: parameter draws, evidence, and how both came about over time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, PyTree

from uqsparse.inference.particle_mcmc_io import draws_to_arviz


@dataclass(frozen=True)
class SMC2Result:
    """Parameters given the whole series, and everything that was known at each time before.

    Attributes:
        samples: equally weighted draws of the parameters given the whole series, by site name, leading axis m.
        log_evidence: estimate of log p(y_0, ..., y_{T-1}), the parameters integrated out.
        log_evidence_se: estimated standard error of it, from the genealogy of this run.
        log_evidence_increments: estimates of log p(y_t | y_0, ..., y_{t-1}), shape (T,).
        parameter_means: means of the parameters given y_0, ..., y_t, by site name, leading axis T.
        parameter_sds: their standard deviations.
        state_means: means of x_t given y_0, ..., y_t, a pytree with leading axis T.
        state_sds: their standard deviations.
        ess: effective sample size of the parameters at each time, between 1 and m, shape (T,).
        n_particles: particles of each filter at each time, shape (T,).
        moved_at: times after whose observation the parameters were moved, shape (k,); the last one is T - 1.
        acceptance: mean acceptance of the moves there, shape (k,).
        log_evidence_sd: standard deviation of a filter's log evidence there, shape (k,): measured, or where the filters
            got more particles, what these should have left of it.
        ess_moved: effective sample size of the parameters that were resampled there, shape (k,).
        converged: whether the parameters stayed diverse enough to be moved, and the filters' noise low enough.
        observations: the series.
    """

    samples: dict[str, np.ndarray]
    log_evidence: float
    log_evidence_se: float
    log_evidence_increments: Float[np.ndarray, " T"]
    parameter_means: dict[str, np.ndarray]
    parameter_sds: dict[str, np.ndarray]
    state_means: PyTree
    state_sds: PyTree
    ess: Float[np.ndarray, " T"]
    n_particles: Int[np.ndarray, " T"]
    moved_at: Int[np.ndarray, " k"]
    acceptance: Float[np.ndarray, " k"]
    log_evidence_sd: Float[np.ndarray, " k"]
    ess_moved: Float[np.ndarray, " k"]
    converged: bool
    observations: PyTree

    def to_arviz(self) -> Any:
        """ArviZ data: the draws as one chain, the observations, and the evidence in the attributes."""
        posterior = {name: x[None] for name, x in self.samples.items()}
        attributes = {
            "algorithm": "SMC^2",
            "log_evidence": self.log_evidence,
            "log_evidence_se": self.log_evidence_se,
            "n_particles": int(self.n_particles[-1]),
            "converged": self.converged,
            "moved_at": self.moved_at,
            "acceptance": self.acceptance,
        }
        return draws_to_arviz(posterior, None, {}, self.observations, attributes)
