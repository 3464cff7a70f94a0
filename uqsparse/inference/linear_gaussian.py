"""Linear state-space models with Gaussian noise: the record, its checks at the door, and its equations for a scan."""

from typing import Any, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from uqsparse.inference.state_space import Missing


class LinearGaussian(NamedTuple):
    """A linear state-space model with Gaussian noise: d states, p observations at a time.

        x_0 ~ N(m_0, P_0),   x_t = F_t x_{t-1} + b_t + N(0, Q_t),   y_t = H_t x_t + c_t + N(0, R_t)

    Each part of the transition is constant or has a leading axis of T - 1 rows, of which the row t leads from x_t to
    x_{t+1}; each part of the observation is constant or has a leading axis of T rows. Covariances are symmetric and
    positive semidefinite; they may be singular, as long as no observation is known exactly beforehand.

    Args:
        initial_mean: m_0, mean of the first state before its observation is seen, shape (d,).
        initial_covariance: P_0, its covariance, shape (d, d).
        transition_matrix: F, shape (d, d) or (T - 1, d, d).
        transition_covariance: Q, shape (d, d) or (T - 1, d, d).
        observation_matrix: H, shape (p, d) or (T, p, d).
        observation_covariance: R, shape (p, p) or (T, p, p).
        transition_offset: b, shape (d,) or (T - 1, d); None for zero.
        observation_offset: c, shape (p,) or (T, p); None for zero.
    """

    initial_mean: Float[Array, " d"]
    initial_covariance: Float[Array, "d d"]
    transition_matrix: Float[Array, "*steps d d"]
    transition_covariance: Float[Array, "*steps d d"]
    observation_matrix: Float[Array, "*times p d"]
    observation_covariance: Float[Array, "*times p p"]
    transition_offset: Float[Array, "*steps d"] | None = None
    observation_offset: Float[Array, "*times p"] | None = None


class Equation(NamedTuple):
    """z = matrix x + offset + N(0, covariance)."""

    matrix: Any
    offset: Any
    covariance: Any


def transition_equation(model: LinearGaussian) -> Equation:
    """How a state leads to the next one."""
    offset = jnp.zeros_like(model.initial_mean) if model.transition_offset is None else model.transition_offset
    return Equation(model.transition_matrix, offset, model.transition_covariance)


def observation_equation(model: LinearGaussian) -> Equation:
    """How a state is observed."""
    matrix = model.observation_matrix
    offset = jnp.zeros(matrix.shape[-2]) if model.observation_offset is None else model.observation_offset
    return Equation(matrix, offset, model.observation_covariance)


def split_rows(equation: Equation) -> tuple[Equation, Equation]:
    """The parts that have a row for each time, and those that are constant; None stands in place of the others."""
    has_rows = Equation(equation.matrix.ndim == 3, equation.offset.ndim == 2, equation.covariance.ndim == 3)
    return eqx.partition(equation, has_rows)


def check_linear_gaussian(model: Any, observations: Any, missing: Any) -> tuple[LinearGaussian, Float[Array, "T p"]]:
    """Check shapes, and values that are not traced; convert all to JAX's floating-point type.

    Raises:
        TypeError: `model` is no `LinearGaussian`.
        ValueError: naming what does not fit.
    """
    if not isinstance(model, LinearGaussian):
        raise TypeError(f"model must be a LinearGaussian, got a {type(model).__name__}")
    if missing not in get_args(Missing):
        raise ValueError(f"missing must be 'error' or 'skip', got {missing!r}")
    if jnp.ndim(observations) != 2 or not jnp.size(observations):
        raise ValueError(f"observations has shape {jnp.shape(observations)}, expected (T, p) with T and p at least 1")
    if jnp.ndim(model.initial_mean) != 1 or not jnp.size(model.initial_mean):
        raise ValueError(f"initial_mean has shape {jnp.shape(model.initial_mean)}, expected (d,) with d at least 1")
    (n_steps, p), (d,) = jnp.shape(observations), jnp.shape(model.initial_mean)
    whole = {"initial": (d, d), "transition": (d, d), "observation": (p, d)}
    n_rows = {"transition": n_steps - 1, "observation": n_steps}
    given: dict[str, Any] = {
        name: part for name, part in model._asdict().items() if part is not None or not name.endswith("offset")
    }
    for name, value in given.items():
        about, part = name.split("_")
        n_out, n_in = whole[about]
        shape = {"matrix": (n_out, n_in), "covariance": (n_out, n_out)}.get(part, (n_out,))
        fitting = [shape, (n_rows[about], *shape)] if about in n_rows else [shape]
        if np.shape(value) not in fitting:
            raise ValueError(
                f"{name} has shape {np.shape(value)}, expected {' or '.join(map(str, fitting))}: T = {n_steps} "
                f"observations of p = {p} components, d = {d} states"
            )
        if not isinstance(value, Tracer):
            _check_values(name, np.asarray(value))
    if not isinstance(observations, Tracer):
        bad = np.isinf(observations) if missing == "skip" else ~np.isfinite(observations)
        if bad.any():
            hint = "" if missing == "skip" else "; pass missing='skip' if NaN stands for what was not observed"
            raise ValueError(
                f"observations has NaN or infinite values, first at t = {int(np.argmax(bad.any(axis=1)))}{hint}"
            )
    return jax.tree.map(lambda x: jnp.asarray(x, float), (model, observations))


def _check_values(name: str, value: np.ndarray) -> None:
    if not np.isfinite(value).all():
        raise ValueError(f"{name} has NaN or infinite values")
    if not name.endswith("covariance"):
        return
    # A covariance that was computed in single precision is off by this much.
    slack = 1e-5 * np.abs(value).max(initial=0)
    if np.abs(value - value.swapaxes(-1, -2)).max(initial=0) > slack:
        raise ValueError(f"{name} is not symmetric")
    least = np.linalg.eigvalsh(value).min(initial=0)
    if least < -slack:
        raise ValueError(f"{name} is not positive semidefinite: it has the eigenvalue {least:.3g}")
