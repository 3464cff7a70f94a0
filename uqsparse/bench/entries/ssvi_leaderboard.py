"""Sparse Bayesian networks in the leaderboards: one perceptron with a tenth of its weights, and draws of these."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree
from sklearn.preprocessing import StandardScaler

from uqsparse import bench
from uqsparse.bench.entries.deep_ensemble import gaussian_head
from uqsparse.nn.gaussian_layers import to_bayesian
from uqsparse.pruning.recipes.ssvi import elbo_loss, predictive, ssvi

DENSITY, BETA, WIDTH, BATCH, N_SAMPLES = 0.1, 0.1, 128, 64, 32


@bench.method("sparse Bayesian network", kind="classification", quick=False, conformal="full")
def sparse_classification(
    context: bench.Context, X_train: np.ndarray, y_train: np.ndarray, X_test: np.ndarray
) -> np.ndarray:
    """Softmax probabilities averaged over 32 draws of the weights."""
    loss = optax.losses.softmax_cross_entropy_with_integer_labels
    outputs = _draws(context, X_train, jnp.asarray(y_train, int), X_test, int(y_train.max()) + 1, loss)
    return np.asarray(jax.nn.softmax(outputs).mean(axis=0), dtype=np.float64)


@bench.method("sparse Bayesian network", kind="regression", quick=False, conformal="full")
def sparse_regression(
    context: bench.Context, X_train: np.ndarray, y_train: np.ndarray, X_test: np.ndarray
) -> bench.GaussianMixture:
    """A Gaussian head whose variance depends on x; the mixture over 32 draws of the weights."""
    centre, spread = float(y_train.mean()), float(y_train.std())
    y = jnp.asarray((y_train - centre) / spread, jnp.float32)

    def loss(output: Float[Array, "2"], target: Float[Array, ""]) -> Float[Array, ""]:
        mean, sd = gaussian_head(output)
        return jnp.log(sd) + 0.5 * ((target - mean) / sd) ** 2

    mean, sd = gaussian_head(_draws(context, X_train, y, X_test, 2, loss))
    return bench.GaussianMixture(centre + spread * np.asarray(mean), spread * np.asarray(sd))


def _draws(
    context: bench.Context, X_train: np.ndarray, y: Array, X_test: np.ndarray, n_outputs: int, loss: Callable
) -> Float[Array, "samples n_test out"]:
    """Train a network of two hidden layers, and apply draws of its weights to the test inputs."""
    scaler = StandardScaler().fit(X_train)
    x, x_test = (jnp.asarray(scaler.transform(X), jnp.float32) for X in (X_train, X_test))
    steps, n = 600 if context.quick else 2000, len(x)
    keys = jax.random.split(jax.random.key(context.seed), 4)
    mlp = eqx.nn.MLP(x.shape[1], n_outputs, WIDTH, depth=2, key=keys[0])
    model = to_bayesian(mlp, prior_std=0.2, sigma_init=0.02, key=keys[0])
    params, static = eqx.partition(model, eqx.is_inexact_array)
    adam = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    hook = ssvi(adam, density=DENSITY, steps=steps, every=50, key=keys[1])
    warm_up = optax.linear_schedule(0.0, BETA, steps // 2)

    @jax.jit
    def draws(params: PyTree) -> Array:
        def step(carry: Any, t: Array) -> tuple[Any, None]:
            params, state = carry
            row_key, noise_key = jax.random.split(jax.random.fold_in(keys[2], t))
            rows = jax.random.randint(row_key, (BATCH,), 0, n)

            def bound(params: PyTree) -> Array:
                network = eqx.combine(params, static)
                return elbo_loss(noise_key, network, (x[rows], y[rows]), n_data=n, beta=warm_up(t), loss=loss)

            updates, state = hook.update(jax.grad(bound)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        trained, _ = jax.lax.scan(step, (params, hook.init(params)), jnp.arange(steps))[0]
        return predictive(keys[3], eqx.combine(trained, static), x_test, N_SAMPLES)

    return draws(params)
