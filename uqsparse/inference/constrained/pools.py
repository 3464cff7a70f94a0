"""Explicit randomness of the local samplers: candidates drawn from a next-token distribution, rejects taken out.

Estimators ask a `Pool` for everything random and for every mass, so that one and the same estimator draws from floats
in production and is enumerated in Fractions by a check.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from uqsparse.inference.smc_settings import typed

Mass = Any  # opaque to the estimators: the log of a float in production, a Fraction in an exact check

# Masses below this share of the largest one are exponentiated anew, long before they lose digits to underflow (1e-308).
_LEAST_SHARE = 1e-100
_MOST_REDRAWS = 64
_LOG_MOST_REPEATS = 1e5


class Pool(ABC):
    """The tokens of positive probability under p, as long as they are not removed. p need not sum to one."""

    @property
    @abstractmethod
    def n_tokens(self) -> int:
        """Size of the vocabulary, tokens of probability zero and removed ones included."""

    @abstractmethod
    def draw(self) -> int | None:
        """Draw a token v of the pool with probability p_v / mass_left(), without removing it; None if none is left."""

    @abstractmethod
    def remove(self, token: int) -> None:
        """Take a token out; changes nothing if it is not in the pool."""

    @abstractmethod
    def mass(self, token: int) -> Mass:
        """p of a token, removed or not."""

    @abstractmethod
    def mass_left(self) -> Mass:
        """Sum of p over the pool."""

    @abstractmethod
    def repeats(self, at_most: int | None = None) -> int:
        """How often a draw with replacement from all of p meets removed tokens before the next one of the pool.

        P(repeats = j) = r^j (1 - r), r the share of the removed tokens in p; values above `at_most` are cut to it.
        """

    def restrict(self, allowed: Bool[np.ndarray, " v"]) -> None:
        """Take out every token that is not allowed."""
        for token in range(self.n_tokens):
            if not allowed[token]:
                self.remove(token)


class SampledPool(Pool):
    """The pool of production: candidates drawn by a NumPy generator, masses as logs of floats.

    Drawing with replacement and skipping what has been removed gives the tokens in the same law as sorting them by
    log p plus Gumbel noise (both are sampling without replacement), but costs one cumulative sum instead of a sort.
    When less than half of the mass is left since the last sum, the rest is summed anew: so few draws are skipped, and
    1 - p(removed) is a sum of what is left, which neither cancels nor underflows.

    Args:
        log_p: log probabilities of the tokens, (v,); -inf for impossible ones; need not be normalised.
        generator: where draws come from.

    Raises:
        ValueError: `log_p` is no vector, holds NaN or +inf (the token is named), or is -inf throughout.

    >>> pool = SampledPool(np.log([0.5, 0.3, 0.2]), np.random.default_rng(0))
    >>> pool.remove(0)
    >>> pool.draw() in (1, 2), round(math.exp(pool.mass_left()), 12)
    (True, 0.5)
    """

    def __init__(self, log_p: Float[np.ndarray, " v"], generator: np.random.Generator):
        self._log_p = np.asarray(log_p, dtype=float)
        require_log_masses("log_p", self._log_p)
        self._generator = generator
        self._is_out = self._log_p == -math.inf
        self._n_left = len(self._log_p) - int(np.count_nonzero(self._is_out))
        self._is_whole = True
        self._exponentiate()
        self._sum()
        self._log_total = self._shift + math.log(self._left)

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary."""
        return len(self._log_p)

    def draw(self) -> int | None:
        """Draw a token by inversion, skipping removed ones."""
        if not self._n_left:
            return None
        self._renew()
        for _ in range(_MOST_REDRAWS):  # each misses with probability one half at most
            token = self._invert(self._generator.random())
            if not self._is_out[token]:
                return token
        self._sum()
        return self._invert(self._generator.random())

    def remove(self, token: int) -> None:
        """Take a token out."""
        if self._is_out[token]:
            return
        self._is_out[token] = True
        self._is_whole = False
        self._n_left -= 1
        self._left -= float(self._p[token])
        self._p[token] = 0.0

    def restrict(self, allowed: Bool[np.ndarray, " v"]) -> None:
        """Take out every token that is not allowed."""
        self._is_out |= ~allowed
        n_before, self._n_left = self._n_left, len(self._is_out) - int(np.count_nonzero(self._is_out))
        self._is_whole = self._is_whole and self._n_left == n_before
        self._p[~allowed] = 0.0
        self._left = 0.0  # to be summed when asked for

    def mass(self, token: int) -> float:
        """Log p of a token."""
        return float(self._log_p[token])

    def mass_left(self) -> float:
        """Log of the sum of p over the pool; -inf if it is empty."""
        if not self._n_left:
            return -math.inf
        self._renew()
        return self._shift + math.log(self._left)

    def repeats(self, at_most: int | None = None) -> int:
        """Draw a geometric number by inversion; in logarithms where it is astronomic.

        Without `at_most`, numbers are cut at e^100000.

        Raises:
            ValueError: the pool is empty and `at_most` is not given: there is no end of repeats.
        """
        if self._is_whole:
            return 0
        if not self._n_left:
            if at_most is None:
                raise ValueError("repeats of an empty pool never end: give at_most")
            return at_most
        log_share = min(self.mass_left() - self._log_total, 0.0)
        # floor(E / rate) with E exponential and rate = -log(removed share).
        log_rate = log_share if log_share < -40 else _log(-_log1p(-math.exp(log_share)))
        drawn = _floor_exp(_log(self._generator.standard_exponential()) - log_rate)
        return drawn if at_most is None else min(drawn, at_most)

    def _invert(self, uniform: float) -> int:
        """The token in whose interval of the cumulative sums a number lies; its interval is never empty."""
        place = min(uniform * self._summed, math.nextafter(self._summed, 0.0))
        return int(self._cumulative.searchsorted(place, side="right"))

    def _renew(self) -> None:
        if self._left < 0.5 * self._summed:
            self._sum()

    def _sum(self) -> None:
        self._cumulative = self._p.cumsum()
        self._summed = self._left = float(self._cumulative[-1])
        if self._summed < _LEAST_SHARE:
            self._exponentiate()
            self._sum()

    def _exponentiate(self) -> None:
        """Masses of the tokens that are left, relative to the largest of them."""
        left = self._log_p if self._is_whole else np.where(self._is_out, -math.inf, self._log_p)
        self._shift = float(left.max())
        self._p = np.exp(left - self._shift)


