"""Moves: Markov steps that leave a density invariant, made for a whole population at once.

A move is a small frozen record of choices with a few functions, and all its state is explicit:

- `start(position, log_density, known)` returns the `MoveState` of a population, evaluating what `known` leaves open;
- `step(key, state, log_density, params)` moves every particle once and returns the new state and the mean acceptance;
- `tune(params, acceptance)` moves the step size toward the acceptance the move works best at.

`fit_params(params, position, weights)` reads location and spread of the target off weighted particles, for any move.

`log_density` maps positions (n, d) to a pair: values (n,) and a pytree of per-particle extras (leading axis n) that
travels with the particle. Fitting and tuning are adaptation: call them between sweeps, never inside one, since a step
that reads its own population's acceptance does not leave the target invariant.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, PyTree

from uqsparse.kernels.arguments import require_fraction

Known = tuple[Float[Array, " n"], PyTree]
LogDensity = Callable[[Float[Array, "n d"]], Known]


class MoveParams(NamedTuple):
    """What a move adapts: a log step size and the location and spread of the target.

    Attributes:
        log_scale: log of the step size relative to `spread`, a scalar.
        mean: location, shape (d,).
        spread: lower Cholesky factor of the covariance, shape (d, d), or standard deviations, shape (d,).
    """

    log_scale: Float[Array, ""]
    mean: Float[Array, " d"]
    spread: Float[Array, "d d"] | Float[Array, " d"]


class MoveState(NamedTuple):
    """A population under a density: positions (n, d), log densities (n,), extras, and gradients (n, d) or ()."""

    position: Float[Array, "n d"]
    log_density: Float[Array, " n"]
    extras: PyTree
    gradient: Float[Array, "n d"] | tuple[()]


class MoveInfo(NamedTuple):
    """What one step did: mean acceptance probability, and whether a log density was NaN at some proposal.

    Attributes:
        acceptance: mean acceptance probability over the population, a scalar.
        has_nan: whether the log density was NaN at some proposal, a boolean scalar.
        nan_at: one such proposal, shape (d,); zeros if there was none.
    """

    acceptance: Float[Array, ""]
    has_nan: Array
    nan_at: Float[Array, " d"]


class Move(Protocol):
    """The contract of a move; see the module's docstring."""

    def initial_log_scale(self, dim: int) -> float: ...

    def start(
        self, position: Float[Array, "n d"], log_density: LogDensity, known: Known | None = None
    ) -> MoveState: ...

    def step(
        self, key: Array, state: MoveState, log_density: LogDensity, params: MoveParams
    ) -> tuple[MoveState, MoveInfo]: ...

    def tune(self, params: MoveParams, acceptance: Float[Array, ""]) -> MoveParams: ...


def fit_params(params: MoveParams, position: Float[Array, "n d"], weights: Float[Array, " n"]) -> MoveParams:
    """Set location and spread to the weighted mean and covariance of the particles.

    A covariance that is singular, because fewer than d + 1 particles are distinct, is lifted by 1e-8 of its mean
    variance. The shape of `params.spread` decides between a full covariance and standard deviations.
    """
    weights = weights / jnp.sum(weights)
    mean = weights @ position
    centred = position - mean
    tiny = jnp.finfo(position.dtype).tiny
    if params.spread.ndim == 1:
        variance = weights @ centred**2
        lift = 1e-8 * jnp.mean(variance) + tiny
        return params._replace(mean=mean, spread=jnp.sqrt(variance + lift))
    covariance = centred.T @ (weights[:, None] * centred)
    lift = 1e-8 * jnp.mean(jnp.diag(covariance)) + tiny
    spread = jnp.linalg.cholesky(covariance + lift * jnp.eye(mean.size))
    return params._replace(mean=mean, spread=spread)


class RandomWalk(eqx.Module):
    """Random-walk Metropolis: propose `u + s * 2.38 / sqrt(d) * L z` with the covariance L L' of the particles.

    Args:
        target_acceptance: mean acceptance that the step size s is tuned toward, in (0, 1).

    Source: Roberts, Gelman & Gilks (1997), Weak convergence and optimal scaling of random walk Metropolis algorithms.
    """

    target_acceptance: float = 0.234

    def __check_init__(self):
        require_fraction("target_acceptance", self.target_acceptance)

    def initial_log_scale(self, dim: int) -> float:
        return math.log(2.38 / math.sqrt(dim))

    def start(self, position, log_density, known=None):
        return _evaluated(position, log_density, known)

    def step(self, key, state, log_density, params):
        key_proposal, key_accept = jax.random.split(key)
        # A random walk is valid for any symmetric noise: single precision is enough, and takes half the time.
        noise = jax.random.normal(key_proposal, state.position.shape, jnp.float32).astype(state.position.dtype)
        proposal = state.position + jnp.exp(params.log_scale) * _spread(params.spread, noise)
        proposed = _evaluated(proposal, log_density)
        return _accept(key_accept, state, proposed, proposed.log_density - state.log_density)

    def tune(self, params, acceptance):
        # In high dimension acceptance is 2 Phi(-c s): one division lands on the target (Roberts et al. 1997, cor. 1.2).
        return _rescale(params, acceptance, self.target_acceptance, power=1.0, most=3.0)


