"""Claims about sparse training: packed groups against masked dense weights, and what the hook costs a step."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from matplotlib.figure import Figure

from uqsparse.bench.entries.sparse_training_study import Bed, loss, network, signals
from uqsparse.bench.plots import picture
from uqsparse.bench.records import Contest, Context, Measured, Picture
from uqsparse.bench.registry import claim, speed
from uqsparse.kernels.product_choice import median_seconds
from uqsparse.kernels.sparse_products import backend
from uqsparse.nn.packed_networks import network_bytes
from uqsparse.pruning.allocation import uniform
from uqsparse.pruning.hook import Sparsifier
from uqsparse.pruning.masks import apply_mask
from uqsparse.pruning.packed_training import dense_gradients, move_groups
from uqsparse.pruning.packing import pack_model
from uqsparse.pruning.recipes.rigl import rigl
from uqsparse.pruning.schedules import CosineChurn
from uqsparse.pruning.structures import Group

_SYSTEM = "Sparse training"
_ADAM = optax.adam(1e-3)
_DENSITY, _CHURN = 0.1, 0.3


class Pair(NamedTuple):
    """The same network, trained by RigL in groups of 16, twice, and without a mask.

    Args:
        dense: perceptron on signals of length 40, with all its weights.
        hook: masks it to 10%; changes of the mask are made by `update_mask`.
        state: of the hook.
        masked: the network with zeros off the mask.
        packed: the network with packed layers.
        churn: share of the inputs that is exchanged, over the steps.
        every: steps between changes.
    """

    dense: Any
    hook: Sparsifier
    state: Any
    masked: Any
    packed: Any
    churn: CosineChurn
    every: int


@cache
def pair(seed: int, width: int, steps: int, every: int) -> Pair:
    """Networks 40-width-width-10."""
    dense = network(jax.random.key(seed), noise(seed), (width, width))
    params = eqx.filter(dense, eqx.is_inexact_array)
    hook = rigl(
        _ADAM,
        density=_DENSITY,
        steps=steps,
        every=every,
        end=1.0,
        churn=_CHURN,
        allocation=uniform(),
        structure=Group(16),
        key=jax.random.key(seed + 1),
        automatic=False,
    )
    state: Any = hook.init(params)
    masked = apply_mask(state.mask, dense)
    return Pair(dense, hook, state, masked, pack_model(masked, state.mask), CosineChurn(_CHURN, steps), every)


def noise(seed: int) -> Bed:
    """Random inputs and labels in the place of signals, for what does not depend on them."""
    x, y = jax.random.normal(jax.random.key(seed), (1000, 40)), jnp.arange(1000) % 10
    return Bed(x, y, x, y)


def batches(seed: int, n_steps: int, size: int, bed: Bed | None = None) -> list[tuple[Array, Array]]:
    """Random rows of the signals, or of other data."""
    bed, rng = bed or signals(), np.random.default_rng(seed)
    return [(bed.x[rows], bed.y[rows]) for rows in rng.integers(len(bed.x), size=(n_steps, size))]


@eqx.filter_jit
def step(net: Any, state: Any, update: Any, x: Array, y: Array) -> tuple[Any, Any, Array]:
    """One step with the `update` of an optimiser."""
    value, grads = eqx.filter_value_and_grad(loss)(net, x, y)
    updates, state = update(grads, state, eqx.filter(net, eqx.is_inexact_array))
    return eqx.apply_updates(net, updates), state, value


@eqx.filter_jit
def change(net: Any, state: Any, update_mask: Any, x: Array, y: Array) -> tuple[Any, Any]:
    """A change of the mask of dense weights, with the `update_mask` of a hook."""
    params, static = eqx.partition(net, eqx.is_inexact_array)
    params, state = update_mask(state, params, eqx.filter_grad(loss)(net, x, y))
    return eqx.combine(params, static), state


def trained_masked(pair: Pair, data: list[tuple[Array, Array]]) -> tuple[Any, Any, Array]:
    """The masked network after training, the hook's state, and the losses."""
    net, state, losses = pair.masked, pair.state, []
    for t, batch in enumerate(data):
        if t and t % pair.every == 0:
            net, state = change(net, state, pair.hook.update_mask, *batch)
        net, state, value = step(net, state, pair.hook.update, *batch)
        losses.append(value)
    return net, state, jnp.stack(losses)


