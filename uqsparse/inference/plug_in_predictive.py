"""Plug-in predictives: a parametric family at an estimate that learns from every draw.

After each draw the estimate moves along the score, scaled by the information and by the number of observations:

    theta <- theta + I(theta)^{-1} s(theta, y) / (i + 1)

Under the family at theta the score has mean zero, so the estimate is a martingale, whatever stands in for I as long as
it is known before the draw. No prior is needed.

Sources: Holmes & Walker (2023), Statistical inference with exchangeability and martingales; Fong & Yiu (2024),
Asymptotics for parametric martingale posteriors.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree
from scipy.optimize import minimize

from uqsparse.inference.predictive_rules import count_observations


class PlugInState(NamedTuple):
    """Where the estimate stands.

    Args:
        theta: the estimate, (d,).
        information: mean outer product of the scores so far, (d, d); not used if the family's information is given.
        n: number of observations.
    """

    theta: Float[Array, " d"]
    information: Float[Array, "d d"]
    n: Float[Array, ""]


class PlugInPredictive(eqx.Module):
    """The predictive of a parametric family at a running estimate.

    Args:
        distribution: function of theta (d,) to a NumPyro distribution of one observation, smooth in theta. Choose
            unconstrained parameters, such as the log of a scale: steps know no bounds.
        estimate: function of the data to the first estimate (d,), or a start (d,) from which the likelihood is
            maximised.
        information: function of theta to the Fisher information of one observation (d, d); the mean outer product of
            the scores so far if left out.

    Raises:
        TypeError: `distribution` or `information` is no function.

    Source: Holmes & Walker (2023); the update is a step of stochastic natural gradient.

    >>> import numpyro.distributions as dist
    >>> rule = PlugInPredictive(lambda theta: dist.Normal(theta[0], 1.0), np.zeros(1), lambda theta: jnp.eye(1))
    >>> state = rule.init(np.array([0.0, 1.0, 5.0]))
    >>> round(float(state.theta[0]), 4), round(float(rule.update(state, 6.0).theta[0]), 4)
    (2.0, 3.0)
    """

    distribution: Callable[[Float[Array, " d"]], Any]
    estimate: Callable[[Any], Float[ArrayLike, " d"]] | Float[ArrayLike, " d"]
    information: Callable[[Float[Array, " d"]], Float[Array, "d d"]] | None = None

    def __check_init__(self) -> None:
        if not callable(self.distribution):
            raise TypeError(f"distribution must be a function of theta, got {type(self.distribution).__name__}")
        if self.information is not None and not callable(self.information):
            raise TypeError(f"information must be a function of theta, got {type(self.information).__name__}")

    def init(self, data: PyTree) -> PlugInState:
        """The estimate from the data, and the information of their scores.

        Raises:
            ValueError: there are no data, the estimate is not finite, or the scores' information is singular.

        Warns:
            UserWarning: if the search for the maximum likelihood did not end at a stationary point.
        """
        n = count_observations(data)
        if n == 0:
            raise ValueError("data must hold at least one observation for a plug-in estimate, got none")
        data = jax.tree.map(jnp.asarray, data)
        theta = self.estimate(data) if callable(self.estimate) else self._most_likely(data)
        theta = jnp.atleast_1d(jnp.asarray(theta, float))
        if theta.ndim != 1 or not np.isfinite(theta).all():
            raise ValueError(f"estimate must be finite and of shape (d,), got {np.asarray(theta)}")
        information = _information(self._score, theta, data)
        if self.information is None:
            values = np.linalg.eigvalsh(np.asarray(information, float))
            if not values[0] > 1e-10 * values[-1]:
                raise ValueError(
                    f"the scores of {n} observations have a singular information in {len(theta)} parameters: give "
                    "`information`, or more data"
                )
        return PlugInState(theta, information, jnp.asarray(float(n)))

    def sample(self, key: Array, state: PlugInState) -> PyTree:
        """A draw from the family at the estimate."""
        return self.distribution(state.theta).sample(key)

    def update(self, state: PlugInState, y: PyTree) -> PlugInState:
        """The estimate moved along the score of an observation."""
        score = self._score(state.theta, y)
        information = state.information if self.information is None else self.information(state.theta)
        theta = state.theta + jnp.linalg.solve(information, score) / (state.n + 1)
        seen = state.information + (jnp.outer(score, score) - state.information) / (state.n + 1)
        return PlugInState(theta, seen, state.n + 1)

    def log_prob(self, state: PlugInState, y: PyTree) -> Float[Array, ""]:
        """Log density of the next observation."""
        return self.distribution(state.theta).log_prob(y)

    def cdf(self, state: PlugInState, y: PyTree) -> Float[Array, ""]:
        """Distribution function of the next observation, for families that have one."""
        return self.distribution(state.theta).cdf(y)

    def _score(self, theta: Float[Array, " d"], y: PyTree) -> Float[Array, " d"]:
        return jax.grad(lambda at: self.distribution(at).log_prob(y))(theta)

    def _most_likely(self, data: PyTree) -> Float[np.ndarray, " d"]:
        def cost(theta):
            return -jnp.mean(jax.vmap(lambda y: self.distribution(theta).log_prob(y))(data))

        start = np.atleast_1d(np.asarray(self.estimate, float))
        slope = jax.jit(jax.value_and_grad(cost))
        found = minimize(lambda at: tuple(np.asarray(x, float) for x in slope(at)), start, jac=True, method="BFGS")
        if not np.abs(found.jac).max() < 1e-4:
            warnings.warn(
                f"the search for the maximum likelihood ended with a gradient of {np.abs(found.jac).max():.2g}: "
                "give a better start, or the estimate",
                stacklevel=5,
            )
        return found.x


@eqx.filter_jit
def _information(score: Callable[[Any, Any], Array], theta: Float[Array, " d"], data: PyTree) -> Float[Array, "d d"]:
    """Mean outer product of the scores of the data."""
    scores = jax.vmap(lambda y: score(theta, y))(data)
    return scores.T @ scores / scores.shape[0]
