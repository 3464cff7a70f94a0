"""Did the level of the Nile change? Reversible jump between one level and two, checked before it is believed.

The annual flow at Aswan is normal about one level, or about one level before an unknown year and another after it. The
jump from one level to two draws a year and a difference; the way back averages. Whether that pair of moves is an
involution with the right Jacobian is checked first, and that the kernel keeps the posterior, on data from the model.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from uqsparse import data
from uqsparse.inference.checks.drift import drift_test
from uqsparse.inference.checks.involutions import check_involution
from uqsparse.inference.involutive import Jump, JumpState, Model, random_walk, reversible_jump

SPREAD, NOISE = 2.0, 1.25  # prior of a level, and noise about it, in hundreds of 10^8 m^3 about the mean of 9
SHIFT = 1.5  # of the differences that a split proposes


def year_of(t, n):
    """The index of the first year after the change, from a real number t: uniform if t is standard normal."""
    return jnp.clip(jnp.floor(jax.scipy.special.ndtr(t) * (n - 1)), 0, n - 2).astype(int) + 1


def levels(state, n):
    """The level of each year."""
    first, second, t = state.position
    return jnp.where((state.model == 1) & (jnp.arange(n) >= year_of(t, n)), second, first)


def kernel_for(flow):
    """The kernel given the flow: one level (a), or two and the year of the change (a, b, t)."""
    n = flow.shape[0]

    def log_density(model):
        def at(x):
            state = JumpState(jnp.array(model), jnp.pad(x, (0, 3 - x.size)))
            likelihood = dist.Normal(levels(state, n), NOISE).log_prob(flow).sum()
            prior = dist.Normal(0.0, SPREAD).log_prob(x[: 1 + model]).sum()
            return likelihood + prior + (dist.Normal(0.0, 1.0).log_prob(x[2]) if model else 0.0)

        return at

    split = Jump(
        0,
        1,
        auxiliary=lambda x: {"half": dist.Normal(0.0, SHIFT), "t": dist.Normal(0.0, 1.0)},
        forward=lambda x, u: jnp.stack([x[0] + u["half"], x[0] - u["half"], u["t"]]),
        inverse=lambda x: (x[:1] / 2 + x[1:2] / 2, {"half": (x[0] - x[1]) / 2, "t": x[2]}),
        probability=0.5,
    )
    walks = [random_walk(0, 1, 0.2, 0.5), random_walk(1, 3, jnp.array([0.2, 0.2, 0.1]), 0.5)]
    return reversible_jump([Model(1, log_density(0)), Model(3, log_density(1))], [split, *walks])


def prior(key):
    a, b = jax.random.split(key)
    model = jax.random.bernoulli(a).astype(int)
    position = jax.random.normal(b, (3,)) * jnp.array([SPREAD, SPREAD, 1.0])
    return JumpState(model, jnp.where((model == 1) | (jnp.arange(3) == 0), position, 0.0))


def prior_and_data(key, n=6):
    a, b = jax.random.split(key)
    state = prior(a)
    return state, levels(state, n) + NOISE * jax.random.normal(b, (n,))


def main() -> None:
    series = data.nile()
    flow = jnp.asarray(series.values / 100 - 9)
    kernel = kernel_for(flow)

    print(check_involution(kernel, prior, key=jax.random.key(0), subject="the jumps, as an involution"))
    step = drift_test(
        jax.random.key(1),
        prior_and_data,
        lambda key, state, y: kernel_for(y)(key, state)[0],
        lambda state, y: {"two": state.model * 1.0, "first level": state.position[0], "data": state.model * y[0]},
        budget=40_000,
        subject="the kernel, on series of 6 years",
    )
    print(step)

    def chain(key):
        def move(state, key):
            state, _ = kernel(key, state)
            return state, state

        return jax.lax.scan(move, kernel.start(0, [0.0]), jax.random.split(key, 20_000))[1]

    states = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(2), 4))
    model, position = (np.asarray(part)[:, 2000:] for part in states)
    shares = model.mean(axis=1)
    print(f"\n{series.name}, {len(flow)} years: probability of two levels, by chain: {np.round(shares, 3)}")
    two = position[model == 1]
    years = series.times[np.asarray(year_of(jnp.asarray(two[:, 2]), len(flow)))]
    values, counts = np.unique(years, return_counts=True)
    best = counts.argmax()
    print(f"  most probable first year of the new level: {values[best]:.0f} ({counts[best] / counts.sum():.0%})")
    print(f"  levels {100 * (9 + two[:, 0].mean()):.0f} and {100 * (9 + two[:, 1].mean()):.0f} {series.unit}")


if __name__ == "__main__":
    main()
