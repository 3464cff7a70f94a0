"""A Bayesian network with 3% of its weights: handwritten digits, and pixels in disorder, which it is unsure about.

Every weight that lives is a Gaussian, the others are exactly zero from the first step to the last. Give a path to draw
the entropies: python sparse_bayesian_network.py entropies.png
"""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.metrics import roc_auc_score

from uqsparse import data
from uqsparse.nn import to_bayesian
from uqsparse.pruning import elbo_loss, mask_count, mask_density, predictive, ssvi

STEPS, BATCH, DENSITY, BETA = 1000, 64, 0.03, 0.1


def train(network, x, y):
    """The trained network and its mask; the support moves every 50 steps."""
    keys = jax.random.split(jax.random.key(1), 2)
    adam = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))
    hook = ssvi(adam, density=DENSITY, steps=STEPS, every=50, key=keys[0])
    beta = optax.linear_schedule(0.0, BETA, STEPS // 2)
    params, static = eqx.partition(network, eqx.is_inexact_array)

    @jax.jit
    def run(params):
        def step(carry, t):
            params, state = carry
            row_key, noise_key = jax.random.split(jax.random.fold_in(keys[1], t))
            rows = jax.random.randint(row_key, (BATCH,), 0, len(x))

            def loss(params):
                network = eqx.combine(params, static)
                return elbo_loss(noise_key, network, (x[rows], y[rows]), n_data=len(x), beta=beta(t))

            updates, state = hook.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, hook.init(params)), jnp.arange(STEPS))
        return params, state.mask

    params, mask = run(params)
    return eqx.combine(params, static), mask


@eqx.filter_jit
def probabilities(network, x):
    """Averaged over 32 draws of the weights."""
    return jax.nn.softmax(predictive(jax.random.key(2), network, x, 32)).mean(0)


def entropy(p):
    return -(p * np.log(np.maximum(p, 1e-12))).sum(-1)


def draw(clean, odd, mask, path):
    """Entropies, and how many live weights look at each pixel."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=(2, 1), layout="constrained")
    bins = np.linspace(0, np.log(10), 31)
    left.hist(clean, bins, alpha=0.7, label="digits")
    left.hist(odd, bins, alpha=0.7, label="the same pixels, shuffled")
    left.set(xlabel="predictive entropy (nats)", ylabel="test images", yscale="log")
    left.legend(frameon=False)
    shown = right.imshow(np.asarray(mask.layers[0].weight).sum(0).reshape(8, 8), cmap="Blues")
    right.set(title="weights that look at each pixel", xticks=[], yticks=[])
    figure.colorbar(shown)
    figure.savefig(path, dpi=120)


def main():
    table = data.digits()
    order = np.random.default_rng(0).permutation(len(table.y))
    x, y = jnp.asarray(table.X[order] / 16, jnp.float32), jnp.asarray(table.y[order])
    x, x_test, y, y_test = x[:1347], x[1347:], y[:1347], np.asarray(y[1347:])
    shuffled = jax.random.permutation(jax.random.key(3), x_test, axis=1, independent=True)

    mlp = eqx.nn.MLP(64, 10, 128, depth=2, key=jax.random.key(0))
    network = to_bayesian(mlp, prior_std=0.2, sigma_init=0.02, key=jax.random.key(0))
    network, mask = train(network, x, y)
    clean, odd = np.asarray(probabilities(network, x_test)), np.asarray(probabilities(network, shuffled))
    entropies = entropy(clean), entropy(odd)
    print(f"{mask_count(mask)} of {round(mask_count(mask) / mask_density(mask))} weights live")
    print(f"accuracy                {(clean.argmax(1) == y_test).mean():.3f}")
    print(f"negative log likelihood {-np.log(clean[np.arange(len(y_test)), y_test]).mean():.3f}")
    print(f"mean predictive entropy {entropies[0].mean():.2f} nats; of shuffled pixels {entropies[1].mean():.2f}")
    print(f"AUROC of telling these  {roc_auc_score(np.repeat([0, 1], len(y_test)), np.concatenate(entropies)):.3f}")
    if len(sys.argv) > 1:
        draw(*entropies, mask, sys.argv[1])


if __name__ == "__main__":
    main()
