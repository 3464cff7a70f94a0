"""Training of neural processes on tasks drawn anew at each step."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optax
from jaxtyping import Array, Float, Key

from uqsparse.kernels.arguments import require_count
from uqsparse.models.neural_processes.process import NeuralProcess, require_tasks
from uqsparse.nn.episodic_training import Sampler, train_on_episodes

_LEARNING_RATE = 1e-3


class Trained(NamedTuple):
    """A trained neural process, and how training went.

    Args:
        model: after the last step; where training diverged, as it was before the first step that did.
        losses: of each step before its update.
        steps_per_second: after the first step of the call, which compiles; None where there were fewer than two.
        stopped: "steps" (all were done), "diverged" (a loss or its gradient was not finite) or "interrupted".
    """

    model: NeuralProcess
    losses: Float[np.ndarray, " steps"]
    steps_per_second: float | None
    stopped: str

    @property
    def converged(self) -> bool:
        """Whether all steps were done."""
        return self.stopped == "steps"

    @property
    def n_steps(self) -> int:
        """Steps done in all."""
        return len(self.losses)


def fit(
    model: NeuralProcess,
    sampler: Sampler,
    *,
    key: Key[Array, ""],
    n_steps: int,
    batch_size: int = 16,
    optimiser: optax.GradientTransformation | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    steps_per_call: int = 1,
    progress: bool = False,
) -> Trained:
    """Train a neural process.

    Args:
        model: any of this package, or one with the same `loss`.
        sampler: `(key, batch_size) -> tasks`; the same key gives the same tasks. NumPy code will do.
        key: of the whole run.
        n_steps: gradient steps, at least 1.
        batch_size: tasks a step.
        optimiser: any Optax transformation; Adam if not given, from a rate of 0.001 down to 0 along a cosine.
        checkpoint: file to which the run is saved; where it exists, the run goes on from there, bit for bit as if it
            had not stopped. Model, sampler and optimiser must be those of that run.
        checkpoint_every: steps between savings.
        steps_per_call: as in `train_on_episodes`: with more than 1 the sampler is compiled too, which pays on an
            accelerator.
        progress: show a bar.

    Returns:
        The trained model and its losses. A warning says where training diverged or was interrupted.

    Raises:
        ValueError: tasks that do not fit the model or are not finite, a number out of range, or a checkpoint of
            another run.
    """
    require_count("n_steps", n_steps, 1)
    require_count("batch_size", batch_size, 1)
    require_tasks(sampler(key, batch_size), model)
    settings = ""
    if optimiser is None:
        optimiser, settings = cosine_adam(_LEARNING_RATE, n_steps), f"Adam for {n_steps} steps"
    found = train_on_episodes(
        key,
        _loss,
        optimiser,
        model,
        sampler,
        n_steps,
        batch_size=batch_size,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        steps_per_call=steps_per_call,
        settings=settings,
        progress=progress,
        title=type(model).__name__,
        stacklevel=3,
    )
    return Trained(found.network, found.losses, found.steps_per_second, found.stopped)


@functools.cache
def cosine_adam(learning_rate: float, n_steps: int) -> optax.GradientTransformation:
    """Adam whose rate falls to zero along a cosine; the same object each time, so that programs are found again."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, n_steps))


def _loss(model: NeuralProcess, tasks, key: Key[Array, ""]) -> Float[Array, ""]:
    return model.loss(tasks, key)
