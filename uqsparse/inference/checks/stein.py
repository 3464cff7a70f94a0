"""Stein's identities as a verdict: whether draws and a log density belong together."""

import math
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float
from scipy.special import log_ndtr

from uqsparse.inference.checks.verdict import Counterexample, Verdict
from uqsparse.inference.diagnostics import stein_check
from uqsparse.kernels.arguments import require_fraction


def stein(target: Any, draws: Float[ArrayLike, "*chain n d"], *, alpha: float = 1e-5, subject: str = "") -> Verdict:
    """Test draws against a density by E[d log p / du_i] = 0 and E[(u_i - mean) d log p / du_i] = -1.

    Each of the 2 d sums is compared with the normal distribution, and the smallest p-value is multiplied by 2 d. This
    is no e-process: do not look repeatedly at growing samples.

    Args:
        target: log density as a function of u (d,), up to a constant, or an object with such a method `log_density`.
        draws: independent draws (n, d), or chains (chain, n, d), of which the effective number counts; unconstrained.
        alpha: probability of rejecting draws that are right, as far as the sums are normal, in (0, 1).
        subject: what the verdict is about.

    Returns:
        The verdict; its evidence is the log of one over the corrected p-value, at least 0. It bounds no bias.

    Raises:
        ValueError: `alpha` is out of range; `draws` has another shape, fewer than 8 draws or non-finite numbers; or a
            gradient is not finite.

    Source: Gorham & Mackey (2015), Measuring sample quality with Stein's method.

    >>> draws = np.random.default_rng(0).normal(size=(1000, 1))
    >>> stein(lambda u: -0.5 * (u**2).sum(), draws).ok, stein(lambda u: -0.5 * ((u / 2)**2).sum(), draws).ok
    (True, False)
    """
    require_fraction("alpha", alpha)
    check = stein_check(target, draws)
    scores = np.stack([check.mean_z, check.identity_z])
    row, i = (int(k) for k in np.unravel_index(np.argmax(np.abs(scores)), scores.shape))
    evidence = max(0.0, -float(math.log(2 * scores.size) + log_ndtr(-abs(scores[row, i]))))
    rejected = evidence >= -math.log(alpha)
    identity = f"E[d log p / du_{i}] = 0" if row == 0 else f"E[(u_{i} - mean) d log p / du_{i}] = -1"
    return Verdict(
        ok=not rejected,
        subject=subject or "the draws belong to the density",
        method="statistical",
        evidence=evidence,
        n=check.n_draws,
        alpha=alpha,
        counterexample=Counterexample(identity, 0.0, f"{scores[row, i]:+.2f} standard errors") if rejected else None,
        assumptions=(
            "the density is positive and smooth on all of R^d and vanishes at infinity",
            "the sums are normal (approximation): many draws, and second moments exist",
            "draws are independent, or the effective sample size of the chains is right",
        ),
        notes=("the evidence is the log of one over a p-value, by a normal approximation",),
    )
