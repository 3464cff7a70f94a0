"""The local posterior of one task in closed form, from a quadratic of its loss around the point that few steps reach.

With the prior `Normal(m0, 1 / P)` of the weights and a quadratic loss the posterior is normal, and a formula in m0 and
P. Only the point at which the quadratic is taken comes from steps; it counts as constant, so that nothing is
differentiated through the steps, and their number costs no memory.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from uqsparse.kernels.inverse_cholesky import inverse_cholesky
from uqsparse.models.few_shot_likelihoods import Likelihood, Targets

# Output (c,) of a model on one input, given its weights as one vector.
Output = Callable[[Float[Array, " d"], Float[Array, " dx"]], Float[Array, " c"]]


class LowRankPosterior(eqx.Module):
    """A normal distribution whose precision is diagonal plus a matrix of low rank: `P + R' R` with k rows R.

    Its mean is `m0 + P^-1 R' K^-1 r` and its covariance `P^-1 - P^-1 R' K^-1 R P^-1`, with `K = R P^-1 R' + I`.

    Args:
        prior_mean: m0, shape (d,).
        prior_precision: P, positive, shape (d,).
        rows: R, the whitened Jacobian of the outputs, shape (k, d).
        root: W with `W' W = K^-1`, the inverse of the lower Cholesky factor of K, shape (k, k).
        weights: `K^-1 r`, shape (k,), with the whitened residuals r at m0.
    """

    prior_mean: Float[Array, " d"]
    prior_precision: Float[Array, " d"]
    rows: Float[Array, "k d"]
    root: Float[Array, "k k"]
    weights: Float[Array, " k"]

    @property
    def mean(self) -> Float[Array, " d"]:
        """Mean."""
        return self.prior_mean + (self.weights @ self.rows) / self.prior_precision

    @property
    def variance(self) -> Float[Array, " d"]:
        """Diagonal of the covariance."""
        half = self.root @ (self.rows / self.prior_precision)
        return 1 / self.prior_precision - (half**2).sum(0)

    @property
    def covariance(self) -> Float[Array, "d d"]:
        """The covariance, for few weights."""
        return self.covariance_of(jnp.eye(len(self.prior_mean), dtype=self.rows.dtype))

    def covariance_of(self, directions: Float[Array, "q d"]) -> Float[Array, "q q"]:
        """Covariance of the inner products with some directions."""
        scaled = directions / self.prior_precision
        half = self.root @ (self.rows @ scaled.T)
        return directions @ scaled.T - half.T @ half

    def variance_of(self, directions: Float[Array, "q d"]) -> Float[Array, " q"]:
        """Variances of the inner products with some directions."""
        scaled = directions / self.prior_precision
        half = self.root @ (self.rows @ scaled.T)
        return (directions * scaled).sum(-1) - (half**2).sum(0)

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        """One draw, by Matheron's rule: a draw from the prior, moved by what it misses the data by."""
        key_prior, key_noise = jax.random.split(key)
        drawn = jax.random.normal(key_prior, self.prior_mean.shape, self.rows.dtype) / jnp.sqrt(self.prior_precision)
        missed = self.rows @ drawn + jax.random.normal(key_noise, self.weights.shape, self.rows.dtype)
        return self.mean + drawn - (self.root.T @ (self.root @ missed) @ self.rows) / self.prior_precision

    def divergence(self) -> Float[Array, ""]:
        """KL divergence from the prior `Normal(m0, 1 / P)`."""
        shrunk = len(self.weights) - (self.root**2).sum()  # tr(K^-1 (K - I))
        return (self._away() + self.log_det() - shrunk) / 2

    def log_evidence(self, nll: Float[Array, ""]) -> Float[Array, ""]:
        """Laplace's approximation, given the loss at the mean; exact for normal noise and outputs linear in weights."""
        return -nll - (self._away() + self.log_det()) / 2

    def log_det(self) -> Float[Array, ""]:
        """log |K|: by how much the data reduced the volume, twice."""
        return -2 * jnp.log(jnp.diagonal(self.root)).sum()

    def _away(self) -> Float[Array, ""]:
        return ((self.weights @ self.rows) ** 2 / self.prior_precision).sum()


class DiagonalPosterior(eqx.Module):
    """A normal distribution of independent weights.

    Args:
        prior_mean: m0, shape (d,).
        prior_precision: P, positive, shape (d,).
        mean: shape (d,).
        variance: positive, shape (d,).
    """

    prior_mean: Float[Array, " d"]
    prior_precision: Float[Array, " d"]
    mean: Float[Array, " d"]
    variance: Float[Array, " d"]

    def variance_of(self, directions: Float[Array, "q d"]) -> Float[Array, " q"]:
        """Variances of the inner products with some directions."""
        return directions**2 @ self.variance

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        """One draw."""
        return self.mean + jnp.sqrt(self.variance) * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def divergence(self) -> Float[Array, ""]:
        """KL divergence from the prior `Normal(m0, 1 / P)`."""
        ratio = self.prior_precision * self.variance
        return (self.prior_precision * (self.mean - self.prior_mean) ** 2 + ratio - 1 - jnp.log(ratio)).sum() / 2


Posterior = LowRankPosterior | DiagonalPosterior


