"""The cumulative logit loss of a linear model with weights of its own at each boundary, in the basis of differences.

Boundary k (k = 0 .. K-2) has the logit `alpha_k + beta_k x` with `beta_k = psi_0 + ... + psi_k`. The unknowns are one
vector of (K-1)(p+1) numbers: for each boundary its intercept, then psi_k. A row touches two boundaries only, so the
Hessian in the basis of the beta_k is block tridiagonal: K-1 + K-2 weighted Gram matrices, then summed up to psi.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from uqsparse.kernels.ordinal import ordinal_conjugate, ordinal_derivatives, ordinal_nll
from uqsparse.solvers.proximal_newton import SmoothLoss

# Relative jitter of the system that balances a dual point, and the steps that refine its solution.
_JITTER = 1e-12
_REFINEMENTS = 3


class OrdinalLoss(SmoothLoss):
    """Weighted mean of the negative log-likelihoods of ordered classes.

    Args:
        design: ones, then the features, one a row, shape (p + 1, n); products run along the long axis.
        y: classes, 0 .. K-1, shape (n,).
        weights: nonnegative, summing to 1, shape (n,); rows of weight 0 take no part and may lie outside the domain.
        n_classes: K, at least 2.
    """

    design: Float[Array, "width n"]
    y: Int[Array, " n"]
    weights: Float[Array, " n"]
    n_classes: int = eqx.field(static=True)

    def logits(self, w: Float[Array, " q"]) -> Float[Array, "n k"]:
        """Logits of P(y <= k | x), shape (n, K-1)."""
        table = w.reshape(self.n_classes - 1, -1)
        by_boundary = jnp.concatenate([table[:, :1], _moved_by(self.n_classes - 1).T @ table[:, 1:]], axis=1)
        return (by_boundary @ self.design).T

    def value(self, w: Float[Array, " q"]) -> Float[Array, ""]:
        losses = ordinal_nll(self.logits(w), self.y)
        return jnp.sum(jnp.where(self.weights > 0, self.weights * losses, 0.0))

    def derivatives(self, w: Float[Array, " q"]) -> tuple[Float[Array, ""], Float[Array, " q"], Float[Array, "q q"]]:
        rows = ordinal_derivatives(self.logits(w), self.y)
        value = jnp.sum(jnp.where(self.weights > 0, self.weights * rows.value, 0.0))
        slopes = self._at_boundaries(rows.d_lower, rows.d_upper)
        return value, self._summed(slopes), self._hessian(rows)

    def lower_bound(self, w: Float[Array, " q"], l1: Float[Array, " q"], l2: Float[Array, " q"]) -> Float[Array, ""]:
        return self.bound_from_slopes(self.balanced_slopes(w, (l1 + l2) == 0), l1, l2)

    def balanced_slopes(
        self, w: Float[Array, " q"], free: Bool[Array, " q"], tilt: Float[Array, " q"] | float = 0.0
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """Slopes of the rows near those at w, of which the gradients in the free coordinates equal the tilt.

        They are the slopes at w, moved along the rows' Hessians: a Newton step in the dual.

        Args:
            w: a point of the domain.
            free: coordinates without any penalty.
            tilt: gradients wanted of the free coordinates.

        Returns:
            Slopes of each row in its lower and its upper logit.
        """
        rows = ordinal_derivatives(self.logits(w), self.y)
        hessian = self._hessian(rows)
        system = jnp.where(free[:, None] & free[None, :], hessian, 0.0)
        system += jnp.diag(jnp.where(free & (jnp.diagonal(hessian) > 0), _JITTER * jnp.diagonal(hessian), 1.0))
        factor = (jnp.linalg.cholesky(system), True)
        lower, upper = rows.d_lower, rows.d_upper
        for _ in range(_REFINEMENTS):
            gradient = self._summed(self._at_boundaries(lower, upper)) - tilt
            move = self.logits(-jax.scipy.linalg.cho_solve(factor, jnp.where(free, gradient, 0.0)))
            lower_move, upper_move = self._sides(move)
            lower = lower + rows.h_ll * lower_move + rows.h_lu * upper_move
            upper = upper + rows.h_lu * lower_move + rows.h_uu * upper_move
        return lower, upper

    def bound_from_slopes(
        self,
        slopes: tuple[Float[Array, " n"], Float[Array, " n"]],
        l1: Float[Array, " q"],
        l2: Float[Array, " q"],
        tilt: Float[Array, " q"] | float = 0.0,
        widening: Float[Array, " q"] | float = 0.0,
    ) -> Float[Array, ""]:
        """A lower bound of the penalised loss over all points, by Fenchel duality.

        The slopes u are shrunk until the gradients of the penalised coordinates are at most `l1`; those of the free
        ones have to be balanced already. Then `-sum_i weights_i f*(u_i)` is a bound. Where the slopes lie outside the
        domain of f*, it is 0: the loss is nonnegative.

        Args:
            slopes: of each row in its lower and its upper logit.
            l1: shape (q,).
            l2: shape (q,).
            tilt: with multipliers of linear constraints, the vector t of the additional term `-t w`.
            widening: what these multipliers add to `l1`. Both may be shrunk together with the slopes.
        """
        gradient = jnp.abs(self._summed(self._at_boundaries(*slopes)) - tilt) - widening
        hard = (l2 == 0) & ((l1 + widening) > 0)
        over = hard & (gradient > l1)
        # A hair less, so that rounding does not put a coordinate over its limit.
        shrink = jnp.min(jnp.where(over, l1 / jnp.where(over, gradient, 1.0), 1.0)) * (1 - 1e-15)
        conjugates = ordinal_conjugate(shrink * slopes[0], shrink * slopes[1], self.y, self.n_classes)
        smooth = jnp.sum(jnp.where(self.weights > 0, self.weights * conjugates, 0.0))
        excess = jnp.maximum(shrink * gradient - l1, 0.0)
        ridge = jnp.sum(jnp.where(l2 > 0, excess**2 / (2 * jnp.where(l2 > 0, l2, 1.0)), 0.0))
        bound = -smooth - ridge
        return jnp.where(jnp.isfinite(bound), jnp.maximum(bound, 0.0), 0.0)

    def gradient(self, w: Float[Array, " q"]) -> Float[Array, " q"]:
        """Gradient alone, where the Hessian would be large."""
        rows = ordinal_derivatives(self.logits(w), self.y)
        return self._summed(self._at_boundaries(rows.d_lower, rows.d_upper))

    def _sides(self, table):
        """Entries of a table (n, K-1) at the lower and the upper boundary of each row, 0 where there is none."""
        boundaries = jnp.arange(self.n_classes - 1)
        lower = jnp.sum(jnp.where(self.y[:, None] == boundaries + 1, table, 0.0), axis=1)
        upper = jnp.sum(jnp.where(self.y[:, None] == boundaries, table, 0.0), axis=1)
        return lower, upper

    def _at_boundaries(self, lower, upper):
        """Weighted entries of the rows at their boundaries, shape (K-1, n)."""
        boundaries = jnp.arange(self.n_classes - 1)[:, None]
        table = jnp.where(self.y == boundaries, upper, jnp.where(self.y == boundaries + 1, lower, 0.0))
        return self.weights * table

    def _summed(self, slopes):
        """Gradient of the unknowns from weighted slopes (K-1, n)."""
        by_boundary = slopes @ self.design.T
        by_psi = _moved_by(self.n_classes - 1) @ by_boundary[:, 1:]
        return jnp.concatenate([by_boundary[:, :1], by_psi], axis=1).ravel()

    def _hessian(self, rows):
        n_boundaries, (width, n) = self.n_classes - 1, self.design.shape
        # Rows of class k + 1 join boundaries k and k + 1.
        joins = jnp.arange(1, n_boundaries)[:, None]
        beside = jnp.where(self.y == joins, self.weights * rows.h_lu, 0.0)
        curvatures = jnp.concatenate([self._at_boundaries(rows.h_ll, rows.h_uu), beside])
        # One product for all Gram matrices; XLA runs a batch of small ones far slower.
        weighted = (curvatures[:, None, :] * self.design).reshape(-1, n)
        grams = (weighted @ self.design.T).reshape(-1, width, width)
        # From boundaries to unknowns: sums of Gram matrices, with an intercept's first row and column apart.
        psi, alpha = _moved_by(n_boundaries), np.eye(n_boundaries)
        both = jnp.tensordot(_sums(psi, psi), grams[:, 1:, 1:], axes=(0, 0))
        mixed = jnp.tensordot(_sums(alpha, psi), grams[:, 0, 1:], axes=(0, 0))
        alone = jnp.tensordot(_sums(alpha, alpha), grams[:, 0, 0], axes=(0, 0))
        first = jnp.concatenate([alone[:, :, None, None], mixed[:, :, None, :]], axis=3)
        others = jnp.concatenate([mixed.transpose(1, 0, 2)[:, :, :, None], both], axis=3)
        table = jnp.concatenate([first, others], axis=2).transpose(0, 2, 1, 3)
        return table.reshape(n_boundaries * width, n_boundaries * width)


def _moved_by(n_boundaries: int) -> np.ndarray:
    """Which boundaries psi_k moves: all from k on, shape (K-1, K-1)."""
    return np.triu(np.ones((n_boundaries, n_boundaries)))


def _sums(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How often each Gram matrix counts between two unknowns, given the boundaries that these move."""
    single = np.einsum("ka,la->akl", left, right)
    beside = np.einsum("ka,la->akl", left[:, :-1], right[:, 1:]) + np.einsum("ka,la->akl", left[:, 1:], right[:, :-1])
    return np.concatenate([single, beside])


