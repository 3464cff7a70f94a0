"""Free coordinates of NumPyro's constraints: as many real numbers as a constrained value has degrees of freedom.

A simplex of K probabilities has K - 1 of them, a correlation matrix those below its diagonal. `log_abs_det_jacobian` of
a transform refers to such coordinates, though nothing in it says which; these are the ones NumPyro means.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped
from numpyro.distributions import constraints

# One constraint a kind that NumPyro keeps no public name for as a class.
ALL_ENTRIES = (
    type(constraints.real),
    constraints.greater_than,
    constraints.less_than,
    constraints.interval,
    type(constraints.l1_ball),
    type(constraints.ordered_vector),
    type(constraints.positive_ordered_vector),
)


class Chart(NamedTuple):
    """Free coordinates of the values of one shape.

    Attributes:
        to_free: maps a value to its free coordinates, a vector.
        from_free: the way back.
        what: the coordinates in words.
    """

    to_free: Callable[[Any], Float[Array, " d"]]
    from_free: Callable[[Float[Array, " d"]], Any]
    what: str


def chart_of(constraint: Any, values: Shaped[np.ndarray, "n *shape"]) -> Chart | None:
    """Free coordinates of a constrained value.

    Args:
        constraint: a NumPyro constraint.
        values: some values that satisfy it. Their shape counts, and for complex numbers which parts never vary.

    Returns:
        The coordinates; None if the constraint is not known.
    """
    shape = values.shape[1:]
    if isinstance(constraint, constraints.independent):
        return chart_of(constraint.base_constraint, values)
    if isinstance(constraint, ALL_ENTRIES):
        return Chart(jnp.ravel, lambda w: w.reshape(shape), "all entries")
    if constraint is constraints.simplex:
        return _but_the_last(shape)
    if constraint in (
        constraints.lower_cholesky,
        constraints.softplus_lower_cholesky,
        constraints.scaled_unit_lower_cholesky,
    ):
        return _triangle(shape, 0, lambda lower: lower, "the lower triangle with the diagonal")
    if constraint in (constraints.positive_definite, constraints.positive_semidefinite):
        return _triangle(shape, 0, _symmetric, "the lower triangle with the diagonal")
    if constraint is constraints.corr_matrix:
        return _triangle(
            shape, -1, lambda lower: _symmetric(lower) + jnp.eye(shape[-1]), "the entries below the diagonal"
        )
    if constraint is constraints.corr_cholesky:
        return _triangle(shape, -1, _unit_rows, "the entries below the diagonal")
    if isinstance(constraint, constraints.zero_sum):
        return _zero_sum(shape, constraint.event_dim)
    if constraint is constraints.complex:
        return _parts_that_vary(values)
    if isinstance(constraint, constraints.cat):
        return _slices(constraint, values)
    return None


def _but_the_last(shape) -> Chart:
    def back(w):
        first = w.reshape(*shape[:-1], shape[-1] - 1)
        return jnp.concatenate([first, 1 - jnp.sum(first, axis=-1, keepdims=True)], axis=-1)

    return Chart(lambda y: jnp.ravel(y[..., :-1]), back, "all entries but the last")


def _triangle(shape, diagonal: int, complete: Callable, what: str) -> Chart:
    rows, columns = np.tril_indices(shape[-1], diagonal)

    def back(w):
        lower = jnp.zeros(shape).at[..., rows, columns].set(w.reshape(*shape[:-2], len(rows)))
        return complete(lower)

    return Chart(lambda y: jnp.ravel(y[..., rows, columns]), back, what)


def _symmetric(lower):
    return lower + jnp.swapaxes(jnp.tril(lower, -1), -1, -2)


def _unit_rows(lower):
    diagonal = jnp.sqrt(1 - jnp.sum(lower**2, axis=-1))
    return lower + diagonal[..., None] * jnp.eye(lower.shape[-1])


def _zero_sum(shape, n_axes: int) -> Chart:
    axes = [len(shape) - n_axes + k for k in range(n_axes)]
    bases = [_helmert(shape[axis]) for axis in axes]

    def along(y, matrices):
        for axis, matrix in zip(axes, matrices, strict=True):
            y = jnp.moveaxis(jnp.tensordot(matrix, y, (1, axis)), 0, axis)
        return y

    inner = tuple(size - 1 if axis in axes else size for axis, size in enumerate(shape))
    return Chart(
        lambda y: jnp.ravel(along(y, bases)),
        lambda w: along(w.reshape(inner), [basis.T for basis in bases]),
        "coordinates in an orthonormal basis of the subspace",
    )


def _helmert(size: int) -> np.ndarray:
    """Rows: an orthonormal basis of the vectors that sum to zero."""
    rows = np.tril(np.ones((size - 1, size)))
    rows[np.arange(size - 1), np.arange(1, size)] = -np.arange(1, size)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _parts_that_vary(values) -> Chart:
    shape = values.shape[1:]
    parts = np.stack([values.real, values.imag], axis=-1)
    varies = np.ptp(parts, axis=0) > 0
    constant = jnp.asarray(parts[0])

    def back(w):
        filled = constant.at[varies].set(w)
        return (filled[..., 0] + 1j * filled[..., 1]).reshape(shape)

    return Chart(
        lambda y: jnp.stack([jnp.real(y), jnp.imag(y)], axis=-1)[varies],
        back,
        "the real and imaginary parts that are not constant",
    )


def _slices(constraint, values) -> Chart | None:
    axis = constraint.dim if constraint.dim >= 0 else values.ndim - 1 + constraint.dim
    ends = np.cumsum(constraint.lengths)[:-1]
    pieces = np.split(values, ends, axis=axis + 1)
    charts = [chart_of(one, piece) for one, piece in zip(constraint.cseq, pieces, strict=True)]
    if any(chart is None for chart in charts):
        return None
    known = [chart for chart in charts if chart is not None]
    sizes = [int(chart.to_free(jnp.asarray(piece[0])).size) for chart, piece in zip(known, pieces, strict=True)]

    def to_free(y):
        parts = jnp.split(y, ends, axis=axis)
        return jnp.concatenate([chart.to_free(part) for chart, part in zip(known, parts, strict=True)])

    def back(w):
        parts = jnp.split(w, np.cumsum(sizes)[:-1])
        return jnp.concatenate([chart.from_free(part) for chart, part in zip(known, parts, strict=True)], axis=axis)

    return Chart(to_free, back, "; ".join(chart.what for chart in known) + ", slice by slice")