def low_rank_posterior(
    prior_mean: Float[Array, " d"],
    prior_precision: Float[Array, " d"],
    rows: Float[Array, "k d"],
    residuals: Float[Array, " k"],
) -> LowRankPosterior:
    """The posterior of the loss `|residuals - rows (theta - prior_mean)|^2 / 2`.

    Args:
        prior_mean: m0.
        prior_precision: P, positive.
        rows: whitened Jacobian.
        residuals: whitened residuals at m0, under the linear model.

    >>> found = low_rank_posterior(jnp.zeros(1), jnp.ones(1), jnp.ones((1, 1)), 2 * jnp.ones(1))
    >>> round(float(found.mean[0]), 4), round(float(found.covariance[0, 0]), 4)
    (1.0, 0.5)
    """
    gram = (rows / prior_precision) @ rows.T
    # Rounding of a large Gram matrix can outweigh the identity.
    jitter = 8 * jnp.finfo(gram.dtype).eps * jax.lax.stop_gradient(jnp.trace(gram))
    root = inverse_cholesky(gram + (1 + jitter) * jnp.eye(len(gram), dtype=gram.dtype))
    return LowRankPosterior(prior_mean, prior_precision, rows, root, root.T @ (root @ residuals))


def gauss_newton_posterior(
    output: Output,
    likelihood: Likelihood,
    x: Float[Array, "n dx"],
    y: Targets,
    prior_mean: Float[Array, " d"],
    prior_precision: Float[Array, " d"],
    n_steps: int,
) -> LowRankPosterior:
    """The posterior of the outputs made linear at the point that Gauss-Newton steps from m0 reach.

    Where the outputs are linear in the weights and the noise is normal it is exact after one step; with a softmax on
    linear outputs the steps are Newton's, and it is Laplace's approximation. It may be differentiated in `x`, the
    likelihood, m0 and P: the steps before the last linearisation count as constant.

    Args:
        output: of the model on one input, `(weights, input) -> (c,)`.
        likelihood: of the targets.
        x: inputs.
        y: targets.
        prior_mean: m0.
        prior_precision: P.
        n_steps: linearisations, at least 1; the last one makes the posterior.

    Source: section 3 of Kim & Hospedales (2023) with the curvature of Martens & Sutskever (2011), Training deep and
    recurrent networks with Hessian-free optimization, in place of the spread of iterates.
    """

    def posterior(given, theta):
        likelihood, x, prior_mean, prior_precision = given
        outputs = jax.vmap(output, (None, 0))(theta, x)
        # An output depends on its own input alone: one small Jacobian for each.
        jacobian = jax.vmap(jax.jacrev(output), (None, 0))(theta, x)
        factor, residual = likelihood.whiten(outputs, y)
        rows = jnp.einsum("nck,ncd->nkd", factor, jacobian).reshape(-1, len(theta))
        return low_rank_posterior(prior_mean, prior_precision, rows, residual.reshape(-1) + rows @ (theta - prior_mean))

    given = likelihood, x, prior_mean, prior_precision
    fixed = jax.lax.stop_gradient(given)
    theta = jax.lax.fori_loop(0, n_steps - 1, lambda _, theta: posterior(fixed, theta).mean, fixed[2])
    return posterior(given, jax.lax.stop_gradient(theta))


def langevin_posterior(
    key: Key[Array, ""],
    output: Output,
    likelihood: Likelihood,
    x: Float[Array, "n dx"],
    y: Targets,
    prior_mean: Float[Array, " d"],
    prior_precision: Float[Array, " d"],
    n_steps: int,
    *,
    rate: float,
    temperature: float,
    largest_precision: float,
) -> DiagonalPosterior:
    """The posterior of a diagonal quadratic, with mean and inverse variance of the iterates of Langevin dynamics.

    Steps go down the task's loss from m0, `theta <- theta - rate grad + sqrt(2 rate temperature) noise`; the quadratic
    takes the last iterate as its middle, and the variance of the iterates around it as its inverse curvature.

    Args:
        key: of the noise.
        output: of the model on one input, `(weights, input) -> (c,)`.
        likelihood: of the targets.
        x: inputs.
        y: targets.
        prior_mean: m0.
        prior_precision: P.
        n_steps: steps, at least 1.
        rate: of the steps, positive.
        temperature: of the noise, at least 0.
        largest_precision: the curvature is capped here.

    Source: Kim & Hospedales (2023), section 3.3; Welling & Teh (2011), Bayesian learning via stochastic gradient
    Langevin dynamics.
    """
    stop = jax.lax.stop_gradient
    likelihood, x = stop((likelihood, x))
    spread = jnp.sqrt(2 * rate * temperature)

    start = stop(prior_mean)

    def step(i, carry):
        theta, total, squares = carry
        slope = jax.grad(lambda theta: likelihood.inner_loss(jax.vmap(output, (None, 0))(theta, x), y))(theta)
        noise = jax.random.normal(jax.random.fold_in(key, i), theta.shape, theta.dtype)
        theta = theta - rate * slope + spread * noise
        moved = theta - start
        return theta, total + moved, squares + moved**2

    # Running sums, not the iterates: memory does not grow with the number of steps.
    middle, total, squares = stop(
        jax.lax.fori_loop(0, n_steps, step, (start, jnp.zeros_like(start), jnp.zeros_like(start)))
    )
    last = middle - start
    spread_squared = jnp.maximum((squares - 2 * last * total) / n_steps + last**2, 0.0)
    curvature = stop(1 / jnp.maximum(spread_squared, 1 / largest_precision))
    precision = curvature + prior_precision
    mean = (curvature * middle + prior_precision * prior_mean) / precision
    return DiagonalPosterior(prior_mean, prior_precision, mean, 1 / precision)
