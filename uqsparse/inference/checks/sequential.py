"""A sequential rule for tests that give p-values alone: look again, with more draws, at what looks suspicious.

Source: Gandy & Scott (2020), Unit testing for MCMC and other Monte Carlo methods, algorithm 3.
"""

import math
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from uqsparse.inference.checks.verdict import Counterexample, Verdict
from uqsparse.inference.smc_settings import typed
from uqsparse.kernels.arguments import require_count, require_fraction


def sequential_pvalues(
    key: Array,
    p_values: Callable[[Array, int], Float[ArrayLike, " d"]],
    *,
    n: int = 1000,
    n_stages: int = 7,
    growth: float = 2.0,
    alpha: float = 1e-5,
    subject: str = "",
) -> Verdict:
    """Reject if p-values are too small, at a total false-alarm rate of at most alpha over up to `n_stages` rounds.

    With b = alpha / k and g = b^(1/k) for k stages, and q = d min(p) for d p-values: reject if q <= b, pass if
    q > g + b, otherwise divide b by g and look again. Each stage rejects something right with probability alpha / k at
    most. Nearly always the first round decides.

    Args:
        key: random key; every stage gets another.
        p_values: `p_values(key, n)` makes n new draws and returns one or more p-values, each uniform (or larger) if
            what is tested is right. They may depend on each other.
        n: draws in the first stage.
        n_stages: most stages, k.
        growth: factor by which the later stages have more draws, at least 1.
        alpha: probability of rejecting something right, in (0, 1).
        subject: what the verdict is about.

    Returns:
        The verdict. Its evidence is log(1 / alpha) + log(b / q) at the last stage: it reaches log(1 / alpha) exactly if
        the rule rejects, but is no e-value. `n` counts the draws of all stages.

    Raises:
        ValueError: an option is out of range, or a p-value is NaN or not in [0, 1].

    >>> import scipy.stats
    >>> def of_mean(key, n):
    ...     return scipy.stats.ttest_1samp(np.asarray(jax.random.normal(key, n)) + 0.3, 0.0).pvalue
    >>> sequential_pvalues(jax.random.key(0), of_mean).ok
    False
    """
    key = typed(key)
    for name, value in {"n": n, "n_stages": n_stages}.items():
        require_count(name, value, 1)
    require_fraction("alpha", alpha)
    if not 1 <= growth < math.inf:
        raise ValueError(f"growth must be a number of at least 1, got {growth!r}")
    level, size, used = alpha / n_stages, n, 0
    gap = level ** (1 / n_stages)
    for stage, stage_key in enumerate(jax.random.split(key, n_stages), start=1):
        p = np.atleast_1d(np.asarray(p_values(stage_key, size), np.float64)).ravel()
        if not p.size or not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"p_values must return numbers in [0, 1], got {p} in stage {stage}")
        used += size
        smallest = float(p.size * p.min())
        if smallest <= level or smallest > gap + level or stage == n_stages:
            break
        level /= gap
        size = math.ceil(n * growth)
    rejected = smallest <= level
    where = f"p-value {int(np.argmin(p))} of {p.size}, times {p.size}, in stage {stage}"
    return Verdict(
        ok=not rejected,
        subject=subject or "the p-values are uniform",
        method="statistical",
        evidence=-math.log(alpha) + (math.log(level / smallest) if smallest > 0 else math.inf),
        n=used,
        alpha=alpha,
        counterexample=Counterexample(where, f"above {level:.3g}", smallest) if rejected else None,
        assumptions=("the p-values are uniform, or larger, if what is tested is right", "each stage has new draws"),
        notes=(f"decided in stage {stage} of {n_stages}", "the evidence compares a p-value with its limit"),
    )
