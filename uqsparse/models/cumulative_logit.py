"""Ordered classes as a NumPyro distribution, and the model in which every boundary has weights of its own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import ArrayLike, Float, Int
from numpyro.distributions import constraints

from uqsparse.kernels.ordinal import ordinal_nll

Prior = Callable[[str, tuple[int, ...]], Any]


class CumulativeLogit(dist.Distribution):
    """Ordered classes 0, ..., K - 1 with `P(y <= k) = sigmoid(eta_k)`, a NumPyro distribution.

    Unlike `numpyro.distributions.OrderedLogistic` every boundary has a predictor of its own. Where the predictors
    decrease at the observed class, its log probability is minus infinity; elsewhere it is that of the formula.

    Args:
        eta: logits of the K - 1 cumulative probabilities, shape (..., K - 1).
    """

    arg_constraints = {"eta": constraints.real_vector}  # noqa: RUF012 - as NumPyro reads it
    pytree_data_fields = ("eta",)

    def __init__(self, eta: Float[ArrayLike, "*n boundaries"], *, validate_args: bool | None = None):
        self.eta: Any = jnp.asarray(eta)
        super().__init__(batch_shape=self.eta.shape[:-1], validate_args=validate_args)

    @property
    def support(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        """The classes."""
        return constraints.integer_interval(0, self.eta.shape[-1])

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        """Draw classes; where predictors decrease, the largest so far counts, so that no probability is negative."""
        below = jax.nn.sigmoid(jax.lax.cummax(self.eta, axis=self.eta.ndim - 1))
        uniform = jax.random.uniform(key, (*sample_shape, *self.batch_shape, 1), below.dtype)
        return (uniform > below).sum(axis=-1)

    def log_prob(self, value: Any) -> Any:
        """Log probability of the classes."""
        eta = jnp.broadcast_to(self.eta, (*jnp.shape(value), self.eta.shape[-1]))
        return -ordinal_nll(eta, jnp.asarray(value))


def presto_model(
    X: Float[ArrayLike, "n p"],
    y: Int[ArrayLike, " n"] | None = None,
    *,
    n_classes: int,
    first_prior: Prior,
    difference_prior: Prior,
) -> None:
    """The NumPyro model: ordered intercepts, first weights, and differences from boundary to boundary.

    Sites: `intercepts` (K - 1,) in increasing order under a flat prior; whatever the priors call their parts, `first`
    (1, p) and `differences` (K - 2, p) among them; `y` (n,). Columns of X should be centred and of unit variance.

    Args:
        X: features, shape (n, p).
        y: classes 0, ..., K - 1, shape (n,); None to draw them.
        n_classes: K, at least 3.
        first_prior: takes a site's name and shape and returns the weights of the first boundary.
        difference_prior: the same for the differences.

    Source: Faletto & Bien (2023), Predicting rare events by shrinking towards proportional odds, ICML, equation 5, with
    priors for penalties.
    """
    X = jnp.asarray(X)
    p = X.shape[1]
    ordered = dist.ImproperUniform(constraints.ordered_vector, (), (n_classes - 1,))
    intercepts: Any = numpyro.sample("intercepts", ordered)
    psi = jnp.concatenate([first_prior("first", (1, p)), difference_prior("differences", (n_classes - 2, p))])
    numpyro.sample("y", CumulativeLogit(intercepts + X @ jnp.cumsum(psi, axis=0).T), obs=y)
