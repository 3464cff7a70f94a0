"""What all few-shot learners share: training on a stream of episodes, and the checks at the door."""

import functools
from abc import abstractmethod
from pathlib import Path
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Key, Num

from uqsparse.kernels.arguments import require_count
from uqsparse.kernels.namespaces import is_traced
from uqsparse.models.few_shot_likelihoods import Categorical, Gaussian, Likelihood
from uqsparse.models.neural_processes.mixture import Mixture
from uqsparse.nn.episodic_training import EpisodicTraining, Sampler, train_on_episodes

_RATE, _LARGEST_GRADIENT = 3e-3, 10.0
# These have far to go, and Adam's step is about the rate, whatever the slope. The noise is not among them: it would
# rise before a network has learned anything, and then hide what there is to learn.
_HASTENED = {"log_precision": 10.0, "log_spread": 10.0, "log_temperature": 10.0}


class Episodes(Protocol):
    """T tasks of one shape: any record with these fields, such as those that `uqsparse.data` draws."""

    @property
    def support_x(self) -> Float[Array, "T S dx"]:
        """Inputs to learn from."""
        ...

    @property
    def support_y(self) -> Num[Array, "T S ..."]:
        """Their targets: numbers (T, S, dy), or classes (T, S) as integers."""
        ...

    @property
    def query_x(self) -> Float[Array, "T Q dx"]:
        """Inputs to be judged on."""
        ...

    @property
    def query_y(self) -> Num[Array, "T Q ..."]:
        """Their targets."""
        ...