class IndependentProposal(eqx.Module):
    """Independence Metropolis: propose from a Gaussian or Student-t fitted to the particles.

    Args:
        inflation: factor on the covariance, at least 1; heavier than the target keeps the ratio bounded.
        degrees_of_freedom: of a multivariate Student-t proposal; None for a Gaussian.

    Source: Chopin (2002), A sequential particle filter method for static models, section 4.1.
    """

    inflation: float = 1.1
    degrees_of_freedom: float | None = None

    def __check_init__(self):
        if not self.inflation >= 1:
            raise ValueError(f"inflation must be at least 1, got {self.inflation}")
        if self.degrees_of_freedom is not None and not self.degrees_of_freedom > 0:
            raise ValueError(f"degrees_of_freedom must be positive or None, got {self.degrees_of_freedom}")

    def initial_log_scale(self, dim: int) -> float:
        return 0.5 * math.log(self.inflation)

    def start(self, position, log_density, known=None):
        return _evaluated(position, log_density, known)

    def step(self, key, state, log_density, params):
        key_proposal, key_mix, key_accept = jax.random.split(key, 3)
        n, dim = state.position.shape
        scale = jnp.exp(params.log_scale)
        noise = jax.random.normal(key_proposal, (n, dim), state.position.dtype)
        if self.degrees_of_freedom is not None:
            half = 0.5 * self.degrees_of_freedom
            mixing = jax.random.gamma(key_mix, half, (n, 1), state.position.dtype) / half
            noise = noise / jnp.sqrt(mixing)
        proposal = params.mean + scale * _spread(params.spread, noise)
        proposed = _evaluated(proposal, log_density)
        current = unspread(params.spread, state.position - params.mean) / scale
        log_ratio = proposed.log_density - state.log_density + self._log_kernel(current) - self._log_kernel(noise)
        return _accept(key_accept, state, proposed, log_ratio)

    def _log_kernel(self, whitened):
        """Log density of the proposal at whitened positions, up to a constant."""
        squared = jnp.sum(whitened**2, axis=-1)
        if self.degrees_of_freedom is None:
            return -0.5 * squared
        nu, dim = self.degrees_of_freedom, whitened.shape[-1]
        return -0.5 * (nu + dim) * jnp.log1p(squared / nu)

    def tune(self, params, acceptance):
        return params


