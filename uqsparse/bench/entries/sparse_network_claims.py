"""Claims about networks whose weights are kept in groups: orders of units, packed layers, sparse training."""

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from uqsparse.bench.records import Contest, Context, Measured
from uqsparse.bench.registry import claim, speed
from uqsparse.kernels.group_sparsity import group_scores, project_group
from uqsparse.kernels.output_order import rearrange_outputs
from uqsparse.kernels.rearrangement import Rearranged, rearrange
from uqsparse.nn.packed_networks import pack_network
from uqsparse.nn.streams import chain_streams
from uqsparse.nn.training import train_epoch

_SYSTEM = "Sparse layers"
Split = tuple[Any, Any]  # pixels and labels


def best_order_by_enumeration(scores: np.ndarray, fan_in: int, group: int) -> float:
    """The largest sum that groups can keep, over all orders of the outputs."""
    best = 0.0
    for order in itertools.permutations(range(scores.shape[1])):
        summed = np.sort(scores[:, order].reshape(len(scores), -1, group).sum(axis=-1), axis=0)
        best = max(best, float(summed[::-1][:fan_in].sum()))
    return best


@claim("The order of outputs is the best of all in small cases", system=_SYSTEM)
def orders_reach_the_optimum(context: Context) -> Measured:
    """50 matrices of 6 inputs and 4 outputs, groups of 2 that keep 2 inputs; all 24 orders enumerated."""
    hits = 0
    for trial in range(50):
        scores = np.abs(np.random.default_rng(1000 * context.seed + trial).normal(size=(6, 4)))
        hits += rearrange_outputs(scores, 2, 2).kept >= best_order_by_enumeration(scores, 2, 2) - 1e-9
    return Measured(hits, ">=", 45, "enumeration", "50 Gaussian matrices")


@claim("Ordered outputs never keep less L1 mass than the order given", system=_SYSTEM)
def orders_never_lose(context: Context) -> Measured:
    """50 Gaussian matrices of random sizes; the smallest ratio of the mass that is kept."""
    ratios = []
    for trial in range(50):
        rng = np.random.default_rng(1000 * context.seed + trial)
        k, n, group = rng.integers(2, 40), rng.integers(1, 60), rng.choice([2, 4, 8, 16])
        scores, fan_in = np.abs(rng.normal(size=(k, n))), int(rng.integers(1, k + 1))
        order = rearrange_outputs(scores, fan_in, int(group), n_starts=3).order
        kept = [
            np.sort(group_scores(matrix, group), axis=0)[::-1][:fan_in].sum() for matrix in (scores[:, order], scores)
        ]
        ratios.append(kept[0] / kept[1])
    return Measured(float(min(ratios)), ">=", 1.0 - 1e-12, "order given", f"median {np.median(ratios):.3f}")


def digits(seed: int) -> tuple[Split, Split]:
    """1,297 digits to train on and 500 to test on, pixels in [0, 1]."""
    X, y = map(np.asarray, load_digits(return_X_y=True))
    order = np.random.default_rng(seed).permutation(len(X))
    X, y = (X[order] / 16).astype(np.float32), y[order]
    return (X[:-500], y[:-500]), (X[-500:], y[-500:])


def cross_entropy(network: Callable[[jax.Array], jax.Array], batch: Split, key: Any = None) -> jax.Array:
    """Mean loss of a network on a batch."""
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(network)(batch[0]), batch[1]).mean()


def accuracy(network: Callable[[jax.Array], jax.Array], data: Split) -> float:
    """Share of digits that get their own label."""
    labels = eqx.filter_jit(lambda network, X: jax.vmap(network)(X).argmax(axis=1))(network, data[0])
    return float((labels == data[1]).mean())


@cache
def trained_digits(seed: int) -> tuple[eqx.nn.MLP, Split]:
    """A dense network 64-256-256-10 after 60 passes of Adam, and the test set."""
    train, test = digits(seed)
    network = eqx.nn.MLP(64, 10, 256, 2, key=jax.random.key(seed))
    optimiser = optax.adam(1e-3)
    state = optimiser.init(eqx.filter(network, eqx.is_inexact_array))
    step = eqx.filter_jit(
        lambda key, network, state: train_epoch(key, cross_entropy, optimiser, network, state, train, batch_size=64)
    )
    for key in jax.random.split(jax.random.key(seed + 1), 60):
        network, state, _ = step(key, network, state)
    return network, test


@cache
def rearranged_digits(seed: int, group: int, density: float) -> Rearranged:
    """The trained network with its hidden units moved."""
    network, _ = trained_digits(seed)
    return rearrange(network, chain_streams(network), group, density)


@claim("Moved units cost no accuracy: the function stays", system=_SYSTEM, quick=False)
def functions_stay(context: Context) -> Measured:
    """Largest difference of the logits of 500 digits, 64-256-256-10, over the largest logit."""
    network, test = trained_digits(context.seed)
    moved = rearranged_digits(context.seed, 16, 0.25)
    before, after = (np.asarray(jax.vmap(one)(test[0])) for one in (network, moved.network))
    detail = ", ".join(f"{a:.3f} to {b:.3f}" for a, b in zip(moved.natural, moved.kept, strict=True))
    return Measured(
        float(np.abs(before - after).max() / np.abs(before).max()),
        "<=",
        1e-5,
        "0",
        f"share of L1 mass kept by groups of 16 at 75% sparsity: {detail}",
    )


