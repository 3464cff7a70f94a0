"""Geweke's joint distribution test, decided by bets: prior, data simulator and kernel are checked against each other.

The marginal-conditional simulator draws parameters from the prior and data given them. The successive-conditional one
starts there and alternates the kernel with new data. If all the code is right both have the same law. Geweke compares
long averages by z-scores, whose error rates are approximate; here many short chains start at independent draws of the
first simulator, and the difference between their ends is a pair for the drift test, whose error rate is exact.

Source: Geweke (2004), Getting it right: joint distribution tests of posterior simulators, section 3.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from uqsparse.inference.checks.drift import Limits, run_drift
from uqsparse.inference.checks.drift_pairs import Kernel, Sweep
from uqsparse.inference.checks.drift_statistics import Statistic
from uqsparse.inference.checks.verdict import Verdict
from uqsparse.kernels.arguments import require_count


def geweke(
    key: Array,
    simulate_prior: Callable[[Array], Any],
    simulate_data: Callable[[Array, Any], Any],
    kernel: Kernel,
    statistics: Any = None,
    *,
    log_likelihood: Statistic | None = None,
    n_sweeps: int = 10,
    alpha: float = 1e-5,
    budget: int = 100_000,
    batch_size: int = 4096,
    subject: str = "",
) -> Verdict:
    """Test prior, data simulator and kernel against each other, and a log likelihood against the data simulator.

    Three things are compared with the start of a chain, and their evidence is averaged: one step of the kernel;
    `n_sweeps` rounds of a step and new data; and, given a log likelihood, one step of a kernel that is right if that
    is the density of the data: it draws theta from the prior anew and accepts by the ratio of likelihoods. So the
    counter-example tells a wrong kernel from a likelihood that does not belong to the simulator.

    Args:
        key: random key.
        simulate_prior: `simulate_prior(key)` draws theta.
        simulate_data: `simulate_data(key, theta)` draws y.
        kernel: `kernel(key, theta, y)` makes one step and returns the new theta.
        statistics: as in `drift_test`.
        log_likelihood: function of (theta, y) to the log density of the data, up to a constant that may depend on y
            alone; None leaves out the third comparison.
        n_sweeps: rounds of the successive-conditional simulator.
        alpha: probability of rejecting code that is right, in (0, 1).
        budget: most chains to simulate.
        batch_size: chains at a time.
        subject: what the verdict is about; by default it names the kernel.

    Returns:
        The verdict, with the largest z-score of each comparison in its notes.

    Raises:
        ValueError: as `drift_test`, or `n_sweeps` is out of range.
        TypeError: a function is not callable.
    """
    for name, function in {"simulate_prior": simulate_prior, "simulate_data": simulate_data}.items():
        if not callable(function):
            raise TypeError(f"{name} must be a function, got {type(function).__name__}")
    require_count("n_sweeps", n_sweeps, 1)
    sweeps = {"": Sweep(kernel, 1), f"{n_sweeps} sweeps": Sweep(kernel, n_sweeps, simulate_data)}
    likelihood = "the likelihood is the one the kernel is meant for"
    if log_likelihood is not None:
        sweeps["likelihood against simulator"] = Sweep(_LikelihoodKernel(simulate_prior, log_likelihood), 1)
        likelihood = "log_likelihood is the likelihood that the kernel is meant for"
    return run_drift(
        key,
        _Joint(simulate_prior, simulate_data),
        sweeps,
        statistics,
        log_likelihood,
        Limits(alpha, budget, batch_size),
        subject or f"{getattr(kernel, '__name__', type(kernel).__name__)}, the prior and the data simulator agree",
        assumptions=("simulate_prior draws from the prior that the kernel is meant for", likelihood),
    )


class _Joint(eqx.Module):
    """The marginal-conditional simulator."""

    prior: Callable[[Array], Any]
    data: Callable[[Array, Any], Any]

    def __call__(self, key: Array) -> tuple[Any, Any]:
        first, second = jax.random.split(key)
        theta = self.prior(first)
        return theta, self.data(second, theta)


class _LikelihoodKernel(eqx.Module):
    """A draw from the prior that is accepted with probability L' / (L + L'): the posterior of two candidates."""

    prior: Callable[[Array], Any]
    log_likelihood: Statistic

    def __call__(self, key: Array, theta: Any, y: Any) -> Any:
        first, second = jax.random.split(key)
        new = self.prior(first)
        log_odds = jnp.squeeze(jnp.asarray(self.log_likelihood(new, y) - self.log_likelihood(theta, y)))
        # Barker's rule, in the form that survives odds of 0 and infinity; NaN odds stay visible.
        taken = jax.random.logistic(second) < log_odds
        return jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, theta)
