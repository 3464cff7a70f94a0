"""Draws of models from a level set of a convex loss: uniform ones, and posterior ones.

Both work in the coordinates z of w = w_0 + R z, in which the set is nearly the unit ball.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Array, Float
from numpyro import distributions as dist
from scipy import stats

from uqsparse.bounds.multiplicity.moved_search import ball_coordinates
from uqsparse.inference.arviz_io import dataset
from uqsparse.inference.hit_and_run import hit_and_run
from uqsparse.inference.nuts import nuts
from uqsparse.kernels.glm_losses import LossKind, row_terms

N_CHAINS = 4
# The posterior is drawn from until enough draws lie in the set, but at most so many times as many as are wanted.
_MOST_DRAWS = 50
_INSTEAD = "use method='hit-and-run', or a larger epsilon (see epsilon_for_mass)"


class RidgeLoss(eqx.Module):
    """A regularised loss as a JAX function of z: L(centre + basis z) - minimum.

    Args:
        design: rows of all linear predictors.
        y: responses, as `row_terms` takes them.
        weights: weights of the rows.
        l2: ridge coefficients.
        centre: the minimiser.
        basis: the map from z to coefficients.
        minimum: the loss there.
        kind: of loss.
    """

    design: Array
    y: Array
    weights: Array
    l2: Array
    centre: Array
    basis: Array
    minimum: float | Array
    kind: LossKind = eqx.field(static=True)

    def __call__(self, z: Float[Array, " d"]) -> Float[Array, ""]:
        """How far the loss lies above its minimum; +inf outside its domain."""
        w = self.centre + self.basis @ z
        values = row_terms(self.kind, self.y, self.design @ w).value
        # a weight of 0 silences an infinite loss too
        total = jnp.sum(jnp.where(self.weights > 0, values, 0.0) * self.weights) + 0.5 * jnp.sum(self.l2 * w * w)
        return jnp.where(jnp.isnan(total), jnp.inf, total - self.minimum)


class _IsNear(eqx.Module):
    """Whether a model lies in the set."""

    loss: RidgeLoss
    height: float | Array

    def __call__(self, z: Float[Array, " d"]) -> Array:
        return self.loss(z) <= self.height


def ridge_loss(loss: Any, minimum: Any, level: float) -> RidgeLoss:
    """The JAX form of a `RegularisedLoss`, in double precision if JAX is in it."""
    y = loss.y.astype(np.int32) if loss.kind == "ordinal" else loss.y
    basis = ball_coordinates(minimum, level)
    # copies, since JAX remembers arrays by identity and not by precision
    design, y, weights, l2, centre, basis = (
        jnp.asarray(np.array(a)) for a in (loss.design, y, loss.weights, loss.l2, minimum.w, basis)
    )
    return RidgeLoss(design, y, weights, l2, centre, basis, jnp.asarray(minimum.value), loss.kind)


def uniform_models(
    key: Array, loss: Any, minimum: Any, level: float, n: int, *, n_warmup: int, thinning: int
) -> tuple[Float[np.ndarray, "chain draw d"], float]:
    """Draws from the uniform law on the level set, by hit-and-run.

    Returns:
        The models, and the share of candidates inside the set.
    """
    d = len(minimum.w)
    with jax.enable_x64(True):
        inside = _IsNear(ridge_loss(loss, minimum, level), jnp.asarray(level - minimum.value))
        start = jnp.zeros((N_CHAINS, d))
        draws = math.ceil(n / N_CHAINS)
        found = hit_and_run(
            key, inside, start, n_samples=draws, n_warmup=n_warmup, thinning=thinning, scale=1 / math.sqrt(d + 2)
        )
        z = np.asarray(found.samples)
        steps = thinning * draws * N_CHAINS
        acceptance = steps / (steps + float(np.asarray(found.rejections).sum()))
        basis = np.asarray(inside.loss.basis)
    return minimum.w + z @ basis.T, acceptance


def _posterior(loss, n):
    """NumPyro model: flat in z, with n times the loss as minus the log density."""
    d = loss.centre.shape[0]
    z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real_vector, (), (d,)))
    numpyro.factor("log_posterior", -n * loss(z))


def posterior_models(
    key: Array, loss: Any, minimum: Any, n_draws: int, *, n_warmup: int
) -> tuple[Float[np.ndarray, "chain draw d"], Float[np.ndarray, "chain draw"]]:
    """Posterior draws of the coefficients, and their losses above the minimum; not restricted to a level.

    The prior is N(0, 1 / (n mu_j)) on penalised coefficients and flat on the others.
    """
    n = len(loss.y)
    # coordinates in which the posterior is nearly standard normal
    level = minimum.value + 0.5 / n
    with jax.enable_x64(True):
        scaled = ridge_loss(loss, minimum, level)
        data = nuts(
            key,
            _posterior,
            scaled,
            float(n),
            n_warmup=n_warmup,
            n_samples=math.ceil(n_draws / N_CHAINS),
            n_chains=N_CHAINS,
            log_likelihood=False,
        )
        z = np.asarray(dataset(data, "posterior")["z"].values, dtype=np.float64)
        basis = np.asarray(scaled.basis)
        heights = np.asarray(jax.jit(jax.vmap(jax.vmap(scaled)))(jnp.asarray(z)))
    return minimum.w + z @ basis.T, heights


def restricted_posterior_models(
    key: Array, loss: Any, minimum: Any, level: float, n: int, *, n_warmup: int
) -> tuple[Float[np.ndarray, "chain draw d"], float]:
    """Posterior draws that lie in the level set, by rejection.

    Returns:
        The models, as one chain, and the share of posterior draws in the set.

    Raises:
        ValueError: the set holds so little of the posterior that too few draws lie in it.
    """
    height = level - minimum.value
    # how much of the posterior lies in the set, by its normal approximation
    share = float(stats.chi2(len(minimum.w)).cdf(2 * len(loss.y) * height))
    if share * _MOST_DRAWS**2 < 1:
        raise ValueError(f"the set holds too little of the posterior for method='nuts', about {share:.1g}; {_INSTEAD}")
    kept: list[np.ndarray] = []
    n_kept = tried = 0
    ask = min(math.ceil(1.2 * n / share), _MOST_DRAWS * n)
    while n_kept < n:
        key, now = jax.random.split(key)
        models, heights = posterior_models(now, loss, minimum, ask, n_warmup=n_warmup)
        models, heights = models.reshape(-1, models.shape[-1]), heights.reshape(-1)
        tried += len(heights)
        kept.append(models[heights <= height])
        n_kept += len(kept[-1])
        share = max(n_kept, 1) / tried
        ask = math.ceil(1.2 * (n - n_kept) / share)
        if n_kept < n and tried + ask > _MOST_DRAWS * n:
            raise ValueError(
                f"the set holds too little of the posterior for method='nuts': {n_kept} of {tried} posterior draws lie "
                f"in it; {_INSTEAD}"
            )
    inside = np.concatenate(kept)
    # evenly over all of them, since draws that follow one another are alike
    chosen = np.linspace(0, len(inside) - 1, n).round().astype(int)
    return inside[chosen][None], n_kept / tried
