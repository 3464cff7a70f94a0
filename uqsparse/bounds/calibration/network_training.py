"""What the recipes for networks that estimate a probability share: the door, a compiled epoch, and predictions."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Key, Num, PyTree

from uqsparse.bounds.calibration.binary_outcomes import as_outcomes
from uqsparse.bounds.calibration.losses import cross_entropy
from uqsparse.kernels.arguments import require_count
from uqsparse.nn.training import train_epoch

# (logits, targets) -> mean loss of a batch.
ProbabilityLoss = Callable[[Float[Array, " b"], Float[Array, " b"]], Float[Array, ""]]
# (key, inputs of a batch) -> inputs of the same shape.
Augmentation = Callable[[Key[Array, ""], Array], Array]
_PREDICTED_AT_ONCE = 1024


class Recipe(NamedTuple):
    """How steps are made; equal recipes share their compiled programs."""

    loss: ProbabilityLoss
    optimiser: optax.GradientTransformation
    batch_size: int
    augment: Augmentation | None


class Rows(NamedTuple):
    """Inputs and labels of both parts, checked."""

    x: Array
    y: Float[Array, " n"]
    x_validation: Array
    y_validation: Float[Array, " m"]


@functools.cache
def adam(learning_rate: float) -> optax.GradientTransformation:
    """Adam, the same object each time, so that programs compiled for it are found again."""
    return optax.adam(learning_rate)


def checked_rows(x: Any, y: Any, x_validation: Any, y_validation: Any) -> Rows:
    """The data as arrays; raise ValueError for what cannot be trained on."""
    parts = []
    for inputs, labels, end in ((x, y, ""), (x_validation, y_validation, "_validation")):
        host = np.asarray(inputs)
        if host.dtype.kind not in "fiub":
            raise TypeError(f"x{end} has dtype {host.dtype}; expected real numbers")
        if host.ndim < 1 or not len(host):
            raise ValueError(f"x{end} has shape {host.shape}; expected (n, ...) with n >= 1")
        if n_bad := int(np.count_nonzero(~np.isfinite(host))):
            raise ValueError(f"x{end} has {n_bad} values that are NaN or infinite")
        try:
            outcomes = as_outcomes(labels, len(host), both=True)
        except ValueError as error:
            raise ValueError(f"y{end}: {error}") from None
        parts += [jnp.asarray(inputs), jnp.asarray(outcomes, jnp.float32)]
    rows = Rows(*parts)
    if rows.x.shape[1:] != rows.x_validation.shape[1:]:
        raise ValueError(f"rows of x and x_validation differ: {rows.x.shape[1:]} and {rows.x_validation.shape[1:]}")
    return rows


def require_recipe(recipe: Recipe, n_epochs: int, patience: int | None) -> None:
    """Raise ValueError for settings that cannot be."""
    require_count("n_epochs", n_epochs, 1)
    require_count("batch_size", recipe.batch_size, 1)
    if patience is not None:
        require_count("patience", patience, 1)


def require_network(network: PyTree, row: Array) -> None:
    """Raise ValueError unless the network maps a row to one logit."""
    if not callable(network):
        raise TypeError(f"network must be callable on one row, got {type(network).__name__}")
    shape = jax.ShapeDtypeStruct(row.shape, row.dtype)
    found = eqx.filter_eval_shape(_one_logit(eqx.nn.inference_mode(network)), shape)
    if getattr(found, "shape", None) not in ((), (1,)) or not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(f"network must map one row to one real logit, got {found}")


def _one_logit(network: Any) -> Callable[..., Any]:
    """The network on one row; a key is handed on where the network takes one."""
    if "key" in inspect.signature(network).parameters:
        return lambda x, key=None: network(x, key=key)
    return lambda x, key=None: network(x)


def _batch_logits(network: PyTree, x: Array, key: Key[Array, ""]) -> Float[Array, " b"]:
    """Logits in training mode."""
    return jax.vmap(_one_logit(network))(x, jax.random.split(key, len(x))).reshape(len(x))


def evaluated_logits(network: PyTree, x: Array) -> Float[Array, " n"]:
    """Logits in inference mode, a thousand rows at a time; for use inside `jit` and `vmap`."""
    one = _one_logit(eqx.nn.inference_mode(network))
    return jax.lax.map(lambda row: one(row).reshape(()), x, batch_size=_PREDICTED_AT_ONCE)


def epoch(
    recipe: Recipe, key: Key[Array, ""], network: PyTree, state: PyTree, rows: Rows, targets: Array, scale: Any
) -> tuple[PyTree, PyTree, Float[Array, ""], Float[Array, ""]]:
    """One epoch on the targets, and the cross entropy of the validation labels after it."""

    def loss(network, batch, key):
        x, t = batch
        key_augment, key_network = jax.random.split(key)
        if recipe.augment is not None:
            x = recipe.augment(key_augment, x)
        return recipe.loss(_batch_logits(network, x, key_network), t)

    network, state, training = train_epoch(
        key,
        loss,
        recipe.optimiser,
        network,
        state,
        (rows.x, targets),
        batch_size=recipe.batch_size,
        scale=scale,
    )
    return network, state, training, validation_loss(network, rows)


def validation_loss(network: PyTree, rows: Rows) -> Float[Array, ""]:
    """Cross entropy of the validation labels."""
    return cross_entropy(evaluated_logits(network, rows.x_validation), rows.y_validation)


def start_state(optimiser: optax.GradientTransformation, network: PyTree) -> PyTree:
    """The optimiser's state before the first step."""
    return optimiser.init(eqx.filter(network, eqx.is_inexact_array))


compiled_epoch = eqx.filter_jit(epoch)
compiled_logits = eqx.filter_jit(evaluated_logits)
compiled_validation_loss = eqx.filter_jit(validation_loss)
compiled_start_state = eqx.filter_jit(start_state)


def network_logits(network: PyTree, x: Num[ArrayLike, "n ..."]) -> Float[np.ndarray, " n"]:
    """Logits of a network for many rows, in inference mode (no dropout).

    Args:
        network: an Equinox module from one row to one logit.
        x: rows, shape (n, ...).

    Returns:
        Log odds of label 1 in double precision, shape (n,).

    Raises:
        ValueError: the network does not give one finite logit a row.

    >>> network_logits(eqx.nn.MLP(2, "scalar", 4, 1, key=jax.random.key(0)), np.zeros((3, 2))).shape
    (3,)
    """
    rows = jnp.asarray(x)
    if rows.ndim < 1 or not len(rows):
        raise ValueError(f"x must hold at least one row, got shape {rows.shape}")
    require_network(network, rows[0])
    logits = np.asarray(compiled_logits(network, rows), np.float64)
    if not np.isfinite(logits).all():
        raise ValueError(f"the network gives {(~np.isfinite(logits)).sum()} logits that are NaN or infinite")
    return logits
