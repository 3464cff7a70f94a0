"""Losses of binary probabilities, on logits and with targets in [0, 1]: means over a batch, for `jit` and `grad`.

Each is a training loss `(logits, targets) -> mean loss`; `functools.partial` fixes its setting.
"""

from typing import Any

import jax.numpy as jnp
from jax.nn import sigmoid, softplus
from jaxtyping import Array, Float

from uqsparse.kernels.namespaces import is_traced


def cross_entropy(logits: Float[Array, " n"], targets: Float[Array, " n"]) -> Float[Array, ""]:
    """Mean cross entropy -t log f - (1 - t) log(1 - f), f = sigmoid(logit), in nats.

    Args:
        logits: log odds of label 1, shape (n,).
        targets: labels 0 and 1, or probabilities in between, shape (n,).

    >>> round(float(cross_entropy(jnp.zeros(2), jnp.array([0.0, 1.0]))), 4)
    0.6931
    """
    return jnp.mean(softplus(logits) - targets * logits)


def focal_loss(logits: Float[Array, " n"], targets: Float[Array, " n"], gamma: Any = 2.0) -> Float[Array, ""]:
    """Mean focal loss -(1 - f_y)^gamma log f_y, f_y being the probability of the label: easy rows count less.

    A target between 0 and 1 mixes the losses of the two labels. With gamma 0 it is the cross entropy. It is not a
    proper score: its minimiser is less extreme than the true probability.

    Args:
        logits: log odds of label 1, shape (n,).
        targets: labels or probabilities, shape (n,).
        gamma: at least 0.

    Source: Lin, Goyal, Girshick, He & Dollar (2017), Focal loss for dense object detection, eq. 4.
    """
    _require_least_zero("gamma", gamma)
    # (1 - f)^gamma = exp(-gamma softplus(logit)): no power of a number that has rounded to zero.
    one = jnp.exp(-gamma * softplus(logits)) * softplus(-logits)
    zero = jnp.exp(-gamma * softplus(-logits)) * softplus(logits)
    return jnp.mean(targets * one + (1 - targets) * zero)


def entropy_regularised(logits: Float[Array, " n"], targets: Float[Array, " n"], beta: Any = 0.1) -> Float[Array, ""]:
    """Mean cross entropy less beta times the entropy of the predictions: confidence costs. With beta 0, cross entropy.

    Args:
        logits: log odds of label 1, shape (n,).
        targets: labels or probabilities, shape (n,).
        beta: weight of the entropy, at least 0.

    Source: Pereyra, Tucker, Chorowski, Kaiser & Hinton (2017), Regularizing neural networks by penalizing confident
    output distributions, section 2.
    """
    _require_least_zero("beta", beta)
    entropy = softplus(logits) - sigmoid(logits) * logits  # the cross entropy of f to itself
    return cross_entropy(logits, targets) - beta * jnp.mean(entropy)


def maximum_mean_calibration_error(
    logits: Float[Array, " n"], targets: Float[Array, " n"], width: Any = 0.2
) -> Float[Array, ""]:
    """How far confidence is from being right, over all pairs: sqrt(mean_ij (c_i - r_i)(c_j - r_j) k(r_i, r_j)).

    r is the confidence max(f, 1 - f), c whether the likelier label is the right one, k = exp(-|r_i - r_j| / (2 width)).

    Args:
        logits: log odds of label 1, shape (n,).
        targets: labels or probabilities (c is then the target of the likelier label), shape (n,).
        width: of the kernel, positive.

    Source: Kumar, Sarawagi & Jain (2018), Trainable calibration measures for neural networks from kernel mean
    embeddings, eq. 3.
    """
    if not is_traced(width) and not width > 0:
        raise ValueError(f"width must be positive, got {width!r}")
    confidence = sigmoid(jnp.abs(logits))
    gap = jnp.where(logits > 0, targets, 1 - targets) - confidence
    kernel = jnp.exp(-jnp.abs(confidence[:, None] - confidence) / (2 * width))
    squared = gap @ kernel @ gap / len(gap) ** 2
    # The kernel is positive definite, but rounding is not; and the root has no slope at zero.
    return jnp.sqrt(jnp.maximum(squared, jnp.finfo(squared.dtype).eps ** 2))


def mmce_loss(
    logits: Float[Array, " n"], targets: Float[Array, " n"], beta: Any = 1.0, width: Any = 0.2
) -> Float[Array, ""]:
    """Mean cross entropy plus beta times the maximum mean calibration error of the batch.

    Args:
        logits: log odds of label 1, shape (n,).
        targets: labels or probabilities, shape (n,).
        beta: weight of the calibration error, at least 0.
        width: of its kernel, positive.

    Source: Kumar, Sarawagi & Jain (2018), Trainable calibration measures for neural networks from kernel mean
    embeddings, section 4.
    """
    _require_least_zero("beta", beta)
    return cross_entropy(logits, targets) + beta * maximum_mean_calibration_error(logits, targets, width)


def _require_least_zero(name: str, value: Any) -> None:
    if not is_traced(value) and not value >= 0:
        raise ValueError(f"{name} must be at least 0, got {value!r}")
