"""Training of neural processes on tasks drawn anew at each step."""

import functools
from pathlib import Path

import optax
from jaxtyping import Array, Float, Key

from uqsparse.kernels.arguments import require_count
from uqsparse.models.neural_processes.process import NeuralProcess, require_tasks
from uqsparse.nn.episodic_training import EpisodicTraining, Sampler, train_on_episodes

_LEARNING_RATE = 1e-3


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
) -> EpisodicTraining:
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
    return train_on_episodes(
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


@functools.cache
def cosine_adam(learning_rate: float, n_steps: int) -> optax.GradientTransformation:
    """Adam whose rate falls to zero along a cosine; the same object each time, so that programs are found again."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, n_steps))


def _loss(model: NeuralProcess, tasks, key: Key[Array, ""]) -> Float[Array, ""]:
    return model.loss(tasks, key)
