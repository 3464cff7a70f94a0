"""What samplers of parameters share: the prior in unconstrained coordinates, filters run at a point, and starts."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from uqsparse.inference.conditional_smc import choose_path
from uqsparse.inference.filter_settings import FilterSettings
from uqsparse.inference.particle_filter import run_filter
from uqsparse.inference.state_space import Series, StateSpaceModel
from uqsparse.inference.targets import TemperedTarget
from uqsparse.kernels import uniform

# Filters of one compiled call.
N_FILTERS = 64
# Draws from the prior among which the chains' starts are chosen, and how many of them at least count.
N_CANDIDATES, LEAST_ESS = 2 * N_FILTERS, 8


class Estimate(NamedTuple):
    """What one run of a filter says about parameters: an estimate of the evidence, and a path drawn from its lines.

    `invalid_at` is the first time at which a log density was no number, -1 if none.
    """

    log_evidence: Float[Array, ""]
    path: PyTree
    invalid_at: Array


class Starts(NamedTuple):
    """Where chains start: positions (n_chains, d), estimates with that leading axis, and standard deviations (d,)."""

    position: Float[Array, "n d"]
    estimate: Estimate
    spread: Float[Array, " d"]


def parameter_target(model: StateSpaceModel) -> TemperedTarget:
    """The prior of a model's parameters on R^d; its `log_density(u)` includes the Jacobian.

    Raises:
        ValueError: the model has no prior, or one that cannot be drawn from.
    """
    if model.prior is None:
        raise ValueError("the model has no prior for its parameters: StateSpaceModel(..., prior=numpyro_function)")
    return TemperedTarget.from_numpyro(model.prior)


def estimate(
    key: Array,
    model: StateSpaceModel,
    target: TemperedTarget,
    position: Float[Array, " d"],
    series: Series,
    settings: FilterSettings,
    keep_path: bool = True,
) -> Estimate:
    """Run the filter at one point of the parameter space and draw one path of states from its genealogy."""
    key_filter, key_path = jax.random.split(key)
    result = run_filter(key_filter, model, target.constrain(position), series, settings, lambda x: (), (), keep_path)
    path, history = None, result.history
    if history is not None:
        path, _ = choose_path(jnp.exp(result.log_weights), history.states, history.ancestors, uniform(key_path, (1,)))
    return Estimate(result.log_evidence, path, result.invalid_at)


def choose_starts(
    key: Array,
    model: StateSpaceModel,
    target: TemperedTarget,
    series: Series,
    settings: FilterSettings,
    n_chains: int,
    keep_path: bool = True,
) -> Starts:
    """Draw parameters from the prior, run a filter for each, and choose starts by their likelihoods.

    The likelihood is tempered until at least a few draws count, so that one lucky estimate does not take all chains.

    Raises:
        ValueError: no draw from the prior gives the observations a positive likelihood, or a log density is no number.
    """
    key_prior, key_filter, key_choice = jax.random.split(key, 3)
    positions, log_factor = _draw_candidates(key_prior, target)
    batches = []
    for some in np.split(np.asarray(positions), N_CANDIDATES // N_FILTERS):
        key_filter, key_batch = jax.random.split(key_filter)
        batches.append(run_filters(key_batch, model, target, jnp.asarray(some), series, settings, keep_path))
    estimates = jax.tree.map(lambda *xs: np.concatenate(xs), *batches)
    # Factors of the prior count too.
    log_likelihood = estimates.log_evidence + np.asarray(log_factor)
    invalid = estimates.invalid_at
    if np.any(invalid >= 0):
        worst = int(np.argmax(invalid >= 0))
        values = jax.tree.map(lambda x: np.asarray(x).tolist(), target.constrain(positions[worst]))
        raise ValueError(f"a log density is NaN or +inf at t = {invalid[worst]} for parameters {values}")
    if not np.any(np.isfinite(log_likelihood)):
        raise ValueError(
            f"none of {N_CANDIDATES} draws from the prior gives the observations a positive likelihood: check the "
            "observations' support, tighten the prior, raise n_particles or use a proposal"
        )
    temperature = 1.0
    while True:
        weights = np.exp(temperature * (log_likelihood - log_likelihood.max()))
        weights /= weights.sum()
        if 1 / np.sum(weights**2) >= min(LEAST_ESS, np.isfinite(log_likelihood).sum()) or temperature < 1e-6:
            break
        temperature /= 2
    position, found = _choose(key_choice, jnp.asarray(weights), (positions, estimates), n_chains)
    drawn = np.asarray(positions)
    spread = np.sqrt(weights @ (drawn - weights @ drawn) ** 2)
    return Starts(position, found, jnp.asarray(np.maximum(spread, 1e-3 * np.std(drawn, axis=0))))


@eqx.filter_jit
def run_filters(
    key: Array,
    model: StateSpaceModel,
    target: TemperedTarget,
    positions: Float[Array, "m d"],
    series: Series,
    settings: FilterSettings,
    keep_path: bool,
) -> Estimate:
    """Run the filter at each of m points, compiled; m = N_FILTERS needs no second program after `choose_starts`."""

    def one(x):
        key, position = x
        return estimate(key, model, target, position, series, settings, keep_path)

    # In small batches: each filter holds its whole history for a moment.
    return jax.lax.map(one, (jax.random.split(key, positions.shape[0]), positions), batch_size=8)


@eqx.filter_jit
def _draw_candidates(key, target: TemperedTarget):
    positions = target.sample_prior(key, N_CANDIDATES)
    return positions, jax.vmap(target.log_likelihood)(positions)


@eqx.filter_jit
def _choose(key, weights, tree, n: int):
    chosen = jax.random.choice(key, weights.shape[0], (n,), p=weights)
    return jax.tree.map(lambda x: x[chosen], tree)
