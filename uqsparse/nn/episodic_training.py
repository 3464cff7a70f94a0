"""Training on batches drawn anew at each step, with checkpoints from which a run goes on bit for bit.

Meta-learning trains so: there is no data set to pass through, but a sampler of tasks.
"""

import functools
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PyTree

from uqsparse.kernels.arguments import require_count
from uqsparse.nn.training import Loss, progress_bar
from uqsparse.nn.training_checkpoints import load_checkpoint, require_checkpoint_path, save_checkpoint

# (key, batch size) -> a batch, any structure of arrays; the same key gives the same batch.
Sampler = Callable[[Key[Array, ""], int], PyTree]
# Losses are looked at so often, in steps; in between the device works without waiting for the host.
_LOOK_EVERY = 50


class EpisodicTraining(NamedTuple):
    """A model after training, and how the training went.

    Args:
        model: after the last step; where training diverged, as it was before the first step that did.
        losses: of each step before its update, those before a checkpoint included.
        steps_per_second: in this call, after the first step, which compiles; None where there were fewer than two.
        stopped: "steps" (all were done), "diverged" (a loss or its gradient was not finite) or "interrupted".
    """

    model: PyTree
    losses: Float[np.ndarray, " steps"]
    steps_per_second: float | None
    stopped: str

    @property
    def converged(self) -> bool:
        """Whether all steps were done; whether more of them would help is for the losses to say."""
        return self.stopped == "steps"

    @property
    def n_steps(self) -> int:
        """Steps done in all."""
        return len(self.losses)


class _Progress(NamedTuple):
    """All that one step hands to the next; it and the key decide the rest of the run."""

    parameters: PyTree
    state: PyTree
    n_good: Array  # steps until a loss or a gradient was not finite; from then on the parameters stand still


def train_on_episodes(
    key: Key[Array, ""],
    loss: Loss,
    optimiser: optax.GradientTransformation,
    model: PyTree,
    sampler: Sampler,
    n_steps: int,
    *,
    batch_size: int = 16,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    steps_per_call: int = 1,
    settings: str = "",
    progress: bool = False,
    title: str = "training",
    stacklevel: int = 2,
) -> EpisodicTraining:
    """Train a model on a new batch at each step.

    Step i uses the key `fold_in(key, i)` for its batch and its loss, so that a run that goes on from a checkpoint does
    what the run without interruption would have done, bit for bit (on the same machine). An interrupt (Ctrl-C) ends
    the training and loses nothing: the model so far is returned and, where asked for, kept in the checkpoint.

    Args:
        key: of the whole run.
        loss: mean loss `(model, batch, key)` of a batch. Runs that share the function share compiled programs.
        optimiser: any Optax transformation.
        model: whose inexact arrays are trained.
        sampler: `(key, batch_size) -> batch`; the same key gives the same batch. It may be NumPy code, and simulate.
        n_steps: how many in all, at least 1.
        batch_size: handed to the sampler.
        checkpoint: file to which the run is saved; where it exists, the run goes on from there. Model, loss, sampler
            and optimiser must then be the ones of that run.
        checkpoint_every: steps between savings; it is saved at the end too.
        steps_per_call: with more than 1, the sampler and that many steps are compiled into one program, which saves
            the time between steps on an accelerator. The sampler must then be JAX code that can be traced.
        settings: text that a checkpoint must agree on, beside key and batch size.
        progress: show a bar.
        title: of the bar.
        stacklevel: which caller the warnings point at; 2 is the one of this function.

    Returns:
        The model and the history. A warning says where training diverged or was interrupted.

    Raises:
        ValueError: a number is out of range, the loss of the first batch is not one number, or the checkpoint belongs
            to another run or is damaged.

    >>> sampler = lambda key, n: jax.random.normal(key, (n, 2))
    >>> square = lambda w, batch, key: ((batch @ w - 3) ** 2).mean()
    >>> train_on_episodes(jax.random.key(0), square, optax.sgd(0.1), jnp.zeros(2), sampler, 5).n_steps
    5
    """
    for name, value in (("n_steps", n_steps), ("batch_size", batch_size), ("steps_per_call", steps_per_call)):
        require_count(name, value, 1)
    require_count("checkpoint_every", checkpoint_every, 1)
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    now = _Progress(parameters, optimiser.init(parameters), jnp.zeros((), jnp.int32))
    losses, first = np.empty(n_steps), 0
    identity = f"key {jax.random.key_data(key).tolist()}, batches of {batch_size}{settings and ', ' + settings}"
    if checkpoint is not None:
        checkpoint = require_checkpoint_path(checkpoint)
        if checkpoint.exists():
            now, past = load_checkpoint(checkpoint, identity, now)
            first = len(past)
            if first > n_steps:
                raise ValueError(f"the checkpoint {str(checkpoint)!r} is at step {first}, beyond n_steps = {n_steps}")
            losses[:first] = past
    if first < n_steps:
        key_batch, key_loss = _step_keys(key, first)
        _require_one_number(loss, model, sampler(key_batch, batch_size), key_loss)
    advance = _advancer(loss, optimiser, static, sampler, batch_size, steps_per_call)

    stopped, done, compiled_at = "steps", first, math.nan
    with progress_bar(progress, title, n_steps) as show:
        show("compiling", first)
        try:
            while done < n_steps:
                size = 1 if done == first else min(_LOOK_EVERY, checkpoint_every - done % checkpoint_every)
                last = min(done + size, n_steps)
                after, values = advance(now, key, done, last)
                losses[done:last] = np.asarray(values)  # waits for the device
                if done == first:
                    compiled_at = time.perf_counter()
                size, now, done = last - done, after, last
                if int(now.n_good) < done:
                    stopped, done = "diverged", int(now.n_good) + 1
                    break
                show(f"loss {losses[done - size : done].mean():.4f}", size)
                if checkpoint is not None and (done % checkpoint_every == 0 or done == n_steps):
                    save_checkpoint(checkpoint, identity, now, losses[:done])
        except KeyboardInterrupt:
            stopped = "interrupted"
            if checkpoint is not None:
                save_checkpoint(checkpoint, identity, now, losses[:done])
    rate = (done - first - 1) / (time.perf_counter() - compiled_at) if done > first + 1 else None
    if stopped != "steps":
        warnings.warn(_reason(stopped, done), stacklevel=stacklevel)
    return EpisodicTraining(eqx.combine(now.parameters, static), losses[:done].copy(), rate, stopped)


