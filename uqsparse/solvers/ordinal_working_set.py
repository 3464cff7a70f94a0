"""The path of the penalised ordinal model with many features: small problems on the columns that matter.

For each penalty the problem is solved on the columns that the strong rule lets in, and all others are then checked
against the optimality conditions; violators join, until there is none. The duality gap is that of the whole problem.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from uqsparse.solvers.ordinal_loss import OrdinalLoss
from uqsparse.solvers.proximal_newton import PenalisedPath, proximal_newton_path

# Violations of the optimality conditions that do not count, absolute.
_SLACK = 1e-9
_MOST_SWEEPS = 50


def working_set_path(
    loss: OrdinalLoss,
    start: Float[Array, " q"],
    lambdas: Float[Array, " L"],
    l1_factors: Float[Array, " q"],
    l2_factors: Float[Array, " q"],
    *,
    tolerance: float = 1e-12,
    gap_tolerance: float = 1e-8,
    max_iter: int = 100,
) -> PenalisedPath:
    """What `proximal_newton_path` finds, by way of problems restricted to few columns. Not for `jit` or `vmap`.

    Args:
        loss: the ordinal loss.
        start: a point of its domain, shape (q,).
        lambdas: nonnegative penalties from large to small, shape (L,).
        l1_factors: nonnegative, shape (q,).
        l2_factors: nonnegative, shape (q,).
        tolerance: see `proximal_newton_path`.
        gap_tolerance: the same.
        max_iter: the same, for each restricted problem.

    Source: Tibshirani, Bien, Friedman, Hastie, Simon, Taylor & Tibshirani (2012), Strong rules for discarding
    predictors in lasso-type problems.
    """
    n_boundaries, width = loss.n_classes - 1, loss.design.shape[0]
    shape = (n_boundaries, width)
    factors1, factors2 = np.asarray(l1_factors).reshape(shape), np.asarray(l2_factors).reshape(shape)
    w, gradient = np.asarray(start).reshape(shape), np.asarray(_gradient(loss, start)).reshape(shape)
    free = (factors1 == 0).any(0)
    design = np.asarray(loss.design)
    points, previous = [], None
    for strength in np.asarray(lambdas):
        reach = 2 * strength - (strength if previous is None else previous)
        inside = free | (w != 0).any(0) | (np.abs(gradient) > reach * factors1).any(0)
        steps = 0
        for _ in range(_MOST_SWEEPS):
            columns = np.flatnonzero(inside[1:]) + 1
            w, part, slopes = _solve_on_columns(
                loss, design, columns, w, strength, factors1, factors2, tolerance, gap_tolerance, max_iter
            )
            steps += int(np.asarray(part.n_iter)[0])
            gradient = np.asarray(_gradient(loss, jnp.asarray(w.ravel()))).reshape(shape)
            outside = (np.abs(gradient) > strength * factors1 + _SLACK).any(0) & ~inside
            if not outside.any():
                break
            inside |= outside
        bound = _bound(loss, slopes, jnp.asarray(strength * factors1.ravel()), jnp.asarray(strength * factors2.ravel()))
        gap = max(float(np.asarray(part.objective)[0]) - float(bound), 0.0)
        converged = bool(np.asarray(part.converged)[0]) and gap <= gap_tolerance
        points.append((w.ravel(), float(np.asarray(part.objective)[0]), gap, converged, steps))
        previous = strength
    w_path, objective, gaps, converged, n_iter = (np.array(column) for column in zip(*points, strict=True))
    return PenalisedPath(np.asarray(lambdas), w_path, objective, gaps, converged, n_iter)  # pyright: ignore


def _solve_on_columns(loss, design, columns, w, strength, factors1, factors2, tolerance, gap_tolerance, max_iter):
    """The minimiser over some columns, with the others at zero; its one-point path, and its balanced slopes."""
    # Sizes come in powers of two, filled with columns of zeros, so that few programs are compiled.
    size = max(8, 1 << int(len(columns) - 1).bit_length()) if len(columns) else 8
    keep = np.concatenate([[0], columns])
    part_of_design = np.zeros((size + 1, design.shape[1]), design.dtype)
    part_of_design[: len(keep)] = design[keep]
    small = OrdinalLoss(jnp.asarray(part_of_design), loss.y, loss.weights, loss.n_classes)

    def restricted(table, fill):
        out = np.full((table.shape[0], size + 1), fill)
        out[:, : len(keep)] = table[:, keep]
        return out.ravel()

    l1, l2 = restricted(factors1, 1.0), restricted(factors2, 0.0)
    part = proximal_newton_path(
        small,
        jnp.asarray(restricted(w, 0.0)),
        jnp.asarray([strength]),
        jnp.asarray(l1),
        jnp.asarray(l2),
        tolerance=tolerance,
        gap_tolerance=gap_tolerance,
        max_iter=max_iter,
    )
    found = np.asarray(part.w)[0]
    slopes = _slopes(small, jnp.asarray(found), jnp.asarray(strength * (l1 + l2) == 0))
    whole = np.zeros_like(w)
    whole[:, keep] = found.reshape(w.shape[0], -1)[:, : len(keep)]
    return whole, part, slopes


@eqx.filter_jit
def _gradient(loss, w):
    return loss.gradient(w)


@eqx.filter_jit
def _slopes(loss, w, free):
    return loss.balanced_slopes(w, free)


@jax.jit
def _bound(loss, slopes, l1, l2):
    return loss.bound_from_slopes(slopes, l1, l2)