class FewShotLearner(eqx.Module):
    """A model that is trained on many small tasks, and then learns a new one from a few examples.

    Args:
        likelihood: what outputs say of targets.
    """

    likelihood: eqx.AbstractVar[Likelihood]

    @abstractmethod
    def episode_loss(
        self,
        support_x: Float[Array, "S dx"],
        support_y: Num[Array, "S ..."],
        query_x: Float[Array, "Q dx"],
        query_y: Num[Array, "Q ..."],
        key: Key[Array, ""],
    ) -> Float[Array, ""]:
        """Loss of one task, in nats a task. For use under `jit`, `grad` and `vmap`; nothing is checked."""

    @abstractmethod
    def learn(self, support_x: Float[Array, "S dx"], support_y: Num[Array, "S ..."], key: Key[Array, ""]) -> Any:
        """What is learned from one task. For use under `jit` and `vmap`; nothing is checked."""

    @abstractmethod
    def predictive(self, local: Any, x: Float[Array, "M dx"], key: Key[Array, ""], n_samples: int) -> Any:
        """Predictions, as `predict` gives them. For use under `jit` and `vmap`; nothing is checked."""

    def loss(self, tasks: Episodes, key: Key[Array, ""]) -> Float[Array, ""]:
        """Mean loss of the tasks: what training makes small."""
        keys = jax.random.split(key, len(tasks.support_x))
        each = jax.vmap(self.episode_loss)(*_parts(tasks), keys)
        return each.mean()

    def fit(
        self,
        sampler: Sampler,
        key: Key[Array, ""],
        n_steps: int,
        *,
        batch_size: int = 20,
        optimiser: optax.GradientTransformation | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 1000,
        steps_per_call: int = 1,
        progress: bool = False,
    ) -> EpisodicTraining:
        """Train on new episodes at each step; every episode is seen once.

        Args:
            sampler: `(key, batch_size) -> episodes`; the same key gives the same episodes.
            key: of the whole run.
            n_steps: gradient steps, at least 1.
            batch_size: episodes a step.
            optimiser: any Optax transformation; `clipped_adam(0.003, n_steps)` if not given.
            checkpoint: file to which the run is saved; where it exists, the run goes on from there, bit for bit. Model,
                sampler and optimiser must be those of that run.
            checkpoint_every: steps between savings.
            steps_per_call: with more than 1 the sampler is compiled too, with so many steps in one program.
            progress: show a bar.

        Returns:
            The trained model and its losses. A warning says where training diverged or was interrupted.

        Raises:
            ValueError: episodes that do not fit the model or are not finite, a number out of range, or a checkpoint of
                another run.
        """
        require_count("n_steps", n_steps, 1)
        require_count("batch_size", batch_size, 1)
        require_episodes(sampler(key, batch_size), self)
        settings = ""
        if optimiser is None:
            optimiser, settings = clipped_adam(_RATE, n_steps), f"Adam for {n_steps} steps"
        return train_on_episodes(
            key,
            _loss,
            optimiser,
            self,
            sampler,
            n_steps,
            batch_size=batch_size,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            steps_per_call=steps_per_call,
            settings=settings,
            progress=progress,
            title=type(self).__name__,
            stacklevel=3,
        )

    def adapt(
        self,
        support_x: Float[ArrayLike, "S dx"],
        support_y: Num[ArrayLike, "S ..."],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Any:
        """Learn a new task from its support set.

        Args:
            support_x: inputs, shape (S, dx), S at least 1.
            support_y: targets, shape (S, dy), or integer classes of shape (S,), each class at least once.
            key: for learners that draw; a fixed one if not given.

        Returns:
            What was learned, for `predict`.

        Raises:
            ValueError: an empty support, shapes that do not fit, values that are not finite, or a class without a row.
        """
        support_x, support_y = require_support(support_x, support_y, self)
        return _learned(self, support_x, support_y, jax.random.key(0) if key is None else key)

    def predict(self, local: Any, x: Float[ArrayLike, "M dx"], key: Key[Array, ""], n_samples: int = 50) -> Any:
        """Predict targets of a task.

        Args:
            local: what `adapt` returned.
            x: inputs, shape (M, dx).
            key: random key.
            n_samples: draws of the weights that are averaged, for learners that draw them.

        Returns:
            A `Mixture` of at most `n_samples` normal components of shape (M, dy); for classes their probabilities,
            shape (M, C).

        Raises:
            ValueError: x has another shape or is not finite, or `n_samples` is below 1.
        """
        require_count("n_samples", n_samples, 1)
        x = _require_finite("x", x)
        if x.ndim != 2:
            raise ValueError(f"x must have shape (M, dx), got {x.shape}")
        return _predicted(self, local, x, key, n_samples)

    def predict_tasks(self, tasks: Episodes, key: Key[Array, ""], n_samples: int = 50) -> Any:
        """Adapt to the supports of T tasks and predict their queries, whose targets are not looked at.

        Args:
            tasks: any number of tasks of one shape.
            key: random key.
            n_samples: as in `predict`.

        Returns:
            A `Mixture` of shape (K, T, Q, dy), or class probabilities of shape (T, Q, C).

        Raises:
            ValueError: as for `adapt` and `predict`.
        """
        require_count("n_samples", n_samples, 1)
        require_episodes(tasks, self)
        return _predicted_tasks(self, tasks.support_x, tasks.support_y, tasks.query_x, key, n_samples)


def _parts(tasks: Episodes) -> tuple[Array, Array, Array, Array]:
    return tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y


def _loss(model: FewShotLearner, tasks: Episodes, key: Key[Array, ""]) -> Float[Array, ""]:
    return model.loss(tasks, key)


@functools.cache
def clipped_adam(rate: float, n_steps: int) -> optax.GradientTransformation:
    """The optimiser of few-shot learners: Adam on gradients of norm at most 10, its rate falling to 0 along a cosine.

    Prior precisions and the temperatures of class probabilities have ten times the rate.

    Args:
        rate: at the start.
        n_steps: after which it is zero.

    Returns:
        The same object for the same arguments, so that runs share compiled programs.
    """
    schedule = optax.cosine_decay_schedule(rate, n_steps)
    clip = optax.clip_by_global_norm(_LARGEST_GRADIENT)
    return optax.chain(clip, optax.adam(schedule), optax.stateless(_hasten))


def _hasten(updates: Any, parameters: Any) -> Any:
    def scaled(path, update):
        return _HASTENED.get(getattr(path[-1], "name", ""), 1.0) * update

    return jax.tree_util.tree_map_with_path(scaled, updates)


@eqx.filter_jit
def _learned(model: FewShotLearner, support_x: Array, support_y: Array, key: Any) -> Any:
    return model.learn(support_x, support_y, key)


@eqx.filter_jit
def _predicted(model: FewShotLearner, local: Any, x: Array, key: Any, n_samples: int) -> Any:
    return model.predictive(local, x, key, n_samples)


@eqx.filter_jit
def _predicted_tasks(model: FewShotLearner, support_x, support_y, query_x, key: Any, n_samples: int) -> Any:
    def one(support_x, support_y, query_x, key):
        key_learn, key_predict = jax.random.split(key)
        local = model.learn(support_x, support_y, key_learn)
        return model.predictive(local, query_x, key_predict, n_samples)

    out_axes = 0 if isinstance(model.likelihood, Categorical) else 1
    keys = jax.random.split(key, len(support_x))
    return jax.vmap(one, out_axes=out_axes)(support_x, support_y, query_x, keys)


def gaussian_mixture(means: Float[Array, "K M dy"], variances: Any, likelihood: Gaussian) -> Mixture:
    """Components with these means and variances of the outputs, and the noise of the targets."""
    scales = jnp.sqrt(variances + likelihood.noise**2)
    return Mixture(means, jnp.broadcast_to(scales, means.shape))


def require_episodes(tasks: Episodes, model: FewShotLearner) -> None:
    """Raise ValueError unless tasks have fitting shapes and finite values, and classes that are all in the supports."""
    missing = [name for name in ("support_x", "support_y", "query_x", "query_y") if not hasattr(tasks, name)]
    if missing:
        raise ValueError(f"tasks must have {', '.join(missing)}, got {type(tasks).__name__}")
    support_x, support_y, query_x, query_y = map(jnp.shape, _parts(tasks))
    y_axes = 2 if isinstance(model.likelihood, Categorical) else 3
    fits = (
        len(support_x) == len(query_x) == 3
        and len(support_y) == len(query_y) == y_axes
        and support_x[:2] == support_y[:2]
        and query_x[:2] == query_y[:2]
        and (support_x[0], support_x[2:], support_y[2:]) == (query_x[0], query_x[2:], query_y[2:])
    )
    if not fits:
        wanted = "(T, S)" if y_axes == 2 else "(T, S, dy)"
        raise ValueError(
            f"tasks must have support_x of shape (T, S, dx), support_y of shape {wanted} and the same with Q queries, "
            f"got {support_x}, {support_y}, {query_x} and {query_y}"
        )
    if 0 in (*support_x, *query_x):
        raise ValueError(f"tasks must have support and query points, got support {support_x} and queries {query_x}")
    for name in ("support_x", "support_y", "query_x", "query_y"):
        _require_finite(name, getattr(tasks, name))
    if isinstance(model.likelihood, Categorical):
        _require_classes("support_y", tasks.support_y, model.likelihood.n_way, all_present=True)
        _require_classes("query_y", tasks.query_y, model.likelihood.n_way, all_present=False)


def require_support(support_x: Any, support_y: Any, model: FewShotLearner) -> tuple[Array, Array]:
    """The support set of one task as arrays, or ValueError; see `FewShotLearner.adapt`."""
    x, y = _require_finite("support_x", support_x), _require_finite("support_y", support_y)
    likelihood = model.likelihood
    wanted, y_axes = ("(S,)", 1) if isinstance(likelihood, Categorical) else ("(S, dy)", 2)
    if x.ndim != 2 or y.ndim != y_axes or len(x) != len(y):
        raise ValueError(f"support_x must have shape (S, dx) and support_y {wanted}, got {x.shape} and {y.shape}")
    if not x.size:
        raise ValueError(f"support_x must hold at least one point, got shape {x.shape}")
    if isinstance(likelihood, Categorical):
        _require_classes("support_y", y, likelihood.n_way, all_present=True)
    return x, y


def _require_finite(name: str, values: Any) -> Array:
    try:
        array = jnp.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers, with rows of one length: {error}") from error
    if not is_traced(array) and jnp.issubdtype(array.dtype, jnp.inexact) and not jnp.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {int((~jnp.isfinite(array)).sum())} NaN or infinite values")
    return array


def _require_classes(name: str, y: Any, n_way: int, *, all_present: bool) -> None:
    y = jnp.asarray(y)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(f"{name} must hold classes as integers, got {y.dtype}")
    if is_traced(y):
        return
    rows = np.asarray(y).reshape(-1, y.shape[-1])
    if rows.min() < 0 or rows.max() >= n_way:
        raise ValueError(f"{name} must hold classes 0, ..., {n_way - 1}, got {rows.min()} to {rows.max()}")
    if all_present:
        for row in rows:
            absent = np.setdiff1d(np.arange(n_way), row)
            if len(absent):
                raise ValueError(f"{name} must hold every class 0, ..., {n_way - 1} in each task; none is {absent[0]}")
