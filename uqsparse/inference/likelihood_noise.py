"""What the noise of an estimated likelihood does to a Markov chain of parameters, and how many particles it asks for.

A filter's log evidence scatters about the truth, with a standard deviation that falls like one over the root of the
number of particles. A chain that accepts by such estimates remains exact, but stays where an estimate came out high:
with much noise it sticks, with hardly any it pays for particles that it does not need.

Sources: Doucet, Pitt, Deligiannidis & Kohn (2015), Efficient implementation of Markov chain Monte Carlo when using an
unbiased likelihood estimator (1.0 to 1.7); Sherlock, Thiery, Roberts & Rosenthal (2015), On the efficiency of
pseudo-marginal random walk Metropolis algorithms (1.8, and a step size that hardly depends on the noise).
"""

import math

import numpy as np

# Standard deviations of the log evidence: the least worth paying for, the one to aim at, and the most that chains bear.
LEAST_NOISE, IDEAL_NOISE, MOST_NOISE = 1.0, 1.3, 1.7
# Below this the variance no longer falls like 1 / n_particles, and advice would mean nothing.
FEWEST_PARTICLES = 10


def advised_n_particles(n_particles: int, noise: float) -> int:
    """Number of particles that suits the noise of the log evidence, whose variance falls like one over it.

    The present number between 1.0 and 1.7; above, what would bring the standard deviation to 1.3, and below, to 1.0.

    Args:
        n_particles: number of particles at which the noise was measured.
        noise: standard deviation of the log evidence, nonnegative; infinite if filters collapsed.

    >>> advised_n_particles(100, 2.6), advised_n_particles(100, 1.5), advised_n_particles(100, 0.5)
    (400, 100, 25)
    """
    if not math.isfinite(noise):
        return 4 * n_particles
    if LEAST_NOISE <= noise <= MOST_NOISE:
        return n_particles
    aim = IDEAL_NOISE if noise > MOST_NOISE else LEAST_NOISE
    return max(min(FEWEST_PARTICLES, n_particles), math.ceil(n_particles * (noise / aim) ** 2))


def describe_noise(n_particles: int, noise: float) -> str:
    """Say in a sentence whether the number of particles suits the noise."""
    advised = advised_n_particles(n_particles, noise)
    measured = f"the log evidence at the posterior mean has a standard deviation of {noise:.2g}"
    if noise > MOST_NOISE:
        return f"{measured}: chains stick where an estimate came out high; raise n_particles to about {advised}"
    # Twice as many as needed is nothing to speak of.
    if 2 * advised <= n_particles:
        return f"{measured}: about {advised} particles would do"
    return f"{measured}: {n_particles} particles suit it"


def ideal_acceptance(dim: int, noise: float) -> float:
    """Acceptance of a random walk of the best step size, 2.38 / sqrt(d), on a Gaussian posterior with a noisy density.

    A low acceptance may come from steps too long or from noise. Tuning toward the acceptance that the noise allows
    shortens steps in the first case only.

    Args:
        dim: number of parameters d.
        noise: standard deviation of the log evidence; more than 2 counts as 2.

    Source: Sherlock, Thiery, Roberts & Rosenthal (2015), section 3; Gelman, Roberts & Gilks (1996) for small d.

    >>> round(ideal_acceptance(1, 0.0), 2), round(ideal_acceptance(100, 0.0), 2), round(ideal_acceptance(100, 1.3), 2)
    (0.44, 0.24, 0.13)
    """
    rng = np.random.default_rng(0)
    noise = min(noise, 2.0)
    # Only the component along the step counts: log ratio -l z.x - l^2 |z|^2 / 2, where |z|^2 is chi-squared.
    squared = 2.38**2 / dim * rng.chisquare(dim, 20_000)
    spread = np.sqrt(squared + 2 * noise**2)
    # Estimates at the current state are tilted upward, so that their difference has mean -noise^2.
    log_ratio = -0.5 * spread**2 + spread * rng.standard_normal(20_000)
    return float(np.mean(np.exp(np.minimum(log_ratio, 0.0))))
