"""Sparse training: one run leaves a tenth of the weights, in groups that a processor can skip, and packs them.

Signals of ten digits; a perceptron is trained dense, and again with GraNet, which prunes while it trains and trades the
weakest weights for better ones. Groups of 16 hidden units share their inputs, so that the packed network is not only
smaller, but faster. Give a file name to choose where the picture goes.
"""

import sys
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from uqsparse.data import mnist1d
from uqsparse.kernels import backend
from uqsparse.nn import network_bytes
from uqsparse.pruning import allocation, granet, pack_model
from uqsparse.pruning.structures import Group

DENSITY, STEPS, WIDTH, BATCH = 0.1, 1500, 512, 128


def train(network, optimiser, x, y) -> tuple[Any, Any, np.ndarray]:
    """The network after training, the optimiser's state, and the losses."""
    params, static = eqx.partition(network, eqx.is_inexact_array)

    def loss(params, rows):
        logits = jax.vmap(eqx.combine(params, static))(x[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()

    @jax.jit
    def step(params, state, rows):
        value, grads = jax.value_and_grad(loss)(params, rows)
        updates, state = optimiser.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimiser.init(params), []
    for rows in np.random.default_rng(0).integers(len(x), size=(STEPS, BATCH)):
        params, state, value = step(params, state, rows)
        losses.append(value)
    return eqx.combine(params, static), state, np.array(losses)


@eqx.filter_jit
def logits(network, x):
    return jax.vmap(network)(x)


def milliseconds(networks, x) -> dict[str, float]:
    """The median of 30 runs of each, in turn; the first run compiles and does not count."""
    seconds = {name: [] for name in networks}
    for _ in range(31):
        for name, network in networks.items():
            start = time.perf_counter()
            logits(network, x).block_until_ready()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(values[1:])) for name, values in seconds.items()}


def draw(losses, mask, path: Path) -> None:
    """Both losses, and which inputs the groups of the second layer kept."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for name, values in losses.items():
        left.plot(25 * np.arange(STEPS // 25), values.reshape(-1, 25).mean(axis=1), label=name)
    left.set(xlabel="step", ylabel="training loss", ylim=(0, None))
    left.legend()
    right.imshow(mask[::16], aspect="auto", cmap="Greys", interpolation="nearest")
    right.set(xlabel="input", ylabel="group of 16 outputs", title="second layer: inputs that are kept")
    figure.savefig(path, dpi=120)
    print(f"{path.name} written")


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("sparse_training.png")
    x, y, x_test, y_test = map(jnp.asarray, mnist1d())
    network = eqx.nn.MLP(40, 10, WIDTH, 2, key=jax.random.key(0))
    adam = optax.adam(optax.cosine_decay_schedule(1e-3, STEPS))

    dense, _, dense_losses = train(network, adam, x, y)
    sparse_adam = granet(
        adam,
        density=DENSITY,
        steps=STEPS,
        every=50,
        allocation=allocation.erk(),
        structure=Group(16),
        key=jax.random.key(1),
    )
    sparse, state, sparse_losses = train(network, sparse_adam, x, y)
    packed = pack_model(sparse, state.mask)

    networks = {"dense": dense, "GraNet": sparse, "GraNet, packed": packed}
    took = milliseconds(networks, x_test)
    print(f"40-{WIDTH}-{WIDTH}-10, {100 * DENSITY:.0f}% of the weights, {STEPS} steps; products: {backend()}")
    print(f"{'':15s}{'accuracy':>10s}{'bytes':>12s}{'ms, 1,000 signals':>20s}")
    for name, one in networks.items():
        accuracy = float((logits(one, x_test).argmax(axis=1) == y_test).mean())
        print(f"{name:15s}{accuracy:10.3f}{network_bytes(one):12,d}{took[name]:20.2f}")
    draw({"dense": dense_losses, "GraNet": sparse_losses}, np.asarray(state.mask.layers[1].weight), path)


if __name__ == "__main__":
    main()
