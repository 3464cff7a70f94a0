"""Draw one token under a constraint, properly weighted, with few constraint tests.

The samplers are in `weight_estimators`; here is their table, the checks of their settings, and the public function.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from uqsparse.inference.constrained.constraint_tests import ConstraintTests
from uqsparse.inference.constrained.pools import Pool, SampledPool, generator_of, require_log_masses
from uqsparse.inference.constrained.weight_estimators import (
    AllTests,
    Estimate,
    LocalSettings,
    geometric,
    mask,
    mask_without_weight,
    recursive,
    twist,
    two_loop,
    untested,
)
from uqsparse.kernels.arguments import require_count

LocalMethod = Literal["auto", "two-loop", "recursive", "geometric", "mask", "lcd", "twist", "none"]

LOCAL_METHODS: dict[str, Callable[[Pool, ConstraintTests, LocalSettings, AllTests | None], Estimate]] = {
    "two-loop": two_loop,
    "recursive": recursive,
    "geometric": geometric,
    "mask": mask,
    "lcd": mask_without_weight,
    "twist": twist,
    "none": untested,
}


class LocalInfo(NamedTuple):
    """What a draw has cost.

    Args:
        method: the sampler that ran.
        n_tests: constraint tests evaluated, each token once.
        n_tests_requested: tests asked for, repetitions included.
    """

    method: str
    n_tests: int
    n_tests_requested: int


class LocalSample(NamedTuple):
    """A token drawn under a constraint.

    Args:
        token: a rejected one if nothing acceptable was found.
        log_weight: log of its weight; -inf if nothing acceptable was found.
        info: how it was drawn, and the number of tests.
    """

    token: int
    log_weight: float
    info: LocalInfo


def local_sample(
    key: Array,
    log_p: Float[np.ndarray, " v"],
    accept: Callable[[int], bool | np.bool_],
    method: LocalMethod = "auto",
    max_rejects: int | None = None,
    max_accepts: int = 2,
    proposal: Float[np.ndarray, " v"] | None = None,
) -> LocalSample:
    """Draw a token that a constraint accepts, with a weight that makes it unbiased for p on the accepted tokens A.

    E[w 1{v = u}] = p_u 1[u in A] for every token u, so that the mean weight is p(A). The search for an accepted token
    takes at most min(number of rejected tokens + 1, 1 / p(A)) tests on average; the weight takes some more.

    Args:
        key: random key.
        log_p: log probabilities of the next token, (v,); if they do not sum to one, the weight carries their sum.
        accept: the constraint test of a token; asked at most once for each.
        method: "two-loop" (less variance; what "auto" takes), "recursive" (fewer tests), or "geometric" (stops at
            `max_accepts` accepts). Baselines: "mask" tests every token, "twist" one; "none" tests none, so that its
            weight knows nothing of A; "lcd" masks and gives weight one: biased.
        max_rejects: most rejected draws, at least 2. The weight stays unbiased, and is zero more often.
        max_accepts: accepted draws of the geometric sampler, at least 2: more take more tests and have less variance.
        proposal: log probabilities to draw from instead, (v,); positive wherever p is.

    Returns:
        The token, its log weight and what it has cost.

    Raises:
        ValueError: an argument is out of range, log probabilities are NaN, +inf or all -inf, the proposal misses a
            token, or `accept` gives no Boolean.
        TypeError: the key is none.

    Source: Lipkin, LeBrun, Vigly, Loula, MacIver, Du, Eisner, Cotterell, Mansinghka, O'Donnell, Lew & Vieira (2025),
        Fast Controlled Generation from Language Models with Adaptive Weighted Rejection Sampling.

    >>> import jax
    >>> sample = local_sample(jax.random.key(0), np.log([0.6, 0.3, 0.1]), lambda token: token == 1)
    >>> sample.token, sample.info.n_tests <= 3
    (1, True)
    """
    settings = local_settings(method, max_rejects, max_accepts)
    log_p = np.asarray(log_p, dtype=float)
    require_log_masses("log_p", log_p)
    log_q = log_p if proposal is None else _require_proposal(proposal, log_p)
    tests = ConstraintTests(accept)
    estimate = sample_locally(SampledPool(log_q, generator_of(key)), tests, settings)
    log_weight = estimate.log_weight
    if log_weight > -math.inf:
        log_weight += float(log_p[estimate.token] - log_q[estimate.token])
    return LocalSample(estimate.token, log_weight, LocalInfo(settings.method, tests.evaluated, tests.requested))


def local_settings(method: str = "auto", max_rejects: int | None = None, max_accepts: int = 2) -> LocalSettings:
    """Check the settings of a local sampler and resolve "auto".

    Args:
        method: see `local_sample`.
        max_rejects: see `local_sample`.
        max_accepts: see `local_sample`.

    Raises:
        ValueError: one is out of range, or is none of the method's.

    >>> local_settings(max_rejects=10).method
    'two-loop'
    """
    if method != "auto" and method not in LOCAL_METHODS:
        raise ValueError(f"method must be one of auto, {', '.join(LOCAL_METHODS)}; got {method!r}")
    require_count("max_accepts", max_accepts, 2)
    if method == "auto":
        method = "two-loop"
    if max_rejects is not None:
        require_count("max_rejects", max_rejects, 2)
        if method not in ("two-loop", "recursive", "geometric"):
            raise ValueError(f"max_rejects is for the samplers that reject, not for {method!r}")
    if max_accepts != 2 and method != "geometric":
        raise ValueError(f"max_accepts is for the geometric sampler, not for {method!r}")
    return LocalSettings(method, max_rejects, max_accepts)


def sample_locally(
    pool: Pool, tests: ConstraintTests, settings: LocalSettings, allowed: AllTests | None = None
) -> Estimate:
    """Run the sampler that checked settings name.

    Args:
        pool: a fresh one; it is used up.
        tests: of the prefix.
        settings: from `local_settings`.
        allowed: computes the tests of all tokens at once, for the samplers that need them all.
    """
    return LOCAL_METHODS[settings.method](pool, tests, settings, allowed)


def _require_proposal(proposal: Float[np.ndarray, " v"], log_p: Float[np.ndarray, " v"]) -> Float[np.ndarray, " v"]:
    log_q = np.asarray(proposal, dtype=float)
    if log_q.shape != log_p.shape:
        raise ValueError(f"proposal has shape {log_q.shape}; expected {log_p.shape}, as log_p")
    require_log_masses("proposal", log_q)
    missed = np.flatnonzero((log_q == -math.inf) & (log_p > -math.inf))
    if len(missed):
        raise ValueError(f"proposal is zero at token {missed[0]}, where p is positive")
    return log_q
