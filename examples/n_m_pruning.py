"""N:M pruning of a trained network: how much can go, and what does it cost to keep N of each M weights?

A perceptron learns signals of ten digits. Its smallest weights are removed at many sparsities, without training on: the
curve shows what is free, and where the fall begins. Then half of the weights go in patterns that hardware likes, 2:4
and 4:8 along the inputs, before and after a short training of what is left.

Run with a path to save the picture there: `python n_m_pruning.py curve.png`.
"""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import optax

from uqsparse.data.mnist1d import mnist1d
from uqsparse.pruning.allocation import uniform
from uqsparse.pruning.masks import apply_mask
from uqsparse.pruning.recipes.essential_sparsity import essential_sparsity
from uqsparse.pruning.recipes.static import static
from uqsparse.pruning.selection import select_mask
from uqsparse.pruning.structures import NM

STEPS, MORE = 1500, 200
X, Y, X_TEST, Y_TEST = (jnp.asarray(part) for part in mnist1d())


def losses(network, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(network)(x), y)


def train(network, optimiser, key, steps):
    """Steps of 128 signals, in one compiled loop; the optimiser keeps what is pruned at zero."""
    arrays, rest = eqx.partition(network, eqx.is_inexact_array)

    def step(carry, key):
        arrays, state = carry
        rows = jax.random.randint(key, (128,), 0, len(X))
        grads = jax.grad(lambda arrays: losses(eqx.combine(arrays, rest), X[rows], Y[rows]).mean())(arrays)
        updates, state = optimiser.update(grads, state, arrays)
        return (optax.apply_updates(arrays, updates), state), None

    run = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys)[0][0])
    return eqx.combine(run((arrays, optimiser.init(arrays)), jax.random.split(key, steps)), rest)


@eqx.filter_jit
def right(network):
    """Probability of the right class of each test signal: performance, higher is better."""
    return jnp.exp(-losses(network, X_TEST, Y_TEST))


def accuracy(network):
    return float((jax.vmap(network)(X_TEST).argmax(axis=1) == Y_TEST).mean())


def draw(curves, path):
    figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for label, curve in curves.items():
        curve.plot(ax, label=label)
    ax.set_ylabel("probability of the right class")
    ax.legend(frameon=False)
    figure.savefig(path, dpi=120)
    print(f"{path.name} written; dashed lines are the knees")


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("n_m_pruning.png")
    model = eqx.nn.MLP(40, 10, 256, 2, key=jax.random.key(0))
    model = train(model, optax.adamw(1e-3, weight_decay=0.1), jax.random.key(1), STEPS)
    print(f"dense: accuracy {accuracy(model):.3f}, probability of the right class {right(model).mean():.3f}")

    curves = {
        "any positions": essential_sparsity(model, right),
        "k of 8": essential_sparsity(model, right, structure=NM(1, 8)),
    }
    for name, curve in curves.items():
        knee = curve.knee(jax.random.key(2))
        low, high = knee.interval
        print(
            f"{name}: 1% of that is lost at {curve.essential():.0%} removed, the knee is at "
            f"{knee.sparsity:.0%} ({low:.0%} to {high:.0%})"
        )

    print(f"\n{'half of the weights':19s}{'probability':>12s}{'accuracy':>10s}, {MORE} steps later{'':5s}the same")
    for name, structure in [("any", None)] + [(f"{m // 2}:{m}", NM(m // 2, m)) for m in (8, 4)]:
        mask = select_mask(model, 0.5, structure=structure, allocation=uniform())
        pruned = apply_mask(mask, model)
        arrays_mask = eqx.filter(mask, eqx.is_array)
        hook = static(optax.adam(3e-4), density=0.5, key=jax.random.key(3), mask=arrays_mask)
        tuned = train(pruned, hook, jax.random.key(4), MORE)
        before, after = (float(right(network).mean()) for network in (pruned, tuned))
        print(f"{name:19s}{before:12.3f}{accuracy(pruned):10.3f}{after:18.3f}{accuracy(tuned):10.3f}")
        zeros = sum(int((layer.weight == 0).sum()) for layer in tuned.layers)
        assert zeros >= sum(layer.weight.size for layer in tuned.layers) // 2, "pruned weights stay zero"
    draw(curves, path)


if __name__ == "__main__":
    main()
