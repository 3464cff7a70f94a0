"""Neural processes on functions of Gaussian processes: equal parameters, steps, batches and noise floors."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from uqsparse.data.tasks import Kernel, Tasks, gp_covariance, gp_tasks, gp_tasks_with_laws
from uqsparse.models.neural_processes import BNP, CANP, CNP, MPANP, MPNP, NP, count_parameters, fit
from uqsparse.models.neural_processes.process import NeuralProcess
from uqsparse.models.neural_processes.scores import LogLikelihoods, log_likelihoods

KERNELS: tuple[Kernel, ...] = ("rbf", "matern", "periodic", "t-noise")
SEEDS = (0, 1)
N_STEPS, BATCH, MAX_POINTS, MIN_SCALE = 4000, 16, 32, 0.02
PSEUDO_WEIGHT = 0.1  # of the martingale process; the paper's 1 costs accuracy in so few steps
N_TEST, N_SAMPLES = 256, 50
# Widths at which all have about 63,000 parameters.
NETWORKS: dict[str, Callable[..., NeuralProcess]] = {
    "CNP": partial(CNP, width=94),
    "NP": partial(NP, width=66),
    "BNP": partial(BNP, width=88),
    "MPNP": partial(MPNP, width=90, generator_width=16, pseudo_weight=PSEUDO_WEIGHT),
}
# For the ablation of the martingale process, and with attention.
OTHERS: dict[str, Callable[..., NeuralProcess]] = {
    "MPNP, all terms 1": partial(MPNP, width=90, generator_width=16),
    "MPNP, without pseudo": partial(MPNP, width=90, generator_width=16, pseudo_weight=0.0),
    "MPNP, marginal only": partial(MPNP, width=90, generator_width=16, pseudo_weight=0.0, amortisation_weight=0.0),
    "CANP": partial(CANP, width=64),
    "MPANP": partial(MPANP, width=64, pseudo_weight=PSEUDO_WEIGHT),
}


class Run(NamedTuple):
    """One training.

    Args:
        model: after the last step.
        parameters: how many numbers were trained.
        losses: of each step.
    """

    model: NeuralProcess
    parameters: int
    losses: np.ndarray


def training_tasks(key: Any, n_tasks: int) -> Tasks:
    """What all are trained on: functions of the first kernel, 3 to 29 points of context."""
    return gp_tasks(key, n_tasks, max_points=MAX_POINTS)


def trained(name: str, seed: int, n_steps: int = N_STEPS) -> Run:
    """Train one network, once; all of a seed see the same tasks."""
    return _trained(name, seed, n_steps)


@cache  # told apart by how it is called, defaults left out or not: hence one way to call it
def _trained(name: str, seed: int, n_steps: int) -> Run:
    key_model, key_fit = jax.random.split(jax.random.key(seed))
    model = (NETWORKS | OTHERS)[name](1, 1, min_scale=MIN_SCALE, key=key_model)
    found = fit(model, training_tasks, key=key_fit, n_steps=n_steps, batch_size=BATCH)
    return Run(found.model, count_parameters(found.model), found.losses)


@cache
def test_tasks(kernel: Kernel) -> tuple[Tasks, Any]:
    """256 tasks that no training has seen, and the laws they were drawn from."""
    return gp_tasks_with_laws(jax.random.key(10_000), N_TEST, kernel=kernel, max_points=MAX_POINTS)


def scores(name: str, seed: int, kernel: Kernel, n_steps: int = N_STEPS) -> LogLikelihoods:
    """Log likelihoods of the test tasks under one network."""
    return _scores(name, seed, kernel, n_steps)


@cache
def _scores(name: str, seed: int, kernel: Kernel, n_steps: int) -> LogLikelihoods:
    return log_likelihoods(trained(name, seed, n_steps).model, test_tasks(kernel)[0], jax.random.key(1), N_SAMPLES)


@cache
def oracle_scores(kernel: Kernel) -> LogLikelihoods:
    """The same of the Gaussian process that each task was drawn from, with its own hyper-parameters and noise.

    On "t-noise" it does not know of the Student noise.
    """
    tasks, laws = test_tasks(kernel)
    return LogLikelihoods(*(np.asarray(x, float) for x in _oracle(kernel, tasks, laws)))


@partial(jax.jit, static_argnums=0)
def _oracle(kernel, tasks, laws):
    def one(task, length, scale, period):
        covariance = partial(gp_covariance, kernel, length=length, scale=scale, period=period)
        x = jnp.concatenate([task.context_x, task.target_x])
        y = jnp.concatenate([task.context_y, task.target_y])[:, 0]
        mean, full = gp_posterior(covariance, laws.noise, task.context_x, task.context_y[:, 0], task.context_mask, x)
        variance = jnp.diag(full) + laws.noise**2
        by_point = -0.5 * ((y - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance))
        n_context = len(task.context_x)
        # Targets that are padding become independent standard normals at their mean.
        there = task.target_mask
        residual = jnp.where(there, (y - mean)[n_context:], 0.0)
        noisy = full[n_context:, n_context:] + laws.noise**2 * jnp.eye(len(there))
        joint = jnp.where(jnp.outer(there, there), noisy, jnp.eye(len(there)))
        factor = jnp.linalg.cholesky(joint)
        count = jnp.maximum(there.sum(), 1)
        density = -0.5 * residual @ cho_solve((factor, True), residual) - jnp.log(jnp.diag(factor)).sum()
        density = density / count - 0.5 * jnp.log(2 * jnp.pi)
        in_context = jnp.where(task.context_mask, by_point[:n_context], 0.0).sum()
        at_target = jnp.where(there, by_point[n_context:], 0.0).sum()
        return in_context / jnp.maximum(task.context_mask.sum(), 1), at_target / count, density

    rows = Tasks(*tasks)
    return jax.vmap(one)(rows, laws.length, laws.scale, laws.period)


def gp_posterior(covariance, noise, context_x, context_y, context_mask, x) -> tuple[Any, Any]:
    """Mean and covariance of a function at `x` given noisy values; rows that are masked count for nothing."""
    both = jnp.outer(context_mask, context_mask)
    known = jnp.where(both, covariance(context_x, context_x), 0.0)
    known = known + jnp.diag(jnp.where(context_mask, noise**2, 1.0))
    cross = jnp.where(context_mask, covariance(x, context_x), 0.0)
    factor = jnp.linalg.cholesky(known)
    mean = cross @ cho_solve((factor, True), jnp.where(context_mask, context_y, 0.0))
    return mean, covariance(x, x) - cross @ cho_solve((factor, True), cross.T)


def differences(name: str, other: str, kernel: Kernel, score: str = "target") -> tuple[float, float]:
    """Mean over seeds and tasks of one network's score less another's, and its standard error over tasks."""
    gaps = np.mean(
        [getattr(scores(name, seed, kernel), score) - getattr(scores(other, seed, kernel), score) for seed in SEEDS],
        axis=0,
    )
    return float(gaps.mean()), float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