def trained_packed(pair: Pair, data: list[tuple[Array, Array]]) -> tuple[Any, Any, Array]:
    """The packed network after training, Adam's state, and the losses."""
    net, losses = pair.packed, []
    state = _ADAM.init(eqx.filter(net, eqx.is_inexact_array))
    for t, batch in enumerate(data):
        if t and t % pair.every == 0:
            net, state, _ = move_groups(net, state, dense_gradients(loss, net, *batch), pair.churn.rate(t), inner=_ADAM)
        net, state, value = step(net, state, _ADAM.update, *batch)
        losses.append(value)
    return net, state, jnp.stack(losses)


def trained_dense(pair: Pair, data: list[tuple[Array, Array]]) -> Array:
    """The losses of the network without a mask."""
    net, losses = pair.dense, []
    state = _ADAM.init(eqx.filter(net, eqx.is_inexact_array))
    for batch in data:
        net, state, value = step(net, state, _ADAM.update, *batch)
        losses.append(value)
    return jnp.stack(losses)


@claim("Packed groups move to the inputs that masked dense RigL takes", system=_SYSTEM, quick=False)
def masks_agree(context: Context) -> Measured:
    """Weights on which the masks differ after five changes in 30 steps; noise, 40-64-64-10, groups of 16, 10% kept."""
    both, data = pair(context.seed, 64, 30, 5), batches(context.seed, 30, 128, noise(context.seed))
    _, sparse, theirs = trained_masked(both, data)
    packed, _, ours = trained_packed(both, data)
    layers = [layer for layer in packed.layers if hasattr(layer, "packed")]
    masks = jax.tree.leaves(sparse.mask)
    differ = sum(int((one.mask != other).sum()) for one, other in zip(layers, masks, strict=True))
    gap = float(np.abs(np.asarray(ours) / np.asarray(theirs) - 1).max())
    return Measured(differ, "==", 0, "masks of `sparsify`", f"losses differ by {gap:.1e} at most")


def loss_curves(losses: dict[str, np.ndarray], every: int) -> Picture:
    """Mean losses of every 20 steps, and where the mask changes."""
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes = figure.subplots()
    styles = {"dense": ("#bbbbbb", "-", 2), "masked dense": ("#808080", "-", 4), "packed": ("#1f77b4", "--", 1.5)}
    for name, values in losses.items():
        colour, dashes, width = styles[name]
        means = values.reshape(-1, 20).mean(axis=1)
        axes.plot(20 * np.arange(len(means)) + 10, means, dashes, color=colour, label=name, linewidth=width)
    for t in range(every, len(values), every):
        axes.axvline(t, color="#bbbbbb", linewidth=0.5)
    axes.set(xlabel="step", ylabel="training loss", ylim=(0, None))
    axes.legend(frameon=False)
    return picture(figure, "Training loss of RigL, packed and masked, beside dense training; lines: the mask changes")


@claim("Packed RigL has the losses of masked dense RigL, at 90% sparsity", system=_SYSTEM, quick=False)
def curves_agree(context: Context) -> Measured:
    """Largest relative difference in 50 steps with 4 changes; 40-1024-1024-10, groups of 16, batches of 128."""
    both, data = pair(context.seed, 1024, 50, 10), batches(context.seed, 50, 128)
    ours, theirs = (np.asarray(train(both, data)[2]) for train in (trained_packed, trained_masked))
    long, more = pair(context.seed, 1024, 400, 100), batches(context.seed + 1, 400, 128)
    curves = {
        "dense": np.asarray(trained_dense(long, more)),
        "masked dense": np.asarray(trained_masked(long, more)[2]),
        "packed": np.asarray(trained_packed(long, more)[2]),
    }
    ends = ", ".join(f"{name} {values[-100:].mean():.3f}" for name, values in curves.items())
    sizes = network_bytes(both.packed) / network_bytes(both.dense)
    return Measured(
        float(np.abs(ours / theirs - 1).max()),
        "<=",
        1e-3,
        "masked dense",
        f"mean loss of the last 100 of 400 steps: {ends}; packed weights take {sizes:.3f} of the dense bytes",
        pictures=(loss_curves(curves, 100),),
    )


@speed(
    "100 steps of RigL at 90% sparsity, 40-1024-1024-10, with a change of the mask",
    ours="packed groups of 16",
    peer="masked dense weights",
    at_least=2.0,
    unit="step",
    quick=False,
)
def packed_against_masked(context: Context) -> Contest:
    """Adam, batches of 128; the change and its dense gradient included."""
    both, data = pair(context.seed, 1024, 200, 50), batches(context.seed, 100, 128)
    return Contest(
        lambda _: trained_packed(both, data)[2],
        lambda _: trained_masked(both, data)[2],
        rounds=5,
        work=lambda results: len(results[0]),
    )