class HMC(eqx.Module):
    """Hamiltonian Monte Carlo whose mass matrix is the inverse covariance of the particles.

    In the coordinates where the particles have unit covariance the natural trajectory is a quarter turn. Each sweep
    step draws a length uniformly between half and one and a half times `trajectory`, common to the population, and
    covers it with leapfrog steps of the tuned size. Trajectories that diverge (NaN or infinite energy) are rejected.

    Args:
        trajectory: mean length of a trajectory, in standard deviations of the target; positive.
        max_leapfrog: most leapfrog steps a trajectory may take, at least 1.
        target_acceptance: mean acceptance that the step size is tuned toward, in (0, 1).

    Source: Duane et al. (1987), Hybrid Monte Carlo; Beskos et al. (2013), Optimal tuning of the hybrid Monte Carlo
    algorithm (acceptance 0.651); Buchholz, Chopin & Jacob (2021), Adaptive tuning of HMC within SMC.
    """

    trajectory: float = 0.5 * math.pi
    max_leapfrog: int = 32
    target_acceptance: float = 0.8

    def __check_init__(self):
        require_fraction("target_acceptance", self.target_acceptance)
        if not self.trajectory > 0:
            raise ValueError(f"trajectory must be positive, got {self.trajectory}")
        if self.max_leapfrog < 1:
            raise ValueError(f"max_leapfrog must be at least 1, got {self.max_leapfrog}")

    def initial_log_scale(self, dim: int) -> float:
        return -0.25 * math.log(dim)

    def start(self, position, log_density, known=None):
        values, extras, gradient = _with_gradient(log_density, position)
        return MoveState(position, values, extras, gradient)

    def step(self, key, state, log_density, params):
        key_momentum, key_length, key_accept = jax.random.split(key, 3)
        n, dim = state.position.shape
        largest = jnp.exp(params.log_scale)
        length = self.trajectory * jax.random.uniform(key_length, (), largest.dtype, 0.5, 1.5)
        n_leapfrog = jnp.clip(jnp.ceil(length / largest), 1, self.max_leapfrog).astype(int)
        size = jnp.minimum(length / n_leapfrog, largest)
        momentum = jax.random.normal(key_momentum, (n, dim), state.position.dtype)

        def kick(momentum, gradient, fraction):
            return momentum + fraction * size * _spread_transposed(params.spread, gradient)

        def drift(position, momentum):
            return position + size * _spread(params.spread, momentum)

        def leapfrog(_, carry):
            position, momentum = carry
            position = drift(position, momentum)
            _, _, gradient = _with_gradient(log_density, position)
            return position, kick(momentum, gradient, 1.0)

        # Half kick, then n - 1 full drift-kick pairs, then one drift and a half kick at the end point.
        carry = (state.position, kick(momentum, state.gradient, 0.5))
        position, moved = jax.lax.fori_loop(0, n_leapfrog - 1, leapfrog, carry)
        position = drift(position, moved)
        values, extras, gradient = _with_gradient(log_density, position)
        moved = kick(moved, gradient, 0.5)

        kinetic = 0.5 * (jnp.sum(momentum**2, axis=-1) - jnp.sum(moved**2, axis=-1))
        log_ratio = values - state.log_density + kinetic
        log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
        proposed = MoveState(position, values, extras, gradient)
        return _accept(key_accept, state, proposed, log_ratio)

    def tune(self, params, acceptance):
        # In high dimension acceptance is 2 Phi(-c e^2) (Beskos et al. 2013, theorem 3.6): the square root of the ratio.
        tuned = _rescale(params, acceptance, self.target_acceptance, power=0.5, most=2.0)
        # A step longer than the longest trajectory is never taken, so its acceptance would say nothing.
        return tuned._replace(log_scale=jnp.minimum(tuned.log_scale, math.log(1.5 * self.trajectory)))


def _evaluated(position, log_density: LogDensity, known: Known | None = None) -> MoveState:
    """State of a population under a density, for moves without gradients."""
    values, extras = log_density(position) if known is None else known
    return MoveState(position, values, extras, ())


def _accept(key, state: MoveState, proposed: MoveState, log_ratio) -> tuple[MoveState, MoveInfo]:
    """Metropolis-Hastings for each particle."""
    log_uniform = jnp.log(jax.random.uniform(key, log_ratio.shape, log_ratio.dtype))
    accepted = log_uniform < log_ratio  # False for NaN

    def choose(new, old):
        return jnp.where(accepted.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

    is_nan = jnp.isnan(log_ratio)
    first = jnp.argmax(is_nan)
    info = MoveInfo(
        acceptance=jnp.mean(jnp.exp(jnp.minimum(jnp.where(is_nan, -jnp.inf, log_ratio), 0))),
        has_nan=is_nan[first],
        nan_at=jnp.where(is_nan[first], proposed.position[first], 0),
    )
    return jax.tree.map(choose, proposed, state), info


def _with_gradient(log_density: LogDensity, position):
    """Values, extras and gradients of a population; particles are independent, so one pullback gives all gradients."""
    values, pullback, extras = jax.vjp(log_density, position, has_aux=True)
    (gradient,) = pullback(jnp.ones_like(values))
    return values, extras, gradient


def _rescale(params: MoveParams, acceptance, target: float, power: float, most: float) -> MoveParams:
    """Step size at which acceptance = 2 Phi(-c s^(1/power)) meets the target, changed by a factor of `most` at most."""
    observed = jnp.clip(acceptance, 1e-6, 1 - 1e-6)
    log_factor = power * (jnp.log(-ndtri(jnp.asarray(target) / 2)) - jnp.log(-ndtri(observed / 2)))
    limit = math.log(most)
    return params._replace(log_scale=params.log_scale + jnp.clip(log_factor, -limit, limit))


def _spread(spread, z):
    """`L z` for each row of z."""
    return z * spread if spread.ndim == 1 else z @ spread.T


def _spread_transposed(spread, g):
    """`L' g` for each row of g."""
    return g * spread if spread.ndim == 1 else g @ spread


def unspread(spread, x):
    """`L^-1 x` for each row of x."""
    if spread.ndim == 1:
        return x / spread
    return jax.scipy.linalg.solve_triangular(spread, x.T, lower=True).T
