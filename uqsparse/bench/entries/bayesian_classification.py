"""Bayesian softmax regression: one NumPyro model, sampled by NUTS and by tempered SMC.

Many inputs, such as the pixels of a digit, are first reduced to their leading principal components, so that
both samplers finish in the time of the quick suite.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from scipy.special import softmax
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from uqsparse import bench
from uqsparse.inference import HMC, TemperedTarget, nuts, tempered_smc
from uqsparse.inference.arviz_io import dataset

MOST_INPUTS = 32
N_COMPONENTS = 20


def softmax_regression(features: Float[Array, "n d"], n_classes: int, labels: Int[Array, " n"] | None = None) -> None:
    """NumPyro model: class probabilities softmax(level + features @ weights), shrunk by a learned scale.

    Levels and weights sum to zero over the classes: adding a constant to all logits changes nothing, and
    without the constraint the posterior would be flat in that direction but for the prior.

    Args:
        features: standardised inputs.
        n_classes: number of classes, at least 2.
        labels: class labels 0, ..., n_classes - 1; None draws them from the prior.
    """
    level = numpyro.sample("level", dist.ZeroSumNormal(2.0, (n_classes,)))
    scale = numpyro.sample("scale", dist.LogNormal(jnp.log(0.5), 1.0))
    with numpyro.plate("inputs", features.shape[1]):
        weights = numpyro.sample("weights", dist.ZeroSumNormal(scale, (n_classes,)))
    with numpyro.plate("observations", features.shape[0]):
        numpyro.sample("labels", dist.CategoricalLogits(level + features @ weights), obs=labels)


def _features(X_train: np.ndarray, X_test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardised inputs; if there are many, their leading principal components.

    Components are divided by one number for all, so that those of little variance stay small and are shrunk
    most.
    """
    if X_train.shape[1] <= MOST_INPUTS:
        scaler = StandardScaler().fit(X_train)
        return np.asarray(scaler.transform(X_train)), np.asarray(scaler.transform(X_test))
    components = PCA(N_COMPONENTS).fit(X_train)
    unit = np.sqrt(components.explained_variance_.mean())
    return components.transform(X_train) / unit, components.transform(X_test) / unit


def _predict(
    features_test: np.ndarray, level: Float[np.ndarray, "draws k"], weights: Float[np.ndarray, "draws d k"]
) -> Float[np.ndarray, "n_test k"]:
    """Class probabilities averaged over posterior draws."""
    probabilities = np.zeros((len(features_test), level.shape[1]))
    for one_level, one_weights in zip(level, weights, strict=True):
        probabilities += softmax(one_level + features_test @ one_weights, axis=1)
    return probabilities / len(level)


@bench.method("NUTS", kind="classification", quick=True, conformal="full")
def nuts_classification(
    context: bench.Context, X_train: np.ndarray, y_train: np.ndarray, X_test: np.ndarray
) -> np.ndarray:
    """Softmax regression sampled by the no-U-turn sampler (Hoffman and Gelman, 2014)."""
    features, features_test = _features(X_train, X_test)
    n_warmup, n_samples = (150, 50) if context.quick else (1000, 1000)
    data = nuts(
        jax.random.key(context.seed),
        softmax_regression,
        features,
        int(y_train.max()) + 1,
        labels=y_train,
        n_warmup=n_warmup,
        n_samples=n_samples,
        log_likelihood=False,
    )
    posterior = dataset(data, "posterior")
    level, weights = (posterior[name].values for name in ("level", "weights"))
    return _predict(features_test, level.reshape(-1, *level.shape[2:]), weights.reshape(-1, *weights.shape[2:]))


@bench.method("tempered SMC", kind="classification", quick=True, conformal="full")
def tempered_smc_classification(
    context: bench.Context, X_train: np.ndarray, y_train: np.ndarray, X_test: np.ndarray
) -> np.ndarray:
    """The same model, sampled by tempered sequential Monte Carlo with Hamiltonian moves."""
    features, features_test = _features(X_train, X_test)
    target = TemperedTarget.from_numpyro(softmax_regression, features, int(y_train.max()) + 1, labels=y_train)
    n_particles, n_moves = (200, 3) if context.quick else (500, 5)
    result = tempered_smc(jax.random.key(context.seed), target, n_particles=n_particles, move=HMC(), n_moves=n_moves)
    samples = result.samples
    return _predict(features_test, np.asarray(samples["level"]), np.asarray(samples["weights"]))
