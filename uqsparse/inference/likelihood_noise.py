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

# Standard deviations of the log evidence: the one to aim at, the most that chains bear, and the least worth paying for.
IDEAL_NOISE, MOST_NOISE, LEAST_NOISE = 1.3, 1.7, 0.5
# Below this the variance no longer falls like 1 / n_particles, and advice would mean nothing.
FEWEST_PARTICLES = 10


def advised_n_particles(n_particles: int, noise: float) -> int:
    """Number of particles at which the log evidence would have a standard deviation of 1.3.

    Args:
        n_particles: number of particles at which the noise was measured.
        noise: standard deviation of the log evidence, nonnegative; infinite if filters collapsed.

    >>> advised_n_particles(100, 2.6), advised_n_particles(100, 0.65)
    (400, 25)
    """
    if not math.isfinite(noise):
        return 4 * n_particles
    return max(FEWEST_PARTICLES, math.ceil(n_particles * (noise / IDEAL_NOISE) ** 2))


def describe_noise(n_particles: int, noise: float) -> str:
    """Say in a sentence whether the number of particles suits the noise."""
    advised = advised_n_particles(n_particles, noise)
    measured = f"the log evidence at the posterior mean has a standard deviation of {noise:.2g}"
    if noise > MOST_NOISE:
        return f"{measured}: chains stick where an estimate came out high; raise n_particles to about {advised}"
    if noise < LEAST_NOISE and advised < n_particles:
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
