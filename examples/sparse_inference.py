"""A trained network, packed: 85% of its hidden weights go, and with them most of the bytes and of the time.

Groups of 16 hidden units share their inputs, so that the compiled product reads whole vectors. Which units stand
together is free: they are moved, without a change of the function, to lose as little as they can.
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from uqsparse.kernels import backend, rearrange
from uqsparse.nn import chain_streams, network_bytes, pack_network, train_epoch

DENSITY = 0.15
OPTIMISER = optax.adam(1e-3)


def loss(network, batch, key):
    X, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(network)(X), y).mean()


@eqx.filter_jit
def one_pass(key, network, state, data):
    return train_epoch(key, loss, OPTIMISER, network, state, data, batch_size=64)


def train(network, data, n_passes: int):
    state = OPTIMISER.init(eqx.filter(network, eqx.is_inexact_array))
    for key in jax.random.split(jax.random.key(1), n_passes):
        network, state, _ = one_pass(key, network, state, data)
    return network


@eqx.filter_jit
def logits(network, X):
    return jax.vmap(network)(X)


def milliseconds(networks, X) -> dict[str, float]:
    """The fastest of 30 runs of each, in turn; the first run compiles and does not count."""
    best = dict.fromkeys(networks, float("inf"))
    for i in range(31):
        for name, network in networks.items():
            start = time.perf_counter()
            logits(network, X).block_until_ready()
            best[name] = min(best[name], 1000 * (time.perf_counter() - start)) if i else best[name]
    return best


def is_hidden(layer) -> bool:
    return layer.out_features != 10


def main() -> None:
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = jnp.asarray(X[order] / 16, jnp.float32), jnp.asarray(y[order])
    train_data, test_X, test_y = (X[:-512], y[:-512]), X[-512:], y[-512:]

    dense = train(eqx.nn.MLP(64, 10, width_size=1024, depth=2, key=jax.random.key(0)), train_data, 6)
    moved = rearrange(dense, chain_streams(dense), group=16, density=DENSITY, n_starts=1)
    packed = pack_network(moved.network, density=DENSITY, which=is_hidden)
    networks = {
        "dense": dense,
        "units as trained, packed": pack_network(dense, density=DENSITY, which=is_hidden),
        "units moved, packed": packed,
        "and trained 3 passes more": train(packed, train_data, 3),
    }
    print(f"64-1024-1024-10 on digits, {100 * (1 - DENSITY):.0f}% of the hidden weights dropped; products: {backend()}")
    print(f"{'':28}accuracy   kilobytes   ms for 512 digits")
    fastest = milliseconds(networks, test_X)
    for name, network in networks.items():
        accuracy = (logits(network, test_X).argmax(axis=1) == test_y).mean()
        kilobytes = network_bytes(network) / 1000
        print(f"{name:28}{accuracy:8.3f} {kilobytes:11,.0f} {fastest[name]:11.2f}")


if __name__ == "__main__":
    main()