def generator_of(key: Array) -> np.random.Generator:
    """Make a NumPy generator of a JAX random key: the same key gives the same draws.

    Args:
        key: one random key, typed or legacy.

    Raises:
        TypeError: it is no key.
        ValueError: it is an array of several keys.

    >>> a, b = (generator_of(jax.random.key(3)).random() for _ in range(2))
    >>> a == b
    True
    """
    key = typed(key)
    if key.shape:
        raise ValueError(f"key must be one random key, got an array of them of shape {key.shape}")
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def require_log_masses(name: str, values: Float[np.ndarray, " v"]) -> None:
    """Raise ValueError unless values are logs of masses, (v,), at least one of them positive."""
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} must be a vector, one log probability a token; got shape {values.shape}")
    top = values.max()
    if not top < math.inf:  # also true of NaN
        token = int(np.flatnonzero(np.isnan(values) | (values == math.inf))[0])
        raise ValueError(f"{name} is {values[token]} at token {token}; log probabilities are finite or -inf")
    if top == -math.inf:
        raise ValueError(f"{name} is -inf at every token: nothing can be drawn")


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def _log1p(x: float) -> float:
    return math.log1p(x) if x > -1 else -math.inf


def _floor_exp(x: float) -> int:
    """floor(e^x) as an integer of any size, right to 15 digits."""
    if x < 700:
        return int(math.exp(x))
    shift = int(min(x, _LOG_MOST_REPEATS) / math.log(2)) - 60
    return int(math.exp(min(x, _LOG_MOST_REPEATS) - shift * math.log(2))) << shift
