"""A convex sublevel set {w : L(w) <= c} as compiled programs see it, and passes over its rows for a batch of points.

The rows are stored in blocks. A pass goes through them once, and what it forms for a block (batch x rows of the block)
stays in the processor's caches; memory grows with neither the rows nor the batch times the rows, but for the
curvatures, which the Hessians need. The Hessians of a batch are products of the curvatures (batch x rows) with the
products of pairs of columns (rows x d (d + 1) / 2).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from uqsparse.kernels.glm_losses import LossKind, row_terms
from uqsparse.solvers.regularised_loss import RegularisedLoss

_BLOCK_ROWS = 512
# The products of pairs of columns are stored up to this many numbers, and formed again in every pass beyond.
_MOST_PRODUCTS = 40_000_000


class Rows(NamedTuple):
    """Blocks of r rows with m predictors each; rows of weight 0 fill up the last block.

    Args:
        design: shape (blocks, m r, d): first predictors, then second ones.
        y: responses, shape (blocks, r).
        weights: shape (blocks, r).
        products: products of pairs of columns times weights, for each pair of predictors, shape
            (blocks, m (m + 1) / 2 r, d (d + 1) / 2), or None.
    """

    design: Float[Array, "blocks m_r d"]
    y: Array
    weights: Float[Array, "blocks r"]
    products: Float[Array, "blocks k_r pairs"] | None

    @property
    def n_predictors(self) -> int:
        """How many predictors a row has."""
        return self.design.shape[1] // self.weights.shape[1]


class SublevelSet(NamedTuple):
    """A sublevel set.

    Args:
        rows: the data.
        l2: ridge coefficients, shape (d,).
        level: c.
        center: the minimiser w_0, shape (d,).
        center_value: L(w_0).
        lower: bounds from below on the coordinates over the set, -inf where none is known, shape (d,).
        upper: bounds from above, shape (d,).
        balanced: the only coordinate without a penalty; -1 if there are none or several.
    """

    rows: Rows
    l2: Float[Array, " d"]
    level: Float[Array, ""]
    center: Float[Array, " d"]
    center_value: Float[Array, ""]
    lower: Float[Array, " d"]
    upper: Float[Array, " d"]
    balanced: Int[Array, ""]


class LossState(NamedTuple):
    """L, its gradient, and the curvatures of the rows at the points of a batch; L is +inf outside the domain."""

    value: Float[Array, " b"]
    gradient: Float[Array, "b d"]
    curvatures: Float[Array, "blocks b k_r"]


def sublevel_set(loss: RegularisedLoss, level: float, center: np.ndarray, center_value: float) -> SublevelSet:
    """The arrays of {w : L(w) <= level}; call it in double precision.

    Args:
        loss: the loss.
        level: c.
        center: its minimiser.
        center_value: its minimum.
    """
    used = loss.weights > 0
    parts = [loss.X[used]] if loss.X_lower is None else [loss.X_lower[used], loss.X[used]]
    n, d = parts[0].shape
    n_blocks = -(-n // _BLOCK_ROWS)
    size = -(-n // (8 * n_blocks)) * 8

    def blocks(rows: np.ndarray) -> np.ndarray:
        filled = np.concatenate([rows, np.zeros((n_blocks * size - n, *rows.shape[1:]))])
        return filled.reshape(n_blocks, size, *rows.shape[1:])

    design = np.concatenate([blocks(part) for part in parts], axis=1)
    y, weights = blocks(loss.y[used]), blocks(loss.weights[used])
    if loss.kind == "ordinal":
        y = y.astype(np.int32)
    products = None
    if n_blocks * size * len(parts) * (len(parts) + 1) // 2 * d * (d + 1) // 2 <= _MOST_PRODUCTS:
        products = jnp.asarray(np.stack([_pair_products(*block, np) for block in zip(design, weights, strict=True)]))
    free = np.flatnonzero(loss.l2 == 0)
    return SublevelSet(
        Rows(jnp.asarray(design), jnp.asarray(y), jnp.asarray(weights), products),
        *(jnp.array(one) for one in (loss.l2, level, center, center_value, np.full(d, -np.inf), np.full(d, np.inf))),
        balanced=jnp.asarray(free[0] if free.size == 1 else -1),
    )


def loss_state(kind: LossKind, region: SublevelSet, w: Float[Array, "b d"]) -> LossState:
    """L, its gradient and the curvatures of its rows at every point of a batch.

    Args:
        kind: kind of loss.
        region: the set.
        w: points.
    """

    def add(total, block):
        terms = row_terms(kind, block.y, w @ block.design.T)
        slopes = terms.slopes * jnp.tile(block.weights, region.rows.n_predictors)
        value, gradient = total
        return (value + terms.value @ block.weights, gradient + slopes @ block.design), terms.curvatures

    start = 0.5 * (w * w) @ region.l2, region.l2 * w
    (value, gradient), curvatures = jax.lax.scan(add, start, region.rows._replace(products=None))
    # An infinite row gives NaN in sums with others: the value alone says so.
    return LossState(jnp.where(jnp.isfinite(value), value, jnp.inf), gradient, curvatures)


def loss_along(
    kind: LossKind,
    region: SublevelSet,
    base: Float[Array, "blocks b m_r"],
    change: Float[Array, "blocks b m_r"],
    size: Float[Array, " b"],
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """The data's part of L at `base + size change`, and its derivative along `base + size change` from the center.

    Args:
        kind: kind of loss.
        region: the set.
        base: predictors of points relative to those of the center, as `predictors` gives them.
        change: predictors of steps.
        size: share of the step, shape (b,).
    """

    def add(total, inputs):
        block, base, change = inputs
        away = base + size[:, None] * change
        terms = row_terms(kind, block.y, region.center @ block.design.T + away)
        slope = (terms.slopes * away) @ jnp.tile(block.weights, region.rows.n_predictors)
        return (total[0] + terms.value @ block.weights, total[1] + slope), None

    start = jnp.zeros_like(size), jnp.zeros_like(size)
    return jax.lax.scan(add, start, (region.rows._replace(products=None), base, change))[0]


def predictors(region: SublevelSet, w: Float[Array, "b d"]) -> Float[Array, "blocks b m_r"]:
    """X w for all rows, block by block."""
    return jnp.einsum("bd,krd->kbr", w, region.rows.design)


def room_to_edge(kind: LossKind, region: SublevelSet, w: Float[Array, "b d"], step: Float[Array, "b d"]) -> Any:
    """The multiples of the steps that lead from the points w to the edge of the domain, +inf if they never do.

    Args:
        kind: kind of loss; only the ordinal one has an edge, where two boundaries of a row meet.
        region: the set.
        w: points of the domain.
        step: steps from there.

    Returns:
        Shape (b,).
    """
    if kind != "ordinal":
        return jnp.full(len(w), jnp.inf)

    def add(fastest, block):
        lower, upper = jnp.split(block.design, 2)
        distance, change = w @ (upper - lower).T, step @ (upper - lower).T
        rate = jnp.where(block.y == 1, -change / jnp.maximum(distance, 1e-300), 0.0)
        return jnp.maximum(fastest, rate.max(axis=1)), None

    return 1 / jax.lax.scan(add, jnp.full(len(w), 1e-300), region.rows._replace(products=None))[0]


def hessians(region: SublevelSet, curvatures: Float[Array, "blocks b k_r"]) -> Float[Array, "b d d"]:
    """The Hessian of L at every point of a batch, from the curvatures of the rows there.

    Args:
        region: the set.
        curvatures: as `loss_state` gives them.
    """
    d = region.rows.design.shape[2]
    first, second = np.triu_indices(d)

    def add(total, inputs):
        block, curvatures = inputs
        products = _pair_products(block.design, block.weights, jnp) if block.products is None else block.products
        return total + curvatures @ products, None

    packed = jax.lax.scan(add, jnp.zeros((curvatures.shape[1], len(first))), (region.rows, curvatures))[0]
    where = np.zeros((d, d), dtype=np.int32)
    where[first, second] = where[second, first] = np.arange(len(first))
    return packed[:, where] + jnp.diag(region.l2)


def _pair_products(design: Any, weights: Any, xp: Any) -> Any:
    """Products of pairs of columns times weights: of the rows, or lower-lower, lower-upper and upper-upper ones."""
    first, second = np.triu_indices(design.shape[1])
    parts = xp.split(design, len(design) // len(weights))
    squares = [weights[:, None] * part[:, first] * part[:, second] for part in parts]
    if len(parts) == 1:
        return squares[0]
    lower, upper = parts
    mixed = weights[:, None] * (lower[:, first] * upper[:, second] + upper[:, first] * lower[:, second])
    return xp.concatenate([squares[0], mixed, squares[1]])