def is_hidden(layer: Any) -> bool:
    """Whether to pack a layer: the last one stays dense."""
    return layer.out_features != 10


@claim("Moved units give 75% sparse digits at least 15 points, groups of 16", system=_SYSTEM, quick=False)
def moved_units_keep_accuracy(context: Context) -> Measured:
    """64-256-256-10, hidden layers pruned without fine-tuning; median gain in points of accuracy of 11 networks."""
    groups, seeds = (1, 4, 8, 16, 32), 11
    found, dense = {}, []
    for seed in range(context.seed, context.seed + seeds):
        network, test = trained_digits(seed)
        dense.append(accuracy(network, test))
        for group in groups:
            moved = network if group == 1 else rearranged_digits(seed, group, 0.25).network
            packed = (pack_network(one, density=0.25, group=group, which=is_hidden) for one in (network, moved))
            found.setdefault(group, []).append([accuracy(one, test) for one in packed])
    gain = np.diff(found[16], axis=1).ravel()
    medians = {group: np.median(pairs, axis=0) for group, pairs in found.items()}
    detail = "; ".join(f"groups of {group} {a:.3f} to {b:.3f}" for group, (a, b) in medians.items())
    return Measured(
        100 * float(np.median(gain)),
        ">=",
        15.0,
        "units as trained",
        f"{seeds} networks, gains {100 * gain.min():.0f} to {100 * gain.max():.0f}; dense {np.median(dense):.3f}; "
        + detail,
    )


class MaskedLinear(eqx.Module):
    """A dense layer multiplied by a mask of zeros and ones: what sparse training computes without sparse products."""

    linear: eqx.nn.Linear
    mask: jax.Array = eqx.field(converter=lambda mask: jnp.asarray(mask, bool))

    def __call__(self, x: jax.Array, *, key: Any = None) -> jax.Array:
        weight = jnp.where(self.mask, self.linear.weight, 0)
        return eqx.tree_at(lambda linear: linear.weight, self.linear, weight)(x)


@cache
def training_pair(seed: int, width: int, density: float) -> tuple[Any, Any, Split]:
    """The same network 64-width-width-10 twice: with packed layers, and with masked dense ones."""
    train, _ = digits(seed)
    dense = eqx.nn.MLP(64, 10, width, 2, key=jax.random.key(seed))
    masks = [
        np.asarray(project_group(np.abs(np.asarray(layer.weight).T), density=density)).T for layer in dense.layers[:2]
    ]

    def with_layers(layers: list[Any]) -> Any:
        return eqx.tree_at(lambda network: network.layers, dense, (*layers, dense.layers[2]))

    masked = with_layers([MaskedLinear(layer, mask) for layer, mask in zip(dense.layers, masks, strict=False)])
    packed = pack_network(
        with_layers(
            [
                eqx.tree_at(lambda one: one.weight, layer, jnp.where(mask, layer.weight, 0))
                for layer, mask in zip(dense.layers, masks, strict=False)
            ]
        ),
        which=is_hidden,
    )
    return packed, masked, train


def training(network: Any, data: Split, batch_size: int, n_steps: int) -> Callable[[], jax.Array]:
    """A program of that many steps of Adam on fixed batches, that returns their losses."""
    optimiser = optax.adam(1e-3)

    @eqx.filter_jit
    def step(network: Any, state: Any, batch: Split) -> tuple[Any, Any, jax.Array]:
        value, slope = eqx.filter_value_and_grad(cross_entropy)(network, batch)
        updates, state = optimiser.update(slope, state)
        return eqx.apply_updates(network, updates), state, value

    rows = np.random.default_rng(0).integers(len(data[0]), size=(n_steps, batch_size))
    batches = [jax.tree.map(jnp.asarray, (data[0][one], data[1][one])) for one in rows]

    def run() -> jax.Array:
        trained, state, losses = network, optimiser.init(eqx.filter(network, eqx.is_inexact_array)), []
        for batch in batches:
            trained, state, value = step(trained, state, batch)
            losses.append(value)
        return jnp.stack(losses)

    return run


@claim("Packed layers train as masked dense ones do, with a fixed mask", system=_SYSTEM, quick=False)
def losses_agree(context: Context) -> Measured:
    """Largest relative difference of the losses of 50 steps; digits, 64-1024-1024-10, groups of 16, 90% sparse."""
    packed, masked, train = training_pair(context.seed, 1024, 0.1)
    ours, theirs = (np.asarray(training(one, train, 256, 50)()) for one in (packed, masked))
    difference = float((np.abs(ours - theirs) / theirs).max())
    return Measured(difference, "<=", 1e-3, "masked dense", f"loss {theirs[0]:.3f} to {theirs[-1]:.3f}, batches of 256")


@speed(
    "Steps of training a 90% sparse network 64-1024-1024-10",
    ours="packed layers",
    peer="masked dense layers",
    at_least=2.0,
    unit="step",
    quick=False,
)
def training_against_masked_dense(context: Context) -> Contest:
    """Adam, batches of 256 digits, groups of 16; forward, gradients and update, a fixed mask."""
    packed, masked, train = training_pair(context.seed, 1024, 0.1)
    ours, theirs = (training(one, train, 256, 10) for one in (packed, masked))
    return Contest(lambda _: ours(), lambda _: theirs(), work=lambda results: len(results[0]))