def ordinal_loss(
    X: Float[ArrayLike, "n p"], y: Int[ArrayLike, " n"], weights: Float[ArrayLike, " n"], n_classes: int
) -> OrdinalLoss:
    """The loss of a table of features.

    Args:
        X: features, shape (n, p).
        y: classes, 0 .. K-1, shape (n,).
        weights: nonnegative, summing to 1, shape (n,).
        n_classes: K, at least 2.
    """
    # On the host: operations outside a compiled program are compiled one by one, for each shape.
    X = np.asarray(X)
    design = np.concatenate([np.ones((1, len(X)), X.dtype), X.T])
    return OrdinalLoss(jnp.asarray(design), jnp.asarray(y), jnp.asarray(weights), n_classes)


@eqx.filter_jit
def null_point(loss: OrdinalLoss) -> Float[Array, " q"]:
    """The fit without features: logits of the cumulative class frequencies, all differences zero.

    Every class needs a row of positive weight.

    Returns:
        Shape ((K-1)(p+1),).
    """
    below = loss.y[:, None] <= jnp.arange(loss.n_classes - 1)
    share = loss.weights @ below
    above = loss.weights @ ~below
    table = jnp.zeros((loss.n_classes - 1, loss.design.shape[0]), loss.design.dtype)
    return table.at[:, 0].set(jnp.log(share) - jnp.log(above)).ravel()
