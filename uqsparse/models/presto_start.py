"""Where NUTS begins on the model of `bayesian_presto`: at the penalised fit, in coordinates that its Hessian gives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Float
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.infer.reparam import Reparam

from uqsparse.kernels.ordinal import ordinal_derivatives


class Start(NamedTuple):
    """Where the sampler begins, and the metric it begins with.

    Args:
        values: of each site.
        factor: lower triangle L, so that L L' is about the posterior covariance, in the unconstrained coordinates of
            the sites one after the other.
    """

    values: dict[str, np.ndarray]
    factor: Float[np.ndarray, "q q"]


def penalised_start(
    scaled: np.ndarray, codes: np.ndarray, intercepts: np.ndarray, psi: np.ndarray, prior_precision: np.ndarray
) -> Start:
    """Start at a fit, with the inverse of the Hessian there as the covariance.

    Args:
        scaled: standardised features, shape (n, p).
        codes: classes, shape (n,).
        intercepts: increasing, shape (K - 1,).
        psi: shape (K - 1, p).
        prior_precision: of each entry of psi, shape (K - 1, p).
    """
    boundaries = len(psi)
    with jax.enable_x64(True):
        rows = jax.jit(ordinal_derivatives)(
            jnp.asarray(intercepts + scaled @ psi.cumsum(axis=0).T), jnp.asarray(codes.copy())
        )
        lower, mixed, upper = (np.asarray(one)[:, None] for one in (rows.h_ll, rows.h_lu, rows.h_uu))
    # The unconstrained coordinates of increasing intercepts are the first and the logarithms of the increments.
    chain = np.tril(np.ones((boundaries, boundaries))) * np.append(1.0, np.diff(intercepts))
    sides = []
    for side in (codes - 1, codes):
        reached = (side[:, None] >= np.arange(boundaries)) & ((side >= 0) & (side < boundaries))[:, None]
        of_psi = (reached[:, :, None] * scaled[:, None, :]).reshape(len(codes), -1)
        sides.append(np.hstack([reached * chain[np.clip(side, 0, boundaries - 1)], of_psi]))
    a, b = sides
    hessian = a.T @ (lower * a + mixed * b) + b.T @ (upper * b + mixed * a)
    hessian[np.diag_indices_from(hessian)] += np.append(np.zeros(boundaries), prior_precision) + 1e-6
    factor = np.linalg.cholesky(np.linalg.inv(hessian))
    return Start({"intercepts": intercepts, "first": psi[:1], "differences": psi[1:]}, factor)


def horseshoe_start(start: Start, scale: np.ndarray, tau: float, local: np.ndarray, slab_scale: float) -> Start:
    """The same start in the parts of a horseshoe: `differences` is z times a scale."""
    values = {name: value for name, value in start.values.items() if name != "differences"}
    values |= {
        "differences_z": start.values["differences"] / scale,
        "differences_global": np.asarray(tau),
        "differences_local": local,
        "differences_slab": np.asarray(slab_scale**2),
    }
    # The prior of z has unit precision in the Hessian already: that of the differences is 1 / scale^2.
    q, extra = len(start.factor), 2 + local.size
    factor = np.eye(q + extra)
    factor[:q, :q] = start.factor
    factor[q - scale.size : q, :q] /= scale.reshape(-1, 1)
    return Start(values, factor)


class _MovedFrom(Reparam):
    """A site at a start, moved in its unconstrained space by what another site drew."""

    def __init__(self, start: Any, move: Any):
        self.start, self.move = start, move

    def __call__(self, name: str, fn: Any, obs: Any) -> tuple[None, Any]:
        transform: Any = biject_to(fn.support)
        free = transform.inv(self.start) + self.move
        value = transform(free)
        log_density = jnp.sum(fn.log_prob(value)) + jnp.sum(transform.log_abs_det_jacobian(free, value))
        numpyro.factor(f"{name}_density", log_density)
        return None, value


def started_model(model: Callable, start: Start) -> Callable:
    """The same model in coordinates in which its posterior is about a standard normal, twice as wide, at zero.

    NumPyro starts its chains there, uniformly within (-2, 2).
    """

    def started(X, y):
        step: Any = numpyro.sample("step", dist.ImproperUniform(constraints.real, (), (len(start.factor),)))
        # A copy, as an array that another precision has seen would be taken for that one's.
        moves, at, config = 0.5 * jnp.asarray(start.factor.copy()) @ step, 0, {}
        for name, value in start.values.items():
            config[name] = _MovedFrom(jnp.asarray(value.copy()), moves[at : at + value.size].reshape(value.shape))
            at += value.size
        with handlers.reparam(config=config):
            model(X, y)

    return started
