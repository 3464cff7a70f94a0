"""Training by passes through the data: one pass as one program, and the loop of passes that keeps the best network.

Everything works for one network, and for several whose arrays have a leading axis (their losses are then arrays too).
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

# Loss of a network on a batch; the key is for whatever is random in it, dropout or augmentation.
Loss = Callable[[PyTree, PyTree, Key[Array, ""]], Float[Array, ""]]


def train_epoch(
    key: Key[Array, ""],
    loss: Loss,
    optimiser: optax.GradientTransformation,
    network: PyTree,
    state: PyTree,
    data: PyTree,
    *,
    batch_size: int,
    rows: Int[Array, " n"] | None = None,
    scale: Any = 1.0,
) -> tuple[PyTree, PyTree, Float[Array, ""]]:
    """One pass through the rows of the data in random order, one step a batch.

    For use inside `jit` and `vmap`. A last batch that is not full is left out; which rows it holds is new in each pass.
    On a CPU XLA's convolutions take longer in such a compiled loop than one step at a time.

    Args:
        key: for the order of the rows, and for the loss.
        loss: mean loss `(network, batch, key)` of a batch.
        optimiser: any Optax transformation.
        network: whose inexact arrays are trained.
        state: of the optimiser, from `optimiser.init(eqx.filter(network, eqx.is_inexact_array))`.
        data: arrays with one leading axis; a batch has the same structure.
        batch_size: rows a step; all rows where there are fewer.
        rows: indices of the rows to use; all if not given.
        scale: multiplies every update, as a schedule of the rate does.

    Returns:
        The network, the optimiser's state, and the mean of the batches' losses, each before its step.
    """
    data = jax.tree.map(jnp.asarray, data)
    if rows is None:
        rows = jnp.arange(len(jax.tree.leaves(data)[0]))
    size = min(batch_size, len(rows))
    n_steps = len(rows) // size
    key_rows, key_loss = jax.random.split(key)
    batches = jax.random.permutation(key_rows, rows)[: n_steps * size].reshape(n_steps, size)
    start, static = eqx.partition(network, eqx.is_inexact_array)

    def step(carry, inputs):
        parameters, state = carry
        chosen, key_step = inputs
        batch = jax.tree.map(lambda array: array[chosen], data)
        value, slope = jax.value_and_grad(lambda p: loss(eqx.combine(p, static), batch, key_step))(parameters)
        updates, state = optimiser.update(slope, state, parameters)
        updates = jax.tree.map(lambda update: jnp.asarray(scale, update.dtype) * update, updates)
        return (optax.apply_updates(parameters, updates), state), value

    (parameters, state), values = jax.lax.scan(step, (start, state), (batches, jax.random.split(key_loss, n_steps)))
    return eqx.combine(parameters, static), state, values.mean()


class Plateau(NamedTuple):
    """Multiply the rate by a factor when the validation loss has stopped falling.

    Args:
        factor: in (0, 1).
        patience: epochs without improvement that are waited for; the next one lowers the rate.
        least_scale: the rate falls no lower than this share of the optimiser's own rate.
        threshold: relative improvement that counts.
    """

    factor: float = 0.5
    patience: int = 5
    least_scale: float = 1e-3
    threshold: float = 1e-4


class Training(NamedTuple):
    """The best network of a training, and how the training went. E epochs were finished.

    Args:
        network: as it was after its best epoch.
        best_epoch: from 0; -1 where the network it began with was never beaten.
        validation_loss: the lowest.
        training_losses: mean loss in each epoch, shape (E,) or (E, members).
        validation_losses: after each epoch, of the same shape.
        scales: share of the optimiser's rate in each epoch, of the same shape.
        stopped: "epochs" (all were done), "patience", "diverged" (a loss was not finite) or "interrupted".
    """

    network: PyTree
    best_epoch: Int[np.ndarray, "..."]
    validation_loss: Float[np.ndarray, "..."]
    training_losses: Float[np.ndarray, "E ..."]
    validation_losses: Float[np.ndarray, "E ..."]
    scales: Float[np.ndarray, "E ..."]
    stopped: str

    @property
    def converged(self) -> bool:
        """Whether training ended as planned, and every network had its best epoch before the last one."""
        planned = self.stopped in ("epochs", "patience")
        return planned and bool((self.best_epoch < len(self.validation_losses) - 1).all())


# From (epoch, network, state, scale) to (network, state, training loss, validation loss).
Epoch = Callable[[int, PyTree, PyTree, Any], tuple[PyTree, PyTree, Any, Any]]


def train_keeping_best(
    network: PyTree,
    state: PyTree,
    epoch: Epoch,
    n_epochs: int,
    *,
    validation_loss: Any = np.inf,
    patience: int | None = None,
    plateau: Plateau | None = None,
    progress: bool = False,
    title: str = "training",
    stacklevel: int = 2,
) -> Training:
    """Train epoch by epoch and keep the network of the lowest validation loss.

    An interrupt (Ctrl-C) ends the training and loses nothing: the best network so far is returned, with a warning.

    Args:
        network: to begin with.
        state: of the optimiser.
        epoch: one epoch, `(index, network, state, scale) -> (network, state, training loss, validation loss)`.
        n_epochs: how many.
        validation_loss: of the network to begin with; infinite where it is not to be kept.
        patience: stop after so many epochs without a new lowest loss, of any member; never if not given.
        plateau: schedule of the rate; constant if not given.
        progress: show a bar.
        title: of the bar.
        stacklevel: which caller the warnings point at; 2 is the one of this function.

    Returns:
        The best network and the history. A warning says where losses diverged or were still falling.

    Raises:
        ValueError: a setting of the plateau is out of range.
    """
    if plateau is not None:
        _require_plateau(plateau)
    best, lowest = network, np.asarray(validation_loss, np.float64)
    best_epoch, scale = np.full(lowest.shape, -1), np.ones(lowest.shape)
    to_beat, waited = lowest, np.zeros(lowest.shape, int)
    history = []
    stopped = "epochs"
    with progress_bar(progress, title, n_epochs) as advance:
        try:
            for index in range(n_epochs):
                network, state, training, validation = epoch(index, network, state, scale)
                training, validation = np.asarray(training, np.float64), np.asarray(validation, np.float64)
                better = validation < lowest
                best, lowest, best_epoch = (
                    _where(better, network, best),
                    np.where(better, validation, lowest),
                    np.where(better, index, best_epoch),
                )
                history.append((training, validation, scale))
                if not (np.isfinite(training) & np.isfinite(validation)).any():
                    stopped = "diverged"
                    break
                if plateau is not None:
                    improved = validation < to_beat - plateau.threshold * np.abs(to_beat)
                    to_beat = np.where(improved | ~np.isfinite(to_beat), validation, to_beat)
                    waited = np.where(improved, 0, waited + 1)
                    lower = waited > plateau.patience
                    scale = np.where(lower, np.maximum(plateau.factor * scale, plateau.least_scale), scale)
                    waited = np.where(lower, 0, waited)
                advance(f"loss {validation.mean():.4f}, best {lowest.mean():.4f}")
                if patience is not None and (index - best_epoch >= patience).all():
                    stopped = "patience"
                    break
        except KeyboardInterrupt:
            stopped = "interrupted"
    shape = (len(history), *lowest.shape)
    losses, validation_losses, scales = (np.array([row[i] for row in history]).reshape(shape) for i in range(3))
    if stopped != "interrupted" and not (np.isfinite(losses).all() and np.isfinite(validation_losses).all()):
        stopped = "diverged"
    result = Training(best, best_epoch, lowest, losses, validation_losses, scales, stopped)
    if (reason := _not_converged(result)) is not None:
        warnings.warn(reason, stacklevel=stacklevel)
    return result


def _require_plateau(plateau: Plateau) -> None:
    if not (0 < plateau.factor < 1 and plateau.patience >= 0 and 0 <= plateau.least_scale <= 1):
        raise ValueError(f"plateau needs a factor in (0, 1), patience >= 0, least_scale in [0, 1], got {plateau}")
    if not plateau.threshold >= 0:
        raise ValueError(f"plateau needs a threshold of at least 0, got {plateau.threshold}")


def _where(better: np.ndarray, new: PyTree, old: PyTree) -> PyTree:
    """The new network where it is better; by members where there are several."""
    if better.all() or not better.any():
        return new if better.all() else old
    return _chosen(better, new, old)


@eqx.filter_jit
def _chosen(better, new, old):
    def choose(one, other):
        return jnp.where(better.reshape(-1, *(1,) * (one.ndim - 1)), one, other) if eqx.is_array(one) else one

    return jax.tree.map(choose, new, old)


def _not_converged(result: Training) -> str | None:
    n_done = len(result.validation_losses)
    if result.stopped == "interrupted":
        return f"training was interrupted after {n_done} epochs; the best network so far is kept"
    if result.stopped == "diverged":
        return "a loss was not finite; the best network before that is kept: lower the rate"
    return None if result.converged else f"the validation loss was still falling after {n_done} epochs"


class progress_bar:
    """A progress bar whose text says the loss; entering gives the function that moves it on by one, or by a number."""

    def __init__(self, shown: bool, title: str, total: int):
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            disable=not shown,
        )
        self.task = self.bar.add_task(title, total=total, note="compiling")

    def __enter__(self) -> Callable[..., None]:
        self.bar.start()
        return lambda note, by=1: self.bar.update(self.task, advance=by, note=note)

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()
