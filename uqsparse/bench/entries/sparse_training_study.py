"""The common bed of the sparse-training claims: a perceptron on signals of ten digits, for all recipes alike."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from uqsparse.data.mnist1d import mnist1d
from uqsparse.pruning.masks import Mask

# From the optimiser, a key and the initial parameters, the transformation to train with.
Make = Callable[[optax.GradientTransformation, Key[Array, ""], PyTree], optax.GradientTransformation]


class Bed(NamedTuple):
    """Data of a classification: training and test inputs and labels."""

    x: Float[Array, "n d"]
    y: Int[Array, " n"]
    x_test: Float[Array, "m d"]
    y_test: Int[Array, " m"]


class Trained(NamedTuple):
    """Networks of several seeds, trained alike.

    Args:
        accuracies: on the test data, shape (seeds,).
        losses: of each step before its update, shape (seeds, steps).
        networks: one a seed.
        masks: one a seed; None where training was dense.
        probabilities: of the classes of the test data, shape (seeds, m, classes).
    """

    accuracies: Float[np.ndarray, " seeds"]
    losses: Float[np.ndarray, "seeds steps"]
    networks: list[PyTree]
    masks: list[Mask | None]
    probabilities: Float[np.ndarray, "seeds m classes"]

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return float(self.accuracies.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean accuracy, over seeds."""
        return float(self.accuracies.std(ddof=1) / np.sqrt(len(self.accuracies)))

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.error:.1f}"


@cache
def signals() -> Bed:
    """4,000 training and 1,000 test signals of length 40."""
    return Bed(*map(jnp.asarray, mnist1d()))


def network(key: Key[Array, ""], bed: Bed, widths: Sequence[int]) -> eqx.nn.Sequential:
    """A perceptron with rectified units of the given widths."""
    sizes = [bed.x.shape[1], *widths, int(bed.y.max()) + 1]
    keys = jax.random.split(key, len(sizes) - 1)
    layers: list[Any] = []
    for n_in, n_out, layer_key in zip(sizes[:-1], sizes[1:], keys, strict=True):
        layers += [eqx.nn.Linear(n_in, n_out, key=layer_key), eqx.nn.Lambda(jax.nn.relu)]
    return eqx.nn.Sequential(layers[:-1])


def loss(net: PyTree, x: Float[Array, "b d"], y: Int[Array, " b"]) -> Float[Array, ""]:
    """Mean cross-entropy of a batch."""
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(net)(x), y).mean()


def train(
    make: Make,
    *,
    bed: Bed | None = None,
    widths: Sequence[int] = (256, 256),
    steps: int = 4000,
    decay_steps: int | None = None,
    rate: float = 1e-3,
    batch_size: int = 128,
    seeds: Sequence[int] = (0, 1, 2),
    first_step: int = 0,
    networks: Sequence[PyTree] | None = None,
) -> Trained:
    """Train one network a seed with Adam, the rate falling as a cosine; one compiled program for all.

    Args:
        make: the transformation; all that depends on the seed must be in its state.
        bed: the data; the signals if not given.
        widths: of the hidden layers.
        steps: of the optimiser.
        decay_steps: until the rate is zero; `steps` if not given.
        rate: of Adam, at first.
        batch_size: rows drawn for each step, with replacement.
        seeds: of weights, masks and batches.
        first_step: where in the schedule of the rate training begins.
        networks: to begin with, one a seed; new perceptrons if not given.
    """
    bed = bed or signals()
    decay = optax.cosine_decay_schedule(rate, decay_steps or steps)
    inner = optax.adam(lambda step: decay(step + first_step))
    keys = [jax.random.split(jax.random.key(seed), 3) for seed in seeds]
    networks = networks or [network(k[0], bed, widths) for k in keys]
    parts = [eqx.partition(net, eqx.is_inexact_array) for net in networks]
    static = parts[0][1]
    hooks = [make(inner, k[1], params) for k, (params, _) in zip(keys, parts, strict=True)]
    update = hooks[0].update

    @jax.jit
    def run(params: PyTree, state: PyTree, key: Key[Array, ""]) -> tuple[PyTree, PyTree, Array]:
        def step(carry: Any, step_key: Key[Array, ""]) -> tuple[Any, Array]:
            params, state = carry
            rows = jax.random.randint(step_key, (batch_size,), 0, len(bed.x))

            def of_batch(parameters: PyTree) -> Array:
                return loss(eqx.combine(parameters, static), bed.x[rows], bed.y[rows])

            value, grads = jax.value_and_grad(of_batch)(params)
            updates, state = update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        (params, state), values = jax.lax.scan(step, (params, state), jax.random.split(key, steps))
        return params, state, values

    @jax.jit
    def classify(params: PyTree) -> Array:
        return jax.nn.softmax(jax.vmap(eqx.combine(params, static))(bed.x_test))

    done, losses, masks, probabilities = [], [], [], []
    for hook, (params, _), seed_keys in zip(hooks, parts, keys, strict=True):
        params, state, values = run(params, hook.init(params), seed_keys[2])
        done.append(eqx.combine(params, static))
        losses.append(np.asarray(values))
        masks.append(getattr(state, "mask", None))
        probabilities.append(np.asarray(classify(params)))
    chosen = np.array([p.argmax(axis=1) for p in probabilities])
    accuracies = (chosen == np.asarray(bed.y_test)).mean(axis=1)
    return Trained(accuracies, np.array(losses), done, masks, np.array(probabilities))
