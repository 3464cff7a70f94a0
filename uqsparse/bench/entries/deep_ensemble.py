"""Deep ensembles: a few networks from different starts, each with a predictive distribution, averaged.

All members train at once as one compiled program, with Equinox modules and Optax. A fifth of the training
data, another fifth for each member, decides when a member stops; the test data are never looked at. The
adversarial examples of the paper, an optional step of its algorithm, are left out.

Source: Lakshminarayanan, Pritzel & Blundell (2017), Simple and scalable predictive uncertainty estimation
using deep ensembles, algorithm 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree
from sklearn.preprocessing import StandardScaler

from uqsparse import bench
from uqsparse.nn.training import train_epoch

N_MEMBERS = 5
Loss = Callable[[Float[Array, "n out"], Array], Float[Array, " n"]]


class _Plan(NamedTuple):
    """How a member is trained."""

    n_epochs: int
    batch_size: int = 32
    width: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2


def gaussian_loss(output: Float[Array, "n 2"], y: Float[Array, " n"]) -> Float[Array, " n"]:
    """Negative log density of y under the network's Gaussian, up to a constant (equation 1 of the paper)."""
    mean, sd = gaussian_head(output)
    return jnp.log(sd) + 0.5 * ((y - mean) / sd) ** 2


def gaussian_head(output: Float[Array, "... 2"]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Mean and standard deviation from the two outputs; the variance is a softplus, kept off zero."""
    return output[..., 0], jnp.sqrt(jax.nn.softplus(output[..., 1]) + 1e-6)


def softmax_loss(output: Float[Array, "n k"], labels: Array) -> Float[Array, " n"]:
    """Negative log probability of the true class."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(output, labels)


@bench.method("deep ensemble", kind="regression", quick=True)
def deep_ensemble_regression(
    context: bench.Context, X_train: np.ndarray, y_train: np.ndarray, X_test: np.ndarray
) -> bench.GaussianMixture:
    """Five networks with a Gaussian head whose variance depends on x."""
    centre, spread = float(y_train.mean()), float(y_train.std())
    plan = _Plan(n_epochs=60 if context.quick else 300)
    output = _train_and_apply(
        context.seed, X_train, jnp.asarray((y_train - centre) / spread), X_test, 2, gaussian_loss, plan
    )
    mean, sd = gaussian_head(output)
    return bench.GaussianMixture(centre + spread * np.asarray(mean), spread * np.asarray(sd))


@bench.method("deep ensemble", kind="classification", quick=True)
def deep_ensemble_classification(
    context: bench.Context, X_train: np.ndarray, y_train: np.ndarray, X_test: np.ndarray
) -> np.ndarray:
    """Five networks with a softmax head; their probabilities are averaged."""
    plan = _Plan(n_epochs=40 if context.quick else 200)
    output = _train_and_apply(
        context.seed, X_train, jnp.asarray(y_train, int), X_test, int(y_train.max()) + 1, softmax_loss, plan
    )
    return np.asarray(jax.nn.softmax(output).mean(axis=0), dtype=np.float64)


def _train_and_apply(
    seed: int, X_train: np.ndarray, y: Array, X_test: np.ndarray, n_outputs: int, loss: Loss, plan: _Plan
) -> Float[Array, "members n_test out"]:
    scaler = StandardScaler().fit(X_train)
    x, x_test = jnp.asarray(scaler.transform(X_train)), jnp.asarray(scaler.transform(X_test))
    train = eqx.filter_jit(eqx.filter_vmap(_train_member, in_axes=(0, None, None, None, None, None)))
    members = train(jax.random.split(jax.random.key(seed), N_MEMBERS), x, y, n_outputs, loss, plan)
    return eqx.filter_vmap(lambda member: jax.vmap(member)(x_test))(members)


def _train_member(key: Array, x: Float[Array, "n d"], y: Array, n_outputs: int, loss: Loss, plan: _Plan) -> PyTree:
    """One network, as it was in the epoch of its lowest loss on held-out data."""
    key_split, key_start, key_epochs = jax.random.split(key, 3)
    n_held_out = len(x) // 5
    order = jax.random.permutation(key_split, len(x))
    held_out, kept = order[:n_held_out], order[n_held_out:]

    network = eqx.nn.MLP(x.shape[1], n_outputs, plan.width, depth=2, key=key_start)
    start, static = eqx.partition(network, eqx.is_array)
    optimiser = optax.adamw(plan.learning_rate, weight_decay=plan.weight_decay)

    def mean_loss(network, batch, key=None):
        inputs, targets = batch
        return loss(jax.vmap(network)(inputs), targets).mean()

    def epoch(carry, key):
        (parameters, moments), best, lowest = carry
        network, moments, _ = train_epoch(
            key,
            mean_loss,
            optimiser,
            eqx.combine(parameters, static),
            moments,
            (x, y),
            batch_size=plan.batch_size,
            rows=kept,
        )
        parameters = eqx.filter(network, eqx.is_array)
        now = mean_loss(network, (x[held_out], y[held_out]))
        better = now < lowest
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), parameters, best)
        return ((parameters, moments), best, jnp.where(better, now, lowest)), None

    carry = ((start, optimiser.init(start)), start, jnp.inf)
    (_, best, _), _ = jax.lax.scan(epoch, carry, jax.random.split(key_epochs, plan.n_epochs))
    return eqx.combine(best, static)
