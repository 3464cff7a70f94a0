"""Training steps a second: our training of a conditional neural process against a plain Equinox and Optax loop."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from uqsparse.bench.records import Contest, Context
from uqsparse.bench.registry import speed
from uqsparse.data.tasks import gp_tasks
from uqsparse.models.neural_processes import CNP, fit

_N_STEPS, _BATCH, _WIDTH = 200, 16, 64
_tasks = partial(gp_tasks, max_points=32)


class _Plain(eqx.Module):
    """The same network of Equinox's own layers."""

    encoder: eqx.nn.MLP
    after: eqx.nn.MLP
    decoder: eqx.nn.MLP

    def __init__(self, key: Array):
        keys = jax.random.split(key, 3)
        self.encoder = eqx.nn.MLP(2, _WIDTH, _WIDTH, 3, key=keys[0])
        self.after = eqx.nn.MLP(_WIDTH, _WIDTH, _WIDTH, 1, key=keys[1])
        self.decoder = eqx.nn.MLP(_WIDTH + 1, 2, _WIDTH, 2, key=keys[2])

    def __call__(self, context_x, context_y, mask, x):
        rows = jax.vmap(self.encoder)(jnp.concatenate([context_x, context_y], -1))
        mean = jnp.where(mask[:, None], rows, 0.0).sum(0) / jnp.maximum(mask.sum(), 1)
        summary = jnp.broadcast_to(self.after(mean), (len(x), _WIDTH))
        found = jax.vmap(self.decoder)(jnp.concatenate([summary, x], -1))
        return found[:, :1], 0.1 + 0.9 * jax.nn.softplus(found[:, 1:])


def _negative_log_likelihood(model, tasks):
    def one(task):
        x, y = jnp.concatenate([task.context_x, task.target_x]), jnp.concatenate([task.context_y, task.target_y])
        there = jnp.concatenate([task.context_mask, task.target_mask])
        mean, scale = model(task.context_x, task.context_y, task.context_mask, x)
        density = jax.scipy.stats.norm.logpdf(y, mean, scale)[:, 0]
        return jnp.where(there, density, 0.0).sum() / there.sum()

    return -jax.vmap(one)(tasks).mean()


_optimiser = optax.adam(optax.cosine_decay_schedule(1e-3, _N_STEPS))


@eqx.filter_jit
def _step(model, state, tasks):
    value, slope = eqx.filter_value_and_grad(_negative_log_likelihood)(model, tasks)
    updates, state = _optimiser.update(slope, state, eqx.filter(model, eqx.is_inexact_array))
    return eqx.apply_updates(model, updates), state, value


def _plain_loop(seed: int):
    key_model, key = jax.random.split(jax.random.key(seed))
    model = _Plain(key_model)
    state = _optimiser.init(eqx.filter(model, eqx.is_inexact_array))
    losses = []
    for i in range(_N_STEPS):
        model, state, value = _step(model, state, _tasks(jax.random.fold_in(key, i), _BATCH))
        losses.append(value)
    return jnp.stack(losses)


def _ours(seed: int):
    key_model, key = jax.random.split(jax.random.key(seed))
    model = CNP(1, 1, width=_WIDTH, key=key_model)
    return fit(model, _tasks, key=key, n_steps=_N_STEPS, batch_size=_BATCH).losses


@speed(
    "Training steps of a conditional neural process",
    ours="fit",
    peer="a plain loop of Equinox and Optax",
    at_least=0.95,
    unit="step",
    quick=False,
)
def training_against_a_plain_loop(context: Context) -> Contest:
    """Width 64, batches of 16 tasks of at most 32 points, 200 steps a round; the error is the mean last loss."""
    return Contest(
        _ours,
        _plain_loop,
        rounds=7,
        work=lambda _: _N_STEPS,
        error=lambda results: float(jnp.mean(jnp.stack([jnp.asarray(losses)[-50:].mean() for losses in results]))),
    )
