"""Properly weighted samplers of one token under a constraint: some test few tokens, some all, some one.

At a prefix, let p_v be the probability of the next token v and A the tokens that the constraint accepts. A sampler that
returns a token v with a weight w is *properly weighted* if

    E[w 1{v = u}] = p_u 1[u in A]   for every token u,                                             (*)

so that E[w] = p(A), and its draws serve importance sampling and SMC. Adaptive rejection sampling draws from p without
replacement until a token is accepted; that token has the law of p restricted to A, whatever was rejected before it, and
a few tests more estimate p(A).

Samplers do no arithmetic on masses: a weight is a mass and a rational factor, so that the same code runs on floats and
on Fractions.

Source: Lipkin, LeBrun, Vigly, Loula, MacIver, Du, Eisner, Cotterell, Mansinghka, O'Donnell, Lew & Vieira (2025), Fast
Controlled Generation from Language Models with Adaptive Weighted Rejection Sampling.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from uqsparse.inference.constrained.constraint_tests import ConstraintTests
from uqsparse.inference.constrained.pools import Mass, Pool

AllTests = Callable[[], Bool[np.ndarray, " v"]]  # computes the answers to all tokens at once


class Estimate(NamedTuple):
    """A token with its weight, mass x factor.

    Args:
        token: a rejected one if the factor is zero.
        mass: of the pool's kind.
        factor: in [0, 1].
    """

    token: int
    mass: Mass
    factor: Fraction

    @property
    def log_weight(self) -> float:
        """Log of the weight, where masses are logs of floats."""
        if not self.factor:
            return -math.inf
        return self.mass + math.log(self.factor.numerator) - math.log(self.factor.denominator)


class LocalSettings(NamedTuple):
    """What a sampler of one token is told; `local_settings` checks them.

    Args:
        method: a name in `LOCAL_METHODS`.
        max_rejects: most rejects R >= 2; None without a limit.
        max_accepts: accepts k >= 2 at which the geometric sampler stops.
    """

    method: str = "two-loop"
    max_rejects: int | None = None
    max_accepts: int = 2


class Search(NamedTuple):
    """Where adaptive rejection sampling ended: at an accepted token, or at the last reject."""

    token: int | None
    accepted: bool
    n_rejected: int


def search(pool: Pool, tests: ConstraintTests, max_rejects: int | None = None) -> Search:
    """Adaptive rejection sampling: draw and remove until a token is accepted, which stays in the pool.

    It gives up when the pool is empty, or at the last permitted reject.
    """
    n_rejected, rejected = 0, None
    while n_rejected != max_rejects and (token := pool.draw()) is not None:
        if tests(token):
            return Search(token, True, n_rejected)
        pool.remove(token)
        n_rejected, rejected = n_rejected + 1, token
    return Search(rejected, False, n_rejected)


def two_loop(pool: Pool, tests: ConstraintTests, settings: LocalSettings, allowed: AllTests | None = None) -> Estimate:
    """Search twice, the second time without what the first has rejected: w = (1 - p(R1)) / (|R1| + |R2| + 1).

    With a limit of R rejects in all, w = (1 - p(R1)) / R where the second search gives up, and 0 where the first does.

    Why it is right: fix the rejects r_1, ..., r_n of both searches in their order. The first accept may stand at n + 1
    places among them (at n = R if the limit ends it: not behind the last), and where i rejects come before it, the
    outcome has 1 / (1 - p(r_1, ..., r_i)) times the probability that it has at the first place. So the weight spreads
    evenly over the places what the first place would have with weight one, and E[w 1{v = u}] is the probability that
    the very first draw is u and accepted. The paper has the form without a limit.
    """
    first = search(pool, tests, settings.max_rejects)
    if first.token is None or not first.accepted:
        return _nothing(pool, first.token)
    left = pool.mass_left()
    # Without a limit it ends by accepting, as the first token is still in the pool.
    second = search(pool, tests, None if settings.max_rejects is None else settings.max_rejects - first.n_rejected)
    return Estimate(first.token, left, Fraction(1, first.n_rejected + second.n_rejected + second.accepted))


def recursive(pool: Pool, tests: ConstraintTests, settings: LocalSettings, allowed: AllTests | None = None) -> Estimate:
    """Search, then test one token more: w = (1 - p(R)) (1 if it is accepted, else q), q = p_v / (1 - p(R)).

    Follows p(A) = p_x 1[x in A] + (1 - p_x) p(A | not x) along the draws. With a limit of R rejects the last permitted
    test is an estimate in itself: 1 if it accepts, else 0.
    """
    n_rejected, rejected = 0, None
    while (token := pool.draw()) is not None:
        is_last = n_rejected + 1 == settings.max_rejects
        if tests(token):
            left = pool.mass_left()
            if is_last:
                return Estimate(token, left, Fraction(1))
            pool.remove(token)
            further = pool.draw()
            certain = further is None or tests(further)
            return Estimate(token, left if certain else pool.mass(token), Fraction(1))
        pool.remove(token)
        n_rejected, rejected = n_rejected + 1, token
        if is_last:
            break
    return _nothing(pool, rejected)


def geometric(pool: Pool, tests: ConstraintTests, settings: LocalSettings, allowed: AllTests | None = None) -> Estimate:
    """Draw with replacement up to k accepts: w = (k - 1) / (accepts + rejects - 1).

    Repeated rejects are not drawn but counted: between two new tokens their number is geometric. The weight is the
    conditional probability that the first draw was accepted, given the counts. With a limit of R rejects the number of
    accepts takes the place of k - 1 where it is smaller.

    Source: Haldane (1945), On a method of estimating frequencies, for the weight without a limit.
    """
    total, limit = pool.mass_left(), settings.max_rejects
    n_accepted, n_rejected, accepted, rejected = 0, 0, None, None
    while n_accepted < settings.max_accepts and (token := pool.draw()) is not None:
        n_rejected += pool.repeats(None if limit is None else limit - n_rejected)
        if limit is not None and n_rejected >= limit:
            break
        if tests(token):
            n_accepted, accepted = n_accepted + 1, token if accepted is None else accepted
        else:
            pool.remove(token)
            n_rejected, rejected = n_rejected + 1, token
            if limit is not None and n_rejected >= limit:
                break
    if accepted is None:
        return _nothing(pool, rejected)
    others = min(settings.max_accepts - 1, n_accepted)
    return Estimate(accepted, total, Fraction(others, n_accepted + n_rejected - 1))


def mask(pool: Pool, tests: ConstraintTests, settings: LocalSettings, allowed: AllTests | None = None) -> Estimate:
    """Test every token and draw from the accepted ones, with weight p(A): no variance, and as many tests as tokens."""
    accepts = tests.of_all(pool.n_tokens, allowed)
    pool.restrict(accepts)
    token = pool.draw()
    return _nothing(pool, int(np.argmin(accepts))) if token is None else Estimate(token, pool.mass_left(), Fraction(1))


def mask_without_weight(
    pool: Pool, tests: ConstraintTests, settings: LocalSettings, allowed: AllTests | None = None
) -> Estimate:
    """Locally constrained decoding: `mask` with the weight of an unconstrained draw, one. Biased."""
    total = pool.mass_left()
    return mask(pool, tests, settings, allowed)._replace(mass=total)


def twist(pool: Pool, tests: ConstraintTests, settings: LocalSettings, allowed: AllTests | None = None) -> Estimate:
    """Draw once: weight one if the token is accepted, else zero."""
    drawn = untested(pool, tests, settings)
    return drawn if tests(drawn.token) else _nothing(pool, drawn.token)


def untested(pool: Pool, tests: ConstraintTests, settings: LocalSettings, allowed: AllTests | None = None) -> Estimate:
    """Draw once, with weight one, whatever the constraint says: for those who test whole strings."""
    token = pool.draw()
    return _nothing(pool, None) if token is None else Estimate(token, pool.mass_left(), Fraction(1))


def _nothing(pool: Pool, rejected: int | None) -> Estimate:
    """Nothing acceptable was found: weight zero, so that a particle dies with it."""
    if rejected is None:
        raise ValueError("the pool is empty: no token has positive probability")
    return Estimate(rejected, pool.mass(rejected), Fraction(0))