@claim(
    "A step of packed RigL takes half of a masked dense one or less, at 1024 and 2048 units",
    system=_SYSTEM,
    quick=False,
)
def steps_are_faster(context: Context) -> Measured:
    """Smallest ratio of seconds a step, the change of every 100 steps shared out; medians of interleaved rounds."""
    ratios, details = [], []
    for width, size in ((1024, 128), (1024, 256), (2048, 128)):
        both, [batch] = pair(context.seed, width, 1000, 100), batches(context.seed, 1, size, noise(context.seed))
        state = _ADAM.init(eqx.filter(both.packed, eqx.is_inexact_array))
        full = _ADAM.init(eqx.filter(both.dense, eqx.is_inexact_array))

        def move(both=both, state=state, batch=batch):
            gradients = dense_gradients(loss, both.packed, *batch)
            return move_groups(both.packed, state, gradients, 0.2, inner=_ADAM)

        calls = [
            lambda both=both, state=state, batch=batch: step(both.packed, state, _ADAM.update, *batch),
            move,
            lambda both=both, batch=batch: step(both.masked, both.state, both.hook.update, *batch),
            lambda both=both, batch=batch: change(both.masked, both.state, both.hook.update_mask, *batch),
            lambda both=both, full=full, batch=batch: step(both.dense, full, _ADAM.update, *batch),
        ]
        waited = [lambda call=call: jax.block_until_ready(eqx.filter(call(), eqx.is_array)) for call in calls]
        one, moving, other, changing, dense = median_seconds(waited, 7, 0.02)
        ours, theirs = one + moving / 100, other + changing / 100
        ratios.append(theirs / ours)
        details.append(
            f"{width} units, batches of {size}: packed {1e3 * ours:.1f} ms ({1e3 * moving:.0f} a change), masked dense "
            f"{1e3 * theirs:.1f} ({1e3 * changing:.0f} a change), dense {1e3 * dense:.1f}"
        )
    return Measured(min(ratios), ">=", 2.0, "masked dense", f"{backend()}; processor seconds; " + "; ".join(details))


def steps_within(optimiser: Any, net: Any, state: Any, n_steps: int, batch: Any) -> Callable[[], Any]:
    """A compiled loop of steps on one batch, none of which changes the mask."""
    params, static = eqx.partition(net, eqx.is_inexact_array)

    @jax.jit
    def run(params: Any, state: Any, x: Array, y: Array) -> Array:
        def one(carry: Any, _: None) -> tuple[Any, Array]:
            params, state = carry
            value, grads = jax.value_and_grad(lambda params: loss(eqx.combine(params, static), x, y))(params)
            updates, state = optimiser.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        (params, _), values = jax.lax.scan(one, (params, state), None, length=n_steps)
        return values.sum() + sum(leaf.sum() for leaf in jax.tree.leaves(params))

    return lambda: run(params, state, *batch).block_until_ready()


@claim("The hook costs at most 5% of a step in which the mask stays", system=_SYSTEM, quick=False)
def hook_is_cheap(context: Context) -> Measured:
    """Larger ratio, of 256 and 1,024 hidden units, of RigL's steps and Adam's; batches of 128, compiled loops."""
    ratios, details = [], []
    for width, n_steps in ((256, 90), (1024, 8)):
        bed = noise(context.seed)
        net, [batch] = network(jax.random.key(context.seed), bed, (width, width)), batches(context.seed, 1, 128, bed)
        params = eqx.filter(net, eqx.is_inexact_array)
        hook = rigl(_ADAM, density=_DENSITY, steps=4000, key=jax.random.key(context.seed + 1))
        state: Any = hook.init(params)
        net = apply_mask(state.mask, net)
        calls = [
            steps_within(hook, net, state, n_steps, batch),
            steps_within(_ADAM, net, _ADAM.init(params), n_steps, batch),
        ]
        # Of two programs in turn, so that what else runs here slows both down.
        rounds = np.array([median_seconds(calls, 1, 0.01) for _ in range(25)])
        ratio = float(np.median(rounds[:, 0] / rounds[:, 1]))
        quartiles = np.quantile(rounds[:, 0] / rounds[:, 1], [0.25, 0.75])
        ratios.append(ratio)
        ours, adams = np.median(rounds, axis=0) / n_steps * 1e3
        details.append(
            f"{width} units: {ours:.2f} ms and {adams:.2f} ms, ratio {ratio:.3f} ({quartiles[0]:.3f} to "
            f"{quartiles[1]:.3f})"
        )
    return Measured(max(ratios), "<=", 1.05, "plain Adam on the same weights", "; ".join(details))
