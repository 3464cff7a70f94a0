"""A small problem for tests of sparse training: three weights, one bias, a quadratic loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

SHAPES = {"a": (6, 8), "b": (6, 8), "c": (4, 8)}


class Trace(NamedTuple):
    """Parameters and states after each step, the first before any."""

    params: list[Any]
    states: list[Any]


def _params(seed: int = 0) -> dict[str, jax.Array]:
    """Random weights, and a bias that is never pruned."""
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    weights = {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)}
    return weights | {"bias": jnp.ones(4)}


_TARGET = _params(7) | {"bias": jnp.zeros(4)}


@jax.jit
def _loss(params: Any, wave: Any) -> jax.Array:
    """Distance from fixed weights, seen in another light at each step."""
    return sum(((1 + jnp.sin(wave + i)) * (params[n] - _TARGET[n]) ** 2).sum() for i, n in enumerate(sorted(params)))


_gradients = jax.jit(jax.grad(_loss))


def _run(hook: Any, steps: int, params: Any = None, gradients: Callable[..., Any] = _gradients) -> Trace:
    """Train one step at a time."""
    params = _params() if params is None else params
    state = hook.init(params)
    trace = Trace([params], [state])
    for step in range(steps):
        updates, state = hook.update(gradients(params, step), state, params, value=_loss(params, step))
        params = optax.apply_updates(params, updates)
        trace.params.append(params)
        trace.states.append(state)
    return trace


class Toy(NamedTuple):
    """What tests use: new parameters from a seed, loss and gradients of a step, and the loop."""

    shapes: dict[str, tuple[int, int]] = SHAPES
    params: Callable[..., Any] = _params
    loss: Callable[..., Any] = _loss
    gradients: Callable[..., Any] = _gradients
    run: Callable[..., Trace] = _run


@pytest.fixture(scope="session")
def toy() -> Toy:
    """The problem."""
    return Toy()