def _reason(stopped: str, n_steps: int) -> str:
    if stopped == "interrupted":
        return f"training was interrupted after {n_steps} steps; the model so far is kept"
    return f"the loss or its gradient was not finite at step {n_steps - 1}; the model before it is kept: lower the rate"


@jax.jit
def _step_keys(key: Key[Array, ""], i: Any) -> Any:
    """The keys of step i for its batch and for its loss."""
    return jax.random.split(jax.random.fold_in(key, i))


def _require_one_number(loss: Loss, model: PyTree, batch: PyTree, key: Key[Array, ""]) -> None:
    found = eqx.filter_eval_shape(loss, model, batch, key)
    if getattr(found, "shape", None) != () or not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(f"loss must return one real number, got {found}")


def _advancer(loss, optimiser, static, sampler, batch_size: int, steps_per_call: int) -> Callable[..., Any]:
    """`(now, key, first, last) -> (after, losses)`, the steps from `first` up to `last`."""
    leaves, structure = jax.tree.flatten(static)
    if steps_per_call == 1:
        step = _compiled_step(loss, optimiser, tuple(leaves), structure)

        def one_by_one(now, key, first, last):
            values = []
            for i in range(first, last):
                key_batch, key_loss = _step_keys(key, i)
                now, value = step(now, i, sampler(key_batch, batch_size), key_loss)
                values.append(value)
            return now, jax.device_get(values)

        return one_by_one
    many = _compiled_steps(loss, optimiser, tuple(leaves), structure, sampler, batch_size, steps_per_call)

    def together(now, key, first, last):
        values = []
        for i in range(first, last, steps_per_call):
            n = min(steps_per_call, last - i)
            now, some = many(now, key, i, n)
            values.append(some[:n])
        return now, np.concatenate(jax.device_get(values))

    return together


# Built once for the same loss, optimiser and architecture, so that a second run does not compile again.
@functools.lru_cache(maxsize=32)
def _compiled_step(loss, optimiser, leaves, structure):
    return jax.jit(functools.partial(_step, loss, optimiser, jax.tree.unflatten(structure, leaves)))


@functools.lru_cache(maxsize=32)
def _compiled_steps(loss, optimiser, leaves, structure, sampler, batch_size, capacity):
    static = jax.tree.unflatten(structure, leaves)

    def steps(now, key, first, n):
        # The number of turns is not known to the compiler: one program whatever it is, hence the same rounding.
        def turn(j, carry):
            now, values = carry
            key_batch, key_loss = _step_keys(key, first + j)
            now, value = _step(loss, optimiser, static, now, first + j, sampler(key_batch, batch_size), key_loss)
            return now, values.at[j].set(value)

        return jax.lax.fori_loop(0, n, turn, (now, jnp.zeros(capacity)))

    return jax.jit(steps)


def _step(loss, optimiser, static, now: _Progress, i, batch, key) -> tuple[_Progress, Array]:
    def value_of(parameters):
        return loss(eqx.combine(parameters, static), batch, key)

    value, slope = jax.value_and_grad(value_of)(now.parameters)
    updates, state = optimiser.update(slope, now.state, now.parameters)
    parameters = optax.apply_updates(now.parameters, updates)
    good = (now.n_good == i) & jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(slope))
    kept_parameters, kept_state = jax.tree.map(
        lambda new, old: jnp.where(good, new, old), (parameters, state), (now.parameters, now.state)
    )
    return _Progress(kept_parameters, kept_state, now.n_good + good), value
