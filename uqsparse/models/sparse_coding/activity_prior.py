"""A Bernoulli prior on the number of active causes when posteriors leave out states with many of them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Probabilities stay this far from 0 and 1.
PROBABILITY_FLOOR = 1e-5


def log_binomials(n_causes: int, gamma: int, probability: Float[Array, ""]) -> Float[Array, " gamma_plus_1"]:
    """Log probabilities that 0, 1, ..., gamma of the causes are active, each with a probability in (0, 1)."""
    n_active = jnp.arange(gamma + 1, dtype=jnp.result_type(probability))
    choices = (
        jax.scipy.special.gammaln(n_causes + 1.0)
        - jax.scipy.special.gammaln(n_active + 1.0)
        - jax.scipy.special.gammaln(n_causes - n_active + 1.0)
    )
    return choices + n_active * jnp.log(probability) + (n_causes - n_active) * jnp.log1p(-probability)


def covered_share(n_causes: int, gamma: int, probability: Float[Array, ""]) -> Float[Array, ""]:
    """Share A of data with at most gamma active causes, under the prior.

    >>> float(covered_share(2, 1, jnp.asarray(0.5)))
    0.75
    """
    return jnp.minimum(jnp.exp(jax.nn.logsumexp(log_binomials(n_causes, gamma, probability))), 1.0)


def next_probability(
    n_causes: int, gamma: int, probability: Float[Array, ""], mean_active: Float[Array, ""]
) -> Float[Array, ""]:
    """Update of the probability that a cause is active: (A / B) pi <|s|>, with A, B of the truncated prior.

    B is the prior mean of the number of active causes, restricted to at most gamma. If gamma is the number of causes
    the update is <|s|> / H, as in EM.

    Args:
        n_causes: number of causes H.
        gamma: most active causes.
        probability: the probability pi so far.
        mean_active: mean over data of the posterior mean of the number of active causes.

    Returns:
        The next probability, clipped to [1e-5, 1 - 1e-5].

    Source: Henniges, Puertas, Bornschein, Eggert & Lücke (2010), Binary sparse coding, LVA/ICA, eqs. 9 to 12.

    >>> round(float(next_probability(4, 4, jnp.asarray(0.2), jnp.asarray(1.2))), 4)
    0.3
    """
    log_terms = log_binomials(n_causes, gamma, probability)
    # pi A / B, both divided by their common scale; B >= pi H P(0 active of H - 1) > 0 for pi in (0, 1)
    weights = jax.nn.softmax(log_terms)
    mean_of_prior = jnp.sum(jnp.arange(gamma + 1) * weights)
    updated = probability / mean_of_prior * mean_active
    return jnp.clip(updated, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
