"""A path of ordinal models whose boundaries do not cross anywhere in the box of the training rows."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from uqsparse.models.ordinal_path import OrdinalProblem, compiled_loss
from uqsparse.solvers.ordinal_box import minimise_in_box, order_margins
from uqsparse.solvers.ordinal_loss import null_point
from uqsparse.solvers.proximal_newton import PenalisedPath


class Box(NamedTuple):
    """All x with `|x - centre| <= radius`, in standardised units.

    Args:
        centre: shape (p,).
        radius: shape (p,).
    """

    centre: Float[np.ndarray, " p"]
    radius: Float[np.ndarray, " p"]


def training_box(problem: OrdinalProblem) -> Box:
    """The smallest box that holds all rows."""
    least, most = problem.X.min(axis=0), problem.X.max(axis=0)
    return Box((least + most) / 2, (most - least) / 2)


def box_path(problem: OrdinalProblem, path: PenalisedPath, box: Box) -> PenalisedPath:
    """The path under the constraint: points whose boundaries cross in the box are solved again, the others stay.

    Args:
        problem: the standardised problem.
        path: its path without the constraint, NumPy arrays.
        box: where boundaries may not cross.
    """
    crossing = [k for k, w in enumerate(path.w) if (order_margins(np.asarray(w), *box) < 0).any()]
    if not crossing:
        return path
    w, objective, gap, converged, n_iter = (
        np.array(part) for part in (path.w, path.objective, path.gap, path.converged, path.n_iter)
    )
    with jax.enable_x64(True):
        loss = compiled_loss(problem)
        start = np.asarray(null_point(loss))
        for k in crossing:
            strength = float(path.lambdas[k])
            found = minimise_in_box(loss, start, strength * problem.l1_factors, strength * problem.l2_factors, *box)
            w[k], objective[k], gap[k], converged[k] = found.w, found.objective, found.gap, found.converged
            n_iter[k] += found.n_iter
            start = found.w
    return PenalisedPath(path.lambdas, w, objective, gap, converged, n_iter)  # pyright: ignore
